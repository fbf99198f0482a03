"""Confident learning: which labels are probably wrong."""

import numpy as np
import pytest

from otrain_train.suspects import find_suspects


def by_the_book(labels, scores):
    """Confident learning, row by row as the paper has it."""
    rows = [i for i in range(len(labels)) if np.isfinite(scores[i])]
    probability = {i: (1 - float(scores[i]), float(scores[i])) for i in rows}
    mean = {}
    for k in (0, 1):
        own = [probability[i][k] for i in rows if labels[i] == k]
        mean[k] = sum(own) / len(own) if own else None
    joint, suspects = [[0, 0], [0, 0]], []
    for i in rows:
        reached = [k for k in (0, 1) if mean[k] is not None and probability[i][k] >= mean[k]]
        if reached:
            sure = max(reached, key=lambda k: probability[i][k])
            joint[labels[i]][sure] += 1
            if sure != labels[i]:
                suspects.append((probability[i][labels[i]] - probability[i][sure], i))
    return joint, [i for _, i in sorted(suspects)], mean


@pytest.mark.parametrize("seed", range(5))
def test_it_is_what_the_paper_says(seed):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, 300)
    scores = np.clip(rng.normal(0.3 + 0.4 * labels, 0.3), 0, 1).astype(np.float32)
    scores[rng.random(300) < 0.05] = np.nan
    found = find_suspects(labels, scores)
    joint, rows, mean = by_the_book(labels, scores)
    assert found.joint.tolist() == joint
    assert found.rows.tolist() == rows
    assert found.rows.size > 5
    assert found.thresholds == pytest.approx((mean[0], mean[1]))
    assert (np.diff(found.margins) >= 0).all()
    assert found.labelled.sum() == np.isfinite(scores).sum()


def test_wrong_labels_are_found_and_counted():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 2000)
    scores = 1 / (1 + np.exp(-rng.normal(6 * truth - 3, 1)))
    wrong = rng.permutation(2000)[:100]
    labels = truth.copy()
    labels[wrong] = 1 - labels[wrong]
    found = find_suspects(labels, scores)
    assert len(set(found.rows) & set(wrong)) >= 80
    assert len(set(found.rows[:50]) & set(wrong)) == 50
    assert found.wrong_fraction == pytest.approx(0.05, abs=0.015)


def test_clean_labels_raise_no_suspicion():
    found = find_suspects([0, 0, 1, 1], [0.1, 0.2, 0.9, 0.8])
    assert found.rows.size == found.margins.size == 0
    assert found.wrong_fraction == 0
    assert found.joint.tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize(
    ("labels", "scores"),
    [
        ([], []),
        ([1], [0.2]),
        ([0, 0, 0], [0.9, 0.1, np.nan]),
        ([1, 0], [np.nan, np.nan]),
        ([1, 0], [0.5, 0.5]),
        ([1, 1, 0, 0], [0.0, 0.0, 1.0, 1.0]),
    ],
)
def test_few_rows_and_one_class(labels, scores):
    found = find_suspects(np.array(labels, np.int64), np.array(scores, np.float32))
    joint, rows, _ = by_the_book(labels, np.array(scores))
    if labels == [1, 0] and scores == [0.5, 0.5]:
        # Both classes are as probable: nothing speaks against the label.
        joint, rows = [[1, 0], [0, 1]], []
    assert found.rows.tolist() == rows
    assert found.joint.tolist() == joint
    assert np.isnan(found.wrong_fraction) == (not np.isfinite(scores).any())
