"""Images of the sky from FITS files of any telescope: pixels, mask, WCS, and the few keywords that matter."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning
from astropy.wcs import WCS

from otrain_infer.errors import SourceError, UsageError
from otrain_train.bad_pixels import BESIDE, ENDINGS, MAPS, bad_pixels, blank_border, stem_of

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

COMPANIONS = (*BESIDE, ".psf", ".cat")
"""Ends of the names of files that go with an image and are none themselves."""

GAIN_KEYWORDS = ("EGAIN", "GAIN", "ARAWGAIN")
"""The first is e-/ADU wherever it stands; GAIN is a setting on many a small camera."""
SATURATION_KEYWORDS = ("SATURATE", "ESATUR", "SATLEVEL", "SATURATA")
FILTER_KEYWORDS = ("FILTER", "FILTERS", "BAND", "FILTNAM", "FILTER1")
SYSTEMS = ("SDSS", "SLOAN", "JOHNSON", "BESSEL", "BESSELL", "COUSINS", "PS1", "PANSTARRS", "2MASS", "DECAM")
"""What stands before the name of a filter and is none."""
SMALLEST = 64
"""Fewest pixels along an axis."""


@dataclass(frozen=True, slots=True)
class ImageSettings:
    """What a user says of images; None takes it from each header.

    Attributes
    ----------
    extension
        Name or number of the extension with the image; None for the only one, or the one called SCI.
    gain
        Electrons in a unit of the pixels (e-/ADU).
    saturation
        Pixels from this value on are masked (ADU).
    """

    extension: str | None = None
    gain: float | None = None
    saturation: float | None = None

    def __post_init__(self) -> None:
        if self.gain is not None and not self.gain > 0:
            raise UsageError(f"a gain of {self.gain:g} makes no sense: give electrons per ADU, more than 0")


@dataclass(frozen=True, slots=True, eq=False)
class SkyImage:
    """One image.

    Attributes
    ----------
    path, extension
        The file, and the number of its extension.
    pixels
        float64 (ny, nx) (ADU), native byte order; what is not finite is masked.
    masked
        bool (ny, nx): pixels that are not finite, saturated, or masked by a map of bad pixels or of weights.
    header
        That of the extension, with what only the primary header says.
    wcs
        None where the header has none for the sky.
    gain
        Electrons per ADU; None if unknown.
    saturation
        Highest value that a pixel can take (ADU); infinite if unknown.
    """

    path: Path
    extension: int
    pixels: Floats
    masked: Bools
    header: fits.Header
    wcs: WCS | None
    gain: float | None
    saturation: float

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx) (pixels)."""
        ny, nx = self.pixels.shape
        return ny, nx

    @property
    def band(self) -> str:
        """The filter, the first word that is no photometric system; empty where no keyword says it."""
        words = str(next(_held(self.header, FILTER_KEYWORDS), "")).split()
        return next((word for word in words if word.upper() not in SYSTEMS), words[0] if words else "")

    @property
    def mjd(self) -> float:
        """Modified Julian date of the beginning (days), NaN where no keyword says it."""
        return mjd_of(self.header)

    def zero_point(self, given: float | str) -> float:
        """Give the magnitude of 1 ADU: the number itself, or what a keyword of the header says.

        Raises
        ------
        SourceError
            When the header does not say it.
        """
        if not isinstance(given, str):
            return given
        try:
            return float(self.header[given])
        except (KeyError, TypeError, ValueError):
            raise SourceError(f"'{self.path}' has no number under the keyword {given}, which --ZP names") from None

    def sky_position(self, y: npt.ArrayLike, x: npt.ArrayLike) -> tuple[Floats, Floats]:
        """Give RA and Dec (degrees) of positions (pixels, the first being 0), NaN without a WCS."""
        y, x = np.atleast_1d(y).astype(float), np.atleast_1d(x).astype(float)
        if self.wcs is None:
            return np.full(len(x), np.nan), np.full(len(x), np.nan)
        ra, dec = self.wcs.all_pix2world(x, y, 0)
        return np.asarray(ra, np.float64), np.asarray(dec, np.float64)

    def pixel_scale(self) -> float:
        """Width of a pixel in the middle (arcseconds), NaN without a WCS."""
        if self.wcs is None:
            return float("nan")
        from astropy.wcs.utils import proj_plane_pixel_area

        return float(np.sqrt(proj_plane_pixel_area(self.wcs)) * 3600)


def find_images(folder: Path) -> list[Path]:
    """List the images right inside a folder, in order of their names.

    Raises
    ------
    SourceError
        When the folder cannot be read, or holds none.
    """
    try:
        entries = sorted(entry for entry in folder.iterdir() if entry.is_file())
    except OSError as error:
        raise SourceError(f"the folder '{folder}' cannot be read ({error.strerror or error})") from None
    images = [entry for entry in entries if entry.name.lower().endswith(ENDINGS) and not is_companion(entry)]
    stems = [stem_of(image) for image in images]
    twice = sorted({stem for stem in stems if stems.count(stem) > 1})
    if twice:
        raise SourceError(f"'{folder}' holds two images called {twice[0]}, with other endings: rename one")
    if not images:
        inside = sorted(each.name for each in folder.iterdir() if each.is_dir())
        below = f"; each folder of images is given alone, and there are {', '.join(inside[:4])}" if inside else ""
        raise SourceError(
            f"there is no image in the folder '{folder}' itself: names of images end in {' '.join(ENDINGS)}{below}"
        )
    return images


def has_keyword(path: Path, keyword: str) -> bool:
    """Whether a file is a FITS file with a keyword in one of its headers."""
    try:
        with quiet_fits(), fits.open(path, memmap=True) as hdus:
            return any(keyword in hdu.header for hdu in hdus)
    except (OSError, ValueError, TypeError):
        return False


def is_companion(path: Path) -> bool:
    """Whether a file only goes with an image, such as its map of weights."""
    return stem_of(path).lower().endswith(COMPANIONS)


@contextmanager
def quiet_fits() -> Iterator[None]:
    """Keep astropy from warning of what is odd but of no consequence in the headers of others."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)
        yield


def read_image(path: Path, settings: ImageSettings | None = None) -> SkyImage:
    """Read an image and what goes with it.

    Masked are pixels that are not finite or are saturated, regions of zeros at the border, and pixels that a map in the
    same file (extensions MASK, BPM, DQ, WHT, WEIGHT) or beside it (``NAME.weight.fits``, ``NAME.mask.fits``) calls bad.

    Raises
    ------
    SourceError
        When the file cannot be read, has no image or several, or its image has nothing usable.
    """
    settings = settings or ImageSettings()
    try:
        with quiet_fits(), fits.open(path, memmap=False) as hdus:
            number = choose_image(hdus, settings.extension, path)
            header = whole_header(hdus, number)
            raw = hdus[number].data
            pixels = np.array(raw, np.float64)
            masked = ~np.isfinite(pixels) | bad_pixels(hdus, number, path) | blank_border(pixels)
            wcs = _celestial(hdus[number].header if "CTYPE1" in hdus[number].header else header)
    except SourceError:
        raise
    except (OSError, ValueError, TypeError, IndexError, KeyError, fits.VerifyError) as error:
        said = str(error).strip().partition("\n")[0]
        raise SourceError(f"the image '{path}' cannot be read ({said or type(error).__name__})") from None
    if min(pixels.shape) < SMALLEST:
        raise SourceError(
            f"the image '{path}' has {pixels.shape[1]} x {pixels.shape[0]} pixels: too small to work with"
        )
    saturation = settings.saturation or _number(header, SATURATION_KEYWORDS)
    if saturation is None:
        saturation = float(np.iinfo(raw.dtype).max) if raw.dtype.kind in "iu" else np.inf
    masked |= pixels >= saturation
    if masked.mean() > 0.95:
        raise SourceError(f"the image '{path}' has nothing usable: {masked.mean():.0%} of its pixels are masked")
    gain = settings.gain or _number(header, GAIN_KEYWORDS)
    return SkyImage(path, number, pixels, masked, header, wcs, gain, saturation)


def choose_image(hdus: fits.HDUList, wanted: str | None, path: Path) -> int:
    """Give the number of the extension with the image: the one asked for, the one called SCI, or the only one.

    Raises
    ------
    SourceError
        When there is none, or several.
    """
    held = [k for k, hdu in enumerate(hdus) if hdu.is_image and len(hdu.shape or ()) == 2]
    named = ", ".join(f"{k} {hdus[k].name}".strip() for k in held)
    if wanted is not None:
        for k in held:
            if wanted == str(k) or wanted.upper() == hdus[k].name.upper():
                return k
        raise SourceError(f"the file '{path}' has no image called '{wanted}' (it has: {named or 'none'})")
    science = [k for k in held if hdus[k].name.upper() in ("SCI", "SCIENCE")]
    plain = [k for k in held if hdus[k].name.upper() not in MAPS]
    for found in (science, plain):
        if len(found) == 1:
            return found[0]
    if not held:
        raise SourceError(f"the file '{path}' holds no image of two dimensions")
    raise SourceError(f"the file '{path}' holds several images ({named}): name one with --extension")


def whole_header(hdus: fits.HDUList, number: int) -> fits.Header:
    """Give the header of an extension, with what only the primary one says."""
    header = hdus[number].header.copy()
    if number:
        header.extend(hdus[0].header.copy(), unique=True, update=False, strip=True)
    return header


def _celestial(header: fits.Header) -> WCS | None:
    wcs = WCS(header)
    if not wcs.has_celestial or wcs.naxis != 2:
        return None
    return wcs


def mjd_of(header: fits.Header) -> float:
    """Give the modified Julian date of the beginning (days) by MJD-OBS, MJD or DATE-OBS, NaN where none says it."""
    from astropy.time import Time

    try:
        said = next(_held(header, ("MJD-OBS", "MJD")), None)
        return float(said) if said is not None else float(Time(str(header["DATE-OBS"])).mjd)
    except (KeyError, TypeError, ValueError):
        return float("nan")


def _held(header: fits.Header, keywords: tuple[str, ...]) -> Iterator[Any]:
    return (header[key] for key in keywords if key in header and header[key] not in ("", None))


def _number(header: fits.Header, keywords: tuple[str, ...]) -> float | None:
    for held in _held(header, keywords):
        try:
            value = float(held)
        except (TypeError, ValueError):
            continue
        if np.isfinite(value) and value > 0:
            return value
    return None
