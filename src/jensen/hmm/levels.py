"""Categorical emissions: given the state, the d cells of a step are independent and each has a histogram.

    P(x_t | z_t = k) = ∏_j P_kj(x_tj),   P_kj(v) = (n_kj(v) + a) / (Σ_v n_kj(v) + a L),

n expected counts, L levels and a pseudo-counts: a Dirichlet prior with every α = 1 + a, whose mode this is. A missing cell
leaves its factor out. (Rabiner 1989, eq. 40c.)
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from jensen.data.space import Levels
from jensen.hmm.emission import Counts, Emission, Expected
from jensen.hmm.products import by_state, flat


@dataclass(frozen=True)
class LevelEmission(Emission):
    """Histograms.

    Args:
        probabilities: `(K, d, L)` float64, each sums to 1.
        space: the levels.
        pseudo: a.
    """

    probabilities: Tensor
    space: Levels
    pseudo: float = 0.5
    normals: int = 0

    @property
    def states(self) -> int:  # type: ignore[override]
        """K."""
        return len(self.probabilities)

    @property
    def dims(self) -> int:  # type: ignore[override]
        """D."""
        return self.probabilities.shape[1]

    @property
    def uniforms(self) -> int:  # type: ignore[override]
        """One for each cell."""
        return self.dims

    def log_prob(self, steps: Tensor) -> Tensor:
        """The sum of d rows of a table of logarithms, one after the other; a missing cell's row is 0."""
        table = self.probabilities.log().permute(1, 2, 0).reshape(-1, self.states)
        table = torch.cat([table, table.new_zeros(1, self.states)])
        value = embedding_bag(self._places(steps.flatten(0, 1)), table, mode="sum")
        return by_state(value.T, len(steps)).contiguous()

    def _places(self, x: Tensor) -> Tensor:
        """The row of the table of each cell of `x (n, d)`, the last one where it is missing."""
        first = torch.arange(self.dims, device=x.device) * self.space.k
        row = self.space.index(x.double().nan_to_num(nan=self.space.first)) + first
        return torch.where(x.isnan(), self.dims * self.space.k, row)

    def expect(self, steps: Tensor, share: Tensor) -> Counts:
        """Weighted histograms."""
        rows = self.dims * self.space.k
        places = self._places(steps.flatten(0, 1)).flatten()
        tables = [
            torch.bincount(places, weights=part[:, None].expand(-1, self.dims).flatten(), minlength=rows + 1)[:rows]
            for part in flat(share)
        ]
        return Counts(torch.stack(tables).view(self.probabilities.shape))

    def maximise(self, expected: Expected) -> Self:
        """Counts and pseudo-counts over their sum; a histogram without any stays."""
        assert isinstance(expected, Counts)
        counts = expected.levels + self.pseudo
        total = counts.sum(2, keepdim=True)
        return replace(self, probabilities=torch.where(total > 0, counts / total, self.probabilities))

    def log_prior(self) -> float:
        """a Σ log P."""
        return self.pseudo * float(self.probabilities.log().sum()) if self.pseudo else 0.0

    def tensors(self) -> dict[str, Tensor]:
        """One table."""
        return {"probabilities": self.probabilities}

    def size(self) -> float:
        """None: all terms have one sign."""
        return 0.0

    def draw(self, z: Tensor, u: Tensor, eps: Tensor) -> Tensor:
        """Inverse distribution functions."""
        cumulative, out = self.probabilities.cumsum(2), torch.empty_like(u)
        for state in z.unique().tolist():
            at = z == state
            ends = cumulative[state][:, -1:]
            index = torch.searchsorted(cumulative[state], (u[at].T * ends).contiguous(), right=True)
            out[at] = index.clamp(max=self.space.k - 1).T.to(out)
        return self.space.first + self.space.step * out

    def fill(self, x: Tensor, share: Tensor) -> Tensor:
        """The mean level, which need not be a level."""
        means = self.probabilities @ self.space.values().to(self.probabilities)
        return torch.where(x.isnan(), share @ means, x.double())

    def fill_by_chance(self, x: Tensor, z: Tensor, u: Tensor, eps: Tensor) -> Tensor:
        """Cells are independent given the state."""
        return torch.where(x.isnan(), self.draw(z, u, eps), x.double())
