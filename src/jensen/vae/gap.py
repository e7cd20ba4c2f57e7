"""Where the gap of the bound goes (Cremer, Li and Duvenaud 2018, "Inference suboptimality in variational autoencoders").

    log p(x) - ELBO(q)  =  [log p(x) - ELBO(q*)]  +  [ELBO(q*) - ELBO(q)]
                           family: no member of the    amortisation: the encoder has
                           family is the posterior     not found the best member

q* is the best member of the family for a row by itself. It is found by gradient ascent from the encoder's, over the numbers that the
family reads, a row's own; then everything is estimated with noise that the ascent has not seen, so that q* is not flattered. log p(x) is
importance sampling from q*, in mean a little below the truth, and so the family's share is in mean a little too small.

What these rest on can be checked where the latents are known: on rows that the model itself has drawn, annealed importance sampling gives
bounds from both sides (`certified`).
"""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.distributions import Distribution

from jensen.bounds.annealed import Annealing, Sandwich, Settings, sandwich
from jensen.distributions.conditional import Conditional
from jensen.distributions.from_noise import FromNoise
from jensen.vae.likelihood import Asked, Estimate, iwae_of, log_weights_of_rows
from jensen.vae.posterior import Family, Posterior

STEPS, RATE, DRAWS = 200, 0.05, 8
LAST = 0.05  # of the rate at the end


@dataclass(frozen=True)
class Gap:
    """The three estimates of B rows, and the two shares."""

    elbo: Estimate
    refined: Estimate
    log_p: Estimate

    @property
    def family(self) -> Float64[Tensor, " B"]:
        """log p - ELBO(q*)."""
        return self.log_p.value - self.refined.value

    @property
    def amortisation(self) -> Float64[Tensor, " B"]:
        """ELBO(q*) - ELBO(q)."""
        return self.refined.value - self.elbo.value

    @staticmethod
    def of(parts: "list[Gap]") -> "Gap":
        """Of consecutive rows."""
        return Gap(*(Estimate.of([getattr(p, name) for p in parts]) for name in ("elbo", "refined", "log_p")))


class Chosen(Conditional):
    """q(z | x) by numbers of each row's own.

    Args:
        family: that reads them.
        numbers: `(B, features)`.
    """

    def __init__(self, family: Family, numbers: Float[Tensor, "B features"]) -> None:
        super().__init__()
        self.family, self.numbers = family, numbers

    def forward(self, given: Tensor) -> Distribution:
        """The member of each row."""
        q = self.family(self.numbers)
        assert isinstance(q, Distribution)
        return q


def refined(asked: Asked, posterior: Posterior, context: Tensor | None = None, *, steps: int = STEPS) -> Chosen:
    """The best member of the family for each row by itself, by Adam on the ELBO with fresh noise at every step."""
    with torch.no_grad():
        start = posterior.features(asked.x, context)
    numbers = start.clone().requires_grad_(True)
    chosen = Chosen(posterior.family, numbers)
    optimizer = torch.optim.Adam([numbers], lr=RATE, betas=(0.9, 0.99))
    p = asked.joint.prior(asked.x.new_zeros(len(asked.x), 0))
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = RATE * max(LAST, 1 - step / steps)
        (slope,) = torch.autograd.grad(-_bound(asked, chosen, p, step).sum(), numbers)
        numbers.grad = slope
        optimizer.step()
    return Chosen(posterior.family, numbers.detach())


def _bound(asked: Asked, chosen: Chosen, p: Distribution, step: int) -> Tensor:
    """The ELBO of each row, by a few draws; its gradient goes along their path alone, and has no noise where q is the posterior
    (Roeder et al. 2017).
    """
    q = chosen(asked.x)
    assert isinstance(q, FromNoise)
    z = q.place(asked.noise.at("refine", step).normal(asked.ids, (DRAWS, q.noise_dims)).transpose(0, 1).to(asked.x))
    value: Tensor = p.log_prob(z) + asked.joint.emission(z).log_prob(asked.x) - q.detached().log_prob(z)
    return value.mean(0)


def gap_of(
    asked: Asked,
    posterior: Posterior,
    context: Tensor | None = None,
    *,
    steps: int = STEPS,
    repetitions: int = 256,
    draws: int = 2000,
) -> Gap:
    """The gap of each row and its two shares.

    Args:
        asked: rows.
        posterior: q, whose family is refined.
        context: classes, where the model takes them.
        steps: of the ascent.
        repetitions: draws of each ELBO.
        draws: of log p.
    """
    best = refined(asked, posterior, context, steps=steps)
    own = replace(asked, noise=asked.noise.at("told"))
    better = replace(own, joint=replace(own.joint, posterior=best))
    return Gap(
        _mean_weight(own, repetitions), _mean_weight(better, repetitions), iwae_of(better, draws=draws, repetitions=1)
    )


def _mean_weight(asked: Asked, draws: int) -> Estimate:
    """The ELBO as the mean log-weight, which has no noise where q is the posterior, as the closed form of the divergence has."""
    log_w = log_weights_of_rows(asked, draws, asked.noise)
    return Estimate(log_w.mean(0), log_w.std(0) / math.sqrt(draws))


def certified(asked: Asked, z: Float[Tensor, "B D"], settings: Settings) -> Sandwich:
    """Bounds from both sides on rows that were drawn from z.

    Args:
        asked: the rows.
        z: their latents.
        settings: of the annealing.
    """
    joint = asked.joint
    chains = Annealing(joint.prior, joint.emission, joint.posterior, asked.x, asked.ids, settings, asked.noise)
    return sandwich(chains, z)
