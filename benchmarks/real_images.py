"""From real images to a model: what is recovered of inserted sources, and how well is real told from bogus?

The pairs are those of the folder `images` of OTRAIN_DATA: DECam, NIRCam, and a pair of a small telescope without a
WCS. Each step is a command, as a user gives them. The first image of each pair is what is learnt from, with the second
as its reference; sources are inserted several times, at other places each time. Held out is the second image of each
pair, with the first as its reference, and with sources of its own: another exposure, but of the same field.

    sim -> detect -> checksim -> cutouts -> convert -> train -> infer -> checkinfer

What no inserted source explains counts as bogus here. Printed are the recovered fraction by magnitude of each image
held out, and the AUC on these images, each and together.

    OTRAIN_DATA=DIR python benchmarks/real_images.py [--times 3] [--epochs 30] [--folder DIR]
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from machine import describe_machine
from sklearn.metrics import roc_auc_score

from otrain_infer.table import read_table

PLANES = "SCI,REF,DIFF"


@dataclass(frozen=True)
class Pair:
    """Two images of one field, and what the headers do not say."""

    name: str
    images: tuple[str, str]
    sources: int
    mags: tuple[str, str]
    options: tuple[str, ...] = ()
    radius: str = "1"


PAIRS = (
    Pair("decam", ("decam_sfft_OBS04a.fits", "decam_sfft_OBS04b.fits"), 25, ("18", "23")),
    # Pixels are MJy/sr: this is about how many electrons make one.
    Pair("nircam", ("nircam_f200w_sci.fits", "nircam_f200w_ref.fits"), 150, ("28", "33"), ("--gain", "5e4"), "0.06"),
    Pair("eso", ("properimage_eso085_004.fit", "properimage_eso085_005.fit"), 150, ("17", "23"), ("--gain", "1.5")),
)


def command(*words: object) -> str:
    """Run a command, show what it says on stderr where it fails, and give what it says on stdout."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, words))}\n{done.stderr}")
    return done.stdout


def chain(data: Path, pair: Pair, which: int, seed: int, folder: Path) -> Path:
    """Go from an image to sorted cutouts; give the folder with the lists."""
    image, reference = pair.images[which], pair.images[1 - which]
    start = folder / f"{pair.name}_{which}_{seed}"
    start.mkdir(parents=True)
    shutil.copy(data / image, start / image)
    inserted = ("--Ntrans", pair.sources, "--magrange", *pair.mags, "--seed", seed, *pair.options)
    command("otrain-sim", "--path_data", start, *inserted)
    copies = start / "simulation"
    command("otrain-detect", "--path_data", copies, "--reference", data / reference)
    command("otrain-checksim", "--path_data", copies, "--radius", pair.radius)
    command("otrain-cutouts", "--path_data", copies, "--training", "--false", "--radius", pair.radius)
    return copies


def gather(folders: list[Path], target: Path) -> None:
    """Put the sorted cutouts of several runs into one folder, under names of their own."""
    for label in ("true", "false"):
        (target / label).mkdir(parents=True)
        for folder in folders:
            for path in (folder / "candidates_training" / label).iterdir():
                os.link(path, target / label / f"{folder.parent.name}_{path.name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--times", type=int, default=3, help="how often sources are inserted into each image")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--folder", type=Path, help="keep everything there")
    given = parser.parse_args()
    print(describe_machine())
    if "OTRAIN_DATA" not in os.environ:
        print("skipped: OTRAIN_DATA does not name a folder with images")
        return
    data = Path(os.environ["OTRAIN_DATA"]) / "images"
    with tempfile.TemporaryDirectory() as temporary:
        run(data, given.folder or Path(temporary), given.times, given.epochs)


def run(data: Path, folder: Path, times: int, epochs: int) -> None:
    started = time.perf_counter()
    learnt = [chain(data, pair, 0, seed, folder) for pair in PAIRS for seed in range(times)]
    held = {pair.name: chain(data, pair, 1, 100, folder) for pair in PAIRS}
    for name, copies in held.items():
        said = (copies / "CheckSim/summary.txt").read_text().rpartition("\n\n")[0]
        print(f"\n== {name}, the image held out\n{said}")
    gather(learnt, folder / "learnt")
    command(
        *("otrain-convert", "--cutouts", folder / "learnt", "--path", folder, "--cube", "learnt"),
        *("--frac-true", "all", "--planes", PLANES),
    )
    trained = ("otrain-train", "--cube", folder / "learnt.npz", "--model-path", folder, "--model-name", "images")
    command(*trained, "--epochs", epochs, "--no-report")
    model = folder / "CNN_training/images.onnx"
    print(f"\n== the model\n{(folder / 'CNN_training/images/summary.txt').read_text().strip()}")
    print("\n== the images held out")
    scores, labels = [], []
    for name, copies in held.items():
        cutouts = copies / "candidates_training"
        results = copies / "infer_results.dat"
        command("otrain-infer", "--cutouts", cutouts / "true", cutouts / "false", "--model", model, "--output", results)
        said = command("otrain-checkinfer", "--plots", copies, "--crossmatch", copies, "--infer", results)
        table = read_table(results)
        label = np.array([(cutouts / "true" / Path(file).name).exists() for file in table["filename"].tolist()])
        score = np.asarray(table["label1"], float)
        known = np.isfinite(score)
        scores.append(score[known])
        labels.append(label[known])
        auc = roc_auc_score(label[known], score[known])
        print(f"\n{name}: {label.sum()} real, {(~label).sum()} bogus, AUC {auc:.3f}\n{said.partition(chr(10) * 2)[2]}")
    together = roc_auc_score(np.concatenate(labels), np.concatenate(scores))
    print(f"all: {sum(map(len, labels))} candidates, AUC {together:.3f}; {time.perf_counter() - started:.0f} s in all")


if __name__ == "__main__":
    main()
