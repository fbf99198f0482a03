"""The learning curve: how the error falls as training rows are added, and what twice as many would bring.

The error after training on n rows is taken for ``floor + rise (n / N) ** -power``, the power law that learning curves
follow (Viering and Loog 2023). What is left of the errors after the fit, drawn again and again, says how sure that is.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.stats import f as f_distribution

Floats = npt.NDArray[np.float64]

POWERS = np.geomspace(0.02, 4.0, 160)
"""Powers that are tried; the best is then made exact."""

LEAST_SIZES = 5
"""Sizes from which on a curve is fitted: it has three unknowns."""

DOUBT = 0.05
"""Chance, at most, of a curve like this one where the error does not depend on the size at all."""

DRAWS = 1000
PERCENTILES = (5.0, 95.0)
GRID = 100
MOST_SHARED = 0.9
"""Bound of the correlation of a training with the next smaller one of its repeat."""

SMALLEST_SPREAD = 1e-4
"""Of errors that happen to be all alike."""

USUAL_SLOPE, SLOPES = -0.5, (-2.0, 0.0)
"""Power with which differences between trainings fall with the size: if nothing tells, and its bounds."""


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """The error after training on n rows: ``floor + rise (n / rows) ** -power``.

    Attributes
    ----------
    floor, rise, power
        Not negative.
    rows
        The number of rows at which the error is ``floor + rise``.
    """

    floor: float
    rise: float
    power: float
    rows: float

    def error(self, sizes: npt.ArrayLike) -> Floats:
        """Give the error at sizes, float64 of their shape."""
        return np.asarray(self.floor + self.rise * (np.asarray(sizes, np.float64) / self.rows) ** -self.power)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value and its 90 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, eq=False)
class LearningCurve:
    """What the errors of a study say.

    Attributes
    ----------
    law
        The curve, None where the errors do not show one.
    reason
        Why there is none, or what to mind where there is one; empty if nothing.
    sizes
        float64 (k,), rows at which the curve is given, from the smallest size to twice the largest; empty without one.
    low, high
        float64 (k,), 90 % band of the error.
    acceptable
        The smallest size at which the error exceeds that at the largest size by no more than the tolerance.
    gain
        By how much the error falls with twice the largest size.
    """

    law: PowerLaw | None
    reason: str
    sizes: Floats
    low: Floats
    high: Floats
    acceptable: Estimate | None
    gain: Estimate | None


@dataclass(frozen=True, slots=True, eq=False)
class _Laws:
    # Many power laws of the same rows: float64 arrays of one shape.
    floor: Floats
    rise: Floats
    power: Floats


def fit_power_law(sizes: npt.ArrayLike, errors: npt.ArrayLike, spreads: npt.ArrayLike | None = None) -> PowerLaw:
    """Fit the power law by weighted least squares.

    Parameters
    ----------
    sizes
        (m,), training rows, two different numbers at least.
    errors
        (m,), of one training each.
    spreads
        (m,), standard deviation of each error, up to a common factor; all alike if not given.

    Returns
    -------
    PowerLaw
        Whose ``rows`` is the largest size.
    """
    n, y = np.asarray(sizes, np.float64), np.asarray(errors, np.float64)
    weights = np.ones(n.size) if spreads is None else np.asarray(spreads, np.float64) ** -2.0
    scaled = n / n.max()
    place = int(np.argmin(_solve(scaled, y, weights, POWERS)[2]))
    bounds = POWERS[max(place - 1, 0)], POWERS[min(place + 1, POWERS.size - 1)]

    def loss(power: float) -> float:
        return float(_solve(scaled, y, weights, np.array([power]))[2][0])

    power = float(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-9}).x)
    floor, rise, _ = _solve(scaled, y, weights, np.array([power]))
    return PowerLaw(float(floor[0]), float(rise[0]), power, float(n.max()))


def _solve(
    scaled: Floats, errors: Floats, weights: Floats, powers: Floats, lowest: float = 0.0
) -> tuple[Floats, Floats, Floats]:
    # With the power given, the rest is a straight line that may neither begin below `lowest` nor descend: solved
    # outright for all draws (..., m) and powers (k,) at once. Gives floors, rises and losses, (..., k).
    x = scaled[:, np.newaxis] ** -powers
    total, along, square = weights.sum(), weights @ x, weights @ x**2
    weighted = errors * weights
    level, cross = weighted.sum(axis=-1)[..., np.newaxis], weighted @ x
    determinant = total * square - along**2
    rise = (total * cross - along * level) / np.where(determinant > 0, determinant, np.inf)
    rise = np.maximum(rise, 0.0)
    floor = (level - along * rise) / total
    if lowest == 0:
        rise = np.where(floor < 0, np.maximum(cross / square, 0.0), rise)
        floor = np.maximum(floor, 0.0)
    loss = (
        (weighted * errors).sum(axis=-1)[..., np.newaxis]
        - 2 * (floor * level + rise * cross)
        + floor**2 * total
        + 2 * floor * rise * along
        + rise**2 * square
    )
    return floor, rise, loss


def fit_curve(
    sizes: npt.ArrayLike, errors: npt.ArrayLike, repeats: npt.ArrayLike, tolerance: float, rng: np.random.Generator
) -> LearningCurve:
    """Fit the errors of all trainings, and say what follows from the curve and how sure that is.

    The intervals come from studies like this one, made up of the curve and of what the fit left over. That is first
    rid of what a training has in common with the next smaller one of the same repeat, whose rows are among its own, and
    gets as much of it back after it was shuffled (a sieve bootstrap).

    Parameters
    ----------
    sizes, errors
        (m,), training rows and error of each training.
    repeats
        (m,), the number of the repeat it belongs to: the rows of a training are among those of the larger ones there.
    tolerance
        By how much the error at an acceptable size may exceed that at the largest.
    rng
        Decides the draws that the intervals come from.

    Returns
    -------
    LearningCurve
        With a law and its estimates where the errors fall with the size; else the reason why they do not tell.
    """
    order = np.lexsort((np.asarray(sizes), np.asarray(repeats)))
    n, y, series = (np.asarray(each, np.float64)[order] for each in (sizes, errors, repeats))
    different = np.unique(n).size
    if different < LEAST_SIZES:
        return _none(f"a curve takes {LEAST_SIZES} sizes at least, and there are {different}")
    spreads = _spreads(n, y)
    law = fit_power_law(n, y, spreads)
    residuals = (y - law.error(n)) / spreads
    if not _falls(y, spreads, residuals):
        return _none("the error does not fall with the size by more than trainings of one size differ")
    draws = _draw(law, n, spreads, _shuffled(residuals, series, rng))
    grid = np.geomspace(n.min(), 2 * n.max(), GRID)
    low, high = np.percentile(np.maximum(_errors(draws, grid / law.rows), 0.0), PERCENTILES, axis=0)
    at_bound = not POWERS[1] < law.power < POWERS[-2]
    note = "the power of the curve stopped at its bound: what it says beyond the sizes tried is a guess"
    given = _Laws(*(np.array([value]) for value in (law.floor, law.rise, law.power)))
    return LearningCurve(
        law=law,
        reason=note if at_bound else "",
        sizes=grid,
        low=low,
        high=high,
        acceptable=_estimate(_acceptable(given, tolerance, n), _acceptable(draws, tolerance, n)),
        gain=_estimate(_gain(given), _gain(draws)),
    )


def _falls(errors: Floats, spreads: Floats, residuals: Floats) -> bool:
    # An F test of the curve against a constant.
    weights, freedom = spreads**-2.0, errors.size - 3
    left = float(np.sum(residuals**2))
    flat = float(np.sum(weights * (errors - np.average(errors, weights=weights)) ** 2))
    if not flat > left:
        return False
    return left == 0 or bool(f_distribution.sf((flat - left) / 2 / (left / freedom), 2, freedom) < DOUBT)


def _shuffled(residuals: Floats, series: Floats, rng: np.random.Generator) -> Floats:
    # (DRAWS, m) residuals such as these.
    follows = series[1:] == series[:-1]
    before, after = residuals[:-1][follows], residuals[1:][follows]
    square = float(np.sum(residuals**2))
    shared = float(np.sum(before * after)) * residuals.size / max(before.size, 1) / square if square > 0 else 0.0
    shared = float(np.clip(shared + (1 + 3 * shared) / residuals.size, 0.0, MOST_SHARED))
    rest = math.sqrt(1 - shared**2)
    own = np.append(residuals[:1], np.where(follows, (residuals[1:] - shared * residuals[:-1]) / rest, residuals[1:]))
    own = (own - own.mean()) * math.sqrt(own.size / (own.size - 3))
    drawn = rng.choice(own, (DRAWS, own.size))
    for i in np.flatnonzero(follows) + 1:
        drawn[:, i] = shared * drawn[:, i - 1] + rest * drawn[:, i]
    return drawn


def _none(reason: str) -> LearningCurve:
    nothing = np.empty(0)
    return LearningCurve(None, reason, nothing, nothing, nothing, None, None)


def _spreads(sizes: Floats, errors: Floats) -> Floats:
    # Few trainings of each size say little of how far they differ, but all sizes together do: a straight line through
    # the logarithms. Up to a common factor.
    groups = [errors[sizes == size] for size in np.unique(sizes)]
    several = np.array([some.size > 1 for some in groups])
    if several.sum() < 2:
        return np.asarray(sizes**USUAL_SLOPE)
    logs = [math.log(max(float(np.std(some, ddof=1)), SMALLEST_SPREAD)) for some in groups if some.size > 1]
    weights = [math.sqrt(some.size - 1) for some in groups if some.size > 1]
    slope = np.polyfit(np.log(np.unique(sizes)[several]), logs, 1, w=weights)[0]
    return np.asarray(sizes ** np.clip(slope, *SLOPES))


def _draw(law: PowerLaw, sizes: Floats, spreads: Floats, residuals: Floats) -> _Laws:
    # The floor may be below 0 here: where the truth is 0, the draws lie on both sides of it.
    errors = law.error(sizes) + spreads * residuals
    floor, rise, loss = _solve(sizes / law.rows, errors, spreads**-2.0, POWERS, -math.inf)
    best = np.argmin(loss, axis=1)[:, np.newaxis]
    floor, rise = (np.take_along_axis(each, best, axis=1)[:, 0] for each in (floor, rise))
    return _Laws(floor, rise, POWERS[best[:, 0]])


def _errors(laws: _Laws, scaled: Floats) -> Floats:
    powers = laws.power[:, np.newaxis]
    return np.asarray(laws.floor[:, np.newaxis] + laws.rise[:, np.newaxis] * scaled[np.newaxis] ** -powers)


def _gain(laws: _Laws) -> Floats:
    return np.minimum(laws.rise * (1 - 2.0**-laws.power), laws.floor + laws.rise)  # no error falls below 0


def _acceptable(laws: _Laws, tolerance: float, sizes: Floats) -> Floats:
    size = (laws.rise / (laws.rise + tolerance)) ** (1 / laws.power)
    return np.asarray(np.clip(size * sizes.max(), sizes.min(), sizes.max()))


def _estimate(value: Floats, draws: Floats) -> Estimate:
    low, high = np.percentile(draws, PERCENTILES)
    return Estimate(float(value[0]), float(min(low, value[0])), float(max(high, value[0])))
