"""Samplers: from x_T ~ N(0, I) down the chain to x_1, then the emission.

A sampler is a solver: how to get from one noise level to the next. The levels are the chain's, chosen separately and of any length, and
the network is asked for x̂_0 alone. Every sample has its own noise, keyed by the seed and its number, so the batch size does not change
it. What ends the chain is the solver's as well: a draw from the emission p(x_0 | x_1), or x̂_0, on levels the one nearest to it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from jensen.data.space import Levels, Space
from jensen.diffusion.reverse import ReverseProcess
from jensen.errors import plural
from jensen.noise import Noise

Watcher = Callable[[int, Tensor, Tensor], None]


@dataclass(frozen=True)
class Point:
    """Where the network was asked.

    Attributes:
        log_snr: λ, a number.
        x: the state there `(B, *event)`, put right where the solver corrects it.
        denoised: x̂_0, of the state as it was.
        spread: Var[x_0 | x_t] as the denoiser sees it, where the reverse variance goes by it.
    """

    log_snr: Tensor
    x: Tensor
    denoised: Tensor
    spread: Tensor | None = None


@dataclass(frozen=True)
class Leap:
    """A step to be taken, from x_t to x_s with s < t.

    Attributes:
        reverse: the process.
        there: λ_s, a number.
        denoise: x and its λ → x̂_0, at any level: a network call.
        noise: the number of a draw in this step → standard normals of x's shape.
        past: points of earlier steps, the latest first, as many as the solver remembers.
    """

    reverse: ReverseProcess
    there: Tensor
    denoise: Callable[[Tensor, Tensor], Tensor]
    noise: Callable[[int], Tensor]
    past: tuple[Point, ...] = ()


class Sampler(ABC):
    """One solver.

    Attributes:
        name: what it is, in a few words.
        calls: network calls a step.
        memory: how many points of earlier steps it looks at.
        uses_spread: whether its steps have the reverse variance, and so may want what the denoiser says of it.
    """

    name: str
    calls: int = 1
    memory: int = 0
    uses_spread: bool = False

    @abstractmethod
    def step(self, now: Point, leap: Leap) -> Float[Tensor, "B *event"]:
        """x_s."""

    def correct(self, now: Point, past: tuple[Point, ...]) -> Point:
        """The state seen again, with x̂_0 known there."""
        return now

    def raised(self, x: Tensor, levels: Tensor, at: int, noise: Callable[[int], Tensor]) -> tuple[Tensor, Tensor]:
        """The state that a step from `levels[at + 1]` to `levels[at]` has come to, and its level, before the network is asked there."""
        return x, levels[at]

    def init(self, ids: Int[Tensor, " B"], event: tuple[int, ...], noise: Noise) -> Float[Tensor, "B *event"]:
        """x_T ~ N(0, I)."""
        return noise.at("start").normal(ids, event)

    def final(
        self, reverse: ReverseProcess, denoised: Float[Tensor, "B *event"], noise: Callable[[int], Tensor]
    ) -> Float[Tensor, "B *event"]:
        """x_0 from x̂_0(x_1): itself, on levels the one nearest to it."""
        return reverse.emission.nearest(denoised)

    def ending(self, space: Space) -> str:
        """What its last x is, in a few words."""
        return "the level nearest to x̂_0" if isinstance(space, Levels) else "x̂_0"

    def describe(self, steps: int, space: Space) -> str:
        """What it is, with its steps, their network calls and how it ends."""
        calls = f", {1 + (steps - 1) * self.calls} network calls" if self.calls > 1 else ""
        return f"{self.name}, {steps} {plural('step', steps)}{calls}, ending in {self.ending(space)}"


def sample(
    reverse: ReverseProcess,
    event: tuple[int, ...],
    ids: Int[Tensor, " B"],
    noise: Noise,
    sampler: Sampler,
    *,
    levels: Float64[Tensor, " N"] | None = None,
    context: Tensor | None = None,
    like: Tensor | None = None,
    watch: Watcher = lambda i, x, denoised: None,
) -> Float[Tensor, "B *event"]:
    """Draw x_0 for each id, `(len(ids), *event)`, in the model's units.

    Args:
        reverse: the generative process.
        event: the shape of a row.
        ids: `(n,)` the numbers of the samples, which key their noise.
        noise: the stream to draw from.
        sampler: the solver.
        levels: λ of x_1, …, x_N, falling; those of the chain if None.
        context: `(n, …)` what to condition on.
        like: a tensor whose dtype and device to work in; float32 on the CPU if None.
        watch: called with i, x_i and x̂_0(x_i) at every step from N to 1.
    """
    like = torch.zeros(()) if like is None else like
    levels = reverse.chain.log_snr if levels is None else levels
    past: tuple[Point, ...] = ()

    def denoise(x: Tensor, log_snr: Tensor) -> Tensor:
        return reverse.denoiser(x, log_snr.expand(len(x)), context)

    def looked(x: Tensor, log_snr: Tensor) -> tuple[Tensor, Tensor | None]:
        if sampler.uses_spread:
            return reverse.look(x, log_snr.expand(len(x)), context)
        return denoise(x, log_snr), None

    def drawing(i: int) -> Callable[[int], Tensor]:
        stream = noise.at("step", i)
        return lambda n: (stream.at(n) if n else stream).normal(ids, event).to(like)

    x, log_snr = sampler.init(ids, event, noise).to(like), levels[-1]
    for i in range(len(levels), 1, -1):
        now = Point(log_snr, x, *looked(x, log_snr))
        watch(i, x, now.denoised)
        now, draw = sampler.correct(now, past), drawing(i)
        leap = Leap(reverse, levels[i - 2], denoise, draw, past)
        x, log_snr = sampler.step(now, leap).to(like), levels[i - 2]
        if i > 2:
            x, log_snr = sampler.raised(x, levels, i - 2, draw)
        past = (now, *past)[: sampler.memory]
    denoised = denoise(x, log_snr)
    watch(1, x, denoised)
    return sampler.final(reverse, denoised, drawing(1))
