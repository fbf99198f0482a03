"""Int8 copies of networks: less arithmetic for nearly the same scores, kept in one graph with the network itself.

The copy has unsigned activations and signed weights of 8 bits, a scale for each channel, and the ranges that
calibration cutouts gave. What sees the cutouts themselves stays in float32, and so do the last, small layers: there 8
bits cost accuracy and save nothing. Averages become convolutions, which ONNX Runtime computes in int8 several times
faster.
"""

import logging
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnx.compose import add_prefix_graph
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

from otrain_infer.card import INPUT, PRECISE
from otrain_infer.normalise import Pixels
from otrain_train.equalise import BATCH, equalise

QUANTISED = ("Conv", "Gemm", "MatMul", "Relu", "MaxPool", "Concat")
"""Operations that are computed in int8 where nothing speaks against it."""

LARGE_DENSE = 1 << 20
"""Weights from which a dense layer is computed in int8: it is then slow because they do not fit in a cache."""


class _Cutouts(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, cutouts: Pixels) -> None:
        self._batches: Iterator[Pixels] = (cutouts[start : start + BATCH] for start in range(0, len(cutouts), BATCH))

    def get_next(self) -> dict[str, Pixels] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}


def quantise(proto: onnx.ModelProto, cutouts: Pixels) -> onnx.ModelProto:
    """Make the int8 copy of a graph.

    Parameters
    ----------
    proto
        A float32 graph from normalised cutouts to scores, as of `otrain_train.graph.add_score`.
    cutouts
        Normalised, float32 (n, ny, nx, planes): they give the range of each activation.

    Returns
    -------
    onnx.ModelProto
        With the same input and outputs. It computes what it can in int8, which may be nothing.
    """
    with tempfile.TemporaryDirectory() as folder:
        folded, quantised = Path(folder, "folded.onnx"), Path(folder, "quantised.onnx")
        prepared = equalise(_with_averages_as_convolutions(fold(proto, folded)), cutouts)
        add_pre_process_metadata(prepared)  # without it onnxruntime warns that nothing was folded
        onnx.save(prepared, folded)
        quantize_static(
            folded,
            quantised,
            _Cutouts(cutouts),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(QUANTISED),
            nodes_to_exclude=_kept(prepared.graph),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"CalibMovingAverage": True},
        )
        return onnx.load(quantised)


def is_int8(proto: onnx.ModelProto) -> bool:
    """Tell whether any part of a graph is computed in int8."""
    return any(node.op_type == "QuantizeLinear" for node in proto.graph.node)


def join(full: onnx.ModelProto, int8: onnx.ModelProto) -> onnx.ModelProto:
    """Put a graph and its int8 copy in one, which has a choice between them at every run.

    Parameters
    ----------
    full, int8
        With the same input and outputs.

    Returns
    -------
    onnx.ModelProto
        With a further input `PRECISE`, a truth value that may be left out: true runs `full`, false `int8`, and that is
        what is run without it. The branch that is not asked for costs nothing but memory.
    """
    branches = [_branch(each, prefix) for each, prefix in ((full, "full_"), (int8, "int8_"))]
    outputs = list(full.graph.output)
    names = [each.name for each in outputs]
    choice = helper.make_node("If", [PRECISE], names, "precision", then_branch=branches[0], else_branch=branches[1])
    given = [full.graph.input[0], helper.make_tensor_value_info(PRECISE, TensorProto.BOOL, [])]
    default = numpy_helper.from_array(np.array(False), PRECISE)
    graph = helper.make_graph([choice], full.graph.name, given, outputs, [default])
    return helper.make_model(graph, opset_imports=int8.opset_import, ir_version=full.ir_version)


def _branch(proto: onnx.ModelProto, prefix: str) -> onnx.GraphProto:
    copied = onnx.GraphProto()
    copied.CopyFrom(proto.graph)
    branch: onnx.GraphProto = add_prefix_graph(copied, prefix)
    del branch.input[:]  # it sees the cutouts of the graph around it
    for node in branch.node:
        node.input[:] = [INPUT if name == prefix + INPUT else name for name in node.input]
    return branch


def fold(proto: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """Put batch normalisations into convolutions, and sums into products: what is left is what can be quantised."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    options.log_severity_level = logging.ERROR // 10
    onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    folded = onnx.load(path)
    for number, node in enumerate(folded.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    return onnx.shape_inference.infer_shapes(folded)


def _reached(graph: onnx.GraphProto, start: set[str], without: tuple[str, ...] = ()) -> set[str]:
    """Name the tensors that depend on some of `start`, these too, other than through operations of a kind."""
    reached = set(start)
    for node in graph.node:
        if node.op_type not in without and reached.intersection(node.input):
            reached.update(node.output)
    return reached


def _cutouts_of(graph: onnx.GraphProto) -> set[str]:
    """Name the tensors that are cutouts still: cropped, turned or averaged, but through no weights yet."""
    return _reached(graph, {INPUT}, without=("Conv", "Gemm", "MatMul"))


def _kept(graph: onnx.GraphProto) -> list[str]:
    """Name the nodes that stay in float32: up to the first convolutions, and from the first small dense layer on."""
    cutouts = _cutouts_of(graph)
    sizes = {each.name: math.prod(each.dims) for each in graph.initializer}
    dense = [node for node in graph.node if node.op_type in ("Gemm", "MatMul")]
    small = {node.output[0] for node in dense if sizes.get(node.input[1], 0) < LARGE_DENSE}
    firsts = {node.output[0] for node in graph.node if node.op_type == "Conv" and node.input[0] in cutouts}
    firsts |= {node.output[0] for node in graph.node if node.op_type == "Relu" and node.input[0] in firsts}
    kept = cutouts | firsts | _reached(graph, small)
    return [node.name for node in graph.node if kept.intersection(node.output)]


def _with_averages_as_convolutions(proto: onnx.ModelProto) -> onnx.ModelProto:
    cutouts = _cutouts_of(proto.graph)
    channels = {each.name: each.type.tensor_type.shape.dim[1].dim_value for each in proto.graph.value_info
                if len(each.type.tensor_type.shape.dim) == 4}  # fmt: skip
    for position, node in enumerate(proto.graph.node):
        if node.op_type != "AveragePool" or node.input[0] in cutouts or not channels.get(node.input[0]):
            continue
        said = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        if any(said.get("pads", ())) or said.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
            continue  # its averages at the border are of fewer pixels
        number, kernel = channels[node.input[0]], said["kernel_shape"]
        weights = numpy_helper.from_array(
            np.full((number, 1, *kernel), 1 / math.prod(kernel), np.float32), f"{node.name}_weights"
        )
        proto.graph.initializer.append(weights)
        strides = said.get("strides", [1] * len(kernel))
        convolution = helper.make_node(
            "Conv", [node.input[0], weights.name], node.output, node.name, kernel_shape=kernel, strides=strides,
            group=number,
        )  # fmt: skip
        proto.graph.node[position].CopyFrom(convolution)
    return proto
