"""Sums over steps and sequences as products of matrices, and products of matrices in logarithms, whose memory is bounded."""

from collections.abc import Iterator

import torch
from torch import Tensor

MANY = 32  # sequences for which a product a step is worth it
PIECE = 512  # steps of few sequences that are summed together, which the cache holds
CELLS = 1 << 20  # numbers of a sum before it is taken, 8 MiB


def outer(left: Tensor, right: Tensor) -> Tensor:
    """Σ_t left_t right_tᵀ of `(T, K, B)` and `(T, F, B)`, `(K, F)`."""
    if left.shape[2] >= MANY:
        return torch.bmm(left, right.mT).sum(0)
    first, second = (side.transpose(1, 2).flatten(0, 1) for side in (left, right))
    whole = len(first) - len(first) % PIECE
    parts = [side[:whole].unflatten(0, (-1, PIECE)) for side in (first, second)]
    return torch.bmm(parts[0].mT, parts[1]).sum(0) + first[whole:].T @ second[whole:]


def flat(shares: Tensor) -> Tensor:
    """`(T, K, B)` as `(K, T·B)`."""
    return shares.transpose(0, 1).reshape(shares.shape[1], -1)


def by_state(values: Tensor, times: int) -> Tensor:
    """`(K, T·B)` as `(T, K, B)`."""
    return values.view(len(values), times, -1).transpose(0, 1)


def sums(log_a: Tensor, log_v: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """log_a_ij + log_v_jb for `(I, J)` and `(J, B)`, `(I', J, B)`, as many rows i at a time as `CELLS` holds."""
    few = max(1, CELLS // log_v.numel())
    for start in range(0, len(log_a), few):
        rows = slice(start, start + few)
        yield rows, log_a[rows, :, None] + log_v


def log_product(log_a: Tensor, log_v: Tensor) -> Tensor:
    """log Σ_j exp(log_a_ij + log_v_jb), `(I, B)`."""
    return torch.cat([part.logsumexp(1) for _, part in sums(log_a, log_v)])


def max_product(log_a: Tensor, log_v: Tensor) -> tuple[Tensor, Tensor]:
    """max_j (log_a_ij + log_v_jb) and the first j that attains it, `(I, B)`."""
    parts = [part.max(1) for _, part in sums(log_a, log_v)]
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])
