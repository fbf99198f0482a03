"""The adapters in examples/brokers give the scores of the scorer, behind the interface of each system itself.

A system that is not installed is skipped. The interfaces of Kowalski and gmadet, which cannot be installed, and of the
newest apf, which is not published, are recorded here.
"""

import ast
import importlib
import importlib.util
import json
import logging
import os
import shutil
import sys
import threading
import types
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from cutout_files import draw, write_cutout
from networks import make_card, make_model
from packet_files import CUTOUTS, alert, container, stamp

from otrain_infer import Scorer, read_cutouts
from otrain_infer.alerts import iter_alerts

FOLDER = Path(__file__).parents[2] / "examples" / "brokers"
PLANES = ("SCI", "REF", "DIFF")
JAVA = "/usr/lib/jvm/java-1.17.0-openjdk-amd64"

# What other packages warn of when they are imported is theirs.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore:The NumPy module was reloaded:UserWarning"),
]


def load(name):
    """Import an adapter, under a name that is not that of its system."""
    spec = importlib.util.spec_from_file_location(f"adapter_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def scorer():
    return Scorer(make_model(make_card(PLANES, (63, 63))))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "three.onnx"
    path.write_bytes(make_model(make_card(PLANES, (63, 63))))
    return str(path)


@pytest.fixture(scope="module")
def alerts():
    """Whole ones, some that are cut off at one side of their image or the other, and four that cannot be scored."""
    alerts = [alert("ztf", seed) for seed in range(12)]
    for seed, xpos in ((2, 10.0), (3, 3060.0), (4, None)):
        alerts[seed] = alert("ztf", seed, shape=(63, 40), xpos=xpos)
    image = draw(5, (63, 63))
    image[3:9, 5] = np.nan
    alerts[5]["cutoutScience"]["stampData"] = stamp(image)
    alerts[6]["cutoutTemplate"] = None
    alerts[7]["cutoutDifference"]["stampData"] = b"no FITS file"
    alerts[8]["cutoutScience"]["stampData"] = alerts[8]["cutoutScience"]["stampData"][:50]
    alerts[9]["cutoutScience"]["stampData"] = stamp(np.ones((63, 63), np.float32))
    for each in alerts:  # what AMPEL asks of packets besides
        each["objectId"] = "ZTF18" + "".join("abcdefghij"[int(k)] for k in f"{each['candid']:07d}")
        each["prv_candidates"] = None
    return alerts


@pytest.fixture(scope="module")
def expected(alerts, scorer):
    """The scores of the packets themselves."""
    (cutouts,) = iter_alerts(container("ztf", *alerts), card=scorer.card)
    scores = scorer.score(cutouts)
    assert np.flatnonzero(np.isnan(scores)).tolist() == [6, 7, 8, 9]
    return scores


def as_floats(scores):
    return np.array([np.nan if score is None else score for score in scores], np.float32)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_an_adapter_uses_what_there_is_and_stays_short(path):
    text = path.read_text()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("otrain"):
            module = importlib.import_module(node.module)
            assert all(hasattr(module, each.name) for each in node.names)
    assert text.count("\n") <= 80


def _columns(alerts):
    columns = [[each[name] and each[name]["stampData"] for each in alerts] for name in CUTOUTS]
    return [*columns, *([each["candidate"][key] for each in alerts] for key in ("xpos", "ypos"))]


def test_fink_by_its_function(alerts, expected, model, monkeypatch):
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyspark")
    monkeypatch.setenv("OTRAIN_MODEL", model)
    found = load("fink").otrain_score.func(*map(pd.Series, _columns(alerts)))
    np.testing.assert_array_equal(found, expected)


def test_fink_is_of_the_kind_of_its_own_modules():
    own = pytest.importorskip("fink_science.ztf.nalerthist.processor").nalerthist
    made = load("fink").otrain_score
    assert (type(made), made.evalType, made.deterministic) == (type(own), own.evalType, own.deterministic)


def test_fink_in_spark(alerts, expected, model, monkeypatch, tmp_path):
    pytest.importorskip("pandas")
    sql = pytest.importorskip("pyspark.sql")
    if "JAVA_HOME" not in os.environ and Path(JAVA).exists():
        monkeypatch.setenv("JAVA_HOME", JAVA)
    if not (os.environ.get("JAVA_HOME") or shutil.which("java")):
        pytest.skip("Spark needs Java, and there is none: set JAVA_HOME")
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    monkeypatch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
    monkeypatch.syspath_prepend(FOLDER)
    builder = sql.SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    builder = builder.config("spark.executorEnv.OTRAIN_MODEL", model)
    session = builder.config("spark.sql.warehouse.dir", str(tmp_path)).getOrCreate()
    try:
        session.sparkContext.setLogLevel("OFF")
        session.sparkContext.addPyFile(str(FOLDER / "fink.py"))
        score = importlib.import_module("fink").otrain_score
        rows = list(zip(range(len(alerts)), *_columns(alerts), strict=True))
        frame = session.createDataFrame(rows, "row int, a binary, b binary, c binary, x double, y double")
        found = frame.repartition(3).select("row", score("a", "b", "c", "x", "y").alias("score")).collect()
    finally:
        session.stop()
        sys.modules.pop("fink", None)
    np.testing.assert_array_equal(as_floats(score for _, score in sorted(found)), expected)
    assert {row for row, score in found if score is None} == {6, 7, 8, 9}


def _run_step(GenericStep, alerts, model, tmp_path, monkeypatch):  # noqa: N803
    """Run a step from start to end, with a consumer and a producer that keep to memory."""
    base = sys.modules[GenericStep.__module__]
    sent = []

    class Consumer(base.GenericConsumer):
        def consume(self):
            yield alerts[:5]
            yield alerts[5]
            yield alerts[6:]

        def commit(self):
            sent.append("commit")

    class Producer(base.GenericProducer):
        def produce(self, message=None, **_):
            sent.append(message)

    monkeypatch.chdir(tmp_path)
    config = {"CONSUMER_CONFIG": {"PARAMS": {}}, "PRODUCER_CONFIG": {}, "MODEL_CONFIG": {"PATH": model, "THREADS": 2}}
    step = load("alerce").OtrainStep(config, consumer=Consumer, producer=Producer)
    step.start()
    assert sent.count("commit") == 3
    return [each for each in sent if each != "commit"]


def _check_step(results, alerts, expected, scorer):
    assert [each["oid"] for each in results] == [each["objectId"] for each in alerts]
    assert [each["candid"] for each in results] == [str(each["candid"]) for each in alerts]
    assert {each["classifier_version"] for each in results} == {scorer.identity}
    assert [each["flags"] > 0 for each in results[6:10]] == [True] * 4
    np.testing.assert_array_equal(as_floats(each["score"] for each in results), expected)
    json.dumps(results, allow_nan=False)


def test_alerce(alerts, expected, scorer, model, tmp_path, monkeypatch):
    step = pytest.importorskip("apf.core.step")
    _check_step(_run_step(step.GenericStep, alerts, model, tmp_path, monkeypatch), alerts, expected, scorer)


class _Newest:
    """apf 6.1.1a44, in so far as a step meets it: it takes a level, and asks what is to be produced for its length."""

    def __init__(self, consumer, producer, metrics_sender=None, level=logging.NOTSET, config=None, metrics=None):
        self.config, self.consumer, self.producer = config, consumer(config["CONSUMER_CONFIG"]), producer({})

    def execute(self, messages):
        raise NotImplementedError

    def start(self):
        for message in self.consumer.consume():
            to_produce = self.execute([message] if isinstance(message, dict) else message)
            for count, each in enumerate(to_produce, 1):
                self.producer.produce(each, flush=count == len(to_produce))
            self.consumer.commit()


def test_alerce_with_the_newest_apf(alerts, expected, scorer, model, tmp_path, monkeypatch):
    module = types.ModuleType("apf.core.step")
    module.GenericStep = _Newest
    module.GenericConsumer = module.GenericProducer = type("Ends", (), {"__init__": lambda self, config: None})
    for name in ("apf", "apf.core", "apf.core.step"):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(_Newest, "__module__", "apf.core.step")
    _check_step(_run_step(_Newest, alerts, model, tmp_path, monkeypatch), alerts, expected, scorer)


def test_alerce_takes_messages_of_another_step_by_a_mapping(alerts, expected, scorer, model, tmp_path, monkeypatch):
    module = types.ModuleType("apf.core.step")
    module.GenericStep = type("GenericStep", (), {"__init__": lambda self, config: None})
    monkeypatch.setitem(sys.modules, "apf.core.step", module)
    monkeypatch.setitem(sys.modules, "apf.core", module)
    monkeypatch.setitem(sys.modules, "apf", module)
    (tmp_path / "mine.yaml").write_text(
        "planes: {SCI: stamps.science, REF: stamps.template, DIFF: stamps.difference}\n"
        "columns: {CANDID: candid, OBJECTID: oid, XPOS: extra_fields.xpos, YPOS: extra_fields.ypos}\n"
    )
    names = ("science", "template", "difference", "xpos", "ypos")
    messages = []
    for each, values in zip(alerts, zip(*_columns(alerts), strict=True), strict=True):
        told = dict(zip(names, values, strict=True))
        messages.append({"oid": each["objectId"], "candid": each["candid"], "stamps": told, "extra_fields": told})
    config = {"MODEL_CONFIG": {"PATH": model, "MAPPING": str(tmp_path / "mine.yaml")}}
    _check_step(load("alerce").OtrainStep(config).execute(messages), alerts, expected, scorer)


def test_ampel(alerts, expected, model, tmp_path):
    pytest.importorskip("ampel.ztf.alert.ZiAlertSupplier")
    from ampel.alert.load.FileAlertLoader import FileAlertLoader
    from ampel.base.AuxUnitRegister import AuxUnitRegister
    from ampel.log.AmpelLogger import AmpelLogger
    from ampel.ztf.ingest.ZiDataPointShaper import ZiDataPointShaperBase

    files = []
    for row, each in enumerate(alerts):
        files.append(str(tmp_path / f"{row}.avro"))
        Path(files[-1]).write_bytes(container("ztf", each))
    AuxUnitRegister._dyn["FileAlertLoader"] = FileAlertLoader
    units = load("ampel")
    loader = {"unit": "FileAlertLoader", "config": {"files": files}}
    shaped = list(units.OtrainAlertSupplier(model=model, loader=loader))
    np.testing.assert_array_equal(as_floats(each.datapoints[0]["otrain"] for each in shaped), expected)
    assert [each.extra["name"] for each in shaped] == [each["objectId"] for each in alerts]
    decide = units.OtrainFilter(logger=AmpelLogger.get_logger(), threshold=0.4)
    told = [decide.process(each) for each in shaped]
    assert told == [units.NO_SCORE if np.isnan(score) else bool(score >= 0.4) for score in expected]
    assert {True, False} < set(told)
    body = dict(shaped[0].datapoints[0]) | {"programid": 1}
    (point,) = ZiDataPointShaperBase().process([body], stock=1)
    assert point["body"]["otrain"] == expected[0]


class _Lasair(BaseHTTPRequestHandler):
    """What a client of Lasair asks for: objects, the stamps that they name, and annotations."""

    def do_POST(self):
        form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode(), keep_blank_values=True)
        self.server.asked.append(
            (self.path, self.headers["Authorization"], {key: each[0] for key, each in form.items()})
        )
        name = form["objectId"][0]
        self._send(
            json.dumps(self.server.objects[name] if self.path == "/api/object/" else {"status": "success"}).encode()
        )

    def do_GET(self):
        content = self.server.stamps.get(self.path)
        self._send(content or b"not found", 200 if content else 404)

    def _send(self, content, status=200):
        self.send_response(status)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def lasair(alerts):
    """A server with an object for each alert, as Lasair tells those of ZTF and those of Rubin, in turn."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Lasair)
    address = f"http://127.0.0.1:{server.server_port}"
    server.asked, server.objects, server.stamps = [], {}, {}
    for row, (each, columns) in enumerate(zip(alerts, zip(*_columns(alerts), strict=True), strict=True)):
        x, y = columns[3:]
        urls = {}
        for name, content in zip(("Science", "Template", "Difference"), columns[:3], strict=True):
            urls[name] = f"{address}/fits/{row}_{name}"
            if content:
                server.stamps[f"/fits/{row}_{name}"] = content
        old = {name: f"{address}/fits/0_{name}" for name in urls}
        if row % 2:
            newest = {"candid": 2, "mjd": 2.0, "xpos": x, "ypos": y, "image_urls": urls}
            upper_limit = {"mjd": 3.0, "magpsf": 20.0}
            server.objects[each["objectId"]] = {"candidates": [upper_limit, newest, {"mjd": 1.0, "image_urls": old}]}
        else:
            sources = [
                {"diaSourceId": 2, "midpointMjdTai": 2.0, "x": x, "y": y},
                {"diaSourceId": 1, "midpointMjdTai": 1.0},
            ]
            images = [{"diaSourceId": 1, **old}, {"diaSourceId": 2, **urls}]
            server.objects[each["objectId"]] = {"diaSourcesList": sources, "lasairData": {"imageUrls": images}}
    server.objects["bare"] = {"candidates": [{"mjd": 1.0}]}
    server.objects["nothing"] = {"diaObjectId": 1}
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    server.address = address
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_lasair(lasair, alerts, expected, scorer):
    package = pytest.importorskip("lasair")
    client = package.lasair_client("secret", endpoint=f"{lasair.address}/api")
    annotate = partial(load("lasair_annotator").annotate, client, "otrain", scorer=scorer)
    found = [annotate(each["objectId"]) for each in alerts]
    np.testing.assert_array_equal(as_floats(found), expected)
    assert annotate("bare") is None
    assert annotate("nothing") is None
    assert {token for _, token, _ in lasair.asked} == {"Token secret"}
    sent = [form for path, _, form in lasair.asked if path == "/api/annotate/"]
    scored = [row for row, score in enumerate(found) if score is not None]
    assert [form["objectId"] for form in sent] == [alerts[row]["objectId"] for row in scored]
    for row, form in zip(scored, sent, strict=True):
        assert form["topic"] == "otrain"
        assert form["classification"] == ("real" if found[row] >= 0.5 else "bogus")
        assert form["version"] == "1"
        assert json.loads(form["classdict"]) == {"score": found[row], "model": scorer.identity}
        assert f"{found[row]:.3f}" in form["explanation"]


class _KowalskiWorker:
    """Kowalski's AlertWorker @8506cac, in so far as `alert_filter__ml` is asked: a dictionary, never an exception."""

    def alert_filter__ml(self, alert, alert_history=[]):  # noqa: B006
        return {"braai": 0.5, "braai_version": "d6_m9"} if alert["candidate"] else {}


def test_kowalski(alerts, expected, scorer, model):
    adapter = load("kowalski")

    class Worker(adapter.WithOtrain, _KowalskiWorker):
        otrain_model = model

    worker = Worker()
    found = [worker.alert_filter__ml(each, [each["candidate"]]) for each in alerts]
    np.testing.assert_array_equal(as_floats(each["otrain"] for each in found), expected)
    assert found[0] == {
        "braai": 0.5,
        "braai_version": "d6_m9",
        "otrain": float(expected[0]),
        "otrain_version": scorer.identity,
    }
    assert worker.alert_filter__ml({"candidate": None})["otrain"] is None
    assert adapter.score_alert(alerts[0], scorer, "rb") == {"rb": float(expected[0]), "rb_version": scorer.identity}


GMADET = ["filename", "RA", "Dec", "originalFile", "Xpos", "Ypos", "mag", "magerr", "FWHM", "FWHMPSF", "candID"]
"""Columns of infer_results.dat that gmadet @778b2ec writes, before label0 and label1."""


@pytest.mark.parametrize("dash", ["-", "_"])
def test_gmadet(dash, folder, tiny_path, scorer):
    write_cutout(folder / "c1a.fits", 20, shape=(64, 50), XPOS=10.0)
    write_cutout(folder / "c1b.fits", 21, FWHM=None, RA=None)
    (folder / "c1c.fits").write_bytes(b"no FITS file")
    (folder / "c.txt").write_text("no cutout")
    options = [f"--path{dash}cutouts", str(folder), f"--path{dash}model", str(tiny_path)]
    load("gmadet").main([*options, "--probratio" if dash == "_" else "--prob-ratio", "0.1"])
    table = Table.read(folder / "infer_results.dat", format="ascii.commented_header")
    files = sorted(map(str, folder.glob("*.fits")))
    assert table.colnames == [*GMADET, "label0", "label1"]
    assert list(table["filename"]) == files
    tiny = Scorer(tiny_path)
    cutouts = read_cutouts(files, card=tiny.card)
    scores = tiny.score(cutouts)
    assert np.isnan(scores).sum() == 1
    np.testing.assert_array_equal(np.asarray(table["label1"], np.float32), scores)
    np.testing.assert_array_equal(np.asarray(table["label0"], np.float32), np.float32(1) - scores)
    header = fits.getheader(files[0])
    for column, keyword in (("RA", "RA"), ("originalFile", "FILE"), ("Xpos", "XPOS"), ("candID", "CANDID")):
        assert table[column][0] == header[keyword]


def test_gmadet_says_where_it_found_nothing(tmp_path, tiny_path):
    with pytest.raises(SystemExit, match="there is no cutout in"):
        load("gmadet").main(["--path-cutouts", str(tmp_path), "--path-model", str(tiny_path)])


def _cut_out(image, x, y, size):
    """Cut out by hand: the object in the middle, NaN outside the image."""
    half = size // 2
    padded = np.pad(image, 2 * size, constant_values=np.nan)
    row, column = round(y) + 2 * size - half, round(x) + 2 * size - half
    return padded[row : row + size, column : column + size]


@pytest.mark.parametrize("size", [(63, 63), (64, 64)])
def test_stdpipe(size):
    pytest.importorskip("stdpipe.cutouts")
    stdpipe = load("stdpipe_table")
    planes = [draw(seed, (300, 280)) for seed in range(3)]
    planes[0][100:103, 100] = np.nan
    positions = [
        (140.2, 150.7),
        (100.0, 101.0),
        (3.0, 150.0),
        (277.6, 4.4),
        (120.0, 299.0),
        (np.nan, 5.0),
        (900.0, 5.0),
    ]
    obj = Table(rows=positions, names=("x", "y"))
    obj["mag_calib"] = 18.5
    scorer = Scorer(make_model(make_card(PLANES, size)))
    named = dict(zip(("image", "template", "diff"), planes, strict=True))
    scored = stdpipe.apply_to_table(obj, scorer, **named)
    cutouts = [
        np.stack([_cut_out(plane, x, y, size[0]) for plane in planes], axis=-1)
        if np.isfinite(x) and x < 500
        else np.full((*size, 3), np.nan)
        for x, y in positions
    ]
    expected = scorer.score_pixels(np.array(cutouts, np.float32))
    assert np.flatnonzero(np.isnan(expected)).tolist() == [5, 6]
    np.testing.assert_array_equal(scored["rb_score"], expected)
    assert obj.colnames == ["x", "y", "mag_calib"]
    threshold = float(np.nanmedian(expected))
    kept = stdpipe.classify_otrain(obj, scorer, threshold, **named)
    np.testing.assert_array_equal(kept["rb_score"], expected[expected >= threshold])
    assert kept["flags"].tolist() == [0] * len(kept)
    assert len(stdpipe.classify_otrain(obj, scorer, flag_bogus=False, **named)) == len(obj)
    assert len(stdpipe.apply_to_table(obj[:0], scorer, **named)) == 0
    one = Scorer(make_model(make_card(("DIFF",), size)))
    alone = stdpipe.apply_to_table(obj, one, image=planes[0], diff=planes[2])
    np.testing.assert_array_equal(alone["rb_score"], one.score_pixels(np.array(cutouts, np.float32)[..., 2:]))


@pytest.mark.parametrize("prefix", ["cutout_", "cutout"])
def test_mirar(prefix, tmp_path, monkeypatch):
    pd = pytest.importorskip("pandas")
    for name in ("RAW_DATA_DIR", "OUTPUT_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    pytest.importorskip("mirar.processors.base_processor")
    from mirar.data import SourceBatch, SourceTable
    from mirar.data.utils.compress import encode_img

    scorer = Scorer(make_model(make_card(PLANES, (81, 81))))
    images = np.array([[draw(10 * row + k, (81, 81)) for k in range(3)] for row in range(6)])
    images[2, 1, 4:8, 5] = np.nan
    names = [
        prefix + (name if prefix == "cutout_" else name.capitalize()) for name in ("science", "template", "difference")
    ]
    frame = pd.DataFrame({name: [encode_img(each[k]) for each in images] for k, name in enumerate(names)})
    frame["candid"] = np.arange(6)
    frame.at[3, names[1]] = None
    frame.at[4, names[0]] = b"no FITS file"
    path = tmp_path / "model.onnx"
    path.write_bytes(make_model(scorer.card))
    processor = load("mirar_table").OtrainScores(str(path))
    assert scorer.identity in processor.description()
    tables = [
        SourceTable(part, {"CALSTEPS": "", "RAWPATH": f"{k}.fits", "BASENAME": f"{k}.fits"})
        for k, part in enumerate((frame[:4], frame[4:], frame[:0]))
    ]
    found = [table.get_data() for table in processor.apply(SourceBatch(tables))]
    expected = scorer.score_pixels(np.moveaxis(images, 1, -1))
    expected[[3, 4]] = np.nan
    np.testing.assert_array_equal(pd.concat(found)["rb"], expected)
    assert [len(each) for each in found] == [4, 2, 0]
    assert tables[0]["CALSTEPS"] == "otrain,"
    assert "rb" not in frame
