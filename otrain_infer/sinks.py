"""Where the results of a stream go: a topic, at least once or exactly once, or a table that grows."""

import logging
from collections.abc import Callable
from functools import partial
from time import sleep
from typing import Any

from otrain_infer import kafka
from otrain_infer.batches import Scored
from otrain_infer.growing_table import FullError, GrowingTable
from otrain_infer.results import Result, iter_results
from otrain_infer.stream import RETRY, Pace, RewoundError
from otrain_infer.table import build_columns

log = logging.getLogger("otrain.stream")

MOMENT = 0.5
"""How long is waited for a broker before the stream sees to other things (s)."""

TIMEOUT = 30.0
"""How long a transaction may wait for the broker (s)."""

Idle = Callable[[], None]
Write = Callable[[Result], bytes]
Message = dict[str, Any]
"""What a producer takes."""


class TopicSink:
    """Results become messages of a topic, each delivered at least once.

    Parameters
    ----------
    producer
        Of confluent_kafka.
    topic
        For results.
    dead_letter
        Topic for messages without an alert, as they came, with the reason in their headers; None to put these among the
        results.
    write
        Writes a result.
    """

    commits = False

    def __init__(self, producer: Any, topic: str, dead_letter: str | None, write: Write) -> None:
        self._kafka = kafka.import_kafka()
        codes = self._kafka.KafkaError
        self._too_large = (codes.MSG_SIZE_TOO_LARGE, codes.INVALID_MSG_SIZE)
        self._producer, self._topic, self._dead_letter, self._write = producer, topic, dead_letter, write
        self._failed: Any = None
        self._oversized: list[Any] = []  # dead letters that the broker refused for their size

    def deliver(self, scored: Scored, idle: Idle) -> None:
        """Put the results of a batch, and wait until the broker has them.

        Raises
        ------
        StreamError
            When the broker refuses one.
        """
        try:
            self._produce(scored, idle)
        except self._kafka.KafkaException as error:
            raise kafka.failed("a result cannot be delivered", error) from None
        self._flush(idle)
        if self._failed is not None:
            raise kafka.failed("a result cannot be delivered", self._failed)

    def _flush(self, idle: Idle) -> None:
        while self._producer.flush(MOMENT) or self._oversized:
            while self._oversized:
                self._put(idle, **_without_content(self._oversized.pop()))
            idle()

    def close(self) -> None:
        """Let go of what is held."""
        self._producer.flush(MOMENT)

    def _produce(self, scored: Scored, idle: Idle) -> None:
        poison = scored.poison.tolist()
        for row, result in enumerate(iter_results(scored)):
            if poison[row] and self._dead_letter is not None:
                self._put(idle, **self._bury(scored, row))
            else:
                self._put(idle, topic=self._topic, key=result["candid"] or None, value=self._write(result))

    def _bury(self, scored: Scored, row: int) -> Message:
        message = scored.batch.messages[int(scored.sources[row])]
        told = {
            "reason": scored.cutouts.reasons.get(row, "no more is known"),
            "topic": message.topic(),
            "partition": message.partition(),
            "offset": message.offset(),
        }
        own = [*(message.headers() or []), *((f"otrain.{key}", str(value)) for key, value in told.items())]
        return {"topic": self._dead_letter, "key": message.key(), "value": message.value(), "headers": own}

    def _put(self, idle: Idle, **message: Any) -> None:
        while True:
            try:
                self._producer.produce(**message, on_delivery=partial(self._note, message))
                return
            except BufferError:  # the broker is slower than we are, or away
                self._producer.poll(MOMENT)
                idle()
            except self._kafka.KafkaException as error:
                if error.args[0].code() not in self._too_large or not message.get("value"):
                    raise
                message = _without_content(message)

    def _note(self, message: Message, error: Any, delivered: Any) -> None:  # noqa: ARG002 (it comes without headers)
        if error is None:
            return
        if error.code() in self._too_large and message["topic"] == self._dead_letter and message["value"]:
            self._oversized.append(message)
        else:
            self._failed = self._failed or error


def _without_content(message: Message) -> Message:
    """Give a message whose content the broker does not take as it may be delivered: it must not hold up all others."""
    told = "otrain.dropped", "the content is larger than the broker takes"
    return message | {"value": None, "headers": [*message.get("headers", ()), told]}


def _place_of(dead: Message) -> tuple[str, ...]:
    """Tell where a dead letter came from."""
    told = dict(dead["headers"])
    return tuple(told[f"otrain.{key}"] for key in ("topic", "partition", "offset"))


class TransactionSink(TopicSink):
    """Results become messages of a topic, each exactly once for those who read what is committed.

    The results of a batch and how far the group has come are one transaction.

    Parameters
    ----------
    producer
        Of confluent_kafka, with a ``transactional.id``.
    consumer
        Whose group it is.
    topic, dead_letter, write
        As of `TopicSink`.

    Raises
    ------
    StreamError
        When the broker knows no transactions, or does not answer.
    """

    commits = True

    def __init__(self, producer: Any, consumer: Any, topic: str, dead_letter: str | None, write: Write) -> None:
        super().__init__(producer, topic, dead_letter, write)
        self._consumer = consumer
        codes = self._kafka.KafkaError
        self._forbidden = (
            codes.TOPIC_AUTHORIZATION_FAILED,
            codes.GROUP_AUTHORIZATION_FAILED,
            codes.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
        )
        self._dropped: set[tuple[str, ...]] = set()
        try:
            producer.init_transactions(TIMEOUT)
        except self._kafka.KafkaException as error:
            raise kafka.failed("transactions cannot be begun", error) from None

    def deliver(self, scored: Scored, idle: Idle) -> None:
        """Put the results of a batch.

        Raises
        ------
        RewoundError
            When the transaction was taken back.
        StreamError
            When no transaction is possible any more, as when another process has begun with the same name.
        """
        offsets = [self._kafka.TopicPartition(*place, offset) for place, offset in scored.batch.next.items()]
        group = self._consumer.consumer_group_metadata()
        try:
            self._producer.begin_transaction()
            self._produce(scored, idle)
            self._insist(partial(self._producer.send_offsets_to_transaction, offsets, group, TIMEOUT), idle)
            self._insist(partial(self._producer.commit_transaction, TIMEOUT), idle)
        except self._kafka.KafkaException as error:
            self._take_back(error, idle)

    def _insist(self, call: Callable[[], None], idle: Idle) -> None:
        """Make a call, again and again as long as the broker may still answer it."""
        while True:
            try:
                call()
                return
            except self._kafka.KafkaException as error:
                if not error.args[0].retriable():
                    raise
                idle()

    def _bury(self, scored: Scored, row: int) -> Message:
        dead = super()._bury(scored, row)
        return _without_content(dead) if _place_of(dead) in self._dropped else dead

    def _take_back(self, error: Any, idle: Idle) -> None:
        cause = error.args[0]
        # Once a transaction has failed, a call that has nothing to do with that is refused for its state.
        if not cause.txn_requires_abort() and cause.code() != self._kafka.KafkaError._STATE:
            raise kafka.failed("results cannot be delivered exactly once", error) from None
        try:
            self._insist(partial(self._producer.abort_transaction, TIMEOUT), idle)
        except self._kafka.KafkaException as other:
            raise kafka.failed("results can be neither delivered nor taken back", other) from None
        failed, self._failed = self._failed, None
        for each, hopeless in ((failed, self._too_large + self._forbidden), (cause, self._forbidden)):
            if each is not None and each.code() in hopeless:
                raise kafka.failed("a result cannot be delivered", each) from None
        self._dropped.update(map(_place_of, self._oversized))
        self._oversized.clear()
        raise RewoundError(f"a transaction was taken back ({kafka.describe(error)})") from None


class TableSink:
    """Results become rows of a table in plain text, each at least once; a batch is on the disk before it is done.

    Parameters
    ----------
    path
        The table, .csv or .dat, which is made, or goes on where a stream has ended; half a row at its end, of a process
        that was killed, is cut off.

    Raises
    ------
    OutputError
        When it cannot be written, or is another table.
    """

    commits = False

    def __init__(self, path: str) -> None:
        self._table, self._waiting = GrowingTable(path), Pace()

    def deliver(self, scored: Scored, idle: Idle) -> None:
        """Add the rows of a batch; wait where the disk is full."""
        spreads = scored.spreads if scored.model.scorer.has_spread else None
        columns = build_columns(scored.named_cutouts, scored.scores, scored.model.scorer.identity, spreads)
        while True:
            try:
                self._table.append(columns)
                return
            except FullError as error:
                if self._waiting.is_due():
                    log.warning("%s: waiting", error)
                sleep(RETRY)
                idle()

    def close(self) -> None:
        """Close the table."""
        self._table.close()
