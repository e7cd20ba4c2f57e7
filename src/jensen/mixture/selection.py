"""Fits from several starts, and the number of components chosen by held-out likelihood or BIC.

    BIC = -2 log L + f log n   (Schwarz 1978),   f free parameters, n rows,

here as -BIC / 2n, so that both criteria are nats a row and higher is better. `search` says how K grows.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from jensen.errors import InputError
from jensen.mixture.ascent import OnIteration, Settings
from jensen.mixture.covariance import Covariance
from jensen.mixture.density import Density
from jensen.mixture.em import Problem, Run, reseeded
from jensen.mixture.parameters import Parameters
from jensen.mixture.prior import Prior, weakly
from jensen.mixture.rows import Chunks, Scale
from jensen.mixture.search import Say, best_of, coarse, grown
from jensen.mixture.seeding import SAMPLE, Clusters, clusters, sample_rows
from jensen.noise import Noise

RESEEDS = 3


@dataclass(frozen=True)
class Task:
    """Rows and how to fit them, all but the number of components.

    Args:
        chunks: the training rows.
        scale: where they are.
        covariance: the structure.
        settings: when EM stops.
        prior_counts: the prior's rows for every component's count.
        prior_rows: the prior's rows for every covariance.
        restarts: how many starts; the best end is kept.
        seed: of the starts.
        say: told what happens.
        on_iteration: told every iteration.
    """

    chunks: Chunks
    scale: Scale
    covariance: Covariance
    settings: Settings
    prior_counts: float
    prior_rows: float
    restarts: int
    seed: int
    say: Say
    on_iteration: OnIteration

    def problem(self, first: Clusters) -> Problem:
        """The problem for as many components as there are clusters."""
        within = first.within(self.covariance)
        prior = weakly(within, self.scale.variance, counts=self.prior_counts, rows=self.prior_rows)
        return Problem(self.chunks, self.scale, self.covariance, prior, self.settings, self.say, self.on_iteration)

    def clusters(self, components: int, noise: Noise) -> Clusters:
        """K clusters of the rows."""
        return clusters(self.chunks, self.scale, components, noise)


@dataclass(frozen=True)
class Fit:
    """The best of several ascents, and what a report says of all."""

    ascent: Run
    prior: Prior
    report: dict[str, Any]


def fitted(task: Task, components: int, start: Parameters | None = None) -> Fit:
    """EM from `start`, or from as many k-means++ starts as the task says (one component needs one); the best end."""
    noise = Noise(task.seed, "mixture", components)
    first = task.clusters(components, noise.at(0))
    problem, restarts = task.problem(first), task.restarts if components > 1 else 1
    more = (task.clusters(components, noise.at(r)).start(problem) for r in range(1, restarts))
    starts = [start] if start else itertools.chain([first.start(problem)], more)
    reseeds: list[int] = []

    def runs() -> Iterator[Run]:
        for number, begin in enumerate(starts):
            end, tried = _with_reseeding(problem, begin, noise.at(number, "reseed"))
            reseeds.append(tried)
            yield end

    best, told = best_of(runs(), problem.unit, task.say)
    per_row = best.statistics.log_likelihood / best.statistics.weight
    own = {"log_likelihood_nats_per_row": per_row, "kernel": best.kernel, "reseeded": sum(reseeds)}
    return Fit(best, problem.prior, {"n_components": components, **told, **own})


def _with_reseeding(problem: Problem, start: Parameters, noise: Noise) -> tuple[Run, int]:
    """An ascent, and new ones while a component is dead and moving it helps."""
    best = problem.ascend(start)
    rows = None
    for attempt in range(RESEEDS):
        rows = rows or sample_rows(problem.chunks, SAMPLE, noise)
        moved = reseeded(best, problem, rows)
        if moved is None:
            return best, attempt
        other = problem.ascend(moved[0])
        better = other.value > best.value + other.noise + best.noise
        verdict = "better, kept" if better else "not better, dropped"
        gain = other.value - best.value
        problem.say(f"component {moved[1]} was dead: moved to the least likely row, {gain:+.3g} nats a row, {verdict}")
        if not better:
            return best, attempt + 1
        best = other
    return best, RESEEDS


def selected(task: Task, criterion: str, held_out: Chunks | None, most: int) -> Fit:
    """The fit whose number of components is best by the criterion, with the curve in its report.

    Raises:
        InputError: held-out rows are needed and there are none.
    """
    if criterion == "held-out" and (held_out is None or len(held_out) == 0):
        raise InputError(
            "n_components='auto' by held-out likelihood needs validation rows; give some, or criterion='bic'"
        )
    loose = replace(task, settings=coarse(task.settings))

    def attempt(components: int) -> tuple[float, Fit]:
        fit = fitted(loose, components)
        value = _criterion(task, criterion, held_out, fit)
        task.say(f"{components} components: {criterion} {value:.4f} nats a row")
        return value, fit

    best, found = grown(min(most, len(task.chunks)), attempt)
    chosen = best.ascent.parameters
    fit = fitted(task, chosen.components, chosen)
    kept = {name: best.report[name] for name in ("restarts", "reseeded")}
    curve = [{"n_components": components, "value": value} for components, value in found]
    return replace(fit, report={**fit.report, **kept, "criterion": criterion, "curve": curve})


def _criterion(task: Task, criterion: str, held_out: Chunks | None, fit: Fit) -> float:
    found = fit.ascent.statistics
    if criterion == "bic":
        free = free_parameters(fit.ascent.parameters, task.covariance)
        return (found.log_likelihood - 0.5 * free * math.log(found.weight)) / found.weight
    assert held_out is not None
    density = Density(fit.ascent.parameters, task.covariance)
    return mean_of(held_out, density.log_prob)


def mean_of(chunks: Chunks, function: Callable[[torch.Tensor], torch.Tensor]) -> float:
    """The weighted mean of a function of rows."""
    total = weight = 0.0
    for chunk in chunks.passing():
        total += float((function(chunk.x) * chunk.weight.double()).sum())
        weight += float(chunk.weight.double().sum())
    return total / weight


def free_parameters(parameters: Parameters, covariance: Covariance) -> int:
    """K - 1 weights, K d means, and the covariances'."""
    k, d = parameters.components, parameters.dims
    return k - 1 + k * d + covariance.free(k, d)
