"""Can otrain-stream run for months? Its memory over time, and what becomes of alerts while everything around it fails.

Alerts are fed as fast as they are scored, for --minutes (60), on a machine that broker and feeder need too. Of all
messages 5 % are corrupt. Meanwhile, again and again: the file of the model is replaced by rubbish, and by another one;
the broker stands still; the command stands still; once, early, it is killed. In the end every candid has to have been
delivered, more than once only around the kill, and every corrupt message to be among the dead letters; the slope of the
command's memory is printed, from its last start on. A table on a disk that is full follows, where a small one can be
mounted, which takes root. Where a promise is broken the script ends with 1.

The broker is the cluster that librdkafka brings along, in a process of its own: it keeps 5 MB a partition, so that its
memory does not grow either. No partition is fed more than it keeps, and several topics hold enough alerts for the
command to be never short of them.

    python benchmarks/soak.py [--minutes 60] [--standstill 12] [--threads 2]
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from alert_packets import FIRST_CANDID, describe, make_packets, replace_candid
from alerts import make_model
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from machine import describe_machine

from otrain_infer.alerts import iter_alerts

PARTITIONS = 4
TOPICS = [f"alerts{k}" for k in range(8)]
PLACES = [(topic, part) for part in range(PARTITIONS) for topic in TOPICS]
UNDER_WAY = 50
"""Messages of a partition that are fed and not yet answered: the cluster keeps them all, whatever stands still."""

CORRUPT = 0.05
FULL_DISK = 200
"""Alerts for the table on a full disk: fewer than the cluster keeps of one topic."""

CLUSTER = """
import time
from confluent_kafka import Producer
cluster = Producer({"bootstrap.servers": "none", "test.mock.num.brokers": 1, "log_level": 2})
(broker,) = cluster.list_topics(timeout=10).brokers.values()
print(f"{broker.host}:{broker.port}", flush=True)
time.sleep(1 << 30)
"""


@contextmanager
def cluster() -> Iterator[tuple[str, int]]:
    """Run librdkafka's cluster; give its address and its process."""
    process = subprocess.Popen([sys.executable, "-c", CLUSTER], stdout=subprocess.PIPE, text=True)
    try:
        yield process.stdout.readline().strip(), process.pid
    finally:
        process.kill()
        process.communicate()


def start(broker: str, model: Path, log: Path, threads: str, session: float, *target: str) -> subprocess.Popen:
    """Start the command, for which the group waits so many seconds once it is gone."""
    told = ["--brokers", broker, "--topics", *TOPICS, "--group", "soak", "--start", "earliest", "--model", str(model)]
    settings = [f"consumer.session.timeout.ms={1000 * session:.0f}"]
    more = ["--watch", "2", "--threads", threads, "--metrics-port", "0", "--kafka", *settings]
    command = [sys.executable, "-m", "otrain_infer.cli_stream", *told, *target, *more]
    with log.open("a") as file:
        return subprocess.Popen(command, stderr=file)


class Feeder:
    """Feeds alerts as fast as their results come, and counts both.

    A message is known by its candid, or, where it is corrupt, by a number of its own.
    """

    def __init__(self, broker: str, packets: list[bytes]) -> None:
        self._producer = Producer({"bootstrap.servers": broker, "linger.ms": 0})
        settings = {"bootstrap.servers": broker, "group.id": "reader", "auto.offset.reset": "earliest"}
        self._reader = Consumer(settings)
        places = [TopicPartition(topic, part, 0) for topic in ("scores", "dead") for part in range(PARTITIONS)]
        self._reader.assign(places)
        self._packets, self._rng = packets, np.random.default_rng(9)
        self.sent = self.corrupt = 0
        self.found: Counter[str] = Counter()
        self.dead: Counter[str] = Counter()
        self._place_of: dict[str, int] = {}
        self._under_way = [0] * len(PLACES)

    @property
    def answered(self) -> int:
        """How many messages have been scored, or are dead letters."""
        return len(self.found) + len(self.dead)

    def turn(self, feed: bool = True) -> None:
        """Feed what there is room for, and see what has come."""
        for place in range(len(PLACES)) if feed else ():
            while self._under_way[place] < UNDER_WAY:
                self._feed(place)
        self._producer.poll(0)
        for message in self._reader.consume(500, 0.01):
            if not message.error():
                self._find(message)

    def _feed(self, place: int) -> None:
        if self._rng.random() < CORRUPT:
            name = str(self.corrupt)
            content = f"corrupt {name} ".encode() + self._rng.bytes(500)
            self.corrupt += 1
        else:
            name, which = str(FIRST_CANDID + self.sent), self.sent % len(self._packets)
            content = replace_candid(self._packets[which], which, self.sent)
            self.sent += 1
        topic, partition = PLACES[place]
        self._producer.produce(topic, content, partition=partition)
        self._place_of[name] = place
        self._under_way[place] += 1

    def _find(self, message: Message) -> None:
        if message.topic() == "dead":
            found, name = self.dead, message.value()[:20].decode("ascii", "replace").split(" ")[1]
        else:
            found, name = self.found, json.loads(message.value())["candid"]
        found[name] += 1
        place = self._place_of.pop(name, None)
        if place is not None:
            self._under_way[place] -= 1

    def finish(self, patience: float) -> None:
        """Feed no more, and wait for what is under way."""
        until = time.monotonic() + patience
        while len(self.found) < self.sent or len(self.dead) < self.corrupt:
            self.turn(feed=False)
            if time.monotonic() > until:
                break


class Soak:
    """The command at work, and what is done to it.

    Parameters
    ----------
    standstill
        How long the broker, or the command, stands still (s).
    """

    def __init__(
        self, broker: str, broker_pid: int, folder: Path, packets: list[bytes], threads: str, standstill: float
    ) -> None:
        self._broker, self._broker_pid, self._threads = broker, broker_pid, threads
        self._standstill, self._session = standstill, 2 * standstill
        self._model, self._log = folder / "live.onnx", folder / "log"
        raw = next(iter_alerts(packets[:128], planes=("SCI", "REF", "DIFF"), size=(63, 63))).pixels
        self._models = [make_model(folder, raw).path.read_bytes() for _ in range(2)]
        self._model.write_bytes(self._models[0])
        self.feeder = Feeder(broker, packets)
        self.samples: list[tuple[float, float, int]] = []
        self.start()

    def start(self) -> None:
        target = ("--output-topic", "scores", "--dead-letter", "dead")
        self.process = start(self._broker, self._model, self._log, self._threads, self._session, *target)
        self.samples.clear()

    def kill(self) -> None:
        """Kill -9, start it again, and wait until the group has it.

        The cluster must not stand still meanwhile: it then forgets who waits to join, for good.
        """
        self.process.kill()
        self.process.wait()
        self.start()
        self.work(1.5 * self._session)

    def stop_broker(self) -> None:
        """The broker stands still."""
        self._stand_still(self._broker_pid)

    def stop_command(self) -> None:
        """The command stands still, as a consumer that is far too slow."""
        self._stand_still(self.process.pid)

    def replace_by_rubbish(self) -> None:
        """The file of the model becomes rubbish."""
        self._model.write_bytes(np.random.default_rng(1).bytes(100_000))

    def replace_by_another(self) -> None:
        """The file of the model becomes another model."""
        self._models.reverse()
        self._model.write_bytes(self._models[0])

    def _stand_still(self, pid: int) -> None:
        os.kill(pid, signal.SIGSTOP)
        self.work(self._standstill)
        os.kill(pid, signal.SIGCONT)

    def work(self, seconds: float) -> None:
        """Feed, and look at the memory and at what has come, for a while."""
        until = time.monotonic() + seconds
        while (now := time.monotonic()) < until:
            self.feeder.turn()
            if not self.samples or now - self.samples[-1][0] > 1:
                self.samples.append((now, _resident(self.process.pid), self.feeder.answered))
            if self.process.poll() is not None:
                raise SystemExit(f"otrain-stream ended by itself:\n{self._log.read_text()[-2000:]}")

    def end(self) -> None:
        """End the command."""
        self.process.terminate()
        self.process.wait(60)

    @property
    def models(self) -> tuple[int, int]:
        """How many models the command has taken, and how many it has refused."""
        said = self._log.read_text()
        return said.count("takes the place of"), said.count("is not taken")


def _resident(pid: int) -> float:
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(lines["VmRSS"].split()[0]) / 1000


def print_course(samples: list[tuple[float, float, int]]) -> None:
    """Print how fast the command was, its memory, and the slope of that once it has warmed up."""
    moments, sizes, answered = np.array(samples).T
    rates = np.diff(answered) / np.diff(moments)
    print(f"  {np.median(rates[rates > 0]):.0f} a second where nothing stood still (median)")
    warm = moments > moments[0] + 0.2 * (moments[-1] - moments[0])
    slope = 3600 * np.polyfit(moments[warm], sizes[warm], 1)[0]
    hours = (moments[-1] - moments[0]) / 3600
    print(f"  memory: {np.median(sizes[warm]):.0f} MB, {sizes.max():.0f} at most,", end=" ")
    print(f"slope {slope:+.1f} MB an hour, over {hours:.2f} h")


def print_outcome(work: Soak, seconds: float, faults: Counter[str]) -> bool:
    """Print what has become of all that was fed; tell whether that is what was promised."""
    feeder, (taken, refused) = work.feeder, work.models
    wanted = {str(FIRST_CANDID + k) for k in range(feeder.sent)}
    again = sum(feeder.found.values()) - len(feeder.found)
    print(f"  {feeder.sent} alerts and {feeder.corrupt} corrupt messages in {seconds / 60:.1f} minutes,", end=" ")
    print(f"{(feeder.sent + feeder.corrupt) / seconds:.0f} a second with all that was done to it:")
    print("    " + ", ".join(f"{times} x {what}" for what, times in faults.items()))
    lost, strange = len(wanted - set(feeder.found)), len(set(feeder.found) - wanted)
    print(f"  {lost} alerts lost, {again} delivered again, {strange} that were never sent")
    print(f"  {(not_put_aside := feeder.corrupt - len(feeder.dead))} corrupt messages not among the dead letters")
    print(f"  models: {taken} taken, {refused} refused")
    few_again = again <= UNDER_WAY * len(PLACES) * faults["killed"]
    return not (lost or strange or not_put_aside) and few_again and (taken, refused) == models_of(faults)


def models_of(faults: Counter[str]) -> tuple[int, int]:
    """Give how many models were to be taken, and to be refused."""
    return faults["replace by another"], faults["replace by rubbish"]


def soak(folder: Path, packets: list[bytes], minutes: float, threads: str, standstill: float) -> bool:
    """Let it work for so long; tell whether all was kept that is promised."""
    with cluster() as (broker, pid):
        work = Soak(broker, pid, folder, packets, threads, standstill)
        begun, faults = time.monotonic(), Counter()
        until = begun + 60 * minutes
        work.work(min(60, 3 * minutes) + 10)
        work.kill()
        faults["killed"] += 1
        rounds = (work.replace_by_rubbish, work.stop_broker, work.replace_by_another, work.stop_command)
        calm = min(60.0, 60 * minutes / 16)
        while time.monotonic() + len(rounds) * calm + 2 * standstill < until:
            for fault in rounds:
                work.work(calm)
                fault()
                faults[fault.__name__.replace("_", " ")] += 1
        work.work(max(0.0, until - time.monotonic()))
        seconds = time.monotonic() - begun
        work.feeder.finish(120)
        wait_until(lambda: work.models == models_of(faults))
        work.end()
        kept = print_outcome(work, seconds, faults)
        print_course(work.samples)
        return kept


@contextmanager
def small_disk(folder: Path, megabytes: int = 1) -> Iterator[Path | None]:
    """Mount a small disk, where that can be done."""
    place = folder / "disk"
    place.mkdir()
    mount = ["/bin/mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(place)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        yield None
        return
    try:
        yield place
    finally:
        subprocess.run(["/bin/umount", "-l", str(place)], check=True)


def fill_disk(folder: Path, packets: list[bytes], threads: str) -> bool:
    """Let a table grow on a disk until it is full; tell whether it goes on when there is room, and all is in it."""
    with small_disk(folder) as disk, cluster() as (broker, _):
        if disk is None:
            print("  a full disk: skipped, for none can be mounted here")
            return True
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(1_040_000))
        model, log, table = folder / "live.onnx", folder / "disk.log", disk / "scores.csv"
        process = start(broker, model, log, threads, 20, "--output", str(table))
        producer = Producer({"bootstrap.servers": broker})
        for k in range(FULL_DISK):
            producer.produce(TOPICS[0], packets[k % len(packets)], partition=k % PARTITIONS)
        producer.flush()
        wait_until(lambda: "cannot grow" in log.read_text())
        waited = "cannot grow" in log.read_text()
        ballast.unlink()
        wait_until(lambda: len(table.read_text().splitlines()) > FULL_DISK)
        process.terminate()
        process.wait(60)
        rows = len(table.read_text().splitlines()) - 1
        print(f"  a full disk: {'waited' if waited else 'not seen'}; then {rows} of {FULL_DISK} rows in the table")
        return waited and rows == FULL_DISK


def wait_until(condition: Callable[[], bool], patience: float = 60) -> None:
    """Wait until something is so, or for so many seconds."""
    until = time.monotonic() + patience
    while not condition() and time.monotonic() < until:
        time.sleep(0.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--standstill", type=float, default=12)
    parser.add_argument("--threads", default="2")
    options = parser.parse_args()
    print(describe_machine())
    with tempfile.TemporaryDirectory() as place:
        packets = make_packets(480, Path(place))
        print(f"{describe()}, {np.mean([*map(len, packets)]) / 1000:.0f} kB each")
        kept = soak(Path(place), packets, options.minutes, options.threads, options.standstill)
        kept &= fill_disk(Path(place), packets, options.threads)
    raise SystemExit(0 if kept else 1)


if __name__ == "__main__":
    main()
