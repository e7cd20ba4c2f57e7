"""The variance of the reverse step p(x_s | x_t) = N(μ(x_t), σ² I).

Two fixed choices bracket it: β = σ²_{t|s}, right when the data are N(0, I), and β̂, the bridge's own variance, right
when x_0 is known (Ho et al. 2020, section 3.2). With the bridge coefficient c_0 and the denoiser's mean squared error
a dimension, e(λ) = E‖x_0 - x̂_0(x_t)‖²/d, the best isotropic choice is

    σ*² = β̂ + c_0² e(λ_t),

which equals E‖x_s - μ(x_t)‖²/d and minimises the bound (Bao et al. 2022, "Analytic-DPM", theorem 1; here with the
residuals of the network itself on validation rows, so that it holds for any denoiser).
"""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from jensen.diffusion.process import Bridge, Transition
from jensen.errors import InputError
from jensen.rules import RISING, Rule, Ruled, between


class ReverseVariance(nn.Module, ABC):
    """σ² of reverse steps, one a step."""

    @abstractmethod
    def forward(self, transition: Transition, bridge: Bridge, log_snr: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """σ² of the steps that leave log-SNR `log_snr (n,)`, float64."""


class Interpolated(ReverseVariance):
    """σ² = β^w β̂^(1-w): w = 1 is β, w = 0 is β̂."""

    def __init__(self, weight: float = 1.0) -> None:
        if not 0 <= weight <= 1:
            raise InputError(f"the weight between β̂ (0) and β (1) must lie in [0, 1], got {weight}")
        super().__init__()
        self.weight = float(weight)

    def forward(self, transition: Transition, bridge: Bridge, log_snr: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """β^w β̂^(1-w)."""
        return torch.exp(self.weight * transition.variance.log() + (1 - self.weight) * bridge.variance.log())


class Calibrated(ReverseVariance, Ruled):
    """σ*² = β̂ + c_0² e(λ), from the denoiser's error at knots of log-SNR; log e is interpolated linearly.

    Until `calibrate` is called, e(λ) = σ² is that of N(0, I) data, which makes σ² = β.

    Args:
        log_snr: `(n,)` the knots.
    """

    log_snr: Tensor
    log_error: Tensor

    def __init__(self, log_snr: Float[Tensor, " n"]) -> None:
        super().__init__()
        knots = log_snr.to(torch.float64).sort().values
        self.register_buffer("log_snr", knots)
        self.register_buffer("log_error", -softplus(knots))

    def rules(self) -> dict[str, Rule]:
        """Knots in their order, errors whose exponentials float32 can hold."""
        return {"log_snr": RISING, "log_error": between(-80.0, 80.0, "from -80 to 80")}

    def calibrate(self, log_snr: Float[Tensor, " n"], error: Float[Tensor, " n"]) -> None:
        """Take the measured mean squared errors a dimension at the knots, `(n,)`, in any order.

        An error below 1e-4 of the noise σ²/α² is held there: fewer rows than that were seen.
        """
        order = log_snr.argsort()
        floor = 1e-4 * torch.exp(-log_snr[order])
        self.log_snr.copy_(log_snr[order])
        self.log_error.copy_(torch.maximum(error[order].to(torch.float64), floor).log())

    def forward(self, transition: Transition, bridge: Bridge, log_snr: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """β̂ + c_0² e(λ)."""
        return bridge.variance + bridge.from_data.square() * self.error(log_snr)

    def error(self, log_snr: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """e(λ), held constant outside the knots."""
        return interpolate(log_snr, self.log_snr.cpu(), self.log_error.cpu()).exp()


def variance_from(word: str | float, log_snr: Float[Tensor, " n"]) -> ReverseVariance:
    """The rule a word stands for: "beta", "beta-hat", a weight between their logs, or "calibrated" with these knots."""
    if word == "calibrated":
        return Calibrated(log_snr)
    fixed = {"beta": 1.0, "beta-hat": 0.0}
    if isinstance(word, str) and word not in fixed:
        raise InputError(f"reverse_variance must be calibrated, beta, beta-hat or a number in [0, 1], got {word!r}")
    return Interpolated(fixed[word] if isinstance(word, str) else word)


def interpolate(
    x: Float[Tensor, "*shape"], knots: Float[Tensor, " n"], values: Float[Tensor, " n"]
) -> Float[Tensor, "*shape"]:
    """Linear interpolation through (knots, values), knots ascending, constant outside."""
    if len(knots) == 1:
        return values.expand(x.shape)
    x = x.clamp(float(knots[0]), float(knots[-1]))
    right = torch.searchsorted(knots, x.contiguous()).clamp(1, len(knots) - 1)
    span = knots[right] - knots[right - 1]
    weight = (x - knots[right - 1]) / span
    return values[right - 1] + weight * (values[right] - values[right - 1])
