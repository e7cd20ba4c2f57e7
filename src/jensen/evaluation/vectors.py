"""Rows that are no images: histograms, scatter plots, every pair of the first few dimensions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from torch import Tensor

from jensen.evaluation.figures import (
    LIGHT,
    SIZE,
    Theme,
    blank,
    label,
    legend,
    printable,
    quiet,
)

Array = np.ndarray[Any, Any]


MOST_POINTS = 2000


MOST_COLUMNS = 4


def by_class(x: Tensor, codes: Tensor | None, names: Sequence[str]) -> dict[str, Tensor]:
    """Rows by the name of their class, the first ten classes that have any; all together where there are no classes."""
    if codes is None or not names:
        return {"rows": x}
    groups = {name: x[codes == code] for code, name in enumerate(names[:10])}
    return {name: rows for name, rows in groups.items() if len(rows)} or {"rows": x}


def vectors_figure(
    groups: Mapping[str, Tensor], columns: Sequence[str] | None = None, *, theme: Theme = LIGHT
) -> Figure:
    """Groups of rows that are no images: one dimension as histograms, two as a scatter plot, more as every pair of
    the first few. Missing cells are left out of the panels they are missing from.
    """
    data = {name: x.flatten(1).double().numpy() for name, x in groups.items()}
    dims = next(iter(data.values())).shape[1]
    shown = min(dims, MOST_COLUMNS)
    names = (
        [str(c) for c in columns] if columns and len(columns) == dims else [f"dimension {d + 1}" for d in range(dims)]
    )
    if shown <= 2:
        figure = blank(4.6, 4.2 if shown == 2 else 3.0, theme)
        axes = quiet(figure.add_subplot(), theme)
        _scatter(axes, data, 0, 1, theme) if shown == 2 else histogram(axes, data, 0, theme)
        label(axes, theme, x=printable(names[0]), y=printable(names[1]) if shown == 2 else "share of rows")
    else:
        figure = blank(6.4, 6.2, theme)
        axes = _pairs(figure, data, names, shown, theme)
    if len(data) > 1:
        legend(axes, theme, list(data), [theme.colours[i % 10] for i in range(len(data))], columns=1 + (len(data) > 5))
    return figure


def name_medians(axes: Axes, groups: Mapping[str, Tensor], theme: Theme) -> None:
    """The name of each group of points in the plane at their median, for eyes that do not tell all colours apart."""
    halo = [withStroke(linewidth=2.5, foreground=theme.background)]
    for name, rows in groups.items():
        across, up = rows.double().median(0).values.tolist()
        axes.text(
            across,
            up,
            printable(name, 16),
            color=theme.ink,
            fontsize=SIZE,
            ha="center",
            va="center",
            path_effects=halo,
            parse_math=False,
        )


def _pairs(figure: Figure, data: Mapping[str, Array], names: list[str], shown: int, theme: Theme) -> Axes:
    panels = figure.subplots(shown, shown, squeeze=False)
    for row in range(shown):
        for column in range(shown):
            axes = quiet(panels[row][column], theme)
            axes.tick_params(labelsize=SIZE - 3)
            if column > row:
                axes.set_axis_off()
                continue
            histogram(axes, data, row, theme) if row == column else _scatter(axes, data, column, row, theme)
            label(
                axes,
                theme,
                x=printable(names[column], 16) if row == shown - 1 else "",
                y=printable(names[row], 16) if column == 0 and row else "",
            )
    corner: Axes = panels[0][shown - 1]
    return corner


def _scatter(axes: Axes, data: Mapping[str, Array], across: int, up: int, theme: Theme) -> None:
    for number, rows in enumerate(data.values()):
        pair = rows[:MOST_POINTS, [across, up]]
        pair = pair[np.isfinite(pair).all(1)]
        axes.scatter(pair[:, 0], pair[:, 1], s=6, alpha=0.55, linewidths=0, color=theme.colours[number % 10])


def histogram(axes: Axes, data: Mapping[str, Array], column: int, theme: Theme) -> None:
    """Histograms of one column of each group over the same bins, as shares of the group; missing cells left out."""
    values = [rows[:, column][np.isfinite(rows[:, column])] for rows in data.values()]
    everything = np.concatenate(values)
    if len(everything) == 0:
        return
    low, high = float(everything.min()), float(everything.max())
    edges = np.linspace(low, high, 41) if high > low else np.array([low - 0.5, low + 0.5])
    for number, group in enumerate(values):
        shares = np.histogram(group, edges)[0] / max(1, len(group))
        colour = theme.colours[number % 10]
        axes.stairs(shares, edges, color=colour, linewidth=1.3, fill=False)
        axes.stairs(shares, edges, color=colour, alpha=0.18, fill=True)


def ellipses_figure(
    means: Array,
    covariances: Array,
    weights: Array,
    *,
    rows: Tensor | None = None,
    columns: Sequence[str] | None = None,
    theme: Theme = LIGHT,
) -> Figure:
    """Two-dimensional normals as ellipses at 1 and 2 standard deviations, over rows if there are any.

    Args:
        means: `(K, 2)`.
        covariances: `(K, 2, 2)`.
        weights: `(K,)`, which set the widths of the lines.
        rows: `(n, 2)`.
        columns: names of the two dimensions.
        theme: the colours.
    """
    figure = blank(4.6, 4.2, theme)
    axes = quiet(figure.add_subplot(), theme)
    if rows is not None:
        _scatter(axes, {"rows": rows.flatten(1).double().numpy()}, 0, 1, theme)
    angle = np.linspace(0, 2 * np.pi, 100)
    circle = np.stack([np.cos(angle), np.sin(angle)])
    for mean, covariance, weight in zip(means, covariances, weights, strict=True):
        outline = np.linalg.cholesky(covariance) @ circle
        for radius in (1, 2):
            x, y = mean[:, None] + radius * outline
            axes.plot(x, y, color=theme.colours[1], linewidth=0.6 + 1.6 * float(np.sqrt(weight)))
    names = list(columns) if columns and len(columns) == 2 else ["dimension 1", "dimension 2"]
    label(axes, theme, x=printable(names[0]), y=printable(names[1]))
    return figure
