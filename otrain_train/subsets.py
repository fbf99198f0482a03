"""Nested subsets of training rows: each smaller one is part of the larger, with the same part of real ones."""

import math

import numpy as np
import numpy.typing as npt

from otrain_infer.errors import DatacubeError
from otrain_train.splits import Rows

LEAST = 10
"""Rows of each class in the smallest subset, which a training takes at least."""

SPAN = 50
"""The smallest subset is this part of all rows, or more: what a network learns from still fewer says little of more."""


def rank_rows(labels: npt.NDArray[np.int64], groups: npt.NDArray[np.str_], rng: np.random.Generator) -> Rows:
    """Put rows in an order of which every beginning is a subset to train on.

    In every beginning the part of real rows is that of all, to one row. Groups come in at random, one after the other,
    so that of all groups in a subset at most a few are there in part: fewer labels are those of fewer objects or
    images, not less of each.

    Parameters
    ----------
    labels
        int64 (n,), 1 real, 0 bogus.
    groups
        Text (n,); a row whose group is empty is its own.
    rng
        Decides the order.

    Returns
    -------
    ndarray
        int64 (n,), each row once.
    """
    names, numbers = np.unique(groups, return_inverse=True)
    turn = rng.random(names.size)[numbers.reshape(-1)]
    own = rng.random(labels.size)
    turn = np.where(groups == "", own, turn)
    place = np.empty(labels.size)
    for label in (0, 1):
        rows = np.flatnonzero(labels == label)
        order = rows[np.lexsort((own[rows], turn[rows]))]
        place[order] = (np.arange(rows.size) + 0.5) / max(rows.size, 1)
    return np.lexsort((labels, place))


def choose_sizes(labels: npt.NDArray[np.int64], count: int) -> list[int]:
    """Choose the sizes of subsets, from all rows down in equal ratios.

    The smallest has `LEAST` rows of each class and a part `SPAN` of all rows. Equal ratios, since an error falls by
    about as much with each doubling.

    Parameters
    ----------
    labels
        int64 (n,), 1 real, 0 bogus, of all rows.
    count
        How many; fewer are given where there are not as many different sizes.

    Returns
    -------
    list of int
        Descending.

    Raises
    ------
    DatacubeError
        When a class has fewer than `LEAST` rows.
    """
    n, real = labels.size, int(labels.sum())
    fewest = min(real, n - real)
    if fewest < LEAST:
        raise DatacubeError(
            f"{real} real and {n - real} bogus cutouts to train on, and it takes {LEAST} of each class at least"
        )
    # One more than the ratio asks for: the part of a class is right to one row.
    smallest = min(n, max(math.ceil((LEAST + 1) * n / fewest), math.ceil(n / SPAN)))
    different = n - smallest + 1
    if different <= count:
        return list(range(n, smallest - 1, -1))
    sizes = np.rint(np.geomspace(smallest, n, count)).astype(np.int64) if count > 1 else np.array([n])
    # Where equal ratios are less than one row apart, the next row is taken.
    for i in range(1, sizes.size):
        sizes[i] = max(sizes[i], sizes[i - 1] + 1)
    sizes = np.minimum(sizes, n - np.arange(sizes.size)[::-1])
    return [int(size) for size in sizes[::-1]]
