"""Cutouts as pictures: every plane side by side, each in the contrast that suits it, one cutout or many on a sheet.

A picture is put together pixel by pixel and no axes are drawn, so that each pixel of a cutout is a square of the same
size, and thousands of pictures take seconds or minutes, not hours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from astropy.visualization import ZScaleInterval
from matplotlib.figure import Figure

from otrain_infer.normalise import Pixels
from otrain_train.canvas import DPI, drawable, width_of
from otrain_train.datacube import Datacube

Image = npt.NDArray[np.uint8]

MISSING = (230, 159, 0)
"""The colour of pixels that are not finite, which no shade of grey is taken for."""

PLANE, SHEET_PLANE = 190, 110
"""About how wide a plane becomes, by itself and on a sheet (pixels)."""
NARROWEST, SHEET_NARROWEST = 380, 150
"""Room for the titles (pixels); the latter holds 19 digits."""
SHEET_WIDTH = 1200
"""How wide a sheet is at most, unless a single cutout is wider (pixels)."""
LARGEST = 128
"""From twice this width or height on, a cutout on a sheet is thinned out (pixels)."""
GAP = 4
PADDING = 10
LINE = 15
"""Height of a line of text (pixels)."""
FONT_SIZE = 7.5
"""Of the text (points)."""


def title_of(datacube: Datacube, row: int, score: float) -> str:
    """Give the title of a cutout in three lines: CANDID, MAG ± MAGERR, score.

    Where the CANDID is missing, the name of the file or the number of the row stands for it.
    """
    # A title keeps its lines whatever the name holds.
    name = " ".join((str(datacube.candids[row]) or str(datacube.files[row])).split()) or f"row {row}"
    mag, error = float(datacube.mags[row]), float(datacube.errmags[row])
    magnitude = f"mag {mag:.2f}" if np.isfinite(mag) else "no magnitude"
    if np.isfinite(mag) and np.isfinite(error):
        magnitude += f" ± {error:.2f}"
    return f"{name}\n{magnitude}\n{f'score {score:.3f}' if np.isfinite(score) else 'no score'}"


def draw_cutout(pixels: Pixels, planes: Sequence[str], title: str) -> Figure:
    """Draw one cutout, its planes side by side.

    Parameters
    ----------
    pixels
        Raw pixels, float32 (ny, nx, planes).
    planes
        Their names.
    title
        Stands above; a line too long is cut in its middle.
    """
    return draw_pictures(pictures_of(pixels), planes, title)


def draw_pictures(pictures: Sequence[Image], names: Sequence[str], title: str) -> Figure:
    """Draw pictures of one cutout side by side, such as its planes and what explains its score.

    Parameters
    ----------
    pictures
        uint8 (ny, nx, 3) each, as of `shades_of`.
    names
        One for each, written above it.
    title
        Stands above all; a line too long is cut in its middle.
    """
    return _draw([pictures], names, [title], PLANE, NARROWEST)


def draw_sheet(pixels: Pixels, planes: Sequence[str], titles: Sequence[str]) -> Figure:
    """Draw cutouts as a contact sheet.

    Parameters
    ----------
    pixels
        Raw pixels, float32 (n, ny, nx, planes); n at least 1.
    planes
        Their names.
    titles
        One for each cutout.
    """
    # Every second or third pixel of cutouts that are far larger than usual: a sheet is for an overview.
    step = max(1, max(pixels.shape[1:3]) // LARGEST)
    return _draw([pictures_of(each[::step, ::step]) for each in pixels], planes, titles, SHEET_PLANE, SHEET_NARROWEST)


def pictures_of(pixels: Pixels) -> list[Image]:
    """Give each plane of a cutout, float32 (ny, nx, planes), as `shades_of` does."""
    return [shades_of(pixels[..., i]) for i in range(pixels.shape[2])]


def shades_of(plane: npt.NDArray[np.float32]) -> Image:
    """Give an image as shades between the limits that ZScale chooses from its finite pixels (Tody 1986).

    Parameters
    ----------
    plane
        float32 (ny, nx).

    Returns
    -------
    ndarray
        uint8 (ny, nx, 3), the first row at the top as a picture has it: that of the highest y. Pixels that are not
        finite have the colour `MISSING`.
    """
    values = plane[::-1].astype(np.float64)
    finite = np.isfinite(values)
    picture: Image = np.empty((*values.shape, 3), np.uint8)
    picture[:] = MISSING
    if finite.any():
        low, high = ZScaleInterval().get_limits(values[finite])
        shades = np.clip((values[finite] - low) / (high - low), 0, 1) if low < high else np.full(finite.sum(), 0.5)
        picture[finite] = np.rint(255 * shades).astype(np.uint8)[:, np.newaxis]
    return picture


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where the tiles of a sheet lie (pixels), each a title, the names of the planes and the planes."""

    scale: int
    step: int
    columns: int
    rows: int
    tile_width: int
    tile_height: int
    text_height: int

    @classmethod
    def of(cls, number: int, shape: Sequence[int], lines: int, plane: int, narrowest: int) -> "_Layout":
        ny, nx, count = shape
        scale = max(1, round(max(plane, narrowest / count - GAP) / max(ny, nx)))
        step, text_height = scale * nx + GAP, LINE * (lines + 1)
        width = max(step * count - GAP, narrowest)
        columns = min(number, max(1, (SHEET_WIDTH - PADDING) // (width + PADDING)))
        return cls(scale, step, columns, -(-number // columns), width, text_height + scale * ny, text_height)

    @property
    def size(self) -> tuple[int, int]:
        return (
            PADDING + self.rows * (self.tile_height + PADDING),
            PADDING + self.columns * (self.tile_width + PADDING),
        )

    def corner(self, number: int) -> tuple[int, int]:
        row, column = divmod(number, self.columns)
        return PADDING + row * (self.tile_height + PADDING), PADDING + column * (self.tile_width + PADDING)


def _draw(
    cutouts: Sequence[Sequence[Image]], names: Sequence[str], titles: Sequence[str], width: int, narrowest: int
) -> Figure:
    lines = max(title.count("\n") + 1 for title in titles)
    ny, nx, _ = cutouts[0][0].shape
    layout = _Layout.of(len(cutouts), (ny, nx, len(names)), lines, width, narrowest)
    height, wide = layout.size
    figure = Figure(figsize=(wide / DPI, height / DPI), dpi=DPI)
    sheet: Image = np.full((height, wide, 3), 255, np.uint8)
    for number, (pictures, title) in enumerate(zip(cutouts, titles, strict=True)):
        top, left = layout.corner(number)
        _write(figure, left, top, _shortened(title, layout.tile_width))
        for i, (name, picture) in enumerate(zip(names, pictures, strict=True)):
            y, x = top + layout.text_height, left + i * layout.step
            _write(figure, x, y - LINE, name, colour="0.4")
            enlarged = picture.repeat(layout.scale, 0).repeat(layout.scale, 1)
            sheet[y : y + len(enlarged), x : x + enlarged.shape[1]] = enlarged
    figure.figimage(sheet)
    return figure


def _write(figure: Figure, x: int, y: int, text: str, colour: str = "black") -> None:
    width, height = figure.bbox.size
    look: dict[str, Any] = {
        "fontsize": FONT_SIZE,
        "va": "top",
        "color": colour,
        "linespacing": 1.15,
        "parse_math": False,
    }
    figure.text(x / width, 1 - y / height, text, **look)


def _shortened(text: str, width: int) -> str:
    return "\n".join(_without_middle(line, width) for line in drawable(text).split("\n"))


def _without_middle(line: str, width: int) -> str:
    shown, kept = line, len(line)
    while width_of(shown, FONT_SIZE) > width:
        kept = min(kept - 1, int(kept * width / width_of(shown, FONT_SIZE)))
        shown = f"{line[: kept // 2]}\N{HORIZONTAL ELLIPSIS}{line[len(line) - (kept - kept // 2) :]}"
    return shown
