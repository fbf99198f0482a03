"""How fast are candidates cut out, beside astropy, and how fast could the disk take the files?

Images of one size with many candidates each, three planes. Rivals:

- otrain: `otrain_train.extract`, what otrain-cutouts does, images read and files written;
- the disk: the same number of files of the same size written by the same number of threads, their bytes made before;
- astropy: `Cutout2D` of each plane, keywords set, and `writeto`; on fewer candidates (--slow), being slow.

    python benchmarks/cutting.py [--images 100] [--candidates 1000] [--size 1024] [--repeats 3] [--folder DIR]
"""

import argparse
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.nddata import Cutout2D
from machine import compare, describe_machine, per_thing, print_times, ratio

from otrain_infer.command import available_processors
from otrain_train.candidates_list import LIST_NAME, from_table
from otrain_train.extract import ExtractSettings, extract

OURS, DISK, ASTROPY = "otrain", "the disk: the same files, their bytes ready", "astropy"
CUT = 32
PLANES = ("SCI", "REF", "DIFF")


def make(folder: Path, n_images: int, n_candidates: int, size: int) -> None:
    """Write images, of which all but the first are other names of it, and a list of candidates."""
    rng = np.random.default_rng(0)
    names = {plane: [f"{plane.lower()}_{k:03d}.fits" for k in range(n_images)] for plane in PLANES}
    for files in names.values():
        fits.PrimaryHDU(rng.normal(100, 5, (size, size)).astype(np.float32)).writeto(folder / files[0])
        for name in files[1:]:
            os.link(folder / files[0], folder / name)
    n = n_images * n_candidates
    columns = {name: rng.uniform(CUT, size - CUT, n).round(2) for name in ("Xpos", "Ypos")}
    columns |= {"RA": rng.uniform(0, 360, n), "Dec": rng.uniform(-90, 90, n), "mag": rng.uniform(14, 22, n)}
    columns |= {"magerr": rng.uniform(0, 0.3, n), "FWHM": rng.uniform(2, 5, n), "FWHMPSF": np.full(n, 3.0)}
    columns |= {"Band": np.full(n, "r")}
    for column, plane in (("OriginalIma", "SCI"), ("RefIma", "REF"), ("filename", "DIFF")):
        columns[column] = np.repeat(names[plane], n_candidates)
    from_table(columns, "the benchmark").write(folder / LIST_NAME)


def write_bytes(folder: Path, n: int, content: bytes) -> None:
    folder.mkdir()

    def write(start: int) -> None:
        for k in range(start, n, threads):
            file = os.open(folder / f"candidate_{k}.fits", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            os.write(file, content)
            os.close(file)

    threads = available_processors()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(write, range(threads)))


def cut_with_astropy(folder: Path, n: int) -> None:
    """Cut the candidates of the first image."""
    target = folder / "astropy"
    target.mkdir()
    from otrain_train.candidates_list import read_candidates

    candidates = read_candidates(folder / "few.dat")
    images = {plane: fits.getdata(folder / f"{plane.lower()}_000.fits") for plane in PLANES}
    for k in range(n):
        primary = fits.PrimaryHDU()
        for key, value in (
            ("CANDID", candidates.ids[k]), ("MAG", candidates.mags[k]), ("MAGERR", candidates.magerrs[k]),
            ("FWHM", candidates.fwhms[k]), ("FWHMPSF", candidates.psf_fwhms[k]), ("RA", candidates.ra[k]),
            ("DEC", candidates.dec[k]), ("XPOS", candidates.x[k]), ("YPOS", candidates.y[k]),
            ("FILTER", candidates.bands[k]), ("EDGE", "False"), ("FILE", candidates.images[k]),
        ):  # fmt: skip
            primary.header[key] = value
        place = candidates.x[k] - 1, candidates.y[k] - 1
        planes = [fits.ImageHDU(Cutout2D(image, place, CUT).data, name=name) for name, image in images.items()]
        fits.HDUList([primary, *planes]).writeto(target / f"candidate_{k}.fits")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--candidates", type=int, default=1000, help="of each image")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--slow", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where to write; the disk is that of this folder")
    given = parser.parse_args()
    print(describe_machine())
    n = given.images * given.candidates
    slow = min(given.slow, given.candidates)
    with tempfile.TemporaryDirectory(dir=given.folder) as temporary:
        folder = Path(temporary)
        make(folder, given.images, given.candidates, given.size)
        (folder / "few.dat").write_text("".join((folder / LIST_NAME).read_text().splitlines(True)[: slow + 1]))
        extract(folder, ExtractSettings(CUT))
        content = (folder / "candidates/candidate_0.fits").read_bytes()
        print(f"{n} cutouts of {CUT} x {CUT} pixels, three planes, {len(content)} bytes, from {given.images} images")

        def clean() -> None:
            for name in ("candidates", "disk", "astropy"):
                shutil.rmtree(folder / name, ignore_errors=True)
            os.sync()

        rivals = {
            OURS: lambda: extract(folder, ExtractSettings(CUT)),
            DISK: lambda: write_bytes(folder / "disk", n, content),
            ASTROPY: lambda: cut_with_astropy(folder, slow),
        }
        times = per_thing(compare(rivals, given.repeats, clean), {OURS: n, DISK: n, ASTROPY: slow})
    print_times(times, "cutout", OURS)
    print(f"otrain over the disk alone, by the clock: {ratio(times[OURS], times[DISK], 'wall'):.2f}")
    print(f"astropy over otrain, by the clock: {ratio(times[ASTROPY], times[OURS], 'wall'):.1f}")


if __name__ == "__main__":
    main()
