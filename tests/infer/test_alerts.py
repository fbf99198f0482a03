"""Alert packets of every survey, against fastavro and astropy."""

import gzip
import io
import json
import os
import re
import subprocess
import tarfile
import threading
import time
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fastavro
import numpy as np
import pytest
from astropy.io import fits
from networks import make_card, make_model
from packet_files import CUTOUTS, SCHEMAS, SMALL, alert, container, images, message, stamp

from otrain_infer import Scorer, packet_sources
from otrain_infer.alerts import AlertReader, iter_alerts
from otrain_infer.avro import MAGIC, read_header
from otrain_infer.cli import infer
from otrain_infer.cutouts import Cutouts
from otrain_infer.errors import SourceError, UsageError
from otrain_infer.flags import CutoutFlag as Flag
from otrain_infer.mapping import Constant, Field, Magnitude, MagnitudeError, PacketMapping, known_surveys, load_mapping
from otrain_infer.packets import REFUSED_FOR
from otrain_infer.schemas import open_schemas
from otrain_infer.table import read_table

PLANES = ("SCI", "REF", "DIFF")


def read(*sources, size=(63, 63), **options):
    return Cutouts.concatenate(list(iter_alerts(sources, planes=PLANES, size=size, **options)))


class Told:
    """Schemas by their number, and one for messages without."""

    def __init__(self, **schemas):
        self.schemas, self.numbered = schemas, len(schemas) > 1

    def find(self, number):
        return next(iter(self.schemas.values())) if not self.numbered else self.schemas[f"n{number}"]


SAME = {"RA": 10.5, "DEC": -3.25, "XPOS": 500.25, "YPOS": 400.5, "MJD": 60000.25, "CANDID": "7000", "OBJECTID": "OBJ0"}
LIKE_ZTF = SAME | {"MAG": 18.5, "MAGERR": 0.0625, "FWHM": 3.125, "FILTER": "r"}
EXPECTED = {
    "ztf": LIKE_ZTF | {"FILE": "night1.fits"},
    "winter": LIKE_ZTF | {"FILTER": "J"},
    "pgir": LIKE_ZTF | {"FILTER": "J", "FILE": "night1.fits"},
    "turbo": LIKE_ZTF | {"FILTER": "2"},
    "decam": SAME | {"MAG": 21.5, "MAGERR": 0.25, "FILTER": "g", "XPOS": np.nan, "YPOS": np.nan},
    "atlas": SAME | {"MAG": 17.5, "MAGERR": 0.125, "FWHM": 2.5, "FILTER": "o", "CANDID": "01a_0"},
    "lsst": SAME
    | {"MAG": 31.4 - 7.5, "MAGERR": 0.25 / np.log(10), "FWHM": 2.5 * 2.354820, "FWHMPSF": 2 * 2.354820, "FILTER": "i"}
    | {"OBJECTID": "12"},
}
# Not told by the packets of a survey.
FLAGS = dict.fromkeys(EXPECTED, Flag(0)) | {"decam": Flag.MISSING_KEYWORD} | dict.fromkeys(
    ("pgir", "turbo", "atlas"), Flag.MISSING_KEYWORD
)  # fmt: skip


@pytest.mark.parametrize("survey", SCHEMAS)
@pytest.mark.parametrize("framing", ["container", "message"])
def test_packets_of_each_survey_are_read(survey, framing):
    shape = {"winter": (81, 81), "lsst": (30, 30)}.get(survey, (63, 63))
    packet = alert(survey)
    if framing == "container":
        cutouts = read(container(survey, packet), size=shape)
    else:
        cutouts = read(message(survey, packet, 7), size=shape, schemas=Told(a=SCHEMAS[survey]))
    for plane, image in enumerate(images(0, shape)):
        np.testing.assert_array_equal(cutouts.pixels[0, :, :, plane], image)
    for key, value in EXPECTED[survey].items():
        if isinstance(value, str):
            assert (key, cutouts.header[key][0]) == (key, value)
        else:
            np.testing.assert_allclose(cutouts.header[key][0], value, rtol=1e-6, err_msg=key)
    assert Flag(int(cutouts.flags[0])) == FLAGS[survey]


def test_every_survey_that_is_known_is_tested():
    assert {mapping.name for mapping in known_surveys()} == set(SCHEMAS)


def _change_stamp(packet, name, content):
    return packet | {name: None if content is None else {"fileName": "x.fits.gz", "stampData": content}}


BOMB = gzip.compress(bytes(1 << 25))
JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(500)


@pytest.mark.parametrize(
    ("content", "flag", "words"),
    [
        (None, Flag.MISSING_PLANE, "no stamp of the plane REF"),
        (b"", Flag.MISSING_PLANE, "no stamp of the plane REF"),
        (JPEG, Flag.UNREADABLE, "stamp of the plane REF: it is not a FITS file"),
        (b"\x1f\x8b", Flag.UNREADABLE, "stamp of the plane REF: gzip data end too early"),
        (stamp(images(0)[0])[:-30], Flag.UNREADABLE, "stamp of the plane REF: gzip data end too early"),
        (
            gzip.compress(gzip.decompress(stamp(images(0)[0]))[:9000]),
            Flag.UNREADABLE,
            "stamp of the plane REF: .*truncated",
        ),
        (BOMB, Flag.UNREADABLE, "stamp of the plane REF: more than 16 MiB when inflated"),
        (stamp(np.full((63, 63), np.nan, np.float32)), Flag.BLANK, "stamp of the plane REF: .* no finite pixel"),
        (stamp(np.ones((63, 63), np.float32)), Flag.BLANK, "stamp of the plane REF: .* the same value everywhere"),
    ],
    ids=["none", "empty", "jpeg", "cut-gz", "cut-short-gz", "cut-fits", "bomb", "nan", "constant"],
)
def test_a_stamp_that_is_of_no_use_costs_its_row_alone(content, flag, words):
    bad = _change_stamp(alert("ztf", 1), "cutoutTemplate", content)
    cutouts = read(*(container("ztf", each) for each in (alert("ztf", 0), bad, alert("ztf", 2))))
    assert (cutouts.flags & (Flag.UNREADABLE | Flag.MISSING_PLANE | Flag.BLANK)).tolist() == [0, flag, 0]
    assert np.isnan(cutouts.pixels[1]).all()
    assert list(cutouts.reasons) == [1]
    assert cutouts.header["CANDID"].tolist() == ["7000", "7001", "7002"]
    assert re.search(words, cutouts.reasons[1])


@pytest.mark.parametrize("shape", [(63, 40), (30, 63), (50, 50), (81, 81), (10, 90)])
def test_stamps_of_other_sizes_are_cut_and_padded_as_files_are(shape, tmp_path):
    from cutout_files import HEADER

    from otrain_infer import read_cutouts

    packet = alert("ztf", 3, shape=shape, xpos=10.0, ypos=2000.0)
    header = fits.Header({**HEADER, "XPOS": 10.0, "YPOS": 2000.0})
    hdus = [fits.ImageHDU(image, name=plane) for plane, image in zip(PLANES, images(3, shape), strict=True)]
    fits.HDUList([fits.PrimaryHDU(header=header), *hdus]).writeto(tmp_path / "same.fits")
    expected = read_cutouts(str(tmp_path / "same.fits"), planes=PLANES, size=(63, 63))
    cutouts = read(container("ztf", packet))
    np.testing.assert_array_equal(cutouts.pixels, expected.pixels)
    assert cutouts.flags[0] & ~np.uint32(Flag.EDGE) == expected.flags[0]
    assert cutouts.at_edge[0] == (min(shape) < 63)


def test_numbers_that_a_survey_does_not_know_are_missing():
    cutouts = read(container("ztf", alert("ztf", fwhm=-999.0)))
    assert np.isnan(cutouts.header["FWHM"][0])
    assert cutouts.flags[0] == Flag.MISSING_KEYWORD


def test_a_flux_may_be_negative_and_zero_has_no_magnitude():
    cutouts = read(*(container("lsst", alert("lsst", psfFlux=flux)) for flux in (1000.0, -1000.0, 0.0, None)))
    assert cutouts.header["MAG"][0] == cutouts.header["MAG"][1]
    assert np.isnan(cutouts.header["MAG"][2:]).all()


def test_the_edge_is_what_the_packet_says():
    cutouts = read(*(container("lsst", alert("lsst", pixelFlags_edge=edge)) for edge in (True, False, None)))
    assert cutouts.at_edge.tolist() == [True, False, False]
    assert (cutouts.flags & Flag.MISSING_KEYWORD).tolist() == [0, 0, Flag.MISSING_KEYWORD]


@pytest.mark.parametrize("codec", ["null", "deflate", "snappy", "zstandard"])
def test_a_container_may_hold_many(codec, tmp_path):
    path = tmp_path / "visit.avro"
    path.write_bytes(container("lsst", *(alert("lsst", seed) for seed in range(300)), codec=codec))
    reader = AlertReader(PLANES, (30, 30))
    parts = list(reader.read_parts([str(path), container("lsst", alert("lsst", 999))]))
    cutouts = Cutouts.concatenate([part for part, _ in parts])
    sources = np.concatenate([source for _, source in parts])
    assert max(len(part) for part, _ in parts) <= 128
    assert cutouts.header["CANDID"].tolist() == [str(7000 + seed) for seed in (*range(300), 999)]
    assert cutouts.names.tolist() == [str(path), *(f"{path}#{k}" for k in range(2, 301)), ""]
    assert sources.tolist() == [0] * 300 + [1]
    np.testing.assert_array_equal(cutouts.pixels[217, :, :, 1], images(217, (30, 30))[1])


def test_a_large_container_is_read_piece_by_piece(tmp_path, monkeypatch):
    path = tmp_path / "night.avro"
    path.write_bytes(container("ztf", *(alert("ztf", seed) for seed in range(40))))
    whole = read(str(path))
    monkeypatch.setattr(packet_sources, "LARGEST_WHOLE", 1000)
    monkeypatch.setattr(packet_sources, "PIECE", 1 << 17)
    pieces = list(packet_sources.iter_packets([str(path)]))
    assert len(pieces) > 5
    assert max(len(piece.read()) for piece in pieces) < 1 << 18
    again = read(str(path))
    assert again.names.tolist() == whole.names.tolist()
    np.testing.assert_array_equal(again.pixels, whole.pixels)
    # Damaged in the middle, what is before it is read, and one row tells.
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    half = read(str(path))
    assert 10 < len(half) < 30
    assert half.header["CANDID"].tolist()[:-1] == whole.header["CANDID"].tolist()[: len(half) - 1]
    assert half.flags[-1] == Flag.UNREADABLE
    assert "damaged or incomplete" in half.reasons[len(half) - 1]


def test_a_container_cut_anywhere_gives_what_is_whole_and_one_row_that_tells():
    content = container("ztf", *(alert("ztf", seed) for seed in range(3)))
    rng = np.random.default_rng(3)
    for stop in sorted({0, 1, 3, 4, 5, 1000, len(content) - 1, *rng.integers(0, len(content), 60).tolist()}):
        cutouts = read(content[:stop], container("ztf", alert("ztf", 9)))
        assert 2 <= len(cutouts) <= 4
        assert cutouts.flags[len(cutouts) - 2] == Flag.UNREADABLE
        assert cutouts.header["CANDID"].tolist() == [*map(str, range(7000, 7000 + len(cutouts) - 2)), "", "7009"]


def test_a_container_with_one_byte_changed_never_ends_the_batch():
    content = bytearray(container("ztf", alert("ztf", 0)))
    rng = np.random.default_rng(4)
    for place in rng.integers(0, len(content), 300).tolist():
        changed = content.copy()
        changed[place] ^= int(rng.integers(1, 256))
        cutouts = read(bytes(changed), container("ztf", alert("ztf", 9)))
        assert len(cutouts) >= 2
        assert cutouts.header["CANDID"][-1] == "7009"


def test_other_content_is_told():
    empty = io.BytesIO()
    fastavro.writer(empty, SCHEMAS["ztf"], [])
    other = io.BytesIO()
    fastavro.writer(other, {"type": "record", "name": "r", "fields": [{"name": "a", "type": "int"}]}, [{"a": 1}])
    cutouts = read(
        b"", b"rubbish", stamp(images(0)[0], packed=False), empty.getvalue(), other.getvalue(), "/no/such/file"
    )
    assert set(cutouts.flags.tolist()) == {int(Flag.UNREADABLE)}
    told = [cutouts.reasons[row] for row in range(6)]
    for said, words in zip(
        told,
        (
            "empty",
            "no Avro container",
            "no Avro container",
            "holds no alert",
            "of no survey that is known",
            "No such file",
        ),
        strict=True,
    ):
        assert words in said


def test_gzipped_packets_and_tars_are_read(tmp_path):
    contents = {f"{seed}.avro": container("ztf", alert("ztf", seed)) for seed in range(4)}
    contents["3.avro"] = b"rubbish"
    (tmp_path / "night.avro.gz").write_bytes(gzip.compress(container("ztf", alert("ztf", 8))))
    for name, mode in (("a.tar", "w"), ("b.tar.gz", "w:gz"), ("c.tgz", "w:gz")):
        with tarfile.open(tmp_path / name, mode) as tar:
            for member, content in contents.items():
                entry = tarfile.TarInfo(f"night/{member}")
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
            tar.addfile(tarfile.TarInfo("night/._hidden.avro"))
            folder = tarfile.TarInfo("night/deeper")
            folder.type = tarfile.DIRTYPE
            tar.addfile(folder)
    cutouts = read(str(tmp_path))
    names = [os.path.relpath(name, tmp_path) for name in cutouts.names.tolist()]
    assert names == [
        *(f"{tar}/night/{k}.avro" for tar in ("a.tar", "b.tar.gz", "c.tgz") for k in range(4)),
        "night.avro.gz",
    ]
    assert cutouts.header["CANDID"].tolist() == ["7000", "7001", "7002", ""] * 3 + ["7008"]


@pytest.mark.parametrize("packed", [False, True])
def test_a_tar_that_breaks_off_gives_what_is_whole_and_one_row_that_tells(tmp_path, packed):
    path = tmp_path / "night.tar"
    with tarfile.open(path, "w:gz" if packed else "w") as tar:
        for seed in range(6):
            content = container("ztf", alert("ztf", seed))
            entry = tarfile.TarInfo(f"{seed}.avro")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    cutouts = read(str(path))
    assert 2 <= len(cutouts) <= 4
    assert cutouts.flags.tolist() == [0] * (len(cutouts) - 1) + [Flag.UNREADABLE]
    assert "cannot be read from here on" in cutouts.reasons[len(cutouts) - 1]


def test_messages_are_told_by_the_number_of_their_schema_and_without_one():
    both = Told(n704=SCHEMAS["lsst"], n12=SCHEMAS["ztf"])
    cutouts = read(message("ztf", alert("ztf", 1), 12), message("lsst", alert("lsst", 2), 704), schemas=both)
    assert cutouts.header["CANDID"].tolist() == ["7001", "7002"]
    # An LSST message begins with its number, here 0: a prefix must not be seen in it.
    bare = message("lsst", alert("lsst") | {"diaSourceId": 0})
    assert bare[0] == 0
    cutouts = read(bare, b"\0\0\0\0\7" + bare, schemas=Told(a=SCHEMAS["lsst"]))
    assert cutouts.usable.all()


def test_a_message_of_another_schema_or_cut_short_is_told():
    good = message("ztf", alert("ztf"), 1)
    told = Told(a=SCHEMAS["ztf"])
    cutouts = read(good[:-1], good + b"\0", message("lsst", alert("lsst"), 1), good, schemas=told)
    assert cutouts.flags.tolist() == [Flag.UNREADABLE] * 3 + [0]
    assert "not of its schema" in cutouts.reasons[0]


MAPPING = """
name: mine
planes: {DIFF: images.diff}
columns:
  CANDID: id
  MAG: {flux: [missing, counts], zero_point: 25}
  MAGERR: {flux_error: error, flux: counts}
  FILTER: {field: band, values: {7: r}}
  FWHM: {moments: [mxx, myy], pixel: 0.5}
  RA: {field: ra, add: 1}
"""


def test_packets_of_any_other_kind_are_read_through_a_mapping(tmp_path):
    fields = dict.fromkeys(("counts", "error", "mxx", "myy", "ra"), "double")
    schema = {
        "type": "record",
        "name": "mine",
        "fields": [
            {"name": "id", "type": "string"},
            {"name": "band", "type": "int"},
            *({"name": name, "type": kind} for name, kind in fields.items()),
            {
                "name": "images",
                "type": {"type": "record", "name": "images", "fields": [{"name": "diff", "type": "bytes"}]},
            },
        ],
    }
    file = io.BytesIO()
    values = {"counts": 100.0, "error": 10.0, "mxx": 1.0, "myy": 1.0, "ra": 5.0}
    packet = {"id": "x1", "band": 7, **values, "images": {"diff": stamp(images(0)[2], packed=False)}}
    fastavro.writer(file, schema, [packet])
    (tmp_path / "mine.yaml").write_text(MAPPING)
    mapping = load_mapping(tmp_path / "mine.yaml")
    (cutouts,) = iter_alerts(file.getvalue(), planes=("DIFF",), size=(63, 63), mapping=mapping)
    np.testing.assert_array_equal(cutouts.pixels[0, :, :, 0], images(0)[2])
    header = {key: column[0] for key, column in cutouts.header.items()}
    assert (header["CANDID"], header["FILTER"], header["RA"]) == ("x1", "r", 6.0)
    np.testing.assert_allclose(
        [header["MAG"], header["MAGERR"], header["FWHM"]], [20, 0.25 / np.log(10), 2 * 2.354820], rtol=1e-6
    )
    assert cutouts.flags[0] == Flag.MISSING_KEYWORD  # nothing tells whether it is at an edge
    wrong = read(container("ztf", alert("ztf")), mapping=mapping)
    assert "none of the stamps of the mapping mine" in wrong.reasons[0]
    (missing,) = iter_alerts(file.getvalue(), planes=("SCI", "DIFF"), size=(63, 63), mapping=mapping)
    assert missing.flags[0] & Flag.MISSING_PLANE


def test_what_a_mapping_names_and_packets_have_not_is_told_once_for_each_schema(caplog):
    names = {"MAG": Magnitude(("candidate.flux",), 20.0), "RA": Field(("candidate.ra",)), "OBJECT": Constant("x")}
    names["MAGERR"] = MagnitudeError(("candidate.sigma",), ("candidate.magpsf",))
    planes = {"SCI": ("cutoutScience.stampData",), "REF": ("cutoutReference.stampData",)}
    mapping = PacketMapping("mine", planes, names)
    sources = [container("ztf", alert("ztf"))] * 3
    read(*sources, mapping=mapping)
    told = "these packets have no field that the mapping mine has for REF, MAG, MAGERR"
    assert [record.message for record in caplog.records] == [told]
    read(*sources)
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no keys"),
        ("planes: {DIFF: a", "cannot be used"),
        ("planes: {}\ncolumns: {}", "no plane"),
        ("planes: {NEW: a}\ncolumns: {}", "planes: 'NEW' is none of SCI, REF, DIFF"),
        ("planes: {DIFF: a}\ncolumns: {MAGNITUDE: a}", "columns: 'MAGNITUDE' is none of"),
        ("planes: {DIFF: a}\ncolumns: {MAG: {fluxes: a}}", "column MAG tells none of field, flux_error, flux"),
        ("planes: {DIFF: a}\ncolumns: {MAG: {field: a, adds: 3}}", "column MAG: 'adds' is none of"),
        ("planes: {DIFF: a}\ncolumns: {MAG: {field: a, add: x}}", "could not convert"),
        ("planes: {DIFF: a}\ncolumns: {MAG: {flux: a}}", "column MAG: flux needs zero_point too"),
        ("planes: {DIFF: a}\ncolumns: {MAG: {text: a}}", "column MAG is a number"),
        ("planes: {DIFF: a}\ncolumns: {FILTER: {flux: a, zero_point: 3}}", "column FILTER is text"),
        ("planes: {DIFF: a}\ncolumns: {FILTER: {field: a, values: [g]}}", "values: '['g']' does not tell a text"),
        ("planes: {DIFF: a}\ncolumns: {MAG: 5}", "column MAG: '5' is neither"),
        ("planes: {DIFF: a}\nknown_by: 5", "known_by: '5' is neither"),
        ("planes: {DIFF: 3}\ncolumns: {}", "plane DIFF: '3' is neither a field nor a list of fields"),
        ("planes: {DIFF: []}\ncolumns: {}", "neither a field"),
        ("columns: {}", "planes"),
        ("planes: {DIFF: a}\ncolumns: {}\nstamp: [a]", "is not [ny, nx], in pixels"),
        ("planes: {DIFF: a}\ncolumns: {}\nfilled: 1", "filled: '1' is neither true nor false"),
        ("planes: {DIFF: a}\ncolumns: {}\nplane: b", "a mapping: 'plane' is none of"),
        ("planes: {DIFF: a}\nplanes: {SCI: a}\ncolumns: {}", "'planes' is told twice"),
        ("planes: {DIFF: a}\ncolumns: {MAG: a, RA: b, MAG: c}", "'MAG' is told twice"),
        ("planes: {DIFF: a}\ncolumns: {MAG: {field: a, absolute: 'no'}}", "'no' is neither true nor false"),
        ("planes: {DIFF: a}\ncolumns: {MAG: {field: a, add: .nan}}", "column MAG: 'nan' is no number"),
        ("planes: {DIFF: a}\ncolumns: {FWHM: {moments: a, pixel: 0}}", "column FWHM: '0' is not above 0"),
        ("planes: {DIFF: a}\ncolumns: {FILTER: {text: [a]}}", "column FILTER: '['a']' is no text"),
        ("planes: {DIFF: a}\ncolumns: {}\nname: [a]", "'['a']' is no text"),
        ("&a [*a, 3]", "no keys"),
    ],
)
def test_a_mapping_that_makes_no_sense_is_told(tmp_path, text, words):
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=f"the mapping '{path}' cannot be used") as caught:
        load_mapping(path)
    assert words in str(caught.value)


def test_a_mapping_that_is_not_there_is_told():
    with pytest.raises(UsageError, match="No such file"):
        load_mapping("/no/such.yaml")


@pytest.mark.parametrize("kind", [{"type": "bytes"}, {"type": "fixed", "name": "f", "size": 12}])
def test_decimals_are_numbers(kind):
    of_flux = kind | {"logicalType": "decimal", "precision": 20, "scale": 3}
    of_id = {"type": "bytes", "logicalType": "decimal", "precision": 20}
    again = of_flux.get("name", of_flux)  # a type that has a name is told once
    fields = [("id", of_id), ("ra", ["null", of_flux]), ("dec", again), ("image", "bytes")]
    schema = {"type": "record", "name": "r", "fields": [{"name": name, "type": each} for name, each in fields]}
    columns = {"CANDID": Field(("id",)), "RA": Field(("ra",)), "DEC": Field(("dec",))}
    mapping = PacketMapping("own", {"DIFF": ("image",)}, columns)
    records = [
        {"id": Decimal(2**62 + 1), "ra": Decimal("12.345"), "dec": Decimal("-0.5"), "image": stamp(images(0)[2])},
        {"id": Decimal(-7), "ra": None, "dec": Decimal("89.999"), "image": stamp(images(0)[2])},
    ]
    file = io.BytesIO()
    fastavro.writer(file, fastavro.parse_schema(schema), records)
    (cutouts,) = iter_alerts(file.getvalue(), planes=("DIFF",), size=(63, 63), mapping=mapping)
    assert cutouts.header["CANDID"].tolist() == [str(2**62 + 1), "-7"]
    np.testing.assert_array_equal(cutouts.header["RA"], [12.345, np.nan])
    np.testing.assert_array_equal(cutouts.header["DEC"], [-0.5, 89.999])


def decimal_packet(scale, digits):
    """A packet of which fastavro may refuse the schema: only its records are as fastavro writes them."""

    def schema(kind):
        fields = {"image": "bytes", "id": kind}
        return {"type": "record", "name": "mine", "fields": [{"name": k, "type": v} for k, v in fields.items()]}

    file = io.BytesIO()
    record = {"image": stamp(images(0)[2]), "id": digits.to_bytes(30, "big", signed=True)}
    fastavro.writer(file, schema("bytes"), [record], sync_marker=bytes(16))
    content = file.getvalue()
    told = schema({"type": "bytes", "logicalType": "decimal", "precision": 60, "scale": scale})
    header = io.BytesIO()
    fastavro.schemaless_writer(header, {"type": "map", "values": "bytes"}, {"avro.schema": json.dumps(told).encode()})
    return MAGIC + header.getvalue() + content[read_header(memoryview(content), 0, len(content)).stop - 16 :]


@pytest.mark.parametrize("scale", [3_000_000, -1_100_000, 257, -1])
def test_a_decimal_that_no_number_is_costs_its_packet_alone(scale):
    mapping = PacketMapping("mine", {"DIFF": ("image",)}, {"CANDID": Field(("id",))})
    odd, good = decimal_packet(scale, 12), decimal_packet(0, 12)
    cutouts = Cutouts.concatenate(list(iter_alerts([odd, good], planes=("DIFF",), size=(63, 63), mapping=mapping)))
    assert cutouts.header["CANDID"].tolist() == ["", "12"]
    assert f"a decimal of {scale} digits behind the point" in cutouts.reasons[0]


def test_all_digits_of_a_decimal_are_kept():
    mapping = PacketMapping("mine", {"DIFF": ("image",)}, {"CANDID": Field(("id",))})
    digits = 123456789012345678901234567890123456789
    found = [
        next(iter_alerts([decimal_packet(scale, digits)], planes=("DIFF",), size=(63, 63), mapping=mapping))
        for scale in (0, 20, 45)
    ]
    expected = [str(digits), "1234567890123456789.01234567890123456789", f"0.000000{digits}"]
    assert [cutouts.header["CANDID"][0] for cutouts in found] == expected


def test_of_several_fields_each_packet_takes_the_first_that_it_has():
    def packet(**stamps):
        fields = [{"name": name, "type": ["null", "bytes"]} for name in ("diff", "other")]
        file = io.BytesIO()
        schema = {"type": "record", "name": "mine", "fields": fields}
        fastavro.writer(file, schema, [{"diff": None, "other": None} | stamps])
        return file.getvalue()

    mapping = PacketMapping("mine", {"DIFF": ("diff", "other")}, {})
    first, second = (stamp(images(seed)[2]) for seed in (0, 1))
    packets = [packet(diff=first), packet(other=second), packet(), packet(diff=second, other=first)]
    cutouts = Cutouts.concatenate(list(iter_alerts(packets, planes=("DIFF",), size=(63, 63), mapping=mapping)))
    assert (cutouts.flags & Flag.MISSING_PLANE > 0).tolist() == [False, False, True, False]
    for row, seed in ((0, 0), (1, 1), (3, 1)):
        np.testing.assert_array_equal(cutouts.pixels[row, :, :, 0], images(seed)[2])


def test_stamps_of_rubin_are_whole_at_every_edge():
    (near,) = iter_alerts([container("lsst", alert("lsst", x=3.0, y=3.0))], planes=("DIFF",), size=(40, 40))
    (far,) = iter_alerts([container("lsst", alert("lsst", x=2000.0, y=2000.0))], planes=("DIFF",), size=(40, 40))
    np.testing.assert_array_equal(near.pixels, far.pixels)
    np.testing.assert_array_equal(near.pixels[0, 5:35, 5:35, 0], images(0, (30, 30))[2])
    assert near.header["XPOS"][0] == 3.0


def test_large_packets_of_a_tar_are_not_held_all_at_once(tmp_path, monkeypatch):
    content = container("ztf", alert("ztf"))
    with tarfile.open(tmp_path / "night.tar", "w") as tar:
        for k in range(10):
            entry = tarfile.TarInfo(f"{k}.avro")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    monkeypatch.setattr("otrain_infer.alerts.LARGEST_PART", 2 * len(content))
    jobs = AlertReader(PLANES, (63, 63)).iter_jobs([str(tmp_path / "night.tar")])
    assert [len(job) for job in jobs] == [2] * 5


def test_a_sparse_file_in_a_tar_is_told(tmp_path):
    with (tmp_path / "holes.avro").open("wb") as file:
        file.truncate(1 << 22)
    subprocess.run(["/bin/tar", "--sparse", "-cf", "night.tar", "holes.avro"], cwd=tmp_path, check=True)
    cutouts = read(str(tmp_path / "night.tar"))
    assert len(cutouts) == 1
    assert "a sparse file" in cutouts.reasons[0]


def test_a_schema_that_comes_later_is_found(tmp_path, monkeypatch):
    (tmp_path / "1.avsc").write_text(json.dumps(SCHEMAS["ztf"]))
    (tmp_path / "2.avsc").write_text("{half of")
    reader = AlertReader(PLANES, (63, 63), schemas=open_schemas(str(tmp_path)))
    sent = [message("lsst", alert("lsst", k), number) for k, number in enumerate((2, 3))]

    def read_both():
        return Cutouts.concatenate(list(reader.read(sent)))

    assert read_both().reasons.keys() == {0, 1}
    for number in (2, 3):
        (tmp_path / f"{number}.avsc").write_text(json.dumps(SCHEMAS["lsst"]))
    assert read_both().reasons.keys() == {0, 1}  # what was refused is not asked for with every message
    monkeypatch.setattr("otrain_infer.packets.monotonic", lambda: time.monotonic() + REFUSED_FOR)
    assert read_both().reasons == {}


def test_an_id_that_has_become_a_double_keeps_its_digits():
    fields = [{"name": "id", "type": "double"}, {"name": "image", "type": "bytes"}]
    file = io.BytesIO()
    packet = {"id": 2481128275115015168.0, "image": stamp(images(0)[2])}
    fastavro.writer(file, {"type": "record", "name": "mine", "fields": fields}, [packet])
    mapping = PacketMapping("mine", {"DIFF": ("image",)}, {"CANDID": Field(("id",))})
    (cutouts,) = iter_alerts(file.getvalue(), planes=("DIFF",), size=(63, 63), mapping=mapping)
    assert cutouts.header["CANDID"].tolist() == ["2481128275115015168"]


def test_a_tar_without_packets_and_one_with_odd_names_are_told(tmp_path):
    with tarfile.open(tmp_path / "empty.tar", "w"):
        pass
    with tarfile.open(tmp_path / "odd.tar", "w") as tar:
        content = container("ztf", alert("ztf", 1))
        entry = tarfile.TarInfo("/etc/x.avro")
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    cutouts = read(str(tmp_path))
    assert "holds no packet" in cutouts.reasons[0]
    assert cutouts.names[1].startswith(str(tmp_path / "odd.tar"))


def test_arguments_that_make_no_sense_are_told(tmp_path):
    with pytest.raises(UsageError, match="a sequence of paths"):
        list(AlertReader(PLANES, (63, 63)).read_parts("a.avro"))
    with pytest.raises(UsageError, match="either a card or planes and size"):
        list(iter_alerts(b""))
    with pytest.raises(UsageError, match="not one or more different ones"):
        list(iter_alerts(b"", planes=("NEW",), size=(63, 63)))
    with pytest.raises(SourceError, match="no alert packet"):
        list(iter_alerts([], planes=PLANES, size=(63, 63)))
    with pytest.raises(SourceError, match="no alert packet"):
        list(iter_alerts(str(tmp_path), planes=PLANES, size=(63, 63)))


DATA = os.environ.get("OTRAIN_DATA")


def _by_hand(path):
    """What fastavro and astropy say: the candidate, and the first image of each stamp."""
    with open(path, "rb") as file:
        packet = next(fastavro.reader(file))
    planes = []
    for names in zip(CUTOUTS, SMALL, strict=True):
        content = next(packet[name] for name in names if name in packet)
        content = content["stampData"] if isinstance(content, dict) else content
        content = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
        with fits.open(io.BytesIO(content), ignore_missing_simple=True) as hdus:
            planes.append(np.asarray(hdus[0].data, np.float32))
    return packet.get("candidate") or packet["diaSource"], planes


@pytest.mark.skipif(not DATA, reason="OTRAIN_DATA does not name the folder of real alerts")
def test_real_packets_are_what_fastavro_and_astropy_read():
    paths = sorted(map(str, Path(DATA, "alerts").glob("*.avro")))
    assert len(paths) >= 51
    for path in paths:
        candidate, planes = _by_hand(path)
        ny, nx = planes[0].shape
        cutouts = read(path, size=(ny, nx))
        for k, plane in enumerate(planes):
            np.testing.assert_array_equal(cutouts.pixels[0, :, :, k], plane)
        expected = Flag.NAN_PIXELS if any(not np.isfinite(plane).all() for plane in planes) else Flag(0)
        if "magpsf" in candidate:
            expected |= Flag.EDGE if min(ny, nx) < (81 if "progname" in candidate else 63) else Flag(0)
            assert cutouts.header["MAG"][0] == candidate["magpsf"]
        else:
            assert np.isclose(cutouts.header["MAG"][0], 31.4 - 2.5 * np.log10(abs(candidate["psfFlux"])))
        assert cutouts.header["CANDID"][0] == str(candidate.get("candid") or candidate["diaSourceId"])
        assert Flag(int(cutouts.flags[0])) == expected, path
        assert (cutouts.header["RA"][0], cutouts.header["DEC"][0]) == (candidate["ra"], candidate["dec"])


@pytest.fixture
def night(tmp_path):
    """A folder with six alerts, of which one has no template and one is none."""
    folder = tmp_path / "night"
    folder.mkdir()
    for seed in range(5):
        packet = alert("ztf", seed)
        if seed == 3:
            packet |= {"cutoutTemplate": None}
        (folder / f"{seed}.avro").write_bytes(container("ztf", packet))
    (folder / "5.avro").write_bytes(b"rubbish")
    return folder


def _three_planes(tmp_path):
    path = tmp_path / "three.onnx"
    path.write_bytes(make_model(make_card(PLANES, (63, 63))))
    return str(path)


def test_the_command_scores_a_folder_of_alerts(night, tmp_path, capsys):
    model = _three_planes(tmp_path)
    assert infer(["--cutouts", str(night), "--model", model, "--threads", "2"]) == 0
    said = capsys.readouterr()
    table = read_table(said.out.strip())
    assert said.out.strip() == str(night / "infer_results.dat")
    assert "4 of 6 cutouts scored" in said.err
    assert "5.avro: it is no Avro container" in said.err
    scorer = Scorer(model)
    (cutouts,) = AlertReader.for_card(scorer.card).read(sorted(map(str, night.glob("*.avro"))))
    np.testing.assert_array_equal(table["label1"], scorer.score(cutouts))
    assert [str(each) for each in table["cand_ID"][:5]] == [str(7000 + seed) for seed in range(5)]
    assert np.isnan(table["label1"]).tolist() == [False, False, False, True, False, True]


@pytest.mark.parametrize("kind", ["tar", "container", "parquet", "list", "messages"])
def test_the_command_gives_the_same_scores_whatever_alerts_come_in(kind, night, tmp_path, capsys):
    model, output = _three_planes(tmp_path), tmp_path / "scores.csv"
    good = sorted(map(str, night.glob("[0-4].avro")))
    packets = [next(fastavro.reader(io.BytesIO(Path(path).read_bytes()))) for path in good]
    more = []
    if kind == "tar":
        sources = [str(tmp_path / "night.tar.gz")]
        with tarfile.open(sources[0], "w:gz") as tar:
            for path in good:
                tar.add(path, os.path.basename(path))
    elif kind == "container":
        sources = [str(tmp_path / "night.avro")]
        Path(sources[0]).write_bytes(container("ztf", *packets, codec="deflate"))
    elif kind == "parquet":
        pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        sources = [str(tmp_path / "night.parquet")]
        parquet.write_table(pa.Table.from_pylist(packets), sources[0])
    elif kind == "list":
        (tmp_path / "night.list").write_text("\n".join(good))
        sources = [f"@{tmp_path / 'night.list'}"]
    else:
        (tmp_path / "ztf.avsc").write_text(json.dumps(SCHEMAS["ztf"]))
        more = ["--schema", str(tmp_path / "ztf.avsc")]
        sources = [str(tmp_path / f"{k}.message") for k in range(5)]
        for path, packet in zip(sources, packets, strict=True):
            Path(path).write_bytes(message("ztf", packet, 4))
    assert infer(["--cutouts", *sources, "--model", model, "--output", str(output), *more]) == 0, capsys.readouterr()
    table = read_table(output)
    scorer = Scorer(model)
    (cutouts,) = AlertReader.for_card(scorer.card).read(good)
    np.testing.assert_array_equal(np.array(table["label1"], np.float32), scorer.score(cutouts))
    assert table["cand_ID"].tolist() == [7000 + seed for seed in range(5)]


def test_alerts_and_cutouts_are_not_mixed(night, folder, capsys):
    fits_file = str(next(folder.glob("*.fits")))
    assert infer(["--cutouts", fits_file, str(night / "0.avro")]) == 2
    assert "scored apart" in capsys.readouterr().err
    # A folder of cutouts may hold their archive.
    with tarfile.open(folder / "cutouts.tar", "w") as tar:
        tar.add(fits_file, "c.fits")
    assert infer(["--cutouts", str(folder), "--output", str(folder / "s.csv")]) == 0
    assert len(read_table(folder / "s.csv")) == 10


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--mapping", "/no/such.yaml"], "the mapping '/no/such.yaml' cannot be used"),
        (["--schema", "/no/such.avsc"], "the schema '/no/such.avsc' cannot be used"),
        (["--schema", "ftp://registry"], "is no registry"),
        (["--schema", "https://me:hunter2@registry"], "are taken from OTRAIN_REGISTRY_AUTH alone"),
    ],
)
def test_wrong_options_of_alerts_are_told(night, options, words, capsys):
    assert infer(["--cutouts", str(night), *options]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "hunter2" not in said
    assert not (night / "infer_results.dat").exists()


class _Registry(BaseHTTPRequestHandler):
    def do_GET(self):
        asked.append((self.path, self.headers.get("Authorization")))
        number = self.path.rpartition("/")[2]
        known, missing = {"schema": json.dumps(SCHEMAS["ztf"])}, {"error_code": 40403, "message": "none"}
        content = json.dumps({"12": known, "13": missing}.get(number, {"message": "none"})).encode()
        if number in ("779", "780"):
            content = b'{"schema": 5}' if number == "779" else b"[" * 200_000
            number = "12"
        if number == "777":  # something that breaks off within its answer
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhalf of")
            return
        if number == "778":
            self.wfile.write(b"no HTTP at all")
            return
        self.send_response({"12": 200, "500": 500, "302": 302}.get(number, 404))
        if number == "302":
            self.send_header("Location", "http://localhost:1/elsewhere")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


asked: list = []


@pytest.fixture
def registry(monkeypatch):
    """The address of a schema registry on this machine that knows the schema 12."""
    asked.clear()
    monkeypatch.setenv("OTRAIN_REGISTRY_AUTH", "me:hunter2")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Registry)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_schemas_come_from_a_registry_each_asked_for_once(registry):
    schemas = open_schemas(registry)
    sent = [message("ztf", alert("ztf", seed), number) for seed, number in ((1, 12), (2, 12), (3, 13), (4, 12))]
    reader = AlertReader(PLANES, (63, 63), schemas=schemas)
    (cutouts,) = [*reader.read(sent)]
    assert cutouts.header["CANDID"].tolist() == ["7001", "7002", "", "7004"]
    assert f"its schema 13 is not in the registry {registry}" in cutouts.reasons[2]
    assert asked == [(f"/schemas/ids/{number}", "Basic bWU6aHVudGVyMg==") for number in (12, 13)]
    # 302: another address is not to be told the password; 404: what says so knows nothing of schemas.
    for number in (500, 302, 404):
        with pytest.raises(SourceError, match=f"refuses the schema {number}"):
            list(reader.read([message("ztf", alert("ztf"), number)]))
    for number, words in ((777, "no registry"), (778, "does not answer"), (779, "no registry"), (780, "no registry")):
        with pytest.raises(SourceError, match=words):
            list(reader.read([message("ztf", alert("ztf"), number)]))


def test_a_registry_that_does_not_answer_is_told():
    reader = AlertReader(PLANES, (63, 63), schemas=open_schemas("http://127.0.0.1:9"))
    with pytest.raises(SourceError, match=r"the registry http://127.0.0.1:9 does not answer"):
        list(reader.read([message("ztf", alert("ztf"), 500)]))


@pytest.mark.parametrize("content", ["5", "null", '{"type": "record", "name": "x", "fields": 5}'])
def test_a_file_that_is_no_schema_is_told(tmp_path, content):
    (tmp_path / "x.avsc").write_text(content)
    with pytest.raises(UsageError, match="cannot be used"):
        open_schemas(str(tmp_path / "x.avsc"))


def test_schemas_may_be_several_files(tmp_path):
    whole = SCHEMAS["lsst"]
    source = next(field["type"] for field in whole["fields"] if field["name"] == "diaSource")
    (tmp_path / f"{source['name']}.avsc").write_text(json.dumps(source))
    fields = [field | {"type": source["name"]} if field["name"] == "diaSource" else field for field in whole["fields"]]
    (tmp_path / "lsst.v10_0.alert.avsc").write_text(json.dumps(whole | {"fields": fields}))
    schemas = open_schemas(str(tmp_path / "lsst.v10_0.alert.avsc"))
    (cutouts,) = AlertReader(PLANES, (30, 30), schemas=schemas).read([message("lsst", alert("lsst", 5), 1000)])
    assert cutouts.header["CANDID"].tolist() == ["7005"]
    (tmp_path / f"{source['name']}.avsc").unlink()
    with pytest.raises(UsageError, match="cannot be used"):
        open_schemas(str(tmp_path / "lsst.v10_0.alert.avsc"))


def test_a_folder_without_numbered_schemas_is_told(tmp_path):
    with pytest.raises(UsageError, match="no schema that is named by its number"):
        open_schemas(str(tmp_path))
