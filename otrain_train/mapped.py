"""Rows of a cube copied into memory, of which nothing else stays there where the cube is a memory-mapped file.

The pages of a memory-mapped file count as memory of the process once they were touched, with many around them, until
the system wants them back: going through a large cube once would take up as much memory as it has. So they are not
touched: the rows are read from the file, which stays in the system's cache, where it is no one's. Small files may stay.
"""

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from otrain_infer.errors import DatacubeError
from otrain_infer.npz import MappedFile

SMALL = 1 << 26
"""Bytes of a file that may stay in memory: to touch it is faster than to read it."""


def read_rows(cube: npt.NDArray[np.float32], rows: npt.NDArray[Any] | slice) -> npt.NDArray[np.float32]:
    """Copy rows of a cube into memory.

    Rows of a large memory-mapped file are asked for all at once, so that the disk may choose the order, and taken in
    the order in which they lie there.

    Parameters
    ----------
    cube
        (n, ny, nx, planes), in memory or a view of a file that `otrain_infer.npz.map_file` mapped.
    rows
        int64 (m,) or a slice.

    Returns
    -------
    ndarray
        float32 (m, ny, nx, planes), contiguous and writable.

    Raises
    ------
    DatacubeError
        When the file was cut short meanwhile.
    """
    file = _file_of(cube)
    if file is None or len(file) <= SMALL or not hasattr(os, "preadv"):
        return np.array(cube[rows], np.float32, order="C")
    index = np.arange(len(cube))[rows]
    pixels = np.empty((index.size, *cube.shape[1:]), np.float32)
    # What a row is a part of in the file: other planes may lie between its own.
    row, lowest, length = _row_in_file(cube, file)
    direct = row.flags.c_contiguous
    places = np.argsort(index * cube.strides[0], kind="stable").tolist()
    starts = (lowest + index * cube.strides[0]).tolist()
    for place in places if hasattr(os, "posix_fadvise") else ():
        os.posix_fadvise(file.descriptor, starts[place], length, os.POSIX_FADV_WILLNEED)
    for place in places:
        into: Any = pixels[place] if direct else row.base
        if os.preadv(file.descriptor, [into], starts[place]) != length:
            raise DatacubeError("the file of the datacube was cut short while it was read: make it anew")
        if not direct:
            pixels[place] = row
    return pixels


def _file_of(array: Any) -> MappedFile | None:
    # What an array is a view of, if that is such a file.
    while isinstance(array, np.ndarray):
        array = array.base
    if isinstance(array, memoryview):
        array = array.obj
    return array if isinstance(array, MappedFile) else None


def _row_in_file(cube: npt.NDArray[np.float32], file: MappedFile) -> tuple[npt.NDArray[np.float32], int, int]:
    # A row of the same layout in memory, of bytes of its own; where the bytes of row 0 begin in the file; how many.
    low, high = np.lib.array_utils.byte_bounds(cube[:1])
    buffer = np.empty(high - low, np.uint8)
    row = np.ndarray(cube.shape[1:], np.float32, buffer, _address(cube) - low, cube.strides[1:])
    return row, low - _address(np.frombuffer(file, np.uint8, 1)), high - low


def _address(array: npt.NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])
