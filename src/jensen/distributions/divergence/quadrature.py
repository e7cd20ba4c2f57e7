"""Adaptive integration over boxes, in one and two dimensions, with an error that is watched.

Each box is integrated by Gauss–Legendre rules of different order; twice their largest difference is taken for the error of
the best one, which is far smaller for anything smooth. Boxes with too large a share of the error are halved along every
axis until the sum of all errors is below the tolerance (the scheme of QUADPACK, Piessens et al. 1983), or the budget
of evaluations is spent. Rules may agree and all be wrong: halving stops where they do, so that happens more often than by
chance. So the children of a box also share at least what their sum differs from their parent; and on the line f is looked at
just inside both ends of a box, where a kink can hide from every node: what it differs there from the polynomial through the nodes, times the
width that has no node, is the least error of the box.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

Integrand = Callable[[Tensor], Tensor]
RULES = {1: (21, 15, 10), 2: (12, 7)}  # the first is the value
BUDGET = 2_000_000
CHUNK = 1 << 17
INSIDE = 1e-6
ROUNDING = 1e-15


@dataclass(frozen=True)
class Integral:
    """∫ f over all boxes, `(c,)`; the sum of the boxes' errors `(c,)`; the boxes `(n, d)` with what each holds `(n, c)`."""

    value: Float64[Tensor, " c"]
    error: Float64[Tensor, " c"]
    low: Float64[Tensor, "n d"]
    high: Float64[Tensor, "n d"]
    parts: Float64[Tensor, "n c"]


def integrate(
    f: Integrand, low: Float64[Tensor, "n d"], high: Float64[Tensor, "n d"], tolerance: float, budget: int = BUDGET
) -> Integral:
    """∫ f over the union of boxes; its error may exceed the tolerance if the budget is spent.

    Args:
        f: points `(m, d)` → `(m, c)`, several functions at once.
        low: lower corners.
        high: upper corners.
        tolerance: on the sum of the errors of each function, absolute; relative where the integral is above 1.
        budget: the most evaluations of f.
    """
    value, error = _boxes(f, low, high)
    spent = len(low) * _cost(low.shape[1])
    while bool(torch.isfinite(value).all()):
        allowed = tolerance * value.sum(0).abs().clamp(min=1.0)
        if bool((error.sum(0) <= allowed).all()):
            break
        split = (error > 0.5 * allowed / len(error)).any(1)
        children = int(split.sum()) << low.shape[1]
        spent += children * _cost(low.shape[1])
        if spent > budget or not children:
            break
        new_low, new_high = _halved(low[split], high[split])
        new_value, new_error = _boxes(f, new_low, new_high)
        new_error = torch.maximum(new_error, _surprise(value[split], new_value, low.shape[1]))
        low, high = torch.cat([low[~split], new_low]), torch.cat([high[~split], new_high])
        value, error = torch.cat([value[~split], new_value]), torch.cat([error[~split], new_error])
    rounding = ROUNDING * value.abs().sum(0).nan_to_num(posinf=0.0)
    return Integral(value.sum(0), error.sum(0) + rounding, low, high, value)


def _surprise(parents: Tensor, children: Tensor, dims: int) -> Tensor:
    """Each child's share of |parent - Σ children|; the children of all parents stand in 2^d blocks."""
    count = 1 << dims
    change = (parents - children.reshape(count, *parents.shape).sum(0)).abs().nan_to_num(nan=0.0)
    return (change / count).repeat(count, 1)


def _halved(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    for axis in range(low.shape[1]):
        middle_low, middle_high = low.clone(), high.clone()
        middle_low[:, axis] = middle_high[:, axis] = 0.5 * (low[:, axis] + high[:, axis])
        low, high = torch.cat([low, middle_low]), torch.cat([middle_high, high])
    return low, high


def _boxes(f: Integrand, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """The value of each box by the best rule, and its error, a chunk of boxes at a time."""
    size = max(1, CHUNK // _cost(low.shape[1]))
    pairs = [_chunk(f, a, b) for a, b in zip(low.split(size), high.split(size), strict=True)]
    return torch.cat([value for value, _ in pairs]), torch.cat([error for _, error in pairs])


def _chunk(f: Integrand, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    rule = _rule(low.shape[1])
    x = low[:, None] + (high - low)[:, None] * rule.nodes
    values = f(x.reshape(-1, low.shape[1])).reshape(len(low), len(rule.nodes), -1)
    infinite = values[:, : rule.best].isinf().any(1)
    values = torch.where(values.isinf(), 0.0, values)
    volume = (high - low).prod(1)[:, None]
    numbers = torch.einsum("rn,bnc->rbc", rule.functionals, values) * volume
    errors = torch.where(numbers[1:].abs() > ROUNDING * values.abs().amax(1) * volume, numbers[1:].abs(), 0.0)
    return torch.where(infinite, torch.inf, numbers[0]), torch.where(infinite, 0.0, errors.amax(0))


def _cost(dims: int) -> int:
    return len(_rule(dims).nodes)


@dataclass(frozen=True)
class _Rule:
    """All nodes in [0, 1]^d, those of the best rule first, and what is computed from the values there: the integral, then errors."""

    nodes: Tensor
    best: int
    functionals: Tensor


@cache
def _rule(dims: int) -> _Rule:
    """The best rule, twice its difference from each other rule, and on the line what may hide at either end."""
    parts = [_gauss(dims, points) for points in RULES[dims]]
    ends = torch.tensor([[INSIDE], [1 - INSIDE]], dtype=torch.float64)[: 2 if dims == 1 else 0].reshape(-1, dims)
    nodes = torch.cat([*(x for x, _ in parts), ends])
    best, weights = parts[0]
    value = torch.zeros(len(nodes), dtype=torch.float64)
    value[: len(best)] = weights
    rows, start = [value], len(best)
    for x, other in parts[1:]:
        rows.append(2 * value)
        rows[-1] = rows[-1].index_add(0, torch.arange(start, start + len(x)), -2 * other)
        start += len(x)
    for number, continued in enumerate(_continued(best[:, 0], ends[:, 0]) if dims == 1 else ()):
        row = torch.zeros_like(value)
        row[: len(best)], row[start + number] = -continued, 1.0
        rows.append(row * best.min())
    return _Rule(nodes, len(best), torch.stack(rows))


def _continued(nodes: Tensor, points: Tensor) -> Tensor:
    """The matrix from values at nodes to the values at other points of the polynomial through them (Lagrange)."""
    others = ~torch.eye(len(nodes), dtype=torch.bool)
    above = torch.where(others, points[:, None, None] - nodes, 1.0).prod(-1)
    return above / torch.where(others, nodes[:, None] - nodes, 1.0).prod(-1)


def _gauss(dims: int, points: int) -> tuple[Tensor, Tensor]:
    """Gauss–Legendre on [0, 1]^d."""
    x, w = np.polynomial.legendre.leggauss(points)
    axes = np.meshgrid(*[0.5 * (x + 1)] * dims, indexing="ij")
    weights = np.prod(np.meshgrid(*[0.5 * w] * dims, indexing="ij"), axis=0)
    return torch.from_numpy(np.stack([a.ravel() for a in axes], 1)), torch.from_numpy(weights.ravel())
