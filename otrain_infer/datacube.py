"""A datacube (.npz) read: its columns, and its rows as cutouts."""

import math
import os
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from otrain_infer.card import ModelCard
from otrain_infer.cutouts import CHUNK, NUMBERS, REQUIRED, SENTINEL, TEXTS, Cutouts
from otrain_infer.errors import DatacubeError
from otrain_infer.flags import CutoutFlag
from otrain_infer.normalise import as_kernels_take, find_blank
from otrain_infer.npz import Array, check_members, open_npz

COLUMNS = {"CANDID": "candids", "FILTER": "filters", "MAG": "mags", "MAGERR": "errmags", "FWHM": "fwhms", "MJD": "mjds"}
"""Column of the header -> key of the datacube."""


def count_rows(path: str | os.PathLike[str]) -> int:
    """Count the cutouts of a datacube; raises DatacubeError where it is none."""
    return int(np.atleast_1d(open_npz(path, ["cube"])["cube"]).shape[0])


def iter_datacube(path: str | os.PathLike[str], card: ModelCard, chunk: int = CHUNK) -> Iterator[Cutouts]:
    """Read the rows of a datacube as the cutouts that a model takes.

    Parameters
    ----------
    path
        An .npz file with the key ``cube``; other keys of the format are used where they are there.
    card
        Of the model: its planes are picked by name where the datacube names its own, else they must be as many.
    chunk
        Rows of each part.

    Yields
    ------
    Cutouts
        Consecutive rows.

    Raises
    ------
    DatacubeError
        When the file is no datacube, is damaged, or is not of the model's planes and size.
    """
    try:
        arrays = open_npz(path, ["cube"])
        check_members(path)
        yield from _iter_rows(arrays, str(path), card, chunk)
    except DatacubeError as error:
        raise DatacubeError(f"'{path}' cannot be scored: {error}") from None


def _iter_rows(arrays: dict[str, Array], path: str, card: ModelCard, chunk: int) -> Iterator[Cutouts]:
    cube = read_pixels(arrays["cube"])
    picked = pick_planes(read_planes(arrays), cube.shape[3], card)
    if cube.shape[1:3] != card.size:
        raise DatacubeError(
            f"it holds cutouts of {cube.shape[1]}x{cube.shape[2]} pixels and the model takes "
            f"{card.size[0]}x{card.size[1]}: convert the FITS files with --cutout-size {card.size[0]}"
        )
    n = len(cube)
    header: dict[str, Array] = {key: read_numbers(arrays, COLUMNS.get(key, ""), n) for key in NUMBERS}
    header |= {key: read_texts(arrays, COLUMNS.get(key, ""), n) for key in TEXTS}
    files = read_texts(arrays, "files", n)
    for start in range(0, n, chunk):
        rows = slice(start, start + chunk)
        pixels = as_kernels_take(cube[rows][..., picked])
        names = [file or f"{path}[{start + i}]" for i, file in enumerate(files[rows].tolist())]
        yield _cutouts_of(names, pixels, {key: column[rows] for key, column in header.items()})


def read_pixels(cube: Array) -> npt.NDArray[np.float32]:
    """Give a cube as float32 (n, ny, nx, planes); one that is so already stays where it is, on disk.

    Raises
    ------
    DatacubeError
        When it is no such thing, or holds nothing.
    """
    if cube.dtype.kind not in "biuf":
        raise DatacubeError(f"its cube holds {cube.dtype}, not numbers")
    if cube.ndim == 3:
        cube = cube[..., np.newaxis]
    if cube.ndim != 4 or 0 in cube.shape:
        raise DatacubeError(f"a cube has the axes (n, ny, nx, planes), none of them empty, not the shape {cube.shape}")
    with np.errstate(over="ignore"):  # what float32 does not hold becomes infinite, as a pixel that is not finite
        return np.asarray(cube, np.float32, order="C")


def read_planes(columns: Mapping[str, Array]) -> list[str]:
    """Give the names of the planes that a datacube says, none if it does not."""
    if "planes" not in columns:
        return []
    return [str(plane) for plane in _decoded(columns["planes"]).ravel()]


def read_numbers(columns: Mapping[str, Array], key: str, n: int) -> npt.NDArray[np.float64]:
    """Give a column of n numbers as float64, NaN where they are missing, are `SENTINEL`, or say no number.

    Raises
    ------
    DatacubeError
        When it is no such column.
    """
    if key not in columns:
        return np.full(n, np.nan)
    values = _checked(columns[key], key, n)
    if values.dtype.kind in "US":
        values = np.array([_number(text) for text in _decoded(values).tolist()], np.float64)
    if values.dtype.kind not in "biuf":
        raise DatacubeError(f"'{key}' holds {values.dtype}, not numbers")
    numbers = values.astype(np.float64)
    numbers[numbers == SENTINEL] = np.nan
    return numbers


def read_texts(columns: Mapping[str, Array], key: str, n: int) -> npt.NDArray[np.str_]:
    """Give a column of n texts, empty where they are missing.

    Raises
    ------
    DatacubeError
        When it is no such column.
    """
    if key not in columns:
        return np.full(n, "", "<U1")
    values = _checked(columns[key], key, n)
    if values.dtype.kind == "f":
        return np.array(["" if np.isnan(value) else f"{value:.17g}" for value in values.tolist()], np.str_)
    return _decoded(values)


def _checked(values: Array, key: str, n: int) -> Array:
    if values.shape != (n,):
        raise DatacubeError(f"'{key}' has the shape {values.shape}, but the cube holds {n} cutouts")
    return values


def _decoded(values: Array) -> npt.NDArray[np.str_]:
    return np.char.decode(values, "utf-8", "replace") if values.dtype.kind == "S" else values.astype(np.str_)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def pick_planes(named: Sequence[str], count: int, card: ModelCard) -> list[int]:
    """Say which of `count` planes, called so where `named` is not empty, a model takes, in its order.

    Raises
    ------
    DatacubeError
        When they are not there.
    """
    if len(named) == count and set(card.planes) <= set(named):
        return [list(named).index(plane) for plane in card.planes]
    if not named and count == len(card.planes):
        return list(range(count))
    held = ", ".join(named) or f"{count} unnamed"
    raise DatacubeError(f"it holds the planes {held} and the model takes {', '.join(card.planes)}")


def _cutouts_of(names: list[str], pixels: npt.NDArray[np.float32], header: dict[str, Array]) -> Cutouts:
    flags = np.zeros(len(names), np.uint32)
    flags[find_blank(pixels)] |= np.uint32(CutoutFlag.BLANK)
    flags[~np.isfinite(pixels).all(axis=(1, 2, 3))] |= np.uint32(CutoutFlag.NAN_PIXELS)
    for column in REQUIRED:
        if column != "EDGE":
            missing = np.isnan(header[column]) if column in NUMBERS else header[column] == ""
            flags[missing] |= np.uint32(CutoutFlag.MISSING_KEYWORD)
    reasons = {int(row): "a plane is blank" for row in np.flatnonzero(flags & CutoutFlag.BLANK)}
    return Cutouts(np.array(names, np.str_), pixels, header, flags, reasons)
