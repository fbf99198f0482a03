"""What a start imports, counted: what takes long to import waits until it is needed."""

import subprocess
import sys

import pytest
from cutout_files import write_cutout

HEAVY = {"numpy", "numba", "scipy.linalg", "astropy", "onnxruntime", "isal", "tqdm"}
LIBRARY = "from otrain_infer import Scorer; print(*Scorer().score_sources(sys.argv[1]))"
COMMAND = "from otrain_infer.cli import infer; infer(['--cutouts', sys.argv[1], '--output', sys.argv[2]])"


def imported_by(code, *arguments):
    """Run code in a fresh process and give what of `HEAVY` it has imported."""
    tell = "import sys, atexit; atexit.register(lambda: print(*sys.modules))"
    command = [sys.executable, "-c", f"{tell}; {code}", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return HEAVY & set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import otrain_infer", set()),
        ("from otrain_infer import Normalisation", {"numpy"}),
        ("from otrain_infer import Scorer, read_cutouts", {"numpy"}),
        ("from otrain_infer import Scorer; Scorer()", {"numpy", "onnxruntime"}),
    ],
)
def test_imports_wait_until_they_are_needed(code, expected):
    assert imported_by(code) == expected


@pytest.mark.parametrize(
    ("code", "name", "more"), [(LIBRARY, "", set()), (COMMAND, "o.dat", {"tqdm"}), (COMMAND, "o.csv", {"tqdm"})]
)
def test_plain_files_are_scored_without_astropy(tmp_path, code, name, more):
    arguments = write_cutout(tmp_path / "c.fits"), tmp_path / name
    imported_by(code, *arguments)  # which compiles the kernels, where that was not done yet
    assert imported_by(code, *arguments) == {"numpy", "numba", "onnxruntime"} | more
