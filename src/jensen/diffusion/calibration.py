"""What a finished denoiser gets measured on validation rows: reverse variance, emission scale, proposal.

All three come from residuals x_0 - x̂_0(x_i) of the network itself at a few dozen steps i spread over the chain's log-SNR
("knots"), so they are right for any network, trained or not, and never see the test rows.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from jensen.diffusion.likelihood import proposal_from
from jensen.diffusion.process import Chain, diffuse
from jensen.diffusion.reverse import ReverseProcess
from jensen.diffusion.schedule import Shaped
from jensen.diffusion.variance import Measured, interpolate
from jensen.noise import Noise

TOGETHER = 256  # rows in one network call
MOST_KNOTS = 64


@dataclass(frozen=True)
class Residuals:
    """At each knot i, `steps (n,)`: squared error a dimension of each row, `errors (n, B)`; and x̂_0 at i = 1, `first`."""

    steps: Int[Tensor, " n"]
    errors: Float[Tensor, "n B"]
    first: Float[Tensor, "B *event"]


def knots(log_snr: Float64[Tensor, " T"], most: int = MOST_KNOTS) -> Int[Tensor, " n"]:
    """At most `most` of the steps 1 … T whose λ falls as given, as even in λ as they come, both ends among them: errors are interpolated in λ."""
    if len(log_snr) <= most:
        return torch.arange(1, len(log_snr) + 1)
    wanted = torch.linspace(float(log_snr[0]), float(log_snr[-1]), most, dtype=torch.float64)
    after = torch.searchsorted(-log_snr, -wanted).clamp(1, len(log_snr) - 1)
    nearer = (wanted - log_snr[after]).abs() < (wanted - log_snr[after - 1]).abs()
    return (after + nearer.long()).unique()


def knots_of(chain: Chain) -> Int[Tensor, " n"]:
    """The knots of a chain; of one with a learned shape as many as of an even one, since a file with numbers at each is read before the shape is
    known: where two would be one, the next step is taken.
    """
    found, most = knots(chain.log_snr), min(chain.steps, MOST_KNOTS)
    if len(found) == most or not isinstance(chain.schedule, Shaped):
        return found
    place = torch.arange(most)
    wanted = torch.linspace(float(chain.log_snr[0]), float(chain.log_snr[-1]), most, dtype=torch.float64)
    apart = (torch.searchsorted(-chain.log_snr, -wanted) - place).clamp(min=0).cummax(0).values + place
    return 1 + torch.minimum(apart, chain.steps - most + place)


def measure(
    reverse: ReverseProcess,
    x_0: Float[Tensor, "B *event"],
    ids: Int[Tensor, " B"],
    noise: Noise,
    *,
    context: Tensor | None = None,
    on_calls: Callable[[int], None] = lambda calls: None,
    on_knot: Callable[[float, Tensor, Tensor | None], None] = lambda log_snr, squares, spread: None,
) -> Residuals:
    """The denoiser's residuals at every knot on these rows; `on_knot` is told λ, their squares and the variance that it sees."""
    steps, errors, first = knots_of(reverse.chain), [], torch.zeros(0)
    for i in steps.tolist():
        log_snr = reverse.chain.log_snr[i - 1]
        eps = noise.at("knot", i).normal(ids, tuple(x_0.shape[1:])).to(x_0)
        denoised, spread = denoised_at(reverse, x_0, eps, log_snr, context, on_calls, reverse.variance.learns_by_state)
        squares = (x_0.double() - denoised.double()).square().cpu()
        errors.append(squares.flatten(1).mean(1))
        first = denoised if i == 1 else first
        on_knot(float(log_snr), squares, None if spread is None else spread.cpu())
    return Residuals(steps, torch.stack(errors), first)


def denoised_at(
    reverse: ReverseProcess,
    x_0: Float[Tensor, "B *event"],
    eps: Float[Tensor, "B *event"],
    log_snr: Float64[Tensor, ""],
    context: Tensor | None,
    on_calls: Callable[[int], None],
    spread: bool = False,
) -> tuple[Float[Tensor, "B *event"], Float[Tensor, "B *event"] | None]:
    """x̂_0 of rows with this noise at one λ, so many rows a network call, and the variance that the network sees if wanted and seen."""
    parts = []
    for rows in torch.arange(len(x_0)).split(TOGETHER):
        level, given = log_snr.expand(len(rows)), None if context is None else context[rows]
        noisy = diffuse(x_0[rows], eps[rows], level)
        parts.append(reverse.denoiser.moments(noisy, level, given, spread=spread))
        on_calls(len(rows))
    spreads = [seen for _, seen in parts if seen is not None]
    return torch.cat([mean for mean, _ in parts]), torch.cat(spreads) if spreads else None


def calibrate(
    reverse: ReverseProcess,
    x_0: Float[Tensor, "B *event"],
    ids: Int[Tensor, " B"],
    noise: Noise,
    *,
    context: Tensor | None = None,
    on_calls: Callable[[int], None] = lambda calls: None,
) -> Float[Tensor, " terms"]:
    """Fit the reverse variance and the emission's scale in place; return the proposal q(i), i = 2 … T.

    Args:
        reverse: the process whose `variance`, if it is a measured one, and `emission` are set.
        x_0: validation rows in the model's units.
        ids: their ids.
        noise: the stream to draw from.
        context: what the rows are conditioned on.
        on_calls: told how many rows each network call held.
    """
    variance = reverse.variance
    take = {"on_knot": variance.calibrate} if isinstance(variance, Measured) else {}
    residuals = measure(reverse, x_0, ids, noise, context=context, on_calls=on_calls, **take)
    reverse.emission.calibrate(x_0, residuals.first)
    return proposal_from(_term_sizes(reverse, residuals))


def _term_sizes(reverse: ReverseProcess, residuals: Residuals) -> Float[Tensor, " terms"]:
    """The root mean square over rows of L_{i-1} a dimension, i = 2 … T.

    A term is a + b e with e the row's squared error, so its mean square is a² + 2ab E[e] + b² E[e²]; both moments are
    interpolated between the knots.
    """
    steps = torch.arange(2, reverse.chain.steps + 1).double()
    mean, square = (
        interpolate(steps, residuals.steps.double(), moment.clamp(min=1e-300).log()).exp()
        for moment in (residuals.errors.mean(1), residuals.errors.square().mean(1))
    )
    link, variance = reverse.chain.bridge, reverse.variances()[1:]
    variance = variance.flatten(1).mean(1) if variance.ndim > 1 else variance
    ratio = link.variance[1:] / variance
    a, b = 0.5 * (ratio - 1 - ratio.log()), 0.5 * link.from_data[1:].square() / variance
    return (a.square() + 2 * a * b * mean + b.square() * square).sqrt()
