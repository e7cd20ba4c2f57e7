"""The variational bound of a DDPM, estimated with error bars.

The bound -log p(x_0) ≤ L_T + Σ_{i=1}^T L_{i-1} has T terms that each cost a network call. One repetition estimates the
sum without bias, either from every term (`calls = None`: one x_i for each i) or from L_0 and `calls - 1` of the other
terms, drawn by stratified importance sampling,

    Σ_{i≥2} L_{i-1} ≈ (1/m) Σ_j L_{i_j - 1} / q(i_j),   i_j = F⁻¹((j + u_j)/m),   u_j uniform,

where q over i = 2 … T is ∝ the root mean square of the terms on validation rows, F its distribution function (Nichol and
Dhariwal 2021, section 3.3, use the same q for training). In continuous time the sum is an integral and q a density;
nothing else changes, so what is estimated is anything with `Terms`. L_0 is of another kind and often of another sign than
the rest, so that whether it was drawn would be most of the error: it is always there. Draws are independent between examples; a
value is the mean of K ≥ 2 repetitions and its standard error their sd / sqrt(K). A wanted Monte-Carlo error is met in
two stages: a pilot, whose draws are dropped, fixes K.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from jensen.diffusion.variance import interpolate
from jensen.errors import FitError
from jensen.noise import Noise

PILOT_REPETITIONS = 6
MOST_CALLS = 4000  # network calls an example; where they do not reach the tolerance, the error bar says so


@runtime_checkable
class Terms(Protocol):
    """A negative bound: L_T, L_0, and a sum or an integral of terms between them."""

    def prior_term(self, x_0: Float[Tensor, "B *event"]) -> Float64[Tensor, " B"]:
        """L_T."""

    def reconstruction_term(
        self, x_0: Float[Tensor, "B *event"], eps: Float[Tensor, "B *event"], context: Tensor | None = None
    ) -> Float64[Tensor, " B"]:
        """The integrand of L_0 at x_1 = α_1 x_0 + σ_1 ε."""

    def term(
        self,
        x_0: Float[Tensor, "B *event"],
        where: Tensor,
        eps: Float[Tensor, "B *event"],
        context: Tensor | None = None,
    ) -> Float64[Tensor, " B"]:
        """The integrand of each row's own term, at its `where (B,)`."""

    def places(
        self, proposal: Float64[Tensor, " terms"], u: Float64[Tensor, "B m"]
    ) -> tuple[Tensor, Float64[Tensor, "B m"]]:
        """Where the proposal's distribution function is u, and the proposal there."""

    def control(self, where: Tensor | None) -> Float64[Tensor, " B"]:
        """How often ‖ε‖² - d is in each row's term at its `where (B,)`, or in L_0 `(1,)` if None; any number leaves the mean alone."""


@dataclass(frozen=True)
class Plan:
    """How the bound is estimated.

    Args:
        repetitions: K.
        calls: network calls of one repetition, one of them for L_0; at least 2 where T > 1. None looks at every term.
        proposal: `(T - 1,)` q(i) for i = 2 … T.
    """

    repetitions: int
    calls: int | None
    proposal: Float[Tensor, " terms"]

    @property
    def calls_per_repetition(self) -> int:
        """Network calls of one repetition."""
        every = len(self.proposal) + 1
        return every if self.calls is None or every == 1 else self.calls

    def calls_per_example(self) -> int:
        """Network calls an example costs, the pilot's not counted."""
        return self.repetitions * self.calls_per_repetition


@dataclass(frozen=True)
class BoundEstimate:
    """K repetitions of the two random parts of the bound, `(K, B)` nats (costs: positive is worse), and L_T `(B,)`."""

    prior: Float[Tensor, " B"]
    diffusion: Float[Tensor, "K B"]
    reconstruction: Float[Tensor, "K B"]

    @property
    def total(self) -> Float[Tensor, "K B"]:
        """The negative bound of each repetition."""
        return self.prior + self.diffusion + self.reconstruction


def uniform_proposal(steps: int) -> Float[Tensor, " terms"]:
    """Each of the terms i = 2 … T as likely as any other."""
    return torch.full((steps - 1,), 1 / max(steps - 1, 1), dtype=torch.float64)


def proposal_from(root_mean_square: Float[Tensor, " terms"], floor: float = 0.1) -> Float[Tensor, " terms"]:
    """q ∝ the root mean square of each term, mixed with a uniform share so that no term is ever missed."""
    shaped = root_mean_square.to(torch.float64).clamp(min=0)
    total = float(shaped.sum())
    if total <= 0:
        return uniform_proposal(len(shaped) + 1)
    return (1 - floor) * shaped / total + floor / len(shaped)


def resized_proposal(
    proposal: Float[Tensor, " old_terms"], log_snr: Float[Tensor, " S"], new_log_snr: Float[Tensor, " T"]
) -> Float[Tensor, " terms"]:
    """The proposal for other levels between the same ends: what was proposed between two levels still is, spread evenly in λ."""
    if len(new_log_snr) == 1 or len(log_snr) == 1:
        return uniform_proposal(len(new_log_snr))
    below = torch.cat([proposal.new_zeros(1), proposal.cumsum(0)])
    at = interpolate(new_log_snr, log_snr.flip(0), below.flip(0))
    return at.diff() / at[-1]


def controlled(
    bound: Terms,
    x_0: Float[Tensor, "B *event"],
    where: Tensor | None,
    eps: Float[Tensor, "B *event"],
    context: Tensor | None = None,
) -> Float64[Tensor, " B"]:
    """The integrand of each row's term at its `where`, or of L_0 if None, less what is in it of ‖ε‖² - d, whose mean is 0.

    Where little noise is left on real values, what the denoiser misses is the noise itself, and its square is most of the chance in a term.
    """
    cost = bound.reconstruction_term(x_0, eps, context) if where is None else bound.term(x_0, where, eps, context)
    chance = eps.double().flatten(1).square().sum(1).cpu() - eps[0].numel()
    return cost - bound.control(where) * chance


def estimate(
    bound: Terms,
    x_0: Float[Tensor, "B *event"],
    ids: Int[Tensor, " B"],
    plan: Plan,
    noise: Noise,
    *,
    context: Tensor | None = None,
    batch_size: int = 512,
    on_calls: Callable[[int], None] = lambda calls: None,
) -> BoundEstimate:
    """Estimate the bound of each row.

    Args:
        bound: what is to be estimated: a `ReverseProcess`, or its limit in `ContinuousTime`.
        x_0: rows in the model's units.
        ids: `(B,)` their ids, which key the noise.
        plan: repetitions and calls.
        noise: the stream to draw from.
        context: `(B, …)` what the rows are conditioned on.
        batch_size: rows in one network call; it never changes the value.
        on_calls: told how many rows each network call held.
    """
    diffusion = torch.zeros(plan.repetitions, len(x_0), dtype=torch.float64)
    reconstruction = torch.zeros_like(diffusion)
    for k in range(plan.repetitions):
        stream = noise.at("repetition", k)
        where, weights = _places(bound, plan, ids, stream)
        for j in range(plan.calls_per_repetition):
            for rows in _slices(len(x_0), batch_size):
                eps = stream.at("eps", j).normal(ids[rows], tuple(x_0.shape[1:])).to(x_0)
                given = None if context is None else context[rows]
                if j == 0:
                    reconstruction[k, rows] = controlled(bound, x_0[rows], None, eps, given)
                else:
                    cost = controlled(bound, x_0[rows], where[rows, j - 1], eps, given)
                    diffusion[k, rows] += cost * weights[rows, j - 1]
                on_calls(len(eps))
    return BoundEstimate(bound.prior_term(x_0), diffusion, reconstruction)


def repetitions_for(
    bound: Terms,
    x_0: Float[Tensor, "B *event"],
    ids: Int[Tensor, " B"],
    plan: Plan,
    noise: Noise,
    *,
    rows: int,
    tolerance: float,
    context: Tensor | None = None,
) -> int:
    """How many repetitions bring the Monte-Carlo error of the mean over `rows` examples to `tolerance` nats.

    A pilot on the rows given, a few of them, measures the variance of one repetition; its draws are used for nothing else.
    """
    trial = Plan(PILOT_REPETITIONS, plan.calls, plan.proposal)
    pilot = estimate(bound, x_0, ids, trial, noise.at("pilot"), context=context)
    variance = float(pilot.total.var(0).mean())
    if not math.isfinite(variance):
        raise FitError("the bound is not finite on the pilot's rows: the network diverged; fit again with a lower lr")
    return max(2, math.ceil(variance / (rows * tolerance**2)))


def cheapest_plan(
    bound: Terms,
    x_0: Float[Tensor, "B *event"],
    ids: Int[Tensor, " B"],
    proposal: Float[Tensor, " T"],
    noise: Noise,
    *,
    choices: Sequence[int | None],
    rows: int,
    tolerance: float,
    context: Tensor | None = None,
) -> Plan:
    """The plan with the fewest network calls among `choices` of calls a repetition, tried in order.

    More calls a repetition are more strata, which pays where many calls are needed. A choice is only tried where its pilot and the fewest
    repetitions there can be, 2, cost less than the best so far.
    """
    best: Plan | None = None
    for calls in choices:
        trial = Plan(2, calls, proposal)
        least = rows * trial.calls_per_example() + PILOT_REPETITIONS * len(x_0) * trial.calls_per_repetition
        if best is not None and least >= rows * best.calls_per_example():
            break
        stream = noise.at("calls", calls or 0)
        count = repetitions_for(bound, x_0, ids, trial, stream, rows=rows, tolerance=tolerance, context=context)
        plan = Plan(count, calls, proposal)
        if best is None or plan.calls_per_example() < best.calls_per_example():
            best = plan
    assert best is not None
    return replace(best, repetitions=min(best.repetitions, max(2, MOST_CALLS // best.calls_per_repetition)))


def _places(bound: Terms, plan: Plan, ids: Tensor, noise: Noise) -> tuple[Tensor, Tensor]:
    """Where one repetition looks beside L_0, and the weights, both `(B, calls - 1)`."""
    others = len(plan.proposal)
    if plan.calls is None or others == 0:
        every = torch.arange(2, others + 2).expand(len(ids), others)
        return every, torch.ones(every.shape, dtype=torch.float64)
    strata = plan.calls - 1
    u = noise.at("steps").uniform(ids, (strata,))
    where, density = bound.places(plan.proposal, (torch.arange(strata) + u) / strata)
    return where, 1 / (strata * density)


def _slices(rows: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]
