"""Packets: Avro containers and messages become runs of records, with the fields that a survey's mapping asks for."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from decimal import Context, Decimal
from time import monotonic
from typing import Protocol

import numpy as np
import numpy.typing as npt

from otrain_infer import avro
from otrain_infer import avro_kernels as kernels
from otrain_infer.avro import Block
from otrain_infer.avro_codecs import decompress
from otrain_infer.errors import PacketError
from otrain_infer.fits import as_number
from otrain_infer.mapping import PacketMapping, Packets, Stamps, known_surveys
from otrain_infer.sources import LARGEST_PART, Buffer, Source, load_in_parts, names_of

SCHEMAS_KEPT = 64
"""Of so many schemas what was made of them is kept."""

REFUSED_FOR = 30.0
"""How long a schema that cannot be had, or used, is not looked for again (s)."""

HEADERS_KEPT = 4
"""Containers of one source begin alike: so many beginnings are looked for before one is read."""

LONGEST_TEXT = 256
"""Characters of a text that are kept."""

LONGEST_NAME = 4096
"""Characters of the name of a source that are kept: no path is longer, but a name within a tar may be."""

_WHOLE = (kernels.BOOLEAN, kernels.INTEGER, kernels.ENUM)
_REAL = (kernels.FLOAT, kernels.DOUBLE)
_BYTES = (kernels.BYTES, kernels.FIXED)
# Kind -> whether it is one of these: for a few rows, numpy's isin takes ten times as long.
_IS_WHOLE, _IS_REAL, _IS_BYTES = (np.isin(np.arange(kernels.UNION), kinds) for kinds in (_WHOLE, _REAL, _BYTES))
_NOTHING: Block = (0, 0, 1)
_EXACTLY = Context(prec=4 * LONGEST_TEXT)


class Schemas(Protocol):
    """Where the schemas of messages come from that do not carry their own.

    Attributes
    ----------
    numbered
        Whether each message tells the number of its schema.
    """

    numbered: bool

    def find(self, number: int | None) -> avro.Schema:
        """Give the schema of a number, or the one of messages that tell none; raises PacketError."""


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """What was made of a schema: where its fields are, and which survey's they are."""

    program: avro.Program
    mapping: PacketMapping


@dataclass(frozen=True, slots=True, eq=False)
class AvroPackets:
    """Records of one layout, as `mapping.Packets`.

    Attributes
    ----------
    layout
        Of all of them.
    data
        The bytes that they are in, uint8.
    found
        Their fields, int64 (n, slots, 3), see `avro_kernels`.
    """

    layout: Layout
    data: npt.NDArray[np.uint8]
    found: npt.NDArray[np.int64]

    @property
    def mapping(self) -> PacketMapping:
        """Where they keep what is needed."""
        return self.layout.mapping

    def __len__(self) -> int:
        return len(self.found)

    def __getitem__(self, rows: slice) -> "AvroPackets":
        return AvroPackets(self.layout, self.data, self.found[rows])

    def numbers(self, slot: int) -> npt.NDArray[np.float64]:
        """Give a field as numbers, float64 (n,); NaN where there is none."""
        kinds, values = self.found[:, slot, kernels.KIND], self.found[:, slot, kernels.VALUE]
        numbers = np.where(_IS_REAL[kinds], values.copy().view(np.float64), np.nan)
        whole = _IS_WHOLE[kinds]
        numbers[whole] = values[whole]
        for row in np.flatnonzero(_IS_BYTES[kinds]).tolist():
            numbers[row] = as_number(self._text(row, slot))
        return numbers

    def texts(self, slot: int) -> npt.NDArray[np.str_]:
        """Give a field as text, (n,); empty where there is none."""
        return np.array([self._text(row, slot) for row in range(len(self))], np.str_)

    def _text(self, row: int, slot: int) -> str:
        kind, value, stop = map(int, self.found[row, slot].tolist())
        if kind in _BYTES and slot in self.layout.program.scales:
            digits = int.from_bytes(self.data[value : min(stop, value + LONGEST_TEXT)].tobytes(), signed=True)
            return f"{Decimal(digits).scaleb(-self.layout.program.scales[slot], _EXACTLY):f}"[:LONGEST_TEXT]
        if kind in _BYTES:
            text: str = self.data[value : min(stop, value + 4 * LONGEST_TEXT)].tobytes().decode("utf-8", "replace")
            return text.strip()[:LONGEST_TEXT]
        if kind == kernels.INTEGER:
            return str(value)
        if kind == kernels.BOOLEAN:
            return str(bool(value))
        if kind == kernels.ENUM:
            return self.layout.program.symbols[stop][value]
        if kind not in _REAL:
            return ""
        number = float(np.int64(value).view(np.float64))
        # A number that tells which alert it is may have become a double on its way.
        return str(int(number)) if number.is_integer() else str(number)

    def stamps(self, slot: int) -> Stamps:
        """Give bytes and [start, stop) of each row's within them; see `mapping.Packets`."""
        there = _IS_BYTES[self.found[:, slot, kernels.KIND]]
        return self.data, self.found[:, slot, kernels.VALUE :] * there[:, None]


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """Consecutive records of one layout.

    Attributes
    ----------
    packets
        n records; None where not one of them could be read.
    names
        Of each, the path of its file with the number of the record behind it, if there are several.
    sources
        int64 (n,), the source that each comes from.
    reasons
        Row -> one sentence, for those that could not be read.
    """

    packets: Packets | None
    names: list[str]
    sources: npt.NDArray[np.int64]
    reasons: dict[int, str]


@dataclass(slots=True, eq=False)
class _Entries:
    """Blocks of one layout, one behind the other; what could not be read is a block of one record without bytes.

    `blocks` are as `avro_kernels.walk_blocks` takes them, `sources` and `firsts` tell where each is from, and which of
    its records is the first of the block; `reasons` are by block, `rows` the number of records.
    """

    layout: Layout | None = None
    blocks: list[Block] = field(default_factory=list)
    sources: list[int] = field(default_factory=list)
    firsts: list[int] = field(default_factory=list)
    reasons: dict[int, str] = field(default_factory=dict)
    rows: int = 0


@dataclass(frozen=True, slots=True)
class _Refused:
    """Why a schema is of no use, and until when that is taken for granted (s, `time.monotonic`)."""

    why: str
    until: float


class PacketReader:
    """Reads packets; good for several threads at once.

    Parameters
    ----------
    mapping
        Where the fields are; if not given, that of the survey whose packets these are, by their schema.
    schemas
        Of messages without a schema of their own.
    """

    def __init__(self, mapping: PacketMapping | None = None, schemas: Schemas | None = None) -> None:
        self._mapping, self._schemas = mapping, schemas
        self._layouts: OrderedDict[bytes | int | None, Layout | _Refused] = OrderedDict()
        self._headers: tuple[tuple[bytes, avro.Header, Layout], ...] = ()

    def read_runs(self, sources: Sequence[Source], buffer: Buffer) -> Iterator[Run]:
        """Read packets.

        Parameters
        ----------
        sources
            Paths, bytes or binary file objects, each a container or a message, which may be gzipped.
        buffer
            Where to put their bytes; what it held is overwritten, and a run holds good until the next is asked for.

        Yields
        ------
        Run
            One row for each record, in order, and one for what could not be read, whatever is the matter with it.
        """
        names, done = [name[:LONGEST_NAME] for name in names_of(sources)], 0
        for arena in load_in_parts(sources, buffer):
            entries, end = _Entries(), buffer.stop
            for k, (start, stop) in enumerate(arena.bounds.tolist()):
                record = int(getattr(sources[done + k], "first", 0))
                for layout, block, why in self._find_blocks(buffer, start, stop, arena.reasons.get(k)):
                    changed = layout is not None and entries.layout not in (layout, None)
                    if changed or buffer.stop - end > LARGEST_PART or entries.rows > avro.MOST_RECORDS:
                        yield _run(entries, buffer, names)
                        entries, block = _Entries(), _move(block, buffer, end)
                    entries.layout = layout or entries.layout
                    if why:
                        entries.reasons[len(entries.blocks)] = why
                    entries.blocks.append(block)
                    entries.sources.append(done + k)
                    entries.firsts.append(record)
                    entries.rows += block[2]
                    record += block[2]
            done += len(arena.bounds)
            yield _run(entries, buffer, names)

    def _find_blocks(
        self, buffer: Buffer, start: int, stop: int, why: str | None
    ) -> Iterator[tuple[Layout | None, Block, str | None]]:
        """Find the blocks of one packet: the layout, the block, and what is the matter with it."""
        try:
            if why:
                raise PacketError(why)
            if start == stop:
                raise PacketError("it is empty")
            if buffer.data[start : start + len(avro.MAGIC)].tobytes() != avro.MAGIC:
                yield *self._find_message(buffer.data.data, start, stop), None
                return
            records = 0
            for layout, block in self._open_container(buffer, start, stop):
                yield layout, block, None
                records += block[2]
            if not records:
                raise PacketError("it holds no alert")
        except PacketError as error:
            yield None, _NOTHING, str(error)

    def _open_container(self, buffer: Buffer, start: int, stop: int) -> Iterator[tuple[Layout, Block]]:
        data = buffer.data.data
        header, layout = self._read_header(data, start, stop)
        for begin, end, count in avro.iter_blocks(data, header, stop):
            block = begin, end, count
            if header.codec != "null":
                content = decompress(header.codec, data[begin:end])
                block = buffer.stop, buffer.stop + len(content), count
                buffer.append(content)
            if count * layout.program.least > block[1] - block[0]:
                raise PacketError(f"one of its blocks claims to hold {count} records, for which it has not the bytes")
            yield layout, block

    def _read_header(self, data: memoryview, start: int, stop: int) -> tuple[avro.Header, Layout]:
        for beginning, header, layout in self._headers:
            at = start + len(beginning)
            if bytes(data[start:at]) == beginning and at + avro.SYNC_SIZE <= stop:
                return replace(header, stop=at + avro.SYNC_SIZE, sync=bytes(data[at : at + avro.SYNC_SIZE])), layout
        header = avro.read_header(data, start, stop)
        key = hashlib.sha256(header.schema).digest()
        layout = self._layout(key, lambda: avro.parse_schema(header.schema))
        beginning = bytes(data[start : header.stop - avro.SYNC_SIZE])
        self._headers = ((beginning, header, layout), *self._headers[: HEADERS_KEPT - 1])
        return header, layout

    def _find_message(self, data: memoryview, start: int, stop: int) -> tuple[Layout, Block]:
        schemas = self._schemas
        if schemas is None:
            raise PacketError("it is no Avro container, and of a message the schema has to be told")
        framed, whole = (start + avro.WIRE_PREFIX.size, stop, 1), (start, stop, 1)
        if framed[0] < stop and data[start] == 0:
            _, number = avro.WIRE_PREFIX.unpack(data[start : framed[0]])
            layout = self._layout(number, lambda: schemas.find(number))
            # A message without the prefix may begin with a zero as well: where all are of one schema, what fits counts.
            if schemas.numbered or _fits(layout, data, framed) or not _fits(layout, data, whole):
                return layout, framed
        return self._layout(None, lambda: schemas.find(None)), whole

    def _layout(self, key: bytes | int | None, find: Callable[[], avro.Schema]) -> Layout:
        made = self._layouts.get(key)
        if made is None or (isinstance(made, _Refused) and made.until < monotonic()):
            try:
                made = self._make_layout(find())
            except PacketError as error:
                made = _Refused(str(error), monotonic() + REFUSED_FOR)
            self._layouts[key] = made
            if len(self._layouts) > SCHEMAS_KEPT:
                self._layouts.popitem(last=False)
        if isinstance(made, _Refused):
            raise PacketError(made.why)
        return made

    def _make_layout(self, schema: avro.Schema) -> Layout:
        for mapping in (self._mapping,) if self._mapping else known_surveys():
            program = avro.compile_schema(schema, mapping.paths)
            present = {mapping.paths[slot] for slot in program.present}
            if self._mapping:
                mapping.check(present)
            if self._mapping or mapping.recognises(program.name, present):
                return self._share(Layout(program, mapping))
        names = ", ".join(mapping.name for mapping in known_surveys())
        raise PacketError(
            f"its schema is of no survey that is known ({names}): tell where its fields are with --mapping"
        )

    def _share(self, layout: Layout) -> Layout:
        """Give the same layout for schemas that are told in other words, so that their records make one run."""
        for known in [*self._layouts.values()]:
            if isinstance(known, Layout) and known.mapping is layout.mapping and known.program.is_as(layout.program):
                return known
        return layout


def _fits(layout: Layout, data: memoryview, block: Block) -> bool:
    found, ends = np.empty((1, len(layout.mapping.paths), 3), np.int64), np.empty(1, np.int64)
    program = layout.program
    kernels.walk_blocks(np.frombuffer(data, np.uint8), np.array([block]), program.nodes, program.children, found, ends)
    return bool(ends[0] == block[1])


def _move(block: Block, buffer: Buffer, to: int) -> Block:
    """Let what was decompressed last take the room of what was before, which is of no more use; give where it is."""
    start, stop, count = block
    buffer.stop = to
    if start < to:
        return block  # it lies where it was read
    buffer.stop += stop - start
    buffer.data[to : buffer.stop] = buffer.data[start:stop]
    return to, buffer.stop, count


def _run(entries: _Entries, buffer: Buffer, names: list[str]) -> Run:
    blocks = np.array(entries.blocks, np.int64).reshape(-1, 3)
    counts = blocks[:, 2]
    rows = np.cumsum(counts) - counts
    sources = np.repeat(np.array(entries.sources, np.int64), counts)
    records = np.arange(len(sources)) - np.repeat(rows - np.array(entries.firsts, np.int64), counts)
    named = [
        f"{names[source]}#{record + 1}" if record else names[source]
        for source, record in zip(sources.tolist(), records.tolist(), strict=True)
    ]
    reasons = {int(rows[block]): why for block, why in entries.reasons.items()}
    if entries.layout is None:
        return Run(None, named, sources, reasons)
    program = entries.layout.program
    found = np.empty((len(sources), len(entries.layout.mapping.paths), 3), np.int64)
    ends = np.empty(len(sources), np.int64)
    kernels.walk_blocks(buffer.data, blocks, program.nodes, program.children, found, ends)
    for row in np.flatnonzero(ends < 0).tolist():
        reasons.setdefault(row, "it is truncated, damaged, or not of its schema")
    found[ends < 0] = kernels.ABSENT
    return Run(AvroPackets(entries.layout, buffer.data, found), named, sources, reasons)
