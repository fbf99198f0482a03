"""Networks whose channels are made equally wide: they give the same scores, and lose less of them in 8 bits.

What a rectifier, a pool or an average gives is s times as much where what it is given is s times as much, s > 0. So
what a convolution gives in a channel may be divided by s, if the weights of the next layer for that channel are
multiplied by s (Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction"). The steps
of 8 bits are those of the widest channel: the others are brought near it, at some cost to the weights (Xiao et al.
2023, "SmoothQuant", whose rule for s this is).
"""

import math
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from otrain_infer.card import INPUT
from otrain_infer.normalise import Pixels

SHARE = 0.7
"""How much of the differences between channels goes from the activations to the weights."""

LARGEST_SCALE = 100.0

BATCH = 16
"""Cutouts that ranges are taken from at a time. The range of an activation, or of a channel of it, is the mean over
batches of the largest value in each: the brightest cutout of all would make the steps of all others twice as coarse."""

Floats = npt.NDArray[np.float32]


class _Pair(NamedTuple):
    """A convolution, the tensor that its rectifier gives, and the layer that takes it, perhaps through pools."""

    giver: onnx.NodeProto
    given: str
    taker: onnx.NodeProto
    channels_last: bool


def equalise(proto: onnx.ModelProto, cutouts: Pixels) -> onnx.ModelProto:
    """Make the channels of a graph equally wide, in place, where one layer takes what another gives.

    Parameters
    ----------
    proto
        A float32 graph in which batch normalisations are part of the convolutions.
    cutouts
        Normalised, float32 (n, ny, nx, planes): they tell how wide the channels are.

    Returns
    -------
    onnx.ModelProto
        The graph, of which every output is what it was but for rounding.
    """
    weights = {each.name: each for each in proto.graph.initializer}
    pairs = list(_find_pairs(proto, weights))
    if not pairs:
        return proto
    for pair, widths in zip(pairs, _measure(proto, [pair.given for pair in pairs], cutouts), strict=True):
        giving = [numpy_helper.to_array(weights[name]) for name in pair.giver.input[1:]]
        taking = _by_channel(numpy_helper.to_array(weights[pair.taker.input[1]]), pair, len(widths))
        heaviest = np.abs(taking).max(axis=(0, 2))
        used = (widths > 0) & (heaviest > 0)
        if not used.any():
            continue
        scales = np.ones(len(widths), np.float32)
        scales[used] = widths[used] ** SHARE / heaviest[used] ** (1 - SHARE)
        scales[used] /= np.exp(np.log(scales[used]).mean())
        scales = np.clip(scales, 1 / LARGEST_SCALE, LARGEST_SCALE)
        for name, array in zip(pair.giver.input[1:], giving, strict=True):
            scaled = array / scales.reshape(-1, *[1] * (array.ndim - 1))
            weights[name].CopyFrom(numpy_helper.from_array(scaled, name))
        scaled = (taking * scales[:, np.newaxis]).reshape(tuple(weights[pair.taker.input[1]].dims))
        weights[pair.taker.input[1]].CopyFrom(numpy_helper.from_array(scaled, pair.taker.input[1]))
    return proto


def _find_pairs(proto: onnx.ModelProto, weights: dict[str, onnx.TensorProto]) -> Iterator[_Pair]:
    graph = proto.graph
    uses = Counter(name for node in graph.node for name in node.input) + Counter(each.name for each in graph.output)
    takers = {name: node for node in graph.node for name in node.input}
    inferred = onnx.shape_inference.infer_shapes(proto).graph.value_info
    shapes = {each.name: [axis.dim_value for axis in each.type.tensor_type.shape.dim] for each in inferred}
    for giver in graph.node:
        if giver.op_type != "Conv" or _group(giver) != 1 or not _owns(giver, weights, uses):
            continue
        tensor, given, channels_last = giver.output[0], "", False
        # Through what keeps (n, channels, ny, nx), then perhaps to (n, ny, nx, channels), and then to a dense layer.
        while uses[tensor] == 1:
            taker = takers[tensor]
            if taker.op_type == "Relu" and not channels_last:
                given = taker.output[0]
            elif taker.op_type == "Transpose" and not channels_last and _attribute(taker, "perm") == [0, 2, 3, 1]:
                channels_last = True
            elif taker.op_type == "Conv" and _group(taker) == 1:
                if given and not channels_last and taker.input[0] == tensor and _owns(taker, weights, uses):
                    yield _Pair(giver, given, taker, False)
                break
            elif taker.op_type in ("Reshape", "Flatten"):
                flat, image = (shapes.get(each, []) for each in (taker.output[0], tensor))
                dense = takers.get(taker.output[0], taker)
                whole = uses[taker.output[0]] == 1 and _takes_whole(dense, flat, image)
                if given and whole and _owns(dense, weights, uses):
                    yield _Pair(giver, given, dense, channels_last)
                break
            elif channels_last or not (taker.op_type in ("MaxPool", "AveragePool") or _is_average(taker, weights)):
                break
            tensor = taker.output[0]


def _takes_whole(dense: onnx.NodeProto, flat: list[int], image: list[int]) -> bool:
    """Tell whether a dense layer takes a flattened image of known size."""
    if dense.op_type not in ("Gemm", "MatMul") or len(flat) != 2 or len(image) != 4:
        return False
    return flat[1] == math.prod(image[1:]) > 0


def _is_average(node: onnx.NodeProto, weights: dict[str, onnx.TensorProto]) -> bool:
    # One filter for each channel, and nothing added to it.
    if node.op_type != "Conv" or len(node.input) != 2 or node.input[1] not in weights:
        return False
    return list(weights[node.input[1]].dims[:2]) == [_group(node), 1]


def _owns(node: onnx.NodeProto, weights: dict[str, onnx.TensorProto], uses: Counter[str]) -> bool:
    return all(name in weights and uses[name] == 1 for name in node.input[1:])


def _attribute(node: onnx.NodeProto, name: str, default: object = None) -> object:
    return next((helper.get_attribute_value(each) for each in node.attribute if each.name == name), default)


def _group(node: onnx.NodeProto) -> int:
    return int(str(_attribute(node, "group", 1)))


def _by_channel(array: Floats, pair: _Pair, channels: int) -> Floats:
    """Give weights as (before, channels, behind), in the order in which they are stored."""
    if pair.taker.op_type == "Conv":
        return array.reshape(len(array), channels, -1)
    transposed = bool(_attribute(pair.taker, "transB", 0))
    before, behind = (len(array), 1) if transposed else (1, array.shape[1])
    places = array.size // (before * channels * behind)
    # A flattened image has the channels of each place together, or the places of each channel.
    if pair.channels_last:
        return array.reshape(before * places, channels, behind)
    return array.reshape(before, channels, places * behind)


def _measure(proto: onnx.ModelProto, tensors: list[str], cutouts: Pixels) -> list[Floats]:
    """Give the largest value in each channel of some tensors (n, channels, ny, nx), the mean over batches."""
    measured = onnx.ModelProto()
    measured.CopyFrom(proto)
    del measured.graph.output[:]
    measured.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in tensors)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(measured.SerializeToString(), options, providers=["CPUExecutionProvider"])
    batches = (cutouts[start : start + BATCH] for start in range(0, len(cutouts), BATCH))
    largest = [[each.max(axis=(0, 2, 3)) for each in session.run(tensors, {INPUT: batch})] for batch in batches]
    return [np.mean(each, axis=0) for each in zip(*largest, strict=True)]
