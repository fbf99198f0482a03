"""Candidates of any other pipeline: its catalogue, read by a mapping of columns."""

import difflib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from astropy.wcs import WCS

from otrain_infer.errors import SourceError, UsageError
from otrain_train.candidates_list import COLUMNS, LIST_NAME, Candidates, check_replaceable, from_table
from otrain_train.images import quiet_fits, read_image

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
        The images that all candidates are on; None where the catalogue names them, or there is none.
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
    the science image.

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
    found = _with_positions(_with_images(found, settings, folder), settings, folder, "Xpos" in columns)
    if not found.differences.any() and not found.images.any():
        raise SourceError(f"the catalogue '{catalogue}' names no image: name the one with --difference")
    found.write(folder / LIST_NAME)
    return found


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
    named = {name: np.full(len(found), _from(path, folder)) for name, path in given.items() if path is not None}
    return replace(found, **named)


def _from(path: Path, folder: Path) -> str:
    """Give a path as seen from a folder where it is in it, and whole where it is not."""
    whole = path.resolve()
    inside = folder.resolve()
    return str(whole.relative_to(inside)) if whole.is_relative_to(inside) else str(whole)


def _with_positions(found: Candidates, settings: CatalogueSettings, folder: Path, has_pixels: bool) -> Candidates:
    x, y = found.x + 1 - settings.first_pixel, found.y + 1 - settings.first_pixel
    ra, dec = found.ra.copy(), found.dec.copy()
    if has_pixels and np.isfinite(ra + dec).all():
        return replace(found, x=x, y=y)
    names: Texts = np.where(found.differences != "", found.differences, found.images)
    for name in np.unique(names).tolist():
        rows = names == name
        wcs = _wcs(folder / name) if name else None
        if wcs is None:
            continue
        if not has_pixels:
            x[rows], y[rows] = wcs.all_world2pix(ra[rows], dec[rows], 1, quiet=True)
        else:
            ra[rows], dec[rows] = wcs.all_pix2world(x[rows], y[rows], 1)
    if not np.isfinite(x + y).any():
        raise SourceError("the catalogue has RA and Dec alone, and no image of it has a WCS to tell the pixels by")
    return replace(found, x=x, y=y, ra=ra, dec=dec)


def _wcs(path: Path) -> WCS | None:
    return read_image(path).wcs
