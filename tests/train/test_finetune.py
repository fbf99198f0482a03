"""Trainings that begin from another model: what is taken over, what is refused, and the gate."""

import json
import logging
import shutil
from dataclasses import replace
from itertools import permutations

import keras
import numpy as np
import pytest
from keras import layers
from scipy.stats import spearmanr

from otrain_infer.errors import DatacubeError, GateError, ModelError, UsageError
from otrain_infer.normalise import Normalisation, Padding
from otrain_infer.npz import MappedFile
from otrain_infer.scorer import Scorer
from otrain_train.cli import train as train_command
from otrain_train.datacube import Datacube
from otrain_train.ensemble import members_of
from otrain_train.export import export_file, load_network
from otrain_train.fit import checkpoint_path
from otrain_train.mock import MockSettings, mock_arrays
from otrain_train.planes import open_in_planes, pick_planes
from otrain_train.pretrained import open_pretrained
from otrain_train.settings import RunSettings, TrainSettings
from otrain_train.train import train

PLANES = ("SCI", "REF", "DIFF")
SHORT = TrainSettings(epochs=1, min_steps=3, batch_size=16, seeds=(1,), frac=0.4, normalisation="robust")
STILL = replace(SHORT, learning_rate=1e-7)
LONG = replace(SHORT, epochs=4, min_steps=25)


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A datacube, and in CNN_training a model OLD that has hardly learnt anything, with its ensemble TWO."""
    folder = tmp_path_factory.mktemp("work")
    mock_arrays(MockSettings(150, 150, size=24, planes=PLANES, seed=5, faintest=30)).save(folder / "c.npz")
    train(folder / "c.npz", folder, "OLD", SHORT, RunSettings(planes=("DIFF", "SCI")))
    train(folder / "c.npz", folder, "TWO", replace(SHORT, seeds=(1, 2)), RunSettings(planes=("DIFF", "SCI")))
    return folder


def start(work, name="OLD.onnx"):
    return work / "CNN_training" / name


def contents(work):
    return {path.name: path.read_bytes() for path in (work / "CNN_training").iterdir() if path.is_file()}


def copy_of(work, tmp_path, *names):
    here = tmp_path / "CNN_training"
    here.mkdir(parents=True, exist_ok=True)
    for name in names:
        shutil.copy(start(work, name), here / name)
    return here


def alike(new, old):
    """Whether two models put cutouts in the same order, up to what a new temperature and moving averages change."""
    return spearmanr(new, old).statistic > 0.99


def test_what_beats_the_old_one_takes_its_name(work, tmp_path, caplog):
    here = copy_of(work, tmp_path, "OLD.onnx", "OLD.keras")
    old = Scorer(here / "OLD.onnx")
    with caplog.at_level(logging.INFO):
        summary = train(
            work / "c.npz",
            tmp_path,
            "OLD",
            replace(LONG, normalisation="l2"),
            RunSettings(pretrained=here / "OLD.onnx"),
        )
    card = Scorer(here / "OLD.onnx").card
    assert summary.verdict.passed
    assert "gate: passed; " in str(summary)
    assert card.training["pretrained"] == {"name": "OLD", "version": old.card.version, "sha256": old.sha256}
    assert card.version != old.card.version
    assert (card.planes, card.normalisation.method) == (("DIFF", "SCI"), "robust")
    assert card.training["settings"]["normalisation"] == "robust"
    assert f"began from OLD, version {old.card.version}" in card.description
    assert "the normalisation is its own, robust" in caplog.text
    # The same datacube split in the same way: the old model has not seen the validation rows.
    assert "may have learnt" not in caplog.text
    for file in ("metrics.json", "run.json"):
        assert json.loads((here / "OLD" / file).read_text())["gate"] == summary.verdict.to_dict()
    assert card.metrics["gate"] == summary.verdict.to_dict()
    validation = Datacube.load(here / "OLD/validation_set/cube_validation.npz")
    right = [
        (scorer.score_pixels(validation.cube) >= 0.5) == validation.labels for scorer in (Scorer(summary.model), old)
    ]
    assert summary.verdict.only_new == np.sum(right[0] & ~right[1])
    assert summary.verdict.only_old == np.sum(right[1] & ~right[0])
    assert not list(tmp_path.rglob("*.refused.*"))


def test_what_does_not_is_kept_aside_and_nothing_is_replaced(work, tmp_path, capsys):
    here = copy_of(work, tmp_path, "OLD.onnx", "OLD.keras")
    before = {name: (here / name).read_bytes() for name in ("OLD.onnx", "OLD.keras")}
    settings = [
        f"--{name}={value}"
        for name, value in (
            ("epochs", 1),
            ("min-steps", 3),
            ("batch-size", 16),
            ("seed", 1),
            ("frac", 0.4),
            ("learning-rate", 1e-7),
        )
    ]
    options = ["--cube", str(work / "c.npz"), "--model-path", str(tmp_path), "--model-name", "OLD", *settings]
    assert train_command([*options, "--pretrained", str(here / "OLD.keras")]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = (line for line in said.err.splitlines() if "does not beat" in line)
    for part in ("'OLD'", "0 validation rows only the new", "p = 1 ", str(here / "OLD.refused.onnx"), "--gate none"):
        assert part in line
    assert {name: (here / name).read_bytes() for name in before} == before
    refused = Scorer(here / "OLD.refused.onnx")
    assert open_pretrained(here / "OLD.refused.keras").scorer.sha256 == refused.sha256
    assert not json.loads((here / "OLD.refused/metrics.json").read_text())["gate"]["passed"]
    assert "not passed" in (here / "OLD.refused/summary.txt").read_text()
    assert "OLD.refused" in (here / "OLD.refused/report.html").read_text()
    # It began from the old one and has hardly moved.
    pixels = Datacube.load(work / "c.npz").cube[..., [2, 0]]
    assert alike(refused.score_pixels(pixels), Scorer(here / "OLD.onnx").score_pixels(pixels))
    # Taken all the same it need not be trained again.
    steps = []
    arguments = (work / "c.npz", tmp_path, "OLD", STILL, RunSettings(pretrained=here / "OLD.onnx", gate="none"))
    summary = train(*arguments, lambda *all_: steps.append(all_))
    assert (steps, summary.verdict.passed) == ([], False)
    assert Scorer(here / "OLD.onnx").score_pixels(pixels).tobytes() == refused.score_pixels(pixels).tobytes()
    assert not checkpoint_path(here / "OLD", 1).exists()
    with pytest.raises(UsageError, match="rename it"):
        train(work / "c.npz", tmp_path, "OLD", SHORT, RunSettings(pretrained=here / "OLD.refused.onnx"))


def test_members_begin_from_members(work, tmp_path):
    around = RunSettings(pretrained=start(work, "TWO.keras"))
    with pytest.raises(GateError):
        train(work / "c.npz", tmp_path, "N", replace(STILL, seeds=(1, 2)), around)
    new, old = (
        [member.get_layer("conv_2").get_weights()[0] for member in members_of(load_network(path))]
        for path in (tmp_path / "CNN_training/N.refused.keras", start(work, "TWO.keras"))
    )
    for i in range(2):
        np.testing.assert_allclose(new[i], old[i], atol=1e-5)
        assert np.abs(new[i] - old[1 - i]).max() > 0.1
    with pytest.raises(UsageError, match=r"'TWO' is an ensemble of 2 networks, and --seed names 3"):
        train(work / "c.npz", tmp_path, "N", replace(SHORT, seeds=(1, 2, 3)), around)


def test_a_foreign_network_may_be_the_start(work, tmp_path, caplog):
    keras.utils.set_random_seed(0)
    theirs = keras.Sequential(
        [keras.Input((24, 24, 1)), layers.Conv2D(4, 3, activation="relu"), layers.Flatten(), layers.Dense(1, "sigmoid")]
    )
    theirs.save(tmp_path / "theirs.keras")
    recipe = Normalisation("l2", Padding("corner", 1e-9, "after"))
    export_file(tmp_path / "theirs.keras", tmp_path / "theirs.onnx", planes=("REF",), normalisation=recipe)
    summary = train(work / "c.npz", tmp_path, "N", SHORT, RunSettings(pretrained=tmp_path / "theirs.onnx", gate="none"))
    card = Scorer(summary.model).card
    assert (card.planes, card.normalisation) == (("REF",), Normalisation("l2"))
    assert card.training["pretrained"]["name"] == "theirs"
    assert "another padding" in caplog.text
    assert "trained on an unknown datacube" in caplog.text


@pytest.mark.parametrize(
    ("names", "asked", "said"),
    [
        (("OLD.onnx",), "OLD.onnx", "there is no '.*OLD.keras' beside 'OLD.onnx'"),
        (("OLD.keras",), "OLD.keras", "there is no '.*OLD.onnx' beside 'OLD.keras'"),
        ((), "OLD.keras", "there is no"),
        (("OLD.onnx", "OLD.keras"), "OLD", "no model to begin or to learn from"),
    ],
)
def test_one_of_two_files_is_not_enough(work, tmp_path, names, asked, said):
    here = copy_of(work, tmp_path, *names)
    with pytest.raises((ModelError, UsageError), match=said) as caught:
        open_pretrained(here / asked)
    assert "\n" not in str(caught.value)


def test_two_files_of_different_networks_are_told_apart(work, tmp_path):
    here = copy_of(work, tmp_path, "OLD.onnx", "TWO.keras")
    (here / "TWO.keras").rename(here / "OLD.keras")
    with pytest.raises(ModelError, match="not of the same network"):
        open_pretrained(here / "OLD.keras")


@pytest.mark.parametrize(
    ("cube", "planes", "said"),
    [
        (MockSettings(30, 30, size=24, planes=("SCI", "REF")), None, "holds the planes SCI, REF and not DIFF"),
        (MockSettings(30, 30, size=32), None, "32x32 pixels and 'OLD' takes 24x24: .* --cutout-size 24"),
        (
            MockSettings(30, 30, size=24),
            ("REF", "SCI"),
            "holds the planes REF, SCI and not DIFF",
        ),
    ],
)
def test_a_datacube_that_does_not_fit_is_refused_before_training(work, tmp_path, cube, planes, said):
    mock_arrays(cube).save(tmp_path / "c.npz")
    with pytest.raises(DatacubeError, match=said):
        train(tmp_path / "c.npz", tmp_path / "M", "N", SHORT, RunSettings(planes, pretrained=start(work)))
    assert not (tmp_path / "M").exists()


def test_what_the_old_one_may_know_is_said(work):
    pretrained = open_pretrained(start(work))
    own = pretrained.card.training
    run = {"cube": own["cube"], "settings": SHORT.to_dict()}
    assert pretrained.may_know(run) == ""
    assert "split in another way" in pretrained.may_know(run | {"settings": replace(SHORT, frac=0.3).to_dict()})
    assert "split in another way" in pretrained.may_know(run | {"settings": replace(SHORT, seeds=(2, 1)).to_dict()})
    assert pretrained.may_know(run | {"settings": replace(SHORT, seeds=(1, 2)).to_dict()}) == ""
    other = own["cube"] | {"sha256": "0"}
    assert "trained on c.npz, which may hold some" in pretrained.may_know(run | {"cube": other})


ORDERS = [order for count in (1, 2, 3) for order in permutations(PLANES, count)]


@pytest.mark.parametrize("order", ORDERS, ids=",".join)
def test_planes_are_picked_in_any_order_without_taking_memory(order):
    cube = mock_arrays(MockSettings(6, 6, size=16))
    picked = pick_planes(cube, order)
    assert picked.planes == order
    assert np.array_equal(picked.cube, cube.cube[..., [PLANES.index(plane) for plane in order]], equal_nan=True)
    assert np.shares_memory(picked.cube, cube.cube) or isinstance(picked.cube.base.base.obj, MappedFile)
    assert np.array_equal(picked.read(np.array([3, 1])), picked.cube[[3, 1]], equal_nan=True)


@pytest.mark.parametrize(
    ("planes", "said"),
    [
        (("DIFF", "DIFF"), "of its planes, SCI, REF, DIFF, one or more different ones"),
        ((), "of its planes, SCI, REF, DIFF, one or more different ones"),
        (("NEW",), "holds the planes SCI, REF, DIFF and not NEW"),
        (("SCI", "NEW"), "holds the planes SCI, REF, DIFF and not NEW"),
    ],
)
def test_planes_that_are_not_there_are_refused(planes, said):
    with pytest.raises(DatacubeError, match=said):
        pick_planes(mock_arrays(MockSettings(3, 3, size=16)), planes)


def test_the_planes_of_a_file_that_does_not_say_them_are_named(tmp_path):
    cube = mock_arrays(MockSettings(6, 6, size=16))
    np.savez(tmp_path / "old.npz", cube=cube.cube, labels=cube.labels)
    assert open_in_planes(tmp_path / "old.npz", ("REF", "SCI", "DIFF")).planes == ("REF", "SCI", "DIFF")
    with pytest.raises(UsageError, match="name them with --planes"):
        open_in_planes(tmp_path / "old.npz")
    with pytest.raises(DatacubeError, match=r"old\.npz"):
        open_in_planes(tmp_path / "old.npz", ("SCI",))
    np.savez(tmp_path / "one.npz", cube=cube.cube[..., 0], labels=cube.labels)
    assert open_in_planes(tmp_path / "one.npz").planes == ("DIFF",)
    cube.save(tmp_path / "new.npz")
    found = open_in_planes(tmp_path / "new.npz", ("DIFF", "SCI"))
    assert np.array_equal(found.cube, cube.cube[..., [2, 0]], equal_nan=True)
    assert not found.cube.flags.owndata
