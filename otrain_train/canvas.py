"""How every plot looks: its size, colours that colour-blind readers tell apart, and how it becomes a file."""

import textwrap
from functools import cache
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font

from otrain_infer.atomic import replacing

DPI = 120

REAL, BOGUS, BOTH = "#0072B2", "#D55E00", "#444444"
"""Blue and vermilion of Okabe and Ito (2008), which every kind of colour vision tells apart, and a grey."""

SERIES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
"""For curves side by side, in this order; a line style of its own besides helps in print."""

TITLE_SIZE, TEXT_SIZE = 12.0, 10.0
"""Of the letters (points)."""

LINES: tuple[Any, ...] = ("-", "--", "-.", (0, (6, 1, 1, 1, 1, 1)))


def new_figure(width: float = 6.0, height: float = 4.0) -> Figure:
    """Give an empty figure, sizes in inches.

    It is made without pyplot and belongs to nobody else: there is no backend to choose and nothing to close.
    """
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def set_title(axes: Any, text: str) -> None:
    """Put a title over axes as it is, in several lines if need be: a dollar sign in a name begins no formula."""
    columns = axes.get_subplotspec().get_gridspec().ncols
    width = 0.9 * axes.figure.get_figwidth() / columns
    axes.set_title(_broken(text, width), fontsize=TITLE_SIZE, parse_math=False)


def set_main_title(figure: Figure, text: str) -> None:
    """Put a title over all axes of a figure, as `set_title` does."""
    figure.suptitle(_broken(text, figure.get_figwidth()), fontsize=TITLE_SIZE, parse_math=False)


def in_legend(text: str) -> str:
    """Give a text that a legend shows as it is: no dollar sign begins a formula, no underscore hides the line."""
    shown = drawable(text).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def drawable(text: str) -> str:
    """Give a text with ? for every character that the font has no picture of."""
    return "".join(letter if letter == "\n" or _has_picture(letter) else "?" for letter in text)


@cache
def _has_picture(letter: str) -> bool:
    return letter.isprintable() and get_font(findfont(FontProperties())).get_char_index(ord(letter)) != 0


def width_of(line: str, points: float) -> float:
    """Give how wide a line of text of some size becomes (pixels)."""
    return float(_renderer().get_text_width_height_descent(line, FontProperties(size=points), ismath=False)[0])


@cache
def _renderer() -> RendererAgg:
    return RendererAgg(1, 1, DPI)


def _broken(text: str, width: float, points: float = TITLE_SIZE) -> str:
    """Break text into lines of some width at most (inches)."""
    lines = []
    for line in drawable(text).splitlines():
        letters = int(0.9 * width * DPI * len(line) / max(1.0, width_of(line, points)))
        lines.append(textwrap.fill(line, max(1, letters)))
    return "\n".join(lines)


def draw_sentence(title: str, sentence: str, width: float = 6.0, height: float = 4.0) -> Figure:
    """Give a figure that says in words why there is nothing to draw."""
    figure = new_figure(width, height)
    axes = figure.subplots()
    axes.set(xticks=[], yticks=[])
    set_title(axes, title)
    look: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": TEXT_SIZE, "parse_math": False}
    axes.text(0.5, 0.5, _broken(sentence, 0.9 * width, TEXT_SIZE), transform=axes.transAxes, **look)
    return figure


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as .png, whole or not at all, and give its path.

    Raises
    ------
    OutputError
        When it cannot be written.
    """
    with replacing(path) as part:
        figure.savefig(part, dpi=DPI, format="png")
    return path
