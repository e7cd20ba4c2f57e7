"""A schedule learned on validation rows: its ends by the bound, its shape by the variance with which the bound is estimated.

In continuous time (`jensen.diffusion.continuous`) the bound from λ_1 to λ_T is a sum of what each end costs,

    -log p ≤ [L_0(λ_1) - ∫^{λ_1}_∙ r] + [L_T(λ_T) + ∫_{λ_T}^∙ r] + constant,      the integrand r = ½ E‖ε - ε̂‖²,

so the two ends are best chosen one by one, and what is between them does not count. It counts in the variance: with t uniform a draw is
r_λ |dλ/dt|, whose mean is the integral for every λ(t), and whose mean square is least where |dλ/dt| ∝ (E r_λ²)^-½ (Cauchy and Schwarz). Kingma et al.
2021, "Variational diffusion models", section 5.2 and appendix I.2, train both by gradient, since their r changes with the network as they go.
Here training has a proposal of its own, and both are measured once the network is finished: then the shape is known in closed form.

With an exact denoiser the widest ends are the best; with a network those beyond which its errors cost more than they gain. A narrower end is taken where
it is better by more than three standard errors of the mean over rows. Fewer than 64 rows are sure of nothing: not of an end, and not of a shape, which
would come out worse than even.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from jensen.diffusion.calibration import denoised_at, knots_of
from jensen.diffusion.process import Chain
from jensen.diffusion.reverse import ReverseProcess
from jensen.diffusion.schedule import LogSNRUniform
from jensen.diffusion.variance import Measured, interpolate
from jensen.noise import Noise
from jensen.rules import Rule, between

SURE = 3.0  # standard errors
FORBIDDEN = 1e300
FEWEST = 64  # rows
LEAST_STEP = 1e-6  # of a shape
PLACES, FINE = 257, 8  # of a shape, and how many times finer it is integrated
UNIFORM, LEAST = 0.1, 1e-300  # a tenth of the density is even in λ, so that no level is passed over


@dataclass(frozen=True)
class Integrand:
    """½‖ε - ε̂‖² of every row at the knots of the widest chain, nats a unit of λ.

    Attributes:
        levels: λ of the knots, falling.
        rates: less its regression on the chance in ‖ε‖²: its mean over rows is that of one draw with the least error.
        draws: as the bound's estimator draws it, with its control variate where it has one.
        begins: L_0 of a chain that began there, at the first quarter of the knots.
    """

    levels: Float64[Tensor, " n"]
    rates: Float64[Tensor, "n B"]
    draws: Float64[Tensor, "n B"]
    begins: Float64[Tensor, "q B"]


@torch.no_grad()
def measured_integrand(
    reverse: ReverseProcess,
    x_0: Float[Tensor, "B *event"],
    ids: Int[Tensor, " B"],
    noise: Noise,
    *,
    context: Tensor | None = None,
    on_calls: Callable[[int], None] = lambda calls: None,
) -> Integrand:
    """One look at each row and knot.

    Args:
        reverse: the process in its widest chain.
        x_0: validation rows in the model's units.
        ids: their ids.
        noise: the stream to draw from.
        context: what the rows are conditioned on.
        on_calls: told how many rows each network call held.
    """
    steps, controls = knots_of(reverse.chain), isinstance(reverse.variance, Measured)
    levels, quarter = reverse.chain.log_snr[steps - 1], -(-len(steps) // 4)
    rates, draws, begins = [], [], []
    for number, (i, level) in enumerate(zip(steps.tolist(), levels, strict=True)):
        eps, length = _of_even_length(noise.at("knot", i).normal(ids, tuple(x_0.shape[1:])))
        denoised, _ = denoised_at(reverse, x_0, eps.to(x_0), level, context, on_calls)
        rate = 0.5 * level.exp() * (x_0.double() - denoised.double()).square().flatten(1).sum(1).cpu()
        share = min(1.0, 2 * float(rate.mean()) / x_0[0].numel()) if controls else 0.0  # `ReverseProcess.noise_share`
        rates.append(_without(length, rate))
        draws.append(rate - 0.5 * share**2 * length)
        if number < quarter:
            begins.append(_without(length, _emission_cost(reverse, x_0, denoised)))
    return Integrand(levels, torch.stack(rates), torch.stack(draws), torch.stack(begins))


@torch.no_grad()
def best_ends(found: Integrand, reverse: ReverseProcess, x_0: Float[Tensor, "B *event"]) -> tuple[float, float]:
    """λ_1 and λ_T with the least bound on these rows, from the first and the last quarter of the knots.

    Args:
        found: the integrand on these rows.
        reverse: the process in its widest chain.
        x_0: the rows.

    An end where too much of the data is left for samples to start from noise is none (`Schedule.warning`).
    """
    levels, quarter = found.levels, len(found.begins)
    passed = _integral(levels, found.rates)
    ends = [_prior_cost(float(levels[0]), float(level), x_0, reverse) for level in levels[-quarter:]]
    first = _surely_least(found.begins - passed[:quarter])
    last = _surely_least((torch.stack(ends) + passed[-quarter:]).flip(0))
    return float(levels[first]), float(levels[len(levels) - 1 - last])


def low_variance_shape(found: Integrand, high: float, low: float) -> Float64[Tensor, " places"]:
    """How far from λ = high to λ = low the schedule is at even times: (high - λ(t))/(high - low), from 0 to 1.

    The density of levels is the root mean square over rows, and to a tenth an even one (as `proposal_from` has it). Given at 257 times.
    """
    gone = torch.linspace(0, 1, FINE * (PLACES - 1) + 1, dtype=torch.float64)
    root = found.draws.square().mean(1).sqrt()
    density = interpolate(high + (low - high) * gone, found.levels.flip(0), root.flip(0))
    density = (1 - UNIFORM) * density + UNIFORM * density.mean().clamp(min=LEAST)
    mass = torch.cat([density.new_zeros(1), torch.cumulative_trapezoid(density, gone)])
    return interpolate(torch.linspace(0, 1, PLACES, dtype=torch.float64), mass / mass[-1], gone)


def _broken(shape: Tensor) -> str | None:
    ends, least = shape[[0, -1]].tolist(), float(shape.diff().min())
    if ends != [0, 1]:
        return f"{ends[0]:g} to {ends[1]:g}"
    return None if least >= LEAST_STEP else f"a step of {least:g}"


SHAPE = between(0, 1, "from 0 to 1") & Rule(f"all the way, in steps of at least {LEAST_STEP:g}", _broken)


def _surely_least(costs: Float64[Tensor, "n B"]) -> int:
    """Which of n: the next that is surely less than the one taken so far, in the mean over rows, as long as there is one."""
    taken = 0
    for place in range(1, len(costs)):
        less = costs[taken] - costs[place]
        if float(less.mean()) > SURE * float(less.std()) / len(less) ** 0.5:
            taken = place
    return taken


def _of_even_length(eps: Tensor) -> tuple[Tensor, Tensor]:
    """Noise whose mean square is 1 over all cells, as it is in the mean, and what is left of ‖ε‖² in each row, with mean 0: where little noise
    is left, ‖ε - ε̂‖² is next to nothing else, and its chance would choose the end.
    """
    eps = eps / eps.square().mean().sqrt()
    squares = eps.flatten(1).double().square().sum(1)
    return eps, squares - squares.mean()


def _without(length: Float64[Tensor, " B"], costs: Float64[Tensor, " B"]) -> Float64[Tensor, " B"]:
    """Costs less their regression on that, with the same mean."""
    return costs - (costs * length).mean() / length.square().mean().clamp(min=LEAST) * length


def _emission_cost(reverse: ReverseProcess, x_0: Tensor, denoised: Tensor) -> Float64[Tensor, " B"]:
    """L_0 with the emission's best scale there."""
    emission = copy.deepcopy(reverse.emission)
    emission.calibrate(x_0, denoised)
    return -emission(denoised).log_prob(x_0.double()).cpu()


def _prior_cost(high: float, low: float, x_0: Tensor, reverse: ReverseProcess) -> Float64[Tensor, " B"]:
    """L_T; out of the question where samples could not start from noise."""
    schedule = LogSNRUniform(high, low)
    cost = reverse.along(Chain(schedule, 2)).prior_term(x_0)
    return cost if schedule.warning() is None else torch.full_like(cost, FORBIDDEN)


def _integral(levels: Float64[Tensor, " n"], rates: Float64[Tensor, "n B"]) -> Float64[Tensor, "n B"]:
    """Of the rates from the first level down to each, by the trapezoid rule."""
    return torch.cat([torch.zeros_like(rates[:1]), torch.cumulative_trapezoid(rates, -levels, dim=0)])
