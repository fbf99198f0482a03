"""The rows of a datacube with the scores that a model gives them: the ground of all figures, plots and galleries."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from otrain_infer.datacube import pick_planes, read_planes
from otrain_infer.errors import DatacubeError, ModelError
from otrain_infer.normalise import Pixels
from otrain_infer.npz import check_members, open_npz
from otrain_infer.scorer import Scorer, Scores
from otrain_train.datacube import REQUIRED, Datacube, sha256
from otrain_train.splits import Rows

log = logging.getLogger(__name__)

Progress = Callable[[int, int, str], None]
"""Takes how much is done of all there is, and a few words."""

CHUNK = 1024

OUTCOMES = {"FP": (0, True), "FN": (1, False), "TP": (1, True), "TN": (0, False)}
"""What a decision was: the label, and whether the candidate was called real."""


@dataclass(frozen=True, slots=True, eq=False)
class Evaluation:
    """Labelled candidates and what a model makes of them.

    Attributes
    ----------
    datacube
        The candidates: n rows, of at least the model's planes.
    scores
        float32 (n,), NaN where a row cannot be scored.
    threshold
        A candidate is called real from this score on.
    scorer
        The model.
    """

    datacube: Datacube
    scores: Scores
    threshold: float
    scorer: Scorer

    @property
    def name(self) -> str:
        """The name of the model."""
        return self.scorer.card.name

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        """int64 (n,): 1 real, 0 bogus."""
        return self.datacube.labels

    @property
    def called(self) -> npt.NDArray[np.bool_]:
        """Whether a candidate is called real, bool (n,)."""
        return self.scores >= np.float32(self.threshold)

    @property
    def scored(self) -> npt.NDArray[np.bool_]:
        """Whether a candidate has a score, bool (n,)."""
        return np.isfinite(self.scores)

    def rows(self, outcome: str) -> Rows:
        """Give the rows of one outcome of `OUTCOMES`, the most mistaken or the surest first; unscored ones in none."""
        label, called = OUTCOMES[outcome]
        found = np.flatnonzero(self.scored & (self.labels == label) & (self.called == called))
        order = np.argsort(-self.scores[found] if called else self.scores[found], kind="stable")
        return found[order]

    def pixels(self, rows: Rows) -> Pixels:
        """Give the raw pixels of some rows in the model's planes, float32 (len(rows), ny, nx, planes)."""
        return _in_planes(self.datacube, self.scorer, rows)


def evaluate(
    datacube: Datacube,
    scorer: Scorer,
    threshold: float | None = None,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Score the rows of a datacube.

    Parameters
    ----------
    datacube
        Of at least the model's planes, as of `load_for`.
    scorer
        The model.
    threshold
        A candidate is called real from this score on; that of the model's card if not given.
    progress
        Called with the number of rows just scored.

    Returns
    -------
    Evaluation

    Raises
    ------
    DatacubeError
        When the planes or the size are not the model's.
    """
    if datacube.size != scorer.card.size:
        ny, nx = scorer.card.size
        raise DatacubeError(
            f"the datacube holds cutouts of {datacube.size[0]}x{datacube.size[1]} pixels and the model "
            f"'{scorer.card.name}' takes {ny}x{nx}: convert the FITS files with --cutout-size {ny}"
        )
    scores = np.empty(len(datacube), np.float32)
    for start in range(0, len(datacube), CHUNK):
        rows = np.arange(start, min(start + CHUNK, len(datacube)))
        scores[rows] = scorer.score_pixels(_in_planes(datacube, scorer, rows))
        if progress:
            progress(rows.size)
    unscored = int(np.isnan(scores).sum())
    if unscored:
        log.warning("%d of %d cutouts have no score (blank in a plane) and are left out", unscored, len(datacube))
    return Evaluation(datacube, scores, scorer.card.threshold if threshold is None else threshold, scorer)


def evaluate_file(
    cube: Path, model: Path, threshold: float | None = None, progress: Progress | None = None
) -> Evaluation:
    """Score the rows of a datacube file with a model file, as `open_model`, `load_for` and `evaluate` do."""
    scorer = open_model(model)
    datacube, done = load_for(cube, scorer), 0
    check_members(cube)
    if _has_learnt(scorer, cube, datacube):
        log.warning(
            "'%s' is the datacube that '%s' has learnt from: these figures flatter it; its validation rows are in %s",
            cube,
            scorer.card.name,
            f"{scorer.card.name}/validation_set/cube_validation.npz",
        )

    def scored(count: int) -> None:
        nonlocal done
        done += count
        if progress:
            progress(done, len(datacube), "scoring")

    return evaluate(datacube, scorer, threshold, scored)


def _has_learnt(scorer: Scorer, cube: Path, datacube: Datacube) -> bool:
    learnt = scorer.card.training.get("cube", {})
    # The file is only read through where it may be the same.
    return isinstance(learnt, dict) and learnt.get("rows") == len(datacube) and learnt.get("sha256") == sha256(cube)


def open_model(path: Path) -> Scorer:
    """Open the model that a command was given.

    Raises
    ------
    ModelError
        When it is not an ONNX file of this program; a Keras file is told how it becomes one.
    """
    if path.is_dir():
        raise ModelError(f"'{path}' is a folder: name the .onnx file, such as CNN_training/NAME.onnx in it")
    if path.suffix in (".keras", ".h5", ".hdf5"):
        raise ModelError(f"'{path}' is a Keras file: name the .onnx file beside it, or make one with otrain-export")
    return Scorer(path)


def load_for(path: Path, scorer: Scorer) -> Datacube:
    """Load a datacube of this program or of the original one, whose planes are the model's where it does not say them.

    Raises
    ------
    DatacubeError
        When the file is not a usable datacube, or has other planes than the model.
    """
    columns = open_npz(path, REQUIRED)
    named = read_planes(columns)
    try:
        datacube = Datacube.from_columns(columns, named or _unnamed(columns["cube"], scorer))
        pick_planes(datacube.planes, len(datacube.planes), scorer.card)
    except DatacubeError as error:
        raise DatacubeError(f"'{path}' does not fit the model '{scorer.card.name}': {error}") from None
    return datacube


def _unnamed(cube: npt.NDArray[Any], scorer: Scorer) -> tuple[str, ...] | None:
    count = cube.shape[3] if cube.ndim == 4 else 1
    return scorer.card.planes if count == len(scorer.card.planes) else None


def _in_planes(datacube: Datacube, scorer: Scorer, rows: Rows) -> Pixels:
    picked = pick_planes(datacube.planes, len(datacube.planes), scorer.card)
    return np.ascontiguousarray(datacube.read(rows)[..., picked])
