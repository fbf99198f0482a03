"""The model card: all that decides a score, kept as JSON in the metadata of the ONNX file itself."""

import base64
import json
import math
import zlib
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from otrain_infer.errors import ModelError, OtrainError, in_brief
from otrain_infer.normalise import Normalisation

FORMAT = "otrain-card-1"
METADATA_KEY = "otrain"

PLANES = ("SCI", "REF", "DIFF")
"""The images of a cutout: science, reference, and their difference."""

INPUT = "cutouts"
OUTPUT = "score"
SPREAD = "spread"
"""The second output of an ensemble: how far apart the scores of its networks are."""
PRECISE = "precise"
"""A second input, which may be left out, of a model with an int8 copy: true runs the network itself, false the copy."""


LARGEST_FLOAT = float(np.finfo(np.float32).max)

LARGEST_SIDE = 1 << 14
"""Pixels."""

LARGEST_GOLDEN = 1 << 28
"""Bytes of golden cutouts, inflated, above which a card is damaged."""


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """A threshold and what it brought on the validation rows.

    Attributes
    ----------
    name
        What it stands for: ``fpr-1%``, ``recall-99%``, ``best-f1-mcc``.
    threshold
        A candidate is called real from this score on.
    recall
        Fraction of the real candidates called real.
    fpr
        False positive rate: fraction of the bogus candidates called real.
    precision
        Fraction of the candidates called real that are; NaN if none is called so.
    """

    name: str
    threshold: float
    recall: float
    fpr: float
    precision: float


@dataclass(frozen=True, slots=True, eq=False)
class Golden:
    """A few raw cutouts and the scores that the model gave them when it was exported.

    Attributes
    ----------
    pixels
        Raw pixels, float32 (n, ny, nx, planes).
    scores
        float32 (n,), in 0-1.
    """

    pixels: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]

    def to_dict(self) -> dict[str, Any]:
        """Give the plain dictionary that the card stores."""
        packed = zlib.compress(np.ascontiguousarray(self.pixels, "<f4").tobytes(), 9)
        return {
            "shape": list(self.pixels.shape),
            "pixels": base64.b64encode(packed).decode("ascii"),
            "scores": [float(score) for score in self.scores],
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Golden":
        """Read what `to_dict` gave."""
        shape = tuple(map(int, content["shape"]))
        size = 4 * math.prod(shape)
        if not (min(shape, default=-1) >= 0 and size <= LARGEST_GOLDEN):
            raise ValueError(f"golden cutouts of the shape {shape}")
        raw = zlib.decompressobj().decompress(base64.b64decode(content["pixels"]), size + 1)
        pixels = np.frombuffer(raw, "<f4").astype(np.float32).reshape(shape)
        scores = [float(score) for score in content["scores"]]
        if len(scores) != len(pixels) or not all(0 <= score <= 1 for score in scores):
            raise ValueError(f"scores of golden cutouts {scores}")
        return cls(pixels, np.array(scores, np.float32))


@dataclass(frozen=True, slots=True)
class Cascade:
    """What a model with an int8 copy of its network does about rows that the two might call otherwise.

    Attributes
    ----------
    intervals
        (lowest, highest) int8 score, ends included: the network itself scores the rows in between again.
    rows
        Calibration rows, not those that gave the copy its ranges, on which the rest was measured.
    rescored
        Fraction of them scored again.
    flips, flips_alone
        Threshold, by name -> fraction of them that are called otherwise than by the network itself: with the rows
        scored again, and by the copy alone.
    mean_change, largest_change
        Of a score, by the copy alone.
    golden
        The copy's own scores of the golden cutouts; empty if the card has none.
    """

    intervals: tuple[tuple[float, float], ...]
    rows: int
    rescored: float
    flips: dict[str, float]
    flips_alone: dict[str, float]
    mean_change: float
    largest_change: float
    golden: tuple[float, ...] = ()

    def is_near(self, scores: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        """Tell which int8 scores, float32 (n,), are not to be relied on, bool (n,); NaN is not among them."""
        near = np.zeros(scores.shape, np.bool_)
        for low, high in self.intervals:
            near |= (scores >= np.float32(low)) & (scores <= np.float32(high))
        return near

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Cascade":
        """Read what `dataclasses.asdict` gave; raises ValueError where it makes no sense."""
        intervals = tuple((float(low), float(high)) for low, high in content["intervals"])
        if not all(0 <= low <= high <= 1 for low, high in intervals):
            raise ValueError(f"intervals {intervals}")
        rescored, mean, largest = (float(content[key]) for key in ("rescored", "mean_change", "largest_change"))
        flips, alone = (
            {str(name): float(rate) for name, rate in content[key].items()} for key in ("flips", "flips_alone")
        )
        golden = tuple(map(float, content["golden"]))
        if not all(map(math.isfinite, (rescored, mean, largest, *golden, *flips.values(), *alone.values()))):
            raise ValueError("figures that are no numbers")
        return cls(intervals, int(content["rows"]), rescored, flips, alone, mean, largest, golden)

    def guards(self, threshold: float) -> bool:
        """Tell whether no call at a threshold is left to the copy."""
        return threshold in (0, 1) or any(low <= threshold <= high for low, high in self.intervals)


@dataclass(frozen=True, slots=True, eq=False)
class ModelCard:
    """What a model needs and what it promises.

    Attributes
    ----------
    name, version, created
        Who it is; `created` in UTC, ISO 8601.
    planes
        The planes of its input, in order, such as ``("SCI", "REF", "DIFF")``.
    size
        (ny, nx) of its input (pixels).
    normalisation
        What is done to raw pixels before they reach the network.
    threshold
        A candidate is called real from this score on, unless the user says otherwise.
    description
        What it was trained on, what it is good for and what it is not, in plain sentences.
    operating_points
        Thresholds with what they brought on the validation rows.
    calibration
        How scores were made probabilities, such as ``{"method": "temperature", "temperature": 1.3}``; empty if not.
    training
        Settings, seed, counts, versions, SHA-256 of the datacube; empty if unknown.
    metrics
        Figures on the validation rows, from the exported model.
    reference
        Fingerprint of inputs and scores, against which drift is seen.
    golden
        Raw cutouts with their scores in full precision, to be replayed wherever the model runs.
    cascade
        How the model uses the int8 copy of its network; None where it has none.
    """

    name: str
    version: str
    created: str
    planes: tuple[str, ...]
    size: tuple[int, int]
    normalisation: Normalisation
    threshold: float = 0.5
    description: str = ""
    operating_points: tuple[OperatingPoint, ...] = ()
    calibration: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    reference: dict[str, Any] = field(default_factory=dict)
    golden: Golden | None = None
    cascade: Cascade | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(ny, nx, planes) of one cutout."""
        return (*self.size, len(self.planes))

    def to_json(self) -> str:
        """Write the card as the JSON text that the ONNX file holds."""
        content: dict[str, Any] = {"format": FORMAT}
        for each in fields(self):
            content[each.name] = getattr(self, each.name)
        content["normalisation"] = self.normalisation.to_dict()
        content["operating_points"] = [
            {each.name: getattr(point, each.name) for each in fields(point)} for point in self.operating_points
        ]
        content["golden"] = self.golden.to_dict() if self.golden else None
        content["cascade"] = asdict(self.cascade) if self.cascade else None
        return json.dumps(_without_nan(content), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "ModelCard":
        """Read a card.

        Parameters
        ----------
        text
            What `to_json` wrote.

        Returns
        -------
        ModelCard

        Raises
        ------
        ModelError
            When the text is not a card of a known format.
        """
        try:
            content = json.loads(text)
            card_format = content.pop("format")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise ModelError("its card is not readable") from None
        if card_format != FORMAT:
            told = in_brief(card_format)
            raise ModelError(f"its card has the format '{told}', which this version of otrain does not know")
        try:
            return _checked(cls(**_typed(content)))
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, OtrainError, zlib.error) as error:
            raise ModelError(f"its card is incomplete or damaged ({in_brief(error)})") from None


def _typed(content: dict[str, Any]) -> dict[str, Any]:
    ny, nx = content["size"]
    if not all(type(n) is int and 0 < n <= LARGEST_SIDE for n in (ny, nx)):
        raise ValueError(f"size {content['size']}")
    _check_texts(content)
    if not 0 <= content["threshold"] <= 1:
        raise ValueError(f"threshold {content['threshold']}")
    planes = list(content["planes"])
    if not planes or len(set(planes)) < len(planes) or not set(planes) <= set(PLANES):
        raise ValueError(f"planes {content['planes']}")
    for key in ("calibration", "training", "metrics", "reference"):
        if not isinstance(content[key], dict):
            raise TypeError(f"{key} {content[key]}")
    return content | {
        "planes": tuple(planes),
        "size": (ny, nx),
        "normalisation": Normalisation.from_dict(content["normalisation"]),
        "threshold": float(content["threshold"]),
        "operating_points": tuple(map(_point, content["operating_points"])),
        "golden": Golden.from_dict(content["golden"]) if content["golden"] else None,
        "cascade": Cascade.from_dict(content["cascade"]) if content.get("cascade") else None,
    }


def _check_texts(content: dict[str, Any]) -> None:
    """Raise unless the texts of a card are texts, and can stand in a table, in a log, and in a terminal."""
    for key in ("name", "version", "created", "description"):
        if not isinstance(content.get(key, ""), str):
            raise TypeError(f"{key} {content[key]}")
    if not "".join(content[key] for key in ("name", "version", "created")).isprintable():
        raise ValueError("a name with control characters")
    json.dumps({key: content[key] for key in content if key != "golden"}, ensure_ascii=False).encode()


def _checked(card: ModelCard) -> ModelCard:
    if card.cascade and card.golden and len(card.cascade.golden) != len(card.golden.scores):
        raise ValueError(f"{len(card.cascade.golden)} int8 scores of {len(card.golden.scores)} golden cutouts")
    if card.golden and card.golden.pixels.shape[1:] != card.shape:
        raise ValueError(f"golden cutouts of the shape {card.golden.pixels.shape}")
    if abs(card.normalisation.padding.value) > LARGEST_FLOAT:
        raise ValueError(f"padding value {card.normalisation.padding.value}")
    for threshold in (card.threshold, *(point.threshold for point in card.operating_points)):
        if card.cascade and not card.cascade.guards(threshold):
            raise ValueError(f"int8 is not guarded at the threshold {threshold}")
    return card


def _point(content: dict[str, Any]) -> OperatingPoint:
    known: dict[str, Any] = {key: math.nan if value is None else value for key, value in content.items()}
    name = str(known.pop("name"))
    return OperatingPoint(name, **{key: float(value) for key, value in known.items()})


def _without_nan(content: Any) -> Any:
    # JSON has no NaN: a figure that is not defined is null.
    if isinstance(content, dict):
        return {key: _without_nan(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_without_nan(value) for value in content]
    if isinstance(content, np.generic):
        content = content.item()
    return None if isinstance(content, float) and not np.isfinite(content) else content
