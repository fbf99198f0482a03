"""What a model looked at: the planes of a cutout beside maps of what speaks for real and for bogus."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import numpy.typing as npt

from otrain_infer.normalise import Pixels
from otrain_train.canvas import BOGUS, REAL
from otrain_train.evaluation import Evaluation
from otrain_train.gallery import Image, pictures_of
from otrain_train.occlusion import occlusion
from otrain_train.splits import Rows

Maps = npt.NDArray[np.float32]

BATCH = 32
"""Cutouts explained at a time."""

KEY = "blue is for real, orange for bogus"
"""What the colours of maps mean."""

STRENGTH = 0.8
"""How much of a colour covers the picture below, at most."""

SHOWN = "DIFF"
"""The plane that maps are laid on, where there is one of that name."""


class Cam(Protocol):
    """What is needed of `otrain_train.saliency.GradCam` here."""

    def maps(self, normalised: Pixels, real: npt.NDArray[np.bool_]) -> Maps:
        """Give maps of what speaks for real, or else for bogus."""
        ...


def explain(evaluation: Evaluation, rows: Rows, cam: Cam | None = None) -> Iterator[list[Image]]:
    """Explain the scores of some rows, in batches.

    Parameters
    ----------
    evaluation
        The candidates and what the model makes of them.
    rows
        int64 (k,), those to explain.
    cam
        For maps of Grad-CAM besides those of occlusion.

    Yields
    ------
    list of ndarray
        For each row its pictures, uint8 (ny, nx, 3), with the names that `names_of` gives.
    """
    shown = _shown(evaluation)
    for start in range(0, rows.size, BATCH):
        some = rows[start : start + BATCH]
        pixels, real = evaluation.pixels(some), evaluation.called[some]
        maps = [occlusion(evaluation.scorer, pixels, real)]
        if cam:
            maps.insert(0, cam.maps(evaluation.scorer.card.normalisation.apply(pixels), real))
        for i, cutout in enumerate(pixels):
            pictures = pictures_of(cutout)
            yield [*pictures, *(lay_on(pictures[shown], each[i], bool(real[i])) for each in maps)]


def names_of(evaluation: Evaluation, cam: Cam | None = None) -> list[str]:
    """Name the pictures that `explain` gives."""
    planes = evaluation.scorer.card.planes
    kinds = ["Grad-CAM", "occlusion"] if cam else ["occlusion"]
    below = f" on {planes[_shown(evaluation)]}" if len(planes) > 1 else ""
    return [*planes, *(f"{kind}{below}" for kind in kinds)]


def lay_on(picture: Image, weights: Maps, real: bool) -> Image:
    """Colour a picture by a map: what speaks for real in blue, for bogus in vermilion, the strongest most.

    Parameters
    ----------
    picture
        uint8 (ny, nx, 3), the highest y first.
    weights
        float32 (ny, nx), y upwards as in the cutout: how much each pixel speaks for what the candidate is called, or
        below 0 against it. What is not finite stays as it is.
    real
        Whether it is called real.
    """
    known = np.nan_to_num(weights[::-1] if real else -weights[::-1], nan=0.0, posinf=0.0, neginf=0.0)
    strongest = np.abs(known).max(initial=0.0)
    if not strongest > 0:
        return picture
    cover = STRENGTH * np.abs(known) / strongest
    colour = np.where((known > 0)[..., np.newaxis], _rgb(REAL), _rgb(BOGUS))
    mixed = (1 - cover)[..., np.newaxis] * picture + cover[..., np.newaxis] * colour
    return np.asarray(np.rint(mixed), np.uint8)


def _rgb(colour: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(colour.removeprefix("#")))


def _shown(evaluation: Evaluation) -> int:
    planes = evaluation.scorer.card.planes
    return planes.index(SHOWN) if SHOWN in planes else 0
