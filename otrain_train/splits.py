"""Splitting rows in two so that an object, or an image, is never on both sides."""

import logging
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from otrain_infer.errors import DatacubeError, UsageError

if TYPE_CHECKING:
    from otrain_train.datacube import Datacube

log = logging.getLogger(__name__)

Rows = npt.NDArray[np.int64]
Chosen = npt.NDArray[np.bool_]
Goal = tuple[float, int, bool]
"""For one class: the rows wanted, the rows there are, and whether only groups can bring it to both sides."""

ORDERS = 16
"""Random orders in which groups are tried."""

CLOSE_ENOUGH = 1e-5
"""Sum over the classes of the squared difference from the fraction wanted, at which no further order is tried."""


def group_by(datacube: "Datacube", key: str) -> npt.NDArray[np.str_]:
    """Say which rows of a datacube stay together in splits.

    Parameters
    ----------
    datacube
        All of it, also where only some rows are split: then the same rows stay together in every split.
    key
        ``groups``, ``files`` or ``candids``: rows with the same text in that column; ``nights``: rows of the same night
        by ``mjds``, where nights are parted in the largest gap that the observations leave in the day, wherever on
        Earth that is; ``none``: no rows.

    Returns
    -------
    ndarray
        Text (n,): rows with the same text stay together; a row whose text is empty, because its column is or its time
        is not known, is its own.

    Raises
    ------
    UsageError
        When the column that is asked for is empty, but for ``groups``: without any, each row is its own.
    """
    if key == "groups":
        return datacube.groups
    if key == "none":
        return np.full(len(datacube), "")
    groups = _nights(datacube.mjds) if key == "nights" else np.asarray(getattr(datacube, key))
    if not (groups != "").any():
        column = "mjds" if key == "nights" else key
        raise UsageError(
            f"rows cannot stay together by {key}: '{column}' of the datacube is empty; take another group key"
        )
    return groups


def _nights(mjds: npt.NDArray[np.float64]) -> npt.NDArray[np.str_]:
    nights = np.full(mjds.size, "", "<U24")
    known = np.isfinite(mjds)
    if known.any():
        times = np.unique(mjds[known] % 1)
        gaps = np.diff(times, append=times[0] + 1)
        widest = np.argmax(gaps)
        middle = times[widest] + gaps[widest] / 2
        nights[known] = np.floor(mjds[known] - middle).astype(np.int64).astype(np.str_)
    return nights


def split_rows(
    labels: npt.NDArray[np.int64], groups: npt.NDArray[np.str_], fraction: float, rng: np.random.Generator | int
) -> tuple[Rows, Rows]:
    """Split rows in two so that no group is on both sides and both classes are on either.

    Where groups make that impossible, rows are split without regard to them, and a warning is logged.

    Parameters
    ----------
    labels
        int64 (n,), 1 real, 0 bogus.
    groups
        Text (n,); a row whose group is empty is its own.
    fraction
        The part of each class wanted on the second side, between 0 and 1. Groups may be too coarse to hit it.
    rng
        Where the choice comes from, or a seed.

    Returns
    -------
    tuple of ndarray
        Rows of the first and of the second side, int64, ascending.

    Raises
    ------
    UsageError
        When `fraction` is not between 0 and 1.
    DatacubeError
        When a class has fewer than two rows.
    """
    if not 0 < fraction < 1:
        raise UsageError(f"the fraction to split off is {fraction}: give one between 0 and 1, both excluded")
    counts = np.bincount(labels, minlength=2)
    if counts.min() < 2:
        raise DatacubeError(
            f"there are {counts[1]} real and {counts[0]} bogus cutouts: at least 2 of each are needed to split them"
        )
    rng = np.random.default_rng(rng)
    chosen = _choose_groups(labels, _group_numbers(groups), fraction, rng)
    if not _both_classes(np.bincount(labels[chosen], minlength=2), counts):
        log.warning(
            "%d groups cannot be parted in two with both classes on both sides, about %.0f %% of them on one: rows are "
            "split without regard to groups, so one object or image may be on both sides and the figures may flatter",
            np.unique(groups).size,
            100 * fraction,
        )
        chosen = _choose_rows(labels, np.ones(len(labels), np.bool_), _target(counts, fraction), rng)
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def _target(counts: Rows, fraction: float) -> Rows:
    target: Rows = np.clip(np.rint(fraction * counts).astype(np.int64), 1, counts - 1)
    return target


def _both_classes(counts: Rows, total: Rows) -> bool:
    return bool((counts > 0).all() and (counts < total).all())


def _group_numbers(groups: npt.NDArray[np.str_]) -> Rows:
    _, numbers = np.unique(groups, return_inverse=True)
    empty = groups == ""
    numbers = numbers.reshape(-1).astype(np.int64)
    numbers[empty] = numbers.max(initial=0) + 1 + np.arange(np.count_nonzero(empty))
    return numbers


def _choose_groups(labels: Rows, numbers: Rows, fraction: float, rng: np.random.Generator) -> Chosen:
    # Of the groups of several rows those are taken that bring the fraction among them nearest to what is wanted; rows
    # on their own then make up what is missing.
    _, compact = np.unique(numbers, return_inverse=True)
    table = np.stack([np.bincount(compact[labels == label], minlength=compact.max() + 1) for label in (0, 1)], axis=1)
    several = np.flatnonzero(table.sum(axis=1) > 1)
    counts, grouped = table.sum(axis=0), table[several].sum(axis=0)
    taken = several[_take_best_groups(table[several], fraction * grouped, grouped == counts, rng)]
    missing = np.maximum(_target(counts, fraction) - table[taken].sum(axis=0), 0)
    return np.isin(compact, taken) | _choose_rows(labels, ~np.isin(compact, several), missing, rng)


def _take_best_groups(table: Rows, target: npt.NDArray[np.float64], needed: Chosen, rng: np.random.Generator) -> Rows:
    best, least = np.empty(0, np.int64), np.inf
    rows, goals = table.tolist(), [*zip(target.tolist(), table.sum(axis=0).tolist(), needed.tolist(), strict=True)]
    for _ in range(ORDERS if rows else 0):
        taken, distance = _take_groups(rows, rng.permutation(len(rows)).tolist(), goals)
        if distance < least:
            best, least = np.array(taken, np.int64), distance
        if least < CLOSE_ENOUGH:
            break
    return best


def _take_groups(table: list[list[int]], order: list[int], goals: list[Goal]) -> tuple[list[int], float]:
    # Plain numbers: this loop runs once for each of what may be a million groups.
    taken: list[int] = []
    have = [0, 0]
    least = _distance(have, goals)
    for group in order:
        with_it = [have[0] + table[group][0], have[1] + table[group][1]]
        distance = _distance(with_it, goals)
        if distance < least:
            taken.append(group)
            have, least = with_it, distance
    return taken, least


def _distance(have: list[int], goals: list[Goal]) -> float:
    distance = 0.0
    for count, (wanted, most, needed) in zip(have, goals, strict=True):
        if most:
            distance += ((count - wanted) / most) ** 2
        if needed and count in (0, most):
            distance += 2.0  # a class that would be missing on one side weighs more than any imbalance
    return distance


def _choose_rows(labels: Rows, among: Chosen, wanted: Rows, rng: np.random.Generator) -> Chosen:
    chosen = np.zeros(len(labels), np.bool_)
    for label in (0, 1):
        rows = np.flatnonzero(among & (labels == label))
        chosen[rng.permutation(rows)[: wanted[label]]] = True
    return chosen
