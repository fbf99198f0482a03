"""The six plots of ``otrain-checkinfer``: scores and widths of simulated sources and of all other candidates."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from otrain_train.bootstrap import wilson
from otrain_train.canvas import BOGUS, BOTH, LINES, REAL, SERIES, new_figure, set_title
from otrain_train.crossmatch import Crossmatch
from otrain_train.crossmatch_tables import Bools, Floats

Limits = Sequence[float]
Bounds = tuple[float, float]

SCORE_BINS = np.linspace(0, 1, 26)
RATIO_BINS = 40
MAG_BINS = 12
"""Bins of magnitude at most."""

MAG_WIDTHS = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
OTHERS = "others, not simulated"


def split_at(values: npt.NDArray[Any], limits: Limits, name: str) -> list[tuple[str, Bools]]:
    """Sort values into the ranges between limits, below the first and from the last on.

    Parameters
    ----------
    values
        (n,), NaN in no range. They are compared with the limits in their own type.
    limits
        Ascending. A range holds its lower limit and not its upper one.
    name
        What the values are.

    Returns
    -------
    list of tuple
        Label and rows, bool (n,), of each range; the two open ones only where they hold something.
    """
    places = np.where(np.isnan(values), -1, np.searchsorted(np.asarray(limits, values.dtype), values, side="right"))
    labels = [
        f"{name} < {limits[0]:g}",
        *(f"{low:g} ≤ {name} < {high:g}" for low, high in pairwise(limits)),
        f"{name} ≥ {limits[-1]:g}",
    ]
    ranges = [(label, places == place) for place, label in enumerate(labels)]
    return [each for place, each in enumerate(ranges) if 0 < place < len(limits) or each[1].any()]


def draw_scores_of_simulated(found: Crossmatch, mags: Limits) -> Figure:
    """Draw the scores of the simulated sources, by range of magnitude."""
    figure = new_figure()
    axes = figure.subplots()
    _draw_by_magnitude(axes, found, mags)
    _finish_scores(axes, "simulated sources", "Scores of the simulated sources")
    return figure


def draw_scores_of_all(found: Crossmatch, mags: Limits) -> Figure:
    """Draw the scores of all candidates, and of the simulated sources among them by range of magnitude."""
    figure = new_figure()
    axes = figure.subplots()
    _fill(axes, found.candidates.scores, SCORE_BINS, "all candidates")
    _draw_by_magnitude(axes, found, mags)
    _finish_scores(axes, "candidates", "Scores of all candidates, simulated ones by magnitude")
    return figure


def draw_all_and_simulated(found: Crossmatch) -> Figure:
    """Draw the scores of all candidates, of the simulated ones and of the others."""
    figure = new_figure()
    axes = figure.subplots()
    scores = found.candidates.scores
    _fill(axes, scores, SCORE_BINS, "all candidates")
    _step(axes, scores[found.others], SCORE_BINS, OTHERS, BOGUS, "--")
    _step(axes, scores[found.simulated], SCORE_BINS, "simulated", REAL, "-")
    _finish_scores(axes, "candidates", "Scores of simulated and of other candidates")
    return figure


def draw_fractions(found: Crossmatch, scores: Limits) -> Figure:
    """Draw which part of the simulated sources is recovered by magnitude, and how scores are shared out."""
    figure = new_figure(6.0, 7.2)
    above, below = figure.subplots(2)
    _draw_recovered(above, found, scores)
    _draw_shares(below, found)
    return figure


def draw_widths_of_simulated(found: Crossmatch, scores: Limits, bounds: Bounds) -> Figure:
    """Draw FWHM over that of the point spread function of the simulated sources, by range of score."""
    figure = new_figure()
    axes = figure.subplots()
    ratios = found.fwhm_ratios
    edges = _ratio_edges(ratios, bounds)
    for i, (label, rows) in enumerate(split_at(found.scores, scores, "score")):
        _step(axes, ratios[rows], edges, label, SERIES[i % len(SERIES)], LINES[i % len(LINES)])
    _finish_widths(axes, edges, ratios, bounds, "simulated sources", "Widths of the simulated sources, by score")
    return figure


def draw_widths_against(found: Crossmatch, bounds: Bounds) -> Figure:
    """Draw FWHM over that of the point spread function of the simulated and of the other candidates."""
    figure = new_figure()
    axes = figure.subplots()
    ratios = found.candidates.fwhm_ratios
    edges = _ratio_edges(ratios, bounds)
    _step(axes, ratios[found.others], edges, OTHERS, BOGUS, "--")
    _step(axes, ratios[found.simulated], edges, "simulated", REAL, "-")
    _finish_widths(axes, edges, ratios, bounds, "candidates", "Widths of simulated and of other candidates")
    return figure


def _draw_by_magnitude(axes: Any, found: Crossmatch, mags: Limits) -> None:
    for i, (label, rows) in enumerate(split_at(found.sources.mags, mags, "mag")):
        colour, line = SERIES[i % len(SERIES)], LINES[i % len(LINES)]
        _step(axes, found.scores[rows], SCORE_BINS, f"simulated, {label}", colour, line)


def _draw_recovered(axes: Any, found: Crossmatch, limits: Limits) -> None:
    mags = found.sources.mags
    known = found.known & np.isfinite(mags)
    set_title(axes, "What becomes of the simulated sources")
    axes.set(xlabel="simulated magnitude", ylabel="fraction of the simulated sources")
    if not known.any():
        _say(axes, "no simulated source with a magnitude\nof which it is known what became of it")
        return
    edges = _mag_edges(mags[known])
    total, _ = np.histogram(mags[known], edges)
    centres, width = (edges[1:] + edges[:-1]) / 2, edges[1] - edges[0]
    curves = [("found as a candidate", found.found, BOTH)]
    curves += [
        (f"with a score ≥ {limit:g}", found.scores >= np.float32(limit), SERIES[i % len(SERIES)])
        for i, limit in enumerate(limits)
    ]
    for i, (label, rows, colour) in enumerate(curves):
        hits, _ = np.histogram(mags[known & rows], edges)
        filled = total > 0
        low, high = wilson(hits[filled], total[filled])
        fraction = hits[filled] / total[filled]
        x = centres[filled] + width * 0.08 * (i - (len(curves) - 1) / 2)
        errors = np.maximum([fraction - low, high - fraction], 0.0)
        style = {"color": colour, "linestyle": LINES[i % len(LINES)], "marker": "o", "markersize": 3, "linewidth": 1.2}
        axes.errorbar(x, fraction, errors, elinewidth=0.8, label=label, **style)
    axes.set_ylim(-0.03, 1.03)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    _legend_beside(axes, title=f"95 % intervals,\nbins of {width:g} mag")


def _draw_shares(axes: Any, found: Crossmatch) -> None:
    scores = found.candidates.scores
    drawn = 0
    for label, rows, colour, line in (
        ("all candidates", np.ones(scores.size, np.bool_), BOTH, ":"),
        (OTHERS, found.others, BOGUS, "--"),
        ("simulated", found.simulated, REAL, "-"),
    ):
        counts, _ = np.histogram(_finite(scores[rows]), SCORE_BINS)
        if counts.sum():
            drawn += 1
            axes.stairs(counts / counts.sum(), SCORE_BINS, color=colour, linestyle=line, label=label, linewidth=1.4)
    set_title(axes, "How scores are shared out")
    step = SCORE_BINS[1] - SCORE_BINS[0]
    axes.set(xlabel="score", ylabel=f"fraction of each kind, in bins of {step:g}", xlim=(0, 1))
    if not drawn:
        _say(axes, "no candidate has a score")
        return
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    _legend_beside(axes)


def _legend_beside(axes: Any, title: str = "") -> None:
    # Within the axes it would cover points or their error bars in some data or other.
    axes.legend(fontsize=8, title=title, title_fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0))


def _mag_edges(mags: Floats) -> Floats:
    low, high = float(mags.min()), float(mags.max())
    width = next((each for each in MAG_WIDTHS if _bins(low, high, each) <= MAG_BINS), MAG_WIDTHS[-1])
    first = math.floor(low / width)
    edges: Floats = width * np.arange(first, first + _bins(low, high, width) + 1, dtype=np.float64)
    return edges


def _bins(low: float, high: float, width: float) -> int:
    return math.floor(high / width) - math.floor(low / width) + 1


def _ratio_edges(ratios: Floats, bounds: Bounds) -> Floats:
    # As far as nearly all go, and past the bounds; the few beyond are counted in the last bin.
    known = _finite(ratios)
    most = float(np.quantile(known, 0.99)) if known.size else 0.0
    return np.linspace(0.0, max(1.25 * bounds[1], min(most, 4 * bounds[1])), RATIO_BINS + 1)


def _finite(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    kept: npt.NDArray[Any] = values[np.isfinite(values)]
    return kept


def _fill(axes: Any, values: npt.NDArray[Any], edges: Floats, label: str) -> None:
    counts, _ = np.histogram(_finite(values), edges)
    axes.stairs(counts, edges, fill=True, color="0.85", label=f"{label} ({counts.sum()})")


def _step(axes: Any, values: npt.NDArray[Any], edges: Floats, label: str, colour: str, line: str) -> None:
    counts, _ = np.histogram(np.clip(_finite(values), edges[0], edges[-1]), edges)
    axes.stairs(counts, edges, color=colour, linestyle=line, linewidth=1.4, label=f"{label} ({counts.sum()})")


def _finish_scores(axes: Any, counted: str, title: str) -> None:
    set_title(axes, title)
    axes.set(xlabel="score", ylabel=counted, xlim=(0, 1))
    _finish_counts(axes, f"none of the {counted} has a score")


def _finish_widths(axes: Any, edges: Floats, ratios: Floats, bounds: Bounds, counted: str, title: str) -> None:
    set_title(axes, title)
    beyond = int(np.sum(_finite(ratios) > edges[-1]))
    more = f" (the last bin holds {beyond} beyond)" if beyond else ""
    axes.set(xlabel=f"FWHM / FWHMPSF{more}", ylabel=counted, xlim=(0, edges[-1]))
    for bound in bounds:
        label = f"bounds {bounds[0]:g} and {bounds[1]:g}" if bound == bounds[0] else None
        axes.axvline(bound, color="0.35", linestyle=":", linewidth=1.2, label=label)
    _finish_counts(axes, f"none of the {counted} has a width")


def _finish_counts(axes: Any, otherwise: str) -> None:
    most = max((float(np.max(patch.get_data().values, initial=0)) for patch in axes.patches), default=0.0)
    if most > 0:
        axes.set_yscale("log")
        axes.set_ylim(0.7, 3 * most)
        axes.legend(fontsize=8, loc="best")
    else:
        _say(axes, otherwise)


def _say(axes: Any, words: str) -> None:
    axes.text(0.5, 0.5, words, transform=axes.transAxes, ha="center", va="center", color="0.3")
    axes.set_yticks([])
