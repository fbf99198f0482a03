"""Everything that a training can be told, and the only place of its defaults."""

import math
from argparse import BooleanOptionalAction
from dataclasses import asdict, dataclass, field, fields
from operator import index
from pathlib import Path
from typing import Any

from otrain_infer.errors import UsageError

WIDEST = 16
MOST = 1_000_000
"""Epochs, steps of one and rows of a step, at most."""

SEEDS = 1 << 32
"""Keras takes seeds below this."""

MAX_FLIPS = 0.001
"""Fraction of the calls at a threshold that int8 may make otherwise than fp32, unless the user says another."""

NETWORKS = ("lite", "mini", "otrain")
AUGMENTATIONS = ("flips-turns", "shifts", "edges", "none")
CLASS_WEIGHTS = ("balanced", "none")
GROUP_KEYS = ("groups", "files", "candids", "nights", "none")
PRECISIONS = ("fp32", "bf16", "fp16")
DEVICES = ("one", "all", "hosts")
GATES = ("mcnemar", "none")
TRACKERS = ("none", "tensorboard", "mlflow", "wandb")


def _setting(default: Any, text: str, **option: Any) -> Any:
    # What the command line needs to know of a setting stands beside its default.
    return field(default=default, metadata={"help": text, **option})


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """How a network is trained. The defaults are the program's; impossible values raise UsageError.

    Each setting is an option of the training commands, under the name that `option_name` gives, and says there what
    it is. None stands for what suits the data.

    Attributes
    ----------
    network, width
        Which architecture of `otrain_train.network`, and by what factor its layers are wider.
    normalisation
        Method of `otrain_infer.normalise.Normalisation`.
    epochs, batch_size, min_steps, patience
        How long: small sets take several passes for one epoch of `min_steps` steps; `patience` 0 never ends it early.
    frac, holdout, group_key
        How rows are split: `frac` of all rows give the final figures and nothing else; `holdout` of the others choose
        the best epoch, the temperature and, where there are enough, the operating points. No group is on two sides.
    threshold
        A candidate is called real from this score on.
    dropout, weight_decay, label_smoothing, augmentation, class_weights
        What keeps a network from learning by heart, and what each class counts.
    learning_rate, warmup
        The rate rises in the `warmup` fraction of all steps; from there it falls to 0 along a cosine.
    frozen_epochs
        Epochs in which only the dense layers learn, when the training begins from another network.
    teacher_weight
        What the score of a teacher counts in what is learnt, where there is one, and the label the rest.
    seeds
        Each decides all that is drawn at random in the training of one network; the first also how rows are split.
    precision, xla, devices
        How it is computed; see `otrain_train.devices`.
    """

    network: str = _setting(
        "lite", "architecture: lite; mini, which wants a --teacher; otrain, the original's", choices=NETWORKS
    )
    width: float = _setting(1.0, "factor by which the layers of the network are wider")
    normalisation: str = _setting("l2", "none, l2, l2-rows or robust")
    epochs: int = _setting(10, "passes over the training rows; small sets take several for one")
    frac: float = _setting(0.15, "fraction of the rows kept for validation")
    holdout: float = _setting(0.15, "fraction of the other rows that choose the best epoch and calibrate")
    group_key: str = _setting(
        "groups", "column of the datacube by which rows stay together in splits: %(choices)s", choices=GROUP_KEYS
    )
    threshold: float = _setting(0.5, "score from which a candidate is called real")
    dropout: float = _setting(0.3, "fraction of units left out while training")
    batch_size: int | None = _setting(None, "rows for one step; if not given, what suits their number", type=int)
    min_steps: int = _setting(100, "steps that an epoch has at least")
    learning_rate: float | None = _setting(None, "after the warm-up; from there it falls to 0", type=float)
    warmup: float = _setting(0.1, "fraction of all steps in which the learning rate rises")
    weight_decay: float = _setting(1e-4, "of AdamW, for kernels only")
    patience: int = _setting(0, "epochs without one as good that end training; 0 never does")
    augmentation: tuple[str, ...] = _setting(
        ("flips-turns",), "what is done to cutouts while training: %(choices)s", choices=AUGMENTATIONS, nargs="+"
    )
    class_weights: str = _setting("balanced", "%(choices)s", choices=CLASS_WEIGHTS)
    label_smoothing: float = _setting(0.0, "how far labels are moved towards one half, as a fraction")
    frozen_epochs: int = _setting(2, "epochs in which only the dense layers learn, with --pretrained")
    teacher_weight: float = _setting(0.9, "with --teacher: what its score counts beside the label, from 0 to 1")
    seeds: tuple[int, ...] = _setting(
        (0,),
        "decides all that is drawn at random; several train an ensemble of as many networks",
        option="seed",
        nargs="+",
        type=int,
    )
    precision: str = _setting("fp32", "of the sums while training: %(choices)s", choices=PRECISIONS)
    xla: bool = _setting(False, "compile the steps with XLA")
    devices: str = _setting(
        "one", "one, all GPUs of this machine, or those of all hosts that TF_CONFIG names", choices=DEVICES
    )

    def __post_init__(self) -> None:
        for name in ("augmentation", "seeds"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        self._make_whole("epochs", "min_steps", "patience", "frozen_epochs", "seeds")
        if self.batch_size is not None:
            self._make_whole("batch_size")
        for name in ("frac", "holdout"):
            self._require(name, 0 < getattr(self, name) < 1, "a fraction between 0 and 1, both excluded")
        self._require("threshold", 0 <= self.threshold <= 1, "a score from 0 to 1")
        self._require("teacher_weight", 0 <= self.teacher_weight <= 1, "a fraction from 0 to 1")
        for name in ("dropout", "warmup", "label_smoothing"):
            self._require(name, 0 <= getattr(self, name) < 1, "a fraction from 0 to 1, 1 excluded")
        self._require(
            "learning_rate", self.learning_rate is None or 0 < self.learning_rate < math.inf, "a positive number"
        )
        self._require("width", 0 < self.width <= WIDEST, f"a number above 0, {WIDEST} at most")
        self._require("weight_decay", 0 <= self.weight_decay < math.inf, "zero or a positive number")
        for name in ("epochs", "min_steps"):
            self._require(name, 1 <= getattr(self, name) <= MOST, f"1 or more, {MOST} at most")
        for name in ("patience", "frozen_epochs"):
            self._require(name, 0 <= getattr(self, name) <= MOST, f"0 or more, {MOST} at most")
        self._require("seeds", all(0 <= seed < SEEDS for seed in self.seeds), f"0 or more, and below {SEEDS}")
        self._require("seeds", 0 < len(set(self.seeds)) == len(self.seeds), "one number or several different ones")
        self._require(
            "batch_size", self.batch_size is None or 1 <= self.batch_size <= MOST, f"1 or more, {MOST} at most"
        )
        self._require(
            "augmentation",
            0 < len(self.augmentation) == len(set(self.augmentation))
            and ("none" not in self.augmentation or self.augmentation == ("none",)),
            "'none' alone, or some of the others, each once",
        )
        for each in fields(self):
            for value in _values(getattr(self, each.name)):
                choices = each.metadata.get("choices", (value,))
                self._require(each.name, value in choices, f"one of {', '.join(map(str, choices))}")

    def _make_whole(self, *names: str) -> None:
        # Numbers of numpy are taken as well, and made such as JSON takes.
        for name in names:
            value = getattr(self, name)
            try:
                whole = tuple(map(index, value)) if isinstance(value, tuple) else index(value)
                object.__setattr__(self, name, whole)
            except TypeError:
                self._require(name, False, "a whole number")

    def _require(self, name: str, met: bool, wanted: str) -> None:
        if not met:
            given = " ".join(map(str, _values(getattr(self, name))))
            raise UsageError(f"{option_name(name)} is {wanted}, not {given}")

    @property
    def seed(self) -> int:
        """The first of the seeds."""
        return self.seeds[0]

    def to_dict(self) -> dict[str, Any]:
        """Give the plain dictionary for JSON."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What goes with a training: what it starts from, what is done around it, and who is told.

    Attributes
    ----------
    planes
        The planes of the datacube to learn from, in order; the names of its planes where it does not say them.
    note
        What the card says first of the model.
    pretrained
        The model to begin from, a .keras file of this program or its .onnx file.
    teacher
        The model from whose scores to learn besides the labels, a .keras file of this program or its .onnx file.
    gate
        ``mcnemar``: a model that does not beat the one it began from on the validation rows does not take its name.
    tracker
        Where the settings and figures of the training are sent besides its own folder.
    tune
        Trials of a search for better settings before the training; 0 for none.
    label_folds
        Parts into which the rows are cut to score each by a network that has not seen it, so that suspicious labels
        are found among all of them; 0 looks only at those that are not learnt from.
    """

    planes: tuple[str, ...] | None = None
    note: str = ""
    pretrained: Path | None = None
    teacher: Path | None = None
    gate: str = "mcnemar"
    tracker: str = "none"
    tune: int = 0
    label_folds: int = 0
    report: bool = True

    def __post_init__(self) -> None:
        _require(self.gate in GATES, f"gate is one of {', '.join(GATES)}, not {self.gate}")
        _require(self.tracker in TRACKERS, f"tracker is one of {', '.join(TRACKERS)}, not {self.tracker}")
        _require(self.tune >= 0, f"tune is the number of trials, 0 or more, not {self.tune}")
        _require(
            not (self.tune and self.pretrained),
            "--tune seeks a width and a normalisation, and --pretrained brings both: give one or the other",
        )
        _require(
            not (self.teacher and (self.tune or self.pretrained)),
            f"--teacher brings a normalisation, as {'--tune' if self.tune else '--pretrained'} does: give one of them",
        )
        _require(
            self.label_folds == 0 or self.label_folds >= 2, f"label-folds is 0, or 2 or more, not {self.label_folds}"
        )


def _require(met: bool, sentence: str) -> None:
    if not met:
        raise UsageError(sentence)


def _values(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


def option_name(name: str) -> str:
    """Give the name of the option that stands for a setting, without the dashes before it."""
    each = next(each for each in fields(TrainSettings) if each.name == name)
    return str(each.metadata.get("option", name)).replace("_", "-")


def options() -> dict[str, dict[str, Any]]:
    """Give what the command line needs to know of each setting, by its name: help, default, type, choices, nargs."""
    found = {}
    for each in fields(TrainSettings):
        option = {key: value for key, value in each.metadata.items() if key != "option"}
        if isinstance(each.default, bool):
            option["action"] = BooleanOptionalAction
        else:
            option.setdefault("type", type(each.default) if "nargs" not in option else str)
        default: Any = list(_values(each.default)) if "nargs" in option else each.default
        found[each.name] = option | {"dest": each.name, "default": default}
    return found
