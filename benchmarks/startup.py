"""How long does it take to start: to show the help, to import, to give a first score?

Fresh processes, by the clock, with files, byte code and kernels in their caches: what is in `site-packages` is compiled
to byte code and the kernels to machine code before anything is timed. The first score is there when the process has
printed it; all else is timed until the process has ended, and processor time always is. Then the modules are named
whose import takes longest on the way to a first score.

    python benchmarks/startup.py [--repeats 15]
"""

import argparse
import compileall
import os
import resource
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from machine import Seconds, describe_machine, middle

import otrain_infer
from otrain_train.mock import MockSettings, write_mock

COMMAND = "import sys; from otrain_infer.cli import infer; sys.exit(infer())"
"""What the installed script otrain-infer does, for where it is not installed."""
SCORE = "import sys; from otrain_infer import Scorer; print(*Scorer().score_sources(sys.argv[1]), flush=True)"
FIRST_SCORE = "to the first score, as a library"
TOP = 10


def starts(cutout: Path, output: Path) -> dict[str, tuple[list[str], float | None]]:
    """Give what is started, and in how many seconds it should be done."""
    python = [sys.executable, "-c"]
    installed = Path(sys.executable).with_name("otrain-infer")
    command = [str(installed)] if installed.exists() else [*python, COMMAND]
    return {
        "python alone": ([*python, "pass"], None),
        "import numpy": ([*python, "import numpy"], None),
        "import numba": ([*python, "import numba"], None),
        "import onnxruntime": ([*python, "import onnxruntime"], None),
        "import astropy.io.fits": ([*python, "import astropy.io.fits"], None),
        "otrain-infer --help": ([*command, "--help"], 0.15),
        "import otrain_infer": ([*python, "import otrain_infer"], 0.25),
        "from otrain_infer import Scorer": ([*python, "from otrain_infer import Scorer"], 0.25),
        FIRST_SCORE: ([*python, SCORE, str(cutout)], 0.45),
        "otrain-infer, one cutout, whole": ([*command, "--cutouts", str(cutout), "--output", str(output)], 0.45),
    }


def start(command: Sequence[str], until_it_prints: bool) -> Seconds:
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        if until_it_prints and process.stdout:
            process.stdout.readline()
            wall = time.perf_counter() - began
        _, said = process.communicate()
        if not until_it_prints:
            wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{said}")
    return Seconds(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall)


def compile_everything() -> None:
    """Compile to byte code what is imported from: the folders of packages and of our own two."""
    ours = Path(otrain_infer.__file__).parent
    for folder in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), ours, ours.parent / "otrain_train"}:
        # Some packages carry test files that are no Python.
        compileall.compile_dir(str(folder), quiet=2, workers=os.cpu_count() or 1)


def slowest_imports(code: str, *arguments: str) -> tuple[list[tuple[str, float]], dict[str, float]]:
    """Give the modules, and the packages, that take longest themselves (ms), and what their import takes in all."""
    command = [sys.executable, "-X", "importtime", "-c", code, *arguments]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    own: dict[str, float] = {}
    packages: dict[str, float] = {}
    for line in said.splitlines():
        fields = line.removeprefix("import time:").split("|")
        if line.startswith("import time:") and fields[0].strip().isdigit():
            name, took = fields[2].strip(), int(fields[0]) / 1e3
            own[name] = took
            packages[name.partition(".")[0]] = packages.get(name.partition(".")[0], 0) + took
    return sorted(own.items(), key=lambda pair: -pair[1])[:TOP], packages


def print_imports(cutout: Path) -> None:
    modules, packages = slowest_imports(SCORE, str(cutout))
    print(f"\nimports on the way to the first score, ms ({sum(packages.values()):.0f} in all, measuring included):")
    print(f"  {'package, with its modules':<38}{'module, itself':<44}")
    ranked = sorted(packages.items(), key=lambda pair: -pair[1])[:TOP]
    for (package, whole), (module, own) in zip(ranked, modules, strict=False):
        print(f"  {package:<28}{whole:7.1f}   {module:<40}{own:7.1f}")
    ours = {name: took for name, took in packages.items() if name.startswith("otrain_")}
    print(f"  ours: {sum(ours.values()):.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15, help="processes of each kind")
    options = parser.parse_args()
    print(describe_machine())
    compile_everything()
    with tempfile.TemporaryDirectory() as folder:
        write_mock(Path(folder), MockSettings(1, 1, planes=("DIFF",), edge_fraction=0, seed=1))
        cutout = next(Path(folder).glob("true/*.fits"))
        asked = starts(cutout, Path(folder, "scores.dat"))
        times: dict[str, list[Seconds]] = {name: [] for name in asked}
        for repeat in range(options.repeats + 1):
            for name, (command, _) in asked.items():
                # The first of each compiles the kernels, and fills the caches.
                seconds = start(command, name == FIRST_SCORE)
                if repeat:
                    times[name].append(seconds)
        print(f"\n  {'seconds of a fresh process':<38}{'wall':>8}{'(spread)':>18}{'processor':>12}{'aimed at':>10}")
        for name, seconds in times.items():
            aim = asked[name][1]
            walls = [each.wall for each in seconds]
            spread = f"({min(walls):.3f}-{max(walls):.3f})"
            processor, wall = middle(seconds)
            print(f"  {name:<38}{wall:8.3f}{spread:>18}{processor:12.3f}{f'{aim:.2f}' if aim else '':>10}")
        print_imports(cutout)


if __name__ == "__main__":
    main()
