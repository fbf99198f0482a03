"""Spark in, scores out: a function over Arrow that scores the alerts of batch and streaming frames."""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from otrain_infer.alerts import AlertReader
from otrain_infer.arrow_packets import ArrowPackets, choose_mapping, for_planes
from otrain_infer.cutouts import CHUNK, Cutouts
from otrain_infer.errors import MissingExtraError, UsageError
from otrain_infer.flags import CutoutFlag
from otrain_infer.mapping import Field, PacketMapping, known_surveys, load_mapping
from otrain_infer.scorer import Scorer
from otrain_infer.session import read_model

Model = str | os.PathLike[str] | bytes | None
Told = str | os.PathLike[str] | PacketMapping

COLUMN = "otrain"
RESULT = "score float, flags int, model string"
SPREAD_RESULT = f"{RESULT}, spread float"

POSITION = ("XPOS", "YPOS")

SCORERS_KEPT = 4
"""Models that a process keeps open, as a stream may change from one to another."""

_EVERY_FLAG = ~0
_OF_THE_STAMPS = ~int(CutoutFlag.MISSING_KEYWORD)

_scorers: OrderedDict[tuple[str, int, str], Scorer] = OrderedDict()
_opening = threading.Lock()


def score_udf(model: Model = None, *, threads: int = 1, precision: str = "auto") -> Any:
    """Make a function of Spark that scores stamps in columns of their own.

    It takes the columns of the model's planes, in the order of its card: each a FITS file, gzipped or not. Behind them
    it may take two with the candidate's x and y position in its image (pixels), so that a stamp that is cut at the edge
    of the image is padded on the side where it was cut::

        score = score_udf("model.onnx")
        frame.withColumn("otrain", score("cutoutDifference.stampData", "candidate.xpos", "candidate.ypos"))

    Parameters
    ----------
    model
        As of `otrain_infer.Scorer`. Its bytes go to each executor once, and each of its Python processes opens it once.
    threads
        Computing threads of each of these processes, of which an executor runs one for each core.
    precision
        As of `otrain_infer.Scorer`.

    Returns
    -------
    pyspark.sql.udf.UserDefinedFunction
        Gives a structure: ``score`` (float, null where a stamp is unusable), ``flags`` (int, of `CutoutFlag`; no
        keyword counts as missing), ``model`` (string, `Scorer.identity`), and ``spread`` (float) where the model is an
        ensemble.

    Raises
    ------
    MissingExtraError
        When pyspark is not installed.
    ModelError, UsageError
        As of `otrain_infer.Scorer`.
    """
    sql = _import_sql()
    job = _Job.make(model, threads, precision, sql.SparkSession.getActiveSession)

    def score(columns: Sequence[Any]) -> Any:
        return _score_columns(job, columns)

    return _make_udf(sql, score, job)


def with_scores(
    frame: Any,
    model: Model = None,
    *,
    mapping: Told | None = None,
    column: str = COLUMN,
    threads: int = 1,
    precision: str = "auto",
) -> Any:
    """Score a frame of alert packets, whether it is of a batch or of a stream.

    Parameters
    ----------
    frame
        pyspark.sql.DataFrame whose columns are the fields of packets, such as ``candidate`` and ``cutoutScience``.
    model, threads, precision
        As of `score_udf`.
    mapping
        Where the fields are: the name of a survey, or a mapping or its YAML file. If not given, that of the survey
        whose fields these are.
    column
        Name of the column with the scores.

    Returns
    -------
    pyspark.sql.DataFrame
        The frame with one column more, of the structure that `score_udf` tells, though with every flag. Only the fields
        that are needed are read, and each row is scored once, whatever is asked of its score: for that, Spark moves no
        filter to the other side of the scoring, so what can be filtered without scores is to be filtered before.

    Raises
    ------
    MissingExtraError
        When pyspark is not installed.
    PacketError
        When the fields are of no survey that is known, or of another than was told.
    ModelError, UsageError
        As of `otrain_infer.Scorer`; the latter also when there is no column for one of its planes.
    """
    sql = _import_sql()
    present = set(_iter_fields(sql.types, frame.schema))
    chosen = choose_mapping(present, _find_mapping(mapping))
    job = _Job.make(model, threads, precision, lambda: frame.sparkSession)
    wanted = for_planes(chosen, job.planes)
    for plane in job.planes:
        choice = wanted.planes.get(plane, ())
        if not present.intersection(choice):
            raise UsageError(f"the frame has no column for the plane {plane} ({' or '.join(choice) or chosen.name})")
    paths = [path for path in wanted.paths if path in present]

    def score(columns: Sequence[Any]) -> Any:
        return _score_packets(job, columns, paths, wanted, _EVERY_FLAG)

    # Else Spark would score once to filter by the score, and then again to give it.
    udf = _make_udf(sql, score, job).asNondeterministic()
    return frame.withColumn(column, udf(*(_quote(path, frame.columns) for path in paths)))


@dataclass(frozen=True, slots=True)
class _Job:
    """What each executor is told.

    `content` is the model's, or a broadcast of it, which an executor gets once, when it first asks for it.
    """

    content: Any
    sha256: str
    identity: str
    planes: tuple[str, ...]
    has_spread: bool
    threads: int
    precision: str

    @classmethod
    def make(cls, model: Model, threads: int, precision: str, find_session: Callable[[], Any]) -> "_Job":
        from pyspark.sql.utils import is_remote

        scorer, content = Scorer(model, threads=threads, precision=precision), read_model(model)
        session = None if is_remote() else find_session()
        shipped = session.sparkContext.broadcast(content) if session else content
        told = (scorer.sha256, scorer.identity, scorer.card.planes, scorer.has_spread)
        return cls(shipped, *told, threads, precision)

    def open(self) -> Scorer:
        """Give the scorer of this process."""
        key = (self.sha256, self.threads, self.precision)
        with _opening:
            if key not in _scorers:
                content = self.content if isinstance(self.content, bytes) else self.content.value
                _scorers[key] = Scorer(content, threads=self.threads, precision=self.precision)
            _scorers.move_to_end(key)
            if len(_scorers) > SCORERS_KEPT:
                _scorers.popitem(last=False)
            return _scorers[key]


def _score_columns(job: _Job, columns: Sequence[Any]) -> Any:
    from pyarrow import types

    names = (*job.planes, *POSITION)[: len(columns)]
    if len(columns) not in (len(job.planes), len(job.planes) + len(POSITION)):
        planes = ", ".join(job.planes)
        raise UsageError(f"the model scores columns with {planes}, and perhaps x and y behind them, not {len(columns)}")
    for name, column in zip(names, columns, strict=True):
        if types.is_nested(column.type):
            raise UsageError(f"the column for {name} is {column.type}: give the field with the stamp, as a.b")
    mapping = PacketMapping(
        "columns", {plane: (plane,) for plane in job.planes}, {key: Field((key,)) for key in POSITION}
    )
    return _score_packets(job, columns, names, mapping, _OF_THE_STAMPS)


def _score_packets(job: _Job, columns: Sequence[Any], names: Sequence[str], mapping: PacketMapping, told: int) -> Any:
    """Score columns, pyarrow.Array (n,) each; `told` are the flags that are of use."""
    import pyarrow as pa

    scorer = job.open()
    reader = AlertReader.for_card(scorer.card)
    packets = ArrowPackets(pa.RecordBatch.from_arrays(list(columns), list(names)), mapping)

    def read(rows: slice) -> Iterator[Cutouts]:
        part = packets[rows]
        yield reader.cut_out(part, [""] * len(part), {})

    chunks = (slice(start, start + CHUNK) for start in range(0, len(packets), CHUNK))
    parts = [(scores, cutouts.flags, spreads) for cutouts, scores, spreads in scorer.score_parts(chunks, read)]
    nothing = (np.empty(0, np.float32), np.empty(0, np.uint32), np.empty(0, np.float32))
    scores, flags, spreads = map(np.concatenate, zip(nothing, *parts, strict=True))
    found = {
        "score": pa.array(scores, from_pandas=True),
        "flags": pa.array(flags.astype(np.int32) & told),
        "model": pa.array([job.identity] * len(packets), pa.string()),
    }
    if job.has_spread:
        found["spread"] = pa.array(spreads, from_pandas=True)
    return pa.StructArray.from_arrays([*found.values()], [*found])


def _make_udf(sql: Any, score: Callable[[Sequence[Any]], Any], job: _Job) -> Any:
    import pyarrow as pa

    result = SPREAD_RESULT if job.has_spread else RESULT
    if not hasattr(sql.functions, "arrow_udf"):
        return _make_pandas_udf(sql, score, result)

    def otrain_score(*columns: pa.Array) -> pa.Array:
        return score(columns)

    return sql.functions.arrow_udf(otrain_score, result)


def _make_pandas_udf(sql: Any, score: Callable[[Sequence[Any]], Any], result: str) -> Any:
    """Do the same for pyspark before 4.1, which gives Arrow to a function as pandas alone."""
    import pandas as pd  # type: ignore[import-untyped, unused-ignore]
    import pyarrow as pa

    def otrain_score(*columns: pd.Series) -> pd.DataFrame:
        scored = score([pa.array(column, from_pandas=True) for column in columns])
        return pa.Table.from_batches([pa.RecordBatch.from_struct_array(scored)]).to_pandas()

    return sql.functions.pandas_udf(otrain_score, result)


def _find_mapping(told: Told | None) -> PacketMapping | None:
    if told is None or isinstance(told, PacketMapping):
        return told
    surveys = {known.name: known for known in known_surveys()}
    if str(told) in surveys:
        return surveys[str(told)]
    if not Path(told).exists():
        raise UsageError(f"the mapping '{told}' is neither a file nor one of {', '.join(surveys)}")
    return load_mapping(Path(told))


def _iter_fields(types: Any, schema: Any, prefix: str = "") -> Iterator[str]:
    for field in schema.fields:
        if isinstance(field.dataType, types.StructType):
            yield from _iter_fields(types, field.dataType, f"{prefix}{field.name}.")
        elif not isinstance(field.dataType, types.ArrayType | types.MapType):
            yield prefix + field.name


def _quote(path: str, columns: Sequence[str]) -> str:
    names = [path] if path in columns else path.split(".")
    return ".".join(f"`{name}`" for name in names)


def _import_sql() -> Any:
    try:
        from pyspark import sql
        from pyspark.sql import functions, types  # noqa: F401
    except ImportError:
        raise MissingExtraError("Spark needs pyspark: pip install 'otrain[spark]'") from None
    return sql
