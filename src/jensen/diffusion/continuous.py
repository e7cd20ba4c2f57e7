"""The limit of a chain of more and more steps between the same ends: a stochastic differential equation.

As T → ∞ with the ends held, the variance of a step no longer matters, and the sum of the bound becomes an integral over the log-SNR,

    -log p(x_0) ≤ L_T + ½ ∫_{λ_T}^{λ_1} E‖ε - ε̂(x_λ)‖² dλ + L_0,    ½‖ε - ε̂‖² = ½ e^λ ‖x_0 - x̂_0‖²,

which knows the schedule by its ends alone (Kingma et al. 2021, "Variational diffusion models", equations 15 and 17 to 20). It is
estimated like the sum, at places drawn from a proposal, which is a choice of variance and nothing else.
"""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from jensen.diffusion.process import diffuse
from jensen.diffusion.reverse import ReverseProcess
from jensen.errors import InputError


class ContinuousTime:
    """The bound of the reverse process in infinitely many steps; `Terms` of `jensen.diffusion.likelihood`.

    Args:
        reverse: a chain with at least two levels: its denoiser, its ends, its emission.
    """

    def __init__(self, reverse: ReverseProcess) -> None:
        if reverse.chain.steps < 2:
            raise InputError("continuous time needs two noise levels to go between, and this chain has 1 step")
        self.reverse = reverse
        self.prior_term, self.reconstruction_term = reverse.prior_term, reverse.reconstruction_term

    def term(
        self,
        x_0: Float[Tensor, "B *event"],
        log_snr: Float64[Tensor, " B"],
        eps: Float[Tensor, "B *event"],
        context: Tensor | None = None,
    ) -> Float64[Tensor, " B"]:
        """½‖ε - ε̂‖² of each row at its own λ, float64 nats a unit of λ."""
        denoised = self.reverse.denoiser(diffuse(x_0, eps, log_snr), log_snr, context)
        distance2 = (x_0.double() - denoised.double()).square().flatten(1).sum(1).cpu()
        return 0.5 * log_snr.exp() * distance2

    def places(
        self, proposal: Float64[Tensor, " terms"], u: Float64[Tensor, "B m"]
    ) -> tuple[Float64[Tensor, "B m"], Float64[Tensor, "B m"]]:
        """The levels λ at which a distribution function is u, and its density there.

        The proposal is that of the chain's terms: the mass q(i) lies evenly between λ_i and λ_{i-1}.
        """
        levels, end = self.reverse.chain.log_snr, proposal.cumsum(0)
        bin_ = torch.searchsorted(end, (u * end[-1]).contiguous(), right=True).clamp(max=len(proposal) - 1)
        density = proposal / end[-1] / (levels[:-1] - levels[1:])
        below = (u * end[-1] - (end[bin_] - proposal[bin_])) / end[-1]
        return levels[bin_] - below / density[bin_], density[bin_]

    def control(self, where: Float64[Tensor, " B"] | None) -> Float64[Tensor, " B"]:
        """½κ² of the denoiser's share κ of the noise at λ."""
        return self.reverse.control(None) if where is None else 0.5 * self.reverse.noise_share(where).square()
