"""Sources are inserted into copies, with the flux, place and looks that are asked for, and the originals stay."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import sep
from astropy.io import fits
from fields import FIELD, simple_wcs, true_star, write_image

from otrain_infer.errors import OutputError, SourceError, UsageError
from otrain_train.images import ImageSettings, read_image
from otrain_train.mock_images import mock_pair, moffat
from otrain_train.psf import GridPointSpread
from otrain_train.sim import KEYWORD, SimSettings, insert, simulate
from otrain_train.simulated_objects import SimulatedObjects, read_simulated_objects

MARGIN = 16


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One simulation: the folder of the image, what was said, what was inserted."""
    folder = tmp_path_factory.mktemp("sim")
    image = mock_pair(FIELD, 0)[0]
    image.writeto(folder / "a.fits")
    before = digest(folder / "a.fits")
    summary = simulate(folder, None, SimSettings(60, (15, 21), "MAGZERO", seed=5))
    assert digest(folder / "a.fits") == before
    return folder, summary, read_simulated_objects(folder / "simulation/simulated_objects.list")


def added(folder: Path, name: str = "a.fits"):
    """The copy less the original, 0 where masked."""
    original, copy = read_image(folder / name), read_image(folder / "simulation" / name)
    return np.where(original.masked | copy.masked, 0, copy.pixels - original.pixels)


def test_the_list_has_the_columns_of_gmadet(run):
    folder, _, objects = run
    first = (folder / "simulation/simulated_objects.list").read_text().splitlines()[0]
    assert first.split() == ["#", "idx", "filename", "Xpos", "Ypos", "RA", "Dec", "mag", "filter", "count_ADU"]
    assert objects.idx.tolist() == list(range(60))
    assert set(objects.files) == {"a.fits"}
    assert ((objects.mags >= 15) & (objects.mags <= 21)).all()


def test_positions_in_the_sky_are_those_of_the_header(run):
    folder, _, objects = run
    from astropy.wcs import WCS

    ra, dec = WCS(fits.getheader(folder / "a.fits")).all_pix2world(objects.x, objects.y, 1)
    np.testing.assert_allclose(objects.ra, ra, atol=1e-7)
    np.testing.assert_allclose(objects.dec, dec, atol=1e-7)


def test_the_flux_is_that_of_the_magnitude_by_photometry(run):
    folder, _, objects = run
    difference = added(folder)
    zero_point = fits.getheader(folder / "a.fits")["MAGZERO"]
    flux, _, _ = sep.sum_circle(difference, objects.x - 1, objects.y - 1, 16.0)
    inserted = 10 ** (-0.4 * (objects.mags - zero_point))
    np.testing.assert_allclose(flux, objects.counts, rtol=0.02)
    # All the light, whose Poisson noise is far below a percent; the aperture holds all but a few thousandths of it.
    assert objects.counts.sum() / inserted.sum() == pytest.approx(1, abs=0.002)
    assert flux.sum() / inserted.sum() == pytest.approx(1, abs=0.005)
    bright = inserted > 1e4
    assert np.median(flux[bright] / inserted[bright]) == pytest.approx(1, abs=0.01)


def test_they_look_like_the_stars_of_the_image(run):
    folder, _, objects = run
    difference = added(folder)
    bright = np.argsort(objects.mags)[:12]
    ratios = []
    for y, x, counts in zip(objects.y[bright] - 1, objects.x[bright] - 1, objects.counts[bright], strict=True):
        top, left = round(y) - 12, round(x) - 12
        truth = true_star(FIELD, y, x, top, left, (25, 25))
        stamp = difference[top : top + 25, left : left + 25]
        ratios.append((stamp * truth).sum() / (truth**2).sum() / counts)
    assert np.median(ratios) == pytest.approx(1, abs=0.04)


def test_they_are_where_the_list_says(run):
    folder, _, objects = run
    difference = added(folder)
    bright = np.argsort(objects.mags)[:20]
    x, y = objects.x[bright] - 1, objects.y[bright] - 1
    found_x, found_y, _ = sep.winpos(difference, x, y, 1.7)
    assert np.hypot(found_x - x, found_y - y).max() < 0.1


def test_they_keep_apart_and_away_from_the_border(run):
    _, summary, objects = run
    size = FIELD.size
    for axis in (objects.x, objects.y):
        assert axis.min() > MARGIN
        assert axis.max() < size - MARGIN
    apart = np.hypot(objects.x[:, None] - objects.x, objects.y[:, None] - objects.y)
    assert apart[~np.eye(60, dtype=bool)].min() > 5 * summary.images[0].fwhm


def test_the_noise_is_that_of_poisson():
    y, x = np.indices((41, 41)) - 20.0
    psf = GridPointSpread(moffat(y, x, 4.0)[None, None], 1, (4000, 100))
    positions = np.stack([np.linspace(50, 3950, 300).round(), np.full(300, 50.0)], axis=1)
    gain, flux = 2.0, 500.0
    pixels = np.zeros((4000, 100))
    counts = insert(pixels, positions, np.full(300, flux), psf, gain, np.random.default_rng(0))
    assert counts.mean() == pytest.approx(flux, rel=0.01)
    assert counts.var() == pytest.approx(flux / gain, rel=0.3)
    electrons = pixels * gain
    np.testing.assert_allclose(electrons, electrons.round(), atol=1e-9)


def test_no_noise_and_negative_sources():
    y, x = np.indices((41, 41)) - 20.0
    psf = GridPointSpread(moffat(y, x, 4.0)[None, None], 1, (100, 100))
    pixels = np.zeros((100, 100))
    counts = insert(pixels, np.array([[30.0, 30.0], [70.0, 70.0]]), np.array([100.0, -50.0]), psf, np.inf, None)
    assert counts == pytest.approx([100, -50])
    assert pixels[:50].sum() == pytest.approx(100)
    assert pixels[50:].min() < 0


def test_a_source_at_the_very_corner_keeps_the_light_that_is_inside():
    y, x = np.indices((21, 21)) - 10.0
    psf = GridPointSpread(moffat(y, x, 3.0)[None, None], 1, (50, 50))
    pixels = np.zeros((50, 50))
    insert(pixels, np.array([[0.0, 49.0]]), np.array([100.0]), psf, np.inf, None)
    assert 20 < pixels.sum() < 45
    assert np.unravel_index(pixels.argmax(), pixels.shape) == (0, 49)


def test_the_same_seed_gives_the_same_sources_whatever_other_images_there_are(run, tmp_path):
    folder, _, objects = run
    for name in ("a.fits", "0_other.fits"):
        (tmp_path / name).write_bytes((folder / "a.fits").read_bytes())
    simulate(tmp_path, tmp_path / "out", SimSettings(60, (15, 21), "MAGZERO", seed=5))
    again = read_simulated_objects(tmp_path / "out/simulated_objects.list")
    mine = again.files == "a.fits"
    np.testing.assert_array_equal(again.x[mine], objects.x)
    np.testing.assert_array_equal(again.counts[mine], objects.counts)
    assert not np.array_equal(again.x[~mine], objects.x)
    assert again.idx.tolist() == list(range(120))


def test_masked_pixels_are_avoided_and_stay_as_they_are(tmp_path):
    image = mock_pair(FIELD, 0)[0]
    image.data[:, :256] = np.nan
    image.writeto(tmp_path / "a.fits")
    simulate(tmp_path, None, SimSettings(30, (15, 21), "MAGZERO"))
    objects = read_simulated_objects(tmp_path / "simulation/simulated_objects.list")
    assert objects.x.min() > 260
    copy = fits.getdata(tmp_path / "simulation/a.fits")
    assert np.isnan(copy[:, :256]).all()


def test_integers_stay_integers_and_saturate(tmp_path):
    image = mock_pair(FIELD, 0)[0]
    pixels = np.clip(image.data, 0, 60_000).astype(np.uint16)
    write_image(tmp_path / "a.fit", pixels, GAIN=1.0)
    simulate(tmp_path, None, SimSettings(10, (10, 10), 30.0))
    copy = fits.getdata(tmp_path / "simulation/a.fit")
    assert copy.dtype == np.uint16
    assert copy.max() == 65535
    objects = read_simulated_objects(tmp_path / "simulation/simulated_objects.list")
    for y, x in zip(objects.y, objects.x, strict=True):
        assert copy[round(y) - 1, round(x) - 1] == 65535
    assert np.isnan(objects.ra).all()


def test_an_extension_keeps_its_place(tmp_path):
    image = mock_pair(FIELD, 0)[0]
    others = fits.ImageHDU(np.arange(12).reshape(3, 4), name="OTHER")
    fits.HDUList([fits.PrimaryHDU(), others, fits.ImageHDU(image.data, image.header, name="SCI")]).writeto(
        tmp_path / "a.fits"
    )
    simulate(tmp_path, None, SimSettings(10, (15, 16), "MAGZERO"))
    with fits.open(tmp_path / "simulation/a.fits") as copy:
        assert [hdu.name for hdu in copy] == ["PRIMARY", "OTHER", "SCI"]
        np.testing.assert_array_equal(copy[1].data, others.data)
        assert copy[2].header[KEYWORD] == 10


def test_near_galaxies(tmp_path):
    rng = np.random.default_rng(0)
    size = 600
    pixels = rng.normal(100, 3, (size, size))
    rows, columns = np.indices((31, 31)) - 15.0
    stars = rng.uniform(30, size - 30, (25, 2))
    galaxies = np.stack(np.meshgrid([100, 300, 500], [100, 300, 500]), -1).reshape(-1, 2)
    for y, x in stars.round().astype(int):
        pixels[y - 15 : y + 16, x - 15 : x + 16] += 20_000 * moffat(rows, columns, 3.0)
    for y, x in galaxies:
        pixels[y - 15 : y + 16, x - 15 : x + 16] += 20_000 * moffat(rows, columns, 10.0)
    write_image(tmp_path / "a.fits", pixels.astype(np.float32), simple_wcs(size=size), GAIN=1.0)
    simulate(tmp_path, None, SimSettings(8, (20, 21), 30.0, near_galaxies=True))
    objects = read_simulated_objects(tmp_path / "simulation/simulated_objects.list")
    nearest = np.hypot(objects.y[:, None] - 1 - galaxies[:, 0], objects.x[:, None] - 1 - galaxies[:, 1]).min(1)
    assert np.median(nearest) < 12
    assert nearest.max() < 40


def test_half_of_the_sources_are_negative(tmp_path, run):
    (tmp_path / "a.fits").write_bytes((run[0] / "a.fits").read_bytes())
    simulate(tmp_path, None, SimSettings(60, (15, 19), "MAGZERO", negative=0.5))
    counts = read_simulated_objects(tmp_path / "simulation/simulated_objects.list").counts
    assert 15 < (counts < 0).sum() < 45


def test_a_psf_beside_the_image_is_taken(tmp_path, run):
    (tmp_path / "a.fits").write_bytes((run[0] / "a.fits").read_bytes())
    y, x = np.indices((41, 41)) - 20.0
    write_image(tmp_path / "star.fits", moffat(y, x, 9.0)).rename(tmp_path / "a.psf")
    assert simulate(tmp_path, None, SimSettings(5, (15, 19), "MAGZERO")).images[0].fwhm == pytest.approx(9, rel=0.02)


def test_one_bad_image_does_not_stop_the_others(tmp_path, run):
    (tmp_path / "b.fits").write_bytes((run[0] / "a.fits").read_bytes())
    (tmp_path / "a.fits").write_bytes(b"no FITS")
    summary = simulate(tmp_path, None, SimSettings(5, (15, 19), "MAGZERO"))
    assert [each.name for each in summary.images] == ["b.fits"]
    assert "left out: the image" in str(summary)


def test_what_cannot_be_done_is_said(tmp_path, run):
    image = mock_pair(FIELD, 0)[0]
    del image.header["GAIN"]
    image.writeto(tmp_path / "a.fits")
    with pytest.raises(SourceError, match=r"does not say its gain.*--gain"):
        simulate(tmp_path, None, SimSettings(5))
    settings = SimSettings(5, (15, 16), "MAGZERO", images=ImageSettings(gain=2.0))
    with pytest.raises(OutputError, match="holds the images themselves"):
        simulate(tmp_path, tmp_path, settings)
    with pytest.raises(SourceError, match="no number under the keyword NONE"):
        simulate(tmp_path, None, SimSettings(5, zero_point="NONE", images=ImageSettings(gain=2.0)))
    simulate(tmp_path, None, settings)
    with pytest.raises(SourceError, match="copy that sources were inserted into already"):
        simulate(tmp_path / "simulation", None, settings)


def test_copies_of_an_earlier_run_that_no_list_would_tell_of(tmp_path, run):
    for name in ("a.fits", "b.fits"):
        (tmp_path / name).write_bytes((run[0] / "a.fits").read_bytes())
    settings = SimSettings(5, (15, 16), "MAGZERO")
    simulate(tmp_path, None, settings)
    (tmp_path / "b.fits").write_bytes(b"broken now")
    simulate(tmp_path, None, settings)
    assert not (tmp_path / "simulation/b.fits").exists()
    (tmp_path / "a.fits").rename(tmp_path / "c.fits")
    with pytest.raises(OutputError, match=r"a\.fits' is a copy of an image that is not among these"):
        simulate(tmp_path, None, settings)


def test_no_image_of_the_user_is_replaced_or_removed(tmp_path, run):
    data, others = tmp_path / "data", tmp_path / "others"
    for folder in (data, others):
        folder.mkdir()
        (folder / "a.fits").write_bytes((run[0] / "a.fits").read_bytes())
    before = digest(others / "a.fits")
    settings = SimSettings(5, (15, 16), "MAGZERO")
    with pytest.raises(OutputError, match="no copy that otrain-sim has written"):
        simulate(data, others, settings)
    assert digest(others / "a.fits") == before
    links = tmp_path / "links"
    links.mkdir()
    (links / "a.fits").symlink_to(data / "a.fits")
    with pytest.raises(OutputError, match="no copy that otrain-sim has written"):
        simulate(data, links, settings)
    assert digest(data / "a.fits") == before


def test_what_goes_with_an_image_goes_with_its_copy(tmp_path, run):
    (tmp_path / "a.fits").write_bytes((run[0] / "a.fits").read_bytes())
    write_image(tmp_path / "a.weight.fits", np.ones((FIELD.size, FIELD.size), np.float32))
    simulate(tmp_path, None, SimSettings(5, (15, 16), "MAGZERO"))
    assert digest(tmp_path / "simulation/a.weight.fits") == digest(tmp_path / "a.weight.fits")


@pytest.mark.parametrize("wrong", [{"n_sources": 0}, {"mag_range": (20, 14)}, {"negative": 2.0}, {"seed": -1}])
def test_settings_that_make_no_sense(wrong):
    with pytest.raises(UsageError):
        SimSettings(**wrong)


def test_a_range_of_magnitudes_that_tells_nothing_is_told(tmp_path, run):
    (tmp_path / "a.fits").write_bytes((run[0] / "a.fits").read_bytes())
    said = str(simulate(tmp_path, None, SimSettings(5, (30, 31), "MAGZERO")))
    assert "every source is fainter than what is just found" in said


def test_a_list_reads_back_as_it_was_written(tmp_path):
    objects = SimulatedObjects(
        np.arange(2), np.array(["a b.fits", "c.fits"]), np.array([1.5, 2]), np.array([3.0, 4]),
        np.array([10.0, np.nan]),
        np.array([-5.0, np.nan]), np.array([20.0, 21]), np.array(["r", "none"]), np.array([5.0, -6]),
    )  # fmt: skip
    objects.write(tmp_path / "simulated_objects.list")
    again = read_simulated_objects(tmp_path / "simulated_objects.list")
    for name in SimulatedObjects.__slots__:
        np.testing.assert_array_equal(getattr(again, name), getattr(objects, name))


def test_a_list_of_gmadet(tmp_path):
    path = tmp_path / "simulated_objects.list"
    path.write_text("# idx filename Xpos Ypos RA Dec mag filter\n0 /d/sim/a.fits 10.5 20.5 150.1 2.2 18.25 r\n")
    objects = read_simulated_objects(path)
    assert objects.names.tolist() == ["a.fits"]
    assert np.isnan(objects.counts).all()
    path.write_text("# idx filename\n0 a\n")
    with pytest.raises(SourceError, match="no column Xpos"):
        read_simulated_objects(path)
    path.write_text("# idx filename Xpos\n0 a\n1\n")
    with pytest.raises(SourceError, match="cannot be read"):
        read_simulated_objects(path)
