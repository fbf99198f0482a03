"""How far off figures and curves may be: rows resampled within each class, and intervals of simple fractions."""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from otrain_train.metrics import Floats, Sweep, sweep

RESAMPLES = 400
LEVEL = 0.95
Z = 1.959963984540054
"""How many standard deviations about the mean hold 95 % of a normal distribution."""


def resamples(
    labels: npt.ArrayLike, scores: npt.ArrayLike, rng: np.random.Generator, count: int = RESAMPLES
) -> Iterator[Sweep]:
    """Draw as many rows of each class as there are, with replacement, again and again, and sweep each draw.

    The rows are sorted once and each draw only counts how often each is in it, so that 400 draws of 20,000 rows take
    about a second.

    Parameters
    ----------
    labels, scores
        As for `otrain_train.metrics.figures`.
    rng
        Where the draws come from.
    count
        How many draws.

    Yields
    ------
    Sweep
        What `otrain_train.metrics.sweep` gives for the rows drawn.
    """
    rates = sweep(labels, scores)
    real, bogus = np.diff(rates.tp, prepend=0), np.diff(rates.fp, prepend=0)
    for _ in range(count):
        tp, fp = _draw(real, rng), _draw(bogus, rng)
        hit = (tp + fp) > 0
        yield Sweep(rates.thresholds[hit], np.cumsum(tp)[hit], np.cumsum(fp)[hit], rates.real, rates.bogus)


def _draw(counts: npt.NDArray[np.int64], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    owners = np.repeat(np.arange(counts.size), counts)
    drawn = owners[rng.integers(0, owners.size, owners.size)] if owners.size else owners
    return np.bincount(drawn, minlength=counts.size)


def band_of(
    curve: Callable[[Sweep], npt.ArrayLike], labels: npt.ArrayLike, scores: npt.ArrayLike, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Give the 95 % bootstrap interval of each value that a function measures, such as a curve on a grid.

    Percentiles of stratified resamples: they say how much luck with the rows matters, and have no width where the
    classes are parted without error.

    Parameters
    ----------
    curve
        Gives k values for a sweep, always of the same quantities; NaN where one is not defined.
    labels, scores
        As for `otrain_train.metrics.figures`.
    rng
        Where the resamples come from.

    Returns
    -------
    tuple of ndarray
        The lower and the upper bounds, float64 (k,). NaN where a value was not defined in half of the resamples.
    """
    values = np.array([np.asarray(curve(each), np.float64) for each in resamples(labels, scores, rng)])
    low, high = np.full((2, values.shape[1]), np.nan)
    known = np.isfinite(values).mean(axis=0) > 0.5
    if known.any():
        tail = (1 - LEVEL) / 2
        low[known], high[known] = np.nanquantile(values[:, known], [tail, 1 - tail], axis=0)
    return low, high


def interval_of(
    statistic: Callable[[Sweep], float], labels: npt.ArrayLike, scores: npt.ArrayLike, rng: np.random.Generator
) -> tuple[float, float]:
    """Give the 95 % bootstrap interval of one figure, such as ``lambda rates: rates.auc``; see `band_of`."""
    low, high = band_of(lambda rates: [statistic(rates)], labels, scores, rng)
    return float(low[0]), float(high[0])


def wilson(k: npt.ArrayLike, n: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Give the 95 % interval of a fraction k / n, right for few rows and at 0 and 1 too (Wilson 1927).

    Parameters
    ----------
    k, n
        How many of how many; any shapes that go together.

    Returns
    -------
    tuple of ndarray
        The lower and the upper bounds, float64; NaN where n is 0.
    """
    hits, total = np.broadcast_arrays(np.asarray(k, np.float64), np.asarray(n, np.float64))
    some = np.where(total > 0, total, np.nan)
    centre = (hits + Z**2 / 2) / (some + Z**2)
    half = Z * np.sqrt(hits * (some - hits) / some + Z**2 / 4) / (some + Z**2)
    # At 0 and 1 the bounds are exactly these, which rounding misses.
    return np.where(hits == 0, np.minimum(centre - half, 0.0), centre - half), np.where(
        hits == total, np.maximum(centre + half, 1.0), centre + half
    )
