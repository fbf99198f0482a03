"""Stamps: the FITS files within packets, one for each plane, become the pixels of cutouts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from otrain_infer import fits, fits_kernels
from otrain_infer.file_kernels import GZIP_MAGIC
from otrain_infer.flags import UNUSABLE, CutoutFlag
from otrain_infer.sources import UNREADABLE, Buffer

LARGEST_STAMP = 1 << 24
"""A stamp of more bytes than this, inflated, is none."""

AT_ONCE = 16
"""Stamps inflated before they are decoded: more do not stay in the nearest caches."""

_MISSING_PLANE = int(CutoutFlag.MISSING_PLANE)

Data = npt.NDArray[np.uint8]
Bounds = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Stamps:
    """What became of the stamps of n packets.

    Attributes
    ----------
    flags
        `CutoutFlag`, uint32 (n,), of all planes together.
    shapes
        (ny, nx) of each plane, int32 (n, planes, 2) (pixels); 0 where there is none.
    reasons
        By row, one sentence for each unusable row.
    """

    flags: npt.NDArray[np.uint32]
    shapes: npt.NDArray[np.int32]
    reasons: dict[int, str]


def decode_stamps(
    stamps: Sequence[tuple[Data, Bounds]],
    planes: Sequence[str],
    positions: npt.NDArray[np.float64],
    side: str,
    pixels: npt.NDArray[np.float32],
    buffer: Buffer,
) -> Stamps:
    """Decode the stamps of n packets.

    Parameters
    ----------
    stamps
        For each plane the bytes, uint8 (m,), and within them [start, stop) of each packet's stamp, int64 (n, 2); empty
        where it has none. A stamp is a FITS file, gzipped or not, of which the first image counts.
    planes
        The name of each.
    positions
        (y, x) of each candidate in its image, float64 (n, 2) (pixels); NaN where it is not known.
    side
        Where padding goes, as of `fits.Wanted`.
    pixels
        Where to put the pixels, float32 (n, ny, nx, planes); rows that are unusable become NaN.
    buffer
        Where to inflate; what it held is overwritten.
    """
    n, ny, nx, _ = pixels.shape
    flags, shapes = np.zeros(n, np.uint32), np.zeros((n, len(planes), 2), np.int32)
    reasons: dict[int, str] = {}
    apart = np.empty((len(planes), n, ny, nx), np.float32)
    for p, (plane, (data, bounds)) in enumerate(zip(planes, stamps, strict=True)):
        decoder = fits.Decoder(
            fits.Wanted((plane,), (ny, nx), side=side, first_image=True), n, apart[p, ..., None], positions
        )
        damaged: dict[int, str] = {}
        for start in range(0, n, AT_ONCE):
            decoder.decode(*_inflate(data, bounds[start : start + AT_ONCE], buffer, start, damaged))
        decoded, missing = decoder.result(), bounds[:, 0] == bounds[:, 1]
        flags |= np.where(missing, np.uint32(_MISSING_PLANE), decoded.flags)
        shapes[:, p] = decoded.shapes
        lacking = dict.fromkeys(np.flatnonzero(missing).tolist(), f"it has no stamp of the plane {plane}")
        told = {row: f"its stamp of the plane {plane}: {why}" for row, why in (decoded.reasons | damaged).items()}
        reasons = told | lacking | reasons
    fits_kernels.interleave(apart, pixels)
    pixels[(flags & UNUSABLE) != 0] = np.nan
    return Stamps(flags, shapes, reasons)


def _inflate(data: Data, bounds: Bounds, buffer: Buffer, first: int, damaged: dict[int, str]) -> tuple[Data, Bounds]:
    """Put stamps into the buffer, inflated; tell in `damaged` what is the matter with those that cannot be."""
    buffer.clear()
    places = []
    for row, (start, stop) in enumerate(bounds.tolist(), first):
        begin, content = buffer.stop, data.data[start:stop]
        try:
            buffer.append(fits.inflate(content, LARGEST_STAMP) if content[:2] == GZIP_MAGIC else content)
        except UNREADABLE as error:
            damaged[row] = str(error)
        places.append((begin, buffer.stop))
    return buffer.data, np.array(places, np.int64)
