"""What do reading and normalising a cutout cost above the floor that the operating system and memory set?

One thread, processor time, files in the cache of the operating system, 64x64 pixels, 41 header cards of which 13 are
wanted. The floor of a file is to open, read and close it with the calls of Python's `os`, into memory that is used
again; of a gzipped one, to inflate its bytes with isal besides. Rivals run in turn in one process. The targets are
those above the floor: 10 µs for one plane, 25 for three, 15 for one that is gzipped; and 10 for the median and the MAD
of a plane.

    python benchmarks/reading.py [--files 1024] [--slow-files 256] [--repeats 7]
"""

import argparse
import gzip
import os
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from astropy.io import fits
from isal import isal_zlib
from machine import Times, compare, describe_machine, middle, per_thing, print_times

from otrain_infer import Normalisation, read_cutouts
from otrain_infer.cutouts import CHUNK, NUMBERS, TEXTS, CutoutReader
from otrain_infer.normalise import find_blank
from otrain_infer.robust_kernels import median_and_mad
from otrain_train.mock import MockSettings, write_mock

KEYWORDS = (*NUMBERS, *TEXTS, "EDGE")
CARDS = 41
SIZE = (64, 64)
FLOOR, OTRAIN = "the floor", "otrain, into memory that is used again"
ROOM = 1 << 17


def open_read_close(room: bytearray, paths: Sequence[str]) -> None:
    for path in paths:
        file = os.open(path, os.O_RDONLY)
        os.readv(file, [room])
        os.close(file)


def open_read_close_inflate(room: bytearray, paths: Sequence[str]) -> None:
    for path in paths:
        file = os.open(path, os.O_RDONLY)
        size = os.readv(file, [room])
        os.close(file)
        isal_zlib.decompress(memoryview(room)[:size], 31)


def read_into(pixels: np.ndarray, reader: CutoutReader, paths: Sequence[str]) -> None:
    for start in range(0, len(paths), CHUNK):
        some = paths[start : start + CHUNK]
        reader.read(some, pixels[: len(some)])


def read_with_astropy(planes: Sequence[str], paths: Sequence[str]) -> None:
    for path in paths:
        with fits.open(path, memmap=False) as file:
            images = [file[plane] for plane in planes] if len(planes) > 1 else [file[0]]
            np.stack([image.data.astype(np.float32) for image in images], axis=-1)
            [file[0].header.get(keyword) for keyword in KEYWORDS]


def read_with_fitsio(planes: Sequence[str], paths: Sequence[str]) -> None:
    import fitsio

    for path in paths:
        with fitsio.FITS(path) as file:
            images = [file[plane] for plane in planes] if len(planes) > 1 else [file[0]]
            np.stack([image.read().astype(np.float32) for image in images], axis=-1)
            header = file[0].read_header()
            [header.get(keyword) for keyword in KEYWORDS]


def write_files(folder: Path, count: int, planes: tuple[str, ...]) -> list[str]:
    """Write cutouts whose first header has as many cards as it is to have."""
    write_mock(folder, MockSettings(count // 2, count // 2, planes=planes, edge_fraction=0, nan_fraction=0, seed=5))
    paths = sorted(map(str, folder.glob("*/*.fits")))
    for path in paths:
        with fits.open(path, mode="update", memmap=False) as file:
            header = file[0].header
            missing = CARDS - len(header.cards) - 1  # the last one is END
            for number in range(missing):
                header[f"OTHER{number}"] = (number * 1.5, "a keyword that is not wanted")
    return paths


def write_gzipped(paths: Sequence[str]) -> list[str]:
    for path in paths:
        Path(f"{path}.gz").write_bytes(gzip.compress(Path(path).read_bytes()))
    return [f"{path}.gz" for path in paths]


def print_above(times: Times, name: str, floor: str, target: float) -> None:
    """Print what something takes above its floor (s, printed in µs), beside the target (µs)."""
    above = 1e6 * (middle(times[name]).processor - middle(times[floor]).processor)
    print(f"  '{name}' is {above:.1f} µs above the floor; the target is {target:g}")


def compare_reading(
    title: str,
    floor: Callable[..., None],
    paths: list[str],
    planes: tuple[str, ...],
    slow: int,
    repeats: int,
    target: float,
) -> None:
    reader = CutoutReader(planes, SIZE)
    pixels = np.empty((CHUNK, *SIZE, len(planes)), np.float32)
    packages: dict[str, Callable[..., None]] = {"astropy": read_with_astropy}
    if find_spec("fitsio"):
        packages["fitsio"] = read_with_fitsio
    runs: dict[str, Callable[[], object]] = {
        FLOOR: partial(floor, bytearray(ROOM), paths),
        OTRAIN: partial(read_into, pixels, reader, paths),
        "otrain, read_cutouts": partial(read_cutouts, paths, planes=planes, size=SIZE),
        **{name: partial(read, planes, paths[:slow]) for name, read in packages.items()},
    }
    counts = dict.fromkeys(runs, len(paths)) | {name: len(paths[:slow]) for name in packages}
    print(f"reading {title}, files of {os.path.getsize(paths[0])} bytes:")
    times = per_thing(compare(runs, repeats), counts)
    print_times(times, "cutout", OTRAIN)
    print_above(times, OTRAIN, FLOOR, target)
    if "fitsio" not in packages:
        print("  fitsio: skipped, it is not installed")


def scale_plainly(pixels: np.ndarray) -> np.ndarray:
    pixels = np.where(np.isfinite(pixels), pixels, np.float32(0))
    return pixels / np.linalg.norm(pixels, axis=(1, 2), keepdims=True)


def median_and_mad_plainly(pixels: np.ndarray) -> np.ndarray:
    medians = np.median(pixels, axis=(1, 2), keepdims=True)
    return np.median(np.abs(pixels - medians), axis=(1, 2))


def scale_robustly_plainly(pixels: np.ndarray) -> np.ndarray:
    medians = np.nanmedian(pixels, axis=(1, 2), keepdims=True)
    spreads = 1.4826 * np.nanmedian(np.abs(pixels - medians), axis=(1, 2), keepdims=True)
    return np.nan_to_num(np.arcsinh((pixels - medians) / spreads))


def compare_normalising(planes: int, repeats: int, count: int = 256) -> None:
    pixels = np.random.default_rng(0).normal(100, 10, (count, *SIZE, planes)).astype(np.float32)
    out = np.empty_like(pixels)
    copy, ours = "memcpy of the pixels", "l2"
    runs: dict[str, Callable[[], object]] = {copy: partial(np.copyto, out, pixels)}
    for method in ("l2", "l2-rows", "robust"):
        runs[method] = partial(Normalisation(method).apply, pixels, out)
    runs["search for blank planes"] = partial(find_blank, pixels)
    each, keys = (
        np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)).reshape(-1, SIZE[0] * SIZE[1]),
        np.empty(SIZE, np.int32),
    )
    runs["median and MAD"] = lambda: [median_and_mad(plane, keys.ravel()) for plane in each]
    runs["l2 by numpy"] = partial(scale_plainly, pixels)
    runs["median and MAD by numpy"] = partial(median_and_mad_plainly, pixels)
    runs["robust by numpy"] = partial(scale_robustly_plainly, pixels)
    print(f"normalising {planes} plane{'s' * (planes > 1)} of {SIZE[0]}x{SIZE[1]} pixels in memory:")
    print_times(per_thing(compare(runs, repeats), dict.fromkeys(runs, count)), "cutout", ours)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1024, help="files of each kind")
    parser.add_argument("--slow-files", type=int, default=256, help="files that the other packages read")
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    slow, repeats = arguments.slow_files, arguments.repeats
    print(describe_machine())
    with tempfile.TemporaryDirectory() as folder:
        one = write_files(Path(folder, "one"), arguments.files, ("DIFF",))
        three = write_files(Path(folder, "three"), arguments.files, ("SCI", "REF", "DIFF"))
        packed = write_gzipped(one)
        compare_reading("one plane", open_read_close, one, ("DIFF",), slow, repeats, 10)
        compare_reading("three planes", open_read_close, three, ("SCI", "REF", "DIFF"), slow, repeats, 25)
        compare_reading("one plane, gzipped", open_read_close_inflate, packed, ("DIFF",), slow, repeats, 15)
    for planes in (1, 3):
        compare_normalising(planes, repeats)


if __name__ == "__main__":
    main()
