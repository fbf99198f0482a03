"""The networks, by name.

Each takes normalised cutouts, float32 (n, ny, nx, planes), the input ``cutouts``, and ends with a dense layer of two,
``logits`` (bogus, real), and its softmax, ``score``. They are made of standard Keras layers only.
"""

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import layers

from otrain_infer.errors import UsageError

MIN_SIZE = 16

SCALE = "scale"

CENTRE = 32
"""Width and height (pixels) of what `lite` and `mini` see at full scale."""


@dataclass(slots=True)
class _Plan:
    # Each layer gets a seed and a name of its own: a network depends on nothing but its arguments, not on what was
    # built before it in the same process.
    dropout: float
    seed: int
    width: float
    seeds: int = 0
    layers: Counter[str] = field(default_factory=Counter)

    def next_seed(self) -> int:
        self.seeds += 1
        return self.seed * 1_000 + self.seeds

    def name(self, kind: str) -> str:
        self.layers[kind] += 1
        return f"{kind}_{self.layers[kind]}"

    def units(self, usual: int) -> int:
        return max(4, round(usual * self.width))

    def initializer(self) -> keras.initializers.Initializer:
        return keras.initializers.GlorotUniform(seed=self.next_seed())


def build(
    name: str,
    shape: tuple[int, int, int],
    dropout: float = 0.3,
    seed: int = 0,
    normalisation: str = "none",
    width: float = 1.0,
) -> keras.Model:
    """Make an untrained network.

    Parameters
    ----------
    name
        One of `NETWORKS`.
    shape
        (ny, nx, planes) of a cutout (pixels).
    dropout
        Fraction of units left out while training, in [0, 1).
    seed
        Decides the initial weights and what dropout leaves out.
    normalisation
        Method of `otrain_infer.normalise.Normalisation` that the cutouts have been through: the network begins by
        bringing their pixels to the order of 1, until `fold_scale` takes that out.
    width
        Factor by which its layers are wider, of 4 units at least.

    Returns
    -------
    keras.Model
        Not compiled.

    Raises
    ------
    UsageError
        When the name is unknown or the cutouts are too small.
    """
    if name not in NETWORKS:
        raise UsageError(f"network '{name}' is unknown: take one of {', '.join(NETWORKS)}")
    ny, nx, planes = shape
    if min(ny, nx) < MIN_SIZE or planes < 1:
        raise UsageError(
            f"cutouts of {ny} x {nx} pixels and {planes} plane(s) are too small for a network: "
            f"it takes {MIN_SIZE} x {MIN_SIZE} pixels and one plane at least"
        )
    cutouts = keras.Input(shape, name="cutouts")
    plan = _Plan(dropout, seed, width)
    scale = _scale(ny, nx, normalisation)
    scaled = cutouts if scale == 1.0 else layers.Rescaling(scale, name=SCALE)(cutouts)
    features = NETWORKS[name](scaled, plan)
    logits = layers.Dense(2, name="logits", kernel_initializer=plan.initializer())(features)
    return keras.Model(cutouts, layers.Softmax(name="score")(logits), name=name)


def fold_scale(network: keras.Model, width: float = 1.0) -> keras.Model:
    """Give the same network without the layer that scales its cutouts: the first convolutions take that over.

    Training wants kernels of a usual size; scoring need not multiply every pixel.

    Parameters
    ----------
    network
        Of `build`.
    width
        That it was built with.

    Returns
    -------
    keras.Model
        A new one, which gives the same scores; `network` itself where it does not scale.
    """
    if SCALE not in [layer.name for layer in network.layers]:
        return network
    factor = network.get_layer(SCALE).scale
    folded = build(network.name, network.input_shape[1:], width=width)
    for layer in folded.layers:
        weights = network.get_layer(layer.name).get_weights()
        if layer.name in FIRST_CONVOLUTIONS[network.name]:
            weights[0] = weights[0] * np.float32(factor)
        layer.set_weights(weights)
    return folded


def _otrain(x: Any, plan: _Plan) -> Any:
    # The architecture of the original O'TRAIN.
    for filters in (16, 32):
        x = _convolution(x, filters, plan)
    x = layers.AveragePooling2D(2, name=plan.name("pool"))(x)
    x = _dropout(x, plan)
    x = _convolution(x, 64, plan)
    x = layers.MaxPooling2D(2, name=plan.name("pool"))(x)
    x = _dropout(x, plan)
    for filters in (128, 256):
        x = _convolution(x, filters, plan)
    x = layers.MaxPooling2D(2, name=plan.name("pool"))(x)
    x = layers.Flatten(name="flatten")(x)
    x = _dropout(_dense(x, 512, plan), plan)
    return _dense(x, 256, plan)


def _lite(x: Any, plan: _Plan) -> Any:
    # Two looks at a cutout, its centre at full scale and the whole of it shrunk to the same size, joined. Convolutions
    # take every pixel, pools shrink what they give, and what is left is averaged: with strides, or with a weight for
    # every place, a network as small as this one learns less from as many cutouts. Layers of 16 channels or a multiple
    # fill the registers of a processor. Most are separable, at a fraction of the cost of full ones: where the full
    # ones stand, in the centre and at the end, they are worth theirs.
    centre = _average_pool(_separable(_scaled_convolution(_centre(x), 16, plan), 16, plan), plan)
    centre = _max_pool(_scaled_convolution(centre, 32, plan), plan)
    whole = _average_pool(_scaled_convolution(_whole(x), 16, plan), plan)
    whole = _max_pool(_separable(whole, 16, plan), plan)
    x = _max_pool(_separable(_joined(centre, whole), 64, plan), plan)
    return _summed_up(_scaled_convolution(x, 64, plan), plan)


def _mini(x: Any, plan: _Plan) -> Any:
    # The same two looks with as little arithmetic as may be: strides where the cutouts are seen, the whole shrunk to
    # half as much, and separable layers alone. From labels it learns less than `lite`; from the scores of a teacher
    # nearly as much.
    centre = _scaled_convolution(_centre(x), 16, plan, 5, stride=2)
    centre = _max_pool(_separable(centre, 32, plan), plan)
    whole = _scaled_convolution(_whole(x, 2), 16, plan, 5, stride=2)
    x = _max_pool(_separable(_joined(centre, whole), 64, plan), plan)
    return _summed_up(_separable(x, 64, plan), plan)


NETWORKS: dict[str, Callable[[Any, _Plan], Any]] = {"lite": _lite, "mini": _mini, "otrain": _otrain}

FIRST_CONVOLUTIONS = {"lite": ("conv_1", "conv_4"), "mini": ("conv_1", "conv_3"), "otrain": ("conv_1",)}
"""The layers of each network that see its cutouts, with nothing but crops and averages between."""

LEARNING_RATES = {"lite": 4e-3, "mini": 4e-3, "otrain": 5e-4}
"""Highest learning rate that suits each network."""


def _scale(ny: int, nx: int, normalisation: str) -> float:
    # A plane, or row, of unit L2 norm has a root mean square of 1 over the root of its number of pixels.
    return {"l2": math.sqrt(ny * nx), "l2-rows": math.sqrt(nx)}.get(normalisation, 1.0)


def _centre(x: Any) -> Any:
    return layers.Cropping2D([_margins(length) for length in x.shape[1:3]], name="centre")(x)


def _whole(x: Any, times: int = 1) -> Any:
    # Shrunk to the size of the centre, or so many times further.
    factors = [times * -(-length // CENTRE) for length in x.shape[1:3]]
    return layers.AveragePooling2D(factors, padding="same", name="whole")(x)


def _joined(centre: Any, whole: Any) -> Any:
    gaps = [wanted - own for wanted, own in zip(centre.shape[1:3], whole.shape[1:3], strict=True)]
    whole = layers.ZeroPadding2D([(gap // 2, gap - gap // 2) for gap in gaps], name="framed")(whole)
    return layers.Concatenate(name="joined")([centre, whole])


def _summed_up(x: Any, plan: _Plan) -> Any:
    return _dense(_dropout(layers.GlobalAveragePooling2D(name="average")(x), plan), 32, plan)


def _margins(length: int) -> tuple[int, int]:
    cut = max(0, length - CENTRE)
    return cut // 2, cut - cut // 2


def _convolution(x: Any, filters: int, plan: _Plan) -> Any:
    units, kernels = plan.units(filters), plan.initializer()
    return layers.Conv2D(
        units, 3, padding="same", activation="relu", name=plan.name("conv"), kernel_initializer=kernels
    )(x)


def _scaled_convolution(x: Any, filters: int, plan: _Plan, size: int = 3, stride: int = 1) -> Any:
    units, kernels = plan.units(filters), plan.initializer()
    x = layers.Conv2D(
        units, size, stride, padding="same", use_bias=False, name=plan.name("conv"), kernel_initializer=kernels
    )(x)
    return layers.ReLU(name=plan.name("relu"))(_normalise(x, plan))


def _separable(x: Any, filters: int, plan: _Plan, stride: int = 1) -> Any:
    # Each channel by itself over the places, then all channels at each place.
    kernels = plan.initializer()
    x = layers.DepthwiseConv2D(
        3, stride, padding="same", use_bias=False, name=plan.name("depthwise"), depthwise_initializer=kernels
    )(x)
    return _scaled_convolution(_normalise(x, plan), filters, plan, size=1)


def _normalise(x: Any, plan: _Plan) -> Any:
    # The moving averages must settle within the few hundred steps of a small training set.
    return layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=plan.name("norm"))(x)


def _average_pool(x: Any, plan: _Plan) -> Any:
    return layers.AveragePooling2D(2, padding="same", name=plan.name("pool"))(x)


def _max_pool(x: Any, plan: _Plan) -> Any:
    return layers.MaxPooling2D(2, padding="same", name=plan.name("pool"))(x)


def _dense(x: Any, units: int, plan: _Plan) -> Any:
    kernels = plan.initializer()
    return layers.Dense(plan.units(units), activation="relu", name=plan.name("dense"), kernel_initializer=kernels)(x)


def _dropout(x: Any, plan: _Plan) -> Any:
    return layers.Dropout(plan.dropout, seed=plan.next_seed(), name=plan.name("dropout"))(x)
