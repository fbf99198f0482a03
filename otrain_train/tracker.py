"""Trackers: settings and figures of a training sent to TensorBoard, MLflow or Weights & Biases as it goes."""

import logging
import math
import os
import shutil
import socket
import struct
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from otrain_infer import __version__
from otrain_infer.errors import MissingExtraError, OtrainError, OutputError, UsageError
from otrain_train.settings import TRACKERS

log = logging.getLogger(__name__)

PROJECT = "otrain"
"""Experiment of MLflow and project of Weights & Biases, unless their own settings name another."""

LONGEST = 500
"""Characters of a setting that every tracker takes."""

SIGNATURE = b"\x89PNG\r\n\x1a\n"

# Nobody but the user is told anything, and nobody is kept waiting for minutes.
ENVIRONMENT = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "WANDB_ERROR_REPORTING": "false",
}


class Backend(Protocol):
    """What a tracker of some kind can do; whatever goes wrong is raised."""

    def settings(self, settings: dict[str, bool | float | str]) -> None:
        """Take the settings."""
        ...

    def numbers(self, numbers: dict[str, float], step: int) -> None:
        """Take figures after some epoch."""
        ...

    def file(self, path: Path) -> None:
        """Take a file."""
        ...

    def close(self, failed: bool) -> None:
        """End it."""
        ...


class Tracker:
    """Is told about a training and passes it on; once it cannot, it says so in the log and is silent from then on.

    A context manager: made by `open_tracker`, closed when its block ends.
    """

    def __init__(self, kind: str, backend: Backend | None) -> None:
        self.kind = kind
        self._backend = backend
        self._works = backend is not None
        self._epoch = 0

    def settings(self, settings: Mapping[str, Any]) -> None:
        """Tell the settings: numbers, texts, lists of either."""
        plain = {key: _plain(value) for key, value in settings.items()}
        self._tell("settings", plain)

    def epoch(self, row: Mapping[str, float]) -> None:
        """Tell the figures after an epoch; with them come ``epoch``, from 1, and ``seed`` where there are several."""
        self._epoch = int(row["epoch"])
        prefix = f"training_seed_{row['seed']:.0f}/" if "seed" in row else "training/"
        told = {key: value for key, value in row.items() if key not in ("epoch", "seed")}
        numbers = dict(_numbers(told, prefix))
        self._tell("numbers", numbers, self._epoch)

    def figures(self, figures: Mapping[str, Any]) -> None:
        """Tell figures that hold for the whole training; those that are no finite number are left out."""
        numbers = dict(_numbers(figures, "figures/"))
        self._tell("numbers", numbers, self._epoch)

    def files(self, paths: Iterable[Path]) -> None:
        """Hand over files, such as plots."""
        for path in paths:
            self._tell("file", path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._works = self._backend is not None
        self._tell("close", kind is not None)
        self._backend = None

    def _tell(self, what: str, *content: Any) -> None:
        if self._backend is None or not self._works:
            return
        try:
            with _quietly():
                getattr(self._backend, what)(*content)
        except Exception as error:
            # A disk or a network that fails must not cost the training.
            self._works = False
            log.warning("%s is told no more, and the training goes on without it (%s)", self.kind, _reason(error))
            log.debug("", exc_info=True)


def open_tracker(kind: str, folder: Path, name: str) -> Tracker:
    """Open a tracker for one training.

    Nothing leaves the machine unless the user has told the tracker's own package where to:
    ``tensorboard`` writes event files in ``tensorboard/`` of the folder. ``mlflow`` writes a database ``mlflow.db`` and
    files in ``mlflow_files/``, unless MLFLOW_TRACKING_URI names a server; MLFLOW_EXPERIMENT_NAME is obeyed. ``wandb``
    writes an offline run in ``wandb/``, to be sent later with ``wandb sync``, unless WANDB_MODE says otherwise;
    WANDB_PROJECT is obeyed.

    Parameters
    ----------
    kind
        One of ``none``, ``tensorboard``, ``mlflow`` and ``wandb``.
    folder
        Of the training; it is made.
    name
        Of the model.

    Returns
    -------
    Tracker
        To be used in a with statement.

    Raises
    ------
    UsageError
        When there is no such tracker, or it would have to ask for a login.
    MissingExtraError
        When its package is not installed.
    OutputError
        When it cannot be opened.
    """
    if kind not in TRACKERS:
        raise UsageError(f"tracker is one of {', '.join(TRACKERS)}, not {kind}")
    if kind == "none":
        return Tracker(kind, None)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _quietly():
            return Tracker(kind, BACKENDS[kind](folder.resolve(), name))
    except OtrainError:
        raise
    except ImportError as error:
        missing = (error.name or kind).partition(".")[0]
        raise MissingExtraError(f"the tracker {kind} needs {missing}: pip install 'otrain[{kind}]'") from error
    except Exception as error:
        raise OutputError(f"the tracker {kind} cannot be opened ({_reason(error)})") from error


class _TensorBoard:
    """Event files, written record by record: no thread, and no TensorFlow, which its own writer would start."""

    def __init__(self, folder: Path, name: str) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._name, self._event, self._started = name, Event, False
        path = folder / "tensorboard" / f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"
        path.parent.mkdir(exist_ok=True)
        self._records = RecordWriter(path.open("xb", buffering=0))
        self._write(file_version="brain.Event:2")

    def settings(self, settings: dict[str, bool | float | str]) -> None:
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb
        from tensorboard.plugins.text.summary_v2 import text_pb

        rows = "".join(f"| {key} | {value} |\n" for key, value in settings.items())
        self._write(summary=text_pb("settings", f"| setting | value |\n|---|---|\n{rows}"))
        self._write(summary=hparams_pb(settings, trial_id=self._name))

    def numbers(self, numbers: dict[str, float], step: int) -> None:
        if not self._started:
            # What an earlier run of the same training, now begun anew or gone on with, said of these epochs is void.
            self._write(step=step, session_log={"status": "START"})
            self._started = True
        values = [{"tag": tag, "simple_value": value} for tag, value in numbers.items()]
        self._write(step=step, summary={"value": values})

    def file(self, path: Path) -> None:
        content = path.read_bytes()
        if content.startswith(SIGNATURE):
            width, height = struct.unpack_from(">II", content, len(SIGNATURE) + 8)
            image = {"height": height, "width": width, "colorspace": 3, "encoded_image_string": content}
            self._write(summary={"value": [{"tag": path.stem, "image": image}]})

    def close(self, _failed: bool) -> None:
        self._records.close()

    def _write(self, **content: Any) -> None:
        self._records.write(self._event(wall_time=time.time(), **content).SerializeToString())


class _MLflow:
    """One run in a database of its own, or where MLFLOW_TRACKING_URI says."""

    def __init__(self, folder: Path, name: str) -> None:
        from mlflow import MlflowClient

        given = os.environ.get("MLFLOW_TRACKING_URI")
        if not given and "?" in str(folder):
            raise UsageError(f"mlflow cannot write in '{folder}', for the '?' in its name: take another")
        self._client = MlflowClient(given or f"sqlite:///{folder / 'mlflow.db'}")
        title = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self._client.get_experiment_by_name(title)
        place = None if given else (folder / "mlflow_files").as_uri()
        number = experiment.experiment_id if experiment else self._client.create_experiment(title, place)
        self._run = self._client.create_run(number, run_name=name, tags={"otrain": __version__}).info.run_id

    def settings(self, settings: dict[str, bool | float | str]) -> None:
        from mlflow.entities import Param

        self._client.log_batch(self._run, params=[Param(key, str(value)) for key, value in settings.items()])

    def numbers(self, numbers: dict[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = round(time.time() * 1000)
        self._client.log_batch(self._run, [Metric(key, value, now, step) for key, value in numbers.items()])

    def file(self, path: Path) -> None:
        self._client.log_artifact(self._run, str(path))

    def close(self, failed: bool) -> None:
        self._client.set_terminated(self._run, "FAILED" if failed else "FINISHED")


class _WandB:
    """One run of Weights & Biases, offline unless WANDB_MODE says otherwise."""

    def __init__(self, folder: Path, name: str) -> None:
        import wandb

        mode: Any = os.environ.get("WANDB_MODE", "offline")
        if mode not in ("offline", "dryrun", "disabled") and not wandb.login(prompt=False):
            raise UsageError(
                "wandb is to be online and nobody is logged in: run wandb login, or set WANDB_MODE=offline"
            )
        # Neither the terminal nor the load of the machine nor its packages are recorded.
        unasked = {"x_disable_meta": True, "x_disable_stats": True, "x_disable_machine_info": True}
        settings = wandb.Settings(
            console="off", disable_git=True, silent=True, x_save_requirements=False, init_timeout=30, **unasked
        )
        project = os.environ.get("WANDB_PROJECT", PROJECT)
        self._package = wandb
        self._run = wandb.init(project=project, dir=str(folder), name=name, mode=mode, settings=settings)
        # Its own count of steps only rises; epochs begin again with each member of an ensemble.
        self._run.define_metric("*", step_metric="epoch")

    def settings(self, settings: dict[str, bool | float | str]) -> None:
        self._run.config.update({**settings, "otrain": __version__})

    def numbers(self, numbers: dict[str, float], step: int) -> None:
        self._run.log({**numbers, "epoch": step})

    def file(self, path: Path) -> None:
        copy = Path(self._run.dir) / path.name
        shutil.copyfile(path, copy)
        self._run.save(str(copy), base_path=self._run.dir, policy="now")

    def close(self, failed: bool) -> None:
        try:
            self._run.finish(exit_code=int(failed))
        finally:
            self._package.teardown()


BACKENDS: dict[str, Callable[[Path, str], Backend]] = {"tensorboard": _TensorBoard, "mlflow": _MLflow, "wandb": _WandB}


@contextmanager
def _quietly() -> Iterator[None]:
    # What these packages have to say to each other (deprecations, tables made) is nothing to who trains.
    ours = {key: value for key, value in ENVIRONMENT.items() if key not in os.environ}
    os.environ.update(ours)
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
                warnings.simplefilter("ignore", category)
            yield
    finally:
        logging.disable(disabled)
        for key in ours:
            os.environ.pop(key, None)


def _plain(value: Any) -> bool | float | str:
    if isinstance(value, bool | int | float):
        return value
    text = " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def _numbers(figures: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    for key, value in figures.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            yield f"{prefix}{key}", float(value)


def _reason(error: BaseException) -> str:
    # What it all began with says most: that a disk is full, that a server refuses.
    while error.__cause__:
        error = error.__cause__
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:LONGEST]
