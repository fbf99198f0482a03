"""Labels and scores in, figures and curves out.

A candidate is called real when ``score >= threshold``, compared in float32, the type of the scores. Whatever is 0/0 is
NaN, and a NaN is never the best of anything. Rows whose score is NaN are left out and counted.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from otrain_infer.card import OperatingPoint
from otrain_infer.errors import DatacubeError

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

BINS = 15


@dataclass(frozen=True, slots=True)
class Figures:
    """How good scores are, some of them at a threshold. A figure that is not defined is NaN.

    With rows of one class only, everything that compares the classes is NaN, the accuracy included.

    Attributes
    ----------
    n, left_out
        Rows measured; rows left out because their score is NaN.
    threshold
        A candidate is called real from this score on.
    tn, fp, fn, tp
        The confusion matrix: bogus called bogus, bogus called real, real called bogus, real called real.
    precision, recall, f1, mcc, accuracy
        At the threshold; `mcc` is the Matthews correlation coefficient.
    average_precision, auc
        Areas under the precision-recall curve (as a step function) and under the ROC curve.
    brier, log_loss, ece
        Mean squared error, negative log likelihood (nats) and expected calibration error of the scores.
    """

    n: int
    left_out: int
    threshold: float
    tn: int
    fp: int
    fn: int
    tp: int
    precision: float
    recall: float
    f1: float
    mcc: float
    accuracy: float
    average_precision: float
    auc: float
    brier: float
    log_loss: float
    ece: float

    @property
    def one_class(self) -> bool:
        """Whether the rows are all real or all bogus, so that nothing can be said about telling them apart."""
        return self.tp + self.fn == 0 or self.tn + self.fp == 0

    @property
    def fpr(self) -> float:
        """Fraction of the bogus rows called real, at the threshold."""
        return _ratio(self.fp, self.fp + self.tn).item()

    def to_dict(self) -> dict[str, Any]:
        """Give the plain dictionary for JSON, in which a figure that is not defined is None."""
        plain: dict[str, Any] = without_nan(asdict(self))
        return plain


@dataclass(frozen=True, slots=True, eq=False)
class Sweep:
    """The confusion matrix at every threshold that matters: one for each distinct score, from the highest down.

    Attributes
    ----------
    thresholds
        float64 (n,), descending, each equal to a score.
    tp, fp
        int64 (n,), real and bogus rows called real.
    real, bogus
        Rows of each class.
    """

    thresholds: Floats
    tp: Counts
    fp: Counts
    real: int
    bogus: int

    @property
    def recall(self) -> Floats:
        """Fraction of the real rows called real, float64 (n,)."""
        return _ratio(self.tp, self.real)

    @property
    def fpr(self) -> Floats:
        """Fraction of the bogus rows called real, float64 (n,)."""
        return _ratio(self.fp, self.bogus)

    @property
    def precision(self) -> Floats:
        """Fraction of the rows called real that are, float64 (n,)."""
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def f1(self) -> Floats:
        """Harmonic mean of precision and recall, float64 (n,)."""
        return _ratio(2 * self.tp, self.tp + self.fp + self.real)

    @property
    def mcc(self) -> Floats:
        """Matthews correlation coefficient, float64 (n,)."""
        return _mcc(self.tp, self.fp, self.real, self.bogus)

    @property
    def average_precision(self) -> float:
        """Area under the precision-recall curve taken as a step function."""
        if self.real == 0 or self.bogus == 0:
            return math.nan
        steps = np.diff(self.recall, prepend=0.0)
        return float(np.sum(steps * self.precision))

    @property
    def auc(self) -> float:
        """Area under the ROC curve: the chance that a real row has a higher score than a bogus one, ties half."""
        if self.real == 0 or self.bogus == 0:
            return math.nan
        tpr, fpr = np.append(0.0, self.recall), np.append(0.0, self.fpr)
        return float(np.sum(np.diff(fpr) * (tpr[1:] + tpr[:-1]) / 2))

    @property
    def auc_error(self) -> float:
        """Standard error of `auc` (Hanley & McNeil 1982); 0 where no bogus row has a higher score than a real one."""
        auc, fewest = self.auc, min(self.real, self.bogus)
        of_real, of_bogus = auc / (2 - auc), 2 * auc**2 / (1 + auc)
        spread = auc * (1 - auc) + (self.real - 1) * (of_real - auc**2) + (self.bogus - 1) * (of_bogus - auc**2)
        return math.sqrt(max(spread, 0.0) / (self.real * self.bogus)) if fewest else math.nan


@dataclass(frozen=True, slots=True, eq=False)
class Reliability:
    """Scores against what came true, in equal bins of the score; a bin without rows is NaN.

    Attributes
    ----------
    scores, fractions
        float64 (bins,), mean score and fraction of real rows.
    weights
        float64 (bins,), share of all rows (or of their weight) in the bin.
    """

    scores: Floats
    fractions: Floats
    weights: Floats

    @property
    def ece(self) -> float:
        """Expected calibration error: mean distance of score and fraction (Naeini et al. 2015), NaN without rows."""
        if not self.weights.sum() > 0:
            return math.nan
        return float(np.nansum(self.weights * np.abs(self.scores - self.fractions)))


def figures(labels: npt.ArrayLike, scores: npt.ArrayLike, threshold: float = 0.5) -> Figures:
    """Measure scores against labels.

    Parameters
    ----------
    labels
        (n,), 1 real, 0 bogus.
    scores
        (n,), probability of being real, in 0-1; NaN rows are left out.
    threshold
        A candidate is called real from this score on.

    Returns
    -------
    Figures

    Raises
    ------
    DatacubeError
        When the two do not belong together, or labels or scores are out of range.
    """
    real, used = _checked(labels, scores)
    called = used >= np.float32(threshold)
    tp, fp = int(np.sum(called & real)), int(np.sum(called & ~real))
    n, n_real = real.size, int(real.sum())
    both = 0 < n_real < n
    rates = sweep(real, used)
    probabilities = used.astype(np.float64)
    return Figures(
        n=n,
        left_out=np.size(scores) - n,
        threshold=float(threshold),
        tn=n - n_real - fp,
        fp=fp,
        fn=n_real - tp,
        tp=tp,
        precision=_ratio(tp, tp + fp).item() if both else math.nan,
        recall=_ratio(tp, n_real).item(),
        f1=_ratio(2 * tp, tp + fp + n_real).item() if both else math.nan,
        mcc=_mcc(np.int64(tp), np.int64(fp), n_real, n - n_real).item(),
        accuracy=(tp + n - n_real - fp) / n if both else math.nan,
        average_precision=rates.average_precision,
        auc=rates.auc,
        brier=float(np.mean((probabilities - real) ** 2)) if n else math.nan,
        log_loss=log_loss(real, used),
        ece=reliability(real, used).ece,
    )


def sweep(labels: npt.ArrayLike, scores: npt.ArrayLike) -> Sweep:
    """Give the confusion matrix at every distinct score, the ground of all curves.

    Parameters and errors are those of `figures`. Rows with the same score change sides together.
    """
    real, used = _checked(labels, scores)
    order = np.argsort(-used, kind="stable")
    ordered, hits = used[order], np.cumsum(real[order])
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True)[: ordered.size])
    tp = hits[last].astype(np.int64)
    n_real = int(real.sum())
    return Sweep(ordered[last].astype(np.float64), tp, last + 1 - tp, n_real, real.size - n_real)


def reliability(
    labels: npt.ArrayLike, scores: npt.ArrayLike, bins: int = BINS, weights: npt.ArrayLike | None = None
) -> Reliability:
    """Compare scores with what came true, in `bins` equal bins of the score.

    Parameters
    ----------
    labels, scores
        As for `figures`.
    bins
        How many; bin i holds ``i / bins <= score < (i + 1) / bins``, the last one the score 1 too.
    weights
        (n,), weight of each row, 1 if not given.
    """
    real, used = _checked(labels, scores)
    weight = _weights(scores, weights)
    place = np.minimum((used.astype(np.float64) * bins).astype(np.intp), bins - 1)
    total = np.bincount(place, weight, bins)
    mean = _ratio(np.bincount(place, weight * used, bins), total)
    fraction = _ratio(np.bincount(place, weight * real, bins), total)
    return Reliability(mean, fraction, _ratio(total, total.sum()))


def log_loss(labels: npt.ArrayLike, scores: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> float:
    """Negative log likelihood per row (nats); scores of exactly 0 and 1 count as float32's nearest distinct ones."""
    real, used = _checked(labels, scores)
    weight = _weights(scores, weights)
    if not weight.sum() > 0:
        return math.nan
    eps = float(np.finfo(np.float32).eps)
    probabilities = np.clip(used.astype(np.float64), eps, 1 - eps)
    return float(np.average(-np.log(np.where(real, probabilities, 1 - probabilities)), weights=weight))


def table(measured: Figures, points: Sequence[OperatingPoint] = ()) -> str:
    """Write figures and operating points as text for a terminal."""
    rows = [
        ("precision", measured.precision),
        ("recall", measured.recall),
        ("F1", measured.f1),
        ("MCC", measured.mcc),
        ("accuracy", measured.accuracy),
        ("average precision", measured.average_precision),
        ("AUC", measured.auc),
        ("Brier score", measured.brier),
        ("log loss", measured.log_loss),
        ("calibration error", measured.ece),
    ]
    lines = [f"{measured.n} candidates, called real from a score of {measured.threshold:g} on"]
    if measured.left_out:
        lines.append(f"{measured.left_out} more have no score and are left out")
    if measured.n == 0:
        lines.append("no candidate has a score: nothing can be said")
    elif measured.one_class:
        lines.append("all of one class: nothing can be said about telling real from bogus")
    lines += [f"  {name:<18}{_text(value)}" for name, value in rows]
    lines += [
        "",
        f"  {'':<14}{'called bogus':>14}{'called real':>14}",
        f"  {'bogus':<14}{measured.tn:>14}{measured.fp:>14}",
        f"  {'real':<14}{measured.fn:>14}{measured.tp:>14}",
    ]
    if points:
        lines += ["", f"  {'operating point':<18}{'threshold':>10}{'recall':>10}{'FPR':>10}{'precision':>11}"]
        lines += [
            f"  {point.name:<18}{point.threshold:>10.3g}{_text(point.recall):>10}{_text(point.fpr):>10}"
            f"{_text(point.precision):>11}"
            for point in points
        ]
    return "\n".join(lines)


def without_nan(content: Any) -> Any:
    """Put None, which JSON has, for every float in dictionaries and lists that is not finite, which JSON has not."""
    if isinstance(content, dict):
        return {key: without_nan(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [without_nan(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def _checked(labels: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
    truth, given = np.asarray(labels), np.asarray(scores, np.float32)
    if truth.ndim != 1 or truth.shape != given.shape:
        raise DatacubeError(f"labels {truth.shape} and scores {given.shape} are not one of each per candidate")
    if not np.isin(truth, (0, 1)).all():
        raise DatacubeError("labels are 1 for real and 0 for bogus, and there are others among these")
    keep = ~np.isnan(given)
    used = given[keep]
    if used.size and (used.min() < 0 or used.max() > 1):
        raise DatacubeError("scores are probabilities from 0 to 1, and there are others among these")
    return truth[keep].astype(np.bool_), used


def _weights(scores: npt.ArrayLike, weights: npt.ArrayLike | None) -> Floats:
    keep = ~np.isnan(np.asarray(scores, np.float32))
    if weights is None:
        return np.ones(int(keep.sum()))
    return np.asarray(weights, np.float64)[keep]


def _ratio(above: npt.ArrayLike, below: npt.ArrayLike) -> Floats:
    numerator, denominator = np.broadcast_arrays(np.asarray(above, np.float64), np.asarray(below, np.float64))
    quotient: Floats = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator != 0)
    return quotient


def _mcc(tp: npt.ArrayLike, fp: npt.ArrayLike, real: int, bogus: int) -> Floats:
    # In float64 from the start: the product of four counts overflows int64 for large sets.
    hits, alarms = np.asarray(tp, np.float64), np.asarray(fp, np.float64)
    called = hits + alarms
    spread = np.sqrt(called) * np.sqrt(real + bogus - called) * math.sqrt(real) * math.sqrt(bogus)
    return _ratio(hits * bogus - alarms * real, spread)


def _text(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "-"
