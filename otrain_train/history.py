"""How a training went, epoch by epoch: a table and two plots."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from otrain_infer.atomic import replacing
from otrain_train import canvas


@dataclass(frozen=True, slots=True)
class Course:
    """How the training of one network went.

    Attributes
    ----------
    seed
        That it was trained with.
    epochs
        One dictionary of figures for each epoch, of `otrain_train.fit.FitResult`.
    best_epoch
        The one whose weights were kept, from 1.
    """

    seed: int
    epochs: Sequence[dict[str, float]]
    best_epoch: int


def write_history(courses: Sequence[Course], folder: Path, name: str) -> list[Path]:
    """Write ``history.csv``, ``NAME_loss_vs_epochs.png`` and ``NAME_accuracy_vs_epochs.png``.

    Parameters
    ----------
    courses
        One for each network; the table of several has a column ``seed`` at the end.
    folder, name
        Where the files go, and the name of the model.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    OutputError
        When one cannot be written.
    """
    table = folder / "history.csv"
    rows = [
        {key: f"{value:.9g}" for key, value in epoch.items()} | ({"seed": str(each.seed)} if len(courses) > 1 else {})
        for each in courses
        for epoch in each.epochs
    ]
    with replacing(table) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    drawn = {quantity: draw_course(courses, quantity, name) for quantity in ("loss", "accuracy")}
    return [table] + [canvas.save(each, folder / f"{name}_{key}_vs_epochs.png") for key, each in drawn.items()]


def draw_course(courses: Sequence[Course], quantity: str, title: str) -> Figure:
    """Draw a quantity against the epoch, for the rows learnt from and the holdout rows of each network."""
    figure = canvas.new_figure()
    axes = figure.subplots()
    alone = len(courses) == 1
    for i, each in enumerate(courses):
        epochs = [row["epoch"] for row in each.epochs]
        learnt, held = ([row[key] for row in each.epochs] for key in (quantity, f"holdout_{quantity}"))
        line: dict[str, Any] = {"markersize": 3, "linewidth": 1.5 if alone else 0.9}
        axes.plot(epochs, learnt, "o-", color=canvas.SERIES[2], label=_once(i, "learnt from (augmented)"), **line)
        axes.plot(epochs, held, "s--", color=canvas.SERIES[3], label=_once(i, "holdout"), **line)
        if alone:
            axes.axvline(each.best_epoch, color="0.6", linestyle=":", label=f"kept: epoch {each.best_epoch}")
        else:
            kept = each.best_epoch - 1
            ring: dict[str, Any] = {"markerfacecolor": "none", "markeredgecolor": "0.2", "markersize": 8}
            axes.plot(epochs[kept], held[kept], "o", label=_once(i, "kept epoch of each network"), **ring)
    axes.set(xlabel="epoch", ylabel=quantity)
    canvas.set_title(axes, title if alone else f"{title}: {len(courses)} networks")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    return figure


def _once(i: int, label: str) -> str | None:
    return None if i else label
