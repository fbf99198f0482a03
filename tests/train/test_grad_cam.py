"""The command otrain-grad-cam: which candidates it draws, into which files, and what it refuses."""

import io

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image
from stirred import stir

from otrain_infer.card import ModelCard
from otrain_infer.errors import ModelError, OutputError, UsageError
from otrain_infer.normalise import Normalisation
from otrain_train.cli_evaluate import grad_cam as command
from otrain_train.ensemble import join
from otrain_train.evaluation import evaluate_file
from otrain_train.explanation import explain, names_of
from otrain_train.export import export
from otrain_train.gallery import draw_pictures, title_of
from otrain_train.grad_cam import FOLDERS, grad_cam
from otrain_train.mock import MockSettings, mock_arrays
from otrain_train.network import build
from otrain_train.saliency import open_grad_cam

PLANES = ("SCI", "DIFF")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A datacube of 16 real and 20 bogus cutouts, a network with its model, and the middle of its scores."""
    folder = tmp_path_factory.mktemp("place")
    datacube = mock_arrays(MockSettings(16, 20, size=24, planes=PLANES, seed=8))
    datacube.cube[30, :, :, 1] = 3.0
    datacube.save(folder / "cube.npz")
    save_pair(build("lite", (24, 24, 2), seed=3), folder / "net", datacube.cube)
    return folder


def save_pair(network, path, rows, planes=PLANES, size=(24, 24)):
    card = ModelCard(path.name, "1", "", planes, size, Normalisation("l2"))
    export(network, card, path.with_suffix(".onnx"), np.array(rows))
    network.save(path.with_suffix(".keras"))
    return path.with_suffix(".onnx")


@pytest.fixture(scope="module")
def middle(place):
    return float(np.nanmedian(evaluate_file(place / "cube.npz", place / "net.onnx").scores))


@pytest.fixture(scope="module")
def drawn(place, middle):
    """What the command makes of them, and how it reported."""
    steps = []
    summary = grad_cam(place / "cube.npz", place / "net.onnx", place, 4, middle, 0, lambda *step: steps.append(step))
    return summary, steps


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def numbered(count):
    return sorted(f"cutout_CAM_{i}.png" for i in range(count))


def as_pixels(source):
    with Image.open(source) as picture:
        return np.asarray(picture.convert("RGB"))


def test_all_mistakes_and_some_others_are_drawn(place, middle, drawn):
    summary, steps = drawn
    evaluation = evaluate_file(place / "cube.npz", place / "net.onnx", middle)
    expected = {outcome: evaluation.rows(outcome).size for outcome in ("FP", "FN")} | {"TP": 4, "TN": 4}
    assert min(expected.values()) >= 4
    assert summary.counts == expected
    assert names_in(place / "grad_cam") == [*sorted(FOLDERS.values()), "pictures.txt"]
    for outcome, name in FOLDERS.items():
        assert names_in(place / "grad_cam" / name) == numbered(expected[outcome])
    total = sum(expected.values())
    assert steps == [(36, 36, "scoring"), *((i + 1, total, "drawing") for i in range(total))]
    assert f"4 true positive, {expected['FP']} false positive, 4 true negative" in str(summary)
    assert str(summary).endswith("; 1 without score left out")


def test_a_picture_is_of_the_candidate_that_its_number_and_title_say(place, middle, drawn):
    evaluation = evaluate_file(place / "cube.npz", place / "net.onnx", middle)
    cam = open_grad_cam(place / "net.keras", evaluation.scorer, evaluation.pixels(np.arange(2)))
    assert names_of(evaluation, cam) == ["SCI", "DIFF", "Grad-CAM on DIFF", "occlusion on DIFF"]
    for outcome, words in (("FP", "bogus, called real"), ("FN", "real, called bogus")):
        rows = evaluation.rows(outcome)
        for i in (0, rows.size - 1):
            (pictures,) = explain(evaluation, rows[i : i + 1], cam)
            told = f"{FOLDERS[outcome].lower()}: {words}; blue is for real, orange for bogus"
            title = f"{title_of(evaluation.datacube, rows[i], evaluation.scores[rows[i]])}\n{told}"
            expected = io.BytesIO()
            draw_pictures(pictures, names_of(evaluation, cam), title).savefig(expected, format="png")
            seen = as_pixels(place / "grad_cam" / FOLDERS[outcome] / f"cutout_CAM_{i}.png")
            # A batch of another size may end in another last digit, and so in another shade.
            assert np.abs(seen.astype(int) - as_pixels(expected)).max() <= 2


def test_batches_are_in_order(place, middle):
    evaluation = evaluate_file(place / "cube.npz", place / "net.onnx", middle)
    rows = np.flatnonzero(evaluation.scored)[::-1]
    assert rows.size > 32
    pictures = list(explain(evaluation, rows))
    (last,) = explain(evaluation, rows[-1:])
    assert len(pictures) == rows.size
    assert [len(each) for each in pictures] == [3] * rows.size
    assert all(np.array_equal(*each) for each in zip(pictures[-1], last, strict=True))


def test_the_seed_decides_which(place, tmp_path):
    columns = evaluate_file(place / "cube.npz", place / "net.onnx").datacube
    columns.select(columns.labels == 0).save(tmp_path / "bogus.npz")
    runs = [grad_cam(tmp_path / "bogus.npz", place / "net.onnx", tmp_path / str(i), 1, 1, seed)
            for i, seed in enumerate((1, 1, 2))]  # fmt: skip
    found = [(run.folder / "True Negative" / "cutout_CAM_0.png").read_bytes() for run in runs]
    assert found[0] == found[1] != found[2]


def test_only_our_own_pictures_are_removed(place, middle, tmp_path):
    grad_cam(place / "cube.npz", place / "net.onnx", tmp_path, 3, middle)
    home = tmp_path / "grad_cam" / "True Negative"
    for name in ("cutout_CAM_30.png", "notes.txt"):
        (home / name).write_text("kept")
    before = (home / "cutout_CAM_0.png").stat().st_mtime_ns
    grad_cam(place / "cube.npz", place / "net.onnx", tmp_path, 1, middle)
    assert names_in(home) == ["cutout_CAM_0.png", "cutout_CAM_30.png", "notes.txt"]
    assert (home / "cutout_CAM_0.png").stat().st_mtime_ns > before
    assert (home / "notes.txt").read_text() == (home / "cutout_CAM_30.png").read_text() == "kept"


def test_the_command_takes_the_keras_file_too_and_fewer_than_asked(place, tmp_path, capsys):
    options = ["--cube", str(place / "cube.npz"), "--model_path", str(place / "net.keras"), "--n_random", "100"]
    assert command([*options, "--cam_path", str(tmp_path), "--threshold", "0"]) == 0
    assert "16 true positive, 19 false positive, 0 true negative, 0 false negative" in capsys.readouterr().out
    assert names_in(tmp_path / "grad_cam" / "True Positive") == numbered(16)
    assert names_in(tmp_path / "grad_cam" / "True Negative") == []


def test_a_cube_of_the_original(place, tmp_path):
    datacube = mock_arrays(MockSettings(1, 1, size=24, planes=PLANES, seed=8))
    one_hot = np.array([[1, 0], [0, 1]], np.float32)[datacube.labels]
    columns = {"cube": datacube.cube, "labels": one_hot, "mags": [np.nan] * 2, "errmags": [np.nan] * 2}
    np.savez(tmp_path / "cube.npz", **columns, candids=np.arange(2))
    assert grad_cam(tmp_path / "cube.npz", place / "net.onnx", tmp_path, threshold=0).counts["TP"] == 1


def test_one_class_only(place, tmp_path):
    datacube = mock_arrays(MockSettings(3, 0, size=24, planes=PLANES, seed=8))
    datacube.save(tmp_path / "cube.npz")
    counts = grad_cam(tmp_path / "cube.npz", place / "net.onnx", tmp_path, threshold=1).counts
    assert counts == {"FP": 0, "FN": 3, "TP": 0, "TN": 0}


def test_nothing_with_a_score(place, tmp_path):
    datacube = mock_arrays(MockSettings(2, 2, size=24, planes=PLANES, seed=8))
    datacube.cube[:] = 1
    datacube.save(tmp_path / "cube.npz")
    summary = grad_cam(tmp_path / "cube.npz", place / "net.onnx", tmp_path)
    assert (sum(summary.counts.values()), summary.scored, summary.unscored) == (0, 0, 4)
    options = ["--cube", str(tmp_path / "cube.npz"), "--model-path", str(place / "net.onnx")]
    assert command([*options, "--cam-path", str(tmp_path)]) == 1


def test_ensembles_and_networks_of_others(place, tmp_path):
    datacube = mock_arrays(MockSettings(2, 2, size=24, planes=("SCI", "REF", "DIFF"), seed=8))
    datacube.save(tmp_path / "cube.npz")
    members = [build("lite", (24, 24, 3), seed=seed) for seed in (1, 2)]
    save_pair(join(members), tmp_path / "both", datacube.cube, datacube.planes)
    foreign = keras.Sequential(
        [keras.Input((24, 24, 3)), layers.Conv2D(4, 3, activation="relu", name="x"), layers.MaxPooling2D(4),
         layers.Flatten(), layers.Dense(1, "sigmoid")]
    )  # fmt: skip
    save_pair(foreign, tmp_path / "foreign", datacube.cube, datacube.planes)
    for name in ("both", "foreign"):
        summary = grad_cam(tmp_path / "cube.npz", tmp_path / f"{name}.onnx", tmp_path / name)
        assert sum(summary.counts.values()) == 4


def test_what_is_missing_is_said(place, tmp_path):
    onnx, network = (tmp_path / f"alone.{ending}" for ending in ("onnx", "keras"))
    onnx.write_bytes((place / "net.onnx").read_bytes())
    with pytest.raises(ModelError, match=r"no Keras network '.*alone\.keras' beside '.*alone\.onnx'"):
        grad_cam(place / "cube.npz", onnx, tmp_path)
    onnx.rename(network)
    with pytest.raises(ModelError, match=r"no '.*alone\.onnx' beside the Keras network '.*alone\.keras': otrain-train"):
        grad_cam(place / "cube.npz", network, tmp_path)
    with pytest.raises(ModelError, match=r"nowhere\.onnx' cannot be read"):
        grad_cam(place / "cube.npz", tmp_path / "nowhere.onnx", tmp_path)
    with pytest.raises(UsageError, match="0 or more, not -1"):
        grad_cam(place / "cube.npz", place / "net.onnx", tmp_path, -1)
    assert not list(tmp_path.rglob("*.png"))


def test_a_network_of_another_training_is_refused(place, tmp_path):
    (tmp_path / "net.onnx").write_bytes((place / "net.onnx").read_bytes())
    stir(build("lite", (24, 24, 2), seed=4)).save(tmp_path / "net.keras")
    with pytest.raises(ModelError, match="gives other scores than the model, by up to"):
        grad_cam(place / "cube.npz", tmp_path / "net.onnx", tmp_path)
    assert names_in(tmp_path / "grad_cam") == []


def test_a_folder_that_cannot_be_made_is_told(place, tmp_path):
    (tmp_path / "grad_cam").write_text("a file")
    with pytest.raises(OutputError, match=r"nothing can be written in '.*grad_cam'"):
        grad_cam(place / "cube.npz", place / "net.onnx", tmp_path)
