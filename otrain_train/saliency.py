"""Grad-CAM: which parts of a cutout speak for what a network calls it."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from otrain_infer.errors import ModelError
from otrain_infer.normalise import Pixels
from otrain_infer.scorer import Scorer
from otrain_train.ensemble import members_of
from otrain_train.export import load_network
from otrain_train.feature_maps import Grid, last_maps
from otrain_train.graph import find_logits, input_shape

Maps = npt.NDArray[np.float32]

ENDINGS = (".keras", ".h5", ".hdf5")

TOLERANCE = 1e-3
"""How far the scores of a network and of its exported model may be apart, unless the card allows more."""


class GradCam:
    """Grad-CAM of a network, of the logit of real minus that of bogus.

    The feature maps are those that `otrain_train.feature_maps.last_maps` finds. Each value is weighted by its own
    gradient (HiResCAM, Draelos & Carin 2020) and laid on the cutout where it belongs; what they sum to is cut off below
    0. The first Grad-CAM weighted all values of a map by their mean gradient (Selvaraju et al. 2017). That comes to the
    same where a network ends with a mean over positions; where it flattens, as real/bogus networks do, it shows parts
    that do not matter. The median correlation with the maps of occlusion was 0.02 for such maps and 0.74 for these with
    `lite` on mock cutouts, 0.03 and 0.38 with braai on real ones.

    Parameters
    ----------
    network
        A Keras network from normalised cutouts, with a head that `otrain_train.graph.convert` takes, or several joined
        by `otrain_train.ensemble.join`: then the mean of their maps.
    size
        (ny, nx) of the cutouts (pixels).

    Raises
    ------
    ModelError
        When its head is not understood.
    """

    def __init__(self, network: keras.Model, size: tuple[int, int]) -> None:
        shape = (*size, int(network.input_shape[-1]))
        self._members = [_Member(each, shape) for each in members_of(network)]

    def maps(self, normalised: Pixels, real: npt.NDArray[np.bool_]) -> Maps:
        """Give the maps of some cutouts.

        Parameters
        ----------
        normalised
            float32 (n, ny, nx, planes), as the network takes it.
        real
            Bool (n,): whether the map is of what speaks for real, or of what speaks for bogus.

        Returns
        -------
        ndarray
            float32 (n, ny, nx), 0 or more: about how much of the logit each pixel stands for.
        """
        signs = np.where(real, 1, -1).astype(np.float32)
        return np.asarray(np.mean([each.maps(normalised, signs) for each in self._members], axis=0), np.float32)

    def scores(self, normalised: Pixels) -> npt.NDArray[np.float64]:
        """Give the scores of the network itself, float64 (n,)."""
        margins = np.clip([each.margins(normalised) for each in self._members], -700, 700)
        return np.asarray(np.mean(1 / (1 + np.exp(-margins)), axis=0))


class _Member:
    # One network. It is traced once, whatever the number of cutouts.
    def __init__(self, network: keras.Model, shape: tuple[int, ...]) -> None:
        self._network, self._size = network, shape[:2]
        self._grids: list[Grid] = []
        signature = [tf.TensorSpec((None, *shape), tf.float32), tf.TensorSpec((None,), tf.float32)]
        self._run = tf.function(self._trace, input_signature=signature, autograph=False)
        self._run.get_concrete_function()

    def _trace(self, cutouts: Any, signs: Any) -> tuple[Any, list[Any]]:
        # A GPU would compute in TF32, which is coarser than the scores are compared.
        with tf.device("/CPU:0"):
            _, logits = find_logits(self._network(cutouts, training=False), self._network.name)
            logits = tf.cast(logits, tf.float32)
            margins = logits[:, -1] - logits[:, 0] if logits.shape[1] == 2 else logits[:, 0]
            found = last_maps(logits, cutouts)
            gradients = tf.gradients(margins * signs, [maps for maps, _ in found])
            self._grids = [grid for _, grid in found]
            return margins, [_weighted(maps, each) for (maps, _), each in zip(found, gradients, strict=True)]

    def maps(self, normalised: Pixels, signs: Maps) -> Maps:
        _, found = self._run(normalised, signs)
        total = np.zeros((len(normalised), *self._size), np.float32)
        for cells, grid in zip(found, self._grids, strict=True):
            values = cells.numpy()
            rows, columns = (grid.weights(axis, values.shape[axis + 1], self._size[axis]) for axis in range(2))
            total += rows @ values @ columns.T
        return np.maximum(total, 0)

    def margins(self, normalised: Pixels) -> npt.NDArray[np.float64]:
        return np.asarray(self._run(normalised, np.ones(len(normalised), np.float32))[0], np.float64)


def _weighted(maps: Any, gradient: Any) -> Any:
    return tf.reduce_sum(tf.cast(gradient, tf.float32) * tf.cast(maps, tf.float32), axis=3)


def network_beside(model: Path) -> Path:
    """Find the Keras file beside an .onnx file.

    Raises
    ------
    ModelError
        When there is none.
    """
    found = [path for path in map(model.with_suffix, ENDINGS) if path.is_file()]
    if not found:
        raise ModelError(
            f"there is no Keras network '{model.with_suffix(ENDINGS[0])}' beside '{model}', and Grad-CAM looks into "
            "the network: put it there under that name"
        )
    return found[0]


def open_grad_cam(path: Path, scorer: Scorer, pixels: Pixels) -> GradCam:
    """Open the Keras network that a model was exported from.

    Parameters
    ----------
    path
        The .keras or .h5 file.
    scorer
        The model.
    pixels
        Raw cutouts, float32 (n, ny, nx, planes), on which the two are compared.

    Returns
    -------
    GradCam

    Raises
    ------
    ModelError
        When the file cannot be used, or gives other scores than the model.
    """
    card = scorer.card
    network = load_network(path)
    other = f"it is not the network that the model '{card.name}' was exported from"
    shape = input_shape(network)
    if any(own not in (None, wanted) for own, wanted in zip(shape, card.shape, strict=True)):
        raise ModelError(f"'{path}' takes cutouts of {shape} and not {card.shape}: {other}")
    cam = GradCam(network, card.size)
    if len(pixels):
        apart = np.abs(cam.scores(card.normalisation.apply(pixels)) - scorer.score_pixels(pixels))
        largest = float(np.max(apart[np.isfinite(apart)], initial=0.0))
        if largest > max(TOLERANCE, card.metrics.get("parity", {}).get("tolerance", 0)):
            raise ModelError(f"'{path}' gives other scores than the model, by up to {largest:.2g}: {other}")
    return cam
