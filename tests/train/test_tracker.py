"""What trackers are told, read back with the reader of each."""

import logging
import math
import os
import resource
import struct
import subprocess
import sys
import threading
from contextlib import contextmanager
from types import ModuleType

import pytest

from otrain_infer.errors import MissingExtraError, OutputError, UsageError
from otrain_train.canvas import new_figure, save
from otrain_train.settings import TRACKERS, TrainSettings
from otrain_train.tracker import BACKENDS, open_tracker

KINDS = tuple(BACKENDS)
LOSSES, DOUBLE = (0.5, 0.25, 0.125), (1.0, 0.5, 0.25)
FIGURES = {"auc": 0.875, "n": 7, "mcc": math.nan, "f1": None, "name": "m", "calibration": {"temperature": 1.5}}


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """The folder of a training that every tracker was told about, in one whose name holds what names may hold."""
    folder = tmp_path_factory.mktemp("run") / "CNN_training" / "a$b é#%"
    plot = save(new_figure(2, 1), folder.parent / "plot.png")
    text = folder.parent / "summary.txt"
    text.write_text("all is well\n")
    before = set(threading.enumerate())
    for kind in KINDS:
        with open_tracker(kind, folder, "mine") as tracker:
            tracker.settings(TrainSettings(seeds=(1, 2)).to_dict() | {"note": "x" * 5000})
            for epoch, loss in enumerate(LOSSES, start=1):
                tracker.epoch({"epoch": float(epoch), "loss": loss, "holdout_auc": math.nan})
            for epoch, loss in enumerate(LOSSES, start=1):
                tracker.epoch({"epoch": float(epoch), "loss": 2 * loss, "seed": 7.0})
            tracker.figures(FIGURES)
            tracker.files([plot, text])
    assert set(threading.enumerate()) == before
    return folder


@contextmanager
def full_disk():
    """No file can grow, as when a disk is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def events_of(folder):
    # TensorBoard reads without TensorFlow, which takes seconds to start, where it finds this module.
    sys.modules.setdefault("tensorboard.compat.notf", ModuleType("notf"))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    return events.Reload()


def test_tensorboard_reads_what_it_was_told(told):
    events = events_of(told)
    assert [(each.step, each.value) for each in events.Scalars("training/loss")] == list(enumerate(LOSSES, start=1))
    assert [(each.step, each.value) for each in events.Scalars("training_seed_7/loss")] == list(
        enumerate(DOUBLE, start=1)
    )
    assert [(each.step, each.value) for each in events.Scalars("figures/auc")] == [(3, 0.875)]
    assert events.Tags()["images"] == ["plot"]
    (image,) = events.Images("plot")
    assert (image.width, image.height) == (240, 120)
    assert image.encoded_image_string == (told.parent / "plot.png").read_bytes()
    text = events.Tensors("settings")[0].tensor_proto.string_val[0].decode()
    assert "| seeds | 1 2 |\n" in text
    scalars = {"training/loss", "training_seed_7/loss", "figures/auc", "figures/n", "figures/calibration/temperature"}
    assert set(events.Tags()["scalars"]) == scalars


def test_tensorboard_shows_the_settings_as_hyperparameters(told):
    from tensorboard.plugins.hparams import plugin_data_pb2

    known = events_of(told).SummaryMetadata("_hparams_/session_start_info")
    content = plugin_data_pb2.HParamsPluginData.FromString(known.plugin_data.content)
    found = content.session_start_info.hparams
    assert (found["epochs"].number_value, found["network"].string_value) == (10, "lite")
    assert found["xla"].bool_value is False


def test_a_training_begun_anew_replaces_its_curve_and_one_gone_on_with_continues_it(tmp_path):
    def train(epochs, loss):
        with open_tracker("tensorboard", tmp_path, "m") as tracker:
            for epoch in epochs:
                tracker.epoch({"epoch": epoch, "loss": loss})

    def curve():
        return [(each.step, each.value) for each in events_of(tmp_path).Scalars("training/loss")]

    train((1, 2), 1.0)
    train((3, 4), 2.0)
    assert curve() == [(1, 1), (2, 1), (3, 2), (4, 2)]
    train((1, 2), 3.0)
    assert curve() == [(1, 3), (2, 3)]


def test_mlflow_reads_what_it_was_told(told):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{told / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("otrain").experiment_id])
    assert (run.info.run_name, run.info.status) == ("mine", "FINISHED")
    history = client.get_metric_history(run.info.run_id, "training/loss")
    assert sorted((each.step, each.value) for each in history) == list(enumerate(LOSSES, start=1))
    assert run.data.params["seeds"] == "1 2"
    assert len(run.data.params["note"]) == 500
    figures = {"figures/auc": 0.875, "figures/n": 7, "figures/calibration/temperature": 1.5}
    assert run.data.metrics == {"training/loss": LOSSES[-1], "training_seed_7/loss": DOUBLE[-1], **figures}
    assert sorted(each.path for each in client.list_artifacts(run.info.run_id)) == ["plot.png", "summary.txt"]
    assert (told / "mlflow_files").is_dir()


def records_of(path):
    """The records of an offline run: the log format of LevelDB after a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts = path.read_bytes(), 7, b""
    while at < len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(parts)
            parts = b""


def test_wandb_wrote_an_offline_run_with_all_it_was_told(told):
    (run,) = (told / "wandb").glob("offline-run-*")
    records = list(records_of(next(run.glob("*.wandb"))))
    (about,) = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    assert (about.project, about.display_name) == ("otrain", "mine")
    kinds = {record.WhichOneof("record_type") for record in records}
    assert "stats" not in kinds
    history = [{item.nested_key[0]: item.value_json for item in each.history.item} for each in records]
    for key, losses in (("training/loss", LOSSES), ("training_seed_7/loss", DOUBLE)):
        rows = [row for row in history if key in row]
        assert [(int(row["epoch"]), float(row[key])) for row in rows] == list(enumerate(losses, start=1))
    config = {item.key: item.value_json for each in records for item in each.config.update}
    assert (config["seeds"], config["epochs"]) == ('"1 2"', "10")
    assert {each.name for each in (run / "files").iterdir()} >= {"plot.png", "summary.txt"}


def test_wandb_leaves_no_process_behind(told):
    listed = subprocess.run(
        ["ps", "-o", "args", "--ppid", str(os.getpid())], capture_output=True, text=True, check=True
    )
    assert "wandb-core" not in listed.stdout


def test_no_tracker_is_told_nothing_and_writes_nothing(tmp_path):
    with open_tracker("none", tmp_path / "folder", "m") as tracker:
        tracker.settings({})
        tracker.epoch({"epoch": 1, "loss": 1})
        tracker.figures(FIGURES)
        tracker.files([tmp_path / "nowhere.png"])
    assert not list(tmp_path.iterdir())


def test_a_disk_that_is_full_costs_one_warning(tmp_path, caplog):
    with open_tracker("tensorboard", tmp_path, "m") as tracker:
        tracker.epoch({"epoch": 1, "loss": 1.0})
        with full_disk():
            tracker.epoch({"epoch": 2, "loss": 0.5})
            tracker.figures(FIGURES)
        tracker.epoch({"epoch": 3, "loss": 0.25})
    (warning,) = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert "tensorboard is told no more, and the training goes on without it ([Errno 27]" in warning.getMessage()
    assert [each.step for each in events_of(tmp_path).Scalars("training/loss")] == [1]


def test_mlflow_survives_a_full_disk_and_a_training_that_fails(told, tmp_path, caplog):
    from mlflow import MlflowClient

    link = tmp_path / "again"
    link.symlink_to(told)
    tracker = open_tracker("mlflow", link, "failing")
    with pytest.raises(ZeroDivisionError), tracker:
        with full_disk():
            tracker.epoch({"epoch": 1, "loss": 1.0})
        tracker.epoch({"epoch": 2, "loss": 1.0})
        raise ZeroDivisionError
    (warning,) = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert warning.getMessage().endswith("the training goes on without it (disk I/O error)")
    client = MlflowClient(f"sqlite:///{told / 'mlflow.db'}")
    (experiment,) = [each for each in client.search_experiments() if each.name == "otrain"]
    (run,) = [each for each in client.search_runs([experiment.experiment_id]) if each.info.run_name == "failing"]
    assert (run.info.status, run.data.metrics) == ("FAILED", {})


def test_a_file_that_is_missing_costs_one_warning(tmp_path, caplog):
    with open_tracker("tensorboard", tmp_path, "m") as tracker:
        tracker.files([tmp_path / "nowhere.png", tmp_path / "neither.png"])
    assert len(caplog.records) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_package_that_is_missing_is_named_with_its_extra(kind, tmp_path, monkeypatch):
    for name in ("tensorboard.compat.proto.event_pb2", "mlflow", "wandb"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=rf"the tracker {kind} needs {kind}: pip install 'otrain\[{kind}\]'"):
        open_tracker(kind, tmp_path, "m")


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_that_cannot_be_made_is_told_in_a_sentence(kind, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=f"the tracker {kind} cannot be opened"):
        open_tracker(kind, tmp_path / "file" / "folder", "m")


def test_an_unknown_tracker_is_refused(tmp_path):
    assert set(TRACKERS) == {"none", *KINDS}
    with pytest.raises(UsageError, match="not neptune"):
        open_tracker("neptune", tmp_path, "m")


def test_what_mlflow_cannot_write_to_is_told(tmp_path):
    with pytest.raises(UsageError, match="for the '\\?' in its name"):
        open_tracker("mlflow", tmp_path / "a?b", "m")


def test_wandb_does_not_ask_for_a_login(tmp_path, monkeypatch):
    for name in ("HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(UsageError, match="nobody is logged in: run wandb login, or set WANDB_MODE=offline"):
        open_tracker("wandb", tmp_path, "m")


def test_nothing_is_started_before_it_is_asked_for():
    code = (
        "import otrain_train.tracker, sys; print({'wandb', 'mlflow', 'tensorboard', 'tensorflow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
