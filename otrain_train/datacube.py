"""The datacube: cutouts of known label with their raw pixels, in one .npz file."""

import hashlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from otrain_infer.datacube import read_numbers, read_pixels, read_planes, read_texts
from otrain_infer.errors import DatacubeError
from otrain_infer.npz import Member, open_npz, write_npz
from otrain_train.mapped import read_rows
from otrain_train.splits import split_rows

log = logging.getLogger(__name__)

Array = npt.NDArray[Any]

NUMBERS = ("mags", "errmags", "fwhms", "mjds", "weights")
TEXTS = ("filters", "candids", "files", "groups")
COLUMNS = ("cube", "labels", "mags", "errmags", "filters", "fwhms", "candids", "files", "groups", "mjds", "weights")
REQUIRED = ("cube", "labels")

BLOCK = 1 << 24
"""Bytes of pixels moved at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class Datacube:
    """Cutouts of known label as a struct of arrays: row i of each is cutout i.

    Attributes
    ----------
    cube
        Raw pixels, float32 (n, ny, nx, planes). From `load` it may be a read-only view of the file.
    labels
        int64 (n,): 1 real, 0 bogus.
    mags, errmags
        float64 (n,) (magnitudes), NaN where missing.
    filters
        Text (n,), empty where missing.
    fwhms
        float64 (n,) (pixels), NaN where missing.
    candids
        Text (n,), empty where missing.
    planes
        The names of the planes, in order.
    files
        Text (n,): the path of each cutout, relative to the folder that was converted; empty where unknown.
    groups
        Text (n,): rows of one group (an object, or else an image) are never on both sides of a split; a row whose
        group is empty is its own.
    mjds
        float64 (n,) (days): the modified Julian date, NaN where missing.
    weights
        float64 (n,), above 0: what each row counts in a training, such as the part of the votes that agree with its
        label; 1 where nothing is known.

    Raises
    ------
    DatacubeError
        When the columns do not fit together.
    """

    cube: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    mags: npt.NDArray[np.float64]
    errmags: npt.NDArray[np.float64]
    filters: npt.NDArray[np.str_]
    fwhms: npt.NDArray[np.float64]
    candids: npt.NDArray[np.str_]
    planes: tuple[str, ...]
    files: npt.NDArray[np.str_]
    groups: npt.NDArray[np.str_]
    mjds: npt.NDArray[np.float64]
    weights: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.cube.ndim != 4 or 0 in self.cube.shape:
            raise DatacubeError(f"a cube has the axes (n, ny, nx, planes), none of them empty, not {self.cube.shape}")
        if len(self.planes) != self.cube.shape[3]:
            raise DatacubeError(f"{len(self.planes)} planes are named but the cube has {self.cube.shape[3]}")
        for key in COLUMNS[1:]:
            shape = getattr(self, key).shape
            if shape != (len(self),):
                raise DatacubeError(f"'{key}' has the shape {shape}, but the cube holds {len(self)} cutouts")
        if not np.isin(self.labels, (0, 1)).all():
            raise DatacubeError("labels are 1 for real and 0 for bogus, and there are others among these")
        if not (np.isfinite(self.weights) & (self.weights > 0)).all():
            raise DatacubeError("weights are numbers above 0, and there are others among these")

    def __len__(self) -> int:
        return len(self.cube)

    @property
    def size(self) -> tuple[int, int]:
        """(ny, nx) of the cutouts (pixels)."""
        return int(self.cube.shape[1]), int(self.cube.shape[2])

    @property
    def n_true(self) -> int:
        """How many rows are real."""
        return int(np.count_nonzero(self.labels))

    @property
    def n_false(self) -> int:
        """How many rows are bogus."""
        return len(self) - self.n_true

    @classmethod
    def from_columns(cls, columns: Mapping[str, Array], planes: Sequence[str] | None = None) -> "Datacube":
        """Make a datacube of arrays as either program names and shapes them.

        Parameters
        ----------
        columns
            `cube`, (n, ny, nx, planes) or (n, ny, nx), and `labels`, 0/1 (n,) or one-hot (n, 2) with the real ones
            second; the others where there are any.
        planes
            The names of the planes. By default what `columns` says, or else DIFF for a single plane and PLANE1,
            PLANE2, ... for several.

        Returns
        -------
        Datacube
            The cube itself where it is float32 (n, ny, nx, planes) already, copies of the rest.

        Raises
        ------
        DatacubeError
            When a column is no such thing.
        """
        cube = read_pixels(columns["cube"])
        n = len(cube)
        found = read_planes(columns)
        return cls(
            cube=cube,
            labels=_labels(columns["labels"]),
            mags=read_numbers(columns, "mags", n),
            errmags=read_numbers(columns, "errmags", n),
            filters=read_texts(columns, "filters", n),
            fwhms=read_numbers(columns, "fwhms", n),
            candids=read_texts(columns, "candids", n),
            planes=tuple(planes or found or _plane_names(cube.shape[3])),
            files=read_texts(columns, "files", n),
            groups=read_texts(columns, "groups", n),
            mjds=read_numbers(columns, "mjds", n),
            weights=np.nan_to_num(read_numbers(columns, "weights", n), nan=1.0),
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str], planes: Sequence[str] | None = None) -> "Datacube":
        """Open a datacube file of this program or of the original one.

        Parameters
        ----------
        path
            The .npz file.
        planes
            The names of the planes, where the file does not say them.

        Returns
        -------
        Datacube
            Its cube is a read-only view of the memory-mapped file where it was stored as float32.

        Raises
        ------
        DatacubeError
            When the file is not a usable datacube.
        """
        columns = open_npz(path, REQUIRED)
        try:
            return cls.from_columns(columns, planes)
        except DatacubeError as error:
            raise DatacubeError(f"'{path}' is not a usable datacube: {error}") from None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file, whole or not at all; the same content always gives the same bytes.

        Raises
        ------
        OutputError
            When it cannot be written.
        """
        widths = {key: text_width(getattr(self, key)) for key in TEXTS}
        write_columns(path, len(self), self.size, self.planes, widths, self._blocks)

    def _blocks(self, key: str) -> Iterator[Array]:
        column, step = getattr(self, key), rows_per_block(self.cube)
        for start in range(0, len(self), step):
            rows = slice(start, start + step)
            yield self.read(rows) if key == "cube" else column[rows]

    def select(self, rows: npt.NDArray[Any] | Sequence[int] | slice) -> "Datacube":
        """Give some of the rows, as an index array, a bool (n,) or a slice says; a slice copies nothing.

        Raises
        ------
        DatacubeError
            When no row is left.
        """
        index = rows if isinstance(rows, slice) else np.arange(len(self))[np.asarray(rows)]
        if len(np.arange(len(self))[index]) == 0:
            raise DatacubeError("no row was selected: a datacube holds at least one cutout")
        cube = self.cube[index] if isinstance(index, slice) else self.read(index)
        return Datacube(cube=cube, planes=self.planes, **{key: getattr(self, key)[index] for key in COLUMNS[1:]})

    def read(self, rows: npt.NDArray[Any] | slice) -> npt.NDArray[np.float32]:
        """Copy the raw pixels of some rows; nothing else of a memory-mapped cube stays in memory.

        Parameters
        ----------
        rows
            int64 (m,), or a slice.

        Returns
        -------
        ndarray
            float32 (m, ny, nx, planes), contiguous and writable.
        """
        return read_rows(self.cube, rows)

    def split(self, fraction: float, rng: np.random.Generator | int) -> tuple["Datacube", "Datacube"]:
        """Split into a training and a validation part, as `split_rows` does.

        Returns
        -------
        tuple of Datacube
            The training part and the validation part, about `fraction` of each class. Both are copies.
        """
        training, validation = split_rows(self.labels, self.groups, fraction, rng)
        return self.select(training), self.select(validation)


def sha256(path: str | os.PathLike[str]) -> str:
    """Give the SHA-256 of a file, 64 hexadecimal digits: the identity of a datacube."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DatacubeError(f"'{path}' cannot be read ({error.strerror or error})") from None


def _labels(labels: Array) -> npt.NDArray[np.int64]:
    if labels.dtype.kind not in "biuf":
        raise DatacubeError(f"its labels are {labels.dtype}, not numbers")
    if not np.isin(labels, (0, 1)).all():
        raise DatacubeError("labels are 1 for real and 0 for bogus, and there are others among these")
    if labels.ndim == 2 and labels.shape[1] == 2:
        if not (labels.sum(axis=1) == 1).all():
            raise DatacubeError("its one-hot labels do not name one class for each cutout")
        labels = labels[:, 1]
    elif labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    return labels.astype(np.int64)


def _plane_names(count: int) -> list[str]:
    if count == 1:
        return ["DIFF"]
    log.warning("the datacube does not name its %d planes: they are called PLANE1 and so on", count)
    return [f"PLANE{number}" for number in range(1, count + 1)]


def text_width(texts: npt.NDArray[np.str_]) -> int:
    """Give the length of the longest text that an array has room for, at least 1."""
    return max(1, texts.dtype.itemsize // np.dtype("<U1").itemsize)


def make_members(
    n: int,
    size: tuple[int, int],
    planes: tuple[str, ...],
    widths: Mapping[str, int],
    blocks: Callable[[str], Iterator[Array]],
) -> list[Member]:
    """Give the arrays of a datacube file, the cube first; parameters are those of `write_columns`."""
    types = {"cube": "<f4", "labels": "<i8"} | dict.fromkeys(NUMBERS, "<f8")
    types |= {key: f"<U{width}" for key, width in widths.items()}
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(COLUMNS, (n,)) | {"cube": (n, *size, len(planes))}
    names = np.array(planes, np.str_)
    members = [Member(key, np.dtype(types[key]), shapes[key], blocks(key)) for key in COLUMNS]
    return [*members, Member("planes", names.dtype, names.shape, [names])]


def write_columns(
    path: str | os.PathLike[str],
    n: int,
    size: tuple[int, int],
    planes: tuple[str, ...],
    widths: Mapping[str, int],
    blocks: Callable[[str], Iterator[Array]],
) -> None:
    """Write a datacube file column by column.

    Parameters
    ----------
    path
        The file.
    n, size, planes
        The shape of the cube: rows, (ny, nx) and the names of the planes.
    widths
        For each text column the length of its longest text.
    blocks
        Gives the parts of a column, in the order of the rows.

    Raises
    ------
    OutputError
        When it cannot be written.
    """
    write_npz(path, make_members(n, size, planes, widths, blocks))


def rows_per_block(cube: npt.NDArray[np.float32]) -> int:
    """Give how many rows of a cube are moved at a time."""
    return max(1, BLOCK // (cube.itemsize * prod(cube.shape[1:])))
