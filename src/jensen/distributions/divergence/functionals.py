"""The divergences that are expectations of a function of two log-densities.

    value = finish( E_base term(log p(x), log q(x)) )

with base p or the even mixture m = ½ (p + q). One definition serves sums over atoms, quadrature and Monte Carlo. With
Δ = log p - log q, the densities relative to m are p/m = 2 sigmoid(Δ) and q/m = 2 sigmoid(-Δ), so that

    js   E_m [log 2 - h(sigmoid Δ)],  h the entropy of a coin
    tv   E_m |tanh Δ/2|               bc   E_m [1 / cosh(Δ/2)]               1 - bc   E_m [1 - 1 / cosh(Δ/2)]

These terms are bounded whatever p and q are: their Monte-Carlo errors are finite and honest, unlike those of the same
integrals written as expectations under p or q alone.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Shape = Float[Tensor, "*shape"]


@dataclass(frozen=True)
class Functional:
    """A divergence as a function of an expectation.

    Attributes:
        base: the law that the expectation is over, p or "m" for ½ (p + q).
        term: of (log p, log q).
        finish: from the expectation to the value.
        error: from the expectation and its error to the error of the value, by the slope.
    """

    base: Literal["p", "m"]
    term: Callable[[Tensor, Tensor], Tensor]
    finish: Callable[[float], float] = float
    error: Callable[[float, float], float] = lambda mean, error: error

    def integrand(self, log_p: Shape, log_q: Shape) -> Shape:
        """The density of the base times the term; 0 where that density is 0."""
        base = log_p.exp() if self.base == "p" else 0.5 * (log_p.exp() + log_q.exp())
        return torch.where(base > 0, base * self.term(log_p, log_q), 0.0)


def log_ratio(log_p: Shape, log_q: Shape) -> Shape:
    """log p/q; +∞ where q alone is 0, -∞ where p alone is, 0 where both are."""
    return torch.where(torch.isneginf(log_p) & torch.isneginf(log_q), 0.0, log_p - log_q)


def _size(log_p: Shape, log_q: Shape) -> Shape:
    return log_ratio(log_p, log_q).abs()


def _js(log_p: Shape, log_q: Shape) -> Shape:
    a = _size(log_p, log_q).clamp(max=800.0)  # e⁻⁸⁰⁰ = 0
    entropy = torch.log1p((-a).exp()) + a * torch.sigmoid(-a)
    return math.log(2) - entropy


def _tv(log_p: Shape, log_q: Shape) -> Shape:
    return (0.5 * _size(log_p, log_q)).tanh()


def _overlap(log_p: Shape, log_q: Shape) -> Shape:
    a = _size(log_p, log_q)
    return 2 * (-0.5 * a).exp() / (1 + (-a).exp())


def _gap(log_p: Shape, log_q: Shape) -> Shape:
    """1 - overlap, without cancellation."""
    a = _size(log_p, log_q)
    return torch.expm1(-0.5 * a).square() / (1 + (-a).exp())


def _minus_log(overlap: float) -> float:
    return math.inf if overlap <= 0 else max(0.0, -math.log(overlap))


def _root(square: float) -> float:
    return math.sqrt(max(0.0, square))


def _root_error(square: float, error: float) -> float:
    """|√a - √b| ≤ √|a - b|, where the slope is too steep to tell."""
    slope = 0.5 / math.sqrt(square) if square > 0 else math.inf
    return min(error * slope, math.sqrt(error)) if error > 0 else 0.0


def _log_error(overlap: float, error: float) -> float:
    return error / overlap if overlap > 0 else 0.0


FUNCTIONALS: dict[str, Functional] = {
    "kl": Functional("p", log_ratio),
    "entropy": Functional("p", lambda log_p, log_q: -log_p),
    "cross-entropy": Functional("p", lambda log_p, log_q: -log_q),
    "js": Functional("m", _js),
    "tv": Functional("m", _tv),
    "bhattacharyya": Functional("m", _overlap, _minus_log, _log_error),
    "hellinger": Functional("m", _gap, _root, _root_error),
}

# Of two laws that live on disjoint sets, such as one of masses and one with a density.
SINGULAR = {"kl": math.inf, "js": math.log(2), "tv": 1.0, "bhattacharyya": math.inf, "hellinger": 1.0}
