"""The trainings of a study of sizes, each kept in a file once it is over, so that a study goes on where it was."""

import hashlib
import json
import logging
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from otrain_infer import __version__
from otrain_infer.atomic import replacing
from otrain_infer.card import ModelCard
from otrain_infer.normalise import Normalisation
from otrain_infer.scorer import Scorer
from otrain_train import checkpoint
from otrain_train.datacube import Datacube
from otrain_train.metrics import figures, without_nan
from otrain_train.planes import open_in_planes
from otrain_train.pool import Place
from otrain_train.quiet import start_tensorflow
from otrain_train.settings import TrainSettings
from otrain_train.splits import Rows

log = logging.getLogger(__name__)

Record = dict[str, Any]

MEMORY = {"lite": 1_500_000_000, "mini": 1_500_000_000, "otrain": 5_000_000_000}
"""Bytes that trainings of a network take at most, TensorFlow with all of its own, beside the pixels."""

CHUNK = 1024
EXPORTED_ON = 64
"""Rows on which each exported model is checked."""

PACKAGES = ("tensorflow", "keras", "onnxruntime", "numpy")


@dataclass(frozen=True, slots=True, eq=False)
class Study:
    """What all trainings have in common.

    Attributes
    ----------
    cube, planes
        The datacube and the planes to learn from, None for all.
    cube_sha256
        Of its file.
    settings
        How each is trained, but for the seed.
    test
        int64 (n,), the rows that every training is tested on.
    folder
        Where finished trainings are kept.
    """

    cube: Path
    planes: tuple[str, ...] | None
    cube_sha256: str
    settings: TrainSettings
    test: Rows
    folder: Path


@dataclass(frozen=True, slots=True, eq=False)
class Training:
    """One training.

    Attributes
    ----------
    size, repeat, seed
        Rows it is given, the how-manieth of its size it is, from 0, and its seed.
    rows
        int64 (size,), which rows of the datacube.
    key
        Stands for all that its figures depend on: the study, the size, the seed and the versions.
    """

    size: int
    repeat: int
    seed: int
    rows: Rows
    key: str

    @classmethod
    def of(cls, study: Study, repeat: int, seed: int, rows: Rows) -> "Training":
        """Make the training of a study on some rows, in their order."""
        versions = {"otrain": __version__, **{name: _version(name) for name in PACKAGES}}
        settings = replace(study.settings, seeds=(seed,)).to_dict()
        planes = list(study.planes or ())
        about = json.dumps([versions, settings, study.cube_sha256, planes, rows.size, repeat])
        parts = (about.encode(), np.sort(rows).tobytes(), study.test.tobytes())
        key = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:32]
        return cls(rows.size, repeat, seed, rows, key)


def memory_of(settings: TrainSettings) -> int:
    """Say how many bytes a process takes at most that trains with these settings."""
    return round(MEMORY[settings.network] * max(1.0, settings.width))


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def read_record(study: Study, training: Training) -> Record | None:
    """Give what is kept of a training, None where it is not over."""
    path = _record_path(study, training)
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["key"] == training.key and {"test", "learnt_from"} <= record.keys():
            return dict(record)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("%s cannot be read (%s): this training is done again", path, error)
        return None
    log.warning("%s is of something else: this training is done again", path)
    return None


def _record_path(study: Study, training: Training) -> Path:
    return study.folder / f"{training.key}.json"


def train_one(study: Study, training: Training, place: Place) -> Record:
    """Do one training, keep what is to be known of it in a file, and give that; for `run_in_processes`."""
    # What knows TensorFlow is imported only here, where the number of its threads has been set.
    start_tensorflow()
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it thinks little of many trainings in one process
    from otrain_train.fit import checkpoint_path, fit

    began, folder = time.monotonic(), study.folder / training.key
    datacube = open_in_planes(study.cube, study.planes)
    settings = replace(study.settings, seeds=(training.seed,))
    with _gathered_warnings() as warnings:
        fitted = fit(datacube, training.rows, settings, folder, lambda *_: place.stop_if_asked())
        if fitted.interrupted:
            raise KeyboardInterrupt
        measured = _measure(study, datacube, fitted, place.threads)
    record = {
        "key": training.key,
        "size": training.size,
        "repeat": training.repeat,
        "seed": training.seed,
        "rows": {"learnt_from": fitted.learnt.size, "holdout": fitted.holdout.size, "test": study.test.size},
        "epochs": len(fitted.history),
        "best_epoch": fitted.best_epoch,
        **measured,
        "seconds": time.monotonic() - began,
        "warnings": warnings,
    }
    with replacing(_record_path(study, training)) as part:
        part.write_text(json.dumps(without_nan(record), indent=1, allow_nan=False), encoding="utf-8")
    checkpoint.remove(checkpoint_path(folder, training.seed))
    with suppress(OSError):
        folder.rmdir()
    return record


@contextmanager
def _gathered_warnings() -> Iterator[list[str]]:
    # One line each, once: the process has nobody to tell them to.
    gathered: list[str] = []

    class _Gatherer(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage() not in gathered:
                gathered.append(record.getMessage())

    logger, handler = logging.getLogger("otrain_train"), _Gatherer(logging.WARNING)
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield gathered
    finally:
        logger.removeHandler(handler)


def _measure(study: Study, datacube: Datacube, fitted: Any, threads: int) -> dict[str, Any]:
    # As a model is made and measured elsewhere: calibrated, exported, and scored by what runs in production.
    from otrain_train.export import export
    from otrain_train.members import calibrate

    settings = study.settings
    calibrate(datacube, [fitted])
    card = ModelCard(
        name="size",
        version="1",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        planes=datacube.planes,
        size=datacube.size,
        normalisation=Normalisation(settings.normalisation),
        threshold=settings.threshold,
    )
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.onnx"
        export(fitted.model, card, model, datacube.read(fitted.learnt[:EXPORTED_ON]))
        scorer = Scorer(model, threads=threads)
    parts = {"test": study.test, "learnt_from": np.sort(fitted.learnt)}
    return {name: _figures(scorer, datacube, rows, settings.threshold) for name, rows in parts.items()}


def _figures(scorer: Scorer, datacube: Datacube, rows: Rows, threshold: float) -> dict[str, Any]:
    starts = range(0, rows.size, CHUNK)
    scores = [scorer.score_pixels(datacube.read(rows[start : start + CHUNK])) for start in starts]
    return figures(datacube.labels[rows], np.concatenate(scores), threshold).to_dict()
