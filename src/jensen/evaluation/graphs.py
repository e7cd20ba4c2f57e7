"""A directed graph as a picture: columns are dots, edges go from parent to child, the wider the more they carry."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from jensen.evaluation.figures import LIGHT, Theme, bare, blank, printable

MOST_NAMES = 60
Places = Mapping[int, tuple[float, float]]


def graph_figure(
    parents: Sequence[Sequence[int]],
    strength: Mapping[tuple[int, int], float],
    names: Sequence[str],
    *,
    grid: tuple[int, int] | None = None,
    theme: Theme = LIGHT,
) -> Figure:
    """Draw it.

    Args:
        parents: of every column.
        strength: (parent, child) → what the width of the edge follows; an edge that is not there is thin.
        names: of the columns.
        grid: height and width, where columns are the pixels of a picture in row-major order; layers from the roots down if None.
        theme: colours.
    """
    places = _pixels(*grid) if grid else layers(parents)
    across, down = (max(place[axis] for place in places.values()) + 1 for axis in (0, 1))
    figure = blank(*((5.0, 5.0 * down / across) if grid else (6.4, 0.9 + 0.55 * down)), theme)
    axes = bare(figure.add_subplot())
    most = max(strength.values(), default=0.0) or 1.0
    edges = [(parent, child) for child, above in enumerate(parents) for parent in above]
    axes.add_collection(
        LineCollection(
            [[places[parent], places[child]] for parent, child in edges],
            linewidths=[0.6 + 3.0 * strength.get(edge, 0.0) / most for edge in edges],
            colors=theme.colours[0],
        )
    )
    x, y = np.array([places[column] for column in range(len(parents))]).T
    axes.scatter(x, y, s=10, color=theme.ink, zorder=2)
    if not grid and len(names) <= MOST_NAMES:
        for column, name in enumerate(names):
            axes.annotate(
                printable(name, 18),
                places[column],
                (0, 4),
                textcoords="offset points",
                ha="center",
                fontsize=7,
                color=theme.ink,
                path_effects=[withStroke(linewidth=3, foreground=theme.background)],
            )
    axes.set_xlim(-0.7, across - 0.3)
    axes.set_ylim(down - 0.3, -0.7)
    return figure


def _pixels(height: int, width: int) -> Places:
    return {row * width + column: (float(column), float(row)) for row in range(height) for column in range(width)}


def layers(parents: Sequence[Sequence[int]]) -> Places:
    """Each column below all its parents; every leaf has a place of its own across, a parent stands over its children's middle.

    A column with several parents hangs from the first of them.
    """
    below: dict[int, list[int]] = {column: [] for column in range(len(parents))}
    for child, above in enumerate(parents):
        if above:
            below[above[0]].append(child)
    depth = _depths(parents)
    across: dict[int, float] = {}
    leaves = 0
    waiting = [column for column in reversed(range(len(parents))) if not parents[column]]
    while waiting:  # children are placed before their parents, without recursion: a tree may be a chain of thousands
        column = waiting[-1]
        children = [child for child in below[column] if child not in across]
        if children:
            waiting += reversed(children)
            continue
        waiting.pop()
        own = [across[child] for child in below[column]]
        across[column] = sum(own) / len(own) if own else float(leaves)
        leaves += not own
    return {column: (across[column], float(depth[column])) for column in across}


def _depths(parents: Sequence[Sequence[int]]) -> dict[int, int]:
    """The longest way from a root to each column."""
    depth: dict[int, int] = {}
    waiting = list(range(len(parents)))
    while waiting:
        column = waiting[-1]
        unknown = [parent for parent in parents[column] if parent not in depth]
        if unknown:
            waiting += unknown
            continue
        waiting.pop()
        depth[column] = max((depth[parent] + 1 for parent in parents[column]), default=0)
    return depth
