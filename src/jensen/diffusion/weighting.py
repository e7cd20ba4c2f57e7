"""What training weighs: every objective of diffusion is E w(λ) ‖x_0 - x̂_0(x_λ)‖², with λ drawn from some density.

    bound          a random term of the variational bound, as it is
    simple         the squared error of what the network puts out (of the noise, where it puts out levels), steps of the chain alike
    dsm            ‖ε - ε̂‖² = σ² ‖s - ŝ‖²: denoising score matching with Song and Ermon's weight (2019, section 4.2), whatever is put out
    min-snr        min(SNR, 5) ‖x_0 - x̂_0‖² (Hang et al. 2023, "Min-SNR weighting", section 3.4)
    edm            log σ/α ~ N(-1.2, 1.2²), weight (σ²/α² + s²)/(s σ/α)², s the deviation of the data (Karras et al. 2022, table 1)
    flow-matching  ‖u - û‖², u = ε - x_0 along x = (1 - τ) x_0 + τ ε, τ uniform: σ/α = τ/(1 - τ) (Lipman et al. 2023, section 4.1), which is
                   (1 + α/σ)² ‖x_0 - x̂_0‖²

The minimiser over all functions is E[x_0 | x_λ] whatever the weight; a network of finite size, and a fit of finite time, errs where the weight
is small. (Kingma and Gao 2023, "Understanding diffusion objectives as the ELBO with simple data augmentation", have them all as weights.)
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from jensen.diffusion.parametrisation import Parametrisation

MOST_SNR = 5.0
EDM_MEAN, EDM_SD = -1.2, 1.2  # of log σ/α


@dataclass(frozen=True)
class Weighting:
    """An objective.

    Attributes:
        weight: λ → w(λ).
        density: λ → how often a unit of λ is looked at, up to a factor; None for the steps of the chain alike.
    """

    weight: Callable[[Tensor], Tensor]
    density: Callable[[Tensor], Tensor] | None = None

    def steps(self, log_snr: Float[Tensor, " T"]) -> Float[Tensor, " T"]:
        """How often each step of a chain with these levels is looked at; they sum to 1."""
        if self.density is None or len(log_snr) == 1:
            return torch.full_like(log_snr, 1 / len(log_snr))
        edges = torch.cat([log_snr[:1], (log_snr[1:] + log_snr[:-1]) / 2, log_snr[-1:]])
        mass = self.density(log_snr) * (edges[:-1] - edges[1:])
        return mass / mass.sum()


def weighting_from(word: str, target: Parametrisation, spread: float) -> Weighting:
    """The objective a word other than "bound" stands for.

    Args:
        word: see above.
        target: what "simple" takes the error of.
        spread: the standard deviation of the data, for "edm".
    """
    match word:
        case "simple":
            return Weighting(lambda log_snr: target.coefficients(log_snr)[0].square())
        case "dsm":
            return Weighting(torch.exp)
        case "min-snr":
            return Weighting(lambda log_snr: log_snr.exp().clamp(max=MOST_SNR))
        case "edm":
            return Weighting(lambda log_snr: 1 / spread**2 + log_snr.exp(), _edm_density)
        case "flow-matching":
            return Weighting(lambda log_snr: (1 + torch.exp(0.5 * log_snr)).square(), _flow_density)
    raise ValueError(f"unknown objective {word!r}")


def _edm_density(log_snr: Tensor) -> Tensor:
    """Of λ = -2 log σ/α."""
    return torch.exp(-0.5 * ((-0.5 * log_snr - EDM_MEAN) / EDM_SD).square())


def _flow_density(log_snr: Tensor) -> Tensor:
    """Of λ = 2 log((1 - τ)/τ): the logistic's."""
    tau = torch.sigmoid(-0.5 * log_snr)
    return tau * (1 - tau)


OBJECTIVES = ("simple", "bound", "dsm", "min-snr", "edm", "flow-matching")
