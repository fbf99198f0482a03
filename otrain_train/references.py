"""Which reference belongs to an image: the only one, that of its name, or that which covers it in its filter."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.wcs import WCS

from otrain_infer.errors import SourceError
from otrain_train.bad_pixels import stem_of
from otrain_train.images import ImageSettings, SkyImage, find_images, read_image


class References:
    """The references that there are, and which of them is that of an image."""

    def __init__(self, path: Path, settings: ImageSettings) -> None:
        if not path.exists():
            raise SourceError(f"there is no reference '{path}'")
        self._path = path
        self._settings = settings
        self._files = find_images(path) if path.is_dir() else [path]
        self._known: dict[Path, SkyImage] = {}
        self._fields: dict[Path, _Field | None] = {}

    def of(self, image: SkyImage) -> SkyImage:
        """Give the reference of an image.

        Raises
        ------
        SourceError
            When there is none.
        """
        if len(self._files) == 1 and not self._path.is_dir():
            return self._read(self._files[0])
        named = [file for file in self._files if stem_of(file) == stem_of(image.path)]
        if named:
            return self._read(named[0])
        shares = {file: self._share(file, image) for file in self._files}
        best = max(shares, key=lambda file: shares[file])
        if shares[best] <= 0:
            raise SourceError(
                f"no reference in '{self._path}' has the name of '{image.path}' or covers it in the filter "
                f"'{image.band}'"
            )
        return self._read(best)

    def _read(self, path: Path) -> SkyImage:
        if path not in self._known:
            self._known = {path: read_image(path, self._settings)}  # the last one only: images are large
        return self._known[path]

    def _field(self, path: Path) -> "_Field | None":
        if path not in self._fields:
            try:
                image = self._read(path)
            except SourceError:
                self._fields[path] = None
            else:
                self._fields[path] = None if image.wcs is None else _Field(image.wcs, image.shape, image.band)
        return self._fields[path]

    def _share(self, path: Path, image: SkyImage) -> float:
        reference = self._field(path)
        if reference is None or image.wcs is None or (reference.band and reference.band != image.band):
            return 0.0
        grid = np.meshgrid(np.linspace(0, image.shape[0] - 1, 20), np.linspace(0, image.shape[1] - 1, 20))
        ra, dec = image.sky_position(grid[0].ravel(), grid[1].ravel())
        try:
            x, y = reference.wcs.all_world2pix(ra, dec, 0)
        except Exception:  # noqa: BLE001 (positions that the distortion of the reference cannot reach)
            return 0.0
        return float(np.mean((x >= 0) & (y >= 0) & (x < reference.shape[1]) & (y < reference.shape[0])))


@dataclass(frozen=True, slots=True, eq=False)
class _Field:
    """What part of the sky an image shows, and in which filter."""

    wcs: WCS
    shape: tuple[int, int]
    band: str
