"""Plots of curves with their bands: ROC, precision-recall, and F1 and MCC by threshold.

Each gives a figure, which `otrain_train.canvas.save` writes. What cannot be measured is said in the figure.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from otrain_train.bootstrap import band_of
from otrain_train.calibrate import operating_points
from otrain_train.canvas import (
    BOTH,
    LINES,
    SERIES,
    draw_sentence,
    in_legend,
    new_figure,
    set_main_title,
    set_title,
)
from otrain_train.curves import FPR_GRID, LOWEST_FPR, Curve, Part, at_thresholds, recall_curve, roc_curve
from otrain_train.metrics import Floats, Sweep, sweep

THRESHOLDS = np.linspace(0, 1, 201)
CHANCE = (0, (1, 3))
"""The line style of what chance would give."""
BAND = 0.18
"""How opaque a band is."""


def draw_roc(parts: Sequence[Part], title: str, rng: np.random.Generator, note: str = "") -> Figure:
    """Draw ROC curves with 95 % bootstrap bands, once as they are and once with the low false positive rates spread.

    Parameters
    ----------
    parts
        Candidates, a curve each; those without both classes are named as not measurable.
    title
        Of the plot.
    rng
        Where the resamples come from.
    note
        Stands above the legend, such as how many candidates are in no part.
    """
    curves = [roc_curve(part, rng) for part in parts]
    if not any(curve.measurable for curve in curves):
        return draw_sentence(title, _why_nothing(curves, note), 10.0, 5.6)
    figure = new_figure(10.0, 5.6 + _room(parts))
    whole, left = figure.subplots(1, 2)
    for axes in (whole, left):
        axes.plot(FPR_GRID, FPR_GRID, color=BOTH, linewidth=0.8, linestyle=CHANCE)
        _draw_curves(axes, [_bent(curve) if curve.measurable else curve for curve in curves], "AUC")
        axes.set(xlabel="false positive rate", ylabel="recall (true positive rate)", ylim=(-0.02, 1.02))
    whole.set(xlim=(-0.02, 1.02))
    left.set(xscale="log", xlim=(LOWEST_FPR, 1), xlabel="false positive rate, logarithmic")
    _finish(figure, whole, title, note)
    return figure


def draw_recall(parts: Sequence[Part], title: str, rng: np.random.Generator, note: str = "") -> Figure:
    """Draw precision-recall curves with 95 % bootstrap bands; the parameters are those of `draw_roc`.

    Precision depends on how many of the candidates are real: dotted lines show what chance would give.
    """
    curves = [recall_curve(part, rng) for part in parts]
    if not any(curve.measurable for curve in curves):
        return draw_sentence(title, _why_nothing(curves, note), 7.5, 6.0)
    figure = new_figure(7.5, 6.0 + _room(parts))
    axes = figure.subplots()
    _draw_curves(axes, curves, "AP", drawstyle="steps-pre", step="pre")
    for number, curve in enumerate(curves):
        if curve.measurable:
            colour = SERIES[number % len(SERIES)]
            axes.axhline(curve.real / (curve.real + curve.bogus), color=colour, linewidth=0.8, linestyle=CHANCE)
    axes.set(xlabel="recall", ylabel="precision", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    _finish(figure, axes, title, note)
    return figure


def draw_mcc_f1(
    labels: npt.ArrayLike, scores: npt.ArrayLike, threshold: float, title: str, rng: np.random.Generator
) -> Figure:
    """Draw F1 and MCC against the threshold, and against each other: the MCC-F1 curve (Cao et al. 2020).

    The best threshold is that of the operating point ``best-f1-mcc``, where F1 + MCC is highest.

    Parameters
    ----------
    labels, scores
        As for `draw_scores`.
    threshold
        The one in use, marked beside the best.
    title
        Of the plot.
    rng
        Where the resamples of the bands come from.
    """
    rates = sweep(labels, scores)
    best = [point.threshold for point in operating_points(labels, scores) if point.name == "best-f1-mcc"]
    if not best:
        return draw_sentence(title, _why_no_mcc(rates), 10.0, 5.2)
    figure = new_figure(10.0, 5.2)
    left, right = figure.subplots(1, 2)
    _draw_by_threshold(left, rates, band_of(_f1_and_mcc, labels, scores, rng))
    _draw_against_each_other(right, rates)
    # The best one is a ring, so that the other is seen where both are the same.
    ring = {"marker": "o", "markersize": 11, "markerfacecolor": "none", "markeredgewidth": 2, "color": SERIES[2]}
    for text, value, look in (("best threshold", best[0], ring), ("threshold in use", threshold, {"marker": "s"})):
        _mark(left, right, at_thresholds(rates, [value]), f"{text} {value:.3g}", {"color": BOTH} | look)
    set_main_title(figure, title)
    set_title(left, "F1 and MCC by threshold")
    set_title(right, f"MCC-F1 curve: {rates.real} real and {rates.bogus} bogus")
    handles = [handle for axes in (left, right) for handle in axes.get_legend_handles_labels()[0]]
    figure.legend(handles=handles, loc="outside lower center", fontsize="small", ncols=2)
    return figure


def _draw_curves(axes: Any, curves: Sequence[Curve], area: str, drawstyle: str = "default", step: Any = None) -> None:
    for number, curve in enumerate(curves):
        colour, line = SERIES[number % len(SERIES)], LINES[number % len(LINES)]
        counts = f"{in_legend(curve.name)}: {curve.real} real, {curve.bogus} bogus"
        if curve.measurable:
            text = f"{counts}, {area} {_with_interval(curve.area, curve.area_low, curve.area_high)}"
            axes.plot(curve.x, curve.y, color=colour, linestyle=line, label=text, drawstyle=drawstyle)
            look: dict[str, Any] = {"color": colour, "alpha": BAND, "linewidth": 0, "step": step}
            axes.fill_between(curve.grid, curve.low, curve.high, **look)
        else:
            axes.plot([], [], linestyle="none", label=f"{counts}, not measurable without both classes")


def _room(parts: Sequence[Part]) -> float:
    return 0.18 * max(0, len(parts) - 4)


def _bent(curve: Curve) -> Curve:
    """Give a ROC curve with points between: what is straight between two is not so on a logarithmic axis."""
    x = np.concatenate([curve.x, FPR_GRID])
    y = np.concatenate([curve.y, np.interp(FPR_GRID, curve.x, curve.y)])
    order = np.lexsort((y, x))
    return replace(curve, x=x[order], y=y[order])


def _finish(figure: Figure, axes: Any, title: str, note: str) -> None:
    set_main_title(figure, title)
    handles, _ = axes.get_legend_handles_labels()
    words = "95 % bootstrap bands and intervals; dotted: chance" + (f"; {in_legend(note)}" if note else "")
    look: dict[str, Any] = {"fontsize": "small", "title": words, "title_fontsize": "small"}
    figure.legend(handles=handles, loc="outside lower center", **look)


def _why_nothing(curves: Sequence[Curve], note: str) -> str:
    lines = [f"{curve.name}: {curve.real} real, {curve.bogus} bogus" for curve in curves]
    head = "Curves need real and bogus candidates with scores in one interval, and there is no such interval."
    return "\n".join([head, *lines, note])


def _why_no_mcc(rates: Sweep) -> str:
    if rates.real == 0 or rates.bogus == 0:
        counts = f"{rates.real} real and {rates.bogus} bogus candidates have a score"
        return f"F1 and MCC compare the two classes: {counts}, and both classes are needed."
    return "All candidates have the same score: no threshold tells any of them apart."


def _f1_and_mcc(rates: Sweep) -> Floats:
    there = at_thresholds(rates, THRESHOLDS)
    return np.concatenate([there.f1, there.mcc])


def _draw_by_threshold(axes: Any, rates: Sweep, band: tuple[Floats, Floats]) -> None:
    there = at_thresholds(rates, THRESHOLDS)
    for number, (name, values) in enumerate((("F1", there.f1), ("MCC", there.mcc))):
        low, high = (bound.reshape(2, -1)[number] for bound in band)
        look: dict[str, Any] = {"color": SERIES[number]}
        axes.plot(THRESHOLDS, values, linestyle=LINES[number], label=f"{name}, 95 % bootstrap band", **look)
        axes.fill_between(THRESHOLDS, low, high, alpha=BAND, linewidth=0, **look)
    axes.set(xlabel="threshold", ylabel="F1, MCC", xlim=(0, 1), ylim=(None, 1.02))


def _draw_against_each_other(axes: Any, rates: Sweep) -> None:
    axes.axhline(0.5, color=BOTH, linewidth=0.8, linestyle=CHANCE)
    unit_mcc = (rates.mcc + 1) / 2
    axes.plot(rates.f1, unit_mcc, color=SERIES[0])
    lowest = min(0.45, float(np.nanmin(unit_mcc)) - 0.02)
    axes.set(xlabel="F1", ylabel="MCC, scaled to 0-1", xlim=(0, 1.02), ylim=(lowest, 1.02))
    axes.secondary_yaxis("right", functions=(lambda unit: 2 * unit - 1, lambda mcc: (mcc + 1) / 2)).set_ylabel("MCC")


def _mark(left: Any, right: Any, there: Sweep, text: str, look: dict[str, Any]) -> None:
    f1, mcc = float(there.f1[0]), float(there.mcc[0])
    left.axvline(there.thresholds[0], color=look["color"], linestyle=":")
    words = f"{text}: F1 {_number(f1)}, MCC {_number(mcc)}"
    right.plot([f1], [(mcc + 1) / 2], linestyle="none", zorder=3, clip_on=False, label=words, **look)


def _with_interval(value: float, low: float, high: float) -> str:
    # Where no resample differs, as with classes parted without error, an interval without width would deceive.
    return f"{value:.3f} ({low:.3f} to {high:.3f})" if low < high else f"{value:.3f}"


def _number(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "not defined"
