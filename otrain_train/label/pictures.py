"""Candidates as the page shows them: shades of all planes, and what the header says, read when they are asked for."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from otrain_infer.card import PLANES
from otrain_infer.cutouts import NUMBERS, TEXTS, CutoutReader, Cutouts, native_size
from otrain_infer.errors import SourceError
from otrain_infer.fits import SYNONYMS
from otrain_infer.flags import CutoutFlag
from otrain_infer.normalise import Pixels
from otrain_train.candidate_folder import CandidateFolder
from otrain_train.label.stretch import Shades, shade

SAMPLE = 50
"""Candidates that are looked at to find out which planes and size they have."""

SMALL_PICTURE = 96
"""A plane in the grid is thinned out so that it is no wider or higher than this (pixels)."""


@dataclass(frozen=True, slots=True)
class PictureReader:
    """Reads candidates and makes pictures of them.

    Attributes
    ----------
    candidates
        Which there are.
    planes
        The planes shown, in order.
    size
        (ny, nx) of the pictures (pixels); smaller candidates have missing pixels about them.
    """

    candidates: CandidateFolder
    planes: tuple[str, ...]
    size: tuple[int, int]

    @classmethod
    def of(cls, candidates: CandidateFolder, planes: Sequence[str] = ()) -> "PictureReader":
        """Give the reader for some candidates; without `planes` all that the first of them have."""
        sample = [candidates.path(index) for index in range(min(SAMPLE, len(candidates)))]
        chosen = tuple(planes) or _planes_of(sample)
        try:
            size = native_size(sample, chosen)
        except SourceError:
            if planes:
                raise
            size = (64, 64)  # not one of the first can be read: the page says so of each
        return cls(candidates, chosen, size)

    @property
    def step(self) -> int:
        """Every how manyth pixel is shown in the grid."""
        return max(1, -(-max(self.size) // SMALL_PICTURE))

    def read(self, indices: Sequence[int]) -> Cutouts:
        """Read some candidates, each plane for what it is: one that a file lacks is missing, the others are there."""
        paths = [self.candidates.path(index) for index in indices]
        cutouts = CutoutReader(self.planes, self.size).read(paths)
        cutouts.pixels[(cutouts.flags & int(CutoutFlag.UNREADABLE)) != 0] = np.nan
        for row in np.flatnonzero(cutouts.flags & int(CutoutFlag.MISSING_PLANE)):
            cutouts.pixels[row] = self._one_by_one(paths[row])
        return cutouts

    def _one_by_one(self, path: str) -> Pixels:
        pixels = np.full((*self.size, len(self.planes)), np.nan, np.float32)
        for number, plane in enumerate(self.planes):
            alone = CutoutReader((plane,), self.size).read([path])
            if alone.usable[0]:
                pixels[..., number] = alone.pixels[0, ..., 0]
        one = pixels[..., :1]
        if len(self.planes) > 1 and np.array_equal(pixels, np.broadcast_to(one, pixels.shape), equal_nan=True):
            # A single image answers for each plane: it is shown as what it is called, or else as the last.
            pixels[..., np.arange(len(self.planes)) != _named(path, self.planes)] = np.nan
        return pixels

    def pictures(self, indices: Sequence[int], stretch: str, small: bool) -> tuple[list[dict[str, Any]], Shades]:
        """Give what the headers of some candidates say, and their shades, uint8 (n, planes, ny, nx)."""
        cutouts = self.read(indices)
        shades = shade(cutouts.pixels, stretch)
        step = self.step if small else 1
        said = [_describe(cutouts, row) for row in range(len(cutouts))]
        return said, np.ascontiguousarray(shades[:, :, ::step, ::step])

    def pixels(self, index: int, reader: CutoutReader) -> npt.NDArray[np.float32]:
        """Give the raw pixels of a candidate as a model takes them, float32 (1, ny, nx, planes)."""
        return reader.read([self.candidates.path(index)]).pixels

    def candid(self, index: int) -> str:
        """Give the CANDID of a candidate, empty where it has none."""
        reader = CutoutReader(self.planes[-1:], (1, 1))
        return str(reader.read([self.candidates.path(index)]).header["CANDID"][0])


def _planes_of(paths: list[str]) -> tuple[str, ...]:
    # The most that a fifth of the files have, for some may lack one; a file with one image answers for any.
    lacking = int(CutoutFlag.UNREADABLE | CutoutFlag.MISSING_PLANE)
    pairs = [(one, other) for number, one in enumerate(PLANES) for other in PLANES[number + 1 :]]
    for planes in (PLANES, *pairs):
        if np.count_nonzero((CutoutReader(planes, (8, 8)).read(paths).flags & lacking) == 0) * 5 >= len(paths):
            return planes
    return ("DIFF",)


def _named(path: str, planes: tuple[str, ...]) -> int:
    from astropy.io import fits

    try:
        with fits.open(path) as hdus:
            names = {hdu.name.upper() for hdu in hdus}
    except (OSError, ValueError, TypeError):
        names = set()
    known = {name: group[0] for group in SYNONYMS for name in group}
    found = [planes.index(known[name]) for name in names if known.get(name) in planes]
    return found[0] if found else len(planes) - 1


def _describe(cutouts: Cutouts, row: int) -> dict[str, Any]:
    flags = int(cutouts.flags[row])
    said: dict[str, Any] = {key: str(cutouts.header[key][row]) for key in TEXTS if str(cutouts.header[key][row])}
    numbers = {key: float(cutouts.header[key][row]) for key in NUMBERS}
    said |= {key: value for key, value in numbers.items() if math.isfinite(value)}
    said["flags"] = [each.name for each in CutoutFlag if flags & each]
    if row in cutouts.reasons:
        said["reason"] = cutouts.reasons[row]
    return said
