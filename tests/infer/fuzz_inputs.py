"""Inputs for the fuzzers: small files of every kind to begin with, and mutations that keep what a parser looks at."""

import base64
import bz2
import gzip
import json
import lzma
import random
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cramjam
import numpy as np
from astropy.io import fits
from backports import zstd
from corpus import KEYWORDS, cutout_bytes, hdu_bytes, star
from networks import CASCADE, full_card, make_card, make_model
from packet_files import CUTOUTS, SCHEMAS, SMALL, alert, container, images, message, stamp

from otrain_infer import avro
from otrain_infer.avro_codecs import decompress
from otrain_infer.errors import PacketError

CORPUS = Path(__file__).parents[1] / "fuzz_corpus"

CARD, BLOCK = 80, 2880
SURVEYS = ("ztf", "lsst", "winter", "pgir", "turbo", "decam", "atlas")
SHAPE = (5, 4)


def load_corpus(target: str) -> list[bytes]:
    """The inputs that are kept, in the order of their names; each is gzipped, which makes little of a FITS header."""
    return [gzip.decompress(path.read_bytes()) for path in sorted((CORPUS / target).glob("*.gz"))]


# FITS ----------------------------------------------------------------------------------------------------------------


def _fits_card(text: str) -> bytes:
    return text.encode("latin-1").ljust(CARD)[:CARD]


def _image(kind: str, **header: Any) -> bytes:
    return cutout_bytes(np.arange(20).reshape(SHAPE).astype(kind), **header)


def fits_seeds() -> Iterator[bytes]:
    """One small file for each thing that a file may hold."""
    yield from (_image(kind) for kind in ("u1", "i1", "i2", "u2", "i4", "u4", "i8", "u8", "f4", "f8"))
    yield _image("i2", BSCALE=0.5, BZERO=3, BLANK=7)
    yield _image("f4", BSCALE=2.0, CANDID="it's / one", mag_calib=17.25, EDGE=True, MAG=None)
    yield _image("f4", CANDID="x" * 200, FILTER="")
    yield _image("f4", XPOS=1, YPOS=2, RA=1e-300, MAG=12345678901234567890)
    yield from (cutout_bytes(np.stack([star(SHAPE, k) for k in range(n)])) for n in (1, 2, 3))
    yield cutout_bytes(star(SHAPE)[None, None])
    names = ("SCI", "TEMPLATE", "diff")
    planes = [fits.ImageHDU(star(SHAPE, k), name=name) for k, name in enumerate(names)]
    yield hdu_bytes(fits.PrimaryHDU(header=fits.Header(KEYWORDS)), *planes)
    table = fits.BinTableHDU.from_columns([fits.Column("A", "PJ()", array=np.array([[1, 2], [3]], object))])
    yield hdu_bytes(fits.PrimaryHDU(), table, planes[2])
    yield hdu_bytes(fits.PrimaryHDU(), fits.TableHDU.from_columns([fits.Column("A", "I4", array=np.arange(3))]))
    for codec in ("RICE_1", "GZIP_1", "GZIP_2", "PLIO_1", "HCOMPRESS_1", "NOCOMPRESS"):
        image = star((8, 9)).astype("i2") if codec == "PLIO_1" else star((8, 9))
        image = np.abs(image) if codec == "PLIO_1" else image
        yield hdu_bytes(fits.PrimaryHDU(), fits.CompImageHDU(image, name="DIFF", compression_type=codec))
    yield hdu_bytes(fits.PrimaryHDU(), fits.CompImageHDU(star((8, 9)).astype("i4"), name="SCI"))
    yield gzip.compress(_image("f4"), mtime=0)
    groups = {"SIMPLE": "T", "BITPIX": -32, "NAXIS": 3, "NAXIS1": 0, "NAXIS2": 5, "NAXIS3": 4, "GROUPS": "T"}
    cards = {**groups, "PCOUNT": 1, "GCOUNT": 2, "PTYPE1": "'U'"}
    header = "".join(f"{key:8}= {value!s:>20}".ljust(CARD) for key, value in cards.items())
    yield (header + "END").ljust(BLOCK).encode() + bytes(BLOCK)
    yield hdu_bytes(fits.PrimaryHDU(header=fits.Header([("COMMENT", "x"), ("HISTORY", "y"), ("ENDTIME", 5)])))


FITS_KEYS = (
    "SIMPLE", "XTENSION", "BITPIX", "NAXIS", "NAXIS1", "NAXIS2", "NAXIS3", "NAXIS9", "PCOUNT", "GCOUNT", "BSCALE",
    "BZERO", "BLANK", "EXTNAME", "EXTEND", "GROUPS", "TFIELDS", "TFORM1", "TTYPE1", "THEAP", "ZIMAGE", "ZCMPTYPE",
    "ZBITPIX", "ZNAXIS", "ZNAXIS1", "ZNAXIS2", "ZTILE1", "ZTILE2", "ZNAME1", "ZVAL1", "ZQUANTIZ", "ZDITHER0", "ZBLANK",
    "MAG", "mag_calib", "CANDID", "FILTER", "XPOS", "YPOS", "EDGE", "CONTINUE", "COMMENT", "HISTORY", "END", "",
    "HIERARCH MAG", "HIERARCH mag_calib", "HIERARCH EXTNAME", "DATE", "CHECKSUM", "DATASUM", "EXTVER", "EXTLEVEL",
)  # fmt: skip
FITS_VALUES = (
    "T", "F", "0", "1", "-1", "2", "3", "4", "5", "8", "9", "16", "20", "32", "64", "-32", "-64", "100", "255", "256",
    "999", "1000", "32768", "-32768", "-128", "2147483647", "2147483648", "4294967296", "9223372036854775807",
    "9223372036854775808", "-9223372036854775808", "18446744073709551616", "99999999999999999999", "1E400", "1.5", ".5",
    "-.5D3", "1E-320", "0.1", "123456789.123456789123", "NaN", "INF", "''", "'DIFF'", "'IMAGE   '", "'BINTABLE'",
    "'TABLE   '", "'RICE_1'", "'GZIP_1'", "'it''s'", "'open", "'a: 5'", "'x&'", "(1, 2)", "1 2", "", "1PB(20)", "'1QB'",
    "'NO_DITHER'", "'SUBTRACTIVE_DITHER_1'", "'1J'", "'A20'", "'HCOMPRESS_1'", "'PLIO_1'", "'SCI'", "'REF'",
)  # fmt: skip
COMMENTS = ("", " / comment", "/", "  / it's", " junk")


def _new_card(rng: random.Random) -> bytes:
    key, value = rng.choice(FITS_KEYS), rng.choice(FITS_VALUES)
    sign = rng.choice(("= ", "= ", "= ", "= ", "=", "  ", " = "))
    pad = " " * rng.choice((0, 0, 1, 8, 18, 40, 60))
    return _fits_card(f"{key:8}{sign}{pad}{value}{rng.choice(COMMENTS)}")


def _headers_of(data: bytes) -> list[tuple[int, int]]:
    """Where headers seem to be: [start, stop) up to the card END, in whole cards."""
    found = []
    for match in re.finditer(rb"SIMPLE  =|XTENSION=", data):
        start = match.start()
        if start % CARD:
            continue
        for end in re.finditer(rb"END ", data[start : start + 40 * BLOCK]):
            if end.start() % CARD == 0:
                found.append((start, start + end.start()))
                break
    return found


def _mutate_within(data: bytes, rng: random.Random, mutate: Callable[[bytes, random.Random], bytes]) -> bytes:
    """Change what is gzipped; or the bytes, where it cannot be inflated."""
    try:
        return gzip.compress(mutate(gzip.decompress(data), rng), 1, mtime=0)
    except (OSError, EOFError, zlib.error):
        return mutate_bytes(data, rng)


def mutate_fits(data: bytes, rng: random.Random) -> bytes:
    """Change the cards of a header, keeping its blocks whole, or the bytes."""
    if data[:2] == b"\x1f\x8b" and rng.random() < 0.8:
        return _mutate_within(data, rng, mutate_fits)
    headers = _headers_of(data)
    if not headers or rng.random() < 0.2:
        return mutate_bytes(data, rng)
    start, stop = rng.choice(headers)
    cards = [data[at : at + CARD] for at in range(start, stop, CARD)]
    behind = start + (stop + CARD - start + BLOCK - 1) // BLOCK * BLOCK
    kind = rng.randrange(10)
    at = rng.randrange(len(cards)) if cards else 0
    if kind == 0 and cards:
        del cards[at]
    elif kind == 1:
        cards.insert(at, _new_card(rng))
    elif kind == 2 and cards:
        cards.insert(rng.randrange(len(cards) + 1), cards[at])
    elif kind in (3, 4, 5) and cards:
        cards[at] = cards[at][:10] + _fits_card(rng.choice(FITS_VALUES).rjust(20) + rng.choice(COMMENTS))[:70]
    elif kind == 6 and cards:
        cards[at] = _new_card(rng)
    elif kind == 7 and cards:
        cards[at] = _fits_card(mutate_bytes(cards[at], rng).decode("latin-1"))
    elif kind == 8:
        # One more image, or whatever it is, behind what there is.
        return data + data[start:].replace(b"SIMPLE  =                    T", b"XTENSION= 'IMAGE   '          ", 1)
    else:
        return data[:behind] + mutate_bytes(data[behind:], rng)
    joined = b"".join(cards) + _fits_card("END")
    return data[:start] + joined + b" " * (-len(joined) % BLOCK) + data[behind:]


# Bytes ---------------------------------------------------------------------------------------------------------------

INTERESTING = (b"\0", b"\xff", b"\x7f", b"\x80", b"\x01", b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01", b" ", b"'", b"=")


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Change, take out, put in, repeat or cut bytes."""
    if not data:
        return bytes(rng.randrange(256) for _ in range(rng.randrange(1, 20)))
    at = rng.randrange(len(data))
    size = min(rng.choice((1, 1, 1, 2, 4, 8, 80, 2880)), len(data) - at)
    kind = rng.randrange(8)
    if kind == 0:
        return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
    if kind == 1:
        return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
    if kind == 2:
        piece = rng.choice(INTERESTING)
        return data[:at] + piece + data[at + rng.choice((0, len(piece))) :]
    if kind == 3:
        return data[:at] + data[at + size :]
    if kind == 4:
        return data[:at] + data[at : at + size] * rng.choice((2, 3, 20)) + data[at + size :]
    if kind == 5:
        return data[: rng.choice((at, len(data) - min(size, len(data) - 1)))]
    if kind == 6:
        other = rng.randrange(len(data))
        return data[:at] + data[other : other + size] + data[at + size :]
    return data + data[at : at + size]


# Avro ----------------------------------------------------------------------------------------------------------------

CODECS = ("null", "deflate", "snappy", "zstandard", "bzip2", "xz")
_ODD_TYPES: tuple[Any, ...] = (
    "null", "int", "long", "float", "double", "bytes", "string", "boolean", "candidate", "ztf.alert", "nothing", 17,
    None, [], ["null", "long"], ["null", ["null", "int"]], {}, {"type": "array", "items": "null"},
    {"type": "map", "values": "bytes"}, {"type": "fixed", "name": "f", "size": 4},
    {"type": "fixed", "name": "f", "size": -1}, {"type": "fixed", "name": "g", "size": 10**30},
    {"type": "fixed", "name": "g", "size": 1e400}, {"type": "enum", "name": "e", "symbols": ["A", "B"]},
    {"type": "enum", "name": "e", "symbols": 3}, {"type": {"type": "long"}}, {"type": "record", "name": "r"},
    {"type": "record", "name": "r", "fields": []}, {"type": "record", "name": "r", "fields": [{"name": "x"}]},
    {"type": "record", "name": "s", "fields": [{"name": "next", "type": ["null", "s"]}]},
    {"type": "record", "name": "s", "fields": [{"name": "next", "type": "s"}]}, True, 1.5, "",
)  # fmt: skip


def write_long(value: int) -> bytes:
    """A number as Avro has it; more than 64 bits too."""
    value = value * 2 if value >= 0 else -value * 2 - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def write_container(schema: bytes, blocks: list[tuple[int, bytes]], codec: bytes = b"null") -> bytes:
    """A container of blocks, each (how many records it claims to hold, its bytes as they are stored)."""
    entries = ((b"avro.schema", schema), (b"avro.codec", codec))
    head = b"".join(write_long(len(text)) + text for entry in entries for text in entry)
    sync = b"0123456789abcdef"
    stored = b"".join(write_long(count) + write_long(len(block)) + block + sync for count, block in blocks)
    return avro.MAGIC + write_long(len(entries)) + head + write_long(0) + sync + stored


def small_alert(survey: str, seed: int = 0, **changes: Any) -> dict[str, Any]:
    """A packet with stamps of a few pixels, gzipped unless `packed` says otherwise, and nothing else in them."""
    packed = changes.pop("packed", True)
    stamps: list[Any] = [stamp(image, packed) for image in images(seed, SHAPE)]
    if survey in ("ztf", "atlas"):
        stamps = [{"fileName": "x.fits", "stampData": each} for each in stamps]
    names = SMALL if survey == "winter" else CUTOUTS
    return alert(survey, seed, shape=SHAPE, **changes) | dict(zip(names, stamps, strict=True))


def packet_seeds() -> Iterator[bytes]:
    """Containers, messages with and without the number of their schema, some of them gzipped."""
    for survey in SURVEYS:
        yield container(survey, small_alert(survey), small_alert(survey, 1))
    for codec in CODECS:
        yield container("lsst", *(small_alert("lsst", seed) for seed in range(3)), codec=codec)
    yield container("ztf", small_alert("ztf", packed=False))
    for survey in ("ztf", "lsst"):
        yield message(survey, small_alert(survey), 1 if survey == "ztf" else 2)
        yield message(survey, small_alert(survey))
    yield gzip.compress(container("ztf", small_alert("ztf")), mtime=0)
    yield gzip.compress(message("ztf", small_alert("ztf"), 1), mtime=0)
    yield b""
    yield b"Obj\x01"


def _recode(block: bytes, codec: str) -> bytes:
    """Compress as a codec does, fast rather than well."""
    if codec == "deflate":
        packer = zlib.compressobj(1, zlib.DEFLATED, -15)
        return packer.compress(block) + packer.flush()
    if codec == "snappy":
        return bytes(cramjam.snappy.compress_raw(block)) + zlib.crc32(block).to_bytes(4, "big")
    if codec == "zstandard":
        return zstd.compress(block, 1)
    if codec == "bzip2":
        return bz2.compress(block, 1)
    return lzma.compress(block, preset=0) if codec == "xz" else block


def mutate_schema(schema: bytes, rng: random.Random) -> bytes:
    """Change a schema as JSON, or its text."""
    if rng.random() < 0.2:
        return mutate_bytes(schema, rng)
    try:
        content = json.loads(schema)
    except (ValueError, RecursionError):
        return mutate_bytes(schema, rng)
    return json.dumps(_mutate_tree(content, rng, lambda: rng.choice(_ODD_TYPES))).encode()


def _mutate_tree(content: Any, rng: random.Random, make: Callable[[], Any]) -> Any:
    """Change one place of what JSON gave."""
    places: list[tuple[Any, Any]] = []
    left = [content]
    while left:
        each = left.pop()
        if isinstance(each, dict | list):
            keys = list(each) if isinstance(each, dict) else range(len(each))
            places += [(each, key) for key in keys]
            left += [each[key] for key in keys]
    if not places:
        return make()
    owner, key = rng.choice(places)
    kind = rng.randrange(5)
    if kind == 0:
        del owner[key]
    elif kind == 1 and isinstance(owner, list):
        owner.insert(key, owner[rng.randrange(len(owner))])
    elif kind == 2:
        other, place = rng.choice(places)
        if not isinstance(other[place], dict | list):
            owner[key] = other[place]
    else:
        owner[key] = make()
    return content


def mutate_packet(data: bytes, rng: random.Random) -> bytes:
    """Change the schema, the codec, a block or its records in a container that is whole; or change the bytes."""
    if data[:2] == b"\x1f\x8b" and rng.random() < 0.8:
        return _mutate_within(data, rng, mutate_packet)
    if data[:4] != avro.MAGIC:
        return _mutate_records(data, rng)
    if rng.random() < 0.15:
        return mutate_bytes(data, rng)
    view = memoryview(data)
    try:
        header = avro.read_header(view, 0, len(data))
        blocks = []
        for start, stop, count in avro.iter_blocks(view, header, len(data)):
            block = bytes(view[start:stop]) if header.codec == "null" else decompress(header.codec, view[start:stop])
            blocks.append((count, block))
    except PacketError:
        return mutate_bytes(data, rng)
    schema, codec, kind = header.schema, header.codec, rng.randrange(10)
    which = rng.randrange(len(blocks)) if blocks else 0
    if kind < 2:
        schema = mutate_schema(schema, rng)
    elif kind == 2:
        codec = rng.choice(CODECS)
    elif kind == 3 and blocks:
        blocks[which] = (rng.choice((0, 1, 2, 3, 100, 99_999, 100_001, 1 << 60, -1)), blocks[which][1])
    elif kind == 4 and blocks:
        blocks.insert(which, blocks[rng.randrange(len(blocks))])
    elif blocks:
        blocks[which] = (blocks[which][0], _mutate_records(blocks[which][1], rng))
    try:
        stored = [(count, _recode(block, codec)) for count, block in blocks]
    except ValueError:
        return mutate_bytes(data, rng)
    return write_container(schema, stored, codec.encode("utf-8", "replace"))


def _mutate_records(block: bytes, rng: random.Random) -> bytes:
    if block and rng.random() < 0.3:
        # Another number in the place of one byte, as most numbers take one.
        at = rng.randrange(len(block))
        value = rng.choice((0, 1, -1, 2, 63, 64, -64, 1 << 20, 1 << 31, 1 << 62, -(1 << 63), 1 << 69, len(block) - at))
        return block[:at] + write_long(value) + block[at + 1 :]
    where = block.find(b"SIMPLE  =")
    if where >= 0 and rng.random() < 0.3:
        # A stamp that is not gzipped; it keeps its length.
        size = min(2 * BLOCK, len(block) - where)
        stamp = mutate_fits(block[where : where + size], rng)[:size].ljust(size)
        return block[:where] + stamp + block[where + size :]
    return mutate_bytes(block, rng)


# Cards ---------------------------------------------------------------------------------------------------------------


def card_seeds() -> Iterator[bytes]:
    """The text of model cards."""
    yield make_card().to_json().encode()
    yield make_card(("SCI", "REF", "DIFF"), (4, 5), threshold=0.0).to_json().encode()
    yield make_card(cascade=CASCADE).to_json().encode()
    content = json.loads(full_card().to_json()) | {"size": [2, 3]}
    packed = base64.b64encode(zlib.compress(np.arange(12, dtype="<f4").tobytes())).decode()
    yield json.dumps(content | {"golden": {"shape": [2, 2, 3, 1], "pixels": packed, "scores": [0.25, 0.75]}}).encode()
    yield b"{}"
    yield b'{"format": "otrain-card-1"}'


_ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 0.5, 2, 1e308, -1e308, 1e400, -(1e400), 10**400, float("nan"), "", "x", "SCI", "DIFF",
    "l2", "robust", "\ud800", "\n", "\0", "\x1b[2J", [], {}, [[]], [0.1, 0.2], [[0, 1]], [[0.4, 0.6], [0.9, 0.95]],
    {"a": 1}, [64, 64], [1 << 40, 1 << 40], [0, 0], [-1, 2], ["SCI"], ["DIFF", "DIFF"], "x" * 5000, {"name": "x"},
    {"shape": [1 << 30, 1 << 30, 1, 1], "pixels": "", "scores": []}, "corner", "object", "before", "after", [{}],
)  # fmt: skip


def mutate_card(data: bytes, rng: random.Random) -> bytes:
    """Change a card as JSON, or its text."""
    if rng.random() < 0.2:
        return mutate_bytes(data, rng)
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return mutate_bytes(data, rng)
    return json.dumps(_mutate_tree(content, rng, lambda: rng.choice(_ODD_VALUES))).encode()


def model_of(card: bytes, rng: random.Random) -> bytes:
    """An ONNX file with this text for a card, half of them with some bytes changed."""
    content = make_model(make_card(size=(2, 3)), text=card.decode("utf-8", "replace") or "{}")
    for _ in range(rng.choice((0, 0, 0, 1, 2, 3))):
        content = mutate_bytes(content, rng)
    return content


SEEDS: dict[str, Callable[[], Iterator[bytes]]] = {"fits": fits_seeds, "packets": packet_seeds, "card": card_seeds}
MUTATE: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "fits": mutate_fits,
    "packets": mutate_packet,
    "card": mutate_card,
}

WIRE = struct.Struct(">bI")
SCHEMAS_OF_MESSAGES = {1: SCHEMAS["ztf"], 2: SCHEMAS["lsst"]}
