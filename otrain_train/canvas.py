"""How every plot looks: its size, colours that colour-blind readers tell apart, and how it becomes a file."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from otrain_infer.atomic import replacing

DPI = 120

REAL, BOGUS, BOTH = "#0072B2", "#D55E00", "#444444"
"""Blue and vermilion of Okabe and Ito (2008), which every kind of colour vision tells apart, and a grey."""

SERIES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
"""For curves side by side, in this order; a line style of its own besides helps in print."""

LINES = ("-", "--", "-.", ":")


def new_figure(width: float = 6.0, height: float = 4.0) -> Figure:
    """Give an empty figure, sizes in inches.

    It is made without pyplot and belongs to nobody else: there is no backend to choose and nothing to close.
    """
    return Figure(figsize=(width, height), layout="constrained")


def set_title(axes: Any, text: str) -> None:
    """Put a title over axes as it is: a dollar sign in the name of a model begins no formula."""
    axes.set_title(text, parse_math=False)


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
