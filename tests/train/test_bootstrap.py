import numpy as np
import pytest
import sklearn.metrics as peer
from scipy.stats import binomtest

from otrain_train.assessment import assess, average_precision_of_bogus
from otrain_train.bootstrap import band_of, interval_of, resamples, wilson
from otrain_train.curves import FPR_GRID, RECALL_GRID, Part, at_thresholds, recall_curve, roc_curve
from otrain_train.metrics import figures, sweep


def make_rows(seed, n=300, ties=False):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    scores = np.clip(rng.normal(0.35 + 0.25 * labels, 0.2), 0, 1)
    return labels, np.round(scores, 1 if ties else 7).astype(np.float32)


def rows_of(rates):
    """The rows that a resample must have held."""
    real, bogus = np.diff(rates.tp, prepend=0), np.diff(rates.fp, prepend=0)
    scores = np.concatenate([np.repeat(rates.thresholds, real), np.repeat(rates.thresholds, bogus)])
    return np.repeat([1, 0], [real.sum(), bogus.sum()]), scores


@pytest.mark.parametrize("ties", [False, True])
def test_a_resample_is_the_sweep_of_explicit_rows(ties):
    labels, scores = make_rows(1, ties=ties)
    for rates in resamples(labels, scores, np.random.default_rng(0), 20):
        drawn_labels, drawn_scores = rows_of(rates)
        assert (drawn_labels.sum(), drawn_labels.size) == (labels.sum(), labels.size)
        for label in (0, 1):
            assert np.isin(drawn_scores[drawn_labels == label], scores[labels == label].astype(float)).all()
        again = sweep(drawn_labels, drawn_scores)
        for name in ("thresholds", "tp", "fp"):
            assert np.array_equal(getattr(rates, name), getattr(again, name))
        assert rates.auc == pytest.approx(peer.roc_auc_score(drawn_labels, drawn_scores))
        assert rates.average_precision == pytest.approx(peer.average_precision_score(drawn_labels, drawn_scores))
        assert average_precision_of_bogus(rates) == pytest.approx(
            peer.average_precision_score(1 - drawn_labels, -drawn_scores)
        )


def test_each_row_is_drawn_as_often_as_chance_says():
    labels, scores = np.repeat([1, 0], [30, 10]), np.linspace(0, 1, 40)
    drawn = [rates.thresholds.size for rates in resamples(labels, scores, np.random.default_rng(0), 400)]
    assert np.mean(drawn) == pytest.approx(30 * (1 - (29 / 30) ** 30) + 10 * (1 - 0.9**10), rel=0.02)


def test_intervals_agree_with_resampling_by_hand():
    labels, scores = make_rows(2)
    rng = np.random.default_rng(5)
    real, bogus = np.flatnonzero(labels), np.flatnonzero(labels == 0)
    areas = []
    for _ in range(1500):
        rows = np.concatenate([rng.choice(real, real.size), rng.choice(bogus, bogus.size)])
        areas.append(peer.roc_auc_score(labels[rows], scores[rows]))
    low, high = interval_of(lambda rates: rates.auc, labels, scores, np.random.default_rng(0))
    assert (low, high) == pytest.approx(np.quantile(areas, [0.025, 0.975]), abs=0.01)


def test_what_is_rarely_defined_has_no_interval():
    labels, scores = make_rows(3)
    low, high = band_of(lambda rates: [rates.auc, np.nan], labels, scores, np.random.default_rng(0))
    assert low[0] < high[0]
    assert np.isnan([low[1], high[1]]).all()


@pytest.mark.parametrize(("k", "n"), [(0, 7), (7, 7), (3, 7), (1, 1), (0, 1), (499, 500)])
def test_wilson_agrees_with_an_independent_implementation(k, n):
    expected = binomtest(k, n).proportion_ci(method="wilson")
    assert np.array(wilson(k, n)) == pytest.approx([expected.low, expected.high])


def test_wilson_of_nothing_is_undefined():
    low, high = wilson([0, 5], [0, 10])
    assert np.isnan([low[0], high[0]]).all()
    assert 0 < low[1] < 0.5 < high[1] < 1


@pytest.mark.parametrize("ties", [False, True])
def test_curves_agree_with_an_independent_implementation(ties):
    labels, scores = make_rows(4, ties=ties)
    roc = roc_curve(Part("all", labels, scores), np.random.default_rng(0))
    fpr, tpr, _ = peer.roc_curve(labels, scores, drop_intermediate=False)
    assert roc.x == pytest.approx(fpr)
    assert roc.y == pytest.approx(tpr)
    assert roc.area_low < roc.area < roc.area_high
    at_grid = np.interp(FPR_GRID, fpr, tpr)
    assert np.mean((roc.low <= at_grid) & (at_grid <= roc.high)) > 0.95
    pr = recall_curve(Part("all", labels, scores), np.random.default_rng(0))
    assert pr.area == pytest.approx(peer.average_precision_score(labels, scores))
    precision, recall, _ = peer.precision_recall_curve(labels, scores)
    expected = [precision[np.flatnonzero(recall >= wanted - 1e-12)[-1]] for wanted in RECALL_GRID]
    assert np.mean((pr.low <= expected) & (expected <= pr.high)) > 0.95


@pytest.mark.parametrize("labels", [[], [1, 1], [0]])
def test_a_curve_of_one_class_is_not_measurable(labels):
    part = Part("some", np.array(labels, int), np.full(len(labels), 0.5))
    for curve in (roc_curve(part, np.random.default_rng(0)), recall_curve(part, np.random.default_rng(0))):
        assert not curve.measurable
        assert np.isnan([curve.area, curve.area_low, curve.area_high]).all()


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.3, 0.55, 0.7, 1.0])
def test_any_threshold_has_its_confusion_matrix(threshold):
    labels, scores = make_rows(6, ties=True)
    there, expected = at_thresholds(sweep(labels, scores), [threshold]), figures(labels, scores, threshold)
    assert (there.tp[0], there.fp[0]) == (expected.tp, expected.fp)
    assert there.mcc[0] == pytest.approx(expected.mcc, nan_ok=True)


def test_an_assessment_holds_both_classes():
    labels, scores = make_rows(7)
    scores[:5] = np.nan
    found = assess(labels, scores, 0.5, np.random.default_rng(0))
    assert found.estimates["average_precision_bogus"].value == pytest.approx(
        peer.average_precision_score(1 - labels[5:], -scores[5:])
    )
    assert found.estimates["average_precision_real"].value == pytest.approx(found.figures.average_precision)
    for name in ("precision", "recall", "fpr", "f1", "mcc", "auc"):
        each = found.estimates[name]
        assert each.value == pytest.approx(getattr(found.figures, name)), name
        assert each.low < each.value < each.high, name
        assert found.to_dict()["intervals_95"][name] == [each.low, each.high]
    assert "average precision, bogus" in str(found)
    assert "5 more have no score" in str(found)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_has_no_intervals_that_compare(label):
    found = assess(np.full(9, label), np.full(9, 0.7), 0.5, np.random.default_rng(0))
    intervals = found.to_dict()["intervals_95"]
    assert intervals["mcc"] == intervals["precision"] == [None, None]
    assert (intervals["recall"] == [None, None]) == (label == 0)
    assert "interval" not in str(found)


def test_classes_parted_without_error_have_no_interval_without_width():
    found = assess([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], 0.5, np.random.default_rng(0))
    assert found.estimates["auc"].value == 1
    assert np.isnan(found.estimates["auc"].low)
    assert found.estimates["recall"].low < 0.5
