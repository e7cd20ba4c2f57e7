"""Noise put back: solvers around another one of single steps.

Churned      before the network is asked, noise is added for a share of the way back (after Karras et al. 2022, algorithm 2)
Corrected    after each step some steps of Langevin's dynamics at the level it came to (Song et al. 2021, algorithm 5)

With exact steps neither changes the law of a state; both forget the errors of earlier steps, and add their own.
"""

from collections.abc import Callable

import torch
from jaxtyping import Int
from torch import Tensor

from jensen.data.space import Space
from jensen.diffusion.process import transition
from jensen.diffusion.reverse import ReverseProcess
from jensen.diffusion.sampler import Leap, Point, Sampler
from jensen.diffusion.schedule import alpha, sigma
from jensen.errors import InputError
from jensen.noise import Noise

BACK = 1000  # the number of the noise that is put back in a step; a solver's own are small


class Around(Sampler):
    """Another solver's steps.

    Args:
        inner: it; one that remembers nothing, since what it remembered would be of a state that is left.
    """

    def __init__(self, inner: Sampler) -> None:
        if inner.memory or isinstance(inner, Around):
            raise InputError(
                f"noise is put back around a solver of single steps, such as heun or ddim, got {inner.name}"
            )
        self.inner, self.calls, self.name = inner, inner.calls, inner.name
        self.uses_spread = inner.uses_spread

    def init(self, ids: Int[Tensor, " B"], event: tuple[int, ...], noise: Noise) -> Tensor:
        """Its start."""
        return self.inner.init(ids, event, noise)

    def step(self, now: Point, leap: Leap) -> Tensor:
        """Its step."""
        return self.inner.step(now, leap)

    def ending(self, space: Space) -> str:
        """Its end, in a few words."""
        return self.inner.ending(space)

    def final(self, reverse: ReverseProcess, denoised: Tensor, noise: Callable[[int], Tensor]) -> Tensor:
        """Its end."""
        return self.inner.final(reverse, denoised, noise)


class Churned(Around):
    """The forward process from the level reached, a share of the way back to the level before; the next step is longer by as much.

    Karras et al. raise σ/α by a share that does not depend on the grid; here many steps tend to the process that renews noise at the
    rate τ² = `back`.

    Args:
        inner: the solver.
        back: the share, in log(σ/α) and at most up to the first level.
    """

    def __init__(self, inner: Sampler, back: float) -> None:
        if not 0 < back <= 10:
            raise InputError(
                f"back, the share of a step that is gone back, must be positive and at most 10, got {back}"
            )
        super().__init__(inner)
        self.back = float(back)
        self.name = f"{inner.name}, noise put back for {back:g} of each step"

    def raised(self, x: Tensor, levels: Tensor, at: int, noise: Callable[[int], Tensor]) -> tuple[Tensor, Tensor]:
        """A draw from q(x_t | x_s)."""
        here = levels[at]
        above = torch.maximum(here - self.back * (here - levels[at + 1]), levels[-1])
        link = transition(here, above)
        return (link.scale * x + link.variance.sqrt() * noise(BACK)).to(x), above


class Corrected(Around):
    """x ← x + δ ∇log p + √(2δ) z with δ = 2 (r σ)², at every level.

    Song et al. take δ = 2 α (r ‖z‖ / ‖∇log p‖)² with norms of a batch; σ² is what their ratio comes to, and here no row depends on others.

    Args:
        inner: the predictor.
        ratio: r, signal to noise.
        rounds: steps at each level, a network call each.
    """

    def __init__(self, inner: Sampler, ratio: float = 0.16, rounds: int = 1) -> None:
        if not 0 < ratio < 0.7:
            raise InputError(f"Langevin's ratio must lie above 0 and below 0.7, got {ratio}")
        if not 1 <= rounds <= 100:
            raise InputError(f"Langevin's rounds must be from 1 to 100, got {rounds}")
        super().__init__(inner)
        self.ratio, self.rounds, self.calls = float(ratio), rounds, inner.calls + rounds
        self.name = f"{inner.name}, each step followed by {rounds} of Langevin's, r = {ratio:g}"

    def step(self, now: Point, leap: Leap) -> Tensor:
        """The predictor's, then the corrector's."""
        x, there = self.inner.step(now, leap).to(now.x), leap.there
        size = 2 * (self.ratio * sigma(there)) ** 2
        for n in range(self.rounds):
            score = (alpha(there) * leap.denoise(x, there) - x) / sigma(there).square()
            x = (x + size * score + (2 * size).sqrt() * leap.noise(2 + n)).to(x)
        return x
