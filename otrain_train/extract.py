"""What ``otrain-cutouts`` does: candidates cut out of the science image, the reference and the difference."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from otrain_infer.command import available_processors
from otrain_infer.errors import OutputError, SourceError, UsageError
from otrain_train.candidates_list import LIST_NAME, Candidates, read_candidates
from otrain_train.cut_out import CutJob, CutResult, cut_out, resolve
from otrain_train.match import just_beyond, match
from otrain_train.pool import Place, run_in_processes
from otrain_train.simulated_objects import SimulatedObjects, find_lists, read_simulated_objects

Rows = npt.NDArray[np.int64]

FOLDER, TRAINING_FOLDER = "candidates", "candidates_training"
TRUE, FALSE = "true", "false"
SMALLEST_SIZE = 8
MANY = 5000
"""Cutouts from which on several processes work: each takes a second to begin."""


Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class ExtractSettings:
    """How candidates are cut out. Impossible values raise UsageError.

    Attributes
    ----------
    size
        Width and height (pixels).
    training
        Whether candidates at inserted sources go to ``true``.
    false
        Whether the others then go to ``false``, rather than stay to be looked at.
    radius
        Up to which a candidate is that of an inserted source (arcseconds; pixels without a WCS).
    replace
        Whether cutouts of an earlier run are removed.
    extension
        Name or number of the extension of the science images, where they have several; as it was for the detection.
    """

    size: int = 32
    training: bool = False
    false: bool = False
    radius: float = 1.0
    replace: bool = False
    extension: str | None = None

    def __post_init__(self) -> None:
        if self.size < SMALLEST_SIZE:
            raise UsageError(f"cutouts of {self.size} pixels are too small: give a size of {SMALLEST_SIZE} or more")
        if self.false and not self.training:
            raise UsageError(
                "--false is about the candidates that no inserted source explains: it goes with --training"
            )


@dataclass(slots=True)
class ExtractSummary:
    """What was cut out: how many cutouts are where, and what could not be."""

    folder: Path
    counts: dict[str, int]
    at_edge: int
    failures: list[str]
    hint: str = ""

    def __str__(self) -> str:
        total = sum(self.counts.values())
        lines = [f"{self.folder}: {total} cutouts, {self.at_edge} of them at an edge"]
        lines += [f"{name}: {count}" for name, count in self.counts.items() if name]
        left = self.counts.get("", 0)
        if len(self.counts) > 1 and left:
            lines.append(f"to be looked at: {left}")
        lines += [self.hint] if self.hint else []
        return "\n".join([*lines, *(f"left out: {failure}" for failure in self.failures)])


def extract(folder: Path, settings: ExtractSettings | None = None, progress: Progress | None = None) -> ExtractSummary:
    """Cut the candidates of ``candidates_list.dat`` out of their images.

    Writes ``candidate_ID.fits`` into ``candidates``, or for training into ``candidates_training`` and the folders
    ``true`` and ``false`` in it.

    Parameters
    ----------
    folder
        Holds the list, and for training lists of inserted sources.
    settings
        How candidates are cut out.
    progress
        Called with the number of cutouts written and of all.

    Returns
    -------
    ExtractSummary

    Raises
    ------
    SourceError
        When a list is missing or no image can be read.
    OutputError
        When a cutout cannot be written, or there are cutouts of an earlier run.
    """
    settings = settings or ExtractSettings()
    candidates = read_candidates(folder / LIST_NAME)
    where, hint = _sort(candidates, folder, settings)
    if settings.replace:
        _check_images(candidates, folder)
    target = folder / (TRAINING_FOLDER if settings.training else FOLDER)
    _prepare(target, settings)
    names = _file_names(candidates)
    groups = list(_by_image(candidates))
    jobs = [
        CutJob(
            candidates.select(rows),
            [os.path.join(target, where[row], names[row]) for row in rows.tolist()],
            folder,
            settings.size,
            settings.extension,
        )
        for rows in groups
    ]
    summary = ExtractSummary(
        target, {place: 0 for place in ("", TRUE, FALSE) if settings.training or not place}, 0, [], hint
    )
    for rows, result in zip(groups, _cut_out_all(jobs, len(candidates), progress), strict=True):
        for row in rows[result.rows].tolist():
            summary.counts[where[row]] += 1
        summary.at_edge += result.at_edge
        summary.failures += [result.failure] if result.failure else []
    if len(candidates) and not any(summary.counts.values()):
        raise SourceError(summary.failures[0])
    return summary


def _cut_out_all(jobs: Sequence[CutJob], n: int, progress: Progress | None) -> list[CutResult]:
    """Give the result of each job; where there are many cutouts, several are done at a time.

    Processes, not threads: half of the time is spent on many small files, between which threads would wait for the
    interpreter.
    """
    results: dict[int, CutResult] = {}
    done = 0

    def report(name: str, result: CutResult) -> None:
        nonlocal done
        results[int(name)] = result
        done += len(result.rows)
        if progress:
            progress(done, n)

    processes = available_processors()
    if n < MANY or processes == 1:
        for k, job in enumerate(jobs):
            report(str(k), cut_out(job))
    else:
        tasks = {str(k): job for k, job in enumerate(jobs)}
        outcome = run_in_processes(_cut_out_in_process, None, tasks, processes, report, tasks_of_one=len(tasks))
        if outcome.interrupted:
            raise KeyboardInterrupt
        if outcome.failures:
            raise OutputError(next(iter(outcome.failures.values())))
    return [results[k] for k in range(len(jobs))]


def _cut_out_in_process(_: None, job: CutJob, place: Place) -> CutResult:
    place.stop_if_asked()
    return cut_out(job)


def _sort(candidates: Candidates, folder: Path, settings: ExtractSettings) -> tuple[list[str], str]:
    """Give the folder of each candidate within that of all, empty, true or false; and what is doubtful about them."""
    if not settings.training:
        return [""] * len(candidates), ""
    lists = find_lists(folder)
    if not lists:
        raise SourceError(f"there is no simulated_objects.list in '{folder}', by which candidates could be true")
    objects = SimulatedObjects.joined([read_simulated_objects(path) for path in lists])
    matched = match(objects, candidates, settings.radius)
    where = np.full(len(candidates), FALSE if settings.false else "", "<U5")
    near = [rows for rows in matched.near if rows.size]
    beyond, hint = just_beyond(objects, candidates, settings.radius, matched)
    where[beyond] = ""  # perhaps that of a source, and so not false
    if near:
        where[np.concatenate(near)] = ""  # near a source, and not its nearest: neither true nor false
        where[[int(rows[0]) for rows in near]] = TRUE
    return [str(each) for each in where], hint


def _prepare(target: Path, settings: ExtractSettings) -> None:
    """Make the folders, and see to it that no cutout of an earlier run is among the new ones."""
    folders = [target / TRUE, target / FALSE] if settings.training else [target]
    try:
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        for folder in {target, *folders}:
            for entry in folder.glob("candidate_*.fits"):
                if not settings.replace:
                    raise OutputError(
                        f"'{folder}' holds cutouts of an earlier run: move them elsewhere, or say --replace to remove "
                        "them, those that were sorted by hand too"
                    )
                entry.unlink()
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"'{target}' cannot be written to ({error.strerror or error})") from error


def _check_images(candidates: Candidates, folder: Path) -> None:
    """See to it that nothing is removed for want of an image."""
    every = np.unique(np.concatenate([candidates.images, candidates.references, candidates.differences]))
    missing = [name for name in every.tolist() if name and not resolve(name, folder).exists()]
    if missing:
        raise SourceError(f"the image '{missing[0]}' is missing: nothing was removed")


def _file_names(candidates: Candidates) -> list[str]:
    safe = [
        "".join(each if each.isalnum() or each in "-_." else "_" for each in name) for name in candidates.ids.tolist()
    ]
    if len(set(safe)) < len(safe):
        raise SourceError("two candidates of the list have the same ID: give each its own, for its file and its score")
    return [f"candidate_{name}.fits" for name in safe]


def _by_image(candidates: Candidates) -> Iterator[Rows]:
    """Give the rows of each image together."""
    keys = np.stack([candidates.images, candidates.differences, candidates.references], axis=1)
    _, inverse = np.unique(keys, axis=0, return_inverse=True)
    order = np.argsort(inverse.ravel(), kind="stable")
    bounds = np.flatnonzero(np.diff(inverse.ravel()[order])) + 1
    for rows in np.split(order, bounds):
        if rows.size:
            yield rows
