"""otrain-stream against a Kafka cluster that librdkafka brings along."""

import io
import json
import os
import signal
import time
from collections import Counter
from dataclasses import replace
from urllib.request import urlopen

import fastavro
import numpy as np
import pytest
from brokers import PARTITIONS, Broker, end, finish, start
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from networks import make_card, make_model
from packet_files import SCHEMAS, alert, container, message
from prometheus_client.parser import text_string_to_metric_families

from otrain_infer import Scorer, partitions
from otrain_infer.alerts import AlertReader
from otrain_infer.batches import Batch, score_batch
from otrain_infer.card import Golden
from otrain_infer.cli_stream import stream
from otrain_infer.errors import StreamError
from otrain_infer.flags import CutoutFlag as Flag
from otrain_infer.live_model import Loaded
from otrain_infer.results import as_json
from otrain_infer.sinks import TopicSink, TransactionSink
from otrain_infer.stream import RewoundError
from otrain_infer.table import read_table

PLANES, SIZE = ("SCI", "REF", "DIFF"), (20, 20)


def _model(seed=7, **fields) -> bytes:
    """A model with golden cutouts, which it scores as it says."""
    card = make_card(PLANES, SIZE, **fields)
    pixels = np.random.default_rng(0).normal(size=(4, *card.shape)).astype(np.float32)
    golden = Golden(pixels, Scorer(make_model(card, seed=seed)).score_pixels(pixels))
    return make_model(replace(card, golden=golden), seed=seed)


@pytest.fixture(scope="module")
def broker():
    return Broker()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "three.onnx"
    path.write_bytes(_model())
    return str(path)


@pytest.fixture
def topic(request):
    """The name of a topic of this test's own."""
    return "".join(each if each.isalnum() else "-" for each in request.node.name)[:60]


def packets(numbers):
    return [container("ztf", alert("ztf", seed, shape=SIZE)) for seed in numbers]


def candids(numbers):
    return [str(7000 + seed) for seed in numbers]


def _wait_for(condition, patience=30.0):
    until = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < until, "it has not come to pass"
        time.sleep(0.05)


def test_every_alert_is_scored_once_and_poison_is_put_aside(broker, model, topic):
    good = packets(range(40))
    sent = [*good, b"rubbish", None, good[0][:-200], message("lsst", alert("lsst", 1)), *packets(range(40, 60))]
    sent.append(container("ztf", alert("ztf", 60, shape=SIZE) | {"cutoutTemplate": None}))
    broker.send(topic, sent)
    told = ("--model", model, "--output-topic", f"{topic}-out", "--dead-letter", f"{topic}-dead")
    code, said = finish(start(broker, *told, "--start", "earliest", "--until-end", topic=topic))
    assert code == 0, said
    assert "61 alerts, 1 of them without a score, and 4 messages that are none" in said
    results = {each["candid"]: each for each in broker.results(f"{topic}-out", 61)}
    assert sorted(results, key=int) == candids(range(61))
    scorer = Scorer(model)
    reader = AlertReader.for_card(scorer.card)
    (cutouts,) = reader.read([*good, *packets(range(40, 60))])
    for row, score in enumerate(scorer.score(cutouts).tolist()):
        result = results[cutouts.header["CANDID"][row]]
        assert result["score"] == score
        assert result["real"] == (score >= 0.5)
        assert (result["model_name"], result["model_sha256"]) == ("tiny", scorer.sha256)
        assert (result["flags"], result["flag_names"]) == (int(Flag.EDGE), ["EDGE"])
        assert (result["object_id"], result["topic"]) == (f"OBJ{int(result['candid']) - 7000}", topic)
    unusable = results["7060"]
    assert (unusable["score"], unusable["real"]) == (None, None)
    assert "MISSING_PLANE" in unusable["flag_names"]
    assert "no stamp of the plane REF" in unusable["reason"]
    dead = broker.receive(f"{topic}-dead", 4)
    assert sorted(each.value() or b"" for each in dead) == sorted(each or b"" for each in sent[40:44])
    told = dict(next(each for each in dead if each.value() == b"rubbish").headers())
    assert b"no Avro container" in told["otrain.reason"]
    assert told["otrain.topic"].decode() == topic


@pytest.mark.parametrize("name", ["nowhere", "^nowhere.*"])
def test_until_the_end_of_what_is_not_there_it_does_not_wait(broker, model, topic, name):
    broker.send(topic, packets([0]))
    told = ("--model", model, "--output-topic", f"{topic}-out", "--until-end")
    code, said = finish(start(broker, *told, topic=name))
    assert (code, f"there is no topic '{name}', or this user may not see it" in said) == (2, True), said


def test_until_the_end_of_a_broker_that_is_not_there_it_does_not_wait(model, monkeypatch, capsys):
    monkeypatch.setattr(partitions, "TIMEOUT", 0.5)
    told = ["--brokers", "127.0.0.1:1", "--topics", "alerts", "--model", model, "--output-topic", "o", "--until-end"]
    assert stream(told) == 2
    assert "the broker does not answer" in capsys.readouterr().err


def test_a_pattern_that_takes_in_the_results_is_refused(broker, model, topic):
    broker.send(topic, packets([0]))
    broker.send(f"{topic}-out", [b"{}"])
    told = ("--model", model, "--output-topic", f"{topic}-out", "--start", "earliest", "--until-end")
    code, said = finish(start(broker, *told, topic=f"^{topic}.*"))
    assert (code, "cannot be read and written" in said) == (2, True), said


def test_dead_letters_keep_their_key_and_headers(broker, model, topic):
    broker.send(topic, [b"rubbish"], key=b"k", headers=[("a", b"1"), ("a", b"2")])
    told = ("--model", model, "--output-topic", f"{topic}-out", "--dead-letter", f"{topic}-dead", "--start", "earliest")
    code, said = finish(start(broker, *told, "--until-end", topic=topic))
    assert code == 0, said
    (dead,) = broker.receive(f"{topic}-dead", 1)
    assert dead.key() == b"k"
    assert dead.headers()[:2] == [("a", b"1"), ("a", b"2")]
    assert dict(dead.headers())["otrain.offset"] == b"0"


def test_without_a_topic_for_them_dead_letters_are_among_the_results(broker, model, topic):
    broker.send(topic, [b"rubbish", *packets([1])])
    told = ("--model", model, "--output-topic", f"{topic}-out", "--start", "earliest", "--until-end")
    code, said = finish(start(broker, *told, topic=topic))
    assert code == 0, said
    (dead,) = [each for each in broker.results(f"{topic}-out", 2) if not each["candid"]]
    assert (dead["score"], dead["flag_names"]) == (None, ["UNREADABLE"])
    assert "no Avro container" in dead["reason"]


def test_poison_that_is_larger_than_a_result_may_be_does_not_hold_up_the_others(broker, model, topic):
    producer = Producer({"bootstrap.servers": broker.address, "message.max.bytes": 4_000_000})
    producer.produce(topic, bytes(2_000_000), partition=0)
    producer.flush(10)
    broker.send(topic, packets(range(3)), partition=0)
    told = ("--model", model, "--output-topic", f"{topic}-out", "--dead-letter", f"{topic}-dead", "--start", "earliest")
    code, said = finish(start(broker, *told, "--until-end", topic=topic))
    assert code == 0, said
    assert sorted(each["candid"] for each in broker.results(f"{topic}-out", 3)) == candids(range(3))
    (dead,) = broker.receive(f"{topic}-dead", 1)
    assert dead.value() is None
    assert dict(dead.headers())["otrain.dropped"] == b"the content is larger than the broker takes"


class Limited(Producer):
    """As if the broker took no more than some bytes of a message: the cluster of librdkafka knows no such limit."""

    limit, refused = 1000, False

    def produce(self, **message):
        if len(message["value"] or b"") <= self.limit:
            super().produce(**message)
            return
        self.refused = True
        message["on_delivery"](KafkaError(KafkaError.MSG_SIZE_TOO_LARGE), None)

    def commit_transaction(self, *arguments):
        if self.refused:
            self.refused = False
            error = KafkaError(KafkaError.MSG_SIZE_TOO_LARGE, "too large", False, False, True)
            raise KafkaException(error)
        super().commit_transaction(*arguments)


@pytest.fixture
def scored(broker, model, topic):
    """A batch of two alerts and, between them, something larger than the broker takes."""
    broker.send(topic, [*packets([0]), bytes(2000), *packets([1])], partition=0, headers=[("a", b"1")])
    scorer = Scorer(model)
    loaded = Loaded(scorer, AlertReader.for_card(scorer.card))
    return score_batch(Batch(broker.receive(topic, 3), time.time()), loaded)


def _check_small_dead_letter(broker, topic):
    assert sorted(each["candid"] for each in broker.results(f"{topic}-out", 2)) == candids(range(2))
    (dead,) = broker.receive(f"{topic}-dead", 1)
    told = dict(dead.headers())
    assert dead.value() is None
    assert (told["a"], told["otrain.offset"], told["otrain.dropped"][:21]) == (b"1", b"1", b"the content is larger")


def test_a_dead_letter_that_the_broker_refuses_for_its_size_goes_without_its_content(broker, scored, topic):
    sink = TopicSink(Limited({"bootstrap.servers": broker.address}), f"{topic}-out", f"{topic}-dead", as_json)
    sink.deliver(scored, lambda: None)
    _check_small_dead_letter(broker, topic)


def _transaction_sink(broker, topic, **options):
    consumer = Consumer({"bootstrap.servers": broker.address, "group.id": topic, "enable.auto.commit": False})
    producer = Limited({"bootstrap.servers": broker.address, "transactional.id": topic})
    for key, value in options.items():
        setattr(producer, key, value)
    return TransactionSink(producer, consumer, f"{topic}-out", f"{topic}-dead", as_json)


def test_within_a_transaction_it_goes_without_its_content_the_next_time(broker, scored, topic):
    sink = _transaction_sink(broker, topic)
    with pytest.raises(RewoundError):
        sink.deliver(scored, lambda: None)
    broker.receive(f"{topic}-out")  # the cluster of librdkafka shows what was taken back
    sink.deliver(scored, lambda: None)
    dead = broker.receive(f"{topic}-dead", 1)
    assert {each.value() for each in dead} == {None}
    assert dict(dead[0].headers())["otrain.dropped"].startswith(b"the content is larger")


def test_a_result_that_the_broker_refuses_for_its_size_ends_the_stream(broker, scored, topic):
    sink = _transaction_sink(broker, topic, limit=10)
    with pytest.raises(StreamError, match="a result cannot be delivered"):
        sink.deliver(scored, lambda: None)


def test_it_ends_when_it_is_told_to_and_goes_on_where_it_was(broker, model, topic):
    told = ("--model", model, "--output-topic", f"{topic}-out", "--start", "earliest", "--group", topic)
    broker.send(topic, packets(range(20)))
    process = start(broker, *told, topic=topic)
    _wait_for(lambda: len(broker.receive(f"{topic}-out", patience=1)) == 20)
    code, said = end(process)
    assert (code, "ending: what was taken is delivered first" in said) == (0, True), said
    broker.send(topic, packets(range(20, 30)))
    code, said = finish(start(broker, *told, "--until-end", topic=topic))
    assert code == 0, said
    assert sorted(each["candid"] for each in broker.results(f"{topic}-out", 30)) == sorted(candids(range(30)))


def test_a_second_interrupt_ends_at_once(broker, model, topic):
    process = start(broker, "--model", model, "--output-topic", f"{topic}-out", topic=topic)
    assert "model tiny" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    code, said = end(process, signal.SIGINT)
    assert code in (0, 130), said
    assert "Traceback" not in said


@pytest.mark.parametrize("sink", ["topic", "table"])
def test_killed_again_and_again_no_alert_is_lost(broker, model, topic, sink, tmp_path):
    table = tmp_path / "scores.csv"
    to = ("--output", str(table)) if sink == "table" else ("--output-topic", f"{topic}-out")
    told = ("--model", model, *to, "--start", "earliest", "--group", topic, "--max-batch", "5")
    broker.send(topic, packets(range(300)))

    def found():
        if sink == "topic":
            return [each["candid"] for each in broker.results(f"{topic}-out")]
        lines = table.read_text().split("\n")[1:-1] if table.exists() else []
        return [line.split(",")[10] for line in lines]

    for part in (30, 120):
        process = start(broker, *told, topic=topic)
        _wait_for(lambda at_least=part: len(found()) > at_least)
        code, _ = end(process, signal.SIGKILL)
        assert code == -signal.SIGKILL
    code, said = finish(start(broker, *told, "--until-end", topic=topic))
    assert code == 0, said
    counts = Counter(found())
    assert set(counts) == set(candids(range(300)))
    assert sum(counts.values()) < 400  # what was taken again is a few batches, not all
    if sink == "table":
        columns = read_table(table)
        assert np.isfinite(columns["label1"]).all()
        assert columns["filename"][0].startswith(f"{topic}/")


def test_half_a_row_at_the_end_of_a_table_is_cut_off(broker, model, topic, tmp_path):
    table = tmp_path / "scores.csv"
    told = ("--model", model, "--output", str(table), "--start", "earliest", "--group", topic, "--until-end")
    broker.send(topic, packets(range(5)))
    assert finish(start(broker, *told, topic=topic))[0] == 0
    whole = table.read_text()
    table.write_text(whole + "half,a,ro")
    broker.send(topic, packets(range(5, 8)))
    assert finish(start(broker, *told, topic=topic))[0] == 0
    assert table.read_text().startswith(whole)
    assert sorted(map(str, read_table(table)["cand_ID"])) == candids(range(8))
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    broker.send(topic, packets([9]))
    others = (*told[:3], str(tmp_path / "other.csv"), *told[4:])
    code, said = finish(start(broker, *others, topic=topic))
    assert (code, "has other columns than these" in said) == (2, True), said
    assert (tmp_path / "other.csv").read_text() == "a,b\n1,2\n"


def test_where_a_group_begins_is_kept_although_it_died_before_it_had_done_anything(broker, model, topic):
    broker.send(topic, packets(range(5)))
    told = ("--model", model, "--output-topic", f"{topic}-out", "--group", topic)  # from the latest on
    process = start(broker, *told, topic=topic)
    while f"{PARTITIONS} partitions" not in process.stderr.readline():
        pass
    end(process, signal.SIGKILL)
    broker.send(topic, packets(range(5, 9)))
    code, said = finish(start(broker, *told, "--until-end", topic=topic))
    assert code == 0, said
    assert sorted(each["candid"] for each in broker.results(f"{topic}-out", 4)) == candids(range(5, 9))


def test_a_model_is_replaced_while_it_works_and_only_by_one_that_keeps_its_word(broker, topic, tmp_path):
    path = tmp_path / "live.onnx"
    first, second = _model(7), _model(8, threshold=0.25)
    path.write_bytes(first)
    told = ("--model", str(path), "--output-topic", f"{topic}-out", "--start", "earliest", "--watch", "0.2")
    broker.send(topic, packets([0]))
    process = start(broker, *told, topic=topic)
    lines = iter(process.stderr.readline, "")

    def wait_for(words):
        return next(line for line in lines if words in line)

    _wait_for(lambda: len(broker.receive(f"{topic}-out", patience=1)) == 1)
    path.write_bytes(b"rubbish")
    assert "stays" in wait_for("is not taken")
    broken = replace(
        make_card(PLANES, SIZE), golden=Golden(np.ones((1, *SIZE, 3), np.float32), np.zeros(1, np.float32))
    )
    path.write_bytes(make_model(broken))
    assert "FAILED" in wait_for("is not taken")
    path.write_bytes(_model(9)[:-100])
    wait_for("is not taken")
    broker.send(topic, packets([1]))
    _wait_for(lambda: len(broker.receive(f"{topic}-out", patience=1)) == 2)
    path.write_bytes(second)
    wait_for("takes the place of")
    broker.send(topic, packets([2]))
    _wait_for(lambda: len(broker.receive(f"{topic}-out", patience=1)) == 3)
    path.write_bytes(first)
    process.send_signal(signal.SIGHUP)
    wait_for("takes the place of")
    assert end(process)[0] == 0
    models = {each["candid"]: each["model_sha256"] for each in broker.results(f"{topic}-out", 3)}
    told = [Scorer(content).sha256 for content in (first, first, second)]
    assert [models[each] for each in candids(range(3))] == told


def test_where_a_shadow_disagrees_is_logged(broker, model, topic, tmp_path):
    other = tmp_path / "other.onnx"
    other.write_bytes(_model(8))
    broker.send(topic, packets(range(40)))
    told = ("--model", model, "--shadow", str(other), "--output-topic", f"{topic}-out", "--start", "earliest")
    code, said = finish(start(broker, *told, "--until-end", topic=topic))
    assert code == 0, said
    one, two = Scorer(model), Scorer(str(other))
    (cutouts,) = AlertReader.for_card(one.card).read(packets(range(40)))
    expected = (one.score(cutouts) >= 0.5) != (two.score(cutouts) >= 0.5)
    logged = [line for line in said.splitlines() if "the models disagree on 7" in line]
    assert 0 < len(logged) <= expected.sum()
    for line in logged:
        candid = line.partition("disagree on ")[2][:4]
        assert expected[cutouts.header["CANDID"].tolist().index(candid)]
    assert {each["model_sha256"] for each in broker.results(f"{topic}-out", 40)} == {one.sha256}


def test_results_may_be_avro(broker, model, topic):
    broker.send(topic, [b"rubbish", *packets(range(3))])
    told = (
        "--model",
        model,
        "--output-topic",
        f"{topic}-out",
        "--start",
        "earliest",
        "--until-end",
        "--format",
        "avro",
    )
    code, said = finish(start(broker, *told, topic=topic))
    assert code == 0, said
    found = [next(fastavro.reader(io.BytesIO(each.value()))) for each in broker.receive(f"{topic}-out", 4)]
    assert sorted(each["candid"] for each in found) == ["", *candids(range(3))]
    assert all(0 <= each["score"] <= 1 for each in found if each["candid"])


def test_messages_of_a_registry_are_scored_once_it_answers(broker, model, topic, tmp_path):
    (tmp_path / "12.avsc").write_text(json.dumps(SCHEMAS["ztf"]))
    sent = [message("ztf", alert("ztf", seed, shape=SIZE), 12) for seed in range(3)]
    broker.send(topic, [*sent, message("ztf", alert("ztf", 3), 13)])
    told = ("--model", model, "--output-topic", f"{topic}-out", "--start", "earliest", "--until-end")
    code, said = finish(start(broker, *told, "--schema", str(tmp_path), topic=topic))
    assert code == 0, said
    results = broker.results(f"{topic}-out", 4)
    assert sorted(each["candid"] for each in results) == ["", *candids(range(3))]
    assert "its schema 13 is not in the folder" in next(each["reason"] for each in results if not each["candid"])


def test_transactions_deliver_each_once(broker, model, topic):
    # The cluster of librdkafka forgets what a transaction says of offsets, and what taking one back means: for these
    # see benchmarks/stream.py, which runs with any broker.
    broker.send(topic, packets(range(30)))
    told = ("--model", model, "--output-topic", f"{topic}-out", "--start", "earliest", "--group", topic)
    exactly = ("--exactly-once", f"{topic}-1", "--until-end", "--max-batch", "7")
    code, said = finish(start(broker, *told, *exactly, topic=topic))
    assert code == 0, said
    assert sorted(each["candid"] for each in broker.results(f"{topic}-out", 30)) == candids(range(30))


def test_prometheus_finds_what_is_done(broker, model, topic, tmp_path):
    broker.send(topic, [b"rubbish", *packets(range(12))])
    told = ("--model", model, "--output-topic", f"{topic}-out", "--dead-letter", f"{topic}-dead", "--start", "earliest")
    process = start(broker, *told, "--metrics-port", "0", topic=topic)
    address = next(line for line in iter(process.stderr.readline, "") if "metrics at" in line).split()[-1]

    def found():
        with urlopen(address, timeout=10) as answer:  # noqa: S310 (on this machine)
            text = answer.read().decode()
        families = text_string_to_metric_families(text)
        return {(each.name, each.labels.get("result")): each.value for family in families for each in family.samples}

    _wait_for(lambda: found()["otrain_alerts_total", "scored"] == 12)
    samples = found()
    assert samples["otrain_alerts_total", "dead_letter"] == 1
    assert samples["otrain_latency_seconds_count", None] == 13
    assert samples["otrain_reloads_total", "switched"] == 0
    process.send_signal(signal.SIGHUP)
    _wait_for(lambda: found()["otrain_reloads_total", "switched"] == 1)
    _wait_for(lambda: ("otrain_lag_messages", None) in found())
    assert end(process)[0] == 0


def test_several_processes_share_the_work(broker, model, topic):
    told = (
        "--model",
        model,
        "--output-topic",
        f"{topic}-out",
        "--start",
        "earliest",
        "--group",
        topic,
        "--max-batch",
        "3",
    )
    processes = [start(broker, *told, topic=topic) for _ in range(2)]
    broker.send(topic, packets(range(60)))
    _wait_for(lambda: len({each["candid"] for each in broker.results(f"{topic}-out")}) == 60, 60)
    said = [end(process) for process in processes]
    assert [code for code, _ in said] == [0, 0], said


WRONG = {
    "neither": ([], "results go to --output-topic or to --output"),
    "no group": (["--output-topic", "o", "--group", ""], "a name is missing"),
    "no topic": (["--output-topic", "o", "--topics", " "], "a name is missing"),
    "format": (["--output", "o.csv", "--format", "avro"], "--format go with --output-topic"),
    "registry": (["--output-topic", "o", "--schema", "http://[::1"], "is no registry's (Invalid IPv6 URL)"),
    "both": (["--output-topic", "o", "--output", "o.csv"], "results go to --output-topic or to --output"),
    "same": (["--output-topic", "alerts"], "cannot be read and written"),
    "dead": (["--output-topic", "o", "--dead-letter", "alerts"], "cannot be read and written"),
    "one": (["--output-topic", "o", "--dead-letter", "o"], "topics of their own"),
    "pattern": (["--output-topic", "o", "--topics", "^["], "cannot be read"),
    "pipe": (["--output-topic", "o", "--model", "/dev/zero"], "it is no file"),
    "parquet": (["--output", "o.parquet"], "ends in .csv or .dat"),
    "folder": (["--output", "/dev/null/o.csv"], "cannot be written"),
    "table": (["--output", "o.csv", "--exactly-once", "x"], "go with --output-topic"),
    "watch": (["--output-topic", "o", "--watch", "3"], "--watch looks at the file"),
    "batch": (["--output-topic", "o", "--max-batch", "0"], "whole number of 1 or more"),
    "latency": (["--output-topic", "o", "--max-latency-ms", "-3"], "not a number above 0"),
    "model": (["--output-topic", "o", "--model", "/no/such.onnx"], "cannot be read"),
    "mapping": (["--output-topic", "o", "--mapping", "/no/such.yaml"], "cannot be used"),
    "schema": (["--output-topic", "o", "--schema", "/no/such.avsc"], "cannot be used"),
    "key": (["--output-topic", "o", "--kafka", "no.such.setting=1"], "No such configuration property"),
    "pair": (["--output-topic", "o", "--kafka", "sasl.password"], "KEY=VALUE"),
    "own": (["--output-topic", "o", "--kafka", "enable.auto.commit=true"], "is not to be chosen"),
    "file": (["--output-topic", "o", "--kafka-config", "/no/such"], "cannot be read"),
    "secret": (["--output-topic", "o", "--kafka", "sasl.password=hunter2"], "set OTRAIN_KAFKA_SASL_PASSWORD"),
    "secret by another name": (
        ["--output-topic", "o", "--kafka", "ssl.key.pem=hunter2"],
        "set OTRAIN_KAFKA_SSL_KEY_PEM",
    ),
    "own by another name": (["--output-topic", "o", "--kafka", "auto.commit.enable=true"], "is not to be chosen"),
    "secret of one": (["--output-topic", "o", "--kafka", "producer.ssl.key.password=hunter2"], "SSL_KEY_PASSWORD"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_makes_no_sense_is_told_in_one_line_without_secrets(name, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, words = WRONG[name]
    try:
        code = stream(["--brokers", "127.0.0.1:1", "--topics", "alerts", *arguments])
    except SystemExit as ended:
        code = ended.code
    said = capsys.readouterr().err
    assert code == 2
    assert words in said
    assert "hunter2" not in said
    assert "Traceback" not in said


def test_what_delivery_rests_on_is_not_taken_from_the_environment_either(monkeypatch, capsys):
    monkeypatch.setenv("OTRAIN_KAFKA_PARTITION_ASSIGNMENT_STRATEGY", "cooperative-sticky")
    assert stream(["--brokers", "127.0.0.1:1", "--topics", "alerts", "--output-topic", "o"]) == 2
    assert "partition.assignment.strategy is not to be chosen" in capsys.readouterr().err


def test_settings_come_from_a_file_and_secrets_from_the_environment(broker, model, topic, tmp_path):
    (tmp_path / "kafka.properties").write_text(
        "# ours\nsasl.mechanism = PLAIN\n\nsasl.username=me\nproducer.linger.ms=1\n"
    )
    broker.send(topic, packets([0]))
    told = ("--model", model, "--output-topic", f"{topic}-out", "--start", "earliest", "--until-end", "-v")
    environment = os.environ | {"OTRAIN_KAFKA_SASL_PASSWORD": "hunter2"}
    process = start(broker, *told, "--kafka-config", str(tmp_path / "kafka.properties"), topic=topic, env=environment)
    code, said = finish(process)
    assert code == 0, said
    assert "hunter2" not in said
    assert len(broker.results(f"{topic}-out", 1)) == 1
