import os
import subprocess
import sys

import pytest

from otrain_infer.errors import OutputError, UsageError
from otrain_train.outputs import HEAD, prepare_folder, renewing, sole_user


def files_below(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def draw(folder, names):
    with renewing(folder, "list.txt", names):
        for name in names:
            (folder / name).parent.mkdir(exist_ok=True, parents=True)
            (folder / name).write_bytes(b"picture")


def test_pictures_of_an_earlier_run_give_way_and_nothing_else_does(tmp_path):
    draw(tmp_path, ["a/1.png", "a/2.png"])
    (tmp_path / "a" / "mine.png").write_bytes(b"mine")
    (tmp_path / "notes.txt").write_text("mine")
    draw(tmp_path, ["a/2.png", "b/3.png"])
    assert files_below(tmp_path) == {"a/2.png", "b/3.png", "a/mine.png", "notes.txt", "list.txt"}
    draw(tmp_path, [])
    assert files_below(tmp_path) == {"a/mine.png", "notes.txt", "list.txt"}


def test_what_a_broken_run_left_is_cleared_away_by_the_next(tmp_path):
    draw(tmp_path, ["1.png", "2.png"])
    with pytest.raises(KeyboardInterrupt), renewing(tmp_path, "list.txt", ["2.png", "3.png", "4.png"]):
        (tmp_path / "3.png").write_bytes(b"new")
        raise KeyboardInterrupt
    assert files_below(tmp_path) == {"1.png", "2.png", "3.png", "list.txt"}
    draw(tmp_path, ["5.png"])
    assert files_below(tmp_path) == {"5.png", "list.txt"}


def test_an_edited_list_does_not_reach_beyond_the_folder(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out.png"
    inside.mkdir()
    for path in (outside, inside / "cube.npz"):
        path.write_bytes(b"mine")
    (inside / "list.txt").write_text(f"{HEAD}../out.png\n{outside}\ncube.npz\n")
    draw(inside, ["1.png"])
    assert files_below(tmp_path) == {"out.png", "in/cube.npz", "in/1.png", "in/list.txt"}


def test_a_file_that_is_no_list_is_kept(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\xff my own notes")
    with pytest.raises(OutputError, match="no list of pictures"):
        draw(tmp_path, ["1.png"])
    assert (tmp_path / "list.txt").read_bytes() == b"\xff my own notes"


def test_an_input_is_never_replaced(tmp_path):
    cube = tmp_path / "c.npz"
    cube.write_bytes(b"cube")
    os.link(cube, tmp_path / "metrics.json")
    with pytest.raises(UsageError, match="would be replaced"):
        prepare_folder(tmp_path, ["metrics.json"], [cube])
    prepare_folder(tmp_path, ["other.json"], [cube, tmp_path / "none.onnx"])


def test_a_folder_that_cannot_be_filled_is_found_out_at_once(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="nothing can be written"):
        prepare_folder(tmp_path / "file" / "below", ["a.png"], [])
    (tmp_path / "a.png").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        prepare_folder(tmp_path, ["a.png"], [])


HOLD = """
import sys
from pathlib import Path
from otrain_train.outputs import sole_user
with sole_user(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_folder_is_kept_from_other_processes_until_its_own_ends_even_by_force(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(OutputError, match="filled by another run"), sole_user(tmp_path):
            pytest.fail("two have it")
        holder.kill()
    for _ in range(2):
        with sole_user(tmp_path):
            assert files_below(tmp_path) == set()
