"""What is done to cutouts at random while training: flips and quarter turns, shifts of a pixel, masked edges.

Each cutout is drawn for on its own, all of its planes alike. Several devices draw for the whole batch and take what is
for their part of it, so that what happens to a cutout does not depend on how many there are.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from otrain_train.devices import bound

EDGES_FRACTION = 0.15
"""Of the cutouts that have an edge masked."""

DEEPEST = 0.4
"""Fraction of a cutout's width that is masked at most: the object, in its centre, stays."""


class _Augmentation(keras.layers.Layer):  # type: ignore[misc]
    """Something done to normalised cutouts while training; `batch` is the rows of a step on all devices."""

    def __init__(self, seed: int, batch: int | None = None) -> None:
        super().__init__()
        self.generator = keras.random.SeedGenerator(seed)
        self.batch = batch

    def draw(self, count: int, cutouts: Any) -> Any:
        """Draw `count` numbers in [0, 1) for each cutout: float32 (count, n, 1, 1, 1)."""
        context = tf.distribute.get_replica_context()
        devices = 1 if context is None else context.num_replicas_in_sync
        rows = ops.shape(cutouts)[0]
        if devices == 1 or self.batch is None:
            return keras.random.uniform((count, rows, 1, 1, 1), seed=self.generator)
        first = bound(self.batch, context.replica_id_in_sync_group, devices)
        return keras.random.uniform((count, self.batch, 1, 1, 1), seed=self.generator)[:, first : first + rows]


class FlipsAndTurns(_Augmentation):
    """Turns and mirrors each cutout at random while training: all eight ways, or the four that keep a rectangle."""

    def call(self, cutouts: Any, training: bool = False) -> Any:
        """Give float32 (n, ny, nx, planes) cutouts, turned and mirrored when `training`."""
        if not training:
            return cutouts
        chosen = self.draw(3, cutouts) < 0.5
        cutouts = ops.where(chosen[0], ops.flip(cutouts, 1), cutouts)
        cutouts = ops.where(chosen[1], ops.flip(cutouts, 2), cutouts)
        if cutouts.shape[1] == cutouts.shape[2]:
            cutouts = ops.where(chosen[2], ops.transpose(cutouts, (0, 2, 1, 3)), cutouts)
        return cutouts


class Shifts(_Augmentation):
    """Shifts each cutout at random by up to a pixel along each axis while training: nine ways, all as likely.

    What comes in at an edge repeats the row or column there. Zeros would be what a missing pixel becomes, and a row of
    them says that the cutout is truncated, which a source that lies a pixel off the centre does not.
    """

    def call(self, cutouts: Any, training: bool = False) -> Any:
        """Give float32 (n, ny, nx, planes) cutouts, shifted when `training`."""
        if not training:
            return cutouts
        drawn = self.draw(2, cutouts)
        for axis, number in ((1, drawn[0]), (2, drawn[1])):
            up = ops.concatenate([_along(axis, cutouts, slice(1, None)), _along(axis, cutouts, slice(-1, None))], axis)
            down = ops.concatenate([_along(axis, cutouts, slice(1)), _along(axis, cutouts, slice(-1))], axis)
            cutouts = ops.where(number < 1 / 3, up, ops.where(number < 2 / 3, down, cutouts))
        return cutouts


def _along(axis: int, cutouts: Any, part: slice) -> Any:
    return cutouts[(slice(None),) * axis + (part,)]


class Edges(_Augmentation):
    """Masks a band on one side of some of the cutouts while training, as if the image ended there.

    The result is what the scorer makes of such a cutout: missing pixels are 0, and the others are scaled as if those
    had never been there, to unit norm again where the normalisation is ``l2`` or ``l2-rows``. The median and the spread
    that ``robust`` takes hardly change with the pixels that are left, and stay.

    Parameters
    ----------
    seed
        Decides which cutouts, which sides and how deep.
    method
        Of `otrain_infer.normalise.Normalisation`, which the cutouts have been through.
    batch
        Rows of a step on all devices.
    """

    def __init__(self, seed: int, method: str, batch: int | None = None) -> None:
        super().__init__(seed, batch)
        self.axes = {"l2": (1, 2), "l2-rows": (2,)}.get(method)

    def call(self, cutouts: Any, training: bool = False) -> Any:
        """Give float32 (n, ny, nx, planes) cutouts, some with a masked band when `training`."""
        if not training:
            return cutouts
        drawn = self.draw(3, cutouts)
        chosen, side, depth = (drawn[i] for i in range(3))
        masked = ops.where(_band(ops.floor(4 * side), depth, *cutouts.shape[1:3]), 0.0, cutouts)
        if self.axes is not None:
            squares = ops.sum(ops.square(masked), axis=self.axes, keepdims=True)
            masked = masked * ops.where(squares > 0, ops.rsqrt(ops.where(squares > 0, squares, 1.0)), 0.0)
        return ops.where(chosen < EDGES_FRACTION, masked, cutouts)


def _band(side: Any, depth: Any, ny: int, nx: int) -> Any:
    # Bool (n, ny, nx, 1): the band at side 0 (low y), 1 (high y), 2 (low x) or 3 of each cutout, depths in [0, 1).
    y, x = np.arange(ny, dtype=np.float32)[:, None, None], np.arange(nx, dtype=np.float32)[:, None]
    rows, columns = (1 + ops.floor(depth * int(DEEPEST * length)) for length in (ny, nx))
    along_y = ops.where(side == 0, y < rows, y >= ny - rows) & (side < 2)
    along_x = ops.where(side == 2, x < columns, x >= nx - columns) & (side >= 2)
    return along_y | along_x


def augmentations(names: tuple[str, ...], seed: int, method: str, batch: int) -> list[Any]:
    """Make the layers that stand for names of `otrain_train.settings.AUGMENTATIONS`, in the order they are applied.

    Parameters
    ----------
    names
        Which ones.
    seed
        Decides what is drawn.
    method
        Of the normalisation.
    batch
        Rows of a step on all devices.

    Returns
    -------
    list of keras.layers.Layer
    """
    others = np.random.SeedSequence(seed).generate_state(2).tolist()
    made: dict[str, Callable[[], Any]] = {
        "flips-turns": lambda: FlipsAndTurns(seed, batch),
        "shifts": lambda: Shifts(others[0], batch),
        "edges": lambda: Edges(others[1], method, batch),
    }
    return [make() for name, make in made.items() if name in names]
