"""log Σ_n w_n ∏_d k((x_d - x_nd)/h_d)/Z_nd for many x, without a matrix of all rows by all stored rows.

Three ways to the same number, and which one a row takes depends on that row alone:

- complete rows in at most `MOST_DIMS` dimensions: the leaves of a tree that can matter (`selected`);
- complete rows in more dimensions, where boxes exclude nothing worth having: all pairs, leaf after leaf, each relative to its
  largest term;
- rows with missing cells: the same, each stored row with its weight and the factors of the cells that are seen.

Rows are in float64 and blocks have one shape (see there). Squared distances are ‖x‖² - 2 x·y + ‖y‖² from the leaf's centre,
off by about 2e-16 (‖x‖ + ‖y‖)² bandwidths squared; in few dimensions a leaf for which that is much is done by differences.
"""

import math

import torch
from jaxtyping import Float64
from torch import Tensor

from jensen.blocks import blocks
from jensen.kernel_density.kernels import Kernel
from jensen.kernel_density.levels import heights, normalisers
from jensen.kernel_density.selected import BLOCK, LEAF, MOST_DIMS, selected
from jensen.kernel_density.tree import as_they_are, leaves
from jensen.threads import in_parallel

PIECE_ROWS, PIECE_CELLS = 4096, 1 << 21  # rows of a piece; cells of its table of gaps
MOST_ROWS, BLOCK_CELLS = 2048, 1 << 22  # of a leaf where there is no tree; cells of a block
FARTHEST = 1e100  # in bandwidths: its square is finite


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
        self.block = max(16, min(BLOCK, BLOCK_CELLS // dims))
        self.leaves = as_they_are(stored, max(LEAF, min(MOST_ROWS, BLOCK_CELLS // dims)))
        self.selected = None
        if dims <= MOST_DIMS and len(stored) > LEAF:
            y = stored.double() / bandwidths
            self.leaves = leaves(y, LEAF)
            order, highest = self.leaves.order, -float(self.log_z.amin(1).sum())
            self.selected = selected(kernel, y[order], self.offsets[order], self.leaves, highest)

    @torch.no_grad()
    def __call__(self, x: Float64[Tensor, "B d"]) -> Float64[Tensor, " B"]:
        """The logarithm of the sum at each row of x, of its observed cells: missing ones are NaN."""
        z = self.in_bandwidths(x)
        holes, out = z.isnan().any(1), x.new_empty(len(x), dtype=torch.float64)
        for rows, function in ((~holes, self._complete), (holes, self._incomplete)):
            at = rows.nonzero()[:, 0]
            if len(at):
                out[at] = torch.cat(list(in_parallel(function, z[at].split(self._piece(len(at))))))
        return out

    def in_bandwidths(self, x: Tensor) -> Tensor:
        """Rows in the units of `exponents`."""
        return (x.double() / self.bandwidths).clamp(-FARTHEST, FARTHEST)

    def _complete(self, z: Tensor) -> Tensor:
        if self.selected is None:
            return self._streamed(z)
        value = self.selected(z)
        again = (~value.isfinite()).nonzero()[:, 0]
        if len(again) and not self.selected.certain:
            value[again] = self._streamed(z[again])
        return value

    def _incomplete(self, z: Tensor) -> Tensor:
        empty = z.isnan().all(1)
        return self._streamed(z).masked_fill_(empty, 0.0)  # nothing is asked, and the weights sum to one

    def _streamed(self, z: Tensor) -> Tensor:
        """Leaf after leaf, relative to the largest term of each."""
        parts = self.blocks(z)
        totals = [part.new_full((len(part),), -math.inf) for part in parts]
        for leaf in range(len(self.leaves)):
            there = self._leaf(leaf)
            for i, part in enumerate(parts):
                totals[i] = torch.logaddexp(totals[i], self._exponents(there, part).logsumexp(1))
        return torch.cat(totals)[: len(z)]

    def exponents(self, leaf: int, z: Float64[Tensor, "B d"]) -> Float64[Tensor, "B n"]:
        """log w_n K(z - z_n) for the rows of a leaf, over the observed cells of z, which is in bandwidths."""
        return self._exponents(self._leaf(leaf), z)

    def _exponents(self, leaf: tuple[Tensor, Tensor, Tensor], z: Tensor) -> Tensor:
        positions, centre, y = leaf
        away = z - centre
        if not bool(away.isnan().any()):
            return self.kernel.log_product(away, y) + self.offsets[positions]
        seen = (~away.isnan()).double()
        products = self.kernel.log_product(away.nan_to_num(nan=0.0), y, seen)
        return products + self.log_weights[positions] - self._log_z_seen(positions, seen)

    def _leaf(self, leaf: int) -> tuple[Tensor, Tensor, Tensor]:
        """Where its rows are, its centre in bandwidths, and the rows from there."""
        positions = self.leaves.rows(leaf)
        y = self.stored[positions].double() / self.bandwidths
        centre = 0.5 * (y.amin(0) + y.amax(0))
        return positions, centre, y - centre

    def blocks(self, z: Float64[Tensor, "B *d"]) -> tuple[Tensor, ...]:
        """Blocks of the size that suits `exponents`."""
        return tuple(blocks(z, self.block))

    def _piece(self, rows: int) -> int:
        """Rows that a thread takes at a time."""
        most = max(self.block, min(PIECE_ROWS, PIECE_CELLS // len(self.leaves)))
        return min(most, max(self.block, -(-rows // torch.get_num_threads())))

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
