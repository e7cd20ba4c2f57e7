"""A density on real values, made into a lower bound on a mass on levels.

A level y stands for the cell [y, y + Δ)^D; with u uniform on it,

    log P(y) = log ∫ p(y + u) du ≥ E_u[log p(y + u)] + D log Δ

by Jensen's inequality (Theis et al. 2016, "A note on the evaluation of generative models", section 3.1). It is exact
where p is constant on the cell.

How the density is fitted decides where u comes from: a model that fits itself sees every row with one u, which depends on
the row's id alone, so that its objective is one function; one that is trained by gradients sees a fresh u at every step.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from jensen.data.examples import Batch
from jensen.data.space import Levels
from jensen.errors import InputError
from jensen.likelihood import LogLikelihood
from jensen.models.model import (
    UNWATCHED,
    ClosedForm,
    ComponentModel,
    DensityModel,
    GradientModel,
    OnCalls,
    Watch,
    nothing,
    row_ids,
)
from jensen.noise import Noise
from jensen.training.fitter import Objective, Rows

REPETITIONS, MOST_REPETITIONS = 8, 4000


class Dequantised(DensityModel):
    """`model` on cells of the levels, with the parameters it has; `dequantised` adds how it is fitted.

    Args:
        model: a density model on Real of the same event shape.
        space: the levels, in the model's units.
    """

    summary = "a density made into a lower bound on levels"
    paper = "Theis et al. 2016"
    spaces = (Levels,)
    methods = ("elbo",)

    def __init__(self, model: DensityModel, space: Levels) -> None:
        super().__init__(model.event_shape, space)
        self.model = model
        self.levels, self.accepts_missing = space, model.accepts_missing

    def plan(
        self, pilot: Batch, rows: int, *, method: str | None = None, tolerance: float, seed: int, **options: Any
    ) -> dict[str, Any]:
        """Draws of u that reach the tolerance, at least 8; the pilot's own are used for nothing else."""
        if options.get("repetitions") is None:
            variance = self._densities(pilot.x, pilot.id, Noise(seed, "dequantise", "pilot"), REPETITIONS).var(1).mean()
            enough = float(variance) / (rows * tolerance**2)  # NaN where a draw has density zero: more would not help
            wanted = math.ceil(enough) if math.isfinite(enough) else REPETITIONS
            options["repetitions"] = min(max(REPETITIONS, wanted), MOST_REPETITIONS)
        return options

    def cost(self, plan: Mapping[str, Any], method: str | None = None) -> int:
        """Draws of u."""
        return int(plan["repetitions"])

    def log_likelihood(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        method: str | None = None,
        ids: Tensor | None = None,
        seed: int = 0,
        on_calls: OnCalls = nothing,
        repetitions: int = REPETITIONS,
        **plan: Any,
    ) -> LogLikelihood:
        """The mean over `repetitions` draws of u, with its standard error."""
        if repetitions < 2:
            raise InputError(f"an error bar needs at least 2 repetitions, got {repetitions}")
        density = self._densities(x, row_ids(x, ids), Noise(seed, "dequantise"), repetitions)
        cell = (~x.isnan()).flatten(1).sum(1).double() * math.log(self.levels.step)
        inner = self.model.log_likelihood(x[:1])
        on_calls(len(x) * repetitions)
        return LogLikelihood(
            value=density.mean(1) + cell,
            kind="lower bound",
            measure="counting",
            of=f"{inner.of}, integrated over cells",
            method=self.method_or_default(method),
            event_shape=self.event_shape,
            stderr=density.std(1) / math.sqrt(repetitions),
            terms={"density": density.mean(1), "cell": cell},
            diagnostics={"repetitions": repetitions, "dequantisation": "uniform"},
            precision=inner.precision,
        )

    def responsibilities(self, x: Tensor, *, ids: Tensor | None = None, seed: int = 0) -> Tensor:
        """p(z | the row's cell) of a mixture, `(B, K)`: its joint density averaged over draws of u."""
        if not isinstance(self.model, ComponentModel):
            raise TypeError("only models with components have responsibilities")
        noise, keys = Noise(seed, "dequantise", "components"), row_ids(x, ids)
        draws = (_spread(x, keys, self.levels.step, noise.at(k)) for k in range(REPETITIONS))
        return torch.stack([self.model.log_joint(spread) for spread in draws]).logsumexp(0).softmax(1)

    def _densities(self, x: Tensor, ids: Tensor, noise: Noise, repetitions: int) -> Tensor:
        """log p(y + u) for each draw of u, `(B, repetitions)`."""
        draws = (_spread(x, ids, self.levels.step, noise.at(k)) for k in range(repetitions))
        return torch.stack([self.model.log_likelihood(spread).value for spread in draws], 1)

    def sample(self, n: int, context: Tensor | None = None, seed: int = 0, *, start: int = 0) -> Tensor:
        """The level whose cell a draw falls into; draws beyond the ends go to the end levels."""
        y = self.model.sample(n, context, seed, start=start)
        index = ((y - self.levels.first) / self.levels.step).floor().clamp(0, self.levels.k - 1)
        return self.levels.first + self.levels.step * index


class DequantisedClosedForm(ClosedForm, Dequantised):
    """A dequantised density that fits itself, to rows dequantised once each, from their ids alone: the same for every
    seed.
    """

    model: DensityModel

    def fit(self, train: Rows, valid: Rows | None = None, *, seed: int = 0, watch: Watch = UNWATCHED) -> None:
        """Fit the density."""
        held_out = None if valid is None else _DequantisedRows(valid, self.levels.step)
        self._inner.fit(_DequantisedRows(train, self.levels.step), held_out, seed=seed, watch=watch)

    @property
    def _inner(self) -> ClosedForm:
        assert isinstance(self.model, ClosedForm)
        return self.model

    @property
    def iterative(self) -> bool:
        """As the density's."""
        return self._inner.iterative

    def resolved(self) -> dict[str, Any]:
        """As the density's."""
        return self._inner.resolved()

    def report(self) -> dict[str, Any]:
        """As the density's."""
        return self._inner.report()


class DequantisedGradient(GradientModel, Dequantised):
    """A dequantised density that is trained by gradients, every step with fresh draws of u."""

    model: DensityModel

    @property
    def _inner(self) -> GradientModel:
        assert isinstance(self.model, GradientModel)
        return self.model

    def initialise(self, train: Rows) -> None:
        """As the density, on rows dequantised once each."""
        self._inner.initialise(_DequantisedRows(train, self.levels.step))

    def objective(self) -> Objective:
        """The density's, of rows with noise."""
        return DequantisedObjective(self._inner.objective(), self.levels.step)

    def calibration_calls(self, rows: int) -> int:
        """As the density's."""
        return self._inner.calibration_calls(rows)

    def calibrate(self, valid: Rows, seed: int, on_calls: OnCalls = nothing) -> None:
        """As the density, on rows dequantised once each."""
        self._inner.calibrate(_DequantisedRows(valid, self.levels.step), seed, on_calls)


class DequantisedObjective(Objective):
    """A density's objective at y + u: u depends on the step, by the noise it is given, and on the row.

    Args:
        density: the objective of the density.
        step: Δ, the width of a cell.
    """

    def __init__(self, density: Objective, step: float) -> None:
        super().__init__()
        self.density, self.step = density, step

    def forward(self, batch: Batch, noise: Noise) -> Tensor:
        """The loss of each row."""
        return self.density(self._spread(batch, noise), noise)

    def held_out(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """The density's terms, and log Δ of each dimension: together a lower bound on log P."""
        cell = torch.full((len(batch.x),), batch.x[0].numel() * math.log(self.step), dtype=torch.float64)
        return {**self.density.held_out(self._spread(batch, noise), noise), "cell": cell.to(batch.x.device)}

    def _spread(self, batch: Batch, noise: Noise) -> Batch:
        x = _spread(batch.x, batch.id, self.step, noise.at("dequantise")).to(batch.x)
        return Batch(x, batch.id, batch.context, batch.weight)


def dequantised(model: DensityModel, space: Levels) -> Dequantised:
    """`model` on the cells of `space`, fitted as the model is.

    Args:
        model: a density model on Real.
        space: the levels, in the model's units.

    Raises:
        TypeError: a model that is fitted in neither way.
    """
    if isinstance(model, ClosedForm):
        return DequantisedClosedForm(model, space)
    if isinstance(model, GradientModel):
        return DequantisedGradient(model, space)
    raise TypeError(f"{type(model).__name__} is fitted neither in one go nor by gradients")


class _DequantisedRows:
    """Rows whose values are spread over their cells, the same way every time."""

    def __init__(self, rows: Rows, step: float) -> None:
        self.rows, self.step = rows, step

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, indices: Tensor | slice) -> Batch:
        """The rows at these positions."""
        batch = self.rows.batch(indices)
        x = _spread(batch.x, batch.id, self.step, Noise(0, "dequantise", "fit"))
        return Batch(x, batch.id, batch.context, batch.weight)


def _spread(x: Tensor, ids: Tensor, step: float, noise: Noise) -> Tensor:
    return x.double() + step * noise.uniform(ids, tuple(x.shape[1:]))
