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
        """x̂_0, and if so asked what the denoiser says of the variance in each cell: by default nothing."""
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
        network: (x_t, log-SNR, context) → output of x_t's shape, or of two such outputs a channel.
        parametrisation: what the output means.
        weighs: whether there are two, the second for `variance.Learned`.
    """

    def __init__(self, network: nn.Module, parametrisation: Parametrisation, *, weighs: bool = False) -> None:
        super().__init__()
        self.network, self.parametrisation, self.weighs = network, parametrisation, weighs

    def forward(
        self, x_t: Float[Tensor, "B *event"], log_snr: Float[Tensor, " B"], context: Tensor | None = None
    ) -> Float[Tensor, "B *event"]:
        """The parametrisation's x̂_0."""
        return self.moments(x_t, log_snr, context, spread=False)[0]

    def moments(
        self,
        x_t: Float[Tensor, "B *event"],
        log_snr: Float[Tensor, " B"],
        context: Tensor | None = None,
        *,
        spread: bool,
    ) -> tuple[Float[Tensor, "B *event"], Float[Tensor, "B *event"] | None]:
        """And the network's second output."""
        scale = self.parametrisation.input_scale(log_snr)
        given = x_t if scale is None else expand(scale, x_t) * x_t
        output = _run(self.network, given, log_snr, context).to(x_t.dtype)
        output, second = _parted(output, x_t, 1) if self.weighs else (output, None)
        return self.parametrisation.denoised(output, x_t, log_snr), second if spread else None


class LevelsDenoiser(Denoiser):
    """For data on levels: the exact posterior mean under a prior over the levels that the network predicts.

    Args:
        network: (x_t, log-SNR, context) → features `(B, C·c, …)`, or one more a channel.
        head: turns features and x_t into x̂_0.
        weighs: whether there is one more, for `variance.Learned`.
    """

    def __init__(self, network: nn.Module, head: LevelsHead, *, weighs: bool = False) -> None:
        super().__init__()
        self.network, self.head, self.weighs = network, head, weighs

    def forward(
        self, x_t: Float[Tensor, "B *event"], log_snr: Float[Tensor, " B"], context: Tensor | None = None
    ) -> Float[Tensor, "B *event"]:
        """Σ_v y_v p(v | x_t)."""
        return self.moments(x_t, log_snr, context, spread=False)[0]

    def moments(
        self,
        x_t: Float[Tensor, "B *event"],
        log_snr: Float[Tensor, " B"],
        context: Tensor | None = None,
        *,
        spread: bool,
    ) -> tuple[Float[Tensor, "B *event"], Float[Tensor, "B *event"] | None]:
        """The mean and the variance of p(v | x_t), which is not differentiable; or the network's further output in its place."""
        features, second = _run(self.network, x_t, log_snr, context), None
        if self.weighs:
            features, second = _parted(features, x_t, self.head.features)
        if not spread or self.weighs:
            return self._mean(features, x_t, log_snr), second if spread else None
        mean, seen = self.head.moments(features, x_t, expand(alpha(log_snr), x_t), expand(sigma(log_snr), x_t))
        return self._mean(features, x_t, log_snr) if torch.is_grad_enabled() else mean, seen

    def _mean(self, features: Tensor, x_t: Tensor, log_snr: Tensor) -> Tensor:
        mean = self.head(features, x_t, expand(alpha(log_snr), x_t), expand(sigma(log_snr), x_t))
        assert isinstance(mean, Tensor)
        return mean.to(torch.promote_types(x_t.dtype, torch.float32))


def _parted(output: Tensor, x_t: Tensor, features: int) -> tuple[Tensor, Tensor]:
    """`(B, C·(c + 1), …)` as c numbers a channel `(B, C·c, …)`, and the last of each, of x_t's shape."""
    batch, channels, *rest = x_t.shape
    each = output.reshape(batch, channels, features + 1, *rest)
    return each[:, :, :features].reshape(batch, channels * features, *rest), each[:, :, features]


def _run(network: nn.Module, x_t: Tensor, log_snr: Tensor, context: Tensor | None) -> Tensor:
    """The network's output, computed in the type of its weights whatever that of the data."""
    like = next(network.parameters(), x_t)
    output = network(x_t.to(like), log_snr.to(like), context)
    assert isinstance(output, Tensor)
    return output
