"""Networks that a training begins with, and how it goes on from them."""

import logging
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("tensorflow")

import keras
from keras import layers

from otrain_infer.errors import ModelError
from otrain_infer.normalise import Normalisation
from otrain_train.finetune import begin
from otrain_train.fit import fit
from otrain_train.mock import MockSettings, mock_arrays
from otrain_train.network import build, fold_scale
from otrain_train.settings import TrainSettings

SHAPE = (24, 20, 2)
SETTINGS = TrainSettings(epochs=1, min_steps=3, batch_size=16, seeds=(5,), frozen_epochs=1)


def cutouts(method="l2", n=6):
    return Normalisation(method).apply(np.random.default_rng(0).normal(1, 1, (n, *SHAPE)).astype(np.float32))


def trained(name, width=1.0, method="l2"):
    """A network whose weights are not those it was made with, as a training leaves it."""
    network = build(name, SHAPE, 0.2, 9, method, width)
    rng = np.random.default_rng(1)
    network.set_weights([each + rng.uniform(0, 0.1, each.shape).astype(np.float32) for each in network.get_weights()])
    return network, fold_scale(network, width)


def scores(network, batch):
    return np.asarray(network(batch, training=False))


@pytest.mark.parametrize(
    ("name", "width", "method"),
    [("lite", 1.0, "l2"), ("lite", 0.75, "l2-rows"), ("otrain", 0.25, "l2"), ("lite", 2, "robust")],
)
def test_our_own_networks_get_their_scale_back(name, width, method):
    before, folded = trained(name, width, method)
    started, settings = begin(folded, SHAPE, replace(SETTINGS, normalisation=method, dropout=0.5), 7)
    assert (settings.network, settings.width) == (name, width)
    np.testing.assert_allclose(scores(started, cutouts(method)), scores(folded, cutouts(method)), rtol=1e-5, atol=1e-7)
    for mine, theirs in zip(started.get_weights(), before.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-6, atol=1e-7)
    rates = {layer.rate for layer in started.layers if isinstance(layer, layers.Dropout)}
    assert rates == {0.5}


def body():
    return [
        keras.Input(SHAPE),
        layers.Conv2D(4, 3, activation="relu"),
        layers.BatchNormalization(),
        layers.Flatten(),
        layers.Dense(8, activation="relu"),
    ]


ENDS = {
    "softmax of two": [layers.Dense(2, activation="softmax")],
    "sigmoid of one": [layers.Dense(1, activation="sigmoid")],
    "without bias": [layers.Dense(1, activation="sigmoid", use_bias=False)],
    "softmax layer": [layers.Dense(2), layers.Softmax()],
    "softmax activation": [layers.Dense(2), layers.Activation("softmax")],
    "sigmoid activation": [layers.Dense(1), layers.Activation("sigmoid")],
    "two logits": [layers.Dense(2)],
    "one logit": [layers.Dense(1)],
}


@pytest.mark.parametrize("end", ENDS)
def test_other_networks_are_taken_over_with_their_scores(end):
    start = keras.Sequential([*body(), *ENDS[end]], name="theirs")
    before = start.get_weights()
    started, settings = begin(start, SHAPE, SETTINGS, 7)
    assert settings == SETTINGS
    assert [layer.name for layer in started.layers[-2:]] == ["logits", "score"]
    found, wanted = scores(started, cutouts())[:, 1], scores(start, cutouts()).astype(float)
    if end == "two logits":
        wanted = wanted[:, 1:] - wanted[:, :1]
    if "logit" in end:
        wanted = 1 / (1 + np.exp(-wanted))
    np.testing.assert_allclose(found, wanted[:, -1], rtol=1e-5)
    started.set_weights([each * 0 for each in started.get_weights()])
    assert all(np.array_equal(*each) for each in zip(before, start.get_weights(), strict=True))


@pytest.mark.parametrize(
    "end",
    [
        [layers.Dense(3, activation="softmax")],
        [layers.Dense(2, activation="sigmoid")],
        [layers.Dense(1, activation="softmax")],
        [layers.Dense(2, activation="relu")],
        [layers.Dense(2), layers.Activation("sigmoid")],
        [layers.Dense(2, activation="softmax"), layers.Dropout(0.1)],
    ],
)
def test_an_end_that_is_not_understood_is_refused(end):
    with pytest.raises(ModelError, match="'theirs' cannot be trained on: it must end with"):
        begin(keras.Sequential([*body(), *end], name="theirs"), SHAPE, SETTINGS, 7)


def test_another_size_is_refused():
    with pytest.raises(
        ModelError, match=r"takes cutouts of shape .*\(24, 20, 2\), and those to learn from have \(24, 24, 2\)"
    ):
        begin(trained("lite")[1], (24, 24, 2), SETTINGS, 7)
    with pytest.raises(ModelError, match="takes cutouts"):
        begin(keras.Sequential([*body(), *ENDS["two logits"]]), (24, 20, 1), SETTINGS, 7)


def test_a_network_for_cutouts_of_any_size_takes_these():
    free = keras.Sequential(
        [
            keras.Input((None, None, 2)),
            layers.Conv2D(4, 3),
            layers.GlobalMaxPooling2D(),
            layers.Dense(2, activation="softmax"),
        ]
    )
    started, _ = begin(free, SHAPE, SETTINGS, 7)
    np.testing.assert_allclose(scores(started, cutouts()), scores(free, cutouts()), rtol=1e-6)


@pytest.fixture(scope="module")
def cube():
    return mock_arrays(MockSettings(50, 60, size=24, planes=("DIFF",), seed=2))


@pytest.fixture(scope="module")
def first(cube, tmp_path_factory):
    """A training that the others begin from."""
    return fit(cube, np.arange(len(cube)), SETTINGS, tmp_path_factory.mktemp("first")).model


def changed(before, after):
    """The kinds of layers whose weights differ."""
    kinds = set()
    for layer, other in zip(before.layers, after.layers, strict=True):
        if not all(np.array_equal(*each) for each in zip(layer.get_weights(), other.get_weights(), strict=True)):
            kinds.add(type(layer).__name__)
    return kinds


def test_dense_layers_learn_first_and_then_all(first, cube, tmp_path):
    rows = np.arange(len(cube))
    # Without a scale in front, which is taken out and put back and leaves weights rounded.
    settings = replace(SETTINGS, normalisation="robust")
    plain = fit(cube, rows, settings, tmp_path / "plain").model
    before = plain.get_weights()
    frozen = fit(cube, rows, settings, tmp_path / "frozen", start=plain).model
    assert changed(plain, frozen) == {"Dense"}
    free = fit(cube, rows, replace(settings, frozen_epochs=0), tmp_path / "free", start=plain).model
    assert changed(plain, free) == {"Dense", "Conv2D", "DepthwiseConv2D", "BatchNormalization"}
    assert all(np.array_equal(*each) for each in zip(before, plain.get_weights(), strict=True))
    for each in (frozen, free):
        assert all(layer.trainable for layer in each.layers)


def test_it_begins_with_the_weights_it_was_given(first, cube, tmp_path):
    still = replace(SETTINGS, learning_rate=1e-12)
    result = fit(cube, np.arange(len(cube)), still, tmp_path, start=first)
    batch = Normalisation("l2").apply(np.array(cube.cube[result.holdout]))
    np.testing.assert_allclose(scores(result.model, batch), scores(first, batch), rtol=1e-4)
    np.testing.assert_allclose(keras.ops.softmax(result.holdout_logits), scores(first, batch), rtol=1e-4)


def test_the_state_belongs_to_the_network_it_began_from(first, cube, tmp_path, caplog):
    rows, epochs, steps = np.arange(len(cube)), [], []
    settings = replace(SETTINGS, epochs=3, frozen_epochs=2)

    def until_the_second(step, _steps, _text):
        if step > 8:
            raise KeyboardInterrupt

    def at_once(_step, _steps, _text):
        raise KeyboardInterrupt

    half = fit(cube, rows, settings, tmp_path / "a", until_the_second, start=first, on_epoch=epochs.append)
    assert half.interrupted
    assert epochs == half.history
    rest = fit(
        cube, rows, settings, tmp_path / "a", lambda *args: steps.append(args[0]), start=first, on_epoch=epochs.append
    )
    assert steps[0] == 7
    assert epochs == rest.history
    whole = fit(cube, rows, settings, tmp_path / "b", start=first)
    assert whole.history == rest.history
    assert all(np.array_equal(*each) for each in zip(whole.model.get_weights(), rest.model.get_weights(), strict=True))
    other = keras.models.clone_model(first)
    with caplog.at_level(logging.WARNING), pytest.raises(KeyboardInterrupt):
        fit(cube, rows, settings, tmp_path / "a", at_once, start=other)
    assert "starts anew" in caplog.text
