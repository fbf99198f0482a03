"""What every benchmark prints and does alike: the machine, and rivals run in turn with medians over repeats."""

import os
import platform
import resource
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

PACKAGES = (
    "otrain",
    "numpy",
    "numba",
    "astropy",
    "fitsio",
    "isal",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorflow",
    "keras",
)


class Seconds(NamedTuple):
    """What a run took: of the processor, all threads together, and by the clock."""

    processor: float
    wall: float


Times = Mapping[str, Sequence[Seconds]]


def describe_machine() -> str:
    """Name the processor, the versions, and how busy the machine is."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")
        ]
        processor = names[0] if names else processor
    versions = []
    for name in PACKAGES:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    load = f"load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "load unknown"
    return (
        f"{processor}, {os.cpu_count()} processors, {load}, Python {platform.python_version()}, {', '.join(versions)}"
    )


def describe_gpu() -> str:
    """Name the GPUs and their driver, as it says itself."""
    asked = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    return "; ".join(subprocess.run(asked, check=True, capture_output=True, text=True).stdout.splitlines())


def took(run: Callable[[], object]) -> Seconds:
    """Run something and give its seconds."""
    processor, wall = _processor_seconds(), time.perf_counter()
    run()
    return Seconds(_processor_seconds() - processor, time.perf_counter() - wall)


def _processor_seconds() -> float:
    """Give the seconds of the processor that this process has taken, and those that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def compare(
    rivals: Mapping[str, Callable[[], object]], repeats: int = 5, before: Callable[[], object] = lambda: None
) -> dict[str, list[Seconds]]:
    """Run rivals in turn and give the seconds of each, one a repeat, after a run to warm up.

    What is to be done `before` each run is not timed.
    """
    times: dict[str, list[Seconds]] = {name: [] for name in rivals}
    for repeat in range(repeats + 1):
        for name, run in rivals.items():
            before()
            seconds = took(run)
            if repeat:
                times[name].append(seconds)
    return times


def middle(seconds: Sequence[Seconds]) -> Seconds:
    """Give the medians of a rival."""
    return Seconds(median(each.processor for each in seconds), median(each.wall for each in seconds))


def per_thing(times: Times, counts: Mapping[str, int]) -> dict[str, list[Seconds]]:
    """Give the seconds for one of the things that a run of each rival was about: `counts` says how many."""
    return {
        name: [Seconds(each.processor / counts[name], each.wall / counts[name]) for each in seconds]
        for name, seconds in times.items()
    }


def ratio(first: Sequence[Seconds], second: Sequence[Seconds], of: str = "processor") -> float:
    """Give the median, over the repeats, of what one rival takes over what another takes in the same repeat."""
    return median(getattr(one, of) / getattr(other, of) for one, other in zip(first, second, strict=True))


def print_times(times: Times, unit: str, against: str) -> None:
    """Print the medians of each rival (s, printed in µs), the spread, and the ratio to one of them."""
    print(f"  {f'µs a {unit}':<46}{'processor':>10}{'(spread)':>20}{'wall':>10}  times '{against}'")
    for name, seconds in times.items():
        low, high = (choose(each.processor for each in seconds) for choose in (min, max))
        processor, wall = middle(seconds)
        spread = f"({1e6 * low:.1f}-{1e6 * high:.1f})"
        beside = ratio(seconds, times[against])
        print(f"  {name:<46}{1e6 * processor:10.1f}{spread:>20}{1e6 * wall:10.1f}{beside:9.2f}")


def measure_copy(size: int = 1 << 28, repeats: int = 7) -> float:
    """Give the bytes that one core copies in a second, in arrays far larger than its caches."""
    source, target = np.ones(size, np.uint8), np.ones(size, np.uint8)
    return size / min(took(lambda: np.copyto(target, source)).processor for _ in range(repeats))


def measure_multiply(
    multiply: Callable[[np.ndarray, np.ndarray], object] = np.matmul, size: int = 1024, repeats: int = 7
) -> float:
    """Give the multiply-adds that one processor does in a second in a float32 matrix product."""
    left, right = (np.random.default_rng(seed).random((size, size), np.float32) for seed in range(2))
    with threadpool_limits(1):
        return size**3 / min(took(lambda: multiply(left, right)).processor for _ in range(repeats))
