"""Charts of numbers over training, over the chain, and beside each other."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from jensen.evaluation.figures import (
    LIGHT,
    Theme,
    blank,
    label,
    legend,
    printable,
    quiet,
)
from jensen.evaluation.vectors import histogram

Array = np.ndarray[Any, Any]
# of costs, by the kind of log-likelihood: a triangle points to where the true cost of a bound may lie
MARKS = {"exact": "o", "lower bound": "<", "upper bound": ">", "estimate": "D"}


def curve_figure(
    x: Sequence[float],
    lines: Mapping[str, Sequence[float]],
    *,
    xlabel: str,
    ylabel: str,
    log: bool = False,
    theme: Theme = LIGHT,
) -> Figure:
    """One or more curves over a count, such as training steps; values that are not finite leave a gap; `log` is
    followed where they are positive and differ by more than a factor of ten.
    """
    figure = blank(4.6, 2.7, theme)
    axes = quiet(figure.add_subplot(), theme)
    for number, values in enumerate(lines.values()):
        axes.plot(
            x, np.array(values, float), "-", color=theme.colours[number % 10], linewidth=1.5, marker="o", markersize=2.5
        )
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    known = [v for values in lines.values() for v in values if math.isfinite(v)]
    if log and known and min(known) > 0 and max(known) > 10 * min(known):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:g}"))
        axes.tick_params(which="minor", length=0, labelleft=False)
    if len(lines) > 1:
        legend(axes, theme, list(lines), [theme.colours[i % 10] for i in range(len(lines))], outside=True)
    label(axes, theme, x=xlabel, y=ylabel)
    return figure


def steps_figure(
    log_snr: Sequence[float], cost: Sequence[float], stderr: Sequence[float], *, unit: str, theme: Theme = LIGHT
) -> Figure:
    """The cost L_{i-1} of single steps over the log-SNR of x_i, data on the left and noise on the right; the band is
    ± one standard error, and missing where that is NaN.
    """
    order = np.argsort(-np.array(log_snr, float))
    x, y, e = (np.array(v, float)[order] for v in (log_snr, cost, stderr))
    figure = blank(4.6, 2.9, theme)
    axes = quiet(figure.add_subplot(), theme)
    axes.fill_between(x, y - e, y + e, color=theme.colours[0], alpha=0.25, linewidth=0)
    axes.plot(x, y, color=theme.colours[0], linewidth=1.4)
    if len(x) > 1:
        axes.set_xlim(x[0], x[-1])
    axes.set_ylim(bottom=min(0.0, float(np.min(y - np.nan_to_num(e)))))
    label(axes, theme, x="data  ←  log-SNR of x_i  →  noise", y=f"{unit} a step")
    return figure


def dots_figure(
    names: Sequence[str],
    values: Sequence[float],
    errors: Sequence[float],
    marks: Sequence[str],
    *,
    unit: str,
    theme: Theme = LIGHT,
) -> Figure:
    """Numbers with their standard errors, one a line and each with its own mark, the first on top and in another colour."""
    figure = blank(4.6, 0.75 + 0.36 * len(names), theme)
    dots(figure.add_subplot(), names, values, errors, marks, unit=unit, theme=theme)
    return figure


def dots(
    axes: Axes,
    names: Sequence[str],
    values: Sequence[float],
    errors: Sequence[float],
    marks: Sequence[str],
    *,
    unit: str,
    theme: Theme = LIGHT,
) -> None:
    """The same into given axes."""
    quiet(axes, theme)
    axes.grid(False)
    axes.grid(True, axis="x", color=theme.rule, linewidth=0.5)
    for place, (value, error, mark) in enumerate(zip(values, errors, marks, strict=True)):
        colour = theme.colours[1] if place == 0 else theme.colours[0]
        axes.errorbar(value, place, xerr=error, fmt="none", color=colour, capsize=4, linewidth=1.5)
        axes.plot(value, place, marker=mark, color=colour, markersize=6)
    axes.set_yticks(range(len(names)), [printable(name) for name in names], color=theme.ink, parse_math=False)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.margins(x=0.12)
    label(axes, theme, x=unit)


def distances_figure(groups: Mapping[str, Array], *, unit: str, theme: Theme = LIGHT) -> Figure:
    """Histograms of distances, one over the other, as shares."""
    figure = blank(4.6, 2.7, theme)
    axes = quiet(figure.add_subplot(), theme)
    histogram(axes, {name: d.reshape(-1, 1) for name, d in groups.items()}, 0, theme)
    axes.set_xlim(left=0)
    legend(axes, theme, list(groups), list(theme.colours[: len(groups)]))
    label(axes, theme, x=unit, y="share of rows")
    return figure
