"""Denoisers: x_t and its log-SNR in, the posterior mean E[x_0 | x_t] out.

A denoiser wraps a network and says what its output means. All else (bound, samplers) asks only for x̂_0.
"""

from abc import ABC, abstractmethod
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jensen.diffusion.parametrisation import Parametrisation
from jensen.diffusion.process import expand
from jensen.diffusion.schedule import alpha, sigma
from jensen.nn.levels import LevelsHead


class Denoiser(nn.Module, ABC):
    """x̂_0 = E[x_0 | x_t]."""

    @abstractmethod
    def forward(
        self, x_t: Float[Tensor, "B *event"], log_snr: Float[Tensor, " B"], context: Tensor | None = None
    ) -> Float[Tensor, "B *event"]:
        """The posterior mean, of x_t's shape; float32 or better.

        Args:
            x_t: noisy rows, in the model's units.
            log_snr: λ of each row.
            context: what generation is conditioned on, or None.
        """

    def moments(
        self,
        x_t: Float[Tensor, "B *event"],
        log_snr: Float[Tensor, " B"],
        context: Tensor | None = None,
        *,
        spread: bool,
    ) -> tuple[Float[Tensor, "B *event"], Float[Tensor, "B *event"] | None]:
        """x̂_0, and if so asked Var[x_0 | x_t] of each cell where the denoiser sees one; that is not differentiable."""
        return self(x_t, log_snr, context), None

    def __call__(self, x_t: Tensor, log_snr: Tensor, context: Tensor | None = None) -> Tensor:
        """`forward`, with its type."""
        return cast(Tensor, super().__call__(x_t, log_snr, context))


def eps_from(
    x_t: Float[Tensor, "B *event"], denoised: Float[Tensor, "B *event"], log_snr: Float[Tensor, " B"]
) -> Float[Tensor, "B *event"]:
    """ε̂ = (x_t - α x̂_0)/σ."""
    return (x_t - expand(alpha(log_snr), x_t) * denoised) / expand(sigma(log_snr), x_t)


class NetworkDenoiser(Denoiser):
    """A network with an affine parametrisation.

    Args:
        network: (x_t, log-SNR, context) → output of x_t's shape.
        parametrisation: what the output means.
    """

    def __init__(self, network: nn.Module, parametrisation: Parametrisation) -> None:
        super().__init__()
        self.network, self.parametrisation = network, parametrisation

    def forward(
        self, x_t: Float[Tensor, "B *event"], log_snr: Float[Tensor, " B"], context: Tensor | None = None
    ) -> Float[Tensor, "B *event"]:
        """The parametrisation's x̂_0."""
        scale = self.parametrisation.input_scale(log_snr)
        given = x_t if scale is None else expand(scale, x_t) * x_t
        output = _run(self.network, given, log_snr, context).to(x_t.dtype)
        return self.parametrisation.denoised(output, x_t, log_snr)


class LevelsDenoiser(Denoiser):
    """For data on levels: the exact posterior mean under a prior over the levels that the network predicts.

    Args:
        network: (x_t, log-SNR, context) → features `(B, C·c, …)`.
        head: turns features and x_t into x̂_0.
    """

    def __init__(self, network: nn.Module, head: LevelsHead) -> None:
        super().__init__()
        self.network, self.head = network, head

    def forward(
        self, x_t: Float[Tensor, "B *event"], log_snr: Float[Tensor, " B"], context: Tensor | None = None
    ) -> Float[Tensor, "B *event"]:
        """Σ_v y_v p(v | x_t)."""
        features = _run(self.network, x_t, log_snr, context)
        return self._mean(features, x_t, log_snr)

    def moments(
        self,
        x_t: Float[Tensor, "B *event"],
        log_snr: Float[Tensor, " B"],
        context: Tensor | None = None,
        *,
        spread: bool,
    ) -> tuple[Float[Tensor, "B *event"], Float[Tensor, "B *event"] | None]:
        """The mean and the variance of p(v | x_t)."""
        if not spread:
            return self(x_t, log_snr, context), None
        features = _run(self.network, x_t, log_snr, context)
        with torch.no_grad():
            seen = self.head.variance(features, x_t, expand(alpha(log_snr), x_t), expand(sigma(log_snr), x_t))
        return self._mean(features, x_t, log_snr), seen

    def _mean(self, features: Tensor, x_t: Tensor, log_snr: Tensor) -> Tensor:
        mean = self.head(features, x_t, expand(alpha(log_snr), x_t), expand(sigma(log_snr), x_t))
        assert isinstance(mean, Tensor)
        return mean.to(torch.promote_types(x_t.dtype, torch.float32))


def _run(network: nn.Module, x_t: Tensor, log_snr: Tensor, context: Tensor | None) -> Tensor:
    """The network's output, computed in the type of its weights whatever that of the data."""
    like = next(network.parameters(), x_t)
    output = network(x_t.to(like), log_snr.to(like), context)
    assert isinstance(output, Tensor)
    return output
