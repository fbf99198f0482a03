"""Arrow packets: columns of Parquet files and of Spark, with the fields that a survey's mapping asks for."""

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from otrain_infer.errors import MissingExtraError, PacketError
from otrain_infer.fits import as_number
from otrain_infer.mapping import PacketMapping, Stamps, known_surveys
from otrain_infer.packets import LONGEST_TEXT

try:
    import pyarrow as pa
    from pyarrow import compute, types
except ImportError:
    raise MissingExtraError(
        "Parquet and Spark need pyarrow: pip install 'otrain[parquet]' or 'otrain[spark]'"
    ) from None

BATCH_ROWS = 1024
"""Rows of a Parquet file read at a time."""

_TEXTS = (
    types.is_binary,
    types.is_string,
    types.is_large_binary,
    types.is_large_string,
    types.is_fixed_size_binary,
    types.is_binary_view,
    types.is_string_view,
)


@dataclass(frozen=True, slots=True, eq=False)
class ArrowPackets:
    """Rows of a record batch, as `mapping.Packets`.

    A field ``candidate.magpsf`` is the column of that name, or else the field ``magpsf`` of the structures in the
    column ``candidate``.

    Attributes
    ----------
    batch
        pyarrow.RecordBatch of n rows; its stamps are read where they lie.
    mapping
        Says which fields the slots stand for.
    """

    batch: Any
    mapping: PacketMapping

    def __len__(self) -> int:
        return int(self.batch.num_rows)

    def __getitem__(self, rows: slice) -> "ArrowPackets":
        start, stop, _ = rows.indices(len(self))
        return ArrowPackets(self.batch.slice(start, stop - start), self.mapping)

    def numbers(self, slot: int) -> npt.NDArray[np.float64]:
        """Give a field as numbers, float64 (n,); NaN where there is none."""
        found = self._find(slot)
        if _is_text(found):
            return np.array([as_number(_text(value)) for value in _values(found)], np.float64)
        try:
            numbers = found.cast(pa.float64(), safe=False).fill_null(np.nan).to_numpy(zero_copy_only=False)
        except pa.ArrowNotImplementedError:  # a date, say
            return np.full(len(self), np.nan)
        return np.asarray(numbers)

    def texts(self, slot: int) -> npt.NDArray[np.str_]:
        """Give a field as text, (n,); empty where there is none."""
        return np.array([_text(value) for value in _values(self._find(slot))], np.str_)

    def stamps(self, slot: int) -> Stamps:
        """Give bytes and [start, stop) of each row's within them; see `mapping.Packets`."""
        found = self._find(slot)
        if not _is_text(found) or not len(self):
            return np.empty(0, np.uint8), np.zeros((len(self), 2), np.int64)
        found = _as_bytes(found)
        _, offsets, content = found.buffers()
        edges = np.frombuffer(offsets, np.int64, len(self) + 1, 8 * found.offset)
        there = found.is_valid().to_numpy(zero_copy_only=False)
        data = np.frombuffer(content, np.uint8) if content else np.empty(0, np.uint8)
        return data, np.stack([edges[:-1], edges[1:]], axis=1) * there[:, None]

    def _find(self, slot: int) -> Any:
        """Give a field, a pyarrow.Array (n,); one of nulls where there is none."""
        path = self.mapping.paths[slot]
        column, *within = [path] if self.batch.schema.get_field_index(path) >= 0 else path.split(".")
        place = self.batch.schema.get_field_index(column)
        found = self.batch.column(place) if place >= 0 else pa.nulls(len(self))
        for name in within:
            place = found.type.get_field_index(name) if types.is_struct(found.type) else -1
            # Unlike StructArray.field, this gives null where the whole structure is.
            found = compute.struct_field(found, [place]) if place >= 0 else pa.nulls(len(self))
        if types.is_dictionary(found.type):
            found = found.dictionary_decode()
        return pa.nulls(len(self)) if types.is_nested(found.type) else found


def _is_text(array: Any) -> bool:
    return any(is_such(array.type) for is_such in _TEXTS)


def _as_bytes(array: Any) -> Any:
    try:
        return array.cast(pa.large_binary())  # the bytes stay where they are
    except pa.ArrowNotImplementedError:  # of a view, before pyarrow 18
        return pa.array(array.to_pylist(), pa.large_binary())


def _values(array: Any) -> list[Any]:
    # As bytes, for a text need not be the UTF-8 that it should be.
    if types.is_temporal(array.type):  # of which Python knows not all
        try:
            array = array.cast(pa.string())
        except pa.ArrowException:
            array = pa.nulls(len(array))
    values: list[Any] = (_as_bytes(array) if _is_text(array) else array).to_pylist()
    return values


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value[: 4 * LONGEST_TEXT].decode("utf-8", "replace").strip()[:LONGEST_TEXT]
    if isinstance(value, float) and value.is_integer():  # a number that tells which alert it is, made a double
        return str(int(value))
    return "" if value is None else str(value)


def layout_of(schema: Any, mapping: PacketMapping | None = None) -> PacketMapping:
    """Tell which survey's packets a table holds, by its fields.

    Parameters
    ----------
    schema
        pyarrow.Schema.
    mapping
        Where the fields are, if that is known.

    Raises
    ------
    PacketError
        When the fields are of no survey that is known, or the mapping's stamps are not among them.
    """
    return choose_mapping(set(_iter_fields(schema)), mapping)


def choose_mapping(present: Collection[str], mapping: PacketMapping | None = None) -> PacketMapping:
    """Choose as `layout_of` does, by the paths of the fields that there are."""
    if mapping:
        mapping.check(present)
        return mapping
    for known in known_surveys():
        # Where a survey is told by nothing but the name of its record, a table does not tell.
        if known.known_by and all(path in present for path in known.known_by):
            return known
    names = ", ".join(known.name for known in known_surveys())
    raise PacketError(
        f"its schema is of no survey that is recognised ({names}): tell where its fields are by a mapping "
        "(mapping= in a program)"
    )


def for_planes(mapping: PacketMapping, planes: Sequence[str]) -> PacketMapping:
    """Give a mapping with no more planes than some, so that its `paths` are all that has to be read for these."""
    kept = {plane: choice for plane, choice in mapping.planes.items() if plane in planes}
    return replace(mapping, planes=kept, known_by=())


def _iter_fields(fields: Iterable[Any], prefix: str = "") -> Iterator[str]:
    for field in fields:
        if types.is_struct(field.type):
            yield from _iter_fields(field.type, f"{prefix}{field.name}.")
        elif not types.is_nested(field.type):
            yield prefix + field.name


def read_schema(path: str | os.PathLike[str]) -> Any:
    """Give the pyarrow.Schema of a Parquet file; raises PacketError where it cannot be read."""
    with _open(path) as file:
        return file.schema_arrow


def iter_parquet(
    path: str | os.PathLike[str], batch_rows: int = BATCH_ROWS, fields: Collection[str] | None = None
) -> Iterator[Any]:
    """Read a Parquet file piece by piece.

    Parameters
    ----------
    path
        Of the file.
    batch_rows
        Rows of each piece, at most.
    fields
        Paths of what is to be read, such as the `paths` of a mapping; what the file has not is passed over. Everything
        if not given.

    Yields
    ------
    pyarrow.RecordBatch
        Consecutive rows.

    Raises
    ------
    PacketError
        When the file, or what is left of it, cannot be read.
    """
    with _open(path) as file:
        wanted = None if fields is None else [each for each in _iter_fields(file.schema_arrow) if each in fields]
        yield from file.iter_batches(batch_rows, columns=wanted, use_threads=False)


@contextmanager
def _open(path: str | os.PathLike[str]) -> Iterator[Any]:
    from pyarrow import parquet

    try:
        Path(path).stat()  # says in a word what Arrow would say at length
        with parquet.ParquetFile(path) as file:
            yield file
    except (OSError, pa.ArrowException, UnicodeError) as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else str(error).splitlines()[0]
        raise PacketError(f"the Parquet file '{os.fsdecode(path)}' cannot be read ({said})") from None
