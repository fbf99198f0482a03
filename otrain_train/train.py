"""What ``otrain-train`` does: a datacube in, a model and all that is known about it out.

The rows serve three ends that are kept apart. The networks learn from most of them. The holdout rows choose the best
epoch and the temperature, and the operating points where there are enough of them. The validation rows do nothing but
give the figures, which are measured on the exported file.
"""

import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from otrain_infer.atomic import replacing
from otrain_infer.card import OperatingPoint
from otrain_infer.errors import GateError, UsageError
from otrain_infer.normalise import Normalisation
from otrain_infer.npz import check_members
from otrain_infer.scorer import Scorer, Scores
from otrain_train import checkpoint, gate
from otrain_train.calibrate import at_threshold, operating_points
from otrain_train.datacube import Datacube
from otrain_train.devices import start as start_devices
from otrain_train.epochs import OnEpoch, Progress
from otrain_train.evaluation import Evaluation
from otrain_train.export import MAX_ROWS, export, rewrite_card
from otrain_train.fit import check_classes, checkpoint_path, fit
from otrain_train.members import Members, fit_members
from otrain_train.metrics import figures
from otrain_train.out_of_fold import score_out_of_fold
from otrain_train.outputs import sole_user
from otrain_train.planes import open_in_planes
from otrain_train.pretrained import Pretrained, open_pretrained
from otrain_train.provenance import describe_run, make_card
from otrain_train.report import write_report
from otrain_train.results import ENOUGH_FOR_POINTS, ModelFiles, TrainSummary, write_results
from otrain_train.rows import score_rows, spread_rows, usable_rows, write_rows
from otrain_train.settings import RunSettings, TrainSettings
from otrain_train.splits import Rows, group_by, split_rows
from otrain_train.tracker import Tracker, open_tracker

__all__ = ["RunSettings", "TrainSettings", "TrainSummary", "fit", "train"]

log = logging.getLogger(__name__)

Labels = npt.NDArray[np.int64]

MIN_ROWS = 20


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    # What is trained, on what, from what, and where it goes.
    cube: Path
    datacube: Datacube
    training: Rows
    validation: Rows
    settings: TrainSettings
    around: RunSettings
    files: ModelFiles
    start: Pretrained | None
    teacher: Pretrained | None

    @property
    def labels(self) -> Labels:
        return self.datacube.labels[self.validation]


def train(
    cube: Path,
    model_path: Path,
    model_name: str,
    settings: TrainSettings | None = None,
    around: RunSettings | None = None,
    progress: Progress | None = None,
    on_epoch: OnEpoch | None = None,
) -> TrainSummary:
    """Train a network, or an ensemble, on a datacube, export it and measure it.

    Writes ``CNN_training/NAME.onnx`` and ``NAME.keras`` in `model_path` and, in ``CNN_training/NAME/``, the plots of
    loss, accuracy and scores, ``report.html``, ``summary.txt``, ``metrics.json``, ``history.csv``, ``run.json`` and
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
        Called with the steps done, all steps of all networks, and a few words, after each step.
    on_epoch
        Called with the figures of each epoch, and the seed where there are several networks.

    Returns
    -------
    TrainSummary
        As text, what a person wants to know.

    Raises
    ------
    DatacubeError
        When the file is not a usable datacube, a class has too few cutouts, or they do not fit the pretrained model or
        the teacher.
    UsageError
        When a setting makes no sense, or the loss is no longer a number.
    OutputError
        When something cannot be written, or another process is training a model of this name.
    ModelError
        When the pretrained model, or the teacher, cannot be used.
    ParityError
        When the exported model scores otherwise than the network.
    GateError
        When the model does not beat the one it began from. It is kept under the name ``NAME.refused``, with a folder
        of its own, and what was there under its name stays.
    """
    settings, around = settings or TrainSettings(), around or RunSettings()
    files = ModelFiles.named(Path(model_path), model_name)
    with _own_files(files, settings) as own:
        task = _prepare(Path(cube), own, settings, around)
        tracked = open_tracker(around.tracker if own is files else "none", own.folder, model_name)
        with sole_user(own.folder), tracked as tracker:
            task = _tune(task, progress)
            tracker.settings(task.settings.to_dict())
            members = _fit(task, tracker, progress, on_epoch)
            summary = _finish(task, members, tracker, progress)
        if summary.files == own.refused:
            raise GateError(_refusal(task, summary))
        if not members.interrupted:
            for seed in settings.seeds:
                checkpoint.remove(checkpoint_path(own.folder, seed))
    return replace(summary, files=files)


@contextmanager
def _own_files(files: ModelFiles, settings: TrainSettings) -> Iterator[ModelFiles]:
    # Hosts that train together get the same model and do all the same with it; the chief alone keeps what it writes.
    # They must find each other before anything else is asked of TensorFlow.
    if start_devices(settings.devices).is_chief:
        yield files
        return
    with tempfile.TemporaryDirectory() as folder:
        yield ModelFiles.named(Path(folder), files.folder.name)


def _prepare(cube: Path, files: ModelFiles, settings: TrainSettings, around: RunSettings) -> _Task:
    files.protect(cube, around.pretrained, around.teacher)
    start = open_pretrained(around.pretrained) if around.pretrained else None
    teacher = open_pretrained(around.teacher) if around.teacher else None
    settings = start.settle(settings) if start else settings
    settings = teacher.take_normalisation(settings, "learning from") if teacher else settings
    if start and settings.frozen_epochs >= settings.epochs:
        log.warning("of %d epochs all are frozen ones: only the dense layers learn", settings.epochs)
    Normalisation(settings.normalisation)
    other = start or teacher
    datacube = other.open_cube(cube, around.planes) if other else open_in_planes(cube, around.planes)
    rows = usable_rows(datacube)
    check_classes(datacube.labels[rows], MIN_ROWS, f"in {cube}")
    _check_label_folds(around.label_folds, datacube.labels[rows])
    check_members(cube)
    files.prepare()
    labels, groups = datacube.labels[rows], group_by(datacube, settings.group_key)[rows]
    training, validation = (rows[part] for part in split_rows(labels, groups, settings.frac, settings.seed))
    # In the order of their datacube file: all real ones, then all bogus ones.
    validation = validation[np.argsort(-datacube.labels[validation], kind="stable")]
    return _Task(cube, datacube, training, validation, settings, around, files, start, teacher)


def _check_label_folds(folds: int, labels: Labels) -> None:
    most = int(np.bincount(labels, minlength=2).min()) // 5
    if folds > most:
        raise UsageError(f"--label-folds {folds} leaves fewer than 5 cutouts of a class in a part: take {most} or less")


def _tune(task: _Task, progress: Progress | None) -> _Task:
    if not task.around.tune:
        return task
    from otrain_train.tune import tune  # Optuna is an extra

    found = tune(task.datacube, task.training, task.settings, task.around.tune, task.files.folder, progress)
    log.info("now the training itself, with the settings found")
    return replace(task, settings=found)


def _fit(task: _Task, tracker: Tracker, progress: Progress | None, on_epoch: OnEpoch | None) -> Members:
    def told(epoch: dict[str, float]) -> None:
        tracker.epoch(epoch)
        if on_epoch:
            on_epoch(epoch)

    folder = task.files.folder
    return fit_members(task.datacube, task.training, task.settings, folder, task.start, progress, told, task.teacher)


def _finish(task: _Task, members: Members, tracker: Tracker, progress: Progress | None) -> TrainSummary:
    run = describe_run(task.cube, task.datacube, task.validation, members.fits, task.start, task.teacher)
    _warn_of_known_rows(task, run)
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder, "model.onnx")
        summary, scores, held = _make_model(task, members, run, part)
        # What another model of this name was is replaced at once, and only by a model that is whole.
        summary.files.prepare()
        with replacing(summary.model) as model, replacing(summary.network) as network:
            shutil.copyfile(part, model)
            members.network.save(network)
    written = write_results(summary, run, task.labels, scores)
    write_rows(task.datacube, task.validation, summary.files.validation)
    report = summary.folder / "report.html"
    if task.around.report:
        seen = _seen_through(task, members, scores, held, progress)
        written.append(_report(report, task, summary, run, scores, seen))
    else:
        report.unlink(missing_ok=True)  # that of a model before would be taken for this one's
    tracker.figures(summary.figures.to_dict())
    tracker.files(written)
    return summary


def _make_model(task: _Task, members: Members, run: dict[str, Any], part: Path) -> tuple[TrainSummary, Scores, Scores]:
    # The exported model with its card, what it is worth, and its scores of the validation and of the holdout rows.
    files, labels, holdout = task.files, task.labels, members.fits[0].holdout
    settings, name = members.fits[0].settings, files.folder.name
    card = make_card(name, task.datacube, members.network, settings, members.calibration, run, task.around.note)
    card = export(members.network, card, part, task.datacube.read(spread_rows(task.validation, MAX_ROWS)))
    scorer = Scorer(part)
    scores, held = (score_rows(scorer, task.datacube, rows) for rows in (task.validation, holdout))
    points, points_from = _choose_points(task.datacube.labels[holdout], held, labels, scores)
    verdict = _pass_gate(task, scores)
    refused = verdict is not None and not verdict.passed and task.around.gate != "none"
    summary = TrainSummary(
        files=files.refused if refused else files,
        figures=figures(labels, scores, task.settings.threshold),
        points=points,
        points_from=points_from,
        calibration=members.calibration,
        courses=members.courses,
        interrupted=members.interrupted,
        verdict=verdict,
    )
    known = card.metrics | summary.figures.to_dict() | {"operating_points_from": points_from}
    known |= {"gate": verdict.to_dict()} if verdict else {}
    rewrite_card(part, replace(card, metrics=known, operating_points=points))
    return summary, scores, held


def _seen_through(task: _Task, members: Members, scores: Scores, held: Scores, progress: Progress | None) -> Scores:
    # Scores of all rows by networks that have not learnt them, in which suspicious labels show; NaN for the others.
    found = np.full(len(task.datacube), np.nan, np.float32)
    folds, settings = task.around.label_folds, members.fits[0].settings
    found[task.validation], found[members.fits[0].holdout] = scores, held
    if folds and not members.interrupted:
        rows = np.sort(np.concatenate([task.training, task.validation]))
        folder = task.files.folder / "label_folds"
        try:
            found[rows] = score_out_of_fold(task.datacube, rows, settings, folds, folder, progress)
        except KeyboardInterrupt:
            log.warning("interrupted: suspicious labels are sought among the rows alone that the model has not learnt")
    return found


def _report(
    path: Path,
    task: _Task,
    summary: TrainSummary,
    run: dict[str, Any],
    scores: Scores,
    seen: Scores,
) -> Path:
    threshold, scorer = task.settings.threshold, Scorer(summary.model)
    return write_report(
        path,
        Evaluation(Datacube.load(summary.files.validation), scores, threshold, scorer),
        title=summary.model.stem,
        network=summary.network,
        courses=summary.courses,
        run=run | ({"gate": summary.verdict.to_dict()} if summary.verdict else {}),
        screened=Evaluation(task.datacube, seen, threshold, scorer),
        seed=task.settings.seed,
    )


def _choose_points(
    held_labels: Labels, held: Scores, labels: Labels, scores: Scores
) -> tuple[tuple[OperatingPoint, ...], str]:
    if np.bincount(held_labels, minlength=2).min() < ENOUGH_FOR_POINTS:
        # Too few to tell 1 % by. The thresholds then flatter the validation rows a little, and the card says so.
        return operating_points(labels, scores), "validation"
    chosen = operating_points(held_labels, held)
    return tuple(at_threshold(each.name, each.threshold, labels, scores) for each in chosen), "holdout"


def _warn_of_known_rows(task: _Task, run: dict[str, Any]) -> None:
    for other in (task.start, task.teacher):
        known = other.may_know(run) if other else ""
        if other and known:
            log.warning(
                "'%s' may have learnt from the validation rows, for %s: the figures may flatter it and the new model",
                other.card.name,
                known,
            )


def _pass_gate(task: _Task, scores: Scores) -> gate.Verdict | None:
    if task.start is None:
        return None
    before = score_rows(task.start.scorer, task.datacube, task.validation)
    verdict = gate.compare(
        gate.is_right(task.labels, scores, task.settings.threshold),
        gate.is_right(task.labels, before, task.start.card.threshold),
    )
    if verdict.passed or task.around.gate == "none":
        log.info("compared with '%s': %s", task.start.card.name, verdict)
    return verdict


def _refusal(task: _Task, summary: TrainSummary) -> str:
    return (
        f"the new model does not beat '{task.start.card.name if task.start else ''}', which it began from "
        f"({summary.verdict}): it is kept as '{summary.model}', and --gate none takes it all the same"
    )
