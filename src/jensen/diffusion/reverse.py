"""The generative process of a DDPM: p(x_T) = N(0, I), Gaussian steps p(x_{i-1} | x_i), an emission p(x_0 | x_1).

This is where the pieces meet: a chain (when), a denoiser (what), a reverse variance and an emission. The negative
variational bound of one example is a sum of T + 1 terms (note 3, proposition 2; Ho et al. 2020, eq. 5),

    L_T       = KL(q(x_T | x_0) ‖ p(x_T))
    L_{i-1}   = E KL(q(x_{i-1} | x_i, x_0) ‖ p(x_{i-1} | x_i)),    i = T, …, 2
    L_0       = E[-log p(x_0 | x_1)],

the expectations over x_i ~ q(x_i | x_0). `term` gives the integrand for any i.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from jensen.diffusion.denoiser import Denoiser
from jensen.diffusion.emission import Emission
from jensen.diffusion.process import Chain, diffuse, expand, kl_isotropic
from jensen.diffusion.schedule import alpha, sigma
from jensen.diffusion.variance import ReverseVariance


class ReverseProcess(nn.Module):
    """p(x_0, …, x_T) = N(x_T; 0, I) ∏ N(x_{i-1}; μ(x_i), σ_i² I) p(x_0 | x_1)."""

    def __init__(self, chain: Chain, denoiser: Denoiser, variance: ReverseVariance, emission: Emission) -> None:
        super().__init__()
        self.chain, self.denoiser, self.variance, self.emission = chain, denoiser, variance, emission

    def resized(self, steps: int) -> "ReverseProcess":
        """The same denoiser, variance rule and emission in a chain of another length."""
        if steps == self.chain.steps:
            return self
        return ReverseProcess(self.chain.resized(steps), self.denoiser, self.variance, self.emission)

    def variances(self) -> Float[Tensor, " T"]:
        """σ² of the step that leaves x_i, at position i - 1, float64; position 0 means nothing."""
        chain = self.chain
        variance = self.variance(chain.transition, chain.bridge, chain.log_snr)
        assert isinstance(variance, Tensor)
        return variance

    def denoise(
        self, x_i: Float[Tensor, "B *event"], i: Int[Tensor, " B"], context: Tensor | None = None
    ) -> Float[Tensor, "B *event"]:
        """x̂_0 from x_i."""
        return self.denoiser(x_i, self.chain.log_snr[i - 1], context)

    def mean(
        self, x_i: Float[Tensor, "B *event"], i: Int[Tensor, " B"], context: Tensor | None = None
    ) -> Float[Tensor, "B *event"]:
        """μ(x_i), the mean of x_{i-1}, for i ≥ 2."""
        bridge = self.chain.bridge
        denoised = self.denoise(x_i, i, context)
        return expand(bridge.from_data[i - 1], x_i) * denoised + expand(bridge.from_noisy[i - 1], x_i) * x_i

    def prior_term(self, x_0: Float[Tensor, "B *event"]) -> Float[Tensor, " B"]:
        """L_T, exact, float64."""
        end = self.chain.log_snr[-1]
        distance2 = alpha(end).square() * x_0.double().square().flatten(1).sum(1).cpu()
        one = torch.ones((), dtype=torch.float64)
        return kl_isotropic(distance2, sigma(end).square(), one, x_0[0].numel())

    def term(
        self,
        x_0: Float[Tensor, "B *event"],
        i: Int[Tensor, " B"],
        eps: Float[Tensor, "B *event"],
        context: Tensor | None = None,
    ) -> Float[Tensor, " B"]:
        """L_{i-1} of each row for its own i in 1 … T, at x_i = α_i x_0 + σ_i ε; float64 nats."""
        denoised = self.denoise(diffuse(x_0, eps, self.chain.log_snr[i - 1]), i, context)
        distance2 = (x_0.double() - denoised.double()).square().flatten(1).sum(1).cpu()
        link = self.chain.bridge
        divergence = kl_isotropic(
            link.from_data[i - 1].square() * distance2, link.variance[i - 1], self.variances()[i - 1], x_0[0].numel()
        )
        last = i == 1
        if bool(last.any()):
            divergence[last] = -self.emission(denoised[last]).log_prob(x_0[last].double()).cpu()
        return divergence
