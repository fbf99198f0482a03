"""Alert packets in, cutouts out: one row for each alert, whatever survey sent it and whatever it came in."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from otrain_infer.card import ModelCard
from otrain_infer.chunks import gather
from otrain_infer.cutouts import CHUNK, NUMBERS, TEXTS, Cutouts, check_planes, clean_header, flag_header
from otrain_infer.errors import UsageError
from otrain_infer.flags import CutoutFlag
from otrain_infer.lending import Lender
from otrain_infer.mapping import EDGE, PacketMapping, Packets
from otrain_infer.packet_sources import iter_packets, list_packets
from otrain_infer.packets import PacketReader, Schemas
from otrain_infer.sources import Buffer, Source
from otrain_infer.stamps import decode_stamps

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
        self._packets = PacketReader(mapping, schemas)

    @classmethod
    def for_card(
        cls, card: ModelCard, mapping: PacketMapping | None = None, schemas: Schemas | None = None
    ) -> "AlertReader":
        """Make the reader of the cutouts that a model takes."""
        return cls(card.planes, card.size, card.normalisation.padding.side, mapping, schemas)

    def read(self, sources: Sequence[Source]) -> Iterator[Cutouts]:
        """Read some packets as `read_parts` does, for when it does not matter which source each alert comes from."""
        return (cutouts for cutouts, _ in self.read_parts(sources))

    def read_parts(self, sources: Sequence[Source]) -> Iterator[tuple[Cutouts, npt.NDArray[np.int64]]]:
        """Read some packets, each a path, bytes or a binary file object with a container or a message.

        Yields
        ------
        cutouts : Cutouts
            Consecutive alerts, at most `CHUNK`.
        sources : ndarray
            int64 (n,), which of the sources each comes from.
        """
        with _buffers.lend() as buffer:
            for run in self._packets.read_runs(sources, buffer):
                for start in range(0, len(run.names), CHUNK):
                    rows = slice(start, start + CHUNK)
                    damaged = {row - start: why for row, why in run.reasons.items() if start <= row < start + CHUNK}
                    if run.packets is None:
                        cutouts = self._cut_out_nothing(run.names[rows], damaged)
                    else:
                        cutouts = self.cut_out(run.packets[rows], run.packets.layout.mapping, run.names[rows], damaged)
                    yield cutouts, run.sources[rows]

    def cut_out(
        self, packets: Packets, mapping: PacketMapping, names: Sequence[str], damaged: dict[int, str]
    ) -> Cutouts:
        """Make cutouts of packets.

        Parameters
        ----------
        packets
            n rows.
        mapping
            Where they keep what is needed.
        names
            Of each.
        damaged
            Row -> one sentence, for packets that could not be read.
        """
        pixels = np.empty((len(packets), *self.size, len(self.planes)), np.float32)
        columns = mapping.read_columns(packets)
        edge = columns.pop(EDGE)
        header = clean_header(columns)
        positions = np.stack([header["YPOS"], header["XPOS"]], axis=1)
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
        messages of one, or tars of either.
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
    for chunk in gather(iter_packets(list_packets(sources)), CHUNK):
        yield from reader.read(chunk)
