"""otrain_infer.npz: reading without pickles, straight from the disk; writing whole or not at all."""

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from otrain_infer.errors import DatacubeError
from otrain_infer.npz import Member, check_members, open_npz, write_npz

ARRAYS = {
    "cube": np.arange(120, dtype="f4").reshape(5, 4, 3, 2),
    "fortran": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    "big_endian": np.arange(7, dtype=">i2"),
    "flags": np.array([True, False]),
    "text": np.array(["g", "été", ""]),
    "bytes": np.array([b"ab", b""]),
    "scalar": np.array(3),
    "empty": np.empty((0, 3), "f4"),
    "no_text": np.array(["", ""], "<U0"),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_reads_what_numpy_writes(tmp_path, save):
    save(tmp_path / "a.npz", **ARRAYS)
    found = open_npz(tmp_path / "a.npz")
    assert found.keys() == ARRAYS.keys()
    for key, values in ARRAYS.items():
        np.testing.assert_array_equal(found[key], values)
        assert found[key].dtype == values.dtype
        with pytest.raises(ValueError, match="read-only"):
            found[key][...] = values


def test_stored_numbers_stay_on_disk(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, cube=np.full(1000, 7, "u1"), text=np.array(["x" * 500]))
    found = open_npz(path)
    start = path.read_bytes().index(bytes([7] * 1000))
    with path.open("r+b") as file:
        file.seek(start + 3)
        file.write(b"\x09")
    assert found["cube"][2:5].tolist() == [7, 9, 7]


def test_arrays_outlive_the_file(tmp_path):
    np.savez(tmp_path / "a.npz", **ARRAYS)
    found = open_npz(tmp_path / "a.npz")
    (tmp_path / "a.npz").unlink()
    np.testing.assert_array_equal(found["cube"], ARRAYS["cube"])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_objects_are_never_unpickled(tmp_path, save):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    save(tmp_path / "a.npz", cube=np.zeros(3), candids=np.array([Trap()], object))
    with pytest.raises(DatacubeError, match=r"'candids' in .* holds Python objects"):
        open_npz(tmp_path / "a.npz")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_every_truncation_is_refused(tmp_path, save):
    save(tmp_path / "a.npz", **ARRAYS)
    whole = (tmp_path / "a.npz").read_bytes()
    for length in range(0, len(whole), 61):
        (tmp_path / "b.npz").write_bytes(whole[:length])
        with pytest.raises(DatacubeError, match=r"not an \.npz file"):
            open_npz(tmp_path / "b.npz")


def test_damage_never_ends_in_another_error(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", cube=ARRAYS["cube"], text=ARRAYS["text"])
    whole = (tmp_path / "a.npz").read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for place in rng.integers(0, len(whole), 400):
        damaged = bytearray(whole)
        damaged[place] ^= int(rng.integers(1, 256))
        (tmp_path / "b.npz").write_bytes(damaged)
        try:
            open_npz(tmp_path / "b.npz")
        except DatacubeError:
            refused += 1
    assert refused > 100


def test_a_shape_that_promises_more_than_there_is(tmp_path):
    np.savez(tmp_path / "a.npz", cube=np.zeros((10, 10)))
    damaged = (tmp_path / "a.npz").read_bytes().replace(b"(10, 10)", b"(99, 99)")
    (tmp_path / "a.npz").write_bytes(damaged)
    with pytest.raises(DatacubeError, match=r"'cube' in .* is damaged"):
        open_npz(tmp_path / "a.npz")


def test_not_an_npz_file(tmp_path):
    (tmp_path / "text.npz").write_text("cube")
    np.save(tmp_path / "array.npy", np.zeros(3))
    for name in ("text.npz", "array.npy"):
        with pytest.raises(DatacubeError, match=r"is not an \.npz file"):
            open_npz(tmp_path / name)
    with pytest.raises(DatacubeError, match="there is no file"):
        open_npz(tmp_path / "absent.npz")
    with pytest.raises(DatacubeError, match="cannot be read"):
        open_npz(tmp_path)


def test_missing_keys_are_named(tmp_path):
    np.savez(tmp_path / "a.npz", cube=np.zeros(3), other=np.zeros(3))
    with pytest.raises(DatacubeError, match=r"it lacks labels, mags and holds cube, other"):
        open_npz(tmp_path / "a.npz", ["labels", "cube", "mags"])


def test_other_files_in_the_archive_are_ignored(tmp_path):
    np.savez(tmp_path / "a.npz", cube=np.zeros(3))
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr("README.txt", "hello")
    assert open_npz(tmp_path / "a.npz").keys() == {"cube"}


def members():
    cube = ARRAYS["cube"]
    return [
        Member("x", np.dtype("f8"), (3,), [np.arange(3)]),
        Member("cube", cube.dtype, (np.int64(5), 4, 3, 2), [cube[:2], cube[2:2], cube[2:]]),
        Member("text", np.dtype("<U3"), (2,), [np.array(["g"]), np.array(["été"])]),
    ]


def test_written_in_parts_and_aligned(tmp_path):
    write_npz(tmp_path / "new" / "a.npz", members())
    with np.load(tmp_path / "new" / "a.npz", allow_pickle=False) as loaded:
        np.testing.assert_array_equal(loaded["cube"], ARRAYS["cube"])
        assert loaded["text"].tolist() == ["g", "été"]
        assert loaded["x"].dtype == np.float64
    found = open_npz(tmp_path / "new" / "a.npz")
    for key in ("x", "cube"):
        assert found[key].ctypes.data % 64 == 0
        assert found[key].flags.aligned
    assert zipfile.ZipFile(tmp_path / "new" / "a.npz").testzip() is None
    assert os.listdir(tmp_path / "new") == ["a.npz"]


def test_the_same_content_gives_the_same_bytes(tmp_path):
    for name in ("a.npz", "b.npz"):
        write_npz(tmp_path / name, members())
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_an_error_half_way_keeps_the_old_file(tmp_path):
    write_npz(tmp_path / "a.npz", members())
    before = (tmp_path / "a.npz").read_bytes()

    def breaking():
        yield ARRAYS["cube"][:2]
        raise KeyError("half way")

    with pytest.raises(KeyError):
        write_npz(tmp_path / "a.npz", [Member("cube", np.dtype("f4"), (5, 4, 3, 2), breaking())])
    assert (tmp_path / "a.npz").read_bytes() == before
    assert os.listdir(tmp_path) == ["a.npz"]


def test_content_that_is_not_what_was_written_is_found(tmp_path):
    path = tmp_path / "c.npz"
    np.savez(path, cube=np.zeros((10, 8, 8, 1), np.float32))
    check_members(path)
    content = bytearray(path.read_bytes())
    content[1000:1010] = b"x" * 10
    path.write_bytes(content)
    with pytest.raises(DatacubeError, match=r"c.npz' is damaged: its cube.npy .* copy or make it anew"):
        check_members(path)
