"""EM for mixtures: the E-step by the first kernel that is accurate enough, the M-step by the covariance's structure.

`ascent` drives it and checks that A never falls; the ladder of `kernels` is its safer and safer arithmetic.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from jensen.mixture.ascent import Ascent, Climb, OnIteration, Place, Settings, unwatched
from jensen.mixture.covariance import Covariance
from jensen.mixture.density import Density
from jensen.mixture.kernels import Kernel, kernel_for, ladder
from jensen.mixture.missing import expectations
from jensen.mixture.parameters import Parameters
from jensen.mixture.prior import Prior
from jensen.mixture.rows import Chunk, Chunks, Scale
from jensen.mixture.search import Say, quiet
from jensen.mixture.statistics import Statistics
from jensen.mixture.threads import side_by_side

Run = Ascent[Parameters, Statistics]


@dataclass
class Problem(Climb[Parameters, Statistics]):
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

    unit = "row"
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

    def place(self, parameters: Parameters, rung: int) -> Place[Parameters, Statistics]:
        """The E-step."""
        found, kernel, rung = self.expect(parameters, rung)
        return Place(parameters, found, self.value(found, parameters), self.rounding(kernel), rung, kernel.name)

    def rounding(self, kernel: Kernel) -> float:
        """That of A: independent errors average out over rows, what all rows share does not."""
        return kernel.rounding / math.sqrt(len(self.chunks)) + kernel.shared

    def maximise(self, statistics: Statistics, before: Parameters) -> Parameters:
        """The M-step."""
        return maximise(statistics, self.covariance, self.prior, before)


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


def reseeded(ascent: Run, problem: Problem, rows: Chunk) -> tuple[Parameters, int] | None:
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
