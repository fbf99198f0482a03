"""Trainings that learn from the scores of another model: what is learnt, what is recorded, and what is refused."""

import logging
from dataclasses import replace

import keras
import numpy as np
import pytest

from otrain_infer.errors import DatacubeError, ModelError, UsageError
from otrain_infer.scorer import Scorer
from otrain_train.cli import train as train_command
from otrain_train.datacube import Datacube
from otrain_train.devices import start
from otrain_train.ensemble import members_of
from otrain_train.export import load_network
from otrain_train.fit import fit
from otrain_train.mock import MockSettings, mock_arrays
from otrain_train.network import build
from otrain_train.settings import RunSettings, TrainSettings
from otrain_train.train import train
from otrain_train.trainer import Trainer

SHAPE = (24, 24, 1)
SETTINGS = TrainSettings(
    epochs=2, min_steps=20, batch_size=16, frac=0.3, normalisation="robust", augmentation=("none",)
)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A datacube, and in CNN_training an ensemble TEACHER."""
    folder = tmp_path_factory.mktemp("work")
    mock_arrays(MockSettings(150, 150, size=24, planes=("DIFF",), seed=5, faintest=20)).save(folder / "c.npz")
    train(folder / "c.npz", folder, "TEACHER", replace(SETTINGS, seeds=(0, 1)), RunSettings(report=False))
    return folder


def taught(work, tmp_path, settings=SETTINGS, cube=None, **around):
    teacher = work / "CNN_training" / "TEACHER.onnx"
    return train(cube or work / "c.npz", tmp_path, "N", settings, RunSettings(teacher=teacher, report=False, **around))


class Opinion(keras.Model):
    """Gives all cutouts one score."""

    def __init__(self, score):
        super().__init__()
        self.score = score

    def call(self, cutouts, training=False):
        assert not training
        return keras.ops.tile(keras.ops.array([[1 - self.score, self.score]]), (keras.ops.shape(cutouts)[0], 1))


@pytest.mark.parametrize(("weight", "smoothing"), [(0.0, 0.0), (0.25, 0.0), (1.0, 0.0), (0.5, 0.2)])
def test_the_loss_is_that_of_labels_and_scores_of_the_teachers_by_their_weight(weight, smoothing):
    settings = replace(SETTINGS, learning_rate=1e-9, teacher_weight=weight, label_smoothing=smoothing, dropout=0.0)
    network = build("otrain", SHAPE, dropout=0.0)
    pixels = np.random.default_rng(0).normal(size=(16, *SHAPE)).astype(np.float32)
    labels = np.arange(16) % 2
    scores = np.asarray(network(pixels))[np.arange(16), 1]
    trainer = Trainer(network, settings, 0, 10, start("one"), [Opinion(0.6), Opinion(0.8)])
    loss, _ = trainer.learn(0, pixels, labels, np.ones(16))
    truth = weight * 0.7 + (1 - weight) * ((1 - smoothing) * labels + smoothing / 2)
    expected = -np.mean(truth * np.log(scores) + (1 - truth) * np.log(1 - scores))
    assert loss == pytest.approx(expected, rel=1e-4)


def test_a_network_learns_to_score_as_its_teacher_whatever_the_labels_say(work, tmp_path):
    datacube = Datacube.load(work / "c.npz")
    teacher = load_network(work / "CNN_training" / "TEACHER.keras")
    lies = Datacube.from_columns(
        {"cube": datacube.cube, "labels": 1 - datacube.labels, "groups": datacube.groups}, datacube.planes
    )
    settings = replace(SETTINGS, epochs=6, teacher_weight=1.0)
    fitted = fit(lies, np.arange(len(lies)), settings, tmp_path, teachers=members_of(teacher))
    pixels = Scorer(work / "CNN_training" / "TEACHER.onnx").card.normalisation.apply(datacube.read(fitted.learnt))
    learnt, wanted = (np.asarray(each(pixels, training=False))[:, 1] for each in (fitted.model, teacher))
    assert wanted.std() > 0.1
    assert np.corrcoef(learnt, wanted)[0, 1] > 0.8


def test_the_teacher_is_recorded_and_brings_its_normalisation(work, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        summary = taught(work, tmp_path, replace(SETTINGS, normalisation="l2"))
    card, teacher = Scorer(summary.model).card, Scorer(work / "CNN_training" / "TEACHER.onnx")
    name = {"name": "TEACHER", "version": teacher.card.version, "sha256": teacher.sha256}
    assert card.training["teacher"] == name
    assert card.training["members"] == 1
    assert "pretrained" not in card.training
    assert card.normalisation == teacher.card.normalisation
    assert f"learnt from the scores of TEACHER, version {teacher.card.version}" in card.description
    assert "learning from 'TEACHER': the normalisation is its own, robust" in caplog.text
    # The same datacube split in the same way: the teacher has not seen the validation rows.
    assert "may have learnt" not in caplog.text


def test_a_teacher_that_may_know_the_validation_rows_is_told_of(work, tmp_path, caplog):
    taught(work, tmp_path, replace(SETTINGS, frac=0.2))
    assert "'TEACHER' may have learnt from the validation rows" in caplog.text


def test_a_training_that_was_killed_does_not_go_on_with_another_teacher(work, tmp_path):
    datacube, rows = Datacube.load(work / "c.npz"), np.arange(300)
    networks = [build("lite", SHAPE, seed=seed) for seed in (1, 2)]
    short = replace(SETTINGS, epochs=1, min_steps=3)
    told: list[dict[str, float]] = []
    for teachers, epochs in (([networks[0]], 1), ([networks[0]], 1), ([networks[1]], 2), ([], 3)):
        fit(datacube, rows, short, tmp_path, teachers=teachers, on_epoch=told.append)
        assert len(told) == epochs


@pytest.mark.parametrize("other", ["pretrained", "tune"])
def test_what_brings_a_normalisation_as_well_is_refused(work, tmp_path, other):
    with pytest.raises(UsageError, match=f"as --{other} does: give one of them"):
        taught(work, tmp_path, **{other: 3 if other == "tune" else work / "CNN_training" / "TEACHER.onnx"})


@pytest.mark.parametrize("name", ["TEACHER.onnx", "TEACHER.keras", "../CNN_training/TEACHER.onnx"])
def test_a_teacher_is_not_replaced_by_what_learns_from_it(work, name):
    before = (work / "CNN_training" / "TEACHER.onnx").read_bytes()
    with pytest.raises(UsageError, match="would be replaced by the model that learns from it"):
        train(work / "c.npz", work, "TEACHER", SETTINGS, RunSettings(teacher=work / "CNN_training" / name))
    assert (work / "CNN_training" / "TEACHER.onnx").read_bytes() == before


def test_a_teacher_that_is_not_there_is_named(work, tmp_path):
    with pytest.raises(ModelError, match=r"there is no model '.*nosuch\.onnx'"):
        train(work / "c.npz", tmp_path, "N", SETTINGS, RunSettings(teacher=tmp_path / "nosuch.onnx"))


def test_a_datacube_of_another_size_is_refused(work, tmp_path):
    mock_arrays(MockSettings(50, 50, size=32, planes=("DIFF",))).save(tmp_path / "large.npz")
    with pytest.raises(DatacubeError, match="32x32 pixels and 'TEACHER' takes 24x24"):
        taught(work, tmp_path, cube=tmp_path / "large.npz")


def test_the_command_takes_a_teacher(work, tmp_path, capsys):
    options = ["--epochs", "1", "--min-steps", "3", "--batch-size", "16", "--frac", "0.3", "--no-report"]
    names = ["--cube", str(work / "c.npz"), "--model-path", str(tmp_path), "--model-name", "N"]
    teacher = ["--teacher", str(work / "CNN_training" / "TEACHER.keras"), "--teacher-weight"]
    assert train_command([*names, *options, *teacher, "0.5"]) == 0
    assert Scorer(tmp_path / "CNN_training" / "N.onnx").card.training["settings"]["teacher_weight"] == 0.5
    assert train_command([*names, *options, *teacher, "1.5"]) == 2
    assert "teacher-weight is a fraction from 0 to 1, not 1.5" in capsys.readouterr().err
