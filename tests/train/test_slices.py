"""Figures of parts of the candidates, against others' implementations of them."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

pytest.importorskip("tensorflow")

from otrain_infer.card import ModelCard
from otrain_infer.normalise import Normalisation
from otrain_infer.scorer import Scorer
from otrain_train.evaluation import Evaluation
from otrain_train.export import export
from otrain_train.mock import MockSettings, mock_arrays
from otrain_train.network import build
from otrain_train.slices import MOST, slices_of

N = 240
QUANTITIES = ["magnitude", "signal-to-noise ratio", "filter", "FWHM", "edge", "night"]


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "m.onnx"
    card = ModelCard("m", "1", "", ("DIFF",), (24, 24), Normalisation("l2"))
    export(build("lite", (24, 24, 1)), card, path)
    return Scorer(path)


@pytest.fixture(scope="module")
def evaluation(scorer):
    """Candidates with scores that tell bright ones better, some without a score or a value."""
    datacube = mock_arrays(MockSettings(N // 2, N // 2, size=24, planes=("DIFF",), seed=2, edge_fraction=0.2))
    rng = np.random.default_rng(5)
    scores = np.clip(0.5 + (datacube.labels - 0.5) * 0.5 + rng.normal(0, 0.3, N), 0, 1).astype(np.float32)
    scores[::17] = np.nan
    mags = datacube.mags.copy()
    mags[3:40:7] = np.nan
    mags[5] = 99.0
    filters = datacube.filters.copy()
    filters[:9] = ""
    return Evaluation(replace(datacube, mags=mags, filters=filters), scores, 0.5, scorer)


@pytest.fixture(scope="module")
def slicings(evaluation):
    return {each.quantity: each for each in slices_of(evaluation, np.random.default_rng(0))}


def values_of(evaluation):
    cube = evaluation.datacube
    return {"magnitude": cube.mags, "signal-to-noise ratio": 2.5 / np.log(10) / cube.errmags, "FWHM": cube.fwhms}


def test_all_quantities_are_there_in_order(slicings):
    assert list(slicings) == QUANTITIES
    assert all(each.slices for each in slicings.values())


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_a_slice_is_measured_as_others_do(quantity, evaluation, slicings):
    for each in slicings[quantity].slices:
        labels, scores = evaluation.labels[each.rows], evaluation.scores[each.rows].astype(float)
        assert np.isfinite(scores).all()
        assert (each.real, each.bogus) == (labels.sum(), (1 - labels).sum())
        for estimate, label in ((each.recall, 1), (each.fpr, 0)):
            k, n = int(np.sum(scores[labels == label] >= 0.5)), int(np.sum(labels == label))
            if not n:
                assert np.isnan([estimate.value, estimate.low, estimate.high]).all()
                continue
            bounds = binomtest(k, n).proportion_ci(method="wilson")
            assert (estimate.value, estimate.low, estimate.high) == pytest.approx((k / n, bounds.low, bounds.high))
        if each.real and each.bogus:
            assert each.auc.value == pytest.approx(roc_auc_score(labels, scores))
            assert np.isnan(each.auc.low) or each.auc.low < each.auc.value <= each.auc.high + 1e-9
        else:
            assert np.isnan(each.auc.value)


@pytest.mark.parametrize("quantity", ["magnitude", "signal-to-noise ratio", "FWHM"])
def test_numbers_are_in_the_interval_that_names_their_slice(quantity, evaluation, slicings):
    values = values_of(evaluation)[quantity]
    slicing = slicings[quantity]
    assert len(slicing.slices) > 1
    for each in slicing.slices:
        low, high = map(float, each.name.split(" to "))
        assert ((values[each.rows] >= low) & (values[each.rows] < high)).all()
    known = np.flatnonzero(evaluation.scored & np.isfinite(values) & ~((quantity == "magnitude") & (values > 90)))
    assert sorted(np.concatenate([each.rows for each in slicing.slices])) == known.tolist()


def test_what_is_in_no_slice_is_counted(evaluation, slicings):
    scored = int(evaluation.scored.sum())
    lost = int(np.sum(evaluation.scored & ~(np.abs(evaluation.datacube.mags) < 90)))
    assert lost > 3
    assert slicings["magnitude"].note == f"Not known of {lost} of {scored} candidates."
    assert slicings["FWHM"].note == ""


def test_filters_edges_and_nights_are_told_apart(evaluation, slicings):
    cube = evaluation.datacube
    for each in slicings["filter"].slices:
        assert (cube.filters[each.rows] == each.name).all()
    missing = ~np.isfinite(cube.cube[..., 0])
    border = missing.all(axis=1)[:, [0, -1]].any(axis=1) | missing.all(axis=2)[:, [0, -1]].any(axis=1)
    assert [each.name for each in slicings["edge"].slices] == ["whole", "cut off"]
    for each, expected in zip(slicings["edge"].slices, (False, True), strict=True):
        assert (border[each.rows] == expected).all()
    nights = slicings["night"].slices
    assert len(nights) > 2
    for each in nights:
        assert np.ptp(cube.mjds[each.rows]) < 1
        assert abs(np.mean(cube.mjds[each.rows]) - float(each.name)) < 1.5


def test_many_filters_are_put_together(evaluation):
    filters = np.array([f"F{i % 12:02d}" for i in range(N)])
    filters[:60] = "F00"
    cube = replace(evaluation.datacube, filters=filters)
    found = slices_of(replace(evaluation, datacube=cube), np.random.default_rng(0))[2]
    assert [each.name for each in found.slices][:1] == ["F00"]
    assert [each.name for each in found.slices][-1] == "4 others"
    assert len(found.slices) == MOST + 1
    assert sum(each.rows.size for each in found.slices) == evaluation.scored.sum()


def empty(cube):
    nan = np.full(len(cube), np.nan)
    return replace(cube, mags=nan, errmags=nan, fwhms=nan, mjds=nan, filters=np.full(len(cube), ""))


def test_what_is_not_known_of_anyone_is_said(evaluation):
    found = slices_of(replace(evaluation, datacube=empty(evaluation.datacube)), np.random.default_rng(0))
    for slicing in found:
        assert bool(slicing.slices) == (slicing.quantity == "edge")
        assert bool(slicing.slices) != (slicing.note == "Not known of any candidate with a score.")


@pytest.mark.parametrize("rows", [[0], [0, 1], [0, N - 1], [17 * 3]])
def test_few_rows_and_none_with_a_score(evaluation, rows):
    part = replace(evaluation, datacube=evaluation.datacube.select(rows), scores=evaluation.scores[rows])
    found = slices_of(part, np.random.default_rng(0))
    assert [each.quantity for each in found] == QUANTITIES
    assert bool(found[4].slices) == part.scored.any()


def test_errors_that_are_no_errors_have_no_signal_to_noise(evaluation):
    errors = np.array([0.0, -1, 99, np.inf, 0.1] * (N // 5))
    cube = replace(evaluation.datacube, errmags=errors)
    found = slices_of(replace(evaluation, datacube=cube), np.random.default_rng(0))[1]
    assert [each.rows.tolist() for each in found.slices] == [
        np.flatnonzero((errors == 0.1) & evaluation.scored).tolist()
    ]
