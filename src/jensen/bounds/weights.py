"""The log-weights that every bound is made of: log p(z) + log p(x | z) - log q(z | x) at z ~ q(z | x).

Their mean over z is the ELBO, the logarithm of the mean weight estimates log p(x), and where q is the exact posterior each
of them is log p(x).
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from jensen.distributions.conditional import Conditional
from jensen.distributions.from_noise import FromNoise


@dataclass(frozen=True)
class Draws:
    """Draws of z and what the three distributions say of them, `(draws, B)` each.

    Attributes:
        z: `(draws, B, D)`.
        log_prior: log p(z).
        log_emission: log p(x | z).
        log_posterior: log q(z | x).
    """

    z: Float[Tensor, "draws B D"]
    log_prior: Float[Tensor, "draws B"]
    log_emission: Float[Tensor, "draws B"]
    log_posterior: Float[Tensor, "draws B"]

    @property
    def log_weight(self) -> Float[Tensor, "draws B"]:
        """log p(x, z) - log q(z | x)."""
        return self.log_prior + self.log_emission - self.log_posterior


def log_weights(
    prior: Conditional,
    emission: Conditional,
    posterior: Conditional,
    x: Float[Tensor, "B *event"],
    noise: Float[Tensor, "draws B E"],
) -> Draws:
    """Reparameterised draws of z and their log-weights, differentiable in all parameters.

    Args:
        prior: p(z); its distribution takes values `(draws, B, D)`.
        emission: p(x | z); given z `(draws, B, D)` its distribution has batch_shape `(draws, B)`.
        posterior: q(z | x), a `FromNoise`.
        x: data in the model's units.
        noise: standard normal, `posterior(x).noise_dims` numbers a draw.
    """
    q = posterior(x)
    assert isinstance(q, FromNoise)
    return log_weights_of(prior(x.new_zeros(len(x), 0)), emission, q, x, noise)


def log_weights_of(
    prior: Distribution,
    emission: Conditional,
    posterior: FromNoise,
    x: Float[Tensor, "B *event"],
    noise: Float[Tensor, "draws B E"],
) -> Draws:
    """As `log_weights`, from a prior and a posterior that are at hand already."""
    z, log_q = posterior.place_with_log_prob(noise)
    return Draws(z, prior.log_prob(z), emission(z).log_prob(x), log_q)
