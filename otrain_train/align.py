"""A reference image on the pixels of a science image: by their WCS (reproject), or by their stars (astroalign)."""

import logging
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from astropy.wcs import WCS

from otrain_infer.errors import SourceError
from otrain_train.images import SkyImage, quiet_fits

log = logging.getLogger("otrain.train")

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

METHODS = ("auto", "wcs", "stars", "none")
SAME = 0.01
"""Up to this distance positions are the same (pixels)."""
LEAST_OVERLAP = 0.05
"""Part of the science image that the reference must cover."""


@dataclass(frozen=True, slots=True, eq=False)
class Aligned:
    """A reference on the pixels of a science image.

    Attributes
    ----------
    pixels
        float64 (ny, nx) (ADU of the reference), 0 where masked.
    masked
        bool (ny, nx): pixels that it does not cover, and those that its masked ones have reached.
    """

    pixels: Floats
    masked: Bools


def align(reference: SkyImage, science: SkyImage, method: str = "auto") -> Aligned:
    """Put a reference on the pixels of a science image.

    Parameters
    ----------
    reference, science
        Both images.
    method
        ``wcs``; ``stars``, by patterns of three that both images show; ``none``, where they have the same pixels
        already; ``auto`` takes the WCS where both have one, and else the stars.

    Raises
    ------
    SourceError
        When an image lacks what the method needs, or they hardly overlap.
    """
    if method == "none":
        if reference.shape != science.shape:
            raise SourceError(
                f"'{reference.path}' has {_size(reference)} pixels and '{science.path}' has {_size(science)}: they are "
                "not aligned"
            )
        return Aligned(np.where(reference.masked, 0, reference.pixels), reference.masked.copy())
    if method == "wcs" or (method == "auto" and reference.wcs is not None and science.wcs is not None):
        aligned = _by_wcs(reference, science)
    else:
        aligned = _by_stars(reference, science)
    covered = 1 - aligned.masked.mean()
    if covered < LEAST_OVERLAP:
        raise SourceError(
            f"the reference '{reference.path}' covers {covered:.0%} of '{science.path}': is it of the same field?"
        )
    return aligned


def _size(image: SkyImage) -> str:
    return f"{image.shape[1]} x {image.shape[0]}"


def _by_wcs(reference: SkyImage, science: SkyImage) -> Aligned:
    for image in (reference, science):
        if image.wcs is None:
            raise SourceError(f"'{image.path}' has no WCS of the sky: say --align stars, or solve its astrometry")
    if reference.shape == science.shape and same_grid(reference.wcs, science.wcs, science.shape):
        return Aligned(np.where(reference.masked, 0, reference.pixels), reference.masked.copy())
    from reproject import reproject_interp

    filled = np.where(reference.masked, np.nan, reference.pixels)
    holes = reference.masked.astype(np.float64)
    with quiet_fits(), np.errstate(invalid="ignore"):
        smooth = np.where(reference.masked, np.median(reference.pixels[~reference.masked]), filled)
        pixels, footprint = reproject_interp(
            (smooth, reference.wcs), science.wcs, shape_out=science.shape, order="bicubic", roundtrip_coords=False
        )
        masked = ~(footprint > 0) | ~np.isfinite(pixels)
        if reference.masked.any():
            spread, _ = reproject_interp(
                (holes, reference.wcs), science.wcs, shape_out=science.shape, order="bilinear", roundtrip_coords=False
            )
            masked |= ~(spread < 0.01)
    return Aligned(np.where(masked, 0, pixels), masked)


def same_grid(one: WCS | None, other: WCS | None, shape: tuple[int, int]) -> bool:
    """Whether the pixels of two images are at the same positions of the sky."""
    if one is None or other is None:
        return False
    x, y = (each.ravel() for each in np.meshgrid(np.linspace(0, shape[1] - 1, 5), np.linspace(0, shape[0] - 1, 5)))
    try:
        there = np.array(other.all_world2pix(*one.all_pix2world(x, y, 0), 0))
    except Exception:  # noqa: BLE001 (positions that the other's distortion cannot reach)
        return False
    return bool(np.hypot(*(there - (x, y))).max() < SAME)


def _by_stars(reference: SkyImage, science: SkyImage) -> Aligned:
    import astroalign

    median = [float(np.median(image.pixels[~image.masked])) for image in (reference, science)]
    source = np.ma.array(np.where(reference.masked, median[0], reference.pixels), mask=reference.masked)
    target = np.ma.array(np.where(science.masked, median[1], science.pixels), mask=science.masked)
    try:
        transform, (matched, _) = astroalign.find_transform(source, target)
        pixels, beyond = astroalign.apply_transform(transform, source, target, propagate_mask=True)
    except Exception as error:  # noqa: BLE001 (SEP raises nothing narrower)
        said = str(error).strip().partition("\n")[0]
        raise SourceError(
            f"'{reference.path}' and '{science.path}' cannot be aligned by their stars ({said}): solve their "
            "astrometry, or say --align none if they have the same pixels"
        ) from None
    (dx, dy), angle = transform.translation, np.degrees(transform.rotation)
    log.info(
        "'%s' is aligned by %d stars: moved by %.1f, %.1f pixels, turned by %.2f degrees, scaled by %.4f",
        reference.path, len(matched), dx, dy, angle, transform.scale,
    )  # fmt: skip
    masked = np.asarray(beyond, np.bool_)
    return Aligned(np.where(masked, 0, np.ma.getdata(pixels)), masked)
