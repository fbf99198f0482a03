"""Ensembles: several networks trained, joined, calibrated and exported as one."""

import csv
import json
from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import layers
from scipy.optimize import minimize_scalar
from test_export import make_card, make_network, make_rows, mean_of_probabilities, sum_of_probabilities

from otrain_infer.normalise import Normalisation
from otrain_infer.scorer import Scorer
from otrain_train.calibrate import PRIOR_SPREAD, fit_temperature
from otrain_train.cli_export import export as export_command
from otrain_train.datacube import Datacube
from otrain_train.ensemble import join, members_of
from otrain_train.export import export, load_network
from otrain_train.fit import checkpoint_path, fit
from otrain_train.metrics import figures
from otrain_train.mock import MockSettings, mock_arrays
from otrain_train.network import build
from otrain_train.rows import usable_rows
from otrain_train.settings import TrainSettings
from otrain_train.splits import split_rows
from otrain_train.train import train

SETTINGS = TrainSettings(epochs=2, min_steps=5, batch_size=16, seeds=(3, 4))
STEPS = 2 * SETTINGS.epochs * 9


@pytest.fixture(scope="module")
def cube():
    return mock_arrays(MockSettings(90, 90, size=24, planes=("SCI", "DIFF"), seed=5))


@pytest.fixture(scope="module")
def done(cube, tmp_path_factory):
    """An ensemble that nothing interrupted: the folder, the summary, what was said of its progress and its epochs."""
    folder = tmp_path_factory.mktemp("ensemble")
    cube.save(folder / "c.npz")
    steps, epochs = [], []
    summary = train(folder / "c.npz", folder, "E", SETTINGS, None, lambda *all_: steps.append(all_), epochs.append)
    return folder, summary, steps, epochs


def networks(heads=2):
    return [make_network(layers.Dense(2, activation="softmax"), seed=seed) for seed in range(3, 3 + heads)]


def weights_of(network):
    return [weight for layer in network.layers for weight in layer.get_weights()]


def test_what_is_joined_comes_apart_again(tmp_path):
    members = [build("lite", (24, 24, 2), seed=seed) for seed in (1, 2, 3)]
    join(members).save(tmp_path / "e.keras")
    loaded = load_network(tmp_path / "e.keras")
    parts = members_of(loaded)
    assert [part.name for part in parts] == ["lite"] * 3
    for part, member in zip(parts, members, strict=True):
        assert [layer.name for layer in part.layers] == [layer.name for layer in member.layers]
        for found, expected in zip(weights_of(part), weights_of(member), strict=True):
            assert np.array_equal(found, expected)
    cutouts = np.random.default_rng(0).normal(size=(5, 24, 24, 2)).astype(np.float32)
    each = np.mean([np.asarray(member(cutouts, training=False)) for member in members], axis=0)
    np.testing.assert_allclose(loaded(cutouts, training=False), each, atol=1e-6)


def test_a_single_network_stays_itself():
    (network,) = networks(1)
    assert join([network]) is network
    for other in (network, build("lite", (16, 16, 1)), mean_of_probabilities(), sum_of_probabilities()):
        assert members_of(other) == [other]


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-6), ("fp16", 2e-3)])
def test_the_export_gives_mean_and_spread(precision, tolerance, tmp_path):
    members, rows, path = networks(3), make_rows(150), tmp_path / "m.onnx"
    card = export(join(members), make_card(), path, rows, precision)
    normalised = make_card().normalisation.apply(rows)
    each = np.stack([np.asarray(member(normalised, training=False), np.float64)[:, 1] for member in members])
    scores, spreads = Scorer(path).score_pixels_with_spread(rows)
    np.testing.assert_allclose(scores, each.mean(axis=0), atol=tolerance)
    np.testing.assert_allclose(spreads, each.std(axis=0), atol=tolerance)
    assert each.std(axis=0).max() > 0.05
    assert card.training["members"] == 3
    assert 0 < card.metrics["parity"]["max_difference"] < tolerance
    for batch_size in (1, 7, 150):
        assert np.array_equal(Scorer(path, batch_size=batch_size).score_pixels_with_spread(rows), [scores, spreads])


def test_members_may_end_in_any_way(tmp_path):
    ends = [layers.Dense(1, activation="sigmoid") for _ in range(2)]
    members, rows = [make_network(end, seed=seed) for seed, end in enumerate(ends)], make_rows()
    export(join(members), make_card(), tmp_path / "m.onnx", rows)
    normalised = make_card().normalisation.apply(rows)
    each = np.stack([np.asarray(member(normalised, training=False), np.float64)[:, 0] for member in members])
    np.testing.assert_allclose(Scorer(tmp_path / "m.onnx").score_pixels(rows), each.mean(axis=0), atol=1e-6)


def test_one_temperature_is_fitted_to_the_mean_of_the_scores():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(3, 400, 2)) * 4
    labels = (rng.random(400) < 1 / (1 + np.exp(-np.diff(logits.mean(axis=0), axis=1)[:, 0]))).astype(int)
    weights = rng.uniform(0.5, 1.5, 400)

    def loss(log_temperature):
        odds = np.exp(logits / np.exp(log_temperature))
        mean = (odds[..., 1] / odds.sum(axis=-1)).mean(axis=0)
        likelihood = np.log(np.where(labels == 1, mean, 1 - mean))
        return -np.sum(weights * likelihood) + (log_temperature / PRIOR_SPREAD) ** 2 / 2

    found = fit_temperature(logits, labels, weights)
    expected = np.exp(minimize_scalar(loss, bounds=(-2, 2), method="bounded", options={"xatol": 1e-8}).x)
    assert found.temperature == pytest.approx(expected, rel=1e-4)
    assert found.log_loss_after < found.log_loss_before


def test_the_temperature_of_one_network_is_that_of_an_ensemble_of_it():
    rng = np.random.default_rng(2)
    logits, labels = rng.normal(size=(200, 2)).astype(np.float32), rng.integers(0, 2, 200)
    assert fit_temperature(logits, labels) == fit_temperature(logits[None], labels)
    twice = fit_temperature(np.stack([logits, logits]), labels)
    assert twice.temperature == pytest.approx(fit_temperature(logits, labels).temperature, rel=1e-4)


def test_one_model_is_written_and_measured(done, cube):
    folder, summary, _, _ = done
    scorer = Scorer(folder / "CNN_training" / "E.onnx")
    card = scorer.card
    assert scorer.has_spread
    assert (card.training["members"], card.training["settings"]["seeds"]) == (2, [3, 4])
    assert "mean of those of 2 networks" in card.description
    validation = Datacube.load(folder / "CNN_training/E/validation_set/cube_validation.npz")
    scores, spreads = scorer.score_pixels_with_spread(validation.cube)
    assert figures(validation.labels, scores, 0.5).to_dict() == summary.figures.to_dict()
    assert spreads.max() > 0.01
    metrics = json.loads((folder / "CNN_training/E/metrics.json").read_text())
    assert metrics["calibration"]["ece_before"] == card.calibration["ece_before"] != metrics["calibration"]["ece_after"]
    assert "gate" not in metrics
    assert "2 networks, epochs kept: " in str(summary)
    assert not checkpoint_path(folder / "CNN_training/E", 3).parent.exists()


def test_the_keras_file_is_the_ensemble(done, cube, capsys):
    folder, _, _, _ = done
    network, model = folder / "CNN_training/E.keras", folder / "CNN_training/E.onnx"
    scores = Scorer(model).score_pixels_with_spread(cube.cube)
    output = np.asarray(load_network(network)(Normalisation("l2").apply(cube.cube.copy()), training=False))
    np.testing.assert_allclose(output[:, 1], scores[0], atol=1e-5)
    for precision, tolerance in (("fp32", 1e-6), ("fp16", 5e-3)):
        again = folder / f"{precision}.onnx"
        options = ["--card", str(model), "--output", str(again), "--precision", precision]
        assert export_command([str(network), *options]) == 0
        np.testing.assert_allclose(Scorer(again).score_pixels_with_spread(cube.cube), scores, atol=tolerance)
        assert Scorer(again).card.training["members"] == 2
    capsys.readouterr()


def test_each_network_is_the_one_of_its_seed(done, cube, tmp_path):
    folder, _, _, _ = done
    rows = usable_rows(cube)
    training, _ = split_rows(cube.labels[rows], cube.groups[rows], SETTINGS.frac, 3)
    single = fit(cube, rows[training], replace(SETTINGS, seeds=(3,)), tmp_path).model
    first, second = members_of(load_network(folder / "CNN_training/E.keras"))
    # Only the temperature, which is in the last layer, is the ensemble's.
    kept = [np.array_equal(a, b) for a, b in zip(weights_of(first), weights_of(single), strict=True)]
    assert all(kept[:-2])
    assert not any(np.array_equal(a, b) for a, b in zip(weights_of(first)[:1], weights_of(second)[:1], strict=True))


def test_progress_epochs_and_history_tell_of_all_networks(done):
    folder, summary, steps, epochs = done
    assert [each[0] for each in steps] == list(range(1, STEPS + 1))
    assert {each[1] for each in steps} == {STEPS}
    assert steps[0][2].startswith("network 1 of 2, ")
    assert [(each["seed"], each["epoch"]) for each in epochs] == [(3, 1), (3, 2), (4, 1), (4, 2)]
    with (folder / "CNN_training/E/history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["seed"], row["epoch"]) for row in rows] == [("3", "1"), ("3", "2"), ("4", "1"), ("4", "2")]
    assert [float(row["loss"]) for row in rows] == pytest.approx([each["loss"] for each in epochs])
    assert [course.seed for course in summary.courses] == [3, 4]
    assert json.loads((folder / "CNN_training/E/run.json").read_text())["epochs"] == [2, 2]


class CrashError(Exception):
    pass


def raise_at(step, error):
    def report(done, _total, _words):
        if done == step:
            raise error

    return report


def test_a_training_that_crashes_in_the_second_network_goes_on_there(done, cube, tmp_path):
    folder, _, _, _ = done
    with pytest.raises(CrashError):
        train(folder / "c.npz", tmp_path, "E", SETTINGS, None, raise_at(STEPS - 4, CrashError()))
    assert not list(tmp_path.rglob("*.onnx"))
    steps, seen = [], []
    train(folder / "c.npz", tmp_path, "E", SETTINGS, None, lambda step, *_: steps.append(step), seen.append)
    assert steps == list(range(STEPS - STEPS // 4 + 1, STEPS + 1))
    assert [(each["seed"], each["epoch"]) for each in seen] == [(4, 2)]
    expected = Scorer(folder / "CNN_training/E.onnx").score_pixels_with_spread(cube.cube)
    assert np.array_equal(Scorer(tmp_path / "CNN_training/E.onnx").score_pixels_with_spread(cube.cube), expected)
    assert not checkpoint_path(tmp_path / "CNN_training/E", 3).parent.exists()


def test_ctrl_c_in_the_second_network_keeps_the_first(done, tmp_path, caplog):
    folder, _, _, _ = done
    summary = train(folder / "c.npz", tmp_path, "E", SETTINGS, None, raise_at(STEPS // 2 + 2, KeyboardInterrupt()))
    assert "1 of 2 networks" in caplog.text
    assert summary.interrupted
    assert not Scorer(summary.model).has_spread
    assert json.loads((summary.folder / "run.json").read_text())["interrupted"]
    assert checkpoint_path(summary.folder, 3).exists()


def test_foreign_ensembles_of_that_build_are_taken_as_such(tmp_path):
    cutouts, members, rows = keras.Input((16, 14, 2)), networks(), make_rows()
    for i, member in enumerate(members):
        member.name = f"net{i}"
    theirs = keras.Model(cutouts, layers.Average()([member(cutouts) for member in members]))
    theirs.save(tmp_path / "t.keras")
    export(tmp_path / "t.keras", make_card(), tmp_path / "m.onnx", rows)
    assert Scorer(tmp_path / "m.onnx").has_spread
