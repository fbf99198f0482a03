"""The files that the lean decoder declines, read by astropy: tile compression, long strings, anything odd."""

import io
import math
import re
import threading
import warnings
from bisect import bisect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from otrain_infer.errors import in_brief
from otrain_infer.fits_tiles import check_tiles

CARD, BLOCK = 80, 2880
_EXTENSION = b"XTENSION"

# An image of more pixels is no cutout; a damaged header must not cost the memory that it asks for.
MAX_PIXELS = 1 << 24

# Bytes of headers, which astropy takes its time over.
MAX_HEADERS = 1 << 22

_TOO_MANY_CARDS = f"its headers have more than {MAX_HEADERS // CARD} cards"

# astropy counts, and allocates, as far as these cards tell it to before it looks at anything else; one that is not
# plain it takes for a text, of which it makes as many copies as the others tell; by a negative size it goes backwards.
_SIZE_WORDS = (b"NAXIS", b"COUNT", b"BITPIX", b"TFIELDS", b"ZTILE")
_SPACE = rb"[\s\x1c-\x1f]"
_SIZE = re.compile(
    rb"%(s)s*(?:HIERARCH%(s)s+)*((?:Z?NAXIS|[PG]COUNT|BITPIX|TFIELDS|ZTILE)[0-9]*)(?![0-9A-Z_-])" % {b"s": _SPACE}
)
_PLAIN = re.compile(rb" *[A-Z0-9]+ *= +[-+]? *([0-9]+)")
_NEGATIVE = re.compile(rb"[^=]*=%s*-" % _SPACE)
_LARGE = re.compile(rb"[0-9]{4}")
_COUNTED = {b"NAXIS": 999, b"ZNAXIS": 999, b"TFIELDS": 999}  # and the most that each may be
_MOST_OF_A_TILE = 9_999_999
_MULTIPLIED = (b"NAXIS", b"PCOUNT", b"GCOUNT", b"BITPIX")
_LONGEST_TEXT = 1 << 22

_END = re.compile(rb"END ")

# On damaged files astropy raises nearly everything there is, and its codecs a class of their own.
_ERRORS = (Exception,)

# warnings.catch_warnings is not safe with threads.
_lock = threading.Lock()


class UnreadableError(Exception):
    """What is wrong with a file, as a sentence; it never leaves the decoder."""


@dataclass(frozen=True, slots=True, eq=False)
class Cutout:
    """What astropy found in a file.

    Attributes
    ----------
    images
        One float32 (ny, nx) for each plane, empty if a plane is missing or pixels are not asked for.
    missing
        The number of the first plane that is missing, -1 if none is.
    shape
        (ny, nx) of the first plane (pixels).
    values
        By keyword, None where there is none.
    """

    images: list[npt.NDArray[np.float32]]
    missing: int
    shape: tuple[int, int]
    values: dict[str, Any]


def read(raw: bytes, groups: Sequence[int], names: Mapping[str, int], keywords: Sequence[str], pixels: bool) -> Cutout:
    """Read one file.

    Parameters
    ----------
    raw
        Its bytes.
    groups
        The group of each plane; groups 0, 1 and 2 are the planes of an image of three.
    names
        The group to which each name of a plane, in capitals, belongs.
    keywords
        The keywords to look for.
    pixels
        Whether the images are wanted too.

    Returns
    -------
    Cutout

    Raises
    ------
    UnreadableError
        When astropy cannot read the file, or it is truncated before a plane is complete.
    """
    if _is_endless(raw.upper()):
        raise UnreadableError("its header tells a size that there is not")
    if len(raw) > MAX_HEADERS and not any(card.start() % CARD == 0 for card in _END.finditer(raw, 0, MAX_HEADERS)):
        raise UnreadableError(_TOO_MANY_CARDS)
    from astropy.io import fits

    with _lock, warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            with fits.open(io.BytesIO(raw), memmap=False, lazy_load_hdus=True) as hdus:
                return _read_planes(hdus, raw, groups, names, keywords, pixels)
        except UnreadableError:
            raise
        except _ERRORS as error:
            if "buffer is too small" in str(error):
                raise UnreadableError("it is truncated") from None
            sentence = in_brief(error) or type(error).__name__
            raise UnreadableError(f"astropy cannot read it: {sentence}") from None


def _is_endless(capitals: bytes) -> bool:
    """Tell whether astropy would come to no end over the cards of sizes."""
    ends = [card.start() for card in _END.finditer(capitals) if card.start() % CARD == 0]
    copies, texts = dict.fromkeys(range(len(ends) + 1), 1), set()
    for start, keyword, size in _sizes(capitals):
        header, counted = bisect(ends, start), keyword in _COUNTED or keyword.startswith(b"ZTILE")
        if counted and (size or 0) > _COUNTED.get(keyword, _MOST_OF_A_TILE):
            return True
        if keyword != b"BITPIX" and keyword.startswith(_MULTIPLIED) and _NEGATIVE.match(capitals, start, start + CARD):
            return True
        if size is None and counted and _LARGE.search(capitals, start, start + CARD):
            return True
        if size is None and keyword.startswith(_MULTIPLIED):
            texts.add(header)
        elif size and keyword.startswith(_MULTIPLIED):
            times = size // 64 if keyword == b"BITPIX" else size
            copies[header] = min(copies[header] * max(1, times), 1 << 62)
    longest = len(capitals) if b"CONTINUE" in capitals else CARD
    return any(longest * copies[header] > _LONGEST_TEXT for header in texts)


def _sizes(capitals: bytes) -> Iterator[tuple[int, bytes, int | None]]:
    """Give where each card of a size is, its keyword, and its number, None if it is not plain."""
    for word in _SIZE_WORDS:
        at = capitals.find(word)
        while at >= 0:
            start = at // CARD * CARD
            card = capitals[start : start + CARD]
            found = _SIZE.match(card)
            if found and found.end() > at - start:
                plain = _PLAIN.match(card)
                yield start, found[1], int(plain[1]) if plain and card.index(b"=") <= 8 else None
            at = capitals.find(word, at + 1)


def _read_planes(
    hdus: Any, raw: bytes, groups: Sequence[int], names: Mapping[str, int], keywords: Sequence[str], pixels: bool
) -> Cutout:
    from astropy.io.fits import CompImageHDU, GroupsHDU, ImageHDU, PrimaryHDU

    found: list[Any] = [None] * len(groups)
    images = []
    primary, last, size = None, None, 0
    for hdu in hdus:
        primary, last = primary or hdu, hdu
        size += _header_size(hdu)
        if size > MAX_HEADERS:
            raise UnreadableError(_TOO_MANY_CARDS)
        if not isinstance(hdu, PrimaryHDU | ImageHDU) or isinstance(hdu, GroupsHDU):
            continue
        shape = hdu.shape[1:] if len(hdu.shape) == 3 and hdu.shape[0] == 1 else hdu.shape
        if len(shape) not in (2, 3) or min(shape) <= 0:
            continue
        images.append((hdu, shape))
        group = names.get(str(_value([hdu.header], "EXTNAME")).strip().upper(), -1)
        for p, wanted in enumerate(groups):
            if len(shape) == 2 and wanted == group and found[p] is None:
                found[p] = (hdu, 0)
        if None not in found:
            break
    if None in found and last is not None:
        _check_end(last, raw)
    if None in found and len(images) == 1:
        found = [one or other for one, other in zip(_take_only(*images[0], groups), found, strict=True)]
    headers = [hdu.header for hdu in dict.fromkeys([primary, *(each[0] for each in found if each)])]
    values = {keyword: _value(headers, keyword) for keyword in keywords}
    if None in found:
        _check_complete(last, len(raw))
        return Cutout([], found.index(None), (0, 0), values)
    for hdu, _ in found:
        if math.prod(hdu.shape) > MAX_PIXELS:
            raise UnreadableError(f"it has an image of {math.prod(hdu.shape)} pixels")
        if pixels and isinstance(hdu, CompImageHDU):
            _check_tiles(hdu, raw)
    ny, nx = found[0][0].shape[-2:]
    planes = [_plane(hdu.data, index) for hdu, index in found] if pixels else []
    return Cutout(planes, -1, (ny, nx), values)


def _header_size(hdu: Any) -> int:
    if not hasattr(hdu, "fileinfo"):
        return 0
    place = hdu.fileinfo()
    if place["datSpan"] < 0:  # astropy would go backwards, and round in circles
        raise UnreadableError("its header claims a negative size")
    return int(place["datLoc"] - place["hdrLoc"])


def _check_tiles(hdu: Any, raw: bytes) -> None:
    try:
        check_tiles(hdu, raw)
    except ValueError as error:
        raise UnreadableError(in_brief(error)) from None


def _take_only(hdu: Any, shape: tuple[int, ...], groups: Sequence[int]) -> list[Any]:
    count = 1 if len(shape) == 2 else shape[0]
    if count == 3:
        return [(hdu, group) if group < 3 else None for group in groups]
    return [(hdu, p) if count == len(groups) else None for p in range(len(groups))]


def _plane(data: npt.NDArray[Any], index: int) -> npt.NDArray[np.float32]:
    return np.asarray(data.reshape(-1, *data.shape[-2:])[index], np.float32)


def _check_end(hdu: Any, raw: bytes) -> None:
    """Raise if behind the last HDU there is another one, which astropy left out, for the file ends before it does."""
    if hasattr(hdu, "fileinfo"):
        place = hdu.fileinfo()
        end = place["datLoc"] + place["datSpan"]
        if raw[end : end + len(_EXTENSION)] == _EXTENSION:
            raise UnreadableError("it is truncated")


def _check_complete(hdu: Any, size: int) -> None:
    """Raise if a file of `size` bytes ends before the data of an HDU do."""
    from astropy.io.fits import CompImageHDU

    if not hasattr(hdu, "fileinfo"):
        raise UnreadableError("one of its headers is damaged")
    place = hdu.fileinfo()
    needed = place["datSpan"] - BLOCK + 1
    # The size of a tile-compressed image is what it has when decompressed, that of an odd header may be anything.
    if not isinstance(hdu, CompImageHDU):
        with suppress(*_ERRORS):
            needed = hdu.size if needed <= hdu.size <= place["datSpan"] else needed
    if place["datLoc"] + needed > size:
        raise UnreadableError("it is truncated")


def _value(headers: Sequence[Any], keyword: str) -> Any:
    """Give the first value that a keyword has; a card that astropy cannot parse has none."""
    from astropy.io.fits import VerifyError

    for header in headers:
        try:
            value = header.get(keyword)
        except (VerifyError, ValueError):
            continue
        if value is not None:
            return value
    return None
