"""An annotator of Lasair: the objects that pass a filter get O'TRAIN's score of their newest detection.

    export LASAIR_TOKEN=...
    python lasair_annotator.py --model otrain.onnx --stream lasair_2MyFilter --topic my_annotator

The stream has the columns of the filter and no stamps: these are fetched from where the object's record says.
"""

import argparse
import json
import os
from typing import Any

import numpy as np
import requests
from lasair import lasair_client, lasair_consumer

from otrain_infer import Scorer
from otrain_infer.stamp_packets import read_stamps

PLANES = {"SCI": "Science", "REF": "Template", "DIFF": "Difference"}


def newest_detection(record: dict[str, Any]) -> tuple[dict[str, str], dict[str, Any]]:
    """Give the addresses of the newest stamps of an object's record (Rubin's or ZTF's), and that detection's values."""
    if "candidates" in record:  # of ZTF, newest first
        found = [(each["image_urls"], each) for each in record["candidates"] if each.get("image_urls")]
    else:
        sources = {each["diaSourceId"]: each for each in record.get("diaSourcesList", ())}
        stamped = record.get("lasairData", {}).get("imageUrls", ())
        found = [(each, sources.get(each["diaSourceId"], {})) for each in stamped]
        found.sort(key=lambda each: each[1].get("midpointMjdTai", 0), reverse=True)
    return found[0] if found else ({}, {})


def fetch(address: str | None) -> bytes | None:
    """Fetch a stamp; None where there is none."""
    answer = requests.get(address, timeout=60) if address else None
    return answer.content if answer is not None and answer.ok else None


def annotate(client: lasair_client, topic: str, object_id: str, scorer: Scorer) -> float | None:
    """Score an object and annotate it; nothing is sent, and None given, where its stamps cannot be scored."""
    addresses, values = newest_detection(client.object(object_id, lite=False, lasair_added=True))
    stamps = {plane: [fetch(addresses.get(name))] for plane, name in PLANES.items() if plane in scorer.card.planes}
    position = {"XPOS": [values.get("xpos", values.get("x"))], "YPOS": [values.get("ypos", values.get("y"))]}
    score = float(scorer.score(read_stamps(stamps, card=scorer.card, columns=position))[0])
    if np.isnan(score):
        return None
    client.annotate(
        topic,
        object_id,
        "real" if score >= scorer.card.threshold else "bogus",
        version=scorer.card.version[:16],  # Lasair takes no more
        explanation=f"O'TRAIN gives it the probability {score:.3f} of being real",
        classdict={"score": score, "model": scorer.identity},
    )
    return score


def main() -> None:
    """Annotate what a stream brings, until there is no more."""
    parser = argparse.ArgumentParser(description="Annotate the objects of a Lasair stream with O'TRAIN's score.")
    for name in ("--model", "--stream", "--topic"):
        parser.add_argument(name, required=True)
    parser.add_argument("--host", default="lasair-lsst-kafka.lsst.ac.uk:9092")
    parser.add_argument("--endpoint", default="https://api.lasair.lsst.ac.uk/api")
    parser.add_argument("--group", default="otrain")
    told = parser.parse_args()
    client = lasair_client(os.environ["LASAIR_TOKEN"], endpoint=told.endpoint)
    consumer, scorer = lasair_consumer(told.host, told.group, told.stream), Scorer(told.model)
    while (message := consumer.poll(timeout=60)) is not None:
        if not message.error():
            row = json.loads(message.value())
            annotate(client, told.topic, str(row.get("diaObjectId") or row["objectId"]), scorer)


if __name__ == "__main__":
    main()
