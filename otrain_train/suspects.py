"""Labels that are probably wrong: confident learning on scores of networks that have not learnt them."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from otrain_train.splits import Rows

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Suspects:
    """Rows whose label is probably wrong, the most suspicious first.

    Attributes
    ----------
    rows
        int64 (k,), positions in what `find_suspects` was given.
    margins
        float64 (k,): the probability of the label given, less that of the other; -1 is as suspicious as can be.
    thresholds
        The probability of being bogus, and that of being real, from which on a row counts as surely so: the mean over
        the rows labelled so; NaN where there are none.
    joint
        int64 (2, 2): rows by the label given and by what they surely are, bogus first. Rows that are surely neither
        are not counted.
    labelled
        int64 (2,): rows with a score by their label, bogus first.
    """

    rows: Rows
    margins: npt.NDArray[np.float64]
    thresholds: tuple[float, float]
    joint: Counts
    labelled: Counts

    @property
    def wrong_fraction(self) -> float:
        """About which part of all labels is wrong: `joint` scaled to the labels that there are; NaN without rows."""
        sure = self.joint.sum(axis=1)
        wrong = self.joint[[0, 1], [1, 0]] / np.maximum(sure, 1) * self.labelled
        total = int(self.labelled.sum())
        return float(wrong.sum()) / total if total else math.nan


def find_suspects(labels: npt.ArrayLike, scores: npt.ArrayLike) -> Suspects:
    """Find the labels that are probably wrong by confident learning (Northcutt, Jiang & Chuang 2021).

    A row is surely real when its probability of being so reaches the mean over the rows that are labelled so, and
    bogus alike; the more probable of the two counts where it reaches both. Suspects are the rows that are surely what
    they are not labelled.

    Parameters
    ----------
    labels
        (n,), 1 real, 0 bogus.
    scores
        (n,), probability of being real that a network gives which has not learnt the row; NaN is left out.

    Returns
    -------
    Suspects
        None of them where all labels are of one class.
    """
    given, score = np.asarray(labels), np.asarray(scores, np.float64)
    known = np.flatnonzero(np.isfinite(score))
    label = given[known].astype(np.int64)
    probabilities = np.stack([1 - score[known], score[known]], axis=1)
    thresholds = [_mean(probabilities[label == each, each]) for each in (0, 1)]
    reached = np.where(probabilities >= thresholds, probabilities, -1.0)
    sure = reached.max(axis=1, initial=-1.0) >= 0
    # Where both are as probable, the label is believed.
    likely = np.where(reached[:, 1] == reached[:, 0], label, reached.argmax(axis=1))
    joint = np.zeros((2, 2), np.int64)
    np.add.at(joint, (label[sure], likely[sure]), 1)
    wrong = np.flatnonzero(sure & (likely != label))
    margins = probabilities[wrong, label[wrong]] - probabilities[wrong, likely[wrong]]
    order = np.argsort(margins, kind="stable")
    labelled = np.bincount(label, minlength=2)
    return Suspects(known[wrong[order]], margins[order], (thresholds[0], thresholds[1]), joint, labelled)


def _mean(values: npt.NDArray[np.float64]) -> float:
    return float(values.mean()) if values.size else math.nan
