"""Which way of matching a reference to a science image is the best to build on?

A pair of images is generated whose point spread functions vary over the field, without cosmic rays and hot pixels. The
reference is put on the pixels of the science image once, for all. New sources of known flux, with the true profile of
the generator, are added to the science image. Each rival then makes the difference image, in a process of its own:

- otrain: `otrain_train.subtract`, the kernel of Alard and Lupton on numpy and scipy;
- sfft: kernels of single pixels, solved in Fourier space (`pip install sfft` needs a compiler), its CPU backend, told
  to fit to the same stars;
- properimage: Zackay and Ofek's proper subtraction (`pip install properimage`).

Rivals that are not installed are named and left out. Printed are the seconds by the clock (of the second run, when all
is compiled), the memory at its peak, the noise of the difference over that of the science image, the flux of the new
sources over what was added, with its scatter, and what is left of bright stars in units of their noise. Noise, scatter
and remains are those of a difference scaled to the flux that was added.

    python benchmarks/subtraction.py [--size 1024] [--seed 0]
"""

import argparse
import importlib.util
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import sep
from astropy.io import fits
from astropy.wcs import WCS
from machine import describe_machine
from scipy.ndimage import binary_dilation

from otrain_train.images import read_image
from otrain_train.mock_images import SCIENCE_IMAGE, MockImageSettings, Optics, mock_pair, moffat
from otrain_train.photometry import find_sources, subtract_sky

APERTURE = 8.0
KERNEL = 6
"""Half of the width of the kernel of sfft (pixels)."""
BRIGHT = 30


def make(folder: Path, settings: MockImageSettings) -> None:
    """Write the pair on the same pixels, new sources in the science image, and what is known of them."""
    from reproject import reproject_interp

    science, reference = mock_pair(settings, 0)
    rng = np.random.default_rng([settings.seed, 0, SCIENCE_IMAGE])
    optics = Optics(rng.uniform(3.0, 4.5), rng.uniform(1.0, 1.12), rng.uniform(0, np.pi), settings.variation)
    rng = np.random.default_rng(99)
    size, gain = settings.size, science.header["GAIN"]
    n = int(60 * (size / 1000) ** 2)
    places = rng.uniform(40, size - 40, (n, 2))
    widths, elongations, angles = optics.at(places[:, 0], places[:, 1], size)
    noise = 1.4826 * np.median(np.abs(science.data - np.median(science.data)))
    fluxes = rng.uniform(30, 300, n) * noise * 2 * widths
    added = np.zeros((size, size))
    for (y, x), flux, *shape in zip(places, fluxes, widths, elongations, angles, strict=True):
        top, left = max(int(y) - 35, 0), max(int(x) - 35, 0)
        rows, columns = np.arange(top, min(top + 71, size)), np.arange(left, min(left + 71, size))
        added[top : top + len(rows), left : left + len(columns)] += flux * moffat(
            rows[:, None] - y, columns - x, *shape
        )
    science.data = np.minimum(science.data + rng.poisson(added * gain) / gain, 60_000).astype(np.float32)
    wcs = WCS(science.header)
    aligned, footprint = reproject_interp((reference.data, WCS(reference.header)), wcs, science.shape, order="bicubic")
    aligned[footprint == 0] = np.nan
    science.writeto(folder / "science.fits")
    reference.data = aligned.astype(np.float32)
    reference.writeto(folder / "reference.fits")
    np.savez(folder / "truth.npz", places=places, fluxes=fluxes, noise=noise, gain=gain)


def prepare(folder: Path):
    """Give both images without sky, the masked pixels, and the stars, those added not among them."""
    images = [read_image(folder / f"{name}.fits") for name in ("science", "reference")]
    skies = [subtract_sky(image.pixels, image.masked) for image in images]
    sources = find_sources(skies[0], 5)
    bright = (sources.peak > BRIGHT * skies[0].typical_noise) & (sources.peak < 0.7 * images[0].saturation)
    stars = np.rint(np.stack([sources.y, sources.x], 1)[bright]).astype(np.int64)
    places = np.load(folder / "truth.npz")["places"]
    far = np.hypot(*(stars[:, None] - places).transpose(2, 0, 1)).min(1) > 10
    return images, skies, images[0].masked | images[1].masked, stars[far]


def with_otrain(folder: Path):
    from otrain_train.subtract import Pair, subtract

    images, skies, _, stars = prepare(folder)
    variances = [
        sky.noise**2 + np.maximum(sky.pixels, 0) / image.gain for sky, image in zip(skies, images, strict=True)
    ]
    started = time.perf_counter()
    pair = Pair(skies[0].pixels, skies[1].pixels, *variances, images[0].masked, images[1].masked)
    found = subtract(pair, stars, (4.7, 3.7))
    return np.where(found.masked, np.nan, found.pixels), time.perf_counter() - started


def with_sfft(folder: Path):
    from sfft.CustomizedPacket import Customized_Packet

    _, skies, masked, stars = prepare(folder)
    near = np.zeros(masked.shape, bool)
    near[stars[:, 0], stars[:, 1]] = True
    used = binary_dilation(near, iterations=15) & ~binary_dilation(masked, iterations=15)
    names = {}
    for name, sky in zip(("SCI", "REF"), skies, strict=True):
        for kind, pixels in (("", sky.pixels), ("m", np.where(used, sky.pixels, 0))):
            names[f"FITS_{kind}{name}"] = str(folder / f"{kind}{name}.fits")
            fits.writeto(names[f"FITS_{kind}{name}"], pixels, overwrite=True)
    started = time.perf_counter()
    Customized_Packet.CP(
        **names, ForceConv="REF", GKerHW=KERNEL, FITS_DIFF=str(folder / "sfft.fits"), BGPolyOrder=0,
        BACKEND_4SUBTRACT="Numpy", NUM_CPU_THREADS_4SUBTRACT=2, VERBOSE_LEVEL=0,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    return np.where(binary_dilation(masked, iterations=KERNEL), np.nan, fits.getdata(folder / "sfft.fits")), seconds


def with_properimage(folder: Path):
    from properimage import SingleImage
    from properimage.operations import subtract

    _, skies, masked, _ = prepare(folder)
    science, reference = (SingleImage(sky.pixels, mask=masked) for sky in skies)
    started = time.perf_counter()
    found = subtract(reference, science, align=False, iterative=False, beta=True, shift=False)[0]
    pixels = np.ma.filled(np.real(found), np.nan)
    return np.where(masked, np.nan, pixels), time.perf_counter() - started


RIVALS = {"otrain": with_otrain, "sfft": with_sfft, "properimage": with_properimage}


def judge(folder: Path, rival: str) -> None:
    """Run a rival twice, and print what came of it as JSON, after whatever it says itself."""
    for _ in range(2):
        pixels, seconds = RIVALS[rival](folder)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    truth = np.load(folder / "truth.npz")
    usable = np.isfinite(pixels)
    filled = np.ascontiguousarray(np.where(usable, pixels, 0), np.float64)
    background = sep.Background(filled, mask=~usable)
    filled -= background.back()
    fluxes, _, _ = sep.sum_circle(filled, truth["places"][:, 1], truth["places"][:, 0], APERTURE)
    ratio = fluxes / truth["fluxes"]
    flux = np.median(ratio)
    filled /= flux  # so that noise and remains are compared with the same light
    _, skies, _, stars = prepare(folder)
    left = []
    for y, x in stars.tolist():
        part = np.s_[max(y - 3, 0) : y + 4, max(x - 3, 0) : x + 4]
        if usable[part].all():
            noise = np.sqrt(skies[0].noise[part] ** 2 + np.maximum(skies[0].pixels[part], 0) / truth["gain"])
            left.append(np.sqrt(np.mean((filled[part] / noise) ** 2)))
    scatter = 1.4826 * np.median(np.abs(ratio / flux - 1))
    figures = {
        "seconds": seconds,
        "GB": memory,
        "noise": background.globalrms / flux / truth["noise"],
        "flux": flux,
        "scatter": scatter,
        "left of stars": np.median(left),
    }
    print(json.dumps({name: float(value) for name, value in figures.items()}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--judge", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.judge:
        judge(Path(given.judge[1]), given.judge[0])
        return
    print(describe_machine())
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make(folder, MockImageSettings(1, given.size, given.seed, defects=False))
        print(f"{given.size} x {given.size} pixels; an aperture of {APERTURE:g} pixels holds about 0.98 of the flux")
        for rival in RIVALS:
            if importlib.util.find_spec(rival) is None and rival != "otrain":
                print(f"{rival:<14} is not installed")
                continue
            done = subprocess.run(
                [sys.executable, __file__, "--judge", rival, str(folder)], capture_output=True, text=True
            )
            if done.returncode:
                print(f"{rival:<14} failed: {done.stderr.strip().splitlines()[-1]}")
                continue
            figures = json.loads(done.stdout.strip().splitlines()[-1])
            print(f"{rival:<14}" + ", ".join(f"{name} {value:.3f}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
