"""What ``otrain-detect`` does: references subtracted from science images, and what stands out on the difference."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from astropy.io import fits
from scipy.spatial import cKDTree

from otrain_infer.atomic import replacing
from otrain_infer.errors import OutputError, SourceError, UsageError
from otrain_train.align import METHODS, Aligned, align
from otrain_train.bad_pixels import stem_of
from otrain_train.candidates_list import LIST_NAME, Candidates, check_replaceable
from otrain_train.images import ImageSettings, SkyImage, find_images, has_keyword, quiet_fits, read_image
from otrain_train.measure import Measured, find_candidates
from otrain_train.photometry import HOT_PIXEL, Sky, Sources, find_sources, find_stars, subtract_sky
from otrain_train.psf import ConvolvedPointSpread, measure_psf, psf_beside
from otrain_train.references import References
from otrain_train.subtract import Difference, KernelSettings, Pair, subtract

log = logging.getLogger(__name__)

Floats = npt.NDArray[np.float64]

KEYWORD = "OTDIFF"
"""In the header of what was written here: it tells these images from those of other programs."""
FOLDER = "subtraction"
"""In the folder of the images: receives NAME_diff.fits and NAME_ref.fits."""

ON_IMAGES = 5.0
"""Significance of the sources of an image that its point spread function, and the kernel, are made of."""
MOST_STARS = 400
"""Sources that the kernel is fitted to, the brightest."""
SAME_SOURCE = 3.0
"""Distance up to which sources of both images are the same (pixels)."""
LOST, APART = 15.0, 0.7
"""Distance up to which the stars of both are compared, and from which on they are told to be apart (pixels)."""
FEWEST_PAIRS = 5
"""Pairs of stars below which nothing is said of that."""
BLURRED = 1.2
"""Width of a reference over that of the image, from which on it is told to be blurred."""
UNSATURATED = 0.8
"""Part of the saturation up to which a peak is trusted."""
TRUNCATED = 4
"""SEP's flags from this one on tell of sources that are cut off."""
MAG_PER_SNR = float(2.5 / np.log(10))
TINY = 1e-300

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class DetectSettings:
    """How candidates are found. Impossible values raise UsageError.

    Attributes
    ----------
    threshold
        Lowest significance, on the difference smoothed with the point spread function.
    zero_point
        Magnitude of 1 ADU: a number, or the keyword of each header that says it.
    negative
        Whether what is brighter in the reference is a candidate too.
    alignment
        One of `otrain_train.align.METHODS`.
    kernel
        How the reference is matched.
    images, references
        What a user says of the images and of the references.
    """

    threshold: float = 4.0
    zero_point: float | str = 30.0
    negative: bool = False
    alignment: str = "auto"
    kernel: KernelSettings = field(default_factory=KernelSettings)
    images: ImageSettings = field(default_factory=ImageSettings)
    references: ImageSettings = field(default_factory=ImageSettings)

    def __post_init__(self) -> None:
        if not self.threshold > 0:
            raise UsageError(f"a threshold of {self.threshold:g} makes no sense: give a significance above 0")
        if self.alignment not in METHODS:
            raise UsageError(f"images are aligned by {', '.join(METHODS)}, not by '{self.alignment}'")


@dataclass(frozen=True, slots=True)
class SearchedImage:
    """What was found on one image: candidates, and how well the subtraction went.

    Attributes
    ----------
    name, reference
        Of the image and of its reference.
    candidates
        How many.
    searched
        Part of the pixels that both images have.
    apart
        How far the stars of both are from each other, in the median (pixels); NaN where too few are in both.
    width, reference_width
        Of the point spread functions: twice the radius that holds half of the light (pixels).
    stars
        How many the kernel was fitted to.
    residual
        Root mean square of what is left of them, in units of its error.
    noise
        Of the difference, over what the noise of both images makes one expect.
    """

    name: str
    reference: str
    candidates: int
    searched: float
    apart: float
    width: float
    reference_width: float
    stars: int
    residual: float
    noise: float

    def __str__(self) -> str:
        return (
            f"{self.name} less {self.reference}: {self.candidates} candidates on {self.searched:.0%} of the pixels; "
            f"half of a star within {self.width:.2f} and {self.reference_width:.2f} pixels, {self.apart:.2f} apart; "
            f"kernel from {self.stars} stars, {self.residual:.1f} sigma of them left, noise {self.noise:.2f} of that "
            "expected"
        )

    @property
    def warnings(self) -> list[str]:
        """Sentences on what makes artefacts that are no fault of the subtraction."""
        said = []
        if self.apart > APART:
            said.append(
                f"the stars of '{self.name}' and '{self.reference}' are {self.apart:.1f} pixels apart: solve the "
                "astrometry again, or say --align stars"
            )
        if self.reference_width > BLURRED * self.width:
            said.append(
                f"'{self.reference}' is less sharp than '{self.name}' ({self.reference_width:.1f} and {self.width:.1f} "
                "pixels): take a sharper reference, or expect more artefacts"
            )
        return said


@dataclass(frozen=True, slots=True)
class DetectSummary:
    """What a run has found: the list of the candidates, what was found on each image, and what was left out."""

    path: Path
    images: tuple[SearchedImage, ...]
    failures: tuple[str, ...]

    def __str__(self) -> str:
        found = sum(each.candidates for each in self.images)
        lines = [f"{self.path}: {found} candidates on {len(self.images)} image(s)", *map(str, self.images)]
        return "\n".join([*lines, *(f"left out: {failure}" for failure in self.failures)])


def detect(
    folder: Path, reference: Path, settings: DetectSettings | None = None, progress: Progress | None = None
) -> DetectSummary:
    """Subtract references from the images of a folder, and list what stands out.

    Writes ``candidates_list.dat`` into `folder`, and the difference and the reference on the pixels of each image into
    ``subtraction`` in it.

    Parameters
    ----------
    folder
        Holds the science images.
    reference
        The reference of them all, or a folder of references: that of an image has its name, or else is the one of the
        same filter that covers most of it.
    settings
        How candidates are found.
    progress
        Called with the number of images done and of all.

    Returns
    -------
    DetectSummary

    Raises
    ------
    SourceError
        When no image can be used.
    OutputError
        When a result cannot be written.
    """
    settings = settings or DetectSettings()
    paths = [path for path in find_images(folder) if not (reference.exists() and path.samefile(reference))]
    if not paths:
        raise SourceError(f"the reference is the only image in '{folder}'")
    check_replaceable(folder / LIST_NAME)
    for path in paths:
        _check_own(path, folder)
    references = References(reference, settings.references)
    found, counts, failures = [], [], []
    for done, path in enumerate(paths):
        try:
            candidates, count = _detect_one(path, folder, references, settings)
        except SourceError as error:
            failures.append(str(error))
        else:
            found.append(candidates)
            counts.append(count)
            for sentence in count.warnings:
                log.warning("%s", sentence)
        if progress:
            progress(done + 1, len(paths))
    if not found:
        raise SourceError(failures[0] if len(failures) == 1 else f"no image could be used; the first: {failures[0]}")
    Candidates.joined(found).write(folder / LIST_NAME)
    return DetectSummary(folder / LIST_NAME, tuple(counts), tuple(failures))


def _detect_one(
    path: Path, folder: Path, references: References, settings: DetectSettings
) -> tuple[Candidates, SearchedImage]:
    image = read_image(path, settings.images)
    zero_point = image.zero_point(settings.zero_point)
    reference = references.of(image)
    for each in (image, reference):
        if each.gain is None:
            log.warning(
                "'%s' does not say its gain (GAIN, EGAIN): stars will be noisier than is expected, and their remains "
                "candidates; give --gain, or --reference-gain, in e-/ADU",
                each.path,
            )
    aligned = align(reference, image, settings.alignment)
    science = _look_at(image.pixels, image.masked, image)
    template = _as_wide_as(_look_at(aligned.pixels, aligned.masked, reference), science)
    pair = Pair(
        science=science.sky.pixels,
        reference=template.sky.pixels,
        science_variance=_variance(science.sky, image.gain),
        reference_variance=_variance(template.sky, reference.gain),
        science_masked=image.masked,
        reference_masked=aligned.masked,
    )
    difference = subtract(pair, _in_both(science, template), (science.width, template.width), settings.kernel)
    psf = psf_beside(path, image.shape) or measure_psf(science.sky, science.sources, science.stars, path)
    width = science.width
    if difference.science_convolved:
        psf, width = ConvolvedPointSpread(psf, difference.kernel), template.width
    measured = find_candidates(difference, psf, width, settings.threshold, settings.negative)
    names = _write_images(image, aligned, difference, folder)
    candidates = _named(measured, image, names, zero_point, width)
    count = SearchedImage(
        path.name,
        f"{reference.path.parent.name}/{reference.path.name}",
        len(candidates),
        1 - float(difference.masked.mean()),
        _apart(science, template),
        science.width,
        template.width,
        len(difference.stars),
        difference.residual,
        measured.noise,
    )
    return candidates, count


@dataclass(frozen=True, slots=True, eq=False)
class _Looked:
    """An image without its sky, its sources, which of them are stars, and their width (pixels)."""

    image: SkyImage
    sky: Sky
    sources: Sources
    stars: npt.NDArray[np.bool_]
    width: float


def _look_at(pixels: Floats, masked: npt.NDArray[np.bool_], image: SkyImage) -> _Looked:
    sky = subtract_sky(pixels, masked)
    sources = find_sources(sky, ON_IMAGES)
    stars = find_stars(sky, sources, image.saturation)
    if not stars.any():
        raise SourceError(f"'{image.path}' shows no bright, round and unsaturated star to tell its seeing by")
    return _Looked(image, sky, sources, stars, 2 * float(np.median(sources.radius[stars])))


def _apart(science: _Looked, template: _Looked) -> float:
    """Give the median offset of the stars of both images: that which most of the brightest pairs agree on."""
    one, other = (
        np.stack([each.y, each.x], axis=1)[np.argsort(-each.peak, kind="stable")[:MOST_STARS]]
        for each in (science.sources.select(science.stars), template.sources.select(template.stars))
    )
    near = cKDTree(other).query_ball_point(one, LOST)
    offsets = np.concatenate([other[rows] - place for place, rows in zip(one, near, strict=True)])
    if len(offsets) < FEWEST_PAIRS:
        return float("nan")
    agreeing = [len(rows) for rows in cKDTree(offsets).query_ball_point(offsets, 1.0)]
    inside = np.hypot(*(offsets - offsets[int(np.argmax(agreeing))]).T) < 1.0
    return float(np.hypot(*np.median(offsets[inside], axis=0)))


def _as_wide_as(template: _Looked, science: _Looked) -> _Looked:
    """Measure the width of a reference by the stars of the science image: each is then compared with itself."""
    tree = cKDTree(np.stack([template.sources.y, template.sources.x], axis=1))
    stars = science.sources.select(science.stars)
    distance, there = tree.query(np.stack([stars.y, stars.x], axis=1))
    same = there[distance < SAME_SOURCE]
    same = same[template.sources.peak[same] < UNSATURATED * template.image.saturation]
    return replace(template, width=2 * float(np.median(template.sources.radius[same]))) if same.size else template


def _variance(sky: Sky, gain: float | None) -> Floats:
    """Give the variance of each pixel: that of the sky, and the Poisson noise of what is above it."""
    variance = sky.noise**2
    if gain is not None and np.isfinite(gain):
        variance = variance + np.maximum(sky.pixels, 0) / gain
    return variance


def _in_both(science: _Looked, template: _Looked) -> npt.NDArray[np.int64]:
    """Give (y, x) of the brightest sources that both images have and neither has saturated."""
    usable = (science.sources.peak < UNSATURATED * science.image.saturation) & (science.sources.flags < TRUNCATED)
    science_sources = science.sources.select(usable & (science.sources.radius > HOT_PIXEL))
    tree = cKDTree(np.stack([template.sources.y, template.sources.x], axis=1))
    distance, there = tree.query(np.stack([science_sources.y, science_sources.x], axis=1))
    there = np.minimum(there, len(template.sources) - 1)
    matched = (distance < SAME_SOURCE) & (template.sources.peak[there] < UNSATURATED * template.image.saturation)
    chosen = science_sources.select(np.asarray(matched))
    brightest = np.argsort(-chosen.peak, kind="stable")[:MOST_STARS]
    return np.rint(np.stack([chosen.y[brightest], chosen.x[brightest]], axis=1)).astype(np.int64)


def _files(path: Path, folder: Path) -> dict[str, Path]:
    return {kind: folder / FOLDER / f"{stem_of(path)}_{kind}.fits" for kind in ("diff", "ref")}


def _check_own(path: Path, folder: Path) -> None:
    for file in _files(path, folder).values():
        if file.exists() and not has_keyword(file, KEYWORD):
            raise OutputError(f"'{file}' was not written by otrain-detect, which would replace it: move it elsewhere")


def _write_images(image: SkyImage, aligned: Aligned, difference: Difference, folder: Path) -> tuple[str, str]:
    """Write the difference and the reference as it was taken away; NaN is where an image has no number."""
    blank = ~np.isfinite(image.pixels) | (aligned.masked & (aligned.pixels == 0))
    (folder / LIST_NAME).unlink(missing_ok=True)  # it is about images that are now replaced
    files = _files(image.path, folder)
    for kind, pixels in (("diff", difference.pixels), ("ref", difference.reference)):
        with quiet_fits(), replacing(files[kind]) as part:
            hdu = fits.PrimaryHDU(np.where(blank, np.nan, pixels).astype(np.float32), image.header)
            hdu.header[KEYWORD] = (kind, "written by otrain-detect")
            hdu.writeto(part, output_verify="silentfix+ignore")
    return f"{FOLDER}/{files['diff'].name}", f"{FOLDER}/{files['ref'].name}"


def _named(found: Measured, image: SkyImage, names: tuple[str, str], zero_point: float, width: float) -> Candidates:
    n = len(found)
    ra, dec = image.sky_position(found.y, found.x)
    snrs = np.abs(found.fluxes) / found.errors
    return Candidates(
        ids=np.arange(n).astype(str),
        ra=ra,
        dec=dec,
        x=found.x + 1,
        y=found.y + 1,
        edge=found.edge,
        bands=np.full(n, image.band or "none"),
        mags=zero_point - 2.5 * np.log10(np.maximum(np.abs(found.fluxes), TINY)),
        magerrs=MAG_PER_SNR / snrs,
        fwhms=2 * found.radii,
        psf_fwhms=np.full(n, width),
        differences=np.full(n, names[0]),
        images=np.full(n, image.path.name),
        references=np.full(n, names[1]),
        snrs=snrs,
        signs=found.signs,
    )
