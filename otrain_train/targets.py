"""Exported models made over for a system that feeds them by itself, and vectors by which it can check that it does."""

import base64
import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from otrain_infer.atomic import replacing
from otrain_infer.card import INPUT, METADATA_KEY, OUTPUT, ModelCard
from otrain_infer.errors import ModelError, ParityError
from otrain_infer.inspection import TOLERANCE
from otrain_infer.normalise import Pixels, inner_box
from otrain_infer.scorer import Scorer, Scores
from otrain_infer.session import import_runtime
from otrain_train.reference import make_rows

log = logging.getLogger("otrain.train")

LAYOUTS = {"boom": "NHWC", "boom-nchw": "NCHW"}
"""Target -> order of the axes of its input. BOOM's ``get_triplet`` has been of either kind."""

TRIPLET = "triplet"
TARGET_KEY = "otrain_target"
"""In the metadata of a model, beside its card: JSON with the target, its layout, and what it was made from."""

PLANES, SIZE, METHOD = ("SCI", "REF", "DIFF"), (63, 63), "l2"
"""What BOOM prepares: three planes of so many pixels, each divided by its L2 norm."""

HALF_TOLERANCE = 5e-3
"""Largest difference allowed between a score and the one found here, of a model in half precision."""

VECTORS = 4
FORMAT = "otrain-vectors-1"

_LARGEST = np.finfo(np.float32).max
_FROM_NCHW, _TO_NCHW = (0, 2, 3, 1), (0, 3, 1, 2)

Paths = tuple[Path, Path]


def check_fits(planes: tuple[str, ...], size: tuple[int, int] | None, method: str) -> None:
    """Check that BOOM does to stamps what a model needs.

    Parameters
    ----------
    planes
        Of the model, in order.
    size
        (ny, nx) of its input (pixels); None if that is not known yet.
    method
        Of its normalisation.

    Raises
    ------
    ModelError
        In one sentence, where it does not.
    """
    if planes != PLANES:
        raise ModelError(f"BOOM gives a model the planes {','.join(PLANES)}, and this one takes {','.join(planes)}")
    if size is not None and size != SIZE:
        raise ModelError("BOOM gives a model {} x {} pixels, and this one takes {} x {}".format(*SIZE, *size))
    if method != METHOD:
        raise ModelError(f"BOOM divides each plane by its L2 norm, and this model was trained on '{method}' pixels")


def write_target(model: str | os.PathLike[str], target: str) -> Paths:
    """Write the model of a target, and its vectors, beside an exported model.

    The model takes ``triplet``, float32 (n, 63, 63, 3) or, for ``boom-nchw``, (n, 3, 63, 63), as BOOM's
    ``prepare_triplet`` makes it, and gives ``score``, float32 (n,). Its metadata hold the card.

    The vectors, a JSON file, hold some triplets as BOOM prepares them (``triplets``, base64 of little-endian float32 of
    the ``shape``), the ``scores`` that the model gives them on a CPU, the ``tolerance``, and the SHA-256 of the model.

    Parameters
    ----------
    model
        An ONNX file with a card.
    target
        One of `LAYOUTS`.

    Returns
    -------
    tuple of Path
        Where the two are: ``NAME.TARGET.onnx`` and ``NAME.TARGET.json`` beside the model ``NAME.onnx``.

    Raises
    ------
    ModelError
        When the model has no card, or BOOM does something else to stamps than it needs.
    ParityError
        When the model of the target scores otherwise than the model itself.
    OutputError
        When a file cannot be written.
    """
    path, scorer, layout = Path(model), Scorer(model), LAYOUTS[target]
    card = scorer.card
    check_fits(card.planes, card.size, card.normalisation.method)
    if card.cascade:
        raise ModelError("BOOM would score every stamp in int8, which this model is not made for: export it as fp32")
    told = {"target": target, "layout": layout, "made_from": scorer.sha256}
    made = adapt(onnx.load_model_from_string(path.read_bytes()), layout)
    helper.set_model_props(made, {METADATA_KEY: card.to_json(), TARGET_KEY: json.dumps(told)})
    content = made.SerializeToString(deterministic=True)
    raw = _choose_rows(card)
    fed = _in_layout(prepare_triplets(raw), layout)
    scores = _run(content, fed)
    tolerance = HALF_TOLERANCE if scorer.precision == "fp16" else TOLERANCE
    difference = float(np.abs(scores - scorer.score_pixels(raw)).max())
    if not difference <= tolerance:
        raise ParityError(f"the model for {target} scores otherwise than '{path}', by up to {difference:.2g}")
    stem = path.stem if path.suffix == ".onnx" else path.name
    outputs = path.with_name(f"{stem}.{target}.onnx"), path.with_name(f"{stem}.{target}.json")
    told |= {"file": outputs[0].name, "sha256": hashlib.sha256(content).hexdigest()}
    _write(outputs[0], content)
    _write(outputs[1], json.dumps(_vectors(card, told, fed, scores) | {"tolerance": tolerance}).encode())
    _warn_of_padding(card)
    return outputs


def adapt(proto: onnx.ModelProto, layout: str) -> onnx.ModelProto:
    """Give a copy of a model whose one input is ``triplet``, in a layout, and whose one output is ``score``.

    Parameters
    ----------
    proto
        Of an exported model: ``cutouts`` (n, ny, nx, planes), ``score`` (n,), and perhaps ``spread``.
    layout
        ``NHWC`` or ``NCHW``.
    """
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    graph = made.graph
    batch, ny, nx, planes = graph.input[0].type.tensor_type.shape.dim
    shape = [batch.dim_param or "n", ny.dim_value, nx.dim_value, planes.dim_value]
    pixels = TRIPLET
    if layout == "NCHW":
        shape, pixels = [shape[axis] for axis in _TO_NCHW], f"{TRIPLET}_channels_last"
        graph.node.insert(0, helper.make_node("Transpose", [TRIPLET], [pixels], pixels, perm=_FROM_NCHW))
    for node in graph.node:
        for k, name in enumerate(node.input):
            if name == INPUT:
                node.input[k] = pixels
    graph.input[0].CopyFrom(helper.make_tensor_value_info(TRIPLET, TensorProto.FLOAT, shape))
    score = next(each for each in graph.output if each.name == OUTPUT)
    kept = helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [score.type.tensor_type.shape.dim[0].dim_param])
    del graph.output[:]
    graph.output.append(kept)
    onnx.checker.check_model(made, full_check=True)
    return made


def prepare_triplets(raw: Pixels) -> npt.NDArray[np.float32]:
    """Do to whole stamps what BOOM's ``prepare_triplet`` does: NaN to 0, each plane over its L2 norm.

    Parameters
    ----------
    raw
        Raw pixels, float32 (n, 63, 63, 3).

    Returns
    -------
    ndarray
        float32, of the same shape. The norm is summed in float32, one pixel after the other, as BOOM does.
    """
    finite = np.clip(np.where(np.isnan(raw), np.float32(0), raw), -_LARGEST, _LARGEST)
    squares = (finite * finite).reshape(len(raw), -1, raw.shape[3])
    norms = np.sqrt(np.cumsum(squares, axis=1, dtype=np.float32)[:, -1])
    return np.asarray(finite / norms[:, None, None, :], np.float32)


def _choose_rows(card: ModelCard) -> Pixels:
    if card.golden is not None:
        whole = [row for row in card.golden.pixels if inner_box(row) == (0, SIZE[0], 0, SIZE[1])]
        if whole:
            return np.array(whole[:VECTORS])
    made_up: Pixels = make_rows(card.shape)[2:][:: 64 // VECTORS]
    return made_up


def _in_layout(triplets: npt.NDArray[np.float32], layout: str) -> npt.NDArray[np.float32]:
    return np.ascontiguousarray(triplets if layout == "NHWC" else triplets.transpose(_TO_NCHW))


def _run(content: bytes, triplets: npt.NDArray[np.float32]) -> Scores:
    session = import_runtime().InferenceSession(content, providers=["CPUExecutionProvider"])
    scores: Scores = session.run([OUTPUT], {TRIPLET: triplets})[0]
    return scores


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def _vectors(card: ModelCard, told: dict[str, str], fed: npt.NDArray[np.float32], scores: Scores) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "model": {"name": card.name, "version": card.version} | told,
        "input": TRIPLET,
        "output": OUTPUT,
        "shape": list(fed.shape),
        "triplets": base64.b64encode(fed.astype("<f4").tobytes()).decode("ascii"),
        "scores": [float(score) for score in scores],
    }


def _warn_of_padding(card: ModelCard) -> None:
    padding = card.normalisation.padding
    log.warning(
        "whole stamps score in BOOM as they do here; one that is cut at the edge of its image may not, for BOOM puts "
        "zeros all around it, and this model was trained with padding %s,%g,%s",
        padding.side,
        padding.value,
        padding.when,
    )
