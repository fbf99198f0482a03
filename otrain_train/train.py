"""What ``otrain-train`` does: a datacube in, a model and all that is known about it out.

The rows serve three ends that are kept apart. The network learns from most of them. The holdout rows choose the best
epoch and the temperature, and the operating points where there are enough of them. The validation rows do nothing but
give the figures, which are measured on the exported file.
"""

import json
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from otrain_infer.atomic import replacing
from otrain_infer.card import PLANES, OperatingPoint
from otrain_infer.errors import OutputError, UsageError
from otrain_infer.normalise import Normalisation, find_blank
from otrain_infer.scorer import Scorer, Scores
from otrain_train import checkpoint
from otrain_train.calibrate import Calibration, at_threshold, fit_temperature, fold_temperature, operating_points
from otrain_train.cubewriter import DatacubeWriter
from otrain_train.datacube import Datacube
from otrain_train.export import MAX_ROWS, export, rewrite_card
from otrain_train.fit import FitResult, Progress, check_classes, checkpoint_path, fit
from otrain_train.history import write_history
from otrain_train.metrics import Figures, figures, table, without_nan
from otrain_train.plots import draw_scores
from otrain_train.provenance import describe_run, make_card
from otrain_train.settings import RunSettings, TrainSettings
from otrain_train.splits import Rows, split_rows

__all__ = ["RunSettings", "TrainSettings", "TrainSummary", "fit", "train"]

log = logging.getLogger(__name__)

MIN_ROWS = 20
ENOUGH_FOR_POINTS = 100
CHUNK = 1024


@dataclass(frozen=True, slots=True)
class TrainSummary:
    """What a training left behind.

    Attributes
    ----------
    model, network, folder
        The ONNX file, the Keras file, and the folder with everything else.
    figures
        On the validation rows, from the exported model.
    points
        Operating points and what they bring on the validation rows.
    points_from
        The rows on which their thresholds were chosen: ``holdout`` or ``validation``.
    calibration
        The temperature and what it brought.
    epochs, best_epoch
        Epochs done, and the one that was kept, from 1.
    interrupted
        Whether Ctrl-C ended it.
    """

    model: Path
    network: Path
    folder: Path
    figures: Figures
    points: tuple[OperatingPoint, ...]
    points_from: str
    calibration: Calibration
    epochs: int
    best_epoch: int
    interrupted: bool

    def __str__(self) -> str:
        ended = ", interrupted" if self.interrupted else ""
        calibrated = self.calibration.note or f"temperature {self.calibration.temperature:.3f}"
        chosen = "  thresholds chosen on the holdout rows, what they bring on the validation rows"
        if self.points_from == "validation":
            chosen = "  thresholds chosen on the validation rows, which flatters them: the holdout has too few rows"
        lines = [table(self.figures, self.points), chosen]
        fewest = min(self.figures.tp + self.figures.fn, self.figures.tn + self.figures.fp)
        if 0 < fewest < ENOUGH_FOR_POINTS:
            lines.append(
                f"  with {fewest} cutouts of a class, each is {100 / fewest:.0f} %: take these figures as rough"
            )
        return "\n".join(
            [
                *lines,
                "",
                f"epoch {self.best_epoch} of {self.epochs} kept{ended}; calibration: {calibrated}",
                f"model: {self.model}",
            ]
        )


@dataclass(frozen=True, slots=True)
class _Files:
    model: Path
    network: Path
    folder: Path

    @classmethod
    def named(cls, model_path: Path, name: str) -> "_Files":
        if not name or name != Path(name).name or name.startswith(".") or not name.isprintable():
            raise UsageError(
                f"the model name '{name}' is not the name of a file: give one without /, leading dot or line ends"
            )
        home = model_path / "CNN_training"
        return cls(home / f"{name}.onnx", home / f"{name}.keras", home / name)

    @property
    def validation(self) -> Path:
        return self.folder / "validation_set" / "cube_validation.npz"

    def protect(self, cube: Path) -> None:
        if self.validation.exists() and cube.exists() and self.validation.samefile(cube):
            raise UsageError(f"'{cube}' would be replaced by the validation rows of this training: copy it elsewhere")
        for file in (self.model, self.network):
            if file.is_dir():
                raise OutputError(f"'{file}' is a folder: give another --model-name")

    def prepare(self) -> None:
        # What cannot be written is found out before the hours of training, not after.
        for folder in (self.validation.parent, self.model.parent):
            try:
                folder.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=folder):
                    pass
            except OSError as error:
                raise OutputError(
                    f"nothing can be written in '{folder}' ({error.strerror}): give another --model-path"
                ) from error


def train(
    cube: Path,
    model_path: Path,
    model_name: str,
    settings: TrainSettings | None = None,
    around: RunSettings | None = None,
    progress: Progress | None = None,
) -> TrainSummary:
    """Train a network on a datacube, export it and measure it.

    Writes ``CNN_training/NAME.onnx`` and ``NAME.keras`` in `model_path` and, in ``CNN_training/NAME/``, the plots of
    loss, accuracy and scores, ``summary.txt``, ``metrics.json``, ``history.csv``, ``run.json`` and
    ``validation_set/cube_validation.npz``. The ONNX file comes last, when all is well. Files of those names are
    replaced; no other file is touched. A training that was killed or interrupted goes on where it was when called
    again with the same datacube and settings.

    Parameters
    ----------
    cube
        The datacube, an .npz file.
    model_path, model_name
        Where the models live and what this one is called.
    settings
        How to train; the defaults if not given.
    around
        What goes with it; the defaults if not given.
    progress
        Called with the steps done, all steps, and a few words, after each step.

    Returns
    -------
    TrainSummary
        As text, what a person wants to know.

    Raises
    ------
    DatacubeError
        When the file is not a usable datacube or a class has too few cutouts.
    UsageError
        When a setting makes no sense, or the loss is no longer a number.
    OutputError
        When something cannot be written.
    ParityError
        When the exported model scores otherwise than the network.
    """
    settings, around = settings or TrainSettings(), around or RunSettings()
    Normalisation(settings.normalisation)
    files = _Files.named(Path(model_path), model_name)
    files.protect(Path(cube))
    datacube = Datacube.load(cube, around.planes)
    if not set(datacube.planes) <= set(PLANES):
        raise UsageError(f"'{cube}' does not say which {len(datacube.planes)} planes it holds: name them with --planes")
    rows = usable_rows(datacube)
    check_classes(datacube.labels[rows], MIN_ROWS, f"in {cube}")
    files.prepare()
    training, validation = (
        rows[part] for part in split_rows(datacube.labels[rows], datacube.groups[rows], settings.frac, settings.seed)
    )
    fitted = fit(datacube, training, settings, files.folder, progress)
    calibration = _calibrate(fitted, datacube)
    run = describe_run(Path(cube), datacube, validation, fitted)
    with replacing(files.model) as part:
        card = make_card(model_name, datacube, fitted, calibration, run, around.note)
        some = datacube.select(_spread(validation, MAX_ROWS))
        card = export(fitted.model, card, part, some.cube)
        scorer = Scorer(part)
        scores = _score(scorer, datacube, validation)
        measured = figures(datacube.labels[validation], scores, settings.threshold)
        points, points_from = _choose_points(scorer, datacube, fitted.holdout, datacube.labels[validation], scores)
        known = card.metrics | measured.to_dict() | {"operating_points_from": points_from}
        rewrite_card(part, replace(card, metrics=known, operating_points=points))
        with replacing(files.network) as network:
            fitted.model.save(network)
        summary = TrainSummary(
            model=files.model,
            network=files.network,
            folder=files.folder,
            figures=measured,
            points=points,
            points_from=points_from,
            calibration=calibration,
            epochs=len(fitted.history),
            best_epoch=fitted.best_epoch,
            interrupted=fitted.interrupted,
        )
        _write_folder(summary, run, fitted, datacube.labels[validation], scores)
        _write_validation(datacube, validation, files.validation)
    if not fitted.interrupted:
        checkpoint.remove(checkpoint_path(files.folder, settings.seed))
    return summary


def usable_rows(datacube: Datacube) -> Rows:
    """Give the rows that are not blank in any plane, int64 (n,); the others are counted in the log."""
    blank = np.concatenate([find_blank(np.array(datacube.cube[some])) for some in _chunks(len(datacube))])
    if blank.any():
        log.warning("%d of %d cutouts are blank in a plane and left out", blank.sum(), blank.size)
    return np.flatnonzero(~blank)


def _calibrate(fitted: FitResult, datacube: Datacube) -> Calibration:
    labels = datacube.labels[fitted.holdout]
    calibration = fit_temperature(fitted.holdout_logits, labels, np.take(fitted.class_weights, labels))
    fold_temperature(fitted.model, calibration.temperature)
    return calibration


def _choose_points(
    scorer: Scorer, datacube: Datacube, holdout: Rows, labels: npt.NDArray[np.int64], scores: Scores
) -> tuple[tuple[OperatingPoint, ...], str]:
    held = datacube.labels[holdout]
    if np.bincount(held, minlength=2).min() < ENOUGH_FOR_POINTS:
        # Too few to tell 1 % by. The thresholds then flatter the validation rows a little, and the card says so.
        return operating_points(labels, scores), "validation"
    chosen = operating_points(held, _score(scorer, datacube, holdout))
    return tuple(at_threshold(each.name, each.threshold, labels, scores) for each in chosen), "holdout"


def _score(scorer: Scorer, datacube: Datacube, rows: Rows) -> Scores:
    return np.concatenate(
        [scorer.score_pixels(np.ascontiguousarray(datacube.cube[rows[some]])) for some in _chunks(rows.size)]
    )


def _spread(rows: Rows, count: int) -> Rows:
    return rows[np.unique(np.linspace(0, rows.size - 1, count).astype(np.int64))]


def _chunks(n: int) -> Iterator[slice]:
    return (slice(start, start + CHUNK) for start in range(0, n, CHUNK))


def _write_folder(
    summary: TrainSummary, run: dict[str, Any], fitted: FitResult, labels: npt.NDArray[np.int64], scores: Scores
) -> None:
    folder, name = summary.folder, summary.model.stem
    write_history(fitted.history, fitted.best_epoch, folder, name)
    threshold = summary.figures.threshold
    draw_scores(labels, scores, threshold, f"{name}: validation rows", folder / f"{name}_scores.png")
    metrics = {
        "figures": summary.figures.to_dict(),
        "operating_points": [asdict(point) for point in summary.points],
        "operating_points_from": summary.points_from,
        "calibration": asdict(summary.calibration),
    }
    _write_text(folder / "metrics.json", _json(metrics))
    _write_text(folder / "run.json", _json(run))
    _write_text(folder / "summary.txt", str(summary))


def _write_validation(datacube: Datacube, rows: Rows, path: Path) -> None:
    with DatacubeWriter(path) as writer:
        for some in _chunks(rows.size):
            writer.append(datacube.select(rows[some]))


def _json(content: dict[str, Any]) -> str:
    return json.dumps(without_nan(content), indent=1, allow_nan=False)


def _write_text(path: Path, text: str) -> None:
    with replacing(path) as part:
        part.write_text(f"{text}\n", encoding="utf-8")
