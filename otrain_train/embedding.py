"""Pictures and plots as data: URIs, so that a page that shows them needs no other file."""

import base64
import io
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from PIL import Image as Picture

from otrain_train.gallery import Image

LARGEST = 96
"""Width and height from which a cutout is shrunk (pixels)."""

SHOWN = 120
"""About the width that a cutout is shown with (pixels of a style sheet), a whole number for each of its own."""

PLOT_DPI = 160
CSS_DPI = 96
"""Pixels of a style sheet in an inch, on any screen."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """A picture within a page.

    Attributes
    ----------
    uri
        What `src` of an `img` takes.
    width, height
        That it is meant to be shown with (pixels of a style sheet).
    """

    uri: str
    width: int
    height: int


def embed_picture(image: Image) -> Embedded:
    """Embed a picture of a cutout, uint8 (ny, nx, 3), shrunk by a whole number where it is larger than `LARGEST`."""
    ny, nx, _ = image.shape
    factor = -(-max(ny, nx) // LARGEST)
    grey = bool((image == image[..., :1]).all())
    picture = Picture.fromarray(np.ascontiguousarray(image[..., 0] if grey else image)).reduce(factor)
    content = io.BytesIO()
    picture.save(content, "PNG", optimize=True)
    scale = max(1, round(SHOWN / picture.width))
    return Embedded(_uri(content), scale * picture.width, scale * picture.height)


def embed_figure(figure: Figure, size: tuple[float, float] | None = None) -> Embedded:
    """Embed a plot, at a resolution that is sharp on fine screens too.

    Parameters
    ----------
    figure
        The plot.
    size
        (width, height) that it is to have (inches), for letters that are large beside it; its own if not given.
    """
    if size:
        figure.set_size_inches(size)
    content = io.BytesIO()
    figure.savefig(content, dpi=PLOT_DPI, format="png")
    width, height = figure.get_size_inches()
    return Embedded(_uri(content), round(width * CSS_DPI), round(height * CSS_DPI))


def _uri(content: io.BytesIO) -> str:
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode('ascii')}"
