"""Avro: schemas become programs for the kernels; containers and messages, the blocks of records within them.

The encoding is that of the Avro specification, 1.12 (https://avro.apache.org/docs/1.12.0/specification/).
"""

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from otrain_infer import avro_kernels as kernels
from otrain_infer.errors import PacketError, in_brief

MAGIC = b"Obj\x01"
SYNC_SIZE = 16

WIRE_PREFIX = struct.Struct(">bI")
"""Before a message as Confluent's clients write it: a zero byte, and the number of its schema in a registry."""

LARGEST_SCHEMA = 1 << 22
"""A schema of more bytes than this is none of an alert."""

MOST_NODES = 1 << 16
"""A schema that takes more nodes than this, of which each field is one, is none of an alert."""

MOST_ENTRIES = 1000
"""A container whose header has more entries than this is damaged."""

LONGEST_SYMBOL = 256
"""Characters of a symbol of an enum that are kept."""

LARGEST_FIXED = 1 << 30
"""A fixed of more bytes than this fits in no block."""

LARGEST_SCALE = 256
"""A decimal with more digits behind the point than this is no number of an alert."""

LONGEST_LONG = 10
"""Bytes that a number may take."""

MOST_RECORDS = 100_000
"""A block that claims to hold more records than this is damaged."""

_PRIMITIVE = {
    "null": kernels.ABSENT,
    "boolean": kernels.BOOLEAN,
    "int": kernels.INTEGER,
    "long": kernels.INTEGER,
    "float": kernels.FLOAT,
    "double": kernels.DOUBLE,
    "bytes": kernels.BYTES,
    "string": kernels.BYTES,
}
_LEAST = {
    **dict.fromkeys((kernels.BOOLEAN, kernels.INTEGER, kernels.BYTES, kernels.ENUM, kernels.ARRAY, kernels.MAP), 1),
    kernels.FLOAT: 4,
    kernels.DOUBLE: 8,
}
"""Bytes that a value of a kind takes at least, where that does not depend on its schema."""

_NAMED = ("record", "error", "enum", "fixed")
_COMPOUND = (*_NAMED, "array", "map")

Schema = Any
"""What JSON gives for a schema: a name, a list, or a dictionary."""

Block = tuple[int, int, int]
"""Records one behind the other: where they start, where they stop, and how many they are."""

Slots = Mapping[tuple[str, ...], int]
"""The names on the way to a wanted field -> which of the wanted fields it is."""


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """A schema as `avro_kernels.walk_blocks` takes it, with the fields that are wanted.

    Attributes
    ----------
    nodes
        int64 (m, 4), see `avro_kernels`: one for each type, and one of its own for each step to a wanted field.
    children
        int64 (k,), the nodes of fields, branches and items, those of each owner side by side.
    symbols
        Of the enums; FIRST of such a node tells which are its own.
    name
        The full name of the record.
    present
        The wanted fields that the schema has, other than structures.
    scales
        Of the wanted fields that are decimals: how many of their digits are behind the point.
    least
        Bytes that a record takes at least; 1 or more.
    """

    nodes: npt.NDArray[np.int64]
    children: npt.NDArray[np.int64]
    symbols: tuple[tuple[str, ...], ...]
    name: str
    present: frozenset[int]
    scales: Mapping[int, int]
    least: int

    def is_as(self, other: "Program") -> bool:
        """Tell whether another finds the same in any record."""
        tables = ((self.nodes, other.nodes), (self.children, other.children))
        alike = all(np.array_equal(*both) for both in tables)
        return alike and self.symbols == other.symbols and self.scales == other.scales


def parse_schema(text: str | bytes) -> Schema:
    """Read a schema from JSON.

    Raises
    ------
    PacketError
        When it is no JSON, or too long.
    """
    if len(text) > LARGEST_SCHEMA:
        raise PacketError(f"its schema has {len(text)} bytes, which no alert needs")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PacketError(f"its schema is no JSON ({in_brief(error)})") from None


def compile_schema(schema: Schema, paths: Sequence[str]) -> Program:
    """Compile a schema for the fields that are wanted.

    Parameters
    ----------
    schema
        As `parse_schema` gives it.
    paths
        Of the fields, such as ``candidate.magpsf``; those that it has not are never found.

    Raises
    ------
    PacketError
        When it is no schema.
    """
    compiler = _Compiler()
    try:
        compiler.learn_names(schema, "")
        compiler.add(schema, "", -1, {tuple(path.split(".")): slot for slot, path in enumerate(paths)})
        name = full_name(schema) if isinstance(schema, dict) and "name" in schema else ""
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise PacketError(f"its schema is no Avro schema ({kind}{in_brief(error)})") from None
    return compiler.program(name)


class _Compiler:
    """Makes the nodes of a schema."""

    def __init__(self) -> None:
        self._named: dict[str, tuple[Schema, str]] = {}
        self._shared: dict[str, int] = {}
        self._nodes: list[list[int]] = []
        self._least: list[int] = []
        self._children: list[int] = []
        self._symbols: list[tuple[str, ...]] = []
        self._present: set[int] = set()
        self._scales: dict[int, int] = {}

    def program(self, name: str) -> Program:
        nodes, children = np.array(self._nodes, np.int64).reshape(-1, 4), np.array(self._children, np.int64)
        least = max(1, self._least[0])
        return Program(nodes, children, tuple(self._symbols), name, frozenset(self._present), self._scales, least)

    def learn_names(self, schema: Schema, namespace: str) -> None:
        """Learn what types are defined in a schema, and in which namespace each is."""
        if isinstance(schema, list):
            for branch in schema:
                self.learn_names(branch, namespace)
        if not isinstance(schema, dict):
            return
        kind = schema["type"]
        if kind in _NAMED:
            name = full_name(schema, namespace)
            namespace = name.rpartition(".")[0]
            self._named[name] = (schema, namespace)
        if kind in ("record", "error"):
            for field in schema["fields"]:
                self.learn_names(field["type"], namespace)
        elif kind in ("array", "map"):
            self.learn_names(schema["items" if kind == "array" else "values"], namespace)
        else:
            self.learn_names(kind, namespace)

    def add(self, schema: Schema, namespace: str, slot: int, slots: Slots) -> int:
        """Add the nodes of a type, the outermost first; give its number.

        `slot` tells which of the wanted fields it is, or -1; `slots` which are within it.
        """
        if slot >= 0 and isinstance(schema, dict) and schema.get("logicalType") == "decimal":
            self._scales[slot] = int(schema.get("scale", 0))
            if not 0 <= self._scales[slot] <= LARGEST_SCALE:
                raise ValueError(f"a decimal of {self._scales[slot]} digits behind the point")
        if not isinstance(schema, str | list | dict):
            raise ValueError(f"'{schema}' is no type")
        if isinstance(schema, list):
            return self._add_owner(kernels.UNION, [(branch, slot, slots) for branch in schema], namespace)
        if isinstance(schema, dict) and (isinstance(schema["type"], list | dict) or schema["type"] not in _COMPOUND):
            return self.add(schema["type"], namespace, slot, slots)
        if isinstance(schema, str):
            if schema in _PRIMITIVE:
                return self._add_node(_PRIMITIVE[schema], 0, 0, slot)
            return self.add(*self._find(schema, namespace), slot, slots)
        if schema["type"] in ("array", "map"):
            kind = kernels.ARRAY if schema["type"] == "array" else kernels.MAP
            return self._add_owner(kind, [(schema["items" if kind == kernels.ARRAY else "values"], -1, {})], namespace)
        return self._add_named(schema, full_name(schema, namespace), slot, slots)

    def _add_named(self, schema: Schema, name: str, slot: int, slots: Slots) -> int:
        # What holds nothing that is wanted is the same wherever it stands.
        alike = slot < 0 and not slots
        if alike and name in self._shared:
            return self._shared[name]
        if alike:
            self._shared[name] = len(self._nodes)
        if schema["type"] == "enum":
            self._symbols.append(tuple(str(symbol)[:LONGEST_SYMBOL] for symbol in schema["symbols"]))
            return self._add_node(kernels.ENUM, len(self._symbols) - 1, len(schema["symbols"]), slot)
        if schema["type"] == "fixed":
            size = int(schema["size"])
            if not 0 <= size <= LARGEST_FIXED:
                raise ValueError(f"a fixed of {size} bytes")
            return self._add_node(kernels.FIXED, size, 0, slot)
        fields = []
        for field in schema["fields"]:
            within = {path[1:]: each for path, each in slots.items() if path[0] == field["name"]}
            fields.append((field["type"], within.pop((), -1), within))
        return self._add_owner(kernels.RECORD, fields, name.rpartition(".")[0])

    def _add_owner(self, kind: int, owned: Sequence[tuple[Schema, int, Slots]], namespace: str) -> int:
        number, first = self._add_node(kind, len(self._children), len(owned), -1), len(self._children)
        self._children += [0] * len(owned)
        for k, (schema, slot, slots) in enumerate(owned):
            self._children[first + k] = self.add(schema, namespace, slot, slots)
        # Of a type that is within itself, and so not known yet, this is 0, which is no more than it takes.
        least = [self._least[child] for child in self._children[first : first + len(owned)]]
        if kind == kernels.RECORD:
            self._least[number] = min(sum(least), LARGEST_FIXED)
        elif kind == kernels.UNION:
            self._least[number] = 1 + min(least, default=0)
        return number

    def _add_node(self, *node: int) -> int:
        if len(self._nodes) == MOST_NODES:
            raise ValueError(f"more than {MOST_NODES} fields")
        if node[-1] >= 0 and node[0] != kernels.ABSENT:
            self._present.add(node[-1])
        self._nodes.append([*node])
        self._least.append(_LEAST.get(node[0], node[1] if node[0] == kernels.FIXED else 0))
        return len(self._nodes) - 1

    def _find(self, name: str, namespace: str) -> tuple[Schema, str]:
        qualified = f"{namespace}.{name}" if namespace and "." not in name else name
        found = self._named.get(qualified, self._named.get(name))
        if found is None:
            raise ValueError(f"it does not tell what the type {name[:LONGEST_SYMBOL]} is")
        return found


def full_name(schema: Schema, namespace: str = "") -> str:
    """Give the name of a record, enum or fixed with its namespace; `namespace` is that of what it is within."""
    name = str(schema["name"])
    own = schema.get("namespace", namespace)
    return name if "." in name or not own else f"{own}.{name}"


@dataclass(frozen=True, slots=True)
class Header:
    """The beginning of a container.

    Attributes
    ----------
    stop
        Where it ends, and the blocks begin.
    schema
        JSON, as it is written.
    codec
        How the blocks are compressed, such as ``null``.
    sync
        The bytes behind each block.
    """

    stop: int
    schema: bytes
    codec: str
    sync: bytes


def read_long(data: memoryview, at: int, stop: int) -> tuple[int, int]:
    """Give (number, where it ends) of what begins at `at`; raises PacketError where it has no end."""
    value, shift = 0, 0
    while at < stop and shift < 7 * LONGEST_LONG:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return (value >> 1) ^ -(value & 1), at
        shift += 7
    raise PacketError("it is truncated")


def read_header(data: memoryview, start: int, stop: int) -> Header:
    """Read the beginning of a container.

    Raises
    ------
    PacketError
        When it is damaged or incomplete.
    """
    known: dict[bytes, bytes] = {}
    at, entries = start + len(MAGIC), 0
    while True:
        count, at = read_long(data, at, stop)
        if count == 0:
            break
        if count < 0:
            _, at = read_long(data, at, stop)
        entries += abs(count)
        if entries > MOST_ENTRIES:
            raise PacketError(f"its header claims to have {entries} entries")
        for _ in range(abs(count)):
            key, at = _read_bytes(data, at, stop)
            known[key], at = _read_bytes(data, at, stop)
    if at - start > 2 * LARGEST_SCHEMA:
        raise PacketError(f"its header has {at - start} bytes, which no alert needs")
    if stop - at < SYNC_SIZE or b"avro.schema" not in known:
        raise PacketError("it is truncated" if stop - at < SYNC_SIZE else "it has no schema")
    codec = known.get(b"avro.codec", b"null").decode("ascii", "replace")
    return Header(at + SYNC_SIZE, known[b"avro.schema"], codec, bytes(data[at : at + SYNC_SIZE]))


def _read_bytes(data: memoryview, at: int, stop: int) -> tuple[bytes, int]:
    size, at = read_long(data, at, stop)
    if not 0 <= size <= stop - at:
        raise PacketError("it is truncated")
    return bytes(data[at : at + size]), at + size


def iter_blocks(data: memoryview, header: Header, stop: int) -> Iterator[Block]:
    """Find the blocks of a container that hold any records, as they are stored.

    Raises
    ------
    PacketError
        When one is damaged or incomplete; those before it have been given.
    """
    at = header.stop
    while at < stop:
        count, at = read_long(data, at, stop)
        size, at = read_long(data, at, stop)
        if not 0 <= count <= MOST_RECORDS:
            raise PacketError(f"one of its blocks claims to hold {count} records")
        if not 0 <= size <= stop - at - SYNC_SIZE:
            raise PacketError("it is truncated")
        if bytes(data[at + size : at + size + SYNC_SIZE]) != header.sync:
            raise PacketError("one of its blocks does not end where it says")
        if count:
            yield at, at + size, count
        at += size + SYNC_SIZE
