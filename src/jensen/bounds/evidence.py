"""log p(x) from many draws of q(z | x): importance sampling, some rows and some draws at a time.

    log (1/k) Σ_i p(x, z_i) / q(z_i | x),   z_i ~ q(z | x)

In mean a lower bound that rises with k to log p(x) (Burda et al. 2016, theorem 1); unbiased in exp. What is kept are the k log-weights of
a few rows; draws are keyed by their number, so that no piece changes a value.
"""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from jensen.bounds.weights import log_weights_of
from jensen.distributions.conditional import Conditional, require_unbiased
from jensen.distributions.from_noise import FromNoise

NoiseBlock = Callable[[int], Float[Tensor, "block B E"]]


def pieces(noise: NoiseBlock, draws: int, together: int) -> Iterator[Tensor]:
    """The first `draws` draws of all blocks, at most `together` at a time.

    Args:
        noise: standard normals of block 0, 1, …, all of one length.
        draws: how many there should be.
        together: the most to look at together.
    """
    number = 0
    while draws > 0:
        block = noise(number)[:draws]
        draws, number = draws - len(block), number + 1
        yield from block.split(together)


@torch.no_grad()
def importance_weights(
    prior: Conditional,
    emission: Conditional,
    posterior: Conditional,
    x: Float[Tensor, "B *event"],
    noise: NoiseBlock,
    *,
    draws: int,
    together: int,
) -> Float64[Tensor, "draws B"]:
    """log p(x, z_i) - log q(z_i | x) of draws z_i ~ q(z | x).

    Args:
        prior: p(z).
        emission: p(x | z).
        posterior: q(z | x).
        x: rows.
        noise: standard normals of block 0, 1, …, all of one length.
        draws: k.
        together: how many draws to decode together.

    Raises:
        InputError: a part whose log-density is a bound.
    """
    require_unbiased(prior, emission, posterior)
    q = posterior(x)
    assert isinstance(q, FromNoise)
    p = prior(x.new_zeros(len(x), 0))
    parts = (log_weights_of(p, emission, q, x, eps.to(x)).log_weight.double() for eps in pieces(noise, draws, together))
    return torch.cat(list(parts))
