"""The control `gaussian`: one normal with full covariance, shrunk towards a multiple of the identity.

    Σ = (1 - ρ) S + ρ (tr S / d) I,   ρ = min(1, b²/δ²),   δ² = ‖S - (tr S / d) I‖²/d,
    b² = (1/n²) Σ_i ‖x_i x_iᵀ - S‖²/d = ((1/n) Σ_i ‖x_i‖⁴ - ‖S‖²) / (n d)

with x_i centred (Ledoit and Wolf 2004, "A well-conditioned estimator for large-dimensional covariance matrices"). It
scores what means and correlations explain. Exact on real values; on levels it is dequantised, a lower bound.
"""

import math
from typing import Any

import torch
from torch import Tensor

from jensen.blocks import in_blocks
from jensen.data.codec import Affine, fit_codec, refuse_constant
from jensen.data.examples import Split
from jensen.data.space import Real, Space
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
from jensen.rules import FINITE, LOWER_TRIANGULAR, Rule, Ruled, between
from jensen.training.fitter import Rows

BLOCK = 256
MOST_DIMENSIONS = 6000  # the covariance and its factor then take 0.6 GB, the factorisation seconds


class Gaussian(ClosedForm, DensityModel, Ruled):
    """N(μ, Σ) with Σ shrunk."""

    summary = "one normal with full, shrunk covariance; on levels a dequantised lower bound (a control)"
    paper = "Ledoit and Wolf 2004"
    spaces = (Real,)
    seeded = False
    mean: Tensor
    factor: Tensor
    shrinkage: Tensor

    def __init__(self, event_shape: tuple[int, ...], space: Space) -> None:
        super().__init__(event_shape, space)
        dims = math.prod(event_shape)
        if dims > MOST_DIMENSIONS:
            raise InputError(
                f"a full covariance of {dims} dimensions is too large (at most {MOST_DIMENSIONS}); resize the data or use another model"
            )
        self.register_buffer("mean", torch.zeros(dims, dtype=torch.float64))
        self.register_buffer("factor", torch.eye(dims, dtype=torch.float64))
        self.register_buffer("shrinkage", torch.zeros((), dtype=torch.float64))

    def rules(self) -> dict[str, Rule]:
        """A mean, a Cholesky factor, a share."""
        return {"mean": FINITE, "factor": LOWER_TRIANGULAR, "shrinkage": between(0.0, 1.0, "from 0 to 1")}

    @classmethod
    def codec(cls, split: Split) -> Affine:
        """Standardised, so that the shrinkage target suits every dimension."""
        return fit_codec(split)

    def fit(self, train: Rows, valid: Rows | None = None, *, seed: int = 0, watch: Watch = UNWATCHED) -> None:
        """Mean, covariance and shrinkage in two passes."""
        dims = len(self.mean)
        batches = [slice(i, i + 1024) for i in range(0, len(train), 1024)]
        n = sum(float(train.batch(rows).weights().sum()) for rows in batches)
        if not n > 0:
            raise InputError("the weights sum to 0; give some row a weight")
        mean = torch.zeros(dims, dtype=torch.float64)
        for batch in map(train.batch, batches):
            mean += batch.weights() @ batch.x.flatten(1).double() / n
        covariance, fourth = torch.zeros(dims, dims, dtype=torch.float64), 0.0
        for batch in map(train.batch, batches):
            centred, weight = batch.x.flatten(1).double() - mean, batch.weights()
            covariance += (centred.T * weight) @ centred / n
            fourth += float(weight @ centred.square().sum(1).square()) / n
        refuse_constant(mean.reshape(self.event_shape), covariance.diagonal().sqrt().reshape(self.event_shape))
        rho = _shrinkage(covariance, fourth, n)
        target = float(covariance.trace()) / dims
        covariance.mul_(1 - rho).diagonal().add_(rho * target)
        factor, failed = torch.linalg.cholesky_ex(covariance)
        if int(failed):
            raise InputError(
                "the covariance of the training rows is singular even after shrinking (dimensions that determine each other, "
                "or constant ones); drop such dimensions"
            )
        self.mean.copy_(mean)
        self.factor.copy_(factor)
        self.shrinkage.fill_(rho)

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
        """log N(x; μ, Σ), exact."""
        centred = x.flatten(1).double() - self.mean
        distance = in_blocks(
            lambda rows: torch.linalg.solve_triangular(self.factor, rows.T, upper=False).square().sum(0), BLOCK, centred
        )
        constant = self.factor.diagonal().log().sum() + 0.5 * len(self.mean) * math.log(2 * math.pi)
        on_calls(len(x))
        return LogLikelihood(
            value=-0.5 * distance - constant,
            kind="exact",
            measure="Lebesgue",
            of="one normal",
            method=self.method_or_default(method),
            event_shape=self.event_shape,
        )

    def sample(self, n: int, context: Tensor | None = None, seed: int = 0, *, start: int = 0) -> Tensor:
        """μ + L ε."""
        eps = sample_noise(seed).normal(sample_ids(n, start), (len(self.mean),)).double()
        return (self.mean + in_blocks(lambda rows: rows @ self.factor.T, BLOCK, eps)).reshape(n, *self.event_shape)


def _shrinkage(covariance: Tensor, fourth: float, n: float) -> float:
    """Ledoit and Wolf's ρ, from the mean of ‖x‖⁴ and the covariance."""
    dims = len(covariance)
    square = float(covariance.square().sum())
    spread = (square - float(covariance.trace()) ** 2 / dims) / dims
    error = (fourth - square) / (n * dims)
    return min(1.0, max(0.0, error / spread)) if spread > 0 else 1.0
