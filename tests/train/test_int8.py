"""Int8: what the copy of a network computes, which rows the network scores again, and what is refused."""

import dataclasses

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from keras import layers
from onnx import numpy_helper

from otrain_infer.card import INPUT, OUTPUT, Cascade, ModelCard, OperatingPoint
from otrain_infer.errors import ModelError, ParityError, UsageError
from otrain_infer.normalise import Normalisation
from otrain_infer.scorer import Scorer
from otrain_infer.session import has_fast_int8
from otrain_train.cli_export import export as export_command
from otrain_train.ensemble import join as join_members
from otrain_train.equalise import equalise
from otrain_train.export import export
from otrain_train.graph import add_score, convert
from otrain_train.network import build
from otrain_train.quantise import fold, is_int8, quantise
from otrain_train.rescoring import check, choose_intervals, in_words, judge

SHAPE = (16, 16, 2)
CARD = ModelCard("tiny", "1", "2030-01-01", ("SCI", "DIFF"), SHAPE[:2], Normalisation("l2"))


def make_rows(n, seed=0):
    rows = np.random.default_rng(seed).normal(0, 20, (n, *SHAPE)).astype(np.float32)
    rows[:, 7:9, 7:9] += np.linspace(0, 300, n, dtype=np.float32)[:, None, None, None]
    return rows


def make_network(seed=3, gain=100.0, padding="same"):
    keras.utils.set_random_seed(seed)
    network = keras.Sequential(
        [
            keras.Input(SHAPE),
            layers.Conv2D(8, 3, padding="same", activation="relu"),
            layers.Conv2D(8, 3, padding=padding, activation="relu"),
            layers.AveragePooling2D(2),
            layers.Conv2D(16, 3, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(16, "relu"),
            layers.Dense(2, "softmax"),
        ]
    )
    kernel, bias = network.layers[-1].get_weights()
    network.layers[-1].set_weights([gain * kernel, bias])
    return network


def with_loud_channels(number):
    """Make a network of the same scores, some channels of which are so loud that 8 bits have no room for the others."""
    network = make_network()
    first, second = network.layers[:2]
    loudness = np.where(np.arange(8) < number, 1e3, 1)
    kernel, bias = first.get_weights()
    first.set_weights([kernel * loudness, bias * loudness])
    kernel, bias = second.get_weights()
    second.set_weights([kernel / loudness[:, None], bias])
    return network


def with_an_offset():
    """Make a network whose first layer adds so much everywhere that 8 bits have no room for what the cutouts add."""
    network = make_network(gain=20.0, padding="valid")
    first, second = network.layers[:2]
    kernel, bias = first.get_weights()
    first.set_weights([kernel, bias + 3])
    kernel, bias = second.get_weights()
    second.set_weights([kernel, bias - 3 * kernel.sum((0, 1, 2))])
    return network


def with_branches():
    """Make a network in which channels are used twice, joined, or flattened place by place, and one that is not."""
    keras.utils.set_random_seed(5)
    cutouts = keras.Input(SHAPE)
    first = layers.Conv2D(8, 3, padding="same", activation="relu")(cutouts)
    left, right = (layers.Conv2D(8, 3, padding="same", activation="relu")(first) for _ in range(2))
    joined = layers.Concatenate()([left, layers.MaxPooling2D(3, 1, padding="same")(right)])
    last = layers.Conv2D(8, 3, activation="relu")(layers.Conv2D(8, 1, activation="relu")(joined))
    end = layers.Dense(2, "softmax")(layers.Flatten()(layers.AveragePooling2D(2)(last)))
    return keras.Model(cutouts, end)


def run(proto, rows):
    return onnxruntime.InferenceSession(proto.SerializeToString()).run([OUTPUT], {INPUT: rows})


@pytest.fixture(scope="module")
def network():
    return make_network()


@pytest.fixture(scope="module")
def median(network):
    scores = np.asarray(network(CARD.normalisation.apply(make_rows(500)), training=False))[:, 1]
    return float(np.median(scores))


@pytest.fixture(scope="module")
def exported(network, median, tmp_path_factory):
    path = tmp_path_factory.mktemp("int8") / "m.onnx"
    card = dataclasses.replace(CARD, threshold=median, operating_points=(OperatingPoint("p", median / 2, 1, 0, 1),))
    export(network, card, path, make_rows(800), "int8", max_flips=0.02)
    return path


def test_convolutions_and_averages_are_int8_and_the_ends_are_not(network):
    proto = add_score(convert([network], SHAPE)[0])
    graph = quantise(proto, CARD.normalisation.apply(make_rows(100))).graph
    makers = {output: node for node in graph.node for output in node.output}
    quantised = [
        node.op_type
        for node in graph.node
        if node.op_type in ("Conv", "Gemm", "MatMul", "AveragePool") and makers.get(node.input[0]) is not None
        and makers[node.input[0]].op_type == "DequantizeLinear"
    ]  # fmt: skip
    assert quantised == ["Conv", "Conv", "Conv"]  # the second, the average, the third
    assert not any(node.op_type == "AveragePool" for node in graph.node)
    weights = {each.name: each.data_type for each in graph.initializer}
    assert onnx.TensorProto.INT8 in weights.values()
    first = next(node for node in graph.node if node.op_type == "Conv")
    assert weights[first.input[1]] == onnx.TensorProto.FLOAT


@pytest.mark.parametrize("number", [1, 3])
def test_loud_channels_leave_room_for_the_others(number, tmp_path):
    rows = CARD.normalisation.apply(make_rows(200))
    changes = []
    for network in (make_network(), with_loud_channels(number)):
        proto = add_score(convert([network], SHAPE)[0])
        (full,), (copy,) = (run(each, rows) for each in (proto, quantise(proto, rows)))
        changes.append(np.abs(copy - full).mean())
    assert 0 < changes[1] < 2 * changes[0]


def sequential(*those):
    keras.utils.set_random_seed(7)
    return keras.Sequential([keras.Input(SHAPE), *those, layers.Dense(2, "softmax")])


EQUALISED = {
    "loud": lambda: with_loud_channels(2),
    "otrain": lambda: build("otrain", SHAPE),
    "branches": with_branches,
}
LEFT = {
    "dense at every place": lambda: sequential(
        layers.Conv2D(8, 3, activation="relu"), layers.Dense(4, "relu"), layers.Flatten()
    ),
    "flattened before its rectifier": lambda: sequential(layers.Conv2D(8, 3), layers.Flatten(), layers.ReLU()),
    "another shape before its rectifier": lambda: sequential(
        layers.Conv2D(8, 3), layers.Reshape((7, 14, 16)), layers.ReLU(), layers.Flatten()
    ),
    "another order of axes": lambda: sequential(
        layers.Conv2D(14, 3, activation="relu"), layers.Permute((2, 3, 1)), layers.Flatten()
    ),
    "another shape and order": lambda: sequential(
        layers.Conv2D(16, 3, padding="same", activation="relu"),
        layers.Reshape((16, 16, 16)),
        layers.Permute((2, 3, 1)),
        layers.Flatten(),
    ),
    "two filters for each channel": lambda: sequential(
        layers.Conv2D(8, 3, activation="relu"),
        layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False),
        layers.Conv2D(8, 3, activation="relu"),
        layers.GlobalAveragePooling2D(),
    ),
    "dead channels": lambda: sequential(
        layers.Conv2D(
            8, 3, activation="relu", kernel_initializer="zeros", bias_initializer=keras.initializers.Constant(-1)
        ),
        layers.Conv2D(8, 3, activation="relu"),
        layers.GlobalAveragePooling2D(),
    ),
}


@pytest.mark.parametrize("kind", [*EQUALISED, *LEFT])
def test_equal_channels_change_no_score_but_for_rounding(kind, tmp_path):
    rows = CARD.normalisation.apply(make_rows(100))
    proto = fold(add_score(convert([(EQUALISED | LEFT)[kind]()], SHAPE)[0]), tmp_path / "folded.onnx")
    before = {each.name: numpy_helper.to_array(each) for each in proto.graph.initializer}
    (expected,) = run(proto, rows)
    (found,) = run(equalise(proto, rows), rows)
    changed = [each for each in proto.graph.initializer if (numpy_helper.to_array(each) != before[each.name]).any()]
    assert bool(changed) == (kind in EQUALISED)
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_the_copy_scores_nearly_as_the_network(exported, network):
    rows = make_rows(300, seed=9)
    full = np.asarray(network(CARD.normalisation.apply(rows), training=False))[:, 1]
    copy = Scorer(exported, precision="int8").score_pixels(rows)
    assert full.std() > 0.05
    assert np.abs(copy - full).mean() < 0.01
    assert (copy != full).mean() > 0.9
    np.testing.assert_allclose(Scorer(exported, precision="fp32").score_pixels(rows), full, atol=1e-5)


@pytest.mark.skipif(not has_fast_int8(), reason="this processor has no VNNI, so int8 is not taken")
def test_near_a_threshold_the_network_has_the_last_word(exported):
    rows = make_rows(600, seed=11)
    scorer = Scorer(exported)
    scores, full = scorer.score_pixels(rows), Scorer(exported, precision="fp32").score_pixels(rows)
    near = scorer.card.cascade.is_near(Scorer(exported, precision="int8").score_pixels(rows))
    assert 0 < scorer.rescored == near.sum() < 600
    np.testing.assert_array_equal(scores[near], full[near])
    assert ((scores >= scorer.card.threshold) != (full >= scorer.card.threshold)).mean() <= 0.02


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_a_score_does_not_depend_on_its_batch(exported, precision):
    rows = make_rows(150)
    scores = Scorer(exported, precision=precision).score_pixels(rows)
    for batch_size in (1, 7, 150):
        other = Scorer(exported, precision=precision, batch_size=batch_size).score_pixels(rows)
        np.testing.assert_array_equal(other, scores)


def test_the_card_says_what_int8_changes(exported):
    card = Scorer(exported).card
    assert card.training["precision"] == "int8"
    assert card.cascade.rows == 300
    assert set(card.cascade.flips) == {"threshold", "p"}
    assert len(card.cascade.intervals) == 2
    assert all(low < high for low, high in card.cascade.intervals)
    golden = Scorer(exported, precision="fp32").score_pixels(card.golden.pixels)
    np.testing.assert_array_equal(golden, card.golden.scores)
    assert "of 300 cutouts in fp32 again" in in_words(card.cascade)


def test_an_ensemble_keeps_its_spread(tmp_path):
    ensemble = join_members([make_network(1), make_network(2)])
    rows = make_rows(400)
    export(ensemble, CARD, tmp_path / "e.onnx", rows, "int8", max_flips=1)
    full, spread = Scorer(tmp_path / "e.onnx", precision="fp32").score_pixels_with_spread(rows)
    copy, other = Scorer(tmp_path / "e.onnx", precision="int8").score_pixels_with_spread(rows)
    assert spread.mean() > 0.01
    assert 0 < np.abs(copy - full).mean() < 0.02
    assert 0 < np.abs(other - spread).mean() < 0.02


def test_what_changes_too_much_is_refused_and_nothing_is_written(network, median, tmp_path):
    with pytest.raises(ParityError, match=r"calls .* of 600 cutouts otherwise at the threshold"):
        check(Cascade((), 600, 0.0, {"threshold": 0.002}, {}, 0.0, 0.1), "tiny")
    with pytest.raises(ParityError, match=r"changes scores by 0\.02 on average"):
        check(Cascade((), 600, 0.0, {"threshold": 0.0}, {}, 0.02, 0.1), "tiny")
    with pytest.raises(ParityError, match="as int8 changes scores by"):
        export(with_an_offset(), CARD, tmp_path / "m.onnx", make_rows(800), "int8", max_flips=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("rows", [None, make_rows(150)])
def test_too_few_cutouts_are_refused(network, rows, tmp_path):
    with pytest.raises(UsageError, match="--calibration-cube"):
        export(network, CARD, tmp_path / "m.onnx", rows, "int8")
    assert not list(tmp_path.iterdir())


def test_a_network_with_nothing_to_gain_is_refused(tmp_path):
    plain = keras.Sequential([keras.Input(SHAPE), layers.Flatten(), layers.Dense(2, "softmax")])
    assert not is_int8(quantise(add_score(convert([plain], SHAPE)[0]), make_rows(10)))
    with pytest.raises(ModelError, match="nothing that could be computed in int8"):
        export(plain, CARD, tmp_path / "m.onnx", make_rows(300), "int8")


def scores_of(log_odds):
    return (1 / (1 + np.exp(-log_odds))).astype(np.float32)


def moved(n, seed, by=0.05):
    """Give the scores of a copy and of its network, whose log odds are far apart by what is drawn."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(0, 3, n)
    return scores_of(odds + rng.normal(0, by, n)), scores_of(odds)


@pytest.mark.parametrize("allowed", [0.0005, 0.001, 0.005])
def test_intervals_let_no_more_calls_change_than_allowed_and_are_no_wider_for_it(allowed):
    thresholds = {"threshold": 0.5, "high": 0.9, "none": 1.0}
    copy, network = moved(4000, seed=1)
    intervals = choose_intervals(thresholds, copy, network, 4000, allowed)
    assert len(intervals) == 2
    judged = judge(thresholds, *moved(100_000, seed=2), intervals)
    assert max(judged.flips.values()) <= allowed < max(judged.flips_alone.values())
    assert max(judged.flips.values()) > 0.05 * allowed
    assert judged.rescored < 10 * max(judged.flips_alone.values())


@pytest.mark.parametrize("n", [300, 3000])
def test_chance_alone_seldom_refuses_a_copy(n):
    refused = 0
    for seed in range(200):
        intervals = choose_intervals({"t": 0.5}, *moved(n, seed), n, 0.001)
        refused += judge({"t": 0.5}, *moved(n, seed + 1000), intervals).flips["t"] > 0.001
    assert refused <= 6


def test_where_no_call_may_change_all_that_could_are_scored_again():
    network = np.array([0.45, 0.2, 0.99], np.float32)
    copy = np.array([0.6, 0.2, 0.999], np.float32)
    ((low, high),) = choose_intervals({"t": 0.5, "all": 0.0}, copy, network, 10_000, 0.0)
    assert (low, high) == pytest.approx((0.4, 0.6))  # the last row is far from the threshold
    judged = judge({"t": 0.55}, copy, network, ((0.4, 0.61),))
    assert (judged.flips, judged.flips_alone) == ({"t": 0.0}, {"t": pytest.approx(1 / 3)})
    assert judged.rescored == pytest.approx(1 / 3)
    assert judged.largest_change == pytest.approx(0.15, abs=1e-6)


def test_a_copy_that_moves_nothing_needs_no_more_than_its_thresholds():
    _, network = moved(500, seed=3)
    ((low, high),) = choose_intervals({"t": 0.3}, network, network, 500, 0.001)
    assert low <= 0.3 <= high < low + 1e-9


def test_the_command_says_what_it_costs(network, tmp_path, capsys):
    network.save(tmp_path / "m.keras")
    cube = {"cube": make_rows(600), "labels": np.arange(600) % 2, "planes": np.array(["SCI", "DIFF"])}
    np.savez(tmp_path / "cube.npz", **cube)
    output = str(tmp_path / "m.onnx")
    told = ["--planes", "SCI,DIFF", "--normalisation", "l2", "--precision", "int8", "--output", output]
    assert export_command([str(tmp_path / "m.keras"), *told]) == 2
    assert "--calibration-cube" in capsys.readouterr().err
    told += ["--calibration-cube", str(tmp_path / "cube.npz"), "--max-flips", "0.05"]
    assert export_command([str(tmp_path / "m.keras"), *told]) == 0
    said = capsys.readouterr()
    assert "int8: scores" in said.out
    assert "µs of this processor in int8" in said.err
    assert Scorer(tmp_path / "m.onnx").card.cascade.rows == 225


def test_the_input_that_chooses_may_be_left_out(exported):
    session = onnxruntime.InferenceSession(exported)
    assert [each.name for each in session.get_inputs()] == [INPUT]


def test_planes_of_the_datacube_are_taken_by_their_names(network, tmp_path, capsys):
    network.save(tmp_path / "m.keras")
    rows = make_rows(600)
    found = []
    for number, planes in enumerate((["SCI", "DIFF"], ["DIFF", "SCI"], ["DIFF", "REF", "SCI"])):
        order = [max(0, ["SCI", "DIFF"].index(plane)) if plane != "REF" else 0 for plane in planes]
        columns = {"cube": rows[..., order], "labels": np.arange(600) % 2, "planes": np.array(planes)}
        np.savez(tmp_path / "cube.npz", **columns)
        asked = ["--planes", "SCI,DIFF", "--normalisation", "l2", "--precision", "int8", "--max-flips", "0.05"]
        asked += ["--calibration-cube", str(tmp_path / "cube.npz"), "--output", str(tmp_path / f"{number}.onnx")]
        assert export_command([str(tmp_path / "m.keras"), *asked]) == 0
        found.append(Scorer(tmp_path / f"{number}.onnx").card)
    assert found[0].cascade == found[1].cascade == found[2].cascade
    np.savez(tmp_path / "cube.npz", cube=rows, labels=np.arange(600) % 2, planes=np.array(["SCI", "REF"]))
    assert export_command([str(tmp_path / "m.keras"), *asked]) == 2
    assert "holds the planes SCI,REF, and the network takes SCI,DIFF" in capsys.readouterr().err


def test_copies_of_one_cutout_are_no_calibration(network, tmp_path):
    with pytest.raises(UsageError, match="200 different cutouts or more, and there are 1:"):
        export(network, CARD, tmp_path / "m.onnx", np.repeat(make_rows(1), 300, axis=0), "int8")


def test_a_model_with_an_int8_copy_serves_as_the_card_of_another_export(network, exported, tmp_path):
    network.save(tmp_path / "m.keras")
    told = ["--card", str(exported), "--threshold", "0.25", "--output", str(tmp_path / "again.onnx")]
    assert export_command([str(tmp_path / "m.keras"), *told]) == 0
    assert Scorer(tmp_path / "again.onnx").card.cascade is None
    assert Scorer(tmp_path / "again.onnx").card.threshold == 0.25
