"""Few long sequences: both recursions in segments side by side (a parallel scan in two levels).

One step of the forward recursion is a product with the matrix A diag(b_t), and products can be taken in any grouping. The
T - 1 steps behind the first are cut into S segments. Then

1. each segment's matrix P_s = ∏ A diag(b_t) is found by running the recursion from every unit vector, all segments at once;
2. α at the ends of segments follows from P_1, P_2, … one after the other, and β from …, P_2, P_1: S small products each;
3. each segment runs forward and backward from its ends, all segments at once.

So T steps of small operations become about 3 T / S, for K times the arithmetic in the first of them. (Särkkä and
García-Fernández 2021, "Temporal parallelization of Bayesian smoothers"; Blelloch 1990, "Prefix sums".)
"""

import numpy as np
import torch
from torch import Tensor

from jensen.hmm.scaled import RESCALE

WIDE = 4096  # columns K·S·B that keep a step busy
SHORTEST = 32  # steps a segment


def segments(times: int, states: int, count: int) -> int:
    """How many segments to cut sequences into; 1 where they are many or short enough. By shape alone, so that a row's bits
    do not depend on what is in it.
    """
    wanted = WIDE // (states * count)
    return max(1, min(wanted, times // SHORTEST)) if wanted >= 4 and times >= 4 * SHORTEST else 1


def entries(start: Tensor, products: Tensor) -> Tensor:
    """α before each segment, `(K, S·B)`, each divided by its sum; `start (K, B)` before the first one."""
    return _visited(start, products[:-1])


def exits(products: Tensor) -> Tensor:
    """β at the last step of each segment, `(K, S·B)`, each divided by its sum; 1 at the very end."""
    parts, count, states, _ = products.shape
    end = _visited(products.new_ones(states, count), products.flip(0)[:-1].mT)
    return end.view(states, parts, count).flip(1).reshape(states, parts * count)


def _visited(start: Tensor, products: Tensor) -> Tensor:
    """The vectors start, start P_1, start P_1 P_2, …, each divided by its sum, `(K, S·B)` for `start (K, B)` and products
    `(S - 1, B, K, K)`. By numpy, whose small products cost a tenth of torch's.
    """
    vector = start.T[:, None].cpu().numpy()
    visited = [vector]
    for product in products.cpu().numpy():
        vector = vector @ product
        vector = vector / vector.sum(2, keepdims=True)
        visited.append(vector)
    return torch.from_numpy(np.concatenate(visited)).to(start)[:, 0].T.contiguous()


def segment_products(transitions: Tensor, parted: Tensor, count: int) -> Tensor:
    """P_s `(S, B, K, K)`, each times a number of its own, rows by the state before the segment."""
    long, states, columns = parted.shape
    state = torch.eye(states).to(parted)[:, :, None].expand(-1, -1, columns).reshape(states, -1)
    turned, made = transitions.T.contiguous(), parted.new_empty(states, states * columns)
    log_size = parted.new_zeros(states * columns)
    for t, step in enumerate(parted.unbind(0)):
        torch.mm(turned, state, out=made)
        made.view(states, states, columns).mul_(step[:, None])
        state, made = made, (torch.empty_like(made) if t == 0 else state)
        if (t + 1) % RESCALE == 0 or t == long - 1:
            total = state.sum(0)
            state.div_(total)
            log_size += total.log()
    size = log_size.view(states, columns)
    scaled = state.view(states, states, columns) * (size - size.amax(0)).exp()  # (to, from, columns)
    return scaled.view(states, states, -1, count).permute(2, 3, 1, 0).contiguous()


def cut(steps: Tensor, parts: int) -> Tensor:
    """`(T, K, B)` in segments `(L, K, S·B)`, filled up with ones; as it is for one segment."""
    if parts == 1:
        return steps
    times, states, count = steps.shape
    long = -(-times // parts)
    filled = torch.cat([steps, steps.new_ones(parts * long - times, states, count)])
    return filled.view(parts, long, states, count).permute(1, 2, 0, 3).reshape(long, states, parts * count)


def join(parted: Tensor, times: int, parts: int) -> Tensor:
    """The inverse of `cut`, `(T, …, B)` for `(L, …, S·B)`."""
    if parts == 1:
        return parted
    inner = parted.shape[1:-1]
    moved = parted.unflatten(-1, (parts, -1)).movedim(-2, 0)
    return moved.reshape(-1, *inner, parted.shape[-1] // parts)[:times]
