"""What all matplotlib figures here share: no pyplot, no global state, two themes, the same PNG bytes every time."""

import io
import unicodedata
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.layout_engine import ConstrainedLayoutEngine

from jensen.data.examples import Split
from jensen.errors import InputError
from jensen.files import written_whole

DPI = 200
SIZE = 9.0  # points
FONT = "DejaVu Sans"  # comes with matplotlib, so pictures are the same everywhere


@dataclass(frozen=True)
class Theme:
    """Colours of a figure."""

    ink: str
    muted: str
    rule: str
    background: str
    colours: tuple[str, ...]


_LIGHT = ("#2563a8", "#c2571a", "#3a7d44", "#8a4f9e", "#a8871c", "#a23b4e", "#3f8f94", "#6b6b6b", "#96633d", "#5a5fb0")
_DARK = ("#7fb2e8", "#f0a067", "#85c78f", "#c79bd8", "#d9bf62", "#e08a98", "#7fc9cd", "#b5b5b5", "#cda27f", "#a3a7e8")
LIGHT = Theme("#1f2328", "#5f6670", "#d9dce0", "#ffffff", _LIGHT)
DARK = Theme("#e4e6e9", "#a0a7b0", "#3a4048", "#1b1e23", _DARK)


def blank(width: float, height: float, theme: Theme) -> Figure:
    """An empty figure of this size in inches."""
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor=theme.background, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def tight(figure: Figure, **pads: float) -> None:
    """Set the paddings of a figure's layout."""
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    engine.set(**pads)  # type: ignore[arg-type]


def quiet(axes: Axes, theme: Theme) -> Axes:
    """Axes with thin lines, no box, and faint horizontal rules."""
    axes.set_facecolor(theme.background)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(theme.rule)
    axes.tick_params(colors=theme.muted, labelsize=SIZE - 1, width=0.6, length=3, labelfontfamily=FONT)
    axes.grid(True, axis="y", color=theme.rule, linewidth=0.5)
    axes.set_axisbelow(True)
    return axes


def label(axes: Axes, theme: Theme, *, x: str = "", y: str = "", title: str = "") -> None:
    """Axis labels and a title on the left; never read as mathematics, since names come from data."""
    axes.set_xlabel(x, color=theme.muted, fontsize=SIZE, family=FONT, parse_math=False)
    axes.set_ylabel(y, color=theme.muted, fontsize=SIZE, family=FONT, parse_math=False)
    if title:
        axes.set_title(title, loc="left", color=theme.ink, fontsize=SIZE + 0.5, family=FONT, parse_math=False)


def headline(figure: Figure, text: str, theme: Theme) -> None:
    """A title over the whole figure."""
    title = figure.suptitle(text, x=0.01, ha="left", color=theme.ink, fontsize=SIZE + 0.5, family=FONT)
    title.set_parse_math(False)


def legend(
    axes: Axes, theme: Theme, names: list[str], colours: list[str], *, columns: int = 1, outside: bool = False
) -> None:
    """A legend of dots with these names, which may be any text."""
    dots = [axes.plot([], [], "o", color=colour, markersize=5, label=" ")[0] for colour in colours]
    shown = [printable(name) for name in names]
    place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)} if outside else {}
    box = axes.legend(dots, shown, frameon=False, fontsize=SIZE - 0.5, ncols=columns, handletextpad=0.1, **place)
    for text in box.get_texts():
        text.set_parse_math(False)
        text.set_color(theme.muted)
        text.set_fontfamily(FONT)


def figure_png(figure: Figure) -> bytes:
    """The figure as PNG, with no metadata. `savefig` would lay it out and draw it twice."""
    out = io.BytesIO()
    FigureCanvasAgg(figure).print_png(out, metadata={"Software": None})
    return out.getvalue()


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    path = check_png(path)
    content = figure_png(figure)
    with written_whole(path) as aside:
        aside.write_bytes(content)


def check_png(path: str | Path) -> Path:
    """The path, which must end in .png."""
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise InputError(f"pictures are written as .png, got {str(path)!r}; name a file that ends in .png")
    return path


def printable(text: str, longest: int = 40) -> str:
    """Text that the font can draw on one line: other characters become ▯, and what is too long ends in …."""
    shown = "".join(
        c if ord(c) in _glyphs() and unicodedata.category(c)[0] != "C" else "▯" for c in text[: 2 * longest]
    )
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


@cache
def _glyphs() -> frozenset[int]:
    font = FT2Font(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"))
    return frozenset(font.get_charmap())


def bare(axes: Axes) -> Axes:
    """Axes with nothing but their content."""
    axes.set(xticks=[], yticks=[], facecolor="none")
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes


def source(split: Split) -> str:
    """The name of the data, for a title."""
    return printable(Path(str(split.facts.get("source", "array"))).name or "data")
