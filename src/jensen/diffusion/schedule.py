"""Noise schedules: how much signal is left at time t.

A variance-preserving forward process has marginals q(x_t | x_0) = N(α_t x_0, σ_t² I) with α_t² + σ_t² = 1, so one
function says it all: the log signal-to-noise ratio

    λ(t) = log(α_t² / σ_t²),     α_t² = sigmoid(λ),     σ_t² = sigmoid(-λ),     t = 0 data, t = 1 noise,

which falls with t. (Kingma et al. 2021, "Variational diffusion models", section 3.) A DDPM's β_1 … β_T is a
schedule read at T times.

A process with other marginals N(a x_0, b² I) is this one in another unit: with λ = log(a²/b²), x_t = (state)/sqrt(a² + b²). Bound, flow and
samplers do not depend on the unit, so the processes of Song et al. 2021 ("Score-based generative modeling through SDEs", section 3.4) and the
straight lines of flow matching are schedules by their names:

    vp       log a² = -∫β, β from 0.1 to 20, a² + b² = 1                     sub-vp   the same a, b = 1 - a²
    ve       a = 1, b from sigma_min to sigma_max in even ratios: λ falls in a straight line
    flow     a = 1 - t, b = t

Of "ve" the ends are given as log-SNRs, λ = -2 log b. Everything is float64. Symbols: our α_t² is the ᾱ_t of Ho et al. 2020 and the α_t of
note 3; our σ_t is the standard deviation of the noise in x_t, not of the reverse step.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus

from jensen.errors import InputError, did_you_mean

# Above this the end of the schedule still carries signal: E KL(q(x_1 | x_0) ‖ N(0, I)) = -½ log σ² > 0.005 nats a
# dimension for data of unit variance.
FAR_FROM_NOISE = 0.1
NAMED = ("log-snr", "linear", "cosine", "vp", "sub-vp", "ve", "flow")  # that need no numbers
MOST_LOG_SNR = 40.0  # beyond, signal or noise is lost in the rounding of float32 altogether


class Schedule(ABC):
    """λ(t) on [0, 1]."""

    @abstractmethod
    def log_snr(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """λ(t), float64, falling in t."""

    def first_time(self, steps: int) -> float:
        """The time of x_1 in a chain of that many steps: 1/T, so that t = 0 is the data."""
        return 1 / steps

    def end_alpha(self) -> float:
        """α_1: how much of the data is left at the end."""
        return float(alpha(self.log_snr(torch.ones(1, dtype=torch.float64)))[0])

    def warning(self) -> str | None:
        """What is wrong with this schedule, in a line, or None."""
        if self.end_alpha() <= FAR_FROM_NOISE:
            return None
        return (
            f"the schedule ends at α = {self.end_alpha():.3f}, far from pure noise (α ≤ {FAR_FROM_NOISE}): samples start from "
            "N(0, I), which is not where the forward process ends; use larger betas or a lower end log-SNR"
        )


class LogSNRUniform(Schedule):
    """λ(t) = (1 - t)·start + t·end: every octave of noise gets the same number of steps.

    Args:
        start: λ(0), so high that the data are known there (13.3 for 256 levels in [-1, 1]).
        end: λ(1), so low that nothing is known there.

    Its chain puts x_1 at t = 0, since λ(0) is finite and x_0 is the data itself.
    """

    def __init__(self, start: float = 13.3, end: float = -6.0) -> None:
        if not -MOST_LOG_SNR <= end < start <= MOST_LOG_SNR:
            raise InputError(
                f"log_snr_start must lie above log_snr_end, and both within ±{MOST_LOG_SNR:g}, got {start:g} and {end:g}"
            )
        self.start, self.end = float(start), float(end)

    def log_snr(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """λ(t)."""
        return self.start + (self.end - self.start) * t.to(torch.float64)

    def first_time(self, steps: int) -> float:
        """0: the start of the schedule is already noisy."""
        return 0.0


class Shaped(LogSNRUniform):
    """λ(t) = start + (end - start)·s(t), s by straight lines through given places at even times.

    Args:
        start: λ(0).
        end: λ(1).
        shape: s at 0, …, 1, rising from 0 to 1; copied.
    """

    def __init__(self, start: float, end: float, shape: Float[Tensor, " places"]) -> None:
        super().__init__(start, end)
        self.shape = shape.detach().to("cpu", torch.float64, copy=True)

    def log_snr(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """λ(t)."""
        place = t.to(torch.float64) * (len(self.shape) - 1)
        left = place.floor().clamp(0, len(self.shape) - 2).long()
        low, high = self.shape[left], self.shape[left + 1]
        return super().log_snr(low + (place - left) * (high - low))


class Betas(Schedule):
    """The schedule of given β_1 … β_N: log α² = Σ log(1 - β_i) at t = i/N, linear in t between.

    Read at N steps it gives back the betas; read at any other number it ends in the same noise.
    """

    def __init__(self, betas: Float[Tensor, " N"]) -> None:
        betas = betas.to(torch.float64)
        bad = (betas <= 0) | (betas >= 1) | betas.isnan()
        if bool(bad.any()):
            i = int(bad.nonzero()[0])
            raise InputError(f"every beta must lie strictly between 0 and 1, got betas[{i}] = {float(betas[i])}")
        zero = torch.zeros(1, dtype=torch.float64)
        self.betas = betas
        self._log_alpha2 = torch.cat([zero, torch.log1p(-betas).cumsum(0)])

    def log_snr(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """λ(t); infinite at t = 0."""
        place = t.to(torch.float64) * len(self.betas)
        left = place.floor().clamp(0, len(self.betas) - 1).long()
        a, b = self._log_alpha2[left], self._log_alpha2[left + 1]
        log_alpha2 = a + (place - left) * (b - a)
        return log_alpha2 - torch.log(-torch.expm1(log_alpha2))


class Linear(Betas):
    """β from 1e-4 to 0.02 over 1000 steps (Ho et al. 2020, section 4), as a continuous schedule."""

    def __init__(self, beta_start: float = 1e-4, beta_end: float = 0.02) -> None:
        for name, value in (("beta_start", beta_start), ("beta_end", beta_end)):
            if not 0 < value < 1:
                raise InputError(f"{name} must lie strictly between 0 and 1, got {value}")
        super().__init__(torch.linspace(beta_start, beta_end, 1000, dtype=torch.float64))


class Cosine(Schedule):
    """α_t² = cos²(a_t) / cos²(a_0), a_t = (π/2)(t + s)/(1 + s) (Nichol and Dhariwal 2021, eq. 17).

    1 - α_t² is computed as sin(a_t - a_0) sin(a_t + a_0) / cos²(a_0), which does not cancel near t = 0. The end,
    where α is 0, is held at log-SNR `end` by adding e^end to the signal-to-noise ratio: a hard limit would repeat a
    level in long chains, and a step between equal levels has variance 0.
    """

    def __init__(self, s: float = 0.008, end: float = -15.0) -> None:
        self.s, self.end = float(s), float(end)

    def log_snr(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """λ(t); infinite at t = 0."""
        a_0 = 0.5 * math.pi * self.s / (1 + self.s)
        a_t = 0.5 * math.pi * (t.to(torch.float64) + self.s) / (1 + self.s)
        noise = torch.sin(a_t - a_0) * torch.sin(a_t + a_0)
        log_snr = torch.cos(a_t).square().log() - noise.log()
        return torch.logaddexp(log_snr, torch.full_like(log_snr, self.end))


class VP(Schedule):
    """log α_t² = -(β_min t + ½ (β_max - β_min) t²) (Song et al. 2021, equation 33)."""

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        self.beta_min, self.beta_max = float(beta_min), float(beta_max)

    def log_alpha2(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """-∫_0^t β."""
        t = t.to(torch.float64)
        return -(self.beta_min * t + 0.5 * (self.beta_max - self.beta_min) * t.square())

    def log_snr(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """λ(t); infinite at t = 0."""
        log_alpha2 = self.log_alpha2(t)
        return log_alpha2 - torch.log(-torch.expm1(log_alpha2))


class SubVP(VP):
    """The same a² = e^(-∫β) with b = 1 - a² (Song et al. 2021, equation 38)."""

    def log_snr(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """λ(t); infinite at t = 0."""
        log_a2 = self.log_alpha2(t)
        return log_a2 - 2 * torch.log(-torch.expm1(log_a2))


class Flow(Schedule):
    """a = 1 - t, b = t: λ = 2 log((1 - t)/t), held at `end` like the cosine's (Lipman et al. 2023; Liu et al. 2023)."""

    def __init__(self, end: float = -15.0) -> None:
        self.end = float(end)

    def log_snr(self, t: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """λ(t); infinite at t = 0."""
        t = t.to(torch.float64)
        log_snr = 2 * (torch.log1p(-t) - t.log())
        return torch.logaddexp(log_snr, torch.full_like(log_snr, self.end))


def alpha(log_snr: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """α = sqrt(sigmoid(λ))."""
    return torch.exp(0.5 * logsigmoid(log_snr))


def sigma(log_snr: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """σ = sqrt(sigmoid(-λ))."""
    return torch.exp(-0.5 * softplus(log_snr))


def schedule_from(
    word: str,
    *,
    start: float = 9.0,
    end: float = -7.0,
    beta_start: float = 1e-4,
    beta_end: float = 0.02,
    betas: Sequence[float] | None = None,
) -> Schedule:
    """The schedule a word stands for: "log-snr" and "ve" (start, end), "linear" (beta_start, beta_end), "betas", and by their own numbers
    "cosine", "vp", "sub-vp" and "flow".
    """
    match word:
        case "log-snr" | "ve":
            return LogSNRUniform(start, end)
        case "vp":
            return VP()
        case "sub-vp":
            return SubVP()
        case "flow":
            return Flow()
        case "linear":
            return Linear(beta_start, beta_end)
        case "cosine":
            return Cosine()
        case "betas" if betas:
            return Betas(torch.tensor(betas, dtype=torch.float64))
        case "betas":
            raise InputError("schedule=betas needs betas, a list of numbers between 0 and 1, got none")
    raise InputError(
        f"unknown schedule {word!r}; {did_you_mean(word, NAMED)}known schedules are {', '.join(NAMED)}, betas"
    )
