"""A network that learns: its optimiser, its precision and one step of learning, on one device or several."""

import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

# TensorFlow reads this when it is imported: its notes on processors and sessions are not for users.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorflow.python.framework.config import disable_op_determinism

from otrain_train.augment import augmentations
from otrain_train.checkpoint import Arrays
from otrain_train.devices import Devices, joined
from otrain_train.settings import TrainSettings

POLICIES = {"fp32": "float32", "bf16": "mixed_bfloat16", "fp16": "mixed_float16"}

LOSS_SCALE = 2.0**15
"""What the loss begins to be multiplied by in fp16, so that small gradients do not vanish."""

GROW_AFTER = 2000
"""Steps with finite gradients after which it is doubled."""


def make_repeatable(seed: int, xla: bool = False) -> None:
    """Have this process draw from `seed` and compute the same sums in the same order every time.

    With XLA the order is as it comes, which on a GPU differs from time to time: XLA knows of no gradient of a maximum
    that always adds up in one order, and TensorFlow, told to be deterministic, refuses to compile it.
    """
    keras.utils.set_random_seed(seed)
    if xla:
        disable_op_determinism()
    else:
        tf.config.experimental.enable_op_determinism()


def backend_versions() -> dict[str, str]:
    """Give the versions of Keras and TensorFlow."""
    return {"keras": keras.__version__, "tensorflow": tf.__version__}


class Trainer:
    """A network with its augmentation and optimiser: one step of learning, and logits without learning.

    Weights, logits and loss are float32 whatever the precision of the sums between. In fp16 the loss is scaled, and a
    step whose gradients are not finite counts as one of none and halves the scale.

    Parameters
    ----------
    network
        As of `otrain_train.network.build`, made in the scope of the devices; trained in place.
    settings
        Rate, decay, augmentation, label smoothing, weight of the teachers, precision; `batch_size` and `learning_rate`
        filled in.
    seed
        Decides what is drawn at random.
    steps
        Of the whole training, which the learning rate follows.
    devices
        Where it is computed.
    teachers
        Networks of the same cutouts, made in the scope of the devices, whose mean score of each cutout, as it is
        turned and mirrored in this step, is learnt besides its label: it tells how alike the two classes are there
        (Hinton, Vinyals & Dean 2015, arXiv:1503.02531).
    """

    def __init__(
        self,
        network: Any,
        settings: TrainSettings,
        seed: int,
        steps: int,
        devices: Devices,
        teachers: Sequence[Any] = (),
    ) -> None:
        self.network, self.devices, self._teachers = network, devices, teachers
        self._settings, self._steps = settings, steps
        self._batch, self._rate = int(settings.batch_size or 0), float(settings.learning_rate or 0)
        for layer in leaves(network):
            layer.trainable = True
        with devices.scope():
            self._augmentations = augmentations(settings.augmentation, seed, settings.normalisation, self._batch)
            self._head = keras.Model(network.input, network.get_layer("logits").output)
            self._optimizer = keras.optimizers.AdamW(self._rate, settings.weight_decay)
            self._optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
            self._optimizer.build(self._head.trainable_variables)
            self._scaling = _LossScaling() if settings.precision == "fp16" else None
        drawn = [variable for each in self._augmentations for variable in each.variables]
        scale = self._scaling.variables if self._scaling else []
        self._variables = [*drawn, *self._head.variables, *self._optimizer.variables, *scale]
        set_precision(network, settings.precision)
        for layer in leaves(network) if devices.count > 1 else ():
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = True
        self.freeze(False)

    def freeze(self, frozen: bool) -> None:
        """Have only the dense layers learn from now on, batch normalisation at rest, or all of the network."""
        for layer in leaves(self.network):
            layer.trainable = not frozen or isinstance(layer, keras.layers.Dense)
        self._compile()

    def learn(self, step: int, batch: npt.NDArray[np.float32], labels: Any, weights: Any) -> tuple[float, float]:
        """Take a step with this host's share of a batch and give the loss and the accuracy of all its rows."""
        self._optimizer.learning_rate.assign(learning_rate(step, self._steps, self._rate, self._settings.warmup))
        arrays = tf.constant(batch), tf.constant(labels, tf.int32), tf.constant(weights, tf.float32)
        parts = self.devices.spread(self._batch, arrays)
        loss, accuracy = joined(lambda: [float(each) for each in self._learn(*parts)])
        return loss, accuracy

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

    def finished(self) -> Any:
        """Give the network as it is to be used: in float32, and no longer on several devices; so are its logits."""
        set_precision(self.network, "fp32")
        self.freeze(False)
        if self.devices.count == 1:
            return self.network
        plain = keras.models.clone_model(self.network)
        plain.set_weights(self.network.get_weights())
        for layer in leaves(plain):
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = False
        return plain

    def _compile(self) -> None:
        # What learns, and in what precision, is looked at once, when a function is first called.
        options = {"reduce_retracing": True, "jit_compile": self._settings.xla or None}
        self._learn = tf.function(self._learn_everywhere, **options)
        self._predict = tf.function(lambda batch: self._head(batch, training=False), **options)

    def _learn_everywhere(self, *parts: Any) -> tuple[Any, ...]:
        strategy = self.devices.strategy
        found = strategy.run(self._learn_part, args=parts)
        return tuple(strategy.reduce(tf.distribute.ReduceOp.SUM, each, axis=None) for each in found)

    def _learn_part(self, batch: Any, labels: Any, weights: Any) -> tuple[Any, Any]:
        # The parts of loss and accuracy that a device's rows have: what all devices give adds up to those of the batch.
        everywhere = tf.distribute.get_replica_context()
        total, rows = everywhere.all_reduce("SUM", [tf.reduce_sum(weights), tf.cast(tf.shape(labels)[0], tf.float32)])
        for layer in self._augmentations:
            batch = layer(batch, training=True)
        taught = [teacher(batch, training=False) for teacher in self._teachers]
        with tf.GradientTape() as tape:
            logits = self._head(batch, training=True)
            loss = tf.reduce_sum(weights * self._losses(labels, taught, logits)) / total
            scaled = self._scaling.scaled(loss) if self._scaling else loss
        variables = self._head.trainable_variables
        gradients = tape.gradient(scaled, variables)
        if self._scaling:
            gradients = self._scaling.unscaled(gradients, everywhere)
        self._optimizer.apply(gradients, variables)
        hits = tf.equal(tf.argmax(logits, 1, tf.int32), labels)
        return loss, tf.reduce_sum(tf.cast(hits, tf.float32)) / rows

    def _losses(self, labels: Any, taught: list[Any], logits: Any) -> Any:
        smoothing, weight = self._settings.label_smoothing, self._settings.teacher_weight
        if smoothing == 0 and not taught:
            return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
        truth = (1 - smoothing) * tf.one_hot(labels, 2) + smoothing / 2
        if taught:
            truth = weight * tf.add_n(taught) / len(taught) + (1 - weight) * truth
        return tf.nn.softmax_cross_entropy_with_logits(truth, logits)


class _LossScaling:
    """Multiplies the loss so that its gradients do not vanish in half precision, and finds out how far it may."""

    def __init__(self) -> None:
        self._scale = keras.Variable(LOSS_SCALE, trainable=False, aggregation="none", name="loss_scale")
        self._good = keras.Variable(0.0, trainable=False, aggregation="none", name="good_steps")
        self.variables = [self._scale, self._good]

    def scaled(self, loss: Any) -> Any:
        """Give the loss to differentiate."""
        return loss * self._scale.value

    def unscaled(self, gradients: list[Any], everywhere: Any) -> list[Any]:
        """Give the gradients of the loss itself, all 0 where one on any device is not finite."""
        scale, good = tf.identity(self._scale.value), self._good.value + 1
        bad = tf.add_n([tf.reduce_sum(tf.cast(~tf.math.is_finite(each), tf.float32)) for each in gradients])
        finite = everywhere.all_reduce("SUM", bad) == 0
        grown = tf.where(good >= GROW_AFTER, scale * 2, scale)
        self._scale.assign(tf.where(finite, grown, tf.maximum(scale / 2, 1.0)))
        self._good.assign(tf.where(finite & (good < GROW_AFTER), good, 0.0))
        return [tf.where(finite, each / scale, 0.0) for each in gradients]


def leaves(network: Any) -> Iterator[Any]:
    """Give the layers of a network that are not made of layers themselves."""
    for layer in network.layers:
        if hasattr(layer, "layers"):
            yield from leaves(layer)
        else:
            yield layer


def set_precision(network: Any, precision: str) -> None:
    """Say in what precision a network computes; its weights and what it gives stay float32.

    Parameters
    ----------
    network
        Ends with the layers ``logits`` and ``score``.
    precision
        One of `POLICIES`.
    """
    for layer in leaves(network):
        layer.dtype_policy = "float32" if layer.name in ("logits", "score") else POLICIES[precision]


def learning_rate(step: int, steps: int, highest: float, warmup: float) -> float:
    """Learning rate of a step, from 0: a linear rise in the warm-up, then half a cosine down to 0."""
    warm = warmup * steps
    rise = min(1.0, (step + 1) / (warm + 1))
    fall = 0.5 * (1 + math.cos(math.pi * max(0.0, step - warm) / (steps - warm)))
    return highest * rise * fall
