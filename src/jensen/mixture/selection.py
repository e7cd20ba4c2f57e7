"""Fits from several starts, and the number of components chosen by held-out likelihood or BIC.

    BIC = -2 log L + f log n   (Schwarz 1978),   f free parameters, n rows,

here as -BIC / 2n, so that both criteria are nats a row and higher is better. K grows by about a half at a time and stops
when two in a row have not been better. Mixtures with more components than the data have crawl, and how they compare is
clear long before they have arrived: candidates ascend to `COARSE` times the tolerance, and the one that is chosen goes
on to the tolerance.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from jensen.errors import InputError
from jensen.mixture.covariance import Covariance
from jensen.mixture.density import Density
from jensen.mixture.em import Ascent, OnIteration, Problem, Say, Settings, reseeded
from jensen.mixture.parameters import Parameters
from jensen.mixture.prior import Prior, weakly
from jensen.mixture.rows import Chunks, Scale
from jensen.mixture.seeding import SAMPLE, Clusters, clusters, sample_rows
from jensen.noise import Noise

RESEEDS = 3
PATIENCE = 2
COARSE = 100.0


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

    ascent: Ascent
    prior: Prior
    report: dict[str, Any]


def fitted(task: Task, components: int, start: Parameters | None = None) -> Fit:
    """EM from `start`, or from as many k-means++ starts as the task says (one component needs one); the best end."""
    noise = Noise(task.seed, "mixture", components)
    first = task.clusters(components, noise.at(0))
    problem, restarts = task.problem(first), task.restarts if components > 1 else 1
    more = (task.clusters(components, noise.at(r)).start(problem) for r in range(1, restarts))
    starts = [start] if start else itertools.chain([first.start(problem)], more)
    ends: list[Ascent] = []
    reseeds = 0
    for number, begin in enumerate(starts):
        end, tried = _with_reseeding(problem, begin, noise.at(number, "reseed"))
        ends, reseeds = [*ends, end], reseeds + tried
        task.say(f"start {number + 1}: {_told(end)}")
    best = max(ends, key=lambda end: end.value)
    if not best.converged:
        left = f"{best.remaining:.2g}" if math.isfinite(best.remaining) else "an unknown number of"
        task.say(
            f"not converged: stopped after {best.iterations} iterations with {left} nats a row still expected; "
            "raise max_iterations"
        )
    return Fit(best, problem.prior, _report(best, ends, reseeds, components))


def _with_reseeding(problem: Problem, start: Parameters, noise: Noise) -> tuple[Ascent, int]:
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


def _told(end: Ascent) -> str:
    how = "converged" if end.converged else "not converged"
    return f"{end.value:.6f} nats a row (penalised) after {end.iterations} iterations, {how}"


def _report(best: Ascent, ends: list[Ascent], reseeds: int, components: int) -> dict[str, Any]:
    return {
        "n_components": components,
        "converged": best.converged,
        "iterations": best.iterations,
        "penalised_nats_per_row": best.value,
        "log_likelihood_nats_per_row": best.statistics.log_likelihood / best.statistics.weight,
        "remaining_nats_per_row": best.remaining if math.isfinite(best.remaining) else None,
        "kernel": best.kernel,
        "rounding_nats_per_row": best.noise,
        "restarts": [
            {"penalised_nats_per_row": end.value, "iterations": end.iterations, "converged": end.converged}
            for end in ends
        ],
        "reseeded": reseeds,
    }


def candidates(most: int) -> Iterator[int]:
    """1, 2, 3, 4, 6, 8, 12, 16, 24, … up to `most`."""
    power = 1
    while power <= most:
        yield power
        between = power + power // 2
        if power > 1 and between <= most:
            yield between
        power *= 2


def selected(task: Task, criterion: str, held_out: Chunks | None, most: int) -> Fit:
    """The fit whose number of components is best by the criterion, with the curve in its report.

    Raises:
        InputError: held-out rows are needed and there are none.
    """
    if criterion == "held-out" and (held_out is None or len(held_out) == 0):
        raise InputError(
            "n_components='auto' by held-out likelihood needs validation rows; give some, or criterion='bic'"
        )
    coarse = replace(task, settings=replace(task.settings, tolerance=COARSE * task.settings.tolerance))
    curve: list[dict[str, Any]] = []
    best: tuple[float, Fit] | None = None
    waited = 0
    for components in candidates(min(most, len(task.chunks))):
        fit = fitted(coarse, components)
        value = _criterion(task, criterion, held_out, fit)
        curve.append({"n_components": components, "value": value})
        task.say(f"{components} components: {criterion} {value:.4f} nats a row")
        better = best is None or value > best[0]
        best, waited = ((value, fit), 0) if better or best is None else (best, waited + 1)
        if waited == PATIENCE:
            break
    assert best is not None
    chosen = best[1].ascent.parameters
    fit = fitted(task, chosen.components, chosen)
    kept = {name: best[1].report[name] for name in ("restarts", "reseeded")}
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
