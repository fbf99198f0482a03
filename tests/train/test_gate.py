"""The gate: McNemar's exact test against a count by hand."""

import math

import numpy as np
import pytest

from otrain_train.gate import SIGNIFICANT, compare, is_right


def by_hand(only_new, only_old):
    """The chance of so many heads or more of as many tosses as there are rows on which the two differ."""
    tosses = only_new + only_old
    return sum(math.comb(tosses, heads) for heads in range(only_new, tosses + 1)) / 2**tosses


def rows(only_new, only_old, both=5, neither=3, seed=0):
    new = np.repeat([True, False, True, False], [only_new, only_old, both, neither])
    old = np.repeat([False, True, True, False], [only_new, only_old, both, neither])
    order = np.random.default_rng(seed).permutation(new.size)
    return new[order], old[order]


@pytest.mark.parametrize("only_new", [0, 1, 4, 5, 12, 40])
@pytest.mark.parametrize("only_old", [0, 1, 3, 12, 60])
def test_the_probability_is_that_of_the_binomial(only_new, only_old):
    found = compare(*rows(only_new, only_old))
    assert (found.only_new, found.only_old, found.both, found.neither) == (only_new, only_old, 5, 3)
    assert found.p == pytest.approx(by_hand(only_new, only_old), rel=1e-9)
    assert found.passed == (by_hand(only_new, only_old) < SIGNIFICANT)


def test_a_model_that_is_the_same_does_not_pass():
    new, _ = rows(3, 4)
    found = compare(new, new)
    assert (found.p, found.passed) == (1.0, False)
    assert not compare(np.empty(0, bool), np.empty(0, bool)).passed


def test_five_rows_are_the_fewest_that_pass():
    assert compare(*rows(5, 0)).passed
    assert not compare(*rows(4, 0)).passed


def test_the_words_and_the_dictionary_say_the_counts():
    found = compare(*rows(12, 2))
    assert str(found).startswith("12 validation rows only the new model calls rightly, 2 only the old one, p = 0.00647")
    assert found.to_dict() == {
        "only_new": 12, "only_old": 2, "both": 5, "neither": 3, "p": found.p, "passed": True,
    }  # fmt: skip


def test_a_row_is_called_rightly_at_its_own_threshold_and_never_without_a_score():
    labels = np.array([1, 1, 0, 0, 1, 0])
    scores = np.array([0.3, 0.29, 0.3, 0.29, np.nan, np.nan], np.float32)
    # As everywhere, the threshold is compared in the type of the scores.
    assert is_right(labels, scores, 0.3).tolist() == [True, False, False, True, False, False]
