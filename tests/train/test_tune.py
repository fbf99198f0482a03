"""The search for settings: its memory, what it takes, what it leaves."""

import csv
import json
import logging
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss

from otrain_infer.errors import MissingExtraError, UsageError
from otrain_train.calibrate import fit_temperature
from otrain_train.fit import fit
from otrain_train.mock import MockSettings, mock_arrays
from otrain_train.settings import TrainSettings
from otrain_train.trial import SEARCHED, Trial, choose, draw_trials, front, lags
from otrain_train.tune import tune

SETTINGS = TrainSettings(epochs=2, min_steps=2, batch_size=16, holdout=0.4, seeds=(3, 4))


FILES = {"trials.json", "trial_1.npy", "trial_2.npy", "trial_3.npy", "tune.csv", "tune.png"}


@pytest.fixture(scope="module")
def cube():
    return mock_arrays(MockSettings(n_true=35, n_false=35, size=16, planes=("DIFF",), seed=1))


@pytest.fixture(scope="module")
def search(cube):
    """A function that searches among the settings of some rows of the cube."""

    def run(folder, trials, settings=SETTINGS, progress=None, rows=None):
        return tune(cube, np.arange(64) if rows is None else rows, settings, trials, folder, progress)

    return run


@pytest.fixture(scope="module")
def straight(search, tmp_path_factory):
    """A search of three trials that nothing disturbed: its folder, what it found, and its progress."""
    folder, steps = tmp_path_factory.mktemp("straight"), []
    return folder, search(folder, 3, progress=lambda *told: steps.append(told)), steps


def trials_in(folder):
    found = json.loads((folder / "tune" / "trials.json").read_text())["trials"]
    return [Trial(**trial) for trial in found]


def losses_in(folder):
    return [np.load(folder / "tune" / f"trial_{trial.number}.npy") for trial in trials_in(folder)]


def chosen_in(folder):
    return choose(trials_in(folder), lags(trials_in(folder), losses_in(folder)))


def timeless(trials):
    return [replace(trial, seconds=None) for trial in trials]


def test_what_is_found_replaces_what_was_given_and_nothing_else(straight):
    folder, found, steps = straight
    trials = trials_in(folder)
    chosen = chosen_in(folder)
    assert found == replace(SETTINGS, **chosen.found())
    assert trials[0].found() == {"width": 1.0, "normalisation": "l2", "learning_rate": 0.004, "dropout": 0.3}
    for trial in trials:
        assert 0.5 <= trial.width <= 2
        assert 0.0008 <= trial.learning_rate <= 0.02
        assert 0 <= trial.dropout <= 0.6
        assert trial.normalisation in ("l2", "l2-rows", "robust")
    assert len({trial.width for trial in trials}) == 3
    assert [(done, total) for done, total, _ in steps] == [(step, 18) for step in range(1, 19)]
    assert steps[6][2].startswith("trial 2 of 3 epoch 1")


def test_a_search_leaves_its_memory_a_table_and_a_plot(straight):
    folder, _, _ = straight
    assert {file.name for file in (folder / "tune").iterdir()} == FILES
    with (folder / "tune" / "tune.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    trials = trials_in(folder)
    assert [float(row["loss"]) for row in rows] == pytest.approx([trial.loss for trial in trials], rel=1e-5)
    assert [row["taken"] for row in rows] == [str(int(trial == chosen_in(folder))) for trial in trials]
    smallest = min(trial.loss for trial in trials)
    lost = [trial.loss - smallest for trial in trials]
    assert [float(row["lag"]) for row in rows] == pytest.approx(lost, rel=1e-4, abs=1e-6)
    assert [row["front"] for row in rows] == [str(int(trial in front(trials))) for trial in trials]
    assert (folder / "tune" / "tune.png").read_bytes().startswith(b"\x89PNG")


def test_as_many_trials_again_train_nothing(straight, search):
    folder, found, _ = straight
    before, steps = trials_in(folder), []
    assert search(folder, 3, progress=lambda *told: steps.append(told)) == found
    assert search(folder, 2, replace(SETTINGS, seeds=(3,), threshold=0.9)).learning_rate == found.learning_rate
    assert not steps
    assert trials_in(folder) == before


def test_the_loss_is_that_of_the_calibrated_scores_of_the_holdout_rows(straight, cube, tmp_path):
    first = trials_in(straight[0])[0]
    fitted = fit(cube, np.arange(64), replace(SETTINGS, seeds=(3,)), tmp_path)
    labels = cube.labels[fitted.holdout]
    weights = np.take(fitted.class_weights, labels)
    logits = fitted.holdout_logits / fit_temperature(fitted.holdout_logits, labels, weights).temperature
    scores = 1 / (1 + np.exp(np.float64(logits[:, 0]) - logits[:, 1]))
    assert first.loss == pytest.approx(log_loss(labels, scores, sample_weight=weights), rel=1e-6)
    each = -np.log(np.where(labels == 1, scores, 1 - scores))
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, labels.size, (4000, labels.size))
    resampled = np.average(each[drawn], axis=1, weights=weights[drawn])
    assert first.error == pytest.approx(resampled.std(), rel=0.1)
    assert first.auc == fitted.history[first.best_epoch - 1]["holdout_auc"]


class KilledError(Exception):
    pass


def test_a_search_that_was_ended_goes_on_as_if_it_had_not_been(straight, search, tmp_path, caplog):
    def stop(at, error):
        def report(done, _total, _words):
            if done == at:
                raise error

        return report

    # In the middle of the second trial, and of the third: each has two epochs of three steps.
    for number, error in ((2, KilledError), (3, KeyboardInterrupt)):
        with pytest.raises(error):
            search(tmp_path, 3, progress=stop(6 * number - 2, error))
        assert len(trials_in(tmp_path)) == number - 1
        assert (tmp_path / "tune" / f"trial_{number}" / "checkpoint" / "state_3.npz").exists()
    steps = []
    with caplog.at_level(logging.INFO):
        assert search(tmp_path, 3, progress=lambda done, *_: steps.append(done)) == straight[1]
    assert steps == [16, 17, 18]
    assert "interrupted: trial 3 is not counted" in caplog.text
    assert "2 of 3 trials are done already" in caplog.text
    assert "going on after epoch 1 of 2" in caplog.text
    assert timeless(trials_in(tmp_path)) == timeless(trials_in(straight[0]))
    assert {file.name for file in (tmp_path / "tune").iterdir()} == FILES


def test_other_rows_begin_anew_and_so_does_a_memory_that_cannot_be_read(search, tmp_path, caplog):
    stranger = tmp_path / "tune" / "trial_1" / "mine.txt"
    stranger.parent.mkdir(parents=True)
    stranger.write_text("keep me")
    (tmp_path / "tune" / "trials.json").write_text("{")
    search(tmp_path, 1)
    assert "cannot be read" in caplog.text
    first = trials_in(tmp_path)
    search(tmp_path, 1, rows=np.arange(4, 70))
    assert "is of other rows or settings: the search starts anew" in caplog.text
    assert len(trials_in(tmp_path)) == 1
    assert trials_in(tmp_path)[0].loss != first[0].loss
    assert stranger.read_text() == "keep me"


def test_trials_without_an_end_are_told_and_never_taken(cube, tmp_path, caplog):
    bright = replace(cube, cube=cube.cube * np.float32(1e32))
    settings = replace(SETTINGS, network="otrain", width=0.25, normalisation="none", epochs=1)
    with pytest.raises(UsageError, match="no trial of the search came to an end, the last one because the loss is no"):
        tune(bright, np.arange(64), settings, 1, tmp_path)
    with caplog.at_level(logging.INFO):
        found = tune(bright, np.arange(64), settings, 3, tmp_path)
    assert found.normalisation != "none"
    trials = trials_in(tmp_path)
    assert trials[0].loss is None
    assert "no longer a number" in trials[0].reason
    assert sum(trial.loss is not None for trial in trials) >= 1
    assert (tmp_path / "tune" / "tune.csv").read_text().count("no longer a number") >= 1
    assert not [file for file in (tmp_path / "tune").iterdir() if file.is_dir()]


def test_impossible_searches_are_refused(search, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="1 trial or more, not 0"):
        search(tmp_path, 0)
    with pytest.raises(UsageError, match="runs on one host"):
        search(tmp_path, 1, replace(SETTINGS, devices="hosts"))
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match=r"needs optuna: pip install 'otrain\[tune\]'"):
        search(tmp_path, 1)
    assert not list(tmp_path.iterdir())


def trial(number, loss, cost):
    return Trial(number, 1.0, "l2", 1e-3, 0.3, cost, loss=loss, error=0.1, auc=0.9, best_epoch=1, seconds=1.0)


def test_the_cheapest_within_a_standard_error_is_taken():
    trials = [trial(1, 0.30, 10), trial(2, 0.200, 90), trial(3, 0.205, 40), trial(4, 0.207, 20)]
    behind = [(0.1, 0.02), (0.0, 0.0), (0.005, 0.006), (0.007, 0.006)]
    assert choose(trials, behind).number == 3
    assert choose(trials, [(lag, 2 * error) for lag, error in behind]).number == 4
    assert choose(trials, [(lag, 1.0) for lag, _ in behind]).number == 4  # a loss of 0.30 is too much
    assert choose([*trials, trial(5, 0.200, 40)], [*behind, (0.0, 0.0)]).number == 5
    assert choose(trials[:1], [(0.0, 0.0)]).number == 1


def test_how_far_trials_lag_is_told_by_their_difference_on_the_same_rows():
    rng = np.random.default_rng(1)
    hard = rng.exponential(size=400)
    losses = np.float32([hard, hard + rng.normal(0.01, 0.1, 400), rng.permutation(hard) + 0.01])
    weights = np.where(np.arange(400) < 100, 2.0, 2 / 3)
    means = np.average(losses, axis=1, weights=weights)
    trials = [trial(i, float(mean), 10) for i, mean in enumerate(means, start=1)]
    found = lags(trials, [np.float32([weights, each]) for each in losses])
    drawn = rng.integers(0, 400, (4000, 400))
    best = int(np.argmin(means))
    for (lag, error), mean, own in zip(found, means, losses, strict=True):
        assert lag == pytest.approx(mean - means[best], abs=1e-6)
        apart = (own - losses[best])[drawn]
        assert error == pytest.approx(np.average(apart, axis=1, weights=weights[drawn]).std(), rel=0.1)
    assert found[best] == (0.0, 0.0)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 6)), min_size=1, max_size=12))
def test_the_front_is_what_no_trial_beats(values):
    trials = [trial(i, float(loss), cost) for i, (loss, cost) in enumerate(values, start=1)]

    def beaten(each):
        return any(
            other.loss <= each.loss
            and other.multiply_adds <= each.multiply_adds
            and (other.loss, other.multiply_adds) != (each.loss, each.multiply_adds)
            for other in trials
        )

    expected = {(each.loss, each.multiply_adds) for each in trials if not beaten(each)}
    assert {(each.loss, each.multiply_adds) for each in front(trials)} == expected
    best = min(each.loss for each in trials)
    chosen = choose(trials, [(each.loss - best, 1.5) for each in trials])
    assert (chosen.loss, chosen.multiply_adds) in {(each.loss, each.multiply_adds) for each in front(trials)}
    assert set(chosen.found()) == set(SEARCHED)


def test_one_trial_can_be_drawn():
    axes = draw_trials([trial(1, 0.3, 10)], [(0.0, 0.0)], trial(1, 0.3, 10)).axes[0]
    assert axes.get_title() == "search for settings, 1 trial"
