"""Candidates of any other pipeline: its catalogue, read by a mapping of columns."""

import difflib
import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from otrain_infer.errors import SourceError, UsageError
from otrain_train.candidates_list import COLUMNS, LIST_NAME, Candidates, check_replaceable, from_table
from otrain_train.images import SkyImage, quiet_fits, read_image

log = logging.getLogger(__name__)

Texts = npt.NDArray[np.str_]

USUAL = {
    "RA": ("RA", "ALPHA_J2000", "ra", "RAJ2000", "_RAJ2000", "ra_deg", "RA_ICRS", "X_WORLD"),
    "Dec": ("Dec", "DEC", "DELTA_J2000", "dec", "DEJ2000", "_DEJ2000", "dec_deg", "DE_ICRS", "Y_WORLD"),
    "Xpos": ("Xpos", "XPOS", "XWIN_IMAGE", "X_IMAGE", "x", "xpos", "X"),
    "Ypos": ("Ypos", "YPOS", "YWIN_IMAGE", "Y_IMAGE", "y", "ypos", "Y"),
    "ID": ("ID", "CANDID", "candid", "NUMBER", "id", "objectId"),
    "mag": ("mag", "mag_calib", "MAG", "MAG_AUTO", "MAG_APER", "magpsf"),
    "magerr": ("magerr", "mag_calib_err", "MAGERR", "MAGERR_AUTO", "MAGERR_APER", "sigmapsf"),
    "FWHM": ("FWHM", "FWHM_IMAGE", "fwhm"),
    "FWHMPSF": ("FWHMPSF", "fwhm_psf", "seeing"),
    "Band": ("Band", "FILTER", "filter", "band", "filter_cat"),
    "edge": ("edge", "EDGE"),
    "filename": ("filename", "filenames"),
    "OriginalIma": ("OriginalIma", "FILE"),
    "RefIma": ("RefIma",),
    "SNR": ("SNR", "SNR_WIN", "snr", "scorr"),
    "sign": ("sign",),
}
"""Column of a list of candidates -> names that it goes by elsewhere, the likeliest first."""


@dataclass(frozen=True, slots=True)
class CatalogueSettings:
    """How the catalogue of another pipeline is to be read.

    Attributes
    ----------
    columns
        Column of a list of candidates -> column of the catalogue; those not named are sought under usual names.
    difference, image, reference
        The images that all candidates are on, as seen from here or from the folder of the list; None where the
        catalogue names them, or there is none.
    first_pixel
        What the catalogue calls the first pixel: 1 as FITS does, or 0.
    """

    columns: dict[str, str] = field(default_factory=dict)
    difference: Path | None = None
    image: Path | None = None
    reference: Path | None = None
    first_pixel: int = 1

    def __post_init__(self) -> None:
        for name in self.columns:
            if name not in COLUMNS.values():
                near = difflib.get_close_matches(name, COLUMNS.values(), n=1)
                meant = f": is {near[0]} meant?" if near else f" (they are {' '.join(COLUMNS.values())})"
                raise UsageError(f"a list of candidates has no column {name}{meant}")


def import_catalogue(catalogue: Path, folder: Path, settings: CatalogueSettings | None = None) -> Candidates:
    """Write the candidates of another pipeline as ``candidates_list.dat`` into a folder.

    Positions that the catalogue lacks, in the sky or in pixels, follow from the WCS of the difference image, or else of
    the science image, and so does the filter.

    Parameters
    ----------
    catalogue
        A table of any format that astropy knows, FITS_LDAC of Source Extractor among them.
    folder
        Receives the list.
    settings
        How it is to be read.

    Returns
    -------
    Candidates

    Raises
    ------
    SourceError
        When the catalogue or an image cannot be read, or lacks what is needed.
    OutputError
        When the list cannot be written.
    """
    settings = settings or CatalogueSettings()
    check_replaceable(folder / LIST_NAME)
    columns = _columns(_read(catalogue), settings.columns, catalogue)
    found = from_table(columns, f"the catalogue '{catalogue}'")
    found = _with_images(_with_ids(found, settings, catalogue), settings, folder)
    if len(found) and not found.differences.any() and not found.images.any():
        raise SourceError(f"the catalogue '{catalogue}' names no image: name the one with --difference")
    if len(found):
        found = _with_what_images_say(found, settings, folder, "Xpos" in columns)
    found.write(folder / LIST_NAME)
    return found


def _with_ids(found: Candidates, settings: CatalogueSettings, path: Path) -> Candidates:
    """See to it that no two candidates share their identifier, as where the numbers begin anew with each image."""
    if len(np.unique(found.ids)) == len(found):
        return found
    if "ID" in settings.columns:
        raise SourceError(
            f"two candidates of the catalogue '{path}' have the same {settings.columns['ID']}: each its own"
        )
    log.warning("candidates of the catalogue '%s' share identifiers: they are numbered anew", path)
    return replace(found, ids=np.arange(len(found)).astype(str))


def _read(path: Path) -> Any:
    from astropy.io import fits
    from astropy.io.ascii import InconsistentTableError
    from astropy.io.registry import IORegistryError
    from astropy.table import Table, vstack

    try:
        with quiet_fits():
            if path.name.lower().endswith((".fits", ".fit", ".cat", ".ldac", ".fits.gz")) and _is_fits(path):
                with fits.open(path, memmap=False) as hdus:
                    tables = [hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU) and hdu.name != "LDAC_IMHEAD"]
                    return vstack([Table(hdu.data) for hdu in tables], metadata_conflicts="silent")
            try:
                return Table.read(path)
            except IORegistryError:  # nothing in its name says what it is
                return Table.read(path, format="ascii")
    except (OSError, ValueError, TypeError, IndexError, InconsistentTableError) as error:
        said = str(error).strip().partition("\n")[0]
        raise SourceError(f"the catalogue '{path}' cannot be read ({said})") from None


def _is_fits(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) in (b"SI", b"\x1f\x8b")


def _columns(table: Any, given: dict[str, str], path: Path) -> dict[str, Any]:
    columns = {}
    for name in COLUMNS.values():
        if name in given:
            if given[name] not in table.colnames:
                near = difflib.get_close_matches(given[name], table.colnames, n=1)
                meant = f": is {near[0]} meant?" if near else f" (it has: {' '.join(table.colnames)})"
                raise SourceError(f"the catalogue '{path}' has no column {given[name]}{meant}")
            columns[name] = table[given[name]]
        else:
            usual = next((each for each in USUAL[name] if each in table.colnames), None)
            if usual is not None:
                columns[name] = table[usual]
    return {name: column for name, column in columns.items() if np.ndim(column) == 1}


def _with_images(found: Candidates, settings: CatalogueSettings, folder: Path) -> Candidates:
    given = {"differences": settings.difference, "images": settings.image, "references": settings.reference}
    paths = {name: _there(path, folder) for name, path in given.items() if path is not None}
    sizes = {str(path): read_image(path).shape for path in paths.values()}
    if len(set(sizes.values())) > 1:
        said = ", ".join(f"'{name}' {nx} x {ny}" for name, (ny, nx) in sizes.items())
        raise SourceError(f"the images are not of the same pixels ({said})")
    return replace(found, **{name: np.full(len(found), _from(path, folder)) for name, path in paths.items()})


def _there(path: Path, folder: Path) -> Path:
    try:
        return next(each for each in (path, folder / path) if each.exists())
    except StopIteration:
        raise SourceError(f"there is no image '{path}', neither here nor in '{folder}'") from None


def _from(path: Path, folder: Path) -> str:
    """Give a path as seen from a folder where it is in it, and whole where it is not."""
    whole = path.resolve()
    inside = folder.resolve()
    return str(whole.relative_to(inside)) if whole.is_relative_to(inside) else str(whole)


def _with_what_images_say(found: Candidates, settings: CatalogueSettings, folder: Path, has_pixels: bool) -> Candidates:
    x, y = found.x + 1 - settings.first_pixel, found.y + 1 - settings.first_pixel
    ra, dec, bands = found.ra.copy(), found.dec.copy(), found.bands.astype(object)
    names: Texts = np.where(found.differences != "", found.differences, found.images)
    solved, outside = False, 0
    for name in np.unique(names[names != ""]).tolist():
        rows = np.flatnonzero(names == name)
        if has_pixels and np.isfinite(ra[rows] + dec[rows]).all() and (bands[rows] != "").all():
            continue
        image = read_image(folder / name)
        bands[rows[bands[rows] == ""]] = image.band
        if image.wcs is not None:
            solved = True
            if not has_pixels:
                x[rows], y[rows] = image.wcs.all_world2pix(ra[rows], dec[rows], 1, quiet=True)
            lost = rows[~np.isfinite(ra[rows] + dec[rows])]
            ra[lost], dec[lost] = image.wcs.all_pix2world(x[lost], y[lost], 1)
        outside += _outside(x[rows], y[rows], image)
    if not np.isfinite(x + y).any():
        raise SourceError(
            "the catalogue has RA and Dec alone, and "
            + (
                "none of them is in its image: are both in degrees?"
                if solved
                else "no image of it has a WCS to tell the pixels by"
            )
        )
    if outside:
        log.warning("%d of %d candidates lie outside of their image, or nowhere", outside, len(found))
    return replace(found, x=x, y=y, ra=ra, dec=dec, bands=bands.astype(np.str_))


def _outside(x: Any, y: Any, image: SkyImage) -> int:
    ny, nx = image.shape
    return int(np.count_nonzero(~((x >= 0.5) & (y >= 0.5) & (x <= nx + 0.5) & (y <= ny + 0.5))))
