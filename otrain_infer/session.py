"""The ONNX session of a model: opened on the device that was asked for, and checked against the model's card."""

import os
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from otrain_infer.card import INPUT, METADATA_KEY, OUTPUT, SPREAD, ModelCard
from otrain_infer.errors import DeviceError, MissingExtraError, ModelError, UsageError

DEFAULT_MODEL = "default.onnx"
RUNTIMES = ("onnxruntime", "onnxruntime-gpu")


def read_model(model: str | os.PathLike[str] | bytes | None) -> bytes:
    """Read a model file; None takes the embedded one. Raises ModelError when there is none."""
    if isinstance(model, bytes):
        return model
    if model is None:
        return resources.files("otrain_infer").joinpath("models", DEFAULT_MODEL).read_bytes()
    try:
        return Path(model).read_bytes()
    except OSError as error:
        raise ModelError(f"the model '{model}' cannot be read ({error.strerror})") from None


def installed_runtimes() -> list[str]:
    """Name the distributions of onnxruntime that are installed: exactly one should be."""
    found = []
    for runtime in RUNTIMES:
        try:
            metadata.version(runtime)
        except metadata.PackageNotFoundError:
            continue
        found.append(runtime)
    return found


def import_runtime() -> Any:
    """Import onnxruntime.

    Raises
    ------
    MissingExtraError
        When it is not installed, or both of its distributions are.
    """
    if len(installed_runtimes()) > 1:
        raise MissingExtraError(
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other: uninstall both, "
            "then install one, with pip install 'otrain[cpu]' or 'otrain[gpu]'"
        )
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError(
            f"onnxruntime is needed to score ({error}): pip install 'otrain[cpu]', or 'otrain[gpu]' for CUDA"
        ) from None
    return onnxruntime


def open_session(content: bytes, device: str, source: str) -> Any:
    """Open an onnxruntime session.

    Parameters
    ----------
    content
        Of the ONNX file.
    device
        As of `otrain_infer.Scorer`.
    source
        What errors call the model.

    Returns
    -------
    onnxruntime.InferenceSession

    Raises
    ------
    ModelError, DeviceError, MissingExtraError, UsageError
        As of `otrain_infer.Scorer`.
    """
    runtime = import_runtime()
    options = runtime.SessionOptions()
    # Parallelism comes from Python threads on one session: threads inside an operator cost more than they bring.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    providers = _providers(runtime, device)
    try:
        session = runtime.InferenceSession(content, options, providers=providers)
    except Exception as error:  # noqa: BLE001 (onnxruntime's exceptions have no parent of their own)
        reason = str(error).splitlines()[0]
        raise ModelError(f"{source} is not an ONNX model that onnxruntime can run ({reason})") from None
    if device.startswith("cuda") and "CUDAExecutionProvider" not in session.get_providers():
        raise DeviceError(f"device {device} cannot be had: onnxruntime found no usable GPU; use --device cpu or auto")
    return session


def _providers(runtime: Any, device: str) -> list[Any]:
    name, _, index = device.partition(":")
    if name not in ("cpu", "cuda", "auto") or (index and not (name == "cuda" and index.isdigit())):
        raise UsageError(f"device '{device}' is unknown: take cpu, cuda, cuda:N or auto")
    built_for_cuda = "CUDAExecutionProvider" in runtime.get_available_providers()
    if name == "cuda" and not built_for_cuda:
        raise DeviceError(f"device {device} cannot be had: this onnxruntime is for CPU; pip install 'otrain[gpu]'")
    if name == "cpu" or not built_for_cuda:
        return ["CPUExecutionProvider"]
    return [("CUDAExecutionProvider", {"device_id": index or "0"}), "CPUExecutionProvider"]


def check_model(session: Any, source: str) -> tuple[ModelCard, list[str]]:
    """Check that the tensors of a session are those that its card promises.

    Returns
    -------
    card : ModelCard
    outputs : list of str
        The names of its outputs: the score alone, or the score and the spread.

    Raises
    ------
    ModelError
        When there is no card of a known format, or its tensors are others.
    """
    text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    if text is None:
        raise ModelError(f"{source} carries no card: export it with otrain-export")
    try:
        card = ModelCard.from_json(text)
    except ModelError as error:
        raise ModelError(f"{source} cannot be used: {error}") from None
    ends = (*session.get_inputs(), *session.get_outputs())
    tensors = [(tensor.name, tensor.type, tensor.shape[1:]) for tensor in ends]
    outputs = [OUTPUT, SPREAD] if len(session.get_outputs()) > 1 else [OUTPUT]
    promised: list[tuple[str, str, list[int]]] = [(INPUT, "tensor(float)", list(card.shape))]
    if tensors != promised + [(name, "tensor(float)", []) for name in outputs]:
        raise ModelError(f"{source} cannot be used: its tensors {tensors} are not those that its card promises")
    return card, outputs
