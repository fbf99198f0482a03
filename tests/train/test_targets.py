"""Models made over for BOOM, fed as BOOM feeds them, against the scorer on the same stamps."""

import base64
import dataclasses
import gzip
import hashlib
import io
import json
import logging
import math

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from astropy.io import fits
from keras import layers

from otrain_infer.card import Cascade, Golden, ModelCard
from otrain_infer.errors import ModelError, ParityError
from otrain_infer.normalise import Normalisation, Padding
from otrain_infer.scorer import Scorer
from otrain_infer.stamp_packets import read_stamps
from otrain_train import targets
from otrain_train.cli_export import export as export_command
from otrain_train.ensemble import join
from otrain_train.export import export
from otrain_train.targets import LAYOUTS, check_fits, prepare_triplets, write_target

PLANES, SHAPE = ("SCI", "REF", "DIFF"), (63, 63, 3)
CREATED = "2030-01-01T00:00:00+00:00"


def make_network(seed=3, shape=SHAPE):
    keras.utils.set_random_seed(seed)
    body = [layers.Conv2D(4, 5, strides=2, activation="relu"), layers.Flatten(), layers.Dense(2, "softmax")]
    network = keras.Sequential([keras.Input(shape), *body])
    kernel, bias = network.layers[-1].get_weights()
    network.layers[-1].set_weights([20 * kernel, bias])
    return network


def make_stamps(n=6, shape=(63, 63)):
    """Raw pixels of whole stamps, of which one has holes: (n, ny, nx, planes)."""
    rng = np.random.default_rng(1)
    rows = rng.normal(size=(n, *shape, 3)).astype(np.float32)
    rows[:, 30:33, 30:33] += np.linspace(0, 50, n, dtype=np.float32)[:, None, None, None]
    rows += np.array([100, 80, 0], np.float32)
    rows[1, 5, 6:9, 0] = np.nan
    return rows


def make_card(**fields):
    fields = {"planes": PLANES, "size": SHAPE[:2], "normalisation": Normalisation("l2")} | fields
    return ModelCard("tiny", "2", CREATED, **fields)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "rb.onnx"
    export(make_network(), make_card(), path, make_stamps(30))
    return path


def as_file(image):
    file = io.BytesIO()
    fits.PrimaryHDU(image).writeto(file)
    return gzip.compress(file.getvalue())


def prepare_as_boom(content):
    """What BOOM's prepare_cutout @123987e does to a stamp: pixel by pixel, in float32."""
    file = gzip.decompress(content)
    header = fits.Header.fromstring(file[:2880].decode())
    nx, ny = header["NAXIS1"], header["NAXIS2"]
    image = np.zeros((63, 63), np.float32)
    y, x = math.ceil((63 - ny) / 2), math.ceil((63 - nx) / 2)
    image[y : y + ny, x : x + nx] = np.frombuffer(file, ">f4", nx * ny, 2880).reshape(ny, nx)
    image[np.isnan(image)] = 0
    total = np.float32(0)
    for pixel in image.ravel():
        total += pixel * pixel
    return image / np.sqrt(total)


def feed(path, triplets):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    layout = session.get_inputs()[0].shape
    fed = triplets if layout[1:] == [63, 63, 3] else triplets.transpose(0, 3, 1, 2)
    return session.run(["score"], {"triplet": np.ascontiguousarray(fed)})[0]


@pytest.fixture(params=LAYOUTS)
def made(request, exported):
    return write_target(exported, request.param)


def test_whole_stamps_get_the_scores_of_the_scorer(made, exported):
    scorer, raw = Scorer(exported), make_stamps()
    stamps = [[as_file(row[..., k]) for row in raw] for k in range(3)]
    triplets = np.stack([[prepare_as_boom(each) for each in plane] for plane in stamps], axis=-1)
    expected = scorer.score(read_stamps(dict(zip(PLANES, stamps, strict=True)), card=scorer.card))
    assert expected.std() > 0.01
    np.testing.assert_allclose(feed(made[0], triplets), expected, atol=1e-6, rtol=0)
    np.testing.assert_allclose(feed(made[0], triplets[:1]), expected[:1], atol=1e-6, rtol=0)
    np.testing.assert_array_equal(triplets, prepare_triplets(raw))


def test_the_tensors_are_those_that_boom_names(made):
    model, _ = made
    target = model.name.split(".")[1]
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    tensors = [(each.name, each.type, each.shape) for each in (*session.get_inputs(), *session.get_outputs())]
    shape = {"boom": ["n", 63, 63, 3], "boom-nchw": ["n", 3, 63, 63]}[target]
    assert tensors == [("triplet", "tensor(float)", shape), ("score", "tensor(float)", ["n"])]


def test_the_file_carries_its_card_and_is_not_taken_for_a_model_of_the_scorer(made, exported):
    model, _ = made
    props = {each.key: each.value for each in onnx.load(model).metadata_props}
    assert ModelCard.from_json(props["otrain"]).to_json() == Scorer(exported).card.to_json()
    target = model.name.split(".")[1]
    told = {"target": target, "layout": LAYOUTS[target], "made_from": Scorer(exported).sha256}
    assert json.loads(props["otrain_target"]) == told
    with pytest.raises(ModelError, match=r"its tensors .* are not those that its card promises"):
        Scorer(model)


def test_the_vectors_can_be_replayed(made, exported):
    model, path = made
    told = json.loads(path.read_text())
    assert told["model"] == {
        "name": "tiny",
        "version": "2",
        "target": model.name.split(".")[1],
        "layout": LAYOUTS[model.name.split(".")[1]],
        "made_from": Scorer(exported).sha256,
        "file": model.name,
        "sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
    }
    fed = np.frombuffer(base64.b64decode(told["triplets"]), "<f4").reshape(told["shape"])
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (scores,) = session.run([told["output"]], {told["input"]: fed})
    assert 2 <= len(scores) == len(told["scores"]) <= 4
    np.testing.assert_array_equal(scores, np.array(told["scores"], np.float32))
    assert told["tolerance"] == 1e-4
    axes = (1, 2) if told["shape"][-1] == 3 else (2, 3)
    np.testing.assert_allclose((fed**2).sum(axes), 1, atol=1e-4)


@pytest.mark.parametrize("kind", ["no golden", "golden cutouts that are padded"])
def test_the_vectors_are_made_up_where_no_golden_cutout_is_whole(kind, exported, tmp_path):
    proto = onnx.load(exported)
    card = Scorer(exported).card
    pixels = make_stamps(2)
    pixels[:, :, 50:] = np.nan
    golden = Golden(pixels, np.zeros(2, np.float32)) if kind.startswith("golden") else None
    onnx.helper.set_model_props(proto, {"otrain": dataclasses.replace(card, golden=golden).to_json()})
    onnx.save(proto, tmp_path / "bare")
    model, vectors = write_target(tmp_path / "bare", "boom")
    assert (model.name, vectors.name) == ("bare.boom.onnx", "bare.boom.json")
    assert len(json.loads(vectors.read_text())["scores"]) == 4


def test_of_an_ensemble_the_mean_is_left(tmp_path):
    export(join([make_network(1), make_network(2)]), make_card(), tmp_path / "two.onnx", make_stamps(30))
    scorer = Scorer(tmp_path / "two.onnx")
    assert scorer.has_spread
    for target in LAYOUTS:
        model, _ = write_target(tmp_path / "two.onnx", target)
        raw = make_stamps()
        np.testing.assert_allclose(feed(model, prepare_triplets(raw)), scorer.score_pixels(raw), atol=1e-6, rtol=0)
        assert [each.name for each in onnx.load(model).graph.output] == ["score"]


def test_half_precision_keeps_a_float32_input(tmp_path):
    export(make_network(), make_card(), tmp_path / "half.onnx", make_stamps(30), "fp16")
    scorer, raw = Scorer(tmp_path / "half.onnx"), make_stamps()
    for target in LAYOUTS:
        model, vectors = write_target(tmp_path / "half.onnx", target)
        np.testing.assert_allclose(feed(model, prepare_triplets(raw)), scorer.score_pixels(raw), atol=1e-3, rtol=0)
        assert json.loads(vectors.read_text())["tolerance"] == 5e-3


def test_padding_is_warned_of(exported, caplog):
    with caplog.at_level(logging.WARNING, "otrain.train"):
        write_target(exported, "boom")
    assert "BOOM puts zeros all around it, and this model was trained with padding object,0,after" in caplog.text


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"planes": ("DIFF",)}, "gives a model the planes SCI,REF,DIFF, and this one takes DIFF"),
        ({"planes": ("REF", "SCI", "DIFF")}, "and this one takes REF,SCI,DIFF"),
        ({"size": (63, 61)}, "gives a model 63 x 63 pixels, and this one takes 63 x 61"),
        (
            {"normalisation": Normalisation("robust")},
            "this model was trained on 'robust' pixels",
        ),
    ],
)
def test_a_model_that_needs_something_else_is_refused(fields, words, tmp_path):
    card = make_card(**fields)
    export(make_network(shape=card.shape), card, tmp_path / "other.onnx")
    with pytest.raises(ModelError, match=words):
        write_target(tmp_path / "other.onnx", "boom")
    assert [each.name for each in tmp_path.iterdir()] == ["other.onnx"]


def test_what_else_is_refused(exported, tmp_path, monkeypatch):
    check_fits(PLANES, None, "l2")
    (tmp_path / "no.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match="not an ONNX model"):
        write_target(tmp_path / "no.onnx", "boom")
    monkeypatch.setattr(targets, "_run", lambda content, fed: np.full(len(fed), 2, np.float32))
    with pytest.raises(ParityError, match=r"the model for boom scores otherwise than '.*rb\.onnx', by up to"):
        write_target(exported, "boom")


def test_a_model_with_an_int8_copy_is_refused(exported, monkeypatch):
    cascade = Cascade(((0.4, 0.6),), 100, 0.2, {}, {}, 0.01, 0.1, ())

    class Both(Scorer):
        def _open(self):
            super()._open()
            self.card = dataclasses.replace(self.card, cascade=cascade)

    monkeypatch.setattr(targets, "Scorer", Both)
    with pytest.raises(ModelError, match="BOOM would score every stamp in int8"):
        write_target(exported, "boom")


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    path = tmp_path_factory.mktemp("network") / "mine.keras"
    make_network().save(path)
    return str(path)


FITTING = ["--planes", "SCI,REF,DIFF", "--normalisation", "l2", "--padding", "corner,1e-9,after"]


@pytest.mark.parametrize("target", LAYOUTS)
def test_the_command_writes_both(target, network, tmp_path, capsys):
    output = tmp_path / "rb.onnx"
    assert export_command([network, "--output", str(output), *FITTING, "--target", target]) == 0, (
        capsys.readouterr().err
    )
    model, vectors = tmp_path / f"rb.{target}.onnx", tmp_path / f"rb.{target}.json"
    assert capsys.readouterr().out.splitlines()[-2:] == [str(model), str(vectors)]
    scorer, raw = Scorer(output), make_stamps()
    assert scorer.card.normalisation.padding == Padding("corner", 1e-9, "after")
    np.testing.assert_allclose(feed(model, prepare_triplets(raw)), scorer.score_pixels(raw), atol=1e-6, rtol=0)
    again = tmp_path / "again.onnx"
    options = [network, "--card", str(output), "--output", str(again), "--target", target]
    assert export_command(options) == 0
    assert (tmp_path / f"again.{target}.onnx").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "this one takes DIFF"),
        (FITTING[:2], "was trained on 'robust' pixels"),
        ([*FITTING, "--size", "64", "64"], "this one takes 64 x 64"),
        ([*FITTING, "--precision", "int8"], "--target needs a model of one precision"),
    ],
)
def test_the_command_refuses_before_anything_is_written(options, words, network, tmp_path, capsys):
    output = tmp_path / "rb.onnx"
    assert export_command([network, "--output", str(output), *options, "--target", "boom"]) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_command_refuses_a_card_that_does_not_fit(network, exported, tmp_path, capsys):
    card = make_card(planes=("DIFF",))
    export(make_network(shape=card.shape), card, tmp_path / "other.onnx")
    options = ["--card", str(tmp_path / "other.onnx"), "--output", str(tmp_path / "rb.onnx"), "--target", "boom"]
    assert export_command([network, *options]) == 2
    assert "this one takes DIFF" in capsys.readouterr().err
    assert not (tmp_path / "rb.onnx").exists()
