"""Point spread functions that vary over the field: measured from stars, or read from a file of PSFEx."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import sep
from astropy.io import fits
from scipy.ndimage import map_coordinates, spline_filter
from scipy.optimize import least_squares
from scipy.signal import oaconvolve
from threadpoolctl import threadpool_limits

from otrain_infer.errors import SourceError
from otrain_train.bad_pixels import stem_of
from otrain_train.images import quiet_fits
from otrain_train.photometry import Sky, Sources
from otrain_train.subtract import Kernel

log = logging.getLogger("otrain.train")

Floats = npt.NDArray[np.float64]

OVERSAMPLING = 2
"""Pixels of a model to one of the image: the fewer, the less noise each of them has."""
STARS_PER_CELL = 12
"""Stars from which the point spread function of a part of the field is measured, at the least."""
MOST_CELLS = 5
"""Parts of the field along an axis, at the most."""
MOST_STARS = 25
"""Stars of a part that are used, the brightest."""
EXPONENTS = 2.5, 100.0
"""Of a Moffat profile: the least that telescopes have, and one that is as good as a Gaussian."""
ROUNDS = 4
"""How often the model and the positions of the stars are made to fit each other: more changes nothing."""
DOUBTFUL = 0.15
"""Relative difference from what the stars show, from which on a model is doubted."""
BRIGHTEST = 2000
"""Stars that are looked at, the brightest."""
FEWEST_STARS, FEW = 1, 4
"""Stars without which nothing can be measured, and below which nothing finer than the pixels is."""
REACH = 6.0
"""Half of the width of the stamp of a source, in units of twice the radius that holds half of its light."""
CORE = 1.2, 2.0
"""Likewise, where what was measured begins to be replaced by a Moffat profile, and where it ends."""


class PointSpread(Protocol):
    """A point spread function."""

    fwhm: float
    half: int

    def stamp(self, y: float, x: float) -> tuple[int, int, Floats]:
        """Give a point source of flux 1 at a position (pixels): its stamp's first row and column, and its pixels."""
        ...


@dataclass(slots=True, eq=False)
class GridPointSpread:
    """Point spread functions at the points of a grid, between which is interpolated.

    Attributes
    ----------
    models
        float64 (rows, columns, w, w): each oversampled, its centre in the middle.
    oversampling
        Of its pixels to a pixel of the image.
    shape
        (ny, nx) of the image (pixels).
    stars
        How many it was measured from.
    """

    models: Floats
    oversampling: float
    shape: tuple[int, int]
    stars: int = 0
    half: int = field(init=False)
    fwhm: float = field(init=False)
    _filtered: Floats = field(init=False)

    def __post_init__(self) -> None:
        width = self.models.shape[-1]
        self.half = int((width // 2) / self.oversampling) - 1
        self._filtered = np.array([[spline_filter(model) for model in row] for row in self.models])
        self.fwhm = full_width(self, self.shape[0] / 2, self.shape[1] / 2)

    def stamp(self, y: float, x: float) -> tuple[int, int, Floats]:
        """Give a point source of flux 1, see `PointSpread`."""
        rows, columns = self.models.shape[:2]
        row, column = _place(y, self.shape[0], rows), _place(x, self.shape[1], columns)
        i, j = min(int(row), max(rows - 2, 0)), min(int(column), max(columns - 2, 0))
        v, u = row - i, column - j
        model = sum(
            weight * self._filtered[min(i + di, rows - 1), min(j + dj, columns - 1)]
            for di, dj, weight in ((0, 0, (1 - v) * (1 - u)), (0, 1, (1 - v) * u), (1, 0, v * (1 - u)), (1, 1, v * u))
            if weight
        )
        return _sample(model, self.oversampling, self.half, y, x)


@dataclass(slots=True, eq=False)
class PsfexPointSpread:
    """A model of PSFEx: images, one for each polynomial of the position.

    Attributes
    ----------
    images
        float64 (terms, w, w).
    step
        Width of their pixels, in pixels of the image.
    zeros, scales
        Of the position in x and y, the first pixel being 1 (pixels).
    degree
        Highest of the polynomials; the terms are 1, x, x^2, ..., y, xy, ....
    """

    images: Floats
    step: float
    zeros: tuple[float, float]
    scales: tuple[float, float]
    degree: int
    half: int = field(init=False)
    fwhm: float = field(init=False)

    def __post_init__(self) -> None:
        self.half = int((self.images.shape[-1] // 2) * self.step) - 1
        self.fwhm = full_width(self, self.zeros[1] - 1, self.zeros[0] - 1)

    def stamp(self, y: float, x: float) -> tuple[int, int, Floats]:
        """Give a point source of flux 1, see `PointSpread`."""
        u, v = (x + 1 - self.zeros[0]) / self.scales[0], (y + 1 - self.zeros[1]) / self.scales[1]
        terms = [u**i * v**j for j in range(self.degree + 1) for i in range(self.degree + 1 - j)]
        model = spline_filter(np.tensordot(np.array(terms), self.images, 1))
        return _sample(model, 1 / self.step, self.half, y, x)


@dataclass(slots=True, eq=False)
class ConvolvedPointSpread:
    """A point spread function after a convolution with a kernel that varies over the field."""

    psf: PointSpread
    kernel: Kernel
    half: int = field(init=False)
    fwhm: float = field(init=False)

    def __post_init__(self) -> None:
        self.half = self.psf.half + self.kernel.basis.shape[-1] // 2
        self.fwhm = full_width(self, self.kernel.shape[0] / 2, self.kernel.shape[1] / 2)

    def stamp(self, y: float, x: float) -> tuple[int, int, Floats]:
        """Give a point source of flux 1, see `PointSpread`."""
        top, left, pixels = self.psf.stamp(y, x)
        reach = self.kernel.basis.shape[-1] // 2
        wider = oaconvolve(pixels, self.kernel.at(y, x), mode="full")
        return top - reach, left - reach, wider / wider.sum()


def _place(position: float, size: int, cells: int) -> float:
    """Give where a position is among the middles of the cells: 0 for the first, cells - 1 for the last."""
    return float(np.clip((position + 0.5) / size * cells - 0.5, 0, max(cells - 1, 0)))


def _sample(filtered: Floats, oversampling: float, half: int, y: float, x: float) -> tuple[int, int, Floats]:
    top, left = round(y) - half, round(x) - half
    middle = filtered.shape[-1] // 2
    rows = (np.arange(top, top + 2 * half + 1) - y) * oversampling + middle
    columns = (np.arange(left, left + 2 * half + 1) - x) * oversampling + middle
    pixels = map_coordinates(filtered, np.meshgrid(rows, columns, indexing="ij"), order=3, prefilter=False, cval=0.0)
    return top, left, pixels / pixels.sum()


def full_width(psf: PointSpread, y: float, x: float) -> float:
    """Give the full width at half maximum at a position (pixels): that of a circle as large as what is above half."""
    fine = 8
    half_maximum = psf.stamp(round(y), round(x))[2]
    middle = half_maximum.shape[0] // 2
    reach = min(middle, 24)
    core = half_maximum[middle - reach : middle + reach + 1, middle - reach : middle + reach + 1]
    axis = np.linspace(0, 2 * reach, 2 * reach * fine + 1)
    smooth = map_coordinates(core, np.meshgrid(axis, axis, indexing="ij"), order=3)
    return float(2 * np.sqrt(np.count_nonzero(smooth > smooth.max() / 2) / np.pi) / fine)


def measure_psf(sky: Sky, sources: Sources, stars: npt.NDArray[np.bool_], path: Path) -> GridPointSpread:
    """Measure the point spread function from stars, in parts of the field where there are enough of them.

    The method is that of Anderson & King (2000, PASP 112, 1360), as photutils has it.

    Parameters
    ----------
    sky
        The image.
    sources
        All its sources.
    stars
        bool (n,): which of them are good stars.
    path
        The file, for what is said of it.

    Raises
    ------
    SourceError
        When there is no star that stands alone.
    """
    width = 2 * float(np.median(sources.radius[stars])) if stars.any() else 3.0
    alone = isolated(sky, sources, stars, int(np.ceil(CORE[1] * width)) + 1)
    if len(alone) < FEWEST_STARS:
        raise SourceError(
            f"the point spread function of '{path}' cannot be measured: no bright, round and unsaturated "
            "source stands alone in it; give one with --psf"
        )
    # The matrices are small: threads of BLAS would wait for each other longer than they compute.
    with threadpool_limits(1, user_api="blas"):
        measured = _measure(sky, sources, alone, width)
    held = held_in_aperture(measured, sky.pixels.shape[0] / 2, sky.pixels.shape[1] / 2, width / 2)
    if abs(held / 0.5 - 1) > DOUBTFUL:
        log.warning(
            "the point spread function measured in '%s' holds %.2f of its light where the stars hold half: it may be "
            "wrong, and fluxes with it; give one with --psf",
            path,
            held,
        )
    return measured


def _measure(sky: Sky, sources: Sources, alone: npt.NDArray[np.int64], width: float) -> GridPointSpread:
    cells = int(np.clip(np.sqrt(len(alone) / STARS_PER_CELL), 1, MOST_CELLS))
    ny, nx = sky.pixels.shape
    models = []
    for row in range(cells):
        for column in range(cells):
            middle = ((row + 0.5) * ny / cells, (column + 0.5) * nx / cells)
            # The stars of the cell itself, or else the nearest ones.
            distance = np.maximum(
                np.abs(sources.y[alone] - middle[0]) / (ny / cells), np.abs(sources.x[alone] - middle[1]) / (nx / cells)
            )
            inside = int((distance <= 0.5).sum())
            nearest = np.argsort(distance, kind="stable")[: max(inside, min(STARS_PER_CELL, len(alone)))]
            chosen = alone[nearest]
            chosen = chosen[np.argsort(-sources.peak[chosen], kind="stable")][:MOST_STARS]
            models.append(_build(sky, sources, chosen, width))
    grid = np.array(models).reshape(cells, cells, *models[0].shape)
    return GridPointSpread(grid, _oversampling(len(alone)), (ny, nx), len(alone))


def _oversampling(stars: int) -> int:
    return 1 if stars < FEW else OVERSAMPLING


def isolated(sky: Sky, sources: Sources, stars: npt.NDArray[np.bool_], half: int) -> npt.NDArray[np.int64]:
    """Give the rows of the stars whose stamp has no masked pixel and no other source that matters."""
    ny, nx = sky.pixels.shape
    kept = []
    rows = np.flatnonzero(stars)
    for row in rows[np.argsort(-sources.peak[rows], kind="stable")][:BRIGHTEST]:
        y, x = round(float(sources.y[row])), round(float(sources.x[row]))
        if not (half < y < ny - half - 1 and half < x < nx - half - 1):
            continue
        if sky.masked[y - half // 2 : y + half // 2 + 1, x - half // 2 : x + half // 2 + 1].any():
            continue
        distance = np.maximum(np.abs(sources.y - sources.y[row]), np.abs(sources.x - sources.x[row]))
        disturbing = (distance < half) & (
            sources.peak * sources.radius**2 > 0.02 * sources.peak[row] * sources.radius[row] ** 2
        )
        if disturbing.sum() == 1:  # itself
            kept.append(row)
    return np.sort(np.array(kept, np.int64))


def held_in_aperture(psf: PointSpread, y: float, x: float, radius: float) -> float:
    """Give the part of the light of a point source that is in an aperture about it (radius in pixels)."""
    top, left, stamp = psf.stamp(y, x)
    held, _, _ = sep.sum_circle(np.ascontiguousarray(stamp), [x - left], [y - top], radius, subpix=0)
    return float(held[0])


def _build(sky: Sky, sources: Sources, rows: npt.NDArray[np.int64], width: float) -> Floats:
    from astropy.nddata import NDData
    from astropy.table import Table
    from photutils.psf import EPSFBuilder, extract_stars

    positions = Table({"x": sources.x[rows], "y": sources.y[rows]})
    half = int(np.ceil(CORE[1] * width)) + 1
    oversampling = _oversampling(len(rows))
    with quiet_fits():
        cut = extract_stars(NDData(sky.pixels, mask=sky.masked), positions, size=2 * half + 1)
        built: Any = EPSFBuilder(oversampling=oversampling, maxiters=ROUNDS, progress_bar=False)(cut)
    epsf = built[0] if isinstance(built, tuple) else built.epsf
    return _with_wings(np.asarray(epsf.data, np.float64), width * oversampling)


def _with_wings(core: Floats, width: float) -> Floats:
    """Centre what was measured, and go on with a Moffat profile fitted to it: far out there is only noise.

    Without that the noise would go into the total, and with it into the flux of each source.
    """
    axis = np.arange(core.shape[0], dtype=np.float64)
    middle = core.shape[0] // 2
    start = (core.max(), middle, middle, np.log(width / 2), np.log(width / 2), 0.0, np.log(3.0), 0.0)
    weights = np.exp(-0.5 * (((axis[:, None] - middle) ** 2 + (axis - middle) ** 2) / (width * 0.8) ** 2)) + 0.03
    low, high = np.full(8, -np.inf), np.full(8, np.inf)
    low[6], high[6] = (np.log(each - 1) for each in EXPONENTS)  # what is far out decides it, and there is little there
    fit = least_squares(
        lambda values: ((_moffat(values, axis, axis) - core) * weights).ravel() / core.max(),
        start,
        bounds=(low, high),
        max_nfev=200,
    ).x
    reach = int(np.ceil(REACH * width))
    places = np.arange(-reach, reach + 1, dtype=np.float64)
    profile = _moffat(np.append(fit[:7], 0.0), places + fit[1], places + fit[2])
    grid = np.meshgrid(places + fit[1], places + fit[2], indexing="ij")
    measured = map_coordinates(core - fit[7], grid, order=3, mode="nearest")
    radius = np.hypot(*np.meshgrid(places, places, indexing="ij")) / width
    taper = 0.5 * (1 + np.cos(np.pi * np.clip((radius - CORE[0]) / (CORE[1] - CORE[0]), 0, 1)))
    model = profile + taper * (measured - profile)
    return np.asarray(model / model.sum(), np.float64)


def _moffat(values: npt.ArrayLike, rows: Floats, columns: Floats) -> Floats:
    peak, y, x, log_a, log_b, tilt, log_beta, level = np.asarray(values)
    dy, dx = rows[:, None] - y, columns - x
    # The quadratic form a, b, tilt is positive whatever the values are.
    radius2 = (dx * np.exp(-log_a)) ** 2 + (dy * np.exp(-log_b) + tilt * dx * np.exp(-log_a)) ** 2
    return np.asarray(peak * (1 + radius2) ** -(1 + np.exp(log_beta)) + level)


def read_psf(path: Path, shape: tuple[int, int]) -> PointSpread:
    """Read a point spread function.

    Parameters
    ----------
    path
        A ``.psf`` file of PSFEx, or a FITS image of a point source with an odd number of pixels along each axis, its
        centre in the middle; OVERSAMP in its header says how many of its pixels make one of the image.
    shape
        (ny, nx) of the image that it is for.

    Raises
    ------
    SourceError
        When the file is neither.
    """
    try:
        with quiet_fits(), fits.open(path, memmap=False) as hdus:
            for hdu in hdus:
                if isinstance(hdu, fits.BinTableHDU) and "PSF_MASK" in (hdu.columns.names or ()):
                    return _from_psfex(hdu)
            for hdu in hdus:
                if hdu.is_image and hdu.data is not None and hdu.data.ndim == 2:
                    return _from_image(hdu, path, shape)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise SourceError(f"the point spread function '{path}' cannot be read ({error})") from None
    raise SourceError(f"'{path}' holds no point spread function: neither the table PSF_DATA of PSFEx nor an image")


def psf_beside(path: Path, shape: tuple[int, int]) -> PointSpread | None:
    """Read the ``NAME.psf`` beside an image of some shape, None where there is none."""
    beside = path.with_name(f"{stem_of(path)}.psf")
    return read_psf(beside, shape) if beside.exists() else None


def _from_psfex(hdu: fits.BinTableHDU) -> PsfexPointSpread:
    header = hdu.header
    images = np.asarray(hdu.data["PSF_MASK"][0], np.float64)
    images = images.reshape(-1, *images.shape[-2:])
    degree = int(header.get("POLDEG1", 0)) if int(header["POLNAXIS"]) else 0
    if int(header["POLNAXIS"]) not in (0, 2):
        raise ValueError("it varies with something else than the position")
    axes = {header.get(f"POLNAME{k}", ""): k for k in (1, 2)}
    zeros, scales = [0.0, 0.0], [1.0, 1.0]
    if degree:
        for place, letter in enumerate("XY"):
            k = next((number for name, number in axes.items() if name.upper().startswith(letter)), place + 1)
            zeros[place], scales[place] = float(header[f"POLZERO{k}"]), float(header[f"POLSCAL{k}"])
    return PsfexPointSpread(images, float(header["PSF_SAMP"]), (zeros[0], zeros[1]), (scales[0], scales[1]), degree)


def _from_image(hdu: Any, path: Path, shape: tuple[int, int]) -> GridPointSpread:
    model = np.nan_to_num(np.asarray(hdu.data, np.float64))
    if any(size % 2 == 0 or size < 5 for size in model.shape) or model.shape[0] != model.shape[1]:
        raise SourceError(
            f"the point spread function '{path}' is {model.shape[1]} x {model.shape[0]} pixels: it is square, with an "
            "odd number of pixels"
        )
    if model.sum() <= 0:
        raise SourceError(f"the point spread function '{path}' holds no light")
    return GridPointSpread((model / model.sum())[None, None], float(hdu.header.get("OVERSAMP", 1)), shape)
