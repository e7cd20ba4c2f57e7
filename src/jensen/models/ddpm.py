"""`diffusion`: a denoising diffusion probabilistic model (note 3; Ho et al. 2020).

The pieces stand in `jensen.diffusion`; here they are put together from plain keywords, trained, calibrated, and shown
as a latent-variable model with z = (x_1, …, x_T).
"""

import math
from collections.abc import Mapping
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from jensen.data.codec import Affine, fit_codec
from jensen.data.examples import Batch, Split
from jensen.data.histogram import level_counts
from jensen.data.space import Levels, Space
from jensen.diffusion import latent
from jensen.diffusion.calibration import calibrate, knots
from jensen.diffusion.denoiser import Denoiser, LevelsDenoiser, NetworkDenoiser
from jensen.diffusion.emission import Emission
from jensen.diffusion.grid import grid_from
from jensen.diffusion.likelihood import Plan, cheapest_plan, estimate, resized_proposal, uniform_proposal
from jensen.diffusion.parametrisation import PARAMETRISATIONS, Eps, Mu, Parametrisation
from jensen.diffusion.process import Chain, diffuse
from jensen.diffusion.reverse import ReverseProcess
from jensen.diffusion.sampler import Sampler, Watcher, sample
from jensen.diffusion.schedule import Schedule, schedule_from
from jensen.diffusion.solvers.words import SAMPLERS, sampler_from
from jensen.diffusion.variance import variance_from
from jensen.distributions.conditional import Conditional
from jensen.distributions.picking import picked
from jensen.errors import InputError
from jensen.likelihood import LogLikelihood
from jensen.models.chain import ChainModel, unwatched
from jensen.models.model import GradientModel, OnCalls, enough_rows, nothing, row_ids, sample_ids, sample_noise
from jensen.models.networks import NetworkShape
from jensen.nn.levels import LevelsHead
from jensen.nn.unet import dropout_for, preset_for
from jensen.noise import Noise
from jensen.rules import POSITIVE, Rule, Ruled, probabilities
from jensen.training.fitter import Objective, Rows, TrainingSettings

CALIBRATION_ROWS = 256
MOST_LEVELS_FOR_HEAD = 256
MOST_STEPS = 100_000
FEW_STEPS = 64  # up to here looking at every term is among the plans
BINS = 8


class DDPM(GradientModel, ChainModel, Ruled):
    """A DDPM.

    Args:
        event_shape: (C, H, W) for images, anything else is treated as a vector.
        space: where the data live, in the model's units ([-1, 1] or standardised).
        timesteps: T; a fit with `betas` takes as many as there are betas.
        schedule: "log-snr", "linear", "cosine", or "betas" with `betas` given.
        log_snr_start: λ(0) of "log-snr"; None for 2 log(3 (k - 1)) on k levels and 9 on real values.
        log_snr_end: λ(1) of "log-snr"; None for -7 on levels and -9 on real values.
        beta_start: of "linear", over 1000 steps.
        beta_end: likewise.
        betas: β_1 … β_N, any N.
        parametrisation: what the network puts out: "levels" (a prior over the levels of each dimension), "x", "eps",
            "v", "score" or "mu"; "auto" is "levels" where there are at most 256 and "v" elsewhere.
        loss: "simple" (squared error of the noise, or of the network's own target) or "bound".
        emphasis: how much more often "simple" trains at noise levels around α = σ, where shapes are decided, than at the
            others; None for 0, which trains all alike. A fit chooses 3 on images and 0 on vectors.
        reverse_variance: "calibrated", "beta", "beta-hat", or the weight of log β between them, 0 to 1.
        network: "unet" or "mlp".
        size: "tiny", "small" or "base".
        dropout: in the network; None for 0. A fit chooses 0.1 where there are few images.
        head_features: numbers a dimension that the network hands to the levels head; None for 8. A fit chooses 16 for grey
            images of more than 16 pixels a side.
    """

    summary = "denoising diffusion: a lower bound on log p, term by term"
    paper = "Ho et al. 2020"
    methods = ("vlb",)
    samplers = tuple(SAMPLERS)

    def __init__(
        self,
        event_shape: tuple[int, ...],
        space: Space,
        *,
        timesteps: int = 1000,
        schedule: Literal["auto", "log-snr", "linear", "cosine", "betas"] = "auto",
        log_snr_start: float | None = None,
        log_snr_end: float | None = None,
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
        betas: list[float] | None = None,
        parametrisation: Literal["auto", "levels", "x", "eps", "v", "score", "mu"] = "auto",
        loss: Literal["simple", "bound"] = "simple",
        emphasis: float | None = None,
        reverse_variance: str | float = "calibrated",
        network: Literal["auto", "unet", "mlp"] = "auto",
        size: Literal["auto", "tiny", "small", "base"] = "auto",
        dropout: float | None = None,
        head_features: int | None = None,
    ) -> None:
        super().__init__(event_shape, space)
        _check(timesteps, dropout, betas, schedule, emphasis, loss)
        self.loss, self.emphasis = loss, emphasis or 0.0
        with torch.device("cpu"):  # schedules are small and always here, also when only shapes are wanted (meta)
            chosen = schedule_from(
                schedule if schedule != "auto" else "betas" if betas else "log-snr",
                start=_default_start(space) if log_snr_start is None else log_snr_start,
                end=_default_end(space) if log_snr_end is None else log_snr_end,
                beta_start=beta_start,
                beta_end=beta_end,
                betas=betas,
            )
            chain = Chain(chosen, timesteps)
            variance = variance_from(reverse_variance, chain.log_snr[knots(timesteps) - 1])
            emission = Emission(space, _first_scale(space, chain))
        shape = NetworkShape(self.event_shape, network, size, dropout or 0.0, head_features or 8)
        denoiser = _denoiser(shape, space, chain, parametrisation)
        self.reverse = ReverseProcess(chain, denoiser, variance, emission)
        self.register_buffer("proposal", uniform_proposal(timesteps))

    proposal: Tensor

    def rules(self) -> dict[str, Rule]:
        """Each term with its probability, none of them 0."""
        return {"proposal": POSITIVE & probabilities()}

    @classmethod
    def codec(cls, split: Split) -> Affine:
        """Levels onto [-1, 1], real values standardised."""
        return fit_codec(split)

    @classmethod
    def resolve(cls, split: Split, space: Space, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Choose schedule, parametrisation, network and size by data type and shape."""
        image = len(split.event_shape) == 3
        chosen: dict[str, Any] = {
            "schedule": "betas" if settings.get("betas") else "log-snr",
            "parametrisation": _default_parametrisation(space),
            "network": "unet" if image else "mlp",
            "size": preset_for(split.event_shape, len(split.train)) if image else "small",
            "emphasis": 3.0 if image and settings.get("loss") != "bound" else 0.0,
            "dropout": dropout_for(len(split.train)) if image else 0.0,
            "timesteps": len(settings["betas"]) if settings.get("betas") else 1000,
            "head_features": 16 if image and split.event_shape[0] == 1 and max(split.event_shape) > 16 else 8,
            "log_snr_start": _default_start(space),
            "log_snr_end": _default_end(space),
        }
        given = {name: value for name, value in settings.items() if value not in ("auto", None)}
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
        """`simple` or `bound`."""
        return DDPMObjective(self.reverse, self.loss, self.emphasis)

    def calibration_calls(self, rows: int) -> int:
        """One for each row used and each knot."""
        return min(rows, enough_rows(self.event_shape, CALIBRATION_ROWS)) * len(knots(self.reverse.chain.steps))

    @torch.no_grad()
    def calibrate(self, valid: Rows, seed: int, on_calls: OnCalls = nothing) -> None:
        """Reverse variance, emission scale and proposal from at most 256 validation rows, fewer where rows are large."""
        pick = Noise(seed, "calibrate").permutation(len(valid))[: enough_rows(self.event_shape, CALIBRATION_ROWS)]
        batch = valid.batch(pick)
        self.eval()
        noise = Noise(seed, "calibrate", "noise")
        self.proposal.copy_(calibrate(self.reverse, batch.x, batch.id, noise, on_calls=on_calls))

    @torch.no_grad()
    def plan(
        self, pilot: Batch, rows: int, *, method: str | None = None, tolerance: float, seed: int, **options: Any
    ) -> dict[str, Any]:
        """Repetitions that reach the tolerance, and the calls in each where that is left open."""
        self.eval()
        if options.get("repetitions") is None:
            reverse, proposal = self._process(options.get("timesteps"))
            steps = reverse.chain.steps
            offered = [*(c for c in (4, 16, 64) if c < steps), *([None] if steps <= FEW_STEPS else [])]
            choices = [_checked_calls(options["calls"])] if "calls" in options else offered
            plan = cheapest_plan(
                reverse,
                pilot.x,
                pilot.id,
                proposal,
                Noise(seed, "vlb"),
                choices=choices,
                rows=rows,
                tolerance=tolerance,
            )
            options |= {"repetitions": plan.repetitions, "calls": plan.calls}
        return options

    def cost(self, plan: Mapping[str, Any], method: str | None = None) -> int:
        """Network calls."""
        steps = self.chain(plan.get("timesteps")).steps
        return int(plan["repetitions"]) * min(plan["calls"] or steps, steps)

    @torch.no_grad()
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
        timesteps: int | None = None,
        **plan: Any,
    ) -> LogLikelihood:
        """The variational bound, in float32 with float64 sums.

        Args:
            x: rows in the model's units.
            context: this unconditional model takes none.
            method: "vlb".
            ids: the rows' ids.
            seed: of the noise.
            on_calls: told how many rows each network call held.
            repetitions: independent estimates a row, at least 2.
            calls: network calls a repetition, one of them for L_0; None looks at every one of the T terms.
            timesteps: the length of the chain; another length is another model.
            **plan: nothing.
        """
        self.eval()
        reverse, proposal = self._process(timesteps)
        wanted = 2 if repetitions is None else repetitions
        if wanted < 2:
            raise InputError(f"an error bar needs at least 2 repetitions, got {wanted}")
        chosen = Plan(wanted, _checked_calls(calls), proposal)
        costs = estimate(reverse, x, row_ids(x, ids), chosen, Noise(seed, "vlb"), on_calls=on_calls)
        return LogLikelihood(
            value=-costs.total.mean(0),
            kind="lower bound",
            measure=self.space.measure,
            of=f"ancestral, T = {reverse.chain.steps}",
            method=self.method_or_default(method),
            event_shape=self.event_shape,
            stderr=costs.total.std(0) / math.sqrt(wanted),
            terms={
                "prior": -costs.prior,
                "diffusion": -costs.diffusion.mean(0),
                "reconstruction": -costs.reconstruction.mean(0),
            },
            diagnostics={"repetitions": wanted, "network_calls_per_example": chosen.calls_per_example(), "seed": seed},
            precision="float32",
        )

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
        """Draw rows; by default ancestrally in all T steps."""
        self.eval()
        reverse, _ = self._process(steps)
        levels = grid_from(grid, reverse.chain)
        ids, noise = sample_ids(n, start), sample_noise(seed)
        like = next(self.parameters())
        return sample(
            reverse, self.event_shape, ids, noise, sampler or self.sampler(), levels=levels, like=like, watch=watch
        )

    @torch.no_grad()
    def cost_per_step(self, x: Tensor, ids: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Single terms along the chain: the steps `(n,)` looked at and L_{i-1} of each row there, `(n, B)` nats."""
        self.eval()
        steps = knots(self.reverse.chain.steps, 32)
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

    def sampler(self, word: str | None = None, /, **options: Any) -> Sampler:
        """By its word, with its options."""
        return sampler_from(self.samplers[0] if word is None else word, options)

    def _process(self, timesteps: int | None) -> tuple[ReverseProcess, Tensor]:
        """The process in a chain of that many steps, and the proposal for its terms."""
        if timesteps is None or timesteps == self.reverse.chain.steps:
            return self.reverse, self.proposal.cpu()
        least = min(
            2, self.reverse.chain.steps
        )  # one step would leave x_1 pure noise, and the emission is not for that
        if not least <= timesteps <= MOST_STEPS:
            raise InputError(f"steps must be between {least} and {MOST_STEPS}, got {timesteps}")
        reverse = self.reverse.resized(timesteps)
        return reverse, resized_proposal(self.proposal.cpu(), self.reverse.chain.times, reverse.chain.times)

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


def _check(
    timesteps: int, dropout: float | None, betas: list[float] | None, schedule: str, emphasis: float | None, loss: str
) -> None:
    """Refuse settings that cannot be, or not together."""
    if not 1 <= timesteps <= MOST_STEPS:
        raise InputError(f"timesteps must be between 1 and {MOST_STEPS}, got {timesteps}")
    if dropout is not None and not 0 <= dropout < 1:
        raise InputError(f"dropout must lie in [0, 1), got {dropout}")
    if betas and schedule not in ("betas", "auto"):
        raise InputError(f"betas go with schedule=betas, got schedule={schedule}; leave one of the two out")
    if emphasis is not None and not 0 <= emphasis <= 100:
        raise InputError(f"emphasis must lie in [0, 100], got {emphasis}")
    if emphasis and loss == "bound":
        raise InputError(
            f"emphasis is a weight of loss=simple, got {emphasis} with loss=bound; leave one of the two out"
        )


class DDPMObjective(Objective):
    """`simple`: the squared error a dimension of the noise (levels) or of the network's own target (otherwise).
    `bound`: T times a random term of the variational bound, a dimension.

    The step i is stratified over the batch: row b looks at i = F⁻¹(u + b/B mod 1), u uniform, F the distribution
    function of q(i) ∝ 1 + emphasis · exp(-λ_i²/(2·2.5²)) for `simple` and of the uniform one for `bound`. The emphasis is
    not divided out again: it is a weight, like the one by which `simple` differs from the bound anyway.
    """

    def __init__(self, reverse: ReverseProcess, loss: str, emphasis: float = 0.0) -> None:
        super().__init__()
        self.reverse, self.loss = reverse, loss
        density = 1 + (emphasis if loss == "simple" else 0.0) * torch.exp(-0.5 * (reverse.chain.log_snr / 2.5).square())
        self.density = density

    def forward(self, batch: Batch, noise: Noise) -> Tensor:
        """The loss of each row."""
        x_0, steps = batch.x, self.reverse.chain.steps
        place = (noise.at("t").uniform([0])[0] + torch.arange(len(x_0)).double() / len(x_0)) % 1.0
        i = 1 + picked(self.density, place)
        eps = noise.at("eps").normal(batch.id, tuple(x_0.shape[1:])).to(x_0)
        if self.loss == "bound":
            return steps * self.reverse.term(x_0, i, eps) / x_0[0].numel()
        return self._simple(x_0, i, eps)

    def _simple(self, x_0: Tensor, i: Tensor, eps: Tensor) -> Tensor:
        log_snr = self.reverse.chain.log_snr[i - 1]
        x_t = diffuse(x_0, eps, log_snr)
        error = x_0 - self.reverse.denoise(x_t, i)
        denoiser = self.reverse.denoiser
        target = denoiser.parametrisation if isinstance(denoiser, NetworkDenoiser) else Eps()
        weight = target.coefficients(log_snr)[0].square()
        return weight.to(error) * error.square().flatten(1).mean(1)

    def held_out(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """The bound of each row from L_0 and one step in each of eight equal parts of the rest; minus the costs."""
        steps, event = self.reverse.chain.steps, tuple(batch.x.shape[1:])
        edges = torch.linspace(1, steps, min(BINS, steps - 1) + 1).round().long().tolist()
        first = torch.ones(len(batch.x), dtype=torch.int64)
        eps = noise.at("first").normal(batch.id, event).to(batch.x)
        terms = {"prior": -self.reverse.prior_term(batch.x), "step 1": -self.reverse.term(batch.x, first, eps)}
        for number, (low, high) in enumerate(pairwise(edges)):
            stream = noise.at("part", number)
            u = stream.at("t").uniform(batch.id)
            i = 1 + low + ((high - low) * u).long().clamp(max=high - low - 1)
            eps = stream.at("eps").normal(batch.id, event).to(batch.x)
            terms[f"steps {low + 1}-{high}"] = -(high - low) * self.reverse.term(batch.x, i, eps)
        return terms


def schedule_named(word: str, space: Space) -> Schedule:
    """The schedule a word stands for, with the defaults for a space of data units."""
    return schedule_from(word, start=_default_start(space), end=_default_end(space))


def _default_parametrisation(space: Space) -> str:
    return "levels" if isinstance(space, Levels) and space.k <= MOST_LEVELS_FOR_HEAD else "v"


def _default_start(space: Space) -> float:
    """λ(0) at which levels in [-1, 1] are three standard deviations apart from their bin's edge; 9 for real values."""
    return max(6.0, 2 * math.log(3 * (space.k - 1))) if isinstance(space, Levels) else 9.0


def _default_end(space: Space) -> float:
    """λ(1) at which levels in [-1, 1], or standardised real values (which may have far outliers), are lost in noise."""
    return -7.0 if isinstance(space, Levels) else -9.0


def _checked_calls(calls: int | None) -> int | None:
    if calls is not None and calls < 2:
        raise InputError(f"calls must be at least 2 (one for L_0, one for the other terms), got {calls}")
    return calls


def _denoiser(shape: NetworkShape, space: Space, chain: Chain, parametrisation: str) -> Denoiser:
    word = _default_parametrisation(space) if parametrisation == "auto" else parametrisation
    if word != "levels":
        return NetworkDenoiser(shape.build(1), _parametrisation(word, chain))
    if not isinstance(space, Levels) or space.k > MOST_LEVELS_FOR_HEAD:
        raise InputError(
            f"parametrisation=levels needs data on at most {MOST_LEVELS_FOR_HEAD} levels, got {space}; use v"
        )
    values = space.values().float()
    return LevelsDenoiser(shape.build(shape.head_features), LevelsHead(shape.head_features, values))


def _parametrisation(word: str, chain: Chain) -> Parametrisation:
    if word not in PARAMETRISATIONS:
        raise InputError(f"unknown parametrisation {word!r}; known are levels, {', '.join(PARAMETRISATIONS)}")
    return Mu(chain) if word == "mu" else PARAMETRISATIONS[word]()


def _first_scale(space: Space, chain: Chain) -> float:
    noise = math.exp(-0.5 * float(chain.log_snr[0]))
    return max(noise, 0.3 * space.step) if isinstance(space, Levels) else noise
