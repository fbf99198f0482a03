"""Which candidates were found where sources had been inserted: a KD-tree on the sphere, or in pixels without a WCS."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from otrain_infer.errors import UsageError
from otrain_train.candidates_list import Candidates
from otrain_train.simulated_objects import SimulatedObjects

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

NONE = -1


@dataclass(frozen=True, slots=True, eq=False)
class Match:
    """What became of n inserted sources.

    Attributes
    ----------
    near
        For each source the rows of the candidates within the radius, the nearest first: n arrays of int64.
    distances
        float64 (n,): to the nearest, in the unit of the radius; NaN without one.
    in_pixels
        Whether distances are in pixels, for want of a WCS, rather than in arcseconds: bool (n,).
    """

    near: tuple[Rows, ...]
    distances: Floats
    in_pixels: npt.NDArray[np.bool_]

    @property
    def closest(self) -> Rows:
        """int64 (n,): the row of the nearest candidate, -1 without one."""
        return np.array([rows[0] if rows.size else NONE for rows in self.near], np.int64)


MAY_BE_CHANCE = 0.02
"""Part of the sources that may have a candidate nearby for no reason."""
BEYOND = 3.0
"""Radii up to which a candidate counts as just beyond the radius."""


def just_beyond(objects: SimulatedObjects, candidates: Candidates, radius: float, matched: Match) -> tuple[Rows, str]:
    """Find candidates that are a little further than the radius from a source without a candidate.

    Returns
    -------
    rows, sentence
        int64 (k,), and what to say of the radius; empty where they may be there by chance.
    """
    further = match(objects, candidates, BEYOND * radius)
    missed = np.flatnonzero((matched.closest < 0) & (further.closest >= 0))
    rows = np.concatenate([np.empty(0, np.int64), *(further.near[source] for source in missed.tolist())])
    if missed.size <= MAY_BE_CHANCE * len(objects):
        return rows, ""
    unit = "pixels" if matched.in_pixels.all() else "arcseconds"
    return rows, (
        f"{missed.size} of {len(objects)} inserted sources have a candidate not within {radius:g} {unit}, but within "
        f"{BEYOND * radius:g}: is --radius large enough for these pixels?"
    )


def match(objects: SimulatedObjects, candidates: Candidates, radius: float) -> Match:
    """Find the candidates near each inserted source, on the same image.

    Where no image of a source goes by the name of one of the candidates, as after a pipeline that renames them, all
    candidates near it in the sky count.

    Parameters
    ----------
    objects
        The sources.
    candidates
        The candidates.
    radius
        Largest distance (arcseconds; pixels for sources without a position in the sky).

    Returns
    -------
    Match

    Raises
    ------
    UsageError
        When the radius is not positive.
    """
    if not radius > 0:
        raise UsageError(f"a radius of {radius:g} makes no sense: give arcseconds, more than 0")
    images = np.array([Path(name).name for name in candidates.images.tolist()], np.str_)
    names = objects.names
    by_image = bool(np.isin(names, images).any()) if len(candidates) else False
    near: list[Rows] = [np.empty(0, np.int64)] * len(objects)
    distances = np.full(len(objects), np.nan)
    in_pixels = ~np.isfinite(objects.ra + objects.dec)
    for name in np.unique(names) if by_image else [None]:
        mine = np.flatnonzero(names == name) if by_image else np.arange(len(objects))
        theirs = np.flatnonzero(images == name) if by_image else np.arange(len(candidates))
        for pixels in (False, True):
            sources = mine[in_pixels[mine] == pixels]
            if by_image or not pixels:
                _match_part(objects, candidates, sources, theirs, radius, pixels, near, distances)
    return Match(tuple(near), distances, in_pixels)


def _match_part(
    objects: SimulatedObjects,
    candidates: Candidates,
    sources: Rows,
    theirs: Rows,
    radius: float,
    pixels: bool,
    near: list[Rows],
    distances: Floats,
) -> None:
    if pixels:
        there, here = np.stack([candidates.y, candidates.x], 1), np.stack([objects.y, objects.x], 1)
        reach = radius
    else:
        there, here = unit_vectors(candidates.ra, candidates.dec), unit_vectors(objects.ra, objects.dec)
        reach = 2 * np.sin(np.radians(radius / 3600) / 2)
    theirs = theirs[np.isfinite(there[theirs]).all(1)]
    if sources.size == 0 or theirs.size == 0:
        return
    found = cKDTree(there[theirs]).query_ball_point(here[sources], reach)
    for source, rows in zip(sources.tolist(), found, strict=True):
        if rows:
            chosen = theirs[np.array(rows)]
            apart = np.linalg.norm(there[chosen] - here[source], axis=1)
            order = np.argsort(apart, kind="stable")
            near[source] = chosen[order]
            nearest = float(apart[order[0]])
            distances[source] = nearest if pixels else np.degrees(2 * np.arcsin(nearest / 2)) * 3600


def unit_vectors(ra: Floats, dec: Floats) -> Floats:
    """Give positions on the sphere (degrees) as vectors of length 1, float64 (n, 3): chords order as angles do."""
    longitude, latitude = np.radians(ra), np.radians(dec)
    flat = np.cos(latitude)
    return np.stack([flat * np.cos(longitude), flat * np.sin(longitude), np.sin(latitude)], axis=1)
