"""A stream of alerts: messages in, scored in micro-batches, results out, and nothing lost on the way."""

import logging
import math
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass
from time import monotonic, sleep, time
from typing import Any, Protocol

from otrain_infer import kafka
from otrain_infer.batches import Batch, Scored, See, score_batch
from otrain_infer.errors import SourceError, StreamError
from otrain_infer.live_model import LiveModel
from otrain_infer.partitions import Partitions

log = logging.getLogger("otrain.stream")

PATIENCE = 0.02
"""How long the loop waits for one thing while another may happen (s)."""

RETRY = 1.0
"""How long it waits before it tries again what a server has refused (s)."""

WARN_EVERY = 60.0
"""How long what goes on failing is not told again (s)."""

DRAIN = 30.0
"""How long it may take to deliver what was taken, once the stream is stopped (s)."""

TOLD_AT_ONCE = 5
"""Disagreements of two models that are logged each time."""


class Pace:
    """Tells when what is done again and again is due: after so many seconds."""

    def __init__(self, every: float = WARN_EVERY) -> None:
        self._every, self._next = every, 0.0

    def is_due(self) -> bool:
        """Tell whether it is, and if so, begin to wait again."""
        if monotonic() < self._next:
            return False
        self._next = monotonic() + self._every
        return True


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """How alerts are taken.

    Attributes
    ----------
    topics
        Where they come from; one that begins with ^ is a regular expression.
    max_batch
        Messages of a micro-batch, at most.
    max_latency
        How long a message waits for others, at most (s).
    until_end
        Whether to end where the partitions do, as they are when that is reached.
    """

    topics: tuple[str, ...]
    max_batch: int = 256
    max_latency: float = 0.2
    until_end: bool = False


class Sink(Protocol):
    """Where results go.

    Attributes
    ----------
    commits
        Whether it notes by itself, along with the results, how far the group has come.
    """

    commits: bool

    def deliver(self, scored: Scored, idle: Callable[[], None]) -> None:
        """Put what became of a batch where it is safe.

        `idle` is to be called now and then while that takes long. Raises `RewoundError` where nothing has been put and
        the batch has to be taken again.
        """

    def close(self) -> None:
        """Let go of what is held."""


class RewoundError(Exception):
    """Results were taken back: what they came from has to be taken again."""


class Observer(Protocol):
    """Who is told what happens, such as a monitor."""

    def observe(self, scored: Scored, delivered: float) -> None:
        """See a batch that has been delivered, and when (s, `time.time`)."""

    def tick(self) -> None:
        """Do what is due now and then, whether or not anything is delivered."""


class Stream:
    """Takes messages, scores and delivers them, until it is stopped.

    At most `threads` + 1 batches are scored at once, each in one thread. They are delivered in the order in which they
    were taken, so that what a group has done is always all up to one place in each partition. When partitions go to
    another process, what of them is not delivered yet is forgotten: that process takes it again.

    Parameters
    ----------
    partitions
        Where messages come from.
    sink
        Where results go.
    model, shadow
        The model, and one that is scored beside it, whose disagreements are logged.
    settings
        How alerts are taken.
    threads
        How many score at once.
    observers
        Who is told of each batch.
    see
        Is shown the cutouts of the model before they are scored, in any thread.
    """

    def __init__(
        self,
        partitions: Partitions,
        sink: Sink,
        model: LiveModel,
        settings: StreamSettings,
        threads: int = 1,
        shadow: LiveModel | None = None,
        observers: Sequence[Observer] = (),
        see: See | None = None,
    ) -> None:
        self._partitions, self._sink, self._settings = partitions, sink, settings
        self._model, self._shadow, self._observers, self._see = model, shadow, observers, see
        self._pending: deque[tuple[Batch, Future[Scored]]] = deque()
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="otrain")
        self._stopped = math.inf
        self._failing, self._disagreeing = Pace(), Pace()

    def stop(self) -> None:
        """Take no more messages, deliver those that were taken, and end; good to be called from a signal handler."""
        self._stopped = min(self._stopped, monotonic())

    def run(self) -> None:
        """Work until `stop` is called, or all partitions have ended where that was asked for.

        Raises
        ------
        StreamError
            When the stream cannot go on; what was not delivered is taken again when it is started anew.
        """
        consumer = self._partitions.consumer
        handlers = {"on_assign": self._partitions.begin, "on_revoke": self._forget, "on_lost": self._forget}
        try:
            if self._settings.until_end:
                self._partitions.expect(self._settings.topics)
            consumer.subscribe([*self._settings.topics], **handlers)
            log.info("waiting for the group to share out the partitions")
            while self._stopped > monotonic() or self._pending:
                self._turn()
        except kafka.import_kafka().KafkaException as error:
            raise kafka.failed(f"the topics '{' '.join(self._settings.topics)}' cannot be read", error) from None
        finally:
            self._pending.clear()  # whatever ended this: nothing may be delivered behind what was not
            self._pool.shutdown(cancel_futures=True)
            self._sink.close()
            consumer.close()

    def _turn(self) -> None:
        """Take a batch where there is room for it, and deliver the oldest where it is ready."""
        for model in (self._model, self._shadow):
            if model:
                model.update()
        stopping = self._stopped <= monotonic()
        full = len(self._pending) > self._threads
        if not (stopping or full):
            self._take()
        if self._pending and self._is_ready(PATIENCE if stopping or full else 0.0):
            self._deliver()
        if self._settings.until_end and self._partitions.all_ended and not self._pending:
            self.stop()
        self._tick()

    def _take(self) -> None:
        # While others are being scored, nobody may wait for the rest of a batch.
        patience = PATIENCE if self._pending else self._settings.max_latency
        try:
            messages = self._partitions.consumer.consume(self._settings.max_batch, patience)
        except kafka.import_kafka().KafkaException as error:
            raise kafka.failed("no alert can be taken", error) from None
        batch = Batch([each for each in messages if self._partitions.note(each)], time())
        if batch.messages:
            self._pending.append((batch, self._submit(batch)))

    def _submit(self, batch: Batch) -> "Future[Scored]":
        shadow = self._shadow.current if self._shadow else None
        return self._pool.submit(score_batch, batch, self._model.current, shadow, self._see)

    def _is_ready(self, patience: float) -> bool:
        """Tell whether the oldest batch is scored, or is within a moment."""
        _, oldest = self._pending[0]
        try:
            oldest.exception(patience)
        except NotYet:
            return False
        return True

    def _deliver(self) -> None:
        batch, oldest = self._pending.popleft()
        moves = self._partitions.moves
        try:
            scored = oldest.result()
            # Within a transaction nothing is polled, so that none holds what has gone to another process meanwhile.
            self._sink.deliver(scored, self._check_time if self._sink.commits else self._stay_alive)
        except SourceError as error:  # such as a registry of schemas that does not answer
            if self._failing.is_due():
                log.warning("%s: trying again", error)
            sleep(RETRY)
            self._pending.appendleft((batch, self._submit(batch)))
            self._stay_alive()
        except RewoundError as error:
            if self._failing.is_due():
                log.warning("%s: taking what is not delivered again", error)
            sleep(RETRY)
            self._partitions.go_back([batch.first, *(each.first for each, _ in self._pending)])
            self._pending.clear()
            self._partitions.resume()
        else:
            self._partitions.resume()
            if not self._sink.commits and self._partitions.moves == moves:
                self._partitions.commit(batch.next)
            self._tell(scored)

    def _tell(self, scored: Scored) -> None:
        for observer in self._observers:
            observer.observe(scored, time())
        rows = scored.disagreements.tolist()
        if not rows or not self._disagreeing.is_due():
            return
        for row in rows[:TOLD_AT_ONCE]:
            _, others = scored.shadow or (None, scored.scores)
            candid = scored.cutouts.header["CANDID"][row]
            log.warning("the models disagree on %s: %.4f, beside it %.4f", candid, scored.scores[row], others[row])
        if len(rows) > TOLD_AT_ONCE:
            log.warning("the models disagree on %d of %d alerts of this batch", len(rows), len(scored.scores))

    def _tick(self) -> None:
        for observer in self._observers:
            observer.tick()

    def _stay_alive(self) -> None:
        """Keep the place in the group while nothing can be taken; give up where it takes too long to end."""
        self._check_time()
        self._partitions.wait()
        self._tick()

    def _check_time(self) -> None:
        if monotonic() - self._stopped > DRAIN:
            raise StreamError(
                f"what was taken could not be scored and delivered within {DRAIN:g} s: it is taken again next time"
            )

    def _forget(self, consumer: Any, partitions: list[Any]) -> None:  # noqa: ARG002
        self._pending.clear()
        self._partitions.end(partitions)
