from dataclasses import replace

import numpy as np
import pytest
from matched import make_cube, make_matched
from matplotlib.image import imread

from otrain_infer.errors import OutputError, UsageError
from otrain_train.calibrate import operating_points
from otrain_train.cli_evaluate import plot_results as command
from otrain_train.evaluation import evaluate_file
from otrain_train.plot_results import FILES, parts_of, plot_results

NAMES = {
    "mag_ROC.png",
    "errmag_ROC.png",
    "mag_recall.png",
    "errmag_recall.png",
    "model_F1_MCC.png",
    "prob_distribution.png",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("plots")


@pytest.fixture(scope="module")
def model(home):
    path = home / "matched.onnx"
    path.write_bytes(make_matched("a$b", threshold=0.6))
    return path


@pytest.fixture(scope="module")
def cube():
    return make_cube(70, 80)


@pytest.fixture(scope="module")
def path(home, cube):
    cube.save(home / "cube.npz")
    return home / "cube.npz"


@pytest.fixture(scope="module")
def done(home, path, model):
    """What a run left behind in a folder that held a file before."""
    (home / "done").mkdir()
    (home / "done" / "thesis.tex").write_text("mine")
    return plot_results(path, model, home / "done")


def test_the_plots_have_the_names_of_the_original(done, home):
    assert set(FILES) == NAMES
    assert {each.name for each in (home / "done").iterdir()} == NAMES | {"thesis.tex"}
    assert set(done.files) == {home / "done" / name for name in NAMES}
    for name in NAMES:
        picture = imread(home / "done" / name)
        assert picture.shape[1] >= 800
        assert np.ptp(picture) == 1


def test_the_summary_tells_files_counts_and_thresholds(done, path, model):
    found = evaluate_file(path, model)
    points = {point.name: point for point in operating_points(found.labels, found.scores)}
    assert (done.real, done.bogus, done.unscored) == (70, 80, 0)
    assert (done.threshold, done.best) == (0.6, points["best-f1-mcc"].threshold)
    assert "a$b: 70 real and 80 bogus" in str(done)
    assert all(str(file) in str(done) for file in done.files)


def test_the_seed_decides_the_bands(done, home, path, model, tmp_path):
    plot_results(path, model, tmp_path, seed=3)
    same = {name: (tmp_path / name).read_bytes() == (home / "done" / name).read_bytes() for name in NAMES}
    assert same == {name: name == "prob_distribution.png" for name in NAMES}


def test_every_row_is_in_an_interval_or_counted(path, model, cube, tmp_path):
    mags, pixels = cube.mags.copy(), np.array(cube.cube)
    mags[:4], pixels[10] = [np.nan, 99.0, -99.0, 99.99], 0
    replace(cube, mags=mags, cube=pixels).save(tmp_path / "c.npz")
    found = evaluate_file(tmp_path / "c.npz", model)
    parts, note = parts_of(found, found.datacube.mags, "magnitude")
    assert note == "4 without magnitude and 1 without score left out"
    assert sum(part.labels.size for part in parts) == 145
    assert all(np.isfinite(part.scores).all() for part in parts)
    assert not any("99" in part.name for part in parts)
    assert parts_of(evaluate_file(path, model), cube.mags, "magnitude")[1] == ""


def spoil(cube, kind):
    """A cube with which something cannot be measured."""
    if kind == "no magnitudes":
        return replace(cube, mags=np.full(len(cube), np.nan), errmags=np.full(len(cube), np.nan))
    if kind == "99":
        return replace(cube, mags=np.full(len(cube), 99.0), errmags=np.full(len(cube), 99.0))
    if kind == "all alike":
        return replace(cube, cube=np.repeat(cube.cube[:1], len(cube), axis=0))
    if kind == "blank":
        return replace(cube, cube=np.zeros_like(cube.cube))
    rows = {"two": [0, 100], "one": [0], "real only": slice(0, 70), "bogus only": slice(70, 150)}[kind]
    return cube.select(rows)


@pytest.mark.parametrize("kind", ["no magnitudes", "99", "all alike", "blank", "two", "one", "real only", "bogus only"])
def test_what_cannot_be_measured_is_no_error(kind, cube, model, tmp_path):
    spoil(cube, kind).save(tmp_path / "c.npz")
    summary = plot_results(tmp_path / "c.npz", model, tmp_path / "out")
    assert {each.name for each in (tmp_path / "out").iterdir()} == NAMES
    assert (summary.best is None) == (kind not in ("no magnitudes", "99", "two"))
    assert ("not defined" in str(summary)) == (summary.best is None)


@pytest.mark.parametrize("one_hot", [True, False])
def test_a_cube_of_the_original_program_is_plotted_alike(one_hot, cube, done, home, model, tmp_path):
    labels = np.eye(2, dtype=np.float32)[cube.labels] if one_hot else cube.labels
    columns = {"mags": cube.mags, "errmags": cube.errmags, "candids": np.arange(len(cube))}
    np.savez(tmp_path / "c.npz", cube=cube.cube, labels=labels, **columns)
    theirs = plot_results(tmp_path / "c.npz", model, tmp_path / "out")
    assert (theirs.real, theirs.bogus, theirs.best) == (done.real, done.bogus, done.best)
    for name in NAMES:
        assert (tmp_path / "out" / name).read_bytes() == (home / "done" / name).read_bytes()


def test_inputs_are_never_replaced(path, model, tmp_path):
    inside = tmp_path / "mag_ROC.png"
    inside.write_bytes(path.read_bytes())
    with pytest.raises(UsageError, match="would be replaced"):
        plot_results(inside, model, tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["mag_ROC.png"]
    with pytest.raises(OutputError, match="nothing can be written"):
        plot_results(path, model, inside)


def test_the_command(path, model, cube, tmp_path, capsys):
    given = ["--path_cube_validation", str(path), "--model-path", str(model), "--path-plots", str(tmp_path / "p")]
    assert command([*given, "--threshold", "0.7", "--seed", "1"]) == 0
    assert "threshold in use: 0.7" in capsys.readouterr().out
    assert command(["--path-cube-validation", str(tmp_path / "none.npz"), *given[2:]]) == 2
    assert "there is no file" in capsys.readouterr().err
    replace(cube, cube=np.zeros_like(cube.cube)).save(tmp_path / "blank.npz")
    assert command(["--path-cube-validation", str(tmp_path / "blank.npz"), *given[2:]]) == 1
