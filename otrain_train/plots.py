"""Plots of labels and scores: distributions, reliability and the confusion matrix; the curves are at hand here too.

Each gives a figure, which `otrain_train.canvas.save` writes. What cannot be measured is said in the figure.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from otrain_train.bootstrap import wilson
from otrain_train.canvas import BOGUS, BOTH, REAL, draw_sentence, new_figure, set_title
from otrain_train.curve_plots import CHANCE, draw_mcc_f1, draw_recall, draw_roc
from otrain_train.curves import Part
from otrain_train.metrics import BINS as RELIABILITY_BINS
from otrain_train.metrics import Figures, reliability, sweep

__all__ = [
    "Part",
    "draw_confusion",
    "draw_mcc_f1",
    "draw_recall",
    "draw_reliability",
    "draw_roc",
    "draw_scores",
]

BINS = 25
COUNTS = "{x:,.0f}"


def draw_scores(labels: npt.ArrayLike, scores: npt.ArrayLike, threshold: float, title: str) -> Figure:
    """Draw how the scores of real and of bogus candidates are distributed, and what a threshold makes of them.

    Parameters
    ----------
    labels
        1 for real, 0 for bogus, (n,).
    scores
        In 0-1, (n,); NaN is left out and counted.
    threshold
        Marked in the plot.
    title
        Of the plot.
    """
    truth, given = np.asarray(labels), np.asarray(scores, np.float32)
    scored = np.isfinite(given)
    if not scored.any():
        return draw_sentence(title, f"None of {given.size} candidates has a score: there is nothing to show.")
    figure = new_figure(7.0, 4.8)
    axes = figure.subplots()
    for label, name, colour in ((0, "bogus", BOGUS), (1, "real", REAL)):
        some = given[scored & (truth == label)]
        above = int(np.sum(some >= np.float32(threshold)))
        text = f"{some.size} {name}: {_share(some.size - above, some.size)} below the threshold, "
        text += f"{_share(above, some.size)} called real"
        look: dict[str, Any] = {
            "histtype": "stepfilled",
            "facecolor": (colour, 0.35),
            "edgecolor": colour,
            "linewidth": 1.5,
        }
        axes.hist(some, bins=BINS, range=(0, 1), label=text, **look)
    axes.axvline(threshold, color=BOTH, linestyle="--", label=f"threshold {threshold:g}")
    axes.set(xlabel="score", ylabel="candidates", yscale="log", xlim=(0, 1))
    axes.set_ylim(bottom=0.7)
    axes.yaxis.set_major_formatter(COUNTS)
    set_title(axes, title)
    figure.legend(
        loc="outside lower center", fontsize="small", title=_unscored(int(np.sum(~scored))), title_fontsize="small"
    )
    return figure


def draw_reliability(labels: npt.ArrayLike, scores: npt.ArrayLike, title: str) -> Figure:
    """Draw the fraction of real candidates against the score, with Wilson intervals, and how many have each score.

    Parameters
    ----------
    labels, scores, title
        As for `draw_scores`.
    """
    rates, found = sweep(labels, scores), reliability(labels, scores)
    n = rates.real + rates.bogus
    if n == 0:
        return draw_sentence(title, "No candidate has a score: there is nothing to show.", 6.0, 6.0)
    counts = np.rint(found.weights * n)
    some = counts > 0
    low, high = wilson(np.rint(found.fractions[some] * counts[some]), counts[some])
    figure = new_figure(6.0, 6.0)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    upper.plot([0, 1], [0, 1], color=BOTH, linewidth=0.8, linestyle=CHANCE, label="perfectly calibrated")
    upper.vlines(found.scores[some], low, high, color=REAL, linewidth=1.5)
    label = f"bins of the score, 95 % intervals; calibration error {found.ece:.4f}"
    upper.plot(found.scores[some], found.fractions[some], "o", color=REAL, label=label)
    upper.set(ylabel="fraction that is real", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    width = 1 / RELIABILITY_BINS
    lower.bar((np.arange(RELIABILITY_BINS) + 0.5) * width, counts, 0.9 * width, color=BOTH)
    lower.set(xlabel="score", ylabel="candidates", yscale="log", ylim=(0.7, None))
    lower.yaxis.set_major_formatter(COUNTS)
    set_title(upper, title)
    figure.legend(loc="outside lower center", fontsize="small")
    return figure


def draw_confusion(measured: Figures, title: str) -> Figure:
    """Draw the confusion matrix: counts, and what part of its class each is."""
    counts = np.array([[measured.tn, measured.fp], [measured.fn, measured.tp]])
    if measured.n == 0:
        return draw_sentence(title, "No candidate has a score: there is nothing to count.", 5.0, 4.4)
    totals = counts.sum(axis=1, keepdims=True)
    parts = counts / np.maximum(totals, 1)
    figure = new_figure(5.0, 4.4)
    axes = figure.subplots()
    axes.imshow(parts, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        text = f"{('TN', 'FP', 'FN', 'TP')[2 * row + column]}\n{count}"
        text += f"\n{100 * parts[row, column]:.1f} %" if totals[row, 0] else ""
        colour = "white" if parts[row, column] > 0.5 else "black"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize="large")
    axes.set_xticks([0, 1], ["called bogus", "called real"])
    axes.set_yticks([0, 1], [f"bogus\n({totals[0, 0]})", f"real\n({totals[1, 0]})"])
    axes.set_xlabel(f"threshold {measured.threshold:g}; {_unscored(measured.left_out)}".removesuffix("; "))
    set_title(axes, title)
    return figure


def _share(count: int, total: int) -> str:
    return f"{count} ({100 * count / total:.1f} %)" if total else "0"


def _unscored(count: int) -> str:
    return f"{count} without score left out" if count else ""
