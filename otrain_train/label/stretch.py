"""Pixels as shades: contrast chosen for many planes at a time, and a shade of its own for pixels that are missing."""

import numpy as np
import numpy.typing as npt

from otrain_infer.normalise import Pixels

Shades = npt.NDArray[np.uint8]
Values = npt.NDArray[np.float64]

STRETCHES = ("zscale", "asinh", "linear")

MISSING = 0
"""The shade of pixels that are not finite; the others are from 1, black, to 255, white."""

SAMPLES, CONTRAST, REJECT, ITERATIONS, LEAST, LARGEST_LOSS = 1000, 0.25, 2.5, 5, 5, 0.5
"""Parameters of ZScale (Tody 1986), with the values that IRAF and astropy give them."""

BELOW, BEND = 2.0, 3.0
"""Of ``asinh``, in standard deviations of the sky: what is black lies so far below its median; from where it bends."""


def shade(pixels: Pixels, stretch: str) -> Shades:
    """Give each plane of some cutouts as shades, in the contrast that suits it.

    ``zscale`` is linear between the limits that ZScale chooses, ``linear`` from the lowest to the highest pixel,
    ``asinh`` from below the sky to the highest pixel, so that faint and bright are seen at once.

    Parameters
    ----------
    pixels
        Raw, float32 (n, ny, nx, planes).
    stretch
        One of `STRETCHES`.

    Returns
    -------
    ndarray
        uint8 (n, planes, ny, nx), the row of the highest y first, as a picture has it.
    """
    n, ny, nx, planes = pixels.shape
    rows = np.ascontiguousarray(pixels[:, ::-1].transpose(0, 3, 1, 2), np.float64).reshape(n * planes, ny * nx)
    finite = np.isfinite(rows)
    low, high = np.zeros(len(rows)), np.zeros(len(rows))
    curve = np.ones(len(rows))
    for chosen in _alike(finite):
        values = rows[chosen][finite[chosen]].reshape(len(chosen), -1)
        low[chosen], high[chosen], curve[chosen] = _LIMITS[stretch](values)
    with np.errstate(all="ignore"):
        place = np.clip((rows - low[:, None]) / (high - low)[:, None], 0, 1)
        if stretch == "asinh":
            place = np.arcsinh(place * curve[:, None]) / np.arcsinh(curve)[:, None]
    place[~(low < high)] = 0.5
    shades = np.full(rows.shape, MISSING, np.uint8)
    shades[finite] = 1 + np.rint(254 * place[finite])
    return shades.reshape(n, planes, ny, nx)


def _alike(finite: npt.NDArray[np.bool_]) -> list[npt.NDArray[np.intp]]:
    # Rows with as many finite pixels as each other, which one array can hold; those without any are left out.
    counts = finite.sum(axis=1)
    return [np.flatnonzero(counts == count) for count in np.unique(counts) if count]


def _whole(values: Values) -> tuple[Values, Values, Values]:
    return values.min(axis=1), values.max(axis=1), np.ones(len(values))


def _asinh(values: Values) -> tuple[Values, Values, Values]:
    sky = np.median(values, axis=1)
    sigma = 1.4826 * np.median(np.abs(values - sky[:, None]), axis=1)
    low, high = np.maximum(sky - BELOW * sigma, values.min(axis=1)), values.max(axis=1)
    with np.errstate(all="ignore"):
        curve = np.where(sigma > 0, (high - low) / (BEND * sigma), 1.0)
    return low, high, np.clip(curve, 1e-3, 1e6)


def _zscale(values: Values) -> tuple[Values, Values, Values]:
    low, high = zscale(values)
    return low, high, np.ones(len(values))


def zscale(values: Values) -> tuple[Values, Values]:
    """Give the limits that ZScale chooses (Tody 1986), as astropy's ZScaleInterval does plane by plane.

    Parameters
    ----------
    values
        Finite pixels, float64 (n, pixels).

    Returns
    -------
    low, high : ndarray
        float64 (n,).
    """
    step = int(max(1.0, values.shape[1] / SAMPLES))
    samples = np.sort(values[:, ::step][:, :SAMPLES], axis=1)
    n = samples.shape[1]
    low, high = samples[:, 0].copy(), samples[:, -1].copy()
    slope, good = _fit(samples)
    center = (n - 1) // 2
    median = np.median(samples, axis=1)
    straight = good >= max(LEAST, int(n * LARGEST_LOSS))
    slope = slope / CONTRAST
    low[straight] = np.maximum(low, median - (center - 1) * slope)[straight]
    high[straight] = np.minimum(high, median + (n - center) * slope)[straight]
    return low, high


def _fit(samples: Values) -> tuple[Values, npt.NDArray[np.int64]]:
    # The slope of a line through the samples of each row, those far from it left out, and how many are not.
    n = samples.shape[1]
    x = np.arange(n, dtype=np.float64)
    bad = np.zeros(samples.shape, np.bool_)
    slope, good = np.zeros(len(samples)), np.full(len(samples), n)
    last, going = np.full(len(samples), n + 1), np.ones(len(samples), np.bool_)
    for _ in range(ITERATIONS):
        going = going & (good < last) & (good >= max(LEAST, int(n * LARGEST_LOSS)))
        rows = np.flatnonzero(going)
        if rows.size == 0:
            break
        y, weight = samples[rows], (~bad[rows]).astype(np.float64)
        count = weight.sum(axis=1)
        mean_x, mean_y = (weight @ x) / count, (weight * y).sum(axis=1) / count
        away = (x - mean_x[:, None]) * weight
        found = (away * (y - mean_y[:, None])).sum(axis=1) / np.maximum(
            (away * (x - mean_x[:, None])).sum(axis=1), 1e-300
        )
        flat = y - mean_y[:, None] - found[:, None] * (x - mean_x[:, None])
        kept = (weight * flat).sum(axis=1) / count
        spread = np.sqrt((weight * (flat - kept[:, None]) ** 2).sum(axis=1) / count)
        bad[rows] = _grown(bad[rows] | (np.abs(flat) > REJECT * spread[:, None]), max(1, int(n * 0.01)))
        slope[rows], last[rows] = found, good[rows]
        good[rows] = n - bad[rows].sum(axis=1)
    return slope, good


def _grown(bad: npt.NDArray[np.bool_], width: int) -> npt.NDArray[np.bool_]:
    # Whether one of `width` neighbours is bad.
    n = bad.shape[1]
    ahead = (width - 1) // 2
    total = np.concatenate([np.zeros((len(bad), 1), np.int64), np.cumsum(bad, axis=1)], axis=1)
    stop = np.minimum(np.arange(n) + ahead + 1, n)
    start = np.maximum(np.arange(n) + ahead - width + 1, 0)
    grown: npt.NDArray[np.bool_] = total[:, stop] > total[:, start]
    return grown


_LIMITS = {"zscale": _zscale, "asinh": _asinh, "linear": _whole}
