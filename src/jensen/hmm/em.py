"""Baum–Welch: EM for hidden Markov models, checked at every step.

With A(θ) = [Σ w_i log p(x_i | θ) + log prior(θ)] / steps, the penalised log-likelihood a step with an observed cell, an
iteration takes expectations by `recursion` and maximises:

    π_k ∝ E[z_1 = k] + a,   A_ij ∝ E[number of transitions i → j] + a,   emissions by their own M-step,

a the rows of a Dirichlet prior (Baum et al. 1970, "A maximization technique occurring in the statistical analysis of
probabilistic functions of Markov chains"). Only transitions inside the sequences count: a short sequence that is filled up
with NaN teaches what the short sequence does. `mixture.ascent` drives it and checks that A never falls.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from jensen.hmm.chain import Chain
from jensen.hmm.emission import Emission, Expected, add
from jensen.hmm.recursion import passes
from jensen.hmm.sequences import Block, Sequences, over_blocks
from jensen.mixture.ascent import ROUNDING, Ascent, Climb, OnIteration, Place, Settings, unwatched


@dataclass(frozen=True)
class Parameters:
    """A hidden Markov model."""

    chain: Chain
    emission: Emission


@dataclass(frozen=True)
class Found:
    """Sufficient statistics of an E-step; they add.

    Attributes:
        initial: `(K,)` expected first states.
        transitions: `(K, K)` expected transitions.
        emission: of the emissions.
        log_likelihood: Σ w log p(x), nats.
    """

    initial: Tensor
    transitions: Tensor
    emission: Expected
    log_likelihood: float

    def __add__(self, other: "Found") -> "Found":
        return Found(
            self.initial + other.initial,
            self.transitions + other.transitions,
            add(self.emission, other.emission),
            self.log_likelihood + other.log_likelihood,
        )


Run = Ascent[Parameters, Found]


@dataclass
class Problem(Climb[Parameters, Found]):
    """What is to be maximised, and how.

    Args:
        sequences: the rows.
        counts: a, what the prior adds to every count of a first state and of a transition.
        settings: when to stop; the tolerance is in nats a step.
        on_iteration: told iteration, A and remaining gain.
    """

    unit = "step"
    sequences: Sequences
    counts: float
    settings: Settings = field(default_factory=Settings)
    on_iteration: OnIteration = unwatched

    def expect(self, now: Parameters) -> Found:
        """The E-step over all sequences."""
        parts = over_blocks(lambda block: expectations(now, block), self.sequences.blocks(), now.chain.states)
        found = next(parts)
        for part in parts:
            found = found + part
        return found

    def maximise(self, statistics: Found, before: Parameters) -> Parameters:
        """The M-step."""
        initial, transitions = statistics.initial + self.counts, statistics.transitions + self.counts
        chain = Chain(_shares(initial, before.chain.initial), _shares(transitions, before.chain.transitions))
        return Parameters(chain, before.emission.maximise(statistics.emission))

    def value(self, found: Found, now: Parameters) -> float:
        """A."""
        return (found.log_likelihood + self.log_prior(now)) / self.sequences.steps

    def log_prior(self, now: Parameters) -> float:
        """a (Σ log π + Σ log A) and that of the emissions."""
        chain = float(now.chain.initial.log().sum() + now.chain.transitions.log().sum()) if self.counts else 0.0
        return self.counts * chain + now.emission.log_prior()

    def place(self, parameters: Parameters, rung: int) -> Place[Parameters, Found]:
        """The E-step; what it rounds are the terms that A is the sum of."""
        found = self.expect(parameters)
        return Place(parameters, found, self.value(found, parameters), ROUNDING * (parameters.emission.size() + 1.0))


def expectations(now: Parameters, block: Block) -> Found:
    """The statistics of a block of sequences."""
    log_b = now.emission.log_prob(block.steps)
    both = passes(now.chain, log_b, block.lengths)
    share = both.posterior()
    if not bool((block.weight == 1).all()):
        share = share * block.weight
    initial = (share[0] * (block.lengths > 0)).sum(1)
    value = float((both.log_evidence * block.weight).sum())
    return Found(initial, both.transitions(block.weight), now.emission.expect(block.steps, share), value)


def log_likelihood(now: Parameters, block: Block) -> Tensor:
    """log p(x) of each sequence of a block, `(B,)`."""
    return passes(now.chain, now.emission.log_prob(block.steps), block.lengths).log_evidence


def mean_log_likelihood(now: Parameters, sequences: Sequences) -> float:
    """Nats a step."""

    def value(block: Block) -> float:
        return float((log_likelihood(now, block) * block.weight).sum())

    return sum(over_blocks(value, sequences.blocks(), now.chain.states)) / sequences.steps


def _shares(counts: Tensor, before: Tensor) -> Tensor:
    """Counts over their sums; as before where there are none."""
    sums = counts.sum(-1, keepdim=True)
    return torch.where(sums > 0, counts / sums.clamp(min=1e-300), before)
