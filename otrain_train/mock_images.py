"""Mock pairs of images, science and reference, with a known truth, for the tutorial, the tests and the benchmarks.

Both images of a pair show the same stars and galaxies. Their seeing differs, and so do position, depth, sky and gain.
Point spread functions are Moffat profiles whose width and shape vary over the field; the science image has saturated
stars, cosmic rays, hot pixels and dead columns (NaN).
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, pi, radians, sin, sqrt
from os import PathLike
from pathlib import Path

import numpy as np
import numpy.typing as npt
from astropy.io import fits
from astropy.wcs import WCS

from otrain_infer.atomic import replacing
from otrain_infer.errors import OutputError, UsageError

Image = npt.NDArray[np.float32]
Column = npt.NDArray[np.float64]

SCIENCE, REFERENCE = "science", "reference"
"""The folders of a set of pairs; both images of a pair have the same name."""

SCALE = 0.5
"""Width of a pixel (arcseconds)."""
ZERO_POINT = 25.0
BETA = 3.5
REACH = 10.0
"""How far from its centre a source is drawn (FWHM)."""
SMALLEST_SIZE = 128
BLOOM = 5
"""How many pixels a saturated column bleeds at the most, for each that is saturated."""

# Streams of random numbers: the field is the same for both images of a pair.
FIELD, SCIENCE_IMAGE, REFERENCE_IMAGE = range(3)


@dataclass(frozen=True, slots=True)
class MockImageSettings:
    """What mock pairs of images are to be like.

    Attributes
    ----------
    n_pairs
        How many pairs.
    size
        Width and height (pixels).
    seed
        The same seed gives the same pairs, the first n of them however many follow.
    stars, galaxies
        How many in a million pixels.
    variation
        By how much the width of the point spread function grows from the middle of the science image to its corners.
    distortion
        Root mean square of what the positions of an image are wrong by (pixels): its WCS does not know of it.
    defects
        Whether the science image has cosmic rays, hot pixels and dead columns.
    """

    n_pairs: int = 2
    size: int = 1024
    seed: int = 0
    stars: int = 1000
    galaxies: int = 150
    variation: float = 0.12
    distortion: float = 0.04
    defects: bool = True

    def __post_init__(self) -> None:
        if self.n_pairs < 1 or self.seed < 0:
            raise UsageError("there must be at least one pair of images, and the seed must be 0 or more")
        if self.size < SMALLEST_SIZE:
            raise UsageError(f"images of {self.size} pixels are too small: give a size of {SMALLEST_SIZE} or more")


@dataclass(frozen=True, slots=True)
class Optics:
    """A point spread function over the field: width (FWHM, pixels), elongation, angle (radians), how it grows."""

    fwhm: float
    elongation: float
    angle: float
    variation: float

    def at(self, y: Column, x: Column, size: int) -> tuple[Column, Column, Column]:
        """Give width (FWHM, pixels), elongation and angle (radians) at positions (pixels), float64 (k,) each."""
        u, v = 2 * np.asarray(x) / size - 1, 2 * np.asarray(y) / size - 1
        radius2 = (u**2 + v**2) / 2
        return (
            self.fwhm * (1 + self.variation * radius2),
            self.elongation + self.variation * radius2 / 2,
            self.angle + self.variation * 5 * u,
        )


def moffat(y: Column, x: Column, fwhm: float, elongation: float = 1.0, angle: float = 0.0) -> Column:
    """Give an elliptical Moffat profile whose integral is 1.

    Parameters
    ----------
    y, x
        Distance from the centre (pixels).
    fwhm
        Geometric mean of the widths along both axes (pixels).
    elongation
        Their ratio.
    angle
        Of the longer axis (radians, from x to y).
    """
    alpha = fwhm / (2 * sqrt(2 ** (1 / BETA) - 1))
    along, across = x * cos(angle) + y * sin(angle), y * cos(angle) - x * sin(angle)
    radius2 = (along**2 / elongation + across**2 * elongation) / alpha**2
    profile: Column = (BETA - 1) / (pi * alpha**2) * (1 + radius2) ** -BETA
    return profile


@dataclass(frozen=True, slots=True, eq=False)
class _Field:
    """What both images of a pair show: offsets from the middle (pixels of the science image), fluxes at ZERO_POINT."""

    y: Column
    x: Column
    flux: Column
    extent: Column
    flattening: Column
    tilt: Column


def write_mock_images(
    folder: str | PathLike[str],
    settings: MockImageSettings | None = None,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write mock pairs of images, NAME.fits in the folders ``science`` and ``reference``.

    Headers have a WCS, and GAIN (e-/ADU), RDNOISE (e-), SATURATE (ADU), FILTER, EXPTIME (s), MJD-OBS and MAGZERO.

    Parameters
    ----------
    folder
        Images of an earlier call are overwritten.
    settings
        What they are to be like.
    progress
        Called with the number of pairs just written.

    Raises
    ------
    OutputError
        When a file cannot be written.
    """
    settings = settings or MockImageSettings()
    try:
        for number in range(settings.n_pairs):
            for kind, image in zip((SCIENCE, REFERENCE), mock_pair(settings, number), strict=True):
                path = Path(folder) / kind / f"mock{settings.seed}_{number:03d}.fits"
                path.parent.mkdir(parents=True, exist_ok=True)
                with replacing(path) as part:
                    image.writeto(part, overwrite=True)
            if progress:
                progress(1)
    except OSError as error:
        raise OutputError(f"mock images could not be written to '{folder}' ({error.strerror or error})") from error


def mock_pair(settings: MockImageSettings, number: int) -> tuple[fits.PrimaryHDU, fits.PrimaryHDU]:
    """Give one pair, the science image and its reference, each float32 (size, size) in ADU."""
    field = _field(np.random.default_rng([settings.seed, number, FIELD]), settings)
    sky = np.random.default_rng([settings.seed, number, FIELD, 1])
    ra, dec = sky.uniform(0, 360), np.degrees(np.arcsin(sky.uniform(-0.9, 0.9)))
    band = str(sky.choice(["g", "r", "i"]))
    images = []
    for kind in (SCIENCE_IMAGE, REFERENCE_IMAGE):
        rng = np.random.default_rng([settings.seed, number, kind])
        images.append(_image(field, rng, settings, (ra, dec), band, is_science=kind == SCIENCE_IMAGE))
    return images[0], images[1]


def _field(rng: np.random.Generator, settings: MockImageSettings) -> _Field:
    half = 0.55 * settings.size
    area = (2 * half / 1000) ** 2
    n_stars, n_galaxies = rng.poisson(settings.stars * area), rng.poisson(settings.galaxies * area)
    n = n_stars + n_galaxies
    # As many stars of each magnitude as 10 ** (0.25 mag) says, from 12 to 23; faint galaxies, the bright ones large.
    mags = np.append(
        23 + np.log10(rng.uniform(10 ** (-0.25 * 11), 1, n_stars)) / 0.25,
        22.5 + np.log10(rng.uniform(10 ** (-0.4 * 5), 1, n_galaxies)) / 0.4,
    )
    extent = np.append(np.zeros(n_stars), rng.uniform(3, 6, n_galaxies) * 10 ** (-0.12 * (mags[n_stars:] - 20)))
    return _Field(
        y=rng.uniform(-half, half, n),
        x=rng.uniform(-half, half, n),
        flux=10 ** (-0.4 * (mags - ZERO_POINT)),
        extent=extent,
        flattening=np.append(np.ones(n_stars), rng.uniform(1, 2.5, n_galaxies)),
        tilt=rng.uniform(0, pi, n),
    )


def _image(
    field: _Field,
    rng: np.random.Generator,
    settings: MockImageSettings,
    centre: tuple[float, float],
    band: str,
    *,
    is_science: bool,
) -> fits.PrimaryHDU:
    optics = Optics(
        fwhm=rng.uniform(3.0, 4.5) if is_science else rng.uniform(2.6, 3.2),
        elongation=rng.uniform(1.0, 1.12),
        angle=rng.uniform(0, pi),
        variation=settings.variation if is_science else settings.variation / 3,
    )
    depth = rng.uniform(3, 8) if is_science else rng.uniform(15, 40)
    gain, read_noise, saturation = rng.uniform(1, 4), rng.uniform(3, 8), 60_000.0
    sky = rng.uniform(40, 200) * depth
    turn = radians(0.0 if is_science else rng.normal(0, 0.2))
    shift = np.zeros(2) if is_science else rng.uniform(-4, 4, 2)
    wcs = _wcs(centre, turn, shift, settings.size)

    middle = (settings.size - 1) / 2
    x = middle + shift[0] + field.x * cos(turn) + field.y * sin(turn)
    y = middle + shift[1] - field.x * sin(turn) + field.y * cos(turn)
    # What the WCS does not know of: a slow wave over the field.
    phase = rng.uniform(0, 2 * pi, 4)
    wave = 2 * pi / settings.size
    x += settings.distortion * (np.sin(wave * y + phase[0]) + np.sin(wave * x + phase[1]))
    y += settings.distortion * (np.sin(wave * x + phase[2]) + np.sin(wave * y + phase[3]))

    expected = np.zeros((settings.size, settings.size))
    _draw(expected, y, x, field.flux * depth, field, optics)
    v, u = np.indices(expected.shape) / settings.size - 0.5
    expected += sky * (1 + rng.normal(0, 0.01) * u + rng.normal(0, 0.01) * v)
    pixels = rng.poisson(expected * gain) / gain + rng.normal(0, read_noise / gain, expected.shape)
    if is_science and settings.defects:
        _add_defects(pixels, rng)
    _saturate(pixels, saturation)

    image = fits.PrimaryHDU(pixels.astype(np.float32), wcs.to_header())
    values = {
        "GAIN": (gain, "[e-/ADU]"),
        "RDNOISE": (read_noise, "[e-]"),
        "SATURATE": (saturation, "[ADU]"),
        "FILTER": (band, ""),
        "EXPTIME": (depth * 60, "[s]"),
        "MJD-OBS": (60_000.1 + rng.integers(0, 300), "[d]"),
        "MAGZERO": (ZERO_POINT + 2.5 * np.log10(depth), "[mag] magnitude of 1 ADU"),
    }
    for key, value in values.items():
        image.header[key] = value
    return image


def _wcs(centre: tuple[float, float], turn: float, shift: npt.NDArray[np.float64], size: int) -> WCS:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
    wcs.wcs.crval = centre
    wcs.wcs.crpix = (size + 1) / 2 + shift
    step = SCALE / 3600
    wcs.wcs.cd = step * np.array([[-cos(turn), sin(turn)], [sin(turn), cos(turn)]])
    wcs.wcs.radesys = "ICRS"
    return wcs


def _draw(image: Column, y: Column, x: Column, flux: Column, field: _Field, optics: Optics) -> None:
    size = len(image)
    fwhm, elongation, angle = optics.at(y, x, size)
    width = np.hypot(fwhm, field.extent)
    is_star = field.extent == 0
    elongation = np.where(is_star, elongation, field.flattening)
    angle = np.where(is_star, angle, field.tilt)
    for k in range(len(y)):
        # Bright ones are drawn further out, where they still are above the noise.
        reach = int(np.ceil(width[k] * REACH * (1 if flux[k] < 3e4 else 3)))
        y0, y1 = max(round(y[k]) - reach, 0), min(round(y[k]) + reach + 1, size)
        x0, x1 = max(round(x[k]) - reach, 0), min(round(x[k]) + reach + 1, size)
        if y0 < y1 and x0 < x1:
            dy, dx = np.arange(y0, y1)[:, None] - y[k], np.arange(x0, x1) - x[k]
            image[y0:y1, x0:x1] += flux[k] * moffat(dy, dx, width[k], elongation[k], angle[k])


def _add_defects(pixels: Column, rng: np.random.Generator) -> None:
    size = len(pixels)
    area = (size / 1000) ** 2
    for _ in range(rng.poisson(40 * area)):  # cosmic rays
        length, angle = rng.exponential(6) + 1, rng.uniform(0, pi)
        steps = np.arange(0, length, 0.5)
        y = (rng.uniform(0, size) + steps * sin(angle)).astype(int)
        x = (rng.uniform(0, size) + steps * cos(angle)).astype(int)
        inside = (y >= 0) & (y < size) & (x >= 0) & (x < size)
        pixels[y[inside], x[inside]] += rng.exponential(2000) + 200
    hot = rng.integers(0, size, (2, rng.poisson(30 * area)))
    pixels[hot[0], hot[1]] += rng.exponential(3000, hot.shape[1]) + 200
    for column in rng.integers(0, size, 1 + rng.poisson(area / 2)):
        pixels[int(rng.integers(0, size // 2)) :, column] = np.nan


def _saturate(pixels: Column, saturation: float) -> None:
    full = pixels > saturation
    for column in np.flatnonzero(full.any(axis=0)):
        rows = np.flatnonzero(full[:, column])
        for run in np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1):
            bleed = min(run.size * BLOOM, len(pixels) // 8)
            pixels[max(run[0] - bleed, 0) : run[-1] + bleed + 1, column] = saturation
    np.minimum(pixels, saturation, out=pixels)
