"""A Markov chain of states, and what forward and backward recursions along it have to say (`recursion`)."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

LEAST = 1e-12


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
