"""Export: what the ONNX file scores, what its card carries, and what is refused."""

import dataclasses
import os
import warnings
from pathlib import Path

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from keras import layers

from otrain_infer.card import ModelCard
from otrain_infer.errors import ModelError, OutputError, ParityError, UsageError
from otrain_infer.normalise import Normalisation, Padding
from otrain_infer.scorer import Scorer
from otrain_train.export import export, export_file, load_network, rewrite_card
from otrain_train.graph import convert
from otrain_train.reference import make_reference

SHAPE = (16, 14, 2)
ROBUST = Normalisation("robust")


def make_card(shape=SHAPE, normalisation=ROBUST, **fields):
    planes = ("SCI", "REF", "DIFF")[: shape[2]]
    return ModelCard("tiny", "1", "2030-01-01T00:00:00+00:00", planes, shape[:2], normalisation, **fields)


def make_network(*head, shape=SHAPE, seed=3):
    keras.utils.set_random_seed(seed)
    network = keras.Sequential(
        [
            keras.Input(shape),
            layers.RandomFlip(),
            layers.Conv2D(4, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.Flatten(),
            *head,
        ]
    )
    rng = np.random.default_rng(seed)
    mean, variance = network.layers[2].non_trainable_weights
    mean.assign(rng.normal(size=4))
    variance.assign(rng.uniform(0.5, 2, 4))
    return network


def softmax_network():
    keras.utils.set_random_seed(3)
    return make_network(layers.Dense(2, activation="softmax"))


def first_pixel(units, activation):
    """Make a network whose (last) logit is the first pixel, and the other one 0."""
    network = keras.Sequential([keras.Input((4, 4, 1)), layers.Flatten(), layers.Dense(units, activation)])
    kernel = np.zeros((16, units), np.float32)
    kernel[0, -1] = 1
    network.layers[-1].set_weights([kernel, np.zeros(units)])
    return network


def make_rows(n=70, shape=SHAPE, seed=0):
    """Make cutouts, of which the one at 3 has holes and the one at 5 is padded."""
    rows = np.random.default_rng(seed).normal(100, 20, (n, *shape)).astype(np.float32)
    rows[:, 6:9, 6:8] += np.linspace(0, 500, n, dtype=np.float32)[:, None, None, None]
    if n > 5:
        rows[3, 2, 2] = np.nan
        rows[5, 10:] = np.nan
    return rows


def expected_scores(network, card, rows):
    return np.asarray(network(card.normalisation.apply(rows), training=False), np.float64)


HEADS = {
    "softmax": ((layers.Dense, (2, "softmax")),),
    "separate softmax": ((layers.Dense, (2,)), (layers.Softmax, ())),
    "softmax of dense without bias": ((layers.Dense, (2, "softmax", False)),),
    "sigmoid": ((layers.Dense, (1, "sigmoid")),),
    "separate sigmoid": ((layers.Dense, (1,)), (layers.Activation, ("sigmoid",)), (layers.Reshape, ((1, 1),))),
    "logits": ((layers.Dense, (2,)),),
    "logits without bias": ((layers.Dense, (2, None, False)),),
    "logit": ((layers.Dense, (1,)),),
}


@pytest.mark.parametrize("head", HEADS)
def test_any_head_becomes_one_score(head, tmp_path):
    keras.utils.set_random_seed(3)  # the head is made before the network it ends
    network = make_network(*(make(*arguments) for make, arguments in HEADS[head]))
    card, rows = make_card(), make_rows()
    export(network, card, tmp_path / "m.onnx", rows)
    output = expected_scores(network, card, rows).reshape(len(rows), -1)
    if head.startswith("logit"):
        logit = output[:, 1] - output[:, 0] if output.shape[1] == 2 else output[:, 0]
        expected = 1 / (1 + np.exp(-logit))
    else:
        expected = output[:, -1]
    assert expected.std() > 1e-3
    np.testing.assert_allclose(Scorer(tmp_path / "m.onnx").score_pixels(rows), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(("units", "activation"), [(1, "sigmoid"), (1, None), (2, "softmax"), (2, None)])
def test_the_tails_are_kept(units, activation, precision, tmp_path):
    logits = np.array([-80, -60, -40, -23, -16, -0.125, 0, 3, 23])
    rows = make_rows(len(logits), (4, 4, 1))
    rows[:] = np.nan_to_num(rows)
    rows[:, 0, 0, 0] = logits
    card = make_card((4, 4, 1), Normalisation("none"))
    export(first_pixel(units, activation), card, tmp_path / "m.onnx", rows, precision)
    scores = Scorer(tmp_path / "m.onnx").score_pixels(rows)
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-logits)), rtol=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_score_does_not_depend_on_its_batch(precision, tmp_path):
    rows = make_rows(200)
    export(softmax_network(), make_card(), tmp_path / "m.onnx", rows, precision)
    scores = Scorer(tmp_path / "m.onnx", batch_size=64).score_pixels(rows)
    for batch_size in (1, 7, 200):
        other = Scorer(tmp_path / "m.onnx", batch_size=batch_size).score_pixels(rows)
        np.testing.assert_array_equal(other, scores)


def test_half_precision_takes_batches_larger_than_it_can_count(tmp_path):
    # A float16 holds whole numbers up to 2,048 only: lengths must not pass through it.
    shape, rows = (4, 4, 1), make_rows(2_501, (4, 4, 1))
    keras.utils.set_random_seed(0)
    network = keras.Sequential([keras.Input(shape), layers.Flatten(), layers.Dense(2, "softmax")])
    export(network, make_card(shape), tmp_path / "m.onnx", rows, "fp16")
    whole = Scorer(tmp_path / "m.onnx", batch_size=2_501).score_pixels(rows)
    np.testing.assert_array_equal(whole, Scorer(tmp_path / "m.onnx").score_pixels(rows))


def test_no_shape_is_computed_from_pixels():
    network = keras.Sequential(
        [keras.Input((16, 16, 1)), layers.Conv2D(4, 3), layers.Flatten(), layers.Reshape((28, 28)), layers.Flatten(),
         layers.Dense(2)]
    )  # fmt: skip
    proto = convert([network], (16, 16, 1))[0]
    assert [node.op_type for node in proto.graph.node].count("Reshape") >= 2
    assert not {"Shape", "Gather", "Concat"} & {node.op_type for node in proto.graph.node}
    constants = {each.name for each in proto.graph.initializer}
    assert constants == {name for node in proto.graph.node for name in node.input if name in constants}
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    for n in (1, 5):
        pixels = np.random.default_rng(n).normal(size=(n, 16, 16, 1)).astype(np.float32)
        np.testing.assert_allclose(session.run(None, {"cutouts": pixels})[0], network(pixels), atol=1e-5)


def test_a_dense_layer_at_every_place(tmp_path):
    network = make_network(
        layers.Reshape((14, 12, 4)), layers.Dense(3, "relu"), layers.Flatten(), layers.Dense(2, "softmax")
    )
    export(network, make_card(), tmp_path / "m.onnx", make_rows())
    rows = make_rows()
    expected = np.asarray(network(ROBUST.apply(rows), training=False))[:, 1]
    np.testing.assert_allclose(Scorer(tmp_path / "m.onnx").score_pixels(rows), expected, atol=1e-5)


def test_the_tensors_are_those_of_the_contract(tmp_path):
    for precision in ("fp32", "fp16"):
        export(softmax_network(), make_card(), tmp_path / "m.onnx", make_rows(), precision)
        session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
        tensors = [(each.name, each.type, each.shape) for each in (*session.get_inputs(), *session.get_outputs())]
        assert tensors == [("cutouts", "tensor(float)", ["n", *SHAPE]), ("score", "tensor(float)", ["n"])]
        assert session.run(None, {"cutouts": np.zeros((0, *SHAPE), np.float32)})[0].shape == (0,)


def test_half_precision_halves_the_weights_and_says_so(tmp_path):
    network = make_network(layers.Dense(200, activation="relu"), layers.Dense(2, activation="softmax"))
    rows = make_rows()
    single = export(network, make_card(), tmp_path / "single.onnx", rows)
    half = export(network, make_card(), tmp_path / "half.onnx", rows, "fp16")
    sizes = {
        name: sum(onnx.numpy_helper.to_array(each).nbytes for each in onnx.load(tmp_path / name).graph.initializer)
        for name in ("single.onnx", "half.onnx")
    }
    assert sizes["half.onnx"] < 0.51 * sizes["single.onnx"]
    assert (single.training["precision"], half.training["precision"]) == ("fp32", "fp16")
    assert single.metrics["parity"]["tolerance"] == 1e-5
    assert single.metrics["parity"]["max_difference"] < 1e-6 < half.metrics["parity"]["max_difference"]


def test_the_card_in_the_file_is_the_card_returned(tmp_path):
    card = make_card(training={"seed": 1, "versions": {"numpy": "2"}}, metrics={"auc": 0.9}, threshold=0.4)
    rows = make_rows()
    returned = export(softmax_network(), card, tmp_path / "m.onnx", rows)
    scorer = Scorer(tmp_path / "m.onnx")
    assert scorer.card.to_json() == returned.to_json()
    assert scorer.card.threshold == 0.4
    assert scorer.card.training["seed"] == 1
    assert scorer.card.training["versions"].keys() >= {"numpy", "tensorflow", "keras", "tf2onnx", "onnx", "otrain"}
    assert scorer.card.metrics["auc"] == 0.9
    assert scorer.card.metrics["parity"] | {"max_difference": 0} == {
        "max_difference": 0, "tolerance": 1e-5, "rows": 70, "rows_from": "cutouts"
    }  # fmt: skip


def test_the_golden_cutouts_cover_the_range_and_the_odd_ones(tmp_path):
    rows = make_rows()
    rows[7] = 5.0
    card = export(softmax_network(), make_card(), tmp_path / "m.onnx", rows)
    scores = Scorer(tmp_path / "m.onnx").score_pixels(rows)
    golden = card.golden
    np.testing.assert_array_equal(golden.pixels[0], rows[3])
    np.testing.assert_array_equal(golden.pixels[1], rows[5])
    assert 4 <= len(golden.scores) <= 6
    assert (golden.scores.min(), golden.scores.max()) == (np.nanmin(scores), np.nanmax(scores))
    np.testing.assert_array_equal(Scorer(tmp_path / "m.onnx").score_pixels(golden.pixels), golden.scores)


def test_the_reference_describes_the_rows_with_a_score(tmp_path):
    rows = make_rows()
    rows[7] = np.nan
    reference = export(softmax_network(), make_card(), tmp_path / "m.onnx", rows).reference
    scores = np.delete(Scorer(tmp_path / "m.onnx").score_pixels(rows), 7).astype(float)
    rows = np.delete(rows, 7, axis=0)
    real = reference["real"]
    assert reference["rows"] == 69
    assert real["share"] == pytest.approx(scores.mean())
    np.testing.assert_allclose(reference["scores"], np.quantile(scores, reference["levels"]))
    by_hand = [_among(scores, scores, each) for each in reference["scores"]]
    np.testing.assert_allclose(real["scores"], by_hand, atol=1 / 69)
    for i, plane in enumerate(("SCI", "REF")):
        values, probable = rows[..., i], np.broadcast_to(scores[:, None, None], rows.shape[:3])
        there = np.isfinite(values)
        expected = np.nanquantile(values.astype(float), reference["levels"])
        np.testing.assert_allclose(reference["pixels"][plane], expected)
        by_hand = [_among(values[there], probable[there], each) for each in expected]
        np.testing.assert_allclose(real["pixels"][plane], by_hand, atol=1e-3)
        assert reference["non_finite"][plane] == pytest.approx(1 - there.mean())
        assert real["non_finite"][plane] == pytest.approx(np.average(~there, weights=probable))


def _among(values, weights, most):
    return np.average(values <= most, weights=weights)


def test_of_equal_values_the_reference_counts_the_same_part_of_the_real_ones():
    shape = (2, 2, 1)
    raw, scores = np.zeros((400, *shape), np.float32), np.tile(np.float32([0.1, 0.3]), 200)
    raw[:40] = -1
    reference = make_reference(make_card(shape), raw, scores)
    assert reference["pixels"]["SCI"] == [-1, -1, 0, 0, 0, 0, 0]
    np.testing.assert_allclose(reference["real"]["pixels"]["SCI"], reference["levels"])
    np.testing.assert_allclose(reference["real"]["scores"][:3], [0.005, 0.025, 0.125])
    nothing = make_reference(make_card(shape), np.full((3, *shape), np.nan, np.float32), np.zeros(3, np.float32))
    assert nothing["real"]["share"] == 0
    assert np.isnan(nothing["pixels"]["SCI"]).all()
    assert np.isnan(nothing["real"]["pixels"]["SCI"]).all()


def test_of_many_rows_some_from_all_over_are_taken(tmp_path):
    shape = (4, 4, 1)
    keras.utils.set_random_seed(0)
    network = keras.Sequential([keras.Input(shape), layers.Flatten(), layers.Dense(1, "sigmoid")])
    rows = make_rows(3_000, shape)
    card = export(network, make_card(shape), tmp_path / "m.onnx", rows)
    assert card.metrics["parity"]["rows"] == card.reference["rows"] == 1_024
    assert card.reference["pixels"]["SCI"][3] == pytest.approx(np.nanmedian(rows), rel=0.02)


def test_without_rows_made_up_ones_serve_and_the_card_says_so(tmp_path):
    card = export(softmax_network(), make_card(), tmp_path / "m.onnx")
    assert card.metrics["parity"]["rows_from"] == "synthetic"
    assert card.reference == {}
    assert np.isnan(card.golden.pixels).any()
    assert len(np.unique(card.golden.scores)) > 2


def test_export_leaves_the_network_as_it_was(tmp_path):
    network, rows = softmax_network(), make_rows()
    weights = [weight.copy() for weight in network.get_weights()]
    scores = expected_scores(network, make_card(), rows)
    export(network, make_card(), tmp_path / "m.onnx", rows)
    np.testing.assert_array_equal(expected_scores(network, make_card(), rows), scores)
    for before, after in zip(weights, network.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize(("kernels", "words"), [
    # A sum of 1,600 times the first kernel: too near to where half precision ends.
    ((20.0, 1e-5), r"cannot be exported as fp16, for a value within it reaches 3.*e\+04 "),
    # A kernel that half precision does not hold.
    ((1e-9, 1e6), r"as fp16 scores otherwise .* by up to 0\..* where 0\.005 is allowed"),
])  # fmt: skip
def test_a_model_that_would_score_otherwise_is_not_written(kernels, words, tmp_path):
    shape, path = (4, 4, 1), tmp_path / "m.onnx"
    first, second = (keras.initializers.Constant(value) for value in kernels)
    network = keras.Sequential(
        [
            keras.Input(shape),
            layers.Flatten(),
            layers.Dense(1, kernel_initializer=first),
            layers.Dense(1, "sigmoid", kernel_initializer=second, bias_initializer=keras.initializers.Constant(0.5)),
        ]
    )
    card, rows = make_card(shape, Normalisation("none")), np.nan_to_num(make_rows(3, shape), nan=100.0)
    export(network, card, path, rows)
    before = path.read_bytes()
    with pytest.raises(ParityError, match=words):
        export(network, card, path, rows, "fp16")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file.m\.onnx"):
        export(softmax_network(), make_card(), tmp_path / "file" / "m.onnx", make_rows())


def test_nothing_is_printed(tmp_path, capfd):
    export(softmax_network(), make_card(), tmp_path / "m.onnx", make_rows())
    assert capfd.readouterr() == ("", "")


def two_inputs():
    one, two = keras.Input(SHAPE), keras.Input(SHAPE)
    return keras.Model([one, two], layers.Dense(2, "softmax")(layers.Flatten()(layers.Add()([one, two]))))


def two_outputs():
    cutouts = keras.Input(SHAPE)
    features = layers.Flatten()(cutouts)
    return keras.Model(cutouts, [layers.Dense(2, "softmax")(features), layers.Dense(1)(features)])


def of_shape(*shape):
    return lambda: keras.Sequential([keras.Input(shape), layers.Flatten(), layers.Dense(2, "softmax")])


def mean_of_probabilities():
    convolution = layers.Conv2D(2, 3, activation="softmax")
    return keras.Sequential([keras.Input(SHAPE), convolution, layers.GlobalAveragePooling2D()])


def sum_of_probabilities():
    cutouts = keras.Input(SHAPE)
    features = layers.Flatten()(cutouts)
    both = [layers.Dense(2, "softmax")(features), layers.Dense(2, "softmax")(features)]
    return keras.Model(cutouts, layers.Add()(both))


def whole_numbers():
    cutouts = keras.Input(SHAPE, dtype="uint8")
    return keras.Model(cutouts, layers.Dense(2, "softmax")(layers.Flatten()(layers.Rescaling(1 / 255)(cutouts))))


@pytest.mark.parametrize(("make", "words"), [
    (two_inputs, r"has 2 input\(s\)"),
    (two_outputs, r"2 output\(s\)"),
    (of_shape(16, 14), "not .n, ny, nx, planes"),
    (of_shape(16, 14, 1), r"shape \(ny, nx, planes\) \(16, 14, 1\), not \(16, 14, 2\)"),
    (of_shape(14, 16, 2), r"\(14, 16, 2\), not \(16, 14, 2\)"),
    (whole_numbers, "takes uint8 pixels"),
    (lambda: make_network(layers.Dense(3, "softmax")), "ends with 'Softmax' of shape .*, which is not understood"),
    (lambda: make_network(layers.Dense(2, "sigmoid")), "ends with 'Sigmoid'"),
    (lambda: make_network(layers.Dense(1, "tanh")), "ends with 'Tanh'"),
    (mean_of_probabilities, "ends with 'Mean'"),
    (sum_of_probabilities, "ends with 'AddV2'"),
    (lambda: keras.Sequential([layers.Flatten(), layers.Dense(2, "softmax")]), "no input of known shape"),
])  # fmt: skip
def test_a_network_that_does_not_fit_is_refused(make, words, tmp_path):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You are using a softmax over axis", UserWarning)
        network = make()
    with pytest.raises(ModelError, match=words):
        export(network, make_card(), tmp_path / "m.onnx", make_rows())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("rows", "precision", "words"), [
    (make_rows(), "int4", "precision 'int4' is unknown"),
    (make_rows(shape=(16, 14, 1)), "fp32", r"not \(n, 16, 14, 2\)"),
    (make_rows(0), "fp32", r"shape \(0, 16, 14, 2\)"),
    (np.ones((3, *SHAPE), np.float32), "fp32", "none of the 3 cutouts a score"),
])  # fmt: skip
def test_wrong_use_is_refused(rows, precision, words, tmp_path):
    with pytest.raises(UsageError, match=words):
        export(softmax_network(), make_card(), tmp_path / "m.onnx", rows, precision)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", [".keras", ".h5"])
def test_files_of_keras_3_are_exported(ending, tmp_path):
    network, rows = softmax_network(), make_rows()
    path = tmp_path / f"theirs{ending}"
    network.save(path)
    card = export_file(path, tmp_path / "m.onnx", planes=("SCI", "REF"), normalisation=ROBUST, rows=rows)
    expected = expected_scores(network, card, rows)[:, 1]
    np.testing.assert_allclose(Scorer(tmp_path / "m.onnx").score_pixels(rows), expected, atol=1e-6)
    assert (card.name, card.size, card.planes) == ("theirs", (16, 14), ("SCI", "REF"))
    assert card.training["source"]["file"] == path.name


def test_a_network_of_any_size_needs_to_be_told_one(tmp_path):
    network = keras.Sequential([
        keras.Input((None, None, 1)), layers.Conv2D(4, 3), layers.GlobalAveragePooling2D(), layers.Dense(1, "sigmoid")
    ])  # fmt: skip
    network.save(tmp_path / "free.keras")
    arguments = {"planes": ("DIFF",), "normalisation": ROBUST}
    with pytest.raises(UsageError, match="any size: say which one with --size"):
        export_file(tmp_path / "free.keras", tmp_path / "m.onnx", **arguments)
    export_file(tmp_path / "free.keras", tmp_path / "m.onnx", size=(20, 18), **arguments)
    assert Scorer(tmp_path / "m.onnx").card.size == (20, 18)


@keras.saving.register_keras_serializable("tests")
class Twice(layers.Layer):
    def call(self, pixels):
        return 2 * pixels


@pytest.mark.parametrize("ending", [".keras", ".h5"])
@pytest.mark.parametrize(("make", "words"), [
    (lambda: layers.Lambda(lambda pixels: 2 * pixels), "[Ll]ambda"),
    (Twice, "Twice"),
])  # fmt: skip
def test_a_layer_that_is_not_keras_own_is_refused(make, words, ending, tmp_path, monkeypatch):
    path = tmp_path / f"m{ending}"
    keras.Sequential([keras.Input(SHAPE), make(), layers.Flatten(), layers.Dense(2, "softmax")]).save(path)
    monkeypatch.delitem(keras.saving.get_custom_objects(), "tests>Twice")
    with pytest.raises(ModelError, match=words) as caught:
        load_network(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", [".keras", ".h5"])
@pytest.mark.parametrize("part", [0, 50, 0.5, 0.98])
def test_a_truncated_file_is_refused(part, ending, tmp_path):
    path = tmp_path / f"m{ending}"
    softmax_network().save(path)
    content = path.read_bytes()
    path.write_bytes(content[: part if isinstance(part, int) else int(part * len(content))])
    with pytest.raises(ModelError, match=r"damaged|cannot be loaded"):
        load_network(path)


@pytest.mark.parametrize(("name", "words"), [("none.keras", "there is no model file"), ("m.txt", "neither a .keras")])
def test_what_is_no_model_file_is_refused(name, words, tmp_path):
    (tmp_path / "m.txt").write_text("a network")
    with pytest.raises(ModelError, match=words):
        load_network(tmp_path / name)


def test_the_card_of_a_written_model_can_be_replaced(tmp_path):
    path = tmp_path / "m.onnx"
    card = export(softmax_network(), make_card(), path, make_rows())
    scores = Scorer(path).score_pixels(make_rows())
    rewrite_card(path, dataclasses.replace(card, threshold=0.7, metrics=card.metrics | {"auc": 0.9}))
    scorer = Scorer(path)
    assert (scorer.card.threshold, scorer.card.metrics["auc"]) == (0.7, 0.9)
    np.testing.assert_array_equal(scorer.score_pixels(make_rows()), scores)
    before = path.read_bytes()
    with pytest.raises(ModelError, match="not those that its card promises"):
        rewrite_card(path, make_card((20, 14, 2)))
    assert path.read_bytes() == before


def test_keras_2_files_in_the_keras_format_are_refused(tmp_path):
    tf_keras = pytest.importorskip("tf_keras", reason="tf_keras is needed to write Keras 2 files")
    path = tmp_path / "m.keras"
    tf_keras.Sequential([tf_keras.layers.Flatten(input_shape=SHAPE), tf_keras.layers.Dense(2, "softmax")]).save(path)
    with pytest.raises(ModelError, match=r"saved by Keras 2.*save it as \.h5"):
        load_network(path)


def read_triplets(folder):
    """Read every real cutout, and prepare it a second time as braai's own recipe has it."""
    from astropy.io import fits

    raw, prepared = [], []
    for path in sorted(folder.glob("ztf/*/*.fits")):
        pixels = np.full((63, 63, 3), np.nan, np.float32)
        recipe = np.full((63, 63, 3), 1e-9, np.float32)
        with fits.open(path) as file:
            for plane, name in enumerate(("SCI", "REF", "DIFF")):
                image = file[name].data
                ny, nx = image.shape
                pixels[:ny, :nx, plane] = image
                finite = np.nan_to_num(image)
                recipe[:ny, :nx, plane] = finite / np.linalg.norm(finite)
        raw.append(pixels)
        prepared.append(recipe)
    return np.array(raw), np.array(prepared)


@pytest.mark.skipif("OTRAIN_DATA" not in os.environ, reason="OTRAIN_DATA does not say where the real cutouts are")
def test_braai_scores_real_triplets_as_it_does_in_keras_2(tmp_path):
    tf_keras = pytest.importorskip("tf_keras", reason="tf_keras is needed to run Keras 2 files")
    folder = Path(os.environ["OTRAIN_DATA"])
    model = folder / "braai" / "braai_d6_m9.h5"
    raw, prepared = read_triplets(folder)
    assert len(raw) > 300
    network = tf_keras.models.load_model(model, compile=False)
    expected = np.concatenate([np.asarray(network(prepared[i : i + 64]))[:, 0] for i in range(0, len(raw), 64)])
    recipe = Normalisation("l2", Padding("corner", 1e-9, "after"))
    for precision, tolerance in (("fp32", 1e-6), ("fp16", 5e-3)):
        export_file(model, tmp_path / "braai.onnx", planes=("SCI", "REF", "DIFF"), normalisation=recipe,
                    rows=raw, precision=precision)  # fmt: skip
        scores = Scorer(tmp_path / "braai.onnx").score_pixels(raw)
        np.testing.assert_allclose(scores, expected, atol=tolerance, rtol=0)
