"""What a mock candidate looks like: an image of the sky, another of the same field, and their difference.

Sources are Moffat profiles. The reference is "matched" by rendering its sources once more with the seeing of the
science image, with small errors of position, width and flux, rather than by convolution.
"""

from dataclasses import dataclass
from math import log10, pi, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.float32]

FILTERS = ("g", "r", "i", "L")
FWHM_TO_SIGMA = 1 / 2.3548
MAG_PER_SNR = 1.0857
"""2.5 / ln 10: the error of a magnitude is this over the signal-to-noise ratio."""


@dataclass(frozen=True, slots=True)
class Exposure:
    """What the candidates of one image share. Fluxes in electrons, widths in pixels."""

    file: str
    mjd: float
    band: str
    zero_point: float
    sky: float
    gain: float
    seeing: float
    reference_seeing: float
    reference_depth: float
    beta: int
    names_objects: bool

    @classmethod
    def draw(cls, rng: np.random.Generator, file: str, mjd: float, object_fraction: float) -> "Exposure":
        """Draw an image; with a probability of `object_fraction` its candidates name their objects."""
        return cls(
            file=file,
            mjd=mjd,
            band=str(rng.choice(FILTERS)),
            zero_point=float(rng.uniform(23, 26)),
            sky=float(np.exp(rng.uniform(np.log(50), np.log(5000)))),
            gain=float(np.exp(rng.uniform(np.log(0.3), np.log(4)))),
            seeing=float(rng.uniform(2.0, 4.2)),
            reference_seeing=float(rng.uniform(1.8, 3.2)),
            reference_depth=float(rng.uniform(2, 20)),
            beta=int(rng.integers(5, 9)),
            names_objects=bool(rng.random() < object_fraction),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Sources:
    """Point sources (width 0) and galaxies: float64 (k,) each; positions in pixels, fluxes in units of the noise."""

    y: npt.NDArray[np.float64]
    x: npt.NDArray[np.float64]
    flux: npt.NDArray[np.float64]
    width: npt.NDArray[np.float64]
    ratio: npt.NDArray[np.float64]
    angle: npt.NDArray[np.float64]

    @classmethod
    def points(cls, y: Any, x: Any, flux: Any) -> "Sources":
        """Give point sources, one or an array of them."""
        y, x, flux = np.atleast_1d(y), np.atleast_1d(x), np.atleast_1d(flux)
        return cls(y, x, flux, np.zeros(len(y)), np.ones(len(y)), np.zeros(len(y)))

    def __add__(self, other: "Sources") -> "Sources":
        return Sources(*(np.concatenate([getattr(self, key), getattr(other, key)]) for key in self.__slots__))

    def render(self, size: int, seeing: float, power: int, shift: tuple[float, float] = (0.0, 0.0)) -> Image:
        """Give the sum of their profiles, (1 + r^2 / a^2) ** (-power / 2), each scaled to a total of its flux."""
        beta = power / 2
        fwhm = np.hypot(self.width, seeing)
        scale = fwhm / (2 * sqrt(2 ** (1 / beta) - 1))
        axis = np.arange(size)
        dy = ((axis - self.y[:, None] - shift[0]) / scale[:, None]).astype(np.float32)
        dx = ((axis - self.x[:, None] - shift[1]) / scale[:, None]).astype(np.float32)
        cos, sin = np.cos(self.angle), np.sin(self.angle)
        stretch = 1 / self.ratio**2
        yy, xx, xy = (
            each.astype(np.float32)[:, None, None]
            for each in (sin**2 + stretch * cos**2, cos**2 + stretch * sin**2, 2 * sin * cos * (1 - stretch))
        )
        radius2 = yy * (dy**2)[:, :, None] + xx * (dx**2)[:, None, :]
        if self.width.any():
            radius2 += xy * dy[:, :, None] * dx[:, None, :]
        base = 1 / np.sqrt(1 + radius2)
        profile = base * base
        for _ in range(power - 2):
            profile *= base
        peak = self.flux * (beta - 1) / (pi * scale**2 * self.ratio)
        image: Image = np.einsum("k,kyx->yx", peak.astype(np.float32), profile)
        return image


def field_of(rng: np.random.Generator, size: int) -> Sources:
    """Draw the stars and galaxies of a field."""
    n_stars = rng.poisson(5 * (size / 64) ** 2)
    y, x = rng.uniform(-4, size + 4, (2, n_stars))
    stars = Sources.points(y, x, _bright(rng, n_stars, 5, 1500))
    y, x = rng.uniform(0, size, (2, rng.poisson(0.7)))
    return stars + _galaxies(rng, y, x)


def _bright(rng: np.random.Generator, n: int, least: float, most: float) -> npt.NDArray[np.float64]:
    """Draw fluxes, more faint ones than bright ones."""
    return np.minimum(least * (1 - rng.random(n)) ** (-1 / 0.9), most)


def _galaxies(rng: np.random.Generator, y: Any, x: Any) -> Sources:
    y, x = np.atleast_1d(y), np.atleast_1d(x)
    n = len(y)
    flux, width = _bright(rng, n, 20, 600), rng.uniform(2, 9, n)
    return Sources(y, x, flux, width, rng.uniform(0.4, 1, n), rng.uniform(0, pi, n))


@dataclass(slots=True, eq=False)
class Scene:
    """What is drawn into the images of one candidate. Fluxes in units of the noise of a point source."""

    rng: np.random.Generator
    size: int
    exposure: Exposure
    y: float
    x: float
    sources: Sources
    extra: Image
    """Only in the science image, in units of the noise of a pixel."""
    shift: tuple[float, float]
    broadening: float
    brightening: float
    saturation: float = np.inf
    """Where a pixel of the science image is full, in units of its noise."""

    @classmethod
    def draw(cls, rng: np.random.Generator, size: int, exposure: Exposure, sources: Sources) -> "Scene":
        """Put a candidate within a pixel of the centre of a field, with the usual small errors of the subtraction."""
        y, x = (size - 1) / 2 + rng.uniform(-1, 1, 2)
        return cls(
            rng=rng,
            size=size,
            exposure=exposure,
            y=float(y),
            x=float(x),
            sources=sources,
            extra=np.zeros((size, size), np.float32),
            shift=(float(rng.normal(0, 0.06)), float(rng.normal(0, 0.06))),
            broadening=float(rng.normal(0, 0.012)),
            brightening=float(rng.normal(0, 0.01)),
        )

    @property
    def spread(self) -> float:
        """Noise of a point source over that of a pixel: sqrt(4 pi) sigma, for a Gaussian fitted by its own profile."""
        return sqrt(4 * pi) * self.exposure.seeing * FWHM_TO_SIGMA

    def add_star(self, least: float, most: float) -> None:
        """Put a star where the candidate is, of a flux between the two, into both images."""
        flux = np.exp(self.rng.uniform(np.log(least), np.log(most)))
        self.sources = self.sources + Sources.points(self.y, self.x, flux)

    def add_new(self, source: Sources, seeing: float) -> None:
        """Put sources that the reference does not have into the science image."""
        self.extra += self.spread * source.render(self.size, seeing, self.exposure.beta)


def add_transient(scene: Scene, faintest: float, brightest: float) -> None:
    """Make it a real one, of a signal-to-noise ratio between the two."""
    rng = scene.rng
    snr = faintest * (brightest / faintest) ** (rng.random() ** 1.5)
    scene.add_new(Sources.points(scene.y, scene.x, snr), scene.exposure.seeing)
    kind = rng.random()
    if kind < 0.45:
        scene.sources = scene.sources + _galaxies(rng, *(np.array([scene.y, scene.x]) + rng.normal(0, 2.5, 2)))
    elif kind < 0.6:
        scene.add_star(10, 100)


def _dipole(scene: Scene) -> None:
    angle, length = scene.rng.uniform(0, 2 * pi), scene.rng.uniform(0.25, 1.2)
    scene.shift = (length * np.sin(angle), length * np.cos(angle))
    scene.add_star(25, 800)


def _ring(scene: Scene) -> None:
    scene.broadening += scene.rng.choice((-1, 1)) * scene.rng.uniform(0.05, 0.25)
    scene.add_star(60, 1500)


def _cosmic_ray(scene: Scene) -> None:
    rng = scene.rng
    angle, length = rng.uniform(0, pi), rng.exponential(2.5)
    steps = np.linspace(-length / 2, length / 2, int(4 * length) + 1)
    y, x = scene.y + steps * np.sin(angle), scene.x + steps * np.cos(angle)
    flux = np.exp(rng.uniform(np.log(6), np.log(60)))
    scene.add_new(Sources.points(y, x, np.full(len(steps), flux / len(steps))), rng.uniform(0.6, 1.5))


def _bad_pixels(scene: Scene) -> None:
    rng = scene.rng
    y, x = round(scene.y), round(scene.x)
    height = rng.uniform(6, 60)
    if rng.random() < 0.5:
        scene.extra[y, x] += height
        scene.extra[y, x + rng.integers(0, 2)] += height * rng.uniform(0, 0.7)
    else:
        scene.extra[rng.integers(0, y + 1) :, x] += height / 4


def _saturated(scene: Scene) -> None:
    rng = scene.rng
    scene.add_star(1500, 8000)
    scene.saturation = rng.uniform(60, 150)
    length = rng.integers(2, scene.size // 3)
    x = round(scene.x)
    first = max(round(scene.y) - length, 0)
    scene.extra[first : round(scene.y) + length, x : x + rng.integers(1, 3)] += scene.saturation


def _noise_peak(scene: Scene) -> None:
    rng = scene.rng
    n = int(rng.integers(3, 7))
    y, x = scene.y + rng.normal(0, 1.3, n), scene.x + rng.normal(0, 1.3, n)
    scene.add_new(Sources.points(y, x, rng.dirichlet(np.ones(n)) * rng.uniform(4, 8)), rng.uniform(0.8, 1.6))


def _trail(scene: Scene) -> None:
    rng = scene.rng
    angle, reach = rng.uniform(0, pi), scene.size
    steps = np.linspace(-reach, reach, reach + 1)
    y, x = scene.y + steps * np.sin(angle), scene.x + steps * np.cos(angle)
    flux = np.full(len(steps), rng.uniform(1, 8))
    scene.add_new(Sources.points(y, x, flux), scene.exposure.seeing * rng.uniform(1, 1.6))


def _ghost(scene: Scene) -> None:
    rng = scene.rng
    axis = np.arange(scene.size)
    radius = np.hypot((axis - scene.y)[:, None], axis - scene.x)
    outer = rng.uniform(4, 12)
    inner = outer * rng.uniform(0, 0.5)
    edge = 1 / (1 + np.exp(radius - outer)) - 1 / (1 + np.exp(radius - inner)) * (inner > 2)
    scene.extra += (edge * rng.uniform(1, 5)).astype(np.float32)


def add_artefact(scene: Scene) -> None:
    """Make it a bogus one."""
    list(BOGUS)[scene.rng.choice(len(BOGUS), p=list(BOGUS.values()))](scene)


BOGUS = {
    _dipole: 0.24,
    _ring: 0.17,
    _cosmic_ray: 0.15,
    _bad_pixels: 0.1,
    _saturated: 0.08,
    _noise_peak: 0.14,
    _trail: 0.05,
    _ghost: 0.07,
}
"""What goes wrong, and how often."""


def expose(scene: Scene) -> tuple[dict[str, Image], float]:
    """Give the three images in ADU, and the noise of a pixel of the difference."""
    rng, exposure, size = scene.rng, scene.exposure, scene.size
    sky = exposure.sky * np.exp(rng.normal(0, 0.3))
    sigma = sqrt(sky)
    unit = np.float32(sigma * scene.spread)
    sky_below_reference = exposure.sky * np.exp(rng.normal(0, 0.3))

    stars = unit * scene.sources.render(size, exposure.seeing, exposure.beta)
    expected = np.minimum(sky + stars + sigma * scene.extra, sky + sigma * scene.saturation).astype(np.float32)
    science = expected + np.sqrt(np.maximum(expected, 1)) * rng.standard_normal(expected.shape, np.float32)

    stars = unit * scene.sources.render(size, exposure.reference_seeing, exposure.beta)
    expected = stars + np.float32(sky_below_reference)
    noise = np.sqrt(expected / np.float32(exposure.reference_depth)) * rng.standard_normal(expected.shape, np.float32)
    reference = expected + noise

    seeing = exposure.seeing * (1 + scene.broadening)
    matched = unit * scene.sources.render(size, seeing, exposure.beta, scene.shift)
    difference = science - np.float32(sky) - matched * np.float32(1 + scene.brightening) - _smooth(noise)

    gain = exposure.gain * np.exp(rng.normal(0, 0.2))
    gain_of_reference = gain * np.exp(rng.normal(0, 0.5))
    images = {"SCI": science / gain, "REF": reference / gain_of_reference, "DIFF": difference / gain}
    noise_level = sqrt(sky + sky_below_reference / exposure.reference_depth / 4) / gain
    return {name: image.astype(np.float32) for name, image in images.items()}, noise_level


def _smooth(image: Image) -> Image:
    padded = np.pad(image, 1, mode="reflect")
    rows = padded[:-2] / 4 + padded[1:-1] / 2 + padded[2:] / 4
    return np.asarray(rows[:, :-2] / 4 + rows[:, 1:-1] / 2 + rows[:, 2:] / 4, np.float32)


def measure(scene: Scene, difference: Image, sigma: float) -> dict[str, float]:
    """Give magnitude, its error and the width as a detection program would measure them."""
    exposure = scene.exposure
    profile = Sources.points(scene.y, scene.x, 1.0).render(scene.size, exposure.seeing, exposure.beta)
    weight = float(np.sum(profile**2))
    error = sigma / sqrt(weight)
    flux = max(float(np.sum(profile * difference)) / weight, error)
    middle = scene.size // 2
    core = difference[middle - 6 : middle + 7, middle - 6 : middle + 7]
    above_half = np.count_nonzero(core > core.max() / 2)
    return {
        "MAG": exposure.zero_point - 2.5 * log10(flux),
        "MAGERR": MAG_PER_SNR * error / flux,
        "FWHM": 2 * sqrt(above_half / pi),
        "FWHMPSF": exposure.seeing * (1 + float(scene.rng.normal(0, 0.02))),
    }
