"""What ``otrain-cutouts`` does: candidates cut out of the science image, the reference and the difference."""

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from astropy.io import fits
from numpy.lib.stride_tricks import sliding_window_view

from otrain_infer.command import available_processors
from otrain_infer.errors import OutputError, SourceError, UsageError
from otrain_train.candidates_list import LIST_NAME, Candidates, read_candidates
from otrain_train.cutout_files import cutouts_bytes
from otrain_train.images import choose_image, mjd_of, quiet_fits, whole_header
from otrain_train.match import match
from otrain_train.simulated_objects import SimulatedObjects, find_lists, read_simulated_objects

Pixels = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

FOLDER, TRAINING_FOLDER = "candidates", "candidates_training"
TRUE, FALSE = "true", "false"
SMALLEST_SIZE = 8
BATCH = 256
"""Cutouts whose bytes are made at once."""

WAITING = 2
"""Batches for each thread that may wait to be written."""

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

    def __str__(self) -> str:
        total = sum(self.counts.values())
        lines = [f"{self.folder}: {total} cutouts, {self.at_edge} of them at an edge"]
        lines += [f"{name}: {count}" for name, count in self.counts.items() if name]
        left = self.counts.get("", 0)
        if len(self.counts) > 1 and left:
            lines.append(f"to be looked at: {left}")
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
    where = _sort(candidates, folder, settings)
    if settings.replace:
        _check_images(candidates, folder)
    target = folder / (TRAINING_FOLDER if settings.training else FOLDER)
    _prepare(target, settings)
    names = _file_names(candidates)
    summary = ExtractSummary(target, {place: 0 for place in ("", TRUE, FALSE) if settings.training or not place}, 0, [])
    done = 0
    writing: deque[Future[None]] = deque()
    with ThreadPoolExecutor(available_processors()) as pool:
        for rows in _by_image(candidates):
            try:
                planes = _read_planes(candidates, int(rows[0]), folder, settings.extension)
            except SourceError as error:
                summary.failures.append(f"{error}: {rows.size} candidate(s) are not cut out")
                continue
            outside = rows.size
            for part, pixels in _windows(planes, candidates, rows, settings.size):
                outside -= part.size
                keywords = _keywords(candidates, part, pixels.shape[2:] != (settings.size, settings.size), planes.mjd)
                content = cutouts_bytes(pixels, planes.names, keywords)
                paths = [os.path.join(target, where[row], names[row]) for row in part.tolist()]
                writing.append(pool.submit(_write, paths, content))
                while len(writing) > WAITING * available_processors():
                    writing.popleft().result()
                for row in part.tolist():
                    summary.counts[where[row]] += 1
                summary.at_edge += len(part) * (pixels.shape[2:] != (settings.size, settings.size))
                done += len(part)
                if progress:
                    progress(done, len(candidates))
            if outside:
                summary.failures.append(f"{outside} candidate(s) lie outside of their image '{planes.file}'")
        for job in writing:
            job.result()
    if len(candidates) and not done:
        raise SourceError(summary.failures[0])
    return summary


def _sort(candidates: Candidates, folder: Path, settings: ExtractSettings) -> list[str]:
    """Give the folder of each candidate within that of all: empty, true or false."""
    if not settings.training:
        return [""] * len(candidates)
    lists = find_lists(folder)
    if not lists:
        raise SourceError(f"there is no simulated_objects.list in '{folder}', by which candidates could be true")
    objects = SimulatedObjects.joined([read_simulated_objects(path) for path in lists])
    matched = match(objects, candidates, settings.radius)
    where = np.full(len(candidates), FALSE if settings.false else "", "<U5")
    near = [rows for rows in matched.near if rows.size]
    if near:
        where[np.concatenate(near)] = ""  # near a source, and not its nearest: neither true nor false
        where[[int(rows[0]) for rows in near]] = TRUE
    return [str(each) for each in where]


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
    missing = [name for name in every.tolist() if name and not _resolve(name, folder).exists()]
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


@dataclass(frozen=True, slots=True, eq=False)
class _Planes:
    """The images that candidates are cut out of: float32 (planes, ny, nx), and their names."""

    file: str
    names: tuple[str, ...]
    pixels: tuple[Pixels, ...]
    mjd: float


def _read_planes(candidates: Candidates, row: int, folder: Path, extension: str | None) -> _Planes:
    names, found = [], []
    mjd = float("nan")
    for plane, column in (("SCI", "images"), ("REF", "references"), ("DIFF", "differences")):
        name = str(getattr(candidates, column)[row])
        if not name:
            continue
        pixels, header = _read_pixels(_resolve(name, folder), extension if plane == "SCI" else None)
        names.append(plane)
        found.append(pixels)
        if not np.isfinite(mjd):
            mjd = mjd_of(header)
    if not found:
        raise SourceError(f"candidate {candidates.ids[row]} has no image in the list")
    if len({each.shape for each in found}) > 1:
        sizes = ", ".join(f"{name} {each.shape[1]} x {each.shape[0]}" for name, each in zip(names, found, strict=True))
        raise SourceError(f"the images of candidate {candidates.ids[row]} are not of the same pixels ({sizes})")
    return _Planes(str(candidates.images[row] or candidates.differences[row]), tuple(names), tuple(found), mjd)


def _resolve(name: str, folder: Path) -> Path:
    return next(
        (path for path in (folder / name, Path(name), folder / Path(name).name) if path.exists()), folder / name
    )


def _read_pixels(path: Path, extension: str | None) -> tuple[Pixels, fits.Header]:
    try:
        with quiet_fits(), fits.open(path, memmap=False) as hdus:
            number = choose_image(hdus, extension, path)
            return np.ascontiguousarray(hdus[number].data, np.float32), whole_header(hdus, number)
    except SourceError:
        raise
    except (OSError, ValueError, TypeError, IndexError) as error:
        raise SourceError(f"the image '{path}' cannot be read ({str(error).partition(chr(10))[0]})") from None


def _windows(planes: _Planes, candidates: Candidates, rows: Rows, size: int) -> Iterator[tuple[Rows, Pixels]]:
    """Give rows and their float32 (n, planes, ny, nx), which is smaller than asked for where the image ends.

    The candidate is at most half a pixel from the middle, as astropy's Cutout2D has it.
    """
    ny, nx = planes.pixels[0].shape
    tops = np.ceil(candidates.y[rows] - 1 - size / 2)
    lefts = np.ceil(candidates.x[rows] - 1 - size / 2)
    inside = (tops + size > 0) & (lefts + size > 0) & (tops < ny) & (lefts < nx)
    rows, tops, lefts = rows[inside], tops[inside].astype(np.int64), lefts[inside].astype(np.int64)
    whole = (tops >= 0) & (lefts >= 0) & (tops + size <= ny) & (lefts + size <= nx)
    if whole.any():
        views = [sliding_window_view(each, (size, size)) for each in planes.pixels]
        chosen = np.flatnonzero(whole)
        for start in range(0, chosen.size, BATCH):
            part = chosen[start : start + BATCH]
            yield rows[part], np.stack([view[tops[part], lefts[part]] for view in views], axis=1)
    for k in np.flatnonzero(~whole):
        window = np.s_[max(tops[k], 0) : tops[k] + size, max(lefts[k], 0) : lefts[k] + size]
        yield rows[k : k + 1], np.stack([each[window] for each in planes.pixels])[None]


def _keywords(candidates: Candidates, rows: Rows, cut_off: bool, mjd: float) -> list[dict[str, Any]]:
    numbers = {
        "MAG": candidates.mags,
        "MAGERR": candidates.magerrs,
        "FWHM": candidates.fwhms,
        "FWHMPSF": candidates.psf_fwhms,
        "RA": candidates.ra,
        "DEC": candidates.dec,
        "XPOS": candidates.x,
        "YPOS": candidates.y,
    }
    columns = {key: values[rows].tolist() for key, values in numbers.items()}
    ids, bands = candidates.ids[rows].tolist(), candidates.bands[rows].tolist()
    at_edge = (candidates.edge[rows] | cut_off).tolist()
    files = [os.path.basename(name or other) for name, other in zip(
        candidates.images[rows].tolist(), candidates.differences[rows].tolist(), strict=True
    )]  # fmt: skip
    made = []
    for k in range(len(rows)):
        made.append(
            {"CANDID": ids[k]}
            | {key: values[k] for key, values in columns.items()}
            | {"FILTER": bands[k], "EDGE": str(at_edge[k]), "FILE": files[k], "MJD": mjd}
        )
    return made


def _write(paths: list[str], content: npt.NDArray[np.uint8]) -> None:
    for path, row in zip(paths, content, strict=True):
        try:
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            try:
                view = memoryview(row)
                while view:
                    view = view[os.write(file, view) :]
            finally:
                os.close(file)
        except OSError as error:
            with suppress(OSError):
                Path(path).unlink()  # half a cutout is worse than none
            raise OutputError(f"'{path}' could not be written ({error.strerror or error})") from error
