"""Alert packets in, cutouts out: one row for each alert, whatever survey sent it and whatever it came in."""

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from otrain_infer.card import ModelCard
from otrain_infer.chunks import gather
from otrain_infer.cutouts import CHUNK, NUMBERS, TEXTS, Cutouts, check_planes, clean_header, flag_header
from otrain_infer.errors import PacketError, UsageError
from otrain_infer.flags import CutoutFlag
from otrain_infer.lending import Lender
from otrain_infer.mapping import EDGE, PacketMapping, Packets
from otrain_infer.packet_sources import is_parquet, iter_packets, list_packets, weigh
from otrain_infer.packets import PacketReader, Run, Schemas
from otrain_infer.sources import LARGEST_PART, Buffer, Source
from otrain_infer.stamps import decode_stamps

Job = Sequence[Source] | Run

_UNREADABLE = np.uint32(CutoutFlag.UNREADABLE)

_buffers = Lender(Buffer)
_stamp_buffers = Lender(Buffer)


class AlertReader:
    """Reads alert packets for one kind of model; good for several threads at once.

    Parameters
    ----------
    planes
        The planes wanted, in order, of `PLANES`.
    size
        (ny, nx) of the cutouts given (pixels); stamps of other sizes are cropped or padded.
    side
        Where padding goes: ``object`` or ``corner``, see `Padding`.
    mapping
        Where packets keep what is needed; if not given, that of the survey whose packets these are, by their schema.
    schemas
        Of messages without a schema of their own.
    """

    def __init__(
        self,
        planes: Sequence[str],
        size: tuple[int, int],
        side: str = "object",
        mapping: PacketMapping | None = None,
        schemas: Schemas | None = None,
    ) -> None:
        check_planes(planes)
        self.planes, self.size, self.side = tuple(planes), size, side
        self._mapping, self._packets = mapping, PacketReader(mapping, schemas)

    @classmethod
    def for_card(
        cls, card: ModelCard, mapping: PacketMapping | None = None, schemas: Schemas | None = None
    ) -> "AlertReader":
        """Make the reader of the cutouts that a model takes."""
        return cls(card.planes, card.size, card.normalisation.padding.side, mapping, schemas)

    def iter_jobs(self, sources: Iterable[Source]) -> Iterator[Job]:
        """Cut what there is to read into jobs for `read`: some packets each, or some rows of a Parquet file."""
        for is_table, these in groupby(iter_packets(sources), is_parquet):
            if is_table:
                for table in these:
                    yield from self._iter_rows(os.fsdecode(cast("str", table)))
            else:
                yield from gather(these, CHUNK, weigh, LARGEST_PART)

    def read(self, job: Job) -> Iterator[Cutouts]:
        """Read a job, in parts of at most `CHUNK` alerts."""
        parts = self._cut_out_run(job) if isinstance(job, Run) else self.read_parts(job)
        return (cutouts for cutouts, _ in parts)

    def _iter_rows(self, path: str) -> Iterator[Run]:
        """Give the packets of a Parquet file, some rows at a time; one row that tells, where it cannot be read."""
        from otrain_infer.arrow_packets import ArrowPackets, for_planes, iter_parquet, layout_of, read_schema

        done = 0
        try:
            mapping = for_planes(layout_of(read_schema(path), self._mapping), self.planes)
            for batch in iter_parquet(path, CHUNK, mapping.paths):
                names = [f"{path}#{done + row + 1}" for row in range(batch.num_rows)]
                done += batch.num_rows
                yield Run(ArrowPackets(batch, mapping), names, np.zeros(len(names), np.int64), {})
        except PacketError as error:
            yield Run(None, [path], np.zeros(1, np.int64), {0: str(error)})

    def read_parts(self, sources: Sequence[Source]) -> Iterator[tuple[Cutouts, npt.NDArray[np.int64]]]:
        """Read some packets, each a path, bytes or a binary file object with a container or a message.

        Yields
        ------
        cutouts : Cutouts
            Consecutive alerts, at most `CHUNK`.
        sources : ndarray
            int64 (n,), which of the sources each comes from.
        """
        if isinstance(sources, str | bytes | bytearray | memoryview):
            raise UsageError(
                f"packets come as a sequence of paths, bytes or files, not as one {type(sources).__name__}"
            )
        with _buffers.lend() as buffer:
            for run in self._packets.read_runs(sources, buffer):
                yield from self._cut_out_run(run)

    def _cut_out_run(self, run: Run) -> Iterator[tuple[Cutouts, npt.NDArray[np.int64]]]:
        for start in range(0, len(run.names), CHUNK):
            rows = slice(start, start + CHUNK)
            damaged = {row: run.reasons[start + row] for row in range(CHUNK) if start + row in run.reasons}
            if run.packets is None:
                cutouts = self._cut_out_nothing(run.names[rows], damaged)
            else:
                cutouts = self.cut_out(run.packets[rows], run.names[rows], damaged)
            yield cutouts, run.sources[rows]

    def cut_out(self, packets: Packets, names: Sequence[str], damaged: dict[int, str]) -> Cutouts:
        """Make cutouts of packets.

        Parameters
        ----------
        packets
            n rows.
        names
            Of each.
        damaged
            Row -> one sentence, for packets that could not be read.
        """
        pixels = np.empty((len(packets), *self.size, len(self.planes)), np.float32)
        mapping = packets.mapping
        columns = mapping.read_columns(packets)
        edge = columns.pop(EDGE)
        header = clean_header(columns)
        positions = np.stack([header["YPOS"], header["XPOS"]], axis=1)
        if mapping.filled:
            positions[:] = np.nan
        stamps = [mapping.read_stamps(packets, plane) for plane in self.planes]
        with _stamp_buffers.lend() as buffer:
            found = decode_stamps(stamps, self.planes, positions, self.side, pixels, buffer)
        if mapping.stamp and EDGE not in mapping.columns:
            cut = (found.shapes < mapping.stamp) & (found.shapes > 0)
            edge = np.where(cut.any(axis=(1, 2)), "True", "False")
        flags = found.flags
        flags[list(damaged)] = _UNREADABLE
        flags |= flag_header(header, edge, flags)
        return Cutouts(np.array(names, np.str_), pixels, header, flags, found.reasons | damaged)

    def _cut_out_nothing(self, names: Sequence[str], damaged: dict[int, str]) -> Cutouts:
        n = len(names)
        header: dict[str, npt.NDArray[Any]] = {key: np.full(n, np.nan) for key in NUMBERS}
        header |= {key: np.full(n, "", np.str_) for key in TEXTS}
        pixels = np.full((n, *self.size, len(self.planes)), np.nan, np.float32)
        return Cutouts(np.array(names, np.str_), pixels, header, np.full(n, _UNREADABLE), damaged)


def iter_alerts(
    sources: Source | Iterable[Source],
    *,
    card: ModelCard | None = None,
    planes: Sequence[str] | None = None,
    size: tuple[int, int] | None = None,
    mapping: PacketMapping | None = None,
    schemas: Schemas | None = None,
) -> Iterator[Cutouts]:
    """Read alert packets part by part, in order, in memory that does not grow with their number.

    Parameters
    ----------
    sources
        A folder, a path, bytes, a binary file object, or a sequence of these: Avro containers of one alert or of many,
        messages of one, tars of either, or Parquet files of packets.
    card
        Says planes, size and side of the padding; or else
    planes, size
        say them, (ny, nx) in pixels.
    mapping, schemas
        As of `AlertReader`.

    Yields
    ------
    Cutouts
        Consecutive alerts.

    Raises
    ------
    UsageError
        When planes or size make no sense, or are missing.
    """
    if (card is None) == (planes is None or size is None):
        raise UsageError("give either a card or planes and size to read alerts, not both")
    if card is not None:
        reader = AlertReader.for_card(card, mapping, schemas)
    else:
        reader = AlertReader(planes or (), size or (0, 0), mapping=mapping, schemas=schemas)
    for job in reader.iter_jobs(list_packets(sources)):
        yield from reader.read(job)
