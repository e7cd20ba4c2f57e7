"""A distribution of torch in double precision, and draws from one that leave torch's own generator alone.

`Normal(0.0, 1.0)` holds float32 parameters, so its log-densities carry errors of 1e-7, more than a quadrature is asked
for. The copy here holds the same parameters, to the bit, as float64; the original is left as it is.
"""

import copy
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Transform, TransformedDistribution

from jensen.noise import Noise


def in_double(distribution: Distribution) -> Distribution:
    """The same law with float64 parameters, detached.

    Example:
        >>> from torch.distributions import Normal
        >>> in_double(Normal(0.5, 2.0)).mean.dtype
        torch.float64
    """
    return _doubled(distribution, {})


def draw(distribution: Distribution, n: int, noise: Noise) -> Tensor:
    """n draws `(n, *batch, *event)`, a function of the noise alone.

    torch's distributions draw from the global generator; it is set from the noise and put back afterwards.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(int(noise.uniform([0])[0] * 2**62))
        return distribution.sample(torch.Size([n]))


def _doubled(value: Any, known: dict[int, Any]) -> Any:
    """The value with its tensors in float64; `known` holds what is made already, since transforms point at each other."""
    if isinstance(value, Tensor):
        return value.detach().double() if value.is_floating_point() else value
    if isinstance(value, list):
        return [_doubled(part, known) for part in value]
    if not isinstance(value, Distribution | Transform):
        return value
    if id(value) not in known:
        known[id(value)] = _rebuilt(value) or _copied(value, known)
    return known[id(value)]


def _rebuilt(value: Distribution | Transform) -> Distribution | None:
    """Weibull and its like keep 1 / concentration and transforms made from it, in float32: built anew instead."""
    if not isinstance(value, TransformedDistribution) or type(value) is TransformedDistribution:
        return None
    parameters = {name: getattr(value, name).detach().double() for name in value.arg_constraints}
    try:
        return type(value)(**parameters)
    except (TypeError, ValueError):  # another constructor than the list of parameters says
        return None


def _copied(thing: Any, known: dict[int, Any]) -> Any:
    new = known[id(thing)] = copy.copy(thing)
    for name, value in vars(thing).items():
        new.__dict__[name] = None if _is_reference(value) else _doubled(value, known)
    return new


def _is_reference(value: Any) -> bool:
    """A transform's weak reference to its inverse, which is made anew when asked for."""
    return type(value).__name__ == "ReferenceType"
