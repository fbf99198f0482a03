"""What ``otrain-checkinfer`` does: how a model scores simulated sources, beside all other candidates."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from otrain_infer.atomic import replacing
from otrain_infer.errors import UsageError
from otrain_train import checkinfer_plots as plot
from otrain_train.canvas import save
from otrain_train.checkinfer_plots import split_at
from otrain_train.crossmatch import Crossmatch, read_crossmatch
from otrain_train.crossmatch_tables import Bools
from otrain_train.outputs import prepare_folder

FOLDER, SUMMARY, MATCHED = "CheckInfer", "summary.txt", "matched.csv"
PLOTS = (
    "distrib_CNN_prob_sim.png",
    "distrib_CNN_prob_all.png",
    "distrib_CNNprob_all_and_sim.png",
    "fraction_per_bin.png",
    "distrib_FWHM_simulation.png",
    "distrib_FWHM_real_vs_sim.png",
)
"""The names that the original program gives these plots."""

MOST_LIMITS = 8
COLUMNS = ("filename", "idx", "mag", "filter", "cand_ID", "edge", "outcome", "score", "cand_mag", "fwhm_ratio")


@dataclass(frozen=True, slots=True)
class CheckSettings:
    """Where ranges begin and end. Impossible values raise UsageError.

    Attributes
    ----------
    mag_limits
        Bounds of the ranges of magnitude, ascending. A range holds its lower bound and not its upper one; what is
        below the first and from the last on are ranges too.
    score_limits
        Bounds of the ranges of score, likewise.
    fwhm_bounds
        Lowest and highest FWHM over that of the point spread function, of a point source.
    """

    mag_limits: tuple[float, ...] = (12.0, 18.0, 21.0)
    score_limits: tuple[float, ...] = (0.1, 0.5, 0.7)
    fwhm_bounds: tuple[float, float] = (0.5, 4.2)

    def __post_init__(self) -> None:
        _check_ascending("maglim", self.mag_limits)
        _check_ascending("cnn-problim", self.score_limits)
        if self.score_limits[0] < 0 or self.score_limits[-1] > 1:
            raise UsageError(f"cnn-problim is scores from 0 to 1, not {_listed(self.score_limits)}")
        _check_ascending("fwhm-ratio-lower and fwhm-ratio-upper", self.fwhm_bounds)


def _check_ascending(name: str, values: Sequence[float]) -> None:
    if len(values) > MOST_LIMITS:
        raise UsageError(
            f"{name} is {MOST_LIMITS} numbers at most, not {len(values)}: more cannot be told apart in a plot"
        )
    finite = len(values) > 0 and all(map(math.isfinite, values))
    if not finite or any(after <= before for before, after in pairwise(values)):
        raise UsageError(f"{name} is finite numbers in ascending order, not {_listed(values)}")


def _listed(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values) or "nothing"


@dataclass(frozen=True, slots=True)
class CheckSummary:
    """What a check found.

    Attributes
    ----------
    folder
        Where its files are.
    text
        What a person wants to know.
    """

    folder: Path
    text: str

    def __str__(self) -> str:
        return f"{self.text}\n\nplots, summary.txt and matched.csv: {self.folder}"


def check_inference(crossmatch: Path, infer: Path, plots: Path, settings: CheckSettings | None = None) -> CheckSummary:
    """Compare the scores of simulated sources with those of all other candidates.

    Writes six plots, ``summary.txt`` and ``matched.csv`` (one row for each simulated source) into ``CheckInfer`` in
    `plots`. Files of those names are replaced; no other file is touched.

    Parameters
    ----------
    crossmatch
        ``crossmatch.dat``: the simulated sources and the candidates found for them; or its folder.
    infer
        The table of scores of those candidates; or the folder of ``infer_results.dat``.
    plots
        The folder for ``CheckInfer``.
    settings
        Where ranges begin and end; the defaults if not given.

    Returns
    -------
    CheckSummary
        As text, what a person wants to know.

    Raises
    ------
    SourceError
        When a table is missing, cannot be read, or is empty.
    UsageError
        When a table has other columns than it should.
    OutputError
        When something cannot be written.
    """
    settings = settings or CheckSettings()
    found = read_crossmatch(Path(crossmatch), Path(infer))
    folder = Path(plots) / FOLDER
    prepare_folder(folder, (*PLOTS, MATCHED, SUMMARY), (Path(crossmatch), Path(infer)))
    for name, figure in _draw(found, settings).items():
        save(figure, folder / name)
    _write_matched(found, folder / MATCHED)
    summary = CheckSummary(folder, describe(found, settings))
    with replacing(folder / SUMMARY) as part:
        part.write_text(f"{summary.text}\n", encoding="utf-8")
    return summary


def _draw(found: Crossmatch, settings: CheckSettings) -> dict[str, Figure]:
    mags, scores, bounds = settings.mag_limits, settings.score_limits, settings.fwhm_bounds
    figures = (
        plot.draw_scores_of_simulated(found, mags),
        plot.draw_scores_of_all(found, mags),
        plot.draw_all_and_simulated(found),
        plot.draw_fractions(found, scores),
        plot.draw_widths_of_simulated(found, scores, bounds),
        plot.draw_widths_against(found, bounds),
    )
    return dict(zip(PLOTS, figures, strict=True))


def describe(found: Crossmatch, settings: CheckSettings) -> str:
    """Say in a few lines what became of the simulated sources, and of the other candidates."""
    sources, candidates = len(found.sources), len(found.candidates)
    lines = [
        f"{sources} simulated sources, {found.found.sum()} of them found as candidates",
        f"{candidates} candidates with a row in the table of scores: {found.simulated.sum()} simulated, "
        f"{found.others.sum()} others (not simulated)",
        "",
        *_table(found, settings),
        "",
        _widths(found, settings.fwhm_bounds),
    ]
    if found.notes:
        lines += ["", "to be known:", *(f"- {note}" for note in found.notes)]
    return "\n".join(lines)


def _table(found: Crossmatch, settings: CheckSettings) -> list[str]:
    limits = settings.score_limits
    heads = "".join(f"{f'>= {limit:g}':>9}" for limit in limits)
    lines = [f"{'percentage':<34}{'number':>9}{'found':>9}{heads}   (score)"]
    ranges = [*split_at(found.sources.mags, settings.mag_limits, "mag"), ("all simulated sources", found.known)]
    for name, rows in ranges:
        known = rows & found.known
        lines.append(_line(name, int(known.sum()), [found.found[known], *_reached(found.scores[known], limits)]))
    scores = found.candidates.scores[found.others]
    return [*lines, _line("others (not simulated)", scores.size, [None, *_reached(scores, limits)])]


def _reached(scores: npt.NDArray[np.float32], limits: Sequence[float]) -> list[Bools]:
    return [scores >= np.float32(limit) for limit in limits]


def _line(name: str, number: int, parts: Sequence[Bools | None]) -> str:
    texts = ["-" if part is None or part.size == 0 else f"{100 * part.mean():.1f}" for part in parts]
    return f"{name:<34}{number:>9}" + "".join(f"{text:>9}" for text in texts)


def _widths(found: Crossmatch, bounds: tuple[float, float]) -> str:
    said = []
    for name, rows in (("simulated", found.simulated), ("other", found.others)):
        ratios = found.candidates.fwhm_ratios[rows]
        ratios = ratios[np.isfinite(ratios)]
        inside = np.mean((ratios >= bounds[0]) & (ratios <= bounds[1])) if ratios.size else np.nan
        share = f"{100 * inside:.1f} % of {ratios.size}" if ratios.size else "none of the"
        said.append(f"{share} {name} candidates" + ("" if ratios.size else " has a FWHM/FWHMPSF"))
    return f"FWHM/FWHMPSF from {bounds[0]:g} to {bounds[1]:g}: {said[0]}, {said[1]}"


def _outcomes(found: Crossmatch) -> list[str]:
    scored = np.isfinite(found.scores)
    given = [~found.found, found.rows < 0, ~scored]
    outcomes: list[str] = np.select(given, ["not found", "not in the table of scores", "not scored"], "scored").tolist()
    return outcomes


def _write_matched(found: Crossmatch, path: Path) -> None:
    sources = found.sources
    columns = [
        sources.files.tolist(),
        sources.indices.tolist(),
        _plain(sources.mags),
        sources.filters.tolist(),
        sources.closest.tolist(),
        ["yes" if edge else "no" for edge in sources.edge.tolist()],
        _outcomes(found),
        _plain(found.scores),
        _plain(found.candidate_mags),
        _plain(found.fwhm_ratios),
    ]
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(zip(*columns, strict=True))


def _plain(values: npt.NDArray[np.floating[Any]]) -> list[str]:
    return ["" if math.isnan(value) else f"{value:.9g}" for value in values.tolist()]
