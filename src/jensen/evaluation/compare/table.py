"""The rows of the table, as plain dicts.

Models are parted into groups that may be compared: the same measure (mass with mass, density with density), the same
condition, the same rows. In each group the best is the model with the highest mean of what is not an upper bound; every
other one is given its paired difference to it. Seeds are kept apart from rows: the error bar and the differences are of
the first seed's run, over test rows; the spread is over runs.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jensen.evaluation.compare.attempts import Attempt
from jensen.evaluation.compare.plan import ALWAYS
from jensen.evaluation.likelihood import difference_dict, summary
from jensen.evaluation.verdict import Verdict, of_the_best, verdict
from jensen.likelihood import BITS, LogLikelihood
from jensen.models import model_class

Group = tuple[str, str, str, tuple[int, ...]]


@dataclass(frozen=True)
class Entry:
    """A model with its runs, one a seed; the first is the one that is quoted."""

    word: str
    attempts: tuple[Attempt, ...]

    @property
    def first(self) -> Attempt:
        """The run that is quoted."""
        return self.attempts[0]

    @property
    def test(self) -> LogLikelihood | None:
        """Its test rows' log-likelihood."""
        return self.first.test


def table(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """The rows, group by group, the highest number first, what has no number last."""
    groups: dict[Group, list[Entry]] = {}
    for entry in entries:
        if entry.test is not None:
            groups.setdefault(_group(entry.test), []).append(entry)
    rows = [row for key in sorted(groups) for row in _ranked(groups[key])]
    return rows + [_row(entry, None, None, _no_number(entry)) for entry in entries if entry.test is None]


def _group(ll: LogLikelihood) -> Group:
    """What two log-likelihoods must share to be subtracted."""
    return ll.measure, ll.given, ll.rows, ll.event_shape


def best_of(group: Sequence[Entry]) -> Entry:
    """The highest mean; an upper bound only where there is nothing else."""
    return max(group, key=lambda entry: (_of(entry).kind != "upper bound", _ordered(_of(entry).mean)))


def _ranked(group: Sequence[Entry]) -> list[dict[str, Any]]:
    best = best_of(group)
    others = sorted((e for e in group if e is not best), key=lambda e: _ordered(_of(e).mean), reverse=True)
    verdicts = {
        e.word: verdict(_of(e).kind, _of(best).kind, _of(e) - _of(best), best.word, len(_of(e)), len(group))
        for e in others
    }
    ties = [word for word, found in verdicts.items() if found.code == "no clear difference"]
    unranked = [word for word, found in verdicts.items() if found.code == "not ranked"]
    first = _row(best, best, best, of_the_best(ties, unranked, alone=not others))
    return [first, *(_row(entry, best, None, verdicts[entry.word]) for entry in others)]


def _of(entry: Entry) -> LogLikelihood:
    assert entry.test is not None
    return entry.test


def _ordered(mean: float) -> float:
    return -math.inf if math.isnan(mean) else mean


def _no_number(entry: Entry) -> Verdict:
    return Verdict(
        "nothing to rank", "failed: not ranked" if entry.first.parameters is None else "no number: not ranked"
    )


def _row(entry: Entry, best: Entry | None, same: Entry | None, found: Verdict) -> dict[str, Any]:
    """One row; `same` is the best where the row is the best's own."""
    first = entry.first
    difference = None
    if best is not None and same is None:
        difference = {"to": best.word, **difference_dict(_of(entry) - _of(best))}
    return {
        "model": entry.word,
        "control": entry.word in ALWAYS,
        "log_likelihood": None if first.test is None else summary(first.test),
        "difference": difference,
        "verdict": found.to_dict(),
        "gap": _gap(first),
        "samples": None if first.samples is None else {k: v for k, v in first.samples.items() if k != "about"},
        "seconds": first.seconds,
        "peak_bytes": first.peak_bytes,
        "resumed": first.resumed,
        "parameters": first.parameters,
        "spread": spread(entry),
        "seeds": [_seed(attempt) for attempt in entry.attempts],
        "note": None if model_class(entry.word).seeded else "closed form: the same for every seed, so fitted once",
        "problem": first.problem,
    }


def _gap(attempt: Attempt) -> dict[str, Any] | None:
    """Mean log-likelihood of training rows minus that of test rows. They are different rows, so the errors add in
    squares.
    """
    train, test = attempt.train, attempt.test
    if train is None or test is None or not math.isfinite(train.mean - test.mean):
        return None
    gap, error = train.mean - test.mean, math.hypot(train.total, test.total)
    known = math.isfinite(error)
    scale = BITS / test.dims if test.in_bits else None
    both = " of two lower bounds" if test.kind == "lower bound" else ""
    return {
        "mean_nats": gap,
        "stderr_nats": error if known else None,
        "mean_bits_per_dim": None if scale is None else gap * scale,
        "stderr_bits_per_dim": None if scale is None or not known else error * scale,
        "standard_errors": gap / error if known and error > 0 else None,
        "train_examples": len(train),
        "meaning": f"training rows − test rows{both}: different rows, so the errors add in squares",
    }


def spread(entry: Entry) -> dict[str, Any] | None:
    """The standard deviation over seeds of the mean over test rows; None for fewer than two finite ones."""
    means = [attempt.test.mean for attempt in entry.attempts if attempt.test is not None]
    finite = [mean for mean in means if math.isfinite(mean)]
    if len(finite) < 2:
        return None
    deviation, first = statistics.stdev(finite), next(a.test for a in entry.attempts if a.test is not None)
    return {
        "sd_nats": deviation,
        "sd_bits_per_dim": deviation * BITS / first.dims if first.in_bits else None,
        "runs": len(finite),
    }


def _seed(attempt: Attempt) -> dict[str, Any]:
    test = attempt.test
    return {
        "seed": attempt.seed,
        "quote": None if test is None else test.quote(),
        "mean_nats": test.mean if test is not None and math.isfinite(test.mean) else None,
        "seconds": attempt.seconds,
        "peak_bytes": attempt.peak_bytes,
        "problem": attempt.problem,
    }
