"""Figures of data for the command line: what is in them (`show_figure`) and the forward process on them (`noise_figure`).

Each function returns a matplotlib `Figure` (Agg, no pyplot) that `save_figure` writes.
"""

import numpy as np
import torch
from matplotlib.figure import Figure

from jensen.data.examples import Examples, Split
from jensen.data.space import Levels
from jensen.evaluation.figures import (
    FONT,
    LIGHT,
    SIZE,
    Theme,
    bare,
    blank,
    headline,
    printable,
    save_figure,
    source,
    tight,
)
from jensen.evaluation.images import finite_range, grid, is_image, to_pixels
from jensen.evaluation.strips import noise_figure
from jensen.evaluation.vectors import MOST_POINTS, by_class, vectors_figure
from jensen.noise import Noise

__all__ = ["noise_figure", "save_figure", "show_figure"]


def show_figure(split: Split, *, seed: int = 0, theme: Theme = LIGHT) -> Figure:
    """What is in the data: random training images (a line for each class where there are classes), or scatter plots
    and histograms of the training rows.
    """
    if is_image(split.event_shape):
        return _image_sheet(split, seed, theme)
    pick = Noise(seed, "show").permutation(len(split.train))[:MOST_POINTS]
    rows = split.train.take(pick)
    figure = vectors_figure(by_class(rows.x, rows.context, split.class_names), split.facts.get("columns"), theme=theme)
    headline(figure, _title(split, f"{len(rows):,} of {len(split.train):,} training rows"), theme)
    return figure


def _image_sheet(split: Split, seed: int, theme: Theme) -> Figure:
    groups = _class_rows(split, seed)
    count = max(len(rows) for _, rows in groups)
    _, height, width = split.event_shape
    cell = 0.55 * min(1.0, 10 / count)
    figure = blank(1.4 + cell * count * max(1, width / height), 0.5 + 1.06 * cell * len(groups), theme)
    tight(figure, w_pad=0.03, h_pad=0.015, hspace=0.0)
    limits = None if isinstance(split.space, Levels) else finite_range(torch.cat([r.x for _, r in groups]))
    for number, (name, rows) in enumerate(groups):
        axes = figure.add_subplot(len(groups), 1, number + 1)
        sheet = grid(to_pixels(rows.x, split.space, limits), columns=count, clear=True)
        bare(axes).imshow(np.asarray(sheet), interpolation="nearest", aspect="equal")
        axes.set_xlim(-0.5, sheet.width * count / max(1, len(rows)) - 0.5)
        text = axes.set_ylabel(printable(name, 14), rotation=0, ha="right", va="center", fontsize=SIZE, family=FONT)
        text.set_parse_math(False)
        text.set_color(theme.ink)
    scale = "" if limits is None else f"; black {limits[0]:g}, white {limits[1]:g}"
    headline(figure, _title(split, f"random training images{scale}"), theme)
    return figure


def _class_rows(split: Split, seed: int, most: int = 12) -> list[tuple[str, Examples]]:
    """Ten rows of each class, the first `most` classes; eight lines of ten where there are no classes."""
    order = Noise(seed, "show").permutation(len(split.train))
    context = split.train.context
    if context is None or not split.class_names:
        lines = [order[start : start + 10] for start in range(0, min(80, len(order)), 10)]
        return [("", split.train.take(line)) for line in lines]
    codes = context[order]
    found = {code: order[codes == code][:10] for code in range(len(split.class_names))}
    kept = [(code, rows) for code, rows in found.items() if len(rows)][:most]
    return [(split.class_names[code], split.train.take(rows)) for code, rows in kept]


def _title(split: Split, what: str) -> str:
    shape = " × ".join(map(str, split.event_shape))
    return f"{source(split)}: {shape}, {split.space}; {what}"
