"""Rows of a datacube, gone through part by part: which can be used, their scores, and a copy of some in a file."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from otrain_infer.normalise import find_blank
from otrain_infer.scorer import Scorer, Scores
from otrain_train.cubewriter import DatacubeWriter
from otrain_train.datacube import Datacube
from otrain_train.splits import Rows

log = logging.getLogger(__name__)

CHUNK = 1024
"""Rows in memory at a time."""


def usable_rows(datacube: Datacube) -> Rows:
    """Give the rows that are not blank in any plane, int64 (n,); the others are counted in the log."""
    blank = np.concatenate([find_blank(datacube.read(some)) for some in _parts(len(datacube))])
    if blank.any():
        log.warning("%d of %d cutouts are blank in a plane and left out", blank.sum(), blank.size)
    return np.flatnonzero(~blank)


def score_rows(scorer: Scorer, datacube: Datacube, rows: Rows) -> Scores:
    """Give the scores of some rows, float32 (n,), in their order; the planes must be the model's."""
    return np.concatenate([scorer.score_pixels(datacube.read(rows[some])) for some in _parts(rows.size)])


def spread_rows(rows: Rows, most: int) -> Rows:
    """Take at most so many of some rows, evenly spaced."""
    return rows[np.unique(np.linspace(0, rows.size - 1, most).astype(np.int64))]


def write_rows(datacube: Datacube, rows: Rows, path: Path) -> None:
    """Write some rows as a datacube file of their own, whole or not at all; raises OutputError where it cannot be."""
    with DatacubeWriter(path) as writer:
        for some in _parts(rows.size):
            writer.append(datacube.select(rows[some]))


def _parts(n: int) -> Iterator[slice]:
    return (slice(start, start + CHUNK) for start in range(0, n, CHUNK))
