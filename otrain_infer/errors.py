"""Everything O'TRAIN raises on purpose.

OtrainError
├── UsageError         an option or argument that makes no sense        ValueError
├── SourceError        cutouts that are not where they should be        OSError
├── PacketError        an alert packet or schema that cannot be read    ValueError
├── DatacubeError      an .npz file that is not a usable datacube       ValueError
├── ModelError         a model file that cannot be used                 ValueError
│   ├── ParityError    an exported model that scores otherwise          ValueError
│   └── GateError      a new model that is no better than the old one   ValueError
├── DeviceError        a device that was asked for and cannot be had    RuntimeError
├── StreamError        a stream of alerts that cannot go on             RuntimeError
├── OutputError        a result that could not be written               OSError
└── MissingExtraError  an optional dependency that is not installed     ImportError

Each carries one sentence that says what is wrong, where, and what to do. A cutout that cannot be
used never raises: it becomes a row with a flag.
"""

LONGEST_REASON = 300


def in_brief(error: object) -> str:
    """Give what an error says of content that is not to be trusted: one line, not a long one, of what can be shown."""
    said = " ".join(str(error)[: 2 * LONGEST_REASON].split())
    shown = (each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in said)
    return "".join(shown)[:LONGEST_REASON]


class OtrainError(Exception):
    """Parent of every error that O'TRAIN raises on purpose."""


class UsageError(OtrainError, ValueError):
    """An option or argument that makes no sense."""


class SourceError(OtrainError, OSError):
    """Cutouts or images that are not where they should be, or cannot be read."""


class PacketError(OtrainError, ValueError):
    """An alert packet, or its schema, that cannot be read."""


class DatacubeError(OtrainError, ValueError):
    """An .npz file that is not a usable datacube."""


class ModelError(OtrainError, ValueError):
    """A model file that cannot be used."""


class ParityError(ModelError):
    """An exported model that scores otherwise than the network it came from."""


class GateError(ModelError):
    """A new model that does not beat the one that it began from."""


class DeviceError(OtrainError, RuntimeError):
    """A device that was asked for and cannot be had."""


class StreamError(OtrainError, RuntimeError):
    """A stream of alerts that cannot go on."""


class OutputError(OtrainError, OSError):
    """A result that could not be written."""


class MissingExtraError(OtrainError, ImportError):
    """An optional dependency that is not installed."""
