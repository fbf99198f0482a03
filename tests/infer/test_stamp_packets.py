"""Stamps and decoded alerts in memory, against the packets that they came in."""

import io
from collections import UserDict
from decimal import Decimal
from uuid import UUID

import fastavro
import numpy as np
import pytest
from networks import make_card, make_model
from packet_files import CUTOUTS, SCHEMAS, alert, container, stamp

from otrain_infer import Scorer
from otrain_infer.alerts import iter_alerts
from otrain_infer.cutouts import NUMBERS, TEXTS, Cutouts
from otrain_infer.errors import UsageError
from otrain_infer.flags import CutoutFlag as Flag
from otrain_infer.mapping import Field, PacketMapping
from otrain_infer.stamp_packets import StampPackets, read_decoded, read_stamps

PLANES = ("SCI", "REF", "DIFF")
CARD = make_card(PLANES, (63, 63))
N = 150


@pytest.fixture(scope="module")
def alerts():
    """More than are read at once: whole ones, some that are cut off at either side, and what cannot be scored."""
    alerts = [alert("ztf", seed, xpos=10.0 if seed % 2 else 3000.0) for seed in range(N)]
    for seed in range(3, N, 10):
        alerts[seed] = alert("ztf", seed, shape=(63, 40), xpos=10.0 if seed % 20 == 3 else 3000.0)
    alerts[11]["cutoutTemplate"] = None
    alerts[12]["cutoutDifference"]["stampData"] = b"no FITS file"
    alerts[14]["cutoutScience"]["stampData"] = alerts[14]["cutoutScience"]["stampData"][:50]
    alerts[15]["cutoutScience"]["stampData"] = stamp(np.ones((63, 63), np.float32))
    alerts[16] = alert("ztf", 16, xpos=None, ypos=None, fwhm=None, rcid=None, pdiffimfilename=None, shape=(40, 40))
    return alerts


@pytest.fixture(scope="module")
def expected(alerts):
    return Cutouts.concatenate(list(iter_alerts(container("ztf", *alerts), card=CARD)))


def test_decoded_alerts_are_what_their_packets_are(alerts, expected):
    cutouts = read_decoded(alerts, card=CARD)
    np.testing.assert_array_equal(cutouts.pixels, expected.pixels)
    np.testing.assert_array_equal(cutouts.flags, expected.flags)
    for key in (*NUMBERS, *TEXTS):
        np.testing.assert_array_equal(cutouts.header[key], expected.header[key])
    assert cutouts.reasons == expected.reasons
    assert sorted(cutouts.reasons) == [11, 12, 14, 15]


@pytest.mark.parametrize("survey", sorted(set(SCHEMAS) - {"turbo"}))
def test_the_survey_is_known_by_the_fields(survey):
    packets = container(survey, *(alert(survey, seed) for seed in range(3)))
    cutouts = read_decoded([UserDict(each) for each in fastavro.reader(io.BytesIO(packets))], card=CARD)
    (expected,) = iter_alerts(packets, card=CARD)
    np.testing.assert_array_equal(cutouts.pixels, expected.pixels)
    np.testing.assert_array_equal(cutouts.flags, expected.flags)
    for key in (*NUMBERS, *TEXTS):
        np.testing.assert_array_equal(cutouts.header[key], expected.header[key])


def test_alerts_of_several_surveys_and_of_none_stay_in_order():
    several = [alert("ztf", 1), alert("lsst", 2), {}, None, {"candidate": None}, alert("ztf", 3), alert("turbo", 4)]
    cutouts = read_decoded(several, card=CARD)
    assert cutouts.header["CANDID"].tolist() == ["7001", "7002", "", "", "", "7003", ""]
    assert (cutouts.flags == Flag.UNREADABLE).tolist() == [False, False, True, True, True, False, True]
    assert "of no survey that is recognised" in cutouts.reasons[2]
    assert read_decoded([], card=CARD).pixels.shape == (0, 63, 63, 3)


def test_a_mapping_tells_where_the_fields_are():
    fields = {"CANDID": Field(("id",)), "MAG": Field(("deep.mag",)), "FILTER": Field(("band",))}
    mapping = PacketMapping("mine", {"DIFF": ("stamps.difference", "other")}, fields)
    first, second = stamp(np.eye(63, dtype=np.float32)), memoryview(stamp(np.eye(63, dtype=np.float32)[::-1]))
    alerts = [
        {"id": 5, "deep": {"mag": "18.5"}, "band": b"r", "stamps": {"difference": first}},
        {"id": "x", "deep": {"mag": np.float32(2.5)}, "band": float("nan"), "stamps": {"difference": second}},
        {"id": True, "deep": {"mag": 10**400}, "band": [1], "stamps": {"difference": "no bytes"}},
        {"id": None, "deep": 3, "stamps": {"difference": bytearray(first)}},
    ]
    cutouts = read_decoded(alerts, card=make_card(("DIFF",), (63, 63)), mapping=mapping)
    assert cutouts.header["CANDID"].tolist() == ["5", "x", "True", ""]
    assert cutouts.header["FILTER"].tolist() == ["r", "", "", ""]
    np.testing.assert_array_equal(cutouts.header["MAG"], [18.5, 2.5, np.nan, np.nan])
    assert (cutouts.flags & Flag.MISSING_PLANE).tolist() == [0, 0, Flag.MISSING_PLANE, 0]
    np.testing.assert_array_equal(cutouts.pixels[[0, 1, 3], :, :, 0], [np.eye(63), np.eye(63)[::-1], np.eye(63)])


def test_texts_are_those_of_the_packets():
    values = [
        2451234567015015000.0,
        np.float32(2),
        Decimal("1.50"),
        Decimal("NaN"),
        UUID(int=1),
        True,
        0.5,
        np.int64(3),
    ]
    columns = {"CANDID": values, "MAG": values}
    stamps = {"DIFF": [stamp(np.eye(63, dtype=np.float32))] * len(values)}
    header = read_stamps(stamps, card=make_card(("DIFF",), (63, 63)), columns=columns).header
    expected = [str(int(values[0])), "2", "1.50", "", str(UUID(int=1)), "True", "0.5", "3"]
    assert header["CANDID"].tolist() == expected
    np.testing.assert_array_equal(header["MAG"], [values[0], 2, 1.5, np.nan, np.nan, 1, 0.5, 3])


def _columns(alerts):
    stamps = {
        plane: [each[name] and each[name]["stampData"] for each in alerts]
        for plane, name in zip(PLANES, CUTOUTS, strict=True)
    }
    position = {key.upper(): [each["candidate"][key] for each in alerts] for key in ("xpos", "ypos")}
    return stamps, position


def test_columns_of_stamps_get_the_scores_of_their_packets(alerts, expected):
    scorer = Scorer(make_model(CARD))
    stamps, position = _columns(alerts)
    cutouts = read_stamps(stamps, card=CARD, columns=position)
    np.testing.assert_array_equal(scorer.score(cutouts), scorer.score(expected))
    np.testing.assert_array_equal(cutouts.flags, expected.flags & ~(Flag.EDGE | Flag.MISSING_KEYWORD))
    assert cutouts.reasons == expected.reasons
    assert len(read_stamps({plane: [] for plane in PLANES}, card=CARD)) == 0


def test_columns_may_come_as_they_do_in_pandas(alerts, expected):
    pd = pytest.importorskip("pandas")
    stamps, position = _columns(alerts)
    frame = pd.DataFrame(stamps | position).iloc[::-1]
    cutouts = read_stamps(frame, card=CARD, columns={"XPOS": frame["XPOS"], "YPOS": frame["YPOS"]})
    np.testing.assert_array_equal(cutouts.pixels[::-1], expected.pixels)


def test_a_model_of_one_plane_takes_what_it_needs(alerts, expected):
    card = make_card(("DIFF",), (63, 63))
    stamps, position = _columns(alerts)
    cutouts = read_stamps({"DIFF": stamps["DIFF"], "SCI": []}, card=card, columns=position | {"EDGE": ["True"] * N})
    fine = np.flatnonzero(expected.usable)
    np.testing.assert_array_equal(cutouts.pixels[fine, :, :, 0], expected.pixels[fine, :, :, 2])
    assert cutouts.at_edge.all()


def test_what_makes_no_sense_is_told():
    stamps = {plane: [None] for plane in PLANES}
    with pytest.raises(UsageError, match="takes the planes SCI,REF,DIFF, and there are no stamps of DIFF"):
        read_stamps({"SCI": [None], "REF": [None]}, card=CARD)
    with pytest.raises(UsageError, match="the column 'xpos' is none of MAG"):
        read_stamps(stamps, card=CARD, columns={"xpos": [1.0]})
    with pytest.raises(UsageError, match="not of one length: SCI 1, REF 1, DIFF 1, XPOS 2"):
        read_stamps(stamps, card=CARD, columns={"XPOS": [1.0, 2.0]})


def test_a_part_of_packets_is_packets():
    mapping = PacketMapping("mine", {"DIFF": ("d",)}, {"MAG": Field(("m",))})
    packets = StampPackets(3, {"d": [b"a", None, b"bc"], "m": [1, 2.5, None]}, mapping)
    part = packets[1:]
    assert len(part) == 2
    np.testing.assert_array_equal(part.numbers(mapping.slots["m"]), [2.5, np.nan])
    data, bounds = part.stamps(mapping.slots["d"])
    assert [data[start:stop].tobytes() for start, stop in bounds] == [b"", b"bc"]
