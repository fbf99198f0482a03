"""How small can a network be for what it tells: which layers are worth their time?

Variants of `lite` and `mini`, these among them, are trained on mock cutouts as `benchmarks/accuracy.py` trains, but on
other ones than there, so that what is chosen here is not judged on what it was chosen for. Those that are taught learn
from the scores of three `lite` besides the labels, for 60 epochs. Beside the AUC on 6,000 hard mock cutouts that none
has seen stands the processor time that ONNX Runtime takes for a cutout, one thread, float32, batches of 64. In the
table c16 is a convolution of 3x3 pixels to 16 channels, s16 a separable one, k16 one of 5x5, k16/2 one that takes every
second place; avg and max are pools of 2x2.

    python benchmarks/networks.py [--variants NAME ...] [--seeds 0 1 2] [--results FILE] [--known]
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
from accuracy import DIFFICULTIES, TAUGHT, DataSet, measure
from machine import describe_machine

from otrain_infer import ModelCard, Normalisation
from otrain_infer.card import INPUT, OUTPUT
from otrain_train import network
from otrain_train.cost import count
from otrain_train.datacube import Datacube
from otrain_train.export import export
from otrain_train.mock import MockSettings, mock_arrays
from otrain_train.network import build, fold_scale

SHAPE = (64, 64, 1)
BATCH = 64
REPEATS = 40


@dataclass(frozen=True)
class Variant:
    """The layers that see the centre of a cutout, those that see the whole of it, and those that see both joined.

    The whole is shrunk to the size of the centre, or `shrunk` times further.
    """

    centre: str
    whole: str
    joined: str
    shrunk: int = 1
    recipe: str = "lite"

    def __call__(self, x, plan):
        centre = stack(network._centre(x), self.centre, plan)
        whole = stack(network._whole(x, self.shrunk), self.whole, plan)
        return network._summed_up(stack(network._joined(centre, whole), self.joined, plan), plan)

    @property
    def first_convolutions(self):
        return "conv_1", f"conv_{1 + len(re.findall('[cks][0-9]', self.centre))}"


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
    "mini": Variant("k16/2 s32 max", "k16/2", "s64 max s64", 2, "mini"),
    "mini, whole at half scale": Variant("k16/2 s32 max", "k16/2 max", "s64 max s64", 1, "mini"),
    "mini, one more layer": Variant("k16/2 s32 max", "k16/2 s16 max", "s64 max s64", 1, "mini"),
    "mini, narrow at the end": Variant("k16/2 s32 max", "k16/2", "s32 max s64", 2, "mini"),
    "mini, pools first": Variant("k16/2 max s32", "k16/2 max", "s64 max s64", 1, "mini"),
    "mini, strides alone": Variant("k16/2 s32/2", "k16/2", "s64 s64/2", 2, "mini"),
}


def stack(x, said, plan):
    for word in said.split():
        if word in ("avg", "max"):
            x = {"avg": network._average_pool, "max": network._max_pool}[word](x, plan)
            continue
        kind, (filters, _, stride) = word[0], word[1:].partition("/")
        if kind == "s":
            x = network._separable(x, int(filters), plan, int(stride or 1))
        else:
            x = network._scaled_convolution(x, int(filters), plan, 5 if kind == "k" else 3, int(stride or 1))
    return x


@contextmanager
def in_place_of_its_recipe(name):
    """Let the name of a network mean one of the variants."""
    variant = VARIANTS[name]
    kept = network.NETWORKS[variant.recipe], network.FIRST_CONVOLUTIONS[variant.recipe]
    if name != variant.recipe:
        network.NETWORKS[variant.recipe] = variant
        network.FIRST_CONVOLUTIONS[variant.recipe] = variant.first_convolutions
    try:
        yield
    finally:
        network.NETWORKS[variant.recipe], network.FIRST_CONVOLUTIONS[variant.recipe] = kept


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
        with in_place_of_its_recipe(name):
            export(fold_scale(build(VARIANTS[name].recipe, SHAPE, normalisation="l2")), card, path)
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
    parser.add_argument("--known", action="store_true", help="print what that holds, and train nothing")
    options = parser.parse_args()
    print(describe_machine())
    known = {}
    if options.results and options.results.exists():
        lines = map(json.loads, options.results.read_text().splitlines())
        known = {(line["variant"], line["seed"]): line["figures"] for line in lines}
    if not options.known:
        train_missing(options, known)
    print_table(options, known)


def train_missing(options, known):
    """Train and measure what is not known yet, and note it."""
    data = hard_set()
    asked = SimpleNamespace(normalisation="l2", augmentation=None)
    for seed in options.seeds:
        for name in options.variants:
            if (name, seed) not in known:
                with in_place_of_its_recipe(name):
                    known[name, seed] = measure(data, VARIANTS[name].recipe, asked, seed)[""]
                line = {"variant": name, "seed": seed, "figures": known[name, seed], "machine": describe_machine()}
                print(f"  {name}, seed {seed}: AUC {known[name, seed]['auc']:.4f}", flush=True)
                if options.results:
                    with options.results.open("a") as file:
                        file.write(json.dumps(line) + "\n")


def print_table(options, known):
    print("| variant | centre | whole | joined | taught | seeds | AUC | MCC | MMAC | parameters | µs |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    found = {name: [known[name, s] for s in options.seeds if (name, s) in known] for name in options.variants}
    measured = [name for name, runs in found.items() if runs]
    for name in sorted(measured, key=lambda each: -np.mean([run["auc"] for run in found[each]])):
        runs = found[name]
        cost, microseconds = cost_of(name)
        aucs = [run["auc"] for run in runs]
        said = VARIANTS[name]
        taught = "yes" if said.recipe in TAUGHT else "no"
        layout = f"{said.centre} | {said.whole} | {said.joined} | {taught} | {len(runs)}"
        auc = f"{np.mean(aucs):.4f} ({min(aucs):.4f}-{max(aucs):.4f})"
        rest = f"{np.mean([run['mcc'] for run in runs]):.3f} | {cost.multiply_adds / 1e6:.1f} | {cost.parameters:,}"
        print(f"| {name} | {layout} | {auc} | {rest} | {microseconds:.0f} |")


if __name__ == "__main__":
    main()
