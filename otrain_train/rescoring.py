"""Whether an int8 copy may stand in for its network: the rows that the network must score again, and what is left."""

import math

import numpy as np
import numpy.typing as npt
from scipy.stats import chi2

from otrain_infer.card import Cascade, ModelCard
from otrain_infer.errors import ParityError
from otrain_train.settings import MAX_FLIPS

Scores = npt.NDArray[np.float32]

MAX_MEAN_CHANGE = 0.01
"""Most that the copy may change a score, on average."""

# About the thresholds, within this distance in log odds, an error matters.
_REACH = 1.0
# So few flips are planned with that chance makes more than are allowed, among the rows that judge, no more often than
# this.
_UNLUCKY = 0.005
_SMALLEST = 1e-7


def thresholds_of(card: ModelCard) -> dict[str, float]:
    """Give the thresholds at which a call must stay what it is, by name: the card's own, and its operating points."""
    return {"threshold": card.threshold} | {point.name: point.threshold for point in card.operating_points}


def choose_intervals(
    thresholds: dict[str, float], copy: Scores, network: Scores, judging: int, max_flips: float = MAX_FLIPS
) -> tuple[tuple[float, float], ...]:
    """Find how far from each threshold a score of the copy must be to be relied on.

    Every row about a threshold is taken to be moved as far as any other there: so few of them lie where it matters that
    those which happen to be called otherwise say little.

    Parameters
    ----------
    thresholds
        By name, in 0-1.
    copy, network
        The scores of both for the same rows, float32 (n,), finite, n at least 1.
    judging
        How many other rows will judge the outcome.
    max_flips
        Fraction of these whose call may be another at a threshold. Fewer are planned with: the fewer rows judge, the
        more of the flips among them are chance.

    Returns
    -------
    tuple
        (lowest, highest) score, for each threshold within (0, 1): as far from it in log odds on either side, and no
        further than it takes.
    """
    # The mean of a Poisson distribution that exceeds what is allowed once in 1 / _UNLUCKY.
    planned = float(chi2.ppf(_UNLUCKY, 2 * (_most(max_flips, judging) + 1))) / 2 / judging
    before, after = _log_odds(network), _log_odds(copy)
    intervals = []
    for threshold in sorted(value for value in thresholds.values() if 0 < value < 1):
        centre = float(_log_odds(threshold))
        about = (np.abs(after - centre) <= _REACH) | (np.abs(before - centre) <= _REACH)
        moves = np.sort((after - before)[about] if about.any() else after - before)
        width = _width(after - centre, moves, planned)
        intervals.append((min(threshold, _score(centre - width)), max(threshold, _score(centre + width))))
    return tuple(intervals)


def _width(distances: npt.NDArray[np.float64], moves: npt.NDArray[np.float64], allowed: float) -> float:
    """Find the distance from a threshold beyond which no more than a fraction of all rows is called otherwise.

    Parameters
    ----------
    distances
        Of the rows, by the copy, from the threshold, float64 (n,).
    moves
        What the copy adds, ascending, float64 (m,).
    allowed
        The fraction.
    """
    # A row on one side came from the other if it was moved by more than its distance.
    further = np.where(
        distances >= 0,
        moves.size - np.searchsorted(moves, distances, "right"),
        np.searchsorted(moves, distances, "left"),
    )
    order = np.argsort(-np.abs(distances))
    flips = np.cumsum(further[order]) / (moves.size * distances.size)
    beyond = int(np.searchsorted(flips, allowed, "right"))
    return float(np.abs(distances[order[beyond]])) if beyond < distances.size else 0.0


def judge(
    thresholds: dict[str, float], copy: Scores, network: Scores, intervals: tuple[tuple[float, float], ...]
) -> Cascade:
    """Measure what the copy changes, on rows that had no part in making it.

    Parameters
    ----------
    thresholds, copy, network
        As of `choose_intervals`.
    intervals
        What it gave, for other rows.
    """
    cascade = Cascade(intervals, len(copy), 0.0, {}, {}, 0.0, 0.0)
    near = cascade.is_near(copy)
    shipped = np.where(near, network, copy)
    change = np.abs(copy.astype(np.float64) - network)
    return Cascade(
        intervals,
        len(copy),
        float(near.mean()),
        {name: _flips(shipped, network, value) for name, value in thresholds.items()},
        {name: _flips(copy, network, value) for name, value in thresholds.items()},
        float(change.mean()),
        float(change.max()),
    )


def check(cascade: Cascade, name: str, max_flips: float = MAX_FLIPS) -> None:
    """Refuse a copy that changes too much.

    Raises
    ------
    ParityError
        When more than `max_flips` of the calls at a threshold are others, or a score changes by more than
        `MAX_MEAN_CHANGE` on average.
    """
    worst = max(cascade.flips, key=lambda point: cascade.flips[point])
    if cascade.flips[worst] > max_flips:
        called, most = round(cascade.flips[worst] * cascade.rows), _most(max_flips, cascade.rows)
        raise ParityError(
            f"'{name}' as int8 calls {called} of {cascade.rows} cutouts otherwise at the threshold '{worst}', where "
            f"{most} may be ({max_flips:.2%}): nothing was written; name a datacube with more cutouts, admit more with "
            "--max-flips, or export it as fp32"
        )
    if not cascade.mean_change <= MAX_MEAN_CHANGE:
        raise ParityError(
            f"'{name}' as int8 changes scores by {cascade.mean_change:.4g} on average, where {MAX_MEAN_CHANGE:g} is "
            "allowed: nothing was written; export it as fp32"
        )


def in_words(cascade: Cascade) -> str:
    """Say in a sentence what the copy changes, and how many rows the network scores again."""
    flips = max(cascade.flips.values())
    return (
        f"int8: scores {cascade.rescored:.2%} of {cascade.rows} cutouts in fp32 again, near a threshold; then calls "
        f"{flips:.2%} of them otherwise than fp32 (int8 alone {max(cascade.flips_alone.values()):.2%}); a score "
        f"changes by {cascade.mean_change:.2g} on average, {cascade.largest_change:.2g} at most"
    )


def _most(max_flips: float, rows: int) -> int:
    return math.floor(max_flips * rows + 1e-9)


def _log_odds(scores: npt.ArrayLike) -> npt.NDArray[np.float64]:
    inside = np.clip(np.asarray(scores, np.float64), _SMALLEST, 1 - _SMALLEST)
    odds: npt.NDArray[np.float64] = np.log(inside / (1 - inside))
    return odds


def _score(log_odds: float) -> float:
    return float(1 / (1 + np.exp(-log_odds)))


def _flips(one: Scores, other: Scores, threshold: float) -> float:
    return float(np.mean((one >= np.float32(threshold)) != (other >= np.float32(threshold))))
