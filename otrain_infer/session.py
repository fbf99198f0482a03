"""The ONNX session of a model: opened on the device that was asked for, and checked against the model's card."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from otrain_infer.card import INPUT, METADATA_KEY, OUTPUT, PRECISE, SPREAD, ModelCard
from otrain_infer.errors import DeviceError, MissingExtraError, ModelError, OtrainError, UsageError, in_brief
from otrain_infer.gpu import LANES, load_libraries, provider_options
from otrain_infer.onnx_file import check_whole

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
        if isinstance(error.__cause__ or error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise MissingExtraError(
            f"onnxruntime is needed to score ({error}): pip install 'otrain[cpu]', or 'otrain[gpu]' for CUDA"
        ) from None
    return onnxruntime


def open_sessions(content: bytes, device: str, source: str) -> tuple[str, list[tuple[Any, int]]]:
    """Open the onnxruntime sessions of a model: one on a processor, some on each GPU.

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
    kind : str
        ``cpu`` or ``cuda``.
    sessions : list
        (onnxruntime.InferenceSession, index of its GPU) of each.

    Raises
    ------
    ModelError, DeviceError, MissingExtraError, UsageError
        As of `otrain_infer.Scorer`.
    """
    runtime = import_runtime()
    check_whole(content, source)
    name, indices = _read_device(device)
    built_for_cuda = "CUDAExecutionProvider" in runtime.get_available_providers()
    if name == "cuda" and not built_for_cuda:
        raise DeviceError(f"device {device} cannot be had: this onnxruntime is for CPU; pip install 'otrain[gpu]'")
    if name == "cpu" or not built_for_cuda:
        return "cpu", [(_open(runtime, content, ["CPUExecutionProvider"], source), 0)]
    load_libraries(runtime)
    sessions = []
    for index in indices:
        session = _open(runtime, content, _providers_on(index), source)
        if "CUDAExecutionProvider" not in session.get_providers():
            if name == "auto":
                return "cpu", [(session, 0)]
            raise DeviceError(
                f"device {device} cannot be had: onnxruntime found no usable GPU {index}; use --device cpu or auto"
            )
        halved = check_model(session, source)[0].training.get("precision") == "fp16"
        lanes = [_open(runtime, content, _providers_on(index, halved), source) for _ in range(LANES)]
        sessions += [(lane, index) for lane in lanes]
    return "cuda", sessions


def _read_device(device: str) -> tuple[str, list[int]]:
    name, colon, indices = device.partition(":")
    numbers = indices.split(",")
    if name not in ("cpu", "cuda", "auto") or (colon and not (name == "cuda" and all(map(str.isdecimal, numbers)))):
        raise UsageError(f"device '{device}' is unknown: take cpu, cuda, cuda:N, cuda:N,M,... or auto")
    return name, list(dict.fromkeys(map(int, numbers))) if colon else [0]


def _providers_on(index: int, halved: bool = False) -> list[Any]:
    return [("CUDAExecutionProvider", provider_options(index, halved)), "CPUExecutionProvider"]


def _open(runtime: Any, content: bytes, providers: list[Any], source: str) -> Any:
    options = runtime.SessionOptions()
    # Parallelism comes from Python threads on one session: threads inside an operator cost more than they bring.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # Not its own format, which is guessed by the first bytes and hardly checked.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    with refusing(source):
        return runtime.InferenceSession(content, options, providers=providers)


@contextmanager
def refusing(source: str) -> Iterator[None]:
    """Turn whatever onnxruntime raises in the block into a ModelError."""
    try:
        yield
    except OtrainError:
        raise
    except Exception as error:  # noqa: BLE001 (onnxruntime's exceptions have no parent of their own)
        reason = in_brief("".join(str(error).splitlines()[:1]))
        raise ModelError(f"{source} is not an ONNX model that onnxruntime can run ({reason})") from None


def has_fast_int8() -> bool:
    """Tell whether this processor multiplies numbers of 8 bits faster than those of 32, and without overflow.

    That takes the instructions VNNI (x86-64) or their like (DOTPROD, ARM).
    """
    from llvmlite import binding

    features = binding.get_host_cpu_features()
    return any(features.get(name, False) for name in ("avx512vnni", "avxvnni", "dotprod"))


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
    try:
        text = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    except UnicodeDecodeError:
        raise ModelError(f"{source} cannot be used: its card is not readable") from None
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
    choices = [(tensor.name, tensor.type, tensor.shape) for tensor in session.get_overridable_initializers()]
    if choices != ([(PRECISE, "tensor(bool)", [])] if card.cascade else []):
        raise ModelError(f"{source} cannot be used: it has not the int8 copy that its card promises, or one too many")
    return card, outputs
