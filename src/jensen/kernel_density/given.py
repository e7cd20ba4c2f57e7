"""Missing cells given the others: a sum of product bumps, conditioned.

    p(x_m | x_o) = Σ_n r_n ∏_{d in m} p_d(x_d | x_nd),   r_n ∝ w_n ∏_{d in o} p_d(x_d | x_nd)

so its mean is the r-weighted mean of the bumps' own means (Nadaraya 1964, Watson 1964: kernel regression), and a draw is
a stored row by r, then its bumps. Leaf after leaf, in blocks of one shape.
"""

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from jensen.kernel_density.levels import heights, mean_offset
from jensen.kernel_density.sums import Sums


def mean(sums: Sums, x: Float64[Tensor, "B d"]) -> Float64[Tensor, "B d"]:
    """E[every cell | the observed cells of x], NaN where those are impossible."""
    total, parts = sums(x), []
    table = None if sums.k is None else mean_offset(heights(sums.kernel, sums.bandwidths, sums.k))
    for z, log_total in zip(sums.blocks(sums.in_bandwidths(x)), sums.blocks(total), strict=True):
        found = z.new_zeros(z.shape)
        for leaf in range(len(sums.leaves)):
            centre = sums.stored[sums.leaves.rows(leaf)].double()
            if table is not None:
                centre = centre + table.gather(1, centre.long().T).T
            found += (sums.exponents(leaf, z) - log_total[:, None]).exp() @ centre
        parts.append(found)
    return torch.cat(parts)[: len(x)]


def pick(sums: Sums, x: Float64[Tensor, "B d"], u: Float64[Tensor, "B R"]) -> Int[Tensor, "B R"]:
    """The stored rows where the cumulative sum of r passes each u, uniform on [0, 1); -1 where the observed cells are
    impossible.
    """
    total, parts = sums(x), []
    pieces = (sums.blocks(part) for part in (sums.in_bandwidths(x), total, u))
    for z, log_total, v in zip(*pieces, strict=True):
        passed, found = z.new_zeros(len(z), 1), torch.full(v.shape, -1, dtype=torch.int64, device=z.device)
        for leaf in range(len(sums.leaves)):
            positions = sums.leaves.rows(leaf)
            cumulative = passed + (sums.exponents(leaf, z) - log_total[:, None]).exp().cumsum(1)
            place = torch.searchsorted(cumulative, v.contiguous(), right=True)
            here = (found < 0) & (place < len(positions))
            found[here] = positions[place[here]]
            passed = cumulative[:, -1:]
        found[found < 0] = sums.leaves.order[-1]  # the shares may add up to just below u
        parts.append(found)
    return torch.cat(parts)[: len(x)].masked_fill_((total == -torch.inf)[:, None], -1)
