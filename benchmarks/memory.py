"""How much memory does a training take, beside TensorFlow's own, when its datacube is larger than that?

A cube of noise is written, in constant memory, and trained on for one epoch as `otrain-train` does, in a process of its
own; so is a cube of a few hundred cutouts. The figure is the difference of their peaks of resident memory, which count
the pages of a memory-mapped file while they are in memory: what the size of the cube costs.

    python benchmarks/memory.py [--gigabytes 8] [--few 400] [--size 64] [--planes SCI REF DIFF] [--no-report]

The temporary folder, or that of --folder, needs as much free space as the cube takes; nothing is left in it.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from machine import describe_machine

from otrain_train.datacube import BLOCK, TEXTS, write_columns


def bytes_of(size: int, planes: Sequence[str]) -> int:
    """Give the bytes of a cutout."""
    return 4 * size**2 * len(planes)


def write_cube(path: Path, n: int, size: int, planes: Sequence[str]) -> None:
    """Write n cutouts of noise, every other one real."""
    rng = np.random.default_rng(0)
    step = BLOCK // bytes_of(size, planes)
    noise = rng.normal(100, 10, (step, size, size, len(planes))).astype(np.float32)

    def blocks(key: str) -> Iterator[np.ndarray]:
        for start in range(0, n, step):
            rows = np.arange(start, min(start + step, n))
            if key == "cube":
                yield noise[: len(rows)] + np.float32(start / n)
            elif key in TEXTS:
                yield np.array([f"{key}{row // 4}" for row in rows])
            elif key == "weights":
                yield np.ones(len(rows))
            else:
                yield rows % 2

    write_columns(path, n, (size, size), tuple(planes), dict.fromkeys(TEXTS, 20), blocks)


def train_once(cube: Path, report: bool) -> None:
    """Train for an epoch and print the peak of resident memory (bytes) and the seconds."""
    from otrain_train.settings import RunSettings, TrainSettings
    from otrain_train.train import train

    start = time.perf_counter()
    train(cube, cube.parent, cube.stem, TrainSettings(network="lite", epochs=1), RunSettings(report=report))
    seconds = time.perf_counter() - start
    # Not ru_maxrss, which begins with what the process had that started this one.
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(int(lines["VmHWM"].split()[0]) * 1024, seconds)


def measure(folder: Path, n: int, size: int, planes: Sequence[str], report: bool) -> tuple[int, float]:
    """Give the peak of resident memory (bytes) of a training on n cutouts, and its seconds."""
    cube = folder / f"noise{n}.npz"
    write_cube(cube, n, size, planes)
    command = [sys.executable, "-W", "ignore", __file__, "--train", cube, "--report" if report else "--no-report"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    cube.unlink()
    peak, seconds = done.stdout.splitlines()[-1].split()
    return int(peak), float(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=8.0, help="size of the large cube, 10^9 bytes")
    parser.add_argument("--folder", type=Path, help="where it is written; a temporary folder if not given")
    parser.add_argument("--few", type=int, default=400, help="cutouts of the small cube")
    parser.add_argument("--size", type=int, default=64, help="width and height of a cutout (pixels)")
    parser.add_argument("--planes", nargs="+", default=["SCI", "REF", "DIFF"], help="planes of a cutout")
    parser.add_argument("--report", action=argparse.BooleanOptionalAction, default=True, help="with the report")
    parser.add_argument("--train", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        train_once(arguments.train, arguments.report)
        return
    print(describe_machine())
    few, kind = arguments.few, (arguments.size, arguments.planes)
    many = max(few, int(arguments.gigabytes * 1e9 / bytes_of(*kind)))
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        peak, _ = measure(Path(folder), few, *kind, arguments.report)
        highest, seconds = measure(Path(folder), many, *kind, arguments.report)
    print(f"  {few} cutouts: peak of {peak / 1e6:.0f} MB")
    print(f"  {many} cutouts, {many * bytes_of(*kind) / 1e9:.1f} GB: peak of {highest / 1e6:.0f} MB, {seconds:.0f} s")
    print(f"  what the size of the cube costs: {(highest - peak) / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
