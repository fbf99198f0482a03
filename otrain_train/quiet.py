"""TensorFlow without its chatter: what its native code writes to stderr when it starts and when it converts."""

import importlib
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)


@contextmanager
def without_native_stderr() -> Iterator[None]:
    """Send what native code writes to stderr nowhere, unless debugging is on; Python's own stderr is not touched."""
    if log.isEnabledFor(logging.DEBUG):
        yield
        return
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def start_tensorflow(look_for_devices: bool = True) -> None:
    """Import TensorFlow and let it look for GPUs, which is when it talks most; hosts that join do so themselves."""
    with without_native_stderr():
        tensorflow = importlib.import_module("tensorflow")
        if not log.isEnabledFor(logging.DEBUG):
            # It warns of every further network of an ensemble, for each is compiled anew.
            tensorflow.get_logger().setLevel(logging.ERROR)
        if look_for_devices:
            tensorflow.config.list_logical_devices()
