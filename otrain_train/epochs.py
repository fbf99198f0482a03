"""The epochs of a training: learning, measuring on the holdout rows, and keeping the state of the best and the last."""

import json
import logging
import math
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from otrain_infer.errors import UsageError
from otrain_train import checkpoint
from otrain_train.checkpoint import State
from otrain_train.feed import Feed
from otrain_train.metrics import sweep
from otrain_train.settings import TrainSettings
from otrain_train.splits import Rows
from otrain_train.trainer import Trainer

log = logging.getLogger(__name__)

Progress = Callable[[int, int, str], None]
OnEpoch = Callable[[dict[str, float]], None]
Stream = Generator[tuple[Rows, Any]]

CHUNK = 256


@dataclass(frozen=True, slots=True, eq=False)
class Epochs:
    """All that the epochs of a training need.

    Attributes
    ----------
    trainer
        The network.
    feed
        The pixels.
    labels
        int64 (n,), of all rows of the datacube: 1 real, 0 bogus.
    learnt, holdout
        Its rows that the network learns from, and those that choose the best epoch.
    weights
        Of a bogus and of a real row in the loss.
    row_weights
        float64 (n,), of all rows of the datacube: by what the weight of each in the loss is multiplied.
    settings
        With batch size and learning rate filled in.
    seed
        Decides the order of the rows.
    steps
        Of an epoch.
    frozen
        Epochs in which only the dense layers learn.
    progress, on_epoch
        Told of each step, and of each epoch.
    """

    trainer: Trainer
    feed: Feed
    labels: npt.NDArray[np.int64]
    learnt: Rows
    holdout: Rows
    weights: tuple[float, float]
    row_weights: npt.NDArray[np.float64]
    settings: TrainSettings
    seed: int
    steps: int
    frozen: int
    progress: Progress
    on_epoch: OnEpoch

    def run(self, path: Path, key: str) -> tuple[State, bool]:
        """Train from the state that the file holds under the key, and keep it there after each epoch.

        Returns
        -------
        state : State
            After the last epoch.
        interrupted : bool
            Whether Ctrl-C ended it.
        """
        state = self._saved(path, key)
        try:
            done = 0 if state is None else state.epoch
            self.trainer.freeze(done < self.frozen)
            with closing(self._batches(done * self.steps)) as stream:
                while state is None or not self._over(state):
                    state = self._epoch(stream, state)
                    self._keep(path, key, state)
            return state, False
        except KeyboardInterrupt:
            if state is None:
                log.warning("interrupted before the first epoch of this network was over: nothing of it is kept")
                raise
            log.warning("interrupted: the best of %d epochs is kept; the same command goes on from here", state.epoch)
            return state, True

    def _saved(self, path: Path, key: str) -> State | None:
        devices = self.trainer.devices
        devices.check_alike(key.encode(), "rows or settings")
        state = checkpoint.read(path, key) if devices.is_chief else None
        if devices.hosts > 1:
            content = devices.from_chief(checkpoint.to_bytes(state) if state else b"")
            state = checkpoint.from_bytes(content) if content else None
        if state is not None:
            log.info("going on after epoch %d of %d", state.epoch, self.settings.epochs)
            self.trainer.restore(state.variables)
        return state

    def _keep(self, path: Path, key: str, state: State) -> None:
        if self.trainer.devices.is_chief:
            checkpoint.write(path, key, state)
            self.on_epoch(state.history[-1])

    def _over(self, state: State) -> bool:
        waited = state.epoch - state.best_epoch
        return state.epoch >= self.settings.epochs or 0 < self.settings.patience <= waited

    def _epoch(self, stream: Stream, state: State | None) -> State:
        history = [] if state is None else state.history
        number = len(history)
        if number == self.frozen:
            self.trainer.freeze(False)
        learnt = self._learn(stream, number)
        held = self._measure(number)
        row = {"epoch": float(number + 1), **learnt, **held}
        # The order of the scores, not the loss, which grows with confidence that the temperature will take back. Of
        # those that the holdout rows cannot tell apart, the last: its learning rate was lowest.
        best = all(held["holdout_auc"] >= each["holdout_auc"] - each["holdout_auc_error"] for each in history)
        log.info(
            "epoch %d of %d: loss %.4f, holdout loss %.4f, holdout AUC %.4f%s",
            number + 1,
            self.settings.epochs,
            row["loss"],
            row["holdout_loss"],
            row["holdout_auc"],
            ", kept so far" if best else "",
        )
        if state is None or best:
            weights, best_epoch = self.trainer.network.get_weights(), number + 1
        else:
            weights, best_epoch = state.best, state.best_epoch
        return State(number + 1, self.trainer.state(), weights, best_epoch, [*history, row])

    def _learn(self, stream: Stream, epoch: int) -> dict[str, float]:
        total = np.zeros(2)
        for i, (rows, pixels) in enumerate(islice(stream, self.steps)):
            labels = self.labels[rows]
            step = epoch * self.steps + i
            weights = np.take(self.weights, labels) * self.row_weights[rows]
            done = self.trainer.learn(step, pixels, labels, weights)
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

    def _measure(self, epoch: int) -> dict[str, float]:
        logits = self.holdout_logits()
        labels = self.labels[self.holdout].astype(bool)
        margins = np.diff(logits.astype(np.float64), axis=1)[:, 0]
        losses = np.logaddexp(0.0, np.where(labels, -margins, margins))
        weights = np.take(self.weights, labels.astype(np.int64)) * self.row_weights[self.holdout]
        loss = float(np.average(losses, weights=weights))
        self._check_loss(loss, epoch)
        # The rank of the margin, not the score: a score that has run up against 0 or 1 would tie.
        ranks = np.unique(margins, return_inverse=True)[1] / max(margins.size, 1)
        rates = sweep(labels, ranks)
        held = {
            "holdout_loss": loss,
            "holdout_accuracy": float(np.mean((margins >= 0) == labels)),
            "holdout_auc": rates.auc,
            "holdout_auc_error": rates.auc_error,
        }
        # Hosts that round otherwise must not disagree on which epoch is the last.
        agreed: dict[str, float] = json.loads(self.trainer.devices.from_chief(json.dumps(held).encode()))
        return agreed

    def holdout_logits(self) -> npt.NDArray[np.float32]:
        """Give float32 (n, 2) logits of the holdout rows."""
        count = math.ceil(self.holdout.size / CHUNK)
        with closing(self.feed.batches(lambda i: self.holdout[i * CHUNK : (i + 1) * CHUNK], 0, count)) as chunks:
            return np.concatenate([self.trainer.logits(pixels) for _, pixels in chunks])

    def _batches(self, start: int) -> Stream:
        share = self.trainer.devices.share(int(self.settings.batch_size or 0))
        order = lru_cache(maxsize=2)(self._order)
        stop = self.steps * self.settings.epochs
        return self.feed.batches(lambda step: order(step // self.steps)[step % self.steps, share], start, stop)

    def _order(self, epoch: int) -> Rows:
        # Whole passes in a new order each, until there is enough for the steps: every batch is full, every row is seen.
        rng = np.random.default_rng((self.seed, epoch))
        size = int(self.settings.batch_size or 0)
        wanted = self.steps * size
        passes = math.ceil(wanted / self.learnt.size)
        order = np.concatenate([rng.permutation(self.learnt) for _ in range(passes)])[:wanted]
        return order.reshape(self.steps, size)
