"""ROC and precision-recall curves of some of the candidates, with their areas and 95 % bands."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from otrain_train.bootstrap import band_of
from otrain_train.metrics import Floats, Sweep, sweep

LOWEST_FPR = 1e-3
FPR_GRID = np.unique(np.concatenate([[0.0], np.geomspace(LOWEST_FPR, 1, 61), np.linspace(0, 1, 101)]))
RECALL_GRID = np.linspace(0, 1, 101)[1:]


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Some of the candidates, which get a curve of their own.

    Attributes
    ----------
    name
        What they have in common, such as ``17 to 18.5``.
    labels
        (k,): 1 real, 0 bogus.
    scores
        (k,), in 0-1; NaN is left out.
    """

    name: str
    labels: npt.NDArray[Any]
    scores: npt.NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """A curve, its band, and the area under it. Without both classes all of them are NaN.

    Attributes
    ----------
    name
        Of the part.
    x, y
        float64 (m,), the points of the curve, from x = 0 on.
    grid, low, high
        float64 (k,), where the 95 % bootstrap band is known, and its bounds.
    area, area_low, area_high
        AUC or average precision, and its 95 % bootstrap interval.
    real, bogus
        Candidates with a score, of each class.
    """

    name: str
    x: Floats
    y: Floats
    grid: Floats
    low: Floats
    high: Floats
    area: float
    area_low: float
    area_high: float
    real: int
    bogus: int

    @property
    def measurable(self) -> bool:
        """Whether there are candidates of both classes."""
        return self.real > 0 and self.bogus > 0


def roc_curve(part: Part, rng: np.random.Generator) -> Curve:
    """Give the ROC curve: recall against the false positive rate. The area is the AUC.

    Parameters
    ----------
    part
        The candidates.
    rng
        Where the resamples of the band come from.
    """
    rates = sweep(part.labels, part.scores)
    points = np.append(0.0, rates.fpr), np.append(0.0, rates.recall)
    return _curve(part, rates, points, FPR_GRID, recall_at, lambda each: each.auc, rng)


def recall_curve(part: Part, rng: np.random.Generator) -> Curve:
    """Give the precision-recall curve: precision against recall. The area is the average precision; see `roc_curve`.

    It is a step function: between two points the precision is that of the second, which reaches the recall.
    """
    rates = sweep(part.labels, part.scores)
    points = np.append(0.0, rates.recall), np.append(rates.precision[:1], rates.precision)
    return _curve(part, rates, points, RECALL_GRID, precision_at, lambda each: each.average_precision, rng)


def _curve(
    part: Part,
    rates: Sweep,
    points: tuple[Floats, Floats],
    grid: Floats,
    height: Callable[[Sweep, Floats], Floats],
    area: Callable[[Sweep], float],
    rng: np.random.Generator,
) -> Curve:
    low, high = np.full((2, grid.size + 1), math.nan)
    if rates.real and rates.bogus:
        low, high = band_of(lambda each: np.append(height(each, grid), area(each)), part.labels, part.scores, rng)
    bounds = float(low[-1]), float(high[-1])
    return Curve(part.name, *points, grid, low[:-1], high[:-1], area(rates), *bounds, rates.real, rates.bogus)


def at_thresholds(rates: Sweep, thresholds: npt.ArrayLike) -> Sweep:
    """Give the confusion matrix at other thresholds than the scores.

    Parameters
    ----------
    rates
        Of `otrain_train.metrics.sweep`.
    thresholds
        (k,), compared in float32, the type of the scores.
    """
    asked = np.asarray(thresholds, np.float32).astype(np.float64)
    reached = np.searchsorted(-rates.thresholds, -asked, side="right")
    tp, fp = np.append(0, rates.tp)[reached], np.append(0, rates.fp)[reached]
    return Sweep(asked, tp, fp, rates.real, rates.bogus)


def recall_at(rates: Sweep, fpr: Floats) -> Floats:
    """Give the recall at false positive rates, float64 (k,), on straight lines between the points of the ROC curve."""
    return np.asarray(np.interp(fpr, np.append(0.0, rates.fpr), np.append(0.0, rates.recall)))


def precision_at(rates: Sweep, recall: Floats) -> Floats:
    """Give the precision at the highest threshold that reaches a recall above 0, float64 (k,)."""
    # A recall of 0.3 may be a little less to a computer: it is counted in rows.
    needed = np.ceil(recall * rates.real - 1e-9)
    return rates.precision[np.searchsorted(rates.tp, needed)]
