"""Difference images: a reference convolved to the point spread function of the science image, and taken from it.

The kernel is that of Alard & Lupton (1998, ApJ 503, 325) with the polynomials over the field of Alard (2000, A&AS 144,
363): a sum of Gaussians times polynomials whose total is the same everywhere, fitted to the pixels around bright stars.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.ndimage import maximum_filter1d
from scipy.signal import oaconvolve
from threadpoolctl import threadpool_limits

from otrain_infer.errors import SourceError, UsageError

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

DEGREES = (6, 4, 2)
"""Of the polynomials that go with the Gaussians, the narrowest first."""
RELATIVE_WIDTHS = (0.5, 1.0, 2.0)
"""Of the Gaussians, in units of the width by which the point spread functions differ."""
ROUNDS = 4
CLIP = 3.0
"""Stars whose residuals are further from those of the others than this, in units of their scatter, are left out."""
MODEL_ERROR = 0.01
"""Part of a star's light by which it may differ from any model; it keeps the brightest from deciding alone."""
BRIGHTEST = 50
"""Stars by which the ratio of the fluxes is estimated before the fit."""
MOST_BAD = 0.3
"""Part of the pixels about a star that may be masked; none of those in its middle may."""
SHARPER = 0.95
"""Below this part of the width of the reference, the science image is the one that is convolved."""
FEWEST_PER_TERM = 4
"""Stars for each polynomial over the field: with fewer the kernel varies less."""


@dataclass(frozen=True, slots=True)
class KernelSettings:
    """How the kernel is fitted.

    Attributes
    ----------
    order
        Highest degree of the polynomials over the field; less is taken where there are few stars.
    reach
        Half of the width of the kernel (pixels); None for what the point spread functions ask for.
    """

    order: int = 2
    reach: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.order <= 5:
            raise UsageError(f"a kernel order of {self.order} makes no sense: give 0 to 5")
        if self.reach is not None and self.reach < 1:
            raise UsageError(f"a kernel of half width {self.reach} makes no sense: give 1 pixel or more")


@dataclass(frozen=True, eq=False)
class Kernel:
    """A convolution kernel that varies over the field.

    Attributes
    ----------
    basis
        float64 (m, w, w): the first has a total of 1, all others of 0.
    coefficients
        float64 (terms, m): of each for each polynomial over the field. Those of the first are 0 but for the constant
        polynomial, so that the total of the kernel is the same everywhere.
    background
        float64 (terms,): what is added after the convolution, for each polynomial.
    order
        Highest degree of the polynomials.
    shape
        (ny, nx) of the images.
    """

    basis: Floats
    coefficients: Floats
    background: Floats
    order: int
    shape: tuple[int, int]

    @property
    def scale(self) -> float:
        """Ratio of fluxes: what 1 in the image that is convolved becomes."""
        return float(self.coefficients[0, 0])

    def at(self, y: float, x: float) -> Floats:
        """Give the kernel at a position (pixels), float64 (w, w)."""
        weights = polynomials(np.array([[y, x]]), self.shape, self.order)[0] @ self.coefficients
        kernel: Floats = np.tensordot(weights, self.basis, 1)
        return kernel

    def convolve(self, image: Floats) -> Floats:
        """Convolve an image, float64 (ny, nx), all finite; beyond its border there is nothing."""
        v, u = (2 * np.arange(size) / size - 1 for size in self.shape)
        total = np.zeros(self.shape)
        for (i, j), weights, level in zip(_powers(self.order), self.coefficients, self.background, strict=True):
            part = oaconvolve(image, np.tensordot(weights, self.basis, 1), mode="same")
            part += level
            part *= u**i
            part *= (v**j)[:, None]
            total += part
        return total

    @cached_property
    def _middle(self) -> Floats:
        return self.at(self.shape[0] / 2, self.shape[1] / 2)

    def convolve_variance(self, variance: Floats) -> Floats:
        """Give what the variance of independent pixels becomes, float64 (ny, nx); the kernel is that of the middle."""
        return np.asarray(np.maximum(oaconvolve(variance, self._middle**2, mode="same"), 0), np.float64)


def polynomials(positions: npt.NDArray[Any], shape: tuple[int, int], order: int) -> Floats:
    """Give the products of powers of positions (y, x), (n, 2), scaled to -1 to 1 over the field: float64 (n, terms)."""
    v, u = 2 * positions[:, 0] / shape[0] - 1, 2 * positions[:, 1] / shape[1] - 1
    return np.stack([u**i * v**j for i, j in _powers(order)], axis=1).astype(np.float64)


def _powers(order: int) -> list[tuple[int, int]]:
    """Give the powers of x and of y in each polynomial."""
    return [(i, j) for i in range(order + 1) for j in range(order + 1 - i)]


def kernel_basis(width: float, reach: int) -> Floats:
    """Give Gaussians times polynomials.

    Parameters
    ----------
    width
        By which the point spread functions differ (standard deviation, pixels).
    reach
        Half of the width of the kernel (pixels).

    Returns
    -------
    ndarray
        float64 (m, w, w), w = 2 reach + 1; the first has a total of 1, all others of 0.
    """
    axis = np.arange(-reach, reach + 1, dtype=np.float64)
    made = []
    for relative, degree in zip(RELATIVE_WIDTHS, DEGREES, strict=True):
        sigma = relative * width
        profile, scaled = np.exp(-(axis**2) / (2 * sigma**2)), axis / max(sigma, 1.0)
        columns = [profile * scaled**power for power in range(degree + 1)]
        for i in range(degree + 1):
            for j in range(degree + 1 - i):
                made.append(np.outer(columns[j], columns[i]))
    basis = np.array(made)
    totals = basis.sum((1, 2))
    first = basis[0] / totals[0]
    basis -= totals[:, None, None] * first
    basis /= np.maximum(np.sqrt((basis**2).sum((1, 2)))[:, None, None], 1e-30)
    basis[0] = first
    return basis


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """A science image and its reference on the same pixels.

    Attributes
    ----------
    science, reference
        float64 (ny, nx), sky subtracted; anything finite where masked.
    science_variance, reference_variance
        float64 (ny, nx), of each pixel.
    science_masked, reference_masked
        bool (ny, nx): pixels in which an image has nothing usable.
    """

    science: Floats
    reference: Floats
    science_variance: Floats
    reference_variance: Floats
    science_masked: Bools
    reference_masked: Bools

    @property
    def swapped(self) -> "Pair":
        """The same with the reference as the science image."""
        return Pair(
            self.reference,
            self.science,
            self.reference_variance,
            self.science_variance,
            self.reference_masked,
            self.science_masked,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Difference:
    """What is left when the matched reference is taken from the science image.

    Attributes
    ----------
    pixels, reference, variance
        float64 (ny, nx): the difference in units of the science image, the reference as it was taken away, and the
        variance of the difference.
    masked
        bool (ny, nx): pixels that a masked one has reached.
    kernel
        That by which the reference was convolved, or the science image where `science_convolved`.
    stars
        int64 (n, 2): (y, x) of the stars to which it was fitted.
    residual
        Root mean square of what is left of these stars, in units of its error.
    """

    pixels: Floats
    reference: Floats
    variance: Floats
    masked: Bools
    kernel: Kernel
    stars: npt.NDArray[np.int64]
    residual: float
    science_convolved: bool


def subtract(
    pair: Pair,
    stars: npt.NDArray[np.int64],
    fwhms: tuple[float, float],
    settings: KernelSettings | None = None,
) -> Difference:
    """Match the sharper image of a pair to the other one, and give their difference.

    Parameters
    ----------
    pair
        Both images.
    stars
        int64 (n, 2): (y, x) of bright sources, which should not be saturated; some may be variable.
    fwhms
        Of the point spread functions of the science image and of the reference (pixels).
    settings
        How the kernel is fitted.

    Returns
    -------
    Difference

    Raises
    ------
    SourceError
        When there are too few stars.
    """
    settings = settings or KernelSettings()
    swapped = fwhms[0] < SHARPER * fwhms[1]
    if swapped:
        pair = pair.swapped
    width = np.sqrt(max(max(fwhms) ** 2 - min(fwhms) ** 2, 1.0)) / 2.3548
    reach = settings.reach or int(np.ceil(max(2.0 * RELATIVE_WIDTHS[-1] * width, 1.5 * max(fwhms), 5)))
    fit = _Fit(pair, kernel_basis(width, reach), reach + int(np.ceil(1.5 * max(fwhms))), settings.order)
    # The matrices are small: threads of BLAS would wait for each other longer than they compute.
    with threadpool_limits(1, user_api="blas"):
        kernel, used, residual = fit.solve(stars)
    matched = kernel.convolve(np.where(pair.reference_masked, 0, pair.reference))
    masked = pair.science_masked | spread(pair.reference_masked, reach)
    variance = pair.science_variance + kernel.convolve_variance(pair.reference_variance)
    pixels = pair.science - matched
    if swapped:
        # The science image was convolved to the reference: bring the result to its units.
        scale = kernel.scale
        return Difference(
            -pixels / scale, pair.science / scale, variance / scale**2, masked, kernel, used, residual, True
        )
    return Difference(pixels, matched, variance, masked, kernel, used, residual, False)


def spread(masked: Bools, reach: int) -> Bools:
    """Give the pixels that are within a square of half width `reach` about a masked one."""
    if not masked.any():
        return masked.copy()
    rows = maximum_filter1d(masked.view(np.uint8), 2 * reach + 1, axis=0, mode="constant")
    return np.asarray(maximum_filter1d(rows, 2 * reach + 1, axis=1, mode="constant").astype(np.bool_))


@dataclass(slots=True, eq=False)
class _Fit:
    """The normal equations of each star, from which those of the whole field are summed."""

    pair: Pair
    basis: Floats
    half: int
    order: int
    _reach: int = field(init=False)
    _ratio: float = field(init=False)

    def __post_init__(self) -> None:
        self._reach = self.basis.shape[1] // 2
        self._ratio = 1.0

    def solve(self, stars: npt.NDArray[np.int64]) -> tuple[Kernel, npt.NDArray[np.int64], float]:
        """Fit the kernel, leaving out stars that do not fit; give it, the stars kept, and what is left of them."""
        self._ratio = self._flux_ratio(stars)
        parts = [part for star in stars.tolist() if (part := self._part(*star)) is not None]
        if len(parts) < 3:
            raise SourceError(
                f"the point spread functions cannot be matched: {len(parts)} bright sources are in both images, away "
                "from masked pixels and borders, and 3 are needed at the least"
            )
        kept = np.ones(len(parts), np.bool_)
        for _ in range(ROUNDS):
            kernel = self._kernel([part for part, keep in zip(parts, kept, strict=True) if keep])
            left = np.array([part.residual(self._local(kernel, part)) for part in parts])
            typical = np.median(left[kept])
            scatter = 1.4826 * np.median(np.abs(left[kept] - typical))
            now = left <= typical + CLIP * max(scatter, 0.1 * typical)
            if now.sum() < max(3, len(parts) // 2) or (now == kept).all():
                break
            kept = now
        positions = np.array([part.position for part, keep in zip(parts, kept, strict=True) if keep], np.int64)
        return kernel, positions, float(np.sqrt(np.mean(left[kept])))

    def _local(self, kernel: Kernel, part: "_Part") -> Floats:
        terms = polynomials(np.array([part.position]), kernel.shape, kernel.order)[0]
        return np.append(terms @ kernel.coefficients, terms @ kernel.background)

    def _flux_ratio(self, stars: npt.NDArray[np.int64]) -> float:
        """Give what 1 in the reference is in the science image, about: the variances are added in one unit."""
        ratios = []
        for y, x in stars[:BRIGHTEST].tolist():
            box = np.s_[max(y - self.half, 0) : y + self.half + 1, max(x - self.half, 0) : x + self.half + 1]
            usable = ~(self.pair.science_masked[box] | self.pair.reference_masked[box])
            below = float(self.pair.reference[box][usable].sum())
            if below > 0:
                ratios.append(float(self.pair.science[box][usable].sum()) / below)
        ratio = float(np.median(ratios)) if ratios else 1.0
        return ratio if ratio > 0 else 1.0

    def _part(self, y: int, x: int) -> "_Part | None":
        outer = self.half + self._reach
        ny, nx = self.pair.science.shape
        if not (outer <= y < ny - outer and outer <= x < nx - outer):
            return None
        wide = np.s_[y - outer : y + outer + 1, x - outer : x + outer + 1]
        inner = np.s_[y - self.half : y + self.half + 1, x - self.half : x + self.half + 1]
        central = np.s_[self._reach : -self._reach, self._reach : -self._reach]
        bad = self.pair.science_masked[inner] | spread(self.pair.reference_masked[wide], self._reach)[central]
        middle = np.s_[self.half - 1 : self.half + 2, self.half - 1 : self.half + 2]
        if bad.mean() > MOST_BAD or bad[middle].any():
            return None
        clean = np.where(self.pair.reference_masked[wide], 0, self.pair.reference[wide])
        convolved = oaconvolve(clean[None], self.basis, mode="valid", axes=(1, 2))
        columns = np.vstack([convolved.reshape(len(self.basis), -1), np.ones((1, (2 * self.half + 1) ** 2))])
        science = self.pair.science[inner].ravel()
        noise = self.pair.science_variance[inner] + self._ratio**2 * self.pair.reference_variance[inner]
        weights = ~bad.ravel() / (noise.ravel() + (MODEL_ERROR * science) ** 2)
        weighted = columns * weights
        return _Part(
            (y, x), weighted @ columns.T, weighted @ science, float(np.sum(weights * science**2)), science.size
        )

    def _kernel(self, parts: list["_Part"]) -> Kernel:
        order = self.order
        while order and len(parts) < FEWEST_PER_TERM * (order + 1) * (order + 2) // 2:
            order -= 1
        ny, nx = self.pair.science.shape
        terms = polynomials(np.array([part.position for part in parts], np.float64), (ny, nx), order)
        n_terms, n_columns = terms.shape[1], len(self.basis) + 1
        normal = np.zeros((n_terms, n_columns, n_terms, n_columns))
        right = np.zeros((n_terms, n_columns))
        for term, part in zip(terms, parts, strict=True):
            normal += np.einsum("i,j,kl->ikjl", term, term, part.normal)
            right += np.outer(term, part.right)
        free = np.ones((n_terms, n_columns), np.bool_)
        free[1:, 0] = False  # the total of the kernel does not vary
        chosen = free.ravel()
        matrix = normal.reshape(chosen.size, chosen.size)[np.ix_(chosen, chosen)]
        scale = 1 / np.sqrt(np.maximum(np.diag(matrix), 1e-300))
        matrix = matrix * scale[:, None] * scale + 1e-9 * np.eye(len(scale))
        solved = np.zeros(chosen.size)
        try:
            solved[chosen] = scale * np.linalg.solve(matrix, scale * right.ravel()[chosen])
        except np.linalg.LinAlgError:
            raise SourceError(
                "the point spread functions cannot be matched: the stars of both images tell nothing"
            ) from None
        solution = solved.reshape(n_terms, n_columns)
        return Kernel(self.basis, solution[:, :-1], solution[:, -1], order, (ny, nx))


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """The normal equations of one star."""

    position: tuple[int, int]
    normal: Floats
    right: Floats
    square: float
    pixels: int

    def residual(self, solution: Floats) -> float:
        """Give chi-squared for each pixel."""
        left = self.square - 2 * solution @ self.right + solution @ self.normal @ solution
        return max(float(left), 0.0) / self.pixels
