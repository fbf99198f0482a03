"""Multiply-adds and parameters, beside counts by hand and known figures."""

import math
from pathlib import Path

import keras
import numpy as np
import onnx
import pytest
from keras import layers
from onnx import TensorProto, helper, numpy_helper
from stirred import stir

from otrain_infer.errors import ModelError
from otrain_train.cost import Cost, count, multiply_adds
from otrain_train.ensemble import join
from otrain_train.graph import convert, halve
from otrain_train.network import build, fold_scale

DEFAULT = Path(__file__).parents[2] / "otrain_infer" / "models" / "default.onnx"

# Each convolution of `lite` at 64x64x1: places of its output, values of a kernel, units.
CENTRE = ((32, 9, 16), (32, 9, 16), (32, 16, 16), (16, 144, 32))
WHOLE = ((32, 9, 16), (16, 9, 16), (16, 16, 16))
LITE = (*CENTRE, *WHOLE, (8, 9, 48), (8, 48, 64), (4, 576, 64))


def graph_of(nodes, shape, **weights):
    """A graph from cutouts (n, *shape) to whatever its last node gives."""
    given = helper.make_tensor_value_info("cutouts", TensorProto.FLOAT, ["n", *shape])
    made = helper.make_empty_tensor_value_info(nodes[-1].output[0])
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", [given], [made], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def ones(*shape, dtype=np.float32):
    return np.ones(shape, dtype)


@pytest.fixture(scope="module")
def lite():
    network = build("lite", (64, 64, 1), normalisation="l2")
    return network, convert([fold_scale(network)], (64, 64, 1))[0]


def test_the_default_model_costs_what_is_counted_by_hand():
    sums = sum(side**2 * values * units for side, values, units in LITE) + 64 * 32 + 32 * 2
    # The scale of a normalisation goes into the kernel of a full convolution, and stands behind a separable one.
    weights = sum((values + 1) * units for _, values, units in LITE) + (16 + 16 + 48) + 65 * 32 + 33 * 2
    assert count(DEFAULT) == count(str(DEFAULT)) == count(DEFAULT.read_bytes()) == Cost(sums, weights)


def test_the_network_of_the_original_and_braai_cost_what_is_known_of_them():
    original = multiply_adds(build("otrain", (64, 64, 1)))
    assert (
        original
        == 9 * (64**2 * (16 + 16 * 32) + 32**2 * 32 * 64 + 16**2 * 128 * (64 + 256)) + 512 * (64 * 256 + 256) + 2 * 256
    )
    assert round(original / 1e6) == 141
    steps = [layers.Conv2D(16, 3), layers.Conv2D(16, 3), layers.MaxPooling2D(2), layers.Dropout(0.25)]
    steps += [layers.Conv2D(32, 3), layers.Conv2D(32, 3), layers.MaxPooling2D(4), layers.Flatten()]
    braai = keras.Sequential([keras.Input((63, 63, 3)), *steps, layers.Dense(256), layers.Dense(1)])
    assert round(multiply_adds(braai) / 1e6) == 19


def test_a_network_and_its_graph_cost_the_same(lite):
    network, proto = lite
    before = proto.SerializeToString()
    assert count(proto).multiply_adds == multiply_adds(network) == count(DEFAULT).multiply_adds
    assert proto.SerializeToString() == before
    network.trainable = False
    assert multiply_adds(network) == count(proto).multiply_adds
    network.trainable = True


def test_half_precision_costs_the_same(lite):
    proto = onnx.ModelProto.FromString(lite[1].SerializeToString())
    assert count(halve(proto)) == count(lite[1])


def test_the_members_of_an_ensemble_are_added_up():
    members = [stir(build("lite", (24, 24, 2), seed=seed, width=0.5), seed) for seed in range(3)]
    assert multiply_adds(join(members)) == 3 * multiply_adds(members[0])
    one, all_three = (count(convert(networks, (24, 24, 2))[0]) for networks in (members[:1], members))
    assert one.multiply_adds == multiply_adds(members[0])
    assert all_three == Cost(3 * one.multiply_adds, 3 * one.parameters)


@pytest.mark.parametrize(
    ("attributes", "kernel", "sums"),
    [
        ({}, (5, 3, 3, 3), 5 * 8 * 6 * 27),
        ({"pads": [1, 1, 1, 1], "strides": [2, 2]}, (5, 3, 3, 3), 5 * 5 * 4 * 27),
        ({"dilations": [2, 2]}, (5, 3, 3, 3), 5 * 6 * 4 * 27),
        ({"group": 3}, (6, 1, 3, 3), 6 * 8 * 6 * 9),
        ({}, (7, 3, 1, 1), 7 * 10 * 8 * 3),
    ],
)
def test_convolutions(attributes, kernel, sums):
    node = helper.make_node("Conv", ["cutouts", "kernel", "bias"], ["y"], **attributes)
    proto = graph_of([node], (3, 10, 8), kernel=ones(*kernel), bias=ones(kernel[0]))
    assert count(proto) == Cost(sums, math.prod(kernel) + kernel[0])


def test_dense_layers_of_any_kind():
    gemm = helper.make_node("Gemm", ["cutouts", "kernel", "bias"], ["y"], transB=1)
    assert count(graph_of([gemm], (6,), kernel=ones(4, 6), bias=ones(4))) == Cost(24, 28)
    product = helper.make_node("MatMul", ["cutouts", "kernel"], ["y"])
    assert count(graph_of([product], (5, 6), kernel=ones(6, 4))) == Cost(5 * 24, 24)
    turned = helper.make_node("Gemm", ["kernel", "cutouts"], ["y"], transA=1, transB=1)
    assert count(graph_of([turned], (6,), kernel=ones(6, 4))) == Cost(24, 24)


def test_a_keras_layer_by_depth_and_one_over_places():
    cutouts = keras.Input((9, 9, 2))
    deep = layers.DepthwiseConv2D(3, depth_multiplier=2)(cutouts)
    assert multiply_adds(keras.Model(cutouts, layers.Dense(5)(deep))) == 7 * 7 * (9 * 4 + 4 * 5)
    network = keras.Model(cutouts, layers.Dense(2)(layers.Flatten()(deep)))
    assert multiply_adds(network) == count(convert([network], (9, 9, 2))[0]).multiply_adds == 7 * 7 * (9 * 4 + 4 * 2)
    with pytest.raises(ModelError, match=r"layer 'p_re_lu.*' \(PReLU\) cannot be counted"):
        multiply_adds(keras.Model(cutouts, layers.PReLU()(cutouts)))


def test_parameters_of_a_quantised_graph_are_its_weights():
    nodes = [
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["kernel"], axis=0),
        helper.make_node("DequantizeLinear", ["b", "scale"], ["bias"], axis=0),
        helper.make_node("Conv", ["cutouts", "kernel", "bias"], ["y"]),
    ]
    weights = {"q": ones(4, 1, 3, 3, dtype=np.int8), "zero": np.zeros(4, np.int8), "b": ones(4, dtype=np.int32)}
    assert count(graph_of(nodes, (1, 5, 5), scale=ones(4), **weights)) == Cost(9 * 36, 40)


def test_a_weight_that_is_a_constant_or_also_an_input_counts():
    constant = helper.make_node("Constant", [], ["kernel"], value=numpy_helper.from_array(ones(6, 4)))
    product = helper.make_node("MatMul", ["cutouts", "kernel"], ["y"])
    assert count(graph_of([constant, product], (6,))) == Cost(24, 24)
    listed = graph_of([product], (6,), kernel=ones(6, 4))
    listed.graph.input.append(helper.make_tensor_value_info("kernel", TensorProto.FLOAT, (6, 4)))
    assert count(listed) == Cost(24, 24)


def test_what_cannot_be_counted_is_refused(tmp_path):
    turned = helper.make_node("ConvTranspose", ["cutouts", "kernel"], ["y"])
    with pytest.raises(ModelError, match="operation 'ConvTranspose' cannot be counted"):
        count(graph_of([turned], (3, 8, 8), kernel=ones(3, 2, 3, 3)))
    with pytest.raises(ModelError, match="shapes do not fit together"):
        count(graph_of([helper.make_node("MatMul", ["cutouts", "kernel"], ["y"])], (3,), kernel=ones(4, 2)))
    free = graph_of(
        [helper.make_node("Conv", ["cutouts", "kernel"], ["y"], name="c")], (3, "h", "w"), kernel=ones(4, 3, 3, 3)
    )
    with pytest.raises(ModelError, match="unknown: the size of 'c' is"):
        count(free)
    for content in (b"", b"hello", DEFAULT.read_bytes()[:500]):
        (tmp_path / "m.onnx").write_bytes(content)
        with pytest.raises(ModelError, match=r"m.onnx' is not an ONNX file"):
            count(tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="No such file"):
        count(tmp_path / "n.onnx")
