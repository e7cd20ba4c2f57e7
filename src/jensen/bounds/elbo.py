"""Bounds on log p(x) of a latent-variable model, one number an example.

For any q(z | x) with q = 0 wherever p(x, z) = 0,

    log p(x) = E_q[log p(x, z) - log q(z | x)] + KL(q(z | x) ‖ p(z | x)),

so the first term, the evidence lower bound (ELBO), is below log p(x) by exactly the KL divergence, and equals it
when q is the exact posterior. (Jordan et al. 1999, "An introduction to variational methods", section 6.)
"""

import torch
from jaxtyping import Float
from torch import Tensor

from jensen.distributions.conditional import Conditional


def elbo(
    prior: Conditional, emission: Conditional, posterior: Conditional, x: Float[Tensor, "B *event"], draws: int = 1
) -> Float[Tensor, "draws B"]:
    """Independent one-draw estimates of the ELBO, log p(z) + log p(x | z) - log q(z | x) at z ~ q(z | x).

    Args:
        prior: p(z).
        emission: p(x | z).
        posterior: q(z | x); draws are reparameterised where its distribution can.
        x: data in the model's units.
        draws: how many independent draws of z an example.

    Returns:
        One row a draw, in nats; each has the ELBO as its mean over z.
    """
    q = posterior(x)
    empty = x.new_zeros(len(x), 0)

    def one() -> Tensor:
        z = q.rsample() if q.has_rsample else q.sample()
        joint = prior(empty).log_prob(z) + emission(z).log_prob(x)
        assert isinstance(joint, Tensor)
        return joint - q.log_prob(z)

    return torch.stack([one() for _ in range(draws)])
