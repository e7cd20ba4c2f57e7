"""A category by its weight, from a uniform number: the inverse of a distribution function that has steps.

    u ↦ the first j with w_1 + … + w_j > u (w_1 + … + w_K),   u uniform on [0, 1)

The comparison is strict, so that u = 0 passes over leading weights of 0; and no category behind the one at which the sum
reaches its end is picked, even where u times the end rounds up to the end. So a weight of 0 is never picked. (Devroye 1986,
"Non-uniform random variate generation", section III.2.)
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def picked(weights: Float[Tensor, "*batch K"], u: Float[Tensor, "*batch n"]) -> Int[Tensor, "*batch n"]:
    """Categories, any number from each vector of weights.

    Args:
        weights: at least 0, with a positive sum, which need not be 1.
        u: uniform on [0, 1).

    Example:
        >>> picked(torch.tensor([0.0, 1.0, 3.0, 0.0]), torch.tensor([0.0, 0.24, 0.25, 1.0])).tolist()
        [1, 1, 2, 2]
    """
    cumulative = weights.double().cumsum(-1).contiguous()
    end = cumulative[..., -1:]
    place = torch.searchsorted(cumulative, (u.to(cumulative) * end).contiguous(), right=True)
    return torch.minimum(place, (cumulative < end).sum(-1, keepdim=True))


def picked_each(weights: Float[Tensor, "*batch K"], u: Float[Tensor, "*batch"]) -> Int[Tensor, "*batch"]:
    """One category from each vector of weights.

    Example:
        >>> picked_each(torch.tensor([[1.0, 1.0], [1.0, 0.0]]), torch.tensor([0.5, 0.5])).tolist()
        [1, 0]
    """
    return picked(weights, u[..., None])[..., 0]
