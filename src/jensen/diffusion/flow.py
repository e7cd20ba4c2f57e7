"""The probability flow: the ordinary differential equation with the marginals of the diffusion, and the density it carries.

With λ for the time and x̂_0 = E[x_0 | x_λ], from dα/dλ = ½ασ² and dσ/dλ = -½σα²,

    dx/dλ = ½ (α x̂_0 - α² x),        d log p/dλ = -div = ½ (α² d - α tr ∂x̂_0/∂x),

so that the density at λ_1 of the flow that starts in N(0, I) at λ_T is

    log p(x_{λ_1}) = log N(x_{λ_T}; 0, I) + ½ d [softplus(λ_1) - softplus(λ_T)] - ½ ∫_{λ_T}^{λ_1} α tr(∂x̂_0/∂x) dλ

(Song et al. 2021, "Score-based generative modeling through SDEs", section D.2, with the linear part of the divergence integrated by hand). The
trace is taken exactly, by one backward pass a dimension, or estimated by Hutchinson's v'(∂x̂_0/∂x)v with random signs v, one vector for the
whole way, so that the estimate is unbiased and its integrand smooth.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float64, Int
from torch import Tensor
from torch.nn.functional import softplus

from jensen.diffusion.denoiser import Denoiser
from jensen.diffusion.process import expand
from jensen.diffusion.runge_kutta import Slope, Solution, solve, solve_in_steps
from jensen.diffusion.schedule import alpha, sigma


@dataclass(frozen=True)
class Accuracy:
    """How the equation is solved.

    Attributes:
        tolerance: the most that a step may be wrong: so many σ(λ) a cell of x (root mean square) and so much times √d of log p.
        steps: equal steps in λ instead, whatever their error.
    """

    tolerance: float
    steps: int | None = None


@dataclass(frozen=True)
class Carried:
    """What the flow makes of rows.

    Attributes:
        log_density: log p(x_{λ_1}) `(B,)`, nats.
        end: x_{λ_T} `(B, d)`.
        slopes: network calls a row `(B,)`.
    """

    log_density: Float64[Tensor, " B"]
    end: Float64[Tensor, "B d"]
    slopes: Int[Tensor, " B"]


class ProbabilityFlow:
    """The flow of a denoiser between two levels.

    Args:
        denoiser: x̂_0.
        high: λ_1, where the data are.
        low: λ_T, where the noise is.
        event: the shape of a row.
        like: a tensor of the type that the denoiser is to be given.
        context: `(B, …)` what the rows are conditioned on.
    """

    def __init__(
        self, denoiser: Denoiser, high: float, low: float, event: tuple[int, ...], like: Tensor, context: Tensor | None
    ) -> None:
        self.denoiser, self.high, self.low, self.event = denoiser, high, low, event
        self.like, self.context = like, context

    def forward(self, x: Float64[Tensor, "B d"], accuracy: Accuracy) -> Solution:
        """From data at λ_1 to noise at λ_T."""
        return _solved(self._velocity, x, self.high, self.low, accuracy)

    def backward(self, x: Float64[Tensor, "B d"], accuracy: Accuracy) -> Solution:
        """From noise at λ_T to data at λ_1."""
        return _solved(self._velocity, x, self.low, self.high, accuracy)

    def log_density(
        self, x: Float64[Tensor, "B d"], accuracy: Accuracy, signs: Float64[Tensor, "B probes d"] | None
    ) -> Carried:
        """log p of rows at λ_1.

        Args:
            x: the rows.
            accuracy: of the solution.
            signs: probes of the trace, -1 and 1, averaged; None for the exact trace.
        """

        def slope(log_snr: Tensor, y: Tensor, rows: Tensor) -> Tensor:
            probes = None if signs is None else signs[rows]
            velocity, trace = self._velocity_and_trace(log_snr, y[:, :-1], rows, probes)
            return torch.cat([velocity, (0.5 * alpha(log_snr) * trace)[:, None]], 1)

        start = torch.cat([x, x.new_zeros(len(x), 1)], 1)
        found = _solved(slope, start, self.high, self.low, accuracy, carries=True)
        end, integral = found.y[:, :-1], found.y[:, -1]
        high, low = (softplus(torch.tensor(level, dtype=torch.float64)) for level in (self.high, self.low))
        normal = torch.distributions.Normal(x.new_zeros(()), x.new_ones(())).log_prob(end).sum(1)
        return Carried(normal + 0.5 * x.shape[1] * (high - low) + integral, end, found.slopes)

    def _velocity(self, log_snr: Tensor, x: Tensor, rows: Tensor) -> Tensor:
        with torch.no_grad():
            denoised = self._denoised(log_snr, x.to(self.like), rows)
        return _along(log_snr, x, denoised)

    def _velocity_and_trace(
        self, log_snr: Tensor, x: Tensor, rows: Tensor, signs: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            given = x.to(self.like).detach().requires_grad_()
            denoised = self._denoised(log_snr, given, rows)
            directions = torch.eye(x.shape[1]).expand(len(x), -1, -1) if signs is None else signs
            trace = x.new_zeros(len(x))
            for number, v in enumerate(directions.to(given).unbind(1)):
                more = number + 1 < directions.shape[1]
                (pulled,) = torch.autograd.grad(denoised, given, v, retain_graph=more)
                trace += (pulled.double() * v.double()).sum(1).to(trace)
        return _along(log_snr, x, denoised.detach()), trace if signs is None else trace / signs.shape[1]

    def _denoised(self, log_snr: Tensor, x: Tensor, rows: Tensor) -> Tensor:
        context = None if self.context is None else self.context[rows.to(self.context.device)]
        return self.denoiser(x.reshape(-1, *self.event), log_snr, context).flatten(1)


def _along(log_snr: Tensor, x: Tensor, denoised: Tensor) -> Tensor:
    """½ (α x̂_0 - α² x), float64, where x is: the solver's state stays on the CPU."""
    a = expand(alpha(log_snr), x)
    return 0.5 * a * (denoised.to(x) - a * x)


def _solved(
    slope: Slope, y: Tensor, start: float, end: float, accuracy: Accuracy, *, carries: bool = False
) -> Solution:
    if accuracy.steps is not None:
        return solve_in_steps(slope, y, start, end, accuracy.steps)

    def size(error: Tensor, log_snr: Tensor) -> Tensor:
        cells = error[:, :-1] if carries else error
        away = cells.square().mean(1).sqrt() / sigma(log_snr)
        if carries:
            away = torch.maximum(away, error[:, -1].abs() / cells.shape[1] ** 0.5)
        return away / accuracy.tolerance

    return solve(slope, y, start, end, size)
