"""What is done about the scores of a trained network: the temperature and the operating points.

The score of a network is the softmax of its logits. Dividing the logits by a temperature changes no ranking, only how
sure the scores are (Guo et al. 2017). It is folded into the weights of the last layer, so that nothing has to be done
about it when the model runs. Operating points are the thresholds worth having.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

from otrain_infer.card import OperatingPoint
from otrain_infer.errors import ModelError
from otrain_train.metrics import Floats, figures, log_loss, reliability, sweep

log = logging.getLogger(__name__)

MIN_ROWS = 10
BOUNDS = (0.1, 10.0)

# What is believed of the logarithm of a temperature before any row is seen: normal about 0 with this spread. Thousands
# of rows overrule it; without it, a few rows parted without error would ask for a temperature of 0.
PRIOR_SPREAD = 0.5
POINTS = ("fpr-1%", "recall-99%", "best-f1-mcc")
"""Names of the operating points."""

MAX_FPR = 0.01
MIN_RECALL = 0.99


class Network(Protocol):
    """What is needed of a Keras model here."""

    def get_layer(self, name: str) -> Any:
        """Give a layer by its name."""
        ...


@dataclass(frozen=True, slots=True)
class Calibration:
    """A temperature and what it brought on the rows it was fitted on; 1 where it could not be fitted.

    Attributes
    ----------
    temperature
        What the logits are divided by.
    rows
        Rows it was fitted on.
    ece_before, ece_after, log_loss_before, log_loss_after
        Calibration error and negative log likelihood (nats) without and with it.
    note
        Why it was not fitted, or that it stopped at a bound; empty if all is well.
    """

    temperature: float
    rows: int
    ece_before: float
    ece_after: float
    log_loss_before: float
    log_loss_after: float
    note: str = ""


def fit_temperature(logits: npt.ArrayLike, labels: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Calibration:
    """Find the most probable temperature: the highest likelihood of the labels, times a wide prior about 1.

    Parameters
    ----------
    logits
        (n, 2), bogus and real, of rows that the network did not learn from; of an ensemble (members, n, 2). It gets
        one temperature for all its members, for the likelihood of the mean of their scores.
    labels
        (n,), 1 real, 0 bogus.
    weights
        (n,), weight of each row, those of the training, 1 on average; 1 if not given.

    Returns
    -------
    Calibration
        With the temperature 1 and a note when a class has fewer than 10 rows.
    """
    margins = np.atleast_2d(np.diff(np.asarray(logits, np.float64), axis=-1)[..., 0])
    truth = np.asarray(labels).astype(bool)
    weight = np.ones(truth.size) if weights is None else np.asarray(weights, np.float64)
    fewest = min(int(truth.sum()), int((~truth).sum()))
    if fewest < MIN_ROWS:
        note = f"not fitted: {fewest} rows of a class are kept for it, and it needs {MIN_ROWS}"
        log.warning("the scores are not calibrated: %s", note)
        return _calibration(1.0, margins, truth, weight, note)
    signed = np.where(truth, margins, -margins)

    def loss(log_temperature: float) -> float:
        likely = np.logaddexp.reduce(-np.logaddexp(0.0, -signed / math.exp(log_temperature)), axis=0)
        losses = weight * (math.log(len(signed)) - likely)
        return float(np.sum(losses) + (log_temperature / PRIOR_SPREAD) ** 2 / 2)

    low, high = math.log(BOUNDS[0]), math.log(BOUNDS[1])
    found = float(minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6}).x)
    at_bound = min(found - low, high - found) < 1e-4
    note = "stopped at its bound: the logits are far too small or too large" if at_bound else ""
    return _calibration(math.exp(found), margins, truth, weight, note)


def fold_temperature(model: Network, temperature: float, layer: str = "logits") -> None:
    """Divide the logits of a model by a temperature for good, through the weights of its last dense layer.

    Parameters
    ----------
    model
        A Keras model whose layer `layer` has a kernel and a bias; changed in place.
    temperature
        Positive and finite.
    layer
        Name of the layer that gives the logits.

    Raises
    ------
    ModelError
        When the temperature is not a positive number or the layer has other weights.
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise ModelError(f"the temperature {temperature} is not a positive number")
    head = model.get_layer(layer)
    weights = head.get_weights()
    if [each.ndim for each in weights] != [2, 1]:
        raise ModelError(f"the layer '{layer}' has not the kernel and bias of a dense layer")
    head.set_weights([each / np.asarray(temperature, each.dtype) for each in weights])


def operating_points(labels: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[OperatingPoint, ...]:
    """Choose the thresholds worth having: ``fpr-1%``, ``recall-99%`` and ``best-f1-mcc``.

    ``fpr-1%`` has the highest recall among the thresholds with a false positive rate of at most 1 %, ``recall-99%``
    the lowest false positive rate among those with a recall of at least 99 %, ``best-f1-mcc`` the highest sum of F1
    and MCC. A threshold lies halfway between the two scores that it parts, so that the last digit of a score decides
    nothing.

    Parameters and errors are those of `otrain_train.metrics.figures`.

    Returns
    -------
    tuple of OperatingPoint
        One that cannot be reached is left out, see `unreached`; none are given for rows of one class only.
    """
    rates = sweep(labels, scores)
    if rates.real == 0 or rates.bogus == 0:
        return ()
    f1_mcc = rates.f1 + rates.mcc
    enough = np.flatnonzero(rates.recall >= MIN_RECALL)
    few = np.flatnonzero((rates.fpr <= MAX_FPR) & (rates.tp > 0))
    # From the highest threshold down recall and FPR only grow: the last of the few, the first of the enough.
    chosen = (
        few[-1] if few.size else None,
        enough[0],
        np.nanargmax(f1_mcc) if np.isfinite(f1_mcc).any() else None,
    )
    return tuple(
        OperatingPoint(
            name,
            _halfway(rates.thresholds, int(i)),
            float(rates.recall[i]),
            float(rates.fpr[i]),
            float(rates.precision[i]),
        )
        for name, i in zip(POINTS, chosen, strict=True)
        if i is not None
    )


def unreached(points: Sequence[OperatingPoint]) -> str:
    """Say in a sentence which of the operating points no threshold reaches; empty where all are there, or none."""
    missing = [name for name in POINTS if name not in {point.name for point in points}]
    return f"no threshold reaches {', '.join(missing)}" if points and missing else ""


def at_threshold(name: str, threshold: float, labels: npt.ArrayLike, scores: npt.ArrayLike) -> OperatingPoint:
    """Say what a threshold chosen elsewhere brings on these rows.

    Parameters
    ----------
    name, threshold
        As in `OperatingPoint`.
    labels, scores
        As for `otrain_train.metrics.figures`.
    """
    measured = figures(labels, scores, threshold)
    return OperatingPoint(name, threshold, measured.recall, measured.fpr, measured.precision)


def _calibration(
    temperature: float,
    margins: Floats,
    truth: npt.NDArray[np.bool_],
    weight: Floats,
    note: str,
) -> Calibration:
    before, after = _score(margins), _score(margins / temperature)
    return Calibration(
        temperature,
        truth.size,
        reliability(truth, before, weights=weight).ece,
        reliability(truth, after, weights=weight).ece,
        log_loss(truth, before, weight),
        log_loss(truth, after, weight),
        note,
    )


def _score(margins: Floats) -> Floats:
    return np.asarray(np.exp(-np.logaddexp(0.0, -margins)).mean(axis=0))


def _halfway(thresholds: Floats, i: int) -> float:
    upper = thresholds[i]
    lower = thresholds[i + 1] if i + 1 < thresholds.size else 0.0
    middle = float(np.float32((upper + lower) / 2))
    return middle if lower < middle <= upper else float(upper)
