"""The codecs of Avro containers: what each block is compressed with, and a bound on what comes of it."""

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import Any

from otrain_infer.errors import MissingExtraError, PacketError, in_brief

LARGEST_BLOCK = 1 << 28
"""A block of more bytes than this, inflated, holds no alerts."""

LARGEST_DICTIONARY = 1 << 28
"""Memory that a block of xz may ask for (bytes): that of its highest level takes a quarter of this."""

_EXTRA = "pip install 'otrain[avro]'"


def decompress(codec: str, block: memoryview) -> bytes:
    """Decompress a block.

    Raises
    ------
    PacketError
        When it is damaged, too large, or of a codec that is not known.
    MissingExtraError
        When the codec needs a package that is not installed.
    """
    if codec not in CODECS:
        raise PacketError(f"its codec '{in_brief(codec[:20])}' is not one of null, {', '.join(CODECS)}")
    return CODECS[codec](block)


def _too_large() -> PacketError:
    return PacketError(f"one of its blocks is more than {LARGEST_BLOCK >> 20} MiB when inflated")


def _inflate(block: memoryview) -> bytes:
    from isal import isal_zlib

    member = isal_zlib.decompressobj(wbits=-15)
    try:
        content: bytes = member.decompress(block, LARGEST_BLOCK + 1)
    except isal_zlib.IsalError as error:  # type: ignore[misc]  # its stub declares an instance
        raise PacketError(f"one of its blocks is damaged ({error})") from None
    if len(content) > LARGEST_BLOCK:
        raise _too_large()
    if not member.eof:
        raise PacketError("one of its blocks ends too early")
    return content


def _unsnap(block: memoryview) -> bytes:
    try:
        import cramjam
    except ImportError:
        raise MissingExtraError(f"alerts compressed with snappy need cramjam: {_EXTRA}") from None
    content, check = block[:-4], block[-4:]
    try:
        # What comes of it stands at its beginning, so that nothing large need be made to find out.
        if cramjam.snappy.decompress_raw_len(content) > LARGEST_BLOCK:
            raise _too_large()
        inflated = bytes(cramjam.snappy.decompress_raw(content))
    except cramjam.DecompressionError as error:
        raise PacketError(f"one of its blocks is damaged ({error})") from None
    if zlib.crc32(inflated) != int.from_bytes(check, "big"):
        raise PacketError("one of its blocks is damaged (its checksum differs)")
    return inflated


def _unzstd(block: memoryview) -> bytes:
    try:
        from backports import zstd
    except ImportError:
        raise MissingExtraError(f"alerts compressed with zstandard need backports.zstd: {_EXTRA}") from None
    return _unpack(zstd.ZstdDecompressor(), block, zstd.ZstdError)


def _unpack(decompressor: Any, block: memoryview, error_of_its_own: type[Exception] = OSError) -> bytes:
    try:
        content: bytes = decompressor.decompress(block, LARGEST_BLOCK + 1)
    except (OSError, EOFError, lzma.LZMAError, error_of_its_own) as error:
        raise PacketError(f"one of its blocks is damaged ({error})") from None
    if len(content) > LARGEST_BLOCK:
        raise _too_large()
    if not decompressor.eof:
        raise PacketError("one of its blocks ends too early")
    return content


CODECS: dict[str, Callable[[memoryview], bytes]] = {
    "deflate": _inflate,
    "snappy": _unsnap,
    "zstandard": _unzstd,
    "bzip2": lambda block: _unpack(bz2.BZ2Decompressor(), block),
    "xz": lambda block: _unpack(lzma.LZMADecompressor(memlimit=LARGEST_DICTIONARY), block),
}
"""How a block of each codec but ``null`` is decompressed."""
