from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otrain_train.intervals import FEWEST, intervals_of

RNG = np.random.default_rng(3)
MAGNITUDES = RNG.normal(19, 1.2, 400)


def check(values, found):
    """What holds of all intervals: they have no gaps and each finite value is in its own."""
    values = np.asarray(values, float)
    rows = sorted(row for each in found for row in each.rows.tolist())
    assert rows == np.flatnonzero(np.isfinite(values)).tolist()
    for each in found:
        inside = values[each.rows]
        assert (each.low <= inside).all()
        assert (inside < each.high).all()
        assert np.all(np.diff(each.rows) > 0)
    assert all(left.high == right.low for left, right in pairwise(found))


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        (MAGNITUDES, ["15 to 18", "18 to 19", "19 to 20", "20 to 23"]),
        ([18.2] * 50, ["18.2"]),
        ([17.0] * 70 + [18.0] * 30, ["17 to 18", "18 to 19"]),
        ([0.1, 0.3], ["0.1 to 0.4"]),
        ([0.1, np.inf, np.nan, 0.3], ["0.1 to 0.4"]),
        ([0.0, 0.0], ["0"]),
        ([5e-4, 2e-3] * 40, ["0 to 0.001", "0.001 to 0.003"]),
    ],
)
def test_bounds_are_round_and_suit_the_values(values, labels):
    found = intervals_of(values)
    assert [each.label for each in found] == labels
    check(values, found)


@pytest.mark.parametrize("values", [[], [np.nan] * 5, [np.inf, -np.inf]])
def test_nothing_finite_has_no_intervals(values):
    assert intervals_of(values) == []


def test_an_outlier_makes_no_interval_of_its_own():
    values = np.append(MAGNITUDES, 99.0)
    found = intervals_of(values)
    assert len(found) == 4
    assert min(each.rows.size for each in found) > 40
    check(values, found)


def test_few_values_are_parted_less():
    sizes = [len(intervals_of(MAGNITUDES[:n])) for n in (1, 2, FEWEST, 2 * FEWEST + 8, 400)]
    assert sizes == [1, 1, 1, 2, 4]
    assert len(intervals_of(MAGNITUDES, most=2)) == 2


def test_errors_that_crowd_near_zero_are_parted_finely():
    values = RNG.exponential(0.1, 3000)
    found = intervals_of(values)
    assert len(found) == 4
    assert found[0].high <= 0.05
    check(values, found)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.one_of(st.floats(width=32), st.sampled_from([17.0, 17.5, 0.1, 0.3, -99.0])), min_size=1, max_size=120),
    st.integers(1, 20),
)
def test_any_values_are_in_exactly_one_interval(values, fewest):
    found = intervals_of(values, fewest=fewest)
    check(values, found)
    if len(found) > 1:
        assert min(each.rows.size for each in found) >= fewest
