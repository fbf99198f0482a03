"""What does Spark add to scoring, and how many of its cores does a survey need?

Alerts in Parquet, in the layout of Fink: the fields of the candidate and the three stamps, gzipped, in structures. They
are ZTF's own, from the folder that OTRAIN_DATA names, as often as it takes to have enough rows, or else made up; each
is stored whole every time. The files are in the cache of the operating system. Run in turn, on the same rows:

- one process with two threads, which reads the Parquet with Arrow and scores;
- Spark on two cores of this machine (local[2]), whose scores go nowhere, and which must be the very same bits;
- the same through pandas, as before pyspark 4.1, where pandas is installed;
- Spark with a function that takes the same columns and does nothing: what Spark itself costs.

The processor time is that of all processes: of this one, of Java, and of Python within Spark. On a machine that does
other things as well, the rates by the clock are too low.

    python benchmarks/spark.py [--rows 100000] [--repeats 3] [--model FILE]
"""

import argparse
import gzip
import io
import math
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from astropy.io import fits
from machine import Seconds, describe_machine, middle, per_thing, print_times, ratio
from pyarrow import parquet

from otrain_infer import Scorer
from otrain_infer.alerts import AlertReader
from otrain_infer.arrow_packets import ArrowPackets, for_planes, iter_parquet, layout_of, read_schema
from otrain_infer.spark import with_scores

STAMPS = ("cutoutScience", "cutoutTemplate", "cutoutDifference")
CORES = 2

NIGHT, HOURS = 1_000_000, 8
"""Alerts of ZTF, and how long a night is."""

VISIT, BETWEEN = 10_000, 39
"""Alerts of a visit of Rubin, and the seconds from one to the next."""

ROWS_OF_A_FILE = VISIT

ALONE, SPARK, PANDAS, NOTHING = (
    "one process, 2 threads",
    "Spark, local[2]",
    "Spark, local[2], through pandas",
    "Spark, local[2], a function that does nothing",
)


def real_alerts(folder: Path) -> list[dict[str, Any]]:
    import fastavro

    alerts = []
    for path in sorted(folder.glob("*.avro")):
        with path.open("rb") as file:
            alerts += [each for each in fastavro.reader(file) if "rcid" in each.get("candidate", {})]
    return alerts


def mock_alerts(n: int = 200) -> list[dict[str, Any]]:
    return [
        {
            "objectId": f"MOCK{k}",
            "candidate": {
                "candid": k, "rcid": 1, "jd": 2460000.5, "fid": 1, "ra": 10.0, "dec": 5.0, "xpos": 500.0, "ypos": 500.0,
                "magpsf": 18.5, "sigmapsf": 0.1, "fwhm": 2.5, "pdiffimfilename": "night.fits",
            },
            **{name: {"fileName": f"{k}.fits.gz", "stampData": mock_stamp(k + n * p)} for p, name in enumerate(STAMPS)},
        }
        for k in range(n)
    ]  # fmt: skip


def mock_stamp(seed: int) -> bytes:
    y, x = np.indices((63, 63)) - 31
    image = np.random.default_rng(seed).normal(size=(63, 63)) + 30 * np.exp(-(x**2 + y**2) / 8)
    file = io.BytesIO()
    fits.PrimaryHDU(image.astype(np.float32)).writeto(file)
    return gzip.compress(file.getvalue())


def write_night(folder: Path, alerts: list[dict[str, Any]], rows: int) -> list[Path]:
    names = ("objectId", "candidate", *STAMPS)
    distinct = pa.Table.from_pylist([{name: each[name] for name in names} for each in alerts])
    paths = []
    for start in range(0, rows, ROWS_OF_A_FILE):
        numbers = np.arange(start, min(start + ROWS_OF_A_FILE, rows))
        table = distinct.take(numbers % len(distinct)).append_column("candid", pa.array(numbers))
        paths.append(folder / f"{start:09}.parquet")
        parquet.write_table(table, paths[-1], use_dictionary=False, row_group_size=ROWS_OF_A_FILE // 8)
    return paths


def score_alone(scorer: Scorer, paths: list[Path]) -> np.ndarray:
    mapping = for_planes(layout_of(read_schema(paths[0])), scorer.card.planes)
    reader = AlertReader.for_card(scorer.card)

    def read(batch):
        packets = ArrowPackets(batch, mapping)
        yield reader.cut_out(packets, [""] * len(packets), {})

    batches = (batch for path in paths for batch in iter_parquet(path, 128, mapping.paths))
    return np.concatenate([scores for _, scores, _ in scorer.score_parts(batches, read)])


def write_nowhere(frame) -> None:
    frame.write.format("noop").mode("overwrite").save()


def collect(frame) -> np.ndarray:
    rows = frame.select("candid", "otrain.score").toArrow().sort_by("candid")
    return rows["score"].to_numpy().astype(np.float32)


def with_nothing(frame, columns: list[str]):
    from pyspark.sql.functions import arrow_udf

    def nothing(*arrays: pa.Array) -> pa.Array:
        return pa.nulls(len(arrays[0]), pa.float32())

    return frame.withColumn("otrain", arrow_udf(nothing, "float")(*columns))


def through_pandas(make: Callable[[], Any]) -> Any:
    from pyspark.sql import functions

    arrow_udf = functions.arrow_udf
    del functions.arrow_udf
    try:
        return make()
    finally:
        functions.arrow_udf = arrow_udf


def processor_seconds() -> float:
    """Give the processor time of this process and of all that come from it."""
    parents, spent = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            found = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended meanwhile, and its parent knows its time
        pid = int(stat.parent.name)
        parents[pid], spent[pid] = int(found[1]), sum(map(int, found[11:15])) / os.sysconf("SC_CLK_TCK")
    ours, young = set(), {os.getpid()}
    while young:
        ours |= young
        young = {pid for pid, parent in parents.items() if parent in young}
    return sum(spent[pid] for pid in ours)


def compare(rivals: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[Seconds]]:
    """Do as `machine.compare` does, with the processor time of all processes."""
    times: dict[str, list[Seconds]] = {name: [] for name in rivals}
    for repeat in range(repeats + 1):
        for name, run in rivals.items():
            processor, wall = processor_seconds(), time.perf_counter()
            run()
            seconds = Seconds(processor_seconds() - processor, time.perf_counter() - wall)
            if repeat:
                times[name].append(seconds)
    return times


def start_spark(folder: Path):
    from pyspark.sql import SparkSession

    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    builder = SparkSession.builder.master(f"local[{CORES}]").config("spark.ui.enabled", "false")
    builder = builder.config("spark.driver.memory", "4g").config("spark.sql.warehouse.dir", str(folder / "warehouse"))
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    return session


def describe_spark(spark) -> str:
    (java,) = spark.sql("select java_method('java.lang.System', 'getProperty', 'java.version')").first()
    return f"pyspark {spark.version}, Java {java}, pyarrow {pa.__version__}"


def rivals_of(frame, paths: list[Path], model: Path | None) -> dict[str, Callable[[], object]]:
    scorer = Scorer(model, threads=CORES)
    frames = {SPARK: with_scores(frame, model)}
    if find_spec("pandas"):
        frames[PANDAS] = through_pandas(partial(with_scores, frame, model))
    expected = score_alone(scorer, paths)
    for name, scored in frames.items():
        found = collect(scored)
        different = np.count_nonzero((found != expected) & ~(np.isnan(found) & np.isnan(expected)))
        if different:
            raise SystemExit(f"'{name}' is no rival: {different} of its scores differ")
    print(f"  the scores are equal to the bit; {int(np.isnan(expected).sum())} of {len(expected)} rows have none")
    mapping = for_planes(layout_of(read_schema(paths[0])), scorer.card.planes)
    present = {f"candidate.{name}" for name in frame.select("candidate.*").columns}
    present |= {f"{name}.stampData" for name in STAMPS} | {"objectId", "candid"}
    frames[NOTHING] = with_nothing(frame, [path for path in mapping.paths if path in present])
    return {ALONE: partial(score_alone, scorer, paths)} | {
        name: partial(write_nowhere, scored.select("otrain")) for name, scored in frames.items()
    }


def print_needs(times: dict[str, list[Seconds]], visit: Seconds, rows: int) -> None:
    processor, wall = middle(times[SPARK])
    core = 1 / (CORES * wall)
    by_processor = f"{1 / processor:,.0f} by its processor time"
    print(f"\nSpark: {1 / wall:,.0f} alerts a second, {core:,.0f} for each core ({by_processor})")
    beside = f"{ratio(times[ALONE], times[SPARK], 'wall'):.2f} by the clock, {ratio(times[ALONE], times[SPARK]):.2f}"
    print(f"its rate over that of one process with {CORES} threads: {beside} by processor time")
    print("cores that are needed, at the rate by the clock:")
    print(f"  a night of ZTF, {NIGHT:,} alerts in {HOURS} h: {cores_for(NIGHT / HOURS / 3600, core)}")
    print(f"  a visit of Rubin, {VISIT:,} alerts each {BETWEEN} s: {cores_for(VISIT / BETWEEN, core)}")
    print(f"to score a night of ZTF once again takes one core {NIGHT / core / 60:.1f} minutes")
    print(f"{rows:,} rows as a job of their own took {visit.wall:.1f} s on the {CORES} cores")


def cores_for(rate: float, core: float) -> str:
    return f"{rate:.0f} a second, {rate / core:.2f} cores, so {math.ceil(rate / core)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--model", type=Path, help="an ONNX model; the embedded one if not given")
    options = parser.parse_args()
    print(describe_machine())
    if not find_spec("pyspark") or not (os.environ.get("JAVA_HOME") or shutil.which("java")):
        print("Spark was skipped: it needs pyspark (pip install 'otrain[spark]') and Java")
        return
    data = os.environ.get("OTRAIN_DATA")
    alerts = real_alerts(Path(data, "alerts")) if data else mock_alerts()
    print("OTRAIN_DATA is not set: the alerts are made up" if not data else f"{len(alerts)} alerts of {data}, repeated")
    with tempfile.TemporaryDirectory() as folder:
        paths = write_night(Path(folder), alerts, options.rows)
        gigabytes = sum(path.stat().st_size for path in paths) / 1e9
        spark = start_spark(Path(folder))
        print(
            f"{describe_spark(spark)}; {options.rows} rows, {gigabytes:.1f} GB, model {Scorer(options.model).identity}"
        )
        frame = spark.read.parquet(*map(str, paths))
        times = compare(rivals_of(frame, paths, options.model), options.repeats)
        times = per_thing(times, dict.fromkeys(times, options.rows))
        print_times(times, "alert", ALONE)
        first = with_scores(spark.read.parquet(str(paths[0])), options.model).select("otrain")
        visit = middle(compare({SPARK: partial(write_nowhere, first)}, options.repeats)[SPARK])
        print_needs(times, visit, min(options.rows, VISIT))
        spark.stop()


if __name__ == "__main__":
    main()
