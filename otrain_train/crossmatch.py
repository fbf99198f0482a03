"""Simulated sources of ``crossmatch.dat`` joined with the candidates of a table of scores."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from otrain_infer.errors import UsageError
from otrain_infer.table import DEFAULT_NAME
from otrain_train.crossmatch_tables import Bools, Candidates, Floats, Sources, read_candidates, read_sources

log = logging.getLogger(__name__)

CROSSMATCH_NAME = "crossmatch.dat"


@dataclass(frozen=True, slots=True, eq=False)
class Crossmatch:
    """Simulated sources and the candidates found for them.

    Attributes
    ----------
    sources, candidates
        n sources and m candidates.
    rows
        int64 (n,): the row of each source's candidate, -1 where it has none or the table of scores lacks it.
    simulated, near
        bool (m,): candidates that are the nearest of a source, and those that are merely near one. All others have
        nothing to do with a simulated source.
    notes
        Sentences on what does not fit together, and what was done about it.
    """

    sources: Sources
    candidates: Candidates
    rows: npt.NDArray[np.int64]
    simulated: Bools
    near: Bools
    notes: tuple[str, ...]

    @property
    def others(self) -> Bools:
        """Bool (m,): candidates that have nothing to do with a simulated source, most of them bogus."""
        return ~self.simulated & ~self.near

    @property
    def found(self) -> Bools:
        """Bool (n,): sources for which a candidate was found."""
        return np.not_equal(self.sources.closest, "")

    @property
    def known(self) -> Bools:
        """Bool (n,): sources of which it is known what became of them: no candidate, or one of the table of scores."""
        return ~self.found | (self.rows >= 0)

    @property
    def scores(self) -> npt.NDArray[np.float32]:
        """float32 (n,): the score of each source's candidate, NaN where there is none."""
        return self._of_sources(self.candidates.scores)

    @property
    def fwhm_ratios(self) -> Floats:
        """float64 (n,): FWHM over that of the point spread function of each source's candidate, NaN without one."""
        return self._of_sources(self.candidates.fwhm_ratios)

    @property
    def candidate_mags(self) -> Floats:
        """float64 (n,): the magnitude measured for each source's candidate, NaN without one."""
        return self._of_sources(self.candidates.mags)

    def _of_sources(self, column: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.append(column, column.dtype.type(np.nan))[self.rows]


def read_crossmatch(crossmatch: Path, infer: Path) -> Crossmatch:
    """Read both tables and join them.

    A source and a candidate belong together when ``closest_candID`` is ``cand_ID``.

    Parameters
    ----------
    crossmatch
        ``crossmatch.dat``, or the folder that holds it: one row for each simulated source.
    infer
        A table of scores of `otrain_infer.table` or of the original program, or the folder of ``infer_results.dat``.

    Returns
    -------
    Crossmatch

    Raises
    ------
    SourceError
        When a table is missing, cannot be read, or is empty.
    UsageError
        When a table has other columns, or both are the same file.
    """
    crossmatch, infer = _in_folder(crossmatch, CROSSMATCH_NAME), _in_folder(infer, DEFAULT_NAME)
    if crossmatch.exists() and infer.exists() and crossmatch.samefile(infer):
        raise UsageError(f"--crossmatch and --infer are the same file, '{infer}': the second is a table of scores")
    notes: list[str] = []
    joined = _join(read_sources(crossmatch, notes), read_candidates(infer, notes), notes)
    for note in joined.notes:
        log.warning("%s", note)
    return joined


def _of_one_image(
    sources: Sources, candidates: Candidates, rows: npt.NDArray[np.int64], notes: list[str]
) -> npt.NDArray[np.int64]:
    """Part what has the same identifier on another image: lists of candidates begin with the same numbers."""
    one = np.array([os.path.basename(name) for name in sources.files.tolist()], np.str_)
    other = np.array([os.path.basename(name) for name in candidates.files.tolist()], np.str_)[rows]
    known = (rows >= 0) & (one != "") & (other != "")
    same = known & (one == other)
    if not known.any() or same[known].all():
        return rows
    if same.any():
        apart = known & ~same
        notes.append(
            f"{apart.sum()} candidate(s) of the identifier of a source's are on another image in the table of scores: "
            "they are others"
        )
        return np.where(apart, -1, rows)
    first = int(np.argmax(known))
    notes.append(
        f"no candidate in the table of scores is on an image of its source's name ('{one[first]}' and '{other[first]}'"
        ", for one): unless your pipeline renames images, the tables are not of the same candidates"
    )
    return rows


def _in_folder(path: Path, name: str) -> Path:
    return path / name if path.is_dir() else path


def _join(sources: Sources, candidates: Candidates, notes: list[str]) -> Crossmatch:
    places = {candid: row for row, candid in enumerate(candidates.candids.tolist()) if candid}
    rows = np.array([places.get(candid, -1) for candid in sources.closest.tolist()], np.int64)
    rows = _of_one_image(sources, candidates, rows, notes)
    simulated = np.isin(np.arange(len(candidates)), rows)
    near = np.isin(candidates.candids, sources.near) & ~simulated
    found = sources.closest != ""
    missing = int(np.sum(found & (rows < 0)))
    if missing:
        notes.append(
            f"the candidates of {missing} simulated source(s) are not in the table of scores: what became of those "
            "sources is not known, and they are left out of the fractions"
        )
    shared = np.bincount(rows[rows >= 0], minlength=1)
    if (shared > 1).any():
        notes.append(
            f"{np.sum(shared > 1)} candidate(s) are the nearest of more than one simulated source "
            f"({shared[shared > 1].sum()} in all): each of these sources has its score"
        )
    if near.any():
        notes.append(
            f"{near.sum()} candidate(s) are near a simulated source without being its nearest: they count neither as "
            "simulated nor as others"
        )
    at_edge = int(np.sum(sources.edge & found))
    if at_edge:
        notes.append(f"{at_edge} simulated source(s) have their candidate at the edge of its image: they count as any")
    return Crossmatch(sources, candidates, rows, simulated, near, tuple(notes))
