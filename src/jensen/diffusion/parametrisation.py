"""What a network's output means. Every parametrisation answers the same question, E[x_0 | x_t].

With x_t = α x_0 + σ ε:

    x      x_0                         eps    ε = (x_t - α x_0)/σ
    v      α ε - σ x_0                 score  ∇ log q(x_t | x_0) = -ε/σ
    mu     the mean of q(x_s | x_t, x_0) for the step before on a fixed grid: c_0 x_0 + c_t x_t
    velocity   ε - x_0, that of flow matching                edm    (x_0 - c_skip x_t/α)/c_out, of unit variance for data of deviation s

(Ho et al. 2020, section 3.2; Salimans and Ho 2022, appendix D; Song et al. 2021; Lipman et al. 2023; Karras et al. 2022, table 1.) Each is affine in x_0 at a given x_t,
output = a·x_0 + b·x_t, and that is all a subclass says.
"""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from jensen.diffusion.process import Chain, bridge, expand
from jensen.diffusion.schedule import alpha, sigma


class Parametrisation(ABC):
    """output = a(λ)·x_0 + b(λ)·x_t."""

    @abstractmethod
    def coefficients(self, log_snr: Float[Tensor, " B"]) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """a and b at log-SNR `(B,)`, float64."""

    def input_scale(self, log_snr: Float[Tensor, " B"]) -> Float[Tensor, " B"] | None:
        """What x_t is multiplied with before the network sees it; None for 1."""
        return None

    def target(
        self, x_0: Float[Tensor, "B *event"], x_t: Float[Tensor, "B *event"], log_snr: Float[Tensor, " B"]
    ) -> Float[Tensor, "B *event"]:
        """What the network should put out when x_0 is known."""
        a, b = self.coefficients(log_snr)
        return expand(a, x_t) * x_0 + expand(b, x_t) * x_t

    def denoised(
        self, output: Float[Tensor, "B *event"], x_t: Float[Tensor, "B *event"], log_snr: Float[Tensor, " B"]
    ) -> Float[Tensor, "B *event"]:
        """x̂_0 from the network's output."""
        a, b = self.coefficients(log_snr)
        return expand(1 / a, x_t) * output - expand(b / a, x_t) * x_t


class X(Parametrisation):
    """The network puts out x̂_0."""

    def coefficients(self, log_snr: Float[Tensor, " B"]) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """1, 0."""
        return torch.ones_like(log_snr), torch.zeros_like(log_snr)


class Eps(Parametrisation):
    """The network puts out the noise."""

    def coefficients(self, log_snr: Float[Tensor, " B"]) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """-α/σ, 1/σ."""
        return -torch.exp(0.5 * log_snr), 1 / sigma(log_snr)


class V(Parametrisation):
    """The network puts out v = α ε - σ x_0."""

    def coefficients(self, log_snr: Float[Tensor, " B"]) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """-1/σ, α/σ (since α² + σ² = 1)."""
        return -1 / sigma(log_snr), torch.exp(0.5 * log_snr)


class Score(Parametrisation):
    """The network puts out ∇ log q(x_t)."""

    def coefficients(self, log_snr: Float[Tensor, " B"]) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """α/σ², -1/σ²."""
        noise2 = sigma(log_snr).square()
        return alpha(log_snr) / noise2, -1 / noise2


class Mu(Parametrisation):
    """The network puts out the mean of the reverse step on the grid of `chain` (note 3, equation 12).

    At a log-SNR on the grid, s is the grid time before it; between grid times the step has the same log-SNR ratio as
    the grid step it lies in. Before the grid's first time it means x_0 itself.
    """

    def __init__(self, chain: Chain) -> None:
        self._log_snr = chain.log_snr

    def coefficients(self, log_snr: Float[Tensor, " B"]) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """c_0, c_t of the bridge."""
        falling = self._log_snr
        place = torch.searchsorted(-falling, -log_snr.contiguous() - 1e-9).clamp(max=len(falling) - 1)
        step = falling[(place - 1).clamp(min=0)] - falling[place]
        link = bridge(log_snr + step.clamp(min=1e-12), log_snr)
        first = place == 0
        one, zero = torch.ones_like(log_snr), torch.zeros_like(log_snr)
        return torch.where(first, one, link.from_data), torch.where(first, zero, link.from_noisy)


class Velocity(Parametrisation):
    """The network puts out ε - x_0, the velocity of (1 - τ) x_0 + τ ε."""

    def coefficients(self, log_snr: Float[Tensor, " B"]) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """-(1 + α/σ), 1/σ."""
        return -1 - torch.exp(0.5 * log_snr), 1 / sigma(log_snr)


class Preconditioned(Parametrisation):
    """The network puts out (x_0 - c_skip x_t/α)/c_out, c_skip = s²/(ς² + s²), c_out = ς s/sqrt(ς² + s²), ς = σ/α.

    Input and target have variance 1 at every level for data of standard deviation s.

    Args:
        spread: s.
    """

    def __init__(self, spread: float = 0.5) -> None:
        self.spread = float(spread)

    def coefficients(self, log_snr: Float[Tensor, " B"]) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
        """1/c_out, -c_skip/(α c_out)."""
        noise2 = torch.exp(-log_snr)
        total = noise2 + self.spread**2
        one = total.sqrt() / (noise2.sqrt() * self.spread)
        return one, -(self.spread**2) / total * one / alpha(log_snr)

    def input_scale(self, log_snr: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """1/sqrt(α² s² + σ²)."""
        return (alpha(log_snr).square() * self.spread**2 + sigma(log_snr).square()).rsqrt()


PARAMETRISATIONS: dict[str, type[Parametrisation]] = {
    "x": X,
    "eps": Eps,
    "v": V,
    "score": Score,
    "mu": Mu,
    "velocity": Velocity,
    "edm": Preconditioned,
}
