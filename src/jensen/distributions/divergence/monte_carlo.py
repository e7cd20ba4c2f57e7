"""Divergences from independent draws, each with a standard error.

A functional is the mean of its term over draws of its base; under m = ½ (p + q) half of the draws come from each law, which can
only lower the variance. Energy and mmd are means over independent quadruples (X, X', Y, Y') of

    ‖X - Y‖ + ‖X' - Y'‖ - ‖X - X'‖ - ‖Y - Y'‖     and     k(X, X') + k(Y, Y') - k(X, Y') - k(X', Y),

unbiased with independent terms, so that their error is known too. A divergence by a nonlinear function of a mean
(bhattacharyya, hellinger) carries a bias of the order of its squared error.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Distribution

from jensen.distributions.density import log_density
from jensen.distributions.divergence.functionals import FUNCTIONALS
from jensen.distributions.divergence.result import Divergence
from jensen.distributions.precision import draw
from jensen.distributions.tail import pareto_k
from jensen.noise import Noise

CHUNK_CELLS = 1 << 22


def estimate(
    p: Distribution, q: Distribution, kind: str, draws: int, seed: int, bandwidth: float | None = None
) -> Divergence:
    """The divergence from `draws` draws (of either law, or quadruples)."""
    noise = Noise(seed, "divergence", kind)
    if kind in FUNCTIONALS:
        return _functional(p, q, kind, draws, noise)
    values = _collected(lambda n, at: _quadruples(p, q, n, at, bandwidth), p, draws, noise, 4)
    return Divergence(
        float(values.mean()), kind, "Monte Carlo", _error(values), bandwidth=bandwidth, note=f"{draws} draws"
    )


def _functional(p: Distribution, q: Distribution, kind: str, draws: int, noise: Noise) -> Divergence:
    functional = FUNCTIONALS[kind]
    sources = [p] if functional.base == "p" else [p, q]
    groups = []
    for number, source in enumerate(sources):

        def terms(n: int, at: Noise, source: Distribution = source) -> Tensor:
            x = draw(source, n, at)
            return functional.term(log_density(p, x), log_density(q, x))

        groups.append(_collected(terms, p, draws // len(sources), noise.at(number), 1))
    note = f"{draws} draws"
    if any(bool(g.isinf().any()) for g in groups):
        return Divergence(math.inf, kind, "Monte Carlo", note=f"{note}, {_count(groups)} of p where q is 0")
    mean = sum(float(g.mean()) for g in groups) / len(groups)
    error = math.sqrt(sum(_error(g) ** 2 for g in groups)) / len(groups)
    value = functional.finish(mean)
    if math.isinf(value):
        return Divergence(value, kind, "Monte Carlo", note=f"{note}, none where both are above 0")
    k = pareto_k(groups[0].abs().log()) if functional.base == "p" else None
    if k is not None and float(k) >= 0.5:
        note += f"; the tail of the terms has k = {float(k):.2f} ≥ 0.5, so the error bar cannot be trusted"
    return Divergence(value, kind, "Monte Carlo", functional.error(mean, error), note=note)


def _quadruples(p: Distribution, q: Distribution, n: int, noise: Noise, bandwidth: float | None) -> Tensor:
    x, other_x, y, other_y = (
        draw(d, n, noise.at(name)).double().reshape(n, -1) for d, name in ((p, "x"), (p, "x'"), (q, "y"), (q, "y'"))
    )
    if bandwidth is None:
        return _norm(x - y) + _norm(other_x - other_y) - _norm(x - other_x) - _norm(y - other_y)
    scale = -0.5 / bandwidth**2

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return ((a - b).square().sum(1) * scale).exp()

    return kernel(x, other_x) + kernel(y, other_y) - kernel(x, other_y) - kernel(other_x, y)


def _collected(terms: Callable[[int, Noise], Tensor], p: Distribution, n: int, noise: Noise, rows: int) -> Tensor:
    """n terms, so many at a time that the draws behind them fit into 32 MB."""
    size = max(1, CHUNK_CELLS // (rows * max(1, p.event_shape.numel())))
    return torch.cat([terms(min(size, n - start), noise.at(start)).double() for start in range(0, n, size)])


def _norm(x: Tensor) -> Tensor:
    return x.square().sum(1).sqrt()


def _error(values: Tensor) -> float:
    return float(values.std()) / math.sqrt(len(values))


def _count(groups: list[Tensor]) -> int:
    return sum(int(g.isinf().sum()) for g in groups)
