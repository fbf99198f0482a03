"""The study of sizes end to end, on a small datacube as the original program writes them."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from otrain_train.cli import optimise_dataset_size, train
from otrain_train.learning_curve import fit_curve
from otrain_train.mock import MockSettings, mock_arrays
from otrain_train.pool import Outcome
from otrain_train.settings import NETWORKS, TrainSettings
from otrain_train.size_plots import SizeResults
from otrain_train.size_summary import SizeSummary, file_names
from otrain_train.size_trainings import MEMORY, memory_of
from otrain_train.subsets import LEAST

SHORT = ["--epochs", "1", "--min-steps", "5", "--batch-size", "16", "--learning-rate", "0.003", "--threshold", "0.4"]
SCRIPT = "import sys; from otrain_train.cli import optimise_dataset_size as run; sys.exit(run(sys.argv[1:]))"


def one_hot_cube(path, real, bogus):
    """Write a datacube as the original program does: one-hot labels, one plane, no names of anything."""
    made = mock_arrays(MockSettings(real, bogus, size=24, planes=("DIFF",), seed=2))
    np.savez(path, cube=made.cube, labels=np.eye(2, dtype=np.float32)[made.labels], mags=np.full(len(made), np.nan))
    return path


def options(folder, *more):
    named = ["--cube", str(folder / "c.npz"), "--model-path", str(folder), "--model-name", "a$b"]
    sizes = ["--outdir", str(folder / "out"), "--n_sections", "2", "--repeats", "2", "--processes", "1"]
    return [*named, *sizes, "--frac", "0.2", *SHORT, *more]


def kept(folder):
    found = (folder / "CNN_training" / "a$b_dataset_size").glob("[0-9a-f]*.json")
    return {path.name: path.stat().st_mtime_ns for path in found}


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """A study of 50 cutouts that Ctrl-C ended after its first training."""
    folder = tmp_path_factory.mktemp("study")
    one_hot_cube(folder / "c.npz", 25, 25)
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *options(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
    )
    end = time.monotonic() + 120
    while not kept(folder) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    return folder, process.returncode, out, err, kept(folder)


def test_an_interrupted_study_tells_what_it_has(interrupted):
    folder, code, out, err, before = interrupted
    assert code == 0, err
    assert 1 <= len(before) < 4
    assert f"interrupted: {4 - len(before)} of 4 trainings are left" in out
    assert {path.name for path in (folder / "out").iterdir()} == set(file_names("a$b"))
    assert "Traceback" not in err


@pytest.fixture(scope="module")
def finished(interrupted):
    folder, *_, before = interrupted
    assert optimise_dataset_size(options(folder)) == 0
    return folder, before


def test_it_goes_on_where_it_was(finished, capsys):
    folder, before = finished
    after = kept(folder)
    assert before.items() <= after.items()
    assert len(after) == 4
    names = {path.name for path in (folder / "CNN_training" / "a$b_dataset_size").iterdir()}
    assert names == after.keys()  # no state of a training that is over
    table = (folder / "out" / "a$b_dataset_size.csv").read_bytes()
    began = time.monotonic()
    assert optimise_dataset_size(options(folder)) == 0
    assert time.monotonic() - began < 5  # all is there: nothing is trained
    assert kept(folder) == after
    assert (folder / "out" / "a$b_dataset_size.csv").read_bytes() == table
    printed = capsys.readouterr().out
    assert "4 training(s), each tested on the same 10 rows" in printed
    assert "what they would bring cannot be told, since a curve takes 5 sizes at least, and there are 2" in printed


def test_as_many_sizes_as_asked_for_all_tested_on_the_same_rows(finished):
    folder, _ = finished
    with (folder / "out" / "a$b_dataset_size.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["size"], row["repeat"], row["seed"]) for row in rows] == [
        ("40", "0", "0"), ("22", "0", "0"), ("40", "1", "1"), ("22", "1", "1")
    ]  # fmt: skip
    content = json.loads((folder / "out" / "a$b_dataset_size.json").read_text(encoding="utf-8"))
    assert [each["rows"]["test"] for each in content["trainings"]] == [10] * 4
    assert {each["test"]["tp"] + each["test"]["fn"] for each in content["trainings"]} == {5}
    for each in content["trainings"]:
        assert each["rows"]["learnt_from"] + each["rows"]["holdout"] == each["size"]
        assert (each["epochs"], each["test"]["threshold"]) == (1, 0.4)
    assert content["about"]["dropout"] == 0.3
    for name in file_names("a$b")[:3]:
        assert imread(folder / "out" / name).std() > 0.01


def test_the_first_of_all_rows_is_what_train_makes(finished):
    folder, _ = finished
    arguments = ["--cube", str(folder / "c.npz"), "--model-path", str(folder / "train"), "--model-name", "t"]
    assert train([*arguments, "--frac", "0.2", *SHORT]) == 0
    metrics = json.loads((folder / "train" / "CNN_training" / "t" / "metrics.json").read_text(encoding="utf-8"))
    content = json.loads((folder / "out" / "a$b_dataset_size.json").read_text(encoding="utf-8"))
    first = content["trainings"][0]["test"]
    for name in ("tp", "fp", "mcc", "auc", "log_loss"):
        assert first[name] == pytest.approx(metrics["figures"][name], abs=1e-5), name


@pytest.mark.parametrize(
    ("real", "bogus", "more", "said"),
    [
        (1, 1, [], "at least 2 of each are needed to split them"),
        (0, 30, [], "there are 0 real and 30 bogus cutouts"),
        (8, 30, [], "it takes 10 of each class at least"),
        (25, 25, ["--seed", "1", "2"], "--seed is a single number here"),
        (25, 25, ["--n-sections", "0"], "n-sections is 1 or more, not 0"),
        (25, 25, ["--repeats", "0"], "repeats is 1 or more"),
        (25, 25, ["--tolerance", "0"], "tolerance is a loss of MCC"),
        (25, 25, ["--processes", "0"], "processes is 1 or more"),
        (25, 25, ["--planes", "SCI,REF"], "planes"),
        (25, 25, ["--normalisation", "any"], "normalisation"),
        (25, 25, ["--model-name", "a/b"], "not the name of a file"),
        (25, 25, ["--outdir", "{w}/c.npz"], "nothing can be written"),
        (25, 25, ["--cube", "{w}/none.npz"], "there is no file"),
    ],
)
def test_one_line_for_what_is_wrong(tmp_path, real, bogus, more, said, capsys):
    one_hot_cube(tmp_path / "c.npz", real, bogus)
    assert optimise_dataset_size(options(tmp_path, *(each.format(w=tmp_path) for each in more))) == 2
    error = capsys.readouterr().err.splitlines()
    assert said in error[-1]
    assert len(error) == 1
    assert not (tmp_path / "out").exists()


def test_what_went_wrong_is_told():
    part = {"mcc": None, "f1": 0.0, "accuracy": 0.5, "auc": 0.5, "log_loss": 0.7}
    results = SizeResults.of([{"size": 20, "repeat": 0, "test": part, "learnt_from": part}])
    curve = fit_curve(results.sizes, [1.0], [0], 0.01, np.random.default_rng(0))
    outcome = Outcome({"a": "the loss is no longer a number", "b": "killed"}, True)
    summary = SizeSummary("m", Path("out"), results, curve, 0.01, 4, 10, outcome, ("not calibrated",))
    said = str(summary)
    for words in (
        "interrupted: 3 of 4 trainings are left",
        "2 training(s) failed, the first with: the loss is no longer a number",
        "1 network(s) call all test rows alike: their MCC counts as 0",
        "1 training(s) had warnings, the first of them: not calibrated",
        "smallest acceptable size: 20 rows by the measurements alone",
    ):
        assert words in said


def test_a_network_that_calls_all_alike_counts_as_guessing():
    part = {"mcc": None, "f1": 0.0, "accuracy": 0.5, "auc": 0.5, "log_loss": 0.7}
    records = [{"size": 20, "repeat": repeat, "test": part, "learnt_from": part} for repeat in range(2)]
    results = SizeResults.of(records)
    assert results.undefined == 2
    assert results.test["mcc"].tolist() == [0.0, 0.0]
    assert results.gaps.tolist() == [0.0, 0.0]


def test_the_memory_of_every_network_is_known():
    assert MEMORY.keys() == set(NETWORKS)
    assert memory_of(TrainSettings(width=2.0)) == 2 * MEMORY["lite"]


def test_the_smallest_subset_is_enough_for_a_training():
    from otrain_train.fit import MIN_ROWS

    assert LEAST >= MIN_ROWS
