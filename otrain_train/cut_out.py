"""The candidates of one image: cut out of its planes, and written as files."""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from astropy.io import fits
from numpy.lib.stride_tricks import sliding_window_view

from otrain_infer.errors import OutputError, SourceError
from otrain_train.candidates_list import Candidates
from otrain_train.cutout_files import cutouts_bytes
from otrain_train.images import choose_image, mjd_of, quiet_fits, whole_header

Pixels = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

BATCH = 64
"""Cutouts whose bytes are made at once: few enough to stay in a processor's cache."""


@dataclass(frozen=True, slots=True, eq=False)
class CutJob:
    """What is to be cut out of one image.

    Attributes
    ----------
    candidates
        Those on the image.
    paths
        The file of each.
    folder
        From which the names of the images are seen.
    size
        Width and height (pixels).
    extension
        Name or number of that of the science image; None for the only one.
    """

    candidates: Candidates
    paths: Sequence[str]
    folder: Path
    size: int
    extension: str | None


@dataclass(frozen=True, slots=True, eq=False)
class CutResult:
    """What was cut out of one image: the rows written, how many are cut off at the edge, and what could not be done."""

    rows: Rows
    at_edge: int
    failure: str


def cut_out(job: CutJob) -> CutResult:
    """Cut the candidates of one image out, and write them.

    Raises
    ------
    OutputError
        When a file cannot be written.
    """
    try:
        planes = _read_planes(job.candidates, job.folder, job.extension)
    except SourceError as error:
        return CutResult(np.empty(0, np.int64), 0, f"{error}: {len(job.candidates)} candidate(s) are not cut out")
    written, at_edge = [np.empty(0, np.int64)], 0
    for rows, pixels in _windows(planes, job.candidates, job.size):
        cut_off = pixels.shape[2:] != (job.size, job.size)
        content = cutouts_bytes(pixels, planes.names, _keywords(job.candidates, rows, cut_off, planes.mjd))
        _write([job.paths[row] for row in rows.tolist()], content)
        written.append(rows)
        at_edge += int(np.count_nonzero(job.candidates.edge[rows] | cut_off))
    done = np.concatenate(written)
    outside = len(job.candidates) - len(done)
    said = f"{outside} candidate(s) lie outside of their image '{planes.file}'" if outside else ""
    return CutResult(done, at_edge, said)


@dataclass(frozen=True, slots=True, eq=False)
class _Planes:
    """The images that candidates are cut out of: float32 (planes, ny, nx), and their names."""

    file: str
    names: tuple[str, ...]
    pixels: tuple[Pixels, ...]
    mjd: float


def _read_planes(candidates: Candidates, folder: Path, extension: str | None) -> _Planes:
    names, found = [], []
    mjd = float("nan")
    for plane, column in (("SCI", "images"), ("REF", "references"), ("DIFF", "differences")):
        name = str(getattr(candidates, column)[0])
        if not name:
            continue
        pixels, header = _read_pixels(resolve(name, folder), extension if plane == "SCI" else None)
        names.append(plane)
        found.append(pixels)
        if not np.isfinite(mjd):
            mjd = mjd_of(header)
    if not found:
        raise SourceError(f"candidate {candidates.ids[0]} has no image in the list")
    if len({each.shape for each in found}) > 1:
        sizes = ", ".join(f"{name} {each.shape[1]} x {each.shape[0]}" for name, each in zip(names, found, strict=True))
        raise SourceError(f"the images of candidate {candidates.ids[0]} are not of the same pixels ({sizes})")
    return _Planes(str(candidates.images[0] or candidates.differences[0]), tuple(names), tuple(found), mjd)


def resolve(name: str, folder: Path) -> Path:
    """Give where the image of a list is: as seen from the folder of the list, as it stands, or right in the folder."""
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


def _windows(planes: _Planes, candidates: Candidates, size: int) -> Iterator[tuple[Rows, Pixels]]:
    """Give rows and their float32 (n, planes, ny, nx), which is smaller than asked for where the image ends.

    The candidate is at most half a pixel from the middle, as astropy's Cutout2D has it.
    """
    ny, nx = planes.pixels[0].shape
    tops = np.ceil(candidates.y - 1 - size / 2)
    lefts = np.ceil(candidates.x - 1 - size / 2)
    rows = np.flatnonzero((tops + size > 0) & (lefts + size > 0) & (tops < ny) & (lefts < nx))
    tops, lefts = tops[rows].astype(np.int64), lefts[rows].astype(np.int64)
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


def _keywords(candidates: Candidates, rows: Rows, cut_off: bool, mjd: float) -> dict[str, list[Any]]:
    """Give the values of each keyword of some candidates."""
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
    names = zip(candidates.images[rows].tolist(), candidates.differences[rows].tolist(), strict=True)
    return (
        {"CANDID": candidates.ids[rows].tolist()}
        | {key: values[rows].tolist() for key, values in numbers.items()}
        | {"FILTER": candidates.bands[rows].tolist()}
        | {"EDGE": [str(edge) for edge in (candidates.edge[rows] | cut_off).tolist()]}
        | {"FILE": [os.path.basename(image or difference) for image, difference in names]}
        | {"MJD": [mjd] * len(rows)}
    )


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
