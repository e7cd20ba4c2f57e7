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
    return Integral(value.sum(0), error.sum(0), low, high, value)


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
    """The value of each box by the better rule and its distance from the other, a chunk of boxes at a time."""
    size = max(1, CHUNK // _cost(low.shape[1]))
    pairs = [_chunk(f, a, b) for a, b in zip(low.split(size), high.split(size), strict=True)]
    return torch.cat([value for value, _ in pairs]), torch.cat([error for _, error in pairs])


def _chunk(f: Integrand, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    fine, *others = RULES[low.shape[1]]
    nodes, weights = _nodes(low.shape[1], fine)
    values = _at(f, low, high, nodes)
    better = _sum(values, weights, low, high)
    error = 2 * torch.stack([(better - _rule(f, low, high, points)).abs() for points in others]).amax(0)
    if low.shape[1] == 1:
        error = torch.maximum(error, _hidden(f, low, high, values))
    return better, error.nan_to_num(nan=0.0)  # ∞ - ∞: the value says it


def _rule(f: Integrand, low: Tensor, high: Tensor, points: int) -> Tensor:
    nodes, weights = _nodes(low.shape[1], points)
    return _sum(_at(f, low, high, nodes), weights, low, high)


def _at(f: Integrand, low: Tensor, high: Tensor, nodes: Tensor) -> Tensor:
    """f at the nodes of each box, `(boxes, nodes, c)`."""
    x = low[:, None] + (high - low)[:, None] * nodes
    return f(x.reshape(-1, low.shape[1])).reshape(len(low), len(nodes), -1)


def _sum(values: Tensor, weights: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return (values * weights[:, None]).sum(1) * (high - low).prod(1)[:, None]


def _hidden(f: Integrand, low: Tensor, high: Tensor, values: Tensor) -> Tensor:
    """How much may hide between an end of a box and its first node."""
    nodes = _nodes(1, RULES[1][0])[0]
    ends, continued = _continuation()
    surprise = (_at(f, low, high, ends) - torch.einsum("en,bnc->bec", continued, values)).abs().sum(1)
    surprise = torch.where(surprise > 1e-12 * values.abs().amax(1), surprise, 0.0)  # rounding
    return surprise * (high - low) * nodes.min()


@cache
def _continuation() -> tuple[Tensor, Tensor]:
    """Points just inside both ends, and the matrix from values at the nodes to the polynomial's values there (Lagrange)."""
    nodes = _nodes(1, RULES[1][0])[0][:, 0]
    ends = torch.tensor([INSIDE, 1 - INSIDE], dtype=torch.float64)
    others = ~torch.eye(len(nodes), dtype=torch.bool)
    above = torch.where(others, ends[:, None, None] - nodes, 1.0).prod(-1)
    below = torch.where(others, nodes[:, None] - nodes, 1.0).prod(-1)
    return ends[:, None], above / below


@cache
def _nodes(dims: int, points: int) -> tuple[Tensor, Tensor]:
    """Gauss–Legendre on [0, 1]^d."""
    x, w = np.polynomial.legendre.leggauss(points)
    axes = np.meshgrid(*[0.5 * (x + 1)] * dims, indexing="ij")
    weights = np.prod(np.meshgrid(*[0.5 * w] * dims, indexing="ij"), axis=0)
    return torch.from_numpy(np.stack([a.ravel() for a in axes], 1)), torch.from_numpy(weights.ravel())


def _cost(dims: int) -> int:
    return sum(int(points**dims) for points in RULES[dims]) + 2 * (dims == 1)
