"""O'TRAIN in Kowalski: a mix-in for an alert worker, which adds a score to those of its own networks.

In ``kowalski/alert_brokers/alert_broker_ztf.py``, and likewise for PGIR::

    class ZTFAlertWorker(WithOtrain, AlertWorker, ABC):

Workers of instruments whose alerts Kowalski gives to no network (WINTER, TURBO) do not call `alert_filter__ml`: call it
where they make the alert's document.

Kowalski's own networks are given a triplet that is already normalised and padded, whatever they were trained with. So
this does not stand among them in ``ml_models``, but reads the stamps of the alert itself.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from otrain_infer import Scorer
from otrain_infer.mapping import PacketMapping
from otrain_infer.stamp_packets import read_decoded


def score_alert(
    alert: Mapping[str, Any], scorer: Scorer, name: str = "otrain", mapping: PacketMapping | None = None
) -> dict[str, Any]:
    """Score an alert, decoded as Kowalski has it.

    Parameters
    ----------
    alert, scorer
        What is scored, and with what.
    name
        Of the score.
    mapping
        Where alerts keep what is needed, if they are none of ZTF or PGIR.

    Returns
    -------
    dict
        As `alert_filter__ml` gives it: the score, None where the stamps cannot be scored, and the model's version.
    """
    (score,) = scorer.score(read_decoded([alert], card=scorer.card, mapping=mapping))
    return {name: None if np.isnan(score) else float(score), f"{name}_version": scorer.identity}


class WithOtrain:
    """A mix-in, before the worker among the bases."""

    otrain_model = "models/otrain.onnx"
    otrain_mapping: PacketMapping | None = None

    @cached_property
    def otrain(self) -> Scorer:
        """The model, opened when the worker first needs it."""
        return Scorer(self.otrain_model)

    def alert_filter__ml(self, alert: Mapping[str, Any], alert_history: Sequence[Any] = ()) -> dict[str, Any]:
        """Give the scores of Kowalski's own networks, and O'TRAIN's."""
        scores: dict[str, Any] = super().alert_filter__ml(alert, list(alert_history))  # type: ignore[misc]
        return scores | score_alert(alert, self.otrain, mapping=self.otrain_mapping)
