"""Where a training is computed: on one device, on all of this machine, or on those of several hosts.

Every batch is cut into as many parts as there are devices. Each device computes the gradients of its part, their sum is
what every device takes its step with, and batch normalisation takes its mean and variance over the whole batch: so the
weights stay the same everywhere, and are those that one device would give, up to rounding.

Hosts find each other through TF_CONFIG, which differs in the number of the task only, and all of them are started with
the same command on the same datacube::

    TF_CONFIG='{"cluster": {"worker": ["a:4000", "b:4000"]}, "task": {"type": "worker", "index": 0}}'
"""

import json
import logging
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from otrain_infer.errors import DeviceError, UsageError
from otrain_train.quiet import without_native_stderr

log = logging.getLogger(__name__)

TF_CONFIG = "TF_CONFIG"
EXAMPLE = '{"cluster": {"worker": ["a:4000", "b:4000"]}, "task": {"type": "worker", "index": 0}}'

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Devices:
    """The devices of a training, as one of its hosts sees them.

    Attributes
    ----------
    strategy
        The tf.distribute.Strategy.
    count
        Devices of all hosts.
    first, local
        The number of the first device of this host, and how many it has.
    hosts
        How many hosts there are.
    is_chief
        Whether this host is the one that writes files.
    """

    strategy: Any
    count: int
    first: int
    local: int
    hosts: int
    is_chief: bool

    def scope(self) -> AbstractContextManager[Any]:
        """Give the block in which variables must be made to be on all devices."""
        scope: AbstractContextManager[Any] = self.strategy.scope()
        return scope

    def share(self, rows: int) -> slice:
        """Say which rows of a batch of `rows` this host computes."""
        return slice(bound(rows, self.first, self.count), bound(rows, self.first + self.local, self.count))

    def spread(self, rows: int, arrays: Sequence[Any]) -> list[Any]:
        """Cut this host's share of a batch of `rows` into the parts of its devices, for `strategy.run`.

        Parameters
        ----------
        rows
            Of the whole batch.
        arrays
            Of this host's share, their first axis the rows.

        Returns
        -------
        list
            One value for each array, which holds its parts.
        """
        if self.count == 1:
            return list(arrays)
        start = self.share(rows).start

        def part(context: Any) -> tuple[Any, ...]:
            device = context.replica_id_in_sync_group
            low, high = (bound(rows, device + i, self.count) - start for i in range(2))
            return tuple(tf.identity(array[low:high]) for array in arrays)

        return list(self.strategy.experimental_distribute_values_from_function(part))

    def from_chief(self, content: bytes) -> bytes:
        """Give every host what the chief has called this with; all hosts must call it."""
        if self.hosts == 1:
            return content
        content = content if self.is_chief else b""
        size = int(self._sum(np.array([len(content)], np.int32))[0])
        if size == 0:
            return b""  # TensorFlow does not survive a sum of nothing
        return self._sum(np.frombuffer(content.ljust(size + -size % 4, b"\0"), np.int32)).tobytes()[:size]

    def check_alike(self, content: bytes, what: str) -> None:
        """Raise UsageError on all hosts unless all of them have called this with the same bytes."""
        if self.hosts > 1 and self._sum(np.array([self.from_chief(content) != content], np.int32))[0]:
            raise UsageError(f"the hosts were given different {what}: give the same command and files to all")

    def _sum(self, values: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        # The first device of each host brings its values, the others nothing.
        def part(context: Any) -> Any:
            return tf.constant(values if context.replica_id_in_sync_group == self.first else np.zeros_like(values))

        def add() -> npt.NDArray[np.int32]:
            parts = self.strategy.experimental_distribute_values_from_function(part)
            return np.asarray(self.strategy.reduce(tf.distribute.ReduceOp.SUM, parts, axis=None), np.int32)

        return joined(add)


def bound(rows: int, device: int, count: int) -> int:
    """Give the first row of a device's part when a batch of `rows` is cut for `count` devices."""
    return rows * device // count


@cache
def start(kind: str) -> Devices:
    """Get the devices of a training; those of several hosts before anything else is asked of TensorFlow.

    Parameters
    ----------
    kind
        ``one``; ``all`` GPUs of this machine or, without any, the logical processors that TensorFlow was given, which
        is one unless configured otherwise; ``hosts``, all GPUs of all machines that TF_CONFIG names.

    Returns
    -------
    Devices
        The same ones whenever this process asks again.

    Raises
    ------
    UsageError
        When TF_CONFIG is missing or is not what it should be.
    DeviceError
        When the hosts cannot be joined.
    """
    if kind == "hosts":
        return _join_hosts()
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    if kind == "all" and len(devices) > 1:
        strategy = tf.distribute.MirroredStrategy([each.name for each in devices])
        return Devices(strategy, len(devices), 0, len(devices), 1, True)
    if kind == "all":
        log.warning("there is one device only (%s), and the training goes on with it alone", devices[0].name)
    return Devices(tf.distribute.get_strategy(), 1, 0, 1, 1, True)


def _join_hosts() -> Devices:
    config = _read_config()
    hosts = sum(len(addresses) for addresses in config["cluster"].values())
    try:
        with without_native_stderr():
            strategy = tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:
        raise DeviceError(
            f"the hosts cannot be joined ({_first_line(error)}): start them before anything else of TensorFlow"
        ) from None
    except (tf.errors.OpError, ValueError) as error:
        raise DeviceError(f"the hosts that {TF_CONFIG} names cannot be joined ({_first_line(error)})") from None
    count, local = strategy.num_replicas_in_sync, strategy.num_replicas_in_sync // hosts
    return Devices(strategy, count, local * _number(config), local, hosts, _number(config) == 0)


def _read_config() -> dict[str, Any]:
    text = os.environ.get(TF_CONFIG, "")
    if not text.strip():
        raise UsageError(f"the hosts are named by the environment variable {TF_CONFIG}, such as {EXAMPLE}: set it")
    try:
        config = json.loads(text)
        cluster, task = config["cluster"], config["task"]
        known = set(cluster) <= {"chief", "worker"} and all(isinstance(each, list) for each in cluster.values())
        right = known and cluster[task["type"]][task["index"]] and task["index"] >= 0
    except (ValueError, KeyError, TypeError, IndexError):
        right = False
    if not right:
        raise UsageError(f"the environment variable {TF_CONFIG} does not name hosts and this one, as in {EXAMPLE}")
    return {"cluster": cluster, "task": task}


def _number(config: dict[str, Any]) -> int:
    # TensorFlow counts the chief first.
    task, cluster = config["task"], config["cluster"]
    return int(task["index"]) + (len(cluster.get("chief", [])) if task["type"] == "worker" else 0)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def joined(compute: Callable[[], Result]) -> Result:
    """Call what all hosts compute together; raises DeviceError when one of them has gone."""
    try:
        return compute()
    except (tf.errors.UnavailableError, tf.errors.AbortedError) as error:
        log.debug("the hosts were parted", exc_info=error)
        raise DeviceError(
            "a host has gone, and the training with it: start all of them again, and they go on after the last epoch"
        ) from None
