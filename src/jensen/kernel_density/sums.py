"""log Σ_n w_n ∏_d k((x_d - x_nd)/h_d)/Z_nd for many x, without a matrix of all rows by all stored rows.

Rows go through in blocks against the stored rows of one leaf of a k-d tree (`tree`), every pair of a block by one
matrix product, in float64. No row's sum depends on the rows beside it: a leaf is skipped row by row, leaves are added in
one order, and blocks have one shape, since matrix products choose their order of summation by shape.

**What is skipped.** A Gaussian leaf at squared distance D (in bandwidths) from x, when exp(-D/2) ∏_d 1/min Z_d is less
than e^-`DEPTH` times what the nearest leaf gives alone. As the weights sum to one, all that is skipped for a row is
together less than e^-25 = 1.4e-11 of its density. The Epanechnikov kernel ends, and what is skipped there is zero. In more
than `MOST_DIMS` dimensions boxes exclude nothing worth having, and every pair is computed.

**Rounding.** Squared distances come as ‖x‖² - 2 x·y + ‖y‖², with x and y taken from the centre of the leaf, so that an
exponent is off by about 2e-16 (‖x - c‖ + ‖y - c‖)², bandwidths squared: what a pair that counts cannot have large,
unless the leaf is. Cancellation in float32 would cost nine digits of that.

**Overflow.** Sums are taken relative to the nearest leaf's, whose largest term is found first. Where a farther leaf is so
much closer in truth that e^709 is passed, the row is done again with the largest term of every leaf.
"""

import math

import torch
from jaxtyping import Float64
from torch import Tensor

from jensen.kernel_density.kernels import Gaussian, Kernel
from jensen.kernel_density.levels import heights, normalisers
from jensen.kernel_density.threads import side_by_side
from jensen.kernel_density.tree import Leaves, as_they_are, leaves

BLOCK, LEAF = 256, 256
DEPTH = 25.0
MOST_DIMS = 16
PIECE_ROWS, PIECE_CELLS = 4096, 1 << 21  # rows of a piece; cells of its table of gaps
BLOCK_CELLS = 1 << 22
FARTHEST = 1e100  # in bandwidths: its square is finite
LOG2E = math.log2(math.e)


class Sums:
    """A weighted sum of bumps, ready to be evaluated.

    Args:
        stored: x_n, `(n, d)`; levels by their number.
        log_weights: log w_n, whose w_n sum to one.
        bandwidths: h_d, in the units of `stored`.
        kernel: the shape of a bump.
        k: the number of levels; None on the real line.
    """

    def __init__(
        self,
        stored: Tensor,
        log_weights: Float64[Tensor, " n"],
        bandwidths: Float64[Tensor, " d"],
        kernel: Kernel,
        k: int | None,
    ) -> None:
        self.stored, self.log_weights, self.bandwidths = stored, log_weights, bandwidths
        self.kernel, self.k, dims = kernel, k, stored.shape[1]
        self.log_z = _log_normalisers(kernel, bandwidths, k)
        self.offsets = log_weights - self._log_z_of(stored)
        self.highest = -float(self.log_z.amin(1).sum())
        self.block = max(16, min(BLOCK, BLOCK_CELLS // dims))
        self.selective = dims <= MOST_DIMS and len(stored) > LEAF
        self.leaves = self._leaves()

    @torch.no_grad()
    def __call__(self, x: Float64[Tensor, "B d"]) -> Float64[Tensor, " B"]:
        """The logarithm of the sum at each row of x, of its observed cells: missing ones are NaN."""
        z = self.in_bandwidths(x)
        holes, out = z.isnan().any(1), x.new_empty(len(x), dtype=torch.float64)
        for rows, function in ((~holes, self._complete), (holes, self._incomplete)):
            at = rows.nonzero()[:, 0]
            if len(at):
                out[at] = torch.cat(side_by_side(function, z[at].split(self._piece(len(at)))))
        return out

    def in_bandwidths(self, x: Tensor) -> Tensor:
        """Rows in the units of `exponents`."""
        return (x.double() / self.bandwidths).clamp(-FARTHEST, FARTHEST)

    def _complete(self, z: Tensor) -> Tensor:
        if not self.selective:
            return self._streamed(z, None)
        if not isinstance(self.kernel, Gaussian):
            return self._streamed(z, self.leaves.gaps(z, largest=True) <= self.kernel.reach**2 * (1 + 1e-12))
        return self._selected(z)

    def _incomplete(self, z: Tensor) -> Tensor:
        empty = z.isnan().all(1)
        return self._streamed(z, None).masked_fill_(empty, 0.0)  # nothing is asked, and the weights sum to one

    def _streamed(self, z: Tensor, wanted: Tensor | None) -> Tensor:
        """Leaf after leaf, for the rows that want it, relative to the largest term of each."""
        total = z.new_full((len(z),), -math.inf)
        for leaf in range(len(self.leaves)):
            at = torch.arange(len(z)) if wanted is None else wanted[leaf].nonzero()[:, 0]
            if len(at):
                total[at] = torch.logaddexp(total[at], self._log_sum(leaf, z[at]))
        return total

    def _selected(self, z: Tensor) -> Tensor:
        """The nearest leaf, and then those that can matter beside it, relative to it."""
        gaps = self.leaves.gaps(z)
        nearest = gaps.argmin(0)
        first, total = z.new_empty(len(z)), z.new_ones(len(z))
        for leaf in nearest.unique().tolist():
            at = (nearest == leaf).nonzero()[:, 0]
            first[at] = self._log_sum(leaf, z[at])
        wanted = 0.5 * gaps <= self.highest - first + DEPTH
        wanted[nearest, torch.arange(len(z))] = False
        for leaf in wanted.any(1).nonzero()[:, 0].tolist():
            at = wanted[leaf].nonzero()[:, 0]
            total[at] += self._relative_sum(leaf, z[at], first[at])
        value = first + total.log()
        again = (~value.isfinite()).nonzero()[:, 0]
        if len(again):
            value[again] = self._streamed(z[again], None)
        return value

    def _log_sum(self, leaf: int, z: Tensor) -> Tensor:
        """log Σ over a leaf."""
        return torch.cat([self.exponents(leaf, block).logsumexp(1) for block in self.blocks(z)])[: len(z)]

    def exponents(self, leaf: int, z: Float64[Tensor, "B d"]) -> Float64[Tensor, "B n"]:
        """log w_n K(z - z_n) for the rows of a leaf, over the observed cells of z, which is in bandwidths."""
        positions, centre, y = self._leaf(leaf)
        away = z - centre
        if not bool(away.isnan().any()):
            return self.kernel.log_product(away, y) + self.offsets[positions]
        seen = (~away.isnan()).double()
        products = self.kernel.log_product(away.nan_to_num(nan=0.0), y, seen)
        return products + self.log_weights[positions] - self._log_z_seen(positions, seen)

    def _relative_sum(self, leaf: int, z: Tensor, shift: Tensor) -> Tensor:
        """Σ over a leaf of exp(exponent - shift), for Gaussian bumps: the whole exponent by one product, in base 2."""
        positions, centre, y = self._leaf(leaf)
        right = torch.cat([y, (self.offsets[positions] - 0.5 * y.square().sum(1))[:, None], y.new_ones(len(y), 1)], 1)
        right = (LOG2E * right).T.contiguous()
        parts, one = [], z.new_ones(self.block, 1)
        for block, by in zip(self.blocks(z), self.blocks(shift[:, None]), strict=True):
            away = block - centre
            left = torch.cat([away, one, -0.5 * away.square().sum(1, keepdim=True) - by], 1)
            parts.append((left @ right).exp2_().sum(1))
        return torch.cat(parts)[: len(z)]

    def _leaf(self, leaf: int) -> tuple[Tensor, Tensor, Tensor]:
        """Where its rows are, its centre in bandwidths, and the rows from there."""
        positions = self.leaves.rows(leaf)
        y = self.stored[positions].double() / self.bandwidths
        centre = 0.5 * (y.amin(0) + y.amax(0))
        return positions, centre, y - centre

    def blocks(self, z: Float64[Tensor, "B *d"]) -> tuple[Tensor, ...]:
        """Blocks of one size, the last one filled up with zeros."""
        return torch.cat([z, z.new_zeros(-len(z) % self.block, *z.shape[1:])]).split(self.block)

    def _piece(self, rows: int) -> int:
        """Rows that a thread takes at a time."""
        most = max(self.block, min(PIECE_ROWS, PIECE_CELLS // len(self.leaves)))
        return min(most, max(self.block, -(-rows // torch.get_num_threads())))

    def _leaves(self) -> Leaves:
        dims = self.stored.shape[1]
        if self.selective:
            return leaves(self.stored.double() / self.bandwidths, LEAF)
        return as_they_are(self.stored, max(LEAF, min(8 * LEAF, BLOCK_CELLS // dims)))

    def _log_z_of(self, rows: Tensor) -> Tensor:
        """Σ_d log Z_d of stored rows."""
        if self.k is None:
            return self.log_z.sum().expand(len(rows))
        total = rows.new_zeros(len(rows), dtype=torch.float64)
        for table, column in zip(self.log_z, rows.T, strict=True):
            total += table[column.long()]
        return total

    def _log_z_seen(self, positions: Tensor, seen: Tensor) -> Tensor:
        """Σ_d log Z_nd over the cells that are seen, `(B, n)`, or `(B, 1)` on the real line."""
        if self.k is None:
            return seen @ self.log_z
        index = self.stored[positions].long()
        return seen @ torch.stack([table[column] for table, column in zip(self.log_z, index.T, strict=True)])


def _log_normalisers(kernel: Kernel, bandwidths: Tensor, k: int | None) -> Float64[Tensor, "d k"]:
    """log Z_d(v) of every level, or log h_d ∫k, one for all."""
    if k is None:
        return (bandwidths.log() + kernel.log_integral)[:, None]
    return normalisers(heights(kernel, bandwidths, k)).log()
