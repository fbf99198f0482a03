"""Drift: how far a window of scores, and of pixels, is from the fingerprint that the model's card keeps."""

import math
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from otrain_infer.card import ModelCard
from otrain_infer.errors import UsageError

WINDOW = 5000
"""Scored rows of a window."""

PSI_MODERATE, PSI_LARGE = 0.1, 0.25
"""From where a Population Stability Index counts as a moderate and as a large change (Siddiqi 2006, Credit Risk
Scorecards): a convention. What is normally distributed comes to 0.22 when it moves by half its standard deviation."""

ALPHA = 0.001
"""How often chance alone exceeds the critical Kolmogorov-Smirnov distance, at most."""

SCORE_TOLERANCE = 1e-4
"""Scores this near count as equal: another machine, or an int8 copy, tells apart what is 0 or 1 for all that."""

SAMPLED_PIXELS = 16
"""Pixels that are looked at of each plane of a row, about: those of a row are so alike that more tell little."""

Floats = npt.NDArray[np.floating[Any]]
Fractions = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Drift:
    """How far one quantity of a window is from the reference.

    Attributes
    ----------
    name
        Of the quantity: ``score``, ``pixels_DIFF``, ``non_finite_DIFF``.
    rows
        Of the window, those with a score.
    psi
        Population Stability Index over the bins between the quantiles of the reference. Jeffreys' divergence: the sum
        of (is - was) ln(is / was) over the fractions of the bins.
    ks
        Kolmogorov-Smirnov distance, evaluated at the quantiles of the reference alone, and thus never too large.
    ks_critical
        What chance exceeds in a fraction `ALPHA` of windows at most, for the rows of the window and of the reference.
    drifted
        Whether the change is large, and not by chance: `psi` of `PSI_LARGE` or more, and `ks` above `ks_critical`.
    """

    name: str
    rows: int
    psi: float
    ks: float
    ks_critical: float
    drifted: bool


@dataclass(frozen=True, slots=True, eq=False)
class Quantiles:
    """What is known of a distribution.

    Attributes
    ----------
    levels
        Probabilities, float64 (k,), rising.
    values
        The quantiles, float64 (k,); several are the same where many values are.
    tolerance
        Values this near to a quantile may be on either side of it.
    """

    levels: Fractions
    values: Fractions
    tolerance: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """What a card tells of the rows that its model was checked on.

    Attributes
    ----------
    rows
        How many.
    planes
        Of the model, in order.
    score
        Of their scores.
    pixels, non_finite
        Plane -> quantiles of its finite raw pixels, and fraction of the other ones.
    """

    rows: int
    planes: tuple[str, ...]
    score: Quantiles
    pixels: dict[str, Quantiles]
    non_finite: dict[str, float]

    @classmethod
    def from_card(cls, card: ModelCard) -> "Reference | None":
        """Take it from a card; None where it has none, or one that tells nothing of scores."""
        known = card.reference
        try:
            rows, levels = int(known["rows"]), known["levels"]
            score = _read_quantiles(levels, known["scores"], SCORE_TOLERANCE)
            planes = {plane: _read_quantiles(levels, values) for plane, values in known["pixels"].items()}
            pixels = {plane: quantiles for plane, quantiles in planes.items() if quantiles}
            non_finite = {plane: float(known["non_finite"][plane]) for plane in pixels}
        except (KeyError, TypeError, ValueError, AttributeError):
            return None
        return cls(rows, card.planes, score, pixels, non_finite) if score and rows > 0 else None


def _read_quantiles(levels: Any, values: Any, tolerance: float = 0.0) -> Quantiles | None:
    # Of a plane without a finite pixel the card has null.
    read = Quantiles(np.array(levels, np.float64), np.array(values, np.float64), tolerance)
    known = len(read.levels) > 0 and read.levels.shape == read.values.shape and bool(np.isfinite(read.values).all())
    in_order = np.all(np.diff(read.levels, prepend=0, append=1) > 0) and np.all(np.diff(read.values) >= 0)
    return read if known and in_order else None


def compare_scores(reference: Reference, scores: Floats) -> Drift:
    """Compare a window of scores with the reference.

    Parameters
    ----------
    reference
        Of the model that gave them.
    scores
        (n,); NaN is left out.

    Returns
    -------
    Drift
        Without any score, its figures are NaN.
    """
    count = _Count(reference.score)
    count.add(scores[np.isfinite(scores)])
    return _judge("score", count.total, reference.rows, reference.score.levels, count.levels)


class _Count:
    """How many values lie below each quantile and up to it: all that a comparison needs of them."""

    def __init__(self, quantiles: Quantiles) -> None:
        below = np.nextafter(quantiles.values - quantiles.tolerance, -np.inf)
        up_to = quantiles.values + quantiles.tolerance
        self._edges, self._places = np.unique(np.array([below, up_to]), return_inverse=True)
        self._counts = np.zeros(len(self._edges) + 1, np.int64)
        self._expected = quantiles.levels

    def add(self, values: Floats) -> None:
        """Count more values, all finite."""
        self._counts += np.bincount(np.searchsorted(self._edges, values), minlength=len(self._counts))

    @property
    def total(self) -> int:
        return int(self._counts.sum())

    @property
    def levels(self) -> Fractions:
        """Fraction of the values up to each quantile, float64 (k,).

        Where values are equal to a quantile, it may be any between the fraction below it and that up to it: the one
        nearest to the level that the quantile has in the reference, so that values that are equal in both bring no
        drift. This is what merging bins whose edges coincide is for, without its loss.
        """
        below, up_to = np.cumsum(self._counts)[self._places.reshape(2, -1)] / max(self.total, 1)
        return np.clip(self._expected, below, up_to)


def _judge(name: str, rows: int, reference_rows: int, was: Fractions, now: Fractions) -> Drift:
    if not rows:
        return Drift(name, 0, math.nan, math.nan, math.nan, drifted=False)
    psi = find_psi(was, now, 0.5 / min(rows, reference_rows))
    ks = float(np.max(np.abs(now - was)))
    critical = find_critical_distance(rows, reference_rows)
    return Drift(name, rows, psi, ks, critical, psi >= PSI_LARGE and ks > critical)


def find_psi(was: Fractions, now: Fractions, floor: float) -> float:
    """Find the Population Stability Index between two distributions that are known at the same edges of bins.

    Parameters
    ----------
    was, now
        Cumulative fractions at the edges, float64 (k,): k + 1 bins.
    floor
        Least fraction of a bin, as the logarithm of an empty one is infinite; half a row is a good one.

    Returns
    -------
    float
        Without any change on average k (1/n + 1/m), of n and m rows (Yurdakul 2018, Statistical Properties of
        Population Stability Index, Western Michigan University).
    """
    expected, found = (np.maximum(np.diff(each, prepend=0, append=1), floor) for each in (was, now))
    return float(np.sum((found - expected) * np.log(found / expected)))


def find_critical_distance(rows: int, reference_rows: int) -> float:
    """Find the Kolmogorov-Smirnov distance that chance exceeds in a fraction `ALPHA` of samples.

    The limit for many rows of the test of two samples (Smirnov 1948, Annals of Mathematical Statistics 19, 279), which
    for few rows, equal values and distances at a few places alone is exceeded more seldom.
    """
    return min(1.0, math.sqrt(-math.log(ALPHA / 2) / 2 * (1 / rows + 1 / reference_rows)))


class _PlaneCount:
    """What a window holds of the pixels of a plane."""

    def __init__(self, plane: str, reference: Reference) -> None:
        self._plane, self._rows = plane, reference.rows
        self._quantiles, self._non_finite = reference.pixels[plane], reference.non_finite[plane]
        self._count, self._sampled = _Count(self._quantiles), 0

    def add(self, values: Floats) -> None:
        finite = values[np.isfinite(values)]
        self._sampled += values.size
        self._count.add(finite)

    def judge(self, rows: int) -> tuple[Drift, Drift]:
        # Pixels of a row are far from independent of each other: by chance they go as far as the rows do, at most.
        levels, finite = self._quantiles.levels, self._count.total
        was, now = np.array([1 - self._non_finite]), np.array([finite / max(self._sampled, 1)])
        return (
            _judge(f"pixels_{self._plane}", rows if finite else 0, self._rows, levels, self._count.levels),
            _judge(f"non_finite_{self._plane}", rows, self._rows, was, now),
        )


class DriftWindow:
    """Collects scores, and raw pixels where they are given, until there are enough to be compared.

    Values are counted where they come and not kept, so its memory does not grow. Several threads may use it at once.

    Parameters
    ----------
    reference
        What to compare with.
    rows
        Scored rows of a window.

    Raises
    ------
    UsageError
        When a window has no row.
    """

    def __init__(self, reference: Reference, rows: int = WINDOW) -> None:
        if rows < 1:
            raise UsageError(f"a window of {rows} rows holds nothing: give 1 or more")
        self._reference, self._wanted = reference, rows
        self._lock, self._next_pixel = threading.Lock(), 0
        self._begin()

    def _begin(self) -> None:
        self._score = _Count(self._reference.score)
        self._planes = {plane: _PlaneCount(plane, self._reference) for plane in self._reference.pixels}
        self._seen = 0

    def add(self, scores: Floats) -> tuple[Drift, ...]:
        """Take more scores.

        Parameters
        ----------
        scores
            (n,); NaN is left out.

        Returns
        -------
        tuple of Drift
            Empty until the window is full, which these scores may be more than enough for; then one of the scores and
            two of each plane whose pixels were given, and the next window begins.
        """
        with self._lock:
            self._score.add(scores[np.isfinite(scores)])
            rows = self._score.total
            if rows < self._wanted:
                return ()
            found = [_judge("score", rows, self._reference.rows, self._reference.score.levels, self._score.levels)]
            for plane in self._planes.values() if self._seen else ():
                found += plane.judge(self._seen)
            self._begin()
            return tuple(found)

    def add_pixels(self, pixels: Floats, usable: npt.NDArray[np.bool_]) -> None:
        """Look at some raw pixels, spread over rows and places; to be called before they are normalised in place.

        Parameters
        ----------
        pixels
            (n, ny, nx, planes), those of the model.
        usable
            Bool (n,): the rows that will have a score.
        """
        each = pixels.shape[1] * pixels.shape[2]
        stride = _find_stride(each)
        with self._lock:
            places = np.arange(self._next_pixel, len(pixels) * each, stride)
            self._next_pixel = (self._next_pixel - len(pixels) * each) % stride
            sample = pixels.reshape(-1, pixels.shape[3])[places[usable[places // each]]]
            for plane, count in self._planes.items():
                count.add(sample[:, self._reference.planes.index(plane)])
            self._seen += int(np.count_nonzero(usable))


def _find_stride(pixels: int) -> int:
    """Find steps that make about `SAMPLED_PIXELS` of each plane and, from row to row, come to every place of it."""
    stride = max(1, pixels // SAMPLED_PIXELS)
    while math.gcd(stride, pixels) > 1:
        stride += 1
    return stride
