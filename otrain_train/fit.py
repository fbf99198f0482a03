"""Rows of a datacube in, a trained network out.

The rows are split once more: the network learns from most of them, and the holdout rows choose the best epoch.
"""

import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from otrain_infer import __version__
from otrain_infer.errors import DatacubeError, UsageError
from otrain_infer.normalise import Normalisation
from otrain_train import checkpoint
from otrain_train.datacube import Datacube
from otrain_train.metrics import sweep
from otrain_train.network import LEARNING_RATES, build, fold_scale
from otrain_train.settings import TrainSettings
from otrain_train.splits import Rows, split_rows
from otrain_train.trainer import Trainer, backend_versions, make_repeatable

log = logging.getLogger(__name__)

Progress = Callable[[int, int, str], None]

MIN_ROWS = 10
MANY_ROWS = 2000
CHUNK = 256


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
) -> FitResult:
    """Train a network.

    The same rows and settings give the same network, to the bit on a CPU. The state after each epoch is kept in
    `folder`; a training that was killed goes on from there when it is called again with the same rows and settings.
    Ctrl-C ends the training with the best epoch so far. Pixels are read and normalised batch by batch.

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

    Returns
    -------
    FitResult

    Raises
    ------
    DatacubeError
        When a class has too few rows.
    UsageError
        When the network is unknown or the cutouts too small for it, or the loss is no longer a number.
    OutputError
        When the state cannot be written.
    """
    seed = settings.seeds[member]
    make_repeatable(seed)
    shape = datacube.cube.shape[1:]
    network = build(settings.network, shape, settings.dropout, seed, settings.normalisation, settings.width)
    check_classes(datacube.labels[rows], MIN_ROWS, "to train on")
    learnt, holdout = (
        rows[part] for part in split_rows(datacube.labels[rows], datacube.groups[rows], settings.holdout, settings.seed)
    )
    check_classes(datacube.labels[learnt], 1, "to learn from")
    check_classes(datacube.labels[holdout], 1, "in the holdout rows")
    weights = class_weights(datacube.labels[learnt], settings)
    batch_size = settings.batch_size or suitable_batch(learnt.size)
    rate = settings.learning_rate or LEARNING_RATES[settings.network]
    settings = replace(settings, batch_size=batch_size, learning_rate=rate)
    steps = max(math.ceil(learnt.size / batch_size), settings.min_steps)
    loop = _Loop(datacube, learnt, holdout, settings, seed, batch_size, steps, weights, progress or _silent)
    trainer = Trainer(network, settings, seed, settings.epochs * steps, rate)
    state, interrupted = loop.run(trainer, checkpoint_path(folder, seed), _key(network, datacube, rows, settings, seed))
    network.set_weights(state.best)
    logits = loop.holdout_logits(trainer)
    folded = fold_scale(network, settings.width)
    return FitResult(folded, state.best_epoch, state.history, learnt, holdout, logits, weights, settings, interrupted)


@dataclass(frozen=True, slots=True, eq=False)
class _Loop:
    datacube: Datacube
    learnt: Rows
    holdout: Rows
    settings: TrainSettings
    seed: int
    batch_size: int
    steps: int
    weights: tuple[float, float]
    progress: Progress

    def run(self, trainer: Trainer, path: Path, key: str) -> tuple[checkpoint.State, bool]:
        state = checkpoint.read(path, key)
        if state is not None:
            log.info("going on after epoch %d of %d", state.epoch, self.settings.epochs)
            trainer.restore(state.variables)
        try:
            while state is None or not self._over(state):
                state = self._epoch(trainer, state)
                checkpoint.write(path, key, state)
            return state, False
        except KeyboardInterrupt:
            if state is None:
                log.warning("interrupted before the first epoch was over: there is no model yet")
                raise
            log.warning("interrupted: the best of %d epochs is kept; the same command goes on from here", state.epoch)
            return state, True

    def _over(self, state: checkpoint.State) -> bool:
        waited = state.epoch - state.best_epoch
        return state.epoch >= self.settings.epochs or 0 < self.settings.patience <= waited

    def _epoch(self, trainer: Trainer, state: checkpoint.State | None) -> checkpoint.State:
        history = [] if state is None else state.history
        number = len(history)
        learnt = self._learn(trainer, number)
        held = self._measure(trainer, number)
        row = {"epoch": float(number + 1), **learnt, **held}
        # The order of the scores, not the loss, which grows with confidence that the temperature will take back. Of
        # equals the later: its learning rate was lower.
        best = state is None or held["holdout_auc"] >= history[state.best_epoch - 1]["holdout_auc"]
        log.info(
            "epoch %d of %d: loss %.4f, holdout loss %.4f, holdout AUC %.4f%s",
            number + 1,
            self.settings.epochs,
            row["loss"],
            row["holdout_loss"],
            row["holdout_auc"],
            ", the best so far" if best else "",
        )
        if state is None or best:
            weights, best_epoch = trainer.network.get_weights(), number + 1
        else:
            weights, best_epoch = state.best, state.best_epoch
        return checkpoint.State(number + 1, trainer.state(), weights, best_epoch, [*history, row])

    def _learn(self, trainer: Trainer, epoch: int) -> dict[str, float]:
        total = np.zeros(2)
        for i, rows in enumerate(self._batches(epoch)):
            labels = self.datacube.labels[rows]
            step = epoch * self.steps + i
            done = trainer.learn(step, self._normalised(rows), labels, np.take(self.weights, labels))
            self._check_loss(done[0], epoch)
            total += done
            text = f"epoch {epoch + 1} loss {total[0] / (i + 1):.4f}"
            self.progress(step + 1, self.steps * self.settings.epochs, text)
        loss, accuracy = total / self.steps
        return {"loss": float(loss), "accuracy": float(accuracy)}

    def _check_loss(self, loss: float, epoch: int) -> None:
        if not math.isfinite(loss):
            raise UsageError(
                f"the loss is no longer a number in epoch {epoch + 1}: take a smaller learning rate than "
                f"{self.settings.learning_rate:g} or another normalisation than '{self.settings.normalisation}'"
            )

    def _measure(self, trainer: Trainer, epoch: int) -> dict[str, float]:
        logits = self.holdout_logits(trainer)
        labels = self.datacube.labels[self.holdout].astype(bool)
        margins = np.diff(logits.astype(np.float64), axis=1)[:, 0]
        losses = np.logaddexp(0.0, np.where(labels, -margins, margins))
        loss = float(np.average(losses, weights=np.take(self.weights, labels.astype(np.int64))))
        self._check_loss(loss, epoch)
        # The rank of the margin, not the score: a score that has run up against 0 or 1 would tie.
        ranks = np.unique(margins, return_inverse=True)[1] / max(margins.size, 1)
        return {
            "holdout_loss": loss,
            "holdout_accuracy": float(np.mean((margins >= 0) == labels)),
            "holdout_auc": sweep(labels, ranks).auc,
        }

    def holdout_logits(self, trainer: Trainer) -> npt.NDArray[np.float32]:
        chunks = (self.holdout[start : start + CHUNK] for start in range(0, self.holdout.size, CHUNK))
        return np.concatenate([trainer.logits(self._normalised(rows)) for rows in chunks])

    def _batches(self, epoch: int) -> Iterator[Rows]:
        # Whole passes in a new order each, until there is enough for the steps: every batch is full, every row is seen.
        rng = np.random.default_rng((self.seed, epoch))
        wanted = self.steps * self.batch_size
        passes = math.ceil(wanted / self.learnt.size)
        order = np.concatenate([rng.permutation(self.learnt) for _ in range(passes)])[:wanted]
        yield from order.reshape(self.steps, self.batch_size)

    def _normalised(self, rows: Rows) -> npt.NDArray[np.float32]:
        pixels = np.ascontiguousarray(self.datacube.cube[rows])
        return Normalisation(self.settings.normalisation).apply(pixels, pixels)


def checkpoint_path(folder: Path, seed: int) -> Path:
    """Say where `fit` keeps the state of the training with a seed in `folder`."""
    return folder / "checkpoint" / f"state_{seed}.npz"


def suitable_batch(rows: int) -> int:
    """Batch size for a number of rows."""
    return 32 if rows < MANY_ROWS else 64


def class_weights(labels: npt.NDArray[np.int64], settings: TrainSettings) -> tuple[float, float]:
    """Weight of a bogus and of a real row: 1 on average over the rows, equal in sum over the classes if balanced."""
    if settings.class_weights == "none":
        return 1.0, 1.0
    real = int(np.sum(labels))
    return labels.size / (2 * (labels.size - real)), labels.size / (2 * real)


def check_classes(labels: npt.NDArray[np.int64], least: int, purpose: str) -> None:
    """Raise DatacubeError unless there are enough rows of each class."""
    real = int(np.sum(labels))
    for name, count in (("real", real), ("bogus", labels.size - real)):
        if count < least:
            raise DatacubeError(f"{count} {name} cutout(s) {purpose}, and it takes {least} of each class at least")


def _silent(_step: int, _steps: int, _text: str) -> None:
    return


def _key(network: Any, datacube: Datacube, rows: Rows, settings: TrainSettings, seed: int) -> str:
    # Another version of a library may draw or add up in another way: then the epochs of two do not belong together.
    versions = {"otrain": __version__, "numpy": np.__version__, **backend_versions()}
    about = [settings.to_dict(), seed, versions, network.to_json(), datacube.cube.shape]
    digest = hashlib.sha256(json.dumps(about).encode())
    for start in range(0, rows.size, CHUNK):
        digest.update(np.ascontiguousarray(datacube.cube[rows[start : start + CHUNK]]).data)
    for each in (datacube.labels[rows], datacube.groups[rows], rows):
        digest.update(np.ascontiguousarray(each).tobytes())
    return digest.hexdigest()
