"""What scoring a cutout costs: multiply-adds and parameters of a model, counted from the shapes of its tensors."""

import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto

from otrain_infer.errors import ModelError

Shape = tuple[int, ...]

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
QUANTISED = ("QuantizeLinear", "DequantizeLinear")

UNCOUNTED = frozenset({"Attention", "ConvInteger", "ConvTranspose", "DeformConv", "Einsum", "GRU", "LSTM", "RNN"}) | {
    "If",
    "Loop",
    "MatMulInteger",
    "QLinearConv",
    "QLinearMatMul",
    "Scan",
}
"""Operations that multiply and add, or hold others that do: a sum without them would be wrong."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a model costs.

    Attributes
    ----------
    multiply_adds
        Multiplications, each with an addition, that convolutions and dense layers do for one cutout. Zeros that pad a
        cutout count; activations, pooling and biases do not.
    parameters
        Numbers that were learnt: kernels and biases, batch normalisation being part of them. All members of an
        ensemble count.
    """

    multiply_adds: int
    parameters: int


def count(model: str | os.PathLike[str] | bytes | onnx.ModelProto) -> Cost:
    """Count what an ONNX model costs, from the shapes of its tensors alone.

    Parameters
    ----------
    model
        The file, its content, or the graph in memory, which is left as it is.

    Returns
    -------
    Cost

    Raises
    ------
    ModelError
        When it is not an ONNX model, or something in it cannot be counted.
    """
    graph = _with_shapes(_read(model))
    shapes = dict(_shapes(graph))
    return Cost(sum(_multiply_adds(node, shapes) for node in graph.node), _parameters(graph))


def multiply_adds(network: Any) -> int:
    """Count the multiply-adds of a Keras network for one cutout; the network need not be trained.

    Parameters
    ----------
    network
        A Keras model of convolutions and dense layers, whose cutouts have a known size.

    Raises
    ------
    ModelError
        When it has a layer with other weights.
    """
    total = 0
    for layer in network.layers:
        if getattr(layer, "layers", None):
            total += multiply_adds(layer)
            continue
        kernels = [weight for weight in layer.weights if len(weight.shape) > 1]
        if len(kernels) > 1 or (kernels and type(layer).__name__ not in ("Conv2D", "DepthwiseConv2D", "Dense")):
            raise ModelError(f"the multiply-adds of layer '{layer.name}' ({type(layer).__name__}) cannot be counted")
        # Each value of a kernel is used once at each place of the output, whose last axis are the units.
        total += sum(math.prod(kernel.shape) * math.prod(layer.output.shape[1:-1]) for kernel in kernels)
    return total


def _read(model: str | os.PathLike[str] | bytes | onnx.ModelProto) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    if isinstance(model, onnx.ModelProto):
        proto.CopyFrom(model)
        return proto
    name = "the model" if isinstance(model, bytes) else f"'{os.fspath(model)}'"
    try:
        proto.ParseFromString(model if isinstance(model, bytes) else Path(model).read_bytes())
    except OSError as error:
        raise ModelError(f"{name} cannot be read ({error.strerror or error})") from None
    except Exception as error:  # noqa: BLE001 (the error of protobuf's parser depends on how protobuf was built)
        raise ModelError(f"{name} is not an ONNX file ({error})") from None
    if not proto.graph.node:
        raise ModelError(f"{name} is not an ONNX file with a graph in it")
    return proto


def _with_shapes(proto: onnx.ModelProto) -> onnx.GraphProto:
    # For one cutout every length is known, also where a graph computes the shape that it gives a tensor.
    weights = {tensor.name for tensor in proto.graph.initializer}
    for each in proto.graph.input:
        if each.name not in weights and each.type.tensor_type.shape.dim:
            each.type.tensor_type.shape.dim[0].dim_value = 1
    del proto.graph.value_info[:]
    try:
        return onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True).graph
    except onnx.shape_inference.InferenceError as error:
        reason = " ".join(str(error).split())
        raise ModelError(f"the model is not in order: its shapes do not fit together ({reason})") from None


def _shapes(graph: onnx.GraphProto) -> Iterator[tuple[str, Shape]]:
    for each in (*graph.input, *graph.value_info, *graph.output):
        lengths = each.type.tensor_type.shape.dim
        if all(length.HasField("dim_value") for length in lengths):
            yield each.name, tuple(length.dim_value for length in lengths)
    for tensor in graph.initializer:
        yield tensor.name, tuple(tensor.dims)


def _multiply_adds(node: onnx.NodeProto, shapes: dict[str, Shape]) -> int:
    if node.op_type in UNCOUNTED or node.domain not in ("", "ai.onnx", "ai.onnx.ml"):
        raise ModelError(f"the multiply-adds of the model's operation '{node.op_type}' cannot be counted")
    if node.op_type not in ("Conv", "MatMul", "Gemm"):
        return 0
    try:
        left, right, made = (shapes[name] for name in (*node.input[:2], node.output[0]))
    except KeyError:
        raise ModelError(f"the multiply-adds of the model are unknown: the size of '{node.name}' is") from None
    if node.op_type == "Conv":
        # A kernel is (units, channels of its group, height, width): all but the first are summed over.
        return math.prod(made) * math.prod(right[1:])
    turned = any(each.name == "transA" and each.i for each in node.attribute)
    return math.prod(made) * left[-2 if turned else -1]


def _parameters(graph: onnx.GraphProto) -> int:
    scales = {name for node in graph.node if node.op_type in QUANTISED for name in node.input[1:]}
    quantised = {node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    return sum(
        math.prod(tensor.dims)
        for tensor in _constants(graph)
        if tensor.dims and tensor.name not in scales and (tensor.data_type in FLOATS or tensor.name in quantised)
    )


def _constants(graph: onnx.GraphProto) -> Iterable[TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                attribute.t.name = node.output[0]
                yield attribute.t
