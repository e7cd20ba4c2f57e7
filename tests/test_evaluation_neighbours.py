"""Does the model copy? The rank test keeps its rate of false alarms and finds copies."""

import itertools

import pytest
import torch

from jensen.data import Examples
from jensen.evaluation.neighbours import Nearest, affordable, nearer
from jensen.evaluation.panels.samples import _reading_copies

FARTHER = "they are not like the data yet"
COPIED = "more than chance explains"


def distances(count, seed):
    return torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.5


def reading(samples, tests):
    return _reading_copies(*(Nearest(torch.zeros(len(d), dtype=torch.int64), d) for d in (samples, tests)))


def test_chance_is_that_of_all_orders():
    """Ranks of 3 samples among 50 + 3 rows, all 23,426 of them."""
    tests = torch.arange(53, dtype=torch.float64)
    counts = []
    for chosen in itertools.combinations(range(53), 3):
        rest = torch.ones(53, dtype=torch.bool)
        rest[list(chosen)] = False
        counts.append(nearer(tests[list(chosen)], tests[rest]))
    for c in range(4):
        (chance,) = {found.chance for found in counts if found.count == c}
        assert chance == pytest.approx(sum(found.count >= c for found in counts) / len(counts), rel=1e-12)
    assert sum(found.count for found in counts) / len(counts) == pytest.approx(counts[0].expected, rel=1e-12)


@pytest.mark.parametrize("n", [50, 359])
def test_samples_like_test_rows_raise_no_alarm(n):
    """4,000 draws, seeds fixed; at a rate of 0.001 more than 11 alarms have probability 0.001."""
    alarms = sum(
        nearer(both[:64], both[64:]).alarm for seed in range(4000) if (both := distances(64 + n, seed)) is not None
    )
    assert alarms <= 11


@pytest.mark.parametrize("n", [50, 359])
def test_half_copies_are_found(n):
    """Copies lie at a thousandth of a test row's distance."""
    for seed in range(200):
        both = distances(64 + n, seed)
        both[:32] *= 0.001
        assert nearer(both[:64], both[64:]).alarm


def test_under_fifty_test_rows_nothing_is_said():
    both = distances(64 + 49, 0)
    both[:64] *= 0.001
    said = reading(both[:64], both[64:])
    assert said.endswith("too few test rows to tell (49).")
    assert COPIED not in said


def test_the_two_sentences_exclude_each_other():
    """Half are copies, the others are far: what counts is that there are copies."""
    both = distances(64 + 100, 0)
    both[:20] *= 0.001
    both[20:64] += 5
    said = reading(both[:64], both[64:])
    assert "20 of 64 are nearer to a training row than 95 % of 100 test rows" in said
    assert COPIED in said
    assert FARTHER not in said
    both[:20] += 9
    said = reading(both[:64], both[64:])
    assert COPIED not in said
    assert FARTHER in said


def test_enough_test_rows_are_compared_in_large_data():
    rows = Examples(torch.zeros(4, 10), torch.arange(4))
    assert affordable(rows, 500, operations=1) == 50
    assert affordable(rows, 30, operations=1) == 30
    assert affordable(rows, 500) == 500
