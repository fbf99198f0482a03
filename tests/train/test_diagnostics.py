import csv
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from matched import PLANES, make_cube, make_matched
from matplotlib.image import imread

from otrain_infer import Scorer
from otrain_infer.errors import DatacubeError, OutputError, UsageError
from otrain_train.cli_evaluate import diagnostics
from otrain_train.datacube import Datacube, sha256
from otrain_train.diagnostics import PICTURES, PLACES, diagnose
from otrain_train.gallery import shades_of
from otrain_train.metrics import figures

FIXED = {"metrics.json", "confusion_matrix.png", "candidates.csv", PICTURES}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("diagnostics")


@pytest.fixture(scope="module")
def model(home):
    path = home / "matched.onnx"
    path.write_bytes(make_matched())
    return path


@pytest.fixture(scope="module")
def cube():
    cube = make_cube(70, 60)
    pixels, candids = np.array(cube.cube), cube.candids.astype("<U30")
    pixels[3] = 0
    candids[:5] = ["", "a/b c$", "../../x", "目", "sheet"]
    return replace(cube, cube=pixels, candids=candids)


@pytest.fixture(scope="module")
def small(home, cube):
    """The path of 24 of them."""
    cube.select(np.r_[10:22, 80:92]).save(home / "small.npz")
    return home / "small.npz"


@pytest.fixture(scope="module")
def run(home, model, cube):
    """A run on 130 candidates, one of them blank."""
    path, folder = home / "cube.npz", home / "found"
    cube.save(path)
    found = diagnose(path, model, folder, seed=4)
    scores = Scorer(model).score_pixels(cube.cube)
    return SimpleNamespace(path=path, folder=folder, found=found, scores=scores, labels=cube.labels)


def files_below(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def rows_drawn(folder, outcome):
    names = {path.stem for path in (folder / PLACES[outcome]).iterdir()}
    return sorted(int(name.rpartition("_row")[2]) for name in names if "_row" in name)


def expected_rows(run, outcome):
    called = run.scores >= 0.5
    scored = np.isfinite(run.scores)
    wanted = {"FP": (0, True), "FN": (1, False), "TP": (1, True), "TN": (0, False)}[outcome]
    return np.flatnonzero(scored & (run.labels == wanted[0]) & (called == wanted[1])).tolist()


def test_all_misclassified_and_thirty_of_the_others_are_drawn(run):
    for outcome in ("FP", "FN"):
        assert expected_rows(run, outcome)
        assert rows_drawn(run.folder, outcome) == expected_rows(run, outcome)
    for outcome in ("TP", "TN"):
        rows = rows_drawn(run.folder, outcome)
        assert len(rows) == run.found.drawn[outcome] == min(30, len(expected_rows(run, outcome)))
        assert set(rows) <= set(expected_rows(run, outcome))
        sheets = -(-len(rows) // 24)
        assert all((run.folder / PLACES[outcome] / f"sheet_{i}.png").exists() for i in range(1, sheets + 1))
        assert not (run.folder / PLACES[outcome] / f"sheet_{sheets + 1}.png").exists()
    assert files_below(run.folder) >= FIXED


def test_each_picture_is_of_its_own_candidate(run, cube):
    for outcome, place in PLACES.items():
        for row in rows_drawn(run.folder, outcome)[:4]:
            (path,) = (run.folder / place).glob(f"*_row{row}.png")
            picture = np.rint(255 * imread(path)[..., :3]).astype(np.uint8)
            for i in range(len(PLANES)):
                part = shades_of(cube.cube[row, :, :, i]).repeat(8, 0).repeat(8, 1)
                left = 10 + i * (24 * 8 + 4)
                assert np.array_equal(picture[-10 - 24 * 8 : -10, left : left + 24 * 8], part)


def test_names_are_safe_and_tell_the_candid(cube, model, tmp_path):
    cube.select(slice(0, 5)).save(tmp_path / "c.npz")
    diagnose(tmp_path / "c.npz", model, tmp_path, threshold=1.0)
    names = {path.name for path in (tmp_path / PLACES["FN"]).iterdir()}
    assert names == {"cutout_row0.png", "a_b_c_row1.png", "x_row2.png", "sheet_row4.png", "sheet_1.png"}


def test_metrics_say_what_was_measured_on_what(run, model):
    content = json.loads((run.folder / "metrics.json").read_text())
    measured = figures(run.labels, run.scores, 0.5)
    assert content["figures"] == measured.to_dict()
    assert content["datacube"]["sha256"] == sha256(run.path)
    assert content["datacube"] | {"path": "", "sha256": ""} == {
        "path": "", "sha256": "", "candidates": 130, "real": 70, "bogus": 60, "without_score": 1,
    }  # fmt: skip
    assert content["model"]["sha256"] == Scorer(model).sha256
    assert content["outcomes"] == {"FP": measured.fp, "FN": measured.fn, "TP": measured.tp, "TN": measured.tn}
    assert set(content["average_precision"]) == {"real", "bogus"}
    assert content["operating_points"][0]["name"] == "fpr-1%"


def test_the_text_tells_the_figures_of_both_classes(run):
    text = str(run.found)
    for word in ("average precision, real", "average precision, bogus", "MCC", "95 % interval", "called real", "30 TP"):
        assert word in text
    assert str(run.folder) in text


def test_candidates_are_told_row_by_row(run, cube):
    with (run.folder / "candidates.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["file", "candid", "label", "score", "outcome", "mag", "magerr", "filter", "fwhm"]
    assert [row["candid"] for row in rows] == cube.candids.tolist()
    assert [row["score"] == "" for row in rows] == np.isnan(run.scores).tolist()
    assert np.array_equal([np.float32(row["score"] or "nan") for row in rows], run.scores, equal_nan=True)
    assert [i for i, row in enumerate(rows) if row["outcome"] == "FP"] == expected_rows(run, "FP")
    assert rows[3]["outcome"] == ""


def test_the_seed_decides_which_are_shown(run, model, tmp_path):
    again = diagnose(run.path, model, tmp_path / "a", seed=4)
    assert files_below(tmp_path / "a") == files_below(run.folder)
    assert again.assessment.to_dict() == run.found.assessment.to_dict()
    other = diagnose(run.path, model, tmp_path / "a", seed=5)
    assert rows_drawn(tmp_path / "a", "TP") != rows_drawn(run.folder, "TP")
    assert other.drawn == run.found.drawn


def test_a_second_run_leaves_no_picture_of_the_first_and_nothing_else_is_touched(small, model, tmp_path):
    diagnose(small, model, tmp_path, threshold=0.2)
    mine = tmp_path / PLACES["FP"] / "sheet_9.png"
    mine.write_bytes(b"mine")
    diagnose(small, model, tmp_path, threshold=0.8)
    called = Scorer(model).score_pixels(Datacube.load(small).cube) >= np.float32(0.8)
    assert rows_drawn(tmp_path, "FP") == [row for row in range(12, 24) if called[row]]
    assert mine.read_bytes() == b"mine"
    listed = (tmp_path / PICTURES).read_text().splitlines()[1:]
    assert files_below(tmp_path) == FIXED | set(listed) | {mine.relative_to(tmp_path).as_posix()}


@pytest.mark.parametrize("rows", [[0, 100], [0], [100], slice(0, 12), slice(80, 90), [3, 3]])
def test_few_rows_and_one_class_are_no_error(cube, model, rows, tmp_path):
    cube.select(rows).save(tmp_path / "c.npz")
    found = diagnose(tmp_path / "c.npz", model, tmp_path / "out")
    assert files_below(tmp_path / "out") >= FIXED
    assert all((tmp_path / "out" / place).is_dir() for place in PLACES.values())
    json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert found.assessment.figures.one_class == (len(set(cube.labels[rows].tolist())) == 1 or rows == [3, 3])


@pytest.mark.parametrize("one_hot", [True, False])
def test_a_cube_of_the_original_program_is_diagnosed(small, model, one_hot, tmp_path):
    cube = Datacube.load(small)
    labels = np.eye(2, dtype=np.float32)[cube.labels] if one_hot else cube.labels
    columns = {"mags": cube.mags, "errmags": cube.errmags, "candids": np.arange(len(cube))}
    np.savez(tmp_path / "c.npz", cube=cube.cube, labels=labels, **columns)
    found = diagnose(tmp_path / "c.npz", model, tmp_path / "out")
    assert found.assessment.figures == figures(cube.labels, Scorer(model).score_pixels(cube.cube), 0.5)


def test_what_cannot_be_done_is_refused_before_anything_is_written(run, model, cube, tmp_path):
    inside = tmp_path / "candidates.csv"
    inside.write_bytes(run.path.read_bytes())
    with pytest.raises(UsageError, match="would be replaced"):
        diagnose(inside, model, tmp_path)
    assert inside.read_bytes() == run.path.read_bytes()
    with pytest.raises(OutputError, match="nothing can be written"):
        diagnose(run.path, model, inside)
    replace(cube, cube=np.repeat(cube.cube, 2, axis=1)).save(tmp_path / "other.npz")
    with pytest.raises(DatacubeError, match="takes 24x24"):
        diagnose(tmp_path / "other.npz", model, tmp_path / "out")
    assert files_below(tmp_path) == {"candidates.csv", "other.npz"}


def test_the_command_prints_the_figures(small, model, tmp_path, capsys):
    options = ["--path-cube-validation", str(small), "--model-path", str(model), "--path_diagnostics", str(tmp_path)]
    assert diagnostics([*options, "--threshold", "0.6"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("24 candidates, called real from a score of 0.6 on")
    assert printed.err == ""
    with pytest.raises(SystemExit):
        diagnostics([*options, "--seed", "-1"])


def test_the_command_says_when_nothing_could_be_scored(cube, model, tmp_path, capsys):
    cube.select([3, 3]).save(tmp_path / "c.npz")
    options = ["--path-cube-validation", str(tmp_path / "c.npz"), "--model-path", str(model)]
    assert diagnostics([*options, "--path-diagnostics", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err.splitlines()
    assert said == ["otrain-diagnostics: 2 of 2 cutouts have no score (blank in a plane) and are left out"]


def test_progress_ends_at_all(small, model, tmp_path):
    told = []
    found = diagnose(small, model, tmp_path, progress=lambda *words: told.append(words))
    assert told[0] == (24, 24, "scoring")
    assert told[-1][0] == told[-1][1] == sum(found.drawn.values()) == 24
