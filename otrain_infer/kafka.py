"""Kafka clients: what librdkafka is told, secrets from the environment alone, and errors in one sentence."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from otrain_infer.errors import MissingExtraError, StreamError, UsageError

log = logging.getLogger("otrain.stream")

ENVIRONMENT = "OTRAIN_KAFKA_"
"""A setting may stand in a variable of this name with its own behind it, such as OTRAIN_KAFKA_SASL_PASSWORD."""

SECRETS = ("password", "secret", "passphrase", "key.pem", "oauthbearer.config")
"""Ends of the names of settings that are taken from the environment alone."""

OWN = (
    "bootstrap.servers",
    "metadata.broker.list",
    "group.id",
    "enable.auto.commit",
    "auto.commit.enable",
    "enable.auto.offset.store",
    "enable.partition.eof",
    "auto.offset.reset",
    "isolation.level",
    "partition.assignment.strategy",
    "group.protocol",
    "transactional.id",
    "enable.idempotence",
    "delivery.report.only.error",
)
"""Settings that what is promised about delivery rests on, or that have an option of their own."""

CONSUMER, PRODUCER = "consumer.", "producer."
"""Before a setting that is of one kind of client alone."""


def read_settings(told: Sequence[str], path: str | None = None) -> dict[str, str]:
    """Read settings of librdkafka.

    Parameters
    ----------
    told
        Each ``KEY=VALUE``; they count more than the file.
    path
        A file with one of these a line, as Java's clients read them; # begins a comment.

    Returns
    -------
    dict of str to str
        With those of the environment, which count most.

    Raises
    ------
    UsageError
        When one cannot be read, is a secret, or is not the user's to choose.
    """
    lines = [*_lines(path), *told] if path else [*told]
    settings = dict(map(_split, lines))
    for key in map(_bare, settings):
        if key.endswith(SECRETS):
            raise UsageError(f"the secret {key} is taken from the environment alone: set {variable_of(key)}")
    for name, value in os.environ.items():
        if name.startswith(ENVIRONMENT):
            settings[name.removeprefix(ENVIRONMENT).lower().replace("_", ".")] = value
    for key in map(_bare, settings):
        if key in OWN:
            raise UsageError(
                f"the setting {key} is not to be chosen: there is an option for it, or delivery rests on it"
            )
    return settings


def variable_of(key: str) -> str:
    """Give the name of the environment variable of a setting."""
    return ENVIRONMENT + key.upper().replace(".", "_")


def _lines(path: str) -> list[str]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"the Kafka settings '{path}' cannot be read ({why})") from None
    return [line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")]


def _split(line: str) -> tuple[str, str]:
    key, equals, value = line.partition("=")
    if not (equals and key.strip()):
        raise UsageError("a Kafka setting is told as KEY=VALUE, such as security.protocol=SASL_SSL")
    return key.strip(), value.strip()


def _bare(key: str) -> str:
    return key.removeprefix(CONSUMER).removeprefix(PRODUCER)


def of_kind(kind: str, settings: Mapping[str, str]) -> dict[str, Any]:
    """Give the settings of one kind of client, `CONSUMER` or `PRODUCER`."""
    other = PRODUCER if kind == CONSUMER else CONSUMER
    return {key.removeprefix(kind): value for key, value in settings.items() if not key.startswith(other)}


def import_kafka() -> Any:
    """Import confluent_kafka; raises MissingExtraError where it is not installed."""
    try:
        import confluent_kafka
    except ImportError:
        raise MissingExtraError("Kafka needs confluent-kafka: pip install 'otrain[kafka]'") from None
    return confluent_kafka


def make_client(kind: str, own: Mapping[str, Any], settings: Mapping[str, str], on_error: Any) -> Any:
    """Make a consumer or a producer.

    Parameters
    ----------
    kind
        `CONSUMER` or `PRODUCER`.
    own
        What is set here; it counts more than `settings`.
    settings
        As `read_settings` gives them.
    on_error
        Called with each error that librdkafka meets beside the calls.

    Raises
    ------
    UsageError
        When librdkafka refuses a setting.
    """
    kafka = import_kafka()
    maker = kafka.Consumer if kind == CONSUMER else kafka.Producer
    # It says everything twice, and again for each broker and attempt.
    library = logging.getLogger(f"{log.name}.librdkafka")
    library.setLevel(logging.NOTSET if log.isEnabledFor(logging.DEBUG) else logging.CRITICAL)
    try:
        return maker({**of_kind(kind, settings), **own, "error_cb": on_error}, logger=library)
    except kafka.KafkaException as error:
        raise UsageError(f"the Kafka settings cannot be used ({describe(error)})") from None


def describe(error: Any) -> str:
    """Say in words what a KafkaException or a KafkaError is."""
    inner = error.args[0] if isinstance(error, Exception) and error.args else error
    return str(inner.str() if hasattr(inner, "str") else inner)


def failed(what: str, error: Any) -> StreamError:
    """Make the error for something that cannot be done in a stream."""
    return StreamError(f"{what} ({describe(error)})")
