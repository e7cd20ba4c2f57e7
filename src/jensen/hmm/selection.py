"""Fits from several starts, and the number of states chosen by held-out likelihood, as `mixture.selection` does it: K grows
by about a half at a time and stops when two in a row have not been better; candidates ascend to `COARSE` times the
tolerance, and the one that is chosen goes on to the tolerance.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from jensen.errors import InputError
from jensen.hmm.em import Ascent, Parameters, Problem, mean_log_likelihood
from jensen.hmm.sequences import Sequences
from jensen.mixture.em import Say
from jensen.mixture.selection import COARSE, PATIENCE, candidates


@dataclass(frozen=True)
class Task:
    """How to fit, all but the number of states.

    Args:
        problem: what is maximised.
        start: the start of a number, for a number of states.
        restarts: how many starts; the best end is kept.
        say: told what happens.
    """

    problem: Problem
    start: Callable[[int, int], Parameters]
    restarts: int
    say: Say


@dataclass(frozen=True)
class Fit:
    """The best of several ascents, and what a report says of all."""

    ascent: Ascent
    report: dict[str, Any]


def fitted(task: Task, states: int, start: Parameters | None = None) -> Fit:
    """EM from `start`, or from as many starts as the task says (one state needs one); the best end."""
    count = task.restarts if states > 1 and start is None else 1
    ends: list[Ascent] = []
    for number in range(count):
        ends.append(task.problem.ascend(start or task.start(states, number)))
        how = "converged" if ends[-1].converged else "not converged"
        task.say(
            f"start {number + 1}: {ends[-1].value:.6f} nats a step (penalised) after {ends[-1].iterations} iterations, {how}"
        )
    best = max(ends, key=lambda end: end.value)
    if not best.converged:
        left = f"{best.remaining:.2g}" if math.isfinite(best.remaining) else "an unknown number of"
        task.say(
            f"not converged: stopped after {best.iterations} iterations with {left} nats a step still expected; "
            "raise max_iterations"
        )
    return Fit(best, _report(best, ends, states, task.problem.sequences))


def _report(best: Ascent, ends: list[Ascent], states: int, sequences: Sequences) -> dict[str, Any]:
    return {
        "n_states": states,
        "converged": best.converged,
        "iterations": best.iterations,
        "penalised_nats_per_step": best.value,
        "log_likelihood_nats_per_step": best.log_likelihood / sequences.steps,
        "log_likelihood_nats_per_row": best.log_likelihood / sequences.weight,
        "remaining_nats_per_step": best.remaining if math.isfinite(best.remaining) else None,
        "rounding_nats_per_step": best.noise,
        "restarts": [
            {"penalised_nats_per_step": end.value, "iterations": end.iterations, "converged": end.converged}
            for end in ends
        ],
    }


def selected(task: Task, held_out: Sequences | None, most: int) -> Fit:
    """The fit whose number of states has the highest held-out likelihood, with the curve in its report.

    Raises:
        InputError: there are no held-out rows.
    """
    if held_out is None:
        raise InputError("n_states='auto' needs validation rows; give some, or a number of states")
    settings = replace(task.problem.settings, tolerance=COARSE * task.problem.settings.tolerance)
    coarse = replace(task, problem=replace(task.problem, settings=settings))
    curve: list[dict[str, Any]] = []
    best: tuple[float, Fit] | None = None
    waited = 0
    for states in candidates(min(most, int(task.problem.sequences.steps))):
        fit = fitted(coarse, states)
        value = mean_log_likelihood(fit.ascent.parameters, held_out)
        curve.append({"n_states": states, "value": value})
        task.say(f"{states} states: held-out {value:.4f} nats a step")
        better = best is None or value > best[0]
        best, waited = ((value, fit), 0) if better or best is None else (best, waited + 1)
        if waited == PATIENCE:
            break
    assert best is not None
    chosen = best[1].ascent.parameters
    fit = fitted(task, chosen.chain.states, chosen)
    report = {**fit.report, "restarts": best[1].report["restarts"], "criterion": "held-out", "curve": curve}
    return Fit(fit.ascent, report)
