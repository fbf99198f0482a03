"""Sky, sources and their fluxes, by SEP (Barbary 2016, JOSS 1, 58), the library of Source Extractor's algorithms."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import sep
from scipy.ndimage import binary_dilation, gaussian_filter1d, uniform_filter

from otrain_infer.errors import SourceError

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

BOX = 64
"""Width of the boxes in which the sky is measured (pixels)."""
SMOOTHED, COVERED = 5, 4.0
"""Where the mean of so many pixels along each axis is above the sky by so many times its noise, there are sources."""
MOST_COVERED = 0.6
"""Part of an image up to which what is between the sources is all that counts as sky."""
BRIGHT = 20.0
"""Peak of a source, in units of the noise, from which on it can tell the point spread function."""
STAR_SPREAD = 0.12
"""How far the radius of a star may be from that of the others, relative."""
BUFFERS = (300_000, 3_000_000, 30_000_000)
"""Pixels that SEP may hold at a time: a crowded field takes more, and none takes all from the start."""
ALIKE = 0.4
"""From this part of the commonest radius on a radius is common."""
COSMIC_RAY = 1.0
"""Radius up to which a source may well be a cosmic ray (pixels)."""
PIXELS_PER_OBJECT = 300
FINENESS = 0.005
"""Step in the logarithm of the radius in which radii are counted."""
ELONGATED = 1.15
"""Elongation of a star over that of the others, from which on something is wrong with it."""
ROUND = 1.4
"""Longest axis of a star over its shortest."""
HOT_PIXEL = 0.7
"""Radius up to which a source is no more than a pixel (pixels)."""


@dataclass(frozen=True, slots=True, eq=False)
class Sky:
    """An image without its sky.

    Attributes
    ----------
    pixels
        float64 (ny, nx): sky subtracted, 0 where masked.
    noise
        float64 (ny, nx): standard deviation of the sky.
    masked
        bool (ny, nx).
    """

    pixels: Floats
    noise: Floats
    masked: Bools

    @property
    def typical_noise(self) -> float:
        """Its median over the usable pixels."""
        return float(np.median(self.noise[~self.masked]))


def subtract_sky(pixels: Floats, masked: Bools) -> Sky:
    """Take the sky, measured in boxes between the sources, from an image."""
    filled = np.ascontiguousarray(np.where(masked, 0.0, pixels))
    box = min(BOX, *(size // 3 for size in pixels.shape))
    first = sep.Background(filled, mask=masked, bw=box, bh=box, fw=3, fh=3)
    # The light of the sources would count as sky, and be missing in what is measured of them.
    covered = uniform_filter(filled - first.back(), SMOOTHED) > COVERED * first.globalrms / SMOOTHED
    covered = binary_dilation(covered, iterations=SMOOTHED)
    if covered.mean() > MOST_COVERED:
        covered = np.zeros_like(masked)
    background = sep.Background(filled, mask=masked | covered, bw=box, bh=box, fw=3, fh=3)
    left = np.where(masked, 0.0, filled - background.back())
    smallest = background.globalrms if background.globalrms > 0 else 1e-30
    return Sky(left, np.maximum(background.rms(), smallest / 10), masked)


@dataclass(frozen=True, slots=True, eq=False)
class Sources:
    """Sources of an image, one row each; float64 (n,) unless said otherwise.

    Attributes
    ----------
    y, x
        Centre (pixels, the first being 0).
    peak
        Highest pixel (ADU).
    radius
        Of the circle that holds half of the light (pixels).
    elongation
        Longer over shorter axis.
    flags
        int64 (n,), SEP's.
    """

    y: Floats
    x: Floats
    peak: Floats
    radius: Floats
    elongation: Floats
    flags: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.y)

    def select(self, rows: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> "Sources":
        """Give some of them."""
        return Sources(*(getattr(self, name)[rows] for name in self.__slots__))


def find_sources(sky: Sky, threshold: float, smoothing: Floats | None = None) -> Sources:
    """Find what stands out.

    Parameters
    ----------
    sky
        The image.
    threshold
        Lowest smoothed pixel, in units of its noise.
    smoothing
        float64 (w, w), the point spread function: what looks like it is found best, be it a single pixel that is above
        the threshold then. None takes SEP's 3 x 3 kernel, and three pixels that are.
    """
    options: dict[str, Any] = {"minarea": 3}
    if smoothing is not None:
        options = {"minarea": 1, "filter_kernel": smoothing, "filter_type": "matched"}
    for buffer in BUFFERS:
        sep.set_extract_pixstack(buffer)
        sep.set_sub_object_limit(buffer // PIXELS_PER_OBJECT)
        try:
            found = sep.extract(
                sky.pixels, threshold, err=sky.noise, mask=sky.masked, deblend_cont=0.005, clean=False, **options
            )
            break
        except Exception as error:
            if not any(each in str(error) for each in ("buffer full", "overflow")):
                raise  # SEP raises nothing narrower
    else:
        raise SourceError("an image is too crowded for its sources to be told apart")
    y, x = found["y"].astype(float), found["x"].astype(float)
    reach = np.clip(6 * found["a"], 6.0, 30.0)
    radius, _ = sep.flux_radius(sky.pixels, x, y, reach, 0.5, mask=sky.masked, subpix=5)
    refined_x, refined_y, bad = sep.winpos(sky.pixels, x, y, np.clip(radius / 1.1774, 0.5, 10.0), mask=sky.masked)
    moved = np.hypot(refined_x - x, refined_y - y)
    kept = (bad == 0) & (moved < 2) & np.isfinite(moved)
    return Sources(
        y=np.where(kept, refined_y, y),
        x=np.where(kept, refined_x, x),
        peak=found["peak"].astype(float),
        radius=radius,
        elongation=found["a"] / np.maximum(found["b"], 1e-3),
        flags=found["flag"].astype(np.int64),
    )


def _at(image: Floats, y: Floats, x: Floats) -> Floats:
    ny, nx = image.shape
    values: Floats = image[np.clip(np.rint(y).astype(int), 0, ny - 1), np.clip(np.rint(x).astype(int), 0, nx - 1)]
    return values


def find_stars(sky: Sky, sources: Sources, saturation: float) -> npt.NDArray[np.bool_]:
    """Say which sources are stars that tell the point spread function: bright, round, not saturated, and alike.

    Returns
    -------
    ndarray
        bool (n,).
    """
    bright = (sources.peak > BRIGHT * _at(sky.noise, sources.y, sources.x)) & (sources.peak < 0.7 * saturation)
    bright &= (sources.elongation < ROUND) & (sources.flags == 0) & (sources.radius > HOT_PIXEL)
    if not bright.any():
        return np.asarray(bright)
    typical = common_radius(sources.radius[bright])
    alike = bright & (np.abs(sources.radius / typical - 1) < STAR_SPREAD)
    # A blend or a cosmic ray of the right size would spoil the point spread function.
    return np.asarray(alike & (sources.elongation < ELONGATED * np.median(sources.elongation[alike])))


def common_radius(radii: Floats) -> float:
    """Give the radius that stars have in common: they are alike, while galaxies and cosmic rays are of any size.

    In a field of many galaxies some of their radii may be as common as that of the stars: the smallest ones are the
    stars then. What is smaller than a star that is well sampled is only taken for stars where nothing else is common.
    """
    logs = np.log(radii)
    edges = np.arange(logs.min() - 0.3, logs.max() + 0.3, FINENESS)
    grid = (edges[1:] + edges[:-1]) / 2
    density = gaussian_filter1d(np.histogram(logs, edges)[0].astype(np.float64), STAR_SPREAD / 2 / FINENESS)
    peaks = np.flatnonzero((density[1:-1] >= density[:-2]) & (density[1:-1] > density[2:])) + 1
    common = np.exp(grid[peaks[density[peaks] >= ALIKE * density.max()]])
    return float(next((radius for radius in common.tolist() if radius > COSMIC_RAY), common[0]))
