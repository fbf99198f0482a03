"""Kernels that read many files in one go, through the C library and outside the interpreter lock."""

import os
from typing import Any

import numpy as np

from otrain_infer.fits_kernels import PLAN, ROWS, decode_file, make_scratch
from otrain_infer.jit import Deferred, kernel

# What became of a file that the kernel did not read.
UNREAD, TOO_LARGE = -1, -2

GZIP_MAGIC = b"\x1f\x8b"
_GZIP_FIRST, _GZIP_SECOND = GZIP_MAGIC

# Where `read_files` is: the file, where its path begins, its descriptor or -1, where its bytes begin, where they end.
FILE, PATH, DESCRIPTOR, START, STOP = range(5)


def _declare(name: str, result: str, *arguments: str) -> Any:
    from numba import types

    # Found by its name when the machine code is loaded, so that this can be kept in the cache.
    return types.ExternalFunction(name, getattr(types, result)(*(getattr(types, each) for each in arguments)))


def _define_address_in() -> Any:
    from numba import types
    from numba.core.cgutils import voidptr_t
    from numba.extending import intrinsic

    @intrinsic
    def address_in(typingctx, data, at):  # type: ignore[no-untyped-def]  # noqa: ARG001
        def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
            array = context.make_array(signature.args[0])(context, builder, arguments[0])
            return builder.bitcast(builder.gep(array.data, [arguments[1]]), voidptr_t)

        return types.voidptr(data, types.intp), generate

    return address_in


_open = Deferred(_declare, "open", "int32", "voidptr", "int32")
_pread = Deferred(_declare, "pread", "int64", "int32", "voidptr", "uint64", "int64")
_close = Deferred(_declare, "close", "int32", "int32")
_address_in = Deferred(_define_address_in)


def _on_posix(signature: str) -> Any:
    # None where there is no C library with the calls of POSIX.
    return kernel(signature) if os.name == "posix" else lambda _: None


_PATHS, _READING = "uint8[::1]", "int64, int64, uint8[::1], int64[:, ::1], int64[::1]"


@_on_posix(f"boolean({_PATHS}, {_READING})")
def _read_file(paths, flags, largest, data, bounds, state):  # type: ignore[no-untyped-def]
    """Read one file behind the others; False where there is no more room for it, and it stays open."""
    if state[DESCRIPTOR] < 0:
        state[DESCRIPTOR] = _open(_address_in(paths, state[PATH]), np.int32(flags))
        state[START] = state[STOP]
    verdict, count = 0, np.int64(-1)
    while state[DESCRIPTOR] >= 0:
        room = data.size - state[STOP]
        if room == 0:
            return False
        # A pipe cannot be read at an offset: it is left untouched.
        offset = state[STOP] - state[START]
        count = _pread(np.int32(state[DESCRIPTOR]), _address_in(data, state[STOP]), np.uint64(room), offset)
        if count <= 0:
            break
        state[STOP] += count
        if state[STOP] - state[START] > largest:
            verdict = TOO_LARGE
            break
    if state[DESCRIPTOR] >= 0:
        _close(np.int32(state[DESCRIPTOR]))
    if count < 0:
        verdict = UNREAD
    if verdict < 0:
        state[STOP] = state[START]
    row = state[FILE]
    bounds[row, 0] = verdict if verdict < 0 else state[START]
    bounds[row, 1] = verdict if verdict < 0 else state[STOP]
    while paths[state[PATH]] != 0:
        state[PATH] += 1
    state[PATH] += 1
    state[FILE] += 1
    state[DESCRIPTOR] = -1
    return True


@_on_posix(f"void({_PATHS}, int64, {_READING})")
def read_files(paths, until, flags, largest, data, bounds, state):  # type: ignore[no-untyped-def]
    """Read files one behind the other until file `until` or the end of the room.

    Parameters
    ----------
    paths
        Each path and a zero byte, uint8.
    until
        Where to stop, so that the caller can see to signals.
    flags
        Of `open`.
    largest
        Bytes from which a file is TOO_LARGE.
    data
        Where to put the bytes, uint8.
    bounds
        To be filled, [start, stop) of each file in `data`, int64 (n, 2); UNREAD or TOO_LARGE in both for the others.
    state
        Where to begin, and then where it is, int64 (5,). Short of `until` it waits for more room, with its file open.
    """
    while state[FILE] < until and _read_file(paths, flags, largest, data, bounds, state):
        pass


@_on_posix(f"void({_PATHS}, int64, {_READING}, int64, {PLAN}, {ROWS})")
def decode_files(paths, until, flags, largest, data, bounds, state, first, plan, rows):  # type: ignore[no-untyped-def]
    """Read files as `read_files` does, and decode each as soon as it is read, while it is in the nearest cache.

    A file of which nothing is left to do gives its room in `data` to the next one, and has empty bounds. One that is
    gzipped is left as it is.

    Parameters
    ----------
    paths, until, flags, largest, data, bounds, state
        As of `read_files`.
    first, plan, rows
        The row of the first file, and as of `fits_kernels.decode_batch`.
    """
    scratch = make_scratch(plan, rows)
    while state[FILE] < until:
        file = state[FILE]
        if not _read_file(paths, flags, largest, data, bounds, state):
            return
        start, stop = bounds[file]
        gzipped = stop - start >= 2 and data[start] == _GZIP_FIRST and data[start + 1] == _GZIP_SECOND
        if start >= 0 and not gzipped and decode_file(data, start, stop, first + file, plan, rows, scratch):
            bounds[file, 1] = state[STOP] = start
