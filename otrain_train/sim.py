"""What ``otrain-sim`` does: point sources inserted into copies of images, looking like the stars of each."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from astropy.io import fits
from scipy.ndimage import distance_transform_edt
from scipy.spatial import cKDTree

from otrain_infer.atomic import replacing
from otrain_infer.errors import OutputError, SourceError, UsageError
from otrain_train.bad_pixels import ENDINGS, copy_companions
from otrain_train.candidates_list import LIST_NAME as CANDIDATES_NAME
from otrain_train.candidates_list import check_replaceable
from otrain_train.images import (
    ImageSettings,
    SkyImage,
    find_images,
    has_keyword,
    is_companion,
    quiet_fits,
    read_image,
)
from otrain_train.photometry import Sky, Sources, common_radius, find_sources, find_stars, subtract_sky
from otrain_train.psf import PointSpread, measure_psf, psf_beside, read_psf
from otrain_train.simulated_objects import LIST_NAME, SimulatedObjects, check_own

log = logging.getLogger("otrain.train")

Floats = npt.NDArray[np.float64]

FOLDER = "simulation"
KEYWORD = "OTRAINSI"
"""In the header of a copy: how many sources were inserted."""

DETECTED = 5.0
"""Significance from which sources are found when a point spread function is measured."""
BORDER = 16
"""Sources are inserted no nearer to a border than this (pixels), and no nearer than `CLEAR`."""
CLEAR = 2.0
"""Distance to a masked pixel or a border (FWHM)."""
APART = 8.0
"""Distance between two sources that are inserted (FWHM)."""
TRIES = 10
"""Draws of positions in vain after which there is no more room."""
GALAXY = 1.4
"""Radius of a galaxy over that of a star, at the least."""
GALAXY_PEAK = 8.0
"""Peak of a galaxy in units of the noise, at the least."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class SimSettings:
    """What is inserted. Impossible values raise UsageError.

    Attributes
    ----------
    n_sources
        How many in each image.
    mag_range
        Brightest and faintest; between them, all magnitudes are equally frequent.
    zero_point
        Magnitude of 1 ADU: a number, or the keyword of each header that says it.
    psf
        A file with the point spread function of all images; None measures that of each, unless ``NAME.psf`` is there.
    near_galaxies
        Whether sources are put where galaxies are, as supernovae are.
    negative
        Part of the sources that are taken away from the image rather than added, as what has faded is.
    seed
        The same seed inserts the same sources, whatever other images there are.
    images
        What a user says of the images; without a gain there is no Poisson noise.
    """

    n_sources: int = 100
    mag_range: tuple[float, float] = (14.0, 23.0)
    zero_point: float | str = 30.0
    psf: Path | None = None
    near_galaxies: bool = False
    negative: float = 0.0
    seed: int = 0
    images: ImageSettings = field(default_factory=ImageSettings)

    def __post_init__(self) -> None:
        if self.n_sources < 1:
            raise UsageError(f"{self.n_sources} sources make no sense: insert 1 or more")
        if not (np.isfinite(self.mag_range).all() and self.mag_range[0] <= self.mag_range[1]):
            raise UsageError("magrange is the brightest magnitude and then the faintest, such as 14 23")
        if not 0 <= self.negative <= 1:
            raise UsageError(f"a fraction of negative sources of {self.negative:g} makes no sense: give 0 to 1")
        if self.seed < 0:
            raise UsageError(f"the seed is {self.seed}: give 0 or more")


@dataclass(frozen=True, slots=True)
class SimulatedImage:
    """What was inserted into one image: how many sources, its FWHM (pixels), and the magnitude of 5 sigma."""

    name: str
    sources: int
    fwhm: float
    limit: float


@dataclass(frozen=True, slots=True)
class SimSummary:
    """What a run has inserted.

    Attributes
    ----------
    path
        The list of the sources.
    images
        What was inserted into each image.
    failures
        Sentences on images that were left out.
    settings
        What was asked for.
    """

    path: Path
    images: tuple[SimulatedImage, ...]
    failures: tuple[str, ...]
    settings: SimSettings

    def __str__(self) -> str:
        lines = [f"{self.path}: {sum(each.sources for each in self.images)} sources in {len(self.images)} image(s)"]
        for each in self.images:
            lines.append(
                f"{each.name}: {each.sources} sources, FWHM {each.fwhm:.2f} pixels, 5 sigma at {each.limit:.1f} mag"
            )
        lines += [f"left out: {failure}" for failure in self.failures]
        limits = [each.limit for each in self.images]
        brightest, faintest = self.settings.mag_range
        if limits and (max(limits) < brightest or min(limits) > faintest):
            where = "brighter" if min(limits) > faintest else "fainter"
            lines.append(
                f"every source is {where} than what is just found: with --ZP as given, a --magrange about "
                f"{np.median(limits):.0f} tells where the detection ends"
            )
        return "\n".join(lines)


def simulate(
    folder: Path, results: Path | None = None, settings: SimSettings | None = None, progress: Progress | None = None
) -> SimSummary:
    """Insert point sources into copies of the images of a folder.

    Parameters
    ----------
    folder
        Holds the images, which are not touched.
    results
        Receives the copies, under the same names, and ``simulated_objects.list``; ``simulation`` in `folder` if not
        given. Files of an earlier run are replaced.
    settings
        What is inserted.
    progress
        Called with the number of images done and of all.

    Returns
    -------
    SimSummary
        As text, what a person wants to know.

    Raises
    ------
    SourceError
        When there is no image, or none that sources can be inserted into.
    OutputError
        When a copy cannot be written, or would replace its original.
    """
    settings = settings or SimSettings()
    results = results or folder / FOLDER
    paths = find_images(folder)
    if results.exists() and results.samefile(folder):
        raise OutputError(f"'{results}' holds the images themselves: copies go to another folder, see --results")
    _remove_earlier(results, paths)
    failures: list[str] = []
    counts: list[SimulatedImage] = []
    inserted: list[SimulatedObjects] = []
    try:
        for done, path in enumerate(paths):
            try:
                objects, count = _simulate_one(path, results, settings)
            except SourceError as error:
                failures.append(str(error))
            else:
                counts.append(count)
                inserted.append(objects)
            if progress:
                progress(done + 1, len(paths))
    finally:
        # Whatever ends the run: no copy without its sources in the list.
        if inserted:
            SimulatedObjects.numbered(inserted).write(results / LIST_NAME)
    if not inserted:
        raise SourceError(failures[0] if len(failures) == 1 else f"no image could be used; the first: {failures[0]}")
    return SimSummary(results / LIST_NAME, tuple(counts), tuple(failures), settings)


def _remove_earlier(results: Path, paths: list[Path]) -> None:
    """Remove the copies of an earlier run, and refuse a folder that holds any other image.

    What would be replaced might be somebody's image, and what would stay has sources that no list tells of. What was
    detected on the copies of an earlier run goes with them.
    """
    if not results.is_dir():
        return
    check_own(results / LIST_NAME)
    check_replaceable(results / CANDIDATES_NAME)
    images = [entry for entry in sorted(results.iterdir()) if entry.name.lower().endswith(ENDINGS)]
    names = {path.name for path in paths}
    copies = [entry for entry in images if not is_companion(entry)]
    for entry in copies:
        if entry.is_symlink() or any(entry.samefile(path) for path in paths) or not has_keyword(entry, KEYWORD):
            raise OutputError(
                f"'{entry}' is no copy that otrain-sim has written: name a folder for the copies alone with --results"
            )
        if entry.name not in names:
            raise OutputError(
                f"'{entry}' is a copy of an image that is not among these, and its sources would be in no list: name "
                "another folder with --results, or remove it"
            )
    try:
        for entry in (results / CANDIDATES_NAME, *copies, results / LIST_NAME):
            entry.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"'{results}' cannot be written to ({error.strerror or error})") from error


def _simulate_one(path: Path, results: Path, settings: SimSettings) -> tuple[SimulatedObjects, SimulatedImage]:
    image = read_image(path, settings.images)
    if KEYWORD in image.header:
        raise SourceError(f"'{path}' is a copy that sources were inserted into already: begin from its original")
    if image.gain is None:
        raise SourceError(f"'{path}' does not say its gain (GAIN, EGAIN): give --gain in e-/ADU, or inf for no noise")
    zero_point = image.zero_point(settings.zero_point)
    sky = subtract_sky(image.pixels, image.masked)
    sources = find_sources(sky, DETECTED)
    psf = _psf_of(image, sky, sources, settings.psf)
    rng = np.random.default_rng([settings.seed, *path.name.encode()])
    positions = _positions(image, sky, sources, psf, settings, rng)
    mags = rng.uniform(*settings.mag_range, len(positions))
    signs = np.where(rng.random(len(positions)) < settings.negative, -1.0, 1.0)
    fluxes = signs * 10 ** (-0.4 * (mags - zero_point))
    counts = insert(image.pixels, positions, fluxes, psf, image.gain, rng)
    _write_copy(image, results / path.name, len(positions))
    ra, dec = image.sky_position(positions[:, 0], positions[:, 1])
    objects = SimulatedObjects(
        idx=np.arange(len(positions)),
        files=np.full(len(positions), path.name),
        x=positions[:, 1] + 1,
        y=positions[:, 0] + 1,
        ra=ra,
        dec=dec,
        mags=mags,
        filters=np.full(len(positions), image.band or "none"),
        counts=counts,
    )
    return objects, SimulatedImage(path.name, len(positions), psf.fwhm, _limit(sky, psf, zero_point))


def _psf_of(image: SkyImage, sky: Sky, sources: Sources, given: Path | None) -> PointSpread:
    if given is not None:
        return read_psf(given, image.shape)
    beside = psf_beside(image.path, image.shape)
    return beside or measure_psf(sky, sources, find_stars(sky, sources, image.saturation), image.path)


def _limit(sky: Sky, psf: PointSpread, zero_point: float) -> float:
    """Give the magnitude whose flux is five times its error, by the equivalent area 1 / sum of squares of a PSF."""
    ny, nx = sky.pixels.shape
    stamp = psf.stamp(ny / 2, nx / 2)[2]
    return zero_point - 2.5 * float(np.log10(5 * sky.typical_noise / np.sqrt(np.sum(stamp**2))))


def _positions(
    image: SkyImage, sky: Sky, sources: Sources, psf: PointSpread, settings: SimSettings, rng: np.random.Generator
) -> Floats:
    """Choose (y, x), float64 (n, 2), apart from each other, from masked pixels and from borders."""
    margin = int(np.ceil(max(BORDER, CLEAR * psf.fwhm)))
    ny, nx = image.shape
    if min(ny, nx) <= 2 * margin:
        raise SourceError(f"'{image.path}' is too small: nothing is inserted within {margin} pixels of a border")
    clear = distance_transform_edt(~image.masked) if image.masked.any() else None
    galaxies = _galaxies(sky, sources) if settings.near_galaxies else None
    if galaxies is not None and len(galaxies) == 0:
        raise SourceError(f"'{image.path}' shows no galaxy that sources could be inserted near")
    room = 1 + int(4 * ny * nx / (APART * psf.fwhm) ** 2)  # more than there are places for
    chosen = np.empty((0, 2))
    in_vain = 0
    while in_vain < TRIES:
        before, missing = len(chosen), settings.n_sources - len(chosen)
        if missing == 0:
            break
        missing = min(missing, room)
        drawn = _near(galaxies, missing, rng) if galaxies is not None else rng.uniform(0, (ny, nx), (missing, 2))
        kept = (drawn >= margin).all(1) & (drawn[:, 0] < ny - 1 - margin) & (drawn[:, 1] < nx - 1 - margin)
        drawn = drawn[kept]
        if clear is not None:
            drawn = drawn[clear[tuple(np.rint(drawn).astype(int).T)] > CLEAR * psf.fwhm]
        chosen = _apart(np.vstack([chosen, drawn]), APART * psf.fwhm)
        in_vain = 0 if len(chosen) > before else in_vain + 1
    if len(chosen) == 0:
        raise SourceError(f"'{image.path}' has no place for a source away from masked pixels and borders")
    if len(chosen) < settings.n_sources:
        log.warning(
            "'%s' has room for %d sources that do not disturb each other, not for %d",
            image.path, len(chosen), settings.n_sources,
        )  # fmt: skip
    return chosen


def _apart(positions: Floats, distance: float) -> Floats:
    """Keep each position that is not too near to one before it."""
    pairs = cKDTree(positions).query_pairs(distance, output_type="ndarray")
    kept = np.ones(len(positions), np.bool_)
    for first, second in pairs[np.lexsort(pairs.T[::-1])]:
        if kept[first]:
            kept[second] = False
    return positions[kept]


def _galaxies(sky: Sky, sources: Sources) -> Sources:
    bright = sources.peak > GALAXY_PEAK * sky.typical_noise
    round_ones = bright & (sources.elongation < 1.4) & (sources.radius > 0.7)
    if not round_ones.any():
        return sources.select(np.zeros(len(sources), np.bool_))
    star = common_radius(sources.radius[round_ones])
    return sources.select(bright & (sources.radius > GALAXY * star) & (sources.elongation < 4) & (sources.flags < 4))


def _near(galaxies: Sources, n: int, rng: np.random.Generator) -> Floats:
    """Draw positions in galaxies as their light is: the distance of a disc whose half-light radius is measured."""
    rows = rng.integers(0, len(galaxies), n)
    scale = galaxies.radius[rows] / 1.678
    distance = rng.gamma(2.0, 1.0, n) * scale
    angle = rng.uniform(0, 2 * np.pi, n)
    return np.stack([galaxies.y[rows] + distance * np.sin(angle), galaxies.x[rows] + distance * np.cos(angle)], axis=1)


def insert(
    pixels: Floats, positions: Floats, fluxes: Floats, psf: PointSpread, gain: float, rng: np.random.Generator
) -> Floats:
    """Add point sources to an image.

    Parameters
    ----------
    pixels
        float64 (ny, nx) (ADU), changed in place.
    positions
        float64 (n, 2): (y, x) (pixels, the first being 0).
    fluxes
        float64 (n,) (ADU). Positive ones come with Poisson noise; negative ones are taken away, and their noise with
        them is not.
    psf
        What they look like.
    gain
        Electrons per ADU; infinite for no noise.
    rng
        Draws the noise.

    Returns
    -------
    ndarray
        float64 (n,): what was added of each, noise included (ADU).
    """
    ny, nx = pixels.shape
    added = np.zeros(len(positions))
    for k, ((y, x), flux) in enumerate(zip(positions.tolist(), fluxes.tolist(), strict=True)):
        top, left, stamp = psf.stamp(y, x)
        expected = np.maximum(stamp, 0)
        expected *= abs(flux) / expected.sum()
        if flux < 0:
            expected = -expected
        elif np.isfinite(gain):
            # Far more electrons than any pixel holds are beyond what can be drawn.
            expected = rng.poisson(np.minimum(expected * gain, 1e18)) / gain
        inside = np.s_[max(top, 0) : top + len(stamp), max(left, 0) : left + len(stamp)]
        part = expected[
            max(-top, 0) : max(-top, 0) + ny - max(top, 0), max(-left, 0) : max(-left, 0) + nx - max(left, 0)
        ]
        pixels[inside] += part
        added[k] = expected.sum()
    return added


def _write_copy(image: SkyImage, path: Path, n_sources: int) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with quiet_fits(), fits.open(image.path, memmap=False) as hdus, replacing(path) as part:
            hdu: Any = hdus[image.extension]
            hdu.data = _as_stored(image, hdu.data)
            hdu.header[KEYWORD] = (n_sources, "point sources inserted by otrain-sim")
            for keyword in ("CHECKSUM", "DATASUM"):
                hdu.header.remove(keyword, ignore_missing=True)
            hdus.writeto(part, overwrite=True, output_verify="silentfix+ignore")
        copy_companions(image.path, path.parent)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"the copy '{path}' could not be written ({error.strerror or error})") from error


def _as_stored(image: SkyImage, stored: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Give the pixels in the type in which they are stored; what was masked stays as it was."""
    changed = np.minimum(image.pixels, image.saturation)
    if stored.dtype.kind in "iu":
        bounds = np.iinfo(stored.dtype)
        changed = np.clip(np.rint(np.nan_to_num(changed)), bounds.min, bounds.max)
    result = np.where(image.masked, stored, changed.astype(stored.dtype.newbyteorder("=")))
    return result.astype(stored.dtype.newbyteorder("="))
