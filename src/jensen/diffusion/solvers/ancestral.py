"""The samplers of a chain: each step draws from a Gaussian, or goes to its mean.

ancestral    x_{i-1} = μ(x_i) + σ_i z, ending with a draw from the emission (note 3, algorithm 1; Ho et al. 2020, algorithm 2)
ddim         x_s = α_s x̂_0 + sqrt(σ_s² - σ_η²) ε̂ + σ_η z with σ_η² = η² β̂ (Song et al. 2021, "DDIM", equations 12 and 16)

The distribution of ancestral samples is exactly the one whose bound `vlb` reports, at the same levels.
"""

from collections.abc import Callable

from torch import Tensor

from jensen.data.space import Space
from jensen.diffusion.denoiser import eps_from
from jensen.diffusion.process import bridge, transition
from jensen.diffusion.reverse import ReverseProcess
from jensen.diffusion.sampler import Leap, Point, Sampler
from jensen.diffusion.schedule import alpha, sigma
from jensen.errors import InputError


class Ancestral(Sampler):
    """Draws from p(x_{i-1} | x_i), and at last from p(x_0 | x_1)."""

    name = "ancestral"
    uses_spread = True

    def step(self, now: Point, leap: Leap) -> Tensor:
        """A draw from p(x_s | x_t)."""
        link, here, there = bridge(leap.there, now.log_snr), now.log_snr[None], leap.there[None]
        at = here if now.spread is None else here.expand(len(now.x))
        variance = leap.reverse.variance(transition(there, here), bridge(there, here), at, now.spread)
        return (
            link.from_data * now.denoised + link.from_noisy * now.x + variance.sqrt().to(now.x.device) * leap.noise(0)
        )

    def final(self, reverse: ReverseProcess, denoised: Tensor, noise: Callable[[int], Tensor]) -> Tensor:
        """A draw from p(x_0 | x_1)."""
        return reverse.emission.draw(denoised, noise(0))

    def ending(self, space: Space) -> str:
        """A draw."""
        return "a draw from the emission"

    def describe(self, steps: int, space: Space) -> str:
        """Name and steps."""
        return f"{self.name}, T = {steps}, ending in {self.ending(space)}"


class DDIM(Sampler):
    """η = 0 is deterministic after x_T, and Euler's step in σ/α; η = 1 has the bridge's variance. Ends in x̂_0.

    Args:
        eta: η, from 0 to 1.
    """

    def __init__(self, eta: float = 0.0) -> None:
        if not 0 <= eta <= 1:
            raise InputError(f"eta must lie in [0, 1], got {eta}")
        self.eta, self.name = float(eta), f"DDIM, η = {eta:g}"

    def step(self, now: Point, leap: Leap) -> Tensor:
        """x_s from x_t."""
        noise2 = self.eta**2 * bridge(leap.there, now.log_snr).variance
        predicted = eps_from(now.x, now.denoised, now.log_snr.expand(len(now.x)))
        along = (sigma(leap.there).square() - noise2).clamp(min=0).sqrt()
        x = alpha(leap.there) * now.denoised + along * predicted
        return x + noise2.sqrt() * leap.noise(0) if self.eta else x
