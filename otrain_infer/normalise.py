"""Normalisation of cutouts: the only definition, called by training, written in the card and obeyed by the scorer.

Raw pixels are float32 (n, ny, nx, planes). A pixel that is not there is NaN. The outermost rows and columns that are
missing in every plane are the padding of a cutout; every other non-finite pixel is a hole in it.
"""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from otrain_infer.errors import UsageError
from otrain_infer.jit import kernel
from otrain_infer.robust_kernels import scale_robust

Pixels = npt.NDArray[np.float32]

METHODS = ("none", "l2", "l2-rows", "robust")
SIDES = ("object", "corner")
TIMES = ("before", "after")

L2, L2_ROWS, ROBUST = (METHODS.index(method) for method in METHODS[1:])

_EXPONENT = np.uint32(0x7F800000)


@dataclass(frozen=True, slots=True)
class Padding:
    """What fills a cutout that is smaller than the model's.

    Attributes
    ----------
    side
        Where the missing pixels are: ``object`` keeps the object in the centre, ``corner`` puts them all at the bottom
        and on the right (the high ends of both axes).
    value
        The fill value, in raw units if filled before scaling, in scaled units if after.
    when
        ``before`` or ``after`` scaling.
    """

    side: str = "object"
    value: float = 0.0
    when: str = "after"

    def __post_init__(self) -> None:
        if self.side not in SIDES:
            raise UsageError(f"padding side '{self.side}' is unknown: take one of {', '.join(SIDES)}")
        if self.when not in TIMES:
            raise UsageError(f"padding comes 'before' or 'after' scaling, not '{self.when}'")
        if not math.isfinite(self.value):
            raise UsageError(f"padding value {self.value} is not a finite number")

    @classmethod
    def parse(cls, text: str) -> "Padding":
        """Read ``side,value,when``, as in ``object,0,after``.

        Raises
        ------
        UsageError
            When the text is anything else.
        """
        parts = [part.strip() for part in text.split(",")]
        try:
            side, value, when = parts
            return cls(side, float(value), when)
        except UsageError:
            raise
        except ValueError:
            raise UsageError(f"padding '{text}' is not side,value,when, such as object,0,after") from None


@dataclass(frozen=True, slots=True)
class Normalisation:
    """How raw pixels become the input of a network: each plane of each cutout on its own.

    Attributes
    ----------
    method
        ``none``; ``l2`` (non-finite to 0, plane over its L2 norm, in float32); ``l2-rows`` (the same for each row of
        the plane); ``robust`` (minus the median, over 1.4826 MAD or, where that is 0, the standard deviation, then
        asinh, non-finite to 0). A plane that cannot be scaled becomes zeros.
    padding
        What fills a cutout that is smaller than the model's.
    """

    method: str = "l2"
    padding: Padding = field(default_factory=Padding)

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UsageError(f"normalisation '{self.method}' is unknown: take one of {', '.join(METHODS)}")

    def apply(self, pixels: Pixels, out: Pixels | None = None) -> Pixels:
        """Normalise raw pixels.

        Parameters
        ----------
        pixels
            Raw pixels, float32 (n, ny, nx, planes).
        out
            Where to put the result, of the same shape and type; it may be `pixels` itself. Made if not given.

        Returns
        -------
        ndarray
            Finite float32 (n, ny, nx, planes): `out`.

        Raises
        ------
        UsageError
            When `pixels` have not four axes, or `out` is not float32, C-contiguous, writable and of their shape.
        """
        pixels = as_kernels_take(pixels)
        if pixels.ndim != 4:
            raise UsageError(f"pixels to normalise have the shape (n, ny, nx, planes), not {pixels.shape}")
        if out is None:
            out = np.empty_like(pixels)
        elif out is not pixels and (out.shape != pixels.shape or as_kernels_take(out) is not out):
            raise UsageError(f"out must be float32, C-contiguous, writable and of the shape {pixels.shape}")
        if out is not pixels:
            np.copyto(out, pixels)
        _normalise(out, METHODS.index(self.method), np.float32(self.padding.value), self.padding.when == "before")
        return out

    def to_dict(self) -> dict[str, Any]:
        """Give the plain dictionary that the card stores."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Normalisation":
        """Read what `to_dict` gave."""
        return cls(str(content["method"]), Padding(**content["padding"]))


@kernel("boolean(float32[:, :, ::1], intp, intp, intp, intp)")
def _is_missing(cutout, y0, y1, x0, x1):  # type: ignore[no-untyped-def]
    for y in range(y0, y1):
        for x in range(x0, x1):
            for p in range(cutout.shape[2]):
                if math.isfinite(cutout[y, x, p]):
                    return False
    return True


@kernel("UniTuple(intp, 4)(float32[:, :, ::1])")
def inner_box(cutout):  # type: ignore[no-untyped-def]
    """Give (y0, y1, x0, x1), the part of a float32 (ny, nx, planes) cutout inside its padding; all 0 if nothing is."""
    ny, nx, _ = cutout.shape
    y0, y1, x0, x1 = 0, ny, 0, nx
    while y0 < y1 and _is_missing(cutout, y0, y0 + 1, 0, nx):
        y0 += 1
    if y0 == y1:
        return 0, 0, 0, 0
    while _is_missing(cutout, y1 - 1, y1, 0, nx):
        y1 -= 1
    while _is_missing(cutout, y0, y1, x0, x0 + 1):
        x0 += 1
    while _is_missing(cutout, y0, y1, x1 - 1, x1):
        x1 -= 1
    return y0, y1, x0, x1


@kernel("void(float32[:, :, ::1], intp, intp, intp, intp, float32)")
def _fill_outside(cutout, y0, y1, x0, x1, fill):  # type: ignore[no-untyped-def]
    cutout[:y0] = fill
    cutout[y1:] = fill
    cutout[y0:y1, :x0] = fill
    cutout[y0:y1, x1:] = fill


@kernel("void(float32[::1])")
def _zero_holes(values):  # type: ignore[no-untyped-def]
    stored = values.view(np.uint32)
    for i in range(values.size):
        stored[i] = stored[i] if stored[i] & _EXPONENT != _EXPONENT else np.uint32(0)


@kernel("void(float32[:, ::1], float64[::1], float32[::1])")
def _divide(rows, totals, norms):  # type: ignore[no-untyped-def]
    """Divide the planes interleaved in `rows` by the roots of their `totals`; `norms` is as long as a row."""
    ny, width = rows.shape
    planes = totals.size
    scalable = True
    for p in range(planes):
        # The norm is a float32 one: where the sum of squares overflows float32 the plane cannot be scaled.
        norm = np.float32(math.sqrt(totals[p]))
        if not (norm > 0.0 and math.isfinite(np.float32(totals[p]))):
            norm, scalable = np.float32(np.nan), False
        if planes == 1:
            norms[:] = norm  # in vectors, as with a step they are not
        else:
            for j in range(p, width, planes):
                norms[j] = norm
    for y in range(ny):
        for j in range(width):
            rows[y, j] /= norms[j]
    if not scalable:
        _zero_holes(rows.reshape(rows.size))


@kernel("boolean(float32[:, ::1], intp, float64[::1])")
def _sum_squares(rows, planes, sums):  # type: ignore[no-untyped-def]
    """Sum the squares of each plane interleaved in `rows`; False where one is not finite, as a pixel is not.

    `sums` is as long as a row; its first become those of the planes.
    """
    ny, width = rows.shape
    # One sum for each number of a row: with a single one, each addition would have to wait for the last.
    sums[:] = 0.0
    for y in range(ny):
        for j in range(width):
            sums[j] += np.float64(rows[y, j]) * np.float64(rows[y, j])
    finite = True
    for p in range(planes):
        total = 0.0
        for j in range(p, width, planes):
            total += sums[j]
        # It is of no more use once the total of its plane is known.
        sums[p] = total
        finite &= math.isfinite(total)
    return finite


@kernel("void(float32[:, ::1], intp, float64[::1], float32[::1])")
def _scale_l2(rows, planes, sums, norms):  # type: ignore[no-untyped-def]
    """Divide the planes interleaved in `rows` by their norms; `sums` and `norms` are as long as a row."""
    # Few cutouts have holes: the sum that each needs anyhow tells at no cost which do.
    if not _sum_squares(rows, planes, sums):
        _zero_holes(rows.reshape(rows.size))
        _sum_squares(rows, planes, sums)
    _divide(rows, sums[:planes], norms)


@kernel("void(float32[:, ::1], intp, float64[:, ::1], float32[::1])")
def _scale_l2_rows(rows, planes, totals, norms):  # type: ignore[no-untyped-def]
    """Divide each of the finite `rows`, planes interleaved in them, by its norm; `totals` has 4 rows, one a plane."""
    ny, width = rows.shape
    for y in range(0, ny, 4):
        # Four at a time: with one, each addition would have to wait for the last.
        second, third, fourth = min(y + 1, ny - 1), min(y + 2, ny - 1), min(y + 3, ny - 1)
        for p in range(planes):
            a = b = c = d = 0.0
            for j in range(p, width, planes):
                a += np.float64(rows[y, j]) * np.float64(rows[y, j])
                b += np.float64(rows[second, j]) * np.float64(rows[second, j])
                c += np.float64(rows[third, j]) * np.float64(rows[third, j])
                d += np.float64(rows[fourth, j]) * np.float64(rows[fourth, j])
            totals[0, p], totals[1, p], totals[2, p], totals[3, p] = a, b, c, d
        for k in range(min(4, ny - y)):
            _divide(rows[y + k : y + k + 1], totals[k], norms)


@kernel("void(float32[:, :, :, ::1], intp, float32, boolean)")
def _normalise(pixels, method, fill, fill_first):  # type: ignore[no-untyped-def]
    """Normalise float32 (n, ny, nx, planes) `pixels` where they are; see `Normalisation`."""
    n, ny, nx, planes = pixels.shape
    width = nx * planes
    sums, totals, norms = np.empty(width, np.float64), np.empty((4, planes), np.float64), np.empty(width, np.float32)
    plane, scaled, keys = np.empty(ny * nx, np.float32), np.empty(ny * nx, np.float32), np.empty(ny * nx, np.int32)
    for i in range(n):
        y0, y1, x0, x1 = inner_box(pixels[i])
        padded = y1 - y0 < ny or x1 - x0 < nx
        values, rows = pixels[i].reshape(ny * width), pixels[i].reshape(ny, width)
        if padded and fill_first:
            _fill_outside(pixels[i], y0, y1, x0, x1, fill)
        if method == ROBUST:
            for p in range(planes):
                for x in range(ny * nx):
                    plane[x] = values[x * planes + p]
                scale_robust(plane, scaled, keys)
                for x in range(ny * nx):
                    values[x * planes + p] = scaled[x]
        elif method == L2:
            _scale_l2(rows, planes, sums, norms)
        else:
            _zero_holes(values)
            if method == L2_ROWS:
                _scale_l2_rows(rows, planes, totals, norms)
        if padded and not fill_first:
            _fill_outside(pixels[i], y0, y1, x0, x1, fill)


@kernel("boolean(float32[::1], intp, intp)")
def _is_blank(values, plane, planes):  # type: ignore[no-untyped-def]
    i = plane
    while i < values.size and not math.isfinite(values[i]):
        i += planes
    if i >= values.size:
        return True
    first = values[i]
    while i < values.size and (values[i] == first or not math.isfinite(values[i])):
        i += planes
    return i >= values.size


@kernel("void(float32[:, :, :, ::1], boolean[::1])")
def _find_blank(pixels, blank):  # type: ignore[no-untyped-def]
    """Tell of each cutout whether one of its planes has no finite pixel or the same value everywhere."""
    n, ny, nx, planes = pixels.shape
    for i in range(n):
        blank[i] = False
        for p in range(planes):
            blank[i] |= _is_blank(pixels[i].reshape(ny * nx * planes), p, planes)


def as_kernels_take(pixels: npt.NDArray[Any]) -> Pixels:
    """Give pixels as float32, C-contiguous, aligned and writable: themselves where they are, else a copy."""
    return np.require(pixels, np.float32, ("C", "A", "W"))


def find_blank(pixels: Pixels) -> npt.NDArray[np.bool_]:
    """Tell which cutouts have a plane without a finite pixel, or with the same value everywhere.

    Parameters
    ----------
    pixels
        Raw pixels, float32 (n, ny, nx, planes).

    Returns
    -------
    ndarray
        Bool (n,).
    """
    blank = np.empty(len(pixels), np.bool_)
    _find_blank(as_kernels_take(pixels), blank)
    return blank
