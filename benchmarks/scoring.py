"""What does a cutout cost, from its file to its score, beside other ways of doing it?

Files of 64x64 pixels, one plane, in the cache of the operating system. The rivals run in turn in one process, on the
same files, and must find the same scores:

- the plain way of the original O'TRAIN: astropy opens each file twice, once for the pixels and once for the keywords,
  numpy normalises, Keras predicts in batches of 1,024, with the very weights that the ONNX model was exported from,
  and, beside smaller networks, with the original's network, of which no equal scores are asked;
- astropy, opening each file once, or fitsio, with numpy and ONNX Runtime in the batches that otrain takes, of 64, or of
  16 in int8;
- ONNX Runtime alone, on normalised pixels that are in memory already: what any pipeline costs at the least;
- memcpy of the pixels, and the multiply-adds of the network beside those of a matrix product on this machine.

The networks are untrained, for the time does not depend on the weights; --models takes trained ones. The slow rivals,
and all that the large network is in, run on fewer files (--slow-files) than the rest (--files). Keras uses all
processors and everything else a single thread where it says nothing else, so compare processor times.

    python benchmarks/scoring.py [--files 5000] [--slow-files 1024] [--repeats 5] [--models FILE ...]
"""

import argparse
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from astropy.io import fits
from machine import Times, compare, describe_machine, measure_copy, measure_multiply, middle, per_thing, print_times
from machine import ratio as ratio_of
from onnx import TensorProto, helper

from otrain_infer import ModelCard, Normalisation, Scorer, read_cutouts
from otrain_infer.card import INPUT, OUTPUT, PRECISE
from otrain_infer.cutouts import NUMBERS, TEXTS
from otrain_infer.errors import OtrainError
from otrain_train.cost import count
from otrain_train.export import export
from otrain_train.mock import MockSettings, write_mock
from otrain_train.network import build

KEYWORDS = (*NUMBERS, *TEXTS, "EDGE")
ORIGINAL_BATCH = 1024
SIZE = (64, 64)
LARGE = 10_000_000
"""Multiply-adds from which a network gains from int8."""

OURS, TWO, BARE, SAME, ORIGINAL = (
    "otrain, 1 thread",
    "otrain, 2 threads",
    "ONNX Runtime alone, pixels in memory",
    "astropy twice, Keras, the same weights",
    "astropy twice, Keras, the original's network",
)


class Rival(NamedTuple):
    """What to run, and on which files."""

    run: Callable[[Sequence[str]], Any]
    paths: Sequence[str]


class Model(NamedTuple):
    """An ONNX model, its multiply-adds if known, and the Keras network that it was exported from if that is at hand."""

    name: str
    path: Path
    precision: str
    multiply_adds: int | None = None
    network: Any = None


def read_with_astropy(paths):
    pixels, headers = [], []
    for path in paths:
        with fits.open(path, memmap=False) as file:
            pixels.append(file[0].data.astype(np.float32))
            headers.append([file[0].header.get(keyword) for keyword in KEYWORDS])
    return np.stack(pixels)[..., np.newaxis]


def read_as_the_original(paths):
    pixels, headers = [], []
    for path in paths:
        with fits.open(path, memmap=False) as file:
            pixels.append(file[0].data.astype(np.float32))
    for path in paths:
        with fits.open(path, memmap=False) as file:
            headers.append([file[0].header.get(keyword) for keyword in KEYWORDS])
    return np.stack(pixels)[..., np.newaxis]


def read_with_fitsio(paths):
    import fitsio

    pixels, headers = [], []
    for path in paths:
        with fitsio.FITS(path) as file:
            pixels.append(file[0].read())
            header = file[0].read_header()
            headers.append([header.get(keyword) for keyword in KEYWORDS])
    return np.stack(pixels).astype(np.float32)[..., np.newaxis]


def normalise(pixels, normalisation):
    """Scale as a plain program would; what is not plain is done by our kernels, in the rivals' favour."""
    if normalisation.method != "l2":
        return normalisation.apply(pixels)
    pixels = np.nan_to_num(pixels, posinf=0, neginf=0)
    return pixels / np.linalg.norm(pixels.reshape(len(pixels), -1), axis=1)[:, None, None, None]


def score(scorer, paths):
    return np.concatenate([scores for _, scores in scorer.score_sources(paths)])


def open_session(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options)


class Plain:
    """A model run by ONNX Runtime with no more around it than needed."""

    def __init__(self, model: Model, card: ModelCard, batch: int) -> None:
        self.session, self.batch = open_session(model.path), batch
        self.choice = {PRECISE: np.array(model.precision == "fp32")} if card.cascade else {}
        self.normalisation = card.normalisation

    def run(self, pixels):
        batches = (pixels[start : start + self.batch] for start in range(0, len(pixels), self.batch))
        return np.concatenate([self.session.run([OUTPUT], {INPUT: each, **self.choice})[0] for each in batches])

    def score(self, read, paths):
        return self.run(normalise(read(paths), self.normalisation))


def score_as_the_original(network, normalisation, paths):
    pixels = normalise(read_as_the_original(paths), normalisation)
    return network.predict(pixels, batch_size=ORIGINAL_BATCH, verbose=0)[:, 1]


def write_files(folder: Path, n: int) -> list[str]:
    write_mock(folder, MockSettings(n // 2, n - n // 2, planes=("DIFF",), edge_fraction=0, nan_fraction=0, seed=5))
    return sorted(map(str, folder.glob("*/*.fits")))


def measure(rivals: dict[str, Rival], repeats: int) -> Times:
    times = compare({name: partial(rival.run, rival.paths) for name, rival in rivals.items()}, repeats)
    return per_thing(times, {name: len(rival.paths) for name, rival in rivals.items()})


def rivals_of(model: Model, paths, few, original: Model | None) -> dict[str, Rival]:
    scorer = Scorer(model.path, precision=model.precision)
    plain, card = Plain(model, scorer.card, scorer.batch_size), scorer.card
    pixels = card.normalisation.apply(read_cutouts(paths, card=card).pixels)
    rivals = {
        OURS: Rival(partial(score, scorer), paths),
        TWO: Rival(partial(score, Scorer(model.path, threads=2, precision=model.precision)), paths),
        BARE: Rival(lambda paths: plain.run(pixels[: len(paths)]), paths),
        "astropy once, numpy, ONNX Runtime": Rival(partial(plain.score, read_with_astropy), few),
    }
    if find_spec("fitsio"):
        rivals["fitsio, numpy, ONNX Runtime"] = Rival(partial(plain.score, read_with_fitsio), few)
    if model.network is not None:
        rivals[SAME] = Rival(partial(score_as_the_original, model.network, card.normalisation), few)
    expected, allowed = rivals[OURS].run(few), 1e-4
    if card.cascade and model.precision != "fp32":
        allowed = max(0.05, 2 * card.cascade.largest_change)
        print(f"  {100 * scorer.rescored / len(few):.1f} % of the rows are scored again in fp32")
    for name, rival in rivals.items():
        difference = np.abs(rival.run(few) - expected).max()
        if difference > allowed:
            raise SystemExit(f"'{name}' is no rival: its scores differ by {difference:.2g}")
    if original is not None and original.network is not model.network:
        rivals[ORIGINAL] = Rival(partial(score_as_the_original, original.network, card.normalisation), few)
    return rivals


def make_models(folder: Path, few: Sequence[str], names: Sequence[str]) -> list[Model]:
    """Export untrained networks, as they are and, where it may gain something, with an int8 copy."""
    models = []
    pixels = read_cutouts(few, planes=("DIFF",), size=SIZE).pixels
    for name in names:
        network = build(name, (*SIZE, 1))
        card = ModelCard(name, "untrained", "", ("DIFF",), SIZE, Normalisation("l2"))
        export(network, card, folder / f"{name}.onnx", pixels)
        cost = count(folder / f"{name}.onnx").multiply_adds
        models.append(Model(name, folder / f"{name}.onnx", "fp32", cost, network))
        if cost < LARGE:
            continue
        try:
            export(network, card, folder / f"{name}-int8.onnx", pixels, "int8", max_flips=1.0)
        except OtrainError as error:
            print(f"int8 of {name} was skipped: {error}")
            continue
        models.append(Model(name, folder / f"{name}-int8.onnx", "int8", cost, network))
    return models


def named_models(paths: Sequence[Path]) -> list[Model]:
    cascades = {path: Scorer(path).card.cascade is not None for path in paths}
    return [
        Model(path.stem, path, precision)
        for path, cascade in cascades.items()
        for precision in (("fp32", "int8", "auto") if cascade else ("auto",))
    ]


def print_summary(
    found: dict[tuple[str, str], Times], targets: dict[tuple[str, str], tuple[float, float | None]]
) -> None:
    print("\nratios, of processor time a cutout, the last of wall time; the original with its own network:")
    print(f"  {'model':<24}{'the original / ours':>22}{'ours / ONNX Runtime':>22}{'1 / 2 threads':>16}")
    for key, times in found.items():
        less, more = targets.get(key, (None, None))
        original = times.get(ORIGINAL, times.get(SAME))
        beside = f"{ratio_of(original, times[OURS]):.2f}" if original else "-"
        above = f"{ratio_of(times[OURS], times[BARE]):.3f}"
        threads = f"{ratio_of(times[OURS], times[TWO], 'wall'):.2f} (1.8)"
        wanted = [f"{text} ({target:g})" if target else text for text, target in ((beside, less), (above, more))]
        print(f"  {' '.join(key):<24}{wanted[0]:>22}{wanted[1]:>22}{threads:>16}")
    print("  in brackets: what was aimed at")


def print_peaks() -> float:
    """Print how fast this machine copies and multiplies, and give its multiply-adds a second."""
    copied, side = measure_copy(), 1024
    node = helper.make_node("MatMul", ["left", "right"], ["product"])
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [side, side]) for name in ("left", "right", "product")
    ]
    graph = helper.make_graph([node], "product", ends[:2], ends[2:])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = open_session(proto.SerializeToString())
    rivals = {
        "numpy": measure_multiply(np.matmul, side),
        "ONNX Runtime": measure_multiply(lambda a, b: session.run(None, {"left": a, "right": b}), side),
    }
    print(f"\nmemcpy of its pixels: {4e6 * SIZE[0] * SIZE[1] / copied:.2f} µs a cutout ({copied / 1e9:.1f} GB/s)")
    said = ", ".join(f"{name} {speed / 1e9:.1f}" for name, speed in rivals.items())
    print(f"G multiply-adds/s of one processor in a float32 matrix product: {said}")
    return max(rivals.values())


AIMS = {
    ("otrain", "fp32"): (1.4, 1.05),
    ("otrain", "int8"): (4, 1.05),
    ("lite", "fp32"): (75, 1.4),
    ("mini", "fp32"): (75, None),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=5000, help="cutouts")
    parser.add_argument("--slow-files", type=int, default=1024, help="cutouts for all that is slow")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--networks", nargs="*", default=["otrain", "lite", "mini"], help="untrained networks to compare with"
    )
    parser.add_argument("--models", nargs="*", default=[], type=Path, help="ONNX models to compare with besides")
    options = parser.parse_args()
    print(describe_machine())
    if not find_spec("fitsio"):
        print("fitsio was skipped: it is not installed (pip install fitsio)")
    with tempfile.TemporaryDirectory() as folder:
        paths = write_files(Path(folder, "cutouts"), options.files)
        few = paths[: options.slow_files]
        peak = print_peaks()
        found = {}
        made = make_models(Path(folder), few, options.networks)
        original = next((model for model in made if model.name == "otrain"), None)
        for model in made + named_models(options.models):
            own = few if model.name == "otrain" else paths
            title = f"{model.name} in {model.precision}, {len(own)} files, {len(few)} where slow"
            print(f"\nfrom file to score, {title}:")
            times = found[model.name, model.precision] = measure(rivals_of(model, own, few, original), options.repeats)
            print_times(times, "cutout", OURS)
            if model.multiply_adds:
                speed = model.multiply_adds / middle(times[BARE]).processor
                cost = f"{model.multiply_adds / 1e6:.1f} M multiply-adds, {speed / 1e9:.1f} G a second"
                print(f"  ONNX Runtime alone: {cost}, {100 * speed / peak:.0f} % of a matrix product")
        cascades = {key: (4.0, None) for key in found if key[1] == "auto" and (key[0], "int8") in found}
        print_summary(found, AIMS | cascades)


if __name__ == "__main__":
    main()
