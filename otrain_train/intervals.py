"""Intervals of a quantity, such as the magnitude, that suit the values at hand."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from otrain_train.splits import Rows

Floats = npt.NDArray[np.float64]

MOST = 4
FEWEST = 20
"""Rows below which values are not parted further: a curve of fewer says little."""

NO_MAGNITUDE = 90.0
"""From here on a magnitude, or its error, says that there is none: programs write 99 then."""

NICE = (1.0, 0.5, 0.25, 0.2)
"""Steps that people count in, times a power of ten, from coarse to fine."""

HUGE, ALIKE = 1e100, 1e-9
"""Beyond the one, no measured value; within the other, as a fraction of the largest, values are the same."""


@dataclass(frozen=True, slots=True, eq=False)
class Interval:
    """The rows whose value is in ``low <= value < high``.

    Attributes
    ----------
    low, high
        The bounds, round numbers.
    label
        The bounds as text, such as ``17 to 18.5``.
    rows
        int64 (k,), ascending.
    """

    low: float
    high: float
    label: str
    rows: Rows


def intervals_of(values: npt.ArrayLike, most: int = MOST, fewest: int = FEWEST) -> list[Interval]:
    """Part values into few intervals with round bounds, each with a fair share of them.

    There are `most` of them, or fewer where the values are few or often the same. The bounds are the roundest numbers
    that leave each interval at least half of an equal share.

    Parameters
    ----------
    values
        (n,); what is not finite is in no interval.
    most
        Intervals at most.
    fewest
        Values that an interval holds at least, unless it is the only one.

    Returns
    -------
    list of Interval
        From low to high, without gaps; empty when no value is finite.
    """
    given = np.asarray(values, np.float64)
    rows = np.flatnonzero(np.abs(given) < HUGE)
    if rows.size == 0:
        return []
    finite = given[rows]
    low, high = float(finite.min()), float(finite.max())
    if high - low <= ALIKE * max(abs(low), abs(high)):
        return [Interval(low, math.nextafter(high, math.inf), f"{low:g}", rows)]
    bounds = _bounds(np.sort(finite), most, fewest)
    place = np.searchsorted(bounds, finite, side="right") - 1
    return [
        Interval(bounds[i], bounds[i + 1], f"{bounds[i]:.10g} to {bounds[i + 1]:.10g}", rows[place == i])
        for i in range(len(bounds) - 1)
    ]


def _bounds(ordered: Floats, most: int, fewest: int) -> list[float]:
    steps = list(_steps(float(ordered[-1] - ordered[0])))
    for count in range(min(most, ordered.size // fewest), 1, -1):
        quantiles = np.quantile(ordered, np.arange(1, count) / count)
        least = max(fewest, ordered.size / count / 2)
        for step in steps:
            for to_integer in (np.rint, np.ceil, _next):
                bounds = _around(ordered, to_integer(quantiles / step), step)
                if len(bounds) == count + 1 and np.diff(np.searchsorted(ordered, bounds)).min() >= least:
                    return bounds
    return _around(ordered, np.empty(0), steps[0])


def _next(values: Floats) -> Floats:
    # Of values that are often the same, the quantiles are among them: the bound is then beyond.
    return np.asarray(np.floor(values) + 1)


def _steps(span: float) -> Iterator[float]:
    start = math.floor(math.log10(span))
    for power in range(start, start - 4, -1):
        yield from (nice * 10.0**power for nice in NICE)


def _around(ordered: Floats, inner: Floats, step: float) -> list[float]:
    """Give bounds about all values: multiples of a step, the outermost just enough."""
    low, high = float(ordered[0]), float(ordered[-1])
    first, last = math.floor(low / step), math.floor(high / step) + 1
    decimals = 2 - math.floor(math.log10(step))
    bounds = [round(i * step, decimals) for i in sorted({first, last, *inner.astype(int).tolist()})]
    # 0.3 / 0.1 is a little less than 3 to a computer: what is on a bound must not fall beside it.
    if bounds[-1] <= high:
        bounds[-1] = round((last + 1) * step, decimals)
    return bounds
