"""What a stream has delivered and what it has noted as done, when deliveries fail and partitions move."""

import threading
import time
from contextlib import suppress

import pytest
from brokers import PARTITIONS, Broker
from confluent_kafka import Consumer, TopicPartition
from networks import make_card, make_model
from packet_files import alert, container

from otrain_infer import Scorer, partitions, stream
from otrain_infer.alerts import AlertReader
from otrain_infer.live_model import LiveModel, Loaded
from otrain_infer.partitions import Partitions
from otrain_infer.stream import RewoundError, Stream, StreamSettings

N, AT_ONCE = 40, 5
CANDIDS = {str(7000 + k) for k in range(N)}


@pytest.fixture(scope="module")
def broker():
    return Broker()


@pytest.fixture
def topic(request, broker):
    """A topic of this test's own, which holds N alerts."""
    name = "".join(each if each.isalnum() else "-" for each in request.node.name)[-60:]
    for k in range(N):
        broker.send(name, [container("ztf", alert("ztf", k, shape=(20, 20)))], partition=k % PARTITIONS)
    return name


@pytest.fixture
def hasty(monkeypatch):
    monkeypatch.setattr(partitions, "PAUSE_AFTER", 0.1)
    monkeypatch.setattr(stream, "RETRY", 0.05)


class Troubled:
    """A sink that keeps candids, and calls `trouble` before the second batch."""

    commits = False

    def __init__(self, trouble):
        self.delivered, self.calls, self._trouble = [], 0, trouble

    def deliver(self, scored, idle):
        self.calls += 1
        if self.calls == 2:
            self._trouble(idle)
        self.delivered += scored.cutouts.header["CANDID"].tolist()

    def close(self):
        pass


def settings(broker, topic):
    return {
        "bootstrap.servers": broker.address,
        "group.id": topic,
        "enable.auto.commit": False,
        "session.timeout.ms": 6000,
        "heartbeat.interval.ms": 500,
    }


def run(broker, topic, trouble):
    """Work until the end of the topic; give the sink."""
    content = make_model(make_card(("SCI", "REF", "DIFF"), (20, 20)))

    def load(_):
        scorer = Scorer(content)
        return Loaded(scorer, AlertReader.for_card(scorer.card))

    consumer = Consumer(settings(broker, topic) | {"enable.partition.eof": True})
    sink = Troubled(trouble)
    how = StreamSettings((topic,), AT_ONCE, 0.2, until_end=True)
    with suppress(MemoryError, KeyboardInterrupt):
        Stream(Partitions(consumer, "earliest"), sink, LiveModel(None, load), how, threads=2).run()
    return sink


def committed(broker, topic):
    consumer = Consumer(settings(broker, topic))
    places = consumer.committed([TopicPartition(topic, part) for part in range(PARTITIONS)], 10)
    consumer.close()
    return {place.partition: max(0, place.offset) for place in places}


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt])
def test_nothing_is_done_behind_what_is_not_delivered(broker, topic, error):
    def trouble(idle):
        time.sleep(0.5)  # until the batches behind are scored
        raise error

    sink = run(broker, topic, trouble)
    assert len(sink.delivered) == sum(committed(broker, topic).values()) == AT_ONCE


@pytest.mark.parametrize("waits", [0.0, 0.5])
def test_what_a_transaction_took_back_is_taken_again_even_behind_the_end(broker, topic, hasty, waits):
    def trouble(idle):
        until = time.monotonic() + waits  # long enough for fetching to be paused
        while time.monotonic() < until:
            idle()
        raise RewoundError("a transaction was taken back")

    sink = run(broker, topic, trouble)
    assert set(sink.delivered) == CANDIDS
    assert len(sink.delivered) == N
    assert sum(committed(broker, topic).values()) == N


def test_partitions_that_come_back_are_read_on_and_none_is_taken_for_ended(broker, topic, hasty):
    there, gone = threading.Event(), threading.Event()

    def visit():
        visitor = Consumer(settings(broker, topic))
        visitor.subscribe([topic], on_assign=lambda _, places: places and there.set())
        until = time.monotonic() + 30
        while not there.is_set() and time.monotonic() < until:
            visitor.poll(0.1)
        visitor.close()
        gone.set()

    def trouble(idle):
        threading.Thread(target=visit, daemon=True).start()
        until = time.monotonic() + 30
        while not gone.is_set() and time.monotonic() < until:
            idle()
            time.sleep(0.01)

    sink = run(broker, topic, trouble)
    assert there.is_set()
    assert set(sink.delivered) == CANDIDS
    assert sum(committed(broker, topic).values()) == N
