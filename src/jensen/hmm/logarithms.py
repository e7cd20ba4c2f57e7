"""Both recursions by log-sum-exp, for chains with zeros: exact for any A.

A step takes K² exponentials for each sequence instead of K, and a product of matrices becomes a sum of K² terms, of which
`products.CELLS` are held at a time. So memory is that of `(T, K, B)`, and time that of `recursion.ScaledPasses` times about
7 for 8 states, 10 for 32 and 90 for 128.
"""

import math

import torch
from torch import Tensor

from jensen.hmm.chain import Chain, Passes
from jensen.hmm.products import log_product, sums


class LogPasses(Passes):
    """By log-sum-exp."""

    def __init__(self, chain: Chain, log_b: Tensor, lengths: Tensor) -> None:
        super().__init__(chain, log_b, lengths)
        self.log_b, self.log_a = log_b, chain.transitions.log()
        turned, alpha = self.log_a.T.contiguous(), torch.empty_like(log_b)
        alpha[0] = chain.initial.log()[:, None] + log_b[0]
        for t in range(1, len(log_b)):
            alpha[t] = log_b[t] + log_product(turned, alpha[t - 1])
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
                step = log_product(self.log_a, self.log_b[t + 1] + beta[t + 1])
                beta[t] = torch.where(self.lengths > t + 1, step, 0.0)
            self._beta = beta
        return self._beta

    def posterior(self) -> Tensor:
        """The softmax of log α + log β."""
        return (self.alpha + self.beta).softmax(1)

    def transitions(self, weight: Tensor) -> Tensor:
        """One step after the other."""
        total = self.log_a.new_zeros(self.log_a.shape)
        for t, share in enumerate(weight * self.inside(len(self.log_b))):
            ahead = self.log_b[t + 1] + self.beta[t + 1] - self.log_evidence
            for rows, joint in sums(self.log_a, ahead):
                joint += self.alpha[t][rows, None]
                total[rows] += (joint.nan_to_num_(nan=-math.inf, posinf=math.inf, neginf=-math.inf).exp_() * share).sum(
                    2
                )
        return total

    def ahead(self) -> Tensor:
        """log β."""
        return self.beta
