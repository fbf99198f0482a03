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

from otrain_infer import fits_astropy, fits_cards, fits_kernels
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
    """

    planes: tuple[str, ...]
    size: tuple[int, int]
    numbers: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    side: str = "object"


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
    """`Wanted` as the kernels take it."""

    words: npt.NDArray[np.uint64]
    owners: npt.NDArray[np.int64]
    names: Bytes
    lengths: npt.NDArray[np.int64]
    plane_names: Bytes
    plane_lengths: npt.NDArray[np.int64]
    plane_groups: npt.NDArray[np.int64]
    groups: npt.NDArray[np.int64]
    number_keys: npt.NDArray[np.int64]
    text_keys: npt.NDArray[np.int64]
    keywords: tuple[str, ...]
    names_of_planes: dict[str, int]


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
    if not wanted.planes:
        raise UsageError("no plane is asked for")
    if pixels.shape != (len(bounds), *wanted.size, len(wanted.planes)):
        raise UsageError(f"pixels of shape {pixels.shape} do not fit {len(bounds)} cutouts of {wanted}")
    return _decode(data, bounds, wanted, pixels)


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
    return _decode(data, bounds, Wanted(planes, (1, 1)), np.empty((0, 1, 1, len(planes)), np.float32)).shapes


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

    parts, left = [], limit
    while data:
        member = isal_zlib.decompressobj(wbits=31)
        try:
            parts.append(member.decompress(data, left + 1))
        except isal_zlib.IsalError as error:  # type: ignore[misc]  # its stub declares an instance
            raise OSError(f"gzip data are damaged ({error})") from None
        left -= len(parts[-1])
        if left < 0:
            raise ValueError(f"more than {limit >> 20} MiB when inflated, so not a cutout")
        if not member.eof:
            raise EOFError("gzip data end too early")
        data = member.unused_data
        if not data.strip(b"\0"):
            break
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _decode(data: Bytes, bounds: Bounds, wanted: Wanted, pixels: Floats) -> Decoded:
    data = np.require(data, np.uint8, ("C", "W"))
    bounds = np.ascontiguousarray(bounds, np.int64).reshape(-1, 2)
    if bounds.size and not (bounds.min() >= 0 and bounds.max() <= data.size and (bounds[:, 0] <= bounds[:, 1]).all()):
        raise UsageError(f"bounds of files reach beyond the {data.size} bytes there are")
    plan = _plan(wanted)
    n, n_numbers, n_texts = len(bounds), plan.number_keys.size, plan.text_keys.size
    outcome = np.empty((n, 2), np.int64)
    flags = np.empty(n, np.uint32)
    shapes = np.zeros((n, 2), np.int32)
    numbers = np.full((n_numbers, n), np.nan)
    codes = np.zeros((n_texts, n, fits_cards.TEXT_WIDTH), np.uint8)
    later = np.zeros((n_numbers + n_texts, n, 2), np.int64)
    fits_kernels.decode_batch(
        data, bounds, plan.words, plan.owners, plan.names, plan.lengths, plan.plane_names, plan.plane_lengths,
        plan.plane_groups, plan.groups, plan.number_keys, plan.text_keys, wanted.side == "object", pixels, outcome,
        flags, shapes, numbers, codes, later,
    )  # fmt: skip
    texts = [_as_text(column) for column in codes]
    _finish_values(data, later, numbers, texts)
    reasons: dict[int, str] = {}
    declined = np.flatnonzero(outcome[:, 0] == fits_kernels.DECLINED)
    for i in declined.tolist():
        raw = data[bounds[i, 0] : bounds[i, 1]].tobytes()
        try:
            cutout = fits_astropy.read(raw, plan.groups.tolist(), plan.names_of_planes, plan.keywords, len(pixels) > 0)
        except fits_astropy.UnreadableError as error:
            flags[i], reasons[i] = CutoutFlag.UNREADABLE, str(error)
            cutout = fits_astropy.Cutout([], -1, (0, 0), dict.fromkeys(plan.keywords))
        shapes[i] = cutout.shape
        _put_values(cutout, plan, i, numbers, texts)
        if cutout.missing >= 0:
            flags[i], outcome[i] = CutoutFlag.MISSING_PLANE, (fits_kernels.NO_PLANE, cutout.missing)
        if cutout.images:
            flags[i], outcome[i] = _place(cutout.images, wanted, numbers[-2:, i], pixels[i])
    for i in np.flatnonzero(flags & UNUSABLE).tolist():
        if i not in reasons:
            reasons[i] = _reason(int(outcome[i, 0]), wanted.planes[int(outcome[i, 1])])
    return Decoded(
        flags,
        shapes,
        {key: numbers[j] for j, key in enumerate(wanted.numbers)},
        {key: texts[j] for j, key in enumerate(wanted.texts)},
        reasons,
        declined.size,
    )


def _as_text(codes: Bytes) -> npt.NDArray[np.str_]:
    used = np.flatnonzero(np.bitwise_or.reduce(codes, axis=0))  # which is vectorised, as any is not
    width = int(used[-1]) + 1 if used.size else 1
    return codes[:, :width].astype(np.uint32).view(f"<U{width}")[:, 0]


def _finish_values(data: Bytes, later: Bounds, numbers: npt.NDArray[np.float64], texts: list[Any]) -> None:
    """Read what the kernels left over: numbers of many digits or within strings, and floats to be given as text."""
    for j, i in np.argwhere(later[:, :, 0]).tolist():
        start, stop = later[j, i].tolist()
        token = data[start : abs(stop)].tobytes().decode("ascii")
        if stop > 0:  # it was not within a string
            token = token.replace("D", "E").replace("d", "e")
        if j < len(numbers):
            numbers[j, i] = _as_number(token)
        else:
            _put_text(texts, j - len(numbers), i, str(float(token)))


def _put_values(
    cutout: fits_astropy.Cutout, plan: _Plan, i: int, numbers: npt.NDArray[np.float64], texts: list[Any]
) -> None:
    for j, key in enumerate(plan.number_keys):
        numbers[j, i] = _as_number(cutout.values[plan.keywords[key]])
    for j, key in enumerate(plan.text_keys):
        value = cutout.values[plan.keywords[key]]
        _put_text(texts, j, i, "" if value is None else str(value).strip())


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


def _as_number(value: Any) -> float:
    if isinstance(value, bool | complex) or value is None or "_" in str(value):  # float() takes 1_7 for 17
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan


def _reason(outcome: int, plane: str) -> str:
    return {
        fits_kernels.NOT_FITS: "it is not a FITS file",
        fits_kernels.NO_PLANE: f"it has no plane {plane}",
        fits_kernels.NO_FINITE: f"its plane {plane} has no finite pixel",
        fits_kernels.CONSTANT: f"its plane {plane} has the same value everywhere",
    }[outcome]


def _group(name: str) -> int | None:
    return next((group for group, names in enumerate(SYNONYMS) if name in names), None)


def _table(names: Sequence[str]) -> tuple[Bytes, npt.NDArray[np.int64]]:
    lengths = np.array([len(name) for name in names], np.int64)
    table = np.zeros((len(names), max(8, *lengths)), np.uint8)
    for row, name in zip(table, names, strict=True):
        row[: len(name)] = list(name.encode("ascii", "replace"))
    return table, lengths


@lru_cache(maxsize=16)
def _plan(wanted: Wanted) -> _Plan:
    asked = tuple(name.upper() for name in (*wanted.numbers, "YPOS", "XPOS", *wanted.texts))
    keywords = tuple(dict.fromkeys(asked))
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
    plane_names, plane_lengths = _table([name for name, _ in known])
    groups = dict(known)
    keys = np.array([keywords.index(name) for name in asked], np.int64)
    n_numbers = len(wanted.numbers) + 2
    return _Plan(
        words,
        owners,
        names,
        lengths,
        plane_names,
        plane_lengths,
        np.array([group for _, group in known], np.int64),
        np.array([groups[plane] for plane in planes], np.int64),
        keys[:n_numbers].copy(),
        keys[n_numbers:].copy(),
        keywords,
        groups,
    )
