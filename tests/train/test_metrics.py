import json
import math

import numpy as np
import pytest
import sklearn.metrics as peer

from otrain_infer.errors import DatacubeError
from otrain_train.metrics import Figures, figures, log_loss, reliability, sweep, table, without_nan


def random_rows(seed, n=400, ties=False):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    scores = np.clip(rng.normal(0.35 + 0.3 * labels, 0.25), 0, 1)
    if ties:
        scores = np.round(scores, 1)
    return labels, scores.astype(np.float32)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 0.9])
def test_figures_agree_with_an_independent_implementation(seed, ties, threshold):
    labels, scores = random_rows(seed, ties=ties)
    found = figures(labels, scores, threshold)
    called = scores >= np.float32(threshold)
    assert (found.tn, found.fp, found.fn, found.tp) == tuple(peer.confusion_matrix(labels, called).ravel())
    expected = {
        "precision": peer.precision_score(labels, called),
        "recall": peer.recall_score(labels, called),
        "f1": peer.f1_score(labels, called),
        "mcc": peer.matthews_corrcoef(labels, called) if not called.all() else math.nan,
        "accuracy": peer.accuracy_score(labels, called),
        "average_precision": peer.average_precision_score(labels, scores),
        "auc": peer.roc_auc_score(labels, scores),
        "brier": peer.brier_score_loss(labels, scores.astype(np.float64)),
        "log_loss": peer.log_loss(labels, scores),
    }
    for name, value in expected.items():
        assert getattr(found, name) == pytest.approx(value, rel=1e-5, nan_ok=True), name
    assert found.fpr == pytest.approx(np.mean(called[labels == 0]))


@pytest.mark.parametrize("ties", [False, True])
def test_sweep_agrees_with_counting_at_each_threshold(ties):
    labels, scores = random_rows(7, n=150, ties=ties)
    rates = sweep(labels, scores)
    assert np.all(np.diff(rates.thresholds) < 0)
    assert np.array_equal(np.unique(scores), rates.thresholds[::-1])
    for i, threshold in enumerate(rates.thresholds):
        at = figures(labels, scores, threshold)
        assert (rates.tp[i], rates.fp[i]) == (at.tp, at.fp)
        for name in ("recall", "fpr", "precision", "f1", "mcc"):
            assert getattr(rates, name)[i] == pytest.approx(getattr(at, name), nan_ok=True), name


def test_threshold_is_reached_by_a_score_equal_to_it():
    # 0.1 as float32 is larger than 0.1 as float64, 0.3 smaller: both reach the threshold of the same name.
    scores = np.array([0.1, 0.3, 0.7], np.float32)
    for i, threshold in enumerate((0.1, 0.3, 0.7)):
        found = figures([1, 1, 1], scores, threshold)
        assert found.tp == 3 - i


def test_large_counts_do_not_overflow():
    labels = np.repeat([0, 1], 200_000)
    scores = np.where(np.arange(labels.size) % 10 == 0, 1 - labels, labels).astype(np.float32)
    assert figures(labels, scores).mcc == pytest.approx(0.8)


def test_nothing_called_real_has_no_precision_and_no_mcc():
    found = figures([0, 1, 1], [0.1, 0.2, 0.3], 0.5)
    assert math.isnan(found.precision)
    assert math.isnan(found.mcc)
    assert (found.recall, found.f1) == (0.0, 0.0)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_is_never_a_success(label):
    found = figures(np.full(20, label), np.full(20, label, np.float32))
    assert found.one_class
    for name in ("precision", "f1", "mcc", "accuracy", "average_precision", "auc"):
        assert math.isnan(getattr(found, name)), name
    assert "all of one class" in table(found)
    assert not figures([0, 1], [0, 1]).one_class


def test_rows_without_score_are_left_out_and_counted():
    labels, scores = random_rows(3)
    with_gaps = np.insert(scores, [5, 100], np.nan)
    found = figures(np.insert(labels, [5, 100], [0, 1]), with_gaps)
    plain = figures(labels, scores)
    assert (found.n, found.left_out) == (400, 2)
    assert {**found.to_dict(), "left_out": 0} == plain.to_dict()
    assert "2 more have no score" in table(found)


def test_no_rows_at_all_are_no_error():
    found = figures([1, 0], [np.nan, np.nan])
    assert (found.n, found.left_out, found.tp) == (0, 2, 0)
    assert all(math.isnan(getattr(found, name)) for name in ("auc", "brier", "log_loss", "ece", "recall", "accuracy"))


@pytest.mark.parametrize(
    ("labels", "scores", "words"),
    [
        ([0, 1], [0.5], "one of each"),
        ([[1, 0], [0, 1]], [[0.5, 0.5], [0.5, 0.5]], "one of each"),
        ([0, 2], [0.5, 0.5], "labels are 1"),
        ([0, 1], [0.5, -99.0], "probabilities"),
        ([0, 1], [0.5, 1.01], "probabilities"),
    ],
)
def test_what_is_no_label_or_score_is_refused(labels, scores, words):
    with pytest.raises(DatacubeError, match=words):
        figures(labels, scores)


def test_figures_become_strict_json():
    text = json.dumps(figures([1, 1], [0.2, 0.4]).to_dict(), allow_nan=False)
    assert json.loads(text)["accuracy"] is None
    assert without_nan({"a": [1.0, math.inf], "b": (math.nan, "x")}) == {"a": [1.0, None], "b": [None, "x"]}


def test_reliability_by_hand():
    found = reliability([0, 1, 1, 1], [0.05, 0.15, 0.95, 1.0], bins=10)
    assert found.scores[[0, 1, 9]] == pytest.approx([0.05, 0.15, 0.975])
    assert found.fractions[[0, 1, 9]].tolist() == [0, 1, 1]
    assert found.weights.sum() == pytest.approx(1)
    assert np.isnan(found.scores[2:9]).all()
    assert found.ece == pytest.approx((0.05 + 0.85 + 2 * 0.025) / 4)


def test_calibrated_scores_have_little_calibration_error():
    rng = np.random.default_rng(0)
    scores = rng.random(20_000)
    labels = rng.random(scores.size) < scores
    assert figures(labels, scores).ece < 0.02
    assert figures(labels, scores**3).ece > 0.1


def test_weights_count_as_repeated_rows():
    labels, scores = random_rows(5, n=60)
    weights = np.random.default_rng(5).integers(1, 4, labels.size)
    again, repeated = np.repeat(labels, weights), np.repeat(scores, weights)
    assert log_loss(labels, scores, weights) == pytest.approx(log_loss(again, repeated))
    assert reliability(labels, scores, weights=weights).ece == pytest.approx(reliability(again, repeated).ece)


def test_table_shows_every_figure_of_the_confusion_matrix():
    found = Figures(10, 0, 0.5, 41, 42, 43, 44, 0.1234, 0.2345, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, math.nan)
    text = table(found)
    for each in ("41", "42", "43", "44", "0.1234", "0.2345"):
        assert each in text
    assert "nan" not in text


def test_the_error_of_the_auc_is_the_spread_over_samples():
    rng = np.random.default_rng(3)
    labels = np.repeat([1, 0], [60, 40])
    found = [sweep(labels, rng.beta(np.where(labels, 4, 2), 2)) for _ in range(400)]
    spread = np.std([each.auc for each in found])
    assert np.mean([each.auc_error for each in found]) == pytest.approx(spread, rel=0.15)


def test_the_error_of_the_auc_without_a_mistake_or_a_class():
    assert sweep([1, 0, 0], [0.9, 0.2, 0.1]).auc_error == 0
    assert np.isnan(sweep([1, 1], [0.2, 0.3]).auc_error)
