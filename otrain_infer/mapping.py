"""Where the packets of a survey keep what makes a cutout: one YAML file tells it for each survey."""

import itertools
import logging
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from dataclasses import field as with_default
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from otrain_infer.card import PLANES
from otrain_infer.cutouts import NUMBERS, TEXTS
from otrain_infer.errors import MissingExtraError, PacketError, UsageError, in_brief

log = logging.getLogger(__name__)

Numbers = npt.NDArray[np.float64]
Texts = npt.NDArray[np.str_]
Stamps = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]

Choice = tuple[str, ...]
"""Paths of fields such as ``candidate.magpsf``, of which the first that is not empty counts."""

FOLDER = Path(__file__).with_name("mappings")

EDGE = "EDGE"

UNKNOWN = -999.0
"""What some surveys write for a number that they do not know."""

MAGNITUDES = 2.5 / math.log(10)
"""Magnitudes for each unit of the natural logarithm of a flux."""

SIGMAS = 2 * math.sqrt(2 * math.log(2))
"""Full width at half maximum of a Gaussian, in standard deviations."""


class Packets(Protocol):
    """Some packets, whatever they came as: n rows, and a slot for each of `PacketMapping.paths`."""

    @property
    def mapping(self) -> "PacketMapping":
        """Where they keep what is needed."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice) -> "Packets": ...

    def numbers(self, slot: int) -> Numbers:
        """Give a field as numbers, float64 (n,); NaN where there is none."""

    def texts(self, slot: int) -> Texts:
        """Give a field as text, (n,); empty where there is none."""

    def stamps(self, slot: int) -> Stamps:
        """Give bytes, uint8 (m,), and [start, stop) of each row's within them, int64 (n, 2); empty where none."""


class Chooser:
    """Takes choices of fields out of packets.

    Parameters
    ----------
    packets
        The packets.
    slots
        Path -> slot.
    """

    def __init__(self, packets: Packets, slots: Mapping[str, int]) -> None:
        self._packets, self._slots = packets, slots

    def numbers(self, choice: Choice) -> Numbers:
        """Give what a choice stands for as numbers, float64 (n,); NaN where there is none."""
        found = self._packets.numbers(self._slots[choice[0]])
        for path in choice[1:]:
            missing = np.isnan(found)
            if missing.any():
                found = np.where(missing, self._packets.numbers(self._slots[path]), found)
        return np.where(found == UNKNOWN, np.nan, found)

    def texts(self, choice: Choice) -> Texts:
        """Give what a choice stands for as text, (n,); empty where there is none."""
        found = self._packets.texts(self._slots[choice[0]])
        for path in choice[1:]:
            missing = found == ""
            if missing.any():
                found = np.where(missing, self._packets.texts(self._slots[path]), found)
        return found

    def __len__(self) -> int:
        return len(self._packets)


class Column(Protocol):
    """What a column of the header is made of."""

    def read(self, chooser: Chooser, as_text: bool) -> npt.NDArray[Any]:
        """Give it, (n,): as text, empty where there is none, or as float64, NaN where there is none."""


@dataclass(frozen=True, slots=True)
class Field:
    """A field of the packet.

    Attributes
    ----------
    field
        Which.
    values
        Text of the field -> what is put in its place.
    add
        What is added to a number.
    absolute
        Whether a number loses its sign, before that.
    """

    field: Choice
    values: Mapping[str, str] = with_default(default_factory=dict)
    add: float = 0.0
    absolute: bool = False

    def read(self, chooser: Chooser, as_text: bool) -> npt.NDArray[Any]:
        """See `Column`."""
        if not as_text:
            found = chooser.numbers(self.field)
            return (np.abs(found) if self.absolute else found) + self.add
        texts = chooser.texts(self.field)
        return np.array([self.values.get(each, each) for each in texts.tolist()], np.str_) if self.values else texts


@dataclass(frozen=True, slots=True)
class Magnitude:
    """A magnitude: ``zero_point - 2.5 log10 |flux|``, as the flux of a difference may be negative."""

    flux: Choice
    zero_point: float

    def read(self, chooser: Chooser, as_text: bool) -> npt.NDArray[Any]:  # noqa: ARG002
        """See `Column`."""
        return np.asarray(self.zero_point - MAGNITUDES * np.log(np.abs(chooser.numbers(self.flux))))


@dataclass(frozen=True, slots=True)
class MagnitudeError:
    """The error of a magnitude, to first order: ``2.5 / ln 10`` times the relative error of the flux."""

    flux_error: Choice
    flux: Choice

    def read(self, chooser: Chooser, as_text: bool) -> npt.NDArray[Any]:  # noqa: ARG002
        """See `Column`."""
        return MAGNITUDES * chooser.numbers(self.flux_error) / np.abs(chooser.numbers(self.flux))


@dataclass(frozen=True, slots=True)
class Width:
    """A full width at half maximum (pixels): that of a Gaussian with these second moments, `pixel` their unit's."""

    moments: Choice
    pixel: float = 1.0

    def read(self, chooser: Chooser, as_text: bool) -> npt.NDArray[Any]:  # noqa: ARG002
        """See `Column`."""
        each = [chooser.numbers((path,)) for path in self.moments]
        return np.asarray(SIGMAS * np.sqrt(np.maximum(np.mean(each, axis=0), 0)) / self.pixel)


@dataclass(frozen=True, slots=True)
class Constant:
    """The same text for every packet."""

    text: str

    def read(self, chooser: Chooser, as_text: bool) -> npt.NDArray[Any]:  # noqa: ARG002
        """See `Column`."""
        return np.full(len(chooser), self.text)


# The first key of each tells it from the others; that with two fluxes comes before that with one.
KINDS = (Field, MagnitudeError, Magnitude, Width, Constant)
OF_TEXTS = (Field, Constant)


@dataclass(frozen=True, eq=False)
class PacketMapping:
    """Where the packets of a survey keep what makes a cutout.

    Attributes
    ----------
    name
        Of the survey.
    planes
        Plane -> the field with its stamp, a FITS file that may be gzipped.
    columns
        Column of the header -> what it is made of.
    record
        The full name of the packets' record, which settles that they are this survey's.
    known_by
        Fields that only this survey's packets have, all of them.
    stamp
        (ny, nx) of a whole stamp (pixels): a smaller one has been cut at the edge of its image. Empty if they come in
        any size.
    filled
        Whether stamps are filled beyond the edge of their image, so that none is ever cut there.
    """

    name: str
    planes: Mapping[str, Choice]
    columns: Mapping[str, Column]
    record: str = ""
    known_by: Choice = ()
    stamp: tuple[int, ...] = ()
    filled: bool = False

    @cached_property
    def choices(self) -> dict[str, list[Choice]]:
        """Plane or column -> what it is chosen from."""
        of_planes = {plane: [choice] for plane, choice in self.planes.items()}
        return of_planes | {name: _choices(column) for name, column in self.columns.items()}

    @cached_property
    def paths(self) -> tuple[str, ...]:
        """Every field that is needed, once."""
        choices = [*itertools.chain(*self.choices.values()), self.known_by]
        return tuple(dict.fromkeys(path for choice in choices for path in choice))

    @cached_property
    def slots(self) -> dict[str, int]:
        """Path -> its place among `paths`."""
        return {path: slot for slot, path in enumerate(self.paths)}

    def read_columns(self, packets: Packets) -> dict[str, npt.NDArray[Any]]:
        """Give every column of `NUMBERS` (float64), of `TEXTS` and EDGE (text) of n packets, each (n,)."""
        chooser = Chooser(packets, self.slots)
        with np.errstate(divide="ignore", invalid="ignore"):  # a flux of 0 has no magnitude
            return {name: self._read(name, chooser) for name in (*NUMBERS, *TEXTS, EDGE)}

    def _read(self, name: str, chooser: Chooser) -> npt.NDArray[Any]:
        as_text = name not in NUMBERS
        if name in self.columns:
            return self.columns[name].read(chooser, as_text)
        return np.full(len(chooser), "" if as_text else math.nan)

    def read_stamps(self, packets: Packets, plane: str) -> Stamps:
        """Give the stamps of a plane as `Packets.stamps` does; none where the survey has no such plane."""
        data, bounds = np.empty(0, np.uint8), np.zeros((len(packets), 2), np.int64)
        for path in self.planes.get(plane, ()):
            missing = bounds[:, 0] >= bounds[:, 1]
            if not missing.any():
                break
            more, others = packets.stamps(self.slots[path])
            found = missing & (others[:, 0] < others[:, 1])
            if found.any() and not missing.all() and more is not data:  # what was found before lies elsewhere
                more, others = np.concatenate([data, more]), others + len(data)
            if found.any():
                data, bounds = more, np.where(found[:, None], others, bounds)
        return data, bounds

    def recognises(self, record: str, present: Iterable[str]) -> bool:
        """Tell whether packets are this survey's, by the name of their record and the fields that they have."""
        return record == self.record or (bool(self.known_by) and set(self.known_by) <= set(present))

    def check(self, present: Collection[str]) -> None:
        """Make sure that packets with these fields have a stamp; what else they have no field of is logged.

        Raises
        ------
        PacketError
            When they have none.
        """
        missing = [
            name for name, choices in self.choices.items() if not all(set(choice) & set(present) for choice in choices)
        ]
        if self.planes.keys() <= set(missing):
            raise PacketError(f"its schema has none of the stamps of the mapping {self.name}")
        if missing:
            log.warning("these packets have no field that the mapping %s has for %s", self.name, ", ".join(missing))


@cache
def known_surveys() -> tuple[PacketMapping, ...]:
    """Give the mappings that come with O'TRAIN."""
    return tuple(load_mapping(path) for path in sorted(FOLDER.glob("*.yaml")))


def load_mapping(path: str | Path) -> PacketMapping:
    """Read a mapping.

    Parameters
    ----------
    path
        YAML file, such as those in the folder ``mappings`` of this package.

    Raises
    ------
    UsageError
        When it cannot be read or makes no sense.
    MissingExtraError
        When PyYAML is not installed.
    """
    try:
        import yaml
    except ImportError:
        raise MissingExtraError("alert packets need PyYAML: pip install 'otrain[avro]'") from None
    try:
        text = Path(path).read_text(encoding="utf-8")
        _check_once(yaml.compose(text, yaml.SafeLoader))
        return _mapping(yaml.safe_load(text), Path(path).stem)
    except (OSError, UnicodeError, yaml.YAMLError, TypeError, ValueError, AttributeError, RecursionError) as error:
        said = getattr(error, "strerror", None) or in_brief(error)
        raise UsageError(f"the mapping '{path}' cannot be used ({said})") from None


def _check_once(root: Any) -> None:
    """Refuse a key that is told twice, of which PyYAML takes the last."""
    pending, seen = [root], set()
    while pending:
        node = pending.pop()
        if node is None or id(node) in seen or isinstance(node.value, str):
            continue
        seen.add(id(node))
        pairs = [entry if isinstance(entry, tuple) else (None, entry) for entry in node.value]
        twice = [key for key, count in Counter(key.value for key, _ in pairs if key).items() if count > 1]
        if twice:
            raise ValueError(f"'{twice[0]}' is told twice")
        pending += [value for _, value in pairs]


def _mapping(content: Any, name: str) -> PacketMapping:
    if not isinstance(content, dict):
        raise TypeError("it has no keys")
    _check_keys(content, [each.name for each in fields(PacketMapping)], "a mapping")
    for key in ("planes", "columns"):
        if not isinstance(content.get(key, {}), dict):
            raise TypeError(f"it tells no {key}")
    planes = {plane: _choice(choice, f"plane {plane}") for plane, choice in content.get("planes", {}).items()}
    columns = {column: _column(column, told) for column, told in content.get("columns", {}).items()}
    _check_keys(planes, PLANES, "planes")
    _check_keys(columns, (*NUMBERS, *TEXTS, EDGE), "columns")
    if not planes:
        raise ValueError("it tells no planes")
    known_by = _choice(content["known_by"], "known_by") if "known_by" in content else ()
    stamp = _stamp(content.get("stamp", []))
    filled = content.get("filled", False)
    if not isinstance(filled, bool):
        raise ValueError(f"filled: '{filled}' is neither true nor false")
    named, record = (_text(content.get(key, other)) for key, other in (("name", name), ("record", "")))
    return PacketMapping(named, planes, columns, record, known_by, stamp, filled)


def _stamp(told: Any) -> tuple[int, ...]:
    if not (isinstance(told, list) and len(told) in (0, 2) and all(type(n) is int and n > 0 for n in told)):
        raise ValueError(f"stamp: '{told}' is not [ny, nx], in pixels")
    return tuple(told)


def _column(name: str, told: Any) -> Column:
    if not isinstance(told, dict):
        return Field(_choice(told, f"column {name}"))
    kind = next((each for each in KINDS if _names(each)[0] in told), None)
    if kind is None:
        raise ValueError(f"column {name} tells none of {', '.join(_names(each)[0] for each in KINDS)}")
    if name not in NUMBERS and kind not in OF_TEXTS:
        raise ValueError(f"column {name} is text: {_names(kind)[0]} gives a number")
    if name in NUMBERS and kind is Constant:
        raise ValueError(f"column {name} is a number, and a text cannot be")
    _check_keys(told, _names(kind), f"column {name}")
    lacking = [each.name for each in fields(kind) if each.name not in told and _is_needed(each)]
    if lacking:
        raise ValueError(f"column {name}: {_names(kind)[0]} needs {lacking[0]} too")
    try:
        return kind(**{key: _READ.get(key, _choice)(value) for key, value in told.items()})
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"column {name}: {error}") from None


def _choice(told: Any, where: str = "") -> Choice:
    paths = told if isinstance(told, list) else [told]
    if not paths or not all(isinstance(path, str) and path for path in paths):
        raise ValueError(f"{where}{': ' if where else ''}'{told}' is neither a field nor a list of fields")
    return tuple(paths)


def _text(told: Any) -> str:
    if isinstance(told, list | dict) or told is None:
        raise ValueError(f"'{told}' is no text")
    return str(told)


def _texts_by_text(told: Any) -> dict[str, str]:
    if not isinstance(told, dict):
        raise ValueError(f"values: '{told}' does not tell a text for each value, as {{1: g, 2: r}} does")
    return {_text(key): _text(value) for key, value in told.items()}


def _number(told: Any) -> float:
    if isinstance(told, bool) or not math.isfinite(float(told)):
        raise ValueError(f"'{told}' is no number")
    return float(told)


def _size(told: Any) -> float:
    if _number(told) <= 0:
        raise ValueError(f"'{told}' is not above 0")
    return _number(told)


def _flag(told: Any) -> bool:
    if not isinstance(told, bool):
        raise ValueError(f"'{told}' is neither true nor false")
    return told


_READ: dict[str, Any] = {
    "values": _texts_by_text,
    "add": _number,
    "absolute": _flag,
    "zero_point": _number,
    "pixel": _size,
    "text": _text,
}
"""How what is no choice of fields is read, by its key."""


def _check_keys(told: Iterable[str], known: Sequence[str], where: str) -> None:
    unknown = [str(key) for key in told if key not in known]
    if unknown:
        raise ValueError(f"{where}: '{unknown[0]}' is none of {', '.join(known)}")


def _is_needed(field: Any) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _names(kind: type) -> list[str]:
    return [each.name for each in fields(kind)]


def _choices(column: Any) -> list[Choice]:
    values = [getattr(column, name) for name in _names(type(column))]
    return [value for value in values if isinstance(value, tuple)]
