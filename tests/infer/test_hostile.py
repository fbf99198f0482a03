"""What a sender may do on purpose: bombs, claims and odd names cost one row each, and little time and memory."""

import ast
import base64
import gzip
import io
import json
import os
import tarfile
import time
import tracemalloc
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
from astropy.io import fits as astropy_fits
from corpus import KEYWORDS, cutout_bytes, hdu_bytes, star
from cutout_files import write_cutout
from fuzz_inputs import SHAPE, small_alert, write_container, write_long
from networks import full_card, make_card, make_model
from onnx import helper
from packet_files import SCHEMAS, container

from otrain_infer import Scorer, packet_sources, packets, sources
from otrain_infer.alerts import iter_alerts
from otrain_infer.avro import MOST_NODES, compile_schema
from otrain_infer.card import ModelCard
from otrain_infer.cli import infer
from otrain_infer.cutouts import CutoutReader, Cutouts
from otrain_infer.errors import ModelError, PacketError
from otrain_infer.fits import LONGEST_TEXT, inflate
from otrain_infer.flags import CutoutFlag as Flag
from otrain_infer.packets import PacketReader
from otrain_infer.sources import Buffer
from otrain_infer.table import read_table

MIB = 1 << 20


@contextmanager
def bounded(mebibytes=64, seconds=10):
    """Fail where the block takes more memory, or far more of the processor than it should."""
    tracemalloc.start()
    start = time.process_time()
    try:
        yield
        peak, spent = tracemalloc.get_traced_memory()[1], time.process_time() - start
    finally:
        tracemalloc.stop()
    assert peak < mebibytes * MIB, f"{peak >> 20} MiB"
    assert spent < seconds, f"{spent:.1f} s"


def seconds_of(function, *arguments):
    """What a call takes of the processor, at best of three."""
    found = []
    for _ in range(3):
        start = time.process_time()
        function(*arguments)
        found.append(time.process_time() - start)
    return min(found)


def read_fits(*contents, planes=("DIFF",), size=SHAPE):
    return CutoutReader(planes, size).read(list(contents))


def read_packets(*contents, **options):
    options = {"planes": ("SCI", "REF", "DIFF"), "size": SHAPE} | options
    return Cutouts.concatenate(list(iter_alerts(list(contents), **options)))


GOOD = cutout_bytes(star(SHAPE))


def end_of(content, start=0):
    """Where the card END of a header is."""
    return next(at for at in range(start, len(content), 80) if content[at : at + 8] == b"END     ")


def data_of(content, start=0):
    """Where what is behind a header begins."""
    return end_of(content, start) // 2880 * 2880 + 2880


# Bombs ---------------------------------------------------------------------------------------------------------------


def test_a_gzipped_file_may_not_grow_for_ever(monkeypatch):
    monkeypatch.setattr(sources, "LARGEST_FILE", 4 * MIB)
    bomb = gzip.compress(GOOD + bytes(200 * MIB), 1)
    with bounded(mebibytes=32):
        cutouts = read_fits(GOOD, bomb, GOOD)
    assert (cutouts.flags & Flag.UNREADABLE).tolist() == [0, 1, 0]
    assert "more than 4 MiB when inflated" in cutouts.reasons[1]
    with bounded(mebibytes=32):
        assert "more than 4 MiB when inflated" in read_packets(bomb).reasons[0]


def test_a_gzipped_file_of_very_many_members_takes_no_longer_than_it_is():
    few, many = (gzip.compress(b"") * n + gzip.compress(b"x") + bytes(7) for n in (5_000, 40_000))
    assert inflate(many, MIB) == b"x"
    assert seconds_of(inflate, many, MIB) < 24 * seconds_of(inflate, few, MIB)  # 64 times where it is by the square


def test_a_container_may_not_grow_for_ever(monkeypatch):
    monkeypatch.setattr(packets, "LARGEST_PART", MIB)
    record = container("ztf", small_alert("ztf", packed=False))
    block = record[record.index(b"SIMPLE") - 100 : -16]
    packer = zlib.compressobj(1, zlib.DEFLATED, -15)
    stored = packer.compress(block + bytes(MIB)) + packer.flush()
    bomb = write_container(json.dumps(SCHEMAS["ztf"]).encode(), [(1, stored)] * 100, b"deflate")
    buffer = Buffer()
    with bounded(mebibytes=32):
        rows = sum(len(run.names) for run in PacketReader().read_runs([bomb], buffer))
    assert rows == 100
    assert buffer.data.size < 16 * MIB


@pytest.mark.parametrize("count", [1 << 60, -(1 << 60), 100_001, 100_000, 50])
def test_a_container_claims_no_records_that_it_has_not_the_bytes_for(count):
    good = container("ztf", small_alert("ztf"))
    claim = write_container(json.dumps(SCHEMAS["ztf"]).encode(), [(count, bytes(1000))] * 500)
    with bounded():
        cutouts = read_packets(good, claim, good)
    assert (cutouts.flags & Flag.UNREADABLE).tolist() == [0, 1, 0]
    assert "claims to hold" in cutouts.reasons[1]


def test_blocks_without_records_are_nothing():
    claim = write_container(json.dumps(SCHEMAS["ztf"]).encode(), [(0, b"")] * 20_000)
    with bounded():
        assert read_packets(claim).reasons == {0: "it holds no alert"}


def test_a_header_may_not_have_entries_without_end():
    claim = b"Obj\x01" + write_long(1 << 40) + bytes(2 * MIB)
    with bounded():
        assert "claims to have" in read_packets(claim).reasons[0]


def test_texts_are_cut_where_a_column_would_grow_with_them():
    schema = SCHEMAS["ztf"] | {
        "fields": [{"name": "objectId", "type": {"type": "enum", "name": "e", "symbols": ["A" * MIB]}}]
    }
    with bounded():
        cutouts = read_packets(write_container(json.dumps(schema).encode(), [(128, bytes(128))]))
    assert len(cutouts.header["OBJECTID"][0]) <= LONGEST_TEXT
    cards = "".join(f"CONTINUE  '{'x' * 60}&'".ljust(80) for _ in range(5000)).encode()
    first = b"FILTER  = 'x&'".ljust(80)
    long = _with_cards(first + cards, cutout_bytes(star(SHAPE), FILTER=None))
    with bounded(mebibytes=128, seconds=30):
        assert len(read_fits(*[GOOD] * 100, long).header["FILTER"][-1]) == LONGEST_TEXT


def test_what_a_tar_tells_of_a_member_may_not_grow_for_ever(tmp_path):
    entry = tarfile.TarInfo("x")
    entry.type, entry.size = tarfile.XHDTYPE, 200 * MIB
    path = tmp_path / "bomb.tar.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(entry.tobuf(tarfile.USTAR_FORMAT) + bytes(200 * MIB))
    with bounded():
        assert "more of a member than any name takes" in read_packets(str(path)).reasons[0]


def test_names_within_a_tar_are_cut_where_a_column_would_grow_with_them(tmp_path):
    path = tmp_path / "night.tar"
    content = container("ztf", *(small_alert("ztf", seed) for seed in range(50)))
    with tarfile.open(path, "w") as tar:
        entry = tarfile.TarInfo("x" * 500_000 + ".avro")
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    with bounded(mebibytes=32):
        cutouts = read_packets(str(path))
    assert len(cutouts) == 50
    assert cutouts.names.dtype.itemsize <= 4 * 5000


def test_a_large_container_claims_no_records_that_do_not_fit_in_a_number(tmp_path, monkeypatch):
    monkeypatch.setattr(packet_sources, "LARGEST_WHOLE", 1000)
    monkeypatch.setattr(packet_sources, "PIECE", 2000)
    path = tmp_path / "night.avro"
    blocks = [((1 << 63) - 1, bytes(1500))] * 4
    path.write_bytes(write_container(json.dumps(SCHEMAS["ztf"]).encode(), blocks))
    assert read_packets(str(path)).flags.tolist() == [Flag.UNREADABLE]


# Schemas -------------------------------------------------------------------------------------------------------------


def _deep(depth):
    schema = "null"
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return {"type": "record", "name": "ztf.alert", "fields": [{"name": "objectId", "type": schema}]}


def _doubling():
    schema = "long"
    for level in range(200):
        fields = [{"name": "candidate", "type": schema}, {"name": "y", "type": f"r{level - 1}" if level else "long"}]
        schema = {"type": "record", "name": f"r{level}", "fields": fields}
    return schema


def _squared():
    inner = {"type": "record", "name": "c", "fields": [{"name": f"f{k}", "type": "int"} for k in range(2000)]}
    return record_of(("x", inner), ("candidate", ["c"] * 2000))


def record_of(*fields):
    return {"type": "record", "name": "a", "fields": [{"name": name, "type": kind} for name, kind in fields]}


SCHEMA_BOMBS = {
    "deep": (lambda: _deep(900), "RecursionError"),
    "squared": (_squared, f"more than {MOST_NODES} fields"),
    "unknown": (lambda: record_of(("x", "A" * 3 * MIB)), "does not tell what the type A"),
    "fixed": (lambda: record_of(("x", {"type": "fixed", "name": "f", "size": 10**30})), "a fixed of"),
    "infinite": (lambda: record_of(("x", {"type": "fixed", "name": "f", "size": 1e400})), "OverflowError"),
    "negative": (lambda: record_of(("x", {"type": "fixed", "name": "f", "size": -1})), "a fixed of -1"),
}


@pytest.mark.parametrize("name", SCHEMA_BOMBS)
def test_a_schema_bomb_is_refused(name):
    make, words = SCHEMA_BOMBS[name]
    schema = make()
    with bounded(mebibytes=128), pytest.raises(PacketError, match=words) as caught:
        compile_schema(schema, ["candidate.magpsf", "objectId"])
    assert len(str(caught.value)) < 500


def test_types_within_types_are_made_once():
    with bounded():
        program = compile_schema(_doubling(), ["candidate.candidate.candidate"])
    assert len(program.nodes) < 1000
    assert program.least == 1 << 30


def test_megabytes_of_json_take_no_longer_than_they_are():
    fields = [{"name": f"f{k}", "type": ["null", "long"]} for k in range(80_000)]
    schema = json.dumps(SCHEMAS["ztf"] | {"fields": fields}).encode()
    assert 3 * MIB < len(schema) < 4 * MIB
    with bounded(mebibytes=256, seconds=60):
        assert "more than" in read_packets(write_container(schema, [(1, b"")])).reasons[0]


def test_the_least_that_a_record_takes():
    kinds = [
        "null",
        "boolean",
        "int",
        "long",
        "float",
        "double",
        "bytes",
        "string",
        ["null", "double"],
        ["double", "int"],
    ]
    kinds += [{"type": "fixed", "name": "f", "size": 20}, {"type": "enum", "name": "e", "symbols": ["A"]}]
    kinds += [{"type": "array", "items": "double"}, {"type": "map", "values": "long"}]
    fields = [(f"f{k}", kind) for k, kind in enumerate(kinds)]
    assert compile_schema(record_of(*fields), []).least == 0 + 1 + 1 + 1 + 4 + 8 + 1 + 1 + 1 + 2 + 20 + 1 + 1 + 1
    assert compile_schema("null", []).least == 1
    assert compile_schema(record_of(("next", ["a", "long"])), []).least == 1


# FITS ----------------------------------------------------------------------------------------------------------------


def _with_cards(cards, content=GOOD):
    """A file with these cards in its header as well."""
    head = content[: end_of(content)] + cards + b"END"
    return head + b" " * (-len(head) % 2880) + content[data_of(content) :]


@pytest.mark.parametrize("odd", [b"", b"CANDID  = 'a: 5'".ljust(80)], ids=["kernel", "astropy"])
def test_tens_of_thousands_of_cards_take_no_longer_than_they_are(odd):
    for card in (b"HISTORY it", b"DUP     = 5", b"HIERARCH ESO A = 5", b"mag_    = 3"):
        content = _with_cards(odd + card.ljust(80) * 30_000)
        with bounded(mebibytes=256, seconds=60):  # tracemalloc makes astropy slow
            cutouts = read_fits(GOOD, content, GOOD)
        assert cutouts.usable.all(), card
    content = _with_cards(odd + b"mag_    = 3".ljust(80) * 60_000)
    assert "more than 52428 cards" in read_fits(content).reasons[0]


@pytest.mark.parametrize(
    "text",
    [
        "NAXIS1  = 'TABLE'",
        "NAXIS1     (1, 2)",
        "NAXIS1\t= 'a'",
        "HIERARCH HIERARCH NAXIS1 = 'a'",
        "NAXIS1  =5",
        "GCOUNT  = 'a'",
    ],
)
def test_a_text_is_not_multiplied_by_a_size(text):
    sizes = "".join(f"{key:8}= {2147483647:20}".ljust(80) for key in ("NAXIS2", "BITPIX"))
    cards = (
        "SIMPLE  =                    T".ljust(80) + "NAXIS   =                    2".ljust(80) + text.ljust(80) + sizes
    )
    content = (cards + "END").encode().ljust(2880) + bytes(2880)
    with bounded():
        cutouts = read_fits(GOOD, content, GOOD)
    assert cutouts.flags[1] == Flag.UNREADABLE
    assert "a size that there is not" in cutouts.reasons[1]


@pytest.mark.parametrize("value", ["-64", "-1", "-.5", "-1E5"])
@pytest.mark.parametrize("keyword", ["GCOUNT", "PCOUNT", "NAXIS1"])
def test_a_negative_size_is_not_followed(keyword, value):
    content = _with_cards(
        b"".join(f"{key}= {text}".ljust(80).encode() for key, text in ((f"{keyword:8}", value), ("CANDID  ", "'a: 5'")))
    )
    with bounded():
        cutouts = read_fits(GOOD, content, GOOD)
    assert "a size that there is not" in cutouts.reasons[1]


def _compressed(codec, **changes):
    image = np.abs(star((8, 9))).astype("i4")
    hdu = astropy_fits.CompImageHDU(image, name="DIFF", compression_type=codec)
    content = hdu_bytes(astropy_fits.PrimaryHDU(header=astropy_fits.Header(KEYWORDS)), hdu)
    for key, value in changes.items():
        at = content.index(f"{key:8}=".encode())
        content = content[: at + 10] + str(value).rjust(20).ljust(70).encode() + content[at + 80 :]
    return content


@pytest.mark.parametrize("codec", ["RICE_1", "GZIP_1", "GZIP_2"])
def test_a_compressed_image_is_read_where_it_is_whole(codec):
    whole = _compressed(codec)
    assert read_fits(whole).usable.all()
    heap = data_of(whole, whole.index(b"XTENSION"))
    rng = np.random.default_rng(1)
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[int(rng.integers(heap, heap + 400))] ^= int(rng.integers(1, 256))
        read_fits(bytes(damaged))  # never raises, and never ends the process


@pytest.mark.parametrize("codec", ["HCOMPRESS_1", "PLIO_1"])
def test_what_astropy_cannot_decompress_safely_is_refused(codec):
    assert f"it is compressed with {codec}, which cannot be read safely" in read_fits(_compressed(codec)).reasons[0]


@pytest.mark.parametrize(
    ("codec", "changes", "words"),
    [
        ("RICE_1", {"ZVAL1": 2147483647}, "its BLOCKSIZE is none that there is"),
        ("RICE_1", {"ZVAL1": 0}, "its BLOCKSIZE is none that there is"),
        ("RICE_1", {"ZVAL2": 8}, "its BYTEPIX is none that there is"),
        ("RICE_1", {"ZTILE1": 0}, "its tiles are of no size"),
        ("RICE_1", {"ZTILE1": -3}, "its tiles are of no size"),
        ("RICE_1", {"ZNAXIS1": 4000, "ZNAXIS2": 4000, "ZTILE1": 1}, "it has 16000000 tiles"),
        ("RICE_1", {"ZNAXIS1": 4000, "ZTILE1": 4000}, "truncated or damaged"),
        ("RICE_1", {"TFORM1": "'1PJ(20)'"}, "does not hold bytes"),
        ("RICE_1", {"PCOUNT": 10}, "lies elsewhere"),
        ("RICE_1", {"ZNAXIS1": 40_000, "ZNAXIS2": 40_000}, "1600000000 pixels"),
    ],
)
def test_what_a_compressed_image_tells_of_its_tiles_is_checked(codec, changes, words):
    with bounded():
        assert words in read_fits(_compressed(codec, **changes)).reasons[0]


def test_a_dither_is_looked_up_within_its_table():
    hdu = astropy_fits.CompImageHDU(star((8, 9)), name="DIFF", quantize_method=1, dither_seed=5)
    content = hdu_bytes(astropy_fits.PrimaryHDU(), hdu)
    assert read_fits(content).usable.all()
    at = content.index(b"ZDITHER0")
    for value in ("-99999999", "0", "10001", "5.0", "'5'"):
        changed = content[: at + 10] + value.rjust(20).ljust(70).encode() + content[at + 80 :]
        assert "its ZDITHER0 is none that there is" in read_fits(changed).reasons[0]


def test_a_tile_may_not_grow_for_ever():
    content = _compressed("GZIP_1")
    bomb = gzip.compress(bytes(100 * MIB), 9)
    start = data_of(content, content.index(b"XTENSION"))
    rows = np.frombuffer(content, ">i4", 16, start).reshape(8, 2).copy()
    rows[0] = len(bomb), 0
    heap = bomb + bytes(2880 - len(bomb) % 2880)
    changed = content[:start] + rows.tobytes() + heap
    at = changed.index(b"PCOUNT  =")
    changed = changed[: at + 10] + str(len(heap)).rjust(20).ljust(70).encode() + changed[at + 80 :]
    changed += bytes(-len(changed) % 2880)
    with bounded():
        assert "too large when inflated" in read_fits(changed).reasons[0]


# Names ---------------------------------------------------------------------------------------------------------------

ODD_NAMES = [
    "a\nb",
    "c\rd",
    "tab\te",
    "bell\x07",
    "\x1b[2J",
    os.fsdecode(b"\xff\xfe"),
    "q\"'",
    " lead",
    "#hash",
    "\u2028",
    "c,d",
    "-x",
]


@pytest.mark.parametrize("ending", [".fits", ".avro"])
@pytest.mark.parametrize("output", [".dat", ".csv", ".ecsv", ".fits"])
def test_files_of_any_name_are_a_row_each(tmp_path, ending, output):
    folder, model = tmp_path / "in", tmp_path / "m.onnx"
    folder.mkdir()
    model.write_bytes(make_model(make_card(("DIFF",), SHAPE)))
    for k, name in enumerate(ODD_NAMES):
        if ending == ".fits":
            os.rename(write_cutout(tmp_path / "one.fits", k, SHAPE), os.path.join(folder, name + ending))
        else:
            Path(folder, name + ending).write_bytes(container("ztf", small_alert("ztf", k)))
    table = tmp_path / f"scores{output}"
    assert infer(["--cutouts", str(folder), "--model", str(model), "--output", str(table)]) == 0
    found = read_table(table)
    assert len(found) == len(ODD_NAMES)
    assert np.isfinite(found["label1"]).all()
    for name in found["filename"]:
        assert str(name).isprintable()


@pytest.mark.parametrize("name", ["a\0b.fits", "a\0b.avro", "x" * 5000 + ".fits"])
def test_a_name_that_no_file_can_have_is_told(tmp_path, tiny_path, name, capsys):
    assert infer(["--cutouts", name, "--model", str(tiny_path), "--output", str(tmp_path / "x.dat")]) == 2
    assert "there is no" in capsys.readouterr().err


def test_a_name_that_no_file_can_have_is_a_row_of_its_own():
    reader = CutoutReader(("DIFF",), SHAPE)
    cutouts = reader.read(["a\0b.fits", "x" * 5000, "\ud800.fits", os.fsdecode(b"\xff.fits")])
    assert cutouts.flags.tolist() == [Flag.UNREADABLE] * 4
    assert read_packets("a\0b.avro", "\ud800.avro").flags.tolist() == [Flag.UNREADABLE] * 2


# Models --------------------------------------------------------------------------------------------------------------


def _outside(model, tensor, location):
    raw = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(len(raw)))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return raw, model.SerializeToString()


def _weight(model):
    return next(each for each in model.graph.initializer if each.name == "dense")


@pytest.mark.parametrize("where", ["here.bin", "../here.bin", "absolute", "*/_ORT_MEM_ADDR_/*"])
def test_weights_in_another_file_are_refused(tmp_path, monkeypatch, where):
    inner = tmp_path / "inner"
    inner.mkdir()
    monkeypatch.chdir(inner)
    location = str(tmp_path / "here.bin") if where == "absolute" else where
    model = onnx.load_model_from_string(make_model())
    raw, content = _outside(model, _weight(model), location)
    for place in (tmp_path, inner):
        (place / "here.bin").write_bytes(raw)
    with pytest.raises(ModelError, match="some of its weights lie in another file"):
        Scorer(content)
    (inner / "m.onnx").write_bytes(content)
    with pytest.raises(ModelError, match="some of its weights lie in another file"):
        Scorer(inner / "m.onnx")


def _as_attribute(model):
    weight = _weight(model)
    node = helper.make_node("Constant", [], ["dense"], value=weight)
    model.graph.initializer.remove(weight)
    model.graph.node.insert(0, node)
    return model.graph.node[0].attribute[0].t


def _in_branch(model):
    branch = helper.make_graph([], "inner", [], [], [_weight(model)])
    node = helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)
    model.graph.node.append(node)
    return model.graph.node[-1].attribute[1].g.initializer[0]


def _in_function(model):
    node = helper.make_node("Constant", [], ["y"], value=_weight(model))
    model.functions.append(helper.make_function("d", "f", [], ["y"], [node], [helper.make_opsetid("", 17)]))
    return model.functions[0].node[0].attribute[0].t


def _sparse(model):
    sparse = model.graph.sparse_initializer.add()
    sparse.values.CopyFrom(_weight(model))
    return sparse.values


@pytest.mark.parametrize("hide", [_as_attribute, _in_branch, _in_function, _sparse])
def test_weights_in_another_file_are_found_wherever_a_model_may_hold_them(hide):
    model = onnx.load_model_from_string(make_model())
    _, content = _outside(model, hide(model), "here.bin")
    with pytest.raises(ModelError, match="some of its weights lie in another file"):
        Scorer(content)


def test_a_model_may_use_the_word():
    model = onnx.load_model_from_string(make_model())
    model.doc_string = "location"
    _weight(model).data_location = onnx.TensorProto.DEFAULT
    assert Scorer(model.SerializeToString()).card.name == "tiny"
    for content in (b"location" * 100, make_model()[:-7] + b"location", b"\x3a\xff\xff\xff\xff\x0flocation"):
        with pytest.raises(ModelError, match="is not an ONNX model"):
            Scorer(content)


def test_the_runtimes_own_format_is_not_read():
    with pytest.raises(ModelError, match="is not an ONNX model"):
        Scorer(b"\x20\0\0\0ORTM" + bytes(1000))


def test_golden_cutouts_may_not_grow_for_ever():
    content = json.loads(full_card().to_json())
    packed = base64.b64encode(zlib.compress(bytes(200 * MIB), 9)).decode()
    for shape in (content["golden"]["shape"], [1 << 20, 64, 64, 1], [-1, 64, 64, 1]):
        content["golden"] |= {"pixels": packed, "shape": shape}
        with bounded(), pytest.raises(ModelError, match="incomplete or damaged"):
            ModelCard.from_json(json.dumps(content))


@pytest.mark.parametrize(
    "changes",
    [
        {"name": 5},
        {"name": "a\nb"},
        {"version": "\x1b[2J"},
        {"description": "\ud800"},
        {"training": {"note": "\ud800"}},
        {"planes": ["DIFF", "DIFF"]},
        {"size": [64.0, 64]},
        {"size": [True, 64]},
        {"size": [0, 64]},
        {"size": [1 << 40, 64]},
        {"golden": {"shape": [1, 2, 3, 1], "pixels": "eJxjYBgFAAABSAAB", "scores": [0.5]}},
        {"normalisation": {"method": "l2", "padding": {"value": 1e39}}},
    ],
)
def test_a_card_that_would_harm_whoever_shows_or_uses_it_is_refused(changes):
    content = json.loads(full_card().to_json()) | changes
    with pytest.raises(ModelError, match="incomplete or damaged") as caught:
        ModelCard.from_json(json.dumps(content))
    assert str(caught.value).isprintable()


def test_no_model_of_this_kind_can_be_run():
    model = onnx.load_model_from_string(make_model())
    model.graph.initializer[0].dims[0] = 3
    with pytest.raises(ModelError, match="is not an ONNX model that onnxruntime can run"):
        Scorer(model.SerializeToString())


# What is not there ---------------------------------------------------------------------------------------------------

FORBIDDEN = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}


@pytest.mark.parametrize("package", ["otrain_infer", "otrain_train"])
def test_nothing_is_unpickled(package):
    for path in (Path(__file__).parents[2] / package).glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert not FORBIDDEN & {name.name.partition(".")[0] for name in node.names}, path
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").partition(".")[0] not in FORBIDDEN, path
            elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert isinstance(node.value, ast.Constant), path
                assert node.value.value is False, path
            elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("eval", "exec"):
                pytest.fail(f"{path} evaluates text")
