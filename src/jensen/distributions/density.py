"""log p(x) of any torch distribution at any x: -inf wherever the density is zero.

Divergences hang on zeros: KL(q ‖ p) is infinite if q puts mass where p has none. torch instead refuses values off the
support, gives a probability of 0 the logarithm of the smallest step (log 2⁻²³ for float32), and so gives a component
of weight 0 some weight. Here a zero is a zero.
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import (
    Bernoulli,
    Binomial,
    Categorical,
    Distribution,
    Independent,
    MixtureSameFamily,
    OneHotCategorical,
)

from jensen.distributions.discretised import DiscretisedNormal
from jensen.distributions.precision import draw
from jensen.noise import Noise


def log_density(distribution: Distribution, x: Tensor) -> Tensor:
    """log p(x), a mass or a density.

    Args:
        distribution: with batch_shape `batch`.
        x: `(*sample, *batch, *event)`, or what broadcasts to it.

    Returns:
        `(*sample, *batch)`; -inf off the support.

    Example:
        >>> from torch.distributions import Uniform
        >>> log_density(Uniform(0.0, 1.0), torch.tensor([0.5, 2.0])).tolist()
        [0.0, -inf]
    """
    if isinstance(distribution, MixtureSameFamily):
        parts = log_density(distribution.component_distribution, x.unsqueeze(-1 - len(distribution.event_shape)))
        return (parts + log_masses(distribution.mixture_distribution)).logsumexp(-1)
    if isinstance(distribution, Independent):
        each = log_density(distribution.base_dist, x)
        dims = distribution.reinterpreted_batch_ndims
        return each.flatten(-dims).sum(-1) if dims else each
    if isinstance(distribution, Bernoulli):
        return _bernoulli(distribution, x)
    if isinstance(distribution, Categorical):
        return _categorical(distribution, x)
    if isinstance(distribution, OneHotCategorical):
        return _one_hot(distribution, x)
    return _leaf(distribution, x)


def support_of(distribution: Distribution) -> Any:
    """Its constraint: what it holds differs by kind, and may be wrapped (see `innermost`)."""
    return distribution.support


def innermost(distribution: Distribution) -> Any:
    """The constraint on one number, of a distribution made of independent or mixed ones."""
    support = support_of(distribution)
    while hasattr(support, "base_constraint"):
        support = support.base_constraint
    return support


def log_masses(categorical: Categorical | OneHotCategorical) -> Float[Tensor, "*batch k"]:
    """log P(j) of each category, summing to one; -inf for those of probability 0."""
    logits, probs = categorical.logits, categorical.probs
    clamped = (probs == 0) & (logits >= _clamp(logits))
    return torch.where(clamped, -math.inf, logits).log_softmax(-1)


def _clamp(logits: Tensor) -> float:
    """Just below the logarithm that torch gives to a probability of 0, in the precision it was given in."""
    return math.log(torch.finfo(logits.dtype).eps) - 1


def _bernoulli(d: Bernoulli, x: Tensor) -> Tensor:
    logits, probs = d.logits, d.probs
    never = (probs == 0) & (logits >= _clamp(logits))
    always = (probs == 1) & (logits <= -_clamp(logits))
    one = torch.where(never, -math.inf, torch.where(always, 0.0, torch.nn.functional.logsigmoid(logits)))
    zero = torch.where(always, -math.inf, torch.where(never, 0.0, torch.nn.functional.logsigmoid(-logits)))
    return torch.where(x == 1, one, torch.where(x == 0, zero, -math.inf))


def _categorical(d: Categorical, x: Tensor) -> Tensor:
    table = log_masses(d)
    k = table.shape[-1]
    index, shape = x.long().clamp(0, k - 1), torch.broadcast_shapes(x.shape, d.batch_shape)
    value = table.expand(*shape, k).gather(-1, index.expand(shape)[..., None]).squeeze(-1)
    return torch.where((x == index).expand(shape), value, -math.inf)


def _one_hot(d: OneHotCategorical, x: Tensor) -> Tensor:
    valid = ((x == 0) | (x == 1)).all(-1) & (x.sum(-1) == 1)
    value = torch.where(x == 1, log_masses(d), 0.0).sum(-1)
    return torch.where(valid, value, -math.inf)


def _leaf(d: Distribution, x: Tensor) -> Tensor:
    """log_prob at values in the support; the others are replaced by some draw first, and then come out as -inf."""
    events = len(d.event_shape)
    shape = torch.broadcast_shapes(x.shape[: x.dim() - events], d.batch_shape)
    x = x.expand(*shape, *d.event_shape)
    inside = support_of(d).check(x).expand(shape)
    if not bool(inside.all()):
        spare = draw(d, 1, Noise(0, "a value in the support"))[0]
        x = torch.where(inside.reshape(*shape, *[1] * events), x, spare)
    if isinstance(d, DiscretisedNormal):  # it moves what is no level to the nearest one
        inside = inside & (d.quantise(x) == x)
    value = _binomial(d, x) if isinstance(d, Binomial) else d.log_prob(x)
    return torch.where(inside, value, -math.inf)


def _binomial(d: Binomial, x: Tensor) -> Tensor:
    n, p = d.total_count, d.probs
    ways = torch.lgamma(n + 1) - torch.lgamma(x + 1) - torch.lgamma(n - x + 1)
    return ways + torch.xlogy(x, p) + torch.special.xlog1py(n - x, -p)
