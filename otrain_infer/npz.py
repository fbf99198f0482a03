"""Reading and writing .npz files without pickles: what is stored as it is can be used straight from the disk."""

import math
import mmap
import os
import struct
import tokenize
import weakref
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from otrain_infer.atomic import replacing
from otrain_infer.errors import DatacubeError

Array = npt.NDArray[Any]

LOCAL_HEADER = struct.Struct("<4s22xHH")
LOCAL_SIGNATURE = b"PK\x03\x04"

ALIGNMENT = 64
ZIP64_FIELD_SIZE = 20
FIELD_HEADER = struct.Struct("<HH")
PADDING_FIELD = 0xD935
"""The extra field that others use to align members, too."""

DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    ValueError,
    NotImplementedError,
    RuntimeError,
    SyntaxError,
    tokenize.TokenError,
)


def check_members(path: str | os.PathLike[str]) -> None:
    """Read an .npz file through, and raise DatacubeError where its content is not what was written."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (OSError, zipfile.BadZipFile, zlib.error) as error:
        raise DatacubeError(f"'{path}' is damaged ({error}): copy or make it anew") from None
    if damaged:
        raise DatacubeError(f"'{path}' is damaged: its {damaged} is not what was written; copy or make it anew")


def open_npz(path: str | os.PathLike[str], required: Sequence[str] = ()) -> dict[str, Array]:
    """Open an .npz file.

    Parameters
    ----------
    path
        The file.
    required
        Keys that must be there.

    Returns
    -------
    dict
        Each member under its key, without the ending .npy, as a read-only array. Numbers that are stored rather than
        deflated are views of the memory-mapped file: nothing of them is read before it is used, and they need not be
        aligned in memory (those of `numpy.savez` seldom are). Everything else is in memory.

    Raises
    ------
    DatacubeError
        When the file is not there or is not an .npz file, when it is truncated or damaged, when it holds Python
        objects (which only unpickling could read), or when a required key is missing.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            arrays = _read_members(path, file)
    except FileNotFoundError:
        raise DatacubeError(f"there is no file '{path}'") from None
    except OSError as error:
        raise DatacubeError(f"'{path}' cannot be read ({error.strerror or error})") from None
    missing = [key for key in required if key not in arrays]
    if missing:
        found = ", ".join(sorted(arrays)) or "nothing"
        raise DatacubeError(f"'{path}' is not a datacube: it lacks {', '.join(missing)} and holds {found}")
    return arrays


def _read_members(path: Path, file: IO[bytes]) -> dict[str, Array]:
    try:
        archive = zipfile.ZipFile(file)
    except DAMAGED:
        raise DatacubeError(f"'{path}' is not an .npz file, or it is truncated: make the file anew") from None
    mapped = map_file(file.fileno())
    arrays = {}
    with archive:
        for info in archive.infolist():
            key = info.filename.removesuffix(".npy")
            if key == info.filename:
                continue
            try:
                arrays[key] = _read_member(archive, info, mapped)
            except _ObjectsError:
                raise DatacubeError(
                    f"'{key}' in '{path}' holds Python objects, which are never unpickled: save it as numbers or text"
                ) from None
            except DAMAGED as error:
                raise DatacubeError(f"'{key}' in '{path}' is damaged ({error}): make the file anew") from None
    return arrays


class MappedFile(mmap.mmap):
    """A memory-mapped file that can be read, too, which does not make its pages memory of the process.

    Attributes
    ----------
    descriptor
        The open file.
    """

    descriptor: int


def map_file(descriptor: int) -> MappedFile:
    """Map an open file for reading; arrays made of the map keep it, and the file, open for as long as they live."""
    mapped = MappedFile(descriptor, 0, access=mmap.ACCESS_READ)
    mapped.descriptor = os.dup(descriptor)
    weakref.finalize(mapped, os.close, mapped.descriptor).atexit = False
    return mapped


class _ObjectsError(Exception):
    """An array of Python objects."""


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, mapped: mmap.mmap) -> Array:
    with archive.open(info) as member:
        shape, fortran, dtype = read_npy_header(member)
        start, count = member.tell(), math.prod(shape)
        if start + count * dtype.itemsize != info.file_size:
            raise ValueError("its length and its shape disagree")
        if dtype.kind in "biufc" and count and info.compress_type == zipfile.ZIP_STORED:
            values = np.frombuffer(mapped, dtype, count, _data_offset(info, mapped) + start)
        else:
            # A view of bytes is read-only, as the memory-mapped ones are.
            values = np.frombuffer(member.read(), dtype) if count and dtype.itemsize else np.zeros(count, dtype)
    values = values.reshape(shape, order="F" if fortran else "C")
    values.flags.writeable = False
    return values


def read_npy_header(member: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read what precedes the values of an array in an .npy file or member: shape, whether in Fortran order, type."""
    version = np.lib.format.read_magic(member)
    if version == (1, 0):
        header = np.lib.format.read_array_header_1_0(member)
    elif version == (2, 0):
        header = np.lib.format.read_array_header_2_0(member)
    else:
        raise ValueError(f"version {version[0]}.{version[1]} of the .npy format is unknown")
    if header[2].hasobject:
        raise _ObjectsError
    return header


def _data_offset(info: zipfile.ZipInfo, mapped: mmap.mmap) -> int:
    # The local header repeats the name and has extra fields of its own, so only it says where the data begin.
    signature, name, extra = LOCAL_HEADER.unpack_from(mapped, info.header_offset)
    offset = info.header_offset + LOCAL_HEADER.size + name + extra
    if signature != LOCAL_SIGNATURE or offset + info.file_size > len(mapped):
        raise ValueError("its place in the file is wrong")
    return int(offset)


@dataclass(frozen=True, slots=True)
class Member:
    """An array to be written.

    Attributes
    ----------
    key
        Its name in the file.
    dtype, shape
        What it is as a whole.
    blocks
        Its values in C order, in parts that follow each other.
    """

    key: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    blocks: Iterable[Array]


def write_npz(path: str | os.PathLike[str], members: Iterable[Member]) -> None:
    """Write an .npz file, whole or not at all; the same content always gives the same bytes.

    Parameters
    ----------
    path
        The file.
    members
        The arrays; their blocks are taken one at a time.

    Raises
    ------
    OutputError
        When it cannot be written.
    """
    with replacing(path) as temporary, temporary.open("wb") as file, zipfile.ZipFile(file, "w") as archive:
        for member in members:
            write_member(archive, file.tell(), member)


def npy_header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """Give what precedes the values of an array in C order in an .npy file or member."""
    header = BytesIO()
    # numpy writes the integers as they print, and cannot read its own back.
    plain = tuple(int(length) for length in shape)
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": plain}
    np.lib.format.write_array_header_1_0(header, described)
    return header.getvalue()


def raw_bytes(block: Array, dtype: np.dtype[Any]) -> memoryview:
    """Give the values of an array in C order as bytes, without a copy where they are so already."""
    return np.ascontiguousarray(block, dtype).reshape(-1).view(np.uint8).data


def member_info(key: str, start: int) -> zipfile.ZipInfo:
    """Give the zip entry of an array that is written at `start`, its values at a multiple of 64 bytes.

    They can then be used without a copy once the file is memory-mapped. The entry has the oldest date there is: the
    same arrays give the same bytes.
    """
    info = zipfile.ZipInfo(f"{key}.npy")
    info.external_attr = 0o600 << 16
    info.CRC, info.header_offset = 0, start
    before = start + LOCAL_HEADER.size + len(info.filename) + ZIP64_FIELD_SIZE + FIELD_HEADER.size
    padding = -before % ALIGNMENT
    info.extra = FIELD_HEADER.pack(PADDING_FIELD, padding) + bytes(padding)
    return info


def write_member(archive: zipfile.ZipFile, start: int, member: Member) -> None:
    """Write an array at the end of an archive, where `start` is its place in the file."""
    with archive.open(member_info(member.key, start), "w", force_zip64=True) as stream:
        stream.write(npy_header(member.dtype, member.shape))
        for block in member.blocks:
            stream.write(raw_bytes(block, member.dtype))
