"""A Kafka cluster in this process, which librdkafka brings along, and what tests say to it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable

from confluent_kafka import Consumer, Producer, TopicPartition

PARTITIONS = 4
"""Of a topic that is made by being named."""


class Broker:
    """Librdkafka's mock cluster: real sockets and the real protocol; it keeps some 5 MB a partition."""

    def __init__(self) -> None:
        self._cluster = Producer({"bootstrap.servers": "none", "test.mock.num.brokers": 1, "log_level": 2})
        found = self._cluster.list_topics(timeout=10).brokers.values()
        self.address = ",".join(f"{broker.host}:{broker.port}" for broker in found)

    def send(self, topic: str, values: Iterable[bytes | None], **options) -> None:
        producer = Producer({"bootstrap.servers": self.address})
        for value in values:
            producer.produce(topic, value=value, **options)
        assert producer.flush(20) == 0

    def receive(self, topic: str, count: int = 0, patience: float = 20.0) -> list:
        """What a topic holds, once there are so many messages, in the order of time."""
        consumer = Consumer({"bootstrap.servers": self.address, "group.id": "reader", "auto.offset.reset": "earliest"})
        consumer.assign([TopicPartition(topic, partition, 0) for partition in range(PARTITIONS)])
        found, until = [], time.monotonic() + patience
        while time.monotonic() < until:
            more = [each for each in consumer.consume(1000, 0.3) if not each.error()]
            found += more
            if len(found) >= count and not more:
                break
        consumer.close()
        return sorted(found, key=lambda message: message.timestamp()[1])

    def results(self, topic: str, count: int = 0) -> list[dict]:
        return [json.loads(message.value()) for message in self.receive(topic, count)]


def start(broker: Broker, *arguments: str, topic: str = "alerts", **options) -> subprocess.Popen:
    """Start the command."""
    command = [sys.executable, "-m", "otrain_infer.cli_stream", "--brokers", broker.address, "--topics", topic]
    settings = ["--kafka", "consumer.session.timeout.ms=6000", "consumer.heartbeat.interval.ms=500"]
    return subprocess.Popen([*command, *arguments, *settings], stderr=subprocess.PIPE, text=True, **options)


def end(process: subprocess.Popen, number: int = signal.SIGTERM) -> tuple[int, str]:
    """End it with a signal; give its exit code, and what it has said."""
    process.send_signal(number)
    return finish(process)


def finish(process: subprocess.Popen, timeout: float = 60) -> tuple[int, str]:
    try:
        _, said = process.communicate(timeout=timeout)
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
    return process.returncode, said
