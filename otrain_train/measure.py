"""What stands out on a difference image, and its position, flux, width and significance."""

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import sep

from otrain_train.photometry import Sky, find_sources
from otrain_train.psf import PointSpread, held_in_aperture
from otrain_train.subtract import Difference

Floats = npt.NDArray[np.float64]

APERTURE = 0.75
"""Radius of the aperture (width of the point spread function): the faintest sources are measured best."""
EDGE = 16
"""A candidate nearer to a border of the image is at the edge (pixels): a cutout of 32 pixels is cut off there."""
SMOOTHING = 1.5
"""Half of the width of what the difference is smoothed with (width of the point spread function)."""


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """Candidates of one difference image, one row each; float64 (n,) unless said otherwise.

    Attributes
    ----------
    y, x
        Centre (pixels, the first being 0).
    fluxes, errors
        All of the light of a point source, from an aperture and the point spread function (ADU); negative for what is
        brighter in the reference.
    radii
        Of the circle that holds half of the light (pixels).
    signs
        1, or -1 for what is brighter in the reference.
    edge
        bool (n,).
    noise
        Of the difference, over what was expected.
    """

    y: Floats
    x: Floats
    fluxes: Floats
    errors: Floats
    radii: Floats
    signs: Floats
    edge: npt.NDArray[np.bool_]
    noise: float

    def __len__(self) -> int:
        return len(self.y)


def find_candidates(
    difference: Difference, psf: PointSpread, width: float, threshold: float, negative: bool
) -> Measured:
    """Find and measure what stands out.

    Parameters
    ----------
    difference
        The difference image.
    psf
        Of a source on it.
    width
        Of the point spread function: twice the radius that holds half of its light (pixels).
    threshold
        Lowest significance.
    negative
        Whether what is brighter in the reference counts too.
    """
    deviation = np.sqrt(difference.variance)
    usable = ~difference.masked
    scaled = difference.pixels[usable] / deviation[usable]
    middle = np.median(scaled)
    noise = 1.4826 * float(np.median(np.abs(scaled - middle)))
    deviation = deviation * max(noise, 1e-3)
    level = float(np.median(difference.pixels[usable]))
    pixels = np.where(difference.masked, 0.0, difference.pixels - level)
    found = [
        _of_sign(pixels * sign, deviation, difference.masked, psf, width, threshold)
        for sign in (1.0, -1.0)[: 1 + negative]
    ]
    columns = {
        each.name: np.concatenate([getattr(part, each.name) for part in found])
        for each in fields(Measured)
        if each.name != "noise"
    }
    signs = np.repeat([1.0, -1.0][: len(found)], [len(part) for part in found])
    columns |= {"signs": signs, "fluxes": columns["fluxes"] * signs}
    return Measured(**columns, noise=noise)


def _of_sign(
    pixels: Floats, deviation: Floats, masked: npt.NDArray[np.bool_], psf: PointSpread, width: float, threshold: float
) -> Measured:
    ny, nx = pixels.shape
    smoothing = _core(psf, ny / 2, nx / 2, int(np.ceil(SMOOTHING * width)))
    sources = find_sources(Sky(pixels, deviation, masked), threshold, smoothing)
    radius = APERTURE * width
    flux, error, _ = sep.sum_circle(pixels, sources.x, sources.y, radius, err=deviation, mask=masked, subpix=0)
    held = np.array([held_in_aperture(psf, y, x, radius) for y, x in zip(sources.y, sources.x, strict=True)])
    kept = (flux > 0) & (error > 0)
    flux, error = flux[kept] / held[kept], error[kept] / held[kept]
    y, x = sources.y[kept], sources.x[kept]
    edge = (np.minimum(y, x) < EDGE) | (y > ny - 1 - EDGE) | (x > nx - 1 - EDGE)
    return Measured(y, x, flux, error, sources.radius[kept], np.ones(len(y)), np.asarray(edge), 1.0)


def _core(psf: PointSpread, y: float, x: float, half: int) -> Floats:
    stamp = psf.stamp(round(y), round(x))[2]
    middle = stamp.shape[0] // 2
    half = min(half, middle)
    return np.ascontiguousarray(stamp[middle - half : middle + half + 1, middle - half : middle + half + 1])
