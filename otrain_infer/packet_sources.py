"""Where packets come from: folders, tars and large containers become packets that are read one by one."""

import os
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from otrain_infer import avro
from otrain_infer.errors import PacketError, SourceError
from otrain_infer.file_kernels import GZIP_MAGIC
from otrain_infer.sources import LARGEST_FILE, Source

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
SUFFIXES = (".avro", ".avro.gz", ".parquet", *TAR_SUFFIXES)

LARGEST_WHOLE = 1 << 25
"""A container of more bytes than this is read piece by piece."""

PIECE = 1 << 23
"""Bytes of such a piece, or one block if that is larger."""


LARGEST_HEADERS = 1 << 20
"""Bytes that a tar may tell of a member, such as a long name: they are all held at once."""


class Member(bytes):
    """The content of a file within a tar.

    Attributes
    ----------
    name
        That of the tar, and its own behind it.
    """

    name: str


class Broken:
    """What takes the place of a packet that cannot be had: reading it fails, and says why."""

    def __init__(self, name: str, reason: str) -> None:
        self.name, self._reason = name, reason

    def read(self) -> bytes:
        """Raise PacketError."""
        raise PacketError(self._reason)


class _Bounded:
    """A tar as it is read, of which no more is taken than what may come before the end of the member at hand."""

    def __init__(self, content: BinaryIO) -> None:
        self._content, self._left = content, LARGEST_HEADERS

    def expect(self, size: int) -> None:
        """Allow for a member of so many bytes."""
        self._left = size + LARGEST_HEADERS

    def read(self, size: int) -> bytes:
        """Give the next bytes; raises OSError where they are too many."""
        content = self._content.read(size)
        self._left -= len(content)
        if self._left < 0:
            raise OSError("it tells more of a member than any name takes")
        return content


@dataclass(frozen=True, slots=True)
class Piece:
    """Some blocks of a container, which with its beginning are a container too.

    Attributes
    ----------
    name
        Path of the container.
    beginning
        Its bytes up to the first block.
    start, stop
        Where in it the blocks are.
    first
        How many records are before them.
    """

    name: str
    beginning: bytes
    start: int
    stop: int
    first: int

    def read(self) -> bytes:
        """Give the bytes of a container with these blocks alone."""
        with open(self.name, "rb") as file:
            file.seek(self.start)
            return self.beginning + file.read(self.stop - self.start)


def is_packet_file(path: str) -> bool:
    """Tell whether a path ends as those of packets do, of which a tar or a container may hold many."""
    return path.lower().endswith(SUFFIXES)


def is_parquet(source: Any) -> bool:
    """Tell whether a source is a Parquet file of packets, by its name."""
    return isinstance(source, str | os.PathLike) and os.fsdecode(source).lower().endswith(".parquet")


def weigh(source: Source) -> int:
    """Give the bytes of a source that are in memory already."""
    return memoryview(source).nbytes if isinstance(source, bytes | bytearray | memoryview) else 0


def list_packets(sources: Source | Iterable[Source]) -> list[Source]:
    """List what there is to read: a folder stands for the packets in it, sorted by name, anything else for itself.

    Raises
    ------
    SourceError
        When there is nothing at all.
    """
    if isinstance(sources, str | os.PathLike | bytes | bytearray | memoryview) or hasattr(sources, "read"):
        sources = [sources]  # type: ignore[list-item]
    listed: list[Source] = []
    for source in sources:
        if isinstance(source, str | os.PathLike) and os.path.isdir(source):
            listed.extend(list_packet_folder(os.fsdecode(source)))
        else:
            listed.append(source)
    if not listed:
        raise SourceError("no alert packet was named: give a folder, files or bytes")
    return listed


def list_packet_folder(folder: str) -> list[str]:
    """List the packets in a folder, sorted by name; raises SourceError where there is none."""
    try:
        names = sorted(name for name in os.listdir(folder) if is_packet_file(name) and name[0] != ".")
    except OSError as error:
        raise SourceError(f"the folder '{folder}' cannot be read ({error.strerror})") from None
    if not names:
        raise SourceError(f"there is no alert packet ({', '.join(SUFFIXES)}) in the folder '{folder}'")
    return [os.path.join(folder, name) for name in names]


def iter_packets(sources: Iterable[Source]) -> Iterator[Source]:
    """Give packets one by one: those in a tar, the pieces of a large container, and the others as they are."""
    for source in sources:
        path = os.fsdecode(source) if isinstance(source, str | os.PathLike) else ""
        if path.lower().endswith(TAR_SUFFIXES):
            yield from _iter_members(path)
        elif path and not is_parquet(path) and _size_of(path) > LARGEST_WHOLE:
            yield from _iter_pieces(path)
        else:
            yield source


def _size_of(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except (OSError, ValueError):
        return 0  # reading it will tell what is the matter


def _iter_members(path: str) -> Iterator[Any]:
    name, empty = path, True
    try:
        with _open_tar(path) as (tar, content):
            for entry in tar:
                content.expect(entry.size)
                name = f"{path}/{entry.name}"
                if not entry.isfile() or os.path.basename(entry.name).startswith("."):
                    continue
                empty = False
                if entry.size > LARGEST_FILE:
                    yield Broken(name, f"larger than {LARGEST_FILE >> 20} MiB, so not a packet")
                    continue
                if entry.issparse():
                    yield Broken(name, "a sparse file, which no packet is")
                    continue
                file = tar.extractfile(entry)
                member = Member(file.read() if file else b"")
                member.name = name
                if len(member) < entry.size:
                    raise EOFError("it is truncated")
                yield member
    except (OSError, EOFError, tarfile.TarError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        yield Broken(name, f"the tar cannot be read from here on ({why}): all that follows in it is missing")
        return
    if empty:
        yield Broken(path, "it holds no packet")


@contextmanager
def _open_tar(path: str) -> Iterator[tuple[tarfile.TarFile, _Bounded]]:
    from isal import igzip

    with open(path, "rb") as file:
        gzipped = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    opener = igzip.open if gzipped else open
    with opener(path, "rb") as file:
        content: Any = _Bounded(file)  # it has all that tarfile needs
        with tarfile.open(fileobj=content, mode="r|") as tar:
            yield tar, content


def _iter_pieces(path: str) -> Iterator[Any]:
    try:
        with open(path, "rb") as file:
            head = memoryview(file.read(PIECE))
            if head[: len(avro.MAGIC)] != avro.MAGIC:
                yield path
                return
            beginning = bytes(head[: avro.read_header(head, 0, len(head)).stop])
            yield from _cut(path, file, beginning)
    except (OSError, PacketError) as error:
        yield Broken(path, getattr(error, "strerror", None) or str(error))


def _cut(path: str, file: BinaryIO, beginning: bytes) -> Iterator[Piece]:
    """Cut a container between its blocks; where one is damaged, what is before it is given, and PacketError raised."""
    start = at = len(beginning)
    first = records = 0
    damage: PacketError | None = None
    blocks = _iter_ends(file, at)
    while True:
        try:
            end, count = next(blocks)
        except StopIteration:
            break
        except PacketError as error:
            damage = error
            break
        if end - start > PIECE and at > start:
            yield Piece(path, beginning, start, at, first)
            start, first = at, records
        at, records = end, records + count
    if at > start:
        yield Piece(path, beginning, start, at, first)
    if damage:
        raise damage


def _iter_ends(file: BinaryIO, at: int) -> Iterator[tuple[int, int]]:
    """Give where each block of a container ends, and how many records it holds, from its first few bytes alone."""
    size = os.fstat(file.fileno()).st_size
    while at < size:
        file.seek(at)
        prefix = memoryview(file.read(2 * avro.LONGEST_LONG))
        count, used = avro.read_long(prefix, 0, len(prefix))
        length, used = avro.read_long(prefix, used, len(prefix))
        at += used + length + avro.SYNC_SIZE
        if not 0 <= count <= avro.MOST_RECORDS or not 0 <= length <= LARGEST_FILE or at > size:
            raise PacketError("one of its blocks is damaged or incomplete")
        yield at, count
