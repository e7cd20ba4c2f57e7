"""Few long sequences: both recursions in segments side by side (a parallel scan in two levels).

One step of the forward recursion is a product with the matrix A diag(b_t), and products can be taken in any grouping. The
T - 1 steps behind the first are cut into S segments. Then

1. each segment's matrix P_s = ∏ A diag(b_t) is found by running the recursion from every unit vector, all segments at once;
2. α at the ends of segments follows from P_1, P_2, … one after the other, and β from …, P_2, P_1: S small products each;
3. each segment runs forward and backward from its ends, all segments at once.

So T steps of small operations become about 3 T / S, for K times the arithmetic in the first of them. (Särkkä and
García-Fernández 2021, "Temporal parallelization of Bayesian smoothers"; Blelloch 1990, "Prefix sums".)
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jensen.hmm.scaled import RESCALE, Scaled, backward, run

WIDE = 4096  # columns K·S·B that keep a step busy
SHORTEST = 32  # steps a segment


@dataclass(frozen=True)
class Scanned(Scaled):
    """Also what the backward recursion needs.

    Attributes:
        b: `(L, K, S·B)` in segments, 1 behind the last step.
        products: P_s, `(S, B, K, K)`, each times a number of its own.
    """

    b: Tensor
    products: Tensor


def segments(times: int, states: int, count: int) -> int:
    """How many segments to cut sequences into; 1 where they are many or short enough. By shape alone, so that a row's bits
    do not depend on what is in it.
    """
    wanted = WIDE // (states * count)
    return max(1, min(wanted, times // SHORTEST)) if wanted >= 4 and times >= 4 * SHORTEST else 1


def forward_scan(transitions: Tensor, b: Tensor, parts: int) -> Scanned:
    """α for all steps; arguments as for `scaled.forward`, and the number of segments."""
    times, _, count = b.shape
    long = -(-(times - 1) // parts)
    cut = _cut(b[1:], parts, long)
    products = _products(transitions, cut, count)
    first = b[0]
    total = first.sum(0)
    entry = _visited(first / total, products[:-1])
    alpha = torch.empty_like(cut)
    sums = run(transitions, entry, cut, alpha, first=False)
    joined = torch.cat([first[None], _join(alpha, times - 1, parts)])
    places = torch.arange(RESCALE, long, RESCALE)  # local steps before which the sums were divided out
    inner = (torch.arange(parts)[:, None] * long + places).flatten()
    outer = torch.arange(1, parts) * long  # the last step of each segment but the last, in the numbers of b
    edge = joined[outer[outer < times]].sum(1)
    rescaled = sums.reshape(len(places), parts, count).transpose(0, 1).reshape(-1, count)
    every = torch.cat([torch.zeros(1, dtype=torch.int64), inner, outer[outer < times]])
    factor = -torch.cat([total[None], rescaled, edge]).log()
    kept = every < times - 1
    return Scanned(joined, every[kept], factor[kept], cut, products)


def backward_scan(transitions: Tensor, b: Tensor, found: Scaled) -> tuple[Tensor, Tensor]:
    """As `scaled.backward`; `found` by `forward_scan` of the same sequences."""
    assert isinstance(found, Scanned)
    times, states, count = b.shape
    parts = len(found.products)
    end = _visited(b.new_ones(states, count), found.products.flip(0)[:-1].mT)
    end = end.view(states, parts, count).flip(1).reshape(states, parts * count)
    beta, ahead = (_join(made, times - 1, parts) for made in backward(transitions, found.b, end))
    first = transitions @ ahead[0]
    first = first / first.sum(0)
    return torch.cat([first[None], beta]), torch.cat([(b[0] * first)[None], ahead])


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


def _products(transitions: Tensor, cut: Tensor, count: int) -> Tensor:
    """P_s `(S, B, K, K)`, rows by the state before the segment."""
    long, states, columns = cut.shape
    state = torch.eye(states).to(cut)[:, :, None].expand(-1, -1, columns).reshape(states, -1)
    turned, made = transitions.T.contiguous(), cut.new_empty(states, states * columns)
    log_size = cut.new_zeros(states * columns)
    for t, step in enumerate(cut.unbind(0)):
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


def _cut(steps: Tensor, parts: int, long: int) -> Tensor:
    """`(T, K, B)` in segments `(L, K, S·B)`, filled up with ones."""
    times, states, count = steps.shape
    filled = torch.cat([steps, steps.new_ones(parts * long - times, states, count)])
    return filled.view(parts, long, states, count).permute(1, 2, 0, 3).reshape(long, states, parts * count)


def _join(cut: Tensor, times: int, parts: int) -> Tensor:
    """The inverse of `_cut`."""
    long, states, columns = cut.shape
    parted = cut.view(long, states, parts, columns // parts).permute(2, 0, 1, 3)
    return parted.reshape(parts * long, states, columns // parts)[:times]
