"""Tiny ONNX models with a card, built without TensorFlow."""

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper

from otrain_infer.card import INPUT, METADATA_KEY, OUTPUT, PRECISE, SPREAD, Cascade, Golden, ModelCard, OperatingPoint
from otrain_infer.normalise import Normalisation, Padding


def make_card(planes=("DIFF",), size=(64, 64), normalisation=None, **fields) -> ModelCard:
    return ModelCard(
        name="tiny",
        version="1",
        created="2026-01-01T00:00:00Z",
        planes=planes,
        size=size,
        normalisation=normalisation or Normalisation("l2", Padding()),
        **fields,
    )


def make_model(
    card: ModelCard | None = None, *, text: str | None = None, inner=INPUT, outer=OUTPUT, gain=30.0, seed=7
) -> bytes:
    """A convolution, a ReLU, a dense layer and a softmax of two: enough to make every pixel count."""
    card = card or make_card()
    ny, nx, planes = card.shape
    rng = np.random.default_rng(seed)
    weights = {
        "kernel": rng.normal(size=(4, planes, 3, 3)),
        "dense": gain * rng.normal(size=(4 * ny * nx, 2)) / np.sqrt(4 * ny * nx),
        "bias": np.array([0.1, -0.1]),
        "column": np.array([1]),
        "axis": np.array([1]),
    }
    kinds = {"column": np.int64, "axis": np.int64}
    constants = [
        numpy_helper.from_array(value.astype(kinds.get(name, np.float32)), name) for name, value in weights.items()
    ]
    nodes = [
        helper.make_node("Transpose", [inner], ["channels_first"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["channels_first", "kernel"], ["features"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["features"], ["positive"]),
        helper.make_node("Flatten", ["positive"], ["flat"]),
        helper.make_node("Gemm", ["flat", "dense", "bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["both"], axis=1),
        helper.make_node("Gather", ["both", "column"], ["second"], axis=1),
        helper.make_node("Squeeze", ["second", "axis"], [outer]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(inner, TensorProto.FLOAT, ["n", ny, nx, planes])],
        [helper.make_tensor_value_info(outer, TensorProto.FLOAT, ["n"])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if text != "":
        helper.set_model_props(model, {METADATA_KEY: card.to_json() if text is None else text})
    return model.SerializeToString()


def make_ensemble(seeds=(7, 8, 9), card: ModelCard | None = None, outputs=(OUTPUT, SPREAD), keep=False) -> bytes:
    """Several such networks, the mean of their scores and how far apart these are, with ONNX's own reductions.

    `outputs` are among score, spread, variance and cutouts; `keep` leaves the spread an axis too many.
    """
    card = card or make_card()
    nodes, constants = [], []
    for seed in seeds:
        member = compose.add_prefix(onnx.load_model_from_string(make_model(card, seed=seed)), f"{seed}_").graph
        member.node[0].input[0] = INPUT
        nodes += [*member.node[:-1], helper.make_node("Identity", [f"{seed}_second"], [f"{seed}_score"])]
        constants += member.initializer
    nodes += [
        helper.make_node("Concat", [f"{seed}_score" for seed in seeds], ["all"], axis=1),
        helper.make_node("ReduceMean", ["all"], [OUTPUT], axes=[1], keepdims=0),
        helper.make_node("ReduceMean", ["all"], ["centre"], axes=[1], keepdims=1),
        helper.make_node("Sub", ["all", "centre"], ["apart"]),
        helper.make_node("Mul", ["apart", "apart"], ["squares"]),
        helper.make_node("ReduceMean", ["squares"], ["variance"], axes=[1], keepdims=int(keep)),
        helper.make_node("Sqrt", ["variance"], [SPREAD]),
    ]
    pixels = ["n", *card.shape]
    one = ["n", 1] if keep else ["n"]
    shapes = {OUTPUT: ["n"], SPREAD: one, "variance": one, INPUT: pixels}
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in outputs]
    start = helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, pixels)
    graph = helper.make_graph(nodes, "ensemble", [start], ends, constants)
    joined = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(joined, {METADATA_KEY: card.to_json()})
    return joined.SerializeToString()


CASCADE = Cascade(((0.4, 0.6), (0.9, 0.95)), 100, 0.2, {"threshold": 0.0}, {"threshold": 0.02}, 0.01, 0.1, (0.25,))


def make_two_precisions(card: ModelCard | None = None, name=PRECISE) -> bytes:
    """A network, and in the place of its int8 copy another one: a choice between them at every run."""
    card = card or make_card(cascade=CASCADE)
    branches = []
    for prefix, gain in (("full_", 30.0), ("int8_", 20.0)):
        branch = compose.add_prefix(onnx.load_model_from_string(make_model(card, gain=gain)), prefix).graph
        branch.node[0].input[0] = INPUT
        del branch.input[:]
        branches.append(branch)
    graph = helper.make_graph(
        [helper.make_node("If", [name], [OUTPUT], then_branch=branches[0], else_branch=branches[1])],
        "two",
        [
            helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["n", *card.shape]),
            helper.make_tensor_value_info(name, TensorProto.BOOL, []),
        ],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["n"])],
        [numpy_helper.from_array(np.array(False), name)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {METADATA_KEY: card.to_json()})
    return model.SerializeToString()


def full_card() -> ModelCard:
    """A card with something in every field."""
    pixels = np.random.default_rng(1).normal(size=(2, 64, 64, 1)).astype(np.float32)
    pixels[0, 3, 4] = np.nan
    return make_card(
        normalisation=Normalisation("robust", Padding("corner", 1e-9, "before")),
        threshold=0.3,
        description="For tests.",
        operating_points=(OperatingPoint("fpr-1%", 0.9, 0.8, 0.01, float("nan")),),
        calibration={"method": "temperature", "temperature": 1.5},
        training={"seed": 1, "versions": {"numpy": "2"}},
        metrics={"auc": np.float64(0.9), "mcc": float("nan")},
        reference={"scores": [0.1, 0.2]},
        golden=Golden(pixels, np.array([0.25, 0.75], np.float32)),
    )
