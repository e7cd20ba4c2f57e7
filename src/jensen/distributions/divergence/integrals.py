"""Functionals of two laws by quadrature in one and two dimensions, or by sums over atoms.

The densities of the base are integrated along with the integrand: where they do not come out as 1, the boxes have missed
something, and the number is not given. On the line the last octaves of both tails are looked at: an integrand that holds as
much in the last as in the one before does not decay, and the integral is infinite (KL of a Cauchy from a normal).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Distribution

from jensen.distributions.atoms import atoms_of
from jensen.distributions.density import log_density
from jensen.distributions.divergence.edges import Boxes, boxes_for, is_box
from jensen.distributions.divergence.functionals import Functional
from jensen.distributions.divergence.quadrature import Integral, integrate


@dataclass(frozen=True)
class Estimate:
    """An expectation with its error, and whether the error is below the tolerance."""

    mean: float
    error: float
    settled: bool
    note: str = ""


def over_atoms(functional: Functional, p: Distribution, q: Distribution) -> tuple[float, bool] | None:
    """The sum over the values of both, and whether these are all; None if the laws are not both of masses."""
    a, b = atoms_of(p), atoms_of(q)
    if a is None or b is None:
        return None
    values = torch.cat([a.values, b.values]).unique(dim=0)
    log_p, log_q = (log_density(d, values) for d in (p, q))
    if a.whole:
        log_p = log_p.log_softmax(0)
    if b.whole:
        log_q = log_q.log_softmax(0)
    return float(functional.integrand(log_p, log_q).sum()), a.whole and b.whole


def over_boxes(functional: Functional, p: Distribution, q: Distribution, tolerance: float) -> Estimate | None:
    """The integral over the line or the plane; None where it can not be taken, or misses mass."""
    if not (is_box(p) and is_box(q)):
        return None
    boxes = boxes_for(p, q)

    def f(y: Tensor) -> Tensor:
        """The integrand and the densities it is taken over, at places `(n, d)` of the boxes: `(n, 2)` or `(n, 3)`."""
        x = boxes.x(y).reshape(-1, *p.event_shape)
        log_p, log_q = log_density(p, x), log_density(q, x)
        masses = [log_p.exp(), log_q.exp()][: 1 if functional.base == "p" else 2]
        return torch.stack([functional.integrand(log_p, log_q), *masses], 1) * boxes.volume

    return _judged(integrate(f, boxes.low, boxes.high, tolerance), boxes, tolerance)


def _judged(found: Integral, boxes: Boxes, tolerance: float) -> Estimate | None:
    """The integral, if the densities integrate to one and the tails are settled; None if they do not."""
    value, error = float(found.value[0]), float(found.error.max())
    if math.isnan(value) or bool(((found.value[1:] - 1).abs() > 10 * tolerance).any()):
        return None if not math.isinf(value) else Estimate(value, 0.0, True)
    if math.isinf(value):
        return Estimate(value, 0.0, True)
    return tails(found, boxes, tolerance) or Estimate(value, error, error <= tolerance * max(1.0, abs(value)))


def tails(found: Integral, boxes: Boxes, tolerance: float) -> Estimate | None:
    """What the last octaves say: nothing (None), that the integral is infinite, or that it is not settled."""
    middle, last = boxes.octaves
    nearest = torch.where(found.low * found.high > 0, torch.minimum(found.low.abs(), found.high.abs()), 0.0)
    distance, place = nearest.max(1)
    upper = found.high[torch.arange(len(place)), place] > 0
    for side in (upper, ~upper) if boxes.dims == 1 else (torch.ones_like(upper),):
        outer = float(found.parts[side & (distance >= last), 0].sum())
        before = float(found.parts[side & (distance >= middle) & (distance < last), 0].sum())
        if abs(outer) > 1e3 * tolerance and abs(outer) >= (1 - 1e-6) * abs(before) > 0:
            return Estimate(math.copysign(math.inf, outer), 0.0, True, "the integrand does not decay")
        if abs(outer) > tolerance:
            return Estimate(float(found.value[0]), math.inf, False, "the tail is too heavy for quadrature")
    return None
