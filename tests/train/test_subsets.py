"""Nested subsets: what is in each, and which sizes there are."""

import numpy as np
import pytest

from otrain_infer.errors import DatacubeError
from otrain_train.subsets import LEAST, SPAN, choose_sizes, rank_rows


def test_every_beginning_has_its_part_of_real_rows():
    labels = (np.arange(1000) % 5 == 0).astype(np.int64)
    order = rank_rows(labels, np.full(1000, ""), np.random.default_rng(0))
    assert np.array_equal(np.sort(order), np.arange(1000))
    real = np.cumsum(labels[order])
    assert (np.abs(real - np.arange(1, 1001) / 5) <= 1).all()


def test_groups_come_whole_but_for_a_few():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 40, 1000).astype(str)
    labels = rng.integers(0, 2, 1000)
    order = rank_rows(labels, groups, np.random.default_rng(1))
    for size in (100, 300, 700):
        inside, outside = set(groups[order[:size]]), set(groups[order[size:]])
        assert len(inside & outside) <= 6


def test_another_seed_gives_another_order():
    labels = np.arange(100) % 2
    orders = [rank_rows(labels, np.full(100, ""), np.random.default_rng(seed)).tolist() for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize(("n", "real", "count"), [(17_000, 8000, 20), (850, 85, 20), (45, 22, 5), (1000, 500, 1)])
def test_sizes_go_down_from_all_rows(n, real, count):
    labels = (np.arange(n) < real).astype(np.int64)
    sizes = choose_sizes(labels, count)
    assert len(sizes) == count
    assert sizes[0] == n
    assert sizes == sorted(set(sizes), reverse=True)
    assert sizes[-1] >= n / SPAN
    order = rank_rows(labels, np.full(n, ""), np.random.default_rng(0))
    assert np.bincount(labels[order[: sizes[-1]]]).min() >= LEAST
    if n > 10_000:
        ratios = np.divide(sizes[:-1], sizes[1:])
        assert ratios.max() / ratios.min() < 1.02


def test_few_rows_have_few_sizes():
    labels = np.arange(30) % 2
    sizes = choose_sizes(labels, 20)
    assert sizes == list(range(30, 21, -1))
    with pytest.raises(DatacubeError, match="9 real and 10 bogus cutouts to train on"):
        choose_sizes((np.arange(19) < 9).astype(np.int64), 5)
