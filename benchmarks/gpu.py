"""How many cutouts a second does a GPU score, and what holds it back: the copy, the kernels, or the processor?

Wall clock, on cutouts of 64x64 pixels, one plane. The limits are measured alone: normalising in as many threads as the
machine has processors, copying to the memory of the GPU, and computing on cutouts that are there already. Where
onnxruntime has no usable GPU it says so and ends.

    python benchmarks/gpu.py [--device cuda:0,1] [--cutouts 65536]
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime
from machine import describe_machine

from otrain_infer import ModelCard, Normalisation, Scorer
from otrain_infer.card import INPUT, OUTPUT
from otrain_infer.errors import DeviceError
from otrain_infer.session import open_sessions
from otrain_train.export import export
from otrain_train.mock import MockSettings, write_mock
from otrain_train.network import build, fold_scale

SHAPE = (64, 64, 1)
REPEATS = 5
FILES = 4096


def rate(run: Callable[[], object], number: int) -> float:
    """Give the median of things a second, over repeats, after a run to warm up."""
    seconds = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return number / median(seconds[1:])


def normalise_in_threads(card: ModelCard, pixels: np.ndarray, threads: int) -> None:
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(card.normalisation.apply, np.array_split(pixels, 16 * threads)))


def limits(model: Path, device: str, batch: np.ndarray) -> dict[str, float]:
    """Give how many cutouts a second can be copied to one GPU, and how many it computes that are there."""
    session, index = open_sessions(model.read_bytes(), device, str(model))[1][0]
    buffer = onnxruntime.OrtValue.ortvalue_from_shape_and_type(batch.shape, np.float32, "cuda", index)
    binding = session.io_binding()
    binding.bind_ortvalue_input(INPUT, buffer)
    binding.bind_output(OUTPUT, "cuda", index)
    times = 20

    def compute() -> None:
        for _ in range(times):
            session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    def copy() -> None:
        for _ in range(times):
            buffer.update_inplace(batch)

    return {"copying alone": rate(copy, times * len(batch)), "computing alone": rate(compute, times * len(batch))}


def measure(name: str, precision: str, device: str, pixels: np.ndarray, files: list[str], folder: Path) -> None:
    model = folder / f"{name}-{precision}.onnx"
    card = ModelCard("gpu", "1", "", ("DIFF",), SHAPE[:2], Normalisation("l2"))
    export(fold_scale(build(name, SHAPE, normalisation="l2")), card, model, precision=precision)
    threads = os.cpu_count() or 1
    scorer = Scorer(model, device=device, threads=threads)
    found = {
        "from files": rate(lambda: list(scorer.score_sources(files)), len(files)),
        "from pixels in memory": rate(lambda: scorer.score_pixels(pixels), len(pixels)),
        "normalising alone": rate(lambda: normalise_in_threads(card, pixels, threads), len(pixels)),
    }
    found |= limits(model, device, np.ascontiguousarray(pixels[: scorer.batch_size]))
    print(f"{name}, {precision}, batches of {scorer.batch_size}, {threads} threads, cutouts a second:")
    for what, number in found.items():
        print(f"  {what:<24}{number:12,.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--cutouts", type=int, default=65536)
    options = parser.parse_args()
    print(describe_machine())
    try:
        Scorer(device=options.device)
    except DeviceError as error:
        print(f"skipped: {error}")
        return
    pixels = np.random.default_rng(0).normal(size=(options.cutouts, *SHAPE)).astype(np.float32)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_mock(folder, MockSettings(FILES // 2, FILES // 2, planes=("DIFF",), edge_fraction=0, seed=5))
        files = sorted(map(str, folder.glob("*/*.fits")))
        for network in ("lite", "otrain"):
            for precision in ("fp32", "fp16"):
                measure(network, precision, options.device, pixels, files, folder)


if __name__ == "__main__":
    main()
