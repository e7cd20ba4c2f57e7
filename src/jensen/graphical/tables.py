"""Conditional probability tables of a graph, all in one flat vector.

Column i with parents a, b, … has the k-level table p(x_i | x_a, x_b, …), stored as cells [x_a, x_b, …, x_i] from
`offsets[i]`. From counts n and a pseudo-count α a cell is (n(pa, x) + α)/(n(pa) + α k): the posterior predictive under a
Dirichlet(α, …, α) for every state of the parents. Integrated over that prior, the counts of a table have the log evidence

    Σ_pa log Γ(kα)/Γ(kα + n(pa)) + Σ_x log Γ(α + n(pa, x))/Γ(α)

(Cooper and Herskovits 1992, "A Bayesian method for the induction of probabilistic networks from data"; Heckerman, Geiger and
Chickering 1995), which says how large α should be.
"""

import math

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from jensen.distributions.smoothing import log_smoothed
from jensen.errors import InputError
from jensen.graphical.dag import Dag

MOST_CELLS = 1 << 26  # of all tables together: 0.5 GiB


class Tables:
    """Where the cells of a graph's tables are.

    Args:
        dag: the graph.
        k: levels of every column.

    Raises:
        InputError: the tables do not fit in memory.
    """

    def __init__(self, dag: Dag, k: int) -> None:
        self.dag, self.k = dag, k
        most_parents = max(len(above) for above in dag.parents)
        if (most_parents + 1) * math.log(k) > math.log(MOST_CELLS) + 1e-9 or self.size_of(dag, k) > MOST_CELLS:
            raise InputError(
                f"tables of {len(dag.parents)} columns × {k} levels with up to {most_parents} parents do not fit in memory (at "
                f"most {MOST_CELLS:,} cells); use fewer levels, fewer columns or fewer edges"
            )
        sizes = [k ** (len(above) + 1) for above in dag.parents]
        self.offsets = [sum_ - size for sum_, size in zip(_running(sizes), sizes, strict=True)]
        self.cells = sum(sizes)
        width = max(1, most_parents)
        padded = [[*above, *[0] * (width - len(above))] for above in dag.parents]
        strides = [
            [k ** (len(above) - place) if place < len(above) else 0 for place in range(width)] for above in dag.parents
        ]
        self._parents, self._strides = torch.tensor(padded, device="cpu"), torch.tensor(strides, device="cpu")
        self._starts = torch.tensor(self.offsets, device="cpu")

    @staticmethod
    def size_of(dag: Dag, k: int) -> int:
        """How many cells there are."""
        return sum(k ** (len(above) + 1) for above in dag.parents)

    def index(self, codes: Int64[Tensor, "B D"]) -> Int64[Tensor, "B D"]:
        """The cell of each column of complete rows."""
        place = codes + self._starts
        for parent, stride in zip(self._parents.T, self._strides.T, strict=True):
            place = place + codes[:, parent] * stride
        return place

    def of(self, flat: Tensor, column: int) -> Tensor:
        """One column's table, `(k, …, k)`: an axis a parent, the column's own last."""
        axes = len(self.dag.parents[column]) + 1
        return flat[self.offsets[column] : self.offsets[column] + self.k**axes].reshape([self.k] * axes)

    def count(self, codes: Int64[Tensor, "B D"], counts: Int64[Tensor, " cells"]) -> None:
        """Add rows to the counts; a column counts where it and its parents are observed (codes from 0)."""
        seen = codes >= 0
        for parent, stride in zip(self._parents.T, self._strides.T, strict=True):
            seen = seen & ((codes[:, parent] >= 0) | (stride == 0))
        place = self.index(codes.clamp(min=0))
        counts.scatter_add_(0, place.flatten(), seen.flatten().long())

    def log_probabilities(self, counts: Int64[Tensor, " cells"], pseudo_count: float) -> Float64[Tensor, " cells"]:
        """log (n(pa, x) + α)/(n(pa) + α k); uniform where there is neither a count nor a pseudo-count."""
        return log_smoothed(counts.reshape(-1, self.k), pseudo_count).flatten()

    def log_evidence(self, counts: Int64[Tensor, " cells"], pseudo_count: float) -> float:
        """The counts' log evidence under Dirichlet(α, …, α) for every state of the parents, nats."""
        cells = counts.double().reshape(-1, self.k)
        alpha = torch.tensor(pseudo_count, dtype=torch.float64)
        states = torch.lgamma(self.k * alpha) - torch.lgamma(self.k * alpha + cells.sum(1))
        occupied = cells[cells > 0]
        return float(states.sum() + (torch.lgamma(alpha + occupied) - torch.lgamma(alpha)).sum())


def _running(sizes: list[int]) -> list[int]:
    total, out = 0, []
    for size in sizes:
        total += size
        out.append(total)
    return out
