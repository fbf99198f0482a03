"""Batches of normalised cutouts, read and scaled in the background ahead of the step that takes them.

A tf.data pipeline over the numbers of the batches: a few threads read their rows and normalise them, and the batches
come in order. No more of a memory-mapped datacube than the batches that wait is ever in memory.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass
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

    def batches(self, rows_of: Callable[[int], Rows], start: int, stop: int) -> Generator[tuple[Rows, Any]]:
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
        pixels : tf.Tensor
            Normalised, float32 (n, ny, nx, planes).

        Raises
        ------
        DatacubeError
            When the file of the cube was cut short meanwhile.
        """
        threads = min(THREADS, max(1, available_processors() // 2))
        failures: list[DatacubeError] = []

        def read(number: npt.NDArray[np.int64]) -> tuple[Rows, npt.NDArray[np.float32]]:
            try:
                rows = rows_of(int(number))
                pixels = read_rows(self.cube, rows)
            except DatacubeError as error:
                failures.append(error)
                raise
            return rows, self.normalisation.apply(pixels, pixels)

        # Said to be stateless, for otherwise TensorFlow, told to be deterministic, would read in one thread.
        dataset = tf.data.Dataset.range(start, stop).map(
            lambda number: tf.numpy_function(read, [number], (tf.int64, tf.float32), stateful=False),
            num_parallel_calls=threads,
            deterministic=True,
        )
        options = tf.data.Options()
        options.autotune.enabled = False
        options.threading.private_threadpool_size = threads
        try:
            for rows, pixels in dataset.prefetch(threads).with_options(options):
                yield rows.numpy(), pixels
        except tf.errors.OpError:
            if failures:
                raise failures[0] from None
            raise
