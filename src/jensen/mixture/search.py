"""Several starts, of which the best end is kept, and a number of parts that grows while that helps.

The number grows by about a half at a time and stops when two in a row have not been better. Models with more parts than
the data have crawl, and how they compare is clear long before they have arrived: candidates ascend to `COARSE` times the
tolerance, and the one that is chosen goes on to the tolerance.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

from jensen.mixture.ascent import Ascent, P, S, Settings

PATIENCE = 2
COARSE = 100.0
Say = Callable[[str], None]
F = TypeVar("F")


def quiet(line: str) -> None:
    """Say nothing."""


def coarse(settings: Settings) -> Settings:
    """Those of candidates."""
    return replace(settings, tolerance=COARSE * settings.tolerance)


def best_of(runs: Iterable[Ascent[P, S]], unit: str, say: Say) -> tuple[Ascent[P, S], dict[str, Any]]:
    """The end with the highest A, and what a report says of all."""
    ends: list[Ascent[P, S]] = []
    for number, end in enumerate(runs, 1):
        ends.append(end)
        how = "converged" if end.converged else "not converged"
        say(f"start {number}: {end.value:.6f} nats a {unit} (penalised) after {end.iterations} iterations, {how}")
    best = max(ends, key=lambda end: end.value)
    if not best.converged:
        left = f"{best.remaining:.2g}" if math.isfinite(best.remaining) else "an unknown number of"
        say(
            f"not converged: stopped after {best.iterations} iterations with {left} nats a {unit} still expected; "
            "raise max_iterations"
        )
    return best, {
        "converged": best.converged,
        "iterations": best.iterations,
        f"penalised_nats_per_{unit}": best.value,
        f"remaining_nats_per_{unit}": best.remaining if math.isfinite(best.remaining) else None,
        f"rounding_nats_per_{unit}": best.noise,
        "restarts": [
            {f"penalised_nats_per_{unit}": end.value, "iterations": end.iterations, "converged": end.converged}
            for end in ends
        ],
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


def grown(most: int, attempt: Callable[[int], tuple[float, F]]) -> tuple[F, list[tuple[int, float]]]:
    """The best of candidates up to `most`, and the curve of their values.

    Args:
        most: the largest number to try, at least 1.
        attempt: the value of a number, higher is better, and what to keep of it.
    """
    curve: list[tuple[int, float]] = []
    best: tuple[float, F] | None = None
    waited = 0
    for number in candidates(most):
        value, kept = attempt(number)
        curve.append((number, value))
        if best is None or value > best[0]:
            best, waited = (value, kept), 0
        else:
            waited += 1
        if waited == PATIENCE:
            break
    assert best is not None
    return best[1], curve
