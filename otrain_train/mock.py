"""Mock cutouts of middling difficulty, as files and as arrays, for the demo, the tests and the benchmarks.

Each candidate has a science image, a reference image and their difference. Real ones are a point source that only the
science image has; bogus ones are what goes wrong in image subtraction.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from otrain_infer.card import PLANES
from otrain_infer.cutouts import check_planes
from otrain_infer.errors import OutputError, UsageError
from otrain_train.cutout_files import cutout_bytes
from otrain_train.datacube import Datacube
from otrain_train.mock_scene import Exposure, Image, Scene, add_artefact, add_transient, expose, field_of, measure

FOLDERS = {1: "true", 0: "false"}

SMALLEST_SIZE = 16
FRAME = 2048
"""Width and height of the images that cutouts come from (pixels)."""
CUTOUTS_PER_OBJECT = 2
IMAGES_PER_NIGHT = 8
FIRST_NIGHT = 60_000.1
"""Its modified Julian date when it begins (days)."""

# Streams of random numbers: what one class or candidate draws never shifts another's.
CANDIDATE, OBJECT, IMAGE = range(3)


@dataclass(frozen=True, slots=True)
class MockSettings:
    """What mock cutouts are to be like.

    Attributes
    ----------
    n_true, n_false
        How many real and bogus ones.
    size
        Width and height (pixels).
    planes
        Which of SCI, REF, DIFF, in order.
    seed
        The same seed gives the same candidates; the first n of a class are the same however many follow and whatever
        the other class has.
    n_images
        How many images they come from, each with a sky level, gain, seeing and zero point of its own.
    faintest, brightest
        Range of the signal-to-noise ratio of real sources.
    edge_fraction
        Part of them that is cut off at the edge of the image, with EDGE 'True'.
    nan_fraction
        Part of them with pixels that are not a number.
    object_fraction
        Part of the images whose candidates have OBJECTID.
    """

    n_true: int = 1000
    n_false: int = 1000
    size: int = 64
    planes: tuple[str, ...] = PLANES
    seed: int = 0
    n_images: int = 40
    faintest: float = 5.0
    brightest: float = 100.0
    edge_fraction: float = 0.02
    nan_fraction: float = 0.02
    object_fraction: float = 0.7

    def __post_init__(self) -> None:
        if min(self.n_true, self.n_false) < 0 or self.n_true + self.n_false == 0:
            raise UsageError(f"{self.n_true} real and {self.n_false} bogus cutouts make no sense: ask for at least one")
        if self.size < SMALLEST_SIZE:
            raise UsageError(f"cutouts of {self.size} pixels are too small: give a size of {SMALLEST_SIZE} or more")
        check_planes(self.planes)
        if self.seed < 0 or self.n_images < 1:
            raise UsageError("the seed must be 0 or more and there must be at least one image")


@dataclass(frozen=True, slots=True, eq=False)
class _Mock:
    """One candidate: float32 (ny, nx, planes) pixels, where they lie in the uncut (size, size), header keywords."""

    pixels: Image
    corner: tuple[int, int]
    header: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.header['CANDID']}.fits"


def write_mock(
    folder: str | PathLike[str], settings: MockSettings | None = None, progress: Callable[[int], None] | None = None
) -> None:
    """Write mock cutouts as FITS files.

    A single plane is a file's only image; several are image extensions named after them. Files of an earlier call with
    the same seed are overwritten.

    Parameters
    ----------
    folder
        Real ones go to `true` in it, bogus ones to `false`.
    settings
        What they are to be like.
    progress
        Called with the number of files just written.

    Raises
    ------
    OutputError
        When a file cannot be written, or one of the two folders holds anything else already.
    """
    settings = settings or MockSettings()
    try:
        for label, name in FOLDERS.items():
            target = Path(folder) / name
            target.mkdir(parents=True, exist_ok=True)
            _refuse_strangers(target, {f"{_candid(settings, label, i)}.fits" for i in range(_count(settings, label))})
        for label, mock in _mocks(settings):
            (Path(folder) / FOLDERS[label] / mock.name).write_bytes(
                cutout_bytes(mock.pixels, settings.planes, mock.header)
            )
            if progress:
                progress(1)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"mock cutouts could not be written to '{folder}' ({error.strerror or error})") from error


def mock_arrays(settings: MockSettings | None = None) -> Datacube:
    """Give mock cutouts as a datacube: real ones first, pixels beyond the edge of an image NaN.

    Parameters
    ----------
    settings
        What they are to be like.

    Returns
    -------
    Datacube
    """
    settings = settings or MockSettings()
    mocks = list(_mocks(settings))
    cube = np.full((len(mocks), settings.size, settings.size, len(settings.planes)), np.nan, np.float32)
    for row, (_, mock) in zip(cube, mocks, strict=True):
        (y, x), (ny, nx, _) = mock.corner, mock.pixels.shape
        row[y : y + ny, x : x + nx] = mock.pixels
    headers = [mock.header for _, mock in mocks]
    columns = {"mags": "MAG", "errmags": "MAGERR", "fwhms": "FWHM", "filters": "FILTER", "candids": "CANDID"}
    columns |= {"mjds": "MJD"}
    return Datacube.from_columns(
        {key: np.array([header[keyword] for header in headers]) for key, keyword in columns.items()}
        | {
            "cube": cube,
            "labels": np.array([label for label, _ in mocks]),
            "files": np.array([f"{FOLDERS[label]}/{mock.name}" for label, mock in mocks]),
            "groups": np.array([header.get("OBJECTID", header["FILE"]) for header in headers]),
        },
        settings.planes,
    )


def _count(settings: MockSettings, label: int) -> int:
    return settings.n_true if label else settings.n_false


def _candid(settings: MockSettings, label: int, index: int) -> str:
    return f"{settings.seed}{label}{index:08d}"


def _refuse_strangers(folder: Path, ours: set[str]) -> None:
    strangers = sorted(entry.name for entry in folder.iterdir() if entry.name not in ours)
    if strangers:
        raise OutputError(f"'{folder}' holds {strangers[0]} and so on already: name another folder or empty this one")


def _mocks(settings: MockSettings) -> Iterator[tuple[int, _Mock]]:
    images = [_image(settings, number) for number in range(settings.n_images)]
    for label in FOLDERS:
        for index in range(_count(settings, label)):
            yield label, _mock(settings, images, label, index)


def _image(settings: MockSettings, number: int) -> Exposure:
    rng = np.random.default_rng([settings.seed, IMAGE, number])
    night, nth = divmod(number, IMAGES_PER_NIGHT)
    mjd = FIRST_NIGHT + night + nth / (3 * IMAGES_PER_NIGHT)
    return Exposure.draw(rng, f"mock{settings.seed}_{number:04d}.fits", mjd, settings.object_fraction)


def _mock(settings: MockSettings, images: list[Exposure], label: int, index: int) -> _Mock:
    rng = np.random.default_rng([settings.seed, CANDIDATE, label, index])
    number = index // CUTOUTS_PER_OBJECT
    of_object = np.random.default_rng([settings.seed, OBJECT, label, number])
    exposure = images[rng.integers(len(images))]
    header: dict[str, Any] = {
        "CANDID": _candid(settings, label, index),
        "FILTER": exposure.band,
        "FILE": exposure.file,
        "MJD": exposure.mjd,
        "RA": float(of_object.uniform(0, 360)),
        "DEC": float(np.degrees(np.arcsin(of_object.uniform(-1, 1)))),
    }
    if exposure.names_objects:
        header["OBJECTID"] = f"MOCK{settings.seed}{label}{number:07d}"
    scene = Scene.draw(rng, settings.size, exposure, field_of(of_object, settings.size))
    if label:
        add_transient(scene, settings.faintest, settings.brightest)
    else:
        add_artefact(scene)
    planes, noise = expose(scene)
    header |= measure(scene, planes["DIFF"], noise)
    pixels = np.stack([planes[name] for name in settings.planes], axis=-1)
    return _cut(_spoil(pixels, settings, rng), header, settings, rng)


def _spoil(pixels: Image, settings: MockSettings, rng: np.random.Generator) -> Image:
    if rng.random() < settings.nan_fraction:
        if rng.random() < 0.5:
            pixels[:, rng.integers(settings.size)] = np.nan
        else:
            y, x = rng.integers(0, settings.size // 3, 2)
            pixels[:y, :x] = np.nan
    return pixels


def _cut(pixels: Image, header: dict[str, Any], settings: MockSettings, rng: np.random.Generator) -> _Mock:
    """Place the cutout in its image, and cut off what lies beyond if it is at the edge."""
    size, half = settings.size, settings.size / 2
    position = rng.uniform(size, FRAME - size, 2)
    low, high = [0, 0], [size, size]
    at_edge = bool(rng.random() < settings.edge_fraction)
    if at_edge:
        axis, lost = int(rng.integers(2)), int(rng.integers(2, size // 3))
        if rng.random() < 0.5:
            low[axis], position[axis] = lost, half - lost
        else:
            high[axis], position[axis] = size - lost, FRAME - half + lost
    where = {"XPOS": float(position[1]), "YPOS": float(position[0]), "EDGE": str(at_edge)}
    return _Mock(pixels[low[0] : high[0], low[1] : high[1]], (low[0], low[1]), header | where)
