"""What ``otrain-checksim`` does: which of the inserted sources were detected, by magnitude and filter."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from otrain_infer.atomic import replacing
from otrain_infer.errors import SourceError
from otrain_train.bootstrap import wilson
from otrain_train.candidates_list import LIST_NAME, Candidates, read_candidates
from otrain_train.canvas import BOTH, REAL, new_figure, save, set_title
from otrain_train.crossmatch import CROSSMATCH_NAME
from otrain_train.match import Match, just_beyond, match
from otrain_train.outputs import prepare_folder
from otrain_train.simulated_objects import SimulatedObjects, find_lists, read_simulated_objects

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.bool_]

FOLDER, SUMMARY = "CheckSim", "summary.txt"
ALL = "allbands"
DISTRIBUTION, FRACTION, RECOVERED = "sim_mag_distrib_{}.png", "sim_det_fraction_{}.png", "sim_mag_recovered.png"
BIN_WIDTHS = (0.25, 0.5, 1.0, 2.0, 5.0)
OTHER_ZERO_POINT = 0.5
"""Offset of magnitudes that no error of a measurement explains."""
MOST_BINS, FEWEST = 12, 6
"""Bins of magnitude at most, and sources in each of them on average at least."""


@dataclass(frozen=True, slots=True, eq=False)
class SimCheck:
    """Inserted sources beside what was detected.

    Attributes
    ----------
    folder
        Holds the lists, and receives ``crossmatch.dat`` and ``CheckSim``.
    objects, candidates, matched
        The sources, the candidates, and which of them belong together.
    hint
        What makes the radius doubtful, in one sentence; empty where nothing does.
    """

    folder: Path
    objects: SimulatedObjects
    candidates: Candidates
    matched: Match
    hint: str = ""

    @property
    def detected(self) -> Rows:
        """Bool (n,): sources with a candidate."""
        return self.matched.closest >= 0

    @property
    def mag_offsets(self) -> Floats:
        """Float64 (k,): measured less inserted magnitude of those detected."""
        rows = self.matched.closest
        return np.asarray(self.candidates.mags[rows[self.detected]] - self.objects.mags[self.detected], np.float64)

    def __str__(self) -> str:
        n, found = len(self.objects), int(self.detected.sum())
        unit = "pixels" if self.matched.in_pixels.all() else "arcseconds"
        lines = [f"{n} sources inserted, {found} detected ({found / n:.1%}), {len(self.candidates)} candidates"]
        if found:
            distance = np.nanmedian(self.matched.distances)
            lines.append(
                f"of those detected, medians: {distance:.3f} {unit} from where they were inserted, magnitude measured "
                f"less inserted {np.nanmedian(self.mag_offsets):+.3f}"
            )
            if abs(np.nanmedian(self.mag_offsets)) > OTHER_ZERO_POINT:
                lines.append(
                    "magnitudes are far from those inserted: was --ZP the same for otrain-sim and otrain-detect?"
                )
        lines += [self.hint] if self.hint else []
        for band in np.unique(self.objects.filters).tolist():
            rows = self.objects.filters == band
            lines += [
                "",
                f"{f'filter {band}, mag':<20}{'inserted':>10}{'detected':>10}{'fraction':>10}   95 % interval",
            ]
            for low, high, inside in mag_bins(self.objects.mags, rows):
                hits, number = int((inside & self.detected).sum()), int(inside.sum())
                if number:
                    below, above = (float(each) for each in wilson(hits, number))
                    counted = f"{number:>10}{hits:>10}{hits / number:>10.3f}"
                    lines.append(f"{f'{low:g} to {high:g}':<20}{counted}   {below:.3f} to {above:.3f}")
        missing = sorted({*self.objects.names.tolist()} - {Path(name).name for name in self.candidates.images.tolist()})
        if missing:
            lines += ["", f"no candidate is on {len(missing)} of the images: {', '.join(missing[:3])}"]
        return "\n".join([*lines, "", f"{self.folder / CROSSMATCH_NAME}; plots and {SUMMARY}: {self.folder / FOLDER}"])


def mag_bins(mags: Floats, rows: Rows) -> list[tuple[float, float, Rows]]:
    """Give bins of magnitude with round bounds: low, high (excluded), and which rows are in it, bool (n,)."""
    known = mags[np.isfinite(mags)]
    if known.size == 0:
        return []
    bins = min(MOST_BINS, max(1, known.size // FEWEST))
    width = next((each for each in BIN_WIDTHS if np.ptp(known) / each <= bins), BIN_WIDTHS[-1])
    first, last = int(np.floor(known.min() / width)), int(np.floor(known.max() / width))
    return [(k * width, (k + 1) * width, rows & (np.floor(mags / width) == k)) for k in range(first, last + 1)]


def check_simulation(folder: Path, radius: float = 2.0) -> SimCheck:
    """Look up each inserted source among the candidates.

    Writes ``crossmatch.dat`` into `folder`, and into ``CheckSim`` in it plots and ``summary.txt``. Files of those names
    are replaced.

    Parameters
    ----------
    folder
        Holds ``candidates_list.dat``, and one ``simulated_objects.list`` or several, in any folder in it.
    radius
        Largest distance between a source and its candidate (arcseconds; pixels without a WCS).

    Returns
    -------
    SimCheck
        As text, what a person wants to know.

    Raises
    ------
    SourceError
        When a list is missing or cannot be read.
    UsageError
        When the radius is not positive.
    OutputError
        When something cannot be written.
    """
    lists = find_lists(folder)
    if not lists:
        raise SourceError(f"there is no simulated_objects.list in '{folder}': otrain-sim makes it")
    objects = SimulatedObjects.joined([read_simulated_objects(path) for path in lists])
    if len(objects) == 0:
        raise SourceError(f"the list '{lists[0]}' of simulated sources is empty")
    candidates = read_candidates(folder / LIST_NAME)
    matched = match(objects, candidates, radius)
    check = SimCheck(folder, objects, candidates, matched, just_beyond(objects, candidates, radius, matched)[1])
    figures = _draw(check)
    prepare_folder(folder / FOLDER, (*figures, SUMMARY), (folder / LIST_NAME, *lists))
    write_crossmatch(check, folder / CROSSMATCH_NAME)
    for name, figure in figures.items():
        save(figure, folder / FOLDER / name)
    with replacing(folder / FOLDER / SUMMARY) as part:
        part.write_text(f"{check}\n", encoding="utf-8")
    return check


def write_crossmatch(check: SimCheck, path: Path) -> None:
    """Write one row for each inserted source, in the columns of gmadet; without a candidate the last three are empty.

    Raises
    ------
    OutputError
        When the file cannot be written.
    """
    from astropy.table import Table

    objects, ids = check.objects, check.candidates.ids
    closest = check.matched.closest
    columns = {
        "idx": objects.idx,
        "filename": objects.files,
        "Xpos": objects.x,
        "Ypos": objects.y,
        "RA": objects.ra,
        "Dec": objects.dec,
        "mag": objects.mags,
        "filter": objects.filters,
        "filename2": objects.names,
        "Nmatches": np.array([rows.size for rows in check.matched.near]),
        "closest_candID": [ids[row] if row >= 0 else "" for row in closest.tolist()],
        "all_candIDs": [",".join(ids[rows].tolist()) for rows in check.matched.near],
        "edge": [("Y" if check.candidates.edge[row] else "N") if row >= 0 else "" for row in closest.tolist()],
    }
    formats = {"Xpos": "%.4f", "Ypos": "%.4f", "RA": "%.7f", "Dec": "%.7f", "mag": "%.4f"}
    with replacing(path) as part:
        Table(columns).write(part, format="ascii.commented_header", formats=formats, overwrite=True)


def _draw(check: SimCheck) -> dict[str, Figure]:
    every = np.ones(len(check.objects), np.bool_)
    bands = {band: check.objects.filters == band for band in np.unique(check.objects.filters).tolist()}
    figures = {RECOVERED: _draw_recovered(check)}
    for name, title, rows in [(ALL, "all filters", every), *((_safe(b), f"filter {b}", r) for b, r in bands.items())]:
        figures[DISTRIBUTION.format(name)] = _draw_distribution(check, rows, title)
        figures[FRACTION.format(name)] = _draw_fraction(check, rows, title)
    return figures


def _safe(name: str) -> str:
    return "".join(each if each.isalnum() or each in "-_+." else "_" for each in name)


def _draw_distribution(check: SimCheck, rows: Rows, title: str) -> Figure:
    figure = new_figure()
    axes = figure.subplots()
    bins = mag_bins(check.objects.mags, rows)
    edges = [low for low, _, _ in bins] + ([bins[-1][1]] if bins else [])
    for chosen, label, colour, filled in (
        (rows, "inserted", BOTH, False),
        (rows & check.detected, "detected", REAL, True),
    ):
        counts = [int((inside & chosen).sum()) for _, _, inside in bins]
        if bins:
            axes.stairs(
                counts, edges, label=f"{label}: {sum(counts)}", color=colour, fill=filled, alpha=0.6 if filled else 1
            )
    axes.set(xlabel="magnitude inserted", ylabel="sources")
    if bins:
        axes.legend()
    set_title(axes, f"Simulated sources, {title}")
    return figure


def _draw_fraction(check: SimCheck, rows: Rows, title: str) -> Figure:
    figure = new_figure()
    axes = figure.subplots()
    for low, high, inside in mag_bins(check.objects.mags, rows):
        number = int(inside.sum())
        if number:
            hits = int((inside & check.detected).sum())
            below, above = (float(each) for each in wilson(hits, number))
            share = hits / number
            errors = [[max(share - below, 0)], [max(above - share, 0)]]
            axes.errorbar([(low + high) / 2], [share], errors, [(high - low) / 2], fmt="o", color=REAL, ms=4)
    axes.set(xlabel="magnitude inserted", ylabel="fraction detected, 95 % interval (Wilson)", ylim=(-0.03, 1.03))
    axes.grid(alpha=0.3)
    set_title(axes, f"Detected simulated sources, {title}")
    return figure


def _draw_recovered(check: SimCheck) -> Figure:
    figure = new_figure()
    axes = figure.subplots()
    axes.axhline(0, color=BOTH, lw=0.8)
    axes.plot(check.objects.mags[check.detected], check.mag_offsets, ".", color=REAL, ms=4, alpha=0.6)
    axes.set(xlabel="magnitude inserted", ylabel="magnitude measured less inserted")
    axes.grid(alpha=0.3)
    set_title(axes, "Magnitudes of the detected simulated sources")
    return figure
