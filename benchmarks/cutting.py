"""How fast are candidates cut out, beside astropy, and how fast could the disk take the files?

Images of one size with many candidates each, three planes. Rivals:

- otrain: `otrain_train.extract`, what otrain-cutouts does, images read and files written;
- the disk: the same number of files of the same size written by the same number of threads, their bytes made before;
- astropy: `Cutout2D` of each plane, keywords set, and `writeto`; on fewer candidates (--slow), being slow.

Every run writes into a folder of its own, and no file is removed before the end, only emptied: for minutes after many
files were removed, ext4 takes several times as long to make one (it passes over the inodes just freed, one by one).

    python benchmarks/cutting.py [--images 100] [--candidates 1000] [--size 1024] [--repeats 3] [--folder DIR]
"""

import argparse
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.nddata import Cutout2D
from machine import compare, describe_machine, per_thing, print_times, ratio

from otrain_infer.command import available_processors
from otrain_train.candidates_list import LIST_NAME, from_table, read_candidates
from otrain_train.extract import ExtractSettings, extract

OURS, DISK, ASTROPY = "otrain", "the disk: the same files, their bytes ready", "astropy"
CUT = 32
PLANES = ("SCI", "REF", "DIFF")


def make(folder: Path, n_images: int, n_candidates: int, size: int) -> None:
    """Write images, of which all but the first are other names of it, and a list of candidates."""
    folder.mkdir()
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


def link(source: Path, folder: Path) -> None:
    """Give the images and the list of a folder to another, by other names of the same files."""
    folder.mkdir()
    for path in source.iterdir():
        if path.is_file():
            os.link(path, folder / path.name)


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


def cut_with_astropy(folder: Path, target: Path) -> None:
    """Cut the candidates of a folder's only image."""
    target.mkdir()
    candidates = read_candidates(folder / LIST_NAME)
    images = {plane: fits.getdata(folder / f"{plane.lower()}_000.fits") for plane in PLANES}
    for k in range(len(candidates)):
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
        made, few = folder / "made", folder / "few"
        make(made, given.images, given.candidates, given.size)
        make(few, 1, slow, given.size)
        extract(few, ExtractSettings(CUT))
        content = (few / "candidates/candidate_0.fits").read_bytes()
        print(f"{n} cutouts of {CUT} x {CUT} pixels, three planes, {len(content)} bytes, from {given.images} images")
        current = few

        def begin() -> None:
            nonlocal current
            for path in current.glob("*/*.fits"):
                os.truncate(path, 0)
            current = folder / f"run_{len(list(folder.iterdir()))}"
            link(made, current)
            os.sync()

        rivals = {
            OURS: lambda: extract(current, ExtractSettings(CUT)),
            DISK: lambda: write_bytes(current / "disk", n, content),
            ASTROPY: lambda: cut_with_astropy(few, current / "astropy"),
        }
        times = per_thing(compare(rivals, given.repeats, begin), {OURS: n, DISK: n, ASTROPY: slow})
    print_times(times, "cutout", OURS)
    print(f"otrain over the disk alone, by the clock: {ratio(times[OURS], times[DISK], 'wall'):.2f}")
    print(f"astropy over otrain, by the clock: {ratio(times[ASTROPY], times[OURS], 'wall'):.1f}")


if __name__ == "__main__":
    main()
