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

SCORE = "score"
"""The quantity that is always compared."""

STEPS = 100
"""Of finding how many of a window are real."""

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
    real
        Fraction of the window that is real, see `find_real`: it is compared with a reference of which as many are. NaN
        where the card does not tell real ones from bogus ones, and the reference is taken as it is.
    """

    name: str
    rows: int
    psi: float
    ks: float
    ks_critical: float
    drifted: bool
    real: float


@dataclass(frozen=True, slots=True, eq=False)
class Levels:
    """Cumulative fractions of a distribution, at some values: of real ones, and of bogus ones.

    A stream holds fewer real ones than the rows that a model was checked on, or more, and is none the worse for it:
    that changes the fractions of the two kinds, and not how each of them is distributed.

    Attributes
    ----------
    real, bogus
        Float64 (k,), rising.
    share
        Fraction of the rows of the reference that are real; NaN where that is not known, and both are those of all.
    """

    real: Fractions
    bogus: Fractions
    share: float

    @classmethod
    def of_part(cls, whole: Fractions, real: Fractions, share: float) -> "Levels":
        """Take those of all rows, and of the real ones among them."""
        if math.isnan(share):
            return cls(whole, whole, share)
        bogus = np.cumsum(np.maximum(_bins(whole) - share * _bins(real), 0))
        return cls(real, bogus[:-1] / bogus[-1], share)

    def with_real(self, share: float) -> Fractions:
        """Give those of rows of which a fraction is real."""
        return self.bogus if math.isnan(self.share) else share * self.real + (1 - share) * self.bogus


@dataclass(frozen=True, slots=True, eq=False)
class Quantiles:
    """What is known of a distribution.

    Attributes
    ----------
    levels
        At the quantiles.
    values
        The quantiles, float64 (k,); several are the same where many values are.
    tolerance
        Values this near to a quantile may be on either side of it.
    """

    levels: Levels
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
    pixels
        Plane -> quantiles of its finite raw pixels.
    finite
        Plane -> fraction of the pixels that are finite, (1,).
    """

    rows: int
    planes: tuple[str, ...]
    score: Quantiles
    pixels: dict[str, Quantiles]
    finite: dict[str, Levels]

    @classmethod
    def from_card(cls, card: ModelCard) -> "Reference | None":
        """Take it from a card; None where it has none, or one that tells nothing of scores."""
        known = card.reference
        try:
            rows, levels, real = int(known["rows"]), known["levels"], _real_of(known)
            share = float(real["share"])
            score = _read_quantiles(levels, real["scores"], share, known["scores"], SCORE_TOLERANCE)
            planes = {
                plane: _read_quantiles(levels, real["pixels"][plane], share, values)
                for plane, values in known["pixels"].items()
            }
            pixels = {plane: quantiles for plane, quantiles in planes.items() if quantiles}
            holes = {plane: (float(known["non_finite"][plane]), float(real["non_finite"][plane])) for plane in pixels}
            finite = {
                plane: Levels.of_part(np.array([1 - among_all]), np.array([1 - among_real]), share)
                for plane, (among_all, among_real) in holes.items()
            }
        except (KeyError, TypeError, ValueError, AttributeError):
            return None
        return cls(rows, card.planes, score, pixels, finite) if score and rows > 0 else None

    def rows_with_real(self, share: float) -> float:
        """Give how many rows it is worth where another fraction of them is to be real (Kish 1965, Survey Sampling)."""
        was = self.score.levels.share
        if math.isnan(was) or math.isnan(share):
            return self.rows
        return self.rows / (share**2 / was + (1 - share) ** 2 / (1 - was))


def _real_of(known: dict[str, Any]) -> dict[str, Any]:
    """Give what a card tells of the real ones among its rows, or, where it tells nothing, that they are like all."""
    if "real" in known:
        real: dict[str, Any] = known["real"]
        return real if 0 < real["share"] < 1 else real | {"share": math.nan}
    alike = {"scores": known["levels"], "pixels": dict.fromkeys(known["pixels"], known["levels"])}
    return alike | {"non_finite": known["non_finite"], "share": math.nan}


def _read_quantiles(levels: Any, real: Any, share: float, values: Any, tolerance: float = 0.0) -> Quantiles | None:
    # Of a plane without a finite pixel the card has null.
    whole, among_real, read = (np.array(each, np.float64) for each in (levels, real, values))
    known = len(whole) > 0 and whole.shape == among_real.shape == read.shape and bool(np.isfinite(read).all())
    in_order = np.all(np.diff(read) >= 0) and np.all(_bins(whole) > 0) and np.all(_bins(among_real) >= 0)
    return Quantiles(Levels.of_part(whole, among_real, share), read, tolerance) if known and in_order else None


def find_real(levels: Levels, count: "_Count") -> float:
    """Find the fraction of scores that are those of real ones.

    It makes them the likeliest, if real and bogus ones are each distributed as in the reference: the adjustment to new
    a priori probabilities of Saerens, Latinne & Decaestecker (2002, Neural Computation 14, 21), on bins.

    Parameters
    ----------
    levels
        Of the scores of the reference.
    count
        Of the scores that were found.

    Returns
    -------
    float
        NaN where the reference does not tell real ones from bogus ones.
    """
    share = levels.share
    for _ in range(STEPS if math.isfinite(share) and count.total else 0):
        expected = levels.with_real(share)
        found, real, either = (_bins(each) for each in (count.levels(expected), levels.real, expected))
        share = min(1.0, float(found @ np.divide(share * real, either, out=np.zeros(len(real)), where=either > 0)))
    return share


def _bins(levels: Fractions) -> Fractions:
    return np.diff(levels, prepend=0, append=1)


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
    return count.judge(SCORE, count.total, reference, find_real(reference.score.levels, count))


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

    def levels(self, expected: Fractions) -> Fractions:
        """Give the fraction of the values up to each quantile, float64 (k,).

        Where values are equal to a quantile, it may be any between the fraction below it and that up to it: the one
        nearest to what is expected there, so that values that are equal in both bring no drift. This is what merging
        bins whose edges coincide is for, without its loss.
        """
        below, up_to = np.cumsum(self._counts)[self._places.reshape(2, -1)] / max(self.total, 1)
        return np.clip(expected, below, up_to)

    def judge(self, name: str, rows: int, reference: Reference, real: float) -> Drift:
        """Compare the values, of so many rows, of which a fraction is real, with the reference."""
        expected = self._expected.with_real(real)
        return _judge(name, rows, reference, expected, self.levels(expected), real)


def _judge(name: str, rows: int, reference: Reference, was: Fractions, now: Fractions, real: float) -> Drift:
    if not rows:
        return Drift(name, 0, math.nan, math.nan, math.nan, drifted=False, real=math.nan)
    worth = reference.rows_with_real(real)
    psi = find_psi(was, now, 0.5 / min(rows, worth))
    ks = float(np.max(np.abs(now - was)))
    critical = find_critical_distance(rows, worth)
    return Drift(name, rows, psi, ks, critical, psi >= PSI_LARGE and ks > critical, real)


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
    expected, found = (np.maximum(_bins(each), floor) for each in (was, now))
    return float(np.sum((found - expected) * np.log(found / expected)))


def find_critical_distance(rows: float, reference_rows: float) -> float:
    """Find the Kolmogorov-Smirnov distance that chance exceeds in a fraction `ALPHA` of samples.

    The limit for many rows of the test of two samples (Smirnov 1948, Annals of Mathematical Statistics 19, 279), which
    for few rows, equal values and distances at a few places alone is exceeded more seldom.
    """
    return min(1.0, math.sqrt(-math.log(ALPHA / 2) / 2 * (1 / rows + 1 / reference_rows)))


class _PlaneCount:
    """What a window holds of the pixels of a plane."""

    def __init__(self, plane: str, reference: Reference) -> None:
        self._plane, self._reference = plane, reference
        self._count, self._sampled = _Count(reference.pixels[plane]), 0

    def add(self, values: Floats) -> None:
        finite = values[np.isfinite(values)]
        self._sampled += values.size
        self._count.add(finite)

    def judge(self, rows: int, real: float) -> tuple[Drift, Drift]:
        # Pixels of a row are far from independent of each other: by chance they go as far as the rows do, at most.
        finite, reference = self._count.total, self._reference
        was, now = reference.finite[self._plane].with_real(real), np.array([finite / max(self._sampled, 1)])
        return (
            self._count.judge(f"pixels_{self._plane}", rows if finite else 0, reference, real),
            _judge(f"non_finite_{self._plane}", rows, reference, was, now, real),
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
            real = find_real(self._reference.score.levels, self._score)
            found = [self._score.judge(SCORE, rows, self._reference, real)]
            for plane in self._planes.values() if self._seen else ():
                found += plane.judge(self._seen, real)
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
