"""A model that knows what a star looks like: a matched filter as ONNX, made without TensorFlow and never trained."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from otrain_infer.card import INPUT, METADATA_KEY, OUTPUT, ModelCard, OperatingPoint
from otrain_infer.normalise import Normalisation, Padding
from otrain_train.mock import MockSettings, mock_arrays

SIZE = 24
PLANES = ("SCI", "DIFF")


def make_matched(name="matched", threshold=0.5) -> bytes:
    """Score the last plane by how much of a Gaussian is in its middle."""
    y, x = np.indices((SIZE, SIZE)) - (SIZE - 1) / 2
    star = np.exp(-(y**2 + x**2) / (2 * 1.5**2))
    kernel = np.zeros((SIZE, SIZE, len(PLANES)))
    kernel[..., -1] = star / np.linalg.norm(star)
    constants = {"kernel": kernel.reshape(-1, 1), "bias": np.array([-2.0]), "axis": np.array([1])}
    card = ModelCard(
        name=name,
        version="1",
        created="2026-01-01T00:00:00Z",
        planes=PLANES,
        size=(SIZE, SIZE),
        normalisation=Normalisation("robust", Padding()),
        threshold=threshold,
        operating_points=(OperatingPoint("fpr-1%", 0.8, 0.8, 0.01, 0.9),),
    )
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", [INPUT], ["flat"]),
            helper.make_node("Gemm", ["flat", "kernel", "bias"], ["logit"], alpha=0.7),
            helper.make_node("Sigmoid", ["logit"], ["column"]),
            helper.make_node("Squeeze", ["column", "axis"], [OUTPUT]),
        ],
        "matched",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["n", SIZE, SIZE, len(PLANES)])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["n"])],
        [
            numpy_helper.from_array(value.astype(np.int64 if key == "axis" else np.float32), key)
            for key, value in constants.items()
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {METADATA_KEY: card.to_json()})
    return model.SerializeToString()


def make_cube(n_true=40, n_false=60, seed=11):
    """Mock cutouts that the model takes."""
    return mock_arrays(MockSettings(n_true, n_false, size=SIZE, planes=PLANES, seed=seed, nan_fraction=0.1))
