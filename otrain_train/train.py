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
from otrain_infer.errors import GateError
from otrain_infer.normalise import Normalisation
from otrain_infer.scorer import Scorer, Scores
from otrain_train import checkpoint, gate
from otrain_train.calibrate import Calibration, at_threshold, fit_temperature, fold_temperature, operating_points
from otrain_train.datacube import Datacube
from otrain_train.devices import start as start_devices
from otrain_train.ensemble import join
from otrain_train.epochs import OnEpoch, Progress
from otrain_train.export import MAX_ROWS, export, rewrite_card
from otrain_train.fit import FitResult, check_classes, checkpoint_path, fit
from otrain_train.history import Course
from otrain_train.metrics import figures
from otrain_train.planes import open_in_planes
from otrain_train.pretrained import Pretrained, open_pretrained
from otrain_train.provenance import describe_run, make_card
from otrain_train.results import ENOUGH_FOR_POINTS, ModelFiles, TrainSummary, write_results
from otrain_train.rows import score_rows, spread_rows, usable_rows, write_rows
from otrain_train.settings import RunSettings, TrainSettings
from otrain_train.splits import Rows, group_by, split_rows

__all__ = ["RunSettings", "TrainSettings", "TrainSummary", "fit", "train"]

log = logging.getLogger(__name__)

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

    @property
    def labels(self) -> npt.NDArray[np.int64]:
        return self.datacube.labels[self.validation]


@dataclass(frozen=True, slots=True, eq=False)
class _Trained:
    # The networks as one, calibrated.
    network: Any
    fits: list[FitResult]
    calibration: Calibration
    interrupted: bool


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
        When the file is not a usable datacube, a class has too few cutouts, or they do not fit the pretrained model.
    UsageError
        When a setting makes no sense, or the loss is no longer a number.
    OutputError
        When something cannot be written.
    ModelError
        When the pretrained model cannot be used.
    ParityError
        When the exported model scores otherwise than the network.
    GateError
        When the model does not beat the one it began from. It is kept as ``NAME.refused.onnx`` and ``.keras``, and
        what was there as ``NAME.onnx`` and ``.keras`` stays; the folder is written all the same.
    """
    settings, around = settings or TrainSettings(), around or RunSettings()
    files = ModelFiles.named(Path(model_path), model_name)
    with _own_files(files, settings) as own:
        task = _prepare(Path(cube), own, settings, around)
        trained = _train(task, progress, on_epoch)
        run = describe_run(task.cube, task.datacube, task.validation, trained.fits, task.start)
        summary = _export_and_measure(task, trained, run)
        if not trained.interrupted:
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
    files.protect(cube, around.pretrained)
    start = open_pretrained(around.pretrained) if around.pretrained else None
    settings = start.settle(settings) if start else settings
    Normalisation(settings.normalisation)
    datacube = start.open_cube(cube, around.planes) if start else open_in_planes(cube, around.planes)
    rows = usable_rows(datacube)
    check_classes(datacube.labels[rows], MIN_ROWS, f"in {cube}")
    files.prepare()
    labels, groups = datacube.labels[rows], group_by(datacube, settings.group_key)[rows]
    training, validation = (rows[part] for part in split_rows(labels, groups, settings.frac, settings.seed))
    return _Task(cube, datacube, training, validation, settings, around, files, start)


def _train(task: _Task, progress: Progress | None, on_epoch: OnEpoch | None) -> _Trained:
    fits: list[FitResult] = []
    seeds = task.settings.seeds
    for member in range(len(seeds)):
        try:
            fits.append(_fit_member(task, member, progress, on_epoch))
        except KeyboardInterrupt:
            if not fits:
                raise
            break
        if fits[-1].interrupted:
            break
    interrupted = fits[-1].interrupted or len(fits) < len(seeds)
    if interrupted and len(seeds) > 1:
        log.warning("the model is made of %d of %d networks", len(fits), len(seeds))
    first = fits[0]
    labels = task.datacube.labels[first.holdout]
    logits = np.stack([each.holdout_logits for each in fits])
    calibration = fit_temperature(logits, labels, np.take(first.class_weights, labels))
    for each in fits:
        fold_temperature(each.model, calibration.temperature)
    return _Trained(join([each.model for each in fits]), fits, calibration, interrupted)


def _fit_member(task: _Task, member: int, progress: Progress | None, on_epoch: OnEpoch | None) -> FitResult:
    seeds = task.settings.seeds
    if len(seeds) > 1:
        log.info("network %d of %d, seed %d", member + 1, len(seeds), seeds[member])
        progress = _of_all(progress, member, len(seeds)) if progress else None
        on_epoch = _of_seed(on_epoch, seeds[member]) if on_epoch else None
    start = task.start.network(member) if task.start else None
    return fit(task.datacube, task.training, task.settings, task.files.folder, progress, member, start, on_epoch)


def _of_all(progress: Progress, member: int, members: int) -> Progress:
    def report(done: int, total: int, words: str) -> None:
        progress(member * total + done, members * total, f"network {member + 1} of {members}, {words}")

    return report


def _of_seed(on_epoch: OnEpoch, seed: int) -> OnEpoch:
    return lambda epoch: on_epoch(epoch | {"seed": float(seed)})


def _export_and_measure(task: _Task, trained: _Trained, run: dict[str, Any]) -> TrainSummary:
    files, validation, labels = task.files, task.validation, task.labels
    with replacing(files.model) as part:
        network, calibration = trained.network, trained.calibration
        settings, name = trained.fits[0].settings, files.folder.name
        card = make_card(name, task.datacube, network, settings, calibration, run, task.around.note)
        card = export(network, card, part, task.datacube.read(spread_rows(validation, MAX_ROWS)))
        scorer = Scorer(part)
        scores = score_rows(scorer, task.datacube, validation)
        points, points_from = _choose_points(scorer, task.datacube, trained.fits[0].holdout, labels, scores)
        verdict = _pass_gate(task, scores, run)
        refused = verdict is not None and not verdict.passed and task.around.gate != "none"
        summary = TrainSummary(
            files=files.refused if refused else files,
            figures=figures(labels, scores, task.settings.threshold),
            points=points,
            points_from=points_from,
            calibration=calibration,
            courses=_courses(trained, task.settings),
            interrupted=trained.interrupted,
            verdict=verdict,
        )
        known = card.metrics | summary.figures.to_dict() | {"operating_points_from": points_from}
        known |= {"gate": verdict.to_dict()} if verdict else {}
        rewrite_card(part, replace(card, metrics=known, operating_points=points))
        write_results(summary, run, labels, scores)
        write_rows(task.datacube, validation, files.validation)
        with replacing(summary.network) as file:
            network.save(file)
        if refused:
            _keep_refused(part, summary, task)
    return summary


def _courses(trained: _Trained, settings: TrainSettings) -> tuple[Course, ...]:
    # An interrupted ensemble has fewer networks than seeds.
    return tuple(
        Course(seed, each.history, each.best_epoch) for seed, each in zip(settings.seeds, trained.fits, strict=False)
    )


def _choose_points(
    scorer: Scorer, datacube: Datacube, holdout: Rows, labels: npt.NDArray[np.int64], scores: Scores
) -> tuple[tuple[OperatingPoint, ...], str]:
    held = datacube.labels[holdout]
    if np.bincount(held, minlength=2).min() < ENOUGH_FOR_POINTS:
        # Too few to tell 1 % by. The thresholds then flatter the validation rows a little, and the card says so.
        return operating_points(labels, scores), "validation"
    chosen = operating_points(held, score_rows(scorer, datacube, holdout))
    return tuple(at_threshold(each.name, each.threshold, labels, scores) for each in chosen), "holdout"


def _pass_gate(task: _Task, scores: Scores, run: dict[str, Any]) -> gate.Verdict | None:
    if task.start is None:
        return None
    known = task.start.may_know(run)
    if known:
        log.warning(
            "'%s' may have learnt from the validation rows, for %s: the figures may flatter it and the new model",
            task.start.card.name,
            known,
        )
    before = score_rows(task.start.scorer, task.datacube, task.validation)
    verdict = gate.compare(
        gate.is_right(task.labels, scores, task.settings.threshold),
        gate.is_right(task.labels, before, task.start.card.threshold),
    )
    log.info("compared with '%s': %s", task.start.card.name, verdict)
    return verdict


def _keep_refused(part: Path, summary: TrainSummary, task: _Task) -> None:
    # Raised within the block that makes the model, the error leaves what was there under its name as it was. The
    # states of the training stay too: with --gate none it is over at once.
    with replacing(summary.model) as copy:
        shutil.copyfile(part, copy)
    raise GateError(
        f"the new model does not beat '{task.start.card.name if task.start else ''}', which it began from "
        f"({summary.verdict}): it is kept as '{summary.model}', and --gate none takes it all the same"
    )
