"""The tables of a report: figures, operating points and records, as rows of text."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from otrain_infer.card import OperatingPoint
from otrain_infer.scorer import Scorer
from otrain_train.assessment import BOOTSTRAPPED, FRACTIONS, Assessment, Estimate, estimate_fraction
from otrain_train.calibrate import operating_points, unreached
from otrain_train.evaluation import Evaluation
from otrain_train.metrics import Figures, figures, reliability

IN_USE = "in use"
UNKNOWN = "not defined"


def format_number(value: float | None, digits: int = 3) -> str:
    """Give a number with so many decimals, or say that it is not defined."""
    return UNKNOWN if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def format_estimate(estimate: Estimate, digits: int = 3) -> str:
    """Give a figure with its 95 % interval, such as ``0.933 (0.853 to 0.971)``."""
    if not math.isfinite(estimate.low):
        return format_number(estimate.value, digits)
    bounds = " to ".join(format_number(bound, digits) for bound in (estimate.low, estimate.high))
    return f"{format_number(estimate.value, digits)} ({bounds})"


def figure_rows(assessment: Assessment) -> list[tuple[str, str, str]]:
    """Give name, value and 95 % interval of each figure."""
    measured = assessment.figures
    names = FRACTIONS | BOOTSTRAPPED
    rows = [(names[key], *_value_and_interval(each)) for key, each in assessment.estimates.items()]
    others = {"accuracy": measured.accuracy, "Brier score": measured.brier, "log loss (nats)": measured.log_loss}
    others["expected calibration error"] = measured.ece
    return rows + [(name, format_number(value), "") for name, value in others.items()]


def _value_and_interval(estimate: Estimate) -> tuple[str, str]:
    known = math.isfinite(estimate.low)
    bounds = f"{estimate.low:.3f} to {estimate.high:.3f}" if known else ""
    return format_number(estimate.value), bounds


def point_rows(evaluation: Evaluation, assessment: Assessment) -> dict[str, Any]:
    """Give the operating points on these candidates, and where their thresholds come from.

    Returns
    -------
    dict
        ``rows``: name, threshold, and estimates of recall, false positive rate and precision; ``note``: a sentence.
    """
    labels, scores = evaluation.labels, evaluation.scores
    chosen, origin = assessment.points, evaluation.scorer.card.metrics.get("operating_points_from")
    if chosen:
        known = f"the {origin} rows of the training" if origin else "other rows, by whoever made the model"
        note = f"The thresholds were chosen on {known}; what they bring is measured here."
    else:
        chosen = operating_points(labels, scores)
        note = "The model has no operating points of its own: these were chosen on the same candidates, which flatters."
    if origin == "validation":
        note += " Where these are the same candidates, that flatters them a little."
    missing = unreached(chosen) if origin or not assessment.points else ""
    note += f" On those rows, {missing}." if missing else ""
    in_use = OperatingPoint(IN_USE, evaluation.threshold, math.nan, math.nan, math.nan)
    return {"rows": [_point(point, evaluation) for point in (in_use, *chosen)], "note": note if chosen else ""}


def _point(point: OperatingPoint, evaluation: Evaluation) -> dict[str, Any]:
    at = figures(evaluation.labels, evaluation.scores, point.threshold)
    return {
        "name": point.name,
        "threshold": f"{point.threshold:.4g}",
        "recall": estimate_fraction(at.tp, at.tp + at.fn),
        "fpr": estimate_fraction(at.fp, at.fp + at.tn),
        "precision": estimate_fraction(at.tp, 0 if at.one_class else at.tp + at.fp),
    }


def calibration_rows(evaluation: Evaluation, measured: Figures) -> list[tuple[str, str, str]]:
    """Give the expected calibration error before and after the temperature, of the holdout rows and of these ones.

    Returns
    -------
    list of tuple
        Name of the rows, before, after; none where the card does not say that there is a temperature.
    """
    card = evaluation.scorer.card
    temperature, before, after = (card.calibration.get(key) for key in ("temperature", "ece_before", "ece_after"))
    if temperature is None:
        return []
    rows = [(f"holdout, {card.calibration.get('rows')}", format_number(before, 4), format_number(after, 4))]
    if measured.n and card.training.get("members", 1) == 1:
        probabilities = np.clip(evaluation.scores.astype(np.float64), 1e-12, 1 - 1e-12)
        logits = temperature * np.log(probabilities / (1 - probabilities))
        without = reliability(evaluation.labels, 1 / (1 + np.exp(-logits))).ece
        rows.append((f"of this report, {measured.n}", format_number(without, 4), format_number(measured.ece, 4)))
    elif measured.n:
        # The mean of scores does not tell what each was before.
        rows.append((f"of this report, {measured.n}", "", format_number(measured.ece, 4)))
    return rows


def model_rows(scorer: Scorer) -> list[tuple[str, str]]:
    """Give what identifies a model and what it takes, as names and values."""
    card = scorer.card
    padding = card.normalisation.padding
    known: dict[str, Any] = {
        "name": card.name,
        "version": card.version,
        "SHA-256": scorer.sha256,
        "created": card.created or "not recorded",
        "planes": card.planes,
        "size": f"{card.size[0]} x {card.size[1]} pixels",
        "normalisation": card.normalisation.method,
        "padding": f"{padding.value:g} {padding.when} scaling, side: {padding.side}",
        "threshold": card.threshold,
    }
    parity = card.metrics.get("parity", {})
    if "max_difference" in parity:
        known["largest difference from the network"] = f"{parity['max_difference']:.2g} on {parity['rows']} cutouts"
    return record_rows(known)


def record_rows(record: dict[str, Any]) -> list[tuple[str, str]]:
    """Give what is recorded, such as settings, as names and values; what is within something has its name before it."""
    return list(_flat("", record))


def _flat(prefix: str, record: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in record.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, dict) and any(isinstance(each, dict) for each in value.values()):
            yield from _flat(f"{name}, ", value)
        else:
            yield name, _text(value)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{key} {_text(each)}" for key, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(_text, value))
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "not given"}[value]
    return f"{value:.6g}" if isinstance(value, float) else str(value)
