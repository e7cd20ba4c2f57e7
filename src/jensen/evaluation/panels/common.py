"""What several panels share."""

from collections.abc import Callable

from matplotlib.figure import Figure

from jensen.evaluation.figures import DARK, LIGHT, Theme, figure_png
from jensen.evaluation.page import (
    Html,
    picture,
)


def themed(draw: Callable[[Theme], Figure], alt: str, caption: str | Html = "", style: str = "") -> Html:
    """A figure for light and for dark screens."""
    return picture(figure_png(draw(LIGHT)), alt, dark=figure_png(draw(DARK)), caption=caption, style=style)
