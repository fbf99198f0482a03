"""Scores of labelled rows by networks that have not learnt them: as many trainings as parts, each leaving one out."""

import logging
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from otrain_infer.card import ModelCard
from otrain_infer.errors import UsageError
from otrain_infer.normalise import Normalisation
from otrain_infer.scorer import Scorer, Scores
from otrain_train import checkpoint
from otrain_train.datacube import Datacube
from otrain_train.evaluation import Progress
from otrain_train.export import MAX_ROWS, export
from otrain_train.fit import FitResult, checkpoint_path, fit
from otrain_train.members import calibrate
from otrain_train.settings import TrainSettings
from otrain_train.splits import Rows, group_by, split_rows

log = logging.getLogger(__name__)

CHUNK = 1024


def score_out_of_fold(
    datacube: Datacube,
    rows: Rows,
    settings: TrainSettings,
    folds: int,
    folder: Path,
    progress: Progress | None = None,
) -> Scores:
    """Score rows, each by a network that was trained on others.

    The rows are cut into parts, each with its share of both classes, and no group is in two. For each part a network
    is trained on the others, calibrated, exported, and the exported model scores the part. A run that was broken off
    goes on where it was when it is called again with the same rows and settings.

    Parameters
    ----------
    datacube
        Raw pixels and labels.
    rows
        int64 (n,), those to score; the others are not looked at.
    settings
        How to train; of several seeds the first.
    folds
        How many parts, 2 or more.
    folder
        Where the states of the trainings are kept until all are over.
    progress
        Called with the steps done, all steps of all trainings, and a few words.

    Returns
    -------
    ndarray
        float32 (n,), NaN where a row is blank in a plane.

    Raises
    ------
    UsageError
        When there are fewer than two parts, and as of `otrain_train.fit.fit`.
    DatacubeError
        When a class has too few rows for so many parts.
    OutputError
        When a state cannot be written.
    KeyboardInterrupt
        When Ctrl-C ends it: half of the scores say nothing.
    """
    settings = replace(settings, seeds=(settings.seed,))
    scores = np.full(rows.size, np.nan, np.float32)
    parts = cut(datacube, rows, settings, folds)
    homes = [folder / f"part_{number}_of_{folds}" for number in range(1, folds + 1)]
    for number, (part, home) in enumerate(zip(parts, homes, strict=True)):
        report = _within(progress, number, folds)
        log.info("part %d of %d: a network to judge its labels by, apart from the model", number + 1, folds)
        others = np.delete(rows, part)
        fitted = fit(datacube, others, settings, home, report)
        if fitted.interrupted:
            raise KeyboardInterrupt
        scores[part] = _score(datacube, rows[part], fitted)
    for home in homes:
        checkpoint.remove(checkpoint_path(home, settings.seed))
        _remove_empty(home)
    return scores


def cut(datacube: Datacube, rows: Rows, settings: TrainSettings, folds: int) -> list[Rows]:
    """Cut rows into parts of about the same size, with their share of both classes and no group in two.

    Parameters are those of `score_out_of_fold`.

    Returns
    -------
    list of ndarray
        int64, positions in `rows`, each in one part.
    """
    if folds < 2:
        raise UsageError(f"{folds} part(s) leave nothing to train on: cut the rows in 2 or more")
    labels, groups = datacube.labels[rows], group_by(datacube, settings.group_key)[rows]
    rest, parts = np.arange(rows.size), []
    for left in range(folds, 1, -1):
        keep, part = split_rows(labels[rest], groups[rest], 1 / left, settings.seed)
        parts.append(rest[part])
        rest = rest[keep]
    return [*parts, rest]


def _within(progress: Progress | None, number: int, folds: int) -> Progress:
    def report(done: int, total: int, words: str) -> None:
        if progress:
            progress(number * total + done, folds * total, f"part {number + 1} of {folds}, {words}")

    return report


def _score(datacube: Datacube, rows: Rows, fitted: FitResult) -> Scores:
    calibrate(datacube, [fitted])
    normalisation = Normalisation(fitted.settings.normalisation)
    card = ModelCard("part", "1", "", datacube.planes, datacube.size, normalisation)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "part.onnx")
        export(fitted.model, card, path, datacube.read(rows[:MAX_ROWS]))
        scorer = Scorer(path)
        chunks = (rows[start : start + CHUNK] for start in range(0, rows.size, CHUNK))
        return np.concatenate([scorer.score_pixels(datacube.read(some)) for some in chunks])


def _remove_empty(home: Path) -> None:
    # Only ours, and only where nothing else has been put in it.
    for folder in (home, home.parent):
        try:
            folder.rmdir()
        except OSError:
            return
