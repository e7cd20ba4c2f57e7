"""The variance of the reverse step p(x_s | x_t) = N(μ(x_t), diag σ²).

Two fixed choices bracket it: β = σ²_{t|s}, right when the data are N(0, I), and β̂, the bridge's own variance, right
when x_0 is known (Ho et al. 2020, section 3.2). With the bridge coefficient c_0 and the squared error of the denoiser e,

    σ*² = β̂ + c_0² e,        e = E (x_0 - x̂_0(x_t))²,

is E (x_s - μ(x_t))² and minimises the bound among all variances that know as much as the mean in e: of all cells together
(Bao et al. 2022, "Analytic-DPM", theorem 1), of each cell (their section 4.3; one e a cell), or of each cell in its state x_t
(Bao et al. 2022, "Estimating the optimal covariance with imperfect mean", theorem 3). The errors are the network's own on validation rows, so
that it holds for any denoiser. At the optimum a step costs ½ log(σ*²/β̂) = ½ log(1 + (SNR_s - SNR_t) e) a cell.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn
from torch.nn.functional import softplus

from jensen.diffusion.process import Bridge, Transition
from jensen.errors import InputError
from jensen.rules import RISING, Rule, Ruled, between

SHARES = (1.0, 0.5, 0.25, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 5e-4, 2e-4, 1e-4)
QUANTILES = 128
LEAST = 1e-4  # of the noise σ²/α², or of the data's unit where that is smaller: an error below was seen on too few rows
HELD = "from -80 to 80"


class ReverseVariance(nn.Module, ABC):
    """σ² of reverse steps.

    Attributes:
        word: its name.
        learns_by_state: whether calibration must be told Var[x_0 | x_t] as the denoiser sees it.
    """

    word: str
    learns_by_state = False

    @property
    def by_state(self) -> bool:
        """Whether a step must be told what the denoiser says of its variance."""
        return False

    @abstractmethod
    def forward(
        self,
        transition: Transition,
        bridge: Bridge,
        log_snr: Float[Tensor, " n"],
        spread: Float[Tensor, "n *event"] | None = None,
    ) -> Float[Tensor, "n *cells"]:
        """σ² of the steps that leave log-SNR `log_snr (n,)`, float64: one a step, or one a step and cell.

        Args:
            transition: q(x_t | x_s) of each step.
            bridge: q(x_s | x_t, x_0) of each step.
            log_snr: λ_t of each step.
            spread: for those that go by the state what the denoiser says of the variance, Var[x_0 | x_t] or an output of the network; what is
                known without it if None.
        """


class Interpolated(ReverseVariance):
    """σ² = β^w β̂^(1-w): w = 1 is β, w = 0 is β̂."""

    def __init__(self, weight: float = 1.0) -> None:
        if not 0 <= weight <= 1:
            raise InputError(f"the weight between β̂ (0) and β (1) must lie in [0, 1], got {weight}")
        super().__init__()
        self.weight = float(weight)
        self.word = {0.0: "beta-hat", 1.0: "beta"}.get(self.weight, f"β^{weight:g} β̂^{1 - weight:g}")

    def forward(
        self, transition: Transition, bridge: Bridge, log_snr: Float[Tensor, " n"], spread: Tensor | None = None
    ) -> Float[Tensor, " n"]:
        """β^w β̂^(1-w)."""
        return torch.exp(self.weight * transition.variance.log() + (1 - self.weight) * bridge.variance.log())


class Learned(ReverseVariance):
    """σ² = β^w β̂^(1-w) in every cell and state, w a further output of the network (Nichol and Dhariwal 2021, equation 15).

    It is trained by the bound, whose gradient stops before the mean unless the mean is trained by the bound as well (their equation 16).
    """

    word = "learned"

    @property
    def by_state(self) -> bool:
        """Always."""
        return True

    def forward(
        self, transition: Transition, bridge: Bridge, log_snr: Float[Tensor, " n"], spread: Tensor | None = None
    ) -> Float[Tensor, "n *cells"]:
        """β^w β̂^(1-w), w the logistic function of what the network puts out; without it the geometric mean."""
        if spread is None:
            return (transition.variance * bridge.variance).sqrt()
        w = torch.sigmoid(spread.double().cpu())
        high, low = (v.log().reshape(-1, *[1] * (w.ndim - 1)) for v in (transition.variance, bridge.variance))
        return torch.exp(w * high + (1 - w) * low)


class Measured(ReverseVariance, Ruled):
    """β̂ + c_0² e, e from the denoiser's errors at knots of log-SNR, between which logarithms are interpolated linearly.

    Until it is calibrated, e = σ² is that of N(0, I) data, which makes σ² = β.

    Args:
        log_snr: `(n,)` the knots.
        cells: the shape of what is kept at a knot.
    """

    log_snr: Tensor
    log_error: Tensor

    def __init__(self, log_snr: Float[Tensor, " n"], cells: tuple[int, ...] = ()) -> None:
        super().__init__()
        knots = log_snr.to(torch.float64).sort().values
        self.register_buffer("log_snr", knots)
        start = -softplus(knots).reshape(-1, *[1] * len(cells))
        self.register_buffer("log_error", start.expand(-1, *cells).clone())

    def rules(self) -> dict[str, Rule]:
        """Knots in their order, errors whose exponentials float32 can hold."""
        return {"log_snr": RISING, "log_error": between(-80.0, 80.0, HELD)}

    def calibrate(self, log_snr: float, squares: Float[Tensor, "B *event"], spread: Tensor | None = None) -> None:
        """Take what was measured at the knot nearest to a level.

        Args:
            log_snr: λ_t.
            squares: (x_0 - x̂_0)² of validation rows.
            spread: Var[x_0 | x_t] as the denoiser sees it, for those that go by the state.
        """
        knot = int((self.log_snr - log_snr).abs().argmin())
        least = LEAST * min(math.exp(-log_snr), 1.0)
        self._take(knot, squares.double(), None if spread is None else spread.double(), least)

    @abstractmethod
    def _take(self, knot: int, squares: Float64[Tensor, "B *event"], spread: Tensor | None, least: float) -> None:
        """At that knot; no error below the least."""

    def forward(
        self, transition: Transition, bridge: Bridge, log_snr: Float[Tensor, " n"], spread: Tensor | None = None
    ) -> Float[Tensor, "n *cells"]:
        """β̂ + c_0² e."""
        error = self.error(log_snr, spread)
        ones = [1] * (error.ndim - 1)
        return bridge.variance.reshape(-1, *ones) + bridge.from_data.square().reshape(-1, *ones) * error

    def error(self, log_snr: Float[Tensor, " n"], spread: Tensor | None = None) -> Float[Tensor, "n *cells"]:
        """e(λ), held constant outside the knots."""
        return interpolate(log_snr, self.log_snr.cpu(), self.log_error.cpu()).exp()

    def step_cost(self, gain: Float64[Tensor, " n"], log_snr: Tensor) -> Float64[Tensor, " n"]:
        """What steps from one level to others cost in the bound, nats a cell: E ½ log(1 + (SNR_s - SNR_t) e(λ_t)).

        Args:
            gain: SNR_s - SNR_t of each.
            log_snr: λ_t, a number.
        """
        errors = self.error(log_snr[None]).flatten()
        return 0.5 * torch.log1p(gain[:, None] * errors).mean(1)


class Calibrated(Measured):
    """One error for all cells."""

    word = "calibrated"

    def _take(self, knot: int, squares: Tensor, spread: Tensor | None, least: float) -> None:
        self.log_error[knot] = squares.mean().clamp(min=least).log()


class Diagonal(Measured):
    """One error for every cell: (1 - w) that of the cell + w that of all, since a cell without a miss so far is not a cell without a miss.

    w is what does best where one half of the rows is used for the errors and the other scored, and the other way round.

    Args:
        log_snr: `(n,)` the knots.
        event: the shape of a row.
    """

    word = "diagonal"

    def __init__(self, log_snr: Float[Tensor, " n"], event: tuple[int, ...]) -> None:
        super().__init__(log_snr, event)

    def _take(self, knot: int, squares: Tensor, spread: Tensor | None, least: float) -> None:
        def errors(rows: Tensor, share: float) -> Tensor:
            each = squares[rows].mean(0)
            return ((1 - share) * each + share * each.mean()).clamp(min=least)

        share = _best_share(
            squares, lambda here, there, share: errors(here, share).expand(len(there), *squares.shape[1:])
        )
        self.log_error[knot] = errors(torch.arange(len(squares)), share).log()


class ByState(Measured):
    """e = k [(1 - w) V + w V̄] in every cell and state: V = Var[x_0 | x_t] as the denoiser sees it, V̄ its mean, and k what makes it true.

    For denoisers that see a variance, such as those of levels. w is chosen as in `Diagonal`.
    """

    word = "by-state"
    learns_by_state = True
    log_scale: Tensor
    log_spread: Tensor
    share: Tensor
    log_quantiles: Tensor

    def __init__(self, log_snr: Float[Tensor, " n"]) -> None:
        super().__init__(log_snr)
        self.register_buffer("log_scale", torch.zeros_like(self.log_snr))
        self.register_buffer("log_spread", self.log_error.clone())
        self.register_buffer("share", torch.ones_like(self.log_snr))
        self.register_buffer("log_quantiles", self.log_error[:, None].expand(-1, QUANTILES).clone())

    @property
    def by_state(self) -> bool:
        """Once it is calibrated."""
        return bool((self.share < 1).any())

    def rules(self) -> dict[str, Rule]:
        """Logarithms whose exponentials float32 can hold, a share."""
        wide = between(-80.0, 80.0, HELD)
        logarithms = dict.fromkeys(("log_scale", "log_spread", "log_quantiles"), wide)
        return {**super().rules(), **logarithms, "share": between(0.0, 1.0, "from 0 to 1")}

    def _take(self, knot: int, squares: Tensor, spread: Tensor | None, least: float) -> None:
        if spread is None:
            raise InputError("this denoiser sees no variance of x_0; choose reverse_variance=diagonal or calibrated")
        spread = spread.clamp(min=1e-3 * least)
        mean = spread.mean()

        def base(rows: Tensor, share: float) -> Tensor:
            return (1 - share) * spread[rows] + share * mean

        def errors(here: Tensor, there: Tensor, share: float) -> Tensor:
            return ((squares[here] / base(here, share)).mean() * base(there, share)).clamp(min=least)

        share, every = _best_share(squares, errors), torch.arange(len(squares))
        found = errors(every, every, share)
        self.log_scale[knot] = (squares / base(every, share)).mean().clamp(min=least / float(mean)).log()
        self.log_spread[knot], self.share[knot] = mean.log(), share
        self.log_error[knot] = squares.mean().clamp(min=least).log()
        middles = (torch.arange(QUANTILES) + 0.5) / QUANTILES
        ranked = found.flatten().sort().values
        self.log_quantiles[knot] = ranked[(middles * len(ranked)).long()].log()

    def error(self, log_snr: Float[Tensor, " n"], spread: Tensor | None = None) -> Tensor:
        """By the state; without one, that of all."""
        if spread is None:
            return super().error(log_snr)
        logs = torch.stack([self.log_scale, self.log_spread, self.share], 1).cpu()
        scale, mean, share = interpolate(log_snr, self.log_snr.cpu(), logs).unbind(-1)
        ones = [-1, *[1] * (spread.ndim - 1)]
        seen = (1 - share).reshape(ones) * spread.double().cpu() + (share * mean.exp()).reshape(ones)
        return torch.maximum(scale.exp().reshape(ones) * seen, (LEAST * torch.exp(-log_snr)).reshape(ones))

    def step_cost(self, gain: Float64[Tensor, " n"], log_snr: Tensor) -> Float64[Tensor, " n"]:
        """As of all, over the errors' quantiles."""
        errors = interpolate(log_snr[None], self.log_snr.cpu(), self.log_quantiles.cpu()).exp()[0]
        return 0.5 * torch.log1p(gain[:, None] * errors).mean(1)


def _best_share(squares: Tensor, errors: Callable[[Tensor, Tensor, float], Tensor]) -> float:
    """The share with the least mean of log e + (x_0 - x̂_0)²/e on rows that the errors are not from.

    Args:
        squares: (x_0 - x̂_0)² `(B, *event)`.
        errors: rows to learn from, rows to answer for, share → e `(there, *event)`.
    """
    if len(squares) < 4:
        return 1.0
    halves = torch.arange(0, len(squares), 2), torch.arange(1, len(squares), 2)

    def cost(share: float) -> float:
        total = 0.0
        for here, there in (halves, halves[::-1]):
            e = errors(here, there, share)
            total += float((e.log() + squares[there] / e).mean())
        return total

    return min(SHARES, key=cost)


MEASURED: dict[str, Callable[[Tensor, tuple[int, ...]], Measured]] = {
    "calibrated": lambda log_snr, event: Calibrated(log_snr),
    "diagonal": Diagonal,
    "by-state": lambda log_snr, event: ByState(log_snr),
}


def variance_from(word: str | float, log_snr: Float[Tensor, " n"], event: tuple[int, ...] = ()) -> ReverseVariance:
    """The rule a word stands for: "beta", "beta-hat", a weight between their logs, "learned", or one of `MEASURED` with these knots: "calibrated"
    has one error a step, "diagonal" one a cell, "by-state" one a cell and state.
    """
    if word in MEASURED:
        return MEASURED[str(word)](log_snr, event)
    if word == "learned":
        return Learned()
    fixed = {"beta": 1.0, "beta-hat": 0.0}
    if (isinstance(word, str) and word not in fixed) or (not isinstance(word, str) and not 0 <= word <= 1):
        known = ", ".join((*MEASURED, "learned", *fixed))
        raise InputError(f"reverse_variance must be {known} or a number in [0, 1], got {word!r}")
    return Interpolated(fixed[word] if isinstance(word, str) else word)


def interpolate(
    x: Float[Tensor, "*shape"], knots: Float[Tensor, " n"], values: Float[Tensor, "n *cells"]
) -> Float[Tensor, "..."]:
    """Linear interpolation through (knots, values), knots ascending, constant outside."""
    if len(knots) == 1:
        return values[0].expand(*x.shape, *values.shape[1:])
    x = x.clamp(float(knots[0]), float(knots[-1]))
    right = torch.searchsorted(knots, x.contiguous()).clamp(1, len(knots) - 1)
    span = knots[right] - knots[right - 1]
    weight = ((x - knots[right - 1]) / span).reshape(*x.shape, *[1] * (values.ndim - 1))
    return values[right - 1] + weight * (values[right] - values[right - 1])
