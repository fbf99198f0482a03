"""O'TRAIN inference: reads and normalises cutouts and gives each the probability of being real."""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from otrain_infer.card import ModelCard
    from otrain_infer.cutouts import Cutouts, read_cutouts
    from otrain_infer.errors import OtrainError
    from otrain_infer.flags import CutoutFlag
    from otrain_infer.normalise import Normalisation
    from otrain_infer.scorer import Scorer

__version__ = "0.1.0"

__all__ = ["CutoutFlag", "Cutouts", "ModelCard", "Normalisation", "OtrainError", "Scorer", "read_cutouts"]

# ONNX Runtime reports to its makers from where it runs unless told not to, and reads this when it is imported; its
# versions call it by either name. What the user has set stays.
for _opt_out in ("ORT_DISABLE_TELEMETRY", "ORT_TELEMETRY_DISABLED"):
    os.environ.setdefault(_opt_out, "1")

_HOMES = {
    "CutoutFlag": "flags",
    "Cutouts": "cutouts",
    "ModelCard": "card",
    "Normalisation": "normalise",
    "OtrainError": "errors",
    "Scorer": "scorer",
    "read_cutouts": "cutouts",
}


def __getattr__(name: str) -> Any:
    # The modules behind these names pull in numpy, numba, astropy and onnxruntime: only when first asked for.
    if name not in _HOMES:
        raise AttributeError(f"module 'otrain_infer' has no attribute '{name}'")
    return getattr(import_module(f"otrain_infer.{_HOMES[name]}"), name)
