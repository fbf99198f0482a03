"""Alert packets in Arrow and Parquet, against the same packets in Avro."""

import datetime
import decimal
import importlib
import sys

import numpy as np
import pytest
from packet_files import SCHEMAS, SIZES, alert, container, images, stamp

pa = pytest.importorskip("pyarrow")

from arrow_files import table  # noqa: E402
from pyarrow import parquet  # noqa: E402

from otrain_infer.alerts import AlertReader, iter_alerts  # noqa: E402
from otrain_infer.arrow_packets import ArrowPackets, for_planes, iter_parquet, layout_of, read_schema  # noqa: E402
from otrain_infer.cutouts import Cutouts  # noqa: E402
from otrain_infer.errors import MissingExtraError, PacketError  # noqa: E402
from otrain_infer.flags import CutoutFlag as Flag  # noqa: E402
from otrain_infer.mapping import Field, PacketMapping, known_surveys  # noqa: E402

PLANES = ("SCI", "REF", "DIFF")
SURVEYS = {mapping.name: mapping for mapping in known_surveys()}


def cut_out(batches, mapping, size=(63, 63)):
    reader = AlertReader(PLANES, size)
    packets = [ArrowPackets(batch, mapping) for batch in batches]
    return Cutouts.concatenate([reader.cut_out(part, [""] * len(part), {}) for part in packets])


def read_avro(survey, *alerts, size=(63, 63)):
    return Cutouts.concatenate(list(iter_alerts(container(survey, *alerts), planes=PLANES, size=size)))


def assert_same(found, expected):
    np.testing.assert_array_equal(found.pixels, expected.pixels)
    np.testing.assert_array_equal(found.flags, expected.flags)
    assert found.reasons == expected.reasons
    for key, column in expected.header.items():
        np.testing.assert_array_equal(found.header[key], column, err_msg=key)


@pytest.mark.parametrize("survey", SCHEMAS)
def test_packets_of_each_survey_are_those_of_avro(survey):
    size = SIZES.get(survey, (63, 63))
    alerts = [alert(survey, seed, **({"ra": 0.1 + seed} if survey != "atlas" else {})) for seed in range(3)]
    told = SURVEYS[survey] if survey == "turbo" else None  # whose packets only the name of their record tells
    rows = table(survey, *alerts)
    layout = layout_of(rows.schema, told)
    assert layout is SURVEYS[survey]
    assert_same(cut_out(rows.to_batches(), layout, size), read_avro(survey, *alerts, size=size))


def _odd_alerts():
    odd = [alert("ztf", seed) for seed in range(9)]
    odd[1]["cutoutTemplate"] = None
    odd[2]["cutoutTemplate"] = {"fileName": "x", "stampData": b""}
    odd[3]["cutoutScience"] = {"fileName": "x", "stampData": b"no FITS file"}
    odd[4]["cutoutDifference"]["stampData"] = odd[4]["cutoutDifference"]["stampData"][:-30]
    odd[5] = alert("ztf", 5, xpos=None, ypos=None, fwhm=-999.0)
    odd[6] = alert("ztf", 6, shape=(40, 63), xpos=1000.0, ypos=3.0)
    odd[7]["cutoutScience"] = {"fileName": "x", "stampData": stamp(np.full((63, 63), np.nan, np.float32))}
    return odd


def test_rows_of_no_use_and_odd_ones_are_those_of_avro():
    rows, expected = table("ztf", *_odd_alerts()), read_avro("ztf", *_odd_alerts())
    assert expected.usable.tolist() == [True, False, False, False, False, True, True, False, True]
    assert_same(cut_out(rows.to_batches(), SURVEYS["ztf"]), expected)


def test_pieces_of_a_batch_are_the_pieces_of_what_it_holds():
    (batch,) = table("ztf", *_odd_alerts()).to_batches()
    whole = cut_out([batch], SURVEYS["ztf"])
    for start, stop in ((0, 1), (2, 5), (5, 9), (8, 9)):
        assert_same(cut_out([batch.slice(start, stop - start)], SURVEYS["ztf"]), whole.select(slice(start, stop)))
        packets = ArrowPackets(batch.slice(1), SURVEYS["ztf"])[start : stop - 1]
        assert len(packets) == stop - 1 - start
        if len(packets):
            assert_same(cut_out([packets.batch], SURVEYS["ztf"]), whole.select(slice(start + 1, stop)))
    assert len(cut_out([batch.slice(0, 0)], SURVEYS["ztf"])) == 0


def test_no_row_may_have_a_structure():
    rows = table("ztf", *_odd_alerts()[:2])
    nothing = pa.nulls(2, rows.schema.field("candidate").type)
    cutouts = cut_out(rows.set_column(3, rows.schema.field("candidate"), nothing).to_batches(), SURVEYS["ztf"])
    assert np.isnan(cutouts.header["RA"]).all()
    assert cutouts.flags.tolist() == [Flag.MISSING_KEYWORD, Flag.MISSING_KEYWORD | Flag.MISSING_PLANE]


def packets_of(array, path="a"):
    column = PacketMapping("one", {"DIFF": (path,)}, {"MAG": Field((path,))})
    return ArrowPackets(pa.RecordBatch.from_arrays([array], [path]), column)


@pytest.mark.parametrize(
    ("array", "numbers", "texts"),
    [
        (pa.array([7, None], pa.int8()), [7, np.nan], ["7", ""]),
        (pa.array([2**60 + 1, None], pa.int64()), [float(2**60), np.nan], [str(2**60 + 1), ""]),
        (pa.array([2**63, None], pa.uint64()), [float(2**63), np.nan], [str(2**63), ""]),
        (pa.array([2.0**61, None]), [2.0**61, np.nan], [str(2**61), ""]),
        (pa.array([0.5, None], pa.float32()), [0.5, np.nan], ["0.5", ""]),
        (pa.array([True, False, None]), [1, 0, np.nan], ["True", "False", ""]),
        (pa.array([decimal.Decimal("1.50"), None]), [1.5, np.nan], ["1.50", ""]),
        (pa.array([" 12.5 ", "x", None]), [12.5, np.nan, np.nan], ["12.5", "x", ""]),
        (pa.array(["7", None], pa.large_string()), [7, np.nan], ["7", ""]),
        (pa.array([b"7", b"\xff"]), [7, np.nan], ["7", "\ufffd"]),
        (pa.array(["r", None, "g", "r"]).dictionary_encode(), [np.nan] * 4, ["r", "", "g", "r"]),
        (pa.array([1.5, None, 1.5]).dictionary_encode(), [1.5, np.nan, 1.5], ["1.5", "", "1.5"]),
        (pa.nulls(2), [np.nan] * 2, [""] * 2),
        (pa.array([datetime.date(2026, 1, 2)]), [np.nan], ["2026-01-02"]),
        (pa.array([None, 2**31 - 1], pa.date32()), [np.nan] * 2, ["", "<value out of range: 2147483647>"]),
        (pa.array([1, None], pa.timestamp("ns")), [np.nan] * 2, ["1970-01-01 00:00:00.000000001", ""]),
        (pa.array([1], pa.duration("ns")), [np.nan], ["1"]),
        (pa.array([[1.0], None]), [np.nan] * 2, [""] * 2),
    ],
    ids=lambda each: str(each.type) if isinstance(each, pa.Array) else "",
)
def test_fields_of_every_type_are_numbers_and_texts(array, numbers, texts):
    packets = packets_of(array)
    np.testing.assert_array_equal(packets.numbers(0), numbers)
    assert packets.texts(0).tolist() == texts
    np.testing.assert_array_equal(packets[1:].numbers(0), numbers[1:])


def test_texts_that_are_no_text_are_read():
    content = [None, pa.py_buffer(np.array([0, 2], np.int32)), pa.py_buffer(b"\xff7")]
    assert packets_of(pa.Array.from_buffers(pa.string(), 1, content)).texts(0).tolist() == ["\ufffd7"]
    assert packets_of(pa.array(["x" * 5000])).texts(0).tolist() == ["x" * 256]


def test_a_field_that_is_not_there_is_missing():
    packets = ArrowPackets(
        pa.RecordBatch.from_arrays([pa.array([1, 2])], ["b"]), packets_of(pa.nulls(2), "b.a").mapping
    )
    assert np.isnan(packets.numbers(0)).all()
    assert packets.texts(0).tolist() == ["", ""]
    assert packets.stamps(0)[1].tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(
    "kind",
    [pa.binary(), pa.large_binary(), pa.binary_view(), pa.string(), pa.dictionary(pa.int32(), pa.binary())],
    ids=str,
)
def test_stamps_of_every_type_are_bytes(kind):
    values = [b"abc", None, b"", b"defg"]
    array = pa.array(values).dictionary_encode() if pa.types.is_dictionary(kind) else pa.array(values, kind)
    for start in range(4):
        data, bounds = packets_of(array)[start:].stamps(0)
        assert [data[first:last].tobytes() for first, last in bounds.tolist()] == [x or b"" for x in values[start:]]


def test_stamps_lie_where_arrow_has_them():
    array = pa.array([b"abc", b"def"])
    data, _ = packets_of(array)[1:].stamps(0)
    assert data.ctypes.data == array.buffers()[2].address
    nothing = packets_of(pa.nulls(3, pa.binary())).stamps(0)[1]
    assert nothing.tolist() == [[0, 0]] * 3


def test_fields_may_lie_flat():
    """As Fink and others store them: by their own name, or by their whole path."""
    alerts = [alert("ztf", seed, rcid=None) for seed in range(2)]
    rows, expected = table("ztf", *alerts), read_avro("ztf", *alerts)
    stamps = {name: rows[name].combine_chunks().field("stampData") for name in rows.column_names if "cutout" in name}
    candidate = rows["candidate"].combine_chunks()
    names = [field.name for field in candidate.type]
    flat = {"objectId": rows["objectId"], **dict(zip(names, candidate.flatten(), strict=True))}
    with pytest.raises(PacketError, match=r"of no survey that is recognised .*tell where its fields are by a mapping"):
        layout_of(pa.table(flat | stamps).schema)
    assert_same(
        cut_out(pa.table(flat | stamps).to_batches(), layout_of(pa.table(flat | stamps).schema, SURVEYS["ztf"])),
        expected,
    )
    dotted = {"objectId": rows["objectId"], "candid": rows["candid"]}
    dotted |= {f"candidate.{name}": column for name, column in zip(names, candidate.flatten(), strict=True)}
    dotted |= {f"{name}.stampData": column for name, column in stamps.items()}
    assert_same(cut_out(pa.table(dotted).to_batches(), layout_of(pa.table(dotted).schema)), expected)


def test_a_mapping_whose_stamps_are_not_there_is_told():
    with pytest.raises(PacketError, match="none of the stamps of the mapping winter"):
        layout_of(pa.schema([("a", pa.binary())]), SURVEYS["winter"])


def test_parquet_is_read_piece_by_piece_and_no_more_of_it_than_is_wanted(tmp_path):
    alerts = [alert("ztf", seed) for seed in range(10)]
    parquet.write_table(table("ztf", *alerts), tmp_path / "night.parquet", row_group_size=6)
    layout = layout_of(read_schema(tmp_path / "night.parquet"))
    wanted = for_planes(layout, ("DIFF",))
    assert not [path for path in wanted.paths if "Science" in path]
    batches = list(iter_parquet(tmp_path / "night.parquet", 4, wanted.paths))
    assert max(batch.num_rows for batch in batches) <= 4
    names = {name for batch in batches for name in batch.schema.names}
    assert names == {"objectId", "candid", "candidate", "cutoutDifference"}
    assert "rcid" not in str(batches[0].schema)
    (expected,) = iter_alerts(container("ztf", *alerts), planes=("DIFF",), size=(63, 63))
    reader = AlertReader(("DIFF",), (63, 63))
    parts = [reader.cut_out(ArrowPackets(batch, wanted), [""] * len(batch), {}) for batch in batches]
    assert_same(Cutouts.concatenate(parts), expected)
    assert_same(cut_out(iter_parquet(str(tmp_path / "night.parquet")), layout), read_avro("ztf", *alerts))


def test_parquet_with_names_that_are_no_text_is_told(tmp_path):
    path = tmp_path / "night.parquet"
    odd = table("ztf", alert("ztf")).append_column("odd_name", pa.array([1]))
    parquet.write_table(odd, path, store_schema=False)
    path.write_bytes(path.read_bytes().replace(b"odd_name", b"odd_\xff\xff\xff\xff"))
    (cutouts,) = iter_alerts(path, planes=("DIFF",), size=(63, 63))
    assert "cannot be read ('utf-8' codec" in cutouts.reasons[0]


def test_parquet_that_is_damaged_is_told(tmp_path):
    path = tmp_path / "night.parquet"
    parquet.write_table(table("ztf", *(alert("ztf", seed) for seed in range(8))), path, row_group_size=4)
    content = path.read_bytes()
    for broken in (content[:-20], b"rubbish", b""):
        path.write_bytes(broken)
        with pytest.raises(PacketError, match=f"the Parquet file '{path}' cannot be read") as caught:
            list(iter_parquet(path))
        assert "\n" not in str(caught.value)
    with pytest.raises(PacketError, match=r"no\.parquet' cannot be read \(No such file"):
        read_schema(tmp_path / "no.parquet")
    middle = parquet.ParquetFile(pa.BufferReader(content)).metadata.row_group(1).column(0).data_page_offset
    path.write_bytes(content[:middle] + bytes(64) + content[middle + 64 :])
    batches = iter_parquet(path, 4)
    assert next(batches).num_rows == 4
    with pytest.raises(PacketError, match=f"the Parquet file '{path}' cannot be read"):
        next(batches)


def test_without_pyarrow_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "otrain_infer.arrow_packets")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingExtraError, match=r"need pyarrow: pip install 'otrain\[parquet\]'"):
        importlib.import_module("otrain_infer.arrow_packets")


def test_images_are_those_that_were_drawn():
    (batch,) = table("ztf", alert("ztf", 4)).to_batches()
    for plane, image in enumerate(images(4)):
        np.testing.assert_array_equal(cut_out([batch], SURVEYS["ztf"]).pixels[0, :, :, plane], image)
