"""What a training begins with: a new network, or one that has learnt already."""

from dataclasses import replace
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from otrain_infer.errors import ModelError
from otrain_train.graph import input_shape
from otrain_train.legacy import first_line
from otrain_train.network import FIRST_CONVOLUTIONS, NETWORKS, SCALE, build
from otrain_train.settings import TrainSettings

LOGITS, SCORE = "logits", "score"

DENSE_UNITS = {"lite": ("dense_1", 32), "mini": ("dense_1", 32), "otrain": ("dense_1", 512)}
"""A layer of each network that tells its width, and how many units it has at width 1."""


def begin(start: Any, shape: tuple[int, int, int], settings: TrainSettings, seed: int) -> tuple[Any, TrainSettings]:
    """Make the network that a training begins with.

    Parameters
    ----------
    start
        None for a new network, or one that has learnt already, which is left as it is: one of `build`, as
        `otrain_train.network.fold_scale` leaves it, or any other whose end is a dense layer and a softmax of two, a
        sigmoid of one, or neither. It is taken over with its scores.
    shape
        (ny, nx, planes) of a cutout (pixels).
    settings
        Network, width, dropout and normalisation. Of a network of `build` that has learnt already, only dropout and
        normalisation count; of any other, none.
    seed
        Decides initial weights, and what dropout leaves out.

    Returns
    -------
    network : keras.Model
        Ends with a dense layer of two, ``logits`` (bogus, real), and its softmax, ``score``.
    settings : TrainSettings
        Those given, with the network and its width as they are.

    Raises
    ------
    ModelError
        When `start` takes other cutouts, or its end is not understood.
    UsageError
        When the network is unknown or the cutouts are too small for it.
    """
    if start is None:
        made = build(settings.network, shape, settings.dropout, seed, settings.normalisation, settings.width)
        return made, settings
    own = input_shape(start)
    if any(length not in (None, wanted) for length, wanted in zip(own, shape, strict=True)):
        raise ModelError(
            f"the network to begin with takes cutouts of shape (ny, nx, planes) {own}, and those to learn from have "
            f"{shape}: take a datacube of its size and planes"
        )
    return _rebuilt(start, shape, settings, seed) or (_copied(start), settings)


def _rebuilt(
    start: Any, shape: tuple[int, int, int], settings: TrainSettings, seed: int
) -> tuple[Any, TrainSettings] | None:
    # The network of `build` with the weights of `start`, or None where that is no such network.
    for width in _possible_widths(start, settings.width):
        network = build(start.name, shape, settings.dropout, seed, settings.normalisation, width)
        if _shapes(network) == _shapes(start):
            for layer in network.layers:
                if layer.name != SCALE:
                    layer.set_weights(start.get_layer(layer.name).get_weights())
            _unfold_scale(network)
            return network, replace(settings, network=start.name, width=width)
    return None


def _possible_widths(start: Any, likely: float) -> list[float]:
    if start.name not in NETWORKS:
        return []
    name, usual = DENSE_UNITS[start.name]
    units = [getattr(layer, "units", None) for layer in start.layers if layer.name == name]
    return [likely, *(count / usual for count in units if count)]


def _shapes(network: Any) -> list[tuple[str, list[tuple[int, ...]]]]:
    return [(layer.name, [each.shape for each in layer.get_weights()]) for layer in network.layers if layer.weights]


def _unfold_scale(network: Any) -> None:
    # The reverse of `otrain_train.network.fold_scale`: its first convolutions did what the scale does from here.
    factors = [layer.scale for layer in network.layers if layer.name == SCALE]
    for name in FIRST_CONVOLUTIONS[network.name] if factors else ():
        layer = network.get_layer(name)
        kernels, *others = layer.get_weights()
        layer.set_weights([kernels / np.float32(factors[0]), *others])


def _copied(start: Any) -> Any:
    try:
        copy = keras.models.clone_model(start)
        copy.set_weights(start.get_weights())
    except Exception as error:  # noqa: BLE001 (Keras lets through whatever the layers of a network happen to raise)
        raise ModelError(f"the network '{start.name}' cannot be copied, to train it on ({first_line(error)})") from None
    dense = _last_dense(copy)
    if dense is None:
        raise ModelError(
            f"the network '{start.name}' cannot be trained on: it must end with one dense layer and a softmax of two, "
            "a sigmoid of one, or neither"
        )
    logits = keras.layers.Dense(2, name=LOGITS)
    score = keras.layers.Softmax(name=SCORE)
    network = keras.Model(copy.inputs[0], score(logits(dense.input)), name=start.name)
    logits.set_weights(_two_logits(dense))
    return network


def _last_dense(network: Any) -> Any:
    # The layer that makes the logits, if the network ends with it and what makes a probability of them.
    *others, last = network.layers
    ends = {"softmax": 2, "sigmoid": 1}
    if others and isinstance(last, keras.layers.Softmax | keras.layers.Activation):
        wanted = 2 if isinstance(last, keras.layers.Softmax) else ends.get(_name(last.activation))
        dense = others[-1]
        right = _name(getattr(dense, "activation", None)) == "linear" and getattr(dense, "units", 0) == wanted
    else:
        dense = last
        activation, units = _name(getattr(dense, "activation", None)), getattr(dense, "units", 0)
        right = ends.get(activation) == units or (activation == "linear" and units in (1, 2))
    return dense if right and isinstance(dense, keras.layers.Dense) and len(dense.input.shape) == 2 else None


def _name(activation: Any) -> str:
    return getattr(activation, "__name__", "")


def _two_logits(dense: Any) -> list[npt.NDArray[np.float32]]:
    kernel, bias = dense.get_weights() if dense.use_bias else (dense.get_weights()[0], np.zeros(dense.units))
    if dense.units == 1:
        # A sigmoid of z is the second part of a softmax of (0, z).
        kernel, bias = np.hstack([np.zeros_like(kernel), kernel]), np.append(0, bias)
    return [kernel.astype(np.float32), bias.astype(np.float32)]
