"""The tutorial is true: its commands, one after the other, lead from images to a calibrated model."""

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from otrain_infer import Scorer
from otrain_infer.table import read_table
from otrain_train.crossmatch import read_crossmatch

TUTORIAL = (Path(__file__).parents[2] / "docs/tutorial.md").read_text()
COMMANDS = [line for block in re.findall(r"```\n(.*?)```", TUTORIAL, re.DOTALL) for line in block.splitlines()]


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """The folder in which all commands have been run, and what each has said."""
    folder = tmp_path_factory.mktemp("tutorial")
    said = {}
    for line in COMMANDS:
        done = subprocess.run(["bash", "-c", line], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        said[line] = done.stdout
    return folder, said


@pytest.mark.timeout(600)
def test_the_chain_finds_and_recognises_what_was_inserted(walked):
    folder, _ = walked
    found = read_crossmatch(folder / "tonight/simulation", folder / "tonight/infer_results.dat")
    bright = found.sources.mags < 18
    assert found.found[bright].mean() > 0.9
    assert found.others.sum() > 20
    scores = np.append(found.candidates.scores[found.simulated], found.candidates.scores[found.others])
    labels = np.append(np.ones(found.simulated.sum()), np.zeros(found.others.sum()))
    known = np.isfinite(scores)
    assert roc_auc_score(labels[known], scores[known]) > 0.9


def test_the_model_is_calibrated_on_what_it_did_not_learn_from(walked):
    folder, _ = walked
    card = Scorer(folder / "CNN_training/mine.onnx").card
    assert card.planes == ("SCI", "REF", "DIFF")
    assert card.calibration is not None
    assert card.operating_points


def test_the_truth_is_recovered(walked):
    _, said = walked
    checks = [text for line, text in said.items() if line.startswith("otrain-checksim")]
    for text in checks:
        offset = float(re.search(r"magnitude measured less inserted ([+-][\d.]+)", text)[1])
        distance = float(re.search(r"medians: ([\d.]+) arcseconds", text)[1])
        assert abs(offset) < 0.03
        assert distance < 0.1  # a fifth of a pixel, faint ones included


def test_every_night_gives_scores(walked):
    folder, _ = walked
    table = read_table(folder / "tonight/science/candidates/infer_results.dat")
    scores = np.asarray(table["label1"], float)
    assert np.isfinite(scores).sum() > 10
    # Nothing was inserted: hardly anything is taken for real.
    assert np.nanmean(scores > 0.5) < 0.2
