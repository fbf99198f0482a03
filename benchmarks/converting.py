"""How fast do files become a datacube, beside a plain loop with astropy, and how fast could the disk take it?

Files of 64x64 pixels, one plane, in the cache of the operating system, and all taken. One thread each:

- otrain: `otrain_train.convert`, what otrain-convert does;
- a loop that opens each file once with astropy, takes the pixels and the same keywords, and saves the same columns with
  `numpy.savez`. It runs on fewer files (--slow-files), being slow, and does not wait for the disk, as otrain does;
- the disk: as many bytes as the datacube has, written and synchronised, with nothing else done.

Beside processor time, which is what a busy machine distorts least, wall time says what a user waits for.

    python benchmarks/converting.py [--files 20000] [--slow-files 2000] [--distinct 2000] [--repeats 5] [--folder DIR]
"""

import argparse
import os
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from astropy.io import fits
from machine import compare, describe_machine, per_thing, print_times, ratio

from otrain_infer.cutouts import NUMBERS, TEXTS
from otrain_train.convert import ConvertSettings, convert
from otrain_train.datacube import Datacube
from otrain_train.mock import MockSettings, write_mock

KEYWORDS = (*NUMBERS, *TEXTS, "EDGE")
OURS, LOOP, DISK, THREADS = (
    "otrain, 1 thread",
    "loop with astropy",
    "the disk: bytes written and synced",
    "otrain, 2 threads",
)
AIM = 20


def write_files(folder: Path, n: int, distinct: int) -> None:
    """Write cutouts, the further ones as other names of the first `distinct`."""
    settings = MockSettings(distinct // 2, distinct // 2, planes=("DIFF",), edge_fraction=0, nan_fraction=0, seed=5)
    write_mock(folder, settings)
    for label in ("true", "false"):
        paths = sorted((folder / label).iterdir())
        for copy in range(len(paths), n // 2):
            os.link(paths[copy % len(paths)], folder / label / f"{label}{copy:07d}.fits")


def convert_ours(folder: Path, cube: Path, threads: int) -> None:
    convert(folder, cube, ConvertSettings(frac_true=None, cutout_size=64, threads=threads))


def convert_with_astropy(paths: list[tuple[int, str]], cube: Path) -> None:
    pixels, labels, headers, files = [], [], [], []
    for label, path in paths:
        with fits.open(path, memmap=False) as file:
            header = file[0].header
            pixels.append(file[0].data.astype(np.float32)[..., np.newaxis])
            headers.append([header.get(keyword) for keyword in KEYWORDS])
        labels.append(label)
        files.append(path)
    columns = dict(zip(KEYWORDS, zip(*headers, strict=True), strict=True))
    numbers = {key: np.array([np.nan if value is None else value for value in columns[key]], float) for key in NUMBERS}
    texts = {key: np.array(["" if value is None else str(value) for value in columns[key]]) for key in TEXTS}
    np.savez(
        cube,
        cube=np.stack(pixels),
        labels=np.array(labels),
        mags=numbers["MAG"],
        errmags=numbers["MAGERR"],
        filters=texts["FILTER"],
        fwhms=numbers["FWHM"],
        candids=texts["CANDID"],
        planes=np.array(["DIFF"]),
        files=np.array(files),
        groups=np.where(texts["OBJECTID"] == "", texts["FILE"], texts["OBJECTID"]),
        mjds=numbers["MJD"],
        weights=np.ones(len(numbers["MJD"])),
    )


def write_bytes(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        os.fsync(file.fileno())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=20_000, help="cutouts")
    parser.add_argument("--slow-files", type=int, default=2000, help="cutouts for the loop with astropy")
    parser.add_argument(
        "--distinct", type=int, default=2000, help="files on the disk; the others are hard links to them"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder if not given")
    options = parser.parse_args()
    print(describe_machine())
    with tempfile.TemporaryDirectory(dir=options.folder) as workspace:
        folder, ours, theirs = (Path(workspace, name) for name in ("cutouts", "ours.npz", "theirs.npz"))
        write_files(folder, options.files, min(options.distinct, options.files))
        every = [
            (value, path)
            for value, name in ((1, "true"), (0, "false"))
            for path in sorted(map(str, (folder / name).iterdir()))
        ]
        few = every[:: max(1, len(every) // options.slow_files)]
        convert_ours(folder, ours, 1)
        convert_with_astropy(few, theirs)
        content = ours.read_bytes()
        rivals = {
            OURS: partial(convert_ours, folder, ours, 1),
            THREADS: partial(convert_ours, folder, ours, 2),
            LOOP: partial(convert_with_astropy, few, theirs),
            DISK: partial(write_bytes, Path(workspace, "bytes"), content),
        }
        check(ours, theirs)
        files = (ours, theirs, Path(workspace, "bytes"))
        times = compare(rivals, options.repeats, lambda: [file.unlink(missing_ok=True) for file in files])
    counts = {name: len(few) if name == LOOP else len(every) for name in rivals}
    print(f"\n{len(every)} cutouts into a datacube of {len(content) / 1e6:.0f} MB, the loop {len(few)} of them:")
    times = per_thing(times, counts)
    print_times(times, "cutout", OURS)
    processor, wall = (ratio(times[LOOP], times[OURS], of) for of in ("processor", "wall"))
    threads = ratio(times[LOOP], times[THREADS], "wall")
    print(f"  the loop takes {processor:.1f} times the processor time, {wall:.1f} times the wall time,")
    print(f"  and {threads:.1f} times the wall time of 2 threads (aimed at: {AIM})")
    disk = ratio(times[THREADS], times[DISK], "wall")
    print(f"  otrain with 2 threads takes {disk:.2f} times the wall time that the disk takes to write as many bytes")


def check(ours: Path, theirs: Path) -> None:
    """Make sure that both found the same."""
    cube, loop = Datacube.load(ours), Datacube.load(theirs)
    rows = {os.path.basename(file): row for row, file in enumerate(cube.files.tolist())}
    chosen = np.array([rows[os.path.basename(file)] for file in loop.files.tolist()])
    for key in ("cube", "labels", "mags", "errmags", "filters", "fwhms", "candids", "groups", "mjds"):
        np.testing.assert_array_equal(getattr(cube, key)[chosen], getattr(loop, key), key)


if __name__ == "__main__":
    main()
