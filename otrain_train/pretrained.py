"""Another model that a training begins from, or learns from, and what a new one has in common with it."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from otrain_infer.card import ModelCard
from otrain_infer.errors import DatacubeError, ModelError, UsageError
from otrain_infer.normalise import Normalisation
from otrain_infer.scorer import Scorer
from otrain_train.datacube import Datacube
from otrain_train.ensemble import members_of
from otrain_train.export import load_network, rescores
from otrain_train.planes import open_in_planes, pick_planes
from otrain_train.settings import TrainSettings

log = logging.getLogger(__name__)

MODEL = ".onnx"
NETWORKS = (".keras", ".h5", ".hdf5")

SPLIT = ("seeds", "frac", "group_key")
"""Settings that decide, with the datacube and its planes, which rows are kept for validation."""


@dataclass(frozen=True, slots=True, eq=False)
class Pretrained:
    """A model to begin from, or to learn from.

    Attributes
    ----------
    scorer
        Of its ONNX file, which stays as it was opened whatever becomes of the file.
    networks
        The Keras network, or those of an ensemble.
    """

    scorer: Scorer
    networks: list[Any]

    @property
    def card(self) -> ModelCard:
        """The card of the model."""
        return self.scorer.card

    def settle(self, settings: TrainSettings) -> TrainSettings:
        """Give the settings with the normalisation of this model, and say in the log where that changes them.

        Raises
        ------
        UsageError
            When it is an ensemble of another number of networks than there are seeds.
        """
        if len(self.networks) not in (1, len(settings.seeds)):
            raise UsageError(
                f"'{self.card.name}' is an ensemble of {len(self.networks)} networks, and --seed names "
                f"{len(settings.seeds)}: give as many seeds as it has networks"
            )
        return self.take_normalisation(settings, "beginning from")

    def take_normalisation(self, settings: TrainSettings, doing: str) -> TrainSettings:
        """Give the settings with the normalisation of this model, and say in the log where that changes them.

        Parameters
        ----------
        settings
            To be changed.
        doing
            What is done with this model, as "beginning from".
        """
        method, padding = self.card.normalisation.method, self.card.normalisation.padding
        if method != settings.normalisation:
            log.info("%s '%s': the normalisation is its own, %s", doing, self.card.name, method)
        if padding != Normalisation(method).padding:
            log.warning(
                "'%s' was trained with another padding than this program's: the new model is trained and scored with "
                "the latter",
                self.card.name,
            )
        return replace(settings, normalisation=method)

    def open_cube(self, path: Path, planes: tuple[str, ...] | None) -> Datacube:
        """Open a datacube in the planes of this model.

        Parameters
        ----------
        path
            The .npz file.
        planes
            Those that the user names, all of this model's among them; the names of the planes of a file that does
            not say them.

        Raises
        ------
        UsageError, OutputError
            As of `otrain_train.planes.open_in_planes`.
        DatacubeError
            When the file is not a usable datacube, or its planes or its size are not this model's.
        """
        datacube = open_in_planes(path, planes or self.card.planes)
        try:
            datacube = pick_planes(datacube, self.card.planes)
        except DatacubeError as error:
            raise DatacubeError(f"'{path}' does not go with '{self.card.name}': {error}") from None
        if datacube.size != self.card.size:
            ny, nx = self.card.size
            raise DatacubeError(
                f"'{path}' holds cutouts of {datacube.size[0]}x{datacube.size[1]} pixels and '{self.card.name}' takes "
                f"{ny}x{nx}: convert the FITS files with --cutout-size {ny}"
            )
        return datacube

    def network(self, member: int) -> Any:
        """Give the network that a member of the new model begins from."""
        return self.networks[member] if len(self.networks) > 1 else self.networks[0]

    def describe(self) -> dict[str, str]:
        """Say which model it is, in plain values."""
        return {"name": self.card.name, "version": self.card.version, "sha256": self.scorer.sha256}

    def may_know(self, run: dict[str, Any]) -> str:
        """Say why this model may have learnt from rows that a training keeps for validation; empty where it has not.

        Parameters
        ----------
        run
            Of the new training, as `otrain_train.provenance.describe_run` gives it.
        """
        training = self.card.training
        own, new = training.get("cube", {}), run["cube"]
        if own.get("sha256") != new["sha256"]:
            return f"it was trained on {own.get('name', 'an unknown datacube')}, which may hold some of them"
        settings = training.get("settings", {})
        apart = [name for name in SPLIT if _first(settings.get(name)) != _first(run["settings"].get(name))]
        if apart or own.get("planes") != new["planes"]:
            return f"it was trained on {own['name']} split in another way"
        others = {"pretrained", "teacher"} & set(training)
        return "what it began from, or learnt from, may itself hold some of them" if others else ""


def open_pretrained(path: Path) -> Pretrained:
    """Open a model to begin or to learn from: an ONNX file and, beside it under the same name, the Keras file of it.

    Parameters
    ----------
    path
        Either of the two.

    Raises
    ------
    UsageError
        When it is neither.
    ModelError
        When one is missing or unusable, or they are not of the same network.
    """
    if path.suffix not in (MODEL, *NETWORKS):
        raise UsageError(f"'{path}' is no model to begin or to learn from: name a {MODEL} or {NETWORKS[0]} file")
    model = path.with_suffix(MODEL)
    beside = [path.with_suffix(ending) for ending in NETWORKS if path.with_suffix(ending).is_file()]
    network = path if path.suffix in NETWORKS else next(iter(beside), path.with_suffix(NETWORKS[0]))
    if not (model.is_file() or network.is_file()):
        raise ModelError(f"there is no model '{path}'")
    for needed, other in ((model, network), (network, model)):
        if not needed.is_file():
            raise ModelError(
                f"there is no '{needed}' beside '{other.name}': a training takes a Keras file and the ONNX file "
                "exported from it, under the same name"
            )
    scorer, loaded = Scorer(model), load_network(network)
    if not rescores(loaded, scorer.card):
        raise ModelError(
            f"'{network}' and '{model.name}' are not of the same network: export it again with otrain-export, or name "
            "another"
        )
    return Pretrained(scorer, members_of(loaded))


def _first(value: Any) -> Any:
    # The first of the seeds decides how rows are split; in a card they are a list.
    return value[0] if isinstance(value, list | tuple) and value else value
