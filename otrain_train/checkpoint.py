"""The state of a training after an epoch, in one file, so that a killed training goes on where it was.

Written whole or not at all. A file that belongs to other settings, other data or another version of the libraries, or
that cannot be read, counts as none.
"""

import io
import json
import logging
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from otrain_infer.atomic import replacing

log = logging.getLogger(__name__)

Arrays = list[npt.NDArray[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """All that the next epoch depends on.

    Attributes
    ----------
    epoch
        Epochs done.
    variables
        Of the network, the augmentation and the optimiser, seeds of the random layers included.
    best, best_epoch
        Weights of the network after its best epoch, and which one that was, from 1.
    history
        One dictionary of figures for each epoch done.
    """

    epoch: int
    variables: Arrays
    best: Arrays
    best_epoch: int
    history: list[dict[str, float]]


def write(path: Path, key: str, state: State) -> None:
    """Put a state in place of the one before.

    Parameters
    ----------
    path
        The file; its folder is made.
    key
        Stands for the settings, the data and the versions of the libraries.
    state
        What is kept.

    Raises
    ------
    OutputError
        When the file cannot be written.
    """
    with replacing(path) as part, part.open("wb") as file:
        _save(file, key, state)


def _save(file: IO[bytes], key: str, state: State) -> None:
    about = {
        "key": key,
        "epoch": state.epoch,
        "best_epoch": state.best_epoch,
        "history": state.history,
        "variables": len(state.variables),
        "best": len(state.best),
    }
    members: dict[str, npt.NDArray[Any]] = {"about": np.frombuffer(json.dumps(about).encode(), np.uint8)}
    members |= {f"variable_{i}": value for i, value in enumerate(state.variables)}
    members |= {f"best_{i}": value for i, value in enumerate(state.best)}
    np.savez(file, allow_pickle=False, **members)


def to_bytes(state: State) -> bytes:
    """Give a state as bytes, to be sent to other hosts."""
    file = io.BytesIO()
    _save(file, "", state)
    return file.getvalue()


def from_bytes(content: bytes) -> State:
    """Give the state that `to_bytes` was given."""
    with np.load(io.BytesIO(content), allow_pickle=False) as members:
        return _load(members)


def read(path: Path, key: str) -> State | None:
    """Read the state that `write` left under the same key; None when there is none."""
    if not path.exists():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as members:
            if json.loads(members["about"].tobytes())["key"] != key:
                log.warning("%s is of other settings, data or versions: the training starts anew", path)
                return None
            return _load(members)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        log.warning("%s cannot be read (%s): the training starts anew", path, error)
        return None


def _load(members: Mapping[str, npt.NDArray[Any]]) -> State:
    about = json.loads(members["about"].tobytes())
    return State(
        int(about["epoch"]),
        [members[f"variable_{i}"] for i in range(about["variables"])],
        [members[f"best_{i}"] for i in range(about["best"])],
        int(about["best_epoch"]),
        about["history"],
    )


def remove(path: Path) -> None:
    """Take a state away once its training is over, and its folder if nothing else is in it."""
    path.unlink(missing_ok=True)
    try:
        path.parent.rmdir()
    except OSError:
        log.debug("%s holds something else, or was never made, and stays", path.parent)
