"""Does the model copy its training rows?

neighbour ratio   mean distance of drawn rows to their nearest training row, over that of test rows: near 0 for copies, 1 for one law
C_T               Meehan, Chaudhuri and Dasgupta (2020), "A non-parametric test to detect data-copying": in every cell of a partition of
the training rows, the Mann-Whitney statistic of both sets of distances, z-scored; their mean weighed by the
cells' test rows. Far below 0: copies. It sees close copies only; the gap between the log-likelihoods of training
and test rows is the first line.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from jensen.data.examples import Examples
from jensen.evaluation.neighbours import nearest
from jensen.evaluation.two_sample.measure import Measure
from jensen.noise import Noise

CELLS, PER_CELL, LEAST = 8, 50, 20


def memory(
    train: Float[Tensor, "n d"], test: Float[Tensor, "t d"], drawn: Float[Tensor, "m d"], seed: int = 0
) -> list[Measure]:
    """Both, of distances to training rows."""
    rows = Examples(train, torch.arange(len(train)))
    near_test, near_drawn = nearest(test, rows), nearest(drawn, rows)
    note = f"{len(drawn)} drawn and {len(test)} test rows, {len(train)} training rows"
    mean = near_test.distance.mean()
    ratio = float(near_drawn.distance.mean() / mean) if float(mean) > 0 else math.nan
    spread = [float(d.std() / d.mean()) / math.sqrt(len(d)) for d in (near_drawn.distance, near_test.distance)]
    error = ratio * math.hypot(*spread) if float(near_drawn.distance.mean()) > 0 else None
    cells = _cells(train, min(len(train), len(test), len(drawn)) // PER_CELL, seed)
    return [
        Measure("neighbour ratio", ratio, "near", 1.0, error, note=note),
        Measure(
            "C_T",
            copying(near_drawn.distance, near_test.distance, cells[near_drawn.index], cells[near_test.index]),
            "near",
            0.0,
            note=f"{note}, {int(cells.max()) + 1} cells",
        ),
    ]


def copying(drawn: Tensor, test: Tensor, drawn_cell: Tensor, test_cell: Tensor) -> float:
    """C_T from distances to training rows and the cells of these; NaN where no cell has enough rows."""
    total = weight = 0.0
    for cell in test_cell.unique().tolist():
        a, b = drawn[drawn_cell == cell], test[test_cell == cell]
        if min(len(a), len(b)) < LEAST:
            continue
        total += len(b) * z_score(a, b)
        weight += len(b)
    return total / weight if weight else math.nan


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

    count = min(CELLS, max(1, most))
    state = int(Noise(seed, "cells").uniform([0])[0] * 2**31)
    found = KMeans(count, n_init=1, random_state=state, max_iter=20).fit_predict(train.numpy())
    return torch.from_numpy(found).long()
