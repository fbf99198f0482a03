"""The plots of a study of sizes: scores, gap and loss against the number of training rows."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from otrain_train.canvas import LINES, SERIES, new_figure, set_title
from otrain_train.learning_curve import Floats, LearningCurve

SCORES = {"mcc": "MCC", "f1": "F1", "accuracy": "accuracy"}
FIGURES = ("mcc", "f1", "accuracy", "auc", "log_loss")
WIDE = 5
"""Ratio of the largest to the smallest size from which on their axis is logarithmic."""


@dataclass(frozen=True, slots=True, eq=False)
class SizeResults:
    """The figures of all trainings as a struct of arrays: row i of each is training i.

    Attributes
    ----------
    sizes, repeats
        int64 (m,), rows it was given, and the how-manieth of its size it is.
    test, learnt
        By the names of `FIGURES`, float64 (m,), on the test rows and on the rows learnt from.
    undefined
        Trainings whose network calls all test rows alike, so that the MCC is 0/0: it counts as 0, that of guessing.
    """

    sizes: npt.NDArray[np.int64]
    repeats: npt.NDArray[np.int64]
    test: dict[str, Floats]
    learnt: dict[str, Floats]
    undefined: int

    @classmethod
    def of(cls, records: Sequence[Mapping[str, Any]]) -> "SizeResults":
        """Take the figures from what is kept of the trainings."""
        test, learnt = (_columns(records, part) for part in ("test", "learnt_from"))
        undefined = int(np.isnan(test["mcc"]).sum())
        for part in (test, learnt):
            part["mcc"] = np.nan_to_num(part["mcc"], nan=0.0)
        sizes, repeats = (np.array([record[key] for record in records], np.int64) for key in ("size", "repeat"))
        return cls(sizes, repeats, test, learnt, undefined)

    @property
    def gaps(self) -> Floats:
        """float64 (m,), accuracy on the rows learnt from minus that on the test rows."""
        return self.learnt["accuracy"] - self.test["accuracy"]

    def by_size(self, values: Floats) -> tuple[npt.NDArray[np.int64], Floats, Floats]:
        """Give each size, ascending, with the mean and the standard deviation of values (m,) there.

        The standard deviation is NaN where there is a single training.
        """
        sizes = np.unique(self.sizes)
        groups = [values[self.sizes == size] for size in sizes]
        spread = [float(np.std(some, ddof=1)) if some.size > 1 else np.nan for some in groups]
        return sizes, np.array([float(np.mean(some)) for some in groups]), np.array(spread)


def _columns(records: Sequence[Mapping[str, Any]], part: str) -> dict[str, Floats]:
    # What JSON has no number for is null, and None becomes NaN.
    return {name: np.array([record[part][name] for record in records], np.float64) for name in FIGURES}


def rounded(size: float) -> str:
    """Write a number of rows to three digits: no interval of one is narrower."""
    digits = max(0, math.floor(math.log10(size)) - 2)
    return f"{round(size, -digits):,.0f}"


def draw_size_scores(results: SizeResults, curve: LearningCurve, name: str) -> Figure:
    """Draw MCC, F1 and accuracy on the test rows, the curve of the MCC, and what follows from it."""
    figure = new_figure(7.0, 4.8)
    axes = figure.subplots()
    if curve.law is not None:
        band = "90 % band of the power law"
        axes.fill_between(curve.sizes, 1 - curve.high, 1 - curve.low, color="0.85", label=band, zorder=0)
        axes.plot(curve.sizes, 1 - curve.law.error(curve.sizes), color="0.4", linewidth=1, label="power law of the MCC")
    for i, (key, label) in enumerate(SCORES.items()):
        _draw_means(axes, results, results.test[key], i, label)
    if curve.acceptable is not None and curve.gain is not None and curve.law is not None:
        acceptable, gain, twice = curve.acceptable, curve.gain, 2 * curve.law.rows
        label = f"smallest acceptable size: {rounded(acceptable.value)}"
        axes.axvline(acceptable.value, color="0.2", linestyle=":", linewidth=1.2, label=label)
        at_all = 1 - float(curve.law.error(curve.law.rows))
        errors = np.maximum([[gain.value - gain.low], [gain.high - gain.value]], 0.0)
        style: dict[str, Any] = {"color": "0.2", "marker": "D", "markersize": 4, "linestyle": "", "capsize": 3}
        axes.errorbar(
            [twice], [at_all + gain.value], errors, label=f"MCC with twice the rows: {gain.value:+.4f}", **style
        )
    _finish(axes, results, "MCC, F1 and accuracy of the test rows", f"{name}: scores by number of training rows")
    return figure


def draw_size_gap(results: SizeResults, name: str) -> Figure:
    """Draw by how much the accuracy on the rows learnt from exceeds that on the test rows."""
    figure = new_figure()
    axes = figure.subplots()
    _draw_means(axes, results, results.gaps, 0, "accuracy of the rows learnt from, minus that of the test rows")
    axes.axhline(0.0, color="0.6", linewidth=0.8)
    _finish(axes, results, "gap of the accuracy", f"{name}: gap by number of training rows")
    return figure


def draw_size_loss(results: SizeResults, name: str) -> Figure:
    """Draw the loss on the rows learnt from and on the test rows."""
    figure = new_figure()
    axes = figure.subplots()
    _draw_means(axes, results, results.test["log_loss"], 0, "test rows")
    _draw_means(axes, results, results.learnt["log_loss"], 1, "rows learnt from")
    _finish(axes, results, "loss (nats)", f"{name}: loss by number of training rows")
    return figure


def _draw_means(axes: Any, results: SizeResults, values: Floats, place: int, label: str) -> None:
    sizes, means, spreads = results.by_size(values)
    marker = "osv^"[place % 4]
    style: dict[str, Any] = {"color": SERIES[place], "linestyle": LINES[place % len(LINES)], "linewidth": 1.2}
    axes.errorbar(
        sizes,
        means,
        np.nan_to_num(spreads),
        marker=marker,
        markersize=4,
        elinewidth=0.9,
        capsize=2,
        label=label,
        **style,
    )


def _finish(axes: Any, results: SizeResults, ylabel: str, title: str) -> None:
    most = int(np.max(results.repeats)) + 1
    bars = f"; bars: standard deviation of {most} trainings" if most > 1 else ""
    axes.set(xlabel=f"training rows{bars}", ylabel=ylabel)
    if results.sizes.max() >= WIDE * results.sizes.min():
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(10, (1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.grid(color="0.92")
    axes.set_axisbelow(True)
    set_title(axes, title)
    axes.legend(fontsize=8)
