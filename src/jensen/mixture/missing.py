"""Missing cells, marginalised exactly.

For a row with observed cells o and missing cells m, component k gives log N(x_o; m_o, Σ_oo), and its missing cells have

    E[x_m | x_o] = m_m + Σ_mo Σ_oo⁻¹ (x_o - m_o),   Cov[x_m | x_o] = Σ_mm - Σ_mo Σ_oo⁻¹ Σ_om.

Both come from one matrix a pattern: with G = Σ on the observed block and the identity elsewhere, |G| = |Σ_oo|, and Q,
its inverse with rows and columns of m set to zero, gives Σ Q (x - m) and Σ - Σ Q Σ for all cells at once: observed ones
come out as x and 0. So patterns of any shape are one batch, and rows of equal pattern share the factorisation.
EM with them is Ghahramani and Jordan 1994, "Supervised learning from incomplete data via an EM approach".
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from jensen.mixture.covariance import Covariance, cholesky
from jensen.mixture.parameters import Parameters
from jensen.mixture.rows import Chunk
from jensen.mixture.statistics import Statistics

BLOCK = 8  # rows of one pattern that are multiplied together; the last block of a pattern is filled up
GROUP = 1 << 21  # cells of the matrices of a group of patterns
LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class Filled:
    """What component k says of rows with missing cells.

    Attributes:
        joint: `(m, K)` log w_k N(x_o; …).
        mean: `(m, K, d)` E[x | x_o, k].
        covariance: `(u, K, d, d)`, or diagonals `(u, K, d)`, of the different patterns.
        pattern: `(m,)` which of them a row has.
    """

    joint: Tensor
    mean: Tensor
    covariance: Tensor
    pattern: Tensor


class Marginal:
    """A mixture that takes rows with any cells missing, in float64.

    Args:
        parameters: the mixture.
        covariance: its structure.
    """

    def __init__(self, parameters: Parameters, covariance: Covariance) -> None:
        self.parameters, self.covariance = parameters, covariance
        self.components, self.dims = parameters.components, parameters.dims
        self.spread = (
            covariance.variances(parameters.spread, self.components)
            if covariance.diagonal
            else covariance.matrices(parameters.spread, self.components).contiguous()
        )

    def groups(self, x: Tensor) -> Iterator[Tensor]:
        """Positions of rows `x (m, d)`, a bounded number of patterns at a time."""
        cells = self.components * self.dims * (1 if self.covariance.diagonal else self.dims)
        most = max(1, GROUP // cells)
        pattern = torch.unique(x.isnan(), dim=0, return_inverse=True)[1]
        order = pattern.argsort(stable=True)
        group = torch.div(pattern[order], most, rounding_mode="floor")
        for part in order.split(torch.bincount(group).tolist()):
            yield from part.split(max(BLOCK, GROUP // (self.components * self.dims)))

    def fill(self, x: Tensor) -> Filled:
        """Densities and conditional moments of the rows of one group, `x (m, d)`."""
        x = x.double()
        return self._diagonal(x) if self.covariance.diagonal else self._dense(x)

    def _diagonal(self, x: Tensor) -> Filled:
        seen, p = ~x.isnan(), self.parameters
        offset = torch.where(seen[:, None], x[:, None] - p.means, 0.0)
        cells = offset.square() / self.spread + self.spread.log() + LOG_2PI
        joint = p.weights.log() - 0.5 * (cells * seen[:, None]).sum(2)
        return Filled(joint, p.means + offset, self.spread * ~seen[:, None], torch.arange(len(x), device=x.device))

    def _dense(self, x: Tensor) -> Filled:
        patterns, pattern = torch.unique(~x.isnan(), dim=0, return_inverse=True)
        inverse, log_det = self._inverses(patterns)
        offset = torch.where(patterns[pattern][:, None], x[:, None] - self.parameters.means, 0.0)
        white = _by_block(offset, inverse, pattern)
        cells = patterns.double().sum(1)[pattern][:, None] * LOG_2PI
        joint = self.parameters.weights.log() - 0.5 * ((white * offset).sum(2) + log_det[pattern] + cells)
        gain = self.spread @ inverse
        shift = _by_block(offset, gain.mT, pattern)
        shift = torch.where(patterns[pattern][:, None], offset, shift)
        covariance = self.spread - gain @ self.spread
        hidden = ~patterns
        covariance = covariance * (hidden[:, None, :, None] & hidden[:, None, None, :])
        return Filled(joint, self.parameters.means + shift, covariance, pattern)

    def _inverses(self, patterns: Tensor) -> tuple[Tensor, Tensor]:
        """Q `(u, K, d, d)` and log |Σ_oo| `(u, K)`."""
        both = patterns[:, None, :, None] & patterns[:, None, None, :]
        matrix = torch.where(both, self.spread, 0.0) + torch.diag_embed((~patterns).double())[:, None]
        factor = cholesky(matrix.flatten(0, 1))
        log_det = 2 * factor.diagonal(dim1=1, dim2=2).log().sum(1).view(len(patterns), -1)
        return torch.cholesky_inverse(factor).view_as(matrix) * both, log_det

    def statistics(self, chunk: Chunk, centre: Tensor) -> Iterator[Statistics]:
        """The statistics of rows with missing cells, about `centre (K, d)`."""
        for index in self.groups(chunk.x):
            part = chunk.at(index)
            filled, weight = self.fill(part.x), part.weight.double()
            log_density = filled.joint.logsumexp(1)
            responsibility = ((filled.joint - log_density[:, None]).exp() * weight[:, None]).T.contiguous()
            offset = (filled.mean - centre).transpose(0, 1)
            weighted = responsibility[:, :, None] * offset
            mass = responsibility.new_zeros(len(filled.covariance), self.components)
            mass.index_add_(0, filled.pattern, responsibility.T)
            if self.covariance.diagonal:
                second = (weighted * offset).sum(1) + torch.einsum("uk,ukd->kd", mass, filled.covariance)
            else:
                second = weighted.mT @ offset + torch.einsum("uk,ukde->kde", mass, filled.covariance)
            total = float((log_density * weight).sum())
            yield Statistics(centre, responsibility.sum(1), weighted.sum(1), second, total, float(weight.sum()))


def _by_block(rows: Tensor, matrices: Tensor, pattern: Tensor) -> Tensor:
    """rows[i, k] @ matrices[pattern[i], k] for rows `(m, K, d)`, in blocks of `BLOCK` rows of one pattern."""
    order = pattern.argsort(stable=True)
    count = torch.bincount(pattern, minlength=len(matrices))
    blocks = torch.div(count + BLOCK - 1, BLOCK, rounding_mode="floor")
    first = (blocks.cumsum(0) - blocks) * BLOCK
    within = torch.arange(len(rows), device=rows.device) - (count.cumsum(0) - count)[pattern[order]]
    place = first[pattern[order]] + within
    total, k, d = int(blocks.sum()), rows.shape[1], rows.shape[2]
    padded = rows.new_zeros(total * BLOCK, k, d)
    padded[place] = rows[order]
    owner = torch.arange(len(matrices), device=rows.device).repeat_interleave(blocks)
    left = padded.view(total, BLOCK, k, d).transpose(1, 2).reshape(total * k, BLOCK, d)
    product = torch.bmm(left, matrices[owner].reshape(total * k, d, d))
    product = product.view(total, k, BLOCK, d).transpose(1, 2).reshape(total * BLOCK, k, d)
    out = torch.empty_like(rows)
    out[order] = product[place]
    return out
