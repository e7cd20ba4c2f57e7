"""Distances on the line that distribution functions give: Wasserstein and energy.

    W_r^r = ∫_0^1 |F⁻(u) - G⁻(u)|^r du,    W_1 = ∫ |F - G| dx,    energy = 2 ∫ (F - G)² dx

(Santambrogio 2015, proposition 2.17; Székely and Rizzo 2013). For W_2 put u = Φ(z): then both ends of the integral are smooth
and tails are followed to probabilities of 10⁻³⁰⁰. Between laws on finitely many values all are finite sums.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float64
from torch import Tensor
from torch.distributions import Distribution

from jensen.distributions.divergence.edges import Boxes, boxes_for
from jensen.distributions.divergence.integrals import Estimate, tails
from jensen.distributions.divergence.quadrature import integrate
from jensen.distributions.line import Finite, Law

MOST_PAIRS = 1 << 22
END = 37.0  # φ(37) is 10⁻²⁹⁸
ROUNDING = 64 * torch.finfo(torch.float64).eps
Vector = Float64[Tensor, " n"]
Other = Float64[Tensor, " m"]


def between_atoms(x: Vector, u: Vector, y: Other, v: Other, order: int) -> float:
    """W_r^r of the masses u on x and v on y."""
    a, b = Finite(x, u), Finite(y, v)
    levels = torch.cat([a.cdf(a.values), b.cdf(b.values)]).clamp(max=1.0).sort().values
    before = torch.cat([levels.new_zeros(1), levels[:-1]])
    gap = (a.quantile(levels) - b.quantile(levels)).abs()
    return float(((levels - before) * gap.pow(order)).sum())


def energy_between_atoms(x: Float64[Tensor, "n d"], u: Vector, y: Float64[Tensor, "m d"], v: Other) -> float:
    """2 E‖X - Y‖ - E‖X - X'‖ - E‖Y - Y'‖ by all pairs."""

    def mean(x: Tensor, u: Tensor, y: Tensor, v: Tensor) -> float:
        """E‖X - Y‖ of the masses u `(n,)` on x `(n, d)` and v `(m,)` on y `(m, d)`."""
        return _over_pairs(lambda distance: distance, x, u, y, v)

    return max(0.0, 2 * mean(x, u, y, v) - mean(x, u, x, u) - mean(y, v, y, v))


def mmd_between_atoms(
    x: Float64[Tensor, "n d"], u: Vector, y: Float64[Tensor, "m d"], v: Other, bandwidth: float
) -> float:
    """E k(X, X') + E k(Y, Y') - 2 E k(X, Y) by all pairs."""

    def mean(x: Tensor, u: Tensor, y: Tensor, v: Tensor) -> float:
        """E k(X, Y) of the masses u `(n,)` on x `(n, d)` and v `(m,)` on y `(m, d)`."""
        return _over_pairs(lambda distance: (-0.5 * (distance / bandwidth).square()).exp(), x, u, y, v)

    return max(0.0, mean(x, u, x, u) + mean(y, v, y, v) - 2 * mean(x, u, y, v))


def _over_pairs(f: Callable[[Tensor], Tensor], x: Tensor, u: Tensor, y: Tensor, v: Tensor) -> float:
    """Σ u_i v_j f(‖x_i - y_j‖), so many rows at a time that 4 million pairs are held."""
    size = max(1, MOST_PAIRS // len(y))
    return sum(float(w @ f(distances(rows, y)) @ v) for rows, w in zip(x.split(size), u.split(size), strict=True))


def distances(x: Float64[Tensor, "n d"], y: Float64[Tensor, "m d"]) -> Float64[Tensor, "n m"]:
    """‖x_i - y_j‖ from differences: squares and products would cancel for neighbours."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")


def by_distribution_functions(
    p: Distribution, q: Distribution, a: Law, b: Law, order: int, tolerance: float
) -> Estimate:
    """W_1 (order 1), or half of the energy distance (order 2), as ∫ |F - G|^order dx."""
    boxes = _with_jumps(boxes_for(p, q), a, b)

    def f(y: Tensor) -> Tensor:
        """|F - G|^order at places `(n, 1)` of the boxes, `(n, 1)`."""
        x = boxes.x(y)[:, 0]
        below, above = (a.cdf(x), b.cdf(x)), (a.survival(x), b.survival(x))
        gap = torch.where(
            below[0] + below[1] < 1, below[0] - below[1], above[1] - above[0]
        )  # near 1 a cdf has no digits left
        return gap.abs().pow(order)[:, None] * boxes.volume

    found = integrate(f, boxes.low, boxes.high, tolerance)
    value, error = float(found.value[0]), float(found.error[0])
    return tails(found, boxes, tolerance) or Estimate(value, error, error <= tolerance * max(1.0, value))


def _with_jumps(boxes: Boxes, a: Law, b: Law) -> Boxes:
    """Edges at the values of laws of masses too."""
    jumps = [law.values for law in (a, b) if isinstance(law, Finite) and len(law.values) <= 4096]
    if not jumps:
        return boxes
    at = (torch.cat(jumps) - boxes.centre[0]) / boxes.axes[0, 0]
    edges = torch.cat([boxes.low[:, 0], boxes.high[:, 0], at]).unique()
    return Boxes(edges[:-1, None], edges[1:, None], boxes.centre, boxes.axes, boxes.octaves)


def by_quantiles(a: Law, b: Law, tolerance: float) -> Estimate:
    """W_2² = ∫ (F⁻(Φ(z)) - G⁻(Φ(z)))² φ(z) dz."""

    def f(z: Tensor) -> Tensor:
        """(F⁻(Φ(z)) - G⁻(Φ(z)))² φ(z) at z `(n, 1)`, `(n, 1)`."""
        z = z[:, 0]
        lower, upper = (torch.special.log_ndtr(side).exp().clamp(max=0.5) for side in (z, -z))  # ndtr has no tail
        x, y = (torch.where(z <= 0, law.quantile(lower), law.upper(upper)) for law in (a, b))
        gap = (x - y).abs()
        gap = torch.where(gap <= ROUNDING * torch.maximum(x.abs(), y.abs()), 0.0, gap)
        return (gap.square() * (-0.5 * z.square()).exp() / math.sqrt(2 * math.pi))[:, None]

    edges = torch.arange(-END, END + 1, dtype=torch.float64)[:, None]
    end = float(f(edges[[0, -1]]).max())
    before = float(f(edges[[1, -2]]).max())
    if end > tolerance:
        infinite = not math.isfinite(end) or end >= before * (1 - 1e-6)
        return Estimate(math.inf if infinite else end, 0.0, infinite, "the tails are too far apart")
    found = integrate(f, edges[:-1], edges[1:], tolerance)
    value, error = float(found.value[0]), float(found.error[0])
    return Estimate(value, error, error <= tolerance * max(1.0, value))
