"""Alerts that a program already holds become cutouts: stamps in columns, or decoded packets as dictionaries."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import groupby
from numbers import Real
from typing import Any
from uuid import UUID

import numpy as np
import numpy.typing as npt

from otrain_infer.alerts import AlertReader
from otrain_infer.card import ModelCard
from otrain_infer.cutouts import CHUNK, NUMBERS, TEXTS, Cutouts
from otrain_infer.errors import UsageError
from otrain_infer.fits import as_number
from otrain_infer.flags import CutoutFlag
from otrain_infer.mapping import EDGE, Field, PacketMapping, Stamps, known_surveys
from otrain_infer.packets import LONGEST_TEXT

_UNKNOWN = PacketMapping("unknown", {}, {})
_NO_KEYWORDS = np.uint32(~CutoutFlag.MISSING_KEYWORD & 0xFFFFFFFF)


@dataclass(frozen=True, slots=True, eq=False)
class StampPackets:
    """Packets in memory, as `mapping.Packets`.

    Attributes
    ----------
    rows
        How many there are: n.
    columns
        Path of a field -> n values: numbers, texts or bytes, and anything else, such as None, where there is none.
    mapping
        Says which fields the slots stand for.
    """

    rows: int
    columns: Mapping[str, Sequence[Any]]
    mapping: PacketMapping

    @classmethod
    def from_alerts(cls, alerts: Sequence[Mapping[str, Any]], mapping: PacketMapping) -> "StampPackets":
        """Take the fields of a mapping out of decoded packets, dictionaries within dictionaries."""
        columns = {path: [_find(alert, path) for alert in alerts] for path in mapping.paths}
        return cls(len(alerts), columns, mapping)

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, rows: slice) -> "StampPackets":
        columns = {path: values[rows] for path, values in self.columns.items()}
        return StampPackets(len(range(self.rows)[rows]), columns, self.mapping)

    def numbers(self, slot: int) -> npt.NDArray[np.float64]:
        """Give a field as numbers, float64 (n,); NaN where there is none."""
        return np.array([_number(value) for value in self._values(slot)], np.float64)

    def texts(self, slot: int) -> npt.NDArray[np.str_]:
        """Give a field as text, (n,); empty where there is none."""
        return np.array([_text(value) for value in self._values(slot)], np.str_)

    def stamps(self, slot: int) -> Stamps:
        """Give bytes and [start, stop) of each row's within them; see `mapping.Packets`."""
        contents = [_content(value) for value in self._values(slot)]
        sizes = np.array([len(content) for content in contents], np.int64)
        stops = np.cumsum(sizes)
        return np.frombuffer(bytearray().join(contents), np.uint8), np.stack([stops - sizes, stops], axis=1)

    def _values(self, slot: int) -> Sequence[Any]:
        return self.columns[self.mapping.paths[slot]]


def _find(alert: Any, path: str, default: Any = None) -> Any:
    if path in alert:
        return alert[path]
    for name in path.split("."):
        if not isinstance(alert, Mapping) or name not in alert:
            return default
        alert = alert[name]
    return alert


def _number(value: Any) -> float:
    if isinstance(value, str | bytes):
        return as_number(_text(value))
    try:
        return float(value) if isinstance(value, Real | Decimal) else np.nan
    except (OverflowError, ValueError):  # a whole number that no float holds
        return np.nan


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        value = value[: 4 * LONGEST_TEXT].decode("utf-8", "replace")
    if isinstance(value, Decimal):
        value = f"{value:f}" if value.is_finite() else ""
    if isinstance(value, float | np.floating) and float(value).is_integer():  # as other ways of reading write it
        value = int(value)
    told = isinstance(value, str | np.bool_ | UUID) or (isinstance(value, Real) and value == value)  # NaN is none
    return str(value).strip()[:LONGEST_TEXT] if told else ""


def _content(value: Any) -> bytes:
    return bytes(value) if isinstance(value, bytes | bytearray | memoryview) else b""


def read_stamps(
    stamps: Mapping[str, Sequence[Any]],
    *,
    card: ModelCard,
    columns: Mapping[str, Sequence[Any]] | None = None,
) -> Cutouts:
    """Read stamps that a program holds, such as the columns of a data frame.

    Parameters
    ----------
    stamps
        Plane -> n stamps, each the bytes of a FITS file, gzipped or not, of which the first image counts; None, or
        anything else that is not bytes, where there is none. Planes that the model does not take are passed over.
    card
        Of the model.
    columns
        Column of `Cutouts.header`, or EDGE, -> n values. XPOS and YPOS, the candidate's position in its image (pixels),
        tell on which side a stamp is padded that was cut at the edge of the image.

    Returns
    -------
    Cutouts
        n rows, in order, whatever is the matter with a stamp; no keyword counts as missing.

    Raises
    ------
    UsageError
        When a plane of the model is not there, a column is unknown, or they are not all of the same length.
    """
    told = columns or {}
    missing = [plane for plane in card.planes if plane not in stamps]
    unknown = [key for key in told if key not in (*NUMBERS, *TEXTS, EDGE)]
    if missing:
        raise UsageError(f"the model takes the planes {','.join(card.planes)}, and there are no stamps of {missing[0]}")
    if unknown:
        raise UsageError(f"the column '{unknown[0]}' is none of {', '.join((*NUMBERS, *TEXTS, EDGE))}")
    fields = {plane: list(stamps[plane]) for plane in card.planes} | {key: list(told[key]) for key in told}
    sizes = {len(values) for values in fields.values()}
    if len(sizes) > 1:
        lengths = ", ".join(f"{name} {len(values)}" for name, values in fields.items())
        raise UsageError(f"the stamps and columns are not of one length: {lengths}")
    mapping = PacketMapping("stamps", {plane: (plane,) for plane in card.planes}, {key: Field((key,)) for key in told})
    cutouts = _read(AlertReader.for_card(card), StampPackets(sizes.pop(), fields, mapping))
    return replace(cutouts, flags=cutouts.flags & _NO_KEYWORDS)


def read_decoded(
    alerts: Sequence[Mapping[str, Any]], *, card: ModelCard, mapping: PacketMapping | None = None
) -> Cutouts:
    """Read alerts that a program has decoded, such as the dictionaries that fastavro gives.

    Parameters
    ----------
    alerts
        n packets, with their stamps.
    card
        Of the model.
    mapping
        Where packets keep what is needed; if not given, that of the survey whose fields each of them has.

    Returns
    -------
    Cutouts
        n rows, in order, whatever is the matter with an alert: the same as of the packets themselves.

    Raises
    ------
    MissingExtraError
        When PyYAML is not installed, and no mapping is given.
    """
    reader = AlertReader.for_card(card)
    chosen = [(mapping or _recognise(alert)) if isinstance(alert, Mapping) else _UNKNOWN for alert in alerts]
    parts = [_read(reader, StampPackets(0, {}, _UNKNOWN))]
    for survey, rows in groupby(range(len(chosen)), chosen.__getitem__):
        these = [alerts[row] for row in rows]
        if survey is _UNKNOWN:
            why = "its fields are of no survey that is recognised: tell where they are by a mapping"
            parts.append(_read(reader, StampPackets(len(these), {}, _UNKNOWN), why))
        else:
            parts.append(_read(reader, StampPackets.from_alerts(these, survey)))
    return Cutouts.concatenate(parts)


def _recognise(alert: Mapping[str, Any]) -> PacketMapping:
    for survey in known_surveys():
        # What a decoded packet does not tell is the name of its record.
        if survey.known_by and all(_find(alert, path, _UNKNOWN) is not _UNKNOWN for path in survey.known_by):
            return survey
    return _UNKNOWN


def _read(reader: AlertReader, packets: StampPackets, damage: str = "") -> Cutouts:
    parts = []
    for start in range(0, max(len(packets), 1), CHUNK):
        part = packets[start : start + CHUNK]
        damaged = dict.fromkeys(range(len(part)), damage) if damage else {}
        parts.append(reader.cut_out(part, [""] * len(part), damaged))
    return Cutouts.concatenate(parts)
