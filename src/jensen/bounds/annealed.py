"""Annealed importance sampling (Neal 2001), from q(z | x) to p(z | x), and its reverse.

Let z = g(u) be the draw of q(z | x) for the noise u, and f(u) = log p(x, z) - log q(z | x) at it. Then

    π_β(u) ∝ N(u; 0, I) e^{β f(u)},   0 = β_0 < β_1 < … < β_T = 1,

goes from q at β = 0 to the posterior at β = 1, and p(x) is the ratio of their constants. A chain u_0 ~ N(0, I), u_t by a transition that
leaves π_{β_t} as it is, has the weight

    log w = Σ_{t=1}^T (β_t - β_{t-1}) f(u_{t-1}),   E w = p(x),

so log (1/C) Σ w over C chains is below log p(x) in mean. Run backwards from an exact draw of the posterior, which simulated rows
have, E 1/w = 1/p(x), and -log (1/C) Σ 1/w is *above* log p(x) in mean: between the two lies the truth (Grosse, Ghahramani and Adams 2015,
"Sandwiching the marginal likelihood using bidirectional Monte Carlo").

With one temperature it is importance sampling. Steps are chosen in a pilot run, row by row and temperature by temperature, and then held:
a step that looks at the chain it moves would not leave π_β as it is. The temperatures are those of Wu et al. (2017), "On the quantitative
analysis of decoder-based generative models", a sigmoid's.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from jensen.bounds.hmc import LogRatio, Point, transition
from jensen.distributions.conditional import Conditional, require_unbiased
from jensen.distributions.from_noise import FromNoise
from jensen.importance import log_mean_exp
from jensen.noise import Noise

STEEPNESS = 4.0
WANTED, FASTER, SLOWER, FIRST = 0.65, 1.1, 0.8, 0.5


@dataclass(frozen=True)
class Settings:
    """How to anneal.

    Attributes:
        temperatures: T.
        chains: C, a row.
        leapfrogs: L, a transition.
    """

    temperatures: int = 100
    chains: int = 8
    leapfrogs: int = 5

    def betas(self) -> Float64[Tensor, " T_and_one"]:
        """β_0 … β_T."""
        grid = torch.linspace(-1, 1, self.temperatures + 1, dtype=torch.float64)
        raw = torch.sigmoid(STEEPNESS * grid)
        return (raw - raw[0]) / (raw[-1] - raw[0])

    @property
    def calls(self) -> int:
        """How often a row is decoded: the pilot run and the run."""
        return 2 * self.chains * ((self.temperatures - 1) * self.leapfrogs + 1)


class Annealing:
    """Chains of some rows.

    Args:
        prior: p(z).
        emission: p(x | z).
        posterior: q(z | x).
        x: rows `(B, *event)`, float64.
        ids: of the rows, which key their noise.
        settings: how.
        noise: of everything.

    Raises:
        InputError: a part whose log-density is a bound.
    """

    def __init__(
        self,
        prior: Conditional,
        emission: Conditional,
        posterior: Conditional,
        x: Float[Tensor, "B *event"],
        ids: Tensor,
        settings: Settings,
        noise: Noise,
    ) -> None:
        require_unbiased(prior, emission, posterior)
        self.x, self.ids, self.settings, self.noise = x, ids, settings, noise
        with torch.no_grad():
            q = posterior(x)
            assert isinstance(q, FromNoise)
            self.q, self.p, self.emission = q.detached(), prior(x.new_zeros(len(x), 0)), emission
        self.betas = settings.betas().tolist()
        self.steps = self._piloted()

    @property
    def f(self) -> LogRatio:
        """log p(x, z) - log q(z | x) at z = g(u)."""

        def ratio(u: Tensor) -> Tensor:
            """At noise `(C, B, E)`, `(C, B)`."""
            z, log_q = self.q.place_with_log_prob(u)
            value = self.p.log_prob(z) + self.emission(z).log_prob(self.x) - log_q
            assert isinstance(value, Tensor)
            return value.double()

        return ratio

    def _normal(self, noise: Noise) -> Tensor:
        shape = (self.settings.chains, self.q.noise_dims)
        return noise.normal(self.ids, shape).transpose(0, 1).to(self.x)

    def _moved(self, point: Point, number: int, step: Tensor, noise: Noise) -> tuple[Point, Tensor]:
        """A transition at temperature `number`."""
        own = noise.at(number)
        uniform = own.at("accept").uniform(self.ids, (self.settings.chains,)).T.to(self.x.device)
        momentum = self._normal(own.at("momentum"))
        return transition(self.f, point, self.betas[number], step, momentum, uniform, leapfrogs=self.settings.leapfrogs)

    def _piloted(self) -> Float64[Tensor, "T B"]:
        """ε of each temperature and row, from chains that are used for nothing else."""
        noise = self.noise.at("pilot")
        point = Point.at(self.f, self._normal(noise.at("start")))
        step = self.x.new_full((len(self.x),), FIRST)
        found = [step]
        for number in range(1, self.settings.temperatures):
            point, accepted = self._moved(point, number, step, noise)
            rate = accepted.double().mean(0)
            step = (step * torch.where(rate > WANTED, FASTER, SLOWER)).clamp(1e-6, 2.0)
            found.append(step)
        return torch.stack(found)

    def forward(self) -> Float64[Tensor, "C B"]:
        """log w of chains from q to the posterior: their log-mean-exp is below log p(x) in mean."""
        noise = self.noise.at("forward")
        point = Point.at(self.f, self._normal(noise.at("start")))
        log_w = self.betas[1] * point.value
        for number in range(1, self.settings.temperatures):
            point, _ = self._moved(point, number, self.steps[number], noise)
            log_w = log_w + (self.betas[number + 1] - self.betas[number]) * point.value
        return log_w

    def backward(self, z: Float[Tensor, "B D"]) -> Float64[Tensor, "C B"]:
        """log w of chains from exact draws of the posterior to q: minus the log-mean-exp of -log w is above log p(x) in mean.

        Args:
            z: the latents that the rows were simulated from.
        """
        noise = self.noise.at("backward")
        u = self.q.noise_of(z.to(self.x)).expand(self.settings.chains, -1, -1)
        point = Point.at(self.f, u)
        log_w = torch.zeros_like(point.value)
        for number in range(self.settings.temperatures - 1, 0, -1):
            log_w = log_w + (self.betas[number + 1] - self.betas[number]) * point.value
            point, _ = self._moved(point, number, self.steps[number], noise)
        return log_w + self.betas[1] * point.value


@dataclass(frozen=True)
class Sandwich:
    """Bounds on log p(x) of simulated rows, in mean below and above it; `gap` is how far apart they are, at most."""

    lower: Float64[Tensor, " B"]
    upper: Float64[Tensor, " B"]

    @staticmethod
    def of(parts: "list[Sandwich]") -> "Sandwich":
        """Of consecutive rows."""
        return Sandwich(torch.cat([p.lower for p in parts]), torch.cat([p.upper for p in parts]))

    @property
    def gap(self) -> float:
        """The mean of upper - lower, nats."""
        return float((self.upper - self.lower).mean())

    @property
    def stderr(self) -> float:
        """Of the gap, over rows."""
        return float((self.upper - self.lower).std()) / len(self.lower) ** 0.5


def sandwich(annealing: Annealing, z: Float[Tensor, "B D"]) -> Sandwich:
    """Both bounds of rows that were simulated from z."""
    return Sandwich(log_mean_exp(annealing.forward()), -log_mean_exp(-annealing.backward(z)))
