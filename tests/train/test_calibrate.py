import numpy as np
import pytest
from stirred import stir

from otrain_infer.card import OperatingPoint
from otrain_infer.errors import ModelError
from otrain_train.calibrate import at_threshold, fit_temperature, fold_temperature, operating_points, unreached
from otrain_train.metrics import figures


def rows_of_temperature(temperature, n=20_000, seed=0):
    """Logits that are `temperature` times too large, with labels drawn from the right probabilities."""
    rng = np.random.default_rng(seed)
    margins = rng.normal(0, 2, n)
    labels = rng.random(n) < 1 / (1 + np.exp(-margins))
    shift = rng.normal(0, 5, n)
    return temperature * np.stack([shift - margins / 2, shift + margins / 2], axis=1), labels.astype(int)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_a_known_temperature_is_found(temperature):
    found = fit_temperature(*rows_of_temperature(temperature))
    assert found.temperature == pytest.approx(temperature, rel=0.03)
    assert found.log_loss_after <= found.log_loss_before
    assert found.ece_after < 0.02
    assert found.note == ""
    assert (found.ece_before > 0.04) == (temperature != 1.0)


def test_weights_restore_the_balance_of_an_unbalanced_set():
    logits, labels = rows_of_temperature(2.0, n=60_000)
    keep = (labels == 1) | (np.arange(labels.size) % 5 == 0)
    weights = np.where(labels[keep] == 1, 1.0, 5.0)
    weights /= weights.mean()
    assert fit_temperature(logits[keep], labels[keep], weights).temperature == pytest.approx(2.0, rel=0.05)


def test_too_few_rows_leave_the_scores_alone():
    logits, labels = rows_of_temperature(3.0, n=400)
    rows = np.append(np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)[:9])
    found = fit_temperature(logits[rows], labels[rows])
    assert found.temperature == 1.0
    assert "9 rows" in found.note
    assert fit_temperature(logits[labels == 1], labels[labels == 1]).temperature == 1.0


def test_a_few_rows_parted_without_error_do_not_make_scores_extreme():
    labels = np.arange(24) % 2
    logits = np.stack([3.0 - 6.0 * labels, 6.0 * labels - 3.0], axis=1)
    found = fit_temperature(logits, labels)
    assert 0.8 < found.temperature < 1.0
    assert found.note == ""


def test_logits_far_too_small_stop_at_the_bound():
    labels = np.arange(1000) % 2
    found = fit_temperature(np.stack([0.01 - 0.02 * labels, 0.02 * labels - 0.01], axis=1), labels)
    assert found.temperature == pytest.approx(0.1, rel=1e-3)
    assert "bound" in found.note


def test_folding_divides_the_logits():
    network = pytest.importorskip("otrain_train.network")
    model = stir(network.build("lite", (16, 16, 1), seed=1))
    head = model.get_layer("logits")
    head.set_weights([head.get_weights()[0], np.array([0.3, -0.2], np.float32)])
    cutouts = np.random.default_rng(0).normal(size=(8, 16, 16, 1)).astype(np.float32)
    before = np.asarray(model(cutouts, training=False), np.float64)
    fold_temperature(model, 2.5)
    after = np.asarray(model(cutouts, training=False), np.float64)
    expected = np.log(before[:, 1] / before[:, 0]) / 2.5
    assert np.log(after[:, 1] / after[:, 0]) == pytest.approx(expected, abs=1e-5)
    assert np.ptp(expected) > 0.01


class Head:
    def __init__(self, *weights):
        self.weights = list(weights)

    def get_layer(self, _name):
        return self

    def get_weights(self):
        return self.weights


@pytest.mark.parametrize("temperature", [0.0, -1.0, np.nan, np.inf])
def test_impossible_temperatures_are_refused(temperature):
    with pytest.raises(ModelError, match="not a positive number"):
        fold_temperature(Head(np.ones((3, 2)), np.ones(2)), temperature)


def test_a_head_without_bias_is_refused():
    with pytest.raises(ModelError, match="kernel and bias"):
        fold_temperature(Head(np.ones((3, 2))), 2.0)


def random_rows(seed, ties, n=300):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    scores = np.clip(rng.normal(0.3 + 0.4 * labels, 0.2), 0, 1)
    return labels, (np.round(scores, 1) if ties else scores).astype(np.float32)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("ties", [False, True])
def test_operating_points_are_the_best_of_all_thresholds(seed, ties):
    labels, scores = random_rows(seed, ties)
    every = [figures(labels, scores, threshold) for threshold in np.unique(scores)]
    points = {point.name: point for point in operating_points(labels, scores)}
    allowed = [each for each in every if each.fpr <= 0.01 and each.tp]
    if allowed:
        assert points["fpr-1%"].recall == max(each.recall for each in allowed)
        assert points["fpr-1%"].fpr <= 0.01
    else:
        assert "fpr-1%" not in points
    assert points["recall-99%"].fpr == min(each.fpr for each in every if each.recall >= 0.99)
    best = figures(labels, scores, points["best-f1-mcc"].threshold)
    assert best.f1 + best.mcc == pytest.approx(np.nanmax([each.f1 + each.mcc for each in every]))
    for point in points.values():
        # What is promised is what the threshold brings, also once it has been written as float32.
        assert at_threshold(point.name, point.threshold, labels, scores) == point
        assert float(np.float32(point.threshold)) == point.threshold


def test_operating_points_that_no_threshold_reaches_are_named():
    points = operating_points([1, 1, 0, 0], np.array([0.5, 0.8, 0.9, 0.1], np.float32))
    assert [point.name for point in points] == ["recall-99%", "best-f1-mcc"]
    assert unreached(points) == "no threshold reaches fpr-1%"
    assert unreached(operating_points([0, 1], np.array([0.1, 0.9], np.float32))) == ""
    assert unreached(operating_points([1, 1], np.array([0.1, 0.9], np.float32))) == ""


def test_thresholds_lie_between_the_scores_that_they_part():
    points = operating_points([0, 0, 1, 1], np.array([0.1, 0.2, 0.6, 0.8], np.float32))
    assert {point.name: point.threshold for point in points} == pytest.approx(
        {"fpr-1%": 0.4, "recall-99%": 0.4, "best-f1-mcc": 0.4}
    )


def test_neighbouring_floats_are_parted():
    low = np.float32(0.5)
    high = np.nextafter(low, np.float32(1))
    for point in operating_points([0, 1], np.array([low, high])):
        assert point == OperatingPoint(point.name, float(high), 1.0, 0.0, 1.0)


def test_an_operating_point_out_of_reach_is_left_out():
    points = operating_points([1, 1, 0, 0], [0.2, 0.3, 0.9, 0.9])
    assert [point.name for point in points] == ["recall-99%", "best-f1-mcc"]
    assert all(np.isfinite(point.precision) for point in points)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_has_no_operating_points(label):
    assert operating_points(np.full(5, label), np.linspace(0, 1, 5)) == ()
