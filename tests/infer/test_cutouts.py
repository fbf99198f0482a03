import gzip
import io
import lzma
import os
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from corpus import PLANES, SIZE, write_corpus
from cutout_files import draw, write_cutout

from otrain_infer import Cutouts, file_kernels, read_cutouts, sources
from otrain_infer.cutouts import iter_cutouts, native_size
from otrain_infer.errors import SourceError, UsageError
from otrain_infer.fits import Decoder, Wanted
from otrain_infer.flags import UNUSABLE, CutoutFlag


def read(path, size=(64, 64), planes=("DIFF",)):
    return read_cutouts(path, planes=planes, size=size)


def test_pixels_and_header_are_those_of_the_file(folder):
    cutouts = read(folder)
    assert len(cutouts) == 10
    assert cutouts.pixels.dtype == np.float32
    assert cutouts.pixels.flags.c_contiguous
    for row, name in enumerate(cutouts.names):
        assert np.array_equal(cutouts.pixels[row, ..., 0], fits.getdata(name))
    assert cutouts.names[3] == str(folder / "c3.fits")
    assert cutouts.header["CANDID"].tolist() == [f"7_{row}" for row in range(10)]
    assert cutouts.header["MAG"].dtype == np.float64
    assert {key: column[0] for key, column in cutouts.header.items()} == {
        "CANDID": "7_0",
        "FILTER": "r",
        "FILE": "night1.fits",
        "OBJECTID": "",
        "MAG": 18.5,
        "MAGERR": 0.05,
        "FWHM": 3.1,
        "FWHMPSF": 3.0,
        "RA": 10.5,
        "DEC": -3.25,
        "XPOS": 500.0,
        "YPOS": 400.0,
        "MJD": 60000.25,
    }
    assert not cutouts.flags.any()
    assert cutouts.usable.all()


def test_several_planes_in_the_order_asked(tmp_path):
    images = {name: draw(seed) for seed, name in enumerate(("science", "Template", "SUB"))}
    hdus = [fits.ImageHDU(image, name=name) for name, image in images.items()]
    for hdu, name in zip(hdus, images, strict=True):
        hdu.header["EXTNAME"] = name
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(tmp_path / "a.fits")
    cutouts = read(tmp_path / "a.fits", planes=("DIFF", "SCI", "REF"))
    for plane, name in enumerate(("SUB", "science", "Template")):
        assert np.array_equal(cutouts.pixels[0, ..., plane], images[name])
    missing = read(tmp_path / "a.fits", planes=("SCI",))
    assert missing.usable.all()


@pytest.mark.parametrize("value", ["True", "TRUE", "true ", "T", "1", True, 1, 1.0, 2, "on", "yes"])
def test_edge_in_every_spelling(tmp_path, value):
    cutouts = read(write_cutout(tmp_path / "a.fits", EDGE=value))
    assert cutouts.at_edge.all()
    assert cutouts.usable.all()


@pytest.mark.parametrize("value", ["False", "F", "", False, 0, 0.0, "no", "None"])
def test_no_edge_in_every_spelling(tmp_path, value):
    assert not read(write_cutout(tmp_path / "a.fits", EDGE=value)).at_edge.any()


@pytest.mark.parametrize("keyword", ["CANDID", "MAG", "MAGERR", "FILTER", "FWHM", "EDGE"])
def test_a_missing_keyword_is_a_flag(tmp_path, keyword):
    cutouts = read(write_cutout(tmp_path / "a.fits", **{keyword: None}))
    assert cutouts.flags.tolist() == [CutoutFlag.MISSING_KEYWORD]
    assert cutouts.usable.all()


def test_keywords_that_stand_in(tmp_path):
    path = write_cutout(tmp_path / "a.fits", CANDID=None, MAG=None, NAME="M31-nova")
    with fits.open(path, mode="update") as file:
        file[0].header["HIERARCH mag_calib"] = 17.25
    cutouts = read(path)
    assert cutouts.header["CANDID"].tolist() == ["M31-nova"]
    assert cutouts.header["MAG"].tolist() == [17.25]
    assert not cutouts.flags.any()


def test_long_numbers_are_kept_to_the_digit(tmp_path):
    assert (
        read(write_cutout(tmp_path / "a.fits", CANDID=2481404324315015010)).header["CANDID"][0] == "2481404324315015010"
    )


@pytest.mark.parametrize(
    ("x", "y", "corner"),
    [
        (5.0, 5.0, (33, 24)),
        (5.0, 900.0, (0, 24)),
        (900.0, 5.0, (33, 0)),
        (900.0, 900.0, (0, 0)),
        (None, None, (17, 12)),
    ],
)
def test_a_truncated_cutout_keeps_its_object_in_the_centre(tmp_path, x, y, corner):
    image = draw(1, (31, 40))
    path = tmp_path / "a.fits"
    write_cutout(path, 1, (31, 40), XPOS=x, YPOS=y)
    cutouts = read(path)
    expected = np.full((64, 64), np.nan, np.float32)
    expected[corner[0] : corner[0] + 31, corner[1] : corner[1] + 40] = image
    assert np.array_equal(cutouts.pixels[0, ..., 0], expected, equal_nan=True)
    assert cutouts.flags.tolist() == [CutoutFlag.PADDED]


def test_a_large_cutout_is_cropped_about_its_centre(tmp_path):
    write_cutout(tmp_path / "a.fits", 1, (81, 71))
    cutouts = read(tmp_path / "a.fits", (63, 63))
    assert np.array_equal(cutouts.pixels[0, ..., 0], draw(1, (81, 71))[9:72, 4:67])
    assert cutouts.flags.tolist() == [CutoutFlag.CROPPED]


def test_bad_files_are_rows_with_flags_between_untouched_neighbours(folder):
    good = read(folder)
    (folder / "c1.fits").write_bytes(b"")
    (folder / "c3.fits").write_text("SIMPLE, they said")
    (folder / "c5.fits").unlink()
    write_cutout(folder / "c5.fits", 5, EXTNAME="REF")
    (folder / "c7.fits").write_bytes((folder / "c7.fits").read_bytes()[:5000])
    fits.PrimaryHDU(np.ones((64, 64), np.float32)).writeto(folder / "c9.fits", overwrite=True)
    cutouts = read([folder, folder / "gone.fits"])
    bad = {
        1: CutoutFlag.UNREADABLE,
        3: CutoutFlag.UNREADABLE,
        7: CutoutFlag.UNREADABLE,
        9: CutoutFlag.BLANK,
        10: CutoutFlag.UNREADABLE,
    }
    for row in range(11):
        unusable = CutoutFlag(int(cutouts.flags[row])) & UNUSABLE
        assert unusable == bad.get(row, 0), row
        if row in bad:
            assert np.isnan(cutouts.pixels[row]).all()
            assert cutouts.reasons[row]
        elif row != 5:
            assert np.array_equal(cutouts.pixels[row], good.pixels[row])
    assert "No such file" in cutouts.reasons[10]


def test_memory_and_file_objects(tmp_path):
    write_cutout(tmp_path / "a.fits", 4)
    content = (tmp_path / "a.fits").read_bytes()
    cutouts = read_cutouts([content, io.BytesIO(content), gzip.compress(content)], planes=["DIFF"], size=(64, 64))
    assert not cutouts.flags.any()
    assert (cutouts.pixels == cutouts.pixels[0]).all()
    assert read_cutouts(content, planes=["DIFF"]).names.tolist() == [""]


def test_a_file_object_costs_its_row_alone_whatever_it_does(tmp_path):
    content = Path(write_cutout(tmp_path / "a.fits", 4)).read_bytes()
    packed = bytearray(lzma.compress(content))
    packed[200:300] = bytes(100)
    with lzma.open(io.BytesIO(packed)) as damaged:
        cutouts = read_cutouts([content, damaged, io.StringIO("text"), content], planes=["DIFF"], size=(64, 64))
    assert cutouts.usable.tolist() == [True, False, False, True]
    assert "reading the file object failed (LZMAError: " in cutouts.reasons[1]
    assert cutouts.reasons[2] == "the file object gives str, not bytes: open it in binary mode"


def test_paths_of_bytes_are_paths(tmp_path):
    path = write_cutout(tmp_path / "a.fits", 4)
    (entry,) = os.scandir(os.fsencode(tmp_path))
    cutouts = read_cutouts([entry], planes=["DIFF"], size=(64, 64))
    assert cutouts.usable.all()
    assert cutouts.names.tolist() == [path]


def test_chunks_and_threads_change_nothing(folder):
    whole = read(folder)
    for threads, chunk in ((1, 3), (3, 2), (2, 100)):
        parts = list(iter_cutouts(folder, planes=["DIFF"], size=(64, 64), threads=threads, chunk=chunk))
        joined = Cutouts.concatenate(parts)
        assert np.array_equal(joined.pixels, whole.pixels)
        assert joined.names.tolist() == whole.names.tolist()


def test_the_commonest_size_is_taken(folder):
    write_cutout(folder / "b.fits", 1, (63, 20))
    (folder / "a.fits").write_text("")
    assert native_size([str(folder / "a.fits"), *map(str, sorted(folder.iterdir()))], ["DIFF"]) == (64, 64)
    assert read_cutouts(folder, planes=["DIFF"]).pixels.shape == (12, 64, 64, 1)
    with pytest.raises(SourceError, match="none of the first 1 cutouts"):
        native_size([str(folder / "a.fits")], ["DIFF"])


def test_rows_can_be_selected(folder):
    (folder / "c4.fits").write_text("")
    cutouts = read(folder)
    some = cutouts.select(np.array([9, 4]))
    assert some.names.tolist() == [str(folder / "c9.fits"), str(folder / "c4.fits")]
    assert list(some.reasons) == [1]
    assert len(cutouts.select(cutouts.usable)) == 9
    assert len(cutouts.select(slice(2, 5))) == 3


@pytest.mark.parametrize("planes", [(), ("DIFF", "DIFF"), ("NEW",)])
def test_planes_that_make_no_sense(folder, planes):
    with pytest.raises(UsageError, match="planes"):
        read_cutouts(folder, planes=planes, size=(64, 64))


def test_a_card_or_planes(folder, card):
    assert read_cutouts(folder, card=card).pixels.shape == (10, 64, 64, 1)
    with pytest.raises(UsageError, match="either a card or planes"):
        read_cutouts(folder)
    with pytest.raises(UsageError, match="either a card or planes"):
        read_cutouts(folder, card=card, planes=["DIFF"])


@pytest.mark.parametrize("value", [-99.0, "-99.0", "inf", "1_7", "faint"])
def test_what_is_no_magnitude_is_missing(tmp_path, value):
    cutouts = read(write_cutout(tmp_path / "a.fits", MAG=value))
    assert np.isnan(cutouts.header["MAG"][0])
    assert cutouts.flags.tolist() == [CutoutFlag.MISSING_KEYWORD]


def test_large_files_are_read_in_parts(folder, tmp_path, monkeypatch):
    paths = sorted(map(str, folder.iterdir()))
    packed = [tmp_path / f"{Path(path).name}.gz" for path in paths[:4]]
    for path, target in zip(paths, packed, strict=False):
        target.write_bytes(gzip.compress(Path(path).read_bytes()))
    mixed = [*paths[:3], *packed, str(tmp_path / "none.fits"), *paths[3:], Path(paths[0]).read_bytes()]
    whole = [read_cutouts(each, planes=["DIFF"], size=(64, 64)) for each in (paths, mixed)]
    monkeypatch.setattr(sources, "LARGEST_PART", 50_000)  # two or three of these files
    held = []
    monkeypatch.setattr(sources, "EXPECTED_FILE", 1000)
    for each, expected in zip((paths, mixed), whole, strict=True):
        buffer = sources.Buffer()
        held += [int(arena.bounds.max()) for arena in sources.load_in_parts(each, buffer)]
        assert len(held) > 2
        found = read_cutouts(each, planes=["DIFF"], size=(64, 64))
        np.testing.assert_array_equal(found.pixels, expected.pixels)
        np.testing.assert_array_equal(found.flags, expected.flags)
        assert found.names.tolist() == expected.names.tolist()
        assert found.header["CANDID"].tolist() == expected.header["CANDID"].tolist()
        assert found.reasons == expected.reasons
    assert max(held) < 120_000


def write_all_kinds(folder):
    """Plain files, and all that is not done as soon as a file is read: gzipped, odd, damaged, missing ones."""
    names = [entry.name for entry in write_corpus(folder)]
    write_cutout(folder / "digits.fits", MAG=17.123456789012345678, CANDID=1.5, FILE="x" * 66)
    (folder / "packed.fits.gz").write_bytes(gzip.compress((folder / "digits.fits").read_bytes()))
    paths = [folder / name for name in (*names, "digits.fits", "packed.fits.gz", *names, "gone.fits")]
    return paths, [path.read_bytes() if path.is_file() else b"" for path in paths]


@pytest.mark.parametrize(("at_once", "expected_file"), [(64, 1 << 16), (1, 1 << 16), (3, 1)])
def test_files_give_what_their_bytes_give(tmp_path, monkeypatch, at_once, expected_file):
    monkeypatch.setattr(sources, "AT_ONCE", at_once)
    monkeypatch.setattr(sources, "EXPECTED_FILE", expected_file)
    paths, contents = write_all_kinds(tmp_path)
    found, expected = (read_cutouts(each, planes=PLANES, size=SIZE) for each in (paths, contents))
    np.testing.assert_array_equal(found.pixels, expected.pixels)
    np.testing.assert_array_equal(found.flags, expected.flags)
    for key, column in expected.header.items():
        np.testing.assert_array_equal(found.header[key], column)
    unread = {row for row, path in enumerate(paths) if not path.is_file()}
    assert unread < set(found.reasons) == set(expected.reasons)
    assert all(found.reasons[row] == why for row, why in expected.reasons.items() if row not in unread)


def test_without_the_calls_of_posix_files_are_read_one_by_one(tmp_path, monkeypatch):
    paths, _ = write_all_kinds(tmp_path)
    expected = read_cutouts(paths, planes=PLANES, size=SIZE)
    monkeypatch.setattr(file_kernels, "read_files", None)
    monkeypatch.setattr(file_kernels, "decode_files", None)
    found = read_cutouts(paths, planes=PLANES, size=SIZE)
    np.testing.assert_array_equal(found.pixels, expected.pixels)
    np.testing.assert_array_equal(found.flags, expected.flags)
    assert found.reasons == expected.reasons


def test_a_file_gives_its_room_to_the_next_one(tmp_path):
    write_all_kinds(tmp_path)
    plain = [write_cutout(tmp_path / f"plain{seed}.fits", seed) for seed in range(50)]
    buffer, pixels = sources.Buffer(), np.empty((100, 64, 64, 1), np.float32)
    decoder = Decoder(Wanted(("DIFF",), (64, 64), ("MAG",)), 50, pixels[:50])
    assert not sources.load(plain, buffer, read_files=decoder.read_files).bounds.any()
    assert buffer.stop == 0
    decoder = Decoder(Wanted(("DIFF",), (64, 64), ("MAG",)), 51, pixels[:51])
    arena = sources.load([*plain, str(tmp_path / "packed.fits.gz")], buffer, read_files=decoder.read_files)
    assert (arena.bounds[:, 1] - arena.bounds[:, 0]).nonzero()[0].tolist() == [50]
    # One file, inflated and not.
    assert buffer.stop < 2 * (tmp_path / "digits.fits").stat().st_size


@pytest.mark.parametrize("length", [8720, 9640, 10080])
def test_a_file_that_ends_within_the_next_header_does_not_answer_with_the_planes_it_has(length):
    planes = [fits.ImageHDU(np.arange(576, dtype=np.float32).reshape(24, 24), name=name) for name in ("SCI", "DIFF")]
    file = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), *planes]).writeto(file)
    cutouts = read_cutouts([file.getvalue()[:length]], planes=("DIFF",), size=(24, 24))
    assert cutouts.flags[0] == CutoutFlag.UNREADABLE
    assert cutouts.reasons[0] == "it is truncated"
