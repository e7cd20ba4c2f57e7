"""Exact log p of the observed cells of a row: sums over the missing ones, in log space.

On a forest, messages go up from the leaves (sum-product: Pearl 1982, "Reverend Bayes on inference engines"):

    m_i(x_pa) = log Σ_{x_i} p(x_i | x_pa) exp(Σ_{children c} m_c(x_i)),   no sum where x_i is observed

for all rows at once. On other graphs missing columns are eliminated one by one (Zhang and Poole 1994), rows with the same
cells missing together; missing columns with nothing observed below sum to one and are dropped first. The cost grows with
the largest table on the way, and tables that are too large are refused.

A marginal is a derivative: with a log-potential φ_i(a) added to x_i = a, ∂ log p/∂φ_i(a) = p(x_i = a | observed) (Darwiche
2003, "A differential approach to inference in Bayesian networks"), so one backward pass gives all of them.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from jensen.errors import InputError
from jensen.graphical.tables import Tables

CELLS_AT_ONCE, MOST_TABLE = 1 << 22, 1 << 22
Factor = tuple[tuple[int, ...], Tensor]  # columns, and the table `(B, k, …, k)` over them


def log_prob(tables: Tables, flat: Float64[Tensor, " cells"], codes: Int64[Tensor, "B D"]) -> Float64[Tensor, " B"]:
    """log p of the observed cells (codes from 0; -1 is missing) of each row; 0 where nothing is observed.

    Raises:
        InputError: summing over the missing cells would take tables that are too large.
    """
    complete = (codes >= 0).all(1)
    if bool(complete.all()):
        return flat[tables.index(codes)].sum(1)
    out = torch.empty(len(codes), dtype=torch.float64)
    out[complete] = flat[tables.index(codes[complete])].sum(1)
    out[~complete] = marginal(tables, flat, codes[~complete])
    return out


def marginal(tables: Tables, flat: Tensor, codes: Int64[Tensor, "B D"], potentials: Tensor | None = None) -> Tensor:
    """The same with log-potentials `(B, D, k)` on the missing cells, differentiable in them."""
    if tables.dag.is_forest:
        return on_forest(tables, flat, codes, potentials)
    return by_elimination(tables, flat, codes, potentials)


def posterior(tables: Tables, flat: Tensor, codes: Int64[Tensor, "B D"]) -> Float64[Tensor, "B D k"]:
    """p(x_i = a | observed cells) of every column, `(B, D, k)`; one-hot for the observed."""
    with torch.enable_grad():
        potentials = torch.zeros(*codes.shape, tables.k, dtype=torch.float64, requires_grad=True)
        total = marginal(tables, flat, codes, potentials).sum()
        hidden = torch.autograd.grad(total, potentials)[0] if total.requires_grad else torch.zeros_like(potentials)
    known = torch.nn.functional.one_hot(codes.clamp(min=0), tables.k).double()
    return torch.where((codes >= 0)[..., None], known, hidden)


def on_forest(tables: Tables, flat: Tensor, codes: Int64[Tensor, "B D"], potentials: Tensor | None = None) -> Tensor:
    """Messages from the leaves to the roots."""
    dag, rows = tables.dag, len(codes)
    inbox: list[Tensor | None] = [None] * len(dag.parents)
    informed = torch.zeros(rows, len(dag.parents), dtype=torch.bool)  # whether anything at or below is observed
    total = torch.zeros(rows, dtype=torch.float64)
    for column in reversed(dag.order):
        table = tables.of(flat, column).reshape(-1, tables.k)
        below = inbox[column]
        if potentials is not None:
            below = potentials[:, column] if below is None else below + potentials[:, column]
            informed[:, column] = True
        message = _message(table, codes[:, column], below, informed[:, column])
        informed[:, column] |= codes[:, column] >= 0
        if not dag.parents[column]:
            total = total + message[:, 0]
            continue
        parent = dag.parents[column][0]
        earlier = inbox[parent]
        inbox[parent] = message if earlier is None else earlier + message
        informed[:, parent] |= informed[:, column]
    return total


def _message(table: Tensor, code: Tensor, below: Tensor | None, informed: Tensor) -> Tensor:
    """log Σ_x p(x | parent) exp(below(x)) for every state of the parent, `(B, q)`; rows with nothing below say 0."""
    seen = (code >= 0).nonzero()[:, 0]
    summed = ((code < 0) & informed).nonzero()[:, 0]
    value = table[:, code[seen]].T
    if below is not None:
        value = value + below[seen].gather(1, code[seen][:, None])
    out = torch.zeros(len(code), len(table), dtype=torch.float64).index_put((seen,), value)
    if below is None or len(summed) == 0:
        return out
    at_once = max(1, CELLS_AT_ONCE // table.numel())
    parts = [(table + below[rows][:, None, :]).logsumexp(-1) for rows in summed.split(at_once)]
    return out.index_put((summed,), torch.cat(parts))


def by_elimination(
    tables: Tables, flat: Tensor, codes: Int64[Tensor, "B D"], potentials: Tensor | None = None
) -> Tensor:
    """Rows with the same missing cells at a time."""
    patterns, which = torch.unique(codes < 0, dim=0, return_inverse=True)
    out = torch.zeros(len(codes), dtype=torch.float64)
    for number, pattern in enumerate(patterns):
        missing = set(pattern.nonzero()[:, 0].tolist())
        needed = set(range(len(pattern))) if potentials is not None else _with_news(tables, missing)
        order, largest = _elimination_order(tables, missing & needed, needed)
        if tables.k**largest > MOST_TABLE:
            raise InputError(
                f"summing over the {len(missing)} missing cells of a row needs a table of {tables.k} levels to the power "
                f"{largest}, more than {MOST_TABLE:,} cells; use a tree (leave out edges), fewer levels, or fill such cells"
            )
        rows = (which == number).nonzero()[:, 0]
        for block in rows.split(max(1, CELLS_AT_ONCE // tables.k**largest)):
            own = None if potentials is None else potentials[block]
            out = out.index_put((block,), _eliminated(tables, flat, codes[block], order, needed, own))
    return out


def _with_news(tables: Tables, missing: set[int]) -> set[int]:
    """The columns that are observed, or have something observed below them."""
    children, needed = tables.dag.children(), set[int]()
    for column in reversed(tables.dag.order):
        if column not in missing or any(child in needed for child in children[column]):
            needed.add(column)
    return needed


def _elimination_order(tables: Tables, missing: set[int], needed: set[int]) -> tuple[list[int], int]:
    """Missing columns, always the one with the fewest neighbours, and the number of axes of the largest table."""
    near: dict[int, set[int]] = {column: set() for column in missing}
    largest = 0
    for column in needed:
        scope = {column, *tables.dag.parents[column]} & missing
        largest = max(largest, len(scope))
        for one in scope:
            near[one] |= scope - {one}
    order = []
    while near:
        column = min(near, key=lambda c: (len(near[c]), c))
        around = near.pop(column)
        largest = max(largest, len(around) + 1)
        for one in around:
            near[one] = (near[one] | around) - {one, column}
        order.append(column)
    return order, largest


def _eliminated(
    tables: Tables, flat: Tensor, codes: Tensor, order: Sequence[int], needed: set[int], potentials: Tensor | None
) -> Tensor:
    """log Σ over the columns of `order` of the product of all tables at the observed codes, `(B,)`."""
    missing = set(order)
    factors = [_factor(tables, flat, codes, column, missing) for column in sorted(needed)]
    if potentials is not None:
        factors += [((column,), potentials[:, column]) for column in order]
    for column in order:
        joined = [factor for factor in factors if column in factor[0]]
        scope = tuple(sorted({c for columns, _ in joined for c in columns}))
        product = _sum_of([_spread(factor, scope) for factor in joined])
        left = tuple(c for c in scope if c != column)
        factors = [f for f in factors if column not in f[0]] + [(left, product.logsumexp(1 + scope.index(column)))]
    return _sum_of([table for _, table in factors]) if factors else torch.zeros(len(codes), dtype=torch.float64)


def _factor(tables: Tables, flat: Tensor, codes: Tensor, column: int, missing: set[int]) -> Factor:
    """A column's table at the observed codes, over its missing columns in ascending order."""
    family = (*tables.dag.parents[column], column)
    scope = tuple(sorted(set(family) & missing))
    places = []
    for one in family:
        shape = [1] * (1 + len(scope))
        shape[1 + scope.index(one) if one in scope else 0] = -1
        places.append((torch.arange(tables.k) if one in scope else codes[:, one]).reshape(shape))
    table = tables.of(flat, column)[tuple(places)]
    return scope, table.expand(len(codes), *table.shape[1:])


def _spread(factor: Factor, scope: tuple[int, ...]) -> Tensor:
    """A factor's table with axes of size one for the columns it does not have; its columns ascend."""
    columns, table = factor
    shape = [table.shape[0], *[table.shape[1 + columns.index(c)] if c in columns else 1 for c in scope]]
    return table.reshape(shape)


def _sum_of(tables: list[Tensor]) -> Tensor:
    total = tables[0]
    for table in tables[1:]:
        total = total + table
    return total


def uniform(cells: int, k: int) -> Float64[Tensor, " cells"]:
    """The tables of a graph that has seen nothing."""
    return torch.full((cells,), -math.log(k), dtype=torch.float64)
