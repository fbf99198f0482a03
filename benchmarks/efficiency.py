"""Are inserted sources found, where they were inserted and as bright, on generated images with a known truth?

Pairs of images are generated, whose point spread function varies over the field, with stars, galaxies, cosmic rays,
hot pixels, dead columns and a WCS that is slightly wrong. `otrain-sim` inserts sources into copies of the science
images, and `otrain-detect` subtracts the references and lists candidates. Printed are

- the fraction detected by significance, beside what noise alone allows: the part of a Gaussian about the significance
  that is above the threshold;
- how far candidates are from where their source was inserted, and their mean offset along each axis;
- the flux measured over the flux inserted, of bright sources.

    python benchmarks/efficiency.py [--pairs 20] [--size 2048] [--sources 200] [--seed 1] [--folder DIR]
"""

import argparse
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist

import numpy as np
from astropy.io import fits
from machine import describe_machine

from otrain_train.bootstrap import wilson
from otrain_train.candidates_list import read_candidates
from otrain_train.detect import DetectSettings, detect
from otrain_train.match import match
from otrain_train.mock_images import SCALE, MockImageSettings, write_mock_images
from otrain_train.sim import SimSettings, simulate
from otrain_train.simulated_objects import read_simulated_objects

THRESHOLD = 4.0
BRIGHT = 30.0
FAINT_OF_LIMIT, BRIGHT_OF_LIMIT = 1.0, 4.0
"""Magnitudes: how much fainter and brighter than five sigma sources are inserted."""
SNR_BINS = (0, 1, 2, 3, 4, 5, 6, 8, 12, 20, 1e9)


def run(folder: Path, settings: MockImageSettings, sources: int, seed: int) -> None:
    started = time.perf_counter()
    write_mock_images(folder, settings)
    generated = time.perf_counter()
    # The limits come first, so that the magnitudes are about them.
    look = simulate(folder / "science", folder / "look", SimSettings(1, (20, 20), "MAGZERO", seed=seed))
    limit = float(np.median([each.limit for each in look.images]))
    inserted = time.perf_counter()
    magnitudes = limit - BRIGHT_OF_LIMIT, limit + FAINT_OF_LIMIT
    summary = simulate(folder / "science", folder / "sim", SimSettings(sources, magnitudes, "MAGZERO", seed=seed))
    simulated = time.perf_counter()
    found = detect(folder / "sim", folder / "reference", DetectSettings(THRESHOLD, "MAGZERO"))
    done = time.perf_counter()
    n = len(summary.images)
    print(
        f"{n} pairs of {settings.size} x {settings.size} pixels, each: generated in {(generated - started) / n:.1f} s, "
        f"sources inserted in {(simulated - inserted) / n:.1f}, subtracted and detected in "
        f"{(done - simulated) / n:.1f}"
    )
    print(f"five sigma, median: {limit:.2f} mag; candidates: {sum(each.candidates for each in found.images)}")
    print(f"noise of the differences over that expected: {np.median([each.noise for each in found.images]):.3f}")
    for failure in (*summary.failures, *found.failures):
        print("left out:", failure)
    compare(folder, {each.name: each.limit for each in summary.images})


def compare(folder: Path, limits: dict[str, float]) -> None:
    objects = read_simulated_objects(folder / "sim/simulated_objects.list")
    candidates = read_candidates(folder / "sim/candidates_list.dat")
    matched = match(objects, candidates, 3 * SCALE)
    rows = matched.closest
    hit = rows >= 0
    # By the magnitude alone: what noise and the brightness of the source itself allow.
    limit = np.array([limits[name] for name in objects.names.tolist()])
    flux = 10 ** (-0.4 * (objects.mags - limit)) * 5  # in units of the noise of the sky
    print(f"\n{len(objects)} sources inserted, {hit.sum()} detected\n")
    heads = f"{'inserted':>10}{'detected':>10}{'fraction':>10}  {'95 % interval':<18}{'noise alone':>12}"
    print(f"{'significance':<16}{heads}")
    for low, high in pairwise(SNR_BINS):
        inside = (flux >= low) & (flux < high)
        if inside.any():
            k, total = int((inside & hit).sum()), int(inside.sum())
            below, above = (float(each) for each in wilson(k, total))
            expected = np.mean([1 - NormalDist(value, 1).cdf(THRESHOLD) for value in flux[inside].tolist()])
            interval = f"{below:.3f} to {above:.3f}"
            name = f"{low:g} to {high:g}" if high < 1e8 else f"above {low:g}"
            print(f"{name:<16}{total:>10}{k:>10}{k / total:>10.3f}  {interval:<18}{expected:>12.3f}")
    bright = hit & (flux > BRIGHT)
    dx = candidates.x[rows[bright]] - objects.x[bright]
    dy = candidates.y[rows[bright]] - objects.y[bright]
    print(f"\n{bright.sum()} detected sources above {BRIGHT:g} sigma:")
    distance = np.hypot(dx, dy)
    errors = [each.std() / np.sqrt(each.size) for each in (dx, dy)]
    print(
        f"distance, median {np.median(distance):.3f} pixels, 95 % within {np.quantile(distance, 0.95):.3f}; mean "
        f"offset x {dx.mean():+.4f} +- {errors[0]:.4f}, y {dy.mean():+.4f} +- {errors[1]:.4f}"
    )
    ratio = 10 ** (-0.4 * (candidates.mags[rows[bright]] - objects.mags[bright]))
    error = candidates.magerrs[rows[bright]] * 0.921
    weight = 1 / np.maximum(error, 0.01) ** 2
    mean = float(np.sum(weight * ratio) / np.sum(weight))
    spread = float(1.4826 * np.median(np.abs(ratio - np.median(ratio))))
    print(
        f"flux measured over inserted: median {np.median(ratio):.4f} +- {1.25 * spread / np.sqrt(ratio.size):.4f}, "
        f"weighted mean {mean:.4f}"
    )
    counts = objects.counts / 10 ** (-0.4 * (objects.mags - _zero_points(folder, objects.names)))
    print(f"added to the image over what the magnitude says: {np.median(counts[flux > BRIGHT]):.4f}")


def _zero_points(folder: Path, names) -> np.ndarray:
    known = {path.name: fits.getheader(path)["MAGZERO"] for path in (folder / "science").glob("*.fits")}
    return np.array([known[name] for name in names.tolist()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--sources", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="keep the images there")
    given = parser.parse_args()
    print(describe_machine())
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        run(folder, MockImageSettings(given.pairs, given.size, given.seed), given.sources, given.seed)


if __name__ == "__main__":
    main()
