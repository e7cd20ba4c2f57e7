"""Solvers that remember x̂_0 of earlier steps: one network call a step, whatever their order.

Exponential      Adams and Bashforth's method in log(α/σ) for x̂_0. Order 1 is DPM-Solver++(1S), and DDIM; order 3 is DPM-Solver++(3M) with f''/2
                 where the second divided difference stands, which several public codebases have at half its size, and so order 2
                 (Lu et al. 2022, "DPM-Solver++"). Corrected by the polynomial that also goes through the newest value it is UniPC of
                 that order (Zhao et al. 2023, "UniPC", with the full systems, whose solution does not depend on B(h))
DPMSolver2M      DPM-Solver++(2M): order 2 with the weights of the midpoint (Lu et al. 2022, algorithm 2)
AdamsBashforth   in σ/α for ε̂, with coefficients for the grid at hand (Zhang and Chen 2023, "DEIS", ρAB)

With τ = 1 the first two are their versions for the reverse SDE ("SDE-DPM-Solver++"). Their noise is within the step as well, which a polynomial
does not know: moments are right to second order at most.
"""

import torch
from jaxtyping import Float64
from torch import Tensor

from jensen.diffusion.denoiser import eps_from
from jensen.diffusion.sampler import Leap, Point, Sampler
from jensen.diffusion.schedule import alpha, sigma
from jensen.diffusion.solvers.polynomial import exponential_weights, plain_weights
from jensen.errors import InputError


def _check(order: int, most: int) -> None:
    if not 1 <= order <= most:
        raise InputError(f"the order must lie from 1 to {most}, got {order}")


class Exponential(Sampler):
    """The polynomial of degree q - 1 through the last q values of x̂_0; the first steps are of as high an order as there are values.

    Args:
        order: q, from 1 to 3.
        corrected: whether each state is put right by the value found there, at no further call: order q + 1.
        tau: τ, the rate at which noise is renewed: 0 for the probability flow, 1 for the reverse SDE.
        name: as shown.
    """

    def __init__(self, order: int, *, name: str, corrected: bool = False, tau: float = 0.0) -> None:
        _check(order, 3)
        if not 0 <= tau <= 1 or (corrected and tau):
            raise InputError(f"tau must lie from 0 to 1, and be 0 where states are corrected, got {tau}")
        self.order, self.corrected, self.tau, self.name = order, corrected, float(tau), name
        self.memory = order if corrected else order - 1

    def step(self, now: Point, leap: Leap) -> Tensor:
        """By the values up to now."""
        x = self._moved(now, (now, *leap.past[: self.order - 1]), leap.there)
        if not self.tau:
            return x
        renewed = -torch.expm1(-(self.tau**2) * (leap.there - now.log_snr))  # 1 - e^(-2 τ² h): λ is 2 l
        return x + sigma(leap.there) * renewed.sqrt() * leap.noise(0)

    def correct(self, now: Point, past: tuple[Point, ...]) -> Point:
        """The step that led here once more, by the value here as well."""
        if not self.corrected or not past:
            return now
        return Point(now.log_snr, self._moved(past[0], (now, *past[: self.order]), now.log_snr), now.denoised)

    def _moved(self, start: Point, values: tuple[Point, ...], there: Tensor) -> Tensor:
        """The mean of x_s."""
        kept = torch.exp(-0.5 * self.tau**2 * (there - start.log_snr))
        weights = self._weights(torch.stack([p.log_snr for p in values]) / 2, start.log_snr / 2, there / 2)
        drift = sum(w * p.denoised for w, p in zip(weights, values, strict=True))
        return sigma(there) / sigma(start.log_snr) * kept * start.x + alpha(there) * drift

    def _weights(self, nodes: Float64[Tensor, " q"], start: Tensor, end: Tensor) -> Float64[Tensor, " q"]:
        """Of the values."""
        return exponential_weights(nodes, start, end, 1 + self.tau**2)


class DPMSolver2M(Exponential):
    """x̂_0 at the middle of the step, by the line through the last two values.

    Args:
        tau: τ.
        name: as shown.
    """

    def __init__(self, *, name: str, tau: float = 0.0) -> None:
        super().__init__(2, name=name, tau=tau)

    def _weights(self, nodes: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """(1 - e^(-rh)) times (1 + 1/2r_0, -1/2r_0), r_0 the last step's length in this one's."""
        whole = -torch.expm1(-(1 + self.tau**2) * (end - start))
        if len(nodes) == 1:
            return whole[None]
        ahead = 0.5 * (end - start) / (nodes[0] - nodes[1])
        return whole * torch.stack([1 + ahead, -ahead])


class AdamsBashforth(Sampler):
    """x_s/α_s = x_t/α_t + ∫ ε̂ d(σ/α), ε̂ the polynomial through its last q values.

    Args:
        order: q, from 1 to 4; 1 is Euler's method.
    """

    def __init__(self, order: int) -> None:
        _check(order, 4)
        self.order, self.memory = order, order - 1
        self.name = "Euler in σ/α (DDIM)" if order == 1 else f"Adams–Bashforth of order {order} in σ/α"

    def step(self, now: Point, leap: Leap) -> Tensor:
        """By the values up to now."""
        values = (now, *leap.past[: self.order - 1])
        nodes = torch.exp(-0.5 * torch.stack([p.log_snr for p in values]))
        weights = plain_weights(nodes, nodes[0], torch.exp(-0.5 * leap.there))
        slopes = (eps_from(p.x, p.denoised, p.log_snr.expand(len(p.x))) for p in values)
        drift = sum(w * slope for w, slope in zip(weights, slopes, strict=True))
        return alpha(leap.there) / alpha(now.log_snr) * now.x + alpha(leap.there) * drift
