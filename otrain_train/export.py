"""Keras networks to one ONNX file with its card, checked against the network before the file takes its name."""

import hashlib
import json
import os
import zipfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import keras
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import tensorflow as tf
import tf2onnx

import otrain_infer
from otrain_infer import inspection
from otrain_infer.atomic import replacing
from otrain_infer.card import ModelCard
from otrain_infer.errors import ModelError, ParityError, UsageError
from otrain_infer.normalise import Normalisation, Pixels, find_blank
from otrain_infer.scorer import Scorer, Scores
from otrain_train.ensemble import members_of
from otrain_train.graph import BATCH, add_score, convert, halve, input_shape, largest_value, with_card
from otrain_train.int8 import with_int8_copy
from otrain_train.legacy import first_line, load_legacy, saved_by
from otrain_train.reference import choose_golden, make_reference, make_rows, take_rows
from otrain_train.settings import MAX_FLIPS

TOLERANCES = {"fp32": 1e-5, "fp16": 5e-3, "int8": 1e-5}
"""Largest difference of a score, by precision, between the exported model and the network it came from.

A model of int8 holds its network in float32 besides: that is what this is about. What the copy may change is for
`otrain_train.rescoring` to say.
"""

MAX_ROWS = 1024
"""Rows at most on which a model is checked, and from which its golden cutouts and its reference come."""

HALF_LIMIT = 16_384.0
"""Largest value within a network that may become half precision, a quarter of what that can hold."""


def export_file(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    planes: tuple[str, ...],
    normalisation: Normalisation,
    name: str | None = None,
    size: tuple[int, int] | None = None,
    threshold: float = 0.5,
    precision: str = "fp32",
    rows: Pixels | None = None,
    max_flips: float = MAX_FLIPS,
) -> ModelCard:
    """Export a Keras file that has no card yet, such as another project's.

    Parameters
    ----------
    model
        A ``.keras`` or ``.h5`` file.
    output
        The ONNX file to write.
    planes
        The planes that the network was trained on, in order.
    normalisation
        What was done to raw pixels before they reached the network.
    name
        What to call the model; the name of the file if not given.
    size
        (ny, nx) of a cutout (pixels); needed only where the network's input is free.
    threshold
        A candidate is called real from this score on.
    precision, max_flips
        As of `export`.
    rows
        Raw pixels, as of `export`.

    Returns
    -------
    ModelCard
        What the file carries.

    Raises
    ------
    UsageError
        When the size is needed and not given, or an option makes no sense.
    ModelError, ParityError, OutputError
        As of `export` and `load_network`.
    """
    source = Path(model)
    network = load_network(source)
    ny, nx, _ = input_shape(network)
    if size is None:
        if ny is None or nx is None:
            raise UsageError(f"'{source}' takes cutouts of any size: say which one with --size NY NX")
        size = ny, nx
    provenance = {"source": {"file": source.name, "sha256": hashlib.sha256(source.read_bytes()).hexdigest()}}
    card = ModelCard(
        name=name or source.stem,
        version="1",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        planes=tuple(planes),
        size=size,
        normalisation=normalisation,
        threshold=threshold,
        description=f"Exported from the Keras network {source.name}; what it was trained on is not recorded.",
        training=provenance,
    )
    return export(network, card, output, rows, precision, max_flips)


def export(
    model: keras.Model | str | os.PathLike[str],
    card: ModelCard,
    output: str | os.PathLike[str],
    rows: Pixels | None = None,
    precision: str = "fp32",
    max_flips: float = MAX_FLIPS,
) -> ModelCard:
    """Convert a network to ONNX, check that it scores as before, and write it with its card, whole or not at all.

    The network may end with a softmax of two (bogus, real), a sigmoid of one, or the logits of either; the exported
    model always gives one score, through a softmax in float32, which is accurate far into the tails. That of an
    ensemble (`otrain_train.ensemble.join`) gives the mean of its networks' scores and, as a second output, their
    standard deviation.

    Parameters
    ----------
    model
        A Keras network from normalised cutouts, or a file for `load_network`.
    card
        What the model needs and promises. Its `golden`, its `reference` where it has none, ``metrics["parity"]``,
        ``members``, ``precision`` and ``versions`` of its `training` are filled in here.
    output
        The ONNX file to write.
    rows
        Raw pixels, float32 (n, ny, nx, planes), of real cutouts: those on which the model is checked, and from which
        its golden cutouts and its reference come. At most `MAX_ROWS` of them are taken, evenly spaced. Without any,
        made-up ones serve for the check, and the card has no reference.
    precision
        ``fp32``; for GPUs ``fp16``: weights and sums in half precision, input, softmax and score in float32; or, for
        processors, ``int8``: the network in float32 and a copy of it in int8, which scores all rows that are not close
        to a threshold. That takes `rows`, of which some give the copy its ranges and others judge it.
    max_flips
        Fraction of calls, at the card's threshold and at each operating point, that int8 may make otherwise.

    Returns
    -------
    ModelCard
        What the file carries.

    Raises
    ------
    ModelError
        When the network cannot be loaded or converted, or does not fit the card.
    ParityError
        When a score differs from the network's by more than `TOLERANCES`, half precision could overflow, or int8
        changes more than it may.
    UsageError
        When the rows do not fit the card, none of them can be scored, or too few for int8, or the precision is unknown.
    OutputError
        When the file cannot be written.
    """
    if precision not in TOLERANCES:
        raise UsageError(f"precision '{precision}' is unknown: take one of {', '.join(TOLERANCES)}")
    network = model if isinstance(model, keras.Model) else load_network(model)
    members = members_of(network)
    _check_input(network, card)
    raw = make_rows(card.shape) if rows is None else take_rows(rows, card.shape, MAX_ROWS)
    normalised = card.normalisation.apply(raw)
    proto, activations = convert(members, card.shape)
    if precision == "fp16":
        _check_range(proto, normalised, network.name)
        proto = halve(proto)
    proto = add_score(proto)
    card = replace(card, cascade=None)

    scores, spreads = Scorer(with_card(proto, card).SerializeToString()).score_pixels_with_spread(raw)
    if not np.isfinite(scores).any():
        raise UsageError(f"'{network.name}' gives none of the {len(raw)} cutouts a score: check them with other ones")
    expected = np.stack([_network_scores(*each, normalised) for each in zip(members, activations, strict=True)])
    difference = _largest_difference(scores, expected.mean(axis=0), raw)
    if len(members) > 1:
        difference = max(difference, _largest_difference(spreads, expected.std(axis=0), raw))
    tolerance = TOLERANCES[precision]
    if not difference <= tolerance:
        raise ParityError(
            f"'{network.name}' as {precision} scores otherwise than the network itself, by up to {difference:.2g} "
            f"where {tolerance:g} is allowed ({len(raw)} cutouts): nothing was written"
        )
    source = "synthetic" if rows is None else "cutouts"
    parity = {"max_difference": difference, "tolerance": tolerance, "rows": len(raw), "rows_from": source}
    card = replace(
        card,
        golden=choose_golden(raw, scores),
        reference=card.reference or ({} if rows is None else make_reference(card, raw, scores)),
        metrics=card.metrics | {"parity": parity},
        training=card.training
        | {"members": len(members), "precision": precision}
        | {"versions": card.training.get("versions", {}) | _versions()},
    )
    if precision == "int8":
        proto, card = with_int8_copy(proto, card, rows, max_flips)
    _write(with_card(proto, card), output)
    return card


def rescores(network: keras.Model, card: ModelCard) -> bool:
    """Tell whether a network gives the golden cutouts of a card their scores; true where the card has none.

    Raises
    ------
    ModelError
        When the network does not fit the card, or cannot be converted.
    """
    _check_input(network, card)
    if card.golden is None:
        return True
    proto = add_score(convert(members_of(network), card.shape)[0])
    scores = Scorer(with_card(proto, card).SerializeToString()).score_pixels(card.golden.pixels)
    # Another machine than the one that wrote the card rounds in another way.
    tolerance = max(TOLERANCES.get(card.training.get("precision", "fp32"), 0.0), inspection.TOLERANCE)
    return bool(np.abs(scores - card.golden.scores).max() <= tolerance)


def rewrite_card(path: str | os.PathLike[str], card: ModelCard) -> None:
    """Put another card in an exported model, whole or not at all: figures can only be had once the model exists.

    Raises
    ------
    ModelError
        When the file is not a model that fits the card.
    OutputError
        When the file cannot be written.
    """
    Scorer(path)
    _write(with_card(onnx.load_model_from_string(Path(path).read_bytes()), card), path)


def load_network(path: str | os.PathLike[str]) -> keras.Model:
    """Load a network that Keras 2 or 3 saved.

    Parameters
    ----------
    path
        A ``.keras`` file of Keras 3, or an ``.h5`` file of Keras 2 or 3.

    Returns
    -------
    keras.Model
        Not compiled.

    Raises
    ------
    ModelError
        When there is no such file, it is damaged, holds weights only, or has a layer that is not Keras's own.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"there is no model file '{path}'")
    if path.suffix not in (".keras", ".h5", ".hdf5"):
        raise ModelError(f"'{path}' is neither a .keras nor an .h5 file")
    if path.suffix == ".keras":
        _refuse_keras_2(path)
    elif saved_by(path) < 3:
        return load_legacy(path)
    try:
        network = keras.models.load_model(path, compile=False)
    except Exception as error:  # noqa: BLE001 (Keras lets through whatever the parts of a file happen to raise)
        raise ModelError(f"'{path}' cannot be loaded by Keras ({first_line(error)})") from None
    if not isinstance(network, keras.Model):
        raise ModelError(f"'{path}' holds a {type(network).__name__}, not a network")
    return network


def _refuse_keras_2(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            version = str(json.loads(archive.read("metadata.json"))["keras_version"])
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError, OSError) as error:
        raise ModelError(f"'{path}' is not a readable .keras file, or is damaged ({first_line(error)})") from None
    if version.startswith("2."):
        raise ModelError(f"'{path}' was saved by Keras {version}, whose .keras files are not read: save it as .h5")


def _check_input(network: keras.Model, card: ModelCard) -> None:
    shape = input_shape(network)
    if any(own not in (None, wanted) for own, wanted in zip(shape, card.shape, strict=True)):
        raise ModelError(
            f"'{network.name}' takes cutouts of shape (ny, nx, planes) {shape}, not {card.shape}: "
            "the size and the planes must be those that it was trained on"
        )


def _check_range(proto: onnx.ModelProto, normalised: Pixels, name: str) -> None:
    largest = largest_value(proto, normalised)
    if not largest <= HALF_LIMIT:
        raise ParityError(
            f"'{name}' cannot be exported as fp16, for a value within it reaches {largest:.2g} and half precision is "
            f"safe up to {HALF_LIMIT:g} only: export it as fp32"
        )


def _network_scores(network: keras.Model, activation: str, normalised: Pixels) -> npt.NDArray[np.float64]:
    scores: list[npt.NDArray[np.float64]] = []
    # Where TensorFlow sees a GPU it would compute in TF32, which is coarser than the tolerance.
    with tf.device("/CPU:0"):
        for start in range(0, len(normalised), BATCH):
            batch = normalised[start : start + BATCH]
            output = np.asarray(network(batch, training=False), np.float64).reshape(len(batch), -1)
            if activation == "linear":
                logit = output[:, -1] - (output[:, 0] if output.shape[1] == 2 else 0)
                output = 1 / (1 + np.exp(-np.clip(logit, -700, 700)))[:, None]
            scores.append(output[:, -1])
    return np.concatenate(scores)


def _largest_difference(scores: Scores, expected: npt.NDArray[np.float64], raw: Pixels) -> float:
    scored = ~find_blank(raw)
    difference = np.abs(scores[scored] - expected[scored])
    # A row for which neither gives a number is no difference; one for which only one does is the largest.
    neither = np.isnan(scores[scored]) & np.isnan(expected[scored])
    difference[np.isnan(difference)] = np.inf
    return float(np.max(difference[~neither], initial=0.0))


def _versions() -> dict[str, str]:
    modules = {"tensorflow": tf, "keras": keras, "tf2onnx": tf2onnx, "onnx": onnx, "onnxruntime": onnxruntime}
    return {"otrain": otrain_infer.__version__} | {name: module.__version__ for name, module in modules.items()}


def _write(proto: onnx.ModelProto, output: str | os.PathLike[str]) -> None:
    with replacing(output) as temporary:
        temporary.write_bytes(proto.SerializeToString(deterministic=True))
        try:
            onnx.checker.check_model(str(temporary), full_check=True)
        except onnx.checker.ValidationError as error:
            raise ModelError(f"'{output}' would not be valid ONNX ({first_line(error)})") from None
        scorer = Scorer(temporary)
        golden = scorer.card.golden
        if scorer.card.cascade:
            scorer = Scorer(temporary, precision="fp32")
        if golden and not np.array_equal(scorer.score_pixels(golden.pixels), golden.scores):
            raise ParityError(f"the golden cutouts of '{output}' do not get their scores again: nothing was written")
