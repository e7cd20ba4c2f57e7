"""A kernel density estimate for every class and column (`jensen.kernel_density`, in one dimension).

    p(x_d | k) = (1/n_kd) Σ_i N(x_d; x_id, h²_kd),   i the kept rows of class k whose cell d is observed

with the bandwidth of the largest leave-one-out likelihood (Duin 1976, "On the choice of smoothing parameters for Parzen
estimators of probability density functions"), kept above half the median gap between neighbouring values, so that the
rounding of a column is not taken for its distribution (`bandwidth.gap_floor`). Equal cells stay cells of their own, unlike
equal rows in `models.kde`: in one column they are many, and leaving all of them out at once would ask what the neighbouring
values alone say, and smooth too much.

Where a class has one value only, h = 1.06 σ n^{-1/5} (Silverman 1986), σ the standard deviation within the class with the
prior of `normal`, which is never 0. A class without a cell in a column has one kernel, the normal law of all classes
together.

Given the class columns are independent, so each column's cells are kept in ascending order for themselves. What a shorter
column leaves empty is +∞, and not looked at.
"""

import math

import torch
from torch import Tensor

from jensen.errors import InputError
from jensen.kernel_density.bandwidth import best
from jensen.kernel_density.kept import Kept, choosing
from jensen.kernel_density.kernels import Gaussian
from jensen.kernel_density.sums import Sums
from jensen.naive_bayes.family import Ascents, Family, Scorer
from jensen.naive_bayes.labelled import Labelled, moments
from jensen.naive_bayes.normal import shrunk
from jensen.noise import Noise
from jensen.rules import POSITIVE, Rule, whole

MOST_CHOOSING = 1000  # cells that choose a bandwidth: there are many columns and classes


class Kernels(Family):
    """(1/n) Σ_i N(x_id, h²_kd).

    Args:
        classes: K.
        dims: D.
        rows: how many training rows of each class are kept, at most; which ones is a random choice that the seed names.
        prior_rows: c of the standard deviations that serve where a class has one value.
    """

    stored: Tensor
    count: Tensor
    bandwidth: Tensor

    def __init__(self, classes: int, dims: int, rows: int, prior_rows: float) -> None:
        super().__init__(classes, dims)
        self.rows, self.prior_rows = rows, prior_rows
        stored = torch.full((classes, dims, rows), math.inf, dtype=torch.float64)
        stored[:, :, 0] = 0.0
        self.register_buffer("stored", stored)
        self.register_buffer("count", torch.ones(classes, dims, dtype=torch.int64))
        self.register_buffer("bandwidth", torch.ones(classes, dims, dtype=torch.float64))

    def rules(self) -> dict[str, Rule]:
        """As many cells as are counted, positive bandwidths."""
        stored = Rule("finite in its first cells, as many as count says, and +inf behind", self._uncounted)
        return {"count": whole(1, self.rows), "bandwidth": POSITIVE, "stored": stored}

    def _uncounted(self, stored: Tensor) -> str | None:
        """A cell that is no number where one is counted, or one where none is."""
        place = torch.arange(self.rows, device=stored.device)
        for cells, count in zip(stored, self.count, strict=True):
            wrong = torch.where(place < count[:, None], ~cells.isfinite(), ~cells.isposinf())
            if bool(wrong.any()):
                return f"{float(cells[wrong][0]):g}"
        return None

    @property
    def cells(self) -> int:
        """One for each class and column; stored rows are gone through in pieces."""
        return self.classes * self.dims

    def learn(self, rows: Labelled, noise: Noise) -> Ascents:
        """Keep rows, sort their cells, choose bandwidths."""
        found = moments(rows, self.dims)
        deviation = shrunk(found, self.prior_rows).sqrt()
        self.stored.fill_(math.inf)
        for k in range(self.classes):
            part = rows.of_class(k)
            if not bool((part.weight == 1).all()):
                raise InputError("family kde takes no weights of rows; use gaussian or mixture, or repeat rows")
            kept = part.x[noise.at(k).permutation(len(part.x))[: self.rows]]
            for d in range(self.dims):
                cells = kept[:, d][~kept[:, d].isnan()].sort().values
                self.count[k, d] = max(1, len(cells))
                if len(cells) == 0:
                    self.stored[k, d, 0], self.bandwidth[k, d] = found.everywhere[d], found.spread[d].sqrt()
                    continue
                self.stored[k, d, : len(cells)] = cells
                self.bandwidth[k, d] = chosen_bandwidth(cells, float(deviation[k, d]))
        return Ascents()

    def scorer(self) -> Scorer:
        """The sum of every class and column."""
        sums = [[self._sums(k, d) for d in range(self.dims)] for k in range(self.classes)]

        def score(x: Tensor) -> Tensor:
            """Σ_d log p(x_d | k) of the observed cells of rows `(B, D)`, `(B, K)`."""
            by_class = [torch.stack([own(x[:, d, None]) for d, own in enumerate(columns)]).sum(0) for columns in sums]
            return torch.stack(by_class, 1)

        return score

    def _sums(self, k: int, d: int) -> Sums:
        """(1/n) Σ_i of a class and column."""
        cells = self.stored[k, d, : int(self.count[k, d])]
        weights = torch.full_like(cells, -math.log(len(cells)))
        return Sums(cells[:, None], weights, self.bandwidth[k, d, None], Gaussian(), None)

    def draw(self, y: Tensor, u: Tensor, eps: Tensor) -> Tensor:
        """A stored cell by u, then h ε more."""
        count = self.count[y]
        index = (u * count).long().minimum(count - 1)
        columns = torch.arange(self.dims).expand_as(index)
        return self.stored[y[:, None], columns, index] + self.bandwidth[y] * eps


def chosen_bandwidth(cells: Tensor, deviation: float) -> float:
    """The h that is best for left-out cells; Silverman's where all of them are equal.

    Args:
        cells: `(n,)` float64.
        deviation: σ.
    """
    if not bool((cells != cells[0]).any()):
        return 1.06 * deviation * len(cells) ** -0.2
    rows = Kept(cells[:, None], torch.ones_like(cells), torch.arange(len(cells)))
    sample, narrower = choosing(rows, MOST_CHOOSING, None)
    return narrower * float(best(sample, Gaussian()))
