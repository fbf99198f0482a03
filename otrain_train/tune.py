"""The search for better settings before a training: trials that Optuna proposes, judged by their loss and their cost.

A trial is a whole training on the same rows, which are split once more as `otrain_train.fit` splits them. It is judged
on the holdout rows; no validation row is looked at. The loss is the log loss that the scores have once their
temperature is set, which needs no threshold; the cost is the multiply-adds of scoring a cutout.
"""

import csv
import hashlib
import json
import logging
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from otrain_infer import __version__
from otrain_infer.atomic import replacing
from otrain_infer.errors import MissingExtraError, UsageError
from otrain_train import checkpoint
from otrain_train.calibrate import MIN_ROWS, fit_temperature
from otrain_train.canvas import save
from otrain_train.cost import multiply_adds
from otrain_train.datacube import Datacube
from otrain_train.fit import FitResult, Progress, checkpoint_path, fit
from otrain_train.network import LEARNING_RATES, build
from otrain_train.settings import TrainSettings
from otrain_train.splits import Rows, group_by
from otrain_train.trial import SEARCHED, Losses, Trial, choose, draw_trials, front, lags, standard_error

log = logging.getLogger(__name__)

WIDTHS = 2.0
"""The width is sought from this fraction of the one that was given to as many times it."""

RATES = 5.0
"""The learning rate likewise."""

METHODS = ("l2", "l2-rows", "robust")
MOST_DROPOUT = 0.6
CHUNK = 256


def tune(
    datacube: Datacube,
    rows: Rows,
    settings: TrainSettings,
    trials: int,
    folder: Path,
    progress: Progress | None = None,
) -> TrainSettings:
    """Search for the width, normalisation, learning rate and dropout that suit some rows.

    The first trial has the settings as they were given. The others are sought around them: widths from half to twice
    as much, learning rates from a fifth to five times as much, dropout from 0 to 0.6, and each normalisation. A
    tree-structured Parzen estimator proposes them from what the trials before them gave (Ozaki et al. 2022, for several
    objectives); the seed and those trials decide what it proposes.

    **Which is taken.** The smallest loss on a few hundred rows is partly luck. So the cheapest network is taken of all
    trials that are no more than one standard error above the smallest loss (the rule of Breiman et al. 1984), where
    the error is that of the difference, on the same rows, nor more than a twentieth of that loss.

    `folder` receives ``tune/trials.json`` and the losses ``tune/trial_1.npy`` and so on, which are the memory of the
    search, and the table ``tune/tune.csv`` and the plot ``tune/tune.png``. Each is written whole or not at all. A
    search that was killed goes on in the middle of the trial where it was when it is called again with the same rows
    and settings; with more trials it goes on after the last; with as many as are done it trains nothing. Other rows or
    settings begin anew.

    Parameters
    ----------
    datacube
        Raw pixels and labels.
    rows
        int64 (n,), which of its rows may be used, validation rows not among them.
    settings
        What is not searched for stays as it is; of several seeds the first counts.
    trials
        How many there shall be in all, 1 or more. One whose loss is no longer a number counts.
    folder
        Of the training that the search precedes.
    progress
        Called with the steps done, all steps, and a few words, after each step.

    Returns
    -------
    TrainSettings
        Those that were given, with what was found.

    Raises
    ------
    UsageError
        When `trials` is no such number, no trial came to an end, or settings make no sense.
    DatacubeError
        When a class has too few rows.
    OutputError
        When something cannot be written.
    MissingExtraError
        When Optuna is not installed.
    """
    if trials < 1:
        raise UsageError(f"a search has 1 trial or more, not {trials}")
    if settings.devices == "hosts":
        raise UsageError(
            "the search for settings runs on one host: give --devices one or all, and train on hosts after it"
        )
    _import_optuna()
    learning_rate = settings.learning_rate or LEARNING_RATES[settings.network]
    given = replace(settings, seeds=(settings.seed,), learning_rate=learning_rate)
    search = _Search(datacube, rows, given, folder / "tune", trials, progress)
    key = _key(datacube, rows, given)
    done = _read(search.folder, key)
    if done:
        log.info("%d of %d trials are done already", min(len(done), trials), trials)
    while len(done) < trials:
        done = [*done, search.run(done)]
        _write(search.folder, key, done)
    chosen = _conclude(search.folder, done)
    log.info("taken after %d trials: %s", len(done), chosen)
    return replace(settings, **chosen.found())


@dataclass(frozen=True, slots=True, eq=False)
class _Search:
    datacube: Datacube
    rows: Rows
    settings: TrainSettings
    folder: Path
    wanted: int
    progress: Progress | None

    def run(self, done: Sequence[Trial]) -> Trial:
        number = len(done) + 1
        found = _propose(done, self.settings)
        settings = replace(self.settings, **found)
        shape = self.datacube.cube.shape[1:]
        cost = multiply_adds(build(settings.network, shape, width=settings.width))
        trial = Trial(number, **found, multiply_adds=cost)
        folder, started = self.folder / f"trial_{number}", time.monotonic()
        try:
            fitted = fit(self.datacube, self.rows, settings, folder, self._report(number))
        except UsageError as error:
            trial = replace(trial, reason=str(error))
        else:
            if fitted.interrupted:
                log.warning("interrupted: trial %d is not counted; the same command goes on from here", number)
                raise KeyboardInterrupt
            losses = _losses(fitted, self.datacube)
            trial = _judge(trial, fitted, losses)
            with replacing(_losses_path(self.folder, number)) as part, part.open("wb") as file:
                np.save(file, losses, allow_pickle=False)
        checkpoint.remove(checkpoint_path(folder, settings.seed))
        with suppress(OSError):  # holds something else, or was never made
            folder.rmdir()
        trial = replace(trial, seconds=round(time.monotonic() - started, 1))
        log.info("trial %d of %d: %s", number, self.wanted, trial)
        return trial

    def _report(self, number: int) -> Progress:
        def report(step: int, steps: int, words: str) -> None:
            if self.progress:
                words = f"trial {number} of {self.wanted} {words}"
                self.progress((number - 1) * steps + step, self.wanted * steps, words)

        return report


def _losses(fitted: FitResult, datacube: Datacube) -> Losses:
    labels = datacube.labels[fitted.holdout]
    weights = np.take(fitted.class_weights, labels)
    enough = np.bincount(labels, minlength=2).min() >= MIN_ROWS
    temperature = fit_temperature(fitted.holdout_logits, labels, weights).temperature if enough else 1.0
    margins = np.diff(fitted.holdout_logits.astype(np.float64), axis=1)[:, 0] / temperature
    losses = np.logaddexp(0.0, np.where(labels == 1, -margins, margins))
    return np.stack([weights, losses]).astype(np.float32)


def _judge(trial: Trial, fitted: FitResult, losses: Losses) -> Trial:
    return replace(
        trial,
        loss=float(np.average(losses[1], weights=losses[0])),
        error=standard_error(*losses),
        auc=fitted.history[fitted.best_epoch - 1]["holdout_auc"],
        best_epoch=fitted.best_epoch,
    )


def _conclude(folder: Path, done: Sequence[Trial]) -> Trial:
    ended = [trial for trial in done if trial.loss is not None]
    if not ended:
        raise UsageError(f"no trial of the search came to an end, the last one because {done[-1].reason}")
    behind = lags(ended, [np.load(_losses_path(folder, trial.number), allow_pickle=False) for trial in ended])
    chosen = choose(ended, behind)
    save(draw_trials(ended, behind, chosen), folder / "tune.png")
    _write_table(folder / "tune.csv", done, dict(zip(ended, behind, strict=True)), chosen)
    return chosen


def _propose(done: Sequence[Trial], settings: TrainSettings) -> dict[str, Any]:
    # The memory of the search is the list of its trials alone: the study is made of them anew for each, and its seed
    # follows from their number, so that a search that was killed goes on as it would have gone on.
    if not done:
        return {name: getattr(settings, name) for name in SEARCHED}
    optuna = _import_optuna()
    space = _space(optuna.distributions, settings)
    with _silenced(optuna):
        seed = int(np.random.SeedSequence([settings.seed, len(done)]).generate_state(1)[0])
        study = optuna.create_study(directions=["minimize", "minimize"], sampler=optuna.samplers.TPESampler(seed=seed))
        for trial in done:
            ended = trial.loss is not None
            study.add_trial(
                optuna.trial.create_trial(
                    state=optuna.trial.TrialState.COMPLETE if ended else optuna.trial.TrialState.PRUNED,
                    params=trial.found(),
                    distributions=space,
                    values=[trial.loss, float(trial.multiply_adds)] if ended else None,
                )
            )
        return dict(study.ask(space).params)


def _space(distributions: Any, settings: TrainSettings) -> dict[str, Any]:
    width, rate = settings.width, settings.learning_rate or 0.0
    methods = list(dict.fromkeys([*METHODS, settings.normalisation]))
    return {
        "width": distributions.FloatDistribution(width / WIDTHS, width * WIDTHS, log=True),
        "normalisation": distributions.CategoricalDistribution(methods),
        "learning_rate": distributions.FloatDistribution(rate / RATES, rate * RATES, log=True),
        "dropout": distributions.FloatDistribution(0.0, max(MOST_DROPOUT, settings.dropout)),
    }


def _import_optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise MissingExtraError("the search for settings needs optuna: pip install 'otrain[tune]'") from None
    return optuna


@contextmanager
def _silenced(optuna: Any) -> Iterator[None]:
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)


def _key(datacube: Datacube, rows: Rows, settings: TrainSettings) -> str:
    about = settings.to_dict()
    for name in ("threshold", "frac", "devices"):  # no trial depends on them, once the rows are known
        del about[name]
    space = [WIDTHS, RATES, METHODS, MOST_DROPOUT]
    digest = hashlib.sha256(json.dumps([__version__, about, space, datacube.cube.shape]).encode())
    for start in range(0, rows.size, CHUNK):
        digest.update(datacube.read(rows[start : start + CHUNK]).data)
    for column in (datacube.labels[rows], group_by(datacube, settings.group_key)[rows], rows):
        digest.update(np.ascontiguousarray(column).tobytes())
    return digest.hexdigest()


def _read(folder: Path, key: str) -> list[Trial]:
    path = folder / "trials.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["key"] != key:
            log.warning("%s is of other rows or settings: the search starts anew", path)
            return []
        done = [Trial(**trial) for trial in content["trials"]]
        for trial in done:
            if trial.loss is not None:
                np.load(_losses_path(folder, trial.number), allow_pickle=False)
        return done
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        if path.exists():
            log.warning("what the search left in %s cannot be read (%s): it starts anew", folder, error)
        return []


def _write(folder: Path, key: str, done: Sequence[Trial]) -> None:
    content = {"key": key, "trials": [asdict(trial) for trial in done]}
    with replacing(folder / "trials.json") as part:
        part.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _losses_path(folder: Path, number: int) -> Path:
    return folder / f"trial_{number}.npy"


def _write_table(path: Path, done: Sequence[Trial], behind: Mapping[Trial, tuple[float, float]], chosen: Trial) -> None:
    names = [*(each.name for each in fields(Trial)), "lag", "lag_error", "front", "taken"]
    best = front(list(behind))
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        for trial in done:
            lag, error = behind.get(trial, (None, None))
            marks = {"lag": lag, "lag_error": error, "front": int(trial in best), "taken": int(trial == chosen)}
            row = asdict(trial) | marks
            writer.writerow({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()})
