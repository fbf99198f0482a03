"""otrain_train.convert: sorted cutouts to a datacube."""

import gzip
import os
import shutil
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given
from hypothesis import strategies as st
from openings import opened
from test_votes import make_vote

from otrain_infer.cutouts import read_cutouts
from otrain_infer.errors import OtrainError, SourceError, UsageError
from otrain_train.candidate_folder import find_candidates
from otrain_train.cli import convert as command
from otrain_train.convert import ConvertSettings, convert, largest_set
from otrain_train.datacube import Datacube, sha256
from otrain_train.mock import MockSettings, mock_arrays, write_mock
from otrain_train.verdicts import Rule
from otrain_train.votes import Journal

KEYWORDS = {"MAG": 18.5, "MAGERR": 0.1, "FILTER": "g", "FWHM": 3.0, "EDGE": "False"}


def write_cutout(path, pixels=None, **keywords):
    """Write one image with the keywords of a cutout; None leaves a keyword out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if pixels is None:
        pixels = np.random.default_rng(len(path.name)).normal(size=(9, 9))
    header = fits.Header()
    for key, value in ({"CANDID": path.name.split(".")[0]} | KEYWORDS | keywords).items():
        if value is not None:
            header[key] = value
    fits.PrimaryHDU(np.asarray(pixels, np.float32), header).writeto(path)


def write_class(folder, n, **keywords):
    for i in range(n):
        write_cutout(folder / f"{folder.name[0]}{i:03d}.fits", **keywords)


@pytest.fixture(scope="module")
def sorted_cutouts(tmp_path_factory):
    """10 real and 50 bogus cutouts."""
    folder = tmp_path_factory.mktemp("cutouts")
    write_class(folder / "true", 10)
    write_class(folder / "false", 50)
    return folder


def run(folder, **settings):
    """Convert and load what was written."""
    output = folder / "out" / "cube.npz"
    summary = convert(folder, output, ConvertSettings(**settings))
    assert os.listdir(output.parent) == ["cube.npz"]
    rows = Datacube.load(output)
    assert (rows.n_true, rows.n_false) == (summary.true.taken, summary.false.taken)
    return rows, summary


def run_into(output, source):
    """Convert all that a folder holds, in the order of the names."""
    summary = convert(source, output / "cube.npz", ConvertSettings(frac_true=None))
    return Datacube.load(output / "cube.npz"), summary


@pytest.mark.parametrize(
    ("have", "fraction", "expected"),
    [
        ((1000, 5000), 0.5, (1000, 1000)),
        ((5000, 1000), 0.5, (1000, 1000)),
        ((1000, 5000), 0.25, (1000, 3000)),
        ((1000, 5000), 0.1, (556, 5000)),
        ((1000, 5000), 0.9, (1000, 111)),
        ((1000, 111), 0.9, (999, 111)),
        ((3, 1), 0.001, (1, 1)),
        ((1, 3), 0.999, (1, 1)),
        ((7, 9), None, (7, 9)),
    ],
)
def test_largest_set(have, fraction, expected):
    assert largest_set(*have, fraction) == expected


@given(st.integers(1, 3000), st.integers(1, 3000), st.floats(0.01, 0.99))
def test_largest_set_is_the_largest_and_has_the_fraction(n_true, n_false, fraction):
    true, false = largest_set(n_true, n_false, fraction)
    assert 1 <= true <= n_true
    assert 1 <= false <= n_false
    assert true == n_true or false == n_false
    if min(true, false) > 1:
        # Neither class could be changed by one and come nearer to the fraction.
        other = (1 - fraction) / fraction
        assert abs(false - true * other) <= 0.5 * max(1, other) + 1e-6


@pytest.mark.parametrize("fraction", [1.5, -0.2, 0, 1, np.nan])
def test_fractions_that_make_no_sense(fraction):
    with pytest.raises(UsageError, match="between 0 and 1"):
        ConvertSettings(frac_true=fraction)


@pytest.mark.parametrize(
    "wrong", [{"cutout_size": 0}, {"cutout_size": -2}, {"planes": ()}, {"planes": ("NEW",)}, {"seed": -1}]
)
def test_settings_that_make_no_sense(wrong):
    with pytest.raises(UsageError):
        ConvertSettings(**wrong)


@pytest.mark.parametrize(
    ("fraction", "expected"), [(0.5, (10, 10)), (0.25, (10, 30)), (0.1, (6, 50)), (0.9, (10, 1)), (None, (10, 50))]
)
def test_keeps_as_many_as_the_fraction_allows(sorted_cutouts, fraction, expected):
    rows, _ = run(sorted_cutouts, frac_true=fraction)
    assert (rows.n_true, rows.n_false) == expected
    assert rows.labels.tolist() == sorted(rows.labels, reverse=True)
    assert [file.split("/")[0] for file in rows.files] == ["true"] * expected[0] + ["false"] * expected[1]
    assert len(set(rows.files)) == sum(expected)


def test_the_choice_is_random_and_repeatable(sorted_cutouts):
    first, again, other = (set(run(sorted_cutouts, seed=seed)[0].files) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    in_order = {f"false/f{i:03d}.fits" for i in range(10)}
    assert len(first & in_order) < 9


def test_files_are_named_by_their_class_and_name(tmp_path):
    folder = tmp_path / "a b"
    write_class(folder / "True", 2)
    write_class(folder / "false", 2, EDGE="True")
    write_cutout(folder / "false" / "\u00e9.fits", CANDID="1")
    (tmp_path / "link").symlink_to(folder)
    for source in (folder, tmp_path / "link", f"{folder}/../a b/"):
        rows, summary = run_into(tmp_path / "out", source)
        assert rows.files.tolist() == ["True/T000.fits", "True/T001.fits", "false/\u00e9.fits"]
        assert [name for name, _ in summary.false.examples] == ["false/f000.fits", "false/f001.fits"]


def test_threads_change_nothing(tmp_path):
    write_mock(tmp_path, MockSettings(300, 600, size=16, planes=("DIFF",), edge_fraction=0.2))
    digests = set()
    for threads in (1, 3):
        convert(tmp_path, tmp_path / "cube.npz", ConvertSettings(threads=threads))
        digests.add(sha256(tmp_path / "cube.npz"))
    assert len(digests) == 1


def test_everything_in_order_of_name(sorted_cutouts):
    rows, _ = run(sorted_cutouts, frac_true=None)
    assert rows.candids.tolist() == [f"t{i:03d}" for i in range(10)] + [f"f{i:03d}" for i in range(50)]


def test_rows_are_what_the_scoring_reader_gives(tmp_path):
    settings = MockSettings(20, 20, size=21, planes=("SCI", "DIFF"), edge_fraction=0, nan_fraction=0.5)
    write_mock(tmp_path, settings)
    rows, _ = run(tmp_path, planes=("SCI", "DIFF"))
    found = read_cutouts([tmp_path / file for file in rows.files], planes=("SCI", "DIFF"), size=(21, 21))
    np.testing.assert_array_equal(rows.cube, found.pixels)
    assert np.isnan(rows.cube).any()
    assert (rows.planes, rows.size) == (("SCI", "DIFF"), (21, 21))
    for key, keyword in {
        "mags": "MAG",
        "errmags": "MAGERR",
        "fwhms": "FWHM",
        "filters": "FILTER",
        "mjds": "MJD",
    }.items():
        np.testing.assert_array_equal(getattr(rows, key), found.header[keyword])
    made = mock_arrays(settings)
    assert sorted(rows.groups) == sorted(made.groups)


def test_columns_as_the_original_has_them(sorted_cutouts):
    run(sorted_cutouts)
    with np.load(sorted_cutouts / "out" / "cube.npz", allow_pickle=False) as found:
        assert {"cube", "labels", "mags", "errmags", "filters", "fwhms", "candids"} <= set(found)
        assert found["cube"].dtype == np.float32
        assert found["labels"].dtype == np.int64
        assert found["labels"].shape == (20,)
        assert found["mags"].dtype == np.float64


@pytest.mark.parametrize("edge", ["True", "TRUE", "true", True, 1])
def test_edge_cutouts_are_left_out_and_replaced(tmp_path, edge):
    write_class(tmp_path / "true", 10)
    write_class(tmp_path / "false", 12)
    for i in range(8):
        write_cutout(tmp_path / "false" / f"a{i}.fits", EDGE=edge)
    rows, summary = run(tmp_path)
    assert (rows.n_true, rows.n_false) == (10, 10)
    assert not any(candid.startswith("a") for candid in rows.candids)
    assert (summary.false.read, summary.false.usable, summary.false.edge) == (20, 12, 8)
    assert summary.false.examples[0][1] == "at the edge of its image"
    assert "left out 8 at an edge and 0 unusable" in str(summary)


@pytest.mark.parametrize("edge", ["False", "FALSE", False, 0, None])
def test_cutouts_within_the_image_stay(tmp_path, edge):
    write_class(tmp_path / "true", 2, EDGE=edge)
    write_class(tmp_path / "false", 2)
    assert len(run(tmp_path)[0]) == 4


def test_the_set_shrinks_when_edges_leave_too_few(tmp_path):
    write_class(tmp_path / "true", 10)
    write_class(tmp_path / "false", 30, EDGE=True)
    for i in range(4):
        write_cutout(tmp_path / "false" / f"good{i}.fits")
    rows, summary = run(tmp_path)
    assert (rows.n_true, rows.n_false) == (4, 4)
    assert (summary.true.usable, summary.true.taken) == (10, 4)


def test_unusable_files_are_left_out_named_and_replaced(tmp_path):
    write_class(tmp_path / "true", 5)
    write_class(tmp_path / "false", 6)
    (tmp_path / "false" / "text.fits").write_text("not a cutout")
    whole = (tmp_path / "false" / "f000.fits").read_bytes()
    (tmp_path / "false" / "short.fits").write_bytes(whole[:2900])
    (tmp_path / "false" / "packed.fits.gz").write_bytes(gzip.compress(whole)[:-20])
    (tmp_path / "false" / "folder.fits").mkdir()
    write_cutout(tmp_path / "false" / "blank.fits", np.full((9, 9), 3.0))
    write_cutout(tmp_path / "false" / "nan.fits", np.full((9, 9), np.nan))
    rows, summary = run(tmp_path)
    assert (rows.n_true, rows.n_false) == (5, 5)
    assert all(file.startswith(("true/t", "false/f0")) for file in rows.files)
    assert summary.false.unusable == 6
    assert len(summary.false.examples) == 3
    for file, why in summary.false.examples:
        assert not file.startswith("false/f0")
        assert why
        assert f"{file}: {why}" in str(summary)


def test_extensions_without_the_plane(tmp_path):
    write_mock(tmp_path, MockSettings(4, 4, size=16, planes=("SCI", "REF"), edge_fraction=0))
    write_class(tmp_path / "true", 2)
    write_class(tmp_path / "false", 2)
    rows, summary = run(tmp_path)
    assert (rows.n_true, rows.n_false) == (2, 2)
    assert (summary.true.unusable, summary.false.unusable) == (4, 4)
    assert "DIFF" in summary.true.examples[0][1]


def test_a_stamp_of_another_size(tmp_path):
    write_class(tmp_path / "true", 4)
    write_class(tmp_path / "false", 4)
    write_cutout(tmp_path / "true" / "small.fits", np.random.default_rng(0).normal(size=(9, 7)))
    write_cutout(tmp_path / "false" / "large.fits", np.random.default_rng(0).normal(size=(13, 13)))
    rows, summary = run(tmp_path)
    assert rows.cube.shape == (10, 9, 9, 1)
    assert (summary.true.resized, summary.false.resized) == (1, 1)


@pytest.mark.parametrize(
    ("size", "position"),
    [
        *((size, position) for size in (5, 9, 15, 40, 41) for position in (None, 500)),
    ],
)
def test_the_object_stays_in_the_centre(tmp_path, size, position):
    pixels = np.random.default_rng(0).normal(size=(9, 9))
    pixels[4, 4] = 1000
    for name in ("true/a.fits", "false/b.fits"):
        write_cutout(tmp_path / name, pixels, XPOS=position, YPOS=position)
    rows, _ = run(tmp_path, cutout_size=size)
    assert rows.cube.shape == (2, size, size, 1)
    for cutout in rows.cube[..., 0]:
        assert np.unravel_index(np.nanargmax(cutout), cutout.shape) == (size // 2, size // 2)
        assert np.isfinite(cutout).sum() == min(size, 9) ** 2


def test_the_commonest_size_is_of_both_classes(tmp_path):
    for i in range(3):
        write_cutout(tmp_path / "true" / f"{i}.fits", np.random.default_rng(i).normal(size=(7, 11)))
    write_class(tmp_path / "false", 5)
    assert run(tmp_path)[0].size == (9, 9)


def test_three_dimensional_stamps(tmp_path):
    cube = np.random.default_rng(0).normal(size=(2, 9, 9))
    for name in ("true/a.fits", "false/b.fits"):
        write_cutout(tmp_path / name, cube)
    rows, _ = run(tmp_path, planes=("SCI", "DIFF"), cutout_size=5)
    np.testing.assert_array_equal(rows.cube[0], np.moveaxis(cube, 0, -1)[2:7, 2:7].astype(np.float32))


def test_missing_keywords_are_missing_values(tmp_path):
    write_class(tmp_path / "true", 2)
    nothing = dict.fromkeys(("CANDID", *KEYWORDS))
    write_cutout(tmp_path / "false" / "a.fits", **nothing)
    write_cutout(tmp_path / "false" / "b.fits", **nothing)
    rows, _ = run(tmp_path)
    false = rows.select(rows.labels == 0)
    assert false.candids.tolist() == false.filters.tolist() == false.groups.tolist() == ["", ""]
    assert np.isnan([false.mags, false.errmags, false.fwhms]).all()
    assert sorted(false.files) == ["false/a.fits", "false/b.fits"]
    assert rows.mags[:2].tolist() == [18.5, 18.5]


def test_groups_are_objects_or_else_images(tmp_path):
    write_cutout(tmp_path / "true" / "a.fits", OBJECTID="ZTF1", FILE="night1")
    write_cutout(tmp_path / "true" / "b.fits", FILE="night2")
    write_cutout(tmp_path / "false" / "c.fits", OBJECTID="ZTF3")
    write_cutout(tmp_path / "false" / "d.fits")
    rows, _ = run(tmp_path, frac_true=None)
    assert rows.groups.tolist() == ["ZTF1", "night2", "ZTF3", ""]


@pytest.mark.parametrize("names", [("True", "False"), ("TRUE", "false"), ("true", "FALSE")])
def test_folders_in_any_capitals(sorted_cutouts, tmp_path, names):
    for source, name in zip(("true", "false"), names, strict=True):
        shutil.copytree(sorted_cutouts / source, tmp_path / name)
    rows, _ = run(tmp_path)
    assert (rows.n_true, rows.n_false) == (10, 10)
    assert rows.files[0].startswith(names[0] + "/")


def test_gzipped_cutouts(sorted_cutouts, tmp_path):
    for file in [*(sorted_cutouts / "true").iterdir(), *(sorted_cutouts / "false").iterdir()]:
        target = tmp_path / file.parent.name / f"{file.name}.gz"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(gzip.compress(file.read_bytes()))
    plain, packed = run(sorted_cutouts, frac_true=None)[0], run(tmp_path, frac_true=None)[0]
    np.testing.assert_array_equal(plain.cube, packed.cube)
    assert plain.candids.tolist() == packed.candids.tolist()


def refused(folder, sentence):
    with pytest.raises(SourceError, match=sentence) as caught:
        convert(folder, folder / "cube.npz")
    assert "\n" not in str(caught.value)
    assert not list(folder.glob("*.npz"))


def test_folders_that_are_not_as_they_should_be(tmp_path):
    refused(tmp_path, "there is no folder 'true' in")
    write_class(tmp_path / "true", 1)
    refused(tmp_path, r"there is no folder 'false' in .* \(folders there: true\)")
    (tmp_path / "false").mkdir()
    refused(tmp_path, "there is no cutout")
    write_class(tmp_path / "false", 1)
    (tmp_path / "True").mkdir()
    refused(tmp_path, "True and true: put their cutouts into one")
    with pytest.raises(SourceError, match="cannot be read"):
        convert(tmp_path / "absent", tmp_path / "cube.npz")


def test_one_class_only(tmp_path):
    write_class(tmp_path / "true", 3)
    write_class(tmp_path / "false", 3, EDGE=True)
    refused(tmp_path, r"none of the 3 cutouts in the folder 'false' .* 3 lie at an edge")
    write_class(tmp_path / "true2", 3)
    shutil.rmtree(tmp_path / "true")
    (tmp_path / "true").mkdir()
    (tmp_path / "true" / "a.fits").write_text("")
    with pytest.raises(OtrainError):
        convert(tmp_path, tmp_path / "cube.npz", ConvertSettings(None))


def test_a_cube_that_is_there_survives_a_failure(tmp_path):
    write_class(tmp_path / "true", 3)
    write_class(tmp_path / "false", 3)
    run(tmp_path)
    before = sha256(tmp_path / "out" / "cube.npz")
    for file in (tmp_path / "false").iterdir():
        file.write_text("")
    with pytest.raises(SourceError):
        convert(tmp_path, tmp_path / "out" / "cube.npz", ConvertSettings(cutout_size=9))
    assert sha256(tmp_path / "out" / "cube.npz") == before
    assert os.listdir(tmp_path / "out") == ["cube.npz"]


def copies(folder, n, size):
    """Write n cutouts of each class, quickly."""
    for label, name in enumerate(("false", "true")):
        write_cutout(folder / name / "0.fits", np.random.default_rng(label).normal(size=(size, size)))
        content = (folder / name / "0.fits").read_bytes()
        for i in range(1, n):
            (folder / name / f"{i}.fits").write_bytes(content)


@pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")
def test_every_file_is_opened_once_and_no_more_than_needed(tmp_path):
    copies(tmp_path, 20, 5)
    for i in range(900):
        shutil.copy(tmp_path / "false" / "0.fits", tmp_path / "false" / f"more{i}.fits")
    steps = []
    settings = ConvertSettings(cutout_size=5)
    with opened(tmp_path / "true") as true, opened(tmp_path / "false") as false:
        summary = convert(tmp_path, tmp_path / "cube.npz", settings, lambda *now: steps.append(now))
    assert set(true.values()) == set(false.values()) == {1}
    assert (summary.true.read, summary.false.read) == (len(true), len(false))
    assert len(true) == 20
    assert len(false) < 480
    assert steps[0] == (20, 940)
    assert steps[-1] == (len(true) + len(false), 940)


def test_memory_does_not_grow_with_the_cutouts(tmp_path):
    copies(tmp_path, 1500, 32)

    def peak(folder):
        tracemalloc.start()
        convert(folder, tmp_path / "cube.npz", ConvertSettings(frac_true=None, cutout_size=32))
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    few = tmp_path / "few"
    for name in ("true", "false"):
        (few / name).mkdir(parents=True)
        for i in range(300):
            os.link(tmp_path / name / f"{i}.fits", few / name / f"{i}.fits")
    peak(few)
    least = peak(few)
    growth = peak(tmp_path) - least
    pixels = 2 * 1200 * 32 * 32 * 4
    assert growth < pixels / 5
    assert len(Datacube.load(tmp_path / "cube.npz")) == 3000


SCRIPT = """
import resource, sys, time
from otrain_infer.errors import OutputError
from otrain_train.convert import ConvertSettings, convert
folder, output, *limits = sys.argv[1:]
def progress(read, files):
    print(read, flush=True)
    time.sleep(60)
if not limits:
    convert(folder, output, ConvertSettings(cutout_size=16), progress)
for limit in limits:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
    try:
        convert(folder, output, ConvertSettings(cutout_size=16))
    except OutputError as error:
        print(error)
"""


def start(*arguments):
    command = [sys.executable, "-W", "error", "-c", SCRIPT, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_kill_leaves_nothing_and_a_second_run_completes(tmp_path):
    copies(tmp_path / "cutouts", 100, 16)
    output = tmp_path / "out" / "cube.npz"
    with start(tmp_path / "cutouts", output) as process:
        assert process.stdout.readline() == "100\n"
        process.kill()
    assert os.listdir(output.parent) == []
    convert(tmp_path / "cutouts", output)
    assert len(Datacube.load(output)) == 200
    assert os.listdir(output.parent) == ["cube.npz"]


def test_full_disk_is_one_sentence_and_leaves_nothing(tmp_path):
    # 102,400 bytes of pixels a class: the first limit is hit while reading, the second when the cube is put together.
    copies(tmp_path / "cutouts", 100, 16)
    output = tmp_path / "out" / "cube.npz"
    with start(tmp_path / "cutouts", output, 20_000, 150_000) as process:
        said, complaints = process.communicate()
    assert said == 2 * f"'{output}' could not be written (File too large)\n"
    assert complaints == ""
    assert os.listdir(output.parent) == []


def test_real_cutouts(tmp_path):
    if "OTRAIN_DATA" not in os.environ:
        pytest.skip("OTRAIN_DATA does not name the folder of real data")
    planes = ("SCI", "REF", "DIFF")
    folder = os.path.join(os.environ["OTRAIN_DATA"], "ztf")
    summary = convert(folder, tmp_path / "ztf.npz", ConvertSettings(None, planes=planes))
    rows = Datacube.load(tmp_path / "ztf.npz")
    assert rows.cube.shape == (388, 63, 63, 3)
    assert (summary.true.taken, summary.false.taken) == (296, 92)
    assert (summary.true.edge, summary.false.edge) == (4, 5)
    assert np.char.startswith(rows.groups, "ZTF").all()
    assert np.isfinite(rows.mags).all()


def test_the_summary_says_what_frac_true_spares(tmp_path):
    write_class(tmp_path / "true", 6)
    write_class(tmp_path / "false", 2)
    assert "4 more could be taken with --frac-true all" in str(run(tmp_path)[1])
    assert "more could be taken" not in str(run(tmp_path, frac_true=None)[1])


def test_the_summary_counts_those_it_does_not_name(tmp_path):
    write_class(tmp_path / "true", 3)
    write_class(tmp_path / "false", 9, EDGE="True")
    write_cutout(tmp_path / "false" / "good.fits")
    assert "\n  and 6 more" in str(run(tmp_path, frac_true=None)[1])


@pytest.fixture
def voted(tmp_path):
    """20 candidates in a folder and in one below it, some sorted already; ada and bob vote on them."""
    folder = tmp_path / "night"
    places = [folder, folder / "more", folder / "more" / "true", folder / "false"]
    for i in range(20):
        write_cutout(places[i % 4] / f"c{i:02d}.fits", CANDID=f"{i}")
    keys = find_candidates(folder).keys
    keys.sort(key=lambda key: key[-7:])
    journal = Journal(folder / "labels.csv")
    journal.append([make_vote(key, "true" if i < 8 else "false", "ada") for i, key in enumerate(keys[:16])])
    journal.append([make_vote(key, "false", "bob") for i, key in enumerate(keys[:4])])
    journal.append([make_vote(key, "true", "bob") for key in keys[4:6]])
    journal.append([make_vote(keys[15], "unsure", "bob"), make_vote("gone.fits", "true", "ada")])
    return folder


def test_votes_say_which_are_real(voted, tmp_path):
    output = tmp_path / "cube.npz"
    settings = ConvertSettings(frac_true=None, labels=voted / "labels.csv")
    summary = convert(voted, output, settings)
    rows = Datacube.load(output)
    assert {name[-8:-5] for name in rows.files[:4]} == {"c04", "c05", "c06", "c07"}
    assert (rows.n_true, rows.n_false) == (4, 8)
    assert all((voted / name).exists() for name in rows.files)
    weights = dict(zip([name[-8:-5] for name in rows.files], rows.weights, strict=True))
    assert weights.pop("c15") == 0.5
    assert set(weights.values()) == {1.0}
    assert str(summary).endswith(
        "votes: 24; candidates left out: 4 with a tie, 4 without a vote, 1 not in the folder ('gone.fits')"
    )


@pytest.mark.parametrize(
    ("rule", "n_true", "n_false"),
    [
        (Rule(weights={"bob": 2.0}), 4, 11),
        (Rule(weights={"ada": 2.0}), 8, 8),
        (Rule(min_agreement=0.9), 4, 7),
        (Rule(min_votes=2, weights={"bob": 2.0}), 2, 4),
    ],
)
def test_majority_agreement_and_weights(voted, tmp_path, rule, n_true, n_false):
    settings = ConvertSettings(frac_true=None, labels=voted / "labels.csv", rule=rule)
    summary = convert(voted, tmp_path / "cube.npz", settings)
    assert (summary.true.taken, summary.false.taken) == (n_true, n_false)


def test_votes_on_another_candidate_of_the_name_do_not_count(voted, tmp_path):
    journal, key = Journal(voted / "labels.csv"), "c04.fits"
    journal.append([make_vote(key, "true", "eve", candid="another")])
    summary = convert(voted, tmp_path / "cube.npz", ConvertSettings(frac_true=None, labels=voted / "labels.csv"))
    assert summary.true.unusable == 1
    assert "c04.fits: another candidate than was voted on" in str(summary)


def test_votes_on_a_name_that_two_files_have_now_are_about_neither(voted, tmp_path):
    write_cutout(voted / "true" / "c04.fits")
    summary = convert(voted, tmp_path / "cube.npz", ConvertSettings(frac_true=None, labels=voted / "labels.csv"))
    assert summary.true.taken == 3
    assert "2 not in the folder ('c04.fits', 'gone.fits')" in str(summary)


def test_votes_for_one_class_alone_are_refused(voted, tmp_path):
    settings = ConvertSettings(
        labels=voted / "labels.csv", rule=Rule(weights={"ada": 0.0}, min_votes=1, min_agreement=1)
    )
    summary = convert(voted, tmp_path / "cube.npz", settings)
    assert (summary.true.taken, summary.false.taken) == (2, 2)
    settings = ConvertSettings(labels=voted / "labels.csv", rule=Rule(min_votes=3))
    with pytest.raises(
        SourceError, match=r"call no cutout .* real, .*: votes: 24; candidates left out: 17 with too few"
    ):
        convert(voted, tmp_path / "cube.npz", settings)


def test_votes_are_taken_by_command(voted, tmp_path, capsys):
    options = ["--cutouts", str(voted), "--path", str(tmp_path), "--cube", "c", "--labels", str(voted / "labels.csv")]
    assert command(["--frac-true", "all", *options, "--weights", "bob=2,ada=1", "--min-votes", "1"]) == 0
    assert "15 cutouts, 4 real and 11 bogus" in capsys.readouterr().out
    assert command([*options[:-1], str(tmp_path / "none.csv")]) == 2
    assert "cannot be read" in capsys.readouterr().err
