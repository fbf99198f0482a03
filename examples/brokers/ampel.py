"""Two units of AMPEL: a supplier that scores alerts while they have their stamps, and a filter that uses the score.

AMPEL drops the stamps when it makes an AmpelAlert, and no unit after that sees them. So the score is made there and put
among the candidate's own values, as ``otrain`` (None where there is none). From there it goes wherever ``rb`` and
``drb`` go: to the filter below, to the filters of others (`alert.get_values("otrain")`), into the body of the datapoint
in the database, and so to each T2 unit (``datapoint["body"]["otrain"]``)::

    supplier: {unit: OtrainAlertSupplier, config: {model: otrain.onnx, loader: ...}}
    filter: {unit: OtrainFilter, config: {threshold: 0.7}}
"""

from typing import Any

import numpy as np
from ampel.abstract.AbsAlertFilter import AbsAlertFilter
from ampel.alert.AmpelAlert import AmpelAlert
from ampel.protocol.AmpelAlertProtocol import AmpelAlertProtocol
from ampel.types import Tag
from ampel.ztf.alert.ZiAlertSupplier import ZiAlertSupplier

from otrain_infer import Scorer
from otrain_infer.stamp_packets import read_decoded

SCORE = "otrain"
NO_SCORE = -1
"""What the filter answers of an alert without a score: a rejection code of its own."""


class OtrainAlertSupplier(ZiAlertSupplier):
    """Gives alerts of ZTF with O'TRAIN's score in the newest of their datapoints."""

    #: path of the ONNX file
    model: str

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._scorer = Scorer(self.model)

    def shape_alert_dict(self, d: dict[str, Any], tag: Tag | list[Tag] | None = None) -> AmpelAlert:
        """Shape an alert as AMPEL does, once it is scored."""
        (score,) = self._scorer.score(read_decoded([d], card=self._scorer.card))
        candidate = d["candidate"] | {SCORE: None if np.isnan(score) else float(score)}
        return ZiAlertSupplier.shape_alert_dict(d | {"candidate": candidate}, tag)


class OtrainFilter(AbsAlertFilter):
    """Accepts alerts from a score on."""

    threshold: float = 0.5

    def process(self, alert: AmpelAlertProtocol) -> bool | int | None:
        """See `AbsAlertFilter`."""
        score = alert.datapoints[0].get(SCORE)
        return NO_SCORE if score is None else score >= self.threshold
