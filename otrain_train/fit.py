"""Rows of a datacube in, a trained network out.

The rows are split once more: the network learns from most of them, and the holdout rows choose the best epoch.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from otrain_infer import __version__
from otrain_infer.errors import DatacubeError, UsageError
from otrain_infer.normalise import Normalisation
from otrain_train.datacube import Datacube
from otrain_train.devices import Devices
from otrain_train.devices import start as start_devices
from otrain_train.epochs import CHUNK, Epochs, OnEpoch, Progress
from otrain_train.feed import Feed
from otrain_train.finetune import begin
from otrain_train.network import LEARNING_RATES, fold_scale
from otrain_train.settings import TrainSettings, option_name
from otrain_train.splits import Rows, group_by, split_rows
from otrain_train.trainer import Trainer, backend_versions, make_repeatable

__all__ = ["FitResult", "OnEpoch", "Progress", "check_classes", "checkpoint_path", "class_weights", "fit"]

Texts = npt.NDArray[np.str_]

MIN_ROWS = 10
MIN_LEARNT = 5
MANY_ROWS = 2000


@dataclass(frozen=True, slots=True, eq=False)
class FitResult:
    """What a training gave.

    Attributes
    ----------
    model
        The network with the weights of its best epoch, without augmentation or optimiser.
    best_epoch
        From 1.
    history
        One dictionary of figures for each epoch.
    learnt, holdout
        int64, rows of the datacube that the network learnt from, and those that chose the best epoch.
    holdout_logits
        float32 (n, 2) that the network gives the holdout rows.
    class_weights
        Weight of a bogus and of a real row in the loss.
    settings
        Those it was called with, with what they left open filled in.
    interrupted
        Whether Ctrl-C ended it.
    """

    model: Any
    best_epoch: int
    history: list[dict[str, float]]
    learnt: Rows
    holdout: Rows
    holdout_logits: npt.NDArray[np.float32]
    class_weights: tuple[float, float]
    settings: TrainSettings
    interrupted: bool


def fit(
    datacube: Datacube,
    rows: Rows,
    settings: TrainSettings,
    folder: Path,
    progress: Progress | None = None,
    member: int = 0,
    start: Any = None,
    on_epoch: OnEpoch | None = None,
    teachers: Sequence[Any] = (),
) -> FitResult:
    """Train a network.

    The same rows and settings give the same network, to the bit, but for XLA on a GPU. The state after each epoch
    is kept in `folder`; a training that was killed goes on from there when it is called again with the same rows
    and settings. Ctrl-C ends the training with the best epoch so far. Pixels are read and normalised batch by
    batch, ahead of the steps; no more than that of a memory-mapped datacube is in memory. Where several hosts train
    together, all of them call this with the same rows and settings and get the same network, and the chief alone
    keeps the state.

    Parameters
    ----------
    datacube
        Raw pixels and labels.
    rows
        int64 (n,), which of its rows may be used; the others are not looked at.
    settings
        How.
    folder
        Where the state is kept, as ``checkpoint/state_SEED.npz``.
    progress
        Called with the steps done, all steps, and a few words, after each step.
    member
        Which of the seeds to train with; the holdout rows are the same for all of them.
    start
        A Keras network that has learnt already, as `otrain_train.finetune.begin` takes it: the training begins with its
        weights, of which only those of dense layers learn in the first `settings.frozen_epochs` epochs. It is left as
        it is.
    on_epoch
        Called with the figures of each epoch, on the chief only, once its state is kept.
    teachers
        Keras networks, as `otrain_train.finetune.begin` takes them, whose mean score is learnt besides the labels, with
        `settings.teacher_weight`. They have been trained on cutouts with the same normalisation, and are left as they
        are.

    Returns
    -------
    FitResult

    Raises
    ------
    DatacubeError
        When a class has too few rows.
    UsageError
        When the network is unknown or the cutouts too small for it, the loss is no longer a number, the column that
        keeps rows together is empty, TF_CONFIG is not what it should be, or a batch is smaller than the devices are
        many.
    ModelError
        When `start` or a teacher takes other cutouts, or its end is not understood.
    DeviceError
        When hosts cannot be joined, or one has gone.
    OutputError
        When the state cannot be written.
    """
    seed = settings.seeds[member]
    devices = start_devices(settings.devices)
    make_repeatable(seed, settings.xla)
    with devices.scope():
        shape = datacube.cube.shape[1:]
        taught_by = [begin(teacher, shape, settings, seed)[0] for teacher in teachers]
        network, settings = begin(start, shape, settings, seed)
    labels, groups = datacube.labels, group_by(datacube, settings.group_key)
    check_classes(labels[rows], MIN_ROWS, "to train on")
    parts = split_rows(labels[rows], groups[rows], settings.holdout, settings.seed)
    learnt, holdout = (rows[part] for part in parts)
    check_classes(labels[learnt], MIN_LEARNT, f"to learn from beside a holdout of {settings.holdout:g}")
    check_classes(labels[holdout], 1, "in the holdout rows")
    settings = _filled_in(settings, learnt.size)
    _check_devices(devices, settings)
    steps = max(math.ceil(learnt.size / int(settings.batch_size or 0)), settings.min_steps)
    epochs = Epochs(
        trainer=Trainer(network, settings, seed, settings.epochs * steps, devices, taught_by),
        feed=Feed(datacube.cube, Normalisation(settings.normalisation)),
        labels=labels,
        learnt=learnt,
        holdout=holdout,
        weights=class_weights(labels[learnt], settings, datacube.weights[learnt]),
        row_weights=datacube.weights,
        settings=settings,
        seed=seed,
        steps=steps,
        frozen=0 if start is None else settings.frozen_epochs,
        progress=progress or _silent,
        on_epoch=on_epoch or _deaf,
    )
    key = _key(network, [*([] if start is None else [start]), *teachers], datacube, rows, groups, settings, seed)
    state, interrupted = epochs.run(checkpoint_path(folder, seed), key)
    network.set_weights(state.best)
    finished = epochs.trainer.finished()
    return FitResult(
        model=fold_scale(finished, settings.width),
        best_epoch=state.best_epoch,
        history=state.history,
        learnt=learnt,
        holdout=holdout,
        holdout_logits=epochs.holdout_logits(),
        class_weights=epochs.weights,
        settings=settings,
        interrupted=interrupted,
    )


def _filled_in(settings: TrainSettings, rows: int) -> TrainSettings:
    size = settings.batch_size or suitable_batch(rows)
    return replace(settings, batch_size=size, learning_rate=settings.learning_rate or LEARNING_RATES[settings.network])


def _check_devices(devices: Devices, settings: TrainSettings) -> None:
    if devices.count > int(settings.batch_size or 0):
        raise UsageError(
            f"a batch of {settings.batch_size} rows cannot be shared by {devices.count} devices: take a larger "
            f"{option_name('batch_size')}"
        )
    if settings.xla and devices.count > 1:
        raise UsageError(f"XLA compiles the steps of one device, and there are {devices.count}: leave it off")


def checkpoint_path(folder: Path, seed: int) -> Path:
    """Say where `fit` keeps the state of the training with a seed in `folder`."""
    return folder / "checkpoint" / f"state_{seed}.npz"


def suitable_batch(rows: int) -> int:
    """Batch size for a number of rows."""
    return 32 if rows < MANY_ROWS else 64


def class_weights(
    labels: npt.NDArray[np.int64], settings: TrainSettings, row_weights: npt.NDArray[np.float64] | None = None
) -> tuple[float, float]:
    """Weight of a bogus and of a real row: 1 on average over the rows, equal in sum over the classes if balanced.

    Rows with weights of their own count as these say.
    """
    if settings.class_weights == "none":
        return 1.0, 1.0
    counts = np.ones(labels.size) if row_weights is None else row_weights
    whole, real = float(np.sum(counts)), float(np.sum(counts[labels == 1]))
    return whole / (2 * (whole - real)), whole / (2 * real)


def check_classes(labels: npt.NDArray[np.int64], least: int, purpose: str) -> None:
    """Raise DatacubeError unless there are enough rows of each class."""
    real = int(np.sum(labels))
    for name, count in (("real", real), ("bogus", labels.size - real)):
        if count < least:
            raise DatacubeError(
                f"{count} {name} cutout(s) {purpose}, and it takes {least} of each class at least: label more"
            )


def _silent(_step: int, _steps: int, _text: str) -> None:
    return


def _deaf(_figures: dict[str, float]) -> None:
    return


def _key(
    network: Any,
    others: Sequence[Any],
    datacube: Datacube,
    rows: Rows,
    groups: Texts,
    settings: TrainSettings,
    seed: int,
) -> str:
    # Another version of a library may draw or add up in another way: then the epochs of two do not belong together.
    versions = {"otrain": __version__, "numpy": np.__version__, **backend_versions()}
    layers = [each.to_json() for each in (network, *others)]
    about = [settings.to_dict(), seed, versions, layers, datacube.cube.shape]
    digest = hashlib.sha256(json.dumps(about).encode())
    # The weights of a new network follow from the seed; those of one that has learnt already do not.
    for weights in [weights for each in others for weights in each.get_weights()]:
        digest.update(np.ascontiguousarray(weights).data)
    for some in range(0, rows.size, CHUNK):
        digest.update(datacube.read(rows[some : some + CHUNK]).data)
    for each in (datacube.labels[rows], datacube.weights[rows], groups[rows], rows):
        digest.update(np.ascontiguousarray(each).tobytes())
    return digest.hexdigest()
