"""The walk through Avro records, against fastavro on schemas of every shape."""

import io
import itertools
import random
import struct

import fastavro
import fastavro.utils
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otrain_infer import avro, avro_kernels
from otrain_infer.avro import compile_schema, iter_blocks, parse_schema, read_header
from otrain_infer.avro_codecs import decompress
from otrain_infer.errors import PacketError
from otrain_infer.packets import AvroPackets

PRIMITIVE = st.sampled_from(["null", "boolean", "int", "long", "float", "double", "bytes", "string"])
_names = itertools.count()


def _name(_):
    return f"n{next(_names)}"


def _named(kind, **fields):
    return st.fixed_dictionaries({"type": st.just(kind), "name": st.just(None).map(_name), **fields})


def _record(types):
    fields = st.lists(st.fixed_dictionaries({"name": st.just(None).map(_name), "type": types}), max_size=4)
    return _named("record", fields=fields)


LEAVES = PRIMITIVE | _named("enum", symbols=st.just(["A", "B", "C"])) | _named("fixed", size=st.integers(0, 20))
TYPES = st.recursive(
    LEAVES,
    lambda types: st.one_of(
        _record(types),
        types.map(lambda items: {"type": "array", "items": items}),
        types.map(lambda values: {"type": "map", "values": values}),
        types.filter(lambda kind: not isinstance(kind, list) and kind != "null").map(lambda kind: ["null", kind]),
        st.just(["int", "string", "null", "double"]),
    ),
    max_leaves=12,
)


def paths_of(schema):
    """Every path to a value other than null that holds no other, but for those within arrays and maps."""
    for branch in schema if isinstance(schema, list) else [schema]:
        if isinstance(branch, dict) and branch["type"] == "record":
            for field in branch["fields"]:
                yield from ((field["name"], *path) for path in paths_of(field["type"]))
        elif branch != "null" and not (isinstance(branch, dict) and branch["type"] in ("array", "map")):
            yield ()


def at(value, path):
    for name in path:
        value = value[name] if isinstance(value, dict) else None
    return value


def walk(program, slots, data, blocks):
    rows = sum(block[2] for block in blocks)
    found, ends = np.full((rows, slots, 3), -7, np.int64), np.full(rows, -7, np.int64)
    taken = np.frombuffer(data, np.uint8).copy()
    avro_kernels.walk_blocks(taken, np.array(blocks, np.int64), program.nodes, program.children, found, ends)
    layout = type("Layout", (), {"program": program})
    return AvroPackets(layout, taken, found), ends


def check(packets, slot, row, expected):
    data, bounds = packets.stamps(slot)
    content = data[slice(*bounds[row])].tobytes()
    number, text = packets.numbers(slot)[row], packets.texts(slot)[row]
    if expected is None or isinstance(expected, list | dict):
        assert (content, text) == (b"", "")
        assert np.isnan(number)
    elif isinstance(expected, bool | int):
        assert (text, number) == (str(expected), float(expected))
    elif isinstance(expected, float):
        np.testing.assert_equal(number, expected)
    elif isinstance(expected, bytes):
        assert content == expected
    elif content:
        assert content == expected.encode()
    else:
        assert text == expected


@settings(max_examples=200, deadline=None)
@given(schema=_record(TYPES), seed=st.integers(0, 1 << 30))
def test_every_value_is_found_where_fastavro_finds_it(schema, seed):
    random.seed(seed)
    records = list(fastavro.utils.generate_many(fastavro.parse_schema(schema), 3))
    paths = [path for path in dict.fromkeys(paths_of(schema)) if path]
    file, stops = io.BytesIO(), []
    for record in records:
        fastavro.schemaless_writer(file, schema, record)
        stops.append(file.tell())
    file.seek(0)
    decoded = [fastavro.schemaless_reader(file, schema, None) for _ in records]
    program = compile_schema(schema, [".".join(path) for path in paths])
    packets, ends = walk(program, len(paths), file.getvalue(), [(0, stops[-1], len(records))])
    assert ends.tolist() == stops
    assert program.present == set(range(len(paths)))
    for row, slot in itertools.product(range(len(records)), range(len(paths))):
        check(packets, slot, row, at(decoded[row], paths[slot]))


@settings(max_examples=200, deadline=None)
@given(data=st.data(), schema=_record(TYPES), seed=st.integers(0, 1 << 30))
def test_damaged_records_are_refused_or_read_within_their_bounds(data, schema, seed):
    random.seed(seed)
    file = io.BytesIO()
    fastavro.schemaless_writer(file, schema, fastavro.utils.generate_one(fastavro.parse_schema(schema)))
    content = bytearray(file.getvalue())
    if content:
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] ^= data.draw(st.integers(1, 255))
    content = bytes(content[: data.draw(st.integers(0, len(content)))])
    paths = [path for path in dict.fromkeys(paths_of(schema)) if path]
    program = compile_schema(schema, [".".join(path) for path in paths])
    # Around it lie bytes that a walk beyond its bounds would take for lengths.
    packets, ends = walk(program, len(paths), b"\x7f" * 40 + content + b"\x7f" * 40, [(40, 40 + len(content), 1)])
    assert ends[0] in (-1, -2, 40 + len(content))
    for slot in range(len(paths)):
        bounds = packets.found[0, slot]
        if bounds[0] in (avro_kernels.BYTES, avro_kernels.FIXED):
            assert 40 <= bounds[1] <= bounds[2] <= 40 + len(content)


RECURSIVE = {
    "type": "record",
    "name": "a.node",
    "fields": [{"name": "value", "type": "long"}, {"name": "next", "type": ["null", "node"]}],
}


def _chain(length):
    return None if length == 0 else {"value": length, "next": _chain(length - 1)}


def test_a_type_may_hold_itself_as_deep_as_the_stack_goes():
    program = compile_schema(RECURSIVE, ["value", "next.value", "next.next.value"])
    for length, ends in ((3, True), (avro_kernels.DEPTH, True), (avro_kernels.DEPTH + 1, False)):
        file = io.BytesIO()
        fastavro.schemaless_writer(file, RECURSIVE, _chain(length))
        packets, stops = walk(program, 3, file.getvalue(), [(0, file.tell(), 1)])
        assert (stops[0] == file.tell()) == ends
        if ends:
            assert [packets.numbers(slot)[0] for slot in range(3)] == [length, length - 1, length - 2]


def test_blocks_of_arrays_that_tell_their_size_are_stepped_over():
    schema = {
        "type": "record",
        "name": "r",
        "fields": [{"name": "a", "type": {"type": "array", "items": "long"}}, {"name": "b", "type": "long"}],
    }
    program = compile_schema(schema, ["b"])
    # -2 items, 2 bytes, the items; 1 item without a size; the end; b = 21.
    packets, ends = walk(program, 1, bytes([3, 4, 2, 4, 2, 8, 0, 42]), [(0, 8, 1)])
    assert ends[0] == 8
    assert packets.numbers(0)[0] == 21


@pytest.mark.parametrize(
    "items",
    ["null", {"type": "fixed", "name": "f", "size": 0}, {"type": "record", "name": "e", "fields": []}],
)
def test_items_without_bytes_do_not_take_for_ever(items):
    schema = {"type": "record", "name": "r", "fields": [{"name": "a", "type": {"type": "array", "items": items}}]}
    file = io.BytesIO()
    fastavro.schemaless_writer(file, {"type": "array", "items": "null"}, [])
    endless = b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01\x00"
    _, ends = walk(compile_schema(schema, []), 0, endless, [(0, len(endless), 1)])
    assert ends[0] == -1


def test_items_without_bytes_take_no_longer_in_many_records_than_in_one():
    schema = {"type": "record", "name": "r", "fields": [{"name": "a", "type": {"type": "array", "items": "null"}}]}
    nulls = b"\xc0\x9a\x0c\0"  # 100,000 of them, for which each of the blocks below has the steps once
    assert avro.read_long(memoryview(nulls), 0, 4) == (100_000, 3)
    _, ends = walk(compile_schema(schema, []), 0, nulls * 1000, [(0, 4, 1), (0, 4000, 1000)])
    assert ends[:2].tolist() == [4, 4]
    assert (ends[2:] == -1).all()


def test_records_within_records_without_bytes_do_not_take_for_ever():
    schema = "null"
    for level in range(40):
        fields = [{"name": "x", "type": schema}, {"name": "y", "type": f"r{level - 1}" if level else "null"}]
        schema = {"type": "record", "name": f"r{level}", "fields": fields}
    _, ends = walk(compile_schema(schema, []), 0, b"", [(0, 0, 1)])
    assert ends[0] == -1


def test_records_that_leave_bytes_are_all_refused():
    program = compile_schema(RECURSIVE, ["value"])
    file = io.BytesIO()
    fastavro.schemaless_writer(file, RECURSIVE, _chain(1))
    content = file.getvalue() * 2
    _, ends = walk(program, 1, content + b"\0", [(0, len(content) + 1, 2), (0, len(content), 2)])
    assert ends.tolist() == [-2, -2, len(content) // 2, len(content)]


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        (b"{", "no JSON"),
        (b"[" * 100_000, "no JSON"),
        (b"[" * 900 + b"]" * 900, "no Avro schema"),
        (b'{"type": "record", "name": "r", "fields": [{"name": "a", "type": "unknown"}]}', "no Avro schema"),
        (b'{"type": "record"}', "no Avro schema"),
        (b'{"type": "enum", "name": "e"}', "no Avro schema"),
        (b"17", "no Avro schema"),
        (b'{"name": 1}', "no Avro schema"),
        (b" " * ((1 << 22) + 1), "bytes"),
    ],
)
def test_what_is_no_schema_is_told(schema, words):
    with pytest.raises(PacketError, match=words):
        compile_schema(parse_schema(schema), ["a"])


CODECS = ("null", "deflate", "snappy", "zstandard", "bzip2", "xz")


@pytest.mark.parametrize("named", ["items", "values", "fields"])
def test_an_attribute_of_ones_own_is_no_schema(named):
    program = compile_schema(record_of({"type": "int", named: {"1": "g"}}), ["a"])
    packets, _ = walk(program, 1, b"\x0e", [(0, 1, 1)])
    assert packets.numbers(0)[0] == 7


def test_structures_are_not_fields():
    inner = record_of("bytes") | {"name": "inner"}
    program = compile_schema(record_of(["null", inner]), ["a", "a.a"])
    assert program.present == {1}


@pytest.mark.parametrize("codec", CODECS)
def test_blocks_of_every_codec_are_what_fastavro_wrote(codec):
    file = io.BytesIO()
    records = [_chain(3 + k) for k in range(50)]
    fastavro.writer(file, RECURSIVE, records, codec=codec, sync_interval=100)
    data = memoryview(file.getvalue())
    header = read_header(data, 0, len(data))
    assert header.codec == codec
    assert avro.parse_schema(header.schema)["name"].endswith("node")
    values = []
    program = compile_schema(parse_schema(header.schema), ["value"])
    for start, stop, count in iter_blocks(data, header, len(data)):
        content = bytes(data[start:stop]) if codec == "null" else decompress(codec, data[start:stop])
        packets, ends = walk(program, 1, content, [(0, len(content), count)])
        assert (ends > 0).all()
        values += packets.numbers(0).tolist()
    assert values == [3 + k for k in range(50)]


@pytest.mark.parametrize("codec", CODECS[1:])
def test_damaged_and_swollen_blocks_are_refused(codec, monkeypatch):
    file = io.BytesIO()
    schema = {"type": "record", "name": "r", "fields": [{"name": "a", "type": "bytes"}]}
    fastavro.writer(file, schema, [{"a": bytes(1 << 20)}], codec=codec)
    data = memoryview(file.getvalue())
    (start, stop, _), *_ = iter_blocks(data, read_header(data, 0, len(data)), len(data))
    block = data[start:stop]
    assert len(decompress(codec, block)) > 1 << 20
    for damaged in (block[: len(block) // 2], b"\xff" * 40, b"", b"abc"):
        with pytest.raises(PacketError, match="one of its blocks"):
            decompress(codec, memoryview(damaged))
    monkeypatch.setattr("otrain_infer.avro_codecs.LARGEST_BLOCK", 1 << 19)
    with pytest.raises(PacketError, match="MiB when inflated"):
        decompress(codec, block)


def test_an_unknown_codec_is_told():
    with pytest.raises(PacketError, match="codec 'lzo' is not one of null, deflate, snappy, zstandard, bzip2, xz"):
        decompress("lzo", memoryview(b""))


def test_numbers_of_every_length_are_read_as_the_kernel_reads_them():
    for value in (0, -1, 1, 63, 64, -64, -65, 1 << 30, -(1 << 31), (1 << 63) - 1, -(1 << 63)):
        file = io.BytesIO()
        fastavro.schemaless_writer(file, "long", value)
        content = file.getvalue()
        assert avro.read_long(memoryview(content), 0, len(content)) == (value, len(content))
        packets, _ = walk(compile_schema(record_of("long"), ["a"]), 1, content, [(0, len(content), 1)])
        assert packets.texts(0)[0] == str(value)


def record_of(kind):
    return {"type": "record", "name": "r", "fields": [{"name": "a", "type": kind}]}


def test_floats_are_those_that_were_written():
    for kind, code in (("float", "<f"), ("double", "<d")):
        for value in (0.0, -0.0, 1.5, np.inf, -np.inf, np.nan, 3e38, 1e-45):
            content = struct.pack(code, value)
            packets, _ = walk(compile_schema(record_of(kind), ["a"]), 1, content, [(0, len(content), 1)])
            np.testing.assert_equal(packets.numbers(0)[0], struct.unpack(code, content)[0])
