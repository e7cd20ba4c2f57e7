"""The control `independent`: every dimension for itself.

Levels: the histogram of each dimension with one added to every count (Laplace's rule), an exact mass. Real: a normal
for each dimension, an exact density. What it scores is what the marginals explain; anything better has learned how the
dimensions hang together. Missing cells are left out of the sum, which is exact here.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Normal

from jensen.data.codec import Affine, fit_codec, identity, refuse_constant
from jensen.data.examples import Split
from jensen.data.space import Levels, Real, Space
from jensen.distributions.picking import picked
from jensen.distributions.smoothing import log_smoothed
from jensen.errors import InputError
from jensen.likelihood import LogLikelihood
from jensen.models.model import (
    UNWATCHED,
    ClosedForm,
    DensityModel,
    OnCalls,
    Watch,
    nothing,
    sample_ids,
    sample_noise,
)
from jensen.rules import COUNTS, FINITE, POSITIVE, Rule, Ruled
from jensen.training.fitter import Rows

LARGEST_TABLE = 1 << 28  # cells of all histograms together: 2 GiB


class Independent(ClosedForm, DensityModel, Ruled):
    """p(x) = ∏ p_d(x_d)."""

    summary = "each dimension for itself: add-one histograms on levels, normals on real values (a control)"
    paper = "Laplace's rule of succession"
    accepts_missing = True
    seeded = False
    counts: Tensor
    mean: Tensor
    variance: Tensor

    def __init__(self, event_shape: tuple[int, ...], space: Space) -> None:
        super().__init__(event_shape, space)
        dims = math.prod(event_shape)
        if isinstance(space, Levels):
            if dims * space.k > LARGEST_TABLE:
                raise InputError(
                    f"histograms of {dims} dimensions × {space.k} levels do not fit in memory; resize the data or use fewer levels"
                )
            self.register_buffer("counts", torch.zeros(dims, space.k, dtype=torch.float64))
        else:
            self.register_buffer("mean", torch.zeros(dims, dtype=torch.float64))
            self.register_buffer("variance", torch.ones(dims, dtype=torch.float64))

    def rules(self) -> dict[str, Rule]:
        """Counts; or means and variances."""
        return {"counts": COUNTS} if isinstance(self.space, Levels) else {"mean": FINITE, "variance": POSITIVE}

    @classmethod
    def codec(cls, split: Split) -> Affine:
        """Centred real values, so that a mean far from 0 costs no digits; levels as they are. A constant column is refused
        here already, where its name is known.
        """
        if not isinstance(split.space, Real):
            return identity()
        shift = fit_codec(split).shift
        return Affine(shift, torch.ones_like(shift))

    def fit(self, train: Rows, valid: Rows | None = None, *, seed: int = 0, watch: Watch = UNWATCHED) -> None:
        """Count, or take means and variances of the observed cells (two passes)."""
        batches = [slice(i, i + 1024) for i in range(0, len(train), 1024)]
        if isinstance(self.space, Levels):
            self.counts.zero_()
            for rows in batches:
                batch = train.batch(rows)
                x = batch.x.flatten(1).double().T
                index = self.space.index(x.nan_to_num(nan=self.space.first))
                self.counts.scatter_add_(1, index, batch.weights() * ~x.isnan())
            return
        seen = sum(_observed(train, rows).sum(0) for rows in batches)
        assert isinstance(seen, Tensor)
        mean = sum((_filled(train, rows) * _observed(train, rows)).sum(0) for rows in batches) / seen
        squares = [((_filled(train, rows) - mean).square() * _observed(train, rows)).sum(0) for rows in batches]
        variance = sum(squares) / seen
        assert isinstance(variance, Tensor)
        assert isinstance(mean, Tensor)
        refuse_constant(mean.reshape(self.event_shape), variance.sqrt().reshape(self.event_shape))
        self.mean.copy_(mean)
        self.variance.copy_(variance)

    def log_likelihood(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        method: str | None = None,
        ids: Tensor | None = None,
        seed: int = 0,
        on_calls: OnCalls = nothing,
        **plan: Any,
    ) -> LogLikelihood:
        """Σ log p_d(x_d) over observed cells, exact."""
        flat = x.flatten(1).double()
        if isinstance(self.space, Levels):
            table = self._log_probabilities()
            cells = table.T.gather(0, self.space.index(flat.nan_to_num(nan=self.space.first)))
            cells = cells.masked_fill(flat.isnan(), 0.0)
        else:
            cells = Normal(self.mean, self.variance.sqrt(), validate_args=False).log_prob(flat).nan_to_num(nan=0.0)
        on_calls(len(x))
        return LogLikelihood(
            value=cells.sum(1),
            kind="exact",
            measure=self.space.measure,
            of="independent dimensions",
            method=self.method_or_default(method),
            event_shape=self.event_shape,
        )

    def sample(self, n: int, context: Tensor | None = None, seed: int = 0, *, start: int = 0) -> Tensor:
        """Inverse distribution functions at uniform draws, or normals."""
        ids, noise = sample_ids(n, start), sample_noise(seed)
        if isinstance(self.space, Levels):
            u = noise.uniform(ids, (len(self.counts),))
            index = picked(self._log_probabilities().exp(), u.T).T
            y = self.space.first + self.space.step * index.double()
        else:
            y = self.mean + self.variance.sqrt() * noise.normal(ids, (len(self.mean),)).double()
        return y.reshape(n, *self.event_shape)

    def _log_probabilities(self) -> Tensor:
        return log_smoothed(self.counts, 1.0)


def _observed(train: Rows, rows: slice) -> Tensor:
    """The weight of each observed cell, 0 for the others."""
    batch = train.batch(rows)
    return batch.mask.flatten(1) * batch.weights()[:, None]


def _filled(train: Rows, rows: slice) -> Tensor:
    return train.batch(rows).x.flatten(1).double().nan_to_num(nan=0.0)
