"""A step of ALeRCE's pipeline: alerts in, O'TRAIN's scores out.

In ``settings.py``, beside CONSUMER_CONFIG and PRODUCER_CONFIG::

    "MODEL_CONFIG": {"PATH": "otrain.onnx", "THREADS": 2}

Messages of ZTF, ATLAS and Rubin are recognised by their fields. For messages that another step has made over, such as
the sorting hat's, name a YAML file that says where their stamps are: ``"MAPPING": "mine.yaml"``.
"""

from typing import Any

import numpy as np
from apf.core.step import GenericStep

from otrain_infer import Scorer
from otrain_infer.mapping import load_mapping
from otrain_infer.stamp_packets import read_decoded


class OtrainStep(GenericStep):
    """Scores each message by its stamps.

    Parameters
    ----------
    config
        Of the step.
    step_args
        Whatever else the installed apf takes: consumer, producer, level.
    """

    def __init__(self, config: dict[str, Any], **step_args: Any) -> None:
        super().__init__(config=config, **step_args)
        model = config["MODEL_CONFIG"]
        self.scorer = Scorer(model["PATH"], threads=model.get("THREADS", 1))
        self.mapping = load_mapping(model["MAPPING"]) if "MAPPING" in model else None

    def execute(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Give one result a message, in order; its score is None where the stamps cannot be scored."""
        cutouts = read_decoded(messages, card=self.scorer.card, mapping=self.mapping)
        header, scores = cutouts.header, self.scorer.score(cutouts)
        return [
            {
                "oid": header["OBJECTID"][row].item(),
                "candid": header["CANDID"][row].item(),
                "classifier_name": "otrain",
                "classifier_version": self.scorer.identity,
                "score": None if np.isnan(score) else float(score),
                "flags": int(cutouts.flags[row]),
            }
            for row, score in enumerate(scores)
        ]
