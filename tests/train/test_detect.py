"""References are aligned, matched and subtracted, and what was inserted is found, where it was and as bright."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from fields import SIZE, simple_wcs, write_image

from otrain_infer.errors import OutputError, SourceError, UsageError
from otrain_train.align import align, same_grid
from otrain_train.candidates_list import COLUMNS, check_replaceable, from_table, read_candidates
from otrain_train.catalogue import CatalogueSettings, import_catalogue
from otrain_train.detect import DetectSettings, detect
from otrain_train.images import ImageSettings, read_image
from otrain_train.match import match
from otrain_train.mock_images import MockImageSettings, write_mock_images
from otrain_train.references import References
from otrain_train.sim import SimSettings, simulate
from otrain_train.simulated_objects import read_simulated_objects


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """A folder with one pair, sources inserted (a fifth of them negative), and candidates."""
    folder = tmp_path_factory.mktemp("night")
    write_mock_images(folder, MockImageSettings(1, SIZE, 3, stars=3000))
    simulate(folder / "science", folder / "sim", SimSettings(50, (15, 18.5), "MAGZERO", negative=0.2, seed=1))
    summary = detect(folder / "sim", folder / "reference", DetectSettings(zero_point="MAGZERO", negative=True))
    return folder, summary


@pytest.fixture(scope="module")
def found(night):
    folder, _ = night
    objects = read_simulated_objects(folder / "sim/simulated_objects.list")
    candidates = read_candidates(folder / "sim/candidates_list.dat")
    return objects, candidates, match(objects, candidates, 1.5)


def test_the_list_has_the_columns_of_gmadet(night):
    first = (night[0] / "sim/candidates_list.dat").read_text().splitlines()[0].split()
    assert " ".join(first[1:14]) == "ID RA Dec Xpos Ypos edge Band mag magerr FWHM FWHMPSF filename OriginalIma"
    assert first[1:] == list(COLUMNS.values())


def test_nearly_all_are_found(found):
    objects, _, matched = found
    assert (matched.closest >= 0).sum() >= 0.9 * len(objects)


def test_where_they_were_inserted(found):
    objects, candidates, matched = found
    hit = matched.closest >= 0
    x = candidates.x[matched.closest[hit]] - objects.x[hit]
    y = candidates.y[matched.closest[hit]] - objects.y[hit]
    assert np.median(np.hypot(x, y)) < 0.15
    assert abs(np.median(x)) < 0.06
    assert abs(np.median(y)) < 0.06


def test_as_bright_as_they_were_inserted(found):
    objects, candidates, matched = found
    hit = matched.closest >= 0
    rows = matched.closest[hit]
    offset = candidates.mags[rows] - objects.mags[hit]
    assert abs(np.median(offset)) < 0.03
    # Errors are those that the scatter shows.
    pull = offset / candidates.magerrs[rows]
    assert 0.5 < 1.4826 * np.median(np.abs(pull - np.median(pull))) < 2


def test_signs_are_those_inserted(found):
    objects, candidates, matched = found
    hit = matched.closest >= 0
    np.testing.assert_array_equal(candidates.signs[matched.closest[hit]], np.sign(objects.counts[hit]))
    assert (objects.counts < 0).any()


def test_positions_in_the_sky_follow_from_those_in_the_image(night, found):
    _, candidates, _ = found
    from astropy.wcs import WCS

    header = fits.getheader(night[0] / "sim" / str(candidates.images[0]))
    ra, dec = WCS(header).all_pix2world(candidates.x, candidates.y, 1)
    np.testing.assert_allclose(candidates.ra, ra, atol=1e-6)
    np.testing.assert_allclose(candidates.dec, dec, atol=1e-6)


def test_the_difference_is_noise_where_nothing_was_inserted(night, found):
    folder, summary = night
    _, candidates, _ = found
    assert summary.images[0].noise == pytest.approx(1, abs=0.08)
    difference = fits.getdata(folder / "sim" / str(candidates.differences[0]))
    reference = fits.getdata(folder / "sim" / str(candidates.references[0]))
    science = fits.getdata(folder / "sim" / str(candidates.images[0]))
    assert difference.shape == reference.shape == science.shape == (SIZE, SIZE)
    assert np.isnan(difference[np.isnan(science)]).all()
    both = np.isfinite(difference + reference + science)
    assert both.mean() > 0.95
    # Science less reference, but for the sky.
    sky = (science - reference - difference)[both]
    assert 1.4826 * np.median(np.abs(sky - np.median(sky))) < 0.2 * np.std(difference[both][:10_000])


def test_who_is_at_the_edge(found):
    _, candidates, _ = found
    nearest = np.minimum.reduce([candidates.x - 1, candidates.y - 1, SIZE - candidates.x, SIZE - candidates.y])
    assert candidates.edge[nearest < 15].all()
    assert not candidates.edge[nearest > 40].any()


def test_a_list_reads_back_as_it_was_written(found, tmp_path):
    _, candidates, _ = found
    candidates.write(tmp_path / "candidates_list.dat")
    again = read_candidates(tmp_path / "candidates_list.dat")
    for name in COLUMNS:
        if getattr(candidates, name).dtype.kind == "f":
            np.testing.assert_allclose(getattr(again, name), getattr(candidates, name), rtol=1e-4, atol=1e-3)
        else:
            np.testing.assert_array_equal(getattr(again, name), getattr(candidates, name))


# Alignment


def test_images_without_wcs_are_aligned_by_their_stars(night):
    science = read_image(night[0] / "science/mock3_000.fits")
    reference = read_image(night[0] / "reference/mock3_000.fits")
    by_wcs, by_stars = align(reference, science, "wcs"), align(reference, science, "stars")
    both = ~by_wcs.masked & ~by_stars.masked
    both[:20], both[-20:], both[:, :20], both[:, -20:] = False, False, False, False
    sky = np.median(by_wcs.pixels[both])
    left = (by_wcs.pixels - by_stars.pixels)[both]
    bright = by_wcs.pixels[both] > sky + 2000
    # Of a star an offset of a third of a pixel would leave a fifth; the two ways differ in the distortion besides.
    assert np.abs(left[bright]).mean() / (by_wcs.pixels[both][bright] - sky).mean() < 0.2


def test_images_of_the_same_pixels_stay_as_they_are(tmp_path):
    pixels = np.random.default_rng(0).normal(100, 5, (100, 100))
    image = read_image(write_image(tmp_path / "a.fits", pixels, simple_wcs()))
    for method in ("auto", "wcs", "none"):
        np.testing.assert_array_equal(align(image, image, method).pixels, pixels)
    assert same_grid(image.wcs, image.wcs, image.shape)
    assert not same_grid(image.wcs, simple_wcs(ra=150.001), image.shape)


def test_images_that_cannot_be_aligned(tmp_path):
    rng = np.random.default_rng(0)
    a = read_image(write_image(tmp_path / "a.fits", rng.normal(100, 5, (100, 100)), simple_wcs()))
    far = read_image(write_image(tmp_path / "b.fits", rng.normal(100, 5, (100, 100)), simple_wcs(ra=151)))
    bare = read_image(write_image(tmp_path / "c.fits", rng.normal(100, 5, (90, 100))))
    with pytest.raises(SourceError, match="covers 0%"):
        align(far, a)
    with pytest.raises(SourceError, match="has no WCS"):
        align(bare, a, "wcs")
    with pytest.raises(SourceError, match=r"100 x 90 pixels and .* has 100 x 100"):
        align(bare, a, "none")
    with pytest.raises(SourceError, match="cannot be aligned by their stars"):
        align(bare, a)


# References


def test_the_reference_of_an_image(tmp_path):
    pixels = np.random.default_rng(0).normal(100, 5, (128, 128))
    image = read_image(write_image(tmp_path / "a.fits", pixels, simple_wcs(), FILTER="r"))
    folder = tmp_path / "references"
    for name, ra, band in (("half", 150.008, "r"), ("whole", 150.001, "r"), ("other", 150.0, "g")):
        write_image(folder / f"{name}.fits", pixels, simple_wcs(ra=ra), FILTER=band)
    assert References(folder, ImageSettings()).of(image).path.name == "whole.fits"
    shutil.copy(folder / "other.fits", folder / "a.fits")
    assert References(folder, ImageSettings()).of(image).path.name == "a.fits"
    assert References(folder / "other.fits", ImageSettings()).of(image).path.name == "other.fits"


def test_an_image_without_reference(tmp_path):
    pixels = np.random.default_rng(0).normal(100, 5, (128, 128))
    image = read_image(write_image(tmp_path / "a.fits", pixels, simple_wcs(), FILTER="z"))
    write_image(tmp_path / "references/b.fits", pixels, simple_wcs(), FILTER="r")
    with pytest.raises(SourceError, match=r"no reference .* covers it in the filter 'z'"):
        References(tmp_path / "references", ImageSettings()).of(image)
    with pytest.raises(SourceError, match="there is no reference"):
        References(tmp_path / "none", ImageSettings())


def test_one_image_that_fails_does_not_stop_the_others(night, tmp_path):
    for name in ("mock3_000.fits",):
        shutil.copy(night[0] / "sim" / name, tmp_path / name)
    (tmp_path / "bad.fits").write_bytes(b"no FITS")
    summary = detect(tmp_path, night[0] / "reference", DetectSettings(zero_point="MAGZERO"))
    assert len(summary.images) == 1
    assert "left out: the image" in str(summary)
    (tmp_path / "mock3_000.fits").unlink()
    with pytest.raises(SourceError, match=r"bad\.fits"):
        detect(tmp_path, night[0] / "reference")


def test_the_originals_are_as_they_were(night):
    folder, _ = night
    assert sorted(path.name for path in (folder / "science").iterdir()) == ["mock3_000.fits"]
    assert sorted(path.name for path in (folder / "reference").iterdir()) == ["mock3_000.fits"]


@pytest.mark.parametrize("wrong", [{"threshold": 0}, {"alignment": "luck"}])
def test_settings_that_make_no_sense(wrong):
    with pytest.raises(UsageError):
        DetectSettings(**wrong)


# The catalogue of another pipeline


@pytest.fixture
def images(tmp_path) -> Path:
    for name in ("diff", "new", "ref"):
        write_image(tmp_path / f"{name}.fits", np.random.default_rng(0).normal(0, 1, (128, 128)), simple_wcs())
    return tmp_path


SEXTRACTOR = {
    "NUMBER": [1, 2], "X_IMAGE": [30.5, 60.0], "Y_IMAGE": [40.0, 70.25], "ALPHA_J2000": [150.1, 150.2],
    "DELTA_J2000": [2.1, 2.2], "MAG_AUTO": [18.0, 19.0], "MAGERR_AUTO": [0.1, 0.2], "FWHM_IMAGE": [3.0, 4.0],
}  # fmt: skip


def _ldac(path: Path) -> None:
    table = fits.BinTableHDU(Table(SEXTRACTOR), name="LDAC_OBJECTS")
    head = fits.BinTableHDU.from_columns([fits.Column("Field Header Card", "80A", array=["x"])], name="LDAC_IMHEAD")
    fits.HDUList([fits.PrimaryHDU(), head, table]).writeto(path)


FORMATS = {
    "a.csv": lambda path: Table(SEXTRACTOR).write(path),
    "a.ecsv": lambda path: Table(SEXTRACTOR).write(path),
    "a.dat": lambda path: Table(SEXTRACTOR).write(path, format="ascii.commented_header"),
    "a.vot": lambda path: Table(SEXTRACTOR).write(path, format="votable"),
    "a.fits": lambda path: Table(SEXTRACTOR).write(path),
    "a.cat": _ldac,
    "sex.cat": lambda path: path.write_text(
        "".join(f"#  {k} {name} something\n" for k, name in enumerate(SEXTRACTOR, 1))
        + "".join(" ".join(str(column[row]) for column in SEXTRACTOR.values()) + "\n" for row in range(2))
    ),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_catalogue_of_source_extractor_in_any_format(images, name):
    FORMATS[name](images / name)
    settings = CatalogueSettings({}, images / "diff.fits", images / "new.fits", images / "ref.fits")
    found = import_catalogue(images / name, images, settings)
    again = read_candidates(images / "candidates_list.dat")
    for candidates in (found, again):
        assert candidates.ids.tolist() == ["1", "2"]
        np.testing.assert_allclose(candidates.x, [30.5, 60])
        np.testing.assert_allclose(candidates.ra, [150.1, 150.2])
        np.testing.assert_allclose(candidates.mags, [18, 19])
        assert set(candidates.differences) == {"diff.fits"}
        assert set(candidates.references) == {"ref.fits"}


def test_columns_of_other_names(images):
    Table({"id": ["b", "a"], "my_ra": [150.0, 150.001], "my_dec": [2.0, 2.001], "m": [18.0, 19.0]}).write(
        images / "a.csv"
    )
    settings = CatalogueSettings({"RA": "my_ra", "Dec": "my_dec", "mag": "m"}, images / "diff.fits")
    found = import_catalogue(images / "a.csv", images, settings)
    x, y = simple_wcs().all_world2pix([150.0, 150.001], [2.0, 2.001], 1)
    np.testing.assert_allclose(found.x, x, atol=1e-6)
    np.testing.assert_allclose(found.y, y, atol=1e-6)
    assert found.ids.tolist() == ["b", "a"]
    assert np.isnan(found.fwhms).all()


def test_pixels_that_begin_with_0(images):
    Table({"x": [29.5], "y": [39.0]}).write(images / "a.csv")
    found = import_catalogue(images / "a.csv", images, CatalogueSettings({}, images / "diff.fits", first_pixel=0))
    assert (found.x[0], found.y[0]) == (30.5, 40.0)
    np.testing.assert_allclose([found.ra, found.dec], simple_wcs().all_pix2world([30.5], [40.0], 1))


def test_the_list_of_another_program_stays(images):
    text = "# ID RA Dec\n0 150.0 2.0\n"
    (images / "candidates_list.dat").write_text(text)
    with pytest.raises(OutputError, match="was not written by otrain-detect"):
        import_catalogue(images / "candidates_list.dat", images, CatalogueSettings({}, images / "diff.fits"))
    with pytest.raises(OutputError, match="was not written by otrain-detect"):
        detect(images, images / "ref.fits")
    assert (images / "candidates_list.dat").read_text() == text


def test_images_of_another_program_stay(night, tmp_path):
    science = tmp_path / "science"
    shutil.copytree(night[0] / "science", science)
    for name in ("mock3_000_diff.fits", "mock3_000_ref.fits"):
        (science / "subtraction").mkdir(exist_ok=True)
        shutil.copy(night[0] / "reference/mock3_000.fits", science / "subtraction" / name)
        before = (science / "subtraction" / name).read_bytes()
        with pytest.raises(OutputError, match="was not written by otrain-detect"):
            detect(science, night[0] / "reference")
        assert (science / "subtraction" / name).read_bytes() == before
        (science / "subtraction" / name).unlink()


def test_a_list_of_an_earlier_run_does_not_outlive_its_images(night, tmp_path):
    folder = tmp_path / "sim"
    shutil.copytree(night[0] / "sim", folder)
    simulate(night[0] / "science", folder, SimSettings(5, (15, 18.5), "MAGZERO", seed=2))
    assert not (folder / "candidates_list.dat").exists()
    (folder / "simulated_objects.list").write_text("# idx filename Xpos Ypos RA Dec mag filter\n")
    with pytest.raises(OutputError, match="was not written by otrain-sim"):
        simulate(night[0] / "science", folder, SimSettings(5, (15, 18.5), "MAGZERO"))


def test_what_makes_artefacts_is_said(night, tmp_path, caplog):
    shutil.copytree(night[0] / "science", tmp_path / "science")
    with fits.open(night[0] / "reference/mock3_000.fits") as hdus:
        hdus[0].header["CRPIX1"] += 2.5
        hdus[0].header.remove("GAIN")
        hdus.writeto(tmp_path / "science/ref.fits")
    summary = detect(tmp_path / "science", tmp_path / "science/ref.fits")
    (image,) = summary.images  # the reference is none of them
    assert image.apart == pytest.approx(2.5, abs=0.4)
    assert "pixels apart: solve the astrometry again, or say --align stars" in caplog.text
    assert "ref.fits' does not say its gain" in caplog.text
    assert "less sharp" not in caplog.text
    assert replace(image, reference_width=2 * image.width).warnings[-1].startswith("'science/ref.fits' is less sharp")


def test_all_chips_of_a_catalogue_are_read(images):
    tables = [fits.BinTableHDU(Table(SEXTRACTOR), name="LDAC_OBJECTS") for _ in range(2)]
    fits.HDUList([fits.PrimaryHDU(), *tables]).writeto(images / "two.cat")
    found = import_catalogue(images / "two.cat", images, CatalogueSettings({}, images / "diff.fits"))
    assert found.ids.tolist() == ["0", "1", "2", "3"]  # NUMBER begins anew in each
    with pytest.raises(SourceError, match="have the same NUMBER"):
        import_catalogue(images / "two.cat", images, CatalogueSettings({"ID": "NUMBER"}, images / "diff.fits"))


def test_a_catalogue_without_rows_is_an_empty_list(images):
    Table({"RA": np.empty(0), "Dec": np.empty(0)}).write(images / "a.csv")
    for settings in (CatalogueSettings({}, images / "diff.fits"), CatalogueSettings()):
        assert len(import_catalogue(images / "a.csv", images, settings)) == 0
        assert len(read_candidates(images / "candidates_list.dat")) == 0


def test_images_that_are_named_are_looked_at(images, monkeypatch, caplog):
    Table({"x": [30.0, 900.0], "y": [40.0, 50.0]}).write(images / "a.csv")
    monkeypatch.chdir("/")
    found = import_catalogue(images / "a.csv", images, CatalogueSettings({}, Path("diff.fits"), Path("new.fits")))
    assert set(found.images) == {"new.fits"}
    assert "1 of 2 candidates lie outside of their image" in caplog.text
    with pytest.raises(SourceError, match=r"no image 'nope\.fits', neither here nor in"):
        import_catalogue(images / "a.csv", images, CatalogueSettings({}, images / "diff.fits", Path("nope.fits")))
    write_image(images / "small.fits", np.zeros((80, 90), np.float32) + np.arange(90))
    with pytest.raises(SourceError, match="not of the same pixels"):
        import_catalogue(images / "a.csv", images, CatalogueSettings({}, images / "diff.fits", Path("small.fits")))


def test_what_a_catalogue_lacks_comes_from_its_image(images):
    fits.setval(images / "diff.fits", "FILTER", value="z")
    Table({"x": [30.0, 60.0], "y": [40.0, 50.0], "ra": [10.0, np.nan], "dec": [1.0, np.nan]}).write(images / "a.csv")
    found = import_catalogue(images / "a.csv", images, CatalogueSettings({}, images / "diff.fits"))
    assert found.bands.tolist() == ["z", "z"]
    assert (found.ra[0], found.dec[0]) == (10.0, 1.0)
    np.testing.assert_allclose(found.ra[1], simple_wcs().all_pix2world([60.0], [50.0], 1)[0][0])
    Table({"ra": [10.01], "dec": [2.0]}).write(images / "b.csv")  # hours
    with pytest.raises(SourceError, match="none of them is in its image: are both in degrees"):
        import_catalogue(images / "b.csv", images, CatalogueSettings({}, images / "diff.fits"))


def test_catalogues_that_cannot_be_used(images):
    Table({"ra": [1.0], "mag": [2.0]}).write(images / "a.csv")
    with pytest.raises(SourceError, match="no positions"):
        import_catalogue(images / "a.csv", images, CatalogueSettings({}, images / "diff.fits"))
    Table({"ra": [1.0], "dec": [2.0]}).write(images / "b.csv")
    with pytest.raises(SourceError, match=r"names no image.*--difference"):
        import_catalogue(images / "b.csv", images, CatalogueSettings({"Xpos": "ra", "Ypos": "dec"}))
    with pytest.raises(SourceError, match="no column Magn"):
        import_catalogue(images / "a.csv", images, CatalogueSettings({"mag": "Magn"}))
    with pytest.raises(UsageError, match="no column Mag: is mag meant"):
        CatalogueSettings({"Mag": "x"})
    (images / "c.cat").write_bytes(bytes(range(256)))
    with pytest.raises(SourceError, match="cannot be read"):
        import_catalogue(images / "c.cat", images)
    with pytest.raises(SourceError, match="cannot be read"):
        import_catalogue(images / "none.cat", images)


def test_a_list_without_what_is_needed(tmp_path):
    with pytest.raises(SourceError, match="otrain-detect makes it"):
        read_candidates(tmp_path / "candidates_list.dat")
    (tmp_path / "candidates_list.dat").touch()
    with pytest.raises(SourceError, match="is empty: otrain-detect makes it anew"):
        read_candidates(tmp_path / "candidates_list.dat")
    check_replaceable(tmp_path / "candidates_list.dat")
    with pytest.raises(SourceError, match="does not hold numbers"):
        from_table({"RA": ["x"], "Dec": [1.0]}, "a test")
    for edge in (["N", "Y"], [False, True], [0, 1], [0.0, 1.0], [float("nan"), 1.0]):
        read = from_table({"RA": [1.0, 2.0], "Dec": [1.0, 2.0], "edge": np.array(edge)}, "a test").edge
        assert read.tolist() == [False, True]
