"""A network that learns: its augmentation, its optimiser and one step of learning."""

import math
import os
from typing import Any

# TensorFlow reads this when it is imported: its notes on processors and sessions are not for users.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from keras import ops

from otrain_train.checkpoint import Arrays
from otrain_train.settings import TrainSettings


def make_repeatable(seed: int) -> None:
    """Have this process draw from `seed` and compute the same sums in the same order every time."""
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()


def backend_versions() -> dict[str, str]:
    """Give the versions of Keras and TensorFlow."""
    return {"keras": keras.__version__, "tensorflow": tf.__version__}


class FlipsAndTurns(keras.layers.Layer):  # type: ignore[misc]
    """Turns and mirrors each cutout at random while training: all eight ways, or the four that keep a rectangle."""

    def __init__(self, seed: int) -> None:
        super().__init__(name="flips_turns")
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, cutouts: Any, training: bool = False) -> Any:
        """Give float32 (n, ny, nx, planes) cutouts, turned and mirrored when `training`."""
        if not training:
            return cutouts
        chosen = keras.random.uniform((3, ops.shape(cutouts)[0], 1, 1, 1), seed=self.generator) < 0.5
        cutouts = ops.where(chosen[0], ops.flip(cutouts, 1), cutouts)
        cutouts = ops.where(chosen[1], ops.flip(cutouts, 2), cutouts)
        if cutouts.shape[1] == cutouts.shape[2]:
            cutouts = ops.where(chosen[2], ops.transpose(cutouts, (0, 2, 1, 3)), cutouts)
        return cutouts


class Trainer:
    """A network with its augmentation and optimiser: one step of learning, and logits without learning.

    Parameters
    ----------
    network
        From `otrain_train.network.build`; trained in place.
    settings
        Learning rate, weight decay, augmentation.
    seed
        Decides what is drawn at random.
    steps
        Of the whole training, which the learning rate follows.
    rate
        The highest learning rate.
    """

    def __init__(self, network: Any, settings: TrainSettings, seed: int, steps: int, rate: float) -> None:
        self.network = network
        self._settings, self._steps, self._rate = settings, steps, rate
        cutouts = keras.Input(network.input_shape[1:])
        turned = FlipsAndTurns(seed)(cutouts) if "flips-turns" in settings.augmentation else cutouts
        head = keras.Model(network.input, network.get_layer("logits").output)
        self._model = keras.Model(cutouts, head(turned))
        self._optimizer = keras.optimizers.AdamW(rate, settings.weight_decay)
        self._optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
        self._optimizer.build(self._model.trainable_variables)
        self._variables = [*self._model.variables, *self._optimizer.variables]
        self._learn = tf.function(self._learn_step, reduce_retracing=True)
        self._predict = tf.function(lambda batch: self._model(batch, training=False), reduce_retracing=True)

    def learn(self, step: int, batch: npt.NDArray[np.float32], labels: Any, weights: Any) -> tuple[float, float]:
        """Take a step and give the loss and the accuracy of its rows."""
        self._optimizer.learning_rate.assign(learning_rate(step, self._steps, self._rate, self._settings.warmup))
        truth, weight = tf.constant(labels, tf.int32), tf.constant(weights, tf.float32)
        loss, accuracy = self._learn(tf.constant(batch), truth, weight)
        return float(loss), float(accuracy)

    def logits(self, batch: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Give float32 (n, 2) logits of normalised cutouts."""
        return np.asarray(self._predict(tf.constant(batch)), np.float32)

    def state(self) -> Arrays:
        """Give copies of all variables."""
        return [each.numpy() for each in self._variables]

    def restore(self, state: Arrays) -> None:
        """Take over what `state` gave."""
        for variable, value in zip(self._variables, state, strict=True):
            variable.assign(value)

    def _learn_step(self, batch: Any, labels: Any, weights: Any) -> tuple[Any, Any]:
        with tf.GradientTape() as tape:
            logits = self._model(batch, training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.reduce_sum(weights * losses) / tf.reduce_sum(weights)
        variables = self._model.trainable_variables
        self._optimizer.apply(tape.gradient(loss, variables), variables)
        hits = tf.equal(tf.argmax(logits, 1, tf.int32), labels)
        return loss, tf.reduce_mean(tf.cast(hits, tf.float32))


def learning_rate(step: int, steps: int, highest: float, warmup: float) -> float:
    """Learning rate of a step, from 0: a linear rise in the warm-up, then half a cosine down to 0."""
    warm = warmup * steps
    rise = min(1.0, (step + 1) / (warm + 1))
    fall = 0.5 * (1 + math.cos(math.pi * max(0.0, step - warm) / (steps - warm)))
    return highest * rise * fall
