"""What do 200,000 cutouts cost in memory that 2,000 do not, and how fast does the whole command score them?

`otrain-infer` runs in a process of its own on a folder of few files and on one of many, hard links to the few; it
writes a .dat table. The figure is the difference of their peaks of resident memory.

    python benchmarks/many_files.py [--few 2000] [--many 200000] [--threads 1 2]
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from machine import describe_machine

from otrain_train.mock import MockSettings, write_mock

SCORE = """
import sys, time
from pathlib import Path
from otrain_infer.cli import infer
start, spent = time.perf_counter(), time.process_time()
status = infer(sys.argv[1:])
# Not ru_maxrss, which begins with what the process had that started this one.
lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(status, int(lines["VmHWM"].split()[0]) * 1024, time.perf_counter() - start, time.process_time() - spent)
"""


def measure(folder: Path, threads: int) -> tuple[int, float, float]:
    """Give the peak of resident memory (bytes), the wall and the processor seconds of scoring a folder."""
    asked = ["--cutouts", str(folder), "--output", str(folder) + ".dat", "--threads", str(threads)]
    done = subprocess.run([sys.executable, "-c", SCORE, *asked], capture_output=True, text=True, check=True)
    status, peak, wall, processor = done.stdout.splitlines()[-1].split()
    if status != "0":
        raise SystemExit(f"otrain-infer ended with {status}:\n{done.stderr}")
    return int(peak), float(wall), float(processor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--few", type=int, default=2000)
    parser.add_argument("--many", type=int, default=200_000)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    print(describe_machine())
    with tempfile.TemporaryDirectory() as place:
        few, many = Path(place, "few"), Path(place, "many")
        half = options.few // 2
        write_mock(Path(place, "mock"), MockSettings(half, options.few - half, planes=("DIFF",), seed=5))
        files = sorted(Path(place, "mock").glob("*/*.fits"))
        for folder, n in ((few, options.few), (many, options.many)):
            folder.mkdir()
            for number in range(n):
                os.link(files[number % len(files)], folder / f"{number:07}.fits")
        measure(few, 1)
        for threads in options.threads:
            peak, *_ = measure(few, threads)
            highest, wall, processor = measure(many, threads)
            each = f"{1e6 * wall / options.many:.1f} µs wall, {1e6 * processor / options.many:.1f} of the processor"
            print(f"  {threads} thread(s), {options.many} files: {wall:.1f} s, {each} a cutout")
            print(
                f"    peak of {highest / 1e6:.0f} MB, {(highest - peak) / 1e6:.0f} MB above that of {options.few} files"
            )


if __name__ == "__main__":
    main()
