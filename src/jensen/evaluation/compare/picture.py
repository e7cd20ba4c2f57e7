"""The picture of a comparison: costs with their error bars, one panel a measure, the best on top.

A mark says what a number is: a dot is exact, a triangle points to where the true cost of a bound may lie, a diamond is an
estimate. Fine strokes are the runs with other seeds. A model far beyond the others stands at the edge with its number.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jensen.evaluation.charts import MARKS, dots
from jensen.evaluation.compare.text import kind, unit
from jensen.evaluation.figures import FONT, LIGHT, SIZE, Theme, blank
from jensen.evaluation.numbers import cost, part, real, word

FAR = 5.0  # times as far from the best as the next
Row = Mapping[str, Any]


def picture(record: Mapping[str, Any], theme: Theme = LIGHT) -> Figure:
    """One panel a measure; a line that says so where there is no number at all."""
    panels = _panels(record["models"])
    heights = [0.36 * len(rows) + 0.75 for rows in panels]
    figure = blank(5.2, max(1.0, sum(heights)), theme)
    if not panels:
        figure.text(0.05, 0.5, "no model has a likelihood here", color=theme.muted, fontsize=SIZE, family=FONT)
        return figure
    for axes, rows in zip(
        figure.subplots(len(panels), squeeze=False, height_ratios=heights)[:, 0], panels, strict=True
    ):
        _panel(axes, rows, theme)
    return figure


def _panels(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows with finite numbers, measure by measure."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        if cost(part(row, "log_likelihood"), unit(row)) is not None:
            found.setdefault(word(part(row, "log_likelihood"), "measure"), []).append(row)
    return list(found.values())


def _panel(axes: Axes, rows: Sequence[Row], theme: Theme) -> None:
    costs = [found for row in rows if (found := cost(part(row, "log_likelihood"), unit(row)))]
    values = [value for value, _ in costs]
    edge, of = _edge(costs), unit(rows[0])
    shown = [min(value, edge) for value in values]
    inside = [error if value <= edge else math.nan for value, error in costs]
    label = f"{of.name}{' of −log p' if of.name == 'nats' else ''} (further left is better)"
    marks = [MARKS.get(kind(row), "o") if value <= edge else "$→$" for row, value in zip(rows, values, strict=True)]
    dots(axes, [row["model"] for row in rows], shown, inside, marks, unit=label, theme=theme)
    for place, (row, value) in enumerate(zip(rows, values, strict=True)):
        if value > edge:
            said: dict[str, Any] = {
                "ha": "right",
                "va": "center",
                "color": theme.muted,
                "fontsize": SIZE - 1,
                "family": FONT,
            }
            axes.annotate(f"{value:.4g}", (edge, place), (-8, 0), textcoords="offset points", **said)
        _other_seeds(axes, row, place, edge, theme)


def _other_seeds(axes: Axes, row: Row, place: int, edge: float, theme: Theme) -> None:
    means = [mean for run in row["seeds"][1:] if (mean := real(run, "mean_nats")) is not None]
    costs = [-mean * unit(row).scale for mean in means if -mean * unit(row).scale <= edge]
    axes.plot(costs, [place] * len(costs), "|", color=theme.muted, markersize=10, markeredgewidth=1)


def _edge(costs: Sequence[tuple[float, float]]) -> float:
    """Where the axis ends: at the last number that is not far beyond the one before it, measured by how far that one is
    from the best, or by the error bars.
    """
    ordered = sorted(costs)
    for place, ((before, _), (value, _)) in enumerate(itertools.pairwise(ordered[1:]), 2):
        reach = max(before - ordered[0][0], *(2 * error for _, error in ordered[:place]))
        if value - ordered[0][0] > FAR * reach > 0:
            return before + 0.25 * reach
    return ordered[-1][0]
