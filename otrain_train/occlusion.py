"""Occlusion: how much the score of the exported model changes when a part of a cutout is hidden from it."""

import numpy as np
import numpy.typing as npt

from otrain_infer.normalise import Pixels
from otrain_infer.scorer import Scorer

Maps = npt.NDArray[np.float32]

PATCHES = 7
"""How many patches lie side by side in a cutout; each is tried at every half of its width."""

LEAST = 2.0**-24
"""Scores count as this far from 0 and 1 at least: float32 does not tell more at the upper end."""


def occlusion(scorer: Scorer, pixels: Pixels, real: npt.NDArray[np.bool_]) -> Maps:
    """Find which pixels of some cutouts speak for what the model calls them (Zeiler & Fergus 2014).

    A patch of sky, the median of each plane, slides over the cutout. What the logit of the score loses by it is
    ascribed to the pixels below, which get the mean over all patches that hide them. This asks the model itself, raw
    pixels in and score out, and needs nothing of what is within it.

    Parameters
    ----------
    scorer
        The model.
    pixels
        Raw, float32 (n, ny, nx, planes), in the planes and the size of the model.
    real
        Bool (n,): whether the map is of what speaks for real, or of what speaks for bogus.

    Returns
    -------
    ndarray
        float32 (n, ny, nx): the loss of logit; negative where a pixel speaks against it, NaN where a cutout has no
        score.
    """
    found = np.empty(pixels.shape[:3], np.float32)
    boxes = [(y, x) for y in _spans(pixels.shape[1]) for x in _spans(pixels.shape[2])]
    for i, cutout in enumerate(pixels):
        whole = _logits(scorer.score_pixels(cutout[np.newaxis]))
        losses = whole - _logits(scorer.score_pixels(_hidden(cutout, boxes)))
        found[i] = _mean_over(boxes, losses if real[i] else -losses, found.shape[1:])
    return found


def _spans(length: int) -> list[slice]:
    width = max(1, -(-length // PATCHES))
    step = max(1, width // 2)
    starts = [*range(0, length - width, step), length - width]
    return [slice(start, start + width) for start in starts]


def _hidden(cutout: Pixels, boxes: list[tuple[slice, slice]]) -> Pixels:
    sky = _medians(cutout)
    hidden = np.repeat(cutout[np.newaxis], len(boxes), axis=0)
    for each, (y, x) in zip(hidden, boxes, strict=True):
        # What is missing stays so: a hidden part must not become more of an image than it was.
        part = each[y, x]
        part[:] = np.where(np.isfinite(part), sky, part)
    return hidden


def _medians(cutout: Pixels) -> npt.NDArray[np.float32]:
    planes = cutout.reshape(-1, cutout.shape[-1]).T
    finite = [plane[np.isfinite(plane)] for plane in planes]
    return np.array([np.median(plane) if plane.size else np.nan for plane in finite], np.float32)


def _logits(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    probabilities = np.clip(scores.astype(np.float64), LEAST, 1 - LEAST)
    return np.asarray(np.log(probabilities / (1 - probabilities)))


def _mean_over(
    boxes: list[tuple[slice, slice]], losses: npt.NDArray[np.float64], shape: tuple[int, ...]
) -> npt.NDArray[np.float64]:
    total, count = np.zeros(shape), np.zeros(shape)
    for (y, x), loss in zip(boxes, losses, strict=True):
        # Nothing but sky is left of a plane: such a cutout has no score, and says nothing about the patch.
        if np.isfinite(loss):
            total[y, x] += loss
            count[y, x] += 1
    mean: npt.NDArray[np.float64] = np.full(shape, np.nan)
    return np.divide(total, count, out=mean, where=count > 0)
