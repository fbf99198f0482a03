"""Maps of what in a candidate speaks for real and for bogus: by occlusion, and by Grad-CAM where there is a network."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from otrain_infer.errors import MissingExtraError, ModelError
from otrain_infer.normalise import Pixels
from otrain_infer.scorer import Scorer
from otrain_train.occlusion import occlusion

KINDS = ("occlusion", "grad-cam")
ENDINGS = (".keras", ".h5", ".hdf5")


class Maps:
    """Explains the scores of a model.

    Occlusion asks the ONNX file alone. Grad-CAM looks into the Keras network beside it: TensorFlow is loaded the first
    time that it is asked for, and not before.

    Parameters
    ----------
    model
        The ONNX file.
    scorer
        Of this model.
    """

    def __init__(self, model: Path, scorer: Scorer) -> None:
        self._scorer = scorer
        self._network = next((path for path in map(model.with_suffix, ENDINGS) if path.is_file()), None)
        self._cam: Any = None
        self._lock = threading.Lock()

    @property
    def kinds(self) -> tuple[str, ...]:
        """Which of `KINDS` there are."""
        return KINDS if self._network else KINDS[:1]

    def explain(self, pixels: Pixels, kind: str) -> npt.NDArray[np.int8]:
        """Give the map of a cutout.

        Parameters
        ----------
        pixels
            Raw, float32 (1, ny, nx, planes), as the model takes them.
        kind
            One of `kinds`.

        Returns
        -------
        ndarray
            int8 (ny, nx), the row of the highest y first: above 0 where a pixel speaks for real, below where for
            bogus, 127 the strongest; all 0 where nothing does.

        Raises
        ------
        ModelError
            When the Keras network cannot be used.
        MissingExtraError
            When TensorFlow is not installed.
        """
        score = float(self._scorer.score_pixels(pixels)[0])
        real = np.array([score >= self._scorer.card.threshold])
        if kind == "grad-cam":
            found = self._grad_cam(pixels).maps(self._scorer.card.normalisation.apply(pixels), real)[0]
        else:
            found = occlusion(self._scorer, pixels, real)[0]
        signed = np.nan_to_num(found if real[0] else -found, nan=0.0, posinf=0.0, neginf=0.0)[::-1]
        strongest = float(np.abs(signed).max(initial=0.0))
        scale = 127 / strongest if strongest > 0 else 0.0
        return np.asarray(np.rint(signed * scale), np.int8)

    def _grad_cam(self, pixels: Pixels) -> Any:
        with self._lock:
            if self._cam is None:
                if self._network is None:
                    raise ModelError("Grad-CAM looks into the Keras network, and there is none beside the model")
                try:
                    from otrain_train.quiet import start_tensorflow

                    start_tensorflow()
                    from otrain_train.saliency import open_grad_cam
                except ModuleNotFoundError as error:
                    raise MissingExtraError(f"Grad-CAM needs {error.name}: pip install 'otrain[train]'") from None
                self._cam = open_grad_cam(self._network, self._scorer, pixels)
            return self._cam
