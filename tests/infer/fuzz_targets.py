"""What holds of any bytes at all: the properties that the fuzzers check, of FITS files, packets, cards and models."""

import ctypes
import gzip
import io
import math
import mmap
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any, TypeVar

import fastavro
import numpy as np
from fuzz_inputs import SCHEMAS_OF_MESSAGES
from test_fits import ask_astropy
from test_fits import check as check_against_astropy

from otrain_infer import Scorer, avro_kernels, fits_astropy, fits_cards, fits_kernels, fits_tiles, jit
from otrain_infer.alerts import AlertReader
from otrain_infer.card import ModelCard
from otrain_infer.cutouts import CutoutReader, Cutouts
from otrain_infer.errors import ModelError, PacketError
from otrain_infer.fits import Decoded, Wanted, decode, native_shapes
from otrain_infer.flags import UNUSABLE, CutoutFlag

T = TypeVar("T")

SECONDS = 2.0
"""Of the processor, that any input may take."""

FILL = 12345.0
FLAGS = sum(CutoutFlag)

NUMBERS, TEXTS = ("MAG", "mag_calib", "RA"), ("CANDID", "FILTER", "mag_calib")
WANTED = (
    Wanted(("DIFF",), (5, 7), NUMBERS, TEXTS),
    Wanted(("SCI", "REF", "DIFF"), (4, 4), NUMBERS, TEXTS, "corner"),
    Wanted(("DIFF", "SCI"), (3, 6), NUMBERS, TEXTS),
    Wanted(("REF",), (9, 9), ("XPOS",), ("EDGE",), first_image=True),
)


def in_time(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function; fail where it takes more of the processor than any input may."""
    start = time.perf_counter()
    result = function(*arguments)
    if time.perf_counter() - start > SECONDS:
        # Perhaps the machine was busy; to ask for processor time every time would take longer than most inputs do.
        start = time.process_time()
        function(*arguments)
        spent = time.process_time() - start
        assert spent < SECONDS, f"it took {spent:.1f} s"
    return result


class Guarded:
    """Room for bytes between two pages that nobody may touch: who reads beyond them is ended by the system."""

    def __init__(self, size: int = 1 << 20) -> None:
        page, libc = mmap.PAGESIZE, ctypes.CDLL(None, use_errno=True)
        self._map = mmap.mmap(-1, size + 2 * page)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        for fence in (start, start + page + size):
            if libc.mprotect(ctypes.c_void_p(fence), ctypes.c_size_t(page), 0):
                raise OSError(ctypes.get_errno(), "mprotect")
        self._data = np.frombuffer(self._map, np.uint8, size, page)

    def at_end(self, content: bytes) -> Any:
        """Put bytes before the last page."""
        return self._put(content, self._data.size - len(content))

    def at_start(self, content: bytes) -> Any:
        """Put bytes behind the first page."""
        return self._put(content, 0)

    def _put(self, content: bytes, at: int) -> Any:
        if len(content) > self._data.size:
            return np.frombuffer(bytearray(content), np.uint8)
        place = self._data[at : at + len(content)]
        place[:] = np.frombuffer(content, np.uint8)
        return place


_guarded = Guarded()


# FITS ----------------------------------------------------------------------------------------------------------------


def check_fits(data: bytes, thoroughly: bool = False, astropy: bool = True) -> None:
    """Check that a file costs its own row alone; thoroughly, that astropy reads it alike.

    What the kernels decline is unreadable without `astropy`.
    """
    with nullcontext() if astropy else _without_astropy():
        _check_fits(data, thoroughly)


@contextmanager
def _without_astropy() -> Iterator[None]:
    def refuse(*_: Any) -> Any:
        raise fits_astropy.UnreadableError("it is left to astropy")

    before, fits_astropy.read = fits_astropy.read, refuse
    try:
        yield
    finally:
        fits_astropy.read = before


def _check_fits(data: bytes, thoroughly: bool) -> None:
    number = zlib.crc32(data)
    for each in WANTED if thoroughly else WANTED[number % len(WANTED) :][:1]:
        found = in_time(_decode, data, each, number)
        if thoroughly and not each.first_image:
            _check_against_astropy(data, each, *found)
        if number & 0xF0 == 0 or thoroughly:
            _check_neighbours(data, each, found)
        if number & 0xF00 == 0 or thoroughly:
            in_time(_check_reader, data, each, found)


def _check_against_astropy(data: bytes, wanted: Wanted, decoded: Decoded, pixels: Any) -> None:
    reason = decoded.reasons.get(0, "")
    # Left to itself, astropy comes to no end where it was not asked.
    if reason and not reason.startswith(("astropy", "it is truncated", "it is not", "its plane", "it has no")):
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = ask_astropy(data, wanted)
    # A card that it cannot parse may keep astropy from the image. Of an infinite position the reference does not know.
    if expected and not {math.inf, -math.inf} & {expected.values[key] for key in ("XPOS", "YPOS")}:
        check_against_astropy(data, wanted, decoded, pixels)


def _decode(data: bytes, wanted: Wanted, number: int) -> tuple[Decoded, Any]:
    place = _guarded.at_start(data) if number & 0x1000 else _guarded.at_end(data)
    pixels = np.full((1, *wanted.size, len(wanted.planes)), FILL, np.float32)
    decoded = decode(place, np.array([[0, len(data)]]), wanted, pixels)
    _check_row(decoded, pixels)
    return decoded, pixels


def _check_row(decoded: Decoded, pixels: Any) -> None:
    flags = int(decoded.flags[0])
    unusable = bool(flags & UNUSABLE)
    assert not flags & ~FLAGS
    assert unusable == (0 in decoded.reasons)
    assert set(decoded.reasons) <= {0}
    if unusable:
        _check_reason(decoded.reasons[0])
        assert np.isnan(pixels).all()
        return
    assert (decoded.shapes > 0).all()
    for plane in np.moveaxis(pixels[0], -1, 0):
        values = plane[np.isfinite(plane)]
        assert values.size
        assert (values != values[0]).any()
    if not flags & (CutoutFlag.PADDED | CutoutFlag.NAN_PIXELS):
        assert np.isfinite(pixels).all()


def _check_reason(reason: str) -> None:
    assert 0 < len(reason) < 1000
    assert "\n" not in reason


def _check_neighbours(data: bytes, wanted: Wanted, found: tuple[Decoded, Any]) -> None:
    good = _good(wanted)
    arena = np.frombuffer(bytearray(good + data + good), np.uint8)
    edges = np.cumsum([0, len(good), len(data), len(good)])
    pixels = np.full((3, *wanted.size, len(wanted.planes)), FILL, np.float32)
    decoded = decode(arena, np.stack([edges[:-1], edges[1:]], axis=1), wanted, pixels)
    np.testing.assert_array_equal(pixels[1], found[1][0])
    np.testing.assert_array_equal(pixels[0], pixels[2])
    assert decoded.flags[0] == decoded.flags[2]
    assert not decoded.flags[0] & UNUSABLE
    assert decoded.flags[1] == found[0].flags[0]
    assert list(decoded.reasons.items()) == [(1, why) for why in found[0].reasons.values()]


def _good(wanted: Wanted) -> bytes:
    from test_fits import SAMPLES

    return SAMPLES["planes"] if len(wanted.planes) > 1 else SAMPLES["single"]


def _check_reader(data: bytes, wanted: Wanted, found: tuple[Decoded, Any]) -> None:
    if wanted.first_image:
        native_shapes(np.frombuffer(data, np.uint8), np.array([[0, len(data)]]), wanted.planes)
        return
    cutouts = CutoutReader(wanted.planes, wanted.size, wanted.side).read([data])
    check_cutouts(cutouts)
    assert len(cutouts) == 1
    # Other keywords may send one to astropy, which refuses more, and not the other.
    if data[:2] != b"\x1f\x8b" and not (cutouts.flags[0] | found[0].flags[0]) & CutoutFlag.UNREADABLE:
        np.testing.assert_array_equal(cutouts.pixels, found[1])
        assert (int(cutouts.flags[0]) ^ int(found[0].flags[0])) & ~(CutoutFlag.EDGE | CutoutFlag.MISSING_KEYWORD) == 0


def check_cutouts(cutouts: Cutouts) -> None:
    """Check that the rows of cutouts agree with each other."""
    unusable = (cutouts.flags & UNUSABLE) != 0
    assert not (cutouts.flags & ~np.uint32(FLAGS)).any()
    assert sorted(cutouts.reasons) == np.flatnonzero(unusable).tolist()
    for reason in cutouts.reasons.values():
        _check_reason(reason)
    assert np.isnan(cutouts.pixels[unusable]).all()
    assert np.isfinite(cutouts.pixels[~unusable]).any(axis=(1, 2)).all()
    for column in cutouts.header.values():
        assert len(column) == len(cutouts)
        assert column.dtype.itemsize <= 4 * 1024


# Packets -------------------------------------------------------------------------------------------------------------

PLANES, SIZE = ("SCI", "REF", "DIFF"), (5, 5)


class Told:
    """The schemas of messages: by their number, or one of them all."""

    def __init__(self, numbered: bool) -> None:
        self.numbered = numbered

    def find(self, number: int | None) -> Any:
        """As of `packets.Schemas`."""
        if not self.numbered:
            return SCHEMAS_OF_MESSAGES[1]
        if number not in SCHEMAS_OF_MESSAGES:
            raise PacketError(f"there is no schema {number}")
        return SCHEMAS_OF_MESSAGES[number]


def _readers() -> list[AlertReader]:
    # Of several planes only one of them, for most of the time is spent on stamps.
    kinds = ((PLANES, Told(True)), (PLANES[2:], Told(False)), (PLANES[:1], None))
    return [AlertReader(planes, SIZE, schemas=schemas) for planes, schemas in kinds]


_kept = _readers()


def check_packets(data: bytes, thoroughly: bool = False) -> None:
    """Check that a packet gives one row or more, and changes no other; thoroughly, that fastavro reads it alike."""
    number = zlib.crc32(data)
    # Readers remember schemas and headers: mostly what they remember is of others, as it is in a stream.
    readers = _readers() if thoroughly or number & 0xF8 == 0 else _kept
    for reader in readers if thoroughly else readers[number % 3 :][:1]:
        cutouts = in_time(_read, reader, [data])
        assert len(cutouts) <= max(1, rows_held(data))
        if thoroughly or number & 0x1F00 == 0:
            _check_other_packets(reader, data, cutouts)
        if thoroughly:
            _check_against_fastavro(data, cutouts)


def _read(reader: AlertReader, sources: list[bytes]) -> Cutouts:
    parts, rows = [], []
    for cutouts, each in reader.read_parts(sources):
        assert len(cutouts) == len(each)
        check_cutouts(cutouts)
        parts.append(cutouts)
        rows += each.tolist()
    assert rows == sorted(rows)
    assert set(rows) == set(range(len(sources)))
    return Cutouts.concatenate(parts)


def rows_held(data: bytes) -> int:
    """The most records that bytes can hold: each takes one byte or more, of which no codec makes more than these."""
    return max(1100 * len(data), 1 << 20) if data[:2] == b"\x1f\x8b" or data[:4] == b"Obj\x01" else 1


def _check_other_packets(reader: AlertReader, data: bytes, alone: Cutouts) -> None:
    good = _good_packet()
    mixed = _read(reader, [good, data, good])
    assert len(mixed) == len(alone) + 2
    np.testing.assert_array_equal(mixed.pixels[1:-1], alone.pixels)
    np.testing.assert_array_equal(mixed.flags[1:-1], alone.flags)
    assert mixed.header["CANDID"][[0, -1]].tolist() == ["7000", "7000"]
    assert not (mixed.flags[[0, -1]] & UNUSABLE).any()


_good_packets: list[bytes] = []


def _good_packet() -> bytes:
    if not _good_packets:
        from fuzz_inputs import small_alert
        from packet_files import container

        _good_packets.append(container("ztf", small_alert("ztf")))
    return _good_packets[0]


def _check_against_fastavro(data: bytes, cutouts: Cutouts) -> None:
    content = data
    if data[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(data)
        except (OSError, EOFError, zlib.error):
            return
    # fastavro takes a record without fields for an empty one; Avro's own libraries refuse it.
    refused = ("of no survey", "no Avro schema (KeyError: 'fields')")
    if content[:4] != b"Obj\x01" or any(each in why for why in cutouts.reasons.values() for each in refused):
        return
    bad = (cutouts.flags & CutoutFlag.UNREADABLE) != 0
    if bad.all():  # such as records within themselves without end, of which fastavro dies
        return
    try:
        records = list(fastavro.reader(io.BytesIO(content)))
    except Exception:  # noqa: BLE001 (what it cannot read is ours to judge)
        return
    if not records:
        return
    if "claims to hold" in "".join(cutouts.reasons.values()):
        return
    assert len(cutouts) == len(records)
    for row in np.flatnonzero(~bad).tolist():
        record = records[row]
        if isinstance(record, dict) and isinstance(record.get("candid"), int) and "diaSource" not in record:
            assert cutouts.header["CANDID"][row] == str(record["candid"])


# Cards and models ----------------------------------------------------------------------------------------------------


def check_card(data: bytes, thoroughly: bool = False) -> None:
    """Check that a text is a card or refused as one; thoroughly, that what was read can be written and read again."""
    text = data.decode("utf-8", "surrogateescape" if len(data) % 2 else "replace")
    try:
        card = in_time(ModelCard.from_json, text)
    except ModelError as error:
        _check_reason(str(error))
        return
    (card.name + card.version + card.description).encode()
    assert all(isinstance(n, int) and n > 0 for n in card.shape)
    CutoutReader(card.planes, card.size, card.normalisation.padding.side)
    again = ModelCard.from_json(card.to_json())
    if thoroughly:
        assert again.to_json() == card.to_json()


def check_model(content: bytes) -> None:
    """Check that a file is a model that can be run, or refused as one."""
    try:
        scorer = in_time(Scorer, content)
    except ModelError as error:
        _check_reason(str(error))
        return
    assert isinstance(scorer.identity, str)


# Kernels as Python runs them -----------------------------------------------------------------------------------------


class Checked:
    """Bytes as kernels take them, of which each that is read must be there, and is a Python integer as numba's is."""

    def __init__(self, data: Any) -> None:
        self._data, self.size = data, data.size

    def __getitem__(self, at: Any) -> int:
        if not 0 <= at < self.size:
            raise AssertionError(f"byte {at} of {self.size} is read")
        return int(self._data[at])

    def load(self, at: Any, size: int) -> int:
        """`size` bytes as a little-endian number."""
        if not 0 <= at <= self.size - size:
            raise AssertionError(f"bytes {at} to {at + size} of {self.size} are read")
        return int.from_bytes(self._data[at : at + size].tobytes(), "little")


def _loading(kind: Any) -> Callable[[Any, Any], Any]:
    size = np.dtype(kind).itemsize
    return lambda data, at: kind(data.load(at, size))


def _checking(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(data: Any, *arguments: Any) -> Any:
        with np.errstate(all="ignore"):
            return function(data if isinstance(data, Checked) else Checked(data), *arguments)

    return call


@contextmanager
def interpreted() -> Iterator[None]:
    """Let Python run the kernels of FITS and Avro, every read of bytes checked, instead of their machine code."""
    modules = {each.__name__ for each in (fits_cards, fits_kernels, fits_tiles, avro_kernels)}
    before = {each: each._made for each in jit._kernels if each.py_func.__module__ in modules}
    loads = {fits_cards.load_u16: np.uint16, fits_cards.load_u32: np.uint32, fits_cards.load_u64: np.uint64}
    before |= {each: each._made for each in loads}
    try:
        for each in before:
            each._made = _loading(loads[each]) if each in loads else each.py_func
        # Python's own ldexp takes no integer of numpy's.
        fits_kernels.math = SimpleNamespace(ldexp=lambda x, n: math.ldexp(x, int(n)), isfinite=math.isfinite)  # type: ignore[assignment]
        for entry in (
            fits_kernels.decode_batch,
            fits_kernels.place,
            fits_tiles.rice_is_whole,
            avro_kernels.walk_blocks,
        ):
            entry._made = _checking(entry.py_func)
        yield
    finally:
        fits_kernels.math = math
        for each, made in before.items():
            each._made = made


CHECK: dict[str, Callable[..., None]] = {"fits": check_fits, "packets": check_packets, "card": check_card}
