"""What of a memory-mapped datacube stays in memory."""

import mmap
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from otrain_infer.errors import DatacubeError
from otrain_train.datacube import Datacube
from otrain_train.mapped import read_rows

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "memory.py"

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux says of the memory of a process")


def resident_file_pages():
    """Bytes of files that are mapped and in memory."""
    return int(Path("/proc/self/statm").read_text().split()[2]) * mmap.PAGESIZE


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """The file of a cube of 82 MB."""
    path = tmp_path_factory.mktemp("cube") / "c.npz"
    pixels = np.random.default_rng(0).normal(0, 1, (5000, 32, 32, 4)).astype(np.float32)
    labels = np.arange(5000) % 2
    Datacube.from_columns({"cube": pixels, "labels": labels}, ("A", "B", "C", "D")).save(path)
    return path


@pytest.fixture
def cube(path):
    """The cube, memory-mapped and not read yet."""
    return Datacube.load(path)


VIEWS = {
    "all planes": lambda cube: cube,
    "one plane": lambda cube: cube[..., 2:3],
    "planes turned round": lambda cube: cube[..., ::-2],
    "some rows": lambda cube: cube[100:4900],
    "every third row": lambda cube: cube[::3],
    "rows turned round": lambda cube: cube[::-1],
    "in memory": lambda cube: np.array(cube),
}

ROWS = {
    "shuffled": np.random.default_rng(1).permutation(600),
    "twice": np.array([5, 3, 5, 4, 599]),
    "from the end": np.array([-1, 0, -3]),
    "slice": slice(10, 500, 7),
    "the last": slice(-40, None),
    "none": np.empty(0, np.int64),
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("rows", ROWS)
def test_rows_are_what_indexing_gives(cube, view, rows):
    part = VIEWS[view](cube.cube)
    found = read_rows(part, ROWS[rows])
    assert np.array_equal(found, part[ROWS[rows]])
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    assert found.flags.writeable
    assert not np.shares_memory(found, part)


@needs_linux
@pytest.mark.parametrize("view", ["all planes", "one plane", "some rows", "every third row"])
def test_nothing_of_the_file_stays_in_memory(cube, view):
    part = VIEWS[view](cube.cube)
    before = resident_file_pages()
    for start in range(0, len(part), 50):
        read_rows(part, slice(start, start + 50))
    rng = np.random.default_rng(2)
    for _ in range(60):
        read_rows(part, rng.permutation(len(part))[:50])
    assert resident_file_pages() - before < 1e6
    float(part.sum())
    assert resident_file_pages() - before > 6e6


@needs_linux
def test_rows_are_selected_and_saved_without_keeping_the_file_in_memory(cube, tmp_path):
    before = resident_file_pages()
    half = cube.select(np.arange(0, 5000, 2))
    assert np.array_equal(half.cube, cube.read(slice(0, 5000, 2)))
    cube.save(tmp_path / "copy.npz")
    assert resident_file_pages() - before < 1e6
    assert (tmp_path / "copy.npz").stat().st_size > 80e6


def test_a_file_that_is_cut_short_is_said(path, tmp_path):
    pytest.importorskip("tensorflow")
    from otrain_infer.normalise import Normalisation
    from otrain_train.feed import Feed

    shutil.copy(path, tmp_path / "c.npz")
    cube = Datacube.load(tmp_path / "c.npz")
    feed = Feed(cube.cube, Normalisation()).batches(lambda number: np.arange(10) + 10 * number, 0, 500)
    next(feed)
    os.truncate(tmp_path / "c.npz", 30_000_000)
    with pytest.raises(DatacubeError, match="was cut short while it was read"):
        cube.read(slice(4500, 4600))
    with pytest.raises(DatacubeError, match="was cut short while it was read"):
        list(feed)


@needs_linux
def test_files_are_closed_with_the_last_array_of_them(path):
    before = len(os.listdir("/dev/fd"))
    cubes = [Datacube.load(path).cube[:10] for _ in range(5)]
    during = len(os.listdir("/dev/fd"))
    del cubes
    assert len(os.listdir("/dev/fd")) == before < during


@needs_linux
def test_training_takes_no_more_memory_for_a_larger_datacube(tmp_path):
    pytest.importorskip("tensorflow")
    # Small cutouts, and enough in the small cube too: what is in memory at a time is a number of rows.
    options = [
        "--gigabytes",
        "0.3",
        "--few",
        "2500",
        "--size",
        "64",
        "--planes",
        "DIFF",
        "--no-report",
        "--folder",
        str(tmp_path),
    ]
    done = subprocess.run([sys.executable, str(BENCHMARK), *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    cost = re.search(r"the size of the cube costs: (-?\d+) MB", done.stdout)
    assert cost is not None
    assert int(cost[1]) < 100, done.stdout
    assert list(tmp_path.iterdir()) == []
