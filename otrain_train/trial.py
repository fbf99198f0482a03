"""A trial of the search for settings, which of several is taken, and how they are drawn."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from otrain_train.canvas import BOGUS, REAL, new_figure, set_title

Floats = npt.NDArray[np.floating]
Losses = npt.NDArray[np.float32]
"""(2, n): weight and loss of each holdout row."""

SEARCHED = ("width", "normalisation", "learning_rate", "dropout")

TOLERANCE = 0.05
"""By what fraction of the smallest loss that of a cheaper network may be larger, at the most."""


@dataclass(frozen=True, slots=True)
class Trial:
    """Settings, and what a training with them gave.

    Attributes
    ----------
    number
        From 1; the first has the settings that were given.
    width, normalisation, learning_rate, dropout
        Those of `otrain_train.settings.TrainSettings`.
    multiply_adds
        That scoring a cutout costs.
    loss, error
        Log loss on the holdout rows (nats) and its standard error; None where the training did not come to an end.
    auc, best_epoch
        On the same rows, and the epoch that was kept.
    seconds
        That it took.
    reason
        Why it did not come to an end.
    """

    number: int
    width: float
    normalisation: str
    learning_rate: float
    dropout: float
    multiply_adds: int
    loss: float | None = None
    error: float | None = None
    auc: float | None = None
    best_epoch: int | None = None
    seconds: float | None = None
    reason: str = ""

    def found(self) -> dict[str, Any]:
        """Give the settings that are searched for."""
        return {name: getattr(self, name) for name in SEARCHED}

    def __str__(self) -> str:
        settings = (
            f"width {self.width:.3g}, {self.normalisation}, learning rate {self.learning_rate:.2g}, "
            f"dropout {self.dropout:.2f}"
        )
        if self.loss is None:
            return f"{settings}: given up ({self.reason})"
        return (
            f"{settings}: holdout loss {self.loss:.4f} ± {self.error:.4f}, AUC {self.auc:.4f}, "
            f"{self.multiply_adds / 1e6:.2f} M multiply-adds"
        )


def lags(ended: Sequence[Trial], losses: Sequence[Losses]) -> list[tuple[float, float]]:
    """Say by how much the loss of each trial is above the smallest, and the standard error of that.

    The rows are the same for all trials, so that what makes a row hard for each of them cancels.

    Parameters
    ----------
    ended
        Trials that came to an end.
    losses
        Of each, float (2, n): weight and loss of each holdout row. Rows of a group are taken for independent.

    Returns
    -------
    list of (float, float)
        (0, 0) for the best itself.
    """
    best = losses[min(range(len(ended)), key=lambda i: _loss(ended[i]))][1]
    found = []
    for weights, own in losses:
        apart = own - best
        mean = float(np.average(apart, weights=weights))
        found.append((mean, standard_error(weights, apart)))
    return found


def standard_error(weights: Floats, values: Floats) -> float:
    """Give that of a weighted mean, by its linear expansion."""
    spread = weights * (values - np.average(values, weights=weights))
    return float(np.sqrt(np.sum(spread**2)) / np.sum(weights))


def choose(ended: Sequence[Trial], behind: Sequence[tuple[float, float]]) -> Trial:
    """Take the cheapest trial that is hardly worse than the best; of equals, that of the smaller loss.

    Its loss is no more than one standard error above the smallest, nor more than `TOLERANCE` of it: where rows are few
    the error is large, and a network that is likely worse is not worth its price.

    Parameters
    ----------
    ended
        One or more that came to an end.
    behind
        Of `lags`.
    """
    most = TOLERANCE * min(map(_loss, ended))
    near = [trial for trial, (lag, error) in zip(ended, behind, strict=True) if lag <= min(error, most)]
    return min(near, key=lambda trial: (trial.multiply_adds, _loss(trial), trial.number))


def front(ended: Sequence[Trial]) -> list[Trial]:
    """Give the trials that no other beats in both loss and cost, the cheapest first."""
    kept: list[Trial] = []
    for trial in sorted(ended, key=lambda trial: (trial.multiply_adds, _loss(trial))):
        if not kept or _loss(trial) < _loss(kept[-1]):
            kept.append(trial)
    return kept


def draw_trials(ended: Sequence[Trial], behind: Sequence[tuple[float, float]], chosen: Trial) -> Figure:
    """Draw the loss of trials against what their networks cost, and which is taken.

    Parameters
    ----------
    ended, behind
        As for `choose`.
    chosen
        What it took.
    """
    figure = new_figure(8.5, 4.5)
    axes = figure.subplots()
    errors = [error for _, error in behind]
    text = "trials, and the standard error of\nwhat parts them from the best"
    axes.errorbar(*_places(ended), errors, fmt="o", color="0.6", markersize=5, elinewidth=1, zorder=1, label=text)
    axes.axhline(min(map(_loss, ended)), color="0.3", linewidth=1, linestyle=":", label="loss of the best")
    axes.plot(*_places(front(ended)), "s-", color=REAL, markersize=6, label="none is better in both")
    given = [trial for trial in ended if trial.number == 1]
    axes.plot(
        *_places(given), "D", color="black", markersize=10, fillstyle="none", label="the settings that were given"
    )
    axes.plot(*_places([chosen]), "*", color=BOGUS, markersize=17, fillstyle="none", markeredgewidth=1.8, label="taken")
    axes.set(xlabel="multiply-adds of a cutout (millions)", ylabel="log loss of the holdout rows (nats)")
    set_title(axes, f"search for settings, {len(ended)} trial{'s' if len(ended) > 1 else ''}")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    return figure


def _places(trials: Sequence[Trial]) -> tuple[list[float], list[float]]:
    return [trial.multiply_adds / 1e6 for trial in trials], [_loss(trial) for trial in trials]


def _loss(trial: Trial) -> float:
    if trial.loss is None:
        raise ValueError("a trial that did not come to an end has no loss")
    return trial.loss
