"""otrain_train: datacube, splits and cubewriter."""

import hashlib
import logging
import os
import signal
import subprocess
import sys
import tracemalloc
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from otrain_infer.errors import DatacubeError, OutputError, UsageError
from otrain_train.cubewriter import DatacubeWriter
from otrain_train.datacube import COLUMNS, Datacube, sha256
from otrain_train.splits import group_by, split_rows


def make(n, seed=0, size=(6, 5), planes=("SCI", "DIFF"), labels=None):
    rng = np.random.default_rng(seed)
    return Datacube.from_columns(
        {
            "cube": rng.normal(size=(n, *size, len(planes))).astype(np.float32),
            "labels": rng.integers(0, 2, n) if labels is None else np.asarray(labels),
            "mags": rng.normal(18, 1, n),
            "errmags": rng.uniform(0.01, 0.3, n),
            "fwhms": rng.uniform(2, 4, n),
            "filters": rng.choice(["g", "r"], n),
            "candids": np.array([f"c{seed}-{i}" for i in range(n)]),
            "files": np.array([f"true/{'x' * (i % 9)}{i}.fits" for i in range(n)]),
            "groups": rng.choice(["", "a", "b"], n),
        },
        planes,
    )


def assert_same(one, other):
    assert one.planes == other.planes
    for key in COLUMNS:
        np.testing.assert_array_equal(getattr(one, key), getattr(other, key), err_msg=key)


def test_round_trip(tmp_path):
    rows = make(50)
    rows.save(tmp_path / "new" / "cube.npz")
    loaded = Datacube.load(tmp_path / "new" / "cube.npz")
    assert_same(loaded, rows)
    assert (len(loaded), loaded.size, loaded.n_true + loaded.n_false) == (50, (6, 5), 50)
    assert loaded.n_true == rows.labels.sum()
    assert loaded.cube.flags.aligned
    assert loaded.cube.flags.c_contiguous
    assert not loaded.cube.flags.owndata


def test_what_is_written_is_what_the_original_reads(tmp_path):
    make(7).save(tmp_path / "cube.npz")
    assert all(info.compress_type == zipfile.ZIP_STORED for info in zipfile.ZipFile(tmp_path / "cube.npz").infolist())
    with np.load(tmp_path / "cube.npz", allow_pickle=False) as found:
        kinds = {key: (found[key].dtype.str[:2], found[key].shape) for key in found}
        assert found["planes"].tolist() == ["SCI", "DIFF"]
    text = ("<U", (7,))
    assert kinds == {
        "cube": ("<f", (7, 6, 5, 2)),
        "labels": ("<i", (7,)),
        "mags": ("<f", (7,)),
        "errmags": ("<f", (7,)),
        "filters": text,
        "fwhms": ("<f", (7,)),
        "candids": text,
        "planes": ("<U", (2,)),
        "files": text,
        "groups": text,
        "mjds": ("<f", (7,)),
        "weights": ("<f", (7,)),
    }


def test_cube_of_the_original_convert(tmp_path):
    cube = np.random.default_rng(0).normal(size=(4, 6, 6, 1)).astype("f4")
    np.savez(
        tmp_path / "cube.npz",
        cube=cube,
        labels=np.array([1, 1, 0, 0]),
        mags=np.arange(4.0),
        errmags=np.arange(4.0),
        filters=np.array(["g"] * 4),
        fwhms=np.arange(4.0),
        candids=np.array([10, 11, 12, 2**53 + 1]),
    )
    loaded = Datacube.load(tmp_path / "cube.npz")
    np.testing.assert_array_equal(loaded.cube, cube)
    assert loaded.candids.tolist() == ["10", "11", "12", "9007199254740993"]
    assert loaded.planes == ("DIFF",)
    assert loaded.files.tolist() == loaded.groups.tolist() == [""] * 4
    loaded.save(tmp_path / "again.npz")
    assert_same(Datacube.load(tmp_path / "again.npz"), loaded)


def test_validation_cube_of_the_original(tmp_path):
    np.savez(
        tmp_path / "cube_validation.npz",
        cube=np.zeros((3, 6, 6, 1)),
        labels=np.array([[0, 1], [1, 0], [0, 1]], "f4"),
        mags=np.array(["18.5", "-99.0", "None"]),
        errmags=np.array([0.1, -99.0, 0.2]),
        candids=np.array(list("abc")),
    )
    loaded = Datacube.load(tmp_path / "cube_validation.npz")
    assert loaded.labels.tolist() == [1, 0, 1]
    assert loaded.labels.dtype == np.int64
    assert loaded.cube.dtype == np.float32
    np.testing.assert_array_equal(loaded.mags, [18.5, np.nan, np.nan])
    np.testing.assert_array_equal(loaded.errmags, [0.1, np.nan, 0.2])
    assert np.isnan(loaded.fwhms).all()
    assert loaded.filters.tolist() == [""] * 3


def test_other_shapes_and_types_of_old_cubes(caplog):
    flat = Datacube.from_columns({"cube": np.ones((2, 5, 4), ">f8"), "labels": np.array([[True], [False]])})
    assert flat.cube.shape == (2, 5, 4, 1)
    assert flat.cube.dtype == np.dtype("=f4")
    assert flat.labels.tolist() == [1, 0]
    assert not caplog.records
    unnamed = Datacube.from_columns({"cube": np.ones((2, 5, 4, 2)), "labels": [1, 0] @ np.eye(2, dtype=int)})
    assert unnamed.planes == ("PLANE1", "PLANE2")
    assert "does not name its 2 planes" in caplog.text
    floats = Datacube.from_columns(
        {"cube": np.ones((2, 5, 4)), "labels": np.array([1.0, 0.0]), "candids": np.array([12.0, np.nan])}, ("REF",)
    )
    assert floats.candids.tolist() == ["12", ""]
    assert floats.planes == ("REF",)


GOOD = {"cube": np.ones((3, 4, 4, 1)), "labels": np.array([1, 0, 1])}


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"cube": np.ones((0, 4, 4, 1)), "labels": np.ones(0)}, "none of them empty"),
        ({"cube": np.ones((3, 0, 4, 1))}, "none of them empty"),
        ({"cube": np.ones((3, 4))}, "not the shape"),
        ({"cube": np.array(1.0)}, "not the shape"),
        ({"cube": np.full((3, 4, 4, 1), "x")}, "not numbers"),
        ({"labels": np.array([1, 0])}, r"'labels' has the shape \(2,\), but the cube holds 3"),
        ({"labels": np.array([1, 0, 2])}, "there are others among these"),
        ({"labels": np.array([1, 0, np.nan])}, "there are others among these"),
        ({"labels": np.array(["true", "false", "true"])}, "not numbers"),
        ({"labels": np.array([[1, 1], [0, 1], [0, 1]])}, "do not name one class"),
        ({"labels": np.ones((3, 3))}, "'labels' has the shape"),
        ({"mags": np.ones(2)}, "'mags' has the shape"),
        ({"mags": np.ones(3, complex)}, "not numbers"),
        ({"candids": np.array("x")}, "'candids' has the shape"),
        ({"planes": np.array(["SCI", "DIFF"])}, "2 planes are named but the cube has 1"),
    ],
)
def test_what_is_no_datacube_is_refused_in_one_sentence(tmp_path, columns, sentence):
    np.savez(tmp_path / "cube.npz", **(GOOD | columns))
    with pytest.raises(DatacubeError, match=sentence) as caught:
        Datacube.load(tmp_path / "cube.npz")
    assert "cube.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_cube_or_labels(tmp_path):
    np.savez(tmp_path / "cube.npz", mags=np.ones(3))
    with pytest.raises(DatacubeError, match="it lacks cube, labels and holds mags"):
        Datacube.load(tmp_path / "cube.npz")


def test_select():
    rows = make(20)
    assert_same(rows.select([3, 1]), rows.select(np.isin(np.arange(20), [1, 3])).select([1, 0]))
    assert np.shares_memory(rows.select(slice(2, 5)).cube, rows.cube)
    with pytest.raises(DatacubeError, match="no row"):
        rows.select(np.zeros(20, bool))


def test_sha256(tmp_path):
    make(5).save(tmp_path / "a.npz")
    make(5).save(tmp_path / "b.npz")
    make(5, seed=1).save(tmp_path / "c.npz")
    digest = sha256(tmp_path / "a.npz")
    assert digest == hashlib.sha256((tmp_path / "a.npz").read_bytes()).hexdigest() == sha256(tmp_path / "b.npz")
    assert digest != sha256(tmp_path / "c.npz")
    with pytest.raises(DatacubeError, match="cannot be read"):
        sha256(tmp_path / "absent.npz")


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("n_groups", [8, 60, 400])
def test_split_keeps_groups_whole_and_both_classes(seed, n_groups):
    rng = np.random.default_rng([seed, n_groups])
    labels = (rng.random(1000) < 0.2).astype(np.int64)
    groups = rng.integers(0, n_groups, 1000).astype(str)
    training, validation = split_rows(labels, groups, 0.15, seed)
    assert sorted([*training, *validation]) == list(range(1000))
    assert not set(groups[training]) & set(groups[validation])
    tolerance = 0.04 if n_groups > 8 else 0.15
    for label in (0, 1):
        assert np.mean(labels[validation] == label) > 0
        assert abs(np.sum(labels[validation] == label) / np.sum(labels == label) - 0.15) < tolerance


def test_split_of_rows_without_groups_is_exact():
    labels = np.repeat([0, 1], [200, 100])
    training, validation = split_rows(labels, np.full(300, ""), 0.15, 1)
    assert np.bincount(labels[validation]).tolist() == [30, 15]
    assert len(training) == 255


def test_rows_without_a_group_make_up_for_coarse_groups():
    labels = np.tile([0, 1], 500)
    groups = np.where(np.arange(1000) < 700, "night", "")
    training, validation = split_rows(labels, groups, 0.2, 0)
    assert np.bincount(labels[validation]).tolist() == [100, 100]
    assert set(groups[validation]) == {""}
    assert len(training) == 800


def test_a_group_that_holds_half_of_a_class():
    labels = np.array([1] * 50 + [0] * 50)
    groups = np.array(["a"] * 25 + ["b"] * 25 + ["c"] * 25 + ["d"] * 25)
    for seed in range(10):
        training, validation = split_rows(labels, groups, 0.1, seed)
        assert set(labels[training]) == set(labels[validation]) == {0, 1}
        assert not set(groups[training]) & set(groups[validation])


@pytest.mark.parametrize("groups", [["one"] * 100, ["a"] * 50 + [str(i) for i in range(50)]])
def test_split_falls_back_to_rows_and_says_so(groups, caplog):
    labels = np.repeat([0, 1], 50)
    with caplog.at_level(logging.WARNING):
        _, validation = split_rows(labels, np.array(groups), 0.2, 0)
    assert np.bincount(labels[validation]).tolist() == [10, 10]
    assert "without regard to groups" in caplog.text


def test_split_is_repeatable_and_random():
    labels, groups = np.tile([0, 1], 100), np.repeat(np.arange(50), 4).astype(str)
    first, again, other = (split_rows(labels, groups, 0.2, seed)[1].tolist() for seed in (5, 5, 6))
    assert first == again
    assert first != other
    assert split_rows(labels, groups, 0.2, np.random.default_rng(5))[1].tolist() == first


def test_smallest_split():
    training, validation = split_rows(np.array([0, 0, 1, 1]), np.full(4, ""), 0.01, 0)
    assert len(training) == len(validation) == 2


@pytest.mark.parametrize("fraction", [0, 1, -0.2, 1.5, np.nan])
def test_split_needs_a_fraction(fraction):
    with pytest.raises(UsageError, match="between 0 and 1"):
        split_rows(np.array([0, 0, 1, 1]), np.full(4, ""), fraction, 0)


@pytest.mark.parametrize("labels", [[1, 1, 1], [0, 0, 0, 1]])
def test_split_needs_both_classes(labels):
    with pytest.raises(DatacubeError, match="at least 2 of each"):
        split_rows(np.array(labels), np.full(len(labels), ""), 0.5, 0)


def test_rows_are_grouped_by_a_column_or_not_at_all():
    cube = make(6)
    columns = {"groups": "a a b b c c", "files": "1 2 1 2 1 2", "candids": "x x x y y y"}
    cube = replace(cube, **{key: np.array(texts.split()) for key, texts in columns.items()})
    for key in columns:
        assert np.array_equal(group_by(cube, key), getattr(cube, key))
    assert (group_by(cube, "none") == "").all()


@pytest.mark.parametrize("longitude", [0, 0.3, 0.5, 0.71, 0.99])
def test_nights_are_parted_by_day_wherever_the_telescope_is(longitude):
    rng = np.random.default_rng(3)
    nights = rng.integers(0, 40, 300)
    mjds = 59_000.1 + longitude + nights + rng.uniform(-0.22, 0.22, 300)
    mjds[[7, 11]] = np.nan
    groups = group_by(replace(make(300), mjds=mjds), "nights")
    assert groups[7] == groups[11] == ""
    known = np.isfinite(mjds)
    names = {night: set(groups[known & (nights == night)]) for night in np.unique(nights[known])}
    assert all(len(each) == 1 for each in names.values())
    assert len(set.union(*names.values())) == len(names)


def test_one_moment_is_one_night():
    assert len(set(group_by(replace(make(4), mjds=np.full(4, 60_000.0)), "nights"))) == 1


@pytest.mark.parametrize(("key", "column"), [("files", "files"), ("candids", "candids"), ("nights", "mjds")])
def test_an_empty_column_groups_nothing_and_says_so(key, column):
    texts = dict.fromkeys(("files", "candids", "groups"), np.full(4, ""))
    cube = replace(make(4), mjds=np.full(4, np.nan), **texts)
    with pytest.raises(UsageError, match=f"by {key}: '{column}' of the datacube is empty"):
        group_by(cube, key)
    assert (group_by(cube, "groups") == "").all()


def test_split_of_a_datacube():
    rows = make(100)
    training, validation = rows.split(0.2, 3)
    expected = split_rows(rows.labels, rows.groups, 0.2, 3)
    assert_same(training, rows.select(expected[0]))
    assert_same(validation, rows.select(expected[1]))


def test_writer_puts_true_first(tmp_path):
    batches = [make(n, seed) for seed, n in enumerate((5, 1, 8, 3))]
    with DatacubeWriter(tmp_path / "new" / "cube.npz") as writer:
        for batch in batches:
            writer.append(batch)
        total = writer.n_true, writer.n_false
    loaded = Datacube.load(tmp_path / "new" / "cube.npz")
    assert (loaded.n_true, loaded.n_false) == total
    assert loaded.labels.tolist() == [1] * total[0] + [0] * total[1]
    for key in COLUMNS:
        expected = [getattr(batch, key)[batch.labels == label] for label in (1, 0) for batch in batches]
        np.testing.assert_array_equal(getattr(loaded, key), np.concatenate(expected), err_msg=key)
    assert os.listdir(tmp_path / "new") == ["cube.npz"]


def test_writer_keeps_the_first_of_each_class(tmp_path):
    with DatacubeWriter(tmp_path / "cube.npz") as writer:
        for seed in range(4):
            writer.append(make(10, seed, labels=[0, 1] * 5))
        writer.keep(7, 12)
    loaded = Datacube.load(tmp_path / "cube.npz")
    expected = np.concatenate([make(10, seed).candids for seed in range(4)])
    assert loaded.candids[:7].tolist() == expected[1::2][:7].tolist()
    assert loaded.candids[7:].tolist() == expected[::2][:12].tolist()


def test_writer_and_save_give_the_same_bytes(tmp_path):
    rows = make(9, labels=[1] * 4 + [0] * 5)
    rows.save(tmp_path / "a.npz")
    with DatacubeWriter(tmp_path / "b.npz") as writer:
        writer.append(rows)
    assert sha256(tmp_path / "a.npz") == sha256(tmp_path / "b.npz")


def test_writer_leaves_the_old_file_when_it_fails(tmp_path):
    make(3).save(tmp_path / "cube.npz")
    before = sha256(tmp_path / "cube.npz")

    def write(*batches):
        with DatacubeWriter(tmp_path / "cube.npz") as writer:
            for batch in batches:
                writer.append(batch)

    with pytest.raises(AttributeError):
        write(make(3, 1), "no rows")
    with pytest.raises(DatacubeError, match="not one cutout"):
        write()
    with pytest.raises(DatacubeError, match="do not fit"):
        write(make(3), make(3, size=(6, 6)))
    assert sha256(tmp_path / "cube.npz") == before
    assert os.listdir(tmp_path) == ["cube.npz"]


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="could not be written"):
        make(3).save(tmp_path / "file" / "cube.npz")
    with pytest.raises(OutputError, match="could not be written"), DatacubeWriter(tmp_path / "file" / "cube.npz"):
        pass


def test_writer_needs_no_more_memory_for_more_rows(tmp_path):
    batch = make(50, size=(32, 32))

    def peak(batches):
        tracemalloc.start()
        with DatacubeWriter(tmp_path / "cube.npz") as writer:
            for _ in range(batches):
                writer.append(batch)
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    peak(1)
    few, many = peak(6), peak(60)
    assert many - few < 54 * batch.cube.nbytes / 10
    assert len(Datacube.load(tmp_path / "cube.npz")) == 3000


FULL_DISK = """
import resource, sys
import numpy as np
from otrain_infer.errors import OutputError
from otrain_train.cubewriter import DatacubeWriter
from otrain_train.datacube import Datacube
rows = Datacube.from_columns({"cube": np.ones((100, 16, 16, 1), "f4"), "labels": np.tile([1, 0], 50)})
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    if sys.argv[3] == "save":
        rows.save(sys.argv[1])
    else:
        with DatacubeWriter(sys.argv[1]) as writer:
            writer.append(rows)
except OutputError as error:
    print(error)
"""


# 102,400 bytes of pixels; the writer's spools hold half of them each, so the limits hit each stage of its work.
@pytest.mark.parametrize(("how", "limit"), [("save", 50_000), ("save", 104_000), ("append", 3_000), ("append", 60_000)])
def test_full_disk_is_one_clear_error_and_leaves_nothing(tmp_path, how, limit):
    path = tmp_path / "out" / "cube.npz"
    command = [sys.executable, "-W", "error", "-c", FULL_DISK, str(path), str(limit), how]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"'{path}' could not be written (File too large)\n"
    assert done.stderr == ""
    assert os.listdir(tmp_path / "out") == []


SLOW_WRITE = """
import sys, time
import numpy as np
from otrain_infer.npz import Member, write_npz
def blocks():
    yield np.ones((100000,), "f4")
    print("half", flush=True)
    time.sleep(60)
write_npz(sys.argv[1], [Member("cube", np.dtype("f4"), (200000,), blocks())])
"""


def test_kill_while_writing_leaves_no_half_file_and_the_next_run_tidies_up(tmp_path):
    path = tmp_path / "cube.npz"
    with subprocess.Popen([sys.executable, "-c", SLOW_WRITE, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"half\n"
        assert len(os.listdir(tmp_path)) == 1
        process.send_signal(signal.SIGKILL)
    assert not path.exists()
    make(5).save(path)
    assert os.listdir(tmp_path) == ["cube.npz"]
    assert_same(Datacube.load(path), make(5))
