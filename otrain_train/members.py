"""The networks of a model: one for each seed, trained one after the other and calibrated as one."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from otrain_train.calibrate import Calibration, fit_temperature, fold_temperature
from otrain_train.datacube import Datacube
from otrain_train.ensemble import join
from otrain_train.epochs import OnEpoch, Progress
from otrain_train.fit import FitResult, fit
from otrain_train.history import Course
from otrain_train.pretrained import Pretrained
from otrain_train.settings import TrainSettings
from otrain_train.splits import Rows

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Members:
    """Trained networks, calibrated, and the one that they are together.

    Attributes
    ----------
    network
        The network itself, or the ensemble, of `otrain_train.ensemble.join`.
    fits
        What each training gave; as many as there are seeds, or fewer where Ctrl-C ended it.
    courses
        How each training went.
    calibration
        Their common temperature, which their weights hold already.
    interrupted
        Whether Ctrl-C ended it.
    """

    network: Any
    fits: list[FitResult]
    courses: tuple[Course, ...]
    calibration: Calibration
    interrupted: bool


def fit_members(
    datacube: Datacube,
    rows: Rows,
    settings: TrainSettings,
    folder: Path,
    start: Pretrained | None = None,
    progress: Progress | None = None,
    on_epoch: OnEpoch | None = None,
    teacher: Pretrained | None = None,
) -> Members:
    """Train a network for each seed, all with the same holdout rows, and calibrate them on these.

    Parameters and errors are those of `otrain_train.fit.fit`; `start` may be an ensemble of as many networks, and
    `teacher` a network or an ensemble, from which all of them learn.

    Returns
    -------
    Members

    Raises
    ------
    KeyboardInterrupt
        When Ctrl-C ends it before the first network has an epoch.
    """
    fits: list[FitResult] = []
    for member in range(len(settings.seeds)):
        try:
            fits.append(_fit_member(datacube, rows, settings, folder, member, start, progress, on_epoch, teacher))
        except KeyboardInterrupt:
            if not fits:
                raise
            break
        if fits[-1].interrupted:
            break
    interrupted = fits[-1].interrupted or len(fits) < len(settings.seeds)
    if interrupted and len(settings.seeds) > 1:
        log.warning("the model is made of %d of %d networks", len(fits), len(settings.seeds))
    calibration = calibrate(datacube, fits)
    network = join([each.model for each in fits])
    courses = (Course(seed, each.history, each.best_epoch) for seed, each in zip(settings.seeds, fits, strict=False))
    return Members(network, fits, tuple(courses), calibration, interrupted)


def calibrate(datacube: Datacube, fits: list[FitResult]) -> Calibration:
    """Find the common temperature of networks on their holdout rows, and fold it into their weights."""
    first = fits[0]
    labels = datacube.labels[first.holdout]
    logits = np.stack([each.holdout_logits for each in fits])
    calibration = fit_temperature(logits, labels, np.take(first.class_weights, labels))
    for each in fits:
        fold_temperature(each.model, calibration.temperature)
    return calibration


def _fit_member(
    datacube: Datacube,
    rows: Rows,
    settings: TrainSettings,
    folder: Path,
    member: int,
    start: Pretrained | None,
    progress: Progress | None,
    on_epoch: OnEpoch | None,
    teacher: Pretrained | None,
) -> FitResult:
    seeds = settings.seeds
    if len(seeds) > 1:
        log.info("network %d of %d, seed %d", member + 1, len(seeds), seeds[member])
        progress = _of_all(progress, member, len(seeds)) if progress else None
        on_epoch = _of_seed(on_epoch, seeds[member]) if on_epoch else None
    network = start.network(member) if start else None
    teachers = teacher.networks if teacher else ()
    return fit(datacube, rows, settings, folder, progress, member, network, on_epoch, teachers)


def _of_all(progress: Progress, member: int, members: int) -> Progress:
    def report(done: int, total: int, words: str) -> None:
        progress(member * total + done, members * total, f"network {member + 1} of {members}, {words}")

    return report


def _of_seed(on_epoch: OnEpoch, seed: int) -> OnEpoch:
    return lambda epoch: on_epoch(epoch | {"seed": float(seed)})
