"""How many cutouts a second does a GPU score, and what holds it back: the copy, the kernels, or the processor?

Wall clock, on cutouts of 64x64 pixels, one plane. The limits are measured alone: normalising in as many threads as the
machine has processors, copying to the memory of the GPU, and computing on cutouts that are there already, in the
precision of the model, in TF32, and with the normalisation done by the GPU as well. Beside them stand how far scores
are from those of the processor, and from those in other batches. Where onnxruntime has no usable GPU it says so and
ends. The networks are untrained, for the time does not depend on the weights; --models takes others, for which
TensorFlow is not needed.

    python benchmarks/gpu.py [--device cuda:0,1] [--cutouts 131072] [--batches 256 1024] [--models FILE ...]
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
import onnx
import onnxruntime
from machine import describe_gpu, describe_machine
from onnx import helper, numpy_helper

from otrain_infer import ModelCard, Normalisation, Scorer
from otrain_infer.card import INPUT, OUTPUT
from otrain_infer.errors import DeviceError
from otrain_infer.gpu import lock_pages, provider_options
from otrain_train.mock import MockSettings, write_mock

SHAPE = (64, 64, 1)
REPEATS = 5
FILES, DIFFERENT = 65536, 2048
SAME = 256
"""Cutouts whose scores are compared."""


def rate(run: Callable[[], object], number: int) -> float:
    """Give the median of things a second, over repeats, after a run to warm up."""
    seconds = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return number / median(seconds[1:])


def normalising(card: ModelCard, pixels: np.ndarray, size: int, threads: int) -> float:
    """Give how many cutouts a second are normalised, each thread into memory of its own."""
    rooms = [np.empty((size, *SHAPE), np.float32) for _ in range(threads)]

    def work(thread: int) -> None:
        for start in range(thread * size, len(pixels), threads * size):
            batch = pixels[start : start + size]
            card.normalisation.apply(batch, rooms[thread][: len(batch)])

    with ThreadPoolExecutor(threads) as pool:
        return rate(lambda: list(pool.map(work, range(threads))), len(pixels))


def with_l2(model: bytes) -> bytes:
    """Put before a graph what the normalisation l2 does: pixels that are not finite become 0, then unit norm."""
    proto = onnx.load_from_string(model)
    graph = proto.graph
    for node in graph.node:
        node.input[:] = ["normalised" if name == INPUT else name for name in node.input]
    nodes = list(graph.node)
    before = [
        helper.make_node("Sub", [INPUT, INPUT], ["difference"]),
        helper.make_node("IsNaN", ["difference"], ["missing"]),
        helper.make_node("Where", ["missing", "nothing", INPUT], ["finite"]),
        helper.make_node("ReduceL2", ["finite"], ["norm"], axes=[1, 2], keepdims=1),
        helper.make_node("Div", ["finite", "norm"], ["normalised"]),
    ]
    graph.initializer.append(numpy_helper.from_array(np.array(0, np.float32), "nothing"))
    del graph.node[:]
    graph.node.extend(before + nodes)
    return proto.SerializeToString()


def copying(batch: np.ndarray, index: int) -> float:
    """Give how many cutouts a second are copied to a GPU."""
    buffer = onnxruntime.OrtValue.ortvalue_from_shape_and_type(batch.shape, np.float32, "cuda", index)
    times = 20
    return rate(lambda: [buffer.update_inplace(batch) for _ in range(times)], times * len(batch))


def computing(model: bytes, batch: np.ndarray, index: int, halved: bool, **others: str) -> float:
    """Give how many cutouts that are there already a GPU scores in a second."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    provider = ("CUDAExecutionProvider", provider_options(index, halved) | others)
    session = onnxruntime.InferenceSession(model, options, providers=[provider, "CPUExecutionProvider"])
    buffer = onnxruntime.OrtValue.ortvalue_from_shape_and_type(batch.shape, np.float32, "cuda", index)
    buffer.update_inplace(batch)
    binding = session.io_binding()
    binding.bind_ortvalue_input(INPUT, buffer)
    binding.bind_output(OUTPUT, "cuda", index)
    times = 20

    def compute() -> None:
        for _ in range(times):
            session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return rate(compute, times * len(batch))


def limits(model: Path, scorer: Scorer, pixels: np.ndarray, index: int) -> Iterator[tuple[str, float]]:
    content, card, size = model.read_bytes(), scorer.card, scorer.batch_size
    batch, halved = np.array(pixels[:size]), scorer.precision == "fp16"
    threads = os.cpu_count() or 1
    yield f"normalising alone, {threads} threads", normalising(card, pixels, size, threads)
    yield "copying alone", copying(batch, index)
    lock_pages(batch)
    yield "copying alone, from locked pages", copying(batch, index)
    normalised = card.normalisation.apply(batch)
    yield "computing alone", computing(content, normalised, index, halved)
    if not halved:
        yield "computing alone, in TF32", computing(content, normalised, index, halved, use_tf32="1")
    yield "computing alone, normalisation too", computing(with_l2(content), batch, index, halved)


def measure(model: Path, options: argparse.Namespace, pixels: np.ndarray, files: list[str]) -> None:
    index = int((options.device.partition(":")[2] or "0").split(",")[0])
    threads = os.cpu_count() or 1
    start = time.perf_counter()
    usual = Scorer(model, device=options.device, threads=threads)
    print(f"\n{model.stem}: ready in {time.perf_counter() - start:.1f} s, batches of {usual.batch_size} by itself")
    same = pixels[:SAME]
    on_processor = Scorer(model, threads=threads).score_pixels(same)
    found = usual.score_pixels(same)
    apart = max(
        float(np.abs(found - Scorer(model, options.device, 1, size).score_pixels(same)).max()) for size in (16, 100)
    )
    away = float(np.abs(found - on_processor).max())
    print(f"  scores differ from those of the processor by up to {away:.1g}, in other batches by up to {apart:.1g}")
    print("  cutouts a second:")
    for size in options.batches or [usual.batch_size]:
        scorer = Scorer(model, options.device, threads, size)
        for what, run, number in (
            ("from files", lambda scorer=scorer: list(scorer.score_sources(files)), len(files)),
            ("from pixels in memory", lambda scorer=scorer: scorer.score_pixels(pixels), len(pixels)),
        ):
            print(f"  {what + f', batches of {size}':<44}{rate(run, number):12,.0f}", flush=True)
    for what, number in limits(model, usual, pixels, index):
        print(f"  {what:<44}{number:12,.0f}", flush=True)


def make_models(folder: Path) -> list[Path]:
    """Export untrained networks in both precisions that a GPU computes in."""
    from otrain_train.export import export
    from otrain_train.network import NETWORKS, build, fold_scale

    models = []
    for name in NETWORKS:
        for precision in ("fp32", "fp16"):
            models.append(folder / f"{name}-{precision}.onnx")
            card = ModelCard("gpu", "1", "", ("DIFF",), SHAPE[:2], Normalisation("l2"))
            export(fold_scale(build(name, SHAPE, normalisation="l2")), card, models[-1], precision=precision)
    return models


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--cutouts", type=int, default=131072)
    parser.add_argument("--batches", type=int, nargs="+", help="if not given, what is chosen for the memory there is")
    parser.add_argument("--models", nargs="+", type=Path, help="ONNX models of 64x64 pixels, one plane, l2")
    options = parser.parse_args()
    print(describe_machine())
    try:
        Scorer(device=options.device)
    except DeviceError as error:
        print(f"skipped: {error}")
        return
    print(describe_gpu())
    pixels = np.random.default_rng(0).normal(size=(options.cutouts, *SHAPE)).astype(np.float32)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_mock(folder, MockSettings(DIFFERENT // 2, DIFFERENT // 2, planes=("DIFF",), edge_fraction=0, seed=5))
        files = sorted(map(str, folder.glob("*/*.fits"))) * (FILES // DIFFERENT)
        for model in options.models or make_models(folder):
            measure(model, options, pixels, files)


if __name__ == "__main__":
    main()
