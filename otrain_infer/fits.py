"""Lean FITS decoding: the bytes of many cutouts in, their pixels and header values out, one row for each.

Plain files are decoded by the kernels of `fits_kernels`; a file that these decline is read by astropy, which also has
the last word on what a keyword or a pixel says. A file that neither can use becomes a row of NaN with a flag and a
reason; it never raises.

Pixel n // 2 of an axis of n is its centre. A surplus of pixels is cut so that the centre stays the centre. Missing
pixels are put as `Wanted.side` says.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from otrain_infer import file_kernels, fits_astropy, fits_cards, fits_kernels
from otrain_infer.errors import UsageError
from otrain_infer.flags import UNUSABLE, CutoutFlag

Bytes = npt.NDArray[np.uint8]
Bounds = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

# The names under which each plane goes; an image of three planes has them in this order.
SYNONYMS = (
    ("SCI", "SCIENCE", "IMAGE", "NEW"),
    ("REF", "REFERENCE", "TEMPLATE"),
    ("DIFF", "DIFFERENCE", "SUB", "RESIDUAL"),
)


LONGEST_TEXT = 256
"""Characters of a text that are kept: in a header it may go on over any number of cards."""

PIECE = 1 << 16
"""Bytes that are inflated at a time: what is behind the end of a member is copied."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to take from each file.

    Attributes
    ----------
    planes
        The planes, such as ``("SCI", "REF", "DIFF")``.
    size
        (ny, nx) of the cutouts to be made (pixels).
    numbers, texts
        Header keywords to be given as numbers, and as text.
    side
        Where missing pixels go: ``corner`` puts them all on the high side of both axes. ``object`` keeps the object in
        the centre: they go to the low side where XPOS (YPOS) is less than half the size, else to the high side; and to
        both where nothing tells that the cutout is truncated, because it is square or the position is not known.
    first_image
        Whether the first image of two axes is the plane, the only one, whatever its name, and whatever else is there.
    """

    planes: tuple[str, ...]
    size: tuple[int, int]
    numbers: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    side: str = "object"
    first_image: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Decoded:
    """What was found, a row for each file.

    Attributes
    ----------
    flags
        `CutoutFlag`, uint32 (n,): UNREADABLE, MISSING_PLANE, BLANK, PADDED, CROPPED, NAN_PIXELS.
    shapes
        (ny, nx) of the first plane as it is in the file, int32 (n, 2) (pixels); 0 where there is none.
    numbers
        By keyword, float64 (n,); NaN where there is none.
    texts
        By keyword, str (n,), stripped; empty where there is none.
    reasons
        By row, one sentence for each unusable row.
    declined
        How many files were left to astropy.
    """

    flags: npt.NDArray[np.uint32]
    shapes: npt.NDArray[np.int32]
    numbers: dict[str, npt.NDArray[np.float64]]
    texts: dict[str, npt.NDArray[np.str_]]
    reasons: dict[int, str] = field(default_factory=dict)
    declined: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """`Wanted` as the kernels take it, and as astropy's reader does.

    Attributes
    ----------
    kernel
        `fits_kernels.PLAN`.
    numbers, texts
        The keyword of each column, in capitals.
    y_column, x_column
        Which columns of numbers are YPOS and XPOS.
    keywords
        All of them, once.
    groups
        Of the planes.
    names_of_planes
        The group to which a plane of this name belongs.
    """

    kernel: tuple[Any, ...]
    numbers: tuple[str, ...]
    texts: tuple[str, ...]
    y_column: int
    x_column: int
    keywords: tuple[str, ...]
    groups: list[int]
    names_of_planes: dict[str, int]


class Decoder:
    """Decodes files into rows, in one go or in several.

    Parameters
    ----------
    wanted
        What to take from each file.
    n
        How many files there will be.
    pixels
        Where to put the pixels, float32 (n, ny, nx, planes), C-contiguous; of no row if they are not asked for. Missing
        pixels and unusable rows become NaN.
    positions
        (y, x) of each object in its parent image where the file does not tell it as YPOS and XPOS, float64 (n, 2)
        (pixels); NaN where it is not known.

    Raises
    ------
    UsageError
        When no plane is asked for, or several although the first image is to be the only one.
    """

    def __init__(
        self, wanted: Wanted, n: int, pixels: Floats, positions: npt.NDArray[np.float64] | None = None
    ) -> None:
        if not wanted.planes:
            raise UsageError("no plane is asked for")
        if wanted.first_image and len(wanted.planes) > 1:
            raise UsageError(f"the first image of a file is one plane, not {len(wanted.planes)}")
        self._wanted, self._plan, self._pixels = wanted, _plan(wanted), pixels
        n_numbers, n_texts = len(self._plan.numbers), len(self._plan.texts)
        self._outcome = np.full((n, 3), fits_kernels.PENDING, np.int64)
        self._flags = np.zeros(n, np.uint32)
        self._shapes = np.zeros((n, 2), np.int32)
        self._numbers = np.full((n_numbers, n), np.nan)
        if positions is not None:
            self._numbers[[self._plan.y_column, self._plan.x_column]] = positions.T
        self._codes = np.zeros((n_texts, n, fits_cards.TEXT_WIDTH), np.uint8)
        self._widths = np.ones(n_texts, np.int64)
        self._later = np.zeros((n_numbers + n_texts, n, 2), np.int64)
        self._rows = (
            pixels, self._outcome, self._flags, self._shapes, self._numbers, self._codes, self._widths, self._later,
        )  # fmt: skip
        self._done, self._declined = 0, 0
        self._texts: list[tuple[int, int, str]] = []
        self._reasons: dict[int, str] = {}

    def read_files(self, *reading: Any) -> None:
        """Read files as `file_kernels.read_files` does, and use up those that can be decoded at once."""
        file_kernels.decode_files(*reading, self._done, self._plan.kernel, self._rows)

    def decode(self, data: Bytes, bounds: Bounds) -> None:
        """Decode the next files, but for those that are used up already.

        Parameters
        ----------
        data
            The bytes of all files, uint8 (m,).
        bounds
            [start, stop) of each file in `data`, int64 (k, 2).

        Raises
        ------
        UsageError
            When `bounds` reach beyond `data`.
        """
        first, self._done = self._done, self._done + len(bounds)
        if not self._outcome[first : self._done].any():
            return  # nothing is the matter with any of them, as nearly always
        if not fits_kernels.decode_batch(data, bounds, first, self._plan.kernel, self._rows):
            raise UsageError(f"bounds of files reach beyond the {data.size} bytes there are")
        self._finish(data, bounds, first)

    def result(self) -> Decoded:
        """Give what was found."""
        texts = [_as_text(codes[:, :width]) for codes, width in zip(self._codes, self._widths.tolist(), strict=True)]
        for column, row, text in self._texts:
            _put_text(texts, column, row, text)
        numbers = dict(zip(self._wanted.numbers, self._numbers, strict=False))
        by_keyword = dict(zip(self._wanted.texts, texts, strict=True))
        return Decoded(self._flags, self._shapes, numbers, by_keyword, self._reasons, self._declined)

    def _finish(self, data: Bytes, bounds: Bounds, first: int) -> None:
        """Do what the kernels left to Python."""
        rows = slice(first, first + len(bounds))
        for column, i in np.argwhere(self._later[:, rows, 0]).tolist():
            self._read_value(column, first + i, data)
        declined = self._outcome[rows, fits_kernels.STATUS] == fits_kernels.DECLINED
        for i in np.flatnonzero(declined).tolist():
            self._read_with_astropy(first + i, data[bounds[i, 0] : bounds[i, 1]].tobytes())
        for row in (first + np.flatnonzero(self._flags[rows] & UNUSABLE)).tolist():
            if row not in self._reasons:
                status, plane, _ = self._outcome[row].tolist()
                self._reasons[row] = _reason(status, "" if self._wanted.first_image else self._wanted.planes[plane])

    def _read_value(self, column: int, row: int, data: Bytes) -> None:
        """Read a number of many digits or within a string, or a float to be given as text."""
        start, stop = self._later[column, row].tolist()
        token = data[start : abs(stop)].tobytes().decode("ascii")
        if stop > 0:  # it was not within a string
            token = token.replace("D", "E").replace("d", "e")
        if column < len(self._numbers):
            self._numbers[column, row] = as_number(token)
        else:
            self._texts.append((column - len(self._numbers), row, str(float(token))))

    def _read_with_astropy(self, row: int, raw: bytes) -> None:
        plan, asked = self._plan, len(self._pixels) > 0
        self._declined += 1
        try:
            cutout = fits_astropy.read(raw, plan.groups, plan.names_of_planes, plan.keywords, asked)
        except fits_astropy.UnreadableError as error:
            self._flags[row], self._reasons[row] = CutoutFlag.UNREADABLE, str(error)
            cutout = fits_astropy.Cutout([], -1, (0, 0), dict.fromkeys(plan.keywords))
        self._shapes[row] = cutout.shape
        for column, key in enumerate(plan.numbers):
            if cutout.values[key] is not None:
                self._numbers[column, row] = as_number(cutout.values[key])
        for column, key in enumerate(plan.texts):
            value = cutout.values[key]
            self._texts.append((column, row, "" if value is None else str(value).strip()[:LONGEST_TEXT]))
        if cutout.missing >= 0:
            self._flags[row] = CutoutFlag.MISSING_PLANE
            self._outcome[row] = fits_kernels.NO_PLANE, cutout.missing, 0
        if cutout.images:
            position = self._numbers[[plan.y_column, plan.x_column], row]
            self._flags[row], outcome = _place(cutout.images, self._wanted, position, self._pixels[row])
            self._outcome[row] = *outcome, 0


def decode(data: Bytes, bounds: Bounds, wanted: Wanted, pixels: Floats) -> Decoded:
    """Decode a batch of FITS files, none of them gzipped.

    Parameters
    ----------
    data
        The bytes of all files, uint8 (m,).
    bounds
        [start, stop) of each file in `data`, int64 (n, 2).
    wanted
        What to take from each.
    pixels
        Where to put the pixels, float32 (n, ny, nx, planes), C-contiguous. Missing pixels and unusable rows become NaN.

    Returns
    -------
    Decoded

    Raises
    ------
    UsageError
        When no plane is asked for, or `bounds` or `pixels` do not fit the rest.
    """
    decoder = Decoder(wanted, len(bounds), pixels)
    if pixels.shape != (len(bounds), *wanted.size, len(wanted.planes)):
        raise UsageError(f"pixels of shape {pixels.shape} do not fit {len(bounds)} cutouts of {wanted}")
    decoder.decode(np.require(data, np.uint8, ("C", "W")), np.ascontiguousarray(bounds, np.int64))
    return decoder.result()


def native_shapes(data: Bytes, bounds: Bounds, planes: tuple[str, ...]) -> npt.NDArray[np.int32]:
    """Give the size that the first plane has in each file, from the headers alone.

    Parameters
    ----------
    data, bounds
        As for `decode`.
    planes
        The planes that must all be in a file.

    Returns
    -------
    ndarray
        (ny, nx), int32 (n, 2) (pixels); 0 where the file cannot be read or lacks a plane.
    """
    decoder = Decoder(Wanted(planes, (1, 1)), len(bounds), np.empty((0, 1, 1, len(planes)), np.float32))
    decoder.decode(np.require(data, np.uint8, ("C", "W")), np.ascontiguousarray(bounds, np.int64))
    return decoder.result().shapes


def inflate(data: bytes | memoryview, limit: int) -> bytes:
    """Decompress gzip data of one member or more.

    Parameters
    ----------
    data
        The compressed bytes.
    limit
        How many bytes may come of them.

    Raises
    ------
    OSError, EOFError, ValueError
        When they are damaged, incomplete, or more than `limit`.
    """
    from isal import isal_zlib

    parts, left, at = [], limit, 0
    data = memoryview(data)
    member = isal_zlib.decompressobj(wbits=31)
    while at < len(data):
        piece = data[at : at + PIECE]
        try:
            content = member.decompress(piece, left + 1)
        except isal_zlib.IsalError as error:  # type: ignore[misc]  # its stub declares an instance
            raise OSError(f"gzip data are damaged ({error})") from None
        if content:
            parts.append(content)
        left -= len(content)
        if left < 0:
            raise ValueError(f"more than {limit >> 20} MiB when inflated, so not a cutout")
        at += len(piece) - len(member.unused_data)
        if member.eof:
            at = _skip_zeros(data, at)
            if at < len(data):
                member = isal_zlib.decompressobj(wbits=31)
    if not member.eof:
        raise EOFError("gzip data end too early")
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _skip_zeros(data: memoryview, at: int) -> int:
    """Give the end of the data if from `at` on they are but zeros, else `at`."""
    for start in range(at, len(data), PIECE):
        if bytes(data[start : start + PIECE]).strip(b"\0"):
            return at
    return len(data)


def _as_text(codes: Bytes) -> npt.NDArray[np.str_]:
    return codes.astype(np.uint32).view(f"<U{codes.shape[1]}")[:, 0]


def _place(
    images: list[Floats], wanted: Wanted, position: npt.NDArray[np.float64], out: Floats
) -> tuple[int, tuple[int, int]]:
    """Put the images that astropy read where the kernels would have put them; give flags and outcome."""
    outcome, flags = (fits_kernels.DECODED, 0), 0
    for p, image in enumerate(images):
        stored = np.ascontiguousarray(image, ">f4").view(np.uint8).ravel()
        facts = np.array([0, -32, fits_kernels.PLAIN, 0, 0, *image.shape, 1], np.int64)
        plane = np.empty(wanted.size, np.float32)
        one, found = fits_kernels.place(stored, facts, np.array([1.0, 0.0]), *position, wanted.side == "object", plane)
        out[:, :, p] = plane
        flags |= found
        if one != fits_kernels.DECODED and outcome[0] == fits_kernels.DECODED:
            outcome = (one, p)
    if outcome[0] != fits_kernels.DECODED:
        out[:] = np.nan
    return flags, outcome


def _put_text(texts: list[Any], j: int, i: int, text: str) -> None:
    if len(text) > texts[j].dtype.itemsize // 4:
        texts[j] = texts[j].astype(f"<U{len(text)}")
    texts[j][i] = text


def as_number(value: Any) -> float:
    """Give the number that a value of a header stands for, or NaN."""
    if isinstance(value, bool | complex) or value is None or "_" in str(value):  # float() takes 1_7 for 17
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan


def _reason(outcome: int, plane: str) -> str:
    """Say what is the matter with a plane, or, if that is "", with a file of which the first image counts."""
    named = f"its plane {plane}" if plane else "its image"
    return {
        fits_kernels.NOT_FITS: "it is not a FITS file",
        fits_kernels.NO_PLANE: f"it has no plane {plane}" if plane else "it has no image of rows and columns",
        fits_kernels.NO_FINITE: f"{named} has no finite pixel",
        fits_kernels.CONSTANT: f"{named} has the same value everywhere",
    }[outcome]


def _group(name: str) -> int | None:
    return next((group for group, names in enumerate(SYNONYMS) if name in names), None)


def _table(names: Sequence[str]) -> tuple[Bytes, npt.NDArray[np.int64]]:
    lengths = np.array([len(name) for name in names], np.int64)
    table = np.zeros((len(names), max([8, *lengths])), np.uint8)
    for row, name in zip(table, names, strict=True):
        row[: len(name)] = list(name.encode("ascii", "replace"))
    return table, lengths


@lru_cache(maxsize=16)
def _plan(wanted: Wanted) -> _Plan:
    numbers = tuple(name.upper() for name in wanted.numbers)
    numbers += tuple(name for name in ("YPOS", "XPOS") if name not in numbers)
    texts = tuple(name.upper() for name in wanted.texts)
    keywords = tuple(dict.fromkeys((*numbers, *texts)))
    words = np.zeros(fits_cards.SLOTS, np.uint64)
    owners = np.full((fits_cards.SLOTS, 2), -1, np.int64)
    for name in dict.fromkeys((*fits_cards.STRUCTURAL, *keywords)):
        if len(name) > 8:
            continue
        word = fits_cards.pack(name)
        slot = fits_cards.slot_of(word)
        while words[slot]:
            slot = (slot + 1) % fits_cards.SLOTS
        words[slot] = word
        for column, owner in enumerate((fits_cards.STRUCTURAL, keywords)):
            if name in owner:
                owners[slot, column] = owner.index(name)
    names, lengths = _table((*keywords, "EXTNAME"))
    planes = [plane.strip().upper() for plane in wanted.planes]
    others = [plane for plane in dict.fromkeys(planes) if _group(plane) is None]
    known = [(name, group) for group, same in enumerate((*SYNONYMS, *((name,) for name in others))) for name in same]
    if wanted.first_image:
        known = []  # a name that is not known is of the group -1
    plane_names, plane_lengths = _table([name for name, _ in known])
    groups_of_names = dict(known)
    groups = [groups_of_names.get(plane, -1) for plane in planes]
    y_column, x_column = numbers.index("YPOS"), numbers.index("XPOS")
    kernel = (
        (words, owners, names, lengths),
        (
            plane_names,
            plane_lengths,
            np.array([group for _, group in known], np.int64),
            np.array(groups, np.int64),
        ),
        (
            np.array([keywords.index(name) for name in numbers], np.int64),
            np.array([keywords.index(name) for name in texts], np.int64),
            y_column,
            x_column,
        ),
        wanted.side == "object",
    )
    return _Plan(kernel, numbers, texts, y_column, x_column, keywords, groups, groups_of_names)
