"""Which noise levels a sampler visits: λ_1 > … > λ_N between the ends of a schedule, whatever solver goes through them.

time         uniform in t, as the chain itself
log-snr      uniform in λ
karras       (σ/α)^(1/ρ) uniform, ρ = 7 (Karras et al. 2022, equation 5): longest steps in λ where little noise is left
quadratic    t uniform in its square root (Song et al. 2021, "DDIM", section D.2)
optimised    the levels whose chain has the best bound, by dynamic programming (Watson et al. 2021, "Learning to efficiently sample from
             diffusion probabilistic models", section 3), with what a step costs from the errors that calibration measured
"""

from collections.abc import Callable

import torch
from jaxtyping import Float64
from torch import Tensor

from jensen.diffusion.process import Chain
from jensen.diffusion.variance import Measured, ReverseVariance
from jensen.errors import InputError, did_you_mean

RHO = 7.0
PLACES, MOST_OPTIMISED = 256, 128  # levels to choose from, and how many may be chosen


def _uniform(chain: Chain) -> Tensor:
    return chain.log_snr


def _log_snr(chain: Chain) -> Tensor:
    return torch.linspace(float(chain.log_snr[0]), float(chain.log_snr[-1]), chain.steps, dtype=torch.float64)


def _karras(chain: Chain) -> Tensor:
    ends = torch.exp(-0.5 * chain.log_snr[[0, -1]]) ** (1 / RHO)
    return -2 * RHO * torch.linspace(float(ends[0]), float(ends[1]), chain.steps, dtype=torch.float64).log()


def _quadratic(chain: Chain) -> Tensor:
    u = torch.linspace(chain.first**0.5, 1, chain.steps, dtype=torch.float64)
    return chain.schedule.log_snr(u.square())


GRIDS: dict[str, Callable[[Chain], Tensor]] = {
    "time": _uniform,
    "log-snr": _log_snr,
    "karras": _karras,
    "quadratic": _quadratic,
}
WORDS = (*GRIDS, "optimised")


def grid_from(word: str, chain: Chain, variance: ReverseVariance | None = None) -> Float64[Tensor, " N"]:
    """The levels that a word stands for, as many as the chain has and between its ends.

    Args:
        word: one of `WORDS`.
        chain: ends, schedule and number of steps.
        variance: a measured one, for "optimised".

    Example:
        >>> from jensen.diffusion.schedule import Cosine
        >>> chain = Chain(Cosine(), 3)
        >>> bool(torch.isclose(grid_from("karras", chain)[[0, -1]], chain.log_snr[[0, -1]]).all())
        True
    """
    if word not in WORDS:
        raise InputError(f"unknown grid {word!r}; {did_you_mean(word, WORDS)}known grids are {', '.join(WORDS)}")
    if word != "optimised":
        return chain.log_snr if chain.steps == 1 else GRIDS[word](chain)
    if not isinstance(variance, Measured):
        raise InputError(
            f"grid=optimised needs a measured reverse variance, and this model's is {variance.word if variance else 'unknown'}; "
            "jensen calibrate with --variance calibrated measures one"
        )
    if chain.steps > MOST_OPTIMISED:
        raise InputError(
            f"grid=optimised chooses up to {MOST_OPTIMISED} levels, got {chain.steps} steps; with so many, grid=time is as good"
        )
    return chain.log_snr if chain.steps <= 2 else optimised(chain, variance)


def optimised(chain: Chain, variance: Measured) -> Float64[Tensor, " N"]:
    """The chain's number of levels with the least cost Σ E ½ log(1 + (SNR_s - SNR_t) e(λ_t)) from the first to the last."""
    levels = torch.linspace(float(chain.log_snr[0]), float(chain.log_snr[-1]), PLACES, dtype=torch.float64)
    return levels[_shortest(_step_costs(levels, variance), chain.steps)]


def _step_costs(levels: Tensor, variance: Measured) -> Float64[Tensor, "s t"]:
    """Of a step from level t to level s < t; ∞ the other way."""
    costs, snr = torch.full((len(levels), len(levels)), torch.inf, dtype=torch.float64), levels.exp()
    for t in range(1, len(levels)):
        costs[:t, t] = variance.step_cost(snr[:t] - snr[t], levels[t])
    return costs


def _shortest(costs: Float64[Tensor, "s t"], count: int) -> Tensor:
    """The path through `count` places from the first to the last with the least sum of costs."""
    best, before = costs[0], list[Tensor]()
    for _ in range(count - 2):
        sums, place = (best[:, None] + costs).min(0)
        best, before = sums, [*before, place]
    path = [len(costs) - 1]
    for place in reversed(before):
        path.append(int(place[path[-1]]))
    return torch.tensor([0, *reversed(path)])
