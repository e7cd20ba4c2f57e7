"""A density on real values, made into a lower bound on a mass on levels.

A level y stands for the cell [y, y + Δ)^D; with u uniform on it,

    log P(y) = log ∫ p(y + u) du ≥ E_u[log p(y + u)] + D log Δ

by Jensen's inequality (Theis et al. 2016, "A note on the evaluation of generative models", section 3.1). It is exact
where p is constant on the cell.
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
from jensen.models.model import UNWATCHED, ClosedForm, ComponentModel, DensityModel, OnCalls, Watch, nothing, row_ids
from jensen.noise import Noise
from jensen.training.fitter import Rows

REPETITIONS, MOST_REPETITIONS = 8, 4000


class Dequantised(ClosedForm, DensityModel):
    """`model` on cells of the levels.

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
        self.levels = space

    def fit(self, train: Rows, valid: Rows | None = None, *, seed: int = 0, watch: Watch = UNWATCHED) -> None:
        """Fit the density to rows dequantised once each, from their ids alone: the same for every seed."""
        held_out = None if valid is None else _DequantisedRows(valid, self.levels.step)
        self._closed().fit(_DequantisedRows(train, self.levels.step), held_out, seed=seed, watch=watch)

    def _closed(self) -> ClosedForm:
        if not isinstance(self.model, ClosedForm):
            raise TypeError("only closed-form models are fitted here")
        return self.model

    @property
    def iterative(self) -> bool:
        """As the density's."""
        return self._closed().iterative

    def resolved(self) -> dict[str, Any]:
        """As the density's."""
        return self._closed().resolved()

    def report(self) -> dict[str, Any]:
        """As the density's."""
        return self._closed().report()

    def plan(
        self, pilot: Tensor, ids: Tensor, rows: int, *, tolerance: float, seed: int, **options: Any
    ) -> dict[str, Any]:
        """Draws of u that reach the tolerance, at least 8; the pilot's own are used for nothing else."""
        if options.get("repetitions") is None:
            variance = self._densities(pilot, ids, Noise(seed, "dequantise", "pilot"), REPETITIONS).var(1).mean()
            enough = float(variance) / (rows * tolerance**2)  # NaN where a draw has density zero: more would not help
            wanted = math.ceil(enough) if math.isfinite(enough) else REPETITIONS
            options["repetitions"] = min(max(REPETITIONS, wanted), MOST_REPETITIONS)
        return options

    def cost(self, plan: Mapping[str, Any]) -> int:
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
        cell = torch.full((len(x),), math.prod(self.event_shape) * math.log(self.levels.step), dtype=torch.float64)
        on_calls(len(x) * repetitions)
        return LogLikelihood(
            value=density.mean(1) + cell,
            kind="lower bound",
            measure="counting",
            of=f"{self.model.log_likelihood(x[:1]).of}, integrated over cells",
            method=self.method_or_default(method),
            event_shape=self.event_shape,
            stderr=density.std(1) / math.sqrt(repetitions),
            terms={"density": density.mean(1), "cell": cell},
            diagnostics={"repetitions": repetitions, "dequantisation": "uniform"},
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
