"""What variational inference found, and whether it is any good.

The ELBO alone does not say: it is log p(x) minus a divergence that is not known. Draws from q with weights p(x, z)/q(z) say more: their
mean estimates p(x), and how uneven they are says how far q is off. They say nothing of mass that no draw of q reaches, and an ELBO
gains little by reaching it: leaving out a share α of the posterior costs log 1/(1 - α) nats. So there are draws twice as wide as well,

    p(x) = E_r[p(x, z)/r(z)],   r = ½ q + ½ q_wide,

from both halves in equal numbers (Hesterberg 1995, "Weighted average importance sampling and defensive mixture distributions"). Where
they find more than q does, q misses something. A mode far away from all of them is seen by nobody.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from jensen.distributions.from_noise import FromNoise
from jensen.errors import InputError
from jensen.estimation.variational.ascent import Stage
from jensen.importance import Diagnostics, LogEvidence, log_evidence
from jensen.likelihood import plus_minus
from jensen.noise import Noise

CLOSE = 0.01  # nats of divergence that nobody would notice in a mean or an interval
EVEN = 0.99


@dataclass(frozen=True, eq=False)
class Variational:
    """q, the nearest member of a family to a posterior.

    Attributes:
        q: a distribution of batch_shape (1,) and event_shape (D,), in float64.
        family: the word of its family.
        log_weights: log p(x, z) - log q(z) at fresh draws of q, which the ascent has not seen, `(draws,)`.
        wide_log_weights: log p(x, z) - log r(z) at these and as many draws of the wider q, `(2 draws,)`.
        stages: the ELBO on the way up.
        converged: whether the ascent ended by itself.
    """

    q: FromNoise
    family: str
    log_weights: Tensor
    wide_log_weights: Tensor
    stages: list[Stage]
    converged: bool

    @property
    def draws(self) -> int:
        """How many fresh draws there are."""
        return len(self.log_weights)

    @property
    def elbo(self) -> float:
        """E_q[log p(x, z) - log q(z)], in nats: below log p(x) by the divergence."""
        return float(self.log_weights.mean())

    @property
    def elbo_stderr(self) -> float:
        """Its Monte-Carlo standard error."""
        return float(self.log_weights.std()) / self.draws**0.5

    @cached_property
    def evidence(self) -> LogEvidence:
        """log p(x) by importance sampling from q, with the diagnostics of its weights."""
        return log_evidence(self.log_weights[:, None])

    @cached_property
    def wide_evidence(self) -> LogEvidence:
        """log p(x) by importance sampling from q and the wider q together."""
        return log_evidence(self.wide_log_weights[:, None])

    @property
    def log_evidence(self) -> float:
        """log p(x), an estimate that is right where `reliable`."""
        return float(self.evidence.value)

    @property
    def log_evidence_stderr(self) -> float:
        """Its standard error by the delta method."""
        return float(self.evidence.stderr)

    @property
    def diagnostics(self) -> Diagnostics:
        """Of the weights."""
        return self.evidence.diagnostics

    @property
    def ess(self) -> float:
        """The effective sample size of the draws."""
        return float(self.diagnostics.ess)

    @property
    def pareto_k(self) -> float:
        """k̂ of the weights' tail."""
        return _shape(self.diagnostics)

    @property
    def reliable(self) -> bool:
        """Whether the estimate of log p(x) and its error can be believed: the weights' tail is light, or there is none to speak of (all
        weights are nearly equal, and wider draws find no more).
        """
        return bool(self.diagnostics.reliable) or (self.ess > EVEN * self.draws and not self.misses)

    @property
    def misses(self) -> bool:
        """Whether the wider draws find more of p(x, z) than q does: weights with a heavy tail, or a larger log p(x)."""
        wide = self.wide_evidence
        error = math.hypot(float(wide.stderr), self.log_evidence_stderr)
        return not bool(wide.diagnostics.reliable) or float(wide.value) - self.log_evidence > max(CLOSE, 3 * error)

    @property
    def divergence(self) -> float:
        """KL(q ‖ p(z | x)) = log p(x) - ELBO, estimated; too small where not `reliable`."""
        return max(0.0, self.log_evidence - self.elbo)

    @property
    def divergence_stderr(self) -> float:
        """Its standard error: both parts are of the same draws, w/mean w - log w is averaged."""
        relative = (self.log_weights - self.log_evidence).exp()
        return float((relative - self.log_weights).std()) / self.draws**0.5

    @property
    def verdict(self) -> str:
        """Whether q is any good, in a sentence."""
        if not self.converged:
            return "the ascent has not converged: give it more steps"
        if not self.reliable:
            return (
                f"q is too narrow or has the wrong shape (k̂ = {self.pareto_k:.2g}): the divergence is larger than it looks and log p(x) "
                f"not to be trusted; try {_richer(self.family)}"
            )
        if self.misses:
            return (
                f"q misses a part of the posterior (draws twice as wide find log p(x) ≈ {_nats(float(self.wide_evidence.value), float(self.wide_evidence.stderr))}, k̂ = "
                f"{_shape(self.wide_evidence.diagnostics):.2g}): the divergence is larger than it looks; "
                f"try {_richer(self.family)}"
            )
        if self.divergence < CLOSE + 2 * self.divergence_stderr:
            return f"q is the posterior to within {max(CLOSE, self.divergence):.2g} nats, as far as draws twice as wide can see"
        return (
            "q is not the posterior, but near enough to weight its draws: the estimate of log p(x) can be trusted, means and intervals "
            "under q cannot"
        )

    def sample(self, n: int, *, seed: int = 0, start: int = 0) -> Tensor:
        """Draws of q `(n, D)`: numbers start … start + n - 1 of the endless sequence that seed names."""
        if n < 1:
            raise InputError(f"the number of samples must be at least 1, got {n}")
        noise = Noise(seed, "variational", "sample").normal(range(start, start + n), (self.q.noise_dims,)).double()
        with torch.no_grad():
            return self.q.place(noise[:, None])[:, 0]

    def __str__(self) -> str:
        state = "converged" if self.converged else "stopped"
        return (
            f"{self.family}: log p(x) ≥ {_nats(self.elbo, self.elbo_stderr)} nats (ELBO), "
            f"≈ {_nats(self.log_evidence, self.log_evidence_stderr)} (importance sampling); "
            f"KL(q ‖ posterior) ≈ {_nats(self.divergence, self.divergence_stderr)}; ESS {self.ess / self.draws:.0%} of {self.draws:,} draws, "
            f"k̂ {self.pareto_k:.2g}; {state} after {self.stages[-1].step} steps\n{self.verdict}"
        )


def _nats(value: float, error: float) -> str:
    """To six digits behind the point, which is more than anybody wants."""
    return plus_minus(value, max(error, 1e-6))


def _shape(told: Diagnostics) -> float:
    """k̂, which at least 100 draws have."""
    assert told.pareto_k is not None
    return float(told.pareto_k)


def _richer(family: str) -> str:
    richer = {"mean-field": "low-rank, full-rank, mixture or flow", "low-rank": "full-rank, mixture or flow"}
    return richer.get(family, "more components or a flow" if family == "mixture" else "mixture or flow")
