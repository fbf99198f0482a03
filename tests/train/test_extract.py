"""Cutouts hold the pixels that astropy would cut out, all keywords, and are in the folder they belong to."""

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.nddata import Cutout2D
from fields import simple_wcs, write_image

from otrain_infer import CutoutFlag, read_cutouts
from otrain_infer.errors import OutputError, SourceError, UsageError
from otrain_train.candidates_list import Candidates, from_table
from otrain_train.cutout_files import card, cutout_bytes
from otrain_train.extract import MANY, ExtractSettings, extract
from otrain_train.simulated_objects import SimulatedObjects

PLANES = {"SCI": "a.fits", "REF": "subtraction/a_ref.fits", "DIFF": "subtraction/a_diff.fits"}
SHAPE = (90, 110)


def make_candidates(x, y, **more) -> Candidates:
    x, y = np.asarray(x, float), np.asarray(y, float)
    n = len(x)
    ra, dec = simple_wcs().all_pix2world(x, y, 1)
    columns = {
        "ID": np.arange(n).astype(str), "RA": ra, "Dec": dec, "Xpos": x, "Ypos": y, "edge": np.full(n, "N"),
        "Band": np.full(n, "r"), "mag": 18 + np.arange(n) / 8, "magerr": np.full(n, 0.125), "FWHM": np.full(n, 3.5),
        "FWHMPSF": np.full(n, 3.25), "filename": np.full(n, PLANES["DIFF"]), "OriginalIma": np.full(n, PLANES["SCI"]),
        "RefIma": np.full(n, PLANES["REF"]),
    }  # fmt: skip
    return from_table(columns | more, "a test")


@pytest.fixture
def folder(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    for name in PLANES.values():
        write_image(tmp_path / name, rng.normal(0, 1, SHAPE).astype(np.float32), simple_wcs(), MJD_OBS=60000.25)
    return tmp_path


RNG = np.random.default_rng(1)
X, Y = RNG.uniform(1, SHAPE[1], 60), RNG.uniform(1, SHAPE[0], 60)


@pytest.mark.parametrize("size", [32, 31, 8])
def test_the_pixels_are_those_of_astropy(folder, size):
    make_candidates(X, Y).write(folder / "candidates_list.dat")
    extract(folder, ExtractSettings(size=size))
    images = {plane: fits.getdata(folder / name) for plane, name in PLANES.items()}
    edges = 0
    for k, (x, y) in enumerate(zip(np.round(X, 3), np.round(Y, 3), strict=True)):
        with fits.open(folder / f"candidates/candidate_{k}.fits") as file:
            file.verify("exception")
            for plane, image in images.items():
                expected = Cutout2D(image, (x - 1, y - 1), size, mode="trim").data
                np.testing.assert_array_equal(file[plane].data, expected)
            at_edge = expected.shape != (size, size)
            assert file[0].header["EDGE"] == str(at_edge)
            edges += at_edge
    assert 0 < edges < 60


def test_the_reader_takes_them_with_all_their_keywords(folder):
    candidates = make_candidates([50, 3.25], [45, 60.5])
    candidates.write(folder / "candidates_list.dat")
    extract(folder)
    cutouts = read_cutouts(str(folder / "candidates"), planes=("SCI", "REF", "DIFF"), size=(32, 32))
    assert cutouts.flags.tolist() == [0, int(CutoutFlag.EDGE | CutoutFlag.PADDED)]
    header = cutouts.header
    assert header["CANDID"].tolist() == ["0", "1"]
    assert header["FILE"].tolist() == ["a.fits"] * 2
    assert header["FILTER"].tolist() == ["r"] * 2
    for key, values in (("MAG", candidates.mags), ("MAGERR", candidates.magerrs), ("FWHM", candidates.fwhms),
                        ("FWHMPSF", candidates.psf_fwhms), ("XPOS", candidates.x), ("YPOS", candidates.y)):  # fmt: skip
        np.testing.assert_allclose(header[key], values)
    np.testing.assert_allclose(header["RA"], candidates.ra, atol=1e-7)
    np.testing.assert_allclose(header["DEC"], candidates.dec, atol=1e-7)
    assert header["MJD"].tolist() == [60000.25] * 2
    # The object stays in the middle although the cutout is cut off on its low side.
    whole = fits.getdata(folder / "a.fits")
    assert cutouts.pixels[1, 16, 15, 0] == whole[60, 2]


def inserted(x, y, files="a.fits") -> SimulatedObjects:
    x, y = np.asarray(x, float), np.asarray(y, float)
    ra, dec = simple_wcs().all_pix2world(x, y, 1)
    n = len(x)
    return SimulatedObjects(
        np.arange(n), np.full(n, files), x, y, ra, dec, np.full(n, 18.0), np.full(n, "r"), np.full(n, 1.0)
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.fits"))


def test_for_training_those_inserted_are_true_and_the_rest_stays(folder):
    # 0 is inserted; 1 is near it and not its nearest; 2 and 3 are something else.
    make_candidates([50, 51.4, 20, 80], [45, 45, 30, 60]).write(folder / "candidates_list.dat")
    inserted([50.2], [45.0]).write(folder / "simulated_objects.list")
    summary = extract(folder, ExtractSettings(training=True))
    target = folder / "candidates_training"
    assert names(target / "true") == ["candidate_0.fits"]
    assert names(target / "false") == []
    assert names(target) == ["candidate_1.fits", "candidate_2.fits", "candidate_3.fits"]
    assert "to be looked at: 3" in str(summary)


def test_with_false_the_others_are_false_but_for_what_is_near_a_source(folder):
    make_candidates([50, 51.4, 20, 80], [45, 45, 30, 60]).write(folder / "candidates_list.dat")
    inserted([50.2], [45.0]).write(folder / "simulated_objects.list")
    extract(folder, ExtractSettings(training=True, false=True))
    target = folder / "candidates_training"
    assert names(target / "true") == ["candidate_0.fits"]
    assert names(target / "false") == ["candidate_2.fits", "candidate_3.fits"]
    assert names(target) == ["candidate_1.fits"]


def test_the_radius_is_in_arcseconds(folder):
    make_candidates([50], [45]).write(folder / "candidates_list.dat")
    inserted([53], [45]).write(folder / "simulated_objects.list")  # 3 pixels are 1.5 arcseconds
    for radius, place in ((1.4, ""), (1.6, "true")):
        extract(folder, ExtractSettings(training=True, radius=radius, replace=True))
        assert names(folder / "candidates_training" / place) == ["candidate_0.fits"]


def test_cutouts_of_an_earlier_run_are_not_mixed_in_and_not_lost(folder):
    make_candidates([50, 60], [45, 45]).write(folder / "candidates_list.dat")
    extract(folder)
    make_candidates([50], [45]).write(folder / "candidates_list.dat")
    with pytest.raises(OutputError, match=r"holds cutouts of an earlier run.*--replace"):
        extract(folder)
    assert len(names(folder / "candidates")) == 2
    extract(folder, ExtractSettings(replace=True))
    assert names(folder / "candidates") == ["candidate_0.fits"]


def test_nothing_is_removed_for_want_of_an_image(folder):
    make_candidates([50], [45]).write(folder / "candidates_list.dat")
    extract(folder)
    (folder / PLANES["REF"]).unlink()
    with pytest.raises(SourceError, match=r"a_ref\.fits' is missing: nothing was removed"):
        extract(folder, ExtractSettings(replace=True))
    assert names(folder / "candidates") == ["candidate_0.fits"]


def test_the_extension_of_the_science_image(folder):
    image = fits.getdata(folder / "a.fits")
    parts = [fits.ImageHDU(np.full(SHAPE, -7.0), name="CCD1"), fits.ImageHDU(image, name="CCD2")]
    fits.HDUList([fits.PrimaryHDU(), *parts]).writeto(folder / "a.fits", overwrite=True)
    make_candidates([50], [45]).write(folder / "candidates_list.dat")
    with pytest.raises(SourceError, match="name one with --extension"):
        extract(folder)
    extract(folder, ExtractSettings(extension="CCD2", replace=True))
    with fits.open(folder / "candidates/candidate_0.fits") as file:
        np.testing.assert_array_equal(file["SCI"].data, image[28:60, 33:65].astype(np.float32))


def test_a_difference_alone_is_a_cutout_of_one_image(folder):
    blank = np.full(1, "")
    make_candidates([50], [45], OriginalIma=blank, RefIma=blank).write(folder / "candidates_list.dat")
    extract(folder)
    with fits.open(folder / "candidates/candidate_0.fits") as file:
        assert len(file) == 1
        assert file[0].header["FILE"] == "a_diff.fits"
        np.testing.assert_array_equal(file[0].data, fits.getdata(folder / PLANES["DIFF"])[28:60, 33:65])


def test_candidates_beyond_the_image_and_images_that_are_missing(folder):
    lost = np.array([PLANES["SCI"], "gone.fits", PLANES["SCI"]])
    make_candidates([50, 60, 500], [45, 45, 45], OriginalIma=lost).write(folder / "candidates_list.dat")
    summary = extract(folder)
    assert names(folder / "candidates") == ["candidate_0.fits"]
    assert "gone.fits' cannot be read" in str(summary)
    assert "1 candidate(s) are not cut out" in str(summary)
    assert "1 candidate(s) lie outside of their image" in str(summary)


def test_a_radius_that_is_too_small_is_doubted(folder):
    make_candidates([50, 30, 80], [45, 45, 70]).write(folder / "candidates_list.dat")
    inserted([54, 30], [45, 45]).write(folder / "simulated_objects.list")  # 4 pixels are 2 arcseconds
    summary = extract(folder, ExtractSettings(training=True, false=True, radius=1.0))
    assert summary.counts == {"": 1, "true": 1, "false": 1}
    assert "1 of 2 inserted sources have a candidate not within 1 arcseconds, but within 3" in str(summary)
    summary = extract(folder, ExtractSettings(training=True, false=True, radius=2.1, replace=True))
    assert summary.counts == {"": 0, "true": 2, "false": 1}
    assert "inserted sources" not in str(summary)


def test_several_processes_cut_out_the_same(folder):
    for name in PLANES.values():
        write_image(folder / name.replace("a.", "b.").replace("a_", "b_"), fits.getdata(folder / name), simple_wcs())
    rng = np.random.default_rng(3)
    n = MANY + 10
    other = rng.random(n) < 0.5
    names_of = {
        column: np.where(other, PLANES[plane].replace("a.", "b.").replace("a_", "b_"), PLANES[plane])
        for column, plane in (("OriginalIma", "SCI"), ("RefIma", "REF"), ("filename", "DIFF"))
    }
    x, y = rng.uniform(20, 80, (2, n)).round(2)
    make_candidates(x, y, **names_of).write(folder / "candidates_list.dat")
    counted = []
    summary = extract(folder, ExtractSettings(8), lambda done, total: counted.append((done, total)))
    assert summary.counts == {"": n}
    assert counted[-1] == (n, n)
    image = fits.getdata(folder / PLANES["DIFF"])
    for k in (0, 1, n // 2, n - 1):
        with fits.open(folder / f"candidates/candidate_{k}.fits") as file:
            assert file[0].header["FILE"] == ("b.fits" if other[k] else "a.fits")
            np.testing.assert_array_equal(file["DIFF"].data, Cutout2D(image, (x[k] - 1, y[k] - 1), 8).data)


def test_images_of_other_pixels(folder):
    write_image(folder / PLANES["REF"], np.zeros((50, 50), np.float32))
    make_candidates([50], [45]).write(folder / "candidates_list.dat")
    with pytest.raises(SourceError, match="not of the same pixels"):
        extract(folder)


def test_what_cannot_be_done_is_said(folder):
    with pytest.raises(SourceError, match="otrain-detect makes it"):
        extract(folder)
    make_candidates([50], [45]).write(folder / "candidates_list.dat")
    with pytest.raises(SourceError, match=r"no simulated_objects\.list"):
        extract(folder, ExtractSettings(training=True))
    make_candidates([50, 60], [45, 45], ID=np.array(["a", "a"])).write(folder / "candidates_list.dat")
    with pytest.raises(SourceError, match="same ID"):
        extract(folder)


@pytest.mark.parametrize("wrong", [{"size": 4}, {"false": True}])
def test_settings_that_make_no_sense(wrong):
    with pytest.raises(UsageError):
        ExtractSettings(**wrong)


TEXTS = ("short", "it's", "x" * 200, "'" * 90, "é", "a" * 66 + "''")


@pytest.mark.parametrize("value", [*TEXTS, 1, -2.5, 1e300, True, float("nan"), float("-inf")])
def test_cards_are_those_that_astropy_reads(value):
    made = card("KEY", value)
    assert len(made) == 80
    read = fits.Card.fromstring(made)
    if isinstance(value, float) and not np.isfinite(value):
        assert made.strip() == ""
    elif isinstance(value, str):
        assert read.keyword == "KEY"
        assert value.replace("é", "?").endswith(read.value)
        assert read.value
    else:
        assert read.value == value


def test_a_cutout_alone_has_the_same_bytes(folder):
    pixels = RNG.normal(0, 1, (12, 15, 2)).astype(np.float32)
    content = cutout_bytes(pixels, ("SCI", "DIFF"), {"CANDID": "7", "MAG": 18.5})
    with fits.open(__import__("io").BytesIO(content)) as file:
        file.verify("exception")
        assert file[0].header["MAG"] == 18.5
        np.testing.assert_array_equal(file["SCI"].data, pixels[..., 0])
        np.testing.assert_array_equal(file["DIFF"].data, pixels[..., 1])
    assert len(content) % 2880 == 0
