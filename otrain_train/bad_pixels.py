"""Which pixels of an image are bad, as maps in its file and files beside it say, and zeros where it does not reach."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from astropy.io import fits
from scipy.ndimage import label

Bools = npt.NDArray[np.bool_]

ENDINGS = (".fits", ".fit", ".fts", ".fits.gz", ".fit.gz", ".fits.fz")
BESIDE = {".weight": "WEIGHT", "_weight": "WEIGHT", ".mask": "MASK", "_mask": "MASK"}
"""What follows the name of an image in that of a map beside it -> what kind of map it is."""
FLAGS, WEIGHTS = ("MASK", "BPM", "DQ"), ("WHT", "WEIGHT")
MAPS = (*FLAGS, *WEIGHTS, "ERR", "VAR", "IVAR", "RMS", "VAR_POISSON", "VAR_RNOISE", "VAR_FLAT", "CON")
"""Names of extensions that are about an image and none themselves."""
BLANK = 300
"""So many zeros that hang together and touch the border are where an image does not reach."""


def stem_of(path: Path) -> str:
    """Give the name of a file without its ending: ``night1`` for ``night1.fits.gz``."""
    lower = path.name.lower()
    ending = max((each for each in ENDINGS if lower.endswith(each)), key=len, default=path.suffix)
    return path.name[: len(path.name) - len(ending)]


def companions(path: Path) -> list[Path]:
    """List the files beside an image that go with it: maps of weights and of bad pixels, and its ``.psf``."""
    stem = stem_of(path)
    names = [f"{stem}{kind}{ending}" for kind in BESIDE for ending in ENDINGS]
    return [path.with_name(name) for name in (*names, f"{stem}.psf") if path.with_name(name).exists()]


def copy_companions(path: Path, folder: Path) -> None:
    """Copy what goes with an image into another folder."""
    for each in companions(path):
        shutil.copyfile(each, folder / each.name)


def bad_pixels(hdus: fits.HDUList, number: int, path: Path) -> Bools:
    """Say which pixels of an image its maps call bad.

    Parameters
    ----------
    hdus, number
        The open file, and the extension of the image. The maps that count are those between it and the next image; all
        of the file where it is the only one.
    path
        The file, beside which others may be.

    Returns
    -------
    ndarray
        bool (ny, nx).

    Raises
    ------
    ValueError
        When a map is not of the size of the image.
    """
    shape = hdus[number].shape
    bad = np.zeros(shape, np.bool_)
    images = [k for k, hdu in enumerate(hdus) if _is_plane(hdu) and hdu.name.upper() not in MAPS]
    after = min((k for k in images if k > number), default=len(hdus))
    telescope = str(hdus[0].header.get("TELESCOP", ""))
    for k in range(number + 1, after) if len(images) > 1 else range(len(hdus)):
        if k != number and _is_plane(hdus[k]) and hdus[k].name.upper() in (*FLAGS, *WEIGHTS):
            bad |= _read_map(hdus[k], hdus[k].name.upper(), shape, f"its extension {hdus[k].name}", telescope)
    for beside in companions(path):
        kind = next((BESIDE[end] for end in BESIDE if stem_of(beside).lower().endswith(end)), None)
        if kind:
            with fits.open(beside, memmap=False) as extra:
                plane = next((hdu for hdu in extra if _is_plane(hdu)), None)
                if plane is None:
                    raise ValueError(f"the map '{beside.name}' beside it holds no image")
                bad |= _read_map(plane, kind, shape, f"the map '{beside.name}' beside it", telescope)
    return bad


def _is_plane(hdu: Any) -> bool:
    return bool(hdu.is_image) and len(hdu.shape or ()) == 2


def _read_map(hdu: Any, kind: str, shape: tuple[int, ...], said: str, telescope: str) -> Bools:
    if hdu.shape != shape:
        raise ValueError(f"{said} has {hdu.shape[1]} x {hdu.shape[0]} pixels, and the image {shape[1]} x {shape[0]}")
    if kind in WEIGHTS:
        return np.asarray(~(hdu.data > 0))
    if kind == "DQ" and telescope.upper() == "JWST":
        return np.asarray((hdu.data.astype(np.int64) & 1) != 0)  # DO_NOT_USE; other bits tell of what is usable
    return np.asarray(hdu.data != 0)


def blank_border(pixels: npt.NDArray[np.float64]) -> Bools:
    """Say where an image does not reach: regions of zeros that touch the border, as resampling leaves them."""
    zeros = pixels == 0
    if zeros.sum() < BLANK:
        return np.zeros(pixels.shape, np.bool_)
    regions, _ = label(zeros)
    touching = np.unique(np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]]))
    large = np.flatnonzero(np.bincount(regions.ravel()) >= BLANK)
    return np.isin(regions, [each for each in touching if each and each in large])
