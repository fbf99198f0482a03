"""Point spread functions, measured and read, against the truth and against PSFEx's own definition."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import sep
from astropy.io import fits
from fields import FIELD, SIZE, true_star, write_image

from otrain_infer.errors import SourceError
from otrain_train.images import read_image
from otrain_train.mock_images import mock_pair, moffat
from otrain_train.photometry import Sky, Sources, common_radius, find_sources, find_stars, subtract_sky
from otrain_train.psf import PsfexPointSpread, full_width, held_in_aperture, measure_psf, read_psf

PLACES = [(100.3, 120.8), (256.0, 256.0), (400.5, 90.1), (410.9, 430.2)]


@pytest.fixture(scope="module")
def field(tmp_path_factory):
    path = tmp_path_factory.mktemp("field") / "a.fits"
    mock_pair(FIELD, 0)[0].writeto(path)
    return read_image(path)


@pytest.fixture(scope="module")
def measured(field):
    sky = subtract_sky(field.pixels, field.masked)
    sources = find_sources(sky, 5)
    return measure_psf(sky, sources, find_stars(sky, sources, field.saturation), field.path)


@pytest.mark.parametrize(("y", "x"), PLACES)
def test_a_star_looks_as_it_truly_does(measured, y, x):
    top, left, stamp = measured.stamp(y, x)
    truth = true_star(FIELD, y, x, top, left, stamp.shape)
    assert stamp.sum() == pytest.approx(1)
    # The flux that the true profile would be fitted with.
    assert (stamp * truth).sum() / (truth**2).sum() == pytest.approx(1, abs=0.06)
    rows, columns = np.arange(top, top + len(stamp)), np.arange(left, left + len(stamp))
    core = np.maximum(stamp - stamp.max() / 10, 0)
    centre = (core.sum(1) @ rows / core.sum(), core.sum(0) @ columns / core.sum())
    assert np.hypot(centre[0] - y, centre[1] - x) < 0.1


@pytest.mark.parametrize("exponent", [2.5, 4.765, 10.0, np.inf])
def test_the_light_of_stars_of_any_profile_is_all_there(exponent):
    # Stars that are drawn here: a Moffat profile, and a Gaussian.
    rng = np.random.default_rng(5)
    n, width = 500, 3.5
    radius = width / 2 / np.sqrt(2 ** (1 / exponent) - 1 if np.isfinite(exponent) else np.log(2))
    rows, columns = np.indices((n, n))

    def star(y, x):
        distance2 = ((rows - y) ** 2 + (columns - x) ** 2) / radius**2
        if np.isfinite(exponent):
            return (exponent - 1) / (np.pi * radius**2) * (1 + distance2) ** -exponent
        return np.exp(-distance2) / (np.pi * radius**2)

    places, fluxes = rng.uniform(0, n, (60, 2)), 10 ** rng.uniform(3.5, 5.2, 60)
    pixels = 300.0 + sum(flux * star(y, x) for flux, (y, x) in zip(fluxes, places, strict=True))
    sky = subtract_sky(rng.poisson(pixels).astype(float), np.zeros((n, n), bool))
    sources = find_sources(sky, 5)
    psf = measure_psf(sky, sources, find_stars(sky, sources, 1e5), Path("a.fits"))
    y, x = 250.3, 249.6
    for aperture in (2.0, 3.0, 5.0):
        truth, _, _ = sep.sum_circle(star(y, x), [x], [y], aperture, subpix=0)
        assert held_in_aperture(psf, y, x, aperture) == pytest.approx(truth[0], rel=0.015)


def test_the_width_is_that_at_half_maximum():
    y, x = np.indices((61, 61)) - 30.0

    class Star:
        fwhm, half = 4.0, 30

        def stamp(self, row, column):
            return 0, 0, moffat(y, x, 4.0, 1.3, 0.4)

    assert full_width(Star(), 30, 30) == pytest.approx(4.0, rel=0.01)


def test_stars_are_told_from_galaxies_and_cosmic_rays():
    radii = np.array([0.9, 1.0, 2.1, 2.15, 2.2, 2.18, 2.12, 2.2, 4.0, 5.5, 7.0])
    assert common_radius(radii) == pytest.approx(2.16, abs=0.05)
    n = len(radii)
    sources = Sources(*np.full((2, n), 50.0), np.full(n, 99.0), radii, np.ones(n), np.zeros(n, np.int64))
    sky = Sky(np.zeros((100, 100)), np.ones((100, 100)), np.zeros((100, 100), bool))
    assert find_stars(sky, sources, 1e5).tolist() == [False, False, *[True] * 6, False, False, False]


def test_an_image_without_stars_says_so():
    sky = Sky(np.zeros((100, 100)), np.ones((100, 100)), np.zeros((100, 100), bool))
    nothing = Sources(*(np.empty(0) for _ in range(5)), np.empty(0, np.int64))
    with pytest.raises(SourceError, match=r"cannot be measured: no bright.*--psf"):
        measure_psf(sky, nothing, np.empty(0, bool), Path("a.fits"))


def psfex_file(path, images, degree, step=0.5, zeros=(256.5, 250.5), scales=(500.0, 480.0)):
    """A file as PSFEx writes it, of any images."""
    table = fits.BinTableHDU.from_columns(
        [fits.Column("PSF_MASK", f"{images.size}E", dim=str(images.shape[::-1]), array=images[None].astype("f4"))]
    )
    header = table.header
    header["EXTNAME"], header["POLNAXIS"], header["POLNGRP"] = "PSF_DATA", 2 if degree else 0, 1
    for k, name in enumerate(("X_IMAGE", "Y_IMAGE"), 1):
        header[f"POLGRP{k}"], header[f"POLNAME{k}"] = 1, name
        header[f"POLZERO{k}"], header[f"POLSCAL{k}"] = zeros[k - 1], scales[k - 1]
    header["POLDEG1"], header["PSF_SAMP"] = degree, step
    header["PSFNAXIS"], header["PSFAXIS1"], header["PSFAXIS2"] = 3, images.shape[2], images.shape[1]
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path)
    return path


def test_the_terms_of_psfex_are_in_its_order(tmp_path):
    y, x = np.indices((51, 51)) - 25.0
    widths = (6.0, 6.5, 7.0, 5.0, 5.5, 8.0)
    images = np.array([moffat(y, x, width) for width in widths])
    psf = read_psf(psfex_file(tmp_path / "a.psf", images, 2), (SIZE, SIZE))
    assert isinstance(psf, PsfexPointSpread)
    u, v = (300 + 1 - 256.5) / 500, (200 + 1 - 250.5) / 480
    mixed = np.tensordot([1, u, u * u, v, u * v, v * v], images, 1)
    top, left, stamp = psf.stamp(200, 300)
    middle = len(stamp) // 2
    assert (top + middle, left + middle) == (200, 300)
    expected = mixed[25 - 2 * middle : 26 + 2 * middle : 2, 25 - 2 * middle : 26 + 2 * middle : 2]
    np.testing.assert_allclose(stamp, expected / expected.sum(), atol=2e-6)


@pytest.mark.skipif(not shutil.which("psfex"), reason="PSFEx is not installed")
def test_a_file_of_psfex_itself(tmp_path, field):
    field_path = tmp_path / "a.fits"
    field_path.write_bytes(field.path.read_bytes())
    (tmp_path / "a.param").write_text(
        "VIGNET(25,25)\nX_IMAGE\nY_IMAGE\nFLUX_RADIUS\nSNR_WIN\nFLUX_APER(1)\nFLUXERR_APER(1)\nELONGATION\nFLAGS\n"
    )
    (tmp_path / "a.conv").write_text("CONV NORM\n1 2 1\n2 4 2\n1 2 1\n")
    options = {
        "PARAMETERS_NAME": "a.param", "FILTER_NAME": "a.conv", "CATALOG_NAME": "a.cat", "CATALOG_TYPE": "FITS_LDAC",
        "PHOT_APERTURES": "14", "STARNNW_NAME": "none", "SATUR_KEY": "SATURATE", "GAIN_KEY": "GAIN",
    }  # fmt: skip
    words = [word for key, value in options.items() for word in (f"-{key}", value)]
    subprocess.run(["source-extractor", "a.fits", *words], cwd=tmp_path, check=True, capture_output=True)
    subprocess.run(
        ["psfex", "a.cat", "-CHECKIMAGE_TYPE", "NONE", "-CHECKPLOT_TYPE", "NONE", "-SAMPLE_MINSN", "20"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    psf = read_psf(tmp_path / "a.psf", (SIZE, SIZE))
    for y, x in PLACES:
        top, left, stamp = psf.stamp(y, x)
        truth = true_star(FIELD, y, x, top, left, stamp.shape)
        assert (stamp * truth).sum() / (truth**2).sum() == pytest.approx(1, abs=0.05)


def test_an_image_of_a_star_is_a_point_spread_function(tmp_path):
    y, x = np.indices((61, 61)) - 30.0
    path = write_image(tmp_path / "star.fits", moffat(y, x, 8.0) * 55, OVERSAMP=2)
    psf = read_psf(path, (SIZE, SIZE))
    assert psf.fwhm == pytest.approx(4.0, rel=0.02)
    assert psf.stamp(10.0, 20.0)[2].sum() == pytest.approx(1)


def test_what_is_no_point_spread_function(tmp_path):
    for name, pixels, said in (
        ("even", np.ones((8, 8)), "odd number"),
        ("dark", np.zeros((9, 9)), "no light"),
        ("flat", np.ones((9, 11)), "square"),
    ):
        with pytest.raises(SourceError, match=said):
            read_psf(write_image(tmp_path / f"{name}.fits", pixels), (SIZE, SIZE))
    (tmp_path / "text.psf").write_text("no FITS")
    for missing in ("text.psf", "none.psf"):
        with pytest.raises(SourceError, match="cannot be read"):
            read_psf(tmp_path / missing, (SIZE, SIZE))
