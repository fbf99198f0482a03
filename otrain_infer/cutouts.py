"""Cutouts: paths or bytes in, one row each out, with pixels, header columns and flags."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from otrain_infer import fits
from otrain_infer.card import PLANES, ModelCard
from otrain_infer.chunks import map_in_order, split
from otrain_infer.errors import SourceError, UsageError
from otrain_infer.flags import UNUSABLE, CutoutFlag
from otrain_infer.lending import Lender
from otrain_infer.sources import Buffer, Source, list_sources, load_in_parts, names_of

NUMBERS = ("MAG", "MAGERR", "FWHM", "FWHMPSF", "RA", "DEC", "XPOS", "YPOS", "MJD")
TEXTS = ("CANDID", "FILTER", "FILE", "OBJECTID")
SYNONYMS = {"MAG": "MAG_CALIB", "CANDID": "NAME"}
"""A keyword and the one that stands in for it where it is missing."""
REQUIRED = ("CANDID", "MAG", "MAGERR", "FILTER", "FWHM", "EDGE")
"""A cutout without one of these gets `CutoutFlag.MISSING_KEYWORD`."""

FALSE_TEXTS = ("", "FALSE", "F", "NO", "N", "OFF", "NONE")
"""What EDGE says, in capitals, of a cutout that is not at the edge of its image; so does a number that is 0."""

SENTINEL = -99.0
"""What some programs write for a magnitude, its error or a width that is missing."""

CHUNK = 128
"""Cutouts read at a time, by each thread."""

# Plain numbers: numpy takes long over each operation with an IntFlag.
_EDGE, _UNREADABLE, _MISSING_KEYWORD = map(int, (CutoutFlag.EDGE, CutoutFlag.UNREADABLE, CutoutFlag.MISSING_KEYWORD))


_buffers = Lender(Buffer)


@dataclass(frozen=True, slots=True, eq=False)
class Cutouts:
    """Cutouts as a struct of arrays: row i of each is cutout i.

    Attributes
    ----------
    names
        Text (n,): the path of each; empty for bytes.
    pixels
        Raw pixels, float32 (n, ny, nx, planes); NaN where there is none.
    header
        Column name -> array (n,): float64 for `NUMBERS` (missing NaN), text for `TEXTS` (missing empty). MAG and MAGERR
        in magnitudes, FWHM and FWHMPSF, XPOS and YPOS in pixels, RA and DEC in degrees, MJD in days.
    flags
        uint32 (n,), of `CutoutFlag`.
    reasons
        Row -> one sentence, for unusable rows.
    """

    names: npt.NDArray[np.str_]
    pixels: npt.NDArray[np.float32]
    header: dict[str, npt.NDArray[Any]]
    flags: npt.NDArray[np.uint32]
    reasons: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    def __repr__(self) -> str:
        return f"Cutouts({len(self)} rows, {int(self.usable.sum())} usable, pixels {self.pixels.shape})"

    @property
    def usable(self) -> npt.NDArray[np.bool_]:
        """Bool (n,): the rows that can be scored."""
        return ~(self.flags & UNUSABLE).astype(np.bool_)

    @property
    def at_edge(self) -> npt.NDArray[np.bool_]:
        """Bool (n,): the rows whose header says that they touch the edge of their image."""
        return (self.flags & _EDGE).astype(np.bool_)

    def select(self, rows: npt.NDArray[Any] | slice) -> "Cutouts":
        """Give some of the rows, as an index array, a bool (n,) or a slice says."""
        kept = np.arange(len(self))[rows]
        reasons = {new: self.reasons[old] for new, old in enumerate(kept.tolist()) if old in self.reasons}
        header = {key: column[rows] for key, column in self.header.items()}
        return Cutouts(self.names[rows], self.pixels[rows], header, self.flags[rows], reasons)

    def without_pixels(self) -> "Cutouts":
        """Give the same rows with no pixels, for when these have been scored."""
        nothing = np.empty((len(self), 0, 0, self.pixels.shape[3]), np.float32)
        return Cutouts(self.names, nothing, self.header, self.flags, self.reasons)

    @classmethod
    def concatenate(cls, parts: Sequence["Cutouts"]) -> "Cutouts":
        """Join rows of the same planes and size, in order."""
        starts = np.cumsum([0, *map(len, parts)]).tolist()
        return cls(
            np.concatenate([part.names for part in parts]),
            np.concatenate([part.pixels for part in parts]),
            {key: np.concatenate([part.header[key] for part in parts]) for key in parts[0].header},
            np.concatenate([part.flags for part in parts]),
            {start + row: why for start, part in zip(starts, parts, strict=False) for row, why in part.reasons.items()},
        )


@dataclass(frozen=True, slots=True)
class CutoutReader:
    """Reads cutouts for one kind of model: the same code for training and for scoring.

    Attributes
    ----------
    planes
        The planes wanted, in order, of `PLANES`.
    size
        (ny, nx) of the cutouts given (pixels); files of other sizes are cropped or padded.
    side
        Where padding goes: ``object`` or ``corner``, see `Padding`.
    """

    planes: tuple[str, ...]
    size: tuple[int, int]
    side: str = "object"

    def __post_init__(self) -> None:
        check_planes(self.planes)
        if min(self.size) < 1:
            raise UsageError(f"a cutout of {self.size[0]}x{self.size[1]} pixels is none: give a size of 1 or more")

    def read(self, sources: Sequence[Source], pixels: npt.NDArray[np.float32] | None = None) -> Cutouts:
        """Read one chunk of cutouts.

        Parameters
        ----------
        sources
            Paths, bytes or binary file objects.
        pixels
            Where to put the pixels, float32 (n, ny, nx, planes), C-contiguous. Made if not given.

        Returns
        -------
        Cutouts
            One row a source, in order, whatever is the matter with it.
        """
        if pixels is None:
            pixels = np.empty((len(sources), *self.size, len(self.planes)), np.float32)
        numbers = (*NUMBERS, SYNONYMS["MAG"])
        texts = (*TEXTS, SYNONYMS["CANDID"], "EDGE")
        decoder = fits.Decoder(fits.Wanted(self.planes, self.size, numbers, texts, self.side), len(sources), pixels)
        reasons: dict[int, str] = {}
        done = 0
        with _buffers.lend() as buffer:
            for arena in load_in_parts(sources, buffer, decoder.read_files):
                decoder.decode(arena.data, arena.bounds)
                reasons |= {done + row: why for row, why in arena.reasons.items()}
                done += len(arena.bounds)
        decoded = decoder.result()
        found = {**decoded.numbers, **decoded.texts}
        for key, other in SYNONYMS.items():
            missing = _is_missing(found[key])
            if missing.any():
                found[key] = np.where(missing, found[other], found[key])
        header = clean_header(found)
        flags = decoded.flags | flag_header(header, found["EDGE"], decoded.flags)
        names = np.array(names_of(sources), np.str_)
        return Cutouts(names, pixels, header, flags, decoded.reasons | reasons)


def check_planes(planes: Sequence[str]) -> None:
    """Raise UsageError unless `planes` are one or more different ones of `PLANES`."""
    if not planes or len(set(planes)) < len(planes) or not set(planes) <= set(PLANES):
        raise UsageError(f"planes '{','.join(planes)}' are not one or more different ones of {', '.join(PLANES)}")


def _says_edge(text: str) -> bool:
    try:
        return float(text) != 0
    except ValueError:
        return text.upper() not in FALSE_TEXTS


def clean_header(found: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    """Give the columns of `Cutouts.header`, each (n,); of numbers those that stand for nothing become NaN."""
    # All at once: for a few rows, a call of numpy costs more than what it does.
    numbers = np.array([found[key] for key in NUMBERS])
    numbers[~np.isfinite(numbers) | (numbers == SENTINEL)] = np.nan
    return {key: found[key] for key in TEXTS} | dict(zip(NUMBERS, numbers, strict=True))


def _is_missing(column: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    missing: npt.NDArray[np.bool_] = np.isnan(column) if column.dtype.kind == "f" else column == ""
    return missing


def flag_header(
    header: dict[str, npt.NDArray[Any]], edge: npt.NDArray[Any], pixel_flags: npt.NDArray[np.uint32]
) -> npt.NDArray[np.uint32]:
    """Give the flags that a header brings.

    Parameters
    ----------
    header
        As of `Cutouts.header`.
    edge
        What EDGE says, text (n,).
    pixel_flags
        `CutoutFlag`, uint32 (n,), that the pixels have brought.

    Returns
    -------
    ndarray
        `CutoutFlag`, uint32 (n,): EDGE, MISSING_KEYWORD.
    """
    flags = np.zeros(len(edge), np.uint32)
    for text in set(edge.tolist()):
        if _says_edge(text):
            flags[edge == text] |= _EDGE
    columns = [edge if key == "EDGE" else header[key] for key in REQUIRED]
    missing = np.logical_or.reduce([_is_missing(column) for column in columns])
    if missing.any():
        # Of a file that could not be read, nothing is known of its header.
        flags[missing & ((pixel_flags & _UNREADABLE) == 0)] |= _MISSING_KEYWORD
    return flags


def reader_for(
    sources: Sequence[Source],
    card: ModelCard | None = None,
    planes: Sequence[str] | None = None,
    size: tuple[int, int] | None = None,
) -> CutoutReader:
    """Give the reader that a card asks for, or planes and size in its stead.

    Raises
    ------
    UsageError
        When there is neither a card nor planes, or both.
    """
    if (card is None) == (planes is None):
        raise UsageError("give either a card or planes to read cutouts, not both")
    if card is not None:
        return CutoutReader(card.planes, card.size, card.normalisation.padding.side)
    chosen = tuple(planes or ())
    check_planes(chosen)
    return CutoutReader(chosen, size or native_size(sources, chosen))


def iter_cutouts(
    sources: Source | Iterable[Source],
    *,
    card: ModelCard | None = None,
    planes: Sequence[str] | None = None,
    size: tuple[int, int] | None = None,
    threads: int = 1,
    chunk: int = CHUNK,
) -> Iterator[Cutouts]:
    """Read cutouts chunk by chunk, in order, in memory that does not grow with their number.

    Parameters
    ----------
    sources
        A folder, a glob, a path, bytes, a binary file object, or a sequence of these.
    card
        Says planes, size and side of the padding; or else
    planes, size
        say them: (ny, nx) in pixels, by default the commonest among the files.
    threads
        How many read at once.
    chunk
        Rows of each part.

    Yields
    ------
    Cutouts
        Consecutive rows.

    Raises
    ------
    SourceError
        When there is nothing to read.
    UsageError
        When planes or size make no sense.
    """
    listed = list_sources(sources)
    reader = reader_for(listed, card, planes, size)
    yield from map_in_order(reader.read, split(listed, chunk), threads)


def read_cutouts(
    sources: Source | Iterable[Source],
    *,
    card: ModelCard | None = None,
    planes: Sequence[str] | None = None,
    size: tuple[int, int] | None = None,
    threads: int = 1,
) -> Cutouts:
    """Read cutouts, all into memory: what `iter_cutouts` gives, joined.

    Returns
    -------
    Cutouts
        One row a source, in order, whatever is the matter with it.
    """
    listed = list_sources(sources)
    reader = reader_for(listed, card, planes, size)
    pixels = np.empty((len(listed), *reader.size, len(reader.planes)), np.float32)

    def read(rows: slice) -> Cutouts:
        return reader.read(listed[rows], pixels[rows]).without_pixels()

    chunks = (slice(start, start + CHUNK) for start in range(0, len(listed), CHUNK))
    parts = list(map_in_order(read, chunks, threads))
    return replace(Cutouts.concatenate(parts), pixels=pixels)


def native_size(sources: Sequence[Source], planes: Sequence[str], sample: int = 1000) -> tuple[int, int]:
    """Give the commonest (ny, nx) among the first `sample` cutouts that have the planes.

    Raises
    ------
    SourceError
        When none of them has.
    """
    check_planes(planes)
    counts: Counter[tuple[int, int]] = Counter()
    buffer = Buffer()
    for chunk in split(sources[:sample], CHUNK):
        for arena in load_in_parts(chunk, buffer):
            shapes = fits.native_shapes(arena.data, arena.bounds, tuple(planes))
            counts.update((ny, nx) for ny, nx in shapes.tolist() if ny and nx)
    if not counts:
        raise SourceError(f"none of the first {min(sample, len(sources))} cutouts holds the planes {','.join(planes)}")
    return counts.most_common(1)[0][0]
