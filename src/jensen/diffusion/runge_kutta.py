"""Dormand and Prince's pair of orders 5 and 4, every row with steps of its own.

    y(t + h) = y + h Σ_j b_j k_j,   k_j = f(t + c_j h, y + h Σ_{l<j} a_jl k_l),   error of the step ≈ h Σ_j e_j k_j

The last slope of a step is the first of the next, so a step costs six slopes. A step is taken where its error is within the tolerance, and
the next one is longer or shorter by the fifth root of what is left of it. The rows of a batch do not share a step, so that company changes no
row. (Dormand and Prince 1980; Hairer, Nørsett and Wanner 1993, "Solving ordinary differential equations I", section II.4.)
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from jensen.errors import FitError

Slope = Callable[[Tensor, Tensor, Tensor], Tensor]
"""t (n,), y (n, D) and the numbers of the rows (n,) → dy/dt (n, D)."""

MOST_STEPS, SHORTEST = 10_000, 1e-12  # in number, and of the whole way
_A = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_C = tuple(sum(row) for row in _A)
_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


@dataclass(frozen=True)
class Solution:
    """y at the end `(B, D)`, and how many slopes each row took `(B,)`."""

    y: Float64[Tensor, "B D"]
    slopes: Int[Tensor, " B"]


def solve(
    slope: Slope,
    y: Float64[Tensor, "B D"],
    start: float,
    end: float,
    size: Callable[[Tensor, Tensor], Tensor],
    *,
    first: float = 0.05,
) -> Solution:
    """Adaptively, until every row is at the end.

    Args:
        slope: f.
        y: at the start.
        start: where.
        end: up or down from there.
        size: error of a step `(n, D)` and its t `(n,)` → how large it is `(n,)`; 1 is the most that is allowed.
        first: the first step, as a share of the way.

    Raises:
        FitError: no end in sight.
    """
    y, length = y.clone(), end - start
    t, h = y.new_full((len(y),), start), y.new_full((len(y),), first * length)
    slopes = torch.ones(len(y), dtype=torch.int64)
    here = slope(t, y, torch.arange(len(y)))
    for _ in range(MOST_STEPS):
        rows = ((end - t) / length > 1e-12).nonzero()[:, 0]
        if len(rows) == 0:
            return Solution(y, slopes)
        last = (end - t[rows]) / length <= h[rows] / length * (1 + 1e-9)
        step = torch.where(last, end - t[rows], h[rows])
        new, error, there = _step(slope, t[rows], y[rows], here[rows], step, rows)
        slopes[rows] += len(_A)
        ratio = size(error, t[rows]).nan_to_num(nan=1e9, posinf=1e9)
        good, taken = ratio <= 1, rows[ratio <= 1]
        y[taken], here[taken] = new[good], there[good]
        t[taken] = torch.where(last[good], torch.full_like(t[taken], end), t[taken] + step[good])
        if bool((step / length < SHORTEST).any() & ~good.all()):
            break
        h[rows] = step * (0.9 * ratio.clamp(min=1e-10) ** -0.2).clamp(0.2, 5.0)
    raise FitError(
        "the differential equation is not solved: its steps have become too many or too short; ask for a larger tolerance, or for a "
        "number of steps"
    )


def solve_in_steps(slope: Slope, y: Float64[Tensor, "B D"], start: float, end: float, steps: int) -> Solution:
    """In so many equal steps, whatever their error."""
    rows, h = torch.arange(len(y)), y.new_full((len(y),), (end - start) / steps)
    here = slope(y.new_full((len(y),), start), y, rows)
    for i in range(steps):
        t = y.new_full((len(y),), start + (end - start) * i / steps)
        y, _, here = _step(slope, t, y, here, h, rows)
    return Solution(y, torch.full((len(y),), 1 + len(_A) * steps))


def _step(slope: Slope, t: Tensor, y: Tensor, here: Tensor, h: Tensor, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """y one step on, the error, and the slope there."""
    slopes, new = [here], y
    for c, weights in zip(_C, _A, strict=True):
        new = y + h[:, None] * sum(w * k for w, k in zip(weights, slopes, strict=True) if w)
        slopes.append(slope(t + c * h, new, rows))
    error = h[:, None] * sum(w * k for w, k in zip(_ERROR, slopes, strict=True) if w)
    return new, error, slopes[-1]
