"""Forward and backward: log p(x), the posterior of the states, and how often each transition is expected.

With π the first state's probabilities, A_ij = p(z_{t+1} = j | z_t = i) and b_t(k) = p(x_t | z_t = k),

    α_1 = π b_1,   α_{t+1} = b_{t+1} (Aᵀ α_t),   β_T = 1,   β_t = A (b_{t+1} β_{t+1}),

    p(x) = Σ_k α_T(k),   p(z_t = k | x) = α_t(k) β_t(k) / p(x),
    p(z_t = i, z_{t+1} = j | x) = α_t(i) A_ij b_{t+1}(j) β_{t+1}(j) / p(x)

(Rabiner 1989, "A tutorial on hidden Markov models", eq. 19, 24, 27, 37). Two ways to the same numbers:

**Scaled.** b_t is divided by its largest value, and α and β by their sums every `RESCALE` steps, so a step is one product
of matrices. Since Aᵀ α is at least min A · Σ α, the sums fall by at most that factor a step; what is 10^-108 of the
largest b_t may then be replaced by that, an error of relative size 10^-108 / min A². Nothing under- or overflows and
nothing is lost where min A ≥ `LEAST`, as it is with a prior that counts transitions; π may hold zeros, since α_1 is
made in logarithms.

**Logarithms.** log-sum-exp over i in every step, exact for any A, zeros included; K times the exponentials.

Sequences end where `lengths` says. States behind the end follow A and say nothing of x. Tensors are `(T, K, B)`, time
first and sequences last, so that every operation runs along sequences.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from jensen.hmm.scaled import FLOOR, Scaled, backward, forward
from jensen.hmm.scan import backward_scan, forward_scan, segments

LEAST = 1e-12
MANY = 32  # sequences for which a product a step is worth it


@dataclass(frozen=True)
class Chain:
    """A Markov chain of K states: `initial (K,)` and `transitions (K, K)`, rows sum to 1, float64."""

    initial: Tensor
    transitions: Tensor

    @property
    def states(self) -> int:
        """K."""
        return len(self.initial)

    @property
    def positive(self) -> bool:
        """Whether every transition is likely enough for scaled arithmetic."""
        return bool((self.transitions >= LEAST).all())


class Passes(ABC):
    """Both recursions over sequences.

    Args:
        chain: the states.
        log_b: log p(x_t | z_t = k), `(T, K, B)`; 0 for an empty step.
        lengths: `(B,)`, how many steps each sequence has, from 0.

    Attributes:
        log_evidence: log p(x), `(B,)`; 0 where the length is 0.
    """

    log_evidence: Tensor

    def __init__(self, chain: Chain, log_b: Tensor, lengths: Tensor) -> None:
        self.chain, self.lengths = chain, lengths

    @abstractmethod
    def posterior(self) -> Tensor:
        """p(z_t = k | x), `(T, K, B)`."""

    @abstractmethod
    def transitions(self, weight: Tensor) -> Tensor:
        """Σ_b w_b Σ_t p(z_t = i, z_{t+1} = j | x_b) over transitions inside the sequences, `(K, K)`, for `weight (B,)`."""

    @abstractmethod
    def ahead(self) -> Tensor:
        """log p(x_{t+1 …} | z_t = k) less a number of its own for every t and sequence, `(T, K, B)`."""

    def inside(self, times: int) -> Tensor:
        """Whether the transition from t to t + 1 is inside a sequence, `(T - 1, B)`."""
        return torch.arange(1, times, device=self.lengths.device)[:, None] < self.lengths


def passes(chain: Chain, log_b: Tensor, lengths: Tensor) -> Passes:
    """Both recursions, by the arithmetic that suits the chain."""
    return (ScaledPasses if chain.positive else LogPasses)(chain, log_b, lengths)


class ScaledPasses(Passes):
    """By products of matrices; in segments side by side where sequences are few and long (`scan`)."""

    def __init__(self, chain: Chain, log_b: Tensor, lengths: Tensor) -> None:
        super().__init__(chain, log_b, lengths)
        top = log_b.amax(1)
        first = log_b[0] + chain.initial.log()[:, None]
        top[0] = first.amax(0)
        shift = torch.where(top.isfinite(), top, 0.0)
        self.b = log_b - shift[:, None]
        self.b[0] = first - shift[0]  # α_1 itself, so that π may hold zeros
        self.b.clamp_(min=FLOOR).exp_()
        self.segments = segments(*log_b.shape)
        found = (
            forward(chain.transitions, self.b)
            if self.segments == 1
            else forward_scan(chain.transitions, self.b, self.segments)
        )
        self.found: Scaled = found
        self.log_evidence = self._evidence(top)

    def _evidence(self, top: Tensor) -> Tensor:
        """log Σ α at the last step, less the logarithms of the factors before it, plus what b was divided by."""
        times, _, count = self.b.shape
        last = (self.lengths - 1).clamp(min=0)
        sums = self.found.alpha[last, :, torch.arange(count, device=last.device)].sum(1)
        inside = torch.arange(times, device=last.device)[:, None] <= last
        before = self.found.log_factors(times) * (torch.arange(times, device=last.device)[:, None] < last)
        value = sums.log() - before.sum(0) + torch.where(inside, top, 0.0).sum(0)
        return torch.where(self.lengths > 0, value, 0.0)

    @cached_property
    def _behind(self) -> tuple[Tensor, Tensor]:
        """β_t and b_t β_t, times a number of their own for every t and sequence."""
        a = self.chain.transitions
        return backward(a, self.b) if self.segments == 1 else backward_scan(a, self.b, self.found)

    @cached_property
    def _both(self) -> tuple[Tensor, Tensor]:
        """α β over its sum, and the sum."""
        both = self.found.alpha * self._behind[0]
        sums = both.sum(1)
        return both.div_(sums[:, None]), sums

    def posterior(self) -> Tensor:
        """α β over its sum."""
        return self._both[0]

    def transitions(self, weight: Tensor) -> Tensor:
        """α_{t+1} was made from α_t times its factor f_t, so α_t(i) f_t A_ij b_{t+1}(j) β_{t+1}(j) sums to Σ α_{t+1} β_{t+1}."""
        times, states, _ = self.b.shape
        if times == 1:
            return self.chain.transitions.new_zeros(states, states)
        share = weight * self.inside(times) * self.found.log_factors(times)[:-1].exp() / self._both[1][1:]
        return self.chain.transitions * outer(self.found.alpha[:-1] * share[:, None], self._behind[1][1:])

    def ahead(self) -> Tensor:
        """log β."""
        return self._behind[0].log()


class LogPasses(Passes):
    """By log-sum-exp."""

    def __init__(self, chain: Chain, log_b: Tensor, lengths: Tensor) -> None:
        super().__init__(chain, log_b, lengths)
        self.log_b, self.log_a = log_b, chain.transitions.log()
        alpha = torch.empty_like(log_b)
        alpha[0] = chain.initial.log()[:, None] + log_b[0]
        for t in range(1, len(log_b)):
            alpha[t] = log_b[t] + (alpha[t - 1][:, None] + self.log_a[:, :, None]).logsumexp(0)
        self.alpha = alpha
        at = alpha[(lengths - 1).clamp(min=0), :, torch.arange(len(lengths), device=lengths.device)]
        self.log_evidence = torch.where(lengths > 0, at.logsumexp(1), 0.0)
        self._beta: Tensor | None = None

    @property
    def beta(self) -> Tensor:
        """log β_t; 0 from the last step on."""
        if self._beta is None:
            beta = torch.zeros_like(self.log_b)
            for t in range(len(beta) - 2, -1, -1):
                step = self.log_a[:, :, None] + (self.log_b[t + 1] + beta[t + 1])[None]
                beta[t] = torch.where(self.lengths > t + 1, step.logsumexp(1), 0.0)
            self._beta = beta
        return self._beta

    def posterior(self) -> Tensor:
        """The softmax of log α + log β."""
        return (self.alpha + self.beta).softmax(1)

    def transitions(self, weight: Tensor) -> Tensor:
        """One step after the other."""
        total = self.log_a.new_zeros(self.log_a.shape)
        shares = weight * self.inside(len(self.log_b))
        for t, share in enumerate(shares):
            ahead = self.log_b[t + 1] + self.beta[t + 1]
            joint = self.alpha[t][:, None] + self.log_a[:, :, None] + ahead[None] - self.log_evidence
            total += (joint.nan_to_num(nan=-math.inf).exp() * share).sum(2)
        return total

    def ahead(self) -> Tensor:
        """log β."""
        return self.beta


def outer(left: Tensor, right: Tensor) -> Tensor:
    """Σ_t left_t right_tᵀ of `(T, K, B)` and `(T, F, B)`, `(K, F)`."""
    if left.shape[2] >= MANY:
        return torch.bmm(left, right.mT).sum(0)
    first, second = (side.transpose(1, 2).flatten(0, 1) for side in (left, right))
    return first.T @ second
