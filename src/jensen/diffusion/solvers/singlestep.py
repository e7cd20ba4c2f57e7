"""Solvers that ask the network twice in a step and remember nothing.

Heun           in σ/α for ε̂: the mean of the slopes at both ends (Karras et al. 2022, algorithm 1)
DPMSolver2S    DPM-Solver++(2S): x̂_0 at the middle of the step in log(α/σ) (Lu et al. 2022, algorithm 1); with τ = 1 for the reverse SDE, whose
               noise up to the middle is in the state there as well as in the step's end
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
    """The exponential midpoint rule.

    Args:
        name: as shown.
        tau: τ, the rate at which noise is renewed: 0 for the probability flow, 1 for the reverse SDE.
    """

    calls = 2

    def __init__(self, *, name: str, tau: float = 0.0) -> None:
        self.name, self.tau2 = name, tau**2

    def step(self, now: Point, leap: Leap) -> Tensor:
        """x_s = (σ_s/σ_t) e^(-τ²h) x_t + α_s (1 - e^(-(1+τ²)h)) x̂_0(x_m) + σ_s (e^(-τ²h/2) n_1 + n_2), n_1 and n_2 the noise of both halves, of
        variance 1 - e^(-τ²h); x_m likewise, with n_1.
        """
        middle = (now.log_snr + leap.there) / 2
        halfway = self._moved(now, now.denoised, middle)
        if not self.tau2:
            return self._moved(now, leap.denoise(halfway.to(now.x), middle), leap.there)
        h = (leap.there - now.log_snr) / 2
        fresh = torch.sqrt(-torch.expm1(-self.tau2 * h))
        first, second = fresh * leap.noise(0), fresh * leap.noise(1)
        halfway = (halfway + sigma(middle) * first).to(now.x)
        end = self._moved(now, leap.denoise(halfway, middle), leap.there)
        return end + sigma(leap.there) * (torch.exp(-0.5 * self.tau2 * h) * first + second)

    def _moved(self, now: Point, denoised: Tensor, there: Tensor) -> Tensor:
        """The mean at a level, with one x̂_0 all the way."""
        h = (there - now.log_snr) / 2
        kept = sigma(there) / sigma(now.log_snr) * torch.exp(-self.tau2 * h)
        return kept * now.x - alpha(there) * torch.expm1(-(1 + self.tau2) * h) * denoised
