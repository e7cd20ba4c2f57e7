"""Fits from several starts, and the number of states chosen by held-out likelihood (`mixture.search` says how K grows)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from jensen.errors import InputError
from jensen.hmm.em import Parameters, Problem, Run, mean_log_likelihood
from jensen.hmm.sequences import Sequences
from jensen.mixture.search import Say, best_of, coarse, grown


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

    ascent: Run
    report: dict[str, Any]


def fitted(task: Task, states: int, start: Parameters | None = None) -> Fit:
    """EM from `start`, or from as many starts as the task says (one state needs one); the best end."""
    count = task.restarts if states > 1 and start is None else 1
    runs = (task.problem.ascend(start or task.start(states, number)) for number in range(count))
    best, told = best_of(runs, task.problem.unit, task.say)
    value, rows = best.statistics.log_likelihood, task.problem.sequences
    own = {"log_likelihood_nats_per_step": value / rows.steps, "log_likelihood_nats_per_row": value / rows.weight}
    return Fit(best, {"n_states": states, **told, **own})


def selected(task: Task, held_out: Sequences | None, most: int) -> Fit:
    """The fit whose number of states has the highest held-out likelihood, with the curve in its report.

    Raises:
        InputError: there are no held-out rows.
    """
    if held_out is None:
        raise InputError("n_states='auto' needs validation rows; give some, or a number of states")
    loose = replace(task, problem=replace(task.problem, settings=coarse(task.problem.settings)))

    def attempt(states: int) -> tuple[float, Fit]:
        fit = fitted(loose, states)
        value = mean_log_likelihood(fit.ascent.parameters, held_out)
        task.say(f"{states} states: held-out {value:.4f} nats a step")
        return value, fit

    best, found = grown(min(most, int(task.problem.sequences.steps)), attempt)
    chosen = best.ascent.parameters
    fit = fitted(task, chosen.chain.states, chosen)
    curve = [{"n_states": states, "value": value} for states, value in found]
    report = {**fit.report, "restarts": best.report["restarts"], "criterion": "held-out", "curve": curve}
    return Fit(fit.ascent, report)
