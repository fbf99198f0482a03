"""An .npz file whose first member grows block by block, before it is known how many rows it will have.

It has no name before it is whole, and then needs no copy: what was written first stays where it is, and its headers are
put before it when its length is known.
"""

import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from isal.isal_zlib import crc32

from otrain_infer.npz import Member, member_info, npy_header, raw_bytes, write_member

Array = npt.NDArray[Any]

POLYNOMIAL = 0xEDB88320
"""That of the CRC of zip files, the highest power in the lowest bit."""

MANY = 10**12
"""Rows that no file has: the header of an array has room for their number."""


class NpzStream:
    """The growing file.

    Parameters
    ----------
    folder
        Where it will be; the file is gone when it is closed without a name.
    key, dtype, row
        The name of the first member, its type, and the shape of one of its rows.

    Raises
    ------
    OSError
        When the folder cannot be written to.
    """

    def __init__(self, folder: Path, key: str, dtype: npt.DTypeLike, row: tuple[int, ...]) -> None:
        self._dtype, self._row = np.dtype(dtype), row
        self._row_bytes = self._dtype.itemsize * int(np.prod(row))
        self._info = member_info(key, 0)
        self._header_length = len(npy_header(self._dtype, (MANY, *row)))
        self._start = len(self._info.FileHeader(zip64=True)) + self._header_length
        # (first row, CRC of all before) of each block, and of what comes next.
        self._blocks: list[tuple[int, int]] = [(0, 0)]
        self._file = _open_nameless(folder)
        self._file.seek(self._start)

    def close(self) -> None:
        """Close the file, which vanishes unless it was given a name."""
        self._file.close()

    @property
    def n(self) -> int:
        """How many rows there are."""
        return self._blocks[-1][0]

    def append(self, rows: Array) -> None:
        """Write rows. Raises OSError when they cannot be written."""
        content = raw_bytes(rows, self._dtype)
        self._file.write(content)
        n, crc = self._blocks[-1]
        self._blocks.append((n + len(rows), crc32(content, crc)))

    def read(self, first: int, n: int) -> Iterator[Array]:
        """Read `n` rows from the row `first` on, in the blocks in which they were written."""
        starts = [start for start, _ in self._blocks if first < start < first + n]
        for start, stop in zip([first, *starts], [*starts, first + n], strict=True):
            block = np.empty((stop - start, *self._row), self._dtype)
            self._file.seek(self._start + start * self._row_bytes)
            self._file.readinto(raw_bytes(block, self._dtype))
            yield block

    def finish(self, n: int, members: Iterable[Member], path: Path) -> None:
        """Keep the first `n` rows, write further members behind them, and give the file a name.

        Parameters
        ----------
        n
            Rows to keep.
        members
            The other arrays of the file.
        path
            Its name, which must not exist yet.

        Raises
        ------
        OSError
            When it cannot be written.
        """
        header = npy_header(self._dtype, (n, *self._row))
        if len(header) != self._header_length:
            raise OSError(f"{n} rows are more than a file can hold")
        length = n * self._row_bytes
        self._info.CRC = _join_crcs(crc32(header), self._crc(n), length)
        self._info.file_size = self._info.compress_size = len(header) + length
        self._file.seek(0)
        self._file.write(self._info.FileHeader(zip64=True) + header)
        self._file.seek(self._start + length)
        self._file.truncate()
        with zipfile.ZipFile(self._file, "w") as archive:
            archive.filelist.append(self._info)
            for member in members:
                write_member(archive, self._file.tell(), member)
        self._file.flush()
        self._name(path)

    def _crc(self, n: int) -> int:
        first, crc = max(block for block in self._blocks if block[0] <= n)
        for rest in self.read(first, n - first) if n > first else ():
            crc = crc32(raw_bytes(rest, self._dtype), crc)
        return crc

    def _name(self, path: Path) -> None:
        try:
            # A folder's descriptor, ignored beside a whole path, has Python make the call that follows the link.
            descriptor = self._file.fileno()
            os.link(f"/proc/self/fd/{descriptor}", path, src_dir_fd=descriptor, follow_symlinks=True)
        except (OSError, NotImplementedError):  # where the system knows no such thing
            self._file.seek(0)
            with path.open("wb") as copy:
                shutil.copyfileobj(self._file, copy, 1 << 24)


def _open_nameless(folder: Path) -> Any:
    try:
        # Not tempfile, whose files may be read by nobody else once they have a name.
        return open(os.open(folder, os.O_TMPFILE | os.O_RDWR, 0o666), "w+b")
    except (AttributeError, OSError):
        return tempfile.TemporaryFile(dir=folder)


def _join_crcs(first: int, second: int, length: int) -> int:
    """Give the CRC of two contents one behind the other, of their CRCs and the bytes of the second.

    That of the first is shifted past the second: multiplied by x to the power of its bits, modulo the polynomial, as
    zlib's crc32_combine does (https://zlib.net).
    """
    power, bits = 0x40000000, 8 * length  # x, and how often to multiply by it
    while bits:
        if bits & 1:
            first = _multiply(power, first)
        power = _multiply(power, power)
        bits >>= 1
    return first ^ second


def _multiply(a: int, b: int) -> int:
    product = 0
    for bit in range(31, -1, -1):
        if a >> bit & 1:
            product ^= b
        b = b >> 1 ^ (POLYNOMIAL if b & 1 else 0)
    return product
