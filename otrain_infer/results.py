"""Results of a stream: one message for each alert, as JSON or as Avro."""

import io
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

from otrain_infer.batches import Scored
from otrain_infer.errors import MissingExtraError
from otrain_infer.flags import CutoutFlag

Result = dict[str, Any]

SCHEMA = {
    "type": "record",
    "name": "score",
    "namespace": "otrain",
    "fields": [
        {"name": "candid", "type": "string"},
        {"name": "object_id", "type": "string"},
        {"name": "score", "type": ["null", "double"]},
        {"name": "spread", "type": ["null", "double"]},
        {"name": "real", "type": ["null", "boolean"]},
        {"name": "flags", "type": "long"},
        {"name": "flag_names", "type": {"type": "array", "items": "string"}},
        {"name": "reason", "type": ["null", "string"]},
        {"name": "model_name", "type": "string"},
        {"name": "model_version", "type": "string"},
        {"name": "model_sha256", "type": "string"},
        {"name": "topic", "type": "string"},
        {"name": "partition", "type": "int"},
        {"name": "offset", "type": "long"},
    ],
}
"""Of a result, whether it is written as JSON or as Avro."""


def iter_results(scored: Scored) -> Iterator[Result]:
    """Give what is said of each alert, in order, as `SCHEMA` tells; what there is not is None."""
    scorer, header = scored.model.scorer, scored.cutouts.header
    card, sha256 = scorer.card, scorer.sha256
    columns = (
        header["CANDID"].tolist(),
        header["OBJECTID"].tolist(),
        scored.scores.tolist(),
        scored.spreads.tolist(),
        scored.cutouts.flags.tolist(),
        scored.sources.tolist(),
    )
    for row, (candid, object_id, score, spread, flags, source) in enumerate(zip(*columns, strict=True)):
        message = scored.batch.messages[source]
        yield {
            "candid": candid,
            "object_id": object_id,
            "score": None if math.isnan(score) else score,
            "spread": None if math.isnan(spread) else spread,
            "real": None if math.isnan(score) else score >= card.threshold,
            "flags": flags,
            "flag_names": [str(flag.name) for flag in CutoutFlag if flag & flags],
            "reason": scored.cutouts.reasons.get(row),
            "model_name": card.name,
            "model_version": card.version,
            "model_sha256": sha256,
            "topic": message.topic(),
            "partition": message.partition(),
            "offset": message.offset(),
        }


def as_json(result: Result) -> bytes:
    """Write a result as JSON."""
    return json.dumps(result, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")


def make_avro_writer() -> Callable[[Result], bytes]:
    """Give what writes a result as an Avro container of one record, which tells its own schema."""
    try:
        import fastavro
    except ImportError:
        raise MissingExtraError("results as Avro need fastavro: pip install 'otrain[avro]'") from None
    schema = fastavro.parse_schema(SCHEMA)

    def write(result: Result) -> bytes:
        file = io.BytesIO()
        fastavro.writer(file, schema, [result])
        return file.getvalue()

    return write
