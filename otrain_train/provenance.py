"""What is recorded of a training: how it ran, and the card of its model."""

import hashlib
import platform
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from otrain_infer import __version__
from otrain_infer.card import ModelCard
from otrain_infer.normalise import Normalisation
from otrain_train.calibrate import Calibration
from otrain_train.datacube import Datacube, sha256
from otrain_train.fit import FitResult
from otrain_train.pretrained import Pretrained
from otrain_train.settings import TrainSettings
from otrain_train.splits import Rows, group_by
from otrain_train.trainer import backend_versions

PACKAGES = ("numpy", "numba", "onnx", "tf2onnx", "onnxruntime", "onnxruntime-gpu")


def describe_run(
    cube: Path,
    datacube: Datacube,
    validation: Rows,
    fits: Sequence[FitResult],
    start: Pretrained | None = None,
    teacher: Pretrained | None = None,
) -> dict[str, Any]:
    """Say how a training ran, in plain values: settings, counts, versions and the datacube's SHA-256.

    Parameters
    ----------
    cube, datacube
        The file that it was trained on, and its content.
    validation
        int64 (n,), rows kept for the figures.
    fits
        The training of each network.
    start, teacher
        What they began from, and from whose scores they learnt.

    Returns
    -------
    dict
        Epochs are numbers for a single network, lists for several.
    """
    fitted = fits[0]
    groups = group_by(datacube, fitted.settings.group_key)
    epochs, best = [len(each.history) for each in fits], [each.best_epoch for each in fits]
    parts = {"learnt": fitted.learnt, "holdout": fitted.holdout, "validation": validation}
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": fitted.settings.to_dict(),
        "seed": fitted.settings.seed,
        "cube": {"name": cube.name, "sha256": sha256(cube), "rows": len(datacube), "planes": list(datacube.planes)},
        "counts": {name: _counts(datacube.labels[rows], groups[rows]) for name, rows in parts.items()},
        "groups_apart": _are_apart([groups[rows] for rows in parts.values()]),
        "class_weights": {"bogus": fitted.class_weights[0], "real": fitted.class_weights[1]},
        "network": fitted.model.name,
        "members": len(fits),
        "epochs": epochs if len(fits) > 1 else epochs[0],
        "best_epoch": best if len(fits) > 1 else best[0],
        "interrupted": fits[-1].interrupted or len(fits) < len(fitted.settings.seeds),
        "versions": _versions(),
    } | {name: model.describe() for name, model in (("pretrained", start), ("teacher", teacher)) if model}


def make_card(
    name: str,
    datacube: Datacube,
    network: Any,
    settings: TrainSettings,
    calibration: Calibration,
    run: dict[str, Any],
    note: str = "",
) -> ModelCard:
    """Write the card of a trained model, without what only the exported file can tell.

    Parameters
    ----------
    name
        Of the model.
    datacube, network, settings, calibration
        What it was trained on, the network or ensemble, how, and its temperature.
    run
        What `describe_run` gave.
    note
        What the user has to say of it.

    Returns
    -------
    ModelCard
    """
    real, bogus = run["counts"]["learnt"]["real"], run["counts"]["learnt"]["bogus"]
    prior = 0.5 if settings.class_weights == "balanced" else real / (real + bogus)
    size = " x ".join(map(str, datacube.size))
    described = (
        f"Trained on {real} real and {bogus} bogus cutouts of {size} pixels ({', '.join(datacube.planes)}) of "
        f"{run['cube']['name']}. A score is the probability of being real where a fraction {prior:.3g} of the "
        "candidates are."
    )
    if run["members"] > 1:
        described += f" It is the mean of those of {run['members']} networks; their standard deviation is the spread."
    if "pretrained" in run:
        described += f" The training began from {run['pretrained']['name']}, version {run['pretrained']['version']}."
    if "teacher" in run:
        described += (
            f" It learnt from the scores of {run['teacher']['name']}, version {run['teacher']['version']}, too."
        )
    described += " Figures are of cutouts like those: judge it on your own before you trust it elsewhere."
    return ModelCard(
        name=name,
        version=_fingerprint(network),
        created=run["created"],
        planes=datacube.planes,
        size=datacube.size,
        normalisation=Normalisation(settings.normalisation),
        threshold=settings.threshold,
        description=f"{note} {described}".strip(),
        training=run,
        calibration={"method": "temperature", "prior": prior, **asdict(calibration)},
    )


def _counts(labels: npt.NDArray[np.int64], groups: npt.NDArray[np.str_]) -> dict[str, int]:
    alone = int(np.sum(groups == ""))
    bogus, real = np.bincount(labels, minlength=2).tolist()
    return {"real": real, "bogus": bogus, "groups": np.unique(groups[groups != ""]).size + alone}


def _versions() -> dict[str, str]:
    found = {"otrain": __version__, "python": platform.python_version(), **backend_versions()}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def _fingerprint(model: Any) -> str:
    # Two models are the same version if and only if they have the same weights.
    return hashlib.sha256(b"".join(each.tobytes() for each in model.get_weights())).hexdigest()[:12]


def _are_apart(parts: list[npt.NDArray[np.str_]]) -> bool:
    named = np.concatenate([np.unique(groups[groups != ""]) for groups in parts])
    return np.unique(named).size == named.size
