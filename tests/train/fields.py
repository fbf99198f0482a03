"""Small mock images of the sky, and what is known of them."""

from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from otrain_train.mock_images import SCIENCE_IMAGE, MockImageSettings, Optics, moffat

SIZE = 512
FIELD = MockImageSettings(n_pairs=1, size=SIZE, seed=3, stars=3000, defects=False)


def true_optics(settings: MockImageSettings, number: int = 0) -> Optics:
    """The point spread function of a science image, drawn anew as it was."""
    rng = np.random.default_rng([settings.seed, number, SCIENCE_IMAGE])
    return Optics(rng.uniform(3.0, 4.5), rng.uniform(1.0, 1.12), rng.uniform(0, np.pi), settings.variation)


def true_star(settings: MockImageSettings, y: float, x: float, top: int, left: int, shape: tuple[int, int]):
    """A point source of flux 1 as it truly looks on a stamp."""
    width, elongation, angle = (
        float(each[0]) for each in true_optics(settings).at(np.array([y]), np.array([x]), settings.size)
    )
    rows, columns = np.arange(top, top + shape[0])[:, None], np.arange(left, left + shape[1])
    return moffat(rows - y, columns - x, width, elongation, angle)


def simple_wcs(scale: float = 0.5, size: int = 128, ra: float = 150.0, dec: float = 2.0) -> WCS:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = "RA---TAN", "DEC--TAN"
    wcs.wcs.crval = ra, dec
    wcs.wcs.crpix = (size + 1) / 2, (size + 1) / 2
    wcs.wcs.cd = np.diag([-scale, scale]) / 3600
    return wcs


def write_image(path: Path, pixels, wcs: WCS | None = None, **keywords) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    hdu = fits.PrimaryHDU(np.asarray(pixels), wcs.to_header() if wcs else None)
    for key, value in keywords.items():
        hdu.header[key.replace("_", "-")] = value
    hdu.writeto(path, overwrite=True)
    return path
