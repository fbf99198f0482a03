"""The partitions that a consumer has: where each begins, how far it has come, and whether it has ended."""

import logging
import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from time import monotonic
from typing import Any

from otrain_infer import kafka
from otrain_infer.errors import StreamError

log = logging.getLogger("otrain.stream")

TIMEOUT = 30.0
"""How long a broker may take to answer (s)."""

TRIES = 3
"""How often it is asked where to begin."""

PAUSE_AFTER = 5.0
"""How long nothing may be taken before the group is told that this process lives, and fetching stops (s)."""

Position = tuple[str, int]
"""A topic, and one of its partitions."""


class Partitions:
    """What a consumer is assigned; for use in one thread.

    Parameters
    ----------
    consumer
        Of confluent_kafka.
    start
        Where to begin where the group has not been yet: ``earliest`` or ``latest``.
    own
        Topics that results go to, which must not be read.

    Attributes
    ----------
    consumer
        As given.
    moves
        How often partitions have gone to other processes.
    """

    def __init__(self, consumer: Any, start: str, own: Collection[str] = ()) -> None:
        self._kafka = kafka.import_kafka()
        self.consumer, self._start, self._own = consumer, start, own
        self.moves = 0
        self._begun: dict[Position, int] = {}
        codes = self._kafka.KafkaError
        self._moved_on = (codes.REBALANCE_IN_PROGRESS, codes.ILLEGAL_GENERATION, codes.UNKNOWN_MEMBER_ID)
        self._assigned: set[Position] | None = None
        self._ended: set[Position] = set()
        self._waiting_since: float | None = None
        self._paused: list[Any] = []

    @property
    def all_ended(self) -> bool:
        """Whether the group has shared out the partitions, and those that came here have been read to their end."""
        return self._assigned is not None and self._assigned <= self._ended

    def expect(self, topics: Iterable[str]) -> None:
        """Make sure that topics are there, of which one that begins with ^ is a regular expression.

        librdkafka waits for what is not there, however long that takes.

        Raises
        ------
        StreamError
            When one is not, or the broker does not answer.
        """
        try:
            there = self.consumer.list_topics(timeout=TIMEOUT).topics
        except self._kafka.KafkaException as error:
            raise kafka.failed("the broker does not answer", error) from None
        for topic in topics:
            if not (topic in there if topic[0] != "^" else any(_matches(topic, each) for each in there)):
                raise StreamError(f"there is no topic '{topic}', or this user may not see it")

    def begin(self, consumer: Any, partitions: list[Any]) -> None:
        """Begin with partitions: where the group has been, or else where it is to start.

        That place is committed before anything is taken. Else a process that dies before it has delivered anything
        would make the next one start at another place, and skip what lies between.
        """
        loops = sorted({each.topic for each in partitions}.intersection(self._own))
        if loops:
            raise StreamError(f"the topic '{loops[0]}' cannot be read and written: name the others alone in --topics")
        for tries_left in reversed(range(TRIES)):
            try:
                placed = self._place(consumer, partitions)
                consumer.assign(placed)
                break
            except self._kafka.KafkaException as error:
                if error.args[0].code() in self._moved_on:
                    # Another process has come or gone meanwhile: these are taken away again before the next are given.
                    consumer.assign([])
                    return
                if not tries_left:
                    raise kafka.failed("the partitions cannot be read", error) from None
                log.warning("the partitions cannot be read yet (%s)", kafka.describe(error))
        self._assigned = (self._assigned or set()) | {_position(each) for each in partitions}
        self._begun |= {_position(each): each.offset for each in placed}
        if self._assigned:
            log.info("%d partitions", len(self._assigned))
        else:
            log.info("no partition for now: other processes of the group have them all")

    def _place(self, consumer: Any, partitions: list[Any]) -> list[Any]:
        placed = consumer.committed(partitions, TIMEOUT) if partitions else []
        new = [each for each in placed if each.offset < 0]
        for each in new:
            lowest, highest = consumer.get_watermark_offsets(each, TIMEOUT)
            each.offset = lowest if self._start == "earliest" else highest
        if new:
            consumer.commit(offsets=new, asynchronous=False)
        return list(placed)

    def end(self, partitions: Iterable[Any]) -> None:
        """Forget partitions that another process gets."""
        gone = {_position(each) for each in partitions}
        self.moves += 1
        # With none left it is not known what there is to read, until the group has shared them out again.
        self._assigned = ((self._assigned or set()) - gone) or None
        self._ended -= gone
        with suppress(self._kafka.KafkaException, RuntimeError):  # of a consumer that is being closed
            self.resume()  # else they stay paused if they ever come back

    def note(self, message: Any) -> bool:
        """Tell whether a message is one, and not what else librdkafka says in its place.

        Raises
        ------
        StreamError
            When it says that nothing more can come.
        """
        error, codes = message.error(), self._kafka.KafkaError
        if error is None:
            self._ended.discard((message.topic(), message.partition()))
            return True
        if error.code() == codes._PARTITION_EOF:
            self._ended.add((message.topic(), message.partition()))
        elif error.fatal() or error.code() in (codes.TOPIC_AUTHORIZATION_FAILED, codes.GROUP_AUTHORIZATION_FAILED):
            raise kafka.failed("no alert can be taken", error)
        else:
            log.warning("no alert for now (%s)", kafka.describe(error))
        return False

    def commit(self, offsets: Mapping[Position, int]) -> None:
        """Note how far the group has come; where that fails, more is taken again than need be, and nothing is lost."""
        try:
            self.consumer.commit(offsets=self._placed(offsets), asynchronous=False)
        except self._kafka.KafkaException as error:
            log.warning("how far the group has come cannot be noted (%s)", kafka.describe(error))

    def go_back(self, taken: Iterable[Mapping[Position, int]]) -> None:
        """Take again from these offsets on, the lowest of each partition."""
        lowest: dict[Position, int] = {}
        for offsets in taken:
            for position, offset in offsets.items():
                lowest[position] = min(offset, lowest.get(position, offset))
        self._ended -= lowest.keys()
        for each in self._placed({key: offset for key, offset in lowest.items() if key in (self._assigned or ())}):
            try:
                self.consumer.seek(each)
            except self._kafka.KafkaException as error:
                raise kafka.failed("what is not delivered cannot be taken again", error) from None

    def lags(self) -> dict[Position, int]:
        """Give how many messages wait in each partition, as far as that is known."""
        partitions = self.consumer.position([self._kafka.TopicPartition(*each) for each in self._assigned or ()])
        found = {}
        for each in partitions:
            _, highest = self.consumer.get_watermark_offsets(each, cached=True)
            taken = each.offset if each.offset >= 0 else self._begun.get(_position(each), -1)
            if taken >= 0 and highest >= 0:
                found[_position(each)] = max(0, highest - taken)
        return found

    def wait(self) -> None:
        """Keep the place in the group while nothing can be taken, to be called again and again until `resume`."""
        if self._waiting_since is None:
            self._waiting_since = monotonic()
        if monotonic() - self._waiting_since < PAUSE_AFTER:
            return
        if not self._paused:
            self._paused = self.consumer.assignment()
            self.consumer.pause(self._paused)
        message = self.consumer.poll(0)
        if message is not None and self.note(message):  # it was on its way already
            self.go_back([{_position_of(message): message.offset()}])

    def resume(self) -> None:
        """Go on taking."""
        self._waiting_since = None
        paused, self._paused = self._paused, []
        if paused:
            self.consumer.resume(paused)

    def _placed(self, offsets: Mapping[Position, int]) -> list[Any]:
        return [self._kafka.TopicPartition(*position, offset) for position, offset in offsets.items()]


def _matches(pattern: str, topic: str) -> bool:
    try:
        return re.match(pattern, topic) is not None
    except re.error:  # librdkafka's dialect is another one
        return True


def _position(partition: Any) -> Position:
    return partition.topic, partition.partition


def _position_of(message: Any) -> Position:
    return message.topic(), message.partition()
