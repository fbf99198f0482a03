"""Cutouts written as FITS files."""

import numpy as np
from astropy.io import fits

HEADER = {
    "CANDID": "7_1",
    "MAG": 18.5,
    "MAGERR": 0.05,
    "FILTER": "r",
    "FWHM": 3.1,
    "EDGE": "False",
    "XPOS": 500.0,
    "YPOS": 400.0,
    "RA": 10.5,
    "DEC": -3.25,
    "FILE": "night1.fits",
    "FWHMPSF": 3.0,
    "MJD": 60000.25,
}


def draw(seed: int, shape=(64, 64)) -> np.ndarray:
    """A star on noise."""
    rng = np.random.default_rng(seed)
    y, x = np.indices(shape)
    star = rng.uniform(5, 50) * np.exp(-((y - shape[0] // 2) ** 2 + (x - shape[1] // 2) ** 2) / 8)
    return (rng.normal(size=shape) + star).astype(np.float32)


def write_cutout(path, seed=0, shape=(64, 64), **header):
    cards = {**HEADER, "CANDID": f"7_{seed}", **header}
    fits.PrimaryHDU(draw(seed, shape), fits.Header({k: v for k, v in cards.items() if v is not None})).writeto(path)
    return str(path)
