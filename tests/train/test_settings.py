"""What a training can be told."""

import json
import math
from argparse import ArgumentParser
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from otrain_infer.errors import UsageError
from otrain_train.cli import add_settings, settings_of
from otrain_train.settings import SEEDS, RunSettings, TrainSettings, option_name, options


def parse(*argv):
    parser = ArgumentParser(exit_on_error=False)
    add_settings(parser)
    return settings_of(parser.parse_args(argv))


def test_the_defaults_of_the_command_line_are_those_of_the_library():
    assert parse() == TrainSettings()


def test_every_setting_is_an_option_with_a_word_of_help():
    known = options()
    assert set(known) == {each.name for each in fields(TrainSettings)}
    assert all(option["help"] for option in known.values())
    assert (option_name("seeds"), option_name("batch_size")) == ("seed", "batch-size")


@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        (["--seed", "3"], "seeds", (3,)),
        (["--seed", "3", "4"], "seeds", (3, 4)),
        (["--augmentation", "edges", "shifts"], "augmentation", ("edges", "shifts")),
        (["--batch-size", "7"], "batch_size", 7),
        (["--learning-rate", "1e-4"], "learning_rate", 1e-4),
        (["--width", "2"], "width", 2.0),
        (["--xla"], "xla", True),
        (["--no-xla"], "xla", False),
        (["--class-weights", "none"], "class_weights", "none"),
    ],
)
def test_options_become_settings(argv, name, value):
    assert getattr(parse(*argv), name) == value


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("frac", (0, 1, -0.1, math.nan)),
        ("holdout", (0, 1, math.nan)),
        ("threshold", (-0.1, 1.1, math.nan)),
        ("dropout", (-0.1, 1, math.nan)),
        ("warmup", (-0.1, 1)),
        ("label_smoothing", (-0.1, 1)),
        ("learning_rate", (0, -1, math.inf, math.nan)),
        ("width", (0, -1, math.inf, math.nan)),
        ("weight_decay", (-1, math.inf, math.nan)),
        ("epochs", (0, -1, 2.5, None, 10**20)),
        ("min_steps", (0,)),
        ("patience", (-1,)),
        ("frozen_epochs", (-1,)),
        ("batch_size", (0, 1.5)),
        ("seeds", ((), (-1,), (SEEDS,), (1, 1), (0.5,), ("a",))),
        ("augmentation", ((), ("none", "edges"), ("edges", "edges"), ("flips",))),
        ("network", ("braai", "")),
        ("class_weights", ("half",)),
        ("group_key", ("night",)),
        ("precision", ("fp64",)),
        ("devices", ("cpu",)),
    ],
)
def test_impossible_values_are_refused_by_the_name_of_the_option(name, values):
    for value in values:
        with pytest.raises(UsageError) as refused:
            TrainSettings(**{name: value})
        assert str(refused.value).startswith(f"{option_name(name)} is ")
        assert "\n" not in str(refused.value)


def test_the_bounds_themselves_are_taken():
    TrainSettings(threshold=0, dropout=0, warmup=0, label_smoothing=0, weight_decay=0, patience=0, batch_size=1)
    TrainSettings(threshold=1, epochs=1, min_steps=1, seeds=(SEEDS - 1, 0), augmentation=("none",))


def test_lists_and_numbers_of_numpy_become_plain():
    settings = TrainSettings(seeds=np.arange(3), epochs=np.int64(4), augmentation=["edges"], batch_size=np.int32(8))
    assert (settings.seeds, settings.seed, settings.epochs, settings.augmentation) == ((0, 1, 2), 0, 4, ("edges",))
    assert json.loads(json.dumps(settings.to_dict()))["batch_size"] == 8
    assert hash(settings) == hash(TrainSettings(seeds=(0, 1, 2), epochs=4, augmentation=("edges",), batch_size=8))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"gate": "t-test"}, "gate is one of mcnemar, none, not t-test"),
        ({"tracker": "neptune"}, "tracker is one of none, tensorboard, mlflow, wandb, not neptune"),
        ({"tune": -1}, "tune is the number of trials"),
        ({"tune": 3, "pretrained": Path("m.onnx")}, "give one or the other"),
        ({"label_folds": 1}, "label-folds is 0, or 2 or more, not 1"),
    ],
)
def test_impossible_company_of_a_training_is_refused(given, words):
    with pytest.raises(UsageError, match=words):
        RunSettings(**given)
