"""From levels to reals: where in its bin a level is taken to be, so that a density can answer for a mass.

The mass of level v under a density p̃ is P(v) = ∫ p̃(v + u) du over the bin of v, and for any q(u | v) on that bin

    log P(v) ≥ E_q[log p̃(v + u) - log q(u | v)]

(Theis et al. 2016; Ho et al. 2019, "Flow++", section 3.1). The words:

    uniform            q = 1/step on every bin
    truncated-normal   the diffusion's own noise, N(0, σ_1²/α_1²) cut to the bin (Zheng et al. 2023, "i-DODE", section 3.1): what the network has
                       seen at its first level. The bins of the first and last level are open outside, as is the rounding of a sample.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float64
from torch import Tensor

from jensen.data.space import Levels
from jensen.errors import InputError, did_you_mean

Spread = Callable[[Tensor, Tensor, Levels, float], tuple[Tensor, Tensor]]


def _uniform(x: Tensor, u: Tensor, space: Levels, scale: float) -> tuple[Tensor, Tensor]:
    return x + space.step * (u - 0.5), x.new_full((len(x),), -x.shape[1] * math.log(space.step))


def _truncated_normal(x: Tensor, u: Tensor, space: Levels, scale: float) -> tuple[Tensor, Tensor]:
    half, level = 0.5 * space.step / scale, space.index(x)
    low = torch.where(level > 0, -half, -math.inf).to(x)
    high = torch.where(level < space.k - 1, half, math.inf).to(x)
    below, above = torch.special.ndtr(low), torch.special.ndtr(high)
    z = torch.special.ndtri(below + u.clamp(1e-16, 1 - 1e-15) * (above - below))
    z = torch.minimum(torch.maximum(z, low), high)
    log_q = -0.5 * z.square() - 0.5 * math.log(2 * math.pi) - math.log(scale) - (above - below).log()
    return x + scale * z, log_q.sum(1)


DEQUANTISATIONS: dict[str, Spread] = {"truncated-normal": _truncated_normal, "uniform": _uniform}


def dequantised(
    word: str, x: Float64[Tensor, "B d"], u: Float64[Tensor, "B d"], space: Levels, scale: float
) -> tuple[Float64[Tensor, "B d"], Float64[Tensor, " B"]]:
    """Rows in their bins, and log q of where.

    Args:
        word: truncated-normal or uniform.
        x: levels.
        u: uniform on [0, 1).
        space: theirs.
        scale: σ_1/α_1.
    """
    if word not in DEQUANTISATIONS:
        near = did_you_mean(word, DEQUANTISATIONS)
        raise InputError(f"unknown dequantisation {word!r}; {near}known are {', '.join(DEQUANTISATIONS)}")
    return DEQUANTISATIONS[word](x, u, space, scale)
