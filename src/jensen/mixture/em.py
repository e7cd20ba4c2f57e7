"""EM for mixtures, and a driver that does not take its word for anything.

With A(θ) = [Σ w_i log p(x_i | θ) + log prior(θ)] / Σ w_i, the penalised log-likelihood a row, an iteration takes
expectations at θ and maximises, and A never falls (Dempster, Laird and Rubin 1977). Here that is checked at every step:
a fall beyond the rounding of the arithmetic (`Kernel.noise`) first brings in a safer kernel and repeats the step; in the
safest one it ends the fit with an error.

EM converges linearly, so one small step says little about what is still to come. With the gains g_t = A_t - A_{t-1} and
their ratio ρ, the gain still expected is that of the geometric series,

    A_∞ - A_t ≈ g_t ρ / (1 - ρ)

(Aitken; Böhning et al. 1994, "The distribution of the likelihood ratio for mixtures of densities from the one-parameter
exponential family"). ρ is the largest of the last three ratios. The fit has converged when this falls below the
tolerance, or when gains vanish in the rounding of float64; never because iterations ran out.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from jensen.errors import FitError
from jensen.mixture.covariance import Covariance
from jensen.mixture.density import Density
from jensen.mixture.kernels import Kernel, kernel_for, ladder
from jensen.mixture.missing import expectations
from jensen.mixture.parameters import Parameters
from jensen.mixture.prior import Prior
from jensen.mixture.rows import Chunk, Chunks, Scale
from jensen.mixture.statistics import Statistics
from jensen.mixture.threads import side_by_side

RATIOS = 3
Say = Callable[[str], None]
OnIteration = Callable[[int, float, float], None]


def quiet(line: str) -> None:
    """Say nothing."""


def unwatched(iteration: int, value: float, remaining: float) -> None:
    """The watcher that does not watch."""


@dataclass(frozen=True)
class Settings:
    """When to stop.

    Args:
        tolerance: the expected remaining gain below which the fit has converged, nats a row.
        max_iterations: where it stops without having converged.
    """

    tolerance: float = 1e-7
    max_iterations: int = 1000


@dataclass(frozen=True)
class Ascent:
    """One run of EM.

    Attributes:
        parameters: where it ended.
        statistics: of the E-step there.
        values: A after 0, 1, … iterations, nats a row.
        remaining: the gain still expected, nats a row; infinite if it cannot be told.
        converged: whether that, and not the number of iterations, ended it.
        kernel: the arithmetic of the last iteration.
        noise: the rounding of the last value, nats a row.
    """

    parameters: Parameters
    statistics: Statistics
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


@dataclass
class Problem:
    """What is to be maximised, and how.

    Args:
        chunks: the rows.
        scale: where they are.
        covariance: the structure.
        prior: the penalty.
        settings: when to stop.
        say: told what happens in words.
        on_iteration: told iteration, A and remaining gain.
    """

    chunks: Chunks
    scale: Scale
    covariance: Covariance
    prior: Prior
    settings: Settings = field(default_factory=Settings)
    say: Say = quiet
    on_iteration: OnIteration = unwatched

    def __post_init__(self) -> None:
        self.dtype = next(self.chunks.passing(1)).x.dtype
        self.last_rung = len(ladder(self.covariance, len(self.scale.mean), self.dtype)) - 1

    def expect(self, parameters: Parameters, rung: int = 0, *, lasting: bool = False) -> tuple[Statistics, Kernel, int]:
        """The E-step over all rows, by the first kernel from `rung` up that is accurate enough.

        Args:
            parameters: where to take expectations.
            rung: the first kernel to consider.
            lasting: whether the statistics must serve an M-step at other parameters too.
        """
        components, dims = parameters.means.shape
        view = self.covariance.lasting_view(components, dims) if lasting else self.covariance.view(parameters.spread)
        kernel, rung = kernel_for(parameters, self.covariance, view, self.scale.mean, self.dtype, rung)
        return total(self._parts(parameters, kernel)), kernel, rung

    def _parts(self, parameters: Parameters, kernel: Kernel) -> Iterator[Statistics]:
        if self.chunks.complete:
            for chunk in self.chunks.views():
                yield from side_by_side(kernel.over, chunk)
            return
        normals, log_weights = self.covariance.normals(parameters.means, parameters.spread), parameters.weights.log()
        for chunk in self.chunks.passing():
            holes = chunk.x.isnan().any(1)
            if not bool(holes.all()):
                yield from side_by_side(kernel.over, chunk.at(~holes))
            if bool(holes.any()):
                yield from expectations(chunk.at(holes), log_weights, normals, kernel.centre, kernel.view)

    def value(self, statistics: Statistics, parameters: Parameters) -> float:
        """A."""
        penalty = log_prior(parameters, self.covariance, self.prior)
        return (statistics.log_likelihood + penalty) / statistics.weight

    def noise(self, kernel: Kernel, value: float) -> float:
        """The rounding of A: independent errors average out over rows, what all rows share does not."""
        return kernel.rounding / math.sqrt(len(self.chunks)) + kernel.shared + 2.0**-44 * abs(value)

    def ascend(self, start: Parameters) -> Ascent:
        """EM from `start` until it has converged or iterations run out.

        Raises:
            FitError: A fell beyond rounding, or is not finite, or a covariance degenerated.
        """
        now, rung, values = start, 0, []
        statistics, kernel, rung = self.expect(now)
        values, gains = [self.value(statistics, now)], Gains()
        while True:
            try:
                new = maximise(statistics, self.covariance, self.prior, now)
                new_statistics, new_kernel, new_rung = self.expect(new, rung)
            except FitError:
                if rung == self.last_rung:
                    raise
                statistics, kernel, rung = self.expect(now, rung + 1)  # the scatter may have been lost in rounding
                values[-1], gains = self.value(statistics, now), Gains()
                continue
            value = self.value(new_statistics, new)
            if not math.isfinite(value):
                raise FitError(f"the log-likelihood became {value} in iteration {len(values)}; rescale the data")
            noise = self.noise(kernel, value) + self.noise(new_kernel, value)
            gain = value - values[-1]
            if gain < -noise or (gain < noise and new_rung < self.last_rung):
                if new_rung < self.last_rung:  # the step is done again with arithmetic that can see it
                    statistics, kernel, rung = self.expect(now, new_rung + 1)
                    values[-1], gains = self.value(statistics, now), Gains()
                    continue
                raise FitError(
                    f"the penalised log-likelihood fell by {-gain:.3g} nats a row in iteration {len(values)}, more than "
                    f"rounding explains ({noise:.3g}); this is a bug in jensen or in its environment: please report it"
                )
            now, statistics, kernel, rung = new, new_statistics, new_kernel, new_rung
            values.append(value)
            remaining = gains.saw(gain)
            vanished = abs(gain) <= noise
            converged = vanished or remaining <= self.settings.tolerance
            self.on_iteration(len(values) - 1, value, remaining)
            if converged or len(values) > self.settings.max_iterations:
                left = min(remaining, noise) if vanished and math.isfinite(remaining) else remaining
                return Ascent(now, statistics, values, left, converged, kernel.name, noise)


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


def total(parts: Iterator[Statistics]) -> Statistics:
    """Their sum."""
    found = next(parts)
    for part in parts:
        found = found + part
    return found


def log_prior(parameters: Parameters, covariance: Covariance, prior: Prior) -> float:
    """log p(w) + log p(Σ), up to a constant."""
    if not prior.rows:
        return prior.log_weights(parameters.weights)
    normals = covariance.normals(parameters.means, parameters.spread)
    return prior.log_weights(parameters.weights) + float(covariance.log_prior(normals, prior))


def maximise(
    statistics: Statistics, covariance: Covariance, prior: Prior, before: Parameters | None = None
) -> Parameters:
    """The M-step: w_k = (n_k + a) / (n + K a), m_k the mean, Σ_k by its structure."""
    counts = statistics.count + prior.counts
    means = statistics.means(statistics.centre if before is None else before.means)
    spread = covariance.maximise(statistics, prior, None if before is None else before.spread)
    return Parameters(counts / counts.sum(), means, spread)


def reseeded(ascent: Ascent, problem: Problem, rows: Chunk) -> tuple[Parameters, int] | None:
    """A start in which the emptiest component, if it holds less than one row, has moved to the least likely of `rows`,
    with the shape of the fullest component; None if no component is that empty.
    """
    found, count = ascent.statistics, ascent.statistics.count
    dead, full = int(count.argmin()), int(count.argmax())
    if float(count[dead]) >= found.weight / len(problem.chunks):
        return None
    index = torch.arange(len(count))
    index[dead] = full
    share = torch.where((index == full), 0.5, 1.0)
    halved = found.pick(index, share)
    before = ascent.parameters
    copied = Parameters(before.weights, before.means[index], problem.covariance.pick(before.spread, index))
    start = maximise(halved, problem.covariance, problem.prior, copied)
    means = start.means.clone()
    means[dead] = _least_likely(ascent.parameters, problem, rows)
    return replace(start, means=means), dead


def _least_likely(parameters: Parameters, problem: Problem, rows: Chunk) -> Tensor:
    log_density = Density(parameters, problem.covariance).log_prob(rows.x)
    worst = rows.x[log_density.argmin()].double()
    return torch.where(worst.isnan(), problem.scale.mean, worst)
