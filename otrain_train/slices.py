"""Figures of parts of the candidates: by magnitude, signal to noise, filter, FWHM, edge and night."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from otrain_infer.errors import UsageError
from otrain_infer.normalise import inner_box
from otrain_train.assessment import Estimate, estimate_fraction
from otrain_train.bootstrap import interval_of
from otrain_train.evaluation import Evaluation
from otrain_train.intervals import NO_MAGNITUDE, intervals_of
from otrain_train.metrics import sweep
from otrain_train.splits import Rows, group_by

Floats = npt.NDArray[np.float64]

MAGNITUDES = 2.5 / math.log(10)
"""The error of a magnitude times the signal-to-noise ratio."""

MOST = 8
"""Filters, and nights, that are shown one by one; the others are put together."""

CHUNK = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """Some of the candidates with a score, and how good the model is on them.

    Attributes
    ----------
    name
        What they have in common, such as ``17 to 18.5``.
    rows
        int64 (k,), of the evaluation.
    real, bogus
        How many of each class.
    recall, fpr
        At the threshold, with Wilson's 95 % intervals; NaN without candidates of the class.
    auc
        With a bootstrap interval; NaN without both classes.
    """

    name: str
    rows: Rows
    real: int
    bogus: int
    recall: Estimate
    fpr: Estimate
    auc: Estimate


@dataclass(frozen=True, slots=True)
class Slicing:
    """The candidates parted by one quantity.

    Attributes
    ----------
    quantity
        What they are parted by.
    unit
        What the names of the slices are in, where they are numbers.
    slices
        In order; none where the quantity is not known of any candidate.
    note
        A sentence on those that are in no slice, or on why there is none; empty where there is nothing to say.
    """

    quantity: str
    unit: str
    slices: tuple[Slice, ...]
    note: str


def slices_of(evaluation: Evaluation, rng: np.random.Generator) -> list[Slicing]:
    """Part the candidates of an evaluation in all ways, and measure each part.

    Parameters
    ----------
    evaluation
        The candidates and what the model makes of them; those without a score are in no slice.
    rng
        Where the resamples of the intervals come from.
    """
    cube = evaluation.datacube
    errors = np.where((cube.errmags > 0) & (cube.errmags < NO_MAGNITUDE), cube.errmags, np.nan)
    return [
        _by_number(evaluation, "magnitude", "mag", np.where(np.abs(cube.mags) < NO_MAGNITUDE, cube.mags, np.nan), rng),
        _by_number(evaluation, "signal-to-noise ratio", "from MAGERR", MAGNITUDES / errors, rng),
        _by_text(evaluation, "filter", "", cube.filters, rng),
        _by_number(evaluation, "FWHM", "pixels", cube.fwhms, rng),
        _by_edge(evaluation, rng),
        _by_night(evaluation, rng),
    ]


def _by_number(evaluation: Evaluation, quantity: str, unit: str, values: Floats, rng: np.random.Generator) -> Slicing:
    known = np.where(evaluation.scored, values, np.nan)
    parts = {each.label: each.rows for each in intervals_of(known)}
    return _measured(evaluation, quantity, unit, parts, rng)


def _by_text(
    evaluation: Evaluation, quantity: str, unit: str, texts: npt.NDArray[np.str_], rng: np.random.Generator
) -> Slicing:
    found, places, counts = np.unique(texts, return_inverse=True, return_counts=True)
    usual = np.sort(np.argsort(-np.where(found == "", 0, counts), kind="stable")[:MOST])
    known = evaluation.scored & (texts != "")
    parts = {str(found[i]): np.flatnonzero(known & (places == i)) for i in usual if found[i] != ""}
    others = int(np.sum(found != "")) - len(parts)
    if others:
        parts[f"{others} others"] = np.flatnonzero(known & ~np.isin(places, usual))
    return _measured(evaluation, quantity, unit, parts, rng)


def _by_night(evaluation: Evaluation, rng: np.random.Generator) -> Slicing:
    try:
        nights = group_by(evaluation.datacube, "nights")
    except UsageError:
        nights = np.full(len(evaluation.datacube), "")
    return _by_text(evaluation, "night", "MJD", nights, rng)


def _by_edge(evaluation: Evaluation, rng: np.random.Generator) -> Slicing:
    cut_off = np.concatenate(list(_are_cut_off(evaluation)))
    parts = {
        "whole": np.flatnonzero(evaluation.scored & ~cut_off),
        "cut off": np.flatnonzero(evaluation.scored & cut_off),
    }
    return _measured(evaluation, "edge", "cutout", parts, rng)


def _are_cut_off(evaluation: Evaluation) -> Iterator[npt.NDArray[np.bool_]]:
    rows, (ny, nx) = np.arange(len(evaluation.datacube)), evaluation.datacube.size
    for start in range(0, rows.size, CHUNK):
        pixels = evaluation.pixels(rows[start : start + CHUNK])
        yield np.array([inner_box(cutout) != (0, ny, 0, nx) for cutout in pixels])


def _measured(
    evaluation: Evaluation, quantity: str, unit: str, parts: dict[str, Rows], rng: np.random.Generator
) -> Slicing:
    slices = tuple(_measure(evaluation, name, rows, rng) for name, rows in parts.items() if rows.size)
    scored = int(evaluation.scored.sum())
    left_out = scored - sum(each.rows.size for each in slices)
    if not slices:
        return Slicing(quantity, unit, (), "Not known of any candidate with a score.")
    return Slicing(quantity, unit, slices, f"Not known of {left_out} of {scored} candidates." if left_out else "")


def _measure(evaluation: Evaluation, name: str, rows: Rows, rng: np.random.Generator) -> Slice:
    labels, scores, called = evaluation.labels[rows], evaluation.scores[rows], evaluation.called[rows]
    real = int(labels.sum())
    bogus = labels.size - real
    recall = estimate_fraction(int(np.sum(called & (labels == 1))), real)
    fpr = estimate_fraction(int(np.sum(called & (labels == 0))), bogus)
    return Slice(name, rows, real, bogus, recall, fpr, _auc(labels, scores, rng))


def _auc(labels: npt.NDArray[np.int64], scores: npt.NDArray[np.float32], rng: np.random.Generator) -> Estimate:
    value = sweep(labels, scores).auc
    if not math.isfinite(value):
        return Estimate(math.nan, math.nan, math.nan)
    low, high = interval_of(lambda rates: rates.auc, labels, scores, rng)
    # Where no resample differs, as with classes parted without error, an interval without width would deceive.
    return Estimate(value, low, high) if high - low > 1e-9 else Estimate(value, math.nan, math.nan)
