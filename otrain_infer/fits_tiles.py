"""Tile-compressed images: what a file tells of its tiles is checked before astropy's C code takes its word for it.

That code reads and writes beyond its memory where a stream of HCOMPRESS or PLIO is damaged, reads beyond it where one
of RICE is, and inflates gzip without end. So the first two are refused, and a stream of the others must be whole, and
no larger than its tile. The conventions are those of the FITS standard 4.0, section 10.
"""

import math
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from otrain_infer.jit import kernel

CODECS = ("RICE_1", "RICE_ONE", "GZIP_1", "GZIP_2", "NOCOMPRESS")

MAX_TILES = 1 << 14
"""astropy takes its time over each tile; a cutout has one for each of its rows, or fewer."""

LARGEST_PIXEL = 8
"""Bytes."""

_DITHERS = range(1, 10_001)  # what ZDITHER0 may be: astropy looks up a table with it
_BLOCKS = range(1, 33)
_WIDTHS = (1, 2, 4)
_FORMATS = ("PB", "QB")

Bytes = npt.NDArray[np.uint8]


@kernel("boolean(uint8[::1], int64, int64, int64)")
def rice_is_whole(data, width, block, pixels):  # type: ignore[no-untyped-def]
    """Tell whether a stream of RICE_1 holds so many pixels, each of `width` bytes, in blocks of `block`, to the end."""
    fs_bits, fs_max = (3, 6) if width == 1 else ((4, 14) if width == 2 else (5, 25))
    at, stop, i = width + 1, data.size, 0
    if at > stop:
        return False
    left, bits = np.int64(data[width]), np.int64(8)
    while i < pixels:
        bits -= fs_bits
        while bits < 0:
            if at == stop:
                return False
            left, at, bits = (left << 8) | data[at], at + 1, bits + 8
        fs = (left >> bits) - 1
        left &= (1 << bits) - 1
        until = min(i + block, pixels)
        while fs == fs_max and i < until:  # pixels as they are
            i, at = i + 1, at + width
            if at > stop:
                return False
            left = np.int64(data[at - 1]) & ((1 << bits) - 1)
        while fs >= 0 and i < until:  # zeros up to a one, and then `fs` bits
            i += 1
            while left == 0:
                if at == stop:
                    return False
                left, at = np.int64(data[at]), at + 1
            bits = np.int64(0)
            while left >> (bits + 1) != 0:
                bits += 1
            left ^= 1 << bits
            bits -= fs
            while bits < 0:
                if at == stop:
                    return False
                left, at, bits = ((left << 8) | data[at]) & 0xFFFFFFFF, at + 1, bits + 8
            left &= (1 << bits) - 1
        i = until  # of a block without differences nothing more is told
    return True


def check_tiles(hdu: Any, raw: bytes) -> None:
    """Check a tile-compressed image.

    Parameters
    ----------
    hdu
        astropy's CompImageHDU.
    raw
        The bytes of the file.

    Raises
    ------
    Exception
        Of any kind, when astropy had better not decompress it; it says why.
    """
    table = hdu._bintable
    header, codec = table.header, str(hdu.compression_type)
    if codec not in CODECS or header.get("ZCMPTYPE", codec) not in CODECS:
        raise ValueError(f"it is compressed with {codec[:20]}, which cannot be read safely")
    if header.get("ZQUANTIZ", "NO_DITHER") != "NO_DITHER":
        _check_setting("ZDITHER0", header.get("ZDITHER0"), _DITHERS)
    sizes = _tile_sizes([_whole(header, f"ZNAXIS{axis}") for axis in range(header["ZNAXIS"], 0, -1)], hdu.tile_shape)
    start = hdu.fileinfo()["datLoc"] + _whole({"THEAP": table._theap}, "THEAP")
    heap = np.frombuffer(bytearray(raw[start : start + _whole(header, "PCOUNT")]), np.uint8)  # kernels take no other
    unsqueezed = _streams(hdu, heap, "GZIP_COMPRESSED_DATA")
    for row, stream in enumerate(_streams(hdu, heap, "COMPRESSED_DATA")[: len(sizes)]):
        if len(stream) == 0 and unsqueezed:
            _check_gzip(unsqueezed[row], sizes[row])
        elif codec.startswith("GZIP"):
            _check_gzip(stream, sizes[row])
        elif codec.startswith("RICE") and len(stream):
            width, block = _setting(header, "BYTEPIX", 4, _WIDTHS), _setting(header, "BLOCKSIZE", 32, _BLOCKS)
            if not rice_is_whole(stream, width, block, sizes[row]):
                raise ValueError("one of its tiles is truncated or damaged")


def _tile_sizes(shape: Sequence[int], tile: tuple[int, ...]) -> list[int]:
    """Give the pixels of each tile, the last axis the fastest."""
    if len(tile) != len(shape) or min(tile) < 1 or min(shape) < 1:
        raise ValueError("its tiles are of no size")
    counts = [math.ceil(whole / part) for whole, part in zip(shape, tile, strict=True)]
    if math.prod(counts) > MAX_TILES:
        raise ValueError(f"it has {math.prod(counts)} tiles")
    sizes: npt.NDArray[np.int64] = np.ones(1, np.int64)
    for whole, part, count in zip(shape, tile, counts, strict=True):
        along: npt.NDArray[np.int64] = np.full(count, part)
        along[count - 1] = whole - part * (count - 1)
        sizes = np.multiply.outer(sizes, along).ravel()
    found: list[int] = sizes.tolist()
    return found


def _streams(hdu: Any, heap: Bytes, name: str) -> list[Bytes]:
    """Give the compressed bytes of each tile in a column; none if there is no such column."""
    columns = hdu._bintable.columns
    if name not in columns.names:
        return []
    if not columns[name].format.removeprefix("1").startswith(_FORMATS):
        raise ValueError(f"its column {name} does not hold bytes")
    found = []
    for size, start in np.asarray(hdu.compressed_data[name])[:MAX_TILES].tolist():
        if not 0 <= start <= start + size <= len(heap):
            raise ValueError("one of its tiles lies elsewhere")
        found.append(heap[start : start + size])
    return found


def _check_gzip(stream: Bytes, pixels: int) -> None:
    member, most = zlib.decompressobj(wbits=31), LARGEST_PIXEL * pixels
    content = member.decompress(stream.tobytes(), most + 1)
    if len(content) > most or not member.eof or member.unused_data:
        raise ValueError("one of its tiles is truncated, or too large when inflated")


def _setting(header: Any, name: str, absent: int, known: Sequence[int]) -> int:
    """Give a setting of the codec, of which ZNAMEn is the name and ZVALn the value."""
    for number in range(1, 1000):
        found = header.get(f"ZNAME{number}")
        if found is None:
            break
        if str(found).lower() == name.lower():
            return _check_setting(name, header.get(f"ZVAL{number}"), known)
    return absent


def _check_setting(name: str, value: Any, known: Sequence[int]) -> int:
    if type(value) is not int or value not in known:
        raise ValueError(f"its {name} is none that there is")
    return value


def _whole(header: Any, name: str) -> int:
    value: int = header[name]
    return _check_setting(name, value, range(1 << 40))
