"""Grad-CAM: where feature maps lie, what the maps are worth, and which networks it takes."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from stirred import stir

from otrain_infer.card import ModelCard
from otrain_infer.errors import ModelError
from otrain_infer.normalise import Normalisation
from otrain_infer.scorer import Scorer
from otrain_train.ensemble import join
from otrain_train.export import export
from otrain_train.feature_maps import Grid, last_maps
from otrain_train.network import build
from otrain_train.saliency import GradCam, network_beside, open_grad_cam

SIZE = (24, 20)
BOTH = np.array([True, False])


def cutouts(n=2, size=SIZE, planes=2, seed=0):
    return np.random.default_rng(seed).normal(size=(n, *size, planes)).astype(np.float32)


def sequential(*middle, head=(layers.Dense, (2, "softmax")), size=SIZE, planes=2, seed=1):
    keras.utils.set_random_seed(seed)
    kind, arguments = head
    return keras.Sequential([keras.Input((*size, planes)), *middle, layers.Flatten(), kind(*arguments)])


def margins_of(network, batch):
    """Logit of real minus that of bogus, from the weights of the last dense layer and what goes into it."""
    dense = network.layers[-1]
    features = keras.Model(network.inputs[0], network.layers[-2].output)(batch)
    kernel, bias = (np.asarray(each, np.float64) for each in dense.get_weights())
    logits = np.asarray(features, np.float64) @ kernel + bias
    return (logits[:, -1] - logits[:, 0], bias[-1] - bias[0]) if kernel.shape[1] == 2 else (logits[:, 0], bias[0])


def find(network, size):
    """Give the grids that a network's last maps have, and a function that gives the maps themselves."""
    grids = []

    def trace(batch):
        output = network(batch, training=False)
        found = last_maps(output, batch)
        grids[:] = [grid for _, grid in found]
        return [maps for maps, _ in found]

    signature = [tf.TensorSpec((None, *size, network.input_shape[-1]), tf.float32)]
    function = tf.function(trace, input_signature=signature, autograph=False)
    function.get_concrete_function()
    return grids, function


def centre_seen(function, which, cell, size, planes):
    """Find the middle of the pixels that a cell depends on, from gradients on random cutouts."""
    weight = np.zeros(size)
    for seed in range(3):
        batch = tf.constant(cutouts(4, size, planes, seed))
        with tf.GradientTape() as tape:
            tape.watch(batch)
            value = tf.reduce_sum(function(batch)[which][:, cell[0], cell[1]])
        weight += np.abs(tape.gradient(value, batch)).sum(axis=(0, 3)) > 0
    y, x = np.nonzero(weight)
    return np.array([(y.min() + y.max()) / 2, (x.min() + x.max()) / 2])


STACKS = {
    "same": (layers.Conv2D(3, 3, padding="same"), layers.Conv2D(3, 3, 2, "same"), layers.Conv2D(3, 5, 2, "same")),
    "valid": (layers.Conv2D(3, 4), layers.AveragePooling2D(2), layers.Conv2D(3, 3, dilation_rate=2)),
    "cropped and padded": (
        layers.Cropping2D(((4, 3), (2, 5))),
        layers.Conv2D(3, 3, 2),
        layers.ZeroPadding2D(((2, 1), (1, 0))),
        layers.Conv2D(3, 3, activation="relu"),
    ),
    "depthwise": (layers.DepthwiseConv2D(3, 2), layers.BatchNormalization(), layers.SeparableConv2D(3, 3)),
}


@pytest.mark.parametrize("stack", STACKS)
def test_cells_lie_where_the_pixels_are_that_they_depend_on(stack):
    size = (33, 38)
    network = sequential(*STACKS[stack], size=size)
    (grid,), function = find(network, size)
    shape = function(cutouts(1, size))[0].shape
    for cell in ((shape[1] // 2, shape[2] // 2), (shape[1] // 2, shape[2] // 2 - 1)):
        expected = np.add(grid.start, np.multiply(grid.step, cell))
        assert centre_seen(function, 0, cell, size, 2) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("size", [64, 40, 32, 24])
def test_the_branches_of_lite_lie_on_the_cutout_as_they_should(size):
    network = build("lite", (size, size, 1))
    grids, function = find(network, (size, size))
    assert len(grids) == (1 if size <= 32 else 2)
    shapes = [maps.shape for maps in function(cutouts(1, (size, size), 1))]
    for which, (grid, shape) in enumerate(zip(grids, shapes, strict=True)):
        cell = (shape[1] // 2, shape[2] // 2)
        expected = np.add(grid.start, np.multiply(grid.step, cell))
        seen = centre_seen(function, which, cell, (size, size), 1)
        assert np.abs(seen - expected).max() <= grid.step[0], (size, which)


def test_pooling_is_stepped_over_and_the_head_too():
    network = build("otrain", (32, 32, 3))
    (grid,), function = find(network, (32, 32))
    # Two pools of two before the last convolution, and one after it.
    assert grid == Grid((1.5, 1.5), (4.0, 4.0))
    assert function(cutouts(1, (32, 32), 3))[0].shape == (1, 8, 8, 256)
    fully = sequential(layers.Conv2D(4, 3), layers.GlobalAveragePooling2D(keepdims=True), layers.Conv2D(8, 1))
    assert find(fully, SIZE)[0] == [Grid((1.0, 1.0))]


def test_what_cannot_be_placed_is_left_for_what_can():
    turned = sequential(layers.Conv2D(2, 3, padding="same"), layers.Permute((2, 1, 3)), layers.Conv2D(3, 3))
    (grid,), function = find(turned, SIZE)
    assert grid == Grid()
    assert function(cutouts(1))[0].shape == (1, *SIZE, 2)
    without = sequential()
    assert find(without, SIZE)[0] == [Grid()]


def test_a_skip_connection_keeps_its_place():
    inputs = keras.Input((*SIZE, 2))
    before = layers.Conv2D(4, 3, padding="same")(inputs)
    main = layers.Conv2D(4, 3, 2, "same")(before)
    skipped = layers.Conv2D(4, 1, 2, "same")(before)
    gate = layers.Conv2D(4, 1, activation="sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(main))
    joined = layers.Multiply()([layers.Add()([main, skipped]), gate])
    network = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(joined)))
    (grid,), function = find(network, SIZE)
    assert grid.step == (2.0, 2.0)
    assert function(cutouts(1))[0].shape == (1, 12, 10, 4)


def test_resized_maps_cover_what_they_covered():
    network = sequential(layers.Conv2D(2, 3, 2, "same"), layers.Resizing(24, 20))
    (grid,), _ = find(network, SIZE)
    # Twelve cells of two pixels from the pixel 1 on; resized, cells of one pixel with the same bounds.
    assert grid == Grid((0.5, 0.5), (1.0, 1.0))


@pytest.mark.parametrize("head", [(2, "softmax"), (2,), (1, "sigmoid"), (1,)])
def test_maps_sum_to_the_logit_behind_the_last_convolution(head):
    network = sequential(layers.Conv2D(3, 3, padding="same", activation="relu"), head=(layers.Dense, head))
    batch = cutouts()
    margins, bias = margins_of(network, batch)
    cam = GradCam(network, SIZE)
    real, bogus = cam.maps(batch, np.array([True] * 2)), cam.maps(batch, np.array([False] * 2))
    assert real.shape == (2, *SIZE)
    assert real.dtype == np.float32
    assert (np.minimum(real, bogus) == 0).all()
    # What speaks for real, less what speaks for bogus, is the logit.
    assert (real - bogus).sum(axis=(1, 2)) == pytest.approx(margins - bias, abs=1e-5)
    assert cam.scores(batch) == pytest.approx(1 / (1 + np.exp(-margins)), abs=1e-6)
    mixed = cam.maps(batch, BOTH)
    assert np.array_equal(mixed[0], real[0])
    assert np.array_equal(mixed[1], bogus[1])


def test_it_is_the_first_grad_cam_where_a_network_ends_with_a_mean():
    keras.utils.set_random_seed(2)
    convolution, dense = layers.Conv2D(5, 3, padding="same", activation="relu"), layers.Dense(2, "softmax")
    network = keras.Sequential([keras.Input((*SIZE, 2)), convolution, layers.GlobalAveragePooling2D(), dense])
    batch = cutouts()
    features = np.asarray(keras.Model(network.inputs[0], convolution.output)(batch))
    weights = dense.get_weights()[0][:, 1] - dense.get_weights()[0][:, 0]
    expected = np.maximum(features @ weights, 0) / np.prod(SIZE)
    assert GradCam(network, SIZE).maps(batch, np.array([True] * 2)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("name", "size"), [("lite", (64, 64)), ("lite", (40, 48)), ("otrain", (40, 48))])
def test_a_map_is_brightest_where_the_source_is(name, size):
    network = build(name, (*size, 1), seed=4)
    for layer in network.layers:
        if "kernel" in str(layer.weights):
            kernel, *rest = layer.get_weights()
            # Everything adds up: what is bright in the cutout is bright in the maps.
            kernel = np.abs(kernel) * ([[-1, 1]] if layer.name == "logits" else 1)
            layer.set_weights([kernel, *rest])
    batch = np.zeros((3, *size, 1), np.float32)
    places = [(size[0] // 2, size[1] // 2), (size[0] // 2 - 8, size[1] // 2 + 6), (size[0] // 2 + 5, size[1] // 2)]
    for cutout, place in zip(batch, places, strict=True):
        cutout[place] = 1
    for cam, place in zip(GradCam(network, size).maps(batch, np.array([True] * 3)), places, strict=True):
        y, x = np.mgrid[: size[0], : size[1]]
        centre = np.array([(y * cam).sum(), (x * cam).sum()]) / cam.sum()
        assert np.abs(centre - place).max() < 3


def test_it_looks_into_networks_within_networks_and_joined_ones():
    inner = keras.Sequential([keras.Input((*SIZE, 2)), layers.Conv2D(3, 3, activation="relu"), layers.MaxPooling2D(2)])
    nested = sequential(layers.RandomFlip(), layers.Rescaling(0.5), inner)
    batch = cutouts()
    assert GradCam(nested, SIZE).maps(batch, BOTH).max() > 0
    members = [build("lite", (24, 24, 1), seed=seed) for seed in (1, 2, 3)]
    batch = cutouts(4, (24, 24), 1)
    real = np.array([True, False, True, False])
    joined, single = GradCam(join(members), (24, 24)), [GradCam(each, (24, 24)) for each in members]
    assert joined.maps(batch, real) == pytest.approx(np.mean([each.maps(batch, real) for each in single], axis=0))
    assert joined.scores(batch) == pytest.approx(np.mean([each.scores(batch) for each in single], axis=0))


def test_a_row_does_not_depend_on_its_batch():
    cam = GradCam(build("lite", (40, 40, 2)), (40, 40))
    batch, real = cutouts(5, (40, 40)), np.array([True, False, True, True, False])
    alone = np.concatenate([cam.maps(batch[i : i + 1], real[i : i + 1]) for i in range(5)])
    assert cam.maps(batch, real) == pytest.approx(alone, abs=1e-6)


def test_a_head_that_is_not_understood_is_refused():
    with pytest.raises(ModelError, match="is not understood"):
        GradCam(sequential(layers.Conv2D(2, 3), head=(layers.Dense, (3, "softmax"))), SIZE)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A network and its exported model, side by side."""
    folder = tmp_path_factory.mktemp("pair")
    network = build("lite", (24, 24, 1), seed=5)
    card = ModelCard("pair", "1", "", ("DIFF",), (24, 24), Normalisation("l2"))
    export(network, card, folder / "pair.onnx", cutouts(8, (24, 24), 1))
    network.save(folder / "pair.keras")
    return folder / "pair.onnx"


def test_the_network_that_a_model_came_from_is_taken(pair):
    scorer, raw = Scorer(pair), cutouts(8, (24, 24), 1)
    raw[3] = 0
    cam = open_grad_cam(network_beside(pair), scorer, raw)
    assert cam.scores(scorer.card.normalisation.apply(raw))[0] == pytest.approx(scorer.score_pixels(raw)[0], abs=1e-6)
    open_grad_cam(network_beside(pair), scorer, raw[:0])


def test_another_network_is_refused(pair, tmp_path):
    stir(build("lite", (24, 24, 1), seed=6)).save(tmp_path / "other.keras")
    build("lite", (24, 24, 2), seed=5).save(tmp_path / "planes.keras")
    scorer, raw = Scorer(pair), cutouts(8, (24, 24), 1)
    with pytest.raises(ModelError, match=r"other\.keras' gives other scores than the model, by up to 0\."):
        open_grad_cam(tmp_path / "other.keras", scorer, raw)
    with pytest.raises(ModelError, match=r"takes cutouts of \(24, 24, 2\) and not \(24, 24, 1\): it is not"):
        open_grad_cam(tmp_path / "planes.keras", scorer, raw)
    with pytest.raises(ModelError, match=r"no Keras network '.*away\.keras' beside '.*away\.onnx'"):
        network_beside(tmp_path / "away.onnx")
