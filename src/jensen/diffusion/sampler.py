"""Samplers: from x_T ~ N(0, I) down the chain to x_1, then the emission.

A sampler is a solver, `init` and `step` with a state; the grid is the chain, chosen separately, of any length. Every
sample has its own noise, keyed by the seed and its number, so the batch size does not change it. `Ancestral` ends with
a draw from the emission p(x_0 | x_1), `DDIM` with x̂_0, on levels the one nearest to it: `final` says which.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from jensen.diffusion.denoiser import eps_from
from jensen.diffusion.reverse import ReverseProcess
from jensen.diffusion.schedule import alpha, sigma
from jensen.errors import InputError
from jensen.noise import Noise

Watcher = Callable[[int, Tensor, Tensor], None]


class Sampler(ABC):
    """One solver."""

    @abstractmethod
    def step(
        self,
        reverse: ReverseProcess,
        x: Float[Tensor, "B *event"],
        i: int,
        denoised: Float[Tensor, "B *event"],
        eps: Float[Tensor, "B *event"],
    ) -> Float[Tensor, "B *event"]:
        """x_{i-1} from x_i, x̂_0 and fresh standard normal noise, for i ≥ 2."""

    def init(self, ids: Int[Tensor, " B"], event: tuple[int, ...], noise: Noise) -> Float[Tensor, "B *event"]:
        """x_T ~ N(0, I)."""
        return noise.at("start").normal(ids, event)

    @abstractmethod
    def final(
        self, reverse: ReverseProcess, denoised: Float[Tensor, "B *event"], eps: Float[Tensor, "B *event"]
    ) -> Float[Tensor, "B *event"]:
        """x_0 from x̂_0(x_1)."""

    @abstractmethod
    def describe(self, steps: int) -> str:
        """What it is, in a few words."""


class Ancestral(Sampler):
    """x_{i-1} = μ(x_i) + σ_i z, ending with a draw from the emission (note 3, algorithm 1; Ho et al. 2020, algorithm 2).

    The distribution of its samples is exactly the one whose bound `vlb` reports, at the same number of steps.
    """

    def step(
        self,
        reverse: ReverseProcess,
        x: Float[Tensor, "B *event"],
        i: int,
        denoised: Float[Tensor, "B *event"],
        eps: Float[Tensor, "B *event"],
    ) -> Float[Tensor, "B *event"]:
        """A draw from p(x_{i-1} | x_i)."""
        bridge, scale = reverse.chain.bridge, reverse.variances()[i - 1].sqrt()
        mean = bridge.from_data[i - 1] * denoised + bridge.from_noisy[i - 1] * x
        return (mean + scale * eps).to(x.dtype)

    def final(
        self, reverse: ReverseProcess, denoised: Float[Tensor, "B *event"], eps: Float[Tensor, "B *event"]
    ) -> Float[Tensor, "B *event"]:
        """A draw from p(x_0 | x_1)."""
        return reverse.emission.draw(denoised, eps)

    def describe(self, steps: int) -> str:
        """Name and steps."""
        return f"ancestral, T = {steps}, ending in a draw from the emission"


class DDIM(Sampler):
    """x_s = α_s x̂_0 + sqrt(σ_s² - σ_η²) ε̂ + σ_η z with σ_η² = η² β̂ (Song et al. 2021, "DDIM", eq. 12 and 16).

    η = 0 is deterministic after x_T, η = 1 has the bridge's variance. Ends in x̂_0, on levels the one nearest to it.
    """

    def __init__(self, eta: float = 0.0) -> None:
        if not 0 <= eta <= 1:
            raise InputError(f"eta must lie in [0, 1], got {eta}")
        self.eta = float(eta)

    def step(
        self,
        reverse: ReverseProcess,
        x: Float[Tensor, "B *event"],
        i: int,
        denoised: Float[Tensor, "B *event"],
        eps: Float[Tensor, "B *event"],
    ) -> Float[Tensor, "B *event"]:
        """x_{i-1} from x_i."""
        here, before = reverse.chain.log_snr[i - 1], reverse.chain.log_snr[i - 2]
        noise2 = self.eta**2 * reverse.chain.bridge.variance[i - 1]
        predicted = eps_from(x, denoised, here.expand(len(x)))
        along = (sigma(before).square() - noise2).clamp(min=0).sqrt()
        return (alpha(before) * denoised + along * predicted + noise2.sqrt() * eps).to(x.dtype)

    def final(
        self, reverse: ReverseProcess, denoised: Float[Tensor, "B *event"], eps: Float[Tensor, "B *event"]
    ) -> Float[Tensor, "B *event"]:
        """x̂_0(x_1), on levels the one nearest to it."""
        return reverse.emission.nearest(denoised)

    def describe(self, steps: int) -> str:
        """Name, η and steps."""
        return f"DDIM, η = {self.eta:g}, {steps} steps, ending in x̂_0 (on levels, the nearest)"


def sample(
    reverse: ReverseProcess,
    event: tuple[int, ...],
    ids: Int[Tensor, " B"],
    noise: Noise,
    sampler: Sampler,
    *,
    context: Tensor | None = None,
    like: Tensor | None = None,
    watch: Watcher = lambda i, x, denoised: None,
) -> Float[Tensor, "B *event"]:
    """Draw x_0 for each id, `(len(ids), *event)`, in the model's units.

    Args:
        reverse: the generative process; `reverse.resized(n)` samples in n steps.
        event: the shape of a row.
        ids: `(n,)` the numbers of the samples, which key their noise.
        noise: the stream to draw from.
        sampler: the solver.
        context: `(n, …)` what to condition on.
        like: a tensor whose dtype and device to work in; float32 on the CPU if None.
        watch: called with i, x_i and x̂_0(x_i) at every step from T to 1.
    """
    like = torch.zeros(()) if like is None else like
    x = sampler.init(ids, event, noise).to(like)
    for i in range(reverse.chain.steps, 0, -1):
        denoised = reverse.denoise(x, torch.full((len(ids),), i), context)
        watch(i, x, denoised)
        eps = noise.at("step", i).normal(ids, event).to(like)
        x = sampler.step(reverse, x, i, denoised, eps) if i > 1 else sampler.final(reverse, denoised, eps)
    return x


SAMPLERS: dict[str, Callable[[float], Sampler]] = {"ancestral": lambda eta: Ancestral(), "ddim": DDIM}
