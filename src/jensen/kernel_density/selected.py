"""Complete rows in few dimensions: only the leaves that can matter to a row are added up.

Stored rows lie in leaves of a k-d tree (`tree`), and rows go through in blocks against one leaf at a time, every pair of a
block by one matrix product, in float64. No row's sum depends on the rows beside it: leaves are skipped row by row and
added in one order, and blocks have one shape (`jensen.blocks`).

**Gaussian.** The leaf nearest to x comes first, with its largest term found; it gives S alone. A leaf at squared distance
D (in bandwidths) is skipped where exp(-D/2) ∏_d 1/min Z_d < e^-`DEPTH` S. The weights sum to one, so that all that is
skipped for a row is together less than e^-25 = 1.4e-11 of its density. Of the others

    Σ_n exp(e_n - log S) = Σ_n 2^(φ(x)·ψ_n),   φ(x) = [x, 1, -‖x‖²/2 - log S] log₂ e,   ψ_n = [x_n, log w_n/Z_n - ‖x_n‖²/2, 1]

from an origin common to all leaves within `COMMON` bandwidths of it, else from the leaf's own centre: an exponent is off by
about 2e-16 (‖x‖ + ‖x_n‖)², 1e-9 at the most for what counts. A row that wants a leaf wider than `kernels.WIDE`, or one so
much denser than the nearest that e^709 S is passed, is given back as not finite, to be done another way.

**Epanechnikov.** A leaf none of whose box is within reach adds zero. Products of at most `MOST_DIMS` factors, each of them
zero or at least 1e-16, do not underflow, so that they are added up as they are.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Float64
from torch import Tensor

from jensen.blocks import in_blocks
from jensen.kernel_density.kernels import WIDE, Gaussian, Kernel
from jensen.kernel_density.tree import Leaves

BLOCK, LEAF = 128, 256
FEW = 32  # rows each with a leaf of its own
DEPTH = 25.0
MOST_DIMS = 16
COMMON = 300.0
LOG2E = 1.4426950408889634


class Selected(ABC):
    """Leaves of stored rows, and the sums over those that matter.

    Args:
        y: stored rows in bandwidths, in the order of their leaves.
        offsets: log w_n - Σ_d log Z_nd, in that order.
        leaves: the tree.
        highest: the largest -Σ_d log Z_d there is.

    Attributes:
        certain: whether what is not finite is truly so.
    """

    certain: ClassVar[bool]

    def __init__(self, y: Float64[Tensor, "n d"], offsets: Float64[Tensor, " n"], leaves: Leaves, highest: float):
        short = -len(y) % LEAF
        self.leaves, self.highest, self.dims = leaves, highest, y.shape[1]
        padded = torch.cat([y, y[-1:].expand(short, -1)]).reshape(-1, LEAF, self.dims)
        own = 0.5 * (leaves.low + leaves.high)
        self.centres = torch.where(padded.abs().amax((1, 2)) > COMMON, 1.0, 0.0)[:, None] * own
        self.y = (padded - self.centres[:, None]).transpose(1, 2).contiguous()
        self.offsets = torch.cat([offsets, offsets.new_full((short,), -torch.inf)]).reshape(-1, LEAF)
        self.central = (self.centres == 0).all(1).tolist()

    @abstractmethod
    def __call__(self, z: Float64[Tensor, "B d"]) -> Float64[Tensor, " B"]:
        """log Σ_n at complete rows in bandwidths."""


class Gaussians(Selected):
    """Gaussian bumps."""

    certain = False

    def __init__(self, y: Tensor, offsets: Tensor, leaves: Leaves, highest: float) -> None:
        super().__init__(y, offsets, leaves, highest)
        constant = (self.offsets - 0.5 * self.y.square().sum(1))[:, None]
        self.wide = self.y.square().sum(1).amax(1) > WIDE**2
        self.psi = torch.cat([self.y, constant, torch.ones_like(constant)], 1)
        del self.y, self.offsets

    def __call__(self, z: Tensor) -> Tensor:
        """The nearest leaf, and then those that can matter beside it, relative to it."""
        gaps = self.leaves.gaps(z)
        nearest, every = gaps.argmin(0), torch.arange(len(z), device=z.device)
        first, total = self._first(z, nearest), z.new_ones(len(z))
        wanted = 0.5 * gaps <= self.highest - first + DEPTH
        wanted[nearest, every] = False
        phi = _phi(z, first)
        for leaf in wanted.any(1).nonzero()[:, 0].tolist():
            at = wanted[leaf].nonzero()[:, 0]
            rows = phi[at] if self.central[leaf] else _phi(z[at] - self.centres[leaf], first[at])
            psi = self.psi[leaf]
            total[at] += in_blocks(lambda block, psi=psi: (block @ psi).exp2_().sum(1), BLOCK, rows)
        value = first + in_blocks(torch.log, BLOCK, total)
        return value.masked_fill_((wanted[self.wide].any(0)) | self.wide[nearest], torch.nan)

    def _first(self, z: Tensor, nearest: Tensor) -> Tensor:
        """log Σ over the nearest leaf of each row."""

        def few(phi: Tensor, leaf: Tensor) -> Tensor:
            return (torch.bmm(phi[:, None], self.psi[leaf])[:, 0] / LOG2E).logsumexp(1)

        return in_blocks(few, FEW, _phi(z - self.centres[nearest], z.new_zeros(len(z))), nearest)


class Parabolas(Selected):
    """Epanechnikov bumps."""

    certain = True

    def __call__(self, z: Tensor) -> Tensor:
        """Leaves within reach."""
        wanted, total = self.leaves.gaps(z, largest=True) <= 1 + 1e-12, z.new_zeros(len(z))
        weights = self.offsets.exp()
        for leaf in wanted.any(1).nonzero()[:, 0].tolist():
            at, own, y = wanted[leaf].nonzero()[:, 0], weights[leaf], self.y[leaf]
            total[at] += in_blocks(lambda z, own=own, y=y: _parabolas(z, own, y), BLOCK, z[at] - self.centres[leaf])
        return in_blocks(torch.log, BLOCK, total)


def _parabolas(z: Float64[Tensor, "B d"], weights: Float64[Tensor, " n"], y: Float64[Tensor, "d n"]) -> Tensor:
    """Σ_n w_n ∏_d (1 - (z_d - y_nd)²)₊."""
    product, one = weights.expand(len(z), -1), z.new_ones(())
    for column, stored in zip(z.T, y, strict=True):
        u = column[:, None] - stored
        product = product * torch.addcmul(one, u, u, value=-1).clamp_(min=0)
    return product.sum(1)


def selected(
    kernel: Kernel, y: Float64[Tensor, "n d"], offsets: Float64[Tensor, " n"], leaves: Leaves, highest: float
) -> Selected:
    """The sums of a kernel."""
    return (Gaussians if isinstance(kernel, Gaussian) else Parabolas)(y, offsets, leaves, highest)


def _phi(x: Tensor, log_s: Tensor) -> Tensor:
    """φ, whose squares are added up dimension by dimension, so that no shape decides their order."""
    square = torch.zeros_like(log_s)
    for column in x.T:
        square = square + column.square()
    return LOG2E * torch.cat([x, torch.ones_like(log_s)[:, None], (-0.5 * square - log_s)[:, None]], 1)
