"""Forward and backward: log p(x), the posterior of the states, and how often each transition is expected.

With π the first state's probabilities, A_ij = p(z_{t+1} = j | z_t = i) and b_t(k) = p(x_t | z_t = k),

    α_1 = π b_1,   α_{t+1} = b_{t+1} (Aᵀ α_t),   β_T = 1,   β_t = A (b_{t+1} β_{t+1}),

    p(x) = Σ_k α_T(k),   p(z_t = k | x) = α_t(k) β_t(k) / p(x),
    p(z_t = i, z_{t+1} = j | x) = α_t(i) A_ij b_{t+1}(j) β_{t+1}(j) / p(x)

(Rabiner 1989, "A tutorial on hidden Markov models", eq. 19, 24, 27, 37). Two ways to the same numbers:

**Scaled.** b_t is divided by its largest value, and α and β by the sums of α every `RESCALE` steps, so a step is one product
of matrices (`scaled`). Since the largest b_t is 1, the sums fall by at most min A a step; so where min A ≥ `LEAST`, as it is
with a prior that counts transitions, they stay above 10^-96. Nothing overflows, and what underflows is less than 10^-300
of the whole. π may hold zeros.

**Logarithms.** log-sum-exp over i in every step, exact for any A, zeros included (`logarithms`).

Sequences end where `lengths` says. States behind the end follow A and say nothing of x. Tensors are `(T, K, B)`, time
first and sequences last, so that every operation runs along sequences.
"""

from functools import cached_property

import torch
from torch import Tensor

from jensen.hmm.chain import Chain, Passes
from jensen.hmm.logarithms import LogPasses
from jensen.hmm.products import outer
from jensen.hmm.scaled import backward, forward, rescaled
from jensen.hmm.scan import cut, entries, exits, join, segment_products, segments


def passes(chain: Chain, log_b: Tensor, lengths: Tensor) -> Passes:
    """Both recursions, by the arithmetic that suits the chain."""
    return (ScaledPasses if chain.positive else LogPasses)(chain, log_b, lengths)


class ScaledPasses(Passes):
    """By products of matrices; in segments side by side where sequences are few and long (`scan`)."""

    def __init__(self, chain: Chain, log_b: Tensor, lengths: Tensor) -> None:
        super().__init__(chain, log_b, lengths)
        times, states, count = log_b.shape
        self.whole = bool((lengths == times).all())
        self.b, top = _relative(chain, log_b)
        self.segments = segments(times, states, count)
        first = self.b[0].sum(0)
        start = self.b[0] / first
        self.parted = cut(self.b[1:], self.segments)
        self.products = segment_products(chain.transitions, self.parted, count) if self.segments > 1 else None
        entry = start if self.products is None else entries(start, self.products)
        made = torch.empty_like(log_b) if self.segments == 1 else None
        self.own = torch.empty_like(self.parted) if made is None else made[1:]
        self.sums = forward(chain.transitions, entry, self.parted, self.own)
        if made is None:
            self.alpha = torch.cat([start[None], join(self.own, times - 1, self.segments)])
        else:
            made[0], self.alpha = start, made
        self.log_evidence = self._evidence(top, first)

    def _evidence(self, top: Tensor, first: Tensor) -> Tensor:
        """The sums up to the last step, and that of α there, times what b was divided by, in logarithms."""
        times, _, count = self.alpha.shape
        sums = self.sums.log().view(-1, self.segments, count).transpose(0, 1).flatten(0, 1)
        if self.whole:
            return first.log() + (sums.sum(0) + top.sum(0))
        long, steps = len(self.parted), torch.arange(times, device=top.device)[:, None]
        last, full = (self.lengths - 1).clamp(min=0), self.lengths == times
        places = 1 + torch.arange(self.segments)[:, None] * long + torch.tensor(rescaled(long), dtype=torch.int64)
        within = full | (places.flatten()[:, None].to(top.device) <= last)
        ended = self.alpha[last, :, torch.arange(count, device=top.device)].sum(1).log()
        ended = torch.where(full, 0.0, ended)  # there it has been divided out
        before = torch.where(within, sums, 0.0).sum(0) + torch.where(steps <= last, top, 0.0).sum(0)
        return torch.where(self.lengths > 0, first.log() + before + ended, 0.0)

    @cached_property
    def _behind(self) -> tuple[Tensor, Tensor]:
        """γ of all steps, and c of all but the first; b is used up."""
        times, states, count = self.alpha.shape
        end = self.alpha.new_ones(states, self.own.shape[2]) if self.products is None else exits(self.products)
        gamma = torch.empty_like(self.alpha)
        made = gamma[1:] if self.segments == 1 else torch.empty_like(self.own)
        beta = backward(self.chain.transitions, end, self.parted, self.own, self.sums, made)
        if self.segments > 1:
            gamma[1:] = join(made, times - 1, self.segments)
        torch.mul(self.alpha[0], beta[:, :count], out=gamma[0])
        return gamma, join(self.parted, times - 1, self.segments)

    def posterior(self) -> Tensor:
        """γ."""
        return self._behind[0]

    def transitions(self, weight: Tensor) -> Tensor:
        """A_ij Σ_t α_t(i) c_{t+1}(j)."""
        (times, states, _), a = self.alpha.shape, self.chain.transitions
        if times == 1:
            return a.new_zeros(states, states)
        left = self.alpha[:-1]
        if not self.whole or not bool((weight == 1).all()):
            left = left * (weight * self.inside(times))[:, None]
        return a * outer(left, self._behind[1])

    def ahead(self) -> Tensor:
        """log (A c_{t+1}), and 0 at the last step."""
        beta = self.chain.transitions @ self._behind[1]
        return torch.cat([beta.log(), beta.new_zeros(1, *self.alpha.shape[1:])])


def _relative(chain: Chain, log_b: Tensor) -> tuple[Tensor, Tensor]:
    """b over its largest, π b in the first step, `(T, K, B)`, and log of the largest, `(T, B)`."""
    top = log_b.amax(1)
    b = (log_b - top[:, None]).exp_()
    first = log_b[0] + chain.initial.log()[:, None]  # α_1 itself, so that π may hold zeros
    top[0] = first.amax(0)
    b[0] = (first - top[0]).exp()
    if not bool(top.isfinite().all()):
        b.nan_to_num_(nan=1.0)  # nothing explains the step, so log p(x) is -∞ whatever the states are
    return b, top
