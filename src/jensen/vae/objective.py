"""What is minimised: minus a bound on log p(x), a dimension.

    elbo     E_q log p(x | z) - β KL(q(z | x) ‖ p(z)), the divergence in closed form where there is one, else by the same draws
    iwae     E log (1/k) Σ_i p(x, z_i) / q(z_i | x)        (Burda et al. 2016)

β = 1 is the bound. Another weight (Higgins et al. 2017), one that is still warming up (Bowman et al. 2016), or a part of the
divergence that is let free, Σ_d max(λ, mean KL_d) (Kingma et al. 2016, equation 15), is another objective: what it has trained is scored
by the bound all the same, and says how it was trained.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from jensen.bounds.gradients import ESTIMATORS, leave_one_out
from jensen.bounds.kl import kl_by_dimension, log_density_by_dimension
from jensen.data.examples import Batch
from jensen.distributions.from_noise import FromNoise
from jensen.noise import Noise
from jensen.rules import Rule, Ruled, between
from jensen.training.fitter import GradientFitter, Objective, Rows
from jensen.vae.parts import Joint, Parts
from jensen.vae.posterior import mean_of

HELD_OUT_DRAWS = 4
ACTIVE = 0.01  # a number of the code is active where its mean varies by more over rows (Burda et al. 2016, section 5.1)
ROWS = 256


@dataclass(frozen=True)
class Aim:
    """What to train for.

    Attributes:
        objective: elbo or iwae.
        draws: k, of z a row.
        estimator: of the gradient, a word of `ESTIMATORS`; the divergence is in closed form for `reparameterised` alone.
        beta: the weight of the divergence in the end.
        warmup: the share of the run in which it rises from 0.
        free_bits: λ, nats of each dimension's divergence that cost nothing.
        growth: the share of the run in which the draws grow from 1 to k, k^(t / growth) at share t: the first steps are the cheapest.
    """

    objective: str
    draws: int
    estimator: str
    beta: float
    warmup: float
    free_bits: float
    growth: float = 0.0

    def draws_at(self, done: float) -> int:
        """How many draws a row when a share of the run is done.

        Example:
            >>> aim = Aim("iwae", 50, "dreg", 1.0, 0.0, 0.0, growth=0.8)
            >>> tuple(aim.draws_at(done) for done in (0.0, 0.4, 0.8, 1.0))
            (1, 7, 50, 50)
        """
        return round(self.draws ** min(1.0, done / self.growth)) if self.growth else self.draws


class Weight(nn.Module, Ruled):
    """β, where it stands.

    Args:
        beta: in the end.
    """

    now: Tensor

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.register_buffer("now", torch.tensor(beta, dtype=torch.float64))

    def rules(self) -> dict[str, Rule]:
        """A weight."""
        return {"now": between(0.0, 1e6, "from 0 to 1e6")}


class BoundObjective(Objective):
    """Minus the bound of each row, a dimension.

    Args:
        parts: prior, emission, posterior.
        aim: what for.
        weight: β.
    """

    def __init__(self, parts: Parts, aim: Aim, weight: Weight) -> None:
        super().__init__()
        self.parts, self.aim, self.weight = parts, aim, weight
        self.draws = aim.draws
        self.watched = "bound" if aim.beta == 1 and not aim.free_bits else "objective"

    def at(self, done: float) -> None:
        """Train as one does when a share of the run is done: β min(1, t / warm-up), and as many draws as are due."""
        rise = min(1.0, done / self.aim.warmup) if self.aim.warmup else 1.0
        self.weight.now.fill_(self.aim.beta * rise)
        self.draws = self.aim.draws_at(done)

    def forward(self, batch: Batch, noise: Noise) -> Tensor:
        """The loss of each row."""
        joint, x = self.parts.given(batch.context), batch.x
        if self.aim.objective == "iwae":
            loss = self._iwae(joint, x, batch.id, noise, self.draws)
        elif self.aim.estimator == "score":
            loss = self._scored(joint, x, batch.id, noise)
        else:
            rate, distortion = self._elbo(joint, x, batch.id, noise, self.draws)
            loss = float(self.weight.now) * self._freed(rate, joint.prior.dims, batch.weights()) + distortion
        return loss / x[0].numel()

    def _iwae(self, joint: Joint, x: Tensor, ids: Tensor, noise: Noise, draws: int) -> Tensor:
        """-log of the mean weight, with the gradient of the estimator."""
        eps = self._noise(noise, ids, draws, x)
        estimator = ESTIMATORS[self.aim.estimator]
        return estimator.loss(joint.prior, joint.emission, joint.posterior, x, eps)

    def _elbo(self, joint: Joint, x: Tensor, ids: Tensor, noise: Noise, count: int) -> tuple[Tensor, Tensor]:
        """The rate KL(q ‖ p) by dimension `(B, D)`, or its estimate `(B, 1)`, and the distortion -E log p(x | z) `(B,)`."""
        q = joint.posterior(x)
        assert isinstance(q, FromNoise)
        eps, own = self._noise(noise, ids, count, x).split([joint.prior.dims, joint.prior.noise_dims], -1)
        p = joint.prior.law(own)
        z, log_q = q.place_with_log_prob(eps)
        distortion = -joint.emission(z).log_prob(x).mean(0)
        rate = None if self.aim.estimator == "stl" else kl_by_dimension(q, p)
        if self.aim.estimator == "stl":
            log_q = q.detached().log_prob(z)
        if rate is None:
            rate = (log_q - p.log_prob(z)).mean(0)[:, None]
        return rate, distortion

    def _scored(self, joint: Joint, x: Tensor, ids: Tensor, noise: Noise) -> Tensor:
        """Minus the ELBO, its gradient in q by the score of draws that are compared with each other."""
        q = joint.posterior(x)
        assert isinstance(q, FromNoise)
        with torch.no_grad():
            z = q.place(self._noise(noise, ids, self.draws, x))
        log_q = q.log_prob(z)
        rate = log_q - joint.prior(x.new_zeros(len(x), 0)).log_prob(z)
        value = joint.emission(z).log_prob(x) - float(self.weight.now) * rate
        credit = (leave_one_out(value) * log_q).mean(0)
        return -(value.mean(0) + credit - credit.detach())

    def _noise(self, noise: Noise, ids: Tensor, draws: int, like: Tensor) -> Tensor:
        """Standard normals for draws of z and for its prior, `(draws, B, E)`, a row's its own."""
        dims = self.parts.prior.dims + self.parts.prior.noise_dims
        return noise.at("z").normal(ids, (draws, dims)).transpose(0, 1).to(like.device, torch.float64)

    def _freed(self, rate: Tensor, dims: int, weight: Tensor) -> Tensor:
        """Σ_d KL_d, or where bits are free Σ_d max(λ, mean over rows); of a rate that is known as a sum alone, max(λ D, mean)."""
        if not self.aim.free_bits:
            return rate.sum(1)
        free = self.aim.free_bits * dims / rate.shape[1]
        mean = weight.to(rate) @ rate / weight.sum().clamp(min=1e-300)
        return mean.clamp(min=free).sum().expand(len(rate))

    def held_out(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """The bound in its terms, of iwae in one; with a weight other than 1 or free bits what is trained for and not the bound, so that a run
        is neither stopped nor kept by another aim than its own.
        """
        joint, x = self.parts.given(batch.context), batch.x.double()
        if self.aim.objective == "iwae":
            return {f"iwae {self.aim.draws}": -self._iwae(joint, x, batch.id, noise, self.aim.draws)}
        rate, distortion = self._elbo(joint, x, batch.id, noise, HELD_OUT_DRAWS)
        beta, free = self.aim.beta, self.aim.free_bits
        word = "divergence" + (f" × {beta:g}" if beta != 1 else "") + (f", {free:g} a dimension free" if free else "")
        return {"reconstruction": -distortion, word: -beta * self._freed(rate, joint.prior.dims, batch.weights())}

    @torch.no_grad()
    def collapse(self, rows: Rows) -> dict[str, Any]:
        """How many numbers of the code are active, and what each costs in nats: its divergence in closed form, or its share of that of two layers from
        draws (`bounds.kl.log_density_by_dimension`), where there is either; nothing of a single row.
        """
        means, rates = [], []
        for start in range(0, len(rows), ROWS):
            batch = rows.batch(slice(start, start + ROWS))
            joint, x = self.parts.given(batch.context), batch.x.double()
            q = joint.posterior(x)
            assert isinstance(q, FromNoise)
            rate = None if joint.prior.noise_dims else self._shares(joint, q, x, batch.id)
            means.append(mean_of(q).double())
            rates += [] if rate is None else [rate.double()]
        if sum(map(len, means)) < 2:
            return {}
        active = int((torch.cat(means).var(0) > ACTIVE).sum())
        each = {"divergence_by_dimension": torch.cat(rates).mean(0).tolist()} if rates else {}
        return {"active_units": active, **each}

    def _shares(self, joint: Joint, q: FromNoise, x: Tensor, ids: Tensor) -> Tensor | None:
        """What each number of the code costs, `(B, D)`, in closed form or from draws."""
        p = joint.prior(x.new_zeros(len(x), 0))
        closed = kl_by_dimension(q, p)
        if closed is not None:
            return closed
        z = q.place(self._noise(Noise(0, "shares"), ids, HELD_OUT_DRAWS, x))
        own, other = log_density_by_dimension(q, z), log_density_by_dimension(p, z)
        return None if own is None or other is None else (own - other).mean(0)


class BoundFitter(GradientFitter):
    """A gradient fitter whose objective changes in the course of a run, which is not ended early before it has, and that watches for
    collapse.
    """

    def __init__(self, objective: BoundObjective, *given: Any, **options: Any) -> None:
        super().__init__(objective, *given, **options)
        changing = max(objective.aim.warmup, objective.aim.growth)
        self.stages.earliest = math.ceil(changing * self.stages.steps)

    def step(self, number: int, batch: Batch) -> dict[str, float]:
        """With the weight and the draws that are due; the last step has all."""
        self._bound(self.objective).at((number + 1) / self.stages.steps)
        return super().step(number, batch)

    def evaluate(self, number: int) -> dict[str, Any]:
        """The bound, and how the code is used."""
        found = super().evaluate(number)
        with self._autocast():
            return {**found, **self._bound(self.average).collapse(self.rows)}

    @staticmethod
    def _bound(objective: Objective) -> BoundObjective:
        assert isinstance(objective, BoundObjective)
        return objective
