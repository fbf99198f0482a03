"""What a card keeps of the rows that its model was checked on: golden cutouts, and a fingerprint to see drift by."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from otrain_infer.card import Golden, ModelCard
from otrain_infer.errors import UsageError
from otrain_infer.normalise import Pixels, inner_box
from otrain_infer.scorer import Scores

SYNTHETIC_ROWS = 64
GOLDEN_ROWS = 6
TINY = np.finfo(np.float64).tiny
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


def take_rows(rows: Pixels, shape: tuple[int, int, int], most: int) -> Pixels:
    """Take at most so many of the given rows, evenly spaced.

    Raises
    ------
    UsageError
        When there are none, or they are not of the shape (ny, nx, planes).
    """
    if rows.ndim != 4 or rows.shape[1:] != shape or not len(rows):
        wanted = ", ".join(map(str, shape))
        raise UsageError(f"the cutouts to check the model on have the shape {rows.shape}, not (n, {wanted})")
    chosen = np.unique(np.linspace(0, len(rows) - 1, most).astype(np.intp))
    return np.ascontiguousarray(rows[chosen], np.float32)


def make_rows(shape: tuple[int, int, int]) -> Pixels:
    """Make up raw pixels, float32 (n, ny, nx, planes), always the same ones.

    Noise with a point source of any brightness, of either sign; the first row has holes, the second is padded.
    """
    ny, nx, planes = shape
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:ny, :nx] - np.array([(ny - 1) / 2, (nx - 1) / 2])[:, None, None]
    profile = np.exp(-(y**2 + x**2) / (2 * 1.5**2))[..., None]
    peaks = np.geomspace(1, 1000, SYNTHETIC_ROWS)[:, None, None, None] * rng.choice([-1, 0, 1, 1], (1, 1, 1, planes))
    sky = rng.normal(100, 50, (SYNTHETIC_ROWS, 1, 1, planes))
    rows: Pixels = (rng.normal(size=(SYNTHETIC_ROWS, *shape)) + sky + peaks * profile).astype(np.float32)
    rows[0][rng.random((ny, nx)) < 0.1] = np.nan
    rows[1, ny - ny // 8 :] = np.nan
    return rows


def choose_golden(raw: Pixels, scores: Scores) -> Golden:
    """Choose at most `GOLDEN_ROWS` rows that have a score.

    One with holes and one with padding where there are any, the others from the lowest score to the highest.
    """
    holes, padded = _holes_and_padding(raw)
    scored = np.isfinite(scores)
    odd = [rows[0] for rows in (np.flatnonzero(holes & scored), np.flatnonzero(padded & scored)) if rows.size]
    order = np.argsort(scores)[: np.count_nonzero(scored)]
    spread = order[np.linspace(0, len(order) - 1, GOLDEN_ROWS - len(odd)).round().astype(np.intp)]
    rows = list(dict.fromkeys([*odd, *spread]))
    return Golden(raw[rows], scores[rows])


def _holes_and_padding(raw: Pixels) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    holes, padded = np.zeros(len(raw), np.bool_), np.zeros(len(raw), np.bool_)
    for i, cutout in enumerate(raw):
        y0, y1, x0, x1 = inner_box(cutout)
        padded[i] = (y1 - y0, x1 - x0) != cutout.shape[:2]
        holes[i] = not np.isfinite(cutout[y0:y1, x0:x1]).all()
    return holes, padded


def make_reference(card: ModelCard, raw: Pixels, scores: Scores) -> dict[str, Any]:
    """Make the fingerprint of inputs and scores against which drift is seen.

    Parameters
    ----------
    card
        Names the planes.
    raw
        Raw pixels, float32 (n, ny, nx, planes).
    scores
        float32 (n,), NaN where a row has none.

    Returns
    -------
    dict
        ``rows``, those that have a score; ``levels``, the probabilities of the quantiles; ``scores``, their quantiles;
        ``pixels``, the quantiles of the finite raw pixels of each plane; ``non_finite``, the fraction of the other
        pixels of each plane; and under ``real`` the same of the real ones among the rows, each row counted as much as
        it is probable that it is one: their ``share``; which fraction of their ``scores`` and ``pixels`` is below each
        of the quantiles; and ``non_finite``.
    """
    scored = np.isfinite(scores)
    raw, probable = raw[scored], scores[scored].astype(np.float64)
    finite = np.isfinite(raw)
    pixels, real = {}, {}
    for p, plane in enumerate(card.planes):
        pixels[plane] = _quantiles(raw[..., p][finite[..., p]])
        real[plane] = _levels_of_part(raw[..., p], probable, pixels[plane])
    holes: npt.NDArray[np.float64] = 1 - finite.mean(axis=(1, 2))
    quantiles = _quantiles(probable)
    return {
        "rows": len(raw),
        "levels": list(QUANTILES),
        "scores": quantiles,
        "pixels": pixels,
        "non_finite": dict(zip(card.planes, holes.mean(axis=0).tolist(), strict=True)),
        "real": {
            "share": float(probable.mean()),
            "scores": _levels_of_part(probable, probable, quantiles),
            "pixels": real,
            "non_finite": dict(zip(card.planes, (probable @ holes / max(probable.sum(), TINY)).tolist(), strict=True)),
        },
    }


def _quantiles(values: npt.NDArray[Any]) -> list[float]:
    if not values.size:
        return [math.nan] * len(QUANTILES)
    return [float(value) for value in np.quantile(values.astype(np.float64), QUANTILES)]


def _levels_of_part(values: npt.NDArray[Any], weights: npt.NDArray[np.float64], quantiles: list[float]) -> list[float]:
    """Give which fraction of the finite values is below each quantile, each row (n, ...) counted with its weight (n,).

    Of the values that are equal to a quantile it is as much as of the values without weights.
    """
    rows = values.reshape(len(values), -1)
    counts = np.isfinite(rows).sum(axis=1)
    if not counts.any():
        return [math.nan] * len(quantiles)
    found = []
    for level, quantile in zip(QUANTILES, np.array(quantiles), strict=True):
        below, equal = (rows < quantile).sum(axis=1), (rows == quantile).sum(axis=1)
        part = np.clip((level * counts.sum() - below.sum()) / max(equal.sum(), 1), 0, 1)
        found.append(float(weights @ (below + part * equal) / max(weights @ counts, TINY)))
    return found
