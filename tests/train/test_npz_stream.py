"""An .npz file that grows: whatever way the rows came, its bytes are those of a file written in one go."""

import os
import stat
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otrain_infer.npz import Member, open_npz, write_npz
from otrain_train import npz_stream
from otrain_train.cubewriter import DatacubeWriter
from otrain_train.datacube import Datacube
from otrain_train.npz_stream import NpzStream

ROWS = np.random.default_rng(0).normal(size=(40, 5, 4, 2)).astype(np.float32)
OTHER = np.arange(7)


def members(n):
    return [
        Member("cube", np.dtype("<f4"), ROWS[:n].shape, [ROWS[:n]]),
        Member("other", OTHER.dtype, OTHER.shape, [OTHER]),
    ]


def write_stream(path, blocks, n):
    stream = NpzStream(path.parent, "cube", "<f4", ROWS.shape[1:])
    for start, stop in zip([0, *blocks], [*blocks, len(ROWS)], strict=True):
        stream.append(ROWS[start:stop])
    assert stream.n == len(ROWS)
    stream.finish(n, members(n)[1:], path)
    stream.close()


@pytest.mark.parametrize("blocks", [[], [40], [1, 2, 30], [15, 15]])
@pytest.mark.parametrize("n", [1, 15, 29, 40])
def test_the_bytes_are_those_of_a_file_written_in_one_go(tmp_path, blocks, n):
    write_stream(tmp_path / "stream.npz", blocks, n)
    write_npz(tmp_path / "whole.npz", members(n))
    assert (tmp_path / "stream.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert zipfile.ZipFile(tmp_path / "stream.npz").testzip() is None
    with np.load(tmp_path / "stream.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["cube"], ROWS[:n])
        np.testing.assert_array_equal(arrays["other"], OTHER)
    assert open_npz(tmp_path / "stream.npz")["cube"].base is not None


def test_where_a_file_cannot_be_given_a_name_it_is_copied(tmp_path, monkeypatch):
    def refuse(*arguments, **settings):
        raise OSError("there is no /proc")

    monkeypatch.setattr(os, "link", refuse)
    write_stream(tmp_path / "stream.npz", [3], 17)
    write_npz(tmp_path / "whole.npz", members(17))
    assert (tmp_path / "stream.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["stream.npz", "whole.npz"]


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX")
def test_others_may_read_it_as_they_may_any_new_file(tmp_path):
    write_stream(tmp_path / "stream.npz", [], 40)
    (tmp_path / "new").write_text("")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("stream.npz", "new")]
    assert modes[0] == modes[1]


def test_blocks_are_read_back_from_anywhere(tmp_path):
    stream = NpzStream(tmp_path, "cube", "<f4", ROWS.shape[1:])
    for start in range(0, 40, 8):
        stream.append(ROWS[start : start + 8])
    for first, n in ((0, 40), (8, 8), (3, 2), (7, 20)):
        np.testing.assert_array_equal(np.concatenate(list(stream.read(first, n))), ROWS[first : first + n])
    stream.close()
    assert os.listdir(tmp_path) == []


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_the_sums_of_two_contents_are_joined_as_zlib_has_it(first, second):
    joined = npz_stream._join_crcs(zlib.crc32(first), zlib.crc32(second), len(second))
    assert joined == zlib.crc32(first + second)


@pytest.mark.parametrize("order", ["sorted", "turned", "mixed"])
@pytest.mark.parametrize("kept", [(20, 20), (20, 13), (13, 20), (20, 0), (1, 1)])
def test_a_datacube_is_the_same_in_whatever_order_its_rows_come(tmp_path, order, kept):
    labels = np.repeat([1, 0], 20)
    rows = Datacube.from_columns({"cube": ROWS, "labels": labels}, ("SCI", "DIFF"))
    parts = {"sorted": [(0, 9), (9, 20), (20, 40)], "turned": [(20, 40), (0, 20)]}
    parts["mixed"] = [(0, 5), (20, 30), (5, 20), (30, 40)]
    with DatacubeWriter(tmp_path / "cube.npz") as writer:
        for start, stop in parts[order]:
            writer.append(rows.select(slice(start, stop)))
        writer.keep(*kept)
    chosen = np.concatenate([np.arange(kept[0]), 20 + np.arange(kept[1])])
    rows.select(chosen).save(tmp_path / "saved.npz")
    assert (tmp_path / "cube.npz").read_bytes() == (tmp_path / "saved.npz").read_bytes()
