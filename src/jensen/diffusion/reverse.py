"""The generative process of a DDPM: p(x_T) = N(0, I), Gaussian steps p(x_{i-1} | x_i), an emission p(x_0 | x_1).

This is where the pieces meet: a chain (when), a denoiser (what), a reverse variance and an emission. The negative
variational bound of one example is a sum of T + 1 terms (note 3, proposition 2; Ho et al. 2020, eq. 5),

    L_T       = KL(q(x_T | x_0) ‖ p(x_T))
    L_{i-1}   = E KL(q(x_{i-1} | x_i, x_0) ‖ p(x_{i-1} | x_i)),    i = T, …, 2
    L_0       = E[-log p(x_0 | x_1)],

the expectations over x_i ~ q(x_i | x_0). `term` gives the integrand for any i.
"""

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn

from jensen.data.space import Levels
from jensen.diffusion.denoiser import Denoiser
from jensen.diffusion.emission import Emission
from jensen.diffusion.process import Bridge, Chain, Transition, diffuse, expand, kl_diagonal, kl_isotropic
from jensen.diffusion.schedule import alpha, sigma
from jensen.diffusion.variance import Measured, ReverseVariance
from jensen.distributions.picking import picked


class ReverseProcess(nn.Module):
    """p(x_0, …, x_T) = N(x_T; 0, I) ∏ N(x_{i-1}; μ(x_i), diag σ_i²) p(x_0 | x_1)."""

    def __init__(self, chain: Chain, denoiser: Denoiser, variance: ReverseVariance, emission: Emission) -> None:
        super().__init__()
        self.chain, self.denoiser, self.variance, self.emission = chain, denoiser, variance, emission

    def resized(self, steps: int) -> "ReverseProcess":
        """The same denoiser, variance rule and emission in a chain of another length."""
        return self if steps == self.chain.steps else self.along(self.chain.resized(steps))

    def along(self, chain: Chain) -> "ReverseProcess":
        """The same denoiser, variance rule and emission in another chain."""
        return ReverseProcess(chain, self.denoiser, self.variance, self.emission)

    def variances(self) -> Float[Tensor, "T *cells"]:
        """σ² of the step that leaves x_i, at position i - 1, float64; position 0 means nothing. What is known without x_i."""
        chain = self.chain
        variance = self.variance(chain.transition, chain.bridge, chain.log_snr)
        assert isinstance(variance, Tensor)
        return variance

    def denoise(
        self, x_i: Float[Tensor, "B *event"], i: Int[Tensor, " B"], context: Tensor | None = None
    ) -> Float[Tensor, "B *event"]:
        """x̂_0 from x_i."""
        return self.denoiser(x_i, self.chain.log_snr[i - 1], context)

    def step(
        self, x_i: Float[Tensor, "B *event"], i: Int[Tensor, " B"], context: Tensor | None = None
    ) -> tuple[Float[Tensor, "B *event"], Float64[Tensor, "B *cells"]]:
        """x̂_0(x_i), and σ² of p(x_{i-1} | x_i) for i ≥ 2: one a row, or one a row and cell."""
        denoised, spread = self.look(x_i, self.chain.log_snr[i - 1], context)
        return denoised, self.variance_at(i, spread)

    def variance_at(self, i: Int[Tensor, " B"], spread: Tensor | None) -> Float64[Tensor, "B *cells"]:
        """σ² of p(x_{i-1} | x_i) for i ≥ 2, from what the denoiser says of the variance."""
        at, link, forward = i - 1, self.chain.bridge, self.chain.transition
        bridge = Bridge(link.from_data[at], link.from_noisy[at], link.variance[at])
        transition = Transition(forward.scale[at], forward.variance[at])
        variance = self.variance(transition, bridge, self.chain.log_snr[at], spread)
        assert isinstance(variance, Tensor)
        return variance

    def look(
        self, x: Float[Tensor, "B *event"], log_snr: Float[Tensor, " B"], context: Tensor | None = None
    ) -> tuple[Float[Tensor, "B *event"], Float[Tensor, "B *event"] | None]:
        """x̂_0, and where the variance goes by the state what the denoiser says of it."""
        return self.denoiser.moments(x, log_snr, context, spread=self.variance.by_state)

    def mean(
        self, x_i: Float[Tensor, "B *event"], i: Int[Tensor, " B"], context: Tensor | None = None
    ) -> Float[Tensor, "B *event"]:
        """μ(x_i), the mean of x_{i-1}, for i ≥ 2."""
        return self.chain_mean(x_i, self.denoise(x_i, i, context), i)

    def chain_mean(
        self, x_i: Float[Tensor, "B *event"], denoised: Float[Tensor, "B *event"], i: Int[Tensor, " B"]
    ) -> Float[Tensor, "B *event"]:
        """μ from x_i and its x̂_0."""
        bridge = self.chain.bridge
        return expand(bridge.from_data[i - 1], x_i) * denoised + expand(bridge.from_noisy[i - 1], x_i) * x_i

    def prior_term(self, x_0: Float[Tensor, "B *event"]) -> Float[Tensor, " B"]:
        """L_T, exact, float64."""
        end = self.chain.log_snr[-1]
        distance2 = alpha(end).square() * x_0.double().square().flatten(1).sum(1).cpu()
        one = torch.ones((), dtype=torch.float64)
        return kl_isotropic(distance2, sigma(end).square(), one, x_0[0].numel())

    def reconstruction_term(
        self, x_0: Float[Tensor, "B *event"], eps: Float[Tensor, "B *event"], context: Tensor | None = None
    ) -> Float[Tensor, " B"]:
        """The integrand of L_0 at x_1 = α_1 x_0 + σ_1 ε, float64 nats."""
        return self.term(x_0, torch.ones(len(x_0), dtype=torch.int64), eps, context)

    def places(
        self, proposal: Float64[Tensor, " terms"], u: Float64[Tensor, "B m"]
    ) -> tuple[Int[Tensor, "B m"], Float64[Tensor, "B m"]]:
        """The steps i ≥ 2 at which the distribution function of q(i) is u, and q there."""
        chosen = picked(proposal, u.flatten()).reshape(u.shape)
        return chosen + 2, proposal[chosen]

    def term(
        self,
        x_0: Float[Tensor, "B *event"],
        i: Int[Tensor, " B"],
        eps: Float[Tensor, "B *event"],
        context: Tensor | None = None,
    ) -> Float[Tensor, " B"]:
        """L_{i-1} of each row for its own i in 1 … T, at x_i = α_i x_0 + σ_i ε; float64 nats."""
        denoised, variance = self.step(diffuse(x_0, eps, self.chain.log_snr[i - 1]), i, context)
        divergence = self.divergence(x_0, denoised, variance, i)
        last = i == 1
        if bool(last.any()):
            divergence[last] = -self.emission(denoised[last]).log_prob(x_0[last].double()).cpu()
        return divergence

    def noise_share(self, log_snr: Float64[Tensor, " B"]) -> Float64[Tensor, " B"]:
        """κ, how much of the noise is left in x̂_0 - x_0, from the errors that were measured: e = κ σ²/α² for data of one normal; 0 where there
        are none.
        """
        if not isinstance(self.variance, Measured):
            return torch.zeros_like(log_snr)
        return (_of_all_cells(self.variance.error(log_snr)) * log_snr.exp()).clamp(max=1.0)

    def control(self, i: Int[Tensor, " B"] | None) -> Float64[Tensor, " B"]:
        """How often ‖ε‖² - d is in L_{i-1}, or in L_0 `(1,)` if None (`jensen.diffusion.likelihood`): κ² σ²/α² of ‖x_0 - x̂_0‖² is."""
        at = torch.zeros(1, dtype=torch.int64) if i is None else i - 1
        log_snr = self.chain.log_snr[at]
        squares = self.noise_share(log_snr).square() * torch.exp(-log_snr)
        if i is None:
            normal = not isinstance(self.emission.space, Levels)
            return 0.5 * squares / self.emission.log_scale.cpu().exp().square() if normal else 0 * squares
        return 0.5 * squares * self.chain.bridge.from_data[at].square() / _of_all_cells(self.variance_at(i, None))

    def divergence(
        self,
        x_0: Float[Tensor, "B *event"],
        denoised: Float[Tensor, "B *event"],
        variance: Float64[Tensor, "B *cells"],
        i: Int[Tensor, " B"],
    ) -> Float[Tensor, " B"]:
        """KL(q(x_{i-1} | x_i, x_0) ‖ p(x_{i-1} | x_i)) of each row from x̂_0(x_i) and σ², for i ≥ 2; float64 nats."""
        difference, link = (x_0.double() - denoised.double()).flatten(1), self.chain.bridge
        from_data, least = link.from_data[i - 1], link.variance[i - 1]
        if variance.ndim == 1:
            return kl_isotropic(from_data.square() * difference.square().sum(1).cpu(), least, variance, x_0[0].numel())
        return kl_diagonal(from_data[:, None] * difference.cpu(), least, variance.flatten(1))


def _of_all_cells(values: Float64[Tensor, "B *cells"]) -> Float64[Tensor, " B"]:
    return values.reshape(len(values), -1).mean(1)
