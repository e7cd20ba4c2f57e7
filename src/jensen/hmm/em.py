"""Baum–Welch: EM for hidden Markov models, checked at every step.

With A(θ) = [Σ w_i log p(x_i | θ) + log prior(θ)] / steps, the penalised log-likelihood a step with an observed cell, an
iteration takes expectations by `recursion` and maximises:

    π_k ∝ E[z_1 = k] + a,   A_ij ∝ E[number of transitions i → j] + a,   emissions by their own M-step,

a the rows of a Dirichlet prior (Baum et al. 1970, "A maximization technique occurring in the statistical analysis of
probabilistic functions of Markov chains"). Only transitions inside the sequences count: a short sequence that is filled up
with NaN teaches what the short sequence does. A never falls beyond rounding, else the fit ends with an error; it has
converged when the gain still expected by Aitken's rule (`mixture.em.Gains`) is below the tolerance.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from jensen.errors import FitError
from jensen.hmm.emission import Emission, Expected, add
from jensen.hmm.recursion import Chain, passes
from jensen.hmm.sequences import Block, Sequences, over_blocks
from jensen.mixture.em import Gains, OnIteration, Settings, unwatched

ROUNDING = 2.0**-44


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


@dataclass(frozen=True)
class Ascent:
    """One run of EM.

    Attributes:
        parameters: where it ended.
        values: A after 0, 1, … iterations, nats a step.
        log_likelihood: Σ w log p(x) at the end, nats.
        remaining: the gain still expected, nats a step; infinite if it cannot be told.
        converged: whether that, and not the number of iterations, ended it.
        noise: the rounding of the last value, nats a step.
    """

    parameters: Parameters
    values: list[float]
    log_likelihood: float
    remaining: float
    converged: bool
    noise: float

    @property
    def value(self) -> float:
        """The last A."""
        return self.values[-1]

    @property
    def iterations(self) -> int:
        """How many there were."""
        return len(self.values) - 1


@dataclass
class Problem:
    """What is to be maximised, and how.

    Args:
        sequences: the rows.
        counts: a, what the prior adds to every count of a first state and of a transition.
        settings: when to stop; the tolerance is in nats a step.
        on_iteration: told iteration, A and remaining gain.
    """

    sequences: Sequences
    counts: float
    settings: Settings = field(default_factory=Settings)
    on_iteration: OnIteration = unwatched

    def expect(self, now: Parameters) -> Found:
        """The E-step over all sequences."""
        parts = over_blocks(lambda block: expectations(now, block), self.sequences.blocks())
        found = next(parts)
        for part in parts:
            found = found + part
        return found

    def maximise(self, found: Found, before: Parameters) -> Parameters:
        """The M-step."""
        initial, transitions = found.initial + self.counts, found.transitions + self.counts
        chain = Chain(_shares(initial, before.chain.initial), _shares(transitions, before.chain.transitions))
        return Parameters(chain, before.emission.maximise(found.emission))

    def value(self, found: Found, now: Parameters) -> float:
        """A."""
        return (found.log_likelihood + self.log_prior(now)) / self.sequences.steps

    def log_prior(self, now: Parameters) -> float:
        """a (Σ log π + Σ log A) and that of the emissions."""
        chain = float(now.chain.initial.log().sum() + now.chain.transitions.log().sum()) if self.counts else 0.0
        return self.counts * chain + now.emission.log_prior()

    def noise(self, value: float, now: Parameters) -> float:
        """The rounding of A: 2⁻⁴⁴, 256 units in the last place, of the terms it is the sum of."""
        return ROUNDING * (abs(value) + now.emission.size() + 1.0)

    def ascend(self, start: Parameters) -> Ascent:
        """EM from `start` until it has converged or iterations run out.

        Raises:
            FitError: A fell beyond rounding, or is not finite, or a covariance degenerated.
        """
        now, gains = start, Gains()
        found = self.expect(now)
        values = [self.value(found, now)]
        while True:
            new = self.maximise(found, now)
            found = self.expect(new)
            value = self.value(found, new)
            if not math.isfinite(value):
                raise FitError(f"the log-likelihood became {value} in iteration {len(values)}; rescale the data")
            noise, gain = self.noise(value, now) + self.noise(value, new), value - values[-1]
            if gain < -noise:
                raise FitError(
                    f"the penalised log-likelihood fell by {-gain:.3g} nats a step in iteration {len(values)}, more than "
                    f"rounding explains ({noise:.3g}); this is a bug in jensen or in its environment: please report it"
                )
            now = new
            values.append(value)
            remaining, vanished = gains.saw(gain), abs(gain) <= noise
            converged = vanished or remaining <= self.settings.tolerance
            self.on_iteration(len(values) - 1, value, remaining)
            if converged or len(values) > self.settings.max_iterations:
                left = min(remaining, noise) if vanished else remaining
                return Ascent(now, values, found.log_likelihood, left, converged, noise)


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

    return sum(over_blocks(value, sequences.blocks())) / sequences.steps


def _shares(counts: Tensor, before: Tensor) -> Tensor:
    """Counts over their sums; as before where there are none."""
    sums = counts.sum(-1, keepdim=True)
    return torch.where(sums > 0, counts / sums.clamp(min=1e-300), before)
