import os
import stat
import subprocess
import sys
import textwrap

import pytest

from otrain_infer.atomic import replacing
from otrain_infer.errors import OutputError, SourceError


def test_it_takes_the_place_at_the_end(tmp_path):
    final = tmp_path / "new" / "table.dat"
    with replacing(final) as temporary:
        temporary.write_text("whole")
        assert not final.exists()
        assert temporary.parent == final.parent
        assert temporary.suffix == ".dat"
    assert final.read_text() == "whole"
    assert os.listdir(final.parent) == ["table.dat"]


def test_what_was_there_stays_when_it_fails(tmp_path):
    final = tmp_path / "table.dat"
    final.write_text("old")
    with pytest.raises(KeyError), replacing(final) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert final.read_text() == "old"
    assert os.listdir(tmp_path) == ["table.dat"]


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="could not be written"), replacing(tmp_path / "file" / "table.dat") as path:
        path.write_text("")


def test_our_own_errors_pass_unchanged(tmp_path):
    with pytest.raises(SourceError, match=r"^gone$"), replacing(tmp_path / "table.dat"):
        raise SourceError("gone")


FILL = """
import resource, signal, sys
from otrain_infer.atomic import replacing
from otrain_infer.errors import OutputError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    with replacing(sys.argv[1]) as path:
        path.write_bytes(bytes(100_000))
except OutputError as error:
    print(error)
"""


@pytest.mark.skipif(os.name != "posix", reason="limits are POSIX")
def test_a_disk_that_is_full(tmp_path):
    final = tmp_path / "table.dat"
    final.write_text("old")
    done = subprocess.run([sys.executable, "-c", FILL, final], capture_output=True, text=True, check=True)
    assert "could not be written (File too large)" in done.stdout
    assert final.read_text() == "old"
    assert os.listdir(tmp_path) == ["table.dat"]


def test_what_libraries_say_of_a_full_disk_is_one_sentence(tmp_path):
    said = "Not enough space on disk: requested 9, available 0. Not enough space on disk: requested 9, available 0. "
    with (
        pytest.raises(OutputError, match=r"\(Not enough space on disk: requested 9, available 0\)$"),
        replacing(tmp_path / "a"),
    ):
        raise OSError(said)


DIE = """
import os, signal, sys
from otrain_infer.atomic import replacing
with replacing(sys.argv[1]) as path:
    path.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX")
def test_killed_half_way(tmp_path):
    final = tmp_path / "table.dat"
    other = tmp_path / ".table.elsewhere-1.part.dat"
    other.write_text("of another machine")
    subprocess.run([sys.executable, "-c", textwrap.dedent(DIE), final], check=False)
    assert not final.exists()
    assert len(os.listdir(tmp_path)) == 2
    with replacing(final) as temporary:
        temporary.write_text("whole")
    assert sorted(os.listdir(tmp_path)) == [other.name, "table.dat"]


@pytest.mark.skipif(os.name != "posix", reason="pipes with names are POSIX")
def test_a_pipe_is_never_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="a device or a pipe"), replacing(tmp_path / "pipe"):
        pass
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert os.listdir(tmp_path) == ["pipe"]
