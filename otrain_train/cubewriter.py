"""Writing a datacube whose rows need not fit into memory."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from otrain_infer.atomic import replacing
from otrain_infer.errors import DatacubeError, OutputError
from otrain_infer.npz import npy_header, raw_bytes, read_npy_header, write_npz
from otrain_train.datacube import COLUMNS, TEXTS, Datacube, make_members, rows_per_block, text_width
from otrain_train.npz_stream import NpzStream


class DatacubeWriter:
    """Writes a datacube in memory that does not grow with its rows: all real ones first, then all bogus ones.

    Rows come in any order and in batches of any size. They wait in nameless files beside the final one, which vanish
    with the process however it ends; the final file appears whole, or not at all, when the block ends well. Pixels that
    come in the order of the final file are written only once.

    Parameters
    ----------
    path
        The .npz file to write. Its folder is made where it is missing.

    Raises
    ------
    OutputError
        When the file cannot be written.

    Examples
    --------
    ::

        with DatacubeWriter("cube.npz") as writer:
            for rows in batches:
                writer.append(rows)
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._stack = ExitStack()
        self._spools: dict[int, _Spool] = {}
        self._kind: tuple[tuple[str, ...], tuple[int, int]] | None = None
        self._pixels: NpzStream | None = None
        self._runs: list[tuple[int, int, int]] = []
        self._kept: dict[int, int] = {}

    def __enter__(self) -> "DatacubeWriter":
        with self._stack, _writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._spools = {label: self._stack.enter_context(_Spool(self.path.parent)) for label in (1, 0)}
            self._stack = self._stack.pop_all()
        return self

    def append(self, rows: Datacube) -> None:
        """Take rows, of the same planes and size as those before.

        Raises
        ------
        DatacubeError
            When planes or size differ.
        OutputError
            When the disk is full.
        """
        kind = (rows.planes, rows.size)
        if self._kind is None:
            self._kind = kind
        elif self._kind != kind:
            raise DatacubeError(f"rows of planes and size {kind} do not fit a datacube of {self._kind}")
        step = rows_per_block(rows.cube)
        with _writing(self.path):
            if self._pixels is None:
                self._pixels = NpzStream(self.path.parent, "cube", "<f4", rows.cube.shape[1:])
                self._stack.callback(_close, self._pixels)
            for label, spool in self._spools.items():
                chosen = np.flatnonzero(rows.labels == label)
                for start in range(0, len(chosen), step):
                    stop = min(start + step, len(chosen))
                    # Rows that follow each other need no copy.
                    together = chosen[stop - 1] - chosen[start] == stop - 1 - start
                    part = slice(int(chosen[start]), int(chosen[stop - 1]) + 1) if together else chosen[start:stop]
                    taken = rows.select(part)
                    spool.append(taken)
                    self._runs.append((label, self._pixels.n, len(taken)))
                    self._pixels.append(taken.cube)

    @property
    def n_true(self) -> int:
        """How many real rows were taken."""
        return self._spools[1].n

    @property
    def n_false(self) -> int:
        """How many bogus rows were taken."""
        return self._spools[0].n

    def keep(self, n_true: int, n_false: int) -> None:
        """Have only the first so many rows of each class written."""
        self._kept = {1: n_true, 0: n_false}

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: object) -> None:
        with self._stack:
            if kind is None:
                self._finish()

    def _finish(self) -> None:
        n = sum(self._count(label) for label in self._spools)
        if n == 0 or self._kind is None or self._pixels is None:
            raise DatacubeError(f"'{self.path}' was not written: there is not one cutout for it")
        widths = {key: max(spool.widths[key] for spool in self._spools.values()) for key in TEXTS}
        planes, size = self._kind
        members = make_members(n, size, planes, widths, self._blocks)
        if self._in_order():
            with replacing(self.path) as temporary:
                self._pixels.finish(n, members[1:], temporary)
        else:
            write_npz(self.path, members)

    def _in_order(self) -> bool:
        labels = [label for label, _, _ in self._runs]
        return labels == sorted(labels, reverse=True) and (self._count(0) == 0 or self._count(1) == self.n_true)

    def _count(self, label: int) -> int:
        return min(self._kept.get(label, self._spools[label].n), self._spools[label].n)

    def _blocks(self, key: str) -> Iterator[npt.NDArray[Any]]:
        for label, spool in self._spools.items():
            left = self._count(label)
            yield from self._blocks_of_pixels(label, left) if key == "cube" else spool.blocks(key, left)

    def _blocks_of_pixels(self, label: int, left: int) -> Iterator[npt.NDArray[Any]]:
        for each, first, n in self._runs:
            if self._pixels and each == label and left > 0:
                yield from self._pixels.read(first, min(n, left))
                left -= n


def _close(stream: NpzStream) -> None:
    with suppress(OSError):  # what could not be flushed to a full disk is thrown away in any case
        stream.close()


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"'{path}' could not be written ({error.strerror or error})") from error


class _Spool:
    """The rows of one class but for their pixels, each column in a nameless file, as consecutive .npy blocks."""

    def __init__(self, folder: Path) -> None:
        self.n = 0
        self.widths = dict.fromkeys(TEXTS, 1)
        self._folder = folder
        self._files: dict[str, Any] = {}

    def __enter__(self) -> "_Spool":
        with ExitStack() as stack:
            for key in COLUMNS[1:]:
                self._files[key] = stack.enter_context(tempfile.TemporaryFile(dir=self._folder))
            self._close = stack.pop_all().close
        return self

    def __exit__(self, *error: object) -> None:
        with suppress(OSError):  # what could not be flushed to a full disk is thrown away in any case
            self._close()

    def append(self, rows: Datacube) -> None:
        for key, file in self._files.items():
            # Not numpy.save, whose error on a full disk does not name the cause.
            column = getattr(rows, key)
            file.write(npy_header(column.dtype, column.shape))
            file.write(raw_bytes(column, column.dtype))
        for key in TEXTS:
            self.widths[key] = max(self.widths[key], text_width(getattr(rows, key)))
        self.n += len(rows)

    def blocks(self, key: str, n: int) -> Iterator[npt.NDArray[Any]]:
        file = self._files[key]
        file.seek(0)
        while n > 0:
            # Not numpy.load, which copies what it reads from such a file once more.
            shape, _, dtype = read_npy_header(file)
            block = np.empty(shape, dtype)
            file.readinto(block.reshape(-1).view(np.uint8))
            yield block[:n]
            n -= len(block)
