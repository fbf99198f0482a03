"""GPUs: several of them at once, inputs that stay in their memory, and batches that fit in it."""

import contextlib
import ctypes
import io
import itertools
import logging
import math
import subprocess
import threading
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

log = logging.getLogger(__name__)

LANES = 2
"""Sessions on each GPU: while one computes, the cutouts of another are on their way."""

SMALLEST_BATCH, LARGEST_BATCH = 64, 1024

# Of the free memory, so much may be taken; and of a cutout so many float32 are held for each of its pixels, layer upon
# layer: the first two layers of the original's network, the widest of the known ones, hold 48.
_SHARE = 0.25
_VALUES_A_PIXEL = 128


def free_memory(index: int) -> int | None:
    """Give the bytes that are free on a GPU, as its driver says; None where it does not."""
    asked = ["nvidia-smi", f"--id={index}", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(asked, check=True, capture_output=True, text=True, timeout=10).stdout
        return int(said.split()[0]) << 20
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def load_libraries(runtime: Any) -> None:
    """Load the libraries of CUDA and cuDNN from where pip installs them, so that onnxruntime finds them.

    Parameters
    ----------
    runtime
        The module onnxruntime.
    """
    # It writes about what it does without, such as a library or a way to compute a convolution, as if it had failed.
    runtime.set_default_logger_severity(_FATAL)
    said = io.StringIO()
    with contextlib.redirect_stdout(said):  # which is for results
        runtime.preload_dlls(directory="")
    for line in said.getvalue().splitlines():
        log.debug("%s", line)


def provider_options(index: int, halved: bool = False) -> dict[str, str]:
    """Say how onnxruntime is to compute on a GPU.

    Parameters
    ----------
    index
        Of the GPU.
    halved
        Whether the model computes in half precision.

    Returns
    -------
    dict
        Options of the CUDA provider: fp32 is fp32, not TF32; convolutions are chosen without trying all, of which one
        that was chosen among other work can be several times slower; planes come last where that is faster.
    """
    options = {"device_id": str(index), "use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
    return options | ({"prefer_nhwc": "1"} if halved else {})


def lock_pages(buffer: npt.NDArray[Any]) -> None:
    """Keep an array at its place in memory for as long as it lives, so that a GPU can fetch it by itself.

    Where there is no CUDA, or not enough memory that may be locked, nothing is done: then it is copied twice.
    """
    runtime = _cuda_runtime()
    if runtime is None or not buffer.nbytes:
        return
    address = ctypes.c_void_p(buffer.ctypes.data)
    if runtime.cudaHostRegister(address, ctypes.c_size_t(buffer.nbytes), ctypes.c_uint(_FOR_ALL_GPUS)) == 0:
        weakref.finalize(buffer, runtime.cudaHostUnregister, address)
    else:
        runtime.cudaGetLastError()  # or onnxruntime would take it for its own


_FOR_ALL_GPUS = 1  # cudaHostRegisterPortable
_FATAL = 4


@cache
def _cuda_runtime() -> Any:
    # The library that onnxruntime has loaded, whatever its version.
    try:
        loaded = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "libcudart." in line}
        return ctypes.CDLL(sorted(loaded)[0]) if loaded else None
    except OSError:
        return None


def batch_size_for(shape: Sequence[int], free: int | None) -> int:
    """Choose how many cutouts a GPU is given at a time.

    Parameters
    ----------
    shape
        (ny, nx, planes) of a cutout.
    free
        Bytes of memory that are free; None if unknown.

    Returns
    -------
    int
        A power of two: 1024 if the memory is unknown, else what fits, from 64 to 1024.
    """
    if free is None:
        return LARGEST_BATCH
    fits = _SHARE * free / (LANES * shape[0] * shape[1] * _VALUES_A_PIXEL * 4)
    return int(min(LARGEST_BATCH, max(SMALLEST_BATCH, 2 ** math.floor(math.log2(max(1.0, fits))))))


@dataclass(slots=True, eq=False)
class _Lane:
    session: Any
    binding: Any
    index: int
    inputs: dict[str, Any] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


class BoundSessions:
    """Sessions of one model that are fed through buffers in the memory of their devices.

    Each thread keeps to one of them, so that as many work at once as there are threads.

    Parameters
    ----------
    sessions
        (onnxruntime.InferenceSession, index of its device) of each.
    runtime
        The module onnxruntime.
    device
        Kind of device, ``cuda`` or ``cpu``.
    """

    def __init__(self, sessions: Sequence[tuple[Any, int]], runtime: Any, device: str = "cuda") -> None:
        self._lanes = [_Lane(session, session.io_binding(), index) for session, index in sessions]
        self._runtime, self._device = runtime, device
        self._turns = itertools.count()
        self._own = threading.local()

    def run(self, outputs: list[str], feed: Mapping[str, npt.NDArray[Any]]) -> list[Floats]:
        """Compute outputs of a model, as `onnxruntime.InferenceSession.run` does.

        Parameters
        ----------
        outputs
            Names of those wanted.
        feed
            The inputs by name.
        """
        if not hasattr(self._own, "lane"):
            self._own.lane = self._lanes[next(self._turns) % len(self._lanes)]
        lane: _Lane = self._own.lane
        with lane.lock:
            # onnxruntime cannot bind an input that may be left out, as the choice of a precision is.
            if any(values.ndim == 0 for values in feed.values()):
                unbound: list[Floats] = lane.session.run(outputs, feed)
                return unbound
            for name, values in feed.items():
                self._put(lane, name, values)
            lane.binding.clear_binding_outputs()
            for name in outputs:
                lane.binding.bind_output(name)
            lane.session.run_with_iobinding(lane.binding)
            found: list[Floats] = lane.binding.copy_outputs_to_cpu()
        return found

    def _put(self, lane: _Lane, name: str, values: npt.NDArray[Any]) -> None:
        """Copy an input to its buffer on the device, which is made anew only for another shape."""
        buffer = lane.inputs.get(name)
        if buffer is None or buffer.shape() != list(values.shape):
            made = self._runtime.OrtValue.ortvalue_from_shape_and_type
            buffer = lane.inputs[name] = made(values.shape, values.dtype.type, self._device, lane.index)
            lane.binding.bind_ortvalue_input(name, buffer)
        buffer.update_inplace(values)
