"""Alerts scored by Spark, in two processes, against the scorer in one."""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from networks import make_card, make_ensemble, make_model
from packet_files import alert, container, stamp

from otrain_infer import Scorer
from otrain_infer.alerts import AlertReader, iter_alerts
from otrain_infer.cutouts import Cutouts
from otrain_infer.errors import MissingExtraError, ModelError, PacketError, UsageError
from otrain_infer.flags import CutoutFlag as Flag
from otrain_infer.mapping import FOLDER, known_surveys, load_mapping

pytest.importorskip("pyarrow")
pytestmark = pytest.mark.filterwarnings("ignore:PySpark does not yet fully support pandas:FutureWarning")

PLANES = ("SCI", "REF", "DIFF")
JAVA = "/usr/lib/jvm/java-1.17.0-openjdk-amd64"
N = 150


@pytest.fixture(scope="module")
def spark(tmp_path_factory):
    sql = pytest.importorskip("pyspark.sql")
    with pytest.MonkeyPatch.context() as patch:
        if "JAVA_HOME" not in os.environ and Path(JAVA).exists():
            patch.setenv("JAVA_HOME", JAVA)
        if not (os.environ.get("JAVA_HOME") or shutil.which("java")):
            pytest.skip("Spark needs Java, and there is none: set JAVA_HOME")
        patch.setenv("PYSPARK_PYTHON", sys.executable)
        patch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
        builder = sql.SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
        builder = builder.config("spark.sql.warehouse.dir", str(tmp_path_factory.mktemp("spark")))
        session = builder.config("spark.sql.files.maxPartitionBytes", "1m").getOrCreate()
        session.sparkContext.setLogLevel("OFF")
        yield session
        session.stop()


@pytest.fixture(scope="module")
def model():
    return make_model(make_card(PLANES, (63, 63)))


def _alerts():
    alerts = [alert("ztf", seed, xpos=10.0 if seed % 7 else 3000.0) for seed in range(N)]
    for seed in range(3, N, 10):
        alerts[seed] = alert("ztf", seed, shape=(63, 40), xpos=10.0 if seed % 20 == 3 else 3000.0)
    alerts[11]["cutoutTemplate"] = None
    alerts[12]["cutoutDifference"] = {"fileName": "x", "stampData": b"no FITS file"}
    alerts[13]["cutoutScience"] = {"fileName": "x", "stampData": stamp(np.ones((63, 63), np.float32))}
    alerts[14]["cutoutScience"]["stampData"] = alerts[14]["cutoutScience"]["stampData"][:50]
    alerts[15] = alert("ztf", 15, xpos=None, ypos=None, fwhm=None, shape=(40, 40))
    return alerts


@pytest.fixture(scope="module")
def expected(model):
    """What the scorer in one process finds: object -> (score, flags)."""
    parts = iter_alerts(container("ztf", *_alerts()), card=Scorer(model).card)
    cutouts = Cutouts.concatenate(list(parts))
    scores = Scorer(model).score(cutouts)
    assert np.isnan(scores).sum() == 4
    return {
        name: (None if np.isnan(score) else float(score), flags)
        for name, score, flags in zip(cutouts.header["OBJECTID"].tolist(), scores, cutouts.flags.tolist(), strict=True)
    }


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """Parquet in the layout of Fink, of several files."""
    from arrow_files import table
    from pyarrow import parquet

    folder, rows = tmp_path_factory.mktemp("night"), table("ztf", *_alerts())
    for start in range(0, N, 50):
        parquet.write_table(rows.slice(start, 50), folder / f"{start}.parquet")
    return str(folder)


@pytest.fixture(params=["arrow", "pandas"])
def kind(request, monkeypatch, spark):
    """With the functions of Arrow, and as before pyspark 4.1 with those of pandas."""
    from pyspark.sql import functions

    if request.param == "pandas":
        pytest.importorskip("pandas")
        monkeypatch.delattr(functions, "arrow_udf", raising=False)
    elif not hasattr(functions, "arrow_udf"):
        pytest.skip("this pyspark has no functions of Arrow")
    return request.param


def collect(frame):
    rows = frame.select("objectId", "otrain").collect()
    return {row.objectId: (row.otrain.score, row.otrain.flags) for row in rows}


def test_packets_in_the_layout_of_fink_get_the_scores_of_one_process(spark, kind, night, model, expected):
    from otrain_infer.spark import with_scores

    frame = spark.read.parquet(night)
    assert frame.rdd.getNumPartitions() > 1
    scored = with_scores(frame, model)
    assert scored.columns == [*frame.columns, "otrain"]
    assert scored.schema["otrain"].dataType.simpleString() == "struct<score:float,flags:int,model:string>"
    assert collect(scored) == expected
    assert [row.model for row in scored.select("otrain.model").distinct().collect()] == [Scorer(model).identity]
    assert collect(with_scores(frame.limit(0), model)) == {}


def test_a_row_is_scored_once_whatever_is_asked_of_its_score(spark, night, model, expected, capsys):
    from otrain_infer.spark import with_scores

    spark.conf.set("spark.sql.maxMetadataStringLength", "5000")
    real = with_scores(spark.read.parquet(night), model).where("otrain.score > 0.5").select("objectId", "otrain.*")
    real.explain()
    plan = capsys.readouterr().out
    assert plan.count("ArrowEvalPython") == 1
    assert not [name for name in ("prv_candidates", "fileName", "rcid") if name in plan]
    assert {row.objectId for row in real.collect()} == {
        k for k, (score, _) in expected.items() if score and score > 0.5
    }


STAMPS = tuple(f"cutout{name}.stampData" for name in ("Science", "Template", "Difference"))


def test_columns_of_stamps_are_scored(spark, kind, night, model, expected):
    from otrain_infer.spark import score_udf

    frame, score = spark.read.parquet(night), score_udf(model)
    told = ~int(Flag.EDGE | Flag.MISSING_KEYWORD)
    wanted = {name: (score, flags & told) for name, (score, flags) in expected.items()}
    placed = score(*STAMPS, "candidate.xpos", "candidate.ypos")
    assert collect(frame.select("objectId", placed.alias("otrain"))) == wanted
    found = collect(frame.select("objectId", score(*STAMPS).alias("otrain")))
    moved = {name for name, row in found.items() if row != wanted[name]}
    assert moved == {f"OBJ{seed}" for seed in range(3, N, 10)} - {"OBJ13"}  # whose stamps are cut on one side


def test_columns_that_are_no_stamps_are_flagged(spark, model):
    from otrain_infer.spark import score_udf

    frame = spark.createDataFrame([(1, None, "text", b"")], "a int, b binary, c string, d binary")
    for names in (("a", "b", "c"), ("b", "b", "b"), ("d", "d", "d"), ("c", "c", "c")):
        (row,) = frame.select(score_udf(model)(*names).alias("otrain")).collect()
        assert row.otrain.score is None
        assert row.otrain.flags & (Flag.MISSING_PLANE | Flag.UNREADABLE)


def test_it_is_of_use_in_sql(spark, night, model, expected):
    from otrain_infer.spark import score_udf

    spark.udf.register("otrain_score", score_udf(model, threads=2))
    spark.read.parquet(night).createOrReplaceTempView("alerts")
    call = f"otrain_score({', '.join(STAMPS)}, candidate.xpos, candidate.ypos)"
    rows = spark.table("alerts").selectExpr("objectId", f"{call}.score as score").collect()
    assert {row.objectId: row.score for row in rows} == {name: score for name, (score, _) in expected.items()}


def test_a_stream_is_scored(spark, kind, night, model, expected, tmp_path):
    from otrain_infer.spark import with_scores

    stream = spark.readStream.schema(spark.read.parquet(night).schema).option("maxFilesPerTrigger", 1).parquet(night)
    scored = with_scores(stream, model).select("objectId", "otrain")
    assert scored.isStreaming
    writer = scored.writeStream.format("memory").queryName(f"scored_{kind}")
    query = writer.option("checkpointLocation", str(tmp_path)).trigger(availableNow=True).start()
    assert query.awaitTermination(60)
    assert len([each for each in query.recentProgress if each["numInputRows"]]) == 3
    assert collect(spark.table(f"scored_{kind}")) == expected


def test_each_process_opens_a_model_once(spark, night, model):
    from pyspark.sql.functions import udf

    from otrain_infer.spark import with_scores

    key = (Scorer(model).sha256, 1, "auto")

    @udf("string")
    def probe(_):
        from otrain_infer.spark import _scorers

        return f"{os.getpid()} {id(_scorers[key]) if key in _scorers else ''}"

    seen = set()
    for _ in range(3):
        # Each time a new function, with a broadcast of its own.
        scored = with_scores(spark.read.parquet(night).repartition(6), model)
        assert len(scored.select("otrain.score").collect()) == N
        seen |= {row[0] for row in scored.repartition(6).select(probe("objectId")).distinct().collect()}
    opened = [each.split(" ") for each in seen if each[-1] != " "]
    assert opened
    assert len({process for process, _ in opened}) == len(opened)
    assert str(os.getpid()) not in {process for process, _ in opened}


def test_a_function_may_be_made_before_there_is_a_session(spark, night, model, expected, monkeypatch):
    from pyspark.sql import SparkSession

    from otrain_infer.spark import score_udf

    monkeypatch.setattr(SparkSession, "getActiveSession", lambda: None)
    score = score_udf(model)(*STAMPS, "candidate.xpos", "candidate.ypos")
    rows = spark.read.parquet(night).select("objectId", score.score).collect()
    assert {row[0]: row[1] for row in rows} == {name: score for name, (score, _) in expected.items()}


def test_an_ensemble_tells_its_spread(spark, kind, night):
    from otrain_infer.spark import with_scores

    model = make_ensemble(card=make_card(("DIFF",), (63, 63)))
    frame = with_scores(spark.read.parquet(night), model, column="both")
    found = {row.objectId: row.both.spread for row in frame.collect()}
    (cutouts,) = AlertReader.for_card(Scorer(model).card).read([container("ztf", *_alerts()[:60])])
    _, spreads = Scorer(model).score_with_spread(cutouts)
    for name, spread in zip(cutouts.header["OBJECTID"].tolist(), spreads, strict=True):
        assert found[name] == (None if np.isnan(spread) else spread)


def test_the_mapping_is_told_by_name_or_file_or_as_it_is(spark, night, model):
    from otrain_infer.spark import with_scores

    frame = spark.read.parquet(night).limit(3)
    flat = frame.select("objectId", "candid", "candidate.*", *(name for name in frame.columns if "cutout" in name))
    flat = flat.drop("rcid")
    with pytest.raises(PacketError, match="of no survey that is recognised"):
        with_scores(flat, model)
    (ztf,) = (known for known in known_surveys() if known.name == "ztf")
    expected = collect(with_scores(frame, model))
    for told in ("ztf", ztf, str(FOLDER / "ztf.yaml"), FOLDER / "ztf.yaml", load_mapping(FOLDER / "ztf.yaml")):
        assert collect(with_scores(frame, model, mapping=told)) == expected


def test_what_makes_no_sense_is_told(spark, night, model, tmp_path):
    from pyspark.sql import functions

    from otrain_infer.spark import score_udf, with_scores

    frame = spark.read.parquet(night)
    with pytest.raises(UsageError, match="the mapping 'zft' is neither a file nor one of atlas, decam"):
        with_scores(frame, model, mapping="zft")
    with pytest.raises(PacketError, match="none of the stamps of the mapping winter"):
        with_scores(frame.drop("cutoutScience", "cutoutTemplate", "cutoutDifference"), model, mapping="winter")
    with pytest.raises(UsageError, match=r"no column for the plane REF \(cutoutTemplate.stampData or cutoutTemplate\)"):
        with_scores(frame.drop("cutoutTemplate"), model)
    with pytest.raises(ModelError, match=r"no\.onnx' cannot be read"):
        score_udf(tmp_path / "no.onnx")
    with pytest.raises(UsageError, match="precision 'fp8' is unknown"):
        with_scores(frame, model, precision="fp8")
    with pytest.raises(Exception, match="the model scores columns with SCI, REF, DIFF, and perhaps x and y") as caught:
        frame.select(score_udf(model)(*STAMPS[:2])).collect()
    assert "UsageError" in str(caught.value)
    if hasattr(functions, "arrow_udf"):
        with pytest.raises(Exception, match=r"the column for SCI is struct<.*give the field with the stamp"):
            frame.select(score_udf(model)("cutoutScience", *STAMPS[1:])).collect()


def test_without_pyspark_a_sentence_says_what_to_install(monkeypatch):
    from otrain_infer.spark import score_udf, with_scores

    monkeypatch.setitem(sys.modules, "pyspark", None)
    for make in (score_udf, lambda: with_scores(None)):
        with pytest.raises(MissingExtraError, match=r"Spark needs pyspark: pip install 'otrain\[spark\]'"):
            make()
