"""The kernel is found that makes one image look like the other, and nothing is left but noise."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, shift

from otrain_infer.errors import SourceError, UsageError
from otrain_train.subtract import Kernel, KernelSettings, Pair, kernel_basis, polynomials, spread, subtract

SIZE, GAIN, NOISE = 400, 2.0, 5.0


def scene(rng, fwhm, n=150):
    """Stars of known positions on an image without sky: their positions, and the image without noise."""
    y, x = rng.uniform(10, SIZE - 10, (2, n))
    flux = 10 ** rng.uniform(3.5, 5.5, n)
    image = np.zeros((SIZE, SIZE))
    sigma = fwhm / 2.3548
    for a, b, f in zip(y, x, flux, strict=True):
        rows, columns = np.arange(SIZE)[:, None] - a, np.arange(SIZE) - b
        image += (
            f
            / (2 * np.pi * sigma**2)
            * np.exp(-(rows**2)[:, 0] / (2 * sigma**2))[:, None]
            * np.exp(-(columns**2) / (2 * sigma**2))
        )
    order = np.argsort(-flux)
    return np.rint(np.stack([y, x], 1)[order]).astype(np.int64), image


def pair_of(science, reference, rng, masked=None):
    noisy = [image + rng.normal(0, 1, image.shape) * np.sqrt(NOISE**2 + image / GAIN) for image in (science, reference)]
    variances = [NOISE**2 + image / GAIN for image in (science, reference)]
    nothing = np.zeros((2, *science.shape), bool)
    return Pair(*noisy, *variances, nothing[0], nothing[1] if masked is None else masked)


@pytest.fixture(scope="module")
def stars():
    return scene(np.random.default_rng(0), 2.5)


def test_what_is_left_is_noise(stars):
    rng = np.random.default_rng(1)
    positions, reference = stars
    science = 0.7 * shift(gaussian_filter(reference, 1.4), (0.3, -0.2), order=3)
    found = subtract(pair_of(science, reference, rng), positions, (4.2, 2.5))
    assert found.kernel.scale == pytest.approx(0.7, rel=0.005)
    inner = np.s_[40:-40, 40:-40]
    assert np.std(found.pixels[inner] / np.sqrt(found.variance[inner])) == pytest.approx(1, abs=0.05)
    assert found.residual < 1.2
    assert not found.science_convolved


def test_the_difference_is_the_science_image_less_the_convolved_reference(stars):
    rng = np.random.default_rng(1)
    positions, reference = stars
    pair = pair_of(gaussian_filter(reference, 1.4), reference, rng)
    found = subtract(pair, positions, (4.2, 2.5), KernelSettings(order=0))
    np.testing.assert_allclose(found.pixels + found.reference, pair.science, atol=1e-8)
    from scipy.signal import convolve2d

    kernel = found.kernel.at(200, 200)
    direct = convolve2d(pair.reference[150:250, 150:250], kernel, mode="valid") + found.kernel.background[0]
    reach = kernel.shape[0] // 2
    np.testing.assert_allclose(found.reference[150 + reach : 250 - reach, 150 + reach : 250 - reach], direct, atol=1e-6)


def test_a_kernel_that_varies_over_the_field(stars):
    rng = np.random.default_rng(2)
    positions, reference = stars
    weight = np.linspace(0, 1, SIZE)[None, :]
    science = (1 - weight) * gaussian_filter(reference, 1.0) + weight * gaussian_filter(reference, 1.8)
    pair = pair_of(science, reference, rng)
    fixed = subtract(pair, positions, (4.0, 2.5), KernelSettings(order=0))
    varying = subtract(pair, positions, (4.0, 2.5), KernelSettings(order=2))
    assert varying.residual < 1.3
    assert fixed.residual > 1.2 * varying.residual


def test_a_new_source_keeps_its_flux_although_it_is_among_the_stars(stars):
    rng = np.random.default_rng(3)
    positions, reference = stars
    science = gaussian_filter(reference, 1.4)
    new = np.zeros_like(science)
    new[210, 190] = 30_000.0
    science = science + gaussian_filter(new, 1.76)
    positions = np.vstack([[[210, 190]], positions])
    found = subtract(pair_of(science, reference, rng), positions, (4.2, 2.5))
    assert [210, 190] not in found.stars.tolist()
    assert found.pixels[195:226, 175:206].sum() == pytest.approx(30_000, rel=0.03)


def test_a_sharper_science_image_is_convolved_and_keeps_its_units(stars):
    rng = np.random.default_rng(4)
    positions, science = stars
    new = np.zeros_like(science)
    new[210, 190] = 20_000.0
    science = science + gaussian_filter(new, 1.06)
    reference = 2 * gaussian_filter(stars[1], 1.4)
    found = subtract(pair_of(science, reference, rng), positions, (2.5, 4.2))
    assert found.science_convolved
    assert found.pixels[190:231, 170:211].sum() == pytest.approx(20_000, rel=0.05)


def test_masked_pixels_spread_by_the_kernel_and_no_further(stars):
    rng = np.random.default_rng(5)
    positions, reference = stars
    masked = np.zeros(reference.shape, bool)
    masked[100, 100] = True
    pair = pair_of(gaussian_filter(reference, 1.4), reference, rng, masked)
    found = subtract(pair, positions, (4.2, 2.5))
    reach = found.kernel.basis.shape[1] // 2
    assert np.argwhere(found.masked).min(0).tolist() == [100 - reach, 100 - reach]
    assert found.masked.sum() == (2 * reach + 1) ** 2


def test_masked_pixels_of_the_science_image_do_not_spread(stars):
    rng = np.random.default_rng(5)
    positions, reference = stars
    pair = pair_of(gaussian_filter(reference, 1.4), reference, rng)
    pair.science_masked[:] = rng.random(reference.shape) < 0.01
    found = subtract(pair, positions, (4.2, 2.5))
    np.testing.assert_array_equal(found.masked, pair.science_masked)
    assert len(found.stars) > 20


@pytest.mark.parametrize("unit", [1e-3, 1e3])
def test_the_units_of_the_reference_do_not_matter(stars, unit):
    positions, reference = stars
    pair = pair_of(gaussian_filter(reference, 1.4), reference, np.random.default_rng(1))
    other = Pair(
        pair.science, pair.reference * unit, pair.science_variance, pair.reference_variance * unit**2,
        pair.science_masked, pair.reference_masked,
    )  # fmt: skip
    first, second = (subtract(each, positions, (4.2, 2.5)) for each in (pair, other))
    assert second.residual == pytest.approx(first.residual, rel=1e-3)
    assert second.kernel.scale == pytest.approx(first.kernel.scale / unit, rel=1e-4)


def test_spread_is_a_square():
    masked = np.zeros((20, 20), bool)
    masked[3, 15] = True
    assert np.argwhere(spread(masked, 2)).tolist() == [[y, x] for y in range(1, 6) for x in range(13, 18)]


@pytest.mark.parametrize("wrong", [{"order": -1}, {"order": 9}, {"reach": 0}])
def test_settings_that_make_no_sense(wrong):
    with pytest.raises(UsageError):
        KernelSettings(**wrong)


def test_too_few_stars():
    empty = np.zeros((SIZE, SIZE))
    pair = Pair(empty, empty, empty + 1, empty + 1, *np.zeros((2, *empty.shape), bool))
    with pytest.raises(SourceError, match="2 bright sources"):
        subtract(pair, np.array([[200, 200], [100, 100], [1, 1]]), (4, 3))


def test_the_basis_conserves_flux():
    totals = kernel_basis(1.2, 8).sum((1, 2))
    assert totals[0] == pytest.approx(1)
    np.testing.assert_allclose(totals[1:], 0, atol=1e-9)
    assert len(totals) == 28 + 15 + 6


def test_polynomials_are_those_of_their_degree():
    terms = polynomials(np.array([[50.0, 75.0]]), (100, 100), 2)
    np.testing.assert_allclose(sorted(terms[0]), sorted([1, 0, 0, 0.5, 0, 0.25]))


def test_the_total_of_the_kernel_is_the_same_everywhere():
    rng = np.random.default_rng(0)
    basis = kernel_basis(1.0, 6)
    coefficients = rng.normal(0, 0.1, (6, len(basis)))
    coefficients[:, 0] = [0.8, 0, 0, 0, 0, 0]
    kernel = Kernel(basis, coefficients, np.zeros(6), 2, (100, 100))
    assert [kernel.at(y, x).sum() for y, x in ((3, 9), (90, 10), (50, 50))] == pytest.approx([0.8] * 3)
