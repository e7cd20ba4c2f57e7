"""`diffusion`: a denoising diffusion probabilistic model (note 3; Ho et al. 2020).

The pieces stand in `jensen.diffusion`; here they are put together from plain keywords, trained, calibrated, and shown
as a latent-variable model with z = (x_1, …, x_T).
"""

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from jensen.data.codec import Affine, fit_codec
from jensen.data.examples import Batch, Split
from jensen.data.histogram import level_counts
from jensen.data.space import Levels, Space
from jensen.diffusion import latent
from jensen.diffusion.calibration import calibrate, knots, knots_of
from jensen.diffusion.continuous import ContinuousTime
from jensen.diffusion.denoiser import LevelsDenoiser
from jensen.diffusion.emission import Emission
from jensen.diffusion.grid import grid_from
from jensen.diffusion.likelihood import resized_proposal, uniform_proposal
from jensen.diffusion.methods import METHODS, Asked, Method, Ode, Vlb, refuse_others
from jensen.diffusion.process import Chain
from jensen.diffusion.reverse import ReverseProcess
from jensen.diffusion.sampler import Sampler, Watcher, sample
from jensen.diffusion.schedule import schedule_from
from jensen.diffusion.solvers.words import SAMPLERS, best_for, sampler_from
from jensen.diffusion.variance import MEASURED, Learned, Measured, ReverseVariance, variance_from
from jensen.distributions.conditional import Conditional
from jensen.errors import InputError
from jensen.likelihood import LogLikelihood
from jensen.models.chain import ChainModel, unwatched
from jensen.models.diffusion_objective import DDPMObjective
from jensen.models.diffusion_parts import (
    BY_ENDS,
    HEAD_FEATURES,
    MOST_STEPS,
    check_levels,
    check_schedule,
    check_seen,
    check_settings,
    default_end,
    default_parametrisation,
    default_start,
    denoiser_from,
    first_scale,
    places_from,
    refuse_idle,
    spread_of,
)
from jensen.models.model import (
    Calibratable,
    GradientModel,
    OnCalls,
    enough_rows,
    nothing,
    row_ids,
    sample_ids,
    sample_noise,
)
from jensen.models.networks import NetworkShape
from jensen.models.scheduled import Scheduled
from jensen.nn.unet import dropout_for, preset_for
from jensen.noise import Noise
from jensen.rules import POSITIVE, Rule, Ruled, probabilities
from jensen.training.fitter import Objective, Rows, TrainingSettings

CALIBRATION_ROWS = 256
MOST_POWER = 12


class DDPM(GradientModel, Calibratable, ChainModel, Scheduled, Ruled):
    """A DDPM.

    Args:
        event_shape: (C, H, W) for images, anything else is treated as a vector.
        space: where the data live, in the model's units ([-1, 1] or standardised).
        timesteps: T; of a fit with `betas` as many as there are betas, if not said.
        schedule: "log-snr", "linear", "cosine", "vp", "sub-vp", "ve", "flow" (`jensen.diffusion.schedule`), or "betas" with `betas` given.
        log_snr_start: λ(0) of "log-snr" and "ve"; None for 2 log(3 (k - 1)) on k levels and 9 on real values.
        log_snr_end: λ(1) of the two; None for -7 on levels and -9 on real values.
        trained_ends: whether calibration chooses, between those two, the ends with the best bound on validation rows; of "log-snr" and "ve".
        trained_shape: whether it chooses, between the ends, the levels at even times so that a random one of them tells the bound with the least
            variance, instead of even ones; of "log-snr" and "ve".
        beta_start: of "linear", over 1000 steps; None for 1e-4.
        beta_end: likewise; None for 0.02.
        betas: β_1 … β_N, any N.
        parametrisation: what the network puts out: "levels" (a prior over the levels of each dimension), "x", "eps",
            "v", "score", "mu", "velocity" or "edm"; "auto" is "levels" where there are at most 256 and "v" elsewhere.
        loss: "simple" (squared error of the noise, or of the network's own target), "bound", "dsm", "min-snr", "edm" or "flow-matching": see
            `jensen.diffusion.weighting`.
        adaptive: whether training learns which steps to look at most, and divides it out again.
        emphasis: how much more often "simple" trains at noise levels around α = σ, where shapes are decided, than at the
            others; None for 0, which trains all alike. A fit chooses 3 on images and 0 on vectors.
        reverse_variance: measured on validation rows, "calibrated" (one a step), "diagonal" (one a cell) or, with parametrisation "levels",
            "by-state" (one a cell and state), which a fit chooses there; "learned", a further output of the network; fixed, "beta", "beta-hat", or the weight of log β between them, 0 to 1.
        network: "unet" or "dit" (a transformer) for images, "mlp" for anything.
        size: "tiny", "small" or "base".
        patch: the side of the squares that "unet" and "dit" cut an image into; None for the size's own.
        attention: the stages of "unet", such as [0, 1], with self-attention; 0 is the finest, each further one half as fine; None for the last alone.
        dropout: in the network; None for 0. A fit chooses 0.1 where there are few images.
        fourier: numbers n, such as [6, 7], whose waves sin(2ⁿ π x_t) and cos(2ⁿ π x_t) the network is shown beside x_t.
        head_features: numbers a dimension that the network hands to the levels head; None for 8. A fit chooses 16 for grey
            images of more than 16 pixels a side.
        dequantisation: of the probability flow on levels; None for "truncated-normal", or "learned", for which a small network is trained beside the
            denoiser.
    """

    summary = "denoising diffusion: a lower bound on log p, term by term"
    paper = "Ho et al. 2020"
    methods = tuple(METHODS)
    samplers = tuple(SAMPLERS)
    calibrations = tuple(MEASURED)

    def __init__(
        self,
        event_shape: tuple[int, ...],
        space: Space,
        *,
        timesteps: int = 1000,
        schedule: Literal["auto", "log-snr", "linear", "cosine", "betas", "vp", "sub-vp", "ve", "flow"] = "auto",
        log_snr_start: float | None = None,
        log_snr_end: float | None = None,
        trained_ends: bool = False,
        trained_shape: bool = False,
        beta_start: float | None = None,
        beta_end: float | None = None,
        betas: list[float] | None = None,
        parametrisation: Literal["auto", "levels", "x", "eps", "v", "score", "mu", "velocity", "edm"] = "auto",
        loss: Literal["simple", "bound", "dsm", "min-snr", "edm", "flow-matching"] = "simple",
        adaptive: bool = False,
        emphasis: float | None = None,
        reverse_variance: str | float = "calibrated",
        network: Literal["auto", "unet", "dit", "mlp"] = "auto",
        size: Literal["auto", "tiny", "small", "base"] = "auto",
        patch: int | None = None,
        attention: list[int] | None = None,
        dropout: float | None = None,
        fourier: list[int] | None = None,
        head_features: int | None = None,
        dequantisation: Literal["truncated-normal", "learned"] | None = None,
    ) -> None:
        super().__init__(event_shape, space)
        check_settings(timesteps, dropout, emphasis, loss, head_features)
        self.loss, self.emphasis, self.adaptive = loss, emphasis or 0.0, adaptive
        self.spread = spread_of(space)
        own: dict[str, Any] = {"beta_start": beta_start, "beta_end": beta_end, "betas": betas}
        word = _schedule(schedule, betas)
        check_schedule(word, {"betas": betas})
        with torch.device("cpu"):  # schedules are small and always here, also when only shapes are wanted (meta)
            chosen = schedule_from(
                word,
                start=default_start(space) if log_snr_start is None else log_snr_start,
                end=default_end(space) if log_snr_end is None else log_snr_end,
                **{name: value for name, value in own.items() if value is not None},
            )
            chain = Chain(chosen, timesteps)
            check_levels(chain)
            variance = variance_from(reverse_variance, chain.log_snr[knots_of(chain) - 1], self.event_shape)
            emission = Emission(space, first_scale(space, chain))
        waves = tuple(fourier or ())
        if not all(0 <= n <= MOST_POWER for n in waves) or len(set(waves)) < len(waves):
            raise InputError(f"fourier must be whole numbers from 0 to {MOST_POWER}, none twice, got {fourier}")
        looking = None if attention is None else tuple(attention)
        shape = NetworkShape(self.event_shape, network, size, dropout or 0.0, head_features, waves, patch, looking)
        denoiser = denoiser_from(shape, space, chain, parametrisation, weighs=isinstance(variance, Learned))
        check_seen(variance, denoiser)
        self.places = places_from(dequantisation, shape, space)
        self.reverse = ReverseProcess(chain, denoiser, variance, emission)
        self.register_buffer("proposal", uniform_proposal(timesteps))
        with torch.device("cpu"):
            self.keep_schedule(trained_ends=trained_ends, trained_shape=trained_shape)

    proposal: Tensor

    def rules(self) -> dict[str, Rule]:
        """Each term with its probability, none of them 0; a schedule within that which was trained."""
        return {"proposal": POSITIVE & probabilities(), **self.rules_of_schedule()}

    @classmethod
    def codec(cls, split: Split) -> Affine:
        """Levels onto [-1, 1], real values standardised."""
        return fit_codec(split)

    @classmethod
    def resolve(cls, split: Split, space: Space, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Choose schedule, parametrisation, network and size by data type and shape."""
        image = len(split.event_shape) == 3
        chosen: dict[str, Any] = {
            "schedule": _schedule("auto", settings.get("betas")),
            "parametrisation": default_parametrisation(space),
            "network": "unet" if image else "mlp",
            "size": preset_for(split.event_shape, len(split.train)) if image else "small",
            "emphasis": 3.0 if image and settings.get("loss", "simple") == "simple" else 0.0,
            "dropout": dropout_for(len(split.train)) if image else 0.0,
            "timesteps": len(settings["betas"]) if settings.get("betas") else 1000,
        }
        given = {name: value for name, value in settings.items() if value not in ("auto", None)}
        refuse_idle({**chosen, **given}, given)
        if {**chosen, **given}["schedule"] in BY_ENDS:
            chosen |= {"log_snr_start": default_start(space), "log_snr_end": default_end(space)}
        if {**chosen, **given}["parametrisation"] == "levels":
            grey = image and split.event_shape[0] == 1 and max(split.event_shape) > 16
            chosen |= {"reverse_variance": "by-state", "head_features": 16 if grey else HEAD_FEATURES}
        return {**chosen, **given}

    @classmethod
    def training_settings(cls, split: Split, options: Mapping[str, Any]) -> TrainingSettings:
        """Batch sizes that suit the data."""
        cells = math.prod(split.event_shape)
        size = 512 if options["network"] == "mlp" else 64 if cells <= 256 else 32 if cells <= 4096 else 16
        return TrainingSettings(batch_size=min(size, len(split.train)), lr=2e-3 if cells <= 1024 else 1e-3)

    def initialise(self, train: Rows) -> None:
        """The levels head's bias starts at the log-histogram of the training rows."""
        if isinstance(self.reverse.denoiser, LevelsDenoiser) and isinstance(self.space, Levels):
            counts = 1 + level_counts(train, self.space)
            with torch.no_grad():
                self.reverse.denoiser.head.bias.copy_((counts / counts.sum()).log())

    def objective(self) -> Objective:
        """By its word."""
        return DDPMObjective(
            self.reverse, self.loss, self.emphasis, adaptive=self.adaptive, spread=self.spread, places=self.places
        )

    def calibration_calls(self, rows: int, most: int | None = None) -> int:
        """One for each row used and each knot; in a fit as many again for a schedule that is learned."""
        used = enough_rows(self.event_shape, CALIBRATION_ROWS) if most is None else most
        passes = 1 + (self.learns_schedule and most is None)
        return passes * min(rows, used) * len(knots_of(self.reverse.chain))

    @torch.no_grad()
    def calibrate(self, valid: Rows, seed: int, on_calls: OnCalls = nothing) -> None:
        """The schedule if it is learned, then reverse variance, emission scale and proposal from at most 256 validation rows, fewer where rows are large."""
        pick = Noise(seed, "calibrate").permutation(len(valid))[: enough_rows(self.event_shape, CALIBRATION_ROWS)]
        batch = valid.batch(pick)
        if self.learns_schedule:
            self.eval()
            self.learn_schedule(batch, Noise(seed, "calibrate", "ends"), on_calls)
            if isinstance(self.reverse.variance, Measured):
                self.calibrated_by(self.reverse.variance.word)  # with its knots along it
        self.calibrate_on(batch, seed, on_calls)

    @torch.no_grad()
    def calibrate_on(self, batch: Batch, seed: int, on_calls: OnCalls = nothing) -> None:
        """From these rows, along the schedule as it is."""
        self.eval()
        noise = Noise(seed, "calibrate", "noise")
        self.proposal.copy_(calibrate(self.reverse, batch.x, batch.id, noise, context=batch.context, on_calls=on_calls))

    def calibrated_by(self, word: str) -> None:
        """With another reverse variance, not measured yet."""
        self.reverse.variance = self.variance_by(word)

    def variance_by(self, word: str | float) -> ReverseVariance:
        """A reverse variance for this network, not measured yet.

        Raises:
            InputError: an unknown word, or one that asks more than the network says.
        """
        chain = self.reverse.chain
        with torch.device("cpu"):
            variance = variance_from(word, chain.log_snr[knots_of(chain) - 1], self.event_shape)
        check_seen(variance, self.reverse.denoiser)
        return variance

    def calibration(self) -> dict[str, Tensor]:
        """Reverse variance, emission scale, proposal."""
        parts = ("reverse.variance.", "reverse.emission.", "proposal")
        return {name: tensor for name, tensor in self.state_dict().items() if name.startswith(parts)}

    def plan(
        self, pilot: Batch, rows: int, *, method: str | None = None, tolerance: float, seed: int, **options: Any
    ) -> dict[str, Any]:
        """Repetitions that reach the tolerance, and what else the method leaves open."""
        return self._method(method, options).plan(pilot, rows, tolerance, seed, options)

    def cost(self, plan: Mapping[str, Any], method: str | None = None) -> int:
        """Network calls, of a solver rows."""
        return self._method(method, plan).cost(plan)

    def log_likelihood(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        method: str | None = None,
        ids: Tensor | None = None,
        seed: int = 0,
        on_calls: OnCalls = nothing,
        repetitions: int | None = None,
        calls: int | None = 4,
        timesteps: int | float | None = None,
        grid: str | None = None,
        draws: int | None = None,
        probes: int | None = None,
        ode_tolerance: float | None = None,
        ode_steps: int | None = None,
        divergence: Literal["auto", "exact", "hutchinson"] | None = None,
        dequantisation: Literal["truncated-normal", "uniform", "learned"] | None = None,
        **plan: Any,
    ) -> LogLikelihood:
        """The variational bound of the chain or the density of its probability flow, in float32 with float64 sums.

        Args:
            x: rows in the model's units.
            context: this unconditional model takes none.
            method: "vlb" or "ode".
            ids: the rows' ids.
            seed: of the noise.
            on_calls: told how many rows each network call held; of "ode", how many rows are done.
            repetitions: independent estimates a row, at least 2 where anything is drawn.
            calls: vlb: network calls a repetition, one of them for L_0; None looks at every one of the T terms.
            timesteps: vlb: the length of the chain, `math.inf` for continuous time; another length is another model.
            grid: vlb: the noise levels of the chain, a word of `jensen.diffusion.grid`; "time" if None.
            draws: ode, on levels: places in the bin a repetition, whose weights are averaged inside the logarithm; 1 if None. More need the exact
                divergence.
            probes: ode: random vectors a repetition, for Hutchinson's estimate of the divergence; 1 if None.
            ode_tolerance: ode: of a step: so many σ(λ) a cell of x, so much times √d of log p; if None 1e-2, and 1e-5 where the divergence is
                exact.
            ode_steps: ode: equal steps in log-SNR of six network calls each, whatever their error.
            divergence: ode: "exact", "hutchinson"; by default exact in up to 32 dimensions of real values and 8 of levels.
            dequantisation: ode, on levels: "truncated-normal", "uniform", or "learned", which is taken if None where the fit has learned one.
            **plan: what `plan` adds.
        """
        asked = {
            "draws": draws,
            "probes": probes,
            "ode_tolerance": ode_tolerance,
            "ode_steps": ode_steps,
            "divergence": divergence,
            "dequantisation": dequantisation,
            "repetitions": repetitions,
            "timesteps": timesteps,
            "grid": grid,
        }
        own = {name: value for name, value in asked.items() if value is not None}
        chosen = self._method(method, own)
        looks = {"calls": calls} if "calls" in chosen.own else {}
        return chosen.score(Asked(x, context, row_ids(x, ids), seed, on_calls, {**plan, **own, **looks}))

    def _method(self, word: str | None, options: Mapping[str, Any]) -> Method:
        """A way to score rows, of this model as it is."""
        self.eval()
        word = self.method_or_default(word)
        refuse_others(word, options)
        if word == "ode":
            # the ends are the chain's: the flow has no emission that would make up for an early one
            return Ode(self.reverse.along(self.widest), self.space, self.places)
        timesteps = options.get("timesteps")
        if timesteps == math.inf:
            if options.get("grid"):
                raise InputError(f"continuous time has no grid, got grid={options['grid']}; leave it out")
            return Vlb(
                ContinuousTime(self.reverse),
                self.proposal.cpu(),
                math.inf,
                self.space,
                between=self.said_of_ends(),
            )
        grid = options.get("grid") or "time"
        reverse, proposal = self._process(timesteps, grid)
        return Vlb(reverse, proposal, reverse.chain.steps, self.space, grid, self.said_of_schedule())

    @torch.no_grad()
    def sample(
        self,
        n: int,
        context: Tensor | None = None,
        seed: int = 0,
        *,
        start: int = 0,
        sampler: Sampler | None = None,
        steps: int | None = None,
        grid: str = "time",
        watch: Watcher = unwatched,
    ) -> Tensor:
        """Draw rows; by default in all T steps, by the solver that is best in so many."""
        self.eval()
        sampler = sampler or self.sampler(self.best_sampler(self.chain(steps).steps))
        reverse, _ = self._process(steps)
        levels = self.levels(steps, grid)
        ids, noise = sample_ids(n, start), sample_noise(seed)
        like = next(self.parameters())
        return sample(
            reverse, self.event_shape, ids, noise, sampler, levels=levels, context=context, like=like, watch=watch
        )

    def best_sampler(self, steps: int) -> str:
        """By the number of steps alone."""
        return best_for(steps)

    @torch.no_grad()
    def cost_per_step(self, x: Tensor, ids: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Single terms along the chain: the steps `(n,)` looked at and L_{i-1} of each row there, `(n, B)` nats."""
        self.eval()
        steps = knots(self.reverse.chain.log_snr, 32)
        noise = Noise(seed, "cost per step")
        event = tuple(x.shape[1:])
        costs = [
            self.reverse.term(x, torch.full((len(x),), i), noise.at(i).normal(ids, event).to(x)) for i in steps.tolist()
        ]
        return steps, torch.stack(costs)

    def warning(self) -> str | None:
        """What is wrong with the schedule, in a line, or None."""
        return self.reverse.chain.schedule.warning()

    def chain(self, steps: int | None = None) -> Chain:
        """The chain of the fit, or one of another number of steps between the same ends."""
        return self._process(steps)[0].chain

    def levels(self, steps: int | None = None, grid: str = "time") -> Tensor:
        """λ of a chain of that many steps, on a grid."""
        return grid_from(grid, self.chain(steps), self.reverse.variance)

    def sampler(self, word: str | None = None, /, **options: Any) -> Sampler:
        """By its word, with its options."""
        return sampler_from(self.samplers[0] if word is None else word, options)

    def _process(self, timesteps: int | float | None, grid: str = "time") -> tuple[ReverseProcess, Tensor]:
        """The process in a chain of that many steps and on that grid, and the proposal for its terms."""
        own = self.reverse.chain
        if timesteps in (None, own.steps) and grid == "time":
            return self.reverse, self.proposal.cpu()
        wanted = own.steps if timesteps is None else timesteps
        least = min(2, own.steps)  # one step would leave x_1 pure noise, and the emission is not for that
        if not (least <= wanted <= MOST_STEPS and wanted == int(wanted)):
            raise InputError(f"steps must be between {least} and {MOST_STEPS}, got {wanted:g}")
        steps = int(wanted)
        chain = own.resized(steps)
        chain = chain if grid == "time" else chain.through(self.levels(steps, grid))
        return self.reverse.along(chain), resized_proposal(self.proposal.cpu(), own.log_snr, chain.log_snr)

    @cached_property
    def prior(self) -> Conditional:
        """p(x_1, …, x_T)."""
        return latent.Prior(self.reverse, self.event_shape)

    @cached_property
    def emission(self) -> Conditional:
        """p(x_0 | x_1)."""
        return latent.FromFirst(self.reverse)

    @cached_property
    def posterior(self) -> Conditional:
        """q(x_1, …, x_T | x_0)."""
        return latent.Posterior(self.reverse)


def _schedule(word: str, betas: list[float] | None) -> str:
    """The word of a schedule that may be left to the betas."""
    return word if word != "auto" else "betas" if betas else "log-snr"
