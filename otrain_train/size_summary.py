"""What a study of sizes found: answers in plain words, plots and tables."""

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from otrain_infer.atomic import replacing
from otrain_train.canvas import save
from otrain_train.learning_curve import LearningCurve
from otrain_train.metrics import without_nan
from otrain_train.pool import Outcome
from otrain_train.size_plots import FIGURES, SizeResults, draw_size_gap, draw_size_loss, draw_size_scores, rounded

COLUMNS = ("size", "repeat", "seed", "epochs", "best_epoch", "seconds")


@dataclass(frozen=True, slots=True, eq=False)
class SizeSummary:
    """What a study of sizes found.

    Attributes
    ----------
    name, outdir
        Of its files.
    results
        Of all trainings that are over.
    curve
        The learning curve of 1 - MCC.
    tolerance
        By how much the MCC of an acceptable size may be below that of all rows.
    planned, test
        How many trainings there are to be, and how many rows each is tested on.
    outcome
        What became of those that gave no result.
    warnings
        The first warning of each training that had any.
    """

    name: str
    outdir: Path
    results: SizeResults
    curve: LearningCurve
    tolerance: float
    planned: int
    test: int
    outcome: Outcome
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        done = self.results.sizes.size
        lines = [
            f"{done} training(s), each tested on the same {self.test:,} rows",
            "",
            *self._table(),
            "",
            *self.answers(),
        ]
        lines += [f"- {note}" for note in self.notes()]
        return "\n".join([*lines, "", f"plots and tables: {self.outdir}/{self.name}_*"])

    def _table(self) -> list[str]:
        heads = ("MCC", "F1", "accuracy", "gap", "loss")
        columns = [self.results.test[name] for name in ("mcc", "f1", "accuracy")]
        columns += [self.results.gaps, self.results.test["log_loss"]]
        measured = [self.results.by_size(column) for column in columns]
        lines = [f"{'training rows':>13}" + "".join(f"{head:>18}" for head in heads)]
        for row, size in reversed([*enumerate(measured[0][0].tolist())]):
            cells = "".join(f"{_with_spread(mean[row], spread[row]):>18}" for _, mean, spread in measured)
            lines.append(f"{size:>13,}{cells}")
        return lines

    def answers(self) -> list[str]:
        """Answer the two questions, or say why they cannot be answered, in a sentence each."""
        curve, largest = self.curve, int(self.results.sizes.max())
        if curve.law is None or curve.acceptable is None or curve.gain is None:
            return [
                f"smallest acceptable size: {self.smallest_measured():,} rows by the measurements alone: from there on "
                f"the MCC is within {self.tolerance:g} of that with {largest:,}",
                f"twice the labels: what they would bring cannot be told, since {curve.reason}",
            ]
        size, gain = curve.acceptable, curve.gain
        at_all = 1 - float(curve.law.error(largest))
        below = "or fewer " if size.value <= self.results.sizes.min() else ""
        return [
            f"smallest acceptable size: {rounded(size.value)} rows {below}(90 % interval {rounded(size.low)} to "
            f"{rounded(size.high)}), where the MCC is within {self.tolerance:g} of that with {largest:,}",
            f"twice the labels: MCC {gain.value:+.4f} (90 % interval {gain.low:+.4f} to {gain.high:+.4f}), from "
            f"{at_all:.4f} to {at_all + gain.value:.4f}",
        ]

    def smallest_measured(self) -> int:
        """Give the smallest size from which on the mean MCC is acceptable, by the measurements alone."""
        sizes, means, _ = self.results.by_size(self.results.test["mcc"])
        short = np.flatnonzero(means < means[-1] - self.tolerance)
        return int(sizes[short[-1] + 1 if short.size else 0])

    def notes(self) -> list[str]:
        """Say what a reader should know besides."""
        notes = [self.curve.reason] if self.curve.law is not None and self.curve.reason else []
        missing = self.planned - self.results.sizes.size
        if self.outcome.interrupted:
            notes.append(f"interrupted: {missing} of {self.planned} trainings are left; the same command goes on here")
        if self.outcome.failures:
            reason = next(iter(self.outcome.failures.values()))
            notes.append(f"{len(self.outcome.failures)} training(s) failed, the first with: {reason}")
        if self.results.undefined:
            notes.append(f"{self.results.undefined} network(s) call all test rows alike: their MCC counts as 0")
        if self.warnings:
            notes.append(f"{len(self.warnings)} training(s) had warnings, the first of them: {self.warnings[0]}")
        if self.curve.law is not None:
            notes.append("the intervals are of the differences between trainings")
        notes.append(f"which {self.test:,} rows happen to be the test rows moves the figures of all sizes alike")
        return notes


def _with_spread(mean: float, spread: float) -> str:
    return f"{mean:.4f}" if math.isnan(spread) else f"{mean:.4f} ± {spread:.4f}"


def file_names(name: str) -> tuple[str, ...]:
    """Give the names of the files that a study leaves, those of the plots as the original program calls them."""
    plots = ("scores_dataset_size", "ecart_accuracy_size", "loss_dataset_size")
    return (*(f"{name}_{plot}.png" for plot in plots), f"{name}_dataset_size.csv", f"{name}_dataset_size.json")


def write_summary(summary: SizeSummary, records: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> None:
    """Write the plots, the table of all trainings, and a file with everything.

    Parameters
    ----------
    summary
        What was found.
    records
        What is kept of each training.
    about
        What the study was made of, in plain values.

    Raises
    ------
    OutputError
        When a file cannot be written.
    """
    scores, gap, loss, table, everything = (summary.outdir / name for name in file_names(summary.name))
    save(draw_size_scores(summary.results, summary.curve, summary.name), scores)
    save(draw_size_gap(summary.results, summary.name), gap)
    save(draw_size_loss(summary.results, summary.name), loss)
    with replacing(table) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        parts = ("test", "learnt_from")
        writer.writerow([*COLUMNS, *(f"{part}_{name}" for part in parts for name in FIGURES)])
        for record in records:
            measured = (record[part][name] for part in parts for name in FIGURES)
            writer.writerow([*(record[name] for name in COLUMNS), *("" if each is None else each for each in measured)])
    with replacing(everything) as part:
        part.write_text(json.dumps(without_nan(_content(summary, records, about)), indent=1), encoding="utf-8")


def _content(summary: SizeSummary, records: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> dict[str, Any]:
    curve = summary.curve
    return {
        "about": dict(about),
        "answers": summary.answers(),
        "notes": summary.notes(),
        "power_law": asdict(curve.law) if curve.law else None,
        "smallest_acceptable_size": asdict(curve.acceptable) if curve.acceptable else None,
        "gain_with_twice_the_labels": asdict(curve.gain) if curve.gain else None,
        "smallest_acceptable_size_measured": summary.smallest_measured(),
        "failures": summary.outcome.failures,
        "trainings": [dict(record) for record in records],
    }
