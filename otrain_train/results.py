"""What a training leaves behind: its files, its summary, and a folder of figures, plots and validation rows."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from otrain_infer.atomic import replacing
from otrain_infer.card import OperatingPoint
from otrain_infer.errors import OutputError, UsageError
from otrain_infer.scorer import Scores
from otrain_train.calibrate import Calibration, unreached
from otrain_train.canvas import save
from otrain_train.gate import Verdict
from otrain_train.history import Course, write_history
from otrain_train.metrics import Figures, table, without_nan
from otrain_train.outputs import make_folder
from otrain_train.plots import draw_scores

ENOUGH_FOR_POINTS = 100
"""Rows of each class from which a threshold that stands for 1 % can be told."""


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Where a model lives.

    Attributes
    ----------
    model, network, folder
        The ONNX file, the Keras file, and the folder with everything else.
    """

    model: Path
    network: Path
    folder: Path

    @classmethod
    def named(cls, model_path: Path, name: str) -> "ModelFiles":
        """Give the files of a model by its name; raises UsageError where that is not the name of a file."""
        if not name or name != Path(name).name or name.startswith(".") or not name.isprintable():
            raise UsageError(
                f"the model name '{name}' is not the name of a file: give one without /, leading dot or line ends"
            )
        home = model_path / "CNN_training"
        return cls(home / f"{name}.onnx", home / f"{name}.keras", home / name)

    @property
    def refused(self) -> "ModelFiles":
        """Where a model lives that the gate refuses."""
        name = f"{self.folder.name}.refused"
        home = self.folder.parent
        return ModelFiles(home / f"{name}.onnx", home / f"{name}.keras", home / name)

    @property
    def validation(self) -> Path:
        """The datacube of the validation rows."""
        return self.folder / "validation_set" / "cube_validation.npz"

    def protect(self, cube: Path, pretrained: Path | None = None, teacher: Path | None = None) -> None:
        """Raise an error where what a training reads would be lost, or its files cannot have these names."""
        if self.validation.exists() and cube.exists() and self.validation.samefile(cube):
            raise UsageError(f"'{cube}' would be replaced by the validation rows of this training: copy it elsewhere")
        refused = (self.refused.model, self.refused.network)
        if pretrained and any(each.exists() and pretrained.exists() and each.samefile(pretrained) for each in refused):
            raise UsageError(f"'{pretrained}' is where this training puts a model that it refuses: rename it")
        if teacher and teacher.with_suffix("").resolve() == self.model.with_suffix("").resolve():
            raise UsageError(
                f"'{teacher}' would be replaced by the model that learns from it: give another --model-name"
            )
        for file in (self.model, self.network, *refused):
            if file.is_dir():
                raise OutputError(f"'{file}' is a folder: give another --model-name")

    def prepare(self) -> None:
        """Make the folders, and find out before the hours of training, not after, what cannot be written."""
        for folder in (self.validation.parent, self.model.parent):
            make_folder(folder)


@dataclass(frozen=True, slots=True)
class TrainSummary:
    """What a training left behind.

    Attributes
    ----------
    files
        Where everything is.
    figures
        On the validation rows, from the exported model.
    points
        Operating points and what they bring on the validation rows.
    points_from
        The rows on which their thresholds were chosen: ``holdout`` or ``validation``.
    calibration
        The temperature and what it brought.
    courses
        How the training of each network went.
    interrupted
        Whether Ctrl-C ended it.
    verdict
        Of the gate, where the training began from another model.
    """

    files: ModelFiles
    figures: Figures
    points: tuple[OperatingPoint, ...]
    points_from: str
    calibration: Calibration
    courses: tuple[Course, ...]
    interrupted: bool
    verdict: Verdict | None = None

    @property
    def model(self) -> Path:
        """The ONNX file."""
        return self.files.model

    @property
    def network(self) -> Path:
        """The Keras file."""
        return self.files.network

    @property
    def folder(self) -> Path:
        """The folder with everything else."""
        return self.files.folder

    def __str__(self) -> str:
        calibrated = self.calibration.note or f"temperature {self.calibration.temperature:.3f}"
        chosen = "  thresholds chosen on the holdout rows, what they bring on the validation rows"
        if self.points_from == "validation":
            chosen = "  thresholds chosen on the validation rows, which flatters them: the holdout has too few rows"
        lines = [table(self.figures, self.points), chosen]
        missing = unreached(self.points)
        lines += [f"  {missing} on the {self.points_from} rows"] if missing else []
        fewest = min(self.figures.tp + self.figures.fn, self.figures.tn + self.figures.fp)
        if 0 < fewest < ENOUGH_FOR_POINTS:
            lines.append(
                f"  with {fewest} cutouts of a class, each is {100 / fewest:.0f} %: take these figures as rough"
            )
        lines += ["", f"{self._course()}; calibration: {calibrated}"]
        if self.verdict:
            lines.append(f"gate: {'passed' if self.verdict.passed else 'not passed'}; {self.verdict}")
        return "\n".join([*lines, f"model: {self.model}"])

    def _course(self) -> str:
        kept = ", ".join(f"{each.best_epoch} of {len(each.epochs)}" for each in self.courses)
        ended = ", interrupted" if self.interrupted else ""
        if len(self.courses) > 1:
            return f"{len(self.courses)} networks, epochs kept: {kept}{ended}"
        return f"epoch {kept} kept{ended}"

    def to_dict(self) -> dict[str, Any]:
        """Give what ``metrics.json`` says."""
        metrics = {
            "figures": self.figures.to_dict(),
            "operating_points": [asdict(point) for point in self.points],
            "operating_points_from": self.points_from,
            "calibration": asdict(self.calibration),
        }
        return metrics | ({"gate": self.verdict.to_dict()} if self.verdict else {})


def write_results(
    summary: TrainSummary, run: dict[str, Any], labels: npt.NDArray[np.int64], scores: Scores
) -> list[Path]:
    """Write the plots, tables and texts of a training in its folder.

    Parameters
    ----------
    summary
        Of the training.
    run
        What `otrain_train.provenance.describe_run` gave.
    labels, scores
        Of the validation rows.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    OutputError
        When one cannot be written.
    """
    folder, name = summary.folder, summary.folder.name
    written = write_history(summary.courses, folder, name)
    figure = draw_scores(labels, scores, summary.figures.threshold, f"{name}: validation rows")
    written.append(save(figure, folder / f"{name}_scores.png"))
    gate = {"gate": summary.verdict.to_dict()} if summary.verdict else {}
    texts = {"metrics.json": _json(summary.to_dict()), "run.json": _json(run | gate), "summary.txt": str(summary)}
    for file, text in texts.items():
        with replacing(folder / file) as part:
            part.write_text(f"{text}\n", encoding="utf-8")
        written.append(folder / file)
    return written


def _json(content: dict[str, Any]) -> str:
    return json.dumps(without_nan(content), indent=1, allow_nan=False)
