"""Batches of normalised cutouts, read and scaled in the background ahead of the step that takes them.

A tf.data pipeline over the numbers of the batches: a few threads read their rows and normalise them, and the batches
come in order. No more of a memory-mapped datacube than the batches that wait is ever in memory.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from otrain_infer.command import available_processors
from otrain_infer.errors import DatacubeError
from otrain_infer.normalise import Normalisation
from otrain_train.mapped import read_rows
from otrain_train.splits import Rows

THREADS = 4
"""That read, at most; half of the processors where there are fewer."""

BLOCK = 1 << 22
"""Bytes of pixels that are read at a time, where batches are smaller."""


@dataclass(frozen=True, slots=True, eq=False)
class Feed:
    """The pixels of a datacube as a network takes them.

    Attributes
    ----------
    cube
        Raw pixels, float32 (n, ny, nx, planes), in memory or memory-mapped.
    normalisation
        What is done to them.
    """

    cube: npt.NDArray[np.float32]
    normalisation: Normalisation

    def batches(
        self, rows_of: Callable[[int], Rows], start: int, stop: int
    ) -> Generator[tuple[Rows, npt.NDArray[np.float32]]]:
        """Read batch after batch.

        Parameters
        ----------
        rows_of
            Gives the rows of a batch of a number; called from several threads.
        start, stop
            Numbers of the first batch and of the one after the last.

        Yields
        ------
        rows : ndarray
            int64 (n,).
        pixels : ndarray
            Normalised, float32 (n, ny, nx, planes).

        Raises
        ------
        DatacubeError
            When the file of the cube was cut short meanwhile.
        """
        failures: list[DatacubeError] = []

        def read(first: int, last: int) -> tuple[Rows, npt.NDArray[np.float32], npt.NDArray[np.int64]]:
            try:
                rows = [rows_of(number) for number in range(first, last)]
                together = np.concatenate(rows)
                pixels = read_rows(self.cube, together)
            except DatacubeError as error:
                failures.append(error)
                raise
            return together, self.normalisation.apply(pixels, pixels), np.cumsum([each.size for each in rows])

        # Small batches are read several at a time: handing one over takes as long as reading some dozen cutouts.
        batch = rows_of(start).size * prod(self.cube.shape[1:]) * self.cube.itemsize if start < stop else 1
        try:
            for rows, pixels, ends in _pipeline(read, range(start, stop, max(1, BLOCK // batch)), stop):
                yield from zip(np.split(rows, ends[:-1]), np.split(pixels, ends[:-1]), strict=True)
        except tf.errors.OpError:
            if failures:
                raise failures[0] from None
            raise


def _pipeline(read: Callable[[int, int], Any], firsts: range, stop: int) -> Generator[list[npt.NDArray[Any]]]:
    # What `read` gives for the numbers from each of the first ones to the next, in order, read ahead.
    threads = min(THREADS, max(1, available_processors() // 2))
    dataset = tf.data.Dataset.range(firsts.start, stop, firsts.step).map(
        # Said to be stateless, for otherwise TensorFlow, told to be deterministic, would read in one thread.
        lambda first: tf.numpy_function(
            lambda first: read(int(first), min(int(first) + firsts.step, stop)),
            [first],
            (tf.int64, tf.float32, tf.int64),
            stateful=False,
        ),
        num_parallel_calls=threads,
        deterministic=True,
    )
    options = tf.data.Options()
    options.autotune.enabled = False
    options.threading.private_threadpool_size = threads
    for read_ahead in dataset.prefetch(1).with_options(options):
        yield [each.numpy() for each in read_ahead]
