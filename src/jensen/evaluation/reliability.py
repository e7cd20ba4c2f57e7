"""The reliability diagram: how often the first choice is right, over how sure the model is of it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jensen.evaluation.figures import LIGHT, Theme, blank, label, quiet


def reliability_figure(bins: Sequence[dict[str, Any]], *, theme: Theme = LIGHT) -> Figure:
    """Points with 95 % intervals over the diagonal of true probabilities, and below how many rows each bin holds.

    Args:
        bins: as `calibration` gives them.
        theme: the colours.
    """
    figure = blank(4.6, 4.6, theme)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    for axes in (above, below):
        quiet(axes, theme)
    x, y, low, high, rows = (
        np.array([b[name] for b in bins], float)
        for name in ("confidence", "accuracy", "accuracy_low", "accuracy_high", "rows")
    )
    above.plot([0, 1], [0, 1], "--", color=theme.muted, linewidth=1)
    reach = np.maximum(0, np.stack([y - low, high - y]))
    above.errorbar(x, y, yerr=reach, fmt="o", color=theme.colours[1], capsize=3, linewidth=1.2, markersize=5)
    above.set(xlim=(0, 1.02), ylim=(-0.02, 1.04))
    left = np.array([b["from"] for b in bins], float)
    width = np.array([b["to"] for b in bins], float) - left
    below.bar(left, rows, width, align="edge", color=theme.colours[0], alpha=0.7)
    below.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    label(above, theme, y="share that is right")
    label(below, theme, x="probability of the first choice", y="rows")
    return figure
