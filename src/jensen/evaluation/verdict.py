"""What a paired difference allows to say, given what the two numbers are.

Let a be a model's number and b the best number, both means over the same rows, and log p_a, log p_b the true values.
An exact number is the true value, a lower bound lies below it, an upper bound above. So from d = a - b < 0

    exact - exact               log p_a - log p_b = d        ranked
    exact - lower bound         log p_a - log p_b ≤ d        ranked: the best is better by at least |d|
    lower bound - exact         log p_a - log p_b ≥ d        not ranked: the model may be better
    lower bound - lower bound   either sign                  not ranked: only the bounds are compared

An upper bound on the left acts like a bound on the right; on the right it says nothing, and neither does an estimate on
either side. What is ranked must also be clear: so many standard errors of the paired difference below 0 that, were all m models
alike, one table in twenty would call any of its m(m - 1)/2 pairs different (Bonferroni, Student-t). All pairs count, not m - 1,
since the best was found on the same rows. Two exact numbers closer than that have no clear difference, and where one is a bound
nothing can be said. A mass and a density, or numbers about other rows, are not paired at all: `LogLikelihood.__sub__` refuses,
and the table keeps them in groups of their own.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from scipy import stats

from jensen.likelihood import Kind

FALSE_ALARMS = 0.05  # the share of tables of equal models in which any two would be called different, at most
LEAST_ROWS = 10
Code = Literal["best", "worse", "worse by at least", "no clear difference", "not ranked", "nothing to rank"]


class Paired(Protocol):
    """A paired mean difference and its standard error, in nats: a `Difference`, or what a file keeps of one."""

    @property
    def mean(self) -> float:
        """NaN where a row has probability zero under both."""

    @property
    def stderr(self) -> float:
        """Over the paired rows."""


@dataclass(frozen=True)
class Verdict:
    """A reading of a difference: a word for programs, a phrase for people."""

    code: Code
    words: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"code": self.code, "words": self.words}


def verdict(kind: Kind, best_kind: Kind, difference: Paired, best: str, rows: int, models: int = 2) -> Verdict:
    """What can be said about a model beside the best.

    Args:
        kind: what the model's number is.
        best_kind: what the best number is.
        difference: the model minus the best, row by row.
        best: the best model's name.
        rows: how many were paired.
        models: how many stand in the table, of which the best was found on these rows.
    """
    if rows < LEAST_ROWS:
        return Verdict("not ranked", f"too few test rows to tell ({rows} of at least {LEAST_ROWS}): not ranked")
    if math.isnan(difference.mean):
        return Verdict("not ranked", f"some rows have probability zero here and under {best}: not ranked")
    if kind in ("exact", "upper bound") and best_kind in ("exact", "lower bound"):
        needed = standard_errors_needed(rows, models)
        return _ranked(kind, best_kind, clear(difference, needed), best, needed)
    return Verdict("not ranked", _why_not(kind, best_kind, best))


def _ranked(kind: Kind, best_kind: Kind, is_clear: bool, best: str, needed: float) -> Verdict:
    too_close = f"no clear difference from {best} (under {needed:.1f} standard errors)"
    if kind == best_kind == "exact":
        return Verdict("worse", f"worse than {best}") if is_clear else Verdict("no clear difference", too_close)
    if not is_clear:
        return Verdict("not ranked", f"{too_close}, and one of the two is a bound: not ranked")
    return Verdict("worse by at least", f"worse than {best} by at least this")


def _why_not(kind: Kind, best_kind: Kind, best: str) -> str:
    if "estimate" in (kind, best_kind):
        return f"this or {best}'s number is an estimate that may err to either side: not ranked"
    if kind == best_kind == "lower bound":
        return f"two bounds (the other is {best}'s): not ranked, only the bounds are compared"
    if kind == "lower bound" and best_kind == "exact":
        return f"its bound is worse than {best}'s number; the model itself may be better: not ranked"
    return f"{_a(kind)} beside {best}'s {best_kind}: not ranked"


def standard_errors_needed(rows: int, models: int) -> float:
    """How many standard errors make a paired difference clear: 2.0 for two models on many rows, 3.1 for eight."""
    pairs = models * (models - 1) / 2
    return float(stats.t.isf(FALSE_ALARMS / 2 / pairs, rows - 1))


def clear(difference: Paired, needed: float) -> bool:
    """Whether a mean lies that many standard errors below 0 or more; minus infinity does."""
    if math.isinf(difference.mean):
        return difference.mean < 0
    return difference.mean < 0 and difference.mean <= -needed * difference.stderr  # no standard error, nothing clear


def of_the_best(ties: list[str], unranked: list[str], alone: bool) -> Verdict:
    """What can be said about the best itself.

    Args:
        ties: models with no clear difference from it.
        unranked: models that could not be ranked against it.
        alone: whether nothing else shares its measure.
    """
    if alone:
        return Verdict("nothing to rank", "nothing to rank it against")
    words = "the best number" if unranked else "best"
    if ties:
        words += f"; no clear difference from {_and(ties)}"
    if unranked:
        words += f"; not ranked against {_and(unranked)}"
    return Verdict("best", words)


def _and(words: list[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"
