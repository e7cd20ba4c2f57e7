"""EM that does not take its word for anything: the one driver of mixtures and of hidden Markov models.

With A(θ) = [Σ w_i log p(x_i | θ) + log prior(θ)] / n, the penalised log-likelihood a row (or a step), an iteration takes
expectations at θ and maximises, and A never falls (Dempster, Laird and Rubin 1977). Here that is checked at every step: a
fall beyond the rounding of the arithmetic first brings in a safer arithmetic, where there is one, and repeats the step; in
the safest it ends the fit with an error.

EM converges linearly, so one small step says little about what is still to come. With the gains g_t = A_t - A_{t-1} and
their ratio ρ, the gain still expected is that of the geometric series,

    A_∞ - A_t ≈ g_t ρ / (1 - ρ)

(Aitken; Böhning et al. 1994, "The distribution of the likelihood ratio for mixtures of densities from the one-parameter
exponential family"). ρ is the largest of the last three ratios. The fit has converged when this falls below the
tolerance, or when gains vanish in the rounding of float64; never because iterations ran out.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from jensen.errors import FitError

RATIOS = 3
ROUNDING = 2.0**-44  # 256 units in the last place
OnIteration = Callable[[int, float, float], None]
P = TypeVar("P")
S = TypeVar("S")


def unwatched(iteration: int, value: float, remaining: float) -> None:
    """The watcher that does not watch."""


@dataclass(frozen=True)
class Settings:
    """When to stop.

    Args:
        tolerance: the expected remaining gain below which the fit has converged, nats a row (or a step).
        max_iterations: where it stops without having converged.
    """

    tolerance: float = 1e-7
    max_iterations: int = 1000


@dataclass(frozen=True)
class Place(Generic[P, S]):
    """Parameters, and what an E-step found there.

    Attributes:
        parameters: θ.
        statistics: their sufficient statistics.
        value: A.
        rounding: that of A, but for `ROUNDING` · |A|.
        rung: how safe the arithmetic was, from 0.
        kernel: what it is called.
    """

    parameters: P
    statistics: S
    value: float
    rounding: float
    rung: int = 0
    kernel: str = ""

    def noise(self, value: float) -> float:
        """The rounding of an A of this size."""
        return self.rounding + ROUNDING * abs(value)


@dataclass(frozen=True)
class Ascent(Generic[P, S]):
    """One run of EM.

    Attributes:
        parameters: where it ended.
        statistics: of the E-step there.
        values: A after 0, 1, … iterations.
        remaining: the gain still expected; infinite if it cannot be told.
        converged: whether that, and not the number of iterations, ended it.
        kernel: the arithmetic of the last iteration.
        noise: the rounding of the last value.
    """

    parameters: P
    statistics: S
    values: list[float]
    remaining: float
    converged: bool
    kernel: str
    noise: float

    @property
    def value(self) -> float:
        """The last A."""
        return self.values[-1]

    @property
    def iterations(self) -> int:
        """How many there were."""
        return len(self.values) - 1


class Climb(ABC, Generic[P, S]):
    """What is to be maximised.

    Attributes:
        unit: what A is counted by.
        last_rung: of the safest arithmetic.
        settings: when to stop.
        on_iteration: told iteration, A and remaining gain.
    """

    unit: ClassVar[str]
    last_rung: int = 0
    settings: Settings
    on_iteration: OnIteration

    @abstractmethod
    def place(self, parameters: P, rung: int) -> Place[P, S]:
        """The E-step, by the first arithmetic from `rung` up that is accurate enough."""

    @abstractmethod
    def maximise(self, statistics: S, before: P) -> P:
        """The M-step."""

    def ascend(self, start: P) -> Ascent[P, S]:
        """EM from `start` until it has converged or iterations run out.

        Raises:
            FitError: A fell beyond rounding, or is not finite, or a covariance degenerated.
        """
        now, gains = self.place(start, 0), Gains()
        values = [now.value]
        while True:
            try:
                new = self.place(self.maximise(now.statistics, now.parameters), now.rung)
            except FitError:
                if now.rung == self.last_rung:
                    raise
                now, gains = self.place(now.parameters, now.rung + 1), Gains()  # the scatter may be lost in rounding
                values[-1] = now.value
                continue
            if not math.isfinite(new.value):
                raise FitError(f"the log-likelihood became {new.value} in iteration {len(values)}; rescale the data")
            noise, gain = now.noise(new.value) + new.noise(new.value), new.value - values[-1]
            if new.rung < self.last_rung and gain < noise:  # the step is done again with arithmetic that can see it
                now, gains = self.place(now.parameters, new.rung + 1), Gains()
                values[-1] = now.value
                continue
            if gain < -noise:
                raise FitError(
                    f"the penalised log-likelihood fell by {-gain:.3g} nats a {self.unit} in iteration {len(values)}, more "
                    f"than rounding explains ({noise:.3g}); this is a bug in jensen or in its environment: please report it"
                )
            now = new
            values.append(new.value)
            remaining, vanished = gains.saw(gain), abs(gain) <= noise
            converged = vanished or remaining <= self.settings.tolerance
            self.on_iteration(len(values) - 1, new.value, remaining)
            if converged or len(values) > self.settings.max_iterations:
                left = min(remaining, noise) if vanished and math.isfinite(remaining) else remaining
                return Ascent(new.parameters, new.statistics, values, left, converged, new.kernel, noise)


class Gains:
    """Aitken's estimate of the gain still to come."""

    def __init__(self) -> None:
        self.last: float | None = None
        self.ratios: list[float] = []

    def saw(self, gain: float) -> float:
        """The expected remaining gain after one of this size; infinite where it cannot be told yet."""
        if self.last is not None and self.last > 0:
            self.ratios = [*self.ratios, gain / self.last][-RATIOS:]
        self.last = gain
        ratio = max(self.ratios, default=1.0)
        return gain * ratio / (1 - ratio) if len(self.ratios) == RATIOS and 0 <= ratio < 1 else math.inf
