"""Where cutouts come from: folders, globs and lists become paths; paths and bytes become one arena of bytes."""

import glob
import io
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from otrain_infer import file_kernels
from otrain_infer.errors import OtrainError, SourceError
from otrain_infer.file_kernels import GZIP_MAGIC
from otrain_infer.fits import inflate

ReadFiles = Callable[..., Any]
"""`file_kernels.read_files`, or what takes the same arguments and uses up some of the files that it reads."""

Source = str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO

SUFFIXES = tuple(stem + packing for stem in (".fits", ".fit", ".fts") for packing in ("", ".gz", ".fz"))

LARGEST_FILE = 1 << 28
"""A file above this size (bytes) is no cutout and is not read."""

EXPECTED_FILE = 1 << 16
"""Bytes that there is room for to begin with, for each file."""

LARGEST_KEPT = 1 << 27
"""A buffer that has grown larger than this (bytes) is not kept."""

LARGEST_PART = 1 << 26
"""Bytes from which no further file is read before those at hand have been decoded."""

SOURCES_OF_A_PART = 128
"""Sources read at a time, at most: more do not fit in a cache until they are decoded."""

AT_ONCE = 64
"""Files read between two looks at signals such as Ctrl-C."""

# What reading or inflating one source may raise: it costs that row, never the batch.
UNREADABLE = (OSError, EOFError, ValueError, zlib.error, AttributeError, TypeError, MemoryError)

# A pipe or a device among the cutouts must not block the batch.
_OPEN_FLAGS = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))


def find_cutouts(source: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[str]:
    """List the cutout files that a folder, a glob, a file or a sequence of these stands for.

    Parameters
    ----------
    source
        A folder stands for the entries in it that end in .fits, .fit or .fts (also .gz, .fz), without regard to case,
        sorted by name; hidden ones are left out. A glob stands for what it matches, sorted. Any other path stands for
        itself, whether it exists or not: a missing file is a row with a flag. Several are taken one after the other.

    Returns
    -------
    list of str
        At least one path.

    Raises
    ------
    SourceError
        When there is nothing at all, in one sentence.
    """
    if isinstance(source, str | os.PathLike):
        paths = _expand(os.fsdecode(source))
    else:
        paths = [path for each in source for path in _expand(os.fsdecode(each))]
    if not paths:
        raise SourceError("no cutout was named: give a folder, a glob or files")
    return paths


def list_sources(sources: Source | Iterable[Source]) -> list[Source]:
    """List what there is to read: folders and globs as `find_cutouts` does, bytes and file objects as they are.

    Raises
    ------
    SourceError
        When there is nothing at all.
    """
    if isinstance(sources, str | os.PathLike | bytes | bytearray | memoryview) or hasattr(sources, "read"):
        sources = [sources]  # type: ignore[list-item]
    listed: list[Source] = []
    for source in sources:
        if not isinstance(source, str | os.PathLike) or _names_a_file(source):
            listed.append(source)
        else:
            listed.extend(find_cutouts(source))
    if not listed:
        raise SourceError("no cutout was named: give a folder, a glob, files or bytes")
    return listed


def _names_a_file(path: str | os.PathLike[str]) -> bool:
    # Without a stat: of each of a million named files that would cost as much as opening them.
    return isinstance(path, str) and path.lower().endswith(SUFFIXES) and not glob.has_magic(path)


def _expand(path: str) -> list[str]:
    if _names_a_file(path):
        return [path]
    if os.path.isdir(path):
        return list_folder(path)
    if glob.has_magic(path) and not os.path.lexists(path):
        paths = sorted(glob.glob(path))
        if not paths:
            raise SourceError(f"'{path}' matches no file")
        return paths
    return [path]


def list_folder(folder: str) -> list[str]:
    """List the cutouts in a folder, sorted by name; raises SourceError where there is none."""
    try:
        everything = os.listdir(folder)
    except OSError as error:
        raise SourceError(f"the folder '{folder}' cannot be read ({error.strerror})") from None
    # Folders of a million are common: whatever is done to each name here is waited for before the first score.
    names = [name for name in everything if name.endswith(SUFFIXES) or name.lower().endswith(SUFFIXES)]
    names = sorted(name for name in names if name[0] != ".")
    if not names:
        inside = sorted(name for name in everything if os.path.isdir(os.path.join(folder, name)))
        hint = f"; it holds the folders {', '.join(inside[:4])}: name one of them" if inside else ""
        raise SourceError(f"there is no cutout (.fits, .fit, .fts, also .gz or .fz) in the folder '{folder}'{hint}")
    beginning = os.path.join(folder, "")
    return [beginning + name for name in names]


@dataclass(frozen=True, slots=True, eq=False)
class Arena:
    """The bytes of several files, one behind the other.

    Attributes
    ----------
    data
        uint8, the bytes.
    bounds
        int64 (n, 2), the start and stop of each file in `data`; empty where it could not be read.
    reasons
        Row -> one sentence, for the files that could not be read.
    """

    data: npt.NDArray[np.uint8]
    bounds: npt.NDArray[np.int64]
    reasons: dict[int, str]


class Buffer:
    """Bytes that grow at the end; to use one again saves fresh pages, which cost as much as filling them."""

    def __init__(self) -> None:
        self.data = np.empty(0, np.uint8)
        self.stop = 0

    def clear(self) -> None:
        """Forget the bytes; their memory stays, unless it is so large that something unusual must have been read."""
        self.stop = 0
        if self.data.size > LARGEST_KEPT:
            self.data = np.empty(0, np.uint8)

    def room(self, least: int) -> memoryview:
        """Give what is free behind the bytes, `least` or more."""
        if self.data.size - self.stop < least:
            grown = np.empty(2 * self.data.size + least, np.uint8)
            grown[: self.stop] = self.data[: self.stop]
            self.data = grown
        return self.data.data[self.stop :]

    def append(self, content: bytes | memoryview) -> None:
        """Put bytes at the end."""
        self.room(len(content))[: len(content)] = content
        self.stop += len(content)

    def append_file(self, path: str | os.PathLike[str]) -> None:
        """Put the bytes of a file at the end; raises OSError, or ValueError where it is too large or no path at all."""
        with io.FileIO(path, "r", opener=lambda path, _: os.open(path, _OPEN_FLAGS)) as file:
            start = self.stop
            while count := file.readinto(self.room(1)):
                self.stop += count
                if self.stop - start > LARGEST_FILE:
                    raise ValueError(_too_large())


def load_in_parts(sources: Sequence[Source], buffer: Buffer, read_files: ReadFiles | None = None) -> Iterator[Arena]:
    """Read the bytes of several sources as `load` does, in parts so that large ones are not all held at once.

    Parameters
    ----------
    sources, buffer, read_files
        As of `load`.

    Yields
    ------
    Arena
        Of consecutive sources, one or more; good until the next is asked for. Nearly always there is but one.
    """
    done = 0
    while True:
        arena = load(sources[done : done + SOURCES_OF_A_PART], buffer, LARGEST_PART, read_files)
        done += len(arena.bounds)
        yield arena
        if done == len(sources):
            return


def load(
    sources: Sequence[Source],
    buffer: Buffer | None = None,
    enough: int | None = None,
    read_files: ReadFiles | None = None,
) -> Arena:
    """Read the bytes of several sources, each once, inflating gzip.

    Parameters
    ----------
    sources
        Paths, bytes or binary file objects.
    buffer
        Where to put them: what it held before is overwritten, and the arena holds good until it is used again. Made if
        not given.
    enough
        Bytes from which to stop behind a source, the first at least; never if not given.
    read_files
        What reads many files in one go, `file_kernels.read_files` if not given. Another may use up what it reads, as
        `fits.Decoder.read_files` does.

    Returns
    -------
    Arena
        One row a source. A source that cannot be read has no bytes and a reason; one that is used up has none either.
    """
    buffer = Buffer() if buffer is None else buffer
    buffer.clear()
    buffer.room(EXPECTED_FILE * (len(sources) + 1))
    reasons: dict[int, str] = {}
    bounds = _read_together(sources, buffer, enough, read_files)
    if buffer.stop == 0 and bounds.min(initial=0) >= 0:
        return Arena(buffer.data, bounds, reasons)  # all are used up, as nearly always
    for row in np.flatnonzero(bounds[:, 0] == file_kernels.TOO_LARGE).tolist():
        bounds[row], reasons[row] = 0, _too_large()
    rows = np.flatnonzero((bounds[:, 0] < 0) | _are_gzipped(buffer.data, bounds))
    # Plain numbers: numpy takes long over each that is read or written alone.
    places = bounds[rows].tolist()
    for k, row in enumerate(rows.tolist()):
        (first, last), start = places[k], buffer.stop
        try:
            if first < 0:
                _append(buffer, sources[row])
            else:
                buffer.append(inflate(buffer.data.data[first:last], LARGEST_FILE))
        except UNREADABLE as error:
            buffer.stop = start
            reasons[row] = getattr(error, "strerror", None) or str(error)
        places[k] = [start, buffer.stop]
        if enough is not None and buffer.stop > enough:
            bounds, rows = bounds[: row + 1], rows[: k + 1]
            break
    bounds[rows] = np.array(places, np.int64).reshape(-1, 2)[: len(rows)]
    return Arena(buffer.data, bounds, {row: why for row, why in reasons.items() if row < len(bounds)})


def _read_together(
    sources: Sequence[Source], buffer: Buffer, enough: int | None, read_files: ReadFiles | None
) -> npt.NDArray[np.int64]:
    """Read what can be read in one go; give the bounds, of which those of the other rows are UNREAD or TOO_LARGE."""
    bounds = np.full((len(sources), 2), file_kernels.UNREAD, np.int64)
    paths = _pack(sources)
    if paths is None or file_kernels.read_files is None:
        return bounds
    read = read_files or file_kernels.read_files
    state = np.array([0, 0, -1, buffer.stop, buffer.stop], np.int64)
    try:
        while state[file_kernels.FILE] < len(sources):
            until = min(int(state[file_kernels.FILE]) + AT_ONCE, len(sources))
            if enough is not None and buffer.data.size > enough:
                until = int(state[file_kernels.FILE]) + 1
            read(paths, until, _OPEN_FLAGS, LARGEST_FILE, buffer.data, bounds, state)
            buffer.stop = int(state[file_kernels.STOP])
            if state[file_kernels.FILE] < until:
                buffer.room(1)
            elif enough is not None and buffer.stop > enough:
                return bounds[: state[file_kernels.FILE]]
    except MemoryError:
        pass  # it costs the row that is too large, which is tried again, and none that is not
    finally:
        if state[file_kernels.DESCRIPTOR] >= 0:
            os.close(int(state[file_kernels.DESCRIPTOR]))
    return bounds


def _pack(sources: Sequence[Source]) -> npt.NDArray[np.uint8] | None:
    """Write paths one behind the other, a zero byte behind each; None where one of the sources is no path."""
    if not all(issubclass(kind, str | os.PathLike) for kind in set(map(type, sources))):
        return None
    try:
        packed = bytearray(os.fsencode("\0".join(map(os.fspath, sources))))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    packed += b"\0"
    return np.frombuffer(packed, np.uint8) if packed.count(0) == len(sources) else None


def _are_gzipped(data: npt.NDArray[np.uint8], bounds: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    first = np.where(bounds[:, 1] - bounds[:, 0] >= len(GZIP_MAGIC), bounds[:, 0], -1)
    gzipped: npt.NDArray[np.bool_] = first >= 0
    for place, byte in enumerate(GZIP_MAGIC):
        gzipped &= data[first + place] == byte
    return gzipped


def _append(buffer: Buffer, source: Source) -> None:
    start = buffer.stop
    if isinstance(source, str | os.PathLike):
        buffer.append_file(source)
    elif isinstance(source, bytes | bytearray | memoryview):
        buffer.append(memoryview(source).cast("B"))
    else:
        buffer.append(_read(source))
    if buffer.data[start : min(start + 2, buffer.stop)].tobytes() == GZIP_MAGIC:
        content = inflate(buffer.data[start : buffer.stop].tobytes(), LARGEST_FILE)
        buffer.stop = start
        buffer.append(content)


def _read(source: BinaryIO) -> bytes:
    try:
        content = source.read()
    except OtrainError as error:
        raise OSError(str(error)) from None
    except Exception as error:  # noqa: BLE001 (whatever the file object of somebody else raises is of this row alone)
        raise OSError(f"reading the file object failed ({type(error).__name__}: {error})") from None
    if not isinstance(content, bytes | bytearray | memoryview):
        raise TypeError(f"the file object gives {type(content).__name__}, not bytes: open it in binary mode")
    return bytes(content)


def _too_large() -> str:
    return f"larger than {LARGEST_FILE >> 20} MiB, so not a cutout"


def names_of(sources: Sequence[Source]) -> list[str]:
    """Give the path of each source, the name of a file object, or an empty text for bytes."""
    if set(map(type, sources)) == {str}:
        return list(sources)  # type: ignore[arg-type]
    return [
        os.fsdecode(source) if isinstance(source, str | os.PathLike) else str(getattr(source, "name", ""))
        for source in sources
    ]
