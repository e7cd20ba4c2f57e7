"""Directed acyclic graphs over columns 0 … D - 1, written as edges "0>1,1>2" from parent to child.

A graph says that p(x) = ∏_i p(x_i | x_{parents of i}): the chain rule along a topological order, with the columns left out
that a column does not depend on given its parents. (Pearl 1988, "Probabilistic reasoning in intelligent systems", section
3.3; the order: Kahn 1962.)
"""

import heapq
import re
from dataclasses import dataclass

from jensen.errors import InputError, brief


@dataclass(frozen=True)
class Dag:
    """Parents of every column, ascending, and an order in which parents come first."""

    parents: tuple[tuple[int, ...], ...]
    order: tuple[int, ...]

    @property
    def is_forest(self) -> bool:
        """Whether no column has two parents."""
        return all(len(above) <= 1 for above in self.parents)

    def children(self) -> list[list[int]]:
        """The children of every column."""
        below: list[list[int]] = [[] for _ in self.parents]
        for child, above in enumerate(self.parents):
            for parent in above:
                below[parent].append(child)
        return below

    def __str__(self) -> str:
        return ",".join(f"{parent}>{child}" for child, above in enumerate(self.parents) for parent in above)


def dag_of(parents: list[list[int]]) -> Dag:
    """The graph with these parents of every column.

    Raises:
        InputError: there is a cycle; names it.

    Example:
        >>> dag_of([[1], [], [0, 1]]).order
        (1, 0, 2)
    """
    above = tuple(tuple(sorted(set(p))) for p in parents)
    below: list[list[int]] = [[] for _ in above]
    for child, own in enumerate(above):
        for parent in own:
            below[parent].append(child)
    waiting = [len(own) for own in above]
    ready = [column for column, count in enumerate(waiting) if count == 0]
    order: list[int] = []
    while ready:
        column = heapq.heappop(ready)
        order.append(column)
        for child in below[column]:
            waiting[child] -= 1
            if waiting[child] == 0:
                heapq.heappush(ready, child)
    if len(order) < len(above):
        circle = " > ".join(map(str, _cycle(above, {c for c, count in enumerate(waiting) if count})))
        raise InputError(f"the edges have the cycle {circle}; a Bayesian network has none: leave out one of its edges")
    return Dag(above, tuple(order))


def parsed(edges: str, dims: int) -> Dag:
    """The graph that a text such as "0>1,1>2" describes; "" has no edges.

    Args:
        edges: pairs parent>child, columns counted from 0.
        dims: the number of columns.

    Raises:
        InputError: another form, a column that is not there, an edge twice or to itself, a cycle.

    Example:
        >>> str(parsed("0>2, 1>2", 3))
        '0>2,1>2'
    """
    parents: list[list[int]] = [[] for _ in range(dims)]
    seen: set[tuple[int, int]] = set()
    for word in edges.split(",") if edges.strip() else []:
        match = re.fullmatch(r"\s*(\d{1,9})\s*>\s*(\d{1,9})\s*", word)
        if not match:
            raise InputError(
                f'edges are written parent>child like "0>1,1>2", columns counted from 0, got {brief(word)}'
            )
        parent, child = int(match[1]), int(match[2])
        if max(parent, child) >= dims:
            raise InputError(f"edge {parent}>{child} needs columns 0 to {dims - 1} (counted from 0); correct it")
        if parent == child or (parent, child) in seen:
            what = "goes from a column to itself" if parent == child else "is given twice"
            raise InputError(f"edge {parent}>{child} {what}; leave it out")
        parents[child].append(parent)
        seen.add((parent, child))
    return dag_of(parents)


def _cycle(parents: tuple[tuple[int, ...], ...], left: set[int]) -> list[int]:
    """A cycle among columns that each have a parent among them, in the direction of the edges."""
    path = [min(left)]
    while True:
        nearest = next(parent for parent in parents[path[-1]] if parent in left)
        if nearest in path:
            return [nearest, *path[path.index(nearest) :][::-1]]
        path.append(nearest)
