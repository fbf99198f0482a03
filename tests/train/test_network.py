import numpy as np
import pytest
from stirred import stir

from otrain_infer.errors import UsageError

network = pytest.importorskip("otrain_train.network")
keras = pytest.importorskip("keras")


@pytest.mark.parametrize("name", sorted(network.NETWORKS))
@pytest.mark.parametrize("shape", [(16, 16, 1), (17, 30, 4), (31, 63, 3)])
def test_networks_take_any_size_and_any_number_of_planes(name, shape):
    model = network.build(name, shape)
    assert model.inputs[0].name == "cutouts"
    assert model.input_shape == (None, *shape)
    scores = np.asarray(model(np.random.default_rng(0).normal(size=(3, *shape)).astype(np.float32), training=False))
    assert scores.shape == (3, 2)
    assert scores.sum(axis=1) == pytest.approx(1)
    assert isinstance(model.get_layer("logits"), keras.layers.Dense)
    assert model.layers[-1].name == "score"


@pytest.mark.parametrize("name", sorted(network.NETWORKS))
def test_the_score_is_the_softmax_of_the_logits(name):
    model = network.build(name, (16, 16, 1), seed=3)
    cutouts = np.random.default_rng(0).normal(size=(3, 16, 16, 1)).astype(np.float32)
    logits = np.asarray(keras.Model(model.input, model.get_layer("logits").output)(cutouts, training=False))
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert np.asarray(model(cutouts, training=False)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", sorted(network.NETWORKS))
def test_a_network_depends_on_its_arguments_alone(name):
    first, second, other = (network.build(name, (16, 16, 2), seed=seed) for seed in (1, 1, 2))
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        assert np.array_equal(a, b)
    assert any(not np.array_equal(a, b) for a, b in zip(first.get_weights(), other.get_weights(), strict=True))
    assert [layer.name for layer in first.layers] == [layer.name for layer in second.layers]


@pytest.mark.parametrize("name", sorted(network.NETWORKS))
def test_only_layers_that_any_keras_can_load(name, tmp_path):
    model = network.build(name, (16, 16, 1))
    assert all(type(layer).__module__.startswith("keras.") for layer in model.layers)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)
    cutouts = np.random.default_rng(0).normal(size=(3, 16, 16, 1)).astype(np.float32)
    assert np.array_equal(np.asarray(again(cutouts, training=False)), np.asarray(model(cutouts, training=False)))


def test_otrain_is_the_architecture_of_the_original():
    kinds = {
        "Conv2D": "filters",
        "Dense": "units",
        "Dropout": "rate",
        "AveragePooling2D": "pool_size",
        "MaxPooling2D": "pool_size",
    }
    model = network.build("otrain", (64, 64, 1), dropout=0.25)
    found = [
        (type(layer).__name__, getattr(layer, kinds[type(layer).__name__]))
        for layer in model.layers
        if type(layer).__name__ in kinds
    ]
    assert found == [
        ("Conv2D", 16),
        ("Conv2D", 32),
        ("AveragePooling2D", (2, 2)),
        ("Dropout", 0.25),
        ("Conv2D", 64),
        ("MaxPooling2D", (2, 2)),
        ("Dropout", 0.25),
        ("Conv2D", 128),
        ("Conv2D", 256),
        ("MaxPooling2D", (2, 2)),
        ("Dense", 512),
        ("Dropout", 0.25),
        ("Dense", 256),
        ("Dense", 2),
    ]
    assert all(
        layer.kernel_size == (3, 3) and layer.padding == "same" and layer.activation.__name__ == "relu"
        for layer in model.layers
        if isinstance(layer, keras.layers.Conv2D)
    )


def test_lite_is_small():
    assert network.build("lite", (64, 64, 3)).count_params() < 250_000


def test_unknown_networks_are_refused():
    with pytest.raises(UsageError, match=r"'resnet' is unknown: take one of .*otrain"):
        network.build("resnet", (32, 32, 1))


@pytest.mark.parametrize("shape", [(15, 64, 1), (64, 8, 1), (1, 1, 3), (32, 32, 0)])
def test_cutouts_too_small_for_a_network_are_refused(shape):
    with pytest.raises(UsageError, match="too small"):
        network.build("lite", shape)


@pytest.mark.parametrize("name", network.NETWORKS)
@pytest.mark.parametrize("normalisation", ["l2", "l2-rows", "robust"])
def test_folding_the_scale_changes_no_score(name, normalisation):
    model = stir(network.build(name, (24, 20, 2), seed=3, normalisation=normalisation))
    rng = np.random.default_rng(0)
    cutouts = rng.normal(size=(8, 24, 20, 2)).astype(np.float32) / (1 if normalisation == "robust" else 20)
    folded = network.fold_scale(model)
    assert "scale" not in [layer.name for layer in folded.layers]
    assert (folded is model) == (normalisation == "robust")
    expected = np.asarray(model(cutouts, training=False))
    assert expected.std() > 1e-3
    np.testing.assert_allclose(np.asarray(folded(cutouts, training=False)), expected, rtol=1e-4)


def test_the_first_convolutions_are_those_that_see_the_cutouts():
    for name in network.NETWORKS:
        model = network.build(name, (64, 64, 1), normalisation="l2")
        found = [layer.name for layer in model.layers if "conv" in layer.name and sees_cutouts(layer)]
        assert sorted(found) == sorted(network.FIRST_CONVOLUTIONS[name])


def sees_cutouts(layer):
    """Whether nothing that is not linear, or has weights, stands between the scaled cutouts and a layer."""
    before = layer.input._keras_history.operation
    return before.name == "scale" or (before.name in ("centre", "whole") and sees_cutouts(before))
