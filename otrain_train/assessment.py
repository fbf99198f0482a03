"""How good scores are, in figures with 95 % intervals, for the real and for the bogus candidates."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from otrain_infer.card import OperatingPoint
from otrain_train.bootstrap import band_of, wilson
from otrain_train.calibrate import at_threshold
from otrain_train.curves import at_thresholds
from otrain_train.metrics import Figures, Floats, Sweep, figures, sweep, table, without_nan

FRACTIONS = {"precision": "precision", "recall": "recall", "fpr": "false positive rate"}
BOOTSTRAPPED = {
    "f1": "F1",
    "mcc": "MCC",
    "auc": "AUC",
    "average_precision_real": "average precision, real",
    "average_precision_bogus": "average precision, bogus",
}


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure and its 95 % interval; NaN where there is none."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if not math.isfinite(self.value):
            return f"{'-':<10}"
        interval = f"{self.low:.4f} to {self.high:.4f}" if math.isfinite(self.low) else ""
        return f"{self.value:<10.4f}{interval}"


@dataclass(frozen=True, slots=True)
class Assessment:
    """What a model is worth on labelled candidates.

    Attributes
    ----------
    figures
        At a threshold. Its average precision is that of the real ones.
    estimates
        Figures with intervals, by the names of `FRACTIONS` (Wilson's) and of `BOOTSTRAPPED`. The average precision is
        given once with the real candidates as those to be found and once with the bogus ones.
    points
        What the operating points of the model bring on these candidates.
    """

    figures: Figures
    estimates: dict[str, Estimate]
    points: tuple[OperatingPoint, ...]

    def __str__(self) -> str:
        lines = [table(self.figures, self.points)]
        if not self.figures.one_class:
            lines += ["", f"  {'':<28}{'':<10}95 % interval"]
            for name, title in (FRACTIONS | BOOTSTRAPPED).items():
                lines.append(f"  {title:<28}{self.estimates[name]}".rstrip())
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Give the plain dictionary for JSON, in which what is not defined is None."""
        plain: dict[str, Any] = without_nan(
            {
                "figures": self.figures.to_dict(),
                "average_precision": {
                    label: self.estimates[f"average_precision_{label}"].value for label in ("real", "bogus")
                },
                "intervals_95": {name: [each.low, each.high] for name, each in self.estimates.items()},
                "operating_points": [asdict(point) for point in self.points],
            }
        )
        return plain


def assess(
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    threshold: float,
    rng: np.random.Generator,
    points: tuple[OperatingPoint, ...] = (),
) -> Assessment:
    """Measure scores against labels, and how far off the figures may be.

    Parameters
    ----------
    labels, scores, threshold
        As for `otrain_train.metrics.figures`.
    rng
        Where the resamples come from.
    points
        Operating points chosen on other candidates.
    """
    measured = figures(labels, scores, threshold)
    estimates = dict.fromkeys(FRACTIONS | BOOTSTRAPPED, Estimate(math.nan, math.nan, math.nan))
    called, real, bogus = measured.tp + measured.fp, measured.tp + measured.fn, measured.tn + measured.fp
    for name, k, n in (("precision", measured.tp, called), ("recall", measured.tp, real), ("fpr", measured.fp, bogus)):
        if n and not (name == "precision" and measured.one_class):
            estimates[name] = Estimate(k / n, *(float(bound) for bound in wilson(k, n)))
    if not measured.one_class:
        estimates |= _resampled(labels, scores, threshold, rng)
    there = tuple(at_threshold(point.name, point.threshold, labels, scores) for point in points)
    return Assessment(measured, estimates, there)


def estimate_fraction(k: int, n: int) -> Estimate:
    """Estimate a fraction, k of n, with Wilson's interval; NaN where n is 0."""
    low, high = wilson(k, n)
    return Estimate(k / n if n else math.nan, float(low), float(high))


def _resampled(
    labels: npt.ArrayLike, scores: npt.ArrayLike, threshold: float, rng: np.random.Generator
) -> dict[str, Estimate]:
    def measure(rates: Sweep) -> Floats:
        there = at_thresholds(rates, [threshold])
        areas = rates.auc, rates.average_precision, average_precision_of_bogus(rates)
        return np.array([there.f1[0], there.mcc[0], *areas])

    low, high = band_of(measure, labels, scores, rng)
    # Where no resample differs, as with classes parted without error, an interval without width would deceive.
    low, high = np.where(low < high, [low, high], np.nan)
    values = measure(sweep(labels, scores)).tolist()
    return {
        name: Estimate(*each) for name, *each in zip(BOOTSTRAPPED, values, low.tolist(), high.tolist(), strict=True)
    }


def average_precision_of_bogus(rates: Sweep) -> float:
    """Give the average precision when the bogus candidates are those to be found: the lowest scores come first."""
    before = np.append(0, rates.tp[:-1]), np.append(0, rates.fp[:-1])
    # Called bogus is what is below a threshold; going up, there is more and more of it.
    missed, found = (total - left[::-1] for total, left in zip((rates.real, rates.bogus), before, strict=True))
    return Sweep(rates.thresholds[::-1], found, missed, rates.bogus, rates.real).average_precision
