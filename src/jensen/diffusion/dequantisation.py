"""From levels to reals: where in its bin a level is taken to be, so that a density can answer for a mass.

The mass of level v under a density p̃ is P(v) = ∫ p̃(v + u) du over the bin of v, and for any q(u | v) on that bin

    log P(v) ≥ E_q[log p̃(v + u) - log q(u | v)]

(Theis et al. 2016; Ho et al. 2019, "Flow++", section 3.1). The words:

    uniform            q = 1/step on every bin
    truncated-normal   the diffusion's own noise, N(0, σ_1²/α_1²) cut to the bin (Zheng et al. 2023, "i-DODE", section 3.1): what the network has
                       seen at its first level. The bins of the first and last level are open outside, as is the rounding of a sample.
    learned            that normal with a place and a width of its own in every cell, told by a network of the row and cut to the bin likewise

The learned one is trained with the denoiser. The gradient of the bound in a place y = v + u is that of log p̃, for which the denoiser's score at the
first level stands, α_1² (x̂_0(α_1 y) - y)/σ_1²: it is the data's, which the flow's density approaches; what is scored is a bound whatever q is.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from jensen.data.space import Levels
from jensen.diffusion.denoiser import Denoiser
from jensen.diffusion.schedule import alpha
from jensen.errors import InputError, did_you_mean

Spread = Callable[[Tensor, Tensor, Levels, float], tuple[Tensor, Tensor]]
"""(rows `(B, d)`, u uniform on [0, 1) `(B, d)`, their space, σ_1/α_1) → rows in their bins `(B, d)`, and log q of where `(B,)`; float64."""

LEARNED = "learned"
STEEPEST = 10.0  # score times the noise's deviation; in a bin of three deviations a side it is 3
MOST_WIDTH = 5.0  # of log width over that of the noise


def _uniform(x: Tensor, u: Tensor, space: Levels, scale: float) -> tuple[Tensor, Tensor]:
    return x + space.step * (u - 0.5), x.new_full((len(x),), -x.shape[1] * math.log(space.step))


def _truncated_normal(x: Tensor, u: Tensor, space: Levels, scale: float) -> tuple[Tensor, Tensor]:
    return _cut_to_bin(x, u, space, torch.zeros_like(x), torch.full_like(x, scale))


def _cut_to_bin(x: Tensor, u: Tensor, space: Levels, loc: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """x + N(loc, scale²) cut to the bin, loc inside it."""
    half, level = 0.5 * space.step, space.index(x)
    low = torch.where(level > 0, (-half - loc) / scale, -math.inf)
    high = torch.where(level < space.k - 1, (half - loc) / scale, math.inf)
    below, above = torch.special.ndtr(low), torch.special.ndtr(high)
    z = torch.special.ndtri(below + u.clamp(1e-16, 1 - 1e-15) * (above - below))
    z = torch.minimum(torch.maximum(z, low), high)
    log_q = -0.5 * z.square() - 0.5 * math.log(2 * math.pi) - scale.log() - (above - below).log()
    return x + loc + scale * z, log_q.sum(1)


DEQUANTISATIONS: dict[str, Spread] = {"truncated-normal": _truncated_normal, "uniform": _uniform}


class LearnedSpread(nn.Module):
    """The learned one.

    Args:
        network: (rows, log-SNR) → two numbers a dimension `(B, 2·C, …)`, all 0 at first, which is the truncated normal.
        event: the shape of a row.
    """

    def __init__(self, network: nn.Module, event: tuple[int, ...]) -> None:
        super().__init__()
        self.network, self.event = network, event

    def forward(
        self, x: Float64[Tensor, "B d"], u: Float64[Tensor, "B d"], space: Levels, scale: float
    ) -> tuple[Float64[Tensor, "B d"], Float64[Tensor, " B"]]:
        """A `Spread`."""
        like = next(self.network.parameters())
        rows, level = x.reshape(-1, *self.event).to(like), -2 * math.log(scale)
        said = self.network(rows, rows.new_full((len(x),), level)).double()
        place, width = said.reshape(len(x), self.event[0], 2, -1).unbind(2)
        loc = 0.5 * space.step * torch.tanh(place.flatten(1)).to(x)
        return _cut_to_bin(x, u, space, loc, scale * torch.exp(MOST_WIDTH * torch.tanh(width.flatten(1))).to(x))

    def cost(
        self,
        x: Float[Tensor, "B *event"],
        u: Float64[Tensor, "B d"],
        space: Levels,
        denoiser: Denoiser,
        high: float,
        context: Tensor | None = None,
    ) -> Float64[Tensor, " B"]:
        """Whose gradient is that of the bound, nats a dimension.

        Args:
            x: rows.
            u: uniform on [0, 1).
            space: theirs.
            denoiser: whose score stands for that of the flow; it gets no gradient.
            high: λ_1.
            context: what the denoiser is conditioned on.
        """
        flat = x.double().flatten(1)
        placed, log_q = self(flat, u.to(flat), space, math.exp(-0.5 * high))
        with torch.no_grad():
            level = torch.full((len(x),), high, dtype=torch.float64)
            x_1 = alpha(level[:1]).item() * placed.reshape(x.shape)
            slope = math.exp(high) * (denoiser(x_1.to(x), level, context).flatten(1).double() - placed)
            most = STEEPEST * math.exp(0.5 * high)  # a network that has just begun may say anything
            slope = slope.clamp(-most, most)
        return (log_q - (slope * placed).sum(1)) / flat.shape[1]


def spread_from(word: str, learned: Spread | None = None) -> Spread:
    """By its word.

    Args:
        word: truncated-normal or uniform; or learned.
        learned: what that is.

    Raises:
        InputError: another word, or learned where nothing was.
    """
    if word == LEARNED and learned is not None:
        return learned
    if word == LEARNED:
        raise InputError(
            "this run has no learned dequantisation; fit with --set dequantisation=learned, or use truncated-normal"
        )
    if word not in DEQUANTISATIONS:
        known = (*DEQUANTISATIONS, LEARNED)
        near = did_you_mean(word, known)
        raise InputError(f"unknown dequantisation {word!r}; {near}known are {', '.join(known)}")
    return DEQUANTISATIONS[word]
