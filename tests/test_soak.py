"""The short version of benchmarks/soak.py: everything fails once, and nothing is lost."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "soak.py"


def test_whatever_fails_nothing_is_lost():
    command = [sys.executable, str(SCRIPT), "--minutes", "0.8", "--standstill", "3", "--threads", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    for fault in ("killed", "replace by rubbish", "stop broker", "replace by another", "stop command"):
        assert f"1 x {fault}" in done.stdout
    assert "\n  0 alerts lost, " in done.stdout
