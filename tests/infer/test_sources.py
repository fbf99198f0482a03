import gzip
import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from cutout_files import write_cutout
from openings import opened

from otrain_infer import Scorer, read_cutouts
from otrain_infer.errors import SourceError
from otrain_infer.sources import Buffer, find_cutouts, load, names_of


def touch(folder, *names):
    for name in names:
        (folder / name).write_bytes(name.encode())
    return folder


def test_a_folder_stands_for_its_cutouts_in_order(tmp_path):
    touch(tmp_path, "b.fits", "a.FITS", "c.fit", "d.fts.gz", "e.fits.fz", "notes.txt", ".hidden.fits", "fits")
    (tmp_path / "z.fits").mkdir()
    found = [os.path.basename(path) for path in find_cutouts(tmp_path)]
    assert found == ["a.FITS", "b.fits", "c.fit", "d.fts.gz", "e.fits.fz", "z.fits"]


def test_a_glob_a_list_and_a_file(tmp_path):
    touch(tmp_path, "b.fits", "a.fits", "x[1].fits")
    assert find_cutouts(str(tmp_path / "?.fits")) == [str(tmp_path / "a.fits"), str(tmp_path / "b.fits")]
    assert find_cutouts(tmp_path / "x[1].fits") == [str(tmp_path / "x[1].fits")]
    assert find_cutouts([tmp_path / "b.fits", str(tmp_path / "gone.fits")]) == [
        str(tmp_path / "b.fits"),
        str(tmp_path / "gone.fits"),
    ]


def test_nothing_is_said_plainly(tmp_path):
    (tmp_path / "true").mkdir()
    with pytest.raises(SourceError, match="it holds the folders true: name one of them"):
        find_cutouts(tmp_path)
    with pytest.raises(SourceError, match="matches no file"):
        find_cutouts(str(tmp_path / "*.fits"))
    with pytest.raises(SourceError, match="no cutout was named"):
        find_cutouts([])


def test_every_kind_of_source_is_loaded_once_and_in_order(tmp_path):
    touch(tmp_path, "a.fits")
    (tmp_path / "b.fits.gz").write_bytes(gzip.compress(b"inflated"))
    (tmp_path / "d.fits").mkdir()
    sources = [
        tmp_path / "a.fits",
        b"bytes",
        io.BytesIO(b"object"),
        str(tmp_path / "b.fits.gz"),
        gzip.compress(b"one") + gzip.compress(b"two"),
        tmp_path / "gone.fits",
        tmp_path / "d.fits",
        gzip.compress(b"cut off")[:-9],
        b"",
    ]
    arena = load(sources)
    contents = [arena.data[start:stop].tobytes() for start, stop in arena.bounds]
    assert contents == [b"a.fits", b"bytes", b"object", b"inflated", b"onetwo", b"", b"", b"", b""]
    assert sorted(arena.reasons) == [5, 6, 7]
    assert arena.reasons[5] == "No such file or directory"
    assert arena.reasons[6] == "Is a directory"


def test_a_bomb_is_no_cutout(monkeypatch):
    bomb = gzip.compress(bytes(3_000_000))
    monkeypatch.setattr("otrain_infer.sources.LARGEST_FILE", 1 << 20)
    arena = load([b"good", bomb, b"good"])
    assert "more than 1 MiB when inflated" in arena.reasons[1]
    assert [stop - start for start, stop in arena.bounds] == [4, 0, 4]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes are POSIX")
@pytest.mark.timeout(10)
def test_a_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe.fits")
    assert load([tmp_path / "pipe.fits"]).bounds.tolist() == [[0, 0]]


def test_the_arena_grows(tmp_path):
    big = np.random.default_rng(0).bytes(300_000)
    (tmp_path / "big.fits").write_bytes(big)
    arena = load([tmp_path / "big.fits", big, tmp_path / "big.fits"])
    assert all(arena.data[start:stop].tobytes() == big for start, stop in arena.bounds)


def test_names(tmp_path):
    assert names_of([tmp_path / "a.fits", b"...", io.BytesIO(), "b.fits"]) == [
        str(tmp_path / "a.fits"),
        "",
        "",
        "b.fits",
    ]
    assert names_of(["b.fits", "a.fits"]) == ["b.fits", "a.fits"]


def contents(arena):
    return [arena.data[start:stop].tobytes() for start, stop in arena.bounds]


def write_odd_files(folder):
    """Paths of all kinds, readable and not."""
    touch(folder, "a.fits", "\u00e9t\u00e9.fits", "empty.fits")
    (folder / "empty.fits").write_bytes(b"")
    (folder / "b.fits.gz").write_bytes(gzip.compress(b"inflated"))
    (folder / "broken.fits.gz").write_bytes(gzip.compress(b"cut off")[:-9])
    (folder / "large.fits").write_bytes(np.random.default_rng(0).bytes(700_000))
    (folder / "huge.fits").write_bytes(bytes(3_000_000))
    (folder / "folder.fits").mkdir()
    (folder / "link.fits").symlink_to("a.fits")
    (folder / "loop.fits").symlink_to("loop.fits")
    raw = os.fsdecode(b"\xff.fits")
    (folder / raw).write_bytes(b"no UTF-8")
    names = [*sorted(os.listdir(folder)), "gone.fits", "a.fits/b.fits", "", "x" * 300, "nul\0.fits", "\ud800.fits"]
    return [str(folder / name) if name else "" for name in names]


@pytest.mark.parametrize("at_once", [1, 3, 64])
def test_files_read_together_are_those_read_one_by_one(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr("otrain_infer.sources.LARGEST_FILE", 1 << 20)
    monkeypatch.setattr("otrain_infer.sources.EXPECTED_FILE", 1)
    monkeypatch.setattr("otrain_infer.sources.AT_ONCE", at_once)
    paths = write_odd_files(tmp_path)
    plain = [path for path in paths if path.isprintable() and "\0" not in path]
    for some in (paths, plain, [Path(path) for path in plain], [*plain, b"bytes"]):
        together = load(some)
        one_by_one = [load([b"bytes", source]) for source in some]  # beside bytes, files are not read together
        assert contents(together) == [contents(arena)[1] for arena in one_by_one]
        assert together.reasons == {row: arena.reasons[1] for row, arena in enumerate(one_by_one) if arena.reasons}
    assert "larger than 1 MiB, so not a cutout" in together.reasons.values()


def test_a_buffer_serves_again_and_forgets(tmp_path):
    buffer = Buffer()
    big = np.random.default_rng(0).bytes(400_000)
    assert contents(load([big, b"second"], buffer)) == [big, b"second"]
    (path,) = find_cutouts(touch(tmp_path, "a.fits") / "a.fits")
    assert contents(load([path] * 3, buffer)) == [b"a.fits"] * 3


@pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")
def test_no_file_is_opened_twice(tmp_path):
    for seed in range(300):
        write_cutout(tmp_path / f"{seed:03}.fits", seed)
    content = (tmp_path / "007.fits").read_bytes()
    (tmp_path / "packed.fits.gz").write_bytes(gzip.compress(content))
    (tmp_path / "damaged.fits").write_bytes(content[:5000])
    (tmp_path / "no_cutout.fits").write_bytes(b"SIMPLE, they said")
    (tmp_path / "empty.fits").write_bytes(b"")
    (tmp_path / "large.fits").write_bytes(content + bytes(30_000_000))
    names = sorted(os.listdir(tmp_path))
    for read in (
        lambda: read_cutouts(tmp_path, planes=["DIFF"], size=(64, 64), threads=2),
        lambda: list(Scorer(threads=2).score_sources(tmp_path)),
    ):
        with opened(tmp_path) as counts:
            read()
        assert counts.pop("", 0) <= 1  # the folder itself
        assert counts == dict.fromkeys(names, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_no_file_is_left_open(tmp_path):
    paths = write_odd_files(tmp_path)[:-2]
    before = os.listdir("/proc/self/fd")
    load(paths)
    assert os.listdir("/proc/self/fd") == before
