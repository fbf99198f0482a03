"""A science module of Fink: O'TRAIN's score as a column.

Copy this file to ``fink_science/ztf/otrain/processor.py`` and the model beside it as ``otrain.onnx`` (or name it in
OTRAIN_MODEL, which executors get through ``spark.executorEnv.OTRAIN_MODEL``), and call it as any of Fink's own::

    args = ["cutoutScience.stampData", "cutoutTemplate.stampData", "cutoutDifference.stampData"]
    args += ["candidate.xpos", "candidate.ypos"]
    df = df.withColumn("otrain_score", otrain_score(*args))

For Rubin the columns are ``cutoutScience``, ``cutoutTemplate``, ``cutoutDifference``, ``diaSource.x``, ``diaSource.y``.
Fink's own modules have line_profiler's ``@profile`` below the first decorator; add it there. Where Arrow can be had
without pandas, `otrain_infer.spark.score_udf` does the same faster, and gives flags besides.
"""

import os
from functools import cache
from pathlib import Path

import pandas as pd
from pyspark.sql.functions import pandas_udf
from pyspark.sql.types import FloatType

from otrain_infer import Scorer
from otrain_infer.stamp_packets import read_stamps


@cache
def open_scorer() -> Scorer:
    """Open the model, once in each of Spark's Python processes."""
    return Scorer(os.environ.get("OTRAIN_MODEL") or Path(__file__).with_name("otrain.onnx"))


@pandas_udf(FloatType())
def otrain_score(
    cutoutScience: pd.Series,  # noqa: N803 (the names that Fink's modules give them)
    cutoutTemplate: pd.Series,  # noqa: N803
    cutoutDifference: pd.Series,  # noqa: N803
    xpos: pd.Series,
    ypos: pd.Series,
) -> pd.Series:
    """Give each alert the probability of being real.

    Parameters
    ----------
    cutoutScience, cutoutTemplate, cutoutDifference
        FITS files, gzipped or not, as bytes.
    xpos, ypos
        Position of the candidate in its image (pixels), which tells where a stamp at the edge of an image was cut.

    Returns
    -------
    pd.Series
        float32; null where a stamp that the model takes is missing, broken or blank.
    """
    scorer = open_scorer()
    stamps = {"SCI": cutoutScience, "REF": cutoutTemplate, "DIFF": cutoutDifference}
    cutouts = read_stamps(stamps, card=scorer.card, columns={"XPOS": xpos, "YPOS": ypos})
    return pd.Series(scorer.score(cutouts))
