"""Images of any telescope are read: where the image is, what is masked, what its header says."""

import numpy as np
import pytest
from astropy.io import fits
from fields import simple_wcs, write_image

from otrain_infer.errors import SourceError, UsageError
from otrain_train.bad_pixels import stem_of
from otrain_train.images import ImageSettings, find_images, read_image

RNG = np.random.default_rng(0)
SKY = RNG.normal(100, 5, (80, 100)).astype(np.float32)


def test_a_plain_image_and_its_keywords(tmp_path):
    path = write_image(
        tmp_path / "a.fits", SKY, simple_wcs(), GAIN=2.5, SATURATE=200.0, FILTER="i DECam c0003", MJD_OBS=60000.5
    )
    image = read_image(path)
    np.testing.assert_array_equal(image.pixels, SKY)
    assert image.pixels.dtype.isnative
    assert (image.gain, image.saturation, image.band, image.mjd) == (2.5, 200.0, "i", 60000.5)
    assert image.pixel_scale() == pytest.approx(0.5)
    assert not image.masked.any()


def test_positions_are_those_of_astropy(tmp_path):
    wcs = simple_wcs()
    image = read_image(write_image(tmp_path / "a.fits", SKY, wcs))
    ra, dec = image.sky_position([10.0, 70.5], [3.25, 99.0])
    np.testing.assert_allclose(np.array([ra, dec]), wcs.all_pix2world([3.25, 99.0], [10.0, 70.5], 0))


def test_an_image_without_wcs_has_no_positions(tmp_path):
    image = read_image(write_image(tmp_path / "a.fits", SKY))
    assert image.wcs is None
    assert np.isnan(image.sky_position(1, 1)).all()
    assert np.isnan(image.pixel_scale())


def test_what_is_masked(tmp_path):
    pixels = SKY.copy()
    pixels[0, 0], pixels[1, 1], pixels[2, 2] = np.nan, np.inf, 500
    path = write_image(tmp_path / "a.fits", pixels, SATURATE=500.0)
    weight = np.ones_like(SKY)
    weight[3, 3] = 0
    write_image(tmp_path / "a.weight.fits", weight)
    masked = read_image(path).masked
    assert [tuple(each) for each in np.argwhere(masked)] == [(0, 0), (1, 1), (2, 2), (3, 3)]
    assert find_images(tmp_path) == [path]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [("MASK", 4, True), ("BPM", 1, True), ("DQ", 1, True), ("DQ", 2, True), ("WHT", 0, True), ("ERR", 0, False)],
)
def test_maps_in_the_same_file(tmp_path, name, value, expected):
    good = np.full(SKY.shape, 0 if name in ("MASK", "BPM", "DQ") else 1, np.int32 if name == "DQ" else np.float32)
    good[5, 6] = value
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(SKY, name="SCI"), fits.ImageHDU(good, name=name)]).writeto(
        tmp_path / "a.fits"
    )
    image = read_image(tmp_path / "a.fits")
    assert image.extension == 1
    assert bool(image.masked[5, 6]) is expected
    assert image.masked.sum() == int(expected)


def test_a_map_of_other_pixels_is_refused(tmp_path):
    path = write_image(tmp_path / "a.fits", SKY)
    write_image(tmp_path / "a_mask.fits", np.zeros((10, 10)))
    with pytest.raises(SourceError, match="10 x 10 pixels, and the image 100 x 80"):
        read_image(path)


def test_each_chip_has_the_maps_that_follow_it(tmp_path):
    clean, bad = np.zeros(SKY.shape, np.int16), np.ones(SKY.shape, np.int16)
    planes = [fits.ImageHDU(SKY, name="SCI"), fits.ImageHDU(clean, name="DQ"), fits.ImageHDU(SKY, name="SCI")]
    fits.HDUList([fits.PrimaryHDU(), *planes, fits.ImageHDU(bad, name="DQ")]).writeto(tmp_path / "a.fits")
    assert not read_image(tmp_path / "a.fits", ImageSettings("1")).masked.any()
    with pytest.raises(SourceError, match="100% of its pixels are masked"):
        read_image(tmp_path / "a.fits", ImageSettings("3"))


def test_bits_of_dq_count_by_telescope(tmp_path):
    flags = np.zeros(SKY.shape, np.int32)
    flags[1, 1], flags[2, 2] = 1, 4
    for telescope, expected in (("JWST", 1), ("HST", 2)):
        primary = fits.PrimaryHDU()
        primary.header["TELESCOP"] = telescope
        path = tmp_path / f"{telescope}.fits"
        fits.HDUList([primary, fits.ImageHDU(SKY, name="SCI"), fits.ImageHDU(flags, name="DQ")]).writeto(path)
        assert read_image(path).masked.sum() == expected


def test_zeros_at_the_border_are_no_sky(tmp_path):
    pixels = SKY.copy()
    pixels[:, :20], pixels[40, 50] = 0, 0
    masked = read_image(write_image(tmp_path / "a.fits", pixels)).masked
    assert masked[:, :20].all()
    assert masked.sum() == 80 * 20


@pytest.mark.parametrize(
    ("keywords", "gain"),
    [
        ({"GAIN": 100, "EGAIN": 0.25}, 0.25),
        ({"GAIN": 1.5, "EGAIN": 0}, 1.5),
        ({"GAIN": 0}, None),
        ({"GAIN": "x"}, None),
    ],
)
def test_the_gain_is_the_first_that_makes_sense(tmp_path, keywords, gain):
    assert read_image(write_image(tmp_path / "a.fits", SKY, **keywords)).gain == gain


@pytest.mark.parametrize(("said", "band"), [("Johnson V", "V"), ("SDSS g", "g"), ("Clear", "Clear"), ("SDSS", "SDSS")])
def test_the_filter_is_not_its_system(tmp_path, said, band):
    assert read_image(write_image(tmp_path / "a.fits", SKY, FILTER=said)).band == band


def test_the_wcs_of_an_extension_is_its_own(tmp_path):
    primary = fits.PrimaryHDU()
    primary.header["PC1_1"], primary.header["PC2_2"] = 1.0, 1.0
    extension = fits.ImageHDU(SKY, simple_wcs().to_header(), name="SCI")
    fits.HDUList([primary, extension]).writeto(tmp_path / "a.fits")
    assert read_image(tmp_path / "a.fits").pixel_scale() == pytest.approx(0.5)


def test_only_a_date_says_when(tmp_path):
    image = read_image(write_image(tmp_path / "a.fits", SKY, DATE_OBS="2023-02-25T00:00:00"))
    assert image.mjd == pytest.approx(60000.0)


def test_two_images_of_one_name(tmp_path):
    for name in ("a.fits", "a.fit"):
        write_image(tmp_path / name, SKY)
    with pytest.raises(SourceError, match="two images called a"):
        find_images(tmp_path)


def test_integers_saturate_at_their_largest_value(tmp_path):
    pixels = np.full((80, 100), 8000, np.uint16)
    pixels[7, 7] = 65535
    image = read_image(write_image(tmp_path / "a.fit", pixels))
    assert image.saturation == 65535
    assert np.argwhere(image.masked).tolist() == [[7, 7]]


@pytest.mark.parametrize("kind", ["gz", "fz"])
def test_compressed_images(tmp_path, kind):
    path = tmp_path / f"a.fits.{kind}"
    if kind == "gz":
        fits.PrimaryHDU(SKY).writeto(path)
    else:
        fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(SKY, compression_type="GZIP_2", quantize_level=0)]).writeto(
            path
        )
    np.testing.assert_array_equal(read_image(path).pixels, SKY)
    assert stem_of(path) == "a"


def test_the_primary_header_counts_where_the_extension_says_nothing(tmp_path):
    primary = fits.PrimaryHDU()
    primary.header["GAIN"], primary.header["FILTER"] = 3.0, "r"
    extension = fits.ImageHDU(SKY, name="CCD1")
    extension.header["GAIN"] = 1.5
    fits.HDUList([primary, extension]).writeto(tmp_path / "a.fits")
    image = read_image(tmp_path / "a.fits")
    assert (image.gain, image.band) == (1.5, "r")


def test_one_of_several_images_has_to_be_named(tmp_path):
    path = tmp_path / "a.fits"
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(SKY, name="N1"), fits.ImageHDU(SKY + 1, name="N2")]).writeto(path)
    with pytest.raises(SourceError, match="several images \\(1 N1, 2 N2\\): name one with --extension"):
        read_image(path)
    for wanted in ("n2", "2"):
        np.testing.assert_array_equal(read_image(path, ImageSettings(wanted)).pixels, SKY + 1)
    with pytest.raises(SourceError, match="no image called 'N3'"):
        read_image(path, ImageSettings("N3"))


def _truncated(path):
    write_image(path, SKY)
    path.write_bytes(path.read_bytes()[:4000])


def _no_fits(path):
    path.write_bytes(b"hello" * 1000)


def _empty(path):
    path.touch()


def _table(path):
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU.from_columns([fits.Column("a", "E", array=[1.0])])]).writeto(path)


def _blank(path):
    write_image(path, np.full((80, 100), np.nan, np.float32))


def _small(path):
    write_image(path, SKY[:20, :20])


@pytest.mark.parametrize("spoil", [_truncated, _no_fits, _empty, _table, _blank, _small])
def test_what_is_no_image_is_told_in_one_sentence(tmp_path, spoil):
    path = tmp_path / "bad.fits"
    spoil(path)
    with pytest.raises(SourceError, match=r"bad\.fits") as raised:
        read_image(path)
    assert "\n" not in str(raised.value)


def test_a_folder_without_images(tmp_path):
    with pytest.raises(SourceError, match="no image in the folder"):
        find_images(tmp_path)
    with pytest.raises(SourceError, match="cannot be read"):
        find_images(tmp_path / "none")


def test_a_gain_that_makes_no_sense():
    with pytest.raises(UsageError, match="gain"):
        ImageSettings(gain=-1)
