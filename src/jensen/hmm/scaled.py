"""The two recursions as products of matrices, rescaled every few steps (`recursion` says why nothing is lost).

With s_t the sum of α_t where it is divided out and 1 elsewhere, and 1 for both sums at the end,

    α_t = b_t (Aᵀ α_{t-1}) / s_t,   γ_t = α_t β_t,   c_t = b_t β_t / s_t,   β_{t-1} = A c_t,

so Σ_k α_t(k) β_t(k) is the same at every t, namely 1: γ_t is the posterior as it stands, and the expected transitions are
A_ij Σ_t α_{t-1}(i) c_t(j) (Rabiner 1989, eq. 91-95, whose factors stand at every step). One segment of a sequence is one column
of a run; `scan` cuts sequences that are few and long into many.
"""

import torch
from torch import Tensor

RESCALE = 8


def rescaled(times: int) -> list[int]:
    """The steps of a run after which the sum is divided out: every `RESCALE`-th and the last."""
    return sorted({*range(RESCALE - 1, times, RESCALE), times - 1} if times else set())


def forward(transitions: Tensor, start: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """α of a run into `out (T, K, B)`.

    Args:
        transitions: A, `(K, K)`.
        start: α before the run, `(K, B)`.
        b: `(T, K, B)`, the largest of each step and sequence is 1.
        out: where α goes.

    Returns:
        The sums that were divided out, `(len(rescaled(T)), B)`.
    """
    turned, state, ends, sums = transitions.T.contiguous(), start, set(rescaled(len(b))), []
    for t, (step, made) in enumerate(zip(b.unbind(0), out.unbind(0), strict=True)):
        torch.mm(turned, state, out=made)
        made.mul_(step)
        if t in ends:
            sums.append(made.sum(0))
            made.div_(sums[-1])
        state = made
    return torch.stack(sums) if sums else start.new_zeros(0, start.shape[1])


def backward(transitions: Tensor, end: Tensor, b: Tensor, alpha: Tensor, sums: Tensor, out: Tensor) -> Tensor:
    """γ of the steps of a run into `out (T, K, B)`; b becomes c.

    Args:
        transitions: A, `(K, K)`.
        end: β at the last step, `(K, B)`, up to a number for each column.
        b: `(T, K, B)`.
        alpha: of the same run, by `forward`.
        sums: likewise.
        out: where γ goes.

    Returns:
        β before the run, `(K, B)`.
    """
    number = dict(zip(rescaled(len(b)), sums, strict=True))
    beta = end / (end * alpha[-1]).sum(0) if len(alpha) else end.clone()
    steps, sides, made = b.unbind(0), alpha.unbind(0), out.unbind(0)
    for t in range(len(b) - 1, -1, -1):
        torch.mul(sides[t], beta, out=made[t])
        steps[t].mul_(beta)
        if t in number:
            steps[t].div_(number[t])
        torch.mm(transitions, steps[t], out=beta)
    return beta
