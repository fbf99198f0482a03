"""A datacube opened in the planes that a training asks for, without its pixels being copied into memory."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from otrain_infer.card import PLANES
from otrain_infer.datacube import read_planes
from otrain_infer.errors import DatacubeError, OutputError, UsageError
from otrain_infer.npz import map_file, open_npz
from otrain_train.datacube import REQUIRED, Datacube, rows_per_block
from otrain_train.mapped import read_rows


def open_in_planes(path: Path, planes: Sequence[str] | None = None) -> Datacube:
    """Open a datacube in some of its planes.

    Parameters
    ----------
    path
        The .npz file.
    planes
        Those wanted, in order; where the file does not say what its planes are, their names. All if not given.

    Returns
    -------
    Datacube
        As of `pick_planes`.

    Raises
    ------
    DatacubeError
        When the file is not a usable datacube, or does not hold these planes.
    UsageError
        When neither the file nor `planes` says what its planes are.
    OutputError
        As of `pick_planes`.
    """
    columns = open_npz(path, REQUIRED)
    try:
        count = columns["cube"].shape[3] if columns["cube"].ndim == 4 else 1
        named: Sequence[str] = read_planes(columns)
        if not set(named) <= set(PLANES) or len(named) != count:
            named = planes or (["DIFF"] if count == 1 else [])
        if not named:
            raise UsageError(
                f"'{path}' does not say which {count} planes it holds, the last number of its shape "
                f"{columns['cube'].shape}: name them with --planes"
            )
        datacube = Datacube.from_columns(columns, named)
        return pick_planes(datacube, planes or named)
    except DatacubeError as error:
        raise DatacubeError(f"'{path}' is not a usable datacube: {error}") from None


def pick_planes(datacube: Datacube, planes: Sequence[str]) -> Datacube:
    """Give some of the planes of a datacube, in the order in which they are named.

    Its cube is a view wherever planes at equal distances are taken, and so of all choices but a few orders of three
    planes, for which the pixels are copied to a temporary file.

    Raises
    ------
    DatacubeError
        When a plane is not there, or named twice.
    OutputError
        When the temporary file cannot be written.
    """
    held, missing = ", ".join(datacube.planes), ", ".join(each for each in planes if each not in datacube.planes)
    if missing:
        raise DatacubeError(f"it holds the planes {held} and not {missing}")
    if not planes or len(set(planes)) != len(planes):
        raise DatacubeError(
            f"of its planes, {held}, one or more different ones are to be taken, not {', '.join(planes)}"
        )
    numbers = [datacube.planes.index(plane) for plane in planes]
    steps = set(np.diff(numbers).tolist()) or {1}
    if len(steps) > 1:
        return replace(datacube, cube=_rearranged(datacube.cube, numbers), planes=tuple(planes))
    step: int = steps.pop()
    end = numbers[-1] + step
    picked = slice(numbers[0], end if end >= 0 else None, step)
    return replace(datacube, cube=datacube.cube[..., picked], planes=tuple(planes))


def _rearranged(cube: npt.NDArray[np.float32], planes: list[int]) -> npt.NDArray[np.float32]:
    # Written, not mapped for writing: a full disk is then an error and not the end of the process.
    try:
        with tempfile.TemporaryFile() as file:
            step = rows_per_block(cube)
            for start in range(0, len(cube), step):
                file.write(np.ascontiguousarray(read_rows(cube, slice(start, start + step))[..., planes]).data)
            file.flush()
            return np.frombuffer(map_file(file.fileno()), np.float32).reshape(*cube.shape[:3], len(planes))
    except OSError as error:
        raise OutputError(
            f"the planes could not be copied in another order to '{tempfile.gettempdir()}' ({error.strerror or error}):"
            " convert the FITS files with the planes in that order"
        ) from error
