"""How well does each network tell real from bogus, on cutouts that it has not seen, and what does it cost?

Each recipe is trained, exported to ONNX, and scores the test rows with `otrain_infer.Scorer`; the figures are of those
scores. Recipes:

- a network of `otrain_train`, with its defaults, calibrated on its holdout rows; `mini` learns for 60 epochs from the
  scores of three `lite` besides, which have been trained on the same rows, once for all seeds;
- `original`: the network, the pixels and the training of the original O'TRAIN, in plain Keras: raw pixels, batches of
  1,024, Adam 1e-3, categorical cross-entropy, no augmentation, the last epoch kept.

Data sets:

- mock cutouts of three difficulties (ranges of the signal-to-noise ratio), one plane, 2,000 to train on and 2,000
  others, of other images, to test on;
- with the environment variable OTRAIN_DATA: the real ZTF cutouts of its folder `ztf`, three planes, all of them, (a) in
  five folds by object, also within the night that most of the bogus ones come from and among the others, and (b) with
  each of these other nights left out in turn: few bogus ones, but from nights never seen.

Each training is a line in the file of results, which a later run takes over: the benchmark can be stopped at any time.

    python benchmarks/accuracy.py [--recipes lite otrain original-10] [--seeds 0 1 2 3 4] [--results FILE] [--known]
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
from machine import describe_machine

from otrain_infer import ModelCard, Normalisation, Scorer, read_cutouts
from otrain_train.convert import ConvertSettings, convert
from otrain_train.cost import count
from otrain_train.datacube import Datacube
from otrain_train.export import export
from otrain_train.fit import fit
from otrain_train.members import calibrate
from otrain_train.metrics import figures, sweep
from otrain_train.mock import MockSettings, mock_arrays
from otrain_train.network import NETWORKS, build
from otrain_train.settings import TrainSettings
from otrain_train.splits import split_rows

FOLDS = 5
DIFFICULTIES = {"easy": (10.0, 100.0), "middling": (5.0, 100.0), "hard": (3.0, 30.0)}
"""Signal-to-noise ratio of the faintest and of the brightest real mock cutouts."""

TAUGHT = {"mini": TrainSettings(network="mini", epochs=60)}
"""Networks that learn from a teacher."""

TEACHERS = TrainSettings(seeds=(100, 101, 102))
"""How their teacher is trained."""

FIGURES = ("auc", "mcc", "recall_at_fpr_1", "ece", "epochs", "seconds")


@dataclass(frozen=True)
class DataSet:
    """Labelled cutouts, how they are parted for a seed, and which of them figures are given for."""

    name: str
    datacube: Datacube
    tests: Callable[[int], list[np.ndarray]]
    subsets: dict[str, np.ndarray] = field(default_factory=dict)


def train_ours(datacube, rows, settings, folder):
    """Train as `otrain-train` does, first a teacher if there is to be one; give the network and the epoch kept."""
    teachers = teachers_of(datacube, rows, settings) if settings.network in TAUGHT else []
    fitted = fit(datacube, rows, settings, folder, teachers=teachers)
    calibrate(datacube, [fitted])
    return fitted.model, fitted.best_epoch


_known_teachers = {}


def teachers_of(datacube, rows, settings):
    """Train the networks of a teacher, or give those that the same rows have had before."""
    how = replace(TEACHERS, normalisation=settings.normalisation, augmentation=settings.augmentation)
    key = how, id(datacube), rows.tobytes()
    if key not in _known_teachers:
        with tempfile.TemporaryDirectory() as folder:
            members = [fit(datacube, rows, how, Path(folder), member=each) for each in range(len(how.seeds))]
        calibrate(datacube, members)
        _known_teachers[key] = [each.model for each in members]
    return _known_teachers[key]


def train_original(datacube, rows, epochs, seed):
    """Train as the original O'TRAIN does; missing pixels are 0, for one of them would cost it the whole training."""
    import keras

    keras.utils.set_random_seed(seed)
    network = build("otrain", datacube.cube.shape[1:], seed=seed)
    network.compile(keras.optimizers.Adam(1e-3), "categorical_crossentropy")
    truth = keras.utils.to_categorical(datacube.labels[rows], 2)
    network.fit(np.nan_to_num(datacube.cube[rows], posinf=0, neginf=0), truth, 1024, epochs, verbose=0)
    return network, epochs


def score_unseen(data, test, recipe, options, seed):
    """Train a recipe on all rows but `test`, export it, and score these; give the scores, epochs and seconds."""
    datacube = data.datacube
    rows = np.setdiff1d(np.arange(len(datacube)), test)
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        if recipe.startswith("original-"):
            normalisation = "none"
            network, epochs = train_original(datacube, rows, int(recipe.partition("-")[2]), seed)
        else:
            normalisation = options.normalisation
            settings = TAUGHT.get(recipe, TrainSettings(network=recipe))
            settings = replace(settings, normalisation=normalisation, seeds=(seed,))
            settings = replace(settings, augmentation=tuple(options.augmentation or settings.augmentation))
            network, epochs = train_ours(datacube, rows, settings, Path(folder))
        seconds = time.process_time() - start
        card = ModelCard("fold", "1", "", datacube.planes, datacube.size, Normalisation(normalisation))
        export(network, card, Path(folder, "fold.onnx"), np.array(datacube.cube[test]))
        return Scorer(Path(folder, "fold.onnx")).score_pixels(datacube.cube[test]), epochs, seconds


def measure(data, recipe, options, seed):
    """Give the figures of a recipe on each subset of the rows that were tested, by name."""
    tests = data.tests(seed)
    scores = np.full(len(data.datacube), np.nan, np.float32)
    epochs, seconds = [], []
    for test in tests:
        scores[test], kept, spent = score_unseen(data, test, recipe, options, seed)
        epochs.append(kept)
        seconds.append(spent)
    spent = {"epochs": float(np.mean(epochs)), "seconds": float(np.mean(seconds))}
    whole = np.concatenate(tests)
    subsets = {"": whole} | {name: np.intersect1d(whole, rows) for name, rows in data.subsets.items()}
    return {name: figures_of(data.datacube.labels[rows], scores[rows]) | spent for name, rows in subsets.items()}


def figures_of(labels, scores):
    found = figures(labels, scores)
    rates = sweep(labels, scores)
    recall = np.max(rates.recall, where=rates.fpr <= 0.01, initial=0.0)
    return {"auc": found.auc, "mcc": found.mcc, "recall_at_fpr_1": float(recall), "ece": found.ece}


def folds_by_group(datacube, seed):
    """Cut the rows in `FOLDS` parts: stratified, no group in two."""
    rest, parts = np.arange(len(datacube)), []
    for left in range(FOLDS, 1, -1):
        keep, part = split_rows(datacube.labels[rest], datacube.groups[rest], 1 / left, seed)
        parts.append(rest[part])
        rest = rest[keep]
    return [*parts, rest]


def mock_set(difficulty, each):
    """Give mock cutouts to train on, then as many others to test on."""
    faintest, brightest = DIFFICULTIES[difficulty]
    settings = MockSettings(each // 2, each // 2, planes=("DIFF",), seed=11, faintest=faintest, brightest=brightest)
    learn, test = mock_arrays(settings), mock_arrays(replace(settings, seed=12))
    columns = {
        key: np.concatenate([getattr(part, key) for part in (learn, test)]) for key in ("cube", "labels", "groups")
    }
    rows = np.arange(each, 2 * each)
    return DataSet(f"mock, {difficulty}", Datacube.from_columns(columns, ("DIFF",)), lambda _: [rows])


def ztf_sets(folder, workspace):
    settings = ConvertSettings(frac_true=None, planes=("SCI", "REF", "DIFF"))
    convert(folder, workspace / "ztf.npz", settings)
    datacube = Datacube.load(workspace / "ztf.npz")
    files = read_cutouts([str(folder / file) for file in datacube.files], planes=["DIFF"]).header["FILE"]
    nights = np.array([file.rpartition("_")[2] for file in files])
    values, counts = np.unique(nights[datacube.labels == 0], return_counts=True)
    most = values[np.argmax(counts)]
    others = np.flatnonzero(nights != most)
    subsets = {f"night {most}": np.flatnonzero(nights == most), "other nights": others}
    left_out = [np.flatnonzero(nights == night) for night in np.unique(nights[others])]
    return [
        DataSet("ZTF", datacube, lambda seed: folds_by_group(datacube, seed), subsets),
        DataSet("ZTF, nights left out", datacube, lambda _: left_out),
    ]


def run_all(sets, options):
    """Measure what the file of results does not hold yet, seed by seed, and give all it holds of what was asked."""
    known = read_results(options.results)
    asked = []
    for seed in options.seeds:
        for data in sets:
            for recipe in options.recipes:
                variant = f"{options.normalisation}, {'+'.join(options.augmentation or ['default'])}"
                key = [data.name, recipe, "" if recipe.startswith("original") else variant, seed]
                if data.name == "ZTF, nights left out" and recipe != "lite":
                    continue
                if options.known and tuple(key) not in known:
                    continue
                asked.append(tuple(key))
                if tuple(key) not in known:
                    known[tuple(key)] = measure(data, recipe, options, seed)
                    write_result(options.results, key, known[tuple(key)])
    return {key: known[key] for key in asked}


def read_results(path):
    if path is None or not path.exists():
        return {}
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {tuple(line["key"]): line["figures"] for line in lines if "key" in line}


def write_result(path, key, found):
    print(f"  {key}: AUC {found['']['auc']:.4f}, {found['']['seconds']:.0f} s", flush=True)
    if path is not None:
        with path.open("a") as file:
            file.write(json.dumps({"key": key, "figures": found, "machine": describe_machine()}) + "\n")


@cache
def cost_of(recipe, shape):
    """Count the multiply-adds and parameters of a recipe's network."""
    network = build("otrain" if recipe.startswith("original") else recipe, shape)
    card = ModelCard("cost", "1", "", ("SCI", "REF", "DIFF")[-shape[2] :], shape[:2], Normalisation("l2"))
    with tempfile.TemporaryDirectory() as folder:
        export(network, card, Path(folder, "cost.onnx"))
        return count(Path(folder, "cost.onnx"))


def print_table(sets, results):
    print("| data set | recipe | seeds | AUC | MCC | recall at FPR 1 % | ECE | MMAC | parameters | epochs | seconds |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for data in sets:
        for recipe in dict.fromkeys(key[1] for key in results if key[0] == data.name):
            runs = [found for key, found in results.items() if key[:2] == (data.name, recipe)]
            cost = cost_of(recipe, data.datacube.cube.shape[1:])
            for subset in runs[0]:
                print_line(data.name, subset, recipe, [run[subset] for run in runs], cost)


def print_line(name, subset, recipe, runs, cost):
    values = {key: [run[key] for run in runs] for key in FIGURES}
    auc = f"{np.mean(values['auc']):.4f} ({min(values['auc']):.4f}-{max(values['auc']):.4f})"
    rest = [f"{np.mean(values[key]):.3f}" for key in ("mcc", "recall_at_fpr_1", "ece")]
    size = [f"{cost.multiply_adds / 1e6:.1f}", f"{cost.parameters:,}"]
    spent = [f"{np.mean(values[key]):.0f}" for key in ("epochs", "seconds")]
    where = f"{name}, {subset}" if subset else name
    print("| " + " | ".join([where, recipe, str(len(runs)), auc, *rest, *size, *spent]) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    recipes = [*NETWORKS, "original-10", "original-30"]
    parser.add_argument("--recipes", nargs="+", default=["lite"], choices=recipes)
    parser.add_argument("--normalisation", default=TrainSettings().normalisation)
    parser.add_argument("--augmentation", nargs="+", help="if not given, that of the settings")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--mock", type=int, default=2000, help="mock cutouts to train on; 0 leaves them out")
    parser.add_argument("--difficulties", nargs="+", default=list(DIFFICULTIES), choices=DIFFICULTIES)
    parser.add_argument("--results", type=Path, help="file of results to add to, and to take over")
    parser.add_argument("--known", action="store_true", help="print what that holds, and train nothing")
    options = parser.parse_args()
    print(describe_machine())
    with tempfile.TemporaryDirectory() as workspace:
        sets = [mock_set(difficulty, options.mock) for difficulty in options.difficulties if options.mock]
        if "OTRAIN_DATA" in os.environ:
            sets += ztf_sets(Path(os.environ["OTRAIN_DATA"], "ztf"), Path(workspace))
        else:
            print("OTRAIN_DATA is not set: the real cutouts were skipped")
        print_table(sets, run_all(sets, options))


if __name__ == "__main__":
    main()
