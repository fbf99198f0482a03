"""The command otrain-stream: its options, and the parts of a stream put together."""

import logging
import signal
import sys
from argparse import ArgumentTypeError, Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from otrain_infer.command import DONE, Parser, available_processors, number, run
from otrain_infer.errors import UsageError

if TYPE_CHECKING:
    from otrain_infer.live_model import LiveModel
    from otrain_infer.observers import MonitorFeed
    from otrain_infer.partitions import Partitions
    from otrain_infer.sinks import TableSink, TopicSink
    from otrain_infer.stream import Pace

log = logging.getLogger("otrain.stream")


def _positive(text: str) -> float:
    value = number(text)
    if not 0 < value < 1e9:
        raise ArgumentTypeError(f"'{text}' is not a number above 0")
    return value


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise ArgumentTypeError(f"'{text}' is not a whole number of 1 or more")
    return int(text)


def _name(text: str) -> str:
    if not text.strip():
        raise ArgumentTypeError("a name is missing")
    return text


def _parser() -> Parser:
    parser = Parser(
        prog="otrain-stream",
        description="Score alerts as they come from Kafka, each at least once, until SIGTERM or Ctrl-C.",
        epilog="Secrets, such as OTRAIN_KAFKA_SASL_PASSWORD, come from the environment alone. SIGHUP loads the model "
        "anew.",
    )
    option = parser.add_argument
    option("--brokers", type=_name, required=True, help="where Kafka is, HOST:PORT, several with commas between them")
    option(
        "--topics",
        nargs="+",
        type=_name,
        required=True,
        help="topics of alerts; one beginning with ^ is a regular expression",
    )
    option("--group", type=_name, default="otrain", help="consumer group; its processes share the work")
    option("--output-topic", type=_name, help="topic for the results, one message for each alert")
    option("--output", metavar="TABLE", help="in its stead a table that grows, .csv or .dat")
    option(
        "--dead-letter",
        metavar="TOPIC",
        type=_name,
        help="topic for messages that are no alerts; if not given, among the results",
    )
    option("--format", choices=("json", "avro"), help="of the results in a topic (default: json)")
    option(
        "--exactly-once",
        metavar="NAME",
        type=_name,
        help="deliver with transactions of this name, which each process of a group has for itself alone",
    )
    option("--start", choices=("earliest", "latest"), default="latest", help="where to begin, new to a partition")
    option("--until-end", action="store_true", help="end when all that is there has been scored")
    option("--max-batch", type=_count, default=256, help="messages that are scored together, at most")
    option("--max-latency-ms", type=_positive, default=200.0, help="how long one waits for others, at most")
    _add_model_options(option)
    option(
        "--metrics-port",
        type=int,
        help="port at which Prometheus finds metrics, 0 for any; if not given, there are none",
    )
    option("--metrics-host", default="127.0.0.1", help="address at which it finds them")
    option(
        "--kafka",
        metavar="KEY=VALUE",
        nargs="+",
        default=[],
        help="settings of librdkafka, such as security.protocol=SASL_SSL; consumer. or producer. before one that is of "
        "one client alone",
    )
    option("--kafka-config", metavar="FILE", help="file with such settings, one a line")
    return parser


def _add_model_options(option: Callable[..., object]) -> None:
    """Add what tells which model scores, on what, and how it reads alerts."""
    option("--model", help="ONNX file with its card; if not given, the embedded demonstration model")
    option("--watch", metavar="SECONDS", type=_positive, help="how often to see whether the model file has changed")
    option("--shadow", metavar="MODEL", help="a second model, scored beside the first: where they disagree is logged")
    option("--device", default="cpu", help="cpu, cuda, cuda:N, several GPUs as cuda:N,M, or auto")
    option("--precision", choices=("auto", "int8", "fp32"), default="auto", help="of a model with an int8 copy")
    option("--threads", type=_count, help="threads that read and score; if not given, one a processor")
    option(
        "--mapping",
        metavar="FILE.yaml",
        help="where alerts keep planes and columns; if not given, told by their schema",
    )
    option("--schema", metavar="FILE|DIR|URL", help="schema of alerts that do not carry it, or the registry of schemas")


def stream(argv: Sequence[str] | None = None) -> int:
    """Run otrain-stream."""
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is a model to load anew
    return run(_parser(), _stream, argv)


def _stream(arguments: Namespace) -> int:
    from otrain_infer import kafka
    from otrain_infer.observers import Tally
    from otrain_infer.partitions import Partitions
    from otrain_infer.stream import Observer, Stream, StreamSettings

    _check(arguments)
    settings = StreamSettings(
        tuple(arguments.topics),
        arguments.max_batch,
        arguments.max_latency_ms / 1000,
        arguments.until_end,
    )
    clients = kafka.read_settings(arguments.kafka, arguments.kafka_config)
    model, shadow = _open_models(arguments)
    own = tuple(filter(None, (arguments.output_topic, arguments.dead_letter)))
    partitions = Partitions(_make_consumer(arguments, clients), arguments.start, own)
    sink = _open_sink(arguments, clients, partitions.consumer)
    tally, threads = Tally(), arguments.threads or available_processors()
    with _monitoring(arguments, model, partitions) as feed:
        observers: list[Observer] = [tally, feed] if feed else [tally]
        see = feed.see if feed else None
        work = Stream(partitions, sink, model, settings, threads, shadow, observers, see)
        _obey_signals(work, model)
        log.info("model %s, planes %s", model.current.scorer.identity, ",".join(model.current.scorer.card.planes))
        try:
            work.run()
        finally:
            model.close()
            log.info("%s", tally.tell())
    return DONE


@contextmanager
def _monitoring(arguments: Namespace, model: "LiveModel", partitions: "Partitions") -> "Iterator[MonitorFeed | None]":
    """Serve metrics where they are asked for."""
    if arguments.metrics_port is None:
        yield None
        return
    from otrain_infer.monitor import Monitor
    from otrain_infer.observers import MonitorFeed

    scorer = model.current.scorer
    monitor = Monitor(scorer.card, scorer.identity, scorer.sha256)
    model.tell = monitor.count_reload
    with monitor.serve(arguments.metrics_port, arguments.metrics_host) as exporter:
        log.info("metrics at http://%s:%d/metrics", arguments.metrics_host, exporter.port)
        yield MonitorFeed(monitor, model.current, partitions.lags)


def _check(arguments: Namespace) -> None:
    if (arguments.output_topic is None) == (arguments.output is None):
        raise UsageError("results go to --output-topic or to --output: name one of them")
    if arguments.output and (arguments.exactly_once or arguments.dead_letter or arguments.format):
        raise UsageError("--exactly-once, --dead-letter and --format go with --output-topic: a table has none of these")
    if arguments.watch and arguments.model is None:
        raise UsageError("--watch looks at the file that --model names: name one")
    for topic in filter(None, (arguments.output_topic, arguments.dead_letter)):
        if topic in arguments.topics:
            raise UsageError(f"the topic '{topic}' cannot be read and written: name another for what is written")
    if arguments.output_topic and arguments.output_topic == arguments.dead_letter:
        raise UsageError("results and dead letters go to topics of their own: name another for --dead-letter")


def _open_models(arguments: Namespace) -> "tuple[LiveModel, LiveModel | None]":
    from otrain_infer.alerts import AlertReader
    from otrain_infer.live_model import LiveModel, Loaded
    from otrain_infer.mapping import load_mapping
    from otrain_infer.schemas import open_schemas
    from otrain_infer.scorer import Scorer

    mapping = load_mapping(arguments.mapping) if arguments.mapping else None
    schemas = open_schemas(arguments.schema) if arguments.schema else None

    def load(content: bytes | None) -> Loaded:
        scorer = Scorer(content, arguments.device, precision=arguments.precision)
        return Loaded(scorer, AlertReader.for_card(scorer.card, mapping, schemas))

    if arguments.model is None:
        log.warning(
            "no --model was given: taking the embedded one, a demonstration that learnt from mock cutouts alone"
        )
    model = LiveModel(arguments.model, load, arguments.watch or 0.0)
    return model, LiveModel(arguments.shadow, load) if arguments.shadow else None


def _make_consumer(arguments: Namespace, settings: dict[str, str]) -> Any:
    from otrain_infer import kafka

    own = {
        "bootstrap.servers": arguments.brokers,
        "group.id": arguments.group,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "enable.partition.eof": arguments.until_end,
        "auto.offset.reset": "earliest",  # where the place of the group is there no more: better again than never
        "isolation.level": "read_committed",
    }
    return kafka.make_client(kafka.CONSUMER, own, settings, _tell_error)


def _open_sink(arguments: Namespace, settings: dict[str, str], consumer: Any) -> "TableSink | TopicSink":
    from otrain_infer import kafka, results
    from otrain_infer.sinks import TableSink, TopicSink, TransactionSink

    if arguments.output:
        return TableSink(arguments.output)
    write = results.make_avro_writer() if arguments.format == "avro" else results.as_json
    own: dict[str, Any] = {"bootstrap.servers": arguments.brokers, "enable.idempotence": True}
    own["delivery.report.only.error"] = True
    if arguments.exactly_once:
        producer = kafka.make_client(
            kafka.PRODUCER, own | {"transactional.id": arguments.exactly_once}, settings, _tell_error
        )
        return TransactionSink(producer, consumer, arguments.output_topic, arguments.dead_letter, write)
    # However long a broker is away, a result waits for it.
    producer = kafka.make_client(kafka.PRODUCER, own, {"message.timeout.ms": "0", **settings}, _tell_error)
    return TopicSink(producer, arguments.output_topic, arguments.dead_letter, write)


_paces: "dict[str, Pace]" = {}


def _tell_error(error: Any) -> None:
    """Log what librdkafka says, and the same again only after a while."""
    from otrain_infer import kafka
    from otrain_infer.stream import Pace

    if _paces.setdefault(error.name(), Pace()).is_due():
        log.warning("Kafka: %s", kafka.describe(error))


def _obey_signals(work: Any, model: "LiveModel") -> None:
    """End on SIGTERM and Ctrl-C, at once on a second one; load the model anew on SIGHUP."""

    def end(number: int, frame: Any) -> None:  # noqa: ARG001
        log.info("ending: what was taken is delivered first; once more to end at once")
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        work.stop()

    signal.signal(signal.SIGINT, end)
    signal.signal(signal.SIGTERM, end)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, lambda number, frame: model.ask())  # noqa: ARG005


if __name__ == "__main__":
    sys.exit(stream())
