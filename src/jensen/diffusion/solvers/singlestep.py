"""Solvers that ask the network twice in a step and remember nothing.

Heun           in σ/α for ε̂: the mean of the slopes at both ends (Karras et al. 2022, algorithm 1)
DPMSolver2S    DPM-Solver++(2S): x̂_0 at the middle of the step in log(α/σ) (Lu et al. 2022, algorithm 1)
"""

import torch
from torch import Tensor

from jensen.diffusion.denoiser import eps_from
from jensen.diffusion.sampler import Leap, Point, Sampler
from jensen.diffusion.schedule import alpha, sigma


class Heun(Sampler):
    """Euler's step, and back to take it with the mean slope."""

    name, calls = "Heun in σ/α", 2

    def step(self, now: Point, leap: Leap) -> Tensor:
        """x_s/α_s = x_t/α_t + (σ_s/α_s - σ_t/α_t)(ε̂_t + ε̂_s)/2."""
        scale = alpha(leap.there) / alpha(now.log_snr)
        length = sigma(leap.there) - scale * sigma(now.log_snr)
        slope = eps_from(now.x, now.denoised, now.log_snr.expand(len(now.x)))
        guess = (scale * now.x + length * slope).to(now.x)
        other = eps_from(guess, leap.denoise(guess, leap.there), leap.there.expand(len(guess)))
        return scale * now.x + 0.5 * length * (slope + other)


class DPMSolver2S(Sampler):
    """The exponential midpoint rule."""

    name, calls = "DPM-Solver++(2S)", 2

    def step(self, now: Point, leap: Leap) -> Tensor:
        """x_s = (σ_s/σ_t) x_t + α_s (1 - e^(-h)) x̂_0(x_m)."""
        middle = (now.log_snr + leap.there) / 2
        halfway = _exponential(now, now.denoised, middle).to(now.x)
        return _exponential(now, leap.denoise(halfway, middle), leap.there)


def _exponential(now: Point, denoised: Tensor, there: Tensor) -> Tensor:
    """From now to a level with one x̂_0 all the way."""
    h = (there - now.log_snr) / 2
    return sigma(there) / sigma(now.log_snr) * now.x - alpha(there) * torch.expm1(-h) * denoised
