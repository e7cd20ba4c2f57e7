"""What is told of log p(x): the bound, importance sampling, annealing.

    elbo    (1/R) Σ_r log p(x | z_r) - KL(q(z | x) ‖ p(z)), the divergence in closed form where the pair has one, else by the same draws;
            the error is that of the mean of R draws
    iwae    log (1/k) Σ_i p(x, z_i) / q(z_i | x), the mean of R such estimates; the error is their spread, or of a single one the
            weights' own (`jensen.importance`)
    ais     the same of the weights of C annealed chains

Posteriors, weights and sums are in float64, networks in float32. Draws are keyed by row and number and looked at a few at a time.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float64
from torch import Tensor

from jensen.bounds.annealed import Annealing, Settings
from jensen.bounds.evidence import NoiseBlock, importance_weights, pieces
from jensen.bounds.kl import kl_by_dimension
from jensen.distributions.from_noise import FromNoise
from jensen.importance import log_evidence, log_mean_exp
from jensen.noise import Noise
from jensen.vae.parts import Joint

BLOCK = 64  # draws of z that are keyed together
EVEN = 0.5  # of few weights: the effective share below which their error bar is too short


@dataclass(frozen=True)
class Asked:
    """Some rows, and all that an estimate needs of them.

    Attributes:
        joint: prior, emission, posterior.
        x: rows, float64.
        ids: theirs.
        noise: of the estimate.
        together: how many draws of z to decode together.
    """

    joint: Joint
    x: Float64[Tensor, "B *event"]
    ids: Tensor
    noise: Noise
    together: int

    def posterior(self) -> FromNoise:
        """q(z | x)."""
        q = self.joint.posterior(self.x)
        assert isinstance(q, FromNoise)
        return q

    def blocks(self, dims: int, noise: Noise) -> NoiseBlock:
        """Standard normals for draws of z, some at a time."""
        return lambda number: noise.at(number).normal(self.ids, (BLOCK, dims)).transpose(0, 1)


@dataclass(frozen=True)
class Estimate:
    """log p(x) of B rows, in mean a lower bound: `stderr`, `terms` that sum to the value, and what is to be said of each row."""

    value: Float64[Tensor, " B"]
    stderr: Float64[Tensor, " B"]
    terms: Mapping[str, Tensor] = field(default_factory=dict)
    told: Mapping[str, Tensor] = field(default_factory=dict)

    @staticmethod
    def of(parts: "list[Estimate]") -> "Estimate":
        """Of consecutive rows."""
        first = parts[0]
        return Estimate(
            torch.cat([p.value for p in parts]),
            torch.cat([p.stderr for p in parts]),
            {name: torch.cat([p.terms[name] for p in parts]) for name in first.terms},
            {name: torch.cat([p.told[name] for p in parts]) for name in first.told},
        )


@dataclass
class Running:
    """Mean and sum of squared deviations of draws that come in blocks (Chan, Golub and LeVeque 1979)."""

    count: int
    mean: Tensor
    squares: Tensor

    @staticmethod
    def of(values: Float64[Tensor, "draws B"]) -> "Running":
        """The first block."""
        mean = values.mean(0)
        return Running(len(values), mean, (values - mean).square().sum(0))

    def add(self, values: Float64[Tensor, "draws B"]) -> "Running":
        """With a further block."""
        new = Running.of(values)
        total, away = self.count + new.count, new.mean - self.mean
        mean = self.mean + away * (new.count / total)
        squares = self.squares + new.squares + away.square() * (self.count * new.count / total)
        return Running(total, mean, squares)

    @property
    def stderr(self) -> Tensor:
        """Of the mean."""
        return (self.squares / (self.count - 1) / self.count).sqrt()


@torch.no_grad()
def elbo_of(asked: Asked, *, repetitions: int) -> Estimate:
    """The evidence lower bound from that many draws a row, at least 2."""
    q, prior = asked.posterior(), asked.joint.prior
    rate = None if prior.noise_dims else kl_by_dimension(q, prior(asked.x.new_zeros(len(asked.x), 0)))
    exact = None if rate is None else -rate.sum(1)
    kept: dict[str, Running] = {}
    for noise in pieces(asked.blocks(q.noise_dims + prior.noise_dims, asked.noise), repetitions, asked.together):
        eps, own = noise.to(asked.x).split([q.noise_dims, prior.noise_dims], -1)
        p = prior.law(own)
        z, log_q = q.place_with_log_prob(eps)
        reconstruction = asked.joint.emission(z).log_prob(asked.x).double()
        divergence = (p.log_prob(z) - log_q).double() if exact is None else exact.expand(len(z), -1)
        now = {"reconstruction": reconstruction, "divergence": divergence, "both": reconstruction + divergence}
        kept = {name: kept[name].add(new) if name in kept else Running.of(new) for name, new in now.items()}
    terms = {name: kept[name].mean for name in ("reconstruction", "divergence")}
    return Estimate(terms["reconstruction"] + terms["divergence"], kept["both"].stderr, terms)


def iwae_of(asked: Asked, *, draws: int, repetitions: int) -> Estimate:
    """The k-draw bound, the mean of that many independent ones."""
    found = [weighed(log_weights_of_rows(asked, draws, asked.noise.at(number))) for number in range(repetitions)]
    return found[0] if repetitions == 1 else _averaged(found)


def log_weights_of_rows(asked: Asked, draws: int, noise: Noise) -> Float64[Tensor, "draws B"]:
    """log p(x, z) - log q(z | x) of draws of q."""
    joint, blocks = asked.joint, asked.blocks(asked.joint.prior.dims, noise)
    return importance_weights(
        joint.prior, joint.emission, joint.posterior, asked.x, blocks, draws=draws, together=asked.together
    )


def ais_of(asked: Asked, *, settings: Settings) -> Estimate:
    """From annealed chains."""
    joint = asked.joint
    chains = Annealing(joint.prior, joint.emission, joint.posterior, asked.x, asked.ids, settings, asked.noise)
    return weighed(chains.forward())


def weighed(log_w: Float64[Tensor, "n B"]) -> Estimate:
    """The log-mean of weights, and what they say of themselves; of a single weight no error is known."""
    if len(log_w) < 2:
        return Estimate(log_mean_exp(log_w), log_w.new_full(log_w.shape[1:], math.nan))
    found = log_evidence(log_w)
    diagnostics = found.diagnostics
    told = {"ess": diagnostics.ess}
    if diagnostics.pareto_k is not None and diagnostics.reliable is not None:
        told |= {"pareto_k": diagnostics.pareto_k, "reliable": diagnostics.reliable}
    else:  # too few weights to see their tail: what can be seen is how even they are
        told["reliable"] = diagnostics.ess > EVEN * diagnostics.draws
    return Estimate(found.value, found.stderr, {}, told)


def _averaged(found: list[Estimate]) -> Estimate:
    """The mean of independent estimates, with its standard error; the least of what each says of itself."""
    values = torch.stack([each.value for each in found])
    told = {name: torch.stack([each.told[name] for each in found]) for name in found[0].told}
    worst: dict[str, Callable[[Tensor], Tensor]] = {
        "ess": lambda t: t.amin(0),
        "pareto_k": lambda t: t.amax(0),
        "reliable": lambda t: t.all(0),
    }
    return Estimate(
        values.mean(0), values.std(0) / math.sqrt(len(found)), {}, {name: worst[name](t) for name, t in told.items()}
    )
