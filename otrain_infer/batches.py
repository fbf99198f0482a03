"""Batches: messages that are scored together, and what became of them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from otrain_infer.cutouts import Cutouts
from otrain_infer.flags import CutoutFlag
from otrain_infer.live_model import Loaded
from otrain_infer.partitions import Position

_UNREADABLE = int(CutoutFlag.UNREADABLE)


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Messages that are scored together.

    Attributes
    ----------
    messages
        As confluent_kafka gives them.
    taken
        When they were (s, `time.time`).
    """

    messages: list[Any]
    taken: float

    @property
    def timestamps(self) -> list[float | None]:
        """When each message was sent (s since 1970); None where that is not told."""
        told = (message.timestamp() for message in self.messages)
        return [moment / 1000 if kind and moment > 0 else None for kind, moment in told]

    @property
    def next(self) -> dict[Position, int]:
        """Where the group goes on when this batch is done."""
        return {(message.topic(), message.partition()): message.offset() + 1 for message in self.messages}

    @property
    def first(self) -> dict[Position, int]:
        """Where the group goes on when this batch has to be taken again."""
        return {(message.topic(), message.partition()): message.offset() for message in reversed(self.messages)}


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """What became of a batch: n alerts, and messages that hold none.

    Attributes
    ----------
    batch
        The batch.
    model
        That gave the scores.
    cutouts
        The alerts, without pixels; a message that holds none is a row that is UNREADABLE and has no CANDID.
    scores, spreads
        float32 (n,); NaN where there is none.
    sources
        int64 (n,), the message of each.
    shadow
        The model beside it, and what it says, float32 (n,); None where there is none.
    """

    batch: Batch
    model: Loaded
    cutouts: Cutouts
    scores: npt.NDArray[np.float32]
    spreads: npt.NDArray[np.float32]
    sources: npt.NDArray[np.int64]
    shadow: tuple[Loaded, npt.NDArray[np.float32]] | None = None

    @property
    def poison(self) -> npt.NDArray[np.bool_]:
        """Bool (n,): the rows that stand for messages without an alert."""
        return np.asarray((self.cutouts.header["CANDID"] == "") & ((self.cutouts.flags & _UNREADABLE) != 0))

    @property
    def named_cutouts(self) -> Cutouts:
        """The alerts, each named by the topic, the partition and the offset of its message."""
        messages = [self.batch.messages[source] for source in self.sources.tolist()]
        names = [f"{each.topic()}/{each.partition()}/{each.offset()}" for each in messages]
        return replace(self.cutouts, names=np.array(names, np.str_))

    @property
    def disagreements(self) -> npt.NDArray[np.intp]:
        """The rows that one of the two models calls real and the other does not."""
        if self.shadow is None:
            return np.empty(0, np.intp)
        other, scores = self.shadow
        called, otherwise = self.scores >= self.model.scorer.card.threshold, scores >= other.scorer.card.threshold
        return np.flatnonzero((called != otherwise) & np.isfinite(self.scores) & np.isfinite(scores))


See = Callable[[Loaded, Cutouts], None]
"""Is shown the cutouts that a model takes, with their pixels."""


def score_batch(batch: Batch, model: Loaded, shadow: Loaded | None = None, see: See | None = None) -> Scored:
    """Score the alerts of a batch, in this thread."""
    cutouts, scores, spreads, sources = _score(batch, model, see)
    beside = (shadow, _score(batch, shadow)[1]) if shadow else None
    return Scored(batch, model, cutouts, scores, spreads, sources, beside)


def _score(batch: Batch, model: Loaded, see: See | None = None) -> tuple[Cutouts, Any, Any, npt.NDArray[np.int64]]:
    sources: list[npt.NDArray[np.int64]] = []

    def read(values: list[bytes]) -> Iterator[Cutouts]:
        for part, rows in model.reader.read_parts(values):
            sources.append(rows)
            if see:
                see(model, part)
            yield part

    values = [message.value() or b"" for message in batch.messages]
    parts, scores, spreads = zip(*model.scorer.score_parts([values], read), strict=True)
    return Cutouts.concatenate(parts), np.concatenate(scores), np.concatenate(spreads), np.concatenate(sources)
