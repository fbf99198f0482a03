"""The lean decoder against astropy, over generated, truncated and damaged files."""

import gzip
import io
import math
import os
import threading
import warnings
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from corpus import KEYWORDS, PLANES, SIZE, cutout_bytes, hdu_bytes, star, write_corpus
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from otrain_infer.errors import UsageError
from otrain_infer.fits import SYNONYMS, Decoded, Wanted, decode, inflate, native_shapes
from otrain_infer.flags import UNUSABLE, CutoutFlag

NUMBERS = ("MAG", "mag_calib", "RA")
TEXTS = ("CANDID", "FILTER", "mag_calib")
ALL = settings(
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)


def run(raws: list[bytes], wanted: Wanted) -> tuple[Decoded, Any]:
    """Decode files that lie in one arena, with something else between them."""
    arena, bounds = bytearray(b"SIMPLE"), []
    for raw in raws:
        bounds.append((len(arena), len(arena) + len(raw)))
        arena += raw + b"END" * (len(raw) % 5)
    pixels = np.full((len(raws), *wanted.size, len(wanted.planes)), 12345, np.float32)
    data = np.frombuffer(arena, np.uint8)
    return decode(data, np.array(bounds, np.int64).reshape(-1, 2), wanted, pixels), pixels


def place(image: Any, size: tuple[int, int], side: str, ypos: float, xpos: float) -> Any:
    """Crop and pad with plain slices."""
    whole = image.shape[0] == image.shape[1]
    for axis, position in ((0, ypos), (1, xpos)):
        surplus = image.shape[axis] - size[axis]
        shift = image.shape[axis] // 2 - size[axis] // 2
        if surplus >= 0:
            image = np.take(image, range(shift, shift + size[axis]), axis)
            continue
        if side == "corner":
            low = 0
        elif position < size[axis] / 2:
            low = -surplus
        else:
            low = -shift if whole or math.isnan(position) else 0
        widths = [(0, 0), (0, 0)]
        widths[axis] = (low, -surplus - low)
        image = np.pad(image, widths, constant_values=np.nan)
    return image


@dataclass
class Expected:
    """What astropy has to say of a file."""

    planes: list[Any] | None
    values: dict[str, Any]


def header_value(headers: list[Any], key: str) -> Any:
    """Give the first value of a keyword; None for none and for one that astropy cannot parse."""
    for header in headers:
        try:
            value = header[key]
        except (KeyError, fits.VerifyError):
            continue
        if value is not None:
            return value
    return None


def name_of(header: Any) -> str:
    name = str(header_value([header], "EXTNAME")).strip().upper()
    return next((names[0] for names in SYNONYMS if name in names), name)


def ask_astropy(raw: bytes, wanted: Wanted) -> Expected | None:
    """Read a file with astropy alone; None where it cannot."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            return _ask_astropy(raw, wanted)
        except Exception:  # noqa: BLE001
            return None


def _ask_astropy(raw: bytes, wanted: Wanted) -> Expected:
    asked = [next((names[0] for names in SYNONYMS if p.upper() in names), p.upper()) for p in wanted.planes]
    primary, named, images = None, {}, []
    for hdu in fits.open(io.BytesIO(raw), memmap=False):
        primary = primary or hdu
        if hasattr(hdu, "fileinfo") and hdu.fileinfo()["datSpan"] < 0:
            raise ValueError("negative size")
        if isinstance(hdu, fits.PrimaryHDU | fits.ImageHDU) and not isinstance(hdu, fits.GroupsHDU):
            shape = hdu.shape
            if math.prod(shape) > 0 and (len(shape) in (2, 3)):
                images.append(hdu)
                if len(shape) == 2 or shape[0] == 1:
                    named.setdefault(name_of(hdu.header), hdu)
        if all(plane in named for plane in asked):
            break
    found: list[tuple[Any, int]] = [(named[plane], 0) for plane in asked if plane in named]
    # astropy leaves out an extension whose header, or compressed data, are cut off.
    place = hdu.fileinfo() if hasattr(hdu, "fileinfo") else {"datLoc": len(raw), "datSpan": 0}
    if len(found) < len(asked) and raw[place["datLoc"] + place["datSpan"] :].startswith(b"XTENSION"):
        raise ValueError("truncated")
    if len(found) < len(asked) and len(images) == 1:
        shape = images[0].shape
        count = 1 if len(shape) == 2 else shape[0]
        order = [names[0] for names in SYNONYMS] if count == 3 else asked
        if count in (3, len(asked)):
            found = [(images[0], order.index(plane)) for plane in asked if plane in order]
    headers = [each.header for each in [primary, *(hdu for hdu, _ in found)]]
    values = {key: header_value(headers, key) for key in (*wanted.numbers, *wanted.texts, "XPOS", "YPOS")}
    if len(found) < len(asked):
        size = hdu.fileinfo()["datSpan"] - 2879
        if not isinstance(hdu, fits.CompImageHDU):
            with suppress(fits.VerifyError, TypeError):
                size = min(max(size, hdu.size), hdu.fileinfo()["datSpan"])
        if hdu.fileinfo()["datLoc"] + size > len(raw):
            raise ValueError("truncated")
        return Expected(None, values)
    planes = [hdu.data.astype(np.float32).reshape(-1, *hdu.shape[-2:])[index] for hdu, index in found]
    return Expected(planes, values)


def as_number(value: Any) -> float:
    if value is None or isinstance(value, bool | complex) or "_" in str(value):  # Python alone takes 1_000 for 1000
        return math.nan
    try:
        return float(value)
    except ValueError:
        return math.nan


def check(raw: bytes, wanted: Wanted, decoded: Decoded, pixels: Any, i: int = 0) -> bool:
    """Compare row i with what astropy says of the file; tell whether astropy can read it."""
    expected = ask_astropy(raw, wanted)
    flags = CutoutFlag(int(decoded.flags[i]))
    assert bool(flags & UNUSABLE) == (i in decoded.reasons)
    assert not flags & UNUSABLE or np.isnan(pixels[i]).all()
    if expected is None:
        assert flags == CutoutFlag.UNREADABLE
        return False
    for key in wanted.numbers:
        assert decoded.numbers[key][i] == pytest.approx(as_number(expected.values[key]), rel=0, abs=0, nan_ok=True), key
    for key in wanted.texts:
        value = expected.values[key]
        text = np.array("" if value is None else str(value).strip())[()]  # numpy keeps no zeros at the end of a text
        assert decoded.texts[key][i] == text, key
    if expected.planes is None:
        assert flags == CutoutFlag.MISSING_PLANE
        return True
    ypos, xpos = (as_number(expected.values[key]) for key in ("YPOS", "XPOS"))
    with np.errstate(all="ignore"):
        placed = [place(plane, wanted.size, wanted.side, ypos, xpos) for plane in expected.planes]
        inside = [place(np.ones_like(plane), wanted.size, wanted.side, ypos, xpos) == 1 for plane in expected.planes]
    assert tuple(decoded.shapes[i]) == expected.planes[0].shape
    native = [plane.shape for plane in expected.planes]
    values = [plane[cells] for plane, cells in zip(placed, inside, strict=True)]
    assert bool(flags & CutoutFlag.CROPPED) == any(s[k] > wanted.size[k] for s in native for k in (0, 1))
    assert bool(flags & CutoutFlag.PADDED) == any(s[k] < wanted.size[k] for s in native for k in (0, 1))
    assert bool(flags & CutoutFlag.NAN_PIXELS) == any(not np.isfinite(v).all() for v in values)
    assert bool(flags & CutoutFlag.BLANK) == any(np.unique(v[np.isfinite(v)]).size < 2 for v in values)
    assert not flags & (CutoutFlag.UNREADABLE | CutoutFlag.MISSING_PLANE)
    if not flags & CutoutFlag.BLANK:
        np.testing.assert_array_equal(pixels[i], np.stack(placed, axis=-1))
    return True


def check_all(raws: list[bytes], wanted: Wanted) -> int:
    """Check files of one batch; give how many astropy reads."""
    decoded, pixels = run(raws, wanted)
    return sum(check(raw, wanted, decoded, pixels, i) for i, raw in enumerate(raws))


def card(text: str) -> bytes:
    return text.encode("latin-1").ljust(80)[:80]


def header(cards: list[bytes]) -> bytes:
    joined = b"".join([*cards, card("END")])
    return joined + b" " * (-len(joined) % 2880)


def image_cards(bits: int, shape: tuple[int, ...], first: str = "SIMPLE  =                    T") -> list[bytes]:
    sizes = [card(f"NAXIS{k + 1:<3}= {n:20d}") for k, n in enumerate(reversed(shape))]
    extension = [card("PCOUNT  =                    0"), card("GCOUNT  =                    1")]
    cards = [card(first), card(f"BITPIX  = {bits:20d}"), card(f"NAXIS   = {len(shape):20d}"), *sizes]
    return cards + (extension if first.startswith("X") else [])


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 2880)


def single(*cards: str) -> bytes:
    """Make a float image of 5 by 4 pixels with these header cards."""
    pixels = np.arange(20, dtype=">f4").reshape(5, 4).tobytes()
    return header(image_cards(-32, (5, 4)) + [card(text) for text in cards]) + padded(pixels)


SINGLE = Wanted(("DIFF",), (5, 4), NUMBERS, TEXTS)


# Generated files ---------------------------------------------------------------------------------------------------

BITS = st.sampled_from([8, 16, 32, 64, -32, -64])
ODD = st.sampled_from([0.5, 2, -1, 1e-3, 3.0, 1e10, 2.5e-40, 1e300, 123456789])
UNSIGNED = {8: -128, 16: 1 << 15, 32: 1 << 31, 64: 1 << 63}
NAMES = st.sampled_from(["SCI", "science", "Image", "NEW", "REF", "Template", "DIFF", "difference", "Sub", "RESIDUAL",
                         "MASK", "", " DIFF", "O'DIFF"])  # fmt: skip
SHAPES = st.tuples(st.integers(1, 7), st.integers(1, 7))


@st.composite
def scalings(draw: Any, bits: int) -> list[str]:
    kind = draw(st.sampled_from(["none", "none", "unsigned", "scaled", "blank", "both"]))
    cards = []
    if kind == "unsigned" and bits > 0:
        cards = [f"BZERO   = {UNSIGNED[bits]}", "BSCALE  = 1"][: draw(st.integers(1, 2))]
        if draw(st.booleans()):
            cards = [text.replace(str(UNSIGNED[bits]), f"{float(UNSIGNED[bits])!r}".upper()) for text in cards]
    if kind in ("scaled", "both"):
        cards = [f"BSCALE  = {draw(ODD)}".upper(), f"BZERO   = {draw(ODD)} / zero".upper()][: draw(st.integers(1, 2))]
    if kind in ("blank", "both") or (kind == "unsigned" and draw(st.booleans())):
        cards.append(f"BLANK   = {draw(st.sampled_from([0, 1, -1, 255, 127, -32768, 2**31, 2**62]))}")
    return cards


@st.composite
def images(
    draw: Any, first: str, name: str | None, cards_of_values: Any, shape: tuple[int, ...] | None = None
) -> bytes:
    bits = draw(BITS)
    shape = draw(SHAPES) if shape is None else shape
    count = math.prod(shape)
    dtype = np.dtype(f">f{-bits // 8}" if bits < 0 else f">i{bits // 8}" if bits > 8 else "u1")
    raw = np.random.default_rng(draw(st.integers(0, 2**32))).bytes(8 * count)
    pixels = np.frombuffer(raw, dtype, count).copy()
    if draw(st.integers(0, 3)) == 0:
        pixels[: draw(st.integers(0, count))] = draw(st.sampled_from([0, 1, 127] + ([np.nan, np.inf] * (bits < 0))))
    cards = image_cards(bits, shape, first) + [card(text) for text in draw(scalings(bits))]
    cards += draw(st.lists(cards_of_values, max_size=6))
    if name is not None:
        quoted = name.replace("'", "''")
        cards.append(card(f"EXTNAME = '{quoted:8}'"))
    return header(cards) + padded(pixels.tobytes())


KEYS = st.sampled_from(["MAG     ", "RA      ", "CANDID  ", "FILTER  ", "XPOS    ", "YPOS    ", "HIERARCH mag_calib ",
                        "HIERARCH MAG ", "HIERARCH ESO DET GAIN ", "OTHER   "])  # fmt: skip
PLAIN_VALUES = st.one_of(
    st.integers(-(10**22), 10**22).map(str),
    st.integers(-99, 99).map(lambda n: f"{n:+020d}"),
    st.floats(allow_nan=False, allow_infinity=False).map(lambda x: repr(x).upper()),
    st.floats(-400, 400).map(repr),
    st.decimals(-1000, 1000, places=6).map(lambda x: f"{x:E}".replace("E", "D")),
    st.text("abcXYZ /&0123", max_size=20).map(lambda text: f"'{text}'"),
    st.sampled_from(["T", "F", "", "''", "'   '", "'18.5'", "' -7 '", "'nan'", "'1D3'", "1.", ".5", "-.5e3",
                     "'O''HARA'", "''''", "1E400", "-0", "'1_000'"]),
)  # fmt: skip
ODD_VALUES = st.one_of(
    st.text("abcXYZ '/&:0123", max_size=20).map(lambda text: "'" + text.replace("'", "''") + "'"),
    st.sampled_from(["(1, 2)", "'X: 5'", "1 2", "- 5", "TRUE", "'open", "5 E3"]),
)
COMMENTS = st.sampled_from(["", " / comment", "/", "  / it's 'so'"])
PLAIN_CARDS = st.one_of(
    st.builds(lambda key, value, comment: card(f"{key}= {value}{comment}"), KEYS, PLAIN_VALUES, COMMENTS),
    st.sampled_from([card(""), card("COMMENT MAG     = 5"), card("HISTORY it's"), card("ENDTIME = 5")]),
)
ODD_CARDS = st.one_of(
    PLAIN_CARDS,
    st.builds(lambda key, value, comment: card(f"{key}= {value}{comment}"), KEYS, ODD_VALUES,
              st.one_of(COMMENTS, st.just(" no comment"))),
    st.sampled_from([card("CONTINUE  'more&'"), card("HIERARCH none"), card("mag     = 3"), card("MAG = 7"),
                     card("MAG     =7"), card("COMMENT caf\xe9"), card(" MAG    = 4"), card("        = 5")]),
)  # fmt: skip


class File(bytes):
    """The bytes of a file; of them only the cards are shown where a test fails."""

    def __repr__(self) -> str:
        cards = [self[k : k + 80] for k in range(0, len(self), 80)]
        return repr([text.decode("latin-1").rstrip() for text in cards if text.strip(b" \0")])


@st.composite
def files(draw: Any) -> tuple[bytes, Wanted]:
    planes = draw(st.sampled_from([("DIFF",), ("SCI",), ("SCI", "REF", "DIFF"), ("DIFF", "SCI"), ("MASK",)]))
    wanted = Wanted(planes, draw(SHAPES), NUMBERS, TEXTS, draw(st.sampled_from(["object", "corner"])))
    layout = draw(st.sampled_from(["single", "extensions", "extensions", "cube", "other"]))
    cards = draw(st.sampled_from([PLAIN_CARDS, PLAIN_CARDS, ODD_CARDS]))
    simple, extension = "SIMPLE  =                    T / yes", "XTENSION= 'IMAGE   '"
    if layout == "single":
        return File(draw(images(simple, draw(st.one_of(st.none(), NAMES)), cards))), wanted
    if layout == "cube":
        shape = (draw(st.sampled_from([1, 2, len(planes), 3])), *draw(SHAPES))
        return File(draw(images(simple, None, cards, shape))), wanted
    if layout == "other":
        shape = draw(st.sampled_from([(4,), (1, 2, 2, 2), (0, 3), (3, 0, 2), (1, 1, 3, 3)]))
        return File(draw(images(simple, None, cards, shape))), wanted
    names = draw(st.permutations(["Sci", "TEMPLATE", "diff", "MASK"]))
    if draw(st.integers(0, 3)) == 0:
        names = draw(st.lists(NAMES, min_size=1, max_size=4))
    primary = header(image_cards(8, ()) + draw(st.lists(cards, max_size=6))
                     + [card("EXTEND  =                    T")] * draw(st.integers(0, 1)))  # fmt: skip
    if draw(st.integers(0, 3)) == 0:
        primary = draw(images(simple, None, cards))
    return File(primary + b"".join(draw(images(extension, name, cards)) for name in names)), wanted


@settings(ALL, max_examples=600)
@given(files())
def test_generated_files_are_read_as_astropy_reads_them(case: tuple[bytes, Wanted]) -> None:
    check_all([case[0]], case[1])


@settings(ALL, max_examples=150)
@given(st.lists(st.text("0123456789+-.EeDdTF'/ =:&(),#ab", max_size=24), min_size=1, max_size=8))
def test_values_of_any_form_are_read_as_astropy_reads_them(values: list[str]) -> None:
    check_all([single(f"MAG     = {v}", f"CANDID  ={v}", f"HIERARCH mag_calib ={v}") for v in values], SINGLE)


@settings(ALL, max_examples=150)
@given(st.lists(st.lists(st.sampled_from(["MAG", "mag", " ", "=", "= ", "  = ", "HIERARCH", "CONTINUE", "'a&'", "5",
                                          "END", "COMMENT", "mag_calib", "EXTNAME", "BZERO", "\x00", "\xe9", "/", "."]),
                         max_size=7).map("".join), max_size=6))  # fmt: skip
def test_headers_of_any_form_are_read_as_astropy_reads_them(texts: list[str]) -> None:
    check_all([single(*texts)], SINGLE)


# Damaged files -----------------------------------------------------------------------------------------------------


def planes_file(order: tuple[str, ...] = ("REF", "DIFF", "SCI"), **primary: Any) -> bytes:
    hdus = [fits.ImageHDU(star((9, 8), seed=k), name=name) for k, name in enumerate(order)]
    return hdu_bytes(fits.PrimaryHDU(header=fits.Header(KEYWORDS | primary)), *hdus)


def table() -> fits.BinTableHDU:
    return fits.BinTableHDU.from_columns([fits.Column("A", "J", array=np.arange(5))])


def samples() -> dict[str, bytes]:
    long = "x" * 200
    return {
        "single": cutout_bytes(star((9, 8))),
        "uint16": cutout_bytes(np.arange(72, dtype=np.uint16).reshape(9, 8), mag_calib=17.25, FILTER="it's / g"),
        "planes": planes_file(),
        "image and table": hdu_bytes(fits.PrimaryHDU(star((9, 8))), table()),
        "long string": cutout_bytes(star((9, 8)), CANDID=long),
        "compressed": hdu_bytes(fits.PrimaryHDU(), fits.CompImageHDU(star((9, 8)), name="DIFF")),
        "compressed integers": hdu_bytes(
            fits.PrimaryHDU(), fits.CompImageHDU(star((9, 8)).astype(np.int32), name="DIFF", compression_type="GZIP_1")
        ),
    }


SAMPLES = samples()
NINE = Wanted(("DIFF",), (9, 8), NUMBERS, TEXTS)
EVERY = replace(NINE, planes=("SCI", "REF", "DIFF"))


@pytest.mark.parametrize("name", SAMPLES)
def test_whole_samples_are_read(name: str) -> None:
    assert check_all([SAMPLES[name]], NINE) == 1
    decoded, _ = run([SAMPLES[name]], NINE)
    assert not decoded.flags[0]


@pytest.mark.parametrize("name", SAMPLES)
def test_truncated_files_are_unreadable_or_as_astropy_reads_them(name: str) -> None:
    whole = SAMPLES[name]
    stops = {*range(0, len(whole) + 1, 2880), *range(0, len(whole), 719), len(whole) - 1, 1, 79, 80, 81}
    # Around the end of the pixels of a single image: 9 * 8 * 4 bytes after a header of one block.
    stops |= {2880 + 288 + shift for shift in (-1, 0, 1)}
    raws = [whole[:stop] for stop in sorted(stops) if stop < len(whole)]
    assert check_all(raws, NINE) < len(raws)
    check_all(raws, EVERY)


def test_missing_padding_is_no_harm() -> None:
    raw = cutout_bytes(star((9, 8)))
    decoded, pixels = run([raw, raw[: 2880 + 288], raw[: 2880 + 287]], NINE)
    assert list(decoded.flags) == [0, 0, CutoutFlag.UNREADABLE]
    assert decoded.reasons == {2: "it is truncated"}
    np.testing.assert_array_equal(pixels[1], pixels[0])


@settings(ALL, max_examples=60)
@given(st.sampled_from(sorted(SAMPLES)), st.lists(st.tuples(st.integers(0, 2**32), st.integers(1, 255)), min_size=1))
def test_flipped_bytes_do_no_harm(name: str, changes: list[tuple[int, int]]) -> None:
    raws, damaged = [], bytearray(SAMPLES[name])
    for where, change in changes:
        # Most of a cutout's header lies in its first 45 cards.
        damaged[where % min(3600, len(damaged))] ^= change
        raws.append(bytes(damaged))
    check_all(raws, NINE)
    check_all(raws, EVERY)


@settings(ALL, max_examples=100)
@given(st.lists(st.binary(max_size=300), max_size=4), st.binary(max_size=6000))
def test_random_bytes_do_no_harm(prefixes: list[bytes], tail: bytes) -> None:
    starts = [b"", header(image_cards(-32, (3, 3)))[:2880], b"SIMPLE  =                    T".ljust(80)]
    check_all([start + prefix + tail for start in starts for prefix in [b"", *prefixes]], NINE)


@pytest.mark.parametrize(
    "cards",
    [
        image_cards(-32, (2**31, 2**31)),
        image_cards(-32, (2**62, 2**62, 4)),
        image_cards(-32, (-144, 5)),
        image_cards(8, (2880, -1)),
        image_cards(64, (10**18, 10**18)),
        image_cards(7, (5, 5)),
        [card("SIMPLE  =                    T"), card("BITPIX  =                    8"), card("NAXIS   = 2000000000")],
        [card("SIMPLE  =                    T"), card("BITPIX  =                    8"), card(" NAXIS  = 2000000000")],
        [card("SIMPLE  =                    T"), card("NAXIS   =                    1")],
        [*image_cards(8, (5, 4)), card("PCOUNT  = -9223372036854775808")],
    ],
)
def test_absurd_sizes_are_unreadable(cards: list[bytes]) -> None:
    raw = header(cards) + bytes(5760)
    decoded, pixels = run([raw, SAMPLES["single"]], NINE)
    assert list(decoded.flags) == [CutoutFlag.UNREADABLE, 0]
    assert np.isnan(pixels[0]).all()


def test_an_enormous_compressed_image_costs_no_memory() -> None:
    raw = SAMPLES["compressed"]
    for axis in (1, 2):
        old = f"ZNAXIS{axis} ="
        at = raw.index(old.encode())
        raw = raw[:at] + card(f"{old} 300000") + raw[at + 80 :]
    decoded, _ = run([raw], NINE)
    assert decoded.flags[0] == CutoutFlag.UNREADABLE
    assert "90000000000 pixels" in decoded.reasons[0]


# What is taken from a file ------------------------------------------------------------------------------------------


def test_common_files_never_reach_astropy() -> None:
    unrelated = {f"ESO DET OUT{k} GAIN": 0.5 * k for k in range(60)}
    many = cutout_bytes(star((9, 8)), **unrelated, mag_calib=17.5)
    raws = [
        SAMPLES["single"],
        cutout_bytes(star((9, 8)), **{f"KEY{k}": k for k in range(25)}, CANDID=697251924215010002, EDGE=True),
        SAMPLES["uint16"],
        cutout_bytes(star((9, 8)).astype("f8")),
        cutout_bytes(np.stack([star((9, 8), seed=k) for k in range(3)])),
        inflate(gzip.compress(SAMPLES["single"]), 1 << 20),
        many,
        planes_file(),
        planes_file(("SCI", "REF", "DIFF"), EXTEND=None),
    ]
    assert check_all(raws, NINE) == len(raws)
    decoded, _ = run(raws, NINE)
    assert decoded.declined == 0
    assert not decoded.flags.any()
    assert decoded.numbers["mag_calib"][6] == 17.5
    assert decoded.texts["CANDID"][1] == "697251924215010002"
    assert run([SAMPLES["compressed"]], NINE)[0].declined == 1


def test_planes_are_found_by_any_of_their_names() -> None:
    for plane, names in zip(("SCI", "REF", "DIFF"), SYNONYMS, strict=True):
        for name in names:
            raw = hdu_bytes(
                fits.PrimaryHDU(),
                fits.ImageHDU(np.zeros((9, 8), "f4"), name="OTHER"),
                fits.ImageHDU(star((9, 8))),
                fits.ImageHDU(star((9, 8), seed=5)),
            )
            raw = raw.replace(b"EXTNAME = 'OTHER   '", b"EXTNAME = 'OTHER   '", 1)
            raw = _named(raw, 2, name.lower())
            decoded, pixels = run([raw], replace(NINE, planes=(plane,)))
            assert not decoded.flags[0]
            np.testing.assert_array_equal(pixels[0, :, :, 0], star((9, 8)))


def _named(raw: bytes, index: int, name: str) -> bytes:
    # astropy itself writes names in capitals.
    at = [k for k in range(0, len(raw), 80) if raw[k : k + 8] == b"XTENSION"][index - 1]
    end = raw.index(card("END"), at)
    return raw[:end] + card(f"EXTNAME = '{name}'") + card("END") + raw[end + 160 :]


def test_an_image_of_three_planes_is_sci_ref_diff_whatever_the_order_asked() -> None:
    cube = np.stack([star((9, 8), seed=k) for k in range(3)])
    raw = cutout_bytes(cube)
    for planes, order in ((("DIFF", "SCI"), [2, 0]), (("DIFF",), [2]), (("REF", "DIFF", "SCI"), [1, 2, 0])):
        decoded, pixels = run([raw], replace(NINE, planes=planes))
        assert not decoded.flags[0]
        np.testing.assert_array_equal(pixels[0], np.moveaxis(cube[order], 0, -1))
    decoded, pixels = run([cutout_bytes(cube[:2])], replace(NINE, planes=("DIFF", "SCI")))
    np.testing.assert_array_equal(pixels[0], np.moveaxis(cube[:2], 0, -1))
    assert run([cutout_bytes(cube[:2])], NINE)[0].flags[0] == CutoutFlag.MISSING_PLANE
    assert run([raw], replace(NINE, planes=("MASK",)))[0].reasons == {0: "it has no plane MASK"}


def test_a_keyword_of_the_primary_header_comes_before_those_of_the_planes() -> None:
    hdus = [fits.ImageHDU(star((9, 8), seed=k), name=name) for k, name in enumerate(("DIFF", "SCI", "MASK"))]
    for k, hdu in enumerate(hdus):
        hdu.header["RA"], hdu.header["MAG"], hdu.header["FILTER"] = k, 10 + k, "gri"[k]
    primary = fits.PrimaryHDU()
    primary.header["MAG"] = 20.0
    primary.header["RA"] = None
    decoded, _ = run([hdu_bytes(primary, *hdus)], replace(NINE, planes=("SCI", "DIFF")))
    assert (decoded.numbers["MAG"][0], decoded.numbers["RA"][0], decoded.texts["FILTER"][0]) == (20.0, 1.0, "r")


@pytest.mark.parametrize(
    ("position", "side", "low"),
    [(2.4, "object", 4), (4.4, "object", 4), (4.5, "object", 0), (900.0, "object", 0), (None, "object", 2),
     (1.0, "corner", 0)],
)  # fmt: skip
def test_padding_of_a_truncated_cutout_keeps_the_object_in_the_centre(
    position: float | None, side: str, low: int
) -> None:
    raw = cutout_bytes(star((5, 9)), XPOS=position, YPOS=position)
    decoded, pixels = run([raw], Wanted(("DIFF",), (9, 9), side=side))
    assert decoded.flags[0] == CutoutFlag.PADDED
    inside = np.isfinite(pixels[0, :, :, 0])
    assert inside[low : low + 5].all()
    assert inside.sum() == 45


@pytest.mark.parametrize(("native", "size", "low"), [(5, 9, 2), (5, 64, 30), (64, 81, 8), (64, 65, 0), (63, 64, 1)])
def test_a_square_cutout_is_whole_and_padded_on_both_sides(native: int, size: int, low: int) -> None:
    raw = cutout_bytes(star((native, native)), XPOS=900.0, YPOS=900.0)
    _, pixels = run([raw], Wanted(("DIFF",), (size, size)))
    inside = np.isfinite(pixels[0, :, :, 0])
    assert inside[low : low + native, low : low + native].all()
    assert low + native // 2 == size // 2
    assert inside.sum() == native**2


def test_cropping_is_about_the_centre() -> None:
    image = np.arange(90, dtype=np.float32).reshape(9, 10)
    _, pixels = run([cutout_bytes(image)], Wanted(("DIFF",), (5, 5)))
    np.testing.assert_array_equal(pixels[0, :, :, 0], image[2:7, 3:8])


def test_blank_and_nan_count_only_inside_the_crop() -> None:
    image = np.full((9, 9), np.nan, np.float32)
    image[4, 3:6] = 1, 2, 3
    flags = [int(run([cutout_bytes(image)], Wanted(("DIFF",), size))[0].flags[0]) for size in ((9, 9), (1, 3), (1, 1))]
    nan, cropped = CutoutFlag.NAN_PIXELS, CutoutFlag.CROPPED
    assert flags == [nan, cropped, cropped | CutoutFlag.BLANK]


def test_native_shapes_need_no_pixels() -> None:
    raws = [SAMPLES["single"], SAMPLES["compressed"], cutout_bytes(star((31, 63))), b"text", planes_file(("SCI",))]
    arena = np.frombuffer(bytearray(b"".join(raws)), np.uint8)
    ends = np.cumsum([len(raw) for raw in raws])
    bounds = np.stack([ends - [len(raw) for raw in raws], ends], axis=1)
    assert native_shapes(arena, bounds, ("DIFF",)).tolist() == [[9, 8], [9, 8], [31, 63], [0, 0], [9, 8]]
    assert native_shapes(arena, bounds, ("SCI", "DIFF")).tolist() == [[0, 0]] * 5


def test_every_file_of_the_corpus_gets_its_flags(tmp_path: Any) -> None:
    entries = write_corpus(tmp_path)
    raws = []
    for entry in entries:
        try:
            raw = (tmp_path / entry.name).read_bytes()
            raws.append(inflate(raw, 1 << 20) if raw[:2] == b"\x1f\x8b" else raw)
        except (OSError, EOFError):
            raws.append(b"")
    wanted = Wanted(PLANES, SIZE, NUMBERS, TEXTS)
    decoded, pixels = run(raws, wanted)
    mask = ~(CutoutFlag.EDGE | CutoutFlag.MISSING_KEYWORD)
    for i, entry in enumerate(entries):
        flags = CutoutFlag(int(decoded.flags[i]))
        assert flags & entry.flags == entry.flags & mask, entry.name
        assert (not flags & UNUSABLE) == entry.usable, entry.name
        alone, again = run([raws[i]], wanted)
        assert alone.flags[0] == flags
        np.testing.assert_array_equal(again[0], pixels[i])


def test_real_cutouts_are_read_as_astropy_reads_them() -> None:
    data = os.environ.get("OTRAIN_DATA")
    paths = sorted(Path(data).glob("ztf/*/*.fits"))[::8] if data else []
    if not paths:
        pytest.skip("OTRAIN_DATA does not name the folder of real cutouts")
    raws = [path.read_bytes() for path in paths]
    wanted = Wanted(("SCI", "REF", "DIFF"), SIZE, ("MAG", "FWHM", "RA", "DEC"), ("CANDID", "OBJECTID", "EDGE", "FILE"))
    assert check_all(raws, wanted) == len(raws)
    assert run(raws, wanted)[0].declined == 0


# gzip, threads, use -------------------------------------------------------------------------------------------------


def test_inflate_takes_several_members_and_refuses_damage() -> None:
    raw = SAMPLES["single"]
    assert inflate(gzip.compress(raw[:100]) + gzip.compress(raw[100:]), 1 << 20) == raw
    assert inflate(memoryview(gzip.compress(raw[:100]) + gzip.compress(raw[100:]) + bytes(3)), 1 << 20) == raw
    packed = gzip.compress(raw)
    damaged = packed[:200] + bytes([packed[200] ^ 255]) + packed[201:]
    for bad in (packed[:-1], packed[:-9], packed[: len(packed) // 2], packed[:5], damaged, b"\x1f\x8b"):
        with pytest.raises((OSError, EOFError, ValueError)):
            inflate(bad, 1 << 20)


def test_threads_may_decode_at_once_and_leave_the_warning_filters_alone() -> None:
    raws = [SAMPLES["compressed"], SAMPLES["planes"], SAMPLES["single"][:4000], SAMPLES["long string"]] * 3
    before, results = list(warnings.filters), []
    threads = [threading.Thread(target=lambda: results.append(run(raws, NINE))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert warnings.filters == before
    assert len(results) == 4
    for decoded, pixels in results:
        np.testing.assert_array_equal(pixels, results[0][1])
        assert decoded.texts["CANDID"][3] == "x" * 200


def test_wrong_buffers_are_refused() -> None:
    data, pixels = np.zeros(100, np.uint8), np.empty((1, 9, 8, 1), np.float32)
    for bounds in ([[0, 101]], [[-1, 5]], [[60, 50]]):
        with pytest.raises(UsageError, match="beyond"):
            decode(data, np.array(bounds), NINE, pixels)
    with pytest.raises(UsageError, match="do not fit"):
        decode(data, np.array([[0, 100]]), EVERY, pixels)
    with pytest.raises(UsageError, match="no plane"):
        decode(data, np.array([[0, 100]]), replace(NINE, planes=()), pixels)


def test_no_file_gives_no_row() -> None:
    decoded, pixels = run([], NINE)
    assert decoded.flags.shape == (0,)
    assert decoded.texts["CANDID"].shape == decoded.numbers["MAG"].shape == (0,)
    assert pixels.shape[0] == 0


def test_read_only_bytes_are_taken() -> None:
    raw = SAMPLES["single"]
    pixels = np.empty((1, 9, 8, 1), np.float32)
    assert not decode(np.frombuffer(raw, np.uint8), np.array([[0, len(raw)]]), NINE, pixels).flags[0]
