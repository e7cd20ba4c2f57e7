"""Nearest training rows: does the model copy?

Distances are Euclidean, over all dimensions of a row, in data units. As a yardstick stand the distances of test rows,
which nobody copied, to their own nearest training rows.

Whether m samples are nearer than n test rows by more than chance is a rank test. With r = ⌈n/20⌉ let X be how many samples
are nearer than the r-th nearest test row. X ≥ c says that among the r - 1 + c nearest of all n + m at most r - 1 are test
rows. If samples are like test rows, every order of the n + m distances is equally likely, so

    P(X ≥ c) = Σ_{j<r} C(n, j) C(m, r - 1 + c - j) / C(n + m, r - 1 + c),

exactly, for any law of the distances; ties only make it smaller. A threshold taken for the true 5 % point instead errs with the
n test rows that it is made of.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from jensen.data.examples import Examples

CHUNK_CELLS = 1 << 22
LEAST_ROWS = 50
ALARM = 0.001


@dataclass(frozen=True)
class Nearest:
    """For each query the position of its nearest row, `index (B,)`, and how far that is, `distance (B,)`."""

    index: Tensor
    distance: Tensor


def nearest(queries: Tensor, rows: Examples) -> Nearest:
    """The nearest of `rows` to each of `queries (B, *event)`, a chunk of rows at a time; the first of equals.

    ‖q - r‖² = ‖q‖² + ‖r‖² - 2 q·r in float64 finds the row, measured from the mean of the queries so that little
    cancels; its distance is then computed directly. Rows with missing cells are never the nearest.
    """
    q = queries.flatten(1).double()
    centre = q.mean(0)
    centred = q - centre
    best, index = torch.full((len(q),), torch.inf).double(), torch.zeros(len(q), dtype=torch.int64)
    size = max(1, CHUNK_CELLS // max(1, q.shape[1]))
    for start in range(0, len(rows), size):
        r = rows.x[start : start + size].flatten(1).double() - centre
        squared = r.square().sum(1) - 2 * centred @ r.T
        least, place = squared.nan_to_num(nan=torch.inf, posinf=torch.inf).min(1)
        closer = least < best
        best, index = torch.where(closer, least, best), torch.where(closer, start + place, index)
    distance = (q - rows.x[index].flatten(1).double()).square().sum(1).sqrt()
    return Nearest(index, distance)


def affordable(rows: Examples, queries: int, operations: float = 1e10) -> int:
    """How many queries can be compared with all rows within this many multiplications, at least 50."""
    cells = max(1, len(rows) * rows.x[0].numel())
    return int(min(queries, max(LEAST_ROWS, operations // cells)))


@dataclass(frozen=True)
class Nearer:
    """How many samples are nearer than the nearest twentieth of the test rows, X, and what chance makes of it.

    Attributes:
        count: X.
        expected: its mean if samples are like test rows, m r / (n + 1).
        chance: the probability of X or more if samples are like test rows; None with fewer than 50 test rows.
    """

    count: int
    expected: float
    chance: float | None

    @property
    def alarm(self) -> bool:
        """Whether chance is below 1 in 1,000."""
        return self.chance is not None and self.chance < ALARM


def nearer(samples: Tensor, tests: Tensor) -> Nearer:
    """The rank test above on distances `(m,)` of samples and `(n,)` of test rows to their nearest training rows."""
    m, n = len(samples), len(tests)
    r = -(-n // 20)
    count = int((samples < tests.sort().values[r - 1]).sum())
    return Nearer(count, m * r / (n + 1), _chance(count, r, m, n) if n >= LEAST_ROWS else None)


def _chance(count: int, r: int, m: int, n: int) -> float:
    """P(X ≥ count)."""
    drawn = r - 1 + count
    few = sum(math.comb(n, j) * math.comb(m, drawn - j) for j in range(min(r, drawn + 1)))
    return few / math.comb(n + m, drawn)
