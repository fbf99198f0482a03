"""Keras networks as ONNX graphs: cutouts in, one score out, of one network or the mean of several."""

import math
import sys
from collections.abc import Sequence
from graphlib import TopologicalSorter
from typing import Any

import keras
import numpy as np
import onnx
import onnxruntime
import tensorflow as tf
import tf2onnx
from onnx import TensorProto, helper, numpy_helper

from otrain_infer.card import INPUT, METADATA_KEY, OUTPUT, SPREAD, ModelCard
from otrain_infer.errors import ModelError
from otrain_infer.normalise import Pixels
from otrain_train.legacy import first_line
from otrain_train.quiet import without_native_stderr

OPSET = 17
LOGITS = "logits"
BATCH = 64

# Operations that leave the values of their input as they are.
SHAPE_ONLY = frozenset({"Identity", "Reshape", "Squeeze", "ExpandDims", "Cast"})
WEIGHTED_SUMS = frozenset({"MatMul", "Conv2D"})
BIASES = frozenset({"ReadVariableOp", "Identity", "Reshape", "Cast"})


def input_shape(network: keras.Model) -> tuple[int | None, ...]:
    """Give (ny, nx, planes) of the cutouts that a network takes; None where a length is free.

    Raises
    ------
    ModelError
        When it takes or gives more than one tensor, or takes anything but float (n, ny, nx, planes).
    """
    inputs, outputs = getattr(network, "inputs", None), getattr(network, "outputs", None)
    if not inputs or not outputs:
        raise ModelError(f"'{network.name}' has no input of known shape: call it once on data before saving it")
    if len(inputs) != 1 or len(outputs) != 1:
        raise ModelError(
            f"'{network.name}' has {len(inputs)} input(s) and {len(outputs)} output(s): "
            "only networks with one of each are taken"
        )
    shape, dtype = inputs[0].shape, inputs[0].dtype
    if len(shape) != 4 or shape[-1] is None:
        raise ModelError(f"'{network.name}' takes an input of shape {shape}, not (n, ny, nx, planes)")
    if "float" not in str(dtype):
        raise ModelError(f"'{network.name}' takes {dtype} pixels: only float networks are taken")
    return tuple(shape[1:])


def convert(networks: Sequence[keras.Model], shape: tuple[int, int, int]) -> tuple[onnx.ModelProto, list[str]]:
    """Convert networks to an ONNX graph that ends with two logits of each, whatever they end with.

    Parameters
    ----------
    networks
        Each from normalised cutouts to a softmax of two (bogus, real), a sigmoid of one, or the logits of either.
    shape
        (ny, nx, planes) of a cutout (pixels).

    Returns
    -------
    proto : onnx.ModelProto
        Input ``cutouts`` float32 (n, ny, nx, planes), output ``logits`` float32 (n, 2), n free; of several networks
        ``logits_1``, ``logits_2`` and so on.
    activations : list of str
        What each network itself ends with: ``softmax``, ``sigmoid`` or ``linear``.

    Raises
    ------
    ModelError
        When the end of one is not understood, or something in it has no counterpart in ONNX.
    """
    found: dict[str, str] = {}

    def logits(cutouts: tf.Tensor) -> dict[str, tf.Tensor]:
        ends = {}
        for name, network in zip(_logit_names(len(networks)), networks, strict=True):
            found[name], own = find_logits(network(cutouts, training=False), network.name)
            own = tf.cast(own, tf.float32)
            ends[name] = own if own.shape[1] == 2 else tf.concat([tf.zeros_like(own), own], axis=1)
        return ends

    signature = [tf.TensorSpec((None, *shape), tf.float32, name=INPUT)]
    function = tf.function(logits, input_signature=signature, autograph=False)
    try:
        with without_native_stderr():
            proto, _ = tf2onnx.convert.from_function(function, input_signature=signature, opset=OPSET)
    except ModelError:
        raise
    except Exception as error:  # noqa: BLE001 (the errors of tf2onnx and TensorFlow have no parent of their own)
        raise ModelError(f"'{networks[0].name}' cannot be converted to ONNX ({first_line(error)})") from None
    return _with_plain_reshapes(proto), list(found.values())


def _with_plain_reshapes(proto: onnx.ModelProto) -> onnx.ModelProto:
    # Keras computes the shape of what it flattens from the shape of what it is given, for which onnxruntime would
    # have that in float32 and in another order of its pixels besides.
    inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True).graph
    shapes = {
        each.name: [length.dim_value for length in each.type.tensor_type.shape.dim] for each in inferred.value_info
    }
    graph, constants = proto.graph, {each.name for each in proto.graph.initializer}
    for node in graph.node:
        rows, *rest = shapes.get(node.output[0]) or [1]
        if node.op_type == "Reshape" and node.input[1] not in constants and rows == 0 and all(rest):
            shape = numpy_helper.from_array(np.array([-1, *rest], np.int64), f"{node.output[0]}_shape")
            graph.initializer.append(shape)
            node.input[1] = shape.name
    _drop_unused(graph)
    return proto


def _drop_unused(graph: onnx.GraphProto) -> None:
    wanted = {each.name for each in graph.output}
    for node in reversed(list(graph.node)):
        if wanted.intersection(node.output):
            wanted.update(node.input)
        else:
            graph.node.remove(node)
    unused = [each for each in graph.initializer if each.name not in wanted]
    for each in unused:
        graph.initializer.remove(each)


def _logit_names(count: int) -> list[str]:
    return [LOGITS] if count == 1 else [f"{LOGITS}_{number}" for number in range(1, count + 1)]


def find_logits(output: Any, name: str) -> tuple[str, tf.Tensor]:
    """Say what a traced output is computed with, and from which logits.

    Parameters
    ----------
    output
        Of a network, within a function that is being traced.
    name
        Of the network.

    Returns
    -------
    activation : str
        ``softmax``, ``sigmoid`` or ``linear``.
    logits : tf.Tensor
        (n, 1), of being real, or (n, 2), of bogus and real.

    Raises
    ------
    ModelError
        When it is anything else.
    """
    width = math.prod(length or 0 for length in output.shape[1:])
    operation = output.op
    while operation.type in SHAPE_ONLY:
        operation = operation.inputs[0].op
    if operation.type == "Softmax" and width == 2:
        return "softmax", tf.reshape(operation.inputs[0], (-1, 2))
    if operation.type == "Sigmoid" and width == 1:
        return "sigmoid", tf.reshape(operation.inputs[0], (-1, 1))
    if _is_linear(operation) and width in (1, 2):
        return "linear", tf.reshape(output, (-1, width))
    raise ModelError(
        f"'{name}' ends with '{operation.type}' of shape {tuple(output.shape)}, which is not understood: it must end "
        "with a softmax of two, a sigmoid of one, or a dense layer of one or two without activation"
    )


def _is_linear(operation: Any) -> bool:
    if operation.type in ("AddV2", "BiasAdd"):
        weighted, bias = (term.op.type for term in operation.inputs)
        return weighted in WEIGHTED_SUMS and bias in BIASES
    return operation.type in WEIGHTED_SUMS


def add_score(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Put a softmax after each two logits of a graph, in place, and make the second probability its output.

    A score is always made by a softmax in float32: onnxruntime's Sigmoid is 0 below 1e-9. Where there are several
    networks their mean is the score, and the standard deviation among them the spread, a second output.
    """
    graph = proto.graph
    graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    graph.initializer.append(numpy_helper.from_array(np.array(1, np.int64), "real"))
    names, scores, outputs = _logit_names(len(graph.output)), [OUTPUT], [OUTPUT]
    if len(names) > 1:
        scores, outputs = [name.replace(LOGITS, OUTPUT) for name in names], [OUTPUT, SPREAD]
    for logits, score in zip(names, scores, strict=True):
        both, softmax = (logits.replace(LOGITS, word) for word in ("probabilities", "softmax"))
        graph.node.append(helper.make_node("Softmax", [logits], [both], softmax, axis=1))
        graph.node.append(helper.make_node("Gather", [both, "real"], [score], score, axis=1))
    if len(names) > 1:
        _add_mean_and_spread(graph, scores)
    del graph.output[:]
    graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in outputs)
    return proto


def _add_mean_and_spread(graph: onnx.GraphProto, scores: list[str]) -> None:
    # Element by element, one network after the other: in no batch is anything summed in another order.
    def add(operation: str, inputs: list[str], output: str) -> str:
        graph.node.append(helper.make_node(operation, inputs, [output], output))
        return output

    graph.initializer.append(numpy_helper.from_array(np.array(len(scores), np.float32), "members"))
    add("Div", [add("Sum", scores, "sum"), "members"], OUTPUT)
    differences = [add("Sub", [score, OUTPUT], f"{score}_difference") for score in scores]
    squares = [add("Mul", [each, each], f"{each}_squared") for each in differences]
    add("Sqrt", [add("Div", [add("Sum", squares, "squares"), "members"], "variance")], SPREAD)


def halve(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Put the weights and sums of a graph in half precision; its input and output stay float32."""
    # The package appends a folder of scripts to sys.path, which is none of its business.
    path = list(sys.path)
    from onnxruntime.transformers.float16 import convert_float_to_float16

    sys.path[:] = path
    halved: onnx.ModelProto = convert_float_to_float16(proto, keep_io_types=True)
    # It puts its casts after the nodes that need them, which ONNX forbids.
    nodes = list(halved.graph.node)
    makers = {output: i for i, node in enumerate(nodes) for output in node.output}
    needs = {i: [makers[each] for each in node.input if each in makers] for i, node in enumerate(nodes)}
    del halved.graph.node[:]
    halved.graph.node.extend(nodes[i] for i in TopologicalSorter(needs).static_order())
    return halved


def largest_value(proto: onnx.ModelProto, cutouts: Pixels) -> float:
    """Find the largest absolute value that occurs anywhere within a float32 graph.

    On a CPU onnxruntime computes half-precision graphs in float32, so that only this shows what overflows on a GPU.

    Parameters
    ----------
    proto
        As of `convert`.
    cutouts
        Normalised, float32 (n, ny, nx, planes).

    Returns
    -------
    float
        Infinite where a value is not finite.
    """
    inferred = onnx.shape_inference.infer_shapes(proto)
    inner = [each for each in inferred.graph.value_info if each.type.tensor_type.elem_type == TensorProto.FLOAT]
    inferred.graph.output.extend(inner)
    session = onnxruntime.InferenceSession(inferred.SerializeToString(), providers=["CPUExecutionProvider"])
    largest = 0.0
    for start in range(0, len(cutouts), BATCH):
        values = session.run(None, {INPUT: cutouts[start : start + BATCH]})
        largest = max(largest, *(float(np.max(np.abs(value), initial=0)) for value in values))
        if not all(np.isfinite(value).all() for value in values):
            return math.inf
    return largest


def with_card(proto: onnx.ModelProto, card: ModelCard) -> onnx.ModelProto:
    """Give a copy of a graph that carries a card."""
    carrying = onnx.ModelProto()
    carrying.CopyFrom(proto)
    helper.set_model_props(carrying, {METADATA_KEY: card.to_json()})
    return carrying
