"""log p of the probability flow, from the equation solved towards the noise, with what its numbers rest on.

The flow starts in N(0, I) at the last level and is followed to the first, λ_1. What it then gives is data by a rule:

    real values   x = x_{λ_1}/α_1                     log p(x) = log p_{λ_1}(α_1 x) + d log α_1
    levels        the one nearest to x_{λ_1}/α_1      log P(x) ≥ E_q[log p_{λ_1}(α_1 (x + u)) + d log α_1 - log q(u | x)]

So the number belongs to a sampler that could be run, the flow with that ending. It is not the density of the data at λ_1 taken for that of
the data, nor the bound of the chain. One repetition is one draw of u and one of the probes. With K draws of u a repetition

    log P(x) ≥ E log (1/K) Σ_k w_k,     w_k = p_{λ_1}(α_1 (x + u_k)) α_1^d / q(u_k | x)

(Hoogeboom et al. 2020, "Learning discrete distributions by dequantization"; Burda et al. 2016), which is no lower in mean, and nears log P where q
covers the bin. Its w_k must be exact: probes that are unbiased for log w_k are not for w_k, and their noise inside the logarithm can raise the number above
log P.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float64, Int
from torch import Tensor

from jensen.data.space import Levels, Space
from jensen.diffusion.dequantisation import Spread, spread_from
from jensen.diffusion.flow import Accuracy, ProbabilityFlow
from jensen.diffusion.reverse import ReverseProcess
from jensen.importance import log_mean_exp
from jensen.noise import Noise

TOGETHER = 64  # rows whose backward pass is held at a time
PILOT_ROWS, PILOT_REPETITIONS = 8, 4


@dataclass(frozen=True)
class Settings:
    """How log p of the flow is estimated.

    Attributes:
        repetitions: independent estimates a row, at least 2 where anything is drawn.
        probes: random vectors a repetition for the trace; None for the exact trace, by one backward pass a dimension.
        accuracy: of the solution.
        draws: places in the bin a repetition, for levels; more than 1 need the exact trace.
        dequantisation: a word of `jensen.diffusion.dequantisation`, for levels.
    """

    repetitions: int
    probes: int | None
    accuracy: Accuracy
    dequantisation: str
    draws: int = 1


@dataclass(frozen=True)
class FlowEstimate:
    """K repetitions `(K, B)` of log p, in nats, of its terms, and the network calls of each row `(B,)`."""

    terms: Mapping[str, Float64[Tensor, "K B"]]
    calls: Int[Tensor, " B"]

    @property
    def total(self) -> Float64[Tensor, "K B"]:
        """log p of each repetition."""
        return torch.stack(list(self.terms.values())).sum(0)


@dataclass(frozen=True)
class FlowLikelihood:
    """The flow of a process on rows of a space.

    Attributes:
        reverse: denoiser and ends.
        space: of the rows, in the model's units.
        learned: the learned dequantisation, if there is one.
    """

    reverse: ReverseProcess
    space: Space
    learned: Spread | None = None

    @property
    def ends(self) -> tuple[float, float]:
        """λ_1 and λ_T."""
        levels = self.reverse.chain.log_snr
        return float(levels[0]), float(levels[-1])

    def drawn(self, settings: Settings) -> bool:
        """Whether anything in an estimate is random."""
        return settings.probes is not None or isinstance(self.space, Levels)

    def estimate(
        self,
        x: Tensor,
        ids: Int[Tensor, " B"],
        settings: Settings,
        noise: Noise,
        *,
        context: Tensor | None = None,
        on_calls: Callable[[int], None] = lambda calls: None,
    ) -> FlowEstimate:
        """log p of rows `(B, *event)`."""
        parts = []
        for rows in torch.arange(len(x)).split(max(1, TOGETHER // (settings.probes or 1))):
            given = None if context is None else context[rows]
            found = [
                self._repetition(x[rows], ids[rows], settings, noise.at("repetition", k), given)
                for k in range(settings.repetitions)
            ]
            parts.append(FlowEstimate(
                {name: torch.stack([one.terms[name][0] for one in found]) for name in found[0].terms},
                torch.stack([one.calls for one in found]).sum(0),
            ))  # fmt: skip
            on_calls(len(rows))
        return FlowEstimate(
            {name: torch.cat([part.terms[name] for part in parts], 1) for name in parts[0].terms},
            torch.cat([part.calls for part in parts]),
        )

    def other_probes(
        self, x: Tensor, ids: Int[Tensor, " B"], settings: Settings, noise: Noise, context: Tensor | None = None
    ) -> Float64[Tensor, " B"]:
        """log p as in the first repetition, with probes of its own."""
        stream = noise.at("repetition", 0)
        return self._draw(x, ids, settings, stream, context, probes=stream.at("others")).total[0]

    def _repetition(
        self, x: Tensor, ids: Tensor, settings: Settings, noise: Noise, context: Tensor | None
    ) -> FlowEstimate:
        """One draw; or the mean of the weights of several, and how far its logarithm is above that of their logarithms."""
        first = self._draw(x, ids, settings, noise, context)
        if settings.draws == 1:
            return first
        others = [self._draw(x, ids, settings, noise.at("draw", k), context) for k in range(1, settings.draws)]
        log_w = torch.cat([one.total for one in (first, *others)])
        terms = {name: torch.cat([one.terms[name] for one in (first, *others)]).mean(0)[None] for name in first.terms}
        gained = log_mean_exp(log_w) - log_w.mean(0)
        return FlowEstimate({**terms, "importance": gained[None]}, sum((one.calls for one in others), first.calls))

    def _draw(
        self,
        x: Tensor,
        ids: Tensor,
        settings: Settings,
        noise: Noise,
        context: Tensor | None,
        probes: Noise | None = None,
    ) -> FlowEstimate:
        start, terms = self._start(x, ids, settings, noise)
        signs = None
        if settings.probes is not None:
            coarse = (probes or noise.at("signs")).coarse(ids, (settings.probes, start.shape[1]))
            signs = (coarse < 0.5).double() * 2 - 1
        carried = self.flow(x, context).log_density(start, settings.accuracy, signs)
        flow = {"flow": carried.log_density}
        return FlowEstimate({name: value.cpu()[None] for name, value in {**flow, **terms}.items()}, carried.slopes)

    def flow(self, x: Tensor, context: Tensor | None = None) -> ProbabilityFlow:
        """Of rows like these."""
        return ProbabilityFlow(self.reverse.denoiser, *self.ends, tuple(x.shape[1:]), x[:1].flatten(1), context)

    def _start(
        self, x: Tensor, ids: Tensor, settings: Settings, noise: Noise
    ) -> tuple[Float64[Tensor, "B d"], dict[str, Tensor]]:
        """x_{λ_1}, and what its density is to be multiplied with."""
        high, flat = torch.tensor(self.ends[0], dtype=torch.float64), x.double().flatten(1).cpu()
        log_alpha = -0.5 * torch.nn.functional.softplus(-high)
        scale = {"scale": (flat.shape[1] * log_alpha).expand(len(x))}
        if not isinstance(self.space, Levels):
            return log_alpha.exp() * flat, scale
        u = noise.at("place").uniform(ids, (flat.shape[1],)).to(flat)
        spread = spread_from(settings.dequantisation, self.learned)
        with torch.no_grad():
            placed, log_q = spread(flat, u, self.space, math.exp(-0.5 * self.ends[0]))
        return log_alpha.exp() * placed, {**scale, "dequantisation": -log_q}


@dataclass(frozen=True)
class Pilot:
    """What some rows tell of the settings.

    Attributes:
        calls: network calls a row and repetition, in the mean.
        variance: of one repetition, in the mean over rows.
        told: of the numbers' accuracy.
    """

    calls: float
    variance: float
    told: dict[str, Any] = field(default_factory=dict)


def pilot(
    likelihood: FlowLikelihood, x: Tensor, ids: Tensor, settings: Settings, noise: Noise, context: Tensor | None = None
) -> Pilot:
    """Of the first few rows: how much log p moves when the tolerance is halved (or the steps doubled) with the same draws, how much of a
    repetition's standard deviation is the probes', and how far from x the flow comes back, in units of the first level's noise σ_1/α_1.
    """
    x, ids = x[:PILOT_ROWS], ids[:PILOT_ROWS]
    context = None if context is None else context[:PILOT_ROWS]
    count = PILOT_REPETITIONS if likelihood.drawn(settings) else 1
    found = likelihood.estimate(x, ids, replace(settings, repetitions=count), noise, context=context)
    finer = replace(settings, repetitions=1, accuracy=halved(settings.accuracy))
    moved = likelihood.estimate(x, ids, finer, noise, context=context).total[0] - found.total[0]
    told: dict[str, Any] = {
        "halved_tolerance_change_nats": float(moved.abs().mean()),
        "halved_tolerance_change_most_nats": float(moved.abs().max()),
        "round_trip_sigmas": _round_trip(likelihood, x, ids, settings, noise, context),
        "pilot_rows": len(x),
    }
    if settings.probes is not None:
        apart = likelihood.other_probes(x, ids, settings, noise, context) - found.total[0]
        told["probes_sd_nats"] = float((apart.square().mean() / 2).sqrt())
    variance = float(found.total.var(0).mean()) if count > 1 else 0.0
    return Pilot(float(found.calls.double().mean()) / count, variance, told)


def halved(accuracy: Accuracy) -> Accuracy:
    """Half the tolerance, or twice the steps."""
    if accuracy.steps is not None:
        return replace(accuracy, steps=2 * accuracy.steps)
    return replace(accuracy, tolerance=accuracy.tolerance / 2)


def _round_trip(
    likelihood: FlowLikelihood, x: Tensor, ids: Tensor, settings: Settings, noise: Noise, context: Tensor | None
) -> float:
    """Root mean square over cells of x less what comes back from its noise, in units of σ_1/α_1."""
    start, _ = likelihood._start(x, ids, settings, noise.at("repetition", 0))
    flow = likelihood.flow(x, context)
    back = flow.backward(flow.forward(start, settings.accuracy).y, settings.accuracy).y
    return float((back - start).square().mean().sqrt()) * math.exp(0.5 * likelihood.ends[0])
