"""Which noise levels a sampler visits: λ_1 > … > λ_N between the ends of a schedule, whatever solver goes through them.

time         uniform in t, as the chain itself
log-snr      uniform in λ
karras       (σ/α)^(1/ρ) uniform, ρ = 7 (Karras et al. 2022, equation 5): most steps where little noise is left
quadratic    t uniform in its square root (Song et al. 2021, "DDIM", section D.2)
"""

from collections.abc import Callable

import torch
from jaxtyping import Float64
from torch import Tensor

from jensen.diffusion.process import Chain
from jensen.errors import InputError, did_you_mean

RHO = 7.0


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


def grid_from(word: str, chain: Chain) -> Float64[Tensor, " N"]:
    """The levels that a word stands for, as many as the chain has and between its ends.

    Example:
        >>> from jensen.diffusion.schedule import Cosine
        >>> chain = Chain(Cosine(), 3)
        >>> bool(torch.isclose(grid_from("karras", chain)[[0, -1]], chain.log_snr[[0, -1]]).all())
        True
    """
    if word not in GRIDS:
        raise InputError(f"unknown grid {word!r}; {did_you_mean(word, GRIDS)}known grids are {', '.join(GRIDS)}")
    return chain.log_snr if chain.steps == 1 else GRIDS[word](chain)
