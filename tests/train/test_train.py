import csv
import json
import logging
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

pytest.importorskip("tensorflow")

from otrain_infer.errors import DatacubeError, OutputError, UsageError
from otrain_infer.normalise import Normalisation
from otrain_infer.scorer import Scorer
from otrain_train import checkpoint
from otrain_train.datacube import Datacube, sha256
from otrain_train.fit import checkpoint_path, class_weights, fit, suitable_batch
from otrain_train.metrics import figures
from otrain_train.network import LEARNING_RATES
from otrain_train.rows import usable_rows
from otrain_train.settings import RunSettings, TrainSettings, option_name, options
from otrain_train.train import train
from otrain_train.trainer import learning_rate

QUICK = TrainSettings(epochs=3, min_steps=4, batch_size=16, seeds=(5,))
WHOLE = replace(QUICK, min_steps=20)


def make_cube(n=120, size=16, planes=1, seed=0, noise=1.0, group_size=1):
    """Cutouts of noise, the real ones with a point source in the centre of the last plane."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) < n // 2).astype(np.int64)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    cube = rng.normal(0, noise, (n, size, size, planes))
    cube[labels == 1, ..., -1] += 6 * np.exp(-(y**2 + x**2) / 4)
    groups = np.array([f"object{i // group_size}" for i in range(n)])
    columns = {"cube": cube.astype(np.float32), "labels": labels, "groups": groups, "candids": np.arange(n).astype(str)}
    return Datacube.from_columns(columns, ("SCI", "REF", "DIFF")[-planes:])


def every_row(cube):
    return np.arange(len(cube))


def weights_of(result):
    return b"".join(each.tobytes() for each in result.model.get_weights())


def counts_alive(path):
    return sorted(each.name for each in path.rglob("*") if each.name.startswith(".") or "part" in each.name)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A training that nothing interrupted, and its cube."""
    cube = make_cube()
    return cube, fit(cube, every_row(cube), QUICK, tmp_path_factory.mktemp("straight"))


def test_the_same_seed_gives_the_same_network_to_the_bit(straight, tmp_path):
    cube, first = straight
    second = fit(cube, every_row(cube), QUICK, tmp_path)
    assert weights_of(first) == weights_of(second)
    assert first.history == second.history
    # A training that is over is not done again, only read.
    steps = []
    third = fit(cube, every_row(cube), QUICK, tmp_path, lambda *args: steps.append(args))
    assert steps == []
    assert weights_of(third) == weights_of(first)
    assert np.array_equal(third.holdout_logits, first.holdout_logits)


def test_another_setting_gives_another_network_and_starts_anew(straight, tmp_path, caplog):
    cube, first = straight
    fit(cube, every_row(cube), replace(QUICK, epochs=1), tmp_path)
    with caplog.at_level(logging.WARNING):
        other = fit(cube, every_row(cube), replace(QUICK, dropout=0.2, epochs=1), tmp_path)
    assert "starts anew" in caplog.text
    assert other.history[0] != first.history[0]


def test_it_learns(tmp_path):
    cube = make_cube(n=160)
    result = fit(cube, every_row(cube), replace(QUICK, epochs=4, min_steps=25), tmp_path)
    assert result.history[result.best_epoch - 1]["holdout_auc"] > 0.95


def kept(history):
    """The last epoch, from 1, that none before it beats by more than the error of its AUC."""
    bars = np.maximum.accumulate([row["holdout_auc"] - row["holdout_auc_error"] for row in history])
    return int(np.flatnonzero([row["holdout_auc"] for row in history] >= bars)[-1]) + 1


def test_a_holdout_that_leaves_hardly_a_row_to_learn_from_is_refused(tmp_path):
    cube = make_cube(n=160)
    with pytest.raises(DatacubeError, match=r"to learn from beside a holdout of 0\.99, and it takes 5 of each"):
        fit(cube, every_row(cube), replace(QUICK, holdout=0.99), tmp_path)


MEANINGLESS = replace(QUICK, epochs=8, min_steps=15, learning_rate=0.01, holdout=0.5)


def cube_of_meaningless_labels():
    """What is learnt of them can only hurt on the holdout rows."""
    return replace(make_cube(n=240), labels=np.random.default_rng(8).integers(0, 2, 240))


def test_the_epoch_that_is_kept_is_not_always_the_last(tmp_path):
    cube = cube_of_meaningless_labels()
    result = fit(cube, every_row(cube), MEANINGLESS, tmp_path)
    aucs = [row["holdout_auc"] for row in result.history]
    assert result.best_epoch == kept(result.history) < len(aucs)
    margins = np.diff(result.holdout_logits.astype(float), axis=1)[:, 0]
    assert roc_auc_score(cube.labels[result.holdout], margins) == pytest.approx(aucs[result.best_epoch - 1])


def test_of_epochs_as_good_the_last_is_kept(straight):
    _, result = straight
    assert result.best_epoch == kept(result.history)


def test_patience_ends_training_early(tmp_path):
    cube = cube_of_meaningless_labels()
    result = fit(cube, every_row(cube), MEANINGLESS, tmp_path)
    stopped = fit(cube, every_row(cube), replace(MEANINGLESS, patience=1), tmp_path)
    assert len(stopped.history) == stopped.best_epoch + 1 < len(result.history)
    assert stopped.history == result.history[: len(stopped.history)]


def test_what_is_not_learnt_from_does_not_change_the_network(straight, tmp_path):
    cube, _ = straight
    rows, outside = np.arange(0, 120, 2), np.arange(1, 120, 2)
    short = replace(QUICK, epochs=1)
    first = fit(cube, rows, short, tmp_path / "first")
    pixels = cube.cube.copy()
    pixels[outside] = 1e6
    pixels[first.holdout] += 3
    second = fit(replace(cube, cube=pixels), rows, short, tmp_path / "second")
    assert weights_of(first) == weights_of(second)
    assert not np.isin(outside, np.concatenate([first.learnt, first.holdout])).any()
    assert np.array_equal(np.sort(np.concatenate([first.learnt, first.holdout])), rows)


def test_no_group_is_on_both_sides(tmp_path):
    cube = make_cube(n=160, group_size=4)
    result = fit(cube, every_row(cube), replace(QUICK, epochs=1), tmp_path)
    assert not set(cube.groups[result.learnt]) & set(cube.groups[result.holdout])
    assert set(cube.labels[result.holdout]) == {0, 1}


def test_bad_pixels_never_make_the_loss_nan(tmp_path):
    cube = make_cube(planes=2)
    pixels = cube.cube.copy()
    pixels[::3, 2, 3, 0] = np.nan
    pixels[1::7, :, :5] = np.nan
    pixels[4, ..., 1] = np.nan
    pixels[5] = np.nan
    pixels[6, 0, 0, 0] = np.inf
    pixels[7, 1, 1, 1] = 3.4e38
    pixels[8] = 0
    for method in ("l2", "robust"):
        result = fit(
            replace(cube, cube=pixels), every_row(cube), replace(QUICK, epochs=1, normalisation=method), tmp_path
        )
        assert np.isfinite(list(result.history[0].values())).all()
        assert all(np.isfinite(each).all() for each in result.model.get_weights())


def test_a_loss_that_is_no_number_ends_the_training(tmp_path):
    cube = make_cube()
    pixels = cube.cube.copy()
    pixels[:, 8, 8] = 3e38
    settings = replace(QUICK, network="otrain", normalisation="none")
    with pytest.raises(UsageError, match=r"no longer a number in epoch 1.*learning rate.*'none'"):
        fit(replace(cube, cube=pixels), every_row(cube), settings, tmp_path)
    assert not checkpoint_path(tmp_path, 5).exists()


def test_too_little_to_train_on_is_said(tmp_path):
    cube = make_cube()
    with pytest.raises(DatacubeError, match="0 bogus"):
        fit(cube, np.arange(60), QUICK, tmp_path)
    with pytest.raises(DatacubeError, match="9 real"):
        fit(cube, np.arange(51, 120), QUICK, tmp_path)


def test_a_damaged_state_is_not_taken_over(straight, tmp_path, caplog):
    cube, first = straight
    path = checkpoint_path(tmp_path, 5)
    path.parent.mkdir()
    path.write_bytes(b"PK\3\4 not a state")
    with caplog.at_level(logging.WARNING):
        again = fit(cube, every_row(cube), QUICK, tmp_path)
    assert "cannot be read" in caplog.text
    assert weights_of(again) == weights_of(first)


CHILD = """
import sys, time
from pathlib import Path
from otrain_train.settings import TrainSettings
from otrain_train.train import train

def progress(step, steps, text):
    if step == int(sys.argv[3]):
        print("there", flush=True)
        time.sleep(120)

train(Path(sys.argv[1]), Path(sys.argv[2]), "N", TrainSettings(**eval(sys.argv[4])), None, progress)
print("done", flush=True)
"""


def start_child(cube, folder, step, settings):
    command = [sys.executable, "-W", "ignore", "-c", CHILD, str(cube), str(folder), str(step), repr(settings.to_dict())]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    first = child.stdout.readline()
    assert first == "there\n", child.communicate()[1]
    return child


def scores_of(folder, cube):
    return Scorer(folder / "CNN_training" / "N.onnx").score_pixels(np.array(cube.cube))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A whole training: the cube, its path, the folder of models, the summary."""
    folder = tmp_path_factory.mktemp("done")
    cube = make_cube(n=240, planes=2, group_size=3)
    cube.save(folder / "cube.npz")
    kept = folder / "M" / "CNN_training" / "N" / "mine.txt"
    kept.parent.mkdir(parents=True)
    kept.write_text("kept")
    summary = train(folder / "cube.npz", folder / "M", "N", WHOLE)
    return cube, folder / "cube.npz", folder / "M", summary


def test_killed_training_goes_on_and_ends_alike(done, tmp_path):
    cube, path, folder, _ = done
    child = start_child(path, tmp_path, 2 * WHOLE.min_steps + 2, WHOLE)
    child.kill()
    child.communicate()
    here = tmp_path / "CNN_training"
    assert not list(here.glob("*.onnx")) + list(here.glob("*.keras"))
    assert counts_alive(tmp_path) == []
    seen = []
    train(path, tmp_path, "N", WHOLE, None, lambda step, _steps, _text: seen.append(step))
    assert seen[0] == 2 * WHOLE.min_steps + 1
    assert np.array_equal(scores_of(tmp_path, cube), scores_of(folder, cube))
    assert (here / "N/history.csv").read_bytes() == (folder / "CNN_training/N/history.csv").read_bytes()


def test_ctrl_c_leaves_the_best_model_so_far(done, tmp_path):
    cube, path, folder, _ = done
    child = start_child(path, tmp_path, 30, WHOLE)
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=120)
    assert (child.returncode, out) == (0, "done\n"), err
    run = json.loads((tmp_path / "CNN_training/N/run.json").read_text())
    assert run["interrupted"]
    assert 1 <= run["epochs"] < WHOLE.epochs
    assert np.isfinite(scores_of(tmp_path, cube)).all()
    assert checkpoint_path(tmp_path / "CNN_training/N", 5).exists()
    # The same command then goes on, and ends as if nothing had happened.
    train(path, tmp_path, "N", WHOLE)
    assert np.array_equal(scores_of(tmp_path, cube), scores_of(folder, cube))
    assert not checkpoint_path(tmp_path / "CNN_training/N", 5).parent.exists()


def test_ctrl_c_before_the_first_epoch_is_over_leaves_no_model(tmp_path):
    def press(_step, _steps, _text):
        raise KeyboardInterrupt

    make_cube().save(tmp_path / "cube.npz")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cube.npz", tmp_path, "N", WHOLE, None, press)
    assert not list(tmp_path.rglob("*.onnx"))


def test_everything_is_written_and_nothing_else_touched(done):
    _, path, folder, summary = done
    assert sorted(str(each.relative_to(folder)) for each in folder.rglob("*") if each.is_file()) == [
        "CNN_training/N.keras",
        "CNN_training/N.onnx",
        "CNN_training/N/N_accuracy_vs_epochs.png",
        "CNN_training/N/N_loss_vs_epochs.png",
        "CNN_training/N/N_scores.png",
        "CNN_training/N/history.csv",
        "CNN_training/N/metrics.json",
        "CNN_training/N/mine.txt",
        "CNN_training/N/report.html",
        "CNN_training/N/run.json",
        "CNN_training/N/summary.txt",
        "CNN_training/N/validation_set/cube_validation.npz",
    ]
    assert (folder / "CNN_training/N/mine.txt").read_text() == "kept"
    run = json.loads((folder / "CNN_training/N/run.json").read_text())
    assert run["cube"]["sha256"] == sha256(path)
    assert run["settings"] == replace(WHOLE, learning_rate=LEARNING_RATES[WHOLE.network]).to_dict()
    assert {"otrain", "python", "keras", "tensorflow", "onnx", "onnxruntime"} <= set(run["versions"])
    with (folder / "CNN_training/N/history.csv").open() as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2", "3"]
    for word in ("precision", "recall", "F1", "MCC", "average precision", "AUC", "called real", "recall-99%"):
        assert word in str(summary)


def test_the_figures_are_those_of_the_exported_model_on_the_validation_rows(done):
    _, _, folder, summary = done
    home = folder / "CNN_training"
    scorer = Scorer(home / "N.onnx")
    validation = Datacube.load(home / "N/validation_set/cube_validation.npz")
    found = figures(validation.labels, scorer.score_pixels(np.array(validation.cube)), WHOLE.threshold)
    assert found.to_dict() == summary.figures.to_dict()
    assert found.auc > 0.9
    assert json.loads((home / "N/metrics.json").read_text())["figures"] == found.to_dict()
    card = scorer.card
    assert {name: card.metrics[name] for name in found.to_dict()} == found.to_dict()
    assert card.operating_points == summary.points != ()
    assert card.planes == validation.planes
    assert card.normalisation.method == WHOLE.normalisation
    assert card.calibration["prior"] == 0.5
    assert card.training["settings"]["seeds"] == [WHOLE.seed]
    assert card.golden is not None


def test_the_three_parts_share_no_group_and_lose_no_row(done):
    cube, _, folder, _ = done
    run = json.loads((folder / "CNN_training/N/run.json").read_text())
    counts = run["counts"]
    validation = Datacube.load(folder / "CNN_training/N/validation_set/cube_validation.npz")
    outside = ~np.isin(cube.candids, validation.candids)
    assert not set(cube.groups[outside]) & set(validation.groups)
    assert sum(part["real"] + part["bogus"] for part in counts.values()) == len(cube)
    assert sum(part["groups"] for part in counts.values()) == np.unique(cube.groups).size
    assert run["groups_apart"]
    for part in counts.values():
        assert part["real"] > 0
        assert part["bogus"] > 0
    assert 0.1 < len(validation) / len(cube) < 0.2


def test_the_keras_file_gives_the_same_scores(done):
    import keras

    from otrain_infer.normalise import Normalisation

    cube, _, folder, _ = done
    network = keras.models.load_model(folder / "CNN_training/N.keras")
    scores = np.asarray(network(Normalisation("l2").apply(np.array(cube.cube)), training=False))[:, 1]
    assert scores == pytest.approx(scores_of(folder, cube), abs=1e-5)
    assert getattr(network, "optimizer", None) is None


def test_operating_points_come_from_the_holdout_rows_where_there_are_enough(tmp_path):
    cube = make_cube(n=500)
    cube.save(tmp_path / "cube.npz")
    summary = train(tmp_path / "cube.npz", tmp_path, "N", replace(QUICK, epochs=1, holdout=0.48, frac=0.1))
    assert summary.points_from == "holdout"
    assert summary.calibration.note == ""
    assert summary.calibration.rows == pytest.approx(216, abs=4)
    assert Scorer(summary.model).card.metrics["operating_points_from"] == "holdout"


def test_one_class_is_refused_before_anything_is_written(tmp_path):
    cube = make_cube()
    cube.select(cube.labels == 1).save(tmp_path / "cube.npz")
    with pytest.raises(DatacubeError, match=r"0 bogus cutout.*cube\.npz"):
        train(tmp_path / "cube.npz", tmp_path / "M", "N", QUICK)
    assert not (tmp_path / "M").exists()


def test_a_place_that_cannot_be_written_is_found_out_at_once(tmp_path):
    make_cube().save(tmp_path / "cube.npz")
    (tmp_path / "file").write_text("in the way")
    steps = []
    with pytest.raises(OutputError, match="nothing can be written in"):
        train(tmp_path / "cube.npz", tmp_path / "file", "N", QUICK, None, lambda *args: steps.append(args))
    assert steps == []


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden"])
def test_names_that_are_no_file_names_are_refused(name, tmp_path):
    with pytest.raises(UsageError, match="model name"):
        train(tmp_path / "cube.npz", tmp_path, name, QUICK)


def test_blank_rows_are_left_out_and_counted(caplog):
    cube = make_cube(planes=2)
    pixels = cube.cube.copy()
    pixels[3] = np.nan
    pixels[7, ..., 1] = 4.0
    with caplog.at_level(logging.WARNING):
        rows = usable_rows(replace(cube, cube=pixels))
    assert np.array_equal(np.delete(np.arange(len(cube)), [3, 7]), rows)
    assert "2 of 120" in caplog.text


def test_a_read_only_cube_is_enough(tmp_path):
    make_cube().save(tmp_path / "cube.npz")
    cube = Datacube.load(tmp_path / "cube.npz")
    assert not cube.cube.flags.writeable
    assert usable_rows(cube).size == len(cube)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("frac", 0),
        ("frac", 1),
        ("frac", -0.2),
        ("frac", 1.5),
        ("frac", float("nan")),
        ("holdout", 0),
        ("dropout", 1),
        ("dropout", -0.1),
        ("threshold", 1.1),
        ("epochs", 0),
        ("batch_size", 0),
        ("learning_rate", 0),
        ("learning_rate", float("inf")),
        ("weight_decay", -1),
        ("patience", -1),
        ("seeds", (-1,)),
        ("min_steps", 0),
        ("warmup", 1),
        ("augmentation", ("shear",)),
        ("class_weights", "some"),
    ],
)
def test_impossible_settings_are_refused(name, value):
    with pytest.raises(UsageError, match=option_name(name)):
        TrainSettings(**{name: value})


def test_unknown_normalisation_and_network_are_refused_before_training(tmp_path):
    make_cube().save(tmp_path / "cube.npz")
    with pytest.raises(UsageError, match="normalisation"):
        train(tmp_path / "cube.npz", tmp_path, "N", replace(QUICK, normalisation="zscore"))
    with pytest.raises(UsageError, match="network"):
        train(tmp_path / "cube.npz", tmp_path, "N", replace(QUICK, network="resnet"))


def test_defaults_are_those_of_the_settings():
    promised = {"epochs": 10, "frac": 0.15, "dropout": 0.3, "threshold": 0.5}
    assert {name: options()[name]["default"] for name in promised} == promised


def test_learning_rate_rises_and_falls():
    rates = [learning_rate(step, 100, 0.1, 0.2) for step in range(100)]
    assert np.argmax(rates) == pytest.approx(20, abs=1)
    assert max(rates) == pytest.approx(0.1, rel=0.06)
    assert rates[0] < 0.01
    assert rates[-1] < 1e-3
    assert min(rates) > 0
    assert learning_rate(0, 100, 0.1, 0.0) == pytest.approx(0.1)


def test_batch_size_suits_the_rows():
    sizes = [suitable_batch(rows) for rows in (1, 100, 500, 1000, 4000, 1_000_000)]
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (32, 64)


def test_class_weights_give_both_classes_the_same_say():
    labels = np.repeat([0, 1], [30, 90])
    bogus, real = class_weights(labels, TrainSettings())
    assert 30 * bogus == pytest.approx(90 * real)
    assert (30 * bogus + 90 * real) / 120 == pytest.approx(1)
    assert class_weights(labels, TrainSettings(class_weights="none")) == (1.0, 1.0)


def test_the_state_is_written_whole_and_read_back(tmp_path):
    path = tmp_path / "deep" / "state.npz"
    state = checkpoint.State(2, [np.arange(3, dtype=np.uint32), np.float32(1.5)], [np.ones((2, 2))], 1, [{"loss": 0.1}])
    checkpoint.write(path, "key", state)
    back = checkpoint.read(path, "key")
    assert back is not None
    assert (back.epoch, back.best_epoch, back.history) == (2, 1, [{"loss": 0.1}])
    assert back.variables[0].dtype == np.uint32
    assert checkpoint.read(path, "other") is None
    assert [each.name for each in path.parent.iterdir()] == ["state.npz"]
    Path(path.parent / "mine").write_text("kept")
    checkpoint.remove(path)
    assert [each.name for each in path.parent.iterdir()] == ["mine"]


def test_planes_without_names_are_asked_for(tmp_path):
    cube = make_cube(planes=2)
    np.savez(tmp_path / "old.npz", cube=cube.cube, labels=cube.labels)
    with pytest.raises(UsageError, match="name them with --planes"):
        train(tmp_path / "old.npz", tmp_path, "m", QUICK)
    summary = train(tmp_path / "old.npz", tmp_path, "m", QUICK, RunSettings(("SCI", "DIFF"), "For tests."))
    card = Scorer(summary.model).card
    assert card.planes == ("SCI", "DIFF")
    assert card.description.startswith("For tests. Trained on")


def test_more_label_folds_than_the_rows_allow_are_refused_before_training(tmp_path):
    make_cube(n=60).save(tmp_path / "c.npz")
    with pytest.raises(UsageError, match="--label-folds 40 leaves fewer than 5 cutouts of a class in a part: take 6"):
        train(tmp_path / "c.npz", tmp_path, "N", QUICK, RunSettings(label_folds=40))
    assert not (tmp_path / "CNN_training").exists()


def test_a_report_that_fails_costs_no_model(tmp_path):
    make_cube().save(tmp_path / "c.npz")
    (tmp_path / "CNN_training/N/report.html").mkdir(parents=True)
    with pytest.raises(OutputError, match=r"report\.html"):
        train(tmp_path / "c.npz", tmp_path, "N", replace(QUICK, epochs=1))
    model = Scorer(tmp_path / "CNN_training/N.onnx")
    assert np.isfinite(model.score_pixels(make_cube().cube[:3])).all()
    assert (tmp_path / "CNN_training/N.keras").exists()


def test_rows_count_as_their_weights_say(tmp_path):
    cube = make_cube()
    rng = np.random.default_rng(1)
    wrong = rng.permutation(len(cube))[:80]  # most of them, so that whom to trust decides
    labels = cube.labels.copy()
    labels[wrong] = 1 - labels[wrong]
    trusted = np.where(np.isin(np.arange(len(cube)), wrong), 1e-6, 1.0)
    aucs = {}
    for name, weights in (("as they are", np.ones(len(cube))), ("weighed", trusted)):
        folder = tmp_path / name
        result = fit(replace(cube, labels=labels, weights=weights), every_row(cube), replace(WHOLE, epochs=4), folder)
        pixels = Normalisation(WHOLE.normalisation).apply(np.array(cube.cube))
        aucs[name] = figures(cube.labels, np.asarray(result.model(pixels))[:, -1]).auc
    assert aucs["weighed"] > 0.9
    assert aucs["as they are"] < 0.3
    labels, weights = np.repeat([0, 1], [30, 90]), np.repeat([1.0, 0.5], [30, 90])
    bogus, real = class_weights(labels, TrainSettings(), weights)
    assert 30 * bogus == pytest.approx(45 * real)
