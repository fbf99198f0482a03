"""The training commands end to end, and what they refuse."""

import subprocess
import sys

import numpy as np
import pytest

from otrain_infer.cli import infer
from otrain_infer.scorer import Scorer
from otrain_infer.table import read_table
from otrain_train.cli import convert, mock, optimise_dataset_size, train
from otrain_train.cli_evaluate import diagnostics, grad_cam, plot_results
from otrain_train.cli_export import export
from otrain_train.datacube import Datacube
from otrain_train.evaluation import evaluate_file
from otrain_train.network import build

SHORT = ["--epochs", "2", "--min-steps", "5", "--learning-rate", "0.001"]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Mock cutouts, their datacube and a model, made by the commands."""
    folder = tmp_path_factory.mktemp("work")
    cutouts = ["--output", str(folder / "sorted"), "--n-true", "60", "--n-false", "90", "--size", "24", "--seed", "3"]
    assert mock(cutouts) == 0
    planes = ["--planes", "SCI,DIFF", "--frac_true", "all"]
    assert convert(["--cutouts", str(folder / "sorted"), "--path", str(folder), "--cube", "c", *planes]) == 0
    named = ["--model-path", str(folder), "--model-name", "a$b"]
    assert train(["--cube", str(folder / "c.npz"), *named, "--note", "Short.", *SHORT]) == 0
    return folder


def test_from_mock_cutouts_to_scores(workspace):
    model = workspace / "CNN_training" / "a$b.onnx"
    card = Scorer(model).card
    assert (card.planes, card.size) == (("SCI", "DIFF"), (24, 24))
    assert card.description.startswith("Short. Trained on")
    assert card.training["settings"]["learning_rate"] == 0.001
    output = workspace / "s.ecsv"
    assert infer(["--cutouts", str(workspace / "sorted" / "true"), "--model", str(model), "--output", str(output)]) == 0
    table = read_table(output)
    assert len(table) == 60
    assert np.isfinite(table["label1"]).all()
    assert (workspace / "CNN_training" / "a$b" / "summary.txt").read_text().startswith("2")


def test_the_datacube_scores_as_the_files_do(workspace):
    model = str(workspace / "CNN_training" / "a$b.onnx")
    cube, output = workspace / "c.npz", str(workspace / "cube.fits")
    assert infer(["--cutouts", str(cube), "--model", model, "--output", output]) == 0
    names = [str(workspace / "sorted" / file) for file in Datacube.load(cube).files]
    assert infer(["--cutouts", *names, "--model", model, "--output", str(workspace / "files.fits")]) == 0
    scores = [np.asarray(read_table(workspace / name)["label1"]) for name in ("cube.fits", "files.fits")]
    assert np.array_equal(*scores)


def test_figures_of_what_a_model_has_learnt_are_said_to_flatter(workspace, caplog):
    model = workspace / "CNN_training" / "a$b.onnx"
    evaluate_file(workspace / "CNN_training" / "a$b" / "validation_set" / "cube_validation.npz", model)
    assert "flatter" not in caplog.text
    evaluate_file(workspace / "c.npz", model)
    assert "a$b/validation_set/cube_validation.npz" in caplog.text


def test_a_card_says_all_that_an_export_needs(workspace, capsys):
    network, model = workspace / "CNN_training" / "a$b.keras", workspace / "CNN_training" / "a$b.onnx"
    output = workspace / "again.onnx"
    assert export([str(network), "--card", str(model), "--output", str(output)]) == 0
    assert "on 6 cutouts" in capsys.readouterr().out
    ours, theirs = Scorer(output), Scorer(model)
    assert ours.card.normalisation == theirs.card.normalisation
    assert ours.card.operating_points == theirs.card.operating_points
    assert ours.card.reference == theirs.card.reference
    golden = theirs.card.golden
    np.testing.assert_allclose(ours.score_pixels(golden.pixels), golden.scores, atol=1e-6)
    assert export([str(network), "--card", str(model), "--output", str(output), "--threshold", "0.1"]) == 0
    assert Scorer(output).card.threshold == 0.1
    assert export([str(network), "--card", str(model), "--output", str(output), "--name", "b"]) == 2
    assert "--card says all that --name would" in capsys.readouterr().err


def test_a_card_is_not_given_to_another_network(workspace, tmp_path, capsys):
    model = workspace / "CNN_training" / "a$b.onnx"
    build("lite", Scorer(model).card.shape, seed=9).save(tmp_path / "other.keras")
    output = tmp_path / "out.onnx"
    assert export([str(tmp_path / "other.keras"), "--card", str(model), "--output", str(output)]) == 2
    assert "gives other scores: name the Keras file" in capsys.readouterr().err
    assert not output.exists()


def test_a_foreign_network_says_what_is_taken_for_granted(workspace, capsys):
    network = workspace / "CNN_training" / "a$b.keras"
    assert export([str(network), "--output", str(workspace / "f.onnx"), "--planes", "SCI,DIFF"]) == 0
    printed = capsys.readouterr()
    assert "no --normalisation was given, taking robust" in printed.err
    assert "made-up cutouts" in printed.out


@pytest.mark.parametrize(
    ("command", "options", "said"),
    [
        (export, ["{w}/CNN_training/a$b.keras", "--output", "{w}/CNN_training/a$b.keras"], "is one of the inputs"),
        (export, ["{w}/CNN_training/a$b.keras", "--output", ""], "is not the name of a file"),
        (export, ["{w}/none.keras", "--output", "{w}/x.onnx", "--planes", "DIFF", "--normalisation", "l2"], "no model"),
        (train, ["--cube", "{w}/none.npz", "--model-path", "{w}", "--model-name", "x"], "there is no file"),
        (train, ["--cube", "{w}/c.npz", "--model-path", "{w}", "--model-name", "a/b"], "not the name of a file"),
        (train, ["--cube", "{w}/c.npz", "--model-path", "{w}", "--model-name", "x", "--seed", "4294967296"], "seed"),
        (train, ["--cube", "{w}/c.npz", "--model-path", "{w}", "--model-name", "x", "--frac", "1"], "frac"),
        (train, ["--cube", "{v}", "--model-path", "{w}", "--model-name", "a$b", *SHORT], "would be replaced"),
        (convert, ["--cutouts", "{w}/sorted", "--cube", ""], "name of the datacube"),
        (convert, ["--cutouts", "{w}/sorted", "--cube", "x", "--threads", "0"], "1 or more"),
        (convert, ["--cutouts", "{w}/sorted", "--cube", "x", "--planes", "NEW"], "planes"),
        (mock, ["--output", "{w}/m", "--size", "0"], "too small"),
    ],
)
def test_one_line_for_what_is_wrong(workspace, command, options, said, capsys):
    validation = workspace / "CNN_training" / "a$b" / "validation_set" / "cube_validation.npz"
    before = {path: path.stat().st_mtime_ns for path in workspace.rglob("*") if path.is_file()}
    code = command([each.format(w=workspace, v=validation) for each in options])
    lines = [line for line in capsys.readouterr().err.splitlines() if "was given, taking" not in line]
    assert code == 2
    assert said in lines[-1]
    assert not any("Traceback" in line for line in lines)
    assert {path: path.stat().st_mtime_ns for path in workspace.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (export, ["m.keras", "--output", "m.onnx", "--threshold", "nan"]),
        (export, ["m.keras", "--output", "m.onnx", "--threshold", "2"]),
        (convert, ["--cutouts", "x", "--cube", "x", "--frac-true", "1.5"]),
        (convert, ["--cutouts", "x", "--cube", "x", "--frac-true", "alll"]),
        (train, ["--cube", "x", "--model-path", "x"]),
    ],
)
def test_wrong_usage_is_exit_2_in_one_line(command, options, capsys):
    with pytest.raises(SystemExit) as caught:
        command(options)
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert "_" not in said.partition(":")[2]


@pytest.mark.parametrize("option", ["--model-path", "--model-name"])
def test_a_name_that_no_file_can_have_is_one_line(workspace, option, capsys):
    named = {"--model-path": str(workspace), "--model-name": "n"} | {option: "x" * 300}
    assert train(["--cube", str(workspace / "c.npz"), *(each for pair in named.items() for each in pair), *SHORT]) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if "too long" in line)
    assert "xxx" in line


def test_a_damaged_datacube_is_refused_by_every_command(workspace, tmp_path, capsys):
    pixels = Datacube.load(workspace / "c.npz").cube.tobytes()
    content = bytearray((workspace / "c.npz").read_bytes())
    content[content.index(pixels[:4096]) + 1000] ^= 1
    cube = tmp_path / "damaged.npz"
    cube.write_bytes(content)
    network, model = (str(workspace / "CNN_training" / f"a$b.{ending}") for ending in ("keras", "onnx"))
    here = ["--model-path", str(tmp_path), "--model-name", "n"]
    for command, options in (
        (train, ["--cube", str(cube), *here]),
        (optimise_dataset_size, ["--cube", str(cube), *here, "--outdir", str(tmp_path)]),
        (diagnostics, ["--path-cube-validation", str(cube), "--model-path", model]),
        (plot_results, ["--path-cube-validation", str(cube), "--model-path", model]),
        (grad_cam, ["--cube", str(cube), "--model-path", model, "--cam-path", str(tmp_path)]),
        (export, [network, "--card", model, "--output", str(tmp_path / "o.onnx"), "--calibration-cube", str(cube)]),
        (infer, ["--cutouts", str(cube), "--model", model, "--output", str(tmp_path / "o.dat")]),
    ):
        assert command(options) == 2, command
        assert "is damaged: its cube.npy is not what was written" in capsys.readouterr().err, command


@pytest.mark.parametrize("module", ["cli", "cli_evaluate", "cli_export", "cli_label"])
def test_no_help_waits_for_numpy(module):
    code = f"import sys, otrain_train.{module}; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
