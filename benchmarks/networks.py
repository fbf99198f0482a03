"""How small can a network be for what it tells: which layers are worth their time?

Variants of `lite`, `lite` itself among them, are trained on mock cutouts as `benchmarks/accuracy.py` trains, but on
other ones than there, so that what is chosen here is not judged on what it was chosen for. Beside the AUC on 6,000 hard
mock cutouts that none has seen stands the processor time that ONNX Runtime takes for a cutout, one thread, float32,
batches of 64. In the table c16 is a convolution of 3x3 pixels to 16 channels, s16 a separable one, k16 one of 5x5, avg
and max are pools of 2x2.

    python benchmarks/networks.py [--variants NAME ...] [--seeds 0 1 2] [--results FILE]
"""

import argparse
import json
import re
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import numpy as np
import onnxruntime
from accuracy import DIFFICULTIES, DataSet, measure
from keras import layers
from machine import describe_machine

from otrain_infer import ModelCard, Normalisation
from otrain_infer.card import INPUT, OUTPUT
from otrain_train import network
from otrain_train.cost import count
from otrain_train.datacube import Datacube
from otrain_train.export import export
from otrain_train.mock import MockSettings, mock_arrays
from otrain_train.network import CENTRE, build, fold_scale

SHAPE = (64, 64, 1)
BATCH = 64
REPEATS = 40


@dataclass(frozen=True)
class Variant:
    """The layers that see the centre of a cutout, those that see the whole of it, and those that see both joined."""

    centre: str
    whole: str
    joined: str

    def __call__(self, x, plan):
        margins = [network._margins(length) for length in x.shape[1:3]]
        centre = stack(layers.Cropping2D(margins, name="centre")(x), self.centre, plan)
        factors = [-(-length // CENTRE) for length in x.shape[1:3]]
        whole = stack(layers.AveragePooling2D(factors, padding="same", name="whole")(x), self.whole, plan)
        x = stack(layers.Concatenate(name="joined")([centre, whole]), self.joined, plan)
        return network._dense(network._dropout(layers.GlobalAveragePooling2D(name="average")(x), plan), 32, plan)

    @property
    def first_convolutions(self):
        return "conv_1", f"conv_{1 + len(re.findall('[ck]', self.centre)) + self.centre.count('s')}"


VARIANTS = {
    "lite": Variant("c16 s16 avg c32 max", "c16 avg s16 max", "s64 max c64"),
    "full, 8 channels first": Variant("c8 c8 avg c32 max", "c8 avg c16 max", "c64 max c64"),
    "full joined": Variant("c16 s16 avg s32 max", "c16 avg s16 max", "c64 max c64"),
    "separable at the end": Variant("c16 s16 avg c32 max", "c16 avg s16 max", "s64 max s64"),
    "full at the end alone": Variant("c16 s16 avg s32 max", "c16 avg s16 max", "s64 max c64"),
    "deeper": Variant("c16 s16 avg s32 s32 max", "c16 avg s16 max", "s64 s64 max c64"),
    "5x5 first": Variant("k16 s16 avg s32 max", "c16 avg s16 max", "s64 max c64"),
    "one layer at full scale": Variant("c16 avg c32 max", "c16 avg s16 max", "s64 max c64"),
    "separable": Variant("c16 s16 avg s32 max", "c16 avg s16 max", "s64 max s64"),
    "separable and wide": Variant("c16 s16 avg s64 max", "c16 avg s32 max", "s128 max s128"),
}


def stack(x, said, plan):
    for word in said.split():
        kind, number = word[0], re.sub(r"\D", "", word)
        if word in ("avg", "max"):
            x = {"avg": network._average_pool, "max": network._max_pool}[word](x, plan)
        elif kind == "s":
            x = network._separable(x, int(number), plan)
        else:
            x = network._scaled_convolution(x, int(number), plan, 5 if kind == "k" else 3)
    return x


@contextmanager
def in_place_of_lite(name):
    """Let `lite` mean one of the variants."""
    kept = network.NETWORKS["lite"], network.FIRST_CONVOLUTIONS["lite"]
    if name != "lite":
        variant = VARIANTS[name]
        network.NETWORKS["lite"], network.FIRST_CONVOLUTIONS["lite"] = variant, variant.first_convolutions
    try:
        yield
    finally:
        network.NETWORKS["lite"], network.FIRST_CONVOLUTIONS["lite"] = kept


def hard_set(each=2000):
    """Give hard mock cutouts to train on, then three times as many others to test on."""
    faintest, brightest = DIFFICULTIES["hard"]
    settings = MockSettings(each // 2, each // 2, planes=("DIFF",), seed=31, faintest=faintest, brightest=brightest)
    parts = [mock_arrays(replace(settings, seed=seed)) for seed in (31, 32, 33, 34)]
    columns = {key: np.concatenate([getattr(part, key) for part in parts]) for key in ("cube", "labels", "groups")}
    rows = np.arange(each, 4 * each)
    return DataSet("hard", Datacube.from_columns(columns, ("DIFF",)), lambda _: [rows])


def cost_of(name):
    """Give the multiply-adds and the parameters of a variant, and the microseconds that a cutout takes."""
    card = ModelCard("cost", "1", "", ("DIFF",), SHAPE[:2], Normalisation("l2"))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "cost.onnx")
        with in_place_of_lite(name):
            export(fold_scale(build("lite", SHAPE, normalisation="l2")), card, path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        cutouts = np.random.default_rng(0).normal(0, 1 / 64, (BATCH, *SHAPE)).astype(np.float32)
        times = []
        for _ in range(REPEATS):
            start = time.process_time()
            session.run([OUTPUT], {INPUT: cutouts})
            times.append(1e6 * (time.process_time() - start) / BATCH)
        return count(path), median(times[REPEATS // 10 :])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--results", type=Path, help="file of results to add to, and to take over")
    options = parser.parse_args()
    print(describe_machine())
    known = {}
    if options.results and options.results.exists():
        lines = map(json.loads, options.results.read_text().splitlines())
        known = {(line["variant"], line["seed"]): line["figures"] for line in lines}
    data = hard_set()
    asked = SimpleNamespace(normalisation="l2", augmentation=None)
    for seed in options.seeds:
        for name in options.variants:
            if (name, seed) not in known:
                with in_place_of_lite(name):
                    known[name, seed] = measure(data, "lite", asked, seed)[""]
                line = {"variant": name, "seed": seed, "figures": known[name, seed], "machine": describe_machine()}
                print(f"  {name}, seed {seed}: AUC {known[name, seed]['auc']:.4f}", flush=True)
                if options.results:
                    with options.results.open("a") as file:
                        file.write(json.dumps(line) + "\n")
    print("| variant | centre | whole | joined | seeds | AUC | MCC | MMAC | parameters | µs |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for name in sorted(options.variants, key=lambda each: -np.mean([known[each, s]["auc"] for s in options.seeds])):
        runs = [known[name, seed] for seed in options.seeds]
        cost, microseconds = cost_of(name)
        aucs = [run["auc"] for run in runs]
        said = VARIANTS[name]
        layout = f"{said.centre} | {said.whole} | {said.joined} | {len(runs)}"
        auc = f"{np.mean(aucs):.4f} ({min(aucs):.4f}-{max(aucs):.4f})"
        rest = f"{np.mean([run['mcc'] for run in runs]):.3f} | {cost.multiply_adds / 1e6:.1f} | {cost.parameters:,}"
        print(f"| {name} | {layout} | {auc} | {rest} | {microseconds:.0f} |")


if __name__ == "__main__":
    main()
