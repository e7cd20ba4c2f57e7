"""Does the model copy its training rows?

gap               mean log p of training rows - that of test rows, of models with a likelihood: the first line. Different rows, so the errors add in
                  squares; in nats
neighbour ratio   mean distance of drawn rows to their nearest training row, over that of test rows: near 0 for copies, 1 for one law
C_T               Meehan, Chaudhuri and Dasgupta (2020), "A non-parametric test to detect data-copying": in every cell of a partition of
                  space, the Mann-Whitney statistic of both sets of distances, z-scored; their mean weighed by the cells' test rows. Far
                  below 0: copies. It sees close copies only. Of one law each z has variance 1, so C_T has √Σw² / Σw

A cell is the rows nearest to the training rows of one cluster (k-means); cells with fewer than 20 rows of either kind are left out.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from jensen.data.examples import Examples
from jensen.evaluation.neighbours import Nearest, nearest
from jensen.evaluation.two_sample.measure import Measure
from jensen.likelihood import LogLikelihood
from jensen.noise import Noise

CELLS, PER_CELL, LEAST = 8, 50, 20
MOST_PRODUCTS, MOST_CLUSTERED = 1e11, 5_000


class Memory:
    """Training rows in cells, and how far test rows are from them.

    Args:
        train: training rows; of more than 10¹¹ products with the test rows allow, some at random.
        test: test rows.
        seed: of the choice and of the cells.
    """

    def __init__(self, train: Float[Tensor, "n d"], test: Float[Tensor, "t d"], seed: int = 0) -> None:
        most = int(max(len(test), MOST_PRODUCTS // test.numel()))
        if len(train) > most:
            train = train[Noise(seed, "memory").permutation(len(train))[:most]]
        self.rows = Examples(train, torch.arange(len(train)))
        self.test = nearest(test, self.rows)
        self.cells = _cells(train, min(len(train), len(test)) // PER_CELL, seed)

    def measures(self, drawn: Float[Tensor, "m d"]) -> list[Measure]:
        """Neighbour ratio and C_T of drawn rows."""
        found = nearest(drawn, self.rows)
        note = f"{len(drawn)} drawn and {len(self.test.index)} test rows, {len(self.rows)} training rows"
        return [_ratio(found.distance, self.test.distance, note), self._copying(found, note)]

    def _copying(self, found: Nearest, note: str) -> Measure:
        cells = self.cells[found.index], self.cells[self.test.index]
        value, error = copying(found.distance, self.test.distance, *cells)
        return Measure("C_T", value, "near", 0.0, error, note=f"{note}, {int(self.cells.max()) + 1} cells")


def likelihood_gap(train: LogLikelihood, test: LogLikelihood) -> Measure:
    """Mean log p of training rows minus that of test rows, in nats."""
    value, error = train.mean - test.mean, math.hypot(train.total, test.total)
    both = " of two lower bounds" if test.kind == "lower bound" else ""
    note = f"nats, {len(train)} training and {len(test)} test rows{both}"
    return Measure("train − test log p", value, "near", 0.0, error if math.isfinite(error) else None, note=note)


def _ratio(drawn: Tensor, test: Tensor, note: str) -> Measure:
    """The ratio of two means with its error to first order."""
    mean = float(test.mean())
    ratio = float(drawn.mean()) / mean if mean > 0 else math.nan
    error = (
        math.hypot(*(float(d.std()) / math.sqrt(len(d)) * by for d, by in ((drawn, 1.0), (test, ratio)))) / mean
        if mean > 0
        else None
    )
    return Measure("neighbour ratio", ratio, "near", 1.0, error, note=note)


def copying(drawn: Tensor, test: Tensor, drawn_cell: Tensor, test_cell: Tensor) -> tuple[float, float | None]:
    """C_T from distances to training rows and cells, with its standard error for one law; NaN where no cell has enough rows."""
    found = [
        (len(b), z_score(a, b))
        for cell in test_cell.unique().tolist()
        for a, b in [(drawn[drawn_cell == cell], test[test_cell == cell])]
        if min(len(a), len(b)) >= LEAST
    ]
    weight = sum(rows for rows, _ in found)
    if not weight:
        return math.nan, None
    return sum(rows * z for rows, z in found) / weight, math.hypot(*(rows for rows, _ in found)) / weight


def z_score(a: Tensor, b: Tensor) -> float:
    """The Mann-Whitney statistic, pairs with a above b, as a z-score with the correction for ties; below 0 where a is the smaller."""
    n, m = len(a), len(b)
    both = torch.cat([a, b]).sort().values
    below = torch.searchsorted(both, a) + torch.searchsorted(both, a, right=True)
    own = a.sort().values
    inside = torch.searchsorted(own, a) + torch.searchsorted(own, a, right=True)
    u = float((below - inside).double().sum()) / 2
    _, counts = both.unique(return_counts=True)
    ties = float((counts.double() ** 3 - counts).sum()) / ((n + m) * (n + m - 1))
    variance = n * m / 12 * (n + m + 1 - ties)
    return (u - n * m / 2) / math.sqrt(variance) if variance > 0 else 0.0


def _cells(train: Tensor, most: int, seed: int) -> Tensor:
    """A partition of the training rows by k-means, into at most 8 cells."""
    from sklearn.cluster import KMeans

    count, noise = min(CELLS, max(1, most)), Noise(seed, "cells")
    if count == 1:
        return torch.zeros(len(train), dtype=torch.int64)
    some = train[noise.at("rows").permutation(len(train))[:MOST_CLUSTERED]].numpy()
    found = KMeans(count, n_init=1, random_state=int(noise.uniform([0])[0] * 2**31), max_iter=20).fit(some)
    return torch.from_numpy(found.predict(train.numpy())).long()
