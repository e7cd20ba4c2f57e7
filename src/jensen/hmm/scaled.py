"""The two recursions as products of matrices, rescaled every few steps (`recursion` says why nothing is lost)."""

from dataclasses import dataclass

import torch
from torch import Tensor

FLOOR = -250.0  # log of the smallest b_t over its largest, 10^-108
RESCALE = 4


@dataclass(frozen=True)
class Scaled:
    """α_t as it comes out of step t, before it is multiplied by its factor for the next one.

    Attributes:
        alpha: `(T, K, B)`.
        every: the steps t whose factor is not 1, in order.
        log_factor: log of these, `(len(every), B)`.
    """

    alpha: Tensor
    every: Tensor
    log_factor: Tensor

    def log_factors(self, times: int) -> Tensor:
        """log of the factor of each step, `(T, B)`."""
        out = self.alpha.new_zeros(times, self.alpha.shape[2])
        out[self.every] = self.log_factor
        return out


def forward(transitions: Tensor, b: Tensor) -> Scaled:
    """α for all steps.

    Args:
        transitions: A, `(K, K)`.
        b: `(T, K, B)`, the largest of each step and sequence is 1; π is in the first step.
    """
    alpha = torch.empty_like(b)
    alpha[0] = b[0]
    sums = run(transitions, alpha[0], b[1:], alpha[1:], first=True)
    every = torch.arange(0, len(b) - 1, RESCALE)
    return Scaled(alpha, every, -sums.log() if len(every) else b.new_zeros(0, b.shape[2]))


def run(transitions: Tensor, start: Tensor, b: Tensor, out: Tensor, *, first: bool) -> Tensor:
    """out_t = b_t (Aᵀ out_{t-1}) from out_{-1} = start, whose sum is divided out before step 0 where `first`, and then
    before every `RESCALE`-th step; these sums, one row each.
    """
    turned, state, sums = transitions.T.contiguous(), start, []
    for t, (step, made) in enumerate(zip(b.unbind(0), out.unbind(0), strict=True)):
        if t % RESCALE == 0 and (t > 0 or first):
            total = state.sum(0)
            sums.append(total)
            state = state / total
        torch.mm(turned, state, out=made)
        made.mul_(step)
        state = made
    return torch.stack(sums) if sums else start.new_zeros(0, start.shape[1])


def backward(transitions: Tensor, b: Tensor, end: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """β and b β for all steps, each times a number of its own; β of the last step is `end (K, B)`, or 1."""
    beta, ahead = torch.empty_like(b), torch.empty_like(b)
    beta[-1] = 1.0 if end is None else end
    steps, found, products = b.unbind(0), beta.unbind(0), ahead.unbind(0)
    for t in range(len(b) - 1, 0, -1):
        torch.mul(steps[t], found[t], out=products[t])
        torch.mm(transitions, products[t], out=found[t - 1])
        if t % RESCALE == 0:
            found[t - 1].div_(found[t - 1].sum(0))
    torch.mul(steps[0], found[0], out=products[0])
    return beta, ahead
