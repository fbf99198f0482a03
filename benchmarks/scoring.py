"""What does a cutout cost, from its file to its score, beside the plain way with astropy?

One thread, processor time, files in the cache of the operating system. The rivals run in turn in one process, on the
same files, with the same model. The plain way opens each file with astropy, takes the same keywords, normalises in
numpy and gives the network batches of 64.
"""

import gzip
import os
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime
from astropy.io import fits
from machine import compare, describe_machine, print_times

import otrain_infer
from otrain_infer import Scorer, read_cutouts
from otrain_infer.card import INPUT, OUTPUT
from otrain_infer.cutouts import NUMBERS, TEXTS
from otrain_infer.session import DEFAULT_MODEL
from otrain_train.mock import MockSettings, write_mock

COUNT = 1024
KEYWORDS = (*NUMBERS, *TEXTS, "EDGE")


def open_read_close(paths):
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            file.read()


def read_plainly(paths):
    pixels, headers = [], []
    for path in paths:
        with fits.open(path, memmap=False) as file:
            pixels.append(file[0].data.astype(np.float32))
            headers.append([file[0].header.get(keyword) for keyword in KEYWORDS])
    return np.stack(pixels)[..., np.newaxis], headers


def score_plainly(session, paths):
    pixels, _ = read_plainly(paths)
    pixels = np.nan_to_num(pixels)
    pixels /= np.linalg.norm(pixels.reshape(len(pixels), -1), axis=1)[:, None, None, None]
    return np.concatenate([session.run([OUTPUT], {INPUT: pixels[i : i + 64]})[0] for i in range(0, len(pixels), 64)])


def write_files(folder: Path) -> tuple[list[str], list[str]]:
    write_mock(folder, MockSettings(COUNT // 2, COUNT // 2, planes=("DIFF",), edge_fraction=0, seed=5))
    plain = sorted(map(str, folder.glob("*/*.fits")))
    packed = [f"{path}.gz" for path in plain]
    for path, target in zip(plain, packed, strict=True):
        Path(target).write_bytes(gzip.compress(Path(path).read_bytes()))
    return plain, packed


def main() -> None:
    print(describe_machine())
    scorer = Scorer()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(Path(otrain_infer.__file__).parent / "models" / DEFAULT_MODEL, options)
    with tempfile.TemporaryDirectory() as folder:
        plain, packed = write_files(Path(folder))
        pixels = scorer.card.normalisation.apply(read_cutouts(plain, card=scorer.card).pixels)
        print(f"reading {COUNT} files of {os.path.getsize(plain[0])} bytes, 13 keywords each:")
        times = compare(
            {
                "open, read, close: the floor": lambda: open_read_close(plain),
                "otrain": lambda: read_cutouts(plain, card=scorer.card),
                "otrain, .gz": lambda: read_cutouts(packed, card=scorer.card),
                "astropy": lambda: read_plainly(plain),
                "astropy, .gz": lambda: read_plainly(packed),
            }
        )
        print_times(times, COUNT, "cutout", "otrain")
        print(f"from file to score, model {scorer.identity}:")
        times = compare(
            {
                "onnxruntime alone, on pixels in memory": lambda: [
                    session.run([OUTPUT], {INPUT: pixels[i : i + 64]}) for i in range(0, COUNT, 64)
                ],
                "otrain": lambda: list(scorer.score_sources(plain)),
                "astropy, numpy, onnxruntime": lambda: score_plainly(session, plain),
            }
        )
        print_times(times, COUNT, "cutout", "otrain")


if __name__ == "__main__":
    main()
