"""The words by which a diffusion model is scored, each with options of its own: `vlb` for its chain, `ode` for its probability flow."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from jensen.data.examples import Batch
from jensen.data.space import Levels, Space
from jensen.diffusion.continuous import ContinuousTime
from jensen.diffusion.dequantisation import LEARNED, Spread, spread_from
from jensen.diffusion.flow import Accuracy
from jensen.diffusion.likelihood import Plan, cheapest_plan, estimate
from jensen.diffusion.ode import FlowLikelihood, Settings, pilot
from jensen.diffusion.reverse import ReverseProcess
from jensen.errors import FitError, InputError
from jensen.likelihood import LogLikelihood
from jensen.noise import Noise

FEW_STEPS = 64  # up to here looking at every term is among the plans; beyond, 64 well chosen ones tell as much a call
MOST_TERMS = 100_000  # in a repetition
FEW_LEVELS, FEW_REALS = 8, 32  # dimensions; up to here the trace is exact: of levels something is drawn all the same
TOLERANCE, FINE, FINEST = 1e-2, 1e-5, 1e-7  # of a step of the equation; where the trace is exact
SETTLED = 0.1  # of the Monte-Carlo error asked for: the most that a halved tolerance may move log p of a bound
MOST = {"probes": 1000, "ode_steps": 100_000, "draws": 100, "repetitions": 1_000_000}
MOST_CALLS = 20_000  # of the flow's network, a row, in more than two repetitions; where they do not reach the tolerance, the error bar says so


@dataclass(frozen=True)
class Asked:
    """Rows to be scored: `x (B, *event)` in the model's units and what goes with them, by which plan.

    Attributes:
        x: the rows.
        context: what they are conditioned on.
        ids: theirs, which key their noise.
        seed: of the noise.
        on_calls: told how many rows a call held, or how many are done.
        plan: the method's options.
    """

    x: Tensor
    context: Tensor | None
    ids: Tensor
    seed: int
    on_calls: Callable[[int], None]
    plan: Mapping[str, Any]


class Method(ABC):
    """A way to score rows.

    Class attributes:
        own: the names of its options.
    """

    own: ClassVar[tuple[str, ...]]

    @abstractmethod
    def plan(self, few: Batch, rows: int, tolerance: float, seed: int, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options that bring the Monte-Carlo error of the mean over `rows` rows to `tolerance` nats, from a few of them."""

    @abstractmethod
    def cost(self, plan: Mapping[str, Any]) -> int:
        """How many calls a row is told of."""

    @abstractmethod
    def score(self, asked: Asked) -> LogLikelihood:
        """log p of rows in the model's units."""


@dataclass(frozen=True)
class Vlb(Method):
    """The variational bound of the chain, or in continuous time.

    Attributes:
        bound: of the chain, or its limit.
        proposal: of its terms.
        steps: T, or ∞.
        space: of the rows.
        grid: the word of its levels.
    """

    own = ("repetitions", "calls", "timesteps", "grid")

    bound: ReverseProcess | ContinuousTime
    proposal: Tensor
    steps: int | float
    space: Space
    grid: str = "time"
    between: str = ""

    @torch.no_grad()
    def plan(self, few: Batch, rows: int, tolerance: float, seed: int, options: Mapping[str, Any]) -> dict[str, Any]:
        """Repetitions, and the calls in each where that is left open."""
        if options.get("repetitions") is not None:
            return {"calls": 4, **options}
        offered = [*(c for c in (4, 16, 64) if c < self.steps), *([None] if self.steps <= FEW_STEPS else [])]
        plan = cheapest_plan(
            self.bound,
            few.x,
            few.id,
            self.proposal,
            Noise(seed, "vlb"),
            choices=[self._calls(options["calls"])] if "calls" in options else offered,
            rows=rows,
            tolerance=tolerance,
            context=few.context,
        )
        return {**options, "repetitions": plan.repetitions, "calls": plan.calls}

    def cost(self, plan: Mapping[str, Any]) -> int:
        """Network calls."""
        return Plan(int(plan["repetitions"]), plan["calls"], self.proposal).calls_per_example()

    @torch.no_grad()
    def score(self, asked: Asked) -> LogLikelihood:
        """The mean of the repetitions."""
        plan, seed = asked.plan, asked.seed
        wanted = (
            2 if plan.get("repetitions") is None else _whole("repetitions", plan["repetitions"], MOST["repetitions"])
        )
        if wanted < 2:
            raise InputError(f"an error bar needs at least 2 repetitions, got {wanted}")
        chosen = Plan(wanted, self._calls(plan.get("calls", 4)), self.proposal)
        costs = estimate(
            self.bound,
            asked.x,
            asked.ids,
            chosen,
            Noise(seed, "vlb"),
            context=asked.context,
            on_calls=asked.on_calls,
        )
        return LogLikelihood(
            value=-costs.total.mean(0),
            kind="lower bound",
            measure=self.space.measure,
            of=self._of,
            method="vlb",
            event_shape=tuple(asked.x.shape[1:]),
            stderr=costs.total.std(0) / math.sqrt(wanted),
            terms={
                "prior": -costs.prior,
                "diffusion": -costs.diffusion.mean(0),
                "reconstruction": -costs.reconstruction.mean(0),
            },
            diagnostics={"repetitions": wanted, "network_calls_per_example": chosen.calls_per_example(), "seed": seed},
            precision="float32",
        )

    @property
    def _of(self) -> str:
        """T; and the variance and the grid, where they are not the plain ones."""
        if isinstance(self.bound, ContinuousTime):
            return f"ancestral, T = ∞{self.between}"
        word = self.bound.variance.word
        variance = "" if word == "calibrated" else f", variance {word}"
        grid = f", {self.grid} grid" if self.grid != "time" else ""
        return f"ancestral, T = {int(self.steps)}{self.between}{variance}{grid}"

    def _calls(self, calls: int | None) -> int | None:
        if calls is None and math.isinf(self.steps):
            raise InputError("in continuous time there is no end of terms to look at every one; give calls, such as 16")
        if calls is not None and not 2 <= calls <= MOST_TERMS:
            raise InputError(
                f"calls must be at least 2 (one for L_0, one for the other terms) and at most {MOST_TERMS:,}, got {calls}"
            )
        return calls


@dataclass(frozen=True)
class Ode(Method):
    """The density of the probability flow, up to the solver's error: on real values an estimate, however exact the trace; on levels a lower
    bound where a pilot finds that error small beside the Monte-Carlo error that was asked for.
    """

    own = ("repetitions", "draws", "probes", "ode_tolerance", "ode_steps", "divergence", "dequantisation")

    reverse: ReverseProcess
    space: Space
    learned: Spread | None = None

    @property
    def likelihood(self) -> FlowLikelihood:
        """Of the flow."""
        return FlowLikelihood(self.reverse, self.space, self.learned)

    def plan(self, few: Batch, rows: int, tolerance: float, seed: int, options: Mapping[str, Any]) -> dict[str, Any]:
        """Repetitions where they are left open, what they cost, and how accurate the solution is."""
        settings = self._settings(few.x, options)
        if options.get("repetitions") is not None:
            self._refuse_one(settings)
        tried = pilot(self.likelihood, few.x, few.id, settings, Noise(seed, "ode", "pilot"), few.context)
        if not math.isfinite(tried.variance):
            raise FitError(
                "the flow is not finite on the pilot's rows: the network diverged; fit again with a lower lr"
            )
        wanted = options.get("repetitions")
        if wanted is None and self.likelihood.drawn(settings):
            enough = math.ceil(tried.variance / (rows * tolerance**2))
            wanted = max(2, min(enough, int(MOST_CALLS / tried.calls)))
        settled = tried.told["halved_tolerance_change_nats"] <= SETTLED * tolerance
        told = {**tried.told, "settled": settled, "settled_below_nats": SETTLED * tolerance}
        return {**options, "repetitions": 1 if wanted is None else wanted, "accuracy": told}

    def cost(self, plan: Mapping[str, Any]) -> int:
        """A row at a time."""
        return 1

    def score(self, asked: Asked) -> LogLikelihood:
        """The mean of the repetitions."""
        x, plan, seed = asked.x, asked.plan, asked.seed
        settings, flow = self._settings(x, plan), self.likelihood
        drawn = flow.drawn(settings)
        self._refuse_one(settings)
        found = flow.estimate(
            x, asked.ids, settings, Noise(seed, "ode"), context=asked.context, on_calls=asked.on_calls
        )
        high, low = flow.ends
        ending = "the nearest level" if isinstance(self.space, Levels) else "x/α"
        told = plan.get("accuracy", {})
        bound = isinstance(self.space, Levels) and told.get("settled", False)
        return LogLikelihood(
            value=found.total.mean(0),
            kind="lower bound" if bound else "estimate",  # the solver's error has no sign
            measure=self.space.measure,
            of=f"probability flow from N(0, I) at log-SNR {low:g} to {high:.3g}, ending in {ending}",
            method="ode",
            event_shape=tuple(x.shape[1:]),
            stderr=found.total.std(0) / math.sqrt(settings.repetitions) if drawn else None,
            terms={name: values.mean(0) for name, values in found.terms.items()},
            diagnostics={
                "repetitions": settings.repetitions,
                "probes": settings.probes or "every dimension",
                "network_calls": found.calls,
                "tolerance": settings.accuracy.tolerance if settings.accuracy.steps is None else None,
                "steps": settings.accuracy.steps,
                "end_prior_nats": self.reverse.prior_term(x),
                "seed": seed,
                **({"dequantisation": settings.dequantisation} if isinstance(self.space, Levels) else {}),
                **({"draws": settings.draws} if settings.draws > 1 else {}),
                **told,
            },
            precision="float32 network, float64 solver",
        )

    def _refuse_one(self, settings: Settings) -> None:
        if self.likelihood.drawn(settings) and settings.repetitions < 2:
            raise InputError(f"an error bar needs at least 2 repetitions, got {settings.repetitions}")

    def _settings(self, x: Tensor, options: Mapping[str, Any]) -> Settings:
        """Checked, with defaults."""
        if self.reverse.chain.steps < 2:
            raise InputError("the flow needs two noise levels to go between, and this chain has 1 step")
        given = {name: value for name, value in options.items() if value is not None}
        few = FEW_LEVELS if isinstance(self.space, Levels) else FEW_REALS
        exact = {"exact": True, "hutchinson": False, "auto": x[0].numel() <= few}
        word, probes = given.get("divergence", "auto"), given.get("probes", 1)
        if word not in exact:
            raise InputError(f"divergence must be exact, hutchinson or auto, got {word!r}")
        if exact[word] and "probes" in given:
            raise InputError(
                f"the exact divergence has no probes, got probes={probes}; leave it out, or say divergence=hutchinson"
            )
        if "ode_tolerance" in given and "ode_steps" in given:
            raise InputError(
                f"ode_steps takes equal steps whatever their error, and ode_tolerance chooses them by it, got {given['ode_steps']} "
                f"and {given['ode_tolerance']}; leave one of the two out"
            )
        tolerance = given.get("ode_tolerance", FINE if exact[word] else TOLERANCE)
        steps = given.get("ode_steps")
        dequantisation = given.get("dequantisation", "truncated-normal" if self.learned is None else LEARNED)
        if not FINEST <= tolerance <= 1:  # finer, the rounding of a network in float32 is all that is seen
            raise InputError(f"ode_tolerance must be from {FINEST:g} to 1, got {tolerance:g}")
        draws = given.get("draws", 1)
        for name, most in MOST.items():
            if name in given:
                _whole(name, given[name], most)
        spread_from(dequantisation, self.learned)  # refused before any work, if at all
        if "dequantisation" in given and not isinstance(self.space, Levels):
            raise InputError(
                f"dequantisation is for levels, and these are real values, got {dequantisation}; leave it out"
            )
        if "draws" in given and not isinstance(self.space, Levels):
            raise InputError(
                f"draws are places in the bin of a level, and these are real values, got {draws}; leave it out"
            )
        if draws > 1 and not exact[word]:
            raise InputError(
                f"draws={draws} averages weights inside a logarithm, and the noise of Hutchinson's divergence there can raise the number above "
                "log p; say divergence=exact (a backward pass a dimension), or leave draws out"
            )
        accuracy = Accuracy(float(tolerance), None if steps is None else int(steps))
        drawn = not exact[word] or isinstance(self.space, Levels)
        if "repetitions" in given and not drawn and given["repetitions"] != 1:
            raise InputError(
                f"nothing is drawn of real values with the exact divergence, got repetitions={given['repetitions']}; leave it out"
            )
        repetitions = int(given.get("repetitions", 1 + drawn))
        return Settings(repetitions, None if exact[word] else int(probes), accuracy, dequantisation, int(draws))


def _whole(name: str, value: Any, most: int) -> int:
    """A number of things, checked."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not number or value != int(value) or not 1 <= value <= most:
        raise InputError(f"{name} must be a whole number from 1 to {most:,}, got {value}")
    return int(value)


METHODS: dict[str, type[Method]] = {"vlb": Vlb, "ode": Ode}


def refuse_others(word: str, options: Mapping[str, Any]) -> None:
    """Refuse an option of another method: it would change nothing."""
    known = {name for method in METHODS.values() for name in method.own}
    for name in options:
        if name in known and name not in METHODS[word].own:
            raise InputError(f"{name} is no option of method={word}; it has {', '.join(METHODS[word].own)}")
