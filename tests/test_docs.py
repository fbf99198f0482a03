"""The README tells the truth."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PACKAGES = ("otrain_infer", "otrain_train", "otrain_train/label")
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).glob("[!_]*.py"))


def help_of(command: str, *words: str) -> str:
    module, function = PROJECT["scripts"][command].split(":")
    code = f"from {module} import {function}; {function}([*{list(words)!r}, '--help'])"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_the_map_has_one_line_for_each_module_and_it_is_what_the_module_says():
    said = {}
    for path in MODULES:
        first = (ast.get_docstring(ast.parse(path.read_text())) or "").splitlines()[0]
        said[path.relative_to(ROOT).as_posix()] = first.replace("``", "`")
    lines = re.findall(r"^\| `(otrain_\w+/[\w/]+\.py)` \| (.+) \|$", README, re.MULTILINE)
    assert lines == list(said.items())


@pytest.mark.parametrize("line", sorted(set(re.findall(r"^otrain-.+$", README, re.MULTILINE))))
def test_every_command_in_the_readme_has_the_options_shown(line):
    words = line.partition("#")[0].split()
    sub = [words[1]] if words[0] == "otrain-model" else []
    shown = help_of(words[0], *sub)
    for word in words:
        if word.startswith("--"):
            assert word.replace("_", "-") in shown, line


@pytest.mark.parametrize("command", PROJECT["scripts"])
def test_every_command_says_what_it_does(command):
    assert command in help_of(command)
    assert command in README


OPTIONS = {
    "otrain-convert": "--path --path-datacube --cube --cutouts --frac-true --cutout-size --planes --seed --labels "
    "--min-votes --min-agreement --weights",
    "otrain-label": "--model --other-model --order --seed --labeller --blind-fraction --planes --labels --host --port "
    "--token --no-browser --move --undo-move --min-votes --min-agreement --weights",
    "otrain-train": "--cube --model-path --model-name --epochs --frac --dropout --threshold",
    "otrain-infer": "--cutouts --model --prob-ratio --output --edge --threshold --batch-size --device --threads",
    "otrain-export": "--output --name --normalisation --padding --planes --size --threshold --precision "
    "--calibration-cube",
    "otrain-mock": "--output --n-true --n-false --size --planes --seed",
    "otrain-checkinfer": "--plots --crossmatch --infer --maglim --cnn-problim --fwhm-ratio-lower --fwhm-ratio-upper",
    "otrain-diagnostics": "--path-cube-validation --model-path --threshold --path-diagnostics",
    "otrain-plot-results": "--path-cube-validation --model-path --path-plots --threshold",
    "otrain-plots-results": "--path-cube-validation --model-path --path-plots --threshold",
    "otrain-optimise-dataset-size": "--cube --model-path --model-name --epochs --n-sections --dropout --outdir",
    "otrain-sim": "--path-data --Ntrans --magrange --ZP --psf --gain --seed --near-galaxies --negative",
    "otrain-detect": "--path-data --reference --threshold --catalogue --columns",
    "otrain-cutouts": "--path-data --training --size --radius --false",
    "otrain-checksim": "--path-data --radius",
    "otrain-grad-cam": "--cube --model-path --cam-path --n-random --threshold",
}

TRAINING = [name for name, where in PROJECT["scripts"].items() if where.startswith("otrain_train")]


@pytest.mark.parametrize("command", OPTIONS)
def test_the_options_that_are_a_contract(command):
    shown = help_of(command)
    assert not [option for option in OPTIONS[command].split() if option not in shown]


@pytest.mark.parametrize("command", TRAINING)
def test_every_training_command_takes_a_file_of_options(command):
    assert "--config" in help_of(command)


def test_make_targets_in_the_readme_exist():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = set(re.findall(r"`?make ([a-z-]+)", README)) - {"and"}
    assert named <= set(targets) | {"PYTHON"}


def test_the_version_stands_in_the_changelog():
    from otrain_infer import __version__

    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()
