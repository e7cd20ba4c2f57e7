"""The forward process and its closed-form conditionals, for any two times s < t.

With λ the log-SNR, α = sqrt(sigmoid λ), σ = sqrt(sigmoid -λ):

    q(x_t | x_0)      = N(α_t x_0, σ_t² I)                                              (note 3, proposition 3)
    q(x_t | x_s)      = N(α_{t|s} x_s, σ²_{t|s} I),   α_{t|s} = α_t/α_s,   σ²_{t|s} = -σ_t² expm1(λ_t - λ_s)
    q(x_s | x_t, x_0) = N(c_0 x_0 + c_t x_t, β̂ I),    c_0 = -α_s expm1(λ_t - λ_s),
                        c_t = α_{t|s} σ_s²/σ_t²,       β̂ = -σ_s² expm1(λ_t - λ_s)        (proposition 4)
    KL(N(m_1, v_1 I) ‖ N(m_2, v_2 I)) = ½ [d log(v_2/v_1) + (d v_1 + ‖m_1 - m_2‖²)/v_2 - d]   (proposition 5)

The expm1 forms do not cancel when s is close to t. Note 3 has the ratio in the logarithm of proposition 5 the wrong
way round and lacks the d in front of v_1. (Ho et al. 2020, eqs. 4, 7, 8; Kingma et al. 2021, appendix A.)
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from jensen.diffusion.schedule import Schedule, alpha, sigma
from jensen.errors import InputError


def expand(coefficient: Float[Tensor, "B *cells"], x: Float[Tensor, "B *event"]) -> Float[Tensor, "B *ones"]:
    """A coefficient a row, `(B,)`, shaped and typed to multiply `x (B, *event)`; one a cell, `(B, *event)`, typed alike."""
    typed = coefficient.to(device=x.device, dtype=x.dtype)
    return typed.reshape(-1, *[1] * (x.ndim - 1)) if coefficient.ndim == 1 else typed


def diffuse(
    x_0: Float[Tensor, "B *event"], eps: Float[Tensor, "B *event"], log_snr: Float[Tensor, " B"]
) -> Float[Tensor, "B *event"]:
    """x_t = α_t x_0 + σ_t ε."""
    return expand(alpha(log_snr), x_0) * x_0 + expand(sigma(log_snr), x_0) * eps


@dataclass(frozen=True)
class Transition:
    """q(x_t | x_s) = N(scale · x_s, variance · I)."""

    scale: Float[Tensor, "*shape"]
    variance: Float[Tensor, "*shape"]


def transition(log_snr_s: Float[Tensor, "*shape"], log_snr_t: Float[Tensor, "*shape"]) -> Transition:
    """q(x_t | x_s) for s < t; s = 0 may be given as λ = ∞."""
    return Transition(
        alpha(log_snr_t) / alpha(log_snr_s), -sigma(log_snr_t).square() * torch.expm1(log_snr_t - log_snr_s)
    )


@dataclass(frozen=True)
class Bridge:
    """q(x_s | x_t, x_0) = N(from_data · x_0 + from_noisy · x_t, variance · I)."""

    from_data: Float[Tensor, "*shape"]
    from_noisy: Float[Tensor, "*shape"]
    variance: Float[Tensor, "*shape"]

    def mean(self, x_0: Float[Tensor, "B *event"], x_t: Float[Tensor, "B *event"]) -> Float[Tensor, "B *event"]:
        """The mean for rows `x_0, x_t (B, *event)`."""
        return expand(self.from_data, x_t) * x_0 + expand(self.from_noisy, x_t) * x_t


def bridge(log_snr_s: Float[Tensor, "*shape"], log_snr_t: Float[Tensor, "*shape"]) -> Bridge:
    """q(x_s | x_t, x_0) for s < t: the discrete Ornstein-Uhlenbeck bridge."""
    gone = -torch.expm1(log_snr_t - log_snr_s)
    sigma_s2, sigma_t2 = sigma(log_snr_s).square(), sigma(log_snr_t).square()
    from_noisy = alpha(log_snr_t) / alpha(log_snr_s) * sigma_s2 / sigma_t2
    return Bridge(alpha(log_snr_s) * gone, from_noisy, sigma_s2 * gone)


def kl_isotropic(
    mean_distance2: Float[Tensor, "*shape"],
    variance_1: Float[Tensor, "*#shape"],
    variance_2: Float[Tensor, "*#shape"],
    dims: int,
) -> Float[Tensor, "*shape"]:
    """KL(N(m_1, v_1 I) ‖ N(m_2, v_2 I)) in `dims` dimensions, given ‖m_1 - m_2‖²."""
    ratio = variance_1 / variance_2
    return 0.5 * (dims * (ratio - 1 - ratio.log()) + mean_distance2 / variance_2)


def kl_diagonal(
    difference: Float[Tensor, "B *event"], variance_1: Float[Tensor, " B"], variance_2: Float[Tensor, "B *event"]
) -> Float[Tensor, " B"]:
    """KL(N(m_1, v_1 I) ‖ N(m_2, diag v_2)), given m_1 - m_2; float64."""
    v_1, v_2 = variance_1.reshape(-1, 1), variance_2.double().flatten(1)
    ratio = v_1 / v_2
    return 0.5 * (ratio - 1 - ratio.log() + difference.double().flatten(1).square() / v_2).sum(1)


class Chain:
    """The discrete process x_0, x_1, …, x_T: a schedule read at T times, evenly from that of x_1 to 1.

    Arrays are float64 and have one entry a step: `log_snr[i - 1]` is that of x_i, and `bridge`, `transition` hold at
    position i - 1 what joins x_{i-1} and x_i for i ≥ 2. Position 0 is a placeholder: x_1 → x_0 is an emission.

    Args:
        schedule: λ(t).
        steps: T.
        first: the time of x_1; by default what the schedule says. A chain with fewer steps that keeps the `first` of
            a longer one ends in the same emission.
        log_snr: `(T,)` the levels of x_1 … x_T themselves, falling, instead of those of the schedule at even times.
    """

    def __init__(
        self, schedule: Schedule, steps: int, first: float | None = None, log_snr: Float[Tensor, " T"] | None = None
    ) -> None:
        if steps < 1:
            raise InputError(f"a chain needs at least 1 step, got steps = {steps}")
        self.schedule, self.steps = schedule, steps
        self.first = schedule.first_time(steps) if first is None else first
        self.times = torch.linspace(self.first, 1, steps, dtype=torch.float64) if steps > 1 else torch.ones(1).double()
        self.log_snr: Tensor = schedule.log_snr(self.times) if log_snr is None else log_snr
        before = torch.cat([self.log_snr[:1] + 1.0, self.log_snr[:-1]])
        self.bridge = bridge(before, self.log_snr)
        self.transition = transition(before, self.log_snr)

    def resized(self, steps: int) -> "Chain":
        """The chain of another length between the same x_1 and x_T."""
        return self if steps == self.steps else Chain(self.schedule, steps, self.first)

    def through(self, log_snr: Float[Tensor, " T"]) -> "Chain":
        """The chain with these levels."""
        return Chain(self.schedule, len(log_snr), self.first, log_snr)
