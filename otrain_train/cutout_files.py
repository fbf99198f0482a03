"""Cutouts as FITS files: bytes of many at once, without a FITS library in between."""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from math import isfinite
from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.float32]

BLOCK = 2880
CARD = 80
LONGEST_TEXT = 68


def card(key: str, value: Any) -> str:
    """Write a header card of 80 characters; a blank one for a number that is not finite, which FITS cannot say."""
    if isinstance(value, bool):
        text = f"{'T' if value else 'F':>20}"
    elif isinstance(value, str):
        text = _quoted(value)
    elif isinstance(value, float):
        if not np.isfinite(value):
            return " " * CARD
        text = f"{value:>20.12G}"
    else:
        text = f"{value:>20}"
    return f"{key:<8}= {text}".ljust(CARD)


def _quoted(value: str) -> str:
    # The end of a long text tells more than its beginning: it is the name of a file without its folders.
    printable = "".join(each if " " <= each <= "~" else "?" for each in value).replace("'", "''")
    while len(printable) > LONGEST_TEXT:
        printable = printable[1:].removeprefix("'") if printable.startswith("''") else printable[1:]
    return f"'{printable:<8}'"


def header(cards: Sequence[str]) -> bytes:
    """Put cards together, with END and what fills the block."""
    return _filled("".join([*cards, "END".ljust(CARD)]).encode("ascii"), b" ")


def cutout_bytes(pixels: Pixels, planes: Sequence[str], keywords: Mapping[str, Any]) -> bytes:
    """Give the bytes of one cutout, see `cutouts_bytes`.

    Parameters
    ----------
    pixels
        float32 (ny, nx, planes).
    planes
        Their names.
    keywords
        Keyword -> value.
    """
    columns = {key: [value] for key, value in keywords.items()}
    return bytes(cutouts_bytes(np.moveaxis(pixels, -1, 0)[None], planes, columns)[0])


def cutouts_bytes(
    pixels: Pixels, planes: Sequence[str], keywords: Mapping[str, Sequence[Any]]
) -> npt.NDArray[np.uint8]:
    """Give the bytes of cutouts of one size.

    A single plane is a file's only image; several are image extensions named after them, and keywords are then in the
    primary header.

    Parameters
    ----------
    pixels
        float32 (n, planes, ny, nx).
    planes
        Their names.
    keywords
        Keyword -> the value of each cutout.

    Returns
    -------
    ndarray
        uint8 (n, bytes).
    """
    n, n_planes, *shape = pixels.shape
    size = shape[0] * shape[1] * 4
    room = -(-size // BLOCK) * BLOCK
    if n_planes == 1:
        first = [header([card("SIMPLE", True), *_image_cards(shape), *cards]) for cards in _cards(keywords)]
        between = [b""]
    else:
        start = [card("SIMPLE", True), card("BITPIX", 8), card("NAXIS", 0), card("EXTEND", True)]
        first = [header([*start, *cards]) for cards in _cards(keywords)]
        between = [
            header(
                [
                    card("XTENSION", "IMAGE   "),
                    *_image_cards(shape),
                    card("PCOUNT", 0),
                    card("GCOUNT", 1),
                    card("EXTNAME", name),
                ]
            )
            for name in planes
        ]
    length = len(first[0])
    made = np.zeros((n, length + sum(map(len, between)) + n_planes * room), np.uint8)
    made[:, :length] = np.frombuffer(b"".join(first), np.uint8).reshape(n, length)
    place = length
    for plane, between_header in enumerate(between):
        data = place + len(between_header)
        made[:, place:data] = np.frombuffer(between_header, np.uint8)
        target = made[:, data : data + size].view(">f4") if size else made[:, data:data]
        target[...] = pixels[:, plane].reshape(n, -1)
        place = data + room
    return made


def _cards(keywords: Mapping[str, Sequence[Any]]) -> Iterator[tuple[str, ...]]:
    """Give the cards of each cutout."""
    return zip(*(_column_of_cards(key, values) for key, values in keywords.items()), strict=True)


def _column_of_cards(key: str, values: Sequence[Any]) -> list[str]:
    if all(type(value) is float and isfinite(value) for value in values):
        form = f"{key:<8}= %20.12G".ljust(CARD + len("%20.12G") - 20)  # in a third of the time of a card alone
        return [form % value for value in values]
    return [_known_card(key, value) for value in values]


_known_card = lru_cache(maxsize=1024, typed=True)(card)  # filters and files are the same for many cutouts


def _image_cards(shape: Sequence[int]) -> list[str]:
    return [card("BITPIX", -32), card("NAXIS", 2), card("NAXIS1", shape[1]), card("NAXIS2", shape[0])]


def _filled(content: bytes, filler: bytes) -> bytes:
    return content.ljust(-(-len(content) // BLOCK) * BLOCK, filler)
