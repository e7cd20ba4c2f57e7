"""`flow`: a normalising flow of rational-quadratic splines, an exact density on real values.

    log p(x) = log N(f(x); 0, I) + log |det ∂f/∂x|,    f = S_L ∘ A_L ∘ … ∘ A_2 ∘ S_1 ∘ W

(Durkan et al. 2019, "Neural spline flows"). W whitens by mean and covariance of the training rows, shrunk as in Ledoit and
Wolf (2004), and is not trained; S are splines with numbers from masked networks, autoregressive in one order and the other
in turn, or coupling one half and the other; A are learned linear maps L U. All but W start as the identity: before the
first step the flow is a normal, and what is trained is how the data differ from one. The pieces stand in `jensen.flow`.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from jensen.data.codec import Affine, fit_codec
from jensen.data.examples import Batch, Split
from jensen.data.space import Real, Space
from jensen.distributions.spline import parameters_of
from jensen.errors import InputError
from jensen.flow.bijection import Bijection, Chain, Linear, MaskedSpline, Whitening, log_density
from jensen.likelihood import LogLikelihood
from jensen.models.model import DensityModel, GradientModel, OnCalls, nothing, sample_ids, sample_noise
from jensen.noise import Noise
from jensen.training.fitter import Objective, Rows, TrainingSettings

MOST_DIMENSIONS = 4096  # W then takes 128 MiB, and each A 64
MOST_WEIGHTS = 1 << 28  # of all networks together: 1 GiB
AUTOREGRESSIVE_UP_TO = 64  # dimensions; beyond, masked networks grow with their square, and samples take as many pieces
WHITENING_ROWS = 20_000
FEW_ROWS = 1000  # below, flows overfit: they are smaller and trained with more restraint
CELLS_AT_ONCE = 1 << 22


class Flow(GradientModel, DensityModel):
    """A spline flow.

    Args:
        event_shape: of a row, flattened here.
        space: where rows live.
        kind: "autoregressive" (each dimension given all before it) or "coupling" (one half given the other, sampled in
            one pass); "auto" is autoregressive up to 64 dimensions.
        layers: spline layers; None for 4. A fit chooses by the number of training rows.
        bins: of each spline.
        bound: splines are the identity outside [-bound, bound], in units in which the data are whitened.
        width: units of the networks; None for 64. A fit chooses by the number of training rows.
        depth: their residual blocks.
        dropout: in the networks; None for 0. A fit chooses by the number of training rows.
        linear: whether learned linear maps stand between the layers.
    """

    summary = "a normalising flow of splines: an exact density; on levels a dequantised lower bound"
    paper = "Durkan et al. 2019"
    spaces = (Real,)

    def __init__(
        self,
        event_shape: tuple[int, ...],
        space: Space,
        *,
        kind: Literal["auto", "autoregressive", "coupling"] = "auto",
        layers: int | None = None,
        bins: int = 8,
        bound: float = 5.0,
        width: int | None = None,
        depth: int = 2,
        dropout: float | None = None,
        linear: bool = True,
    ) -> None:
        super().__init__(event_shape, space)
        dims = math.prod(self.event_shape)
        layers, width, dropout = (
            4 if layers is None else layers,
            64 if width is None else width,
            0.0 if dropout is None else dropout,
        )
        _check(dims, layers, bins, bound, width, depth, dropout)
        kind = _default_kind(dims) if kind == "auto" else kind
        maps: list[Bijection] = [Whitening(dims)]
        for number in range(layers):
            maps += [Linear(dims)] if linear and number else []
            maps += [
                MaskedSpline(
                    dims,
                    _order(kind, dims, number),
                    bins=bins,
                    bound=bound,
                    width=width,
                    depth=depth,
                    dropout=dropout,
                )
            ]
        self.map = Chain(*maps)
        self._at_once = max(1, CELLS_AT_ONCE // (dims * parameters_of(bins)))  # rows whose splines are held together

    @classmethod
    def codec(cls, split: Split) -> Affine:
        """Levels onto [-1, 1], real values standardised."""
        return fit_codec(split)

    @classmethod
    def resolve(cls, split: Split, space: Space, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Order by dimensions, width and dropout by rows."""
        dims, rows = math.prod(split.event_shape), len(split.train)
        told = {
            "bins": 8,
            "bound": 5.0,
            "depth": 2,
            "linear": True,
        }  # so that another default is not another p for a run
        chosen = {"kind": _default_kind(dims), **_regularised(rows), **told}
        return {**chosen, **{name: value for name, value in settings.items() if value not in ("auto", None)}}

    @classmethod
    def training_settings(cls, split: Split, options: Mapping[str, Any]) -> TrainingSettings:
        """Slow and with strong decay towards the normal where rows are few; float32, in which the linear maps are those whose
        determinants are counted.
        """
        rows = len(split.train)
        rate, decay = (3e-4, 1.0) if rows < FEW_ROWS else (1e-3, 0.01)
        return TrainingSettings(
            batch_size=min(256, max(1, rows // 2)), lr=rate, weight_decay=decay, precision="float32"
        )

    def initialise(self, train: Rows) -> None:
        """W from mean and shrunk covariance of at most 20,000 training rows, a fixed random choice."""
        chosen = Noise(0, "whitening").permutation(len(train))[:WHITENING_ROWS]
        rows = torch.cat([train.batch(part).x.flatten(1).double().cpu() for part in chosen.split(1024)])
        whitening = self.map.maps[0]
        assert isinstance(whitening, Whitening)
        whitening.set(*_normal_of(rows))

    def objective(self) -> Objective:
        """-log p, a dimension."""
        return FlowObjective(self.map)

    def calibrate(self, valid: Rows, seed: int, on_calls: OnCalls = nothing) -> None:
        """Nothing: all of a flow is trained."""

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
        **plan: Any,
    ) -> LogLikelihood:
        """log p(x), exact: networks in float32, all else in float64."""
        self.eval()
        parts = x.flatten(1).double().split(self._at_once)
        on_calls(len(x))
        return LogLikelihood(
            value=torch.cat([log_density(self.map, part) for part in parts]),
            kind="exact",
            measure="Lebesgue",
            of="normalising flow",
            method=self.method_or_default(method),
            event_shape=self.event_shape,
            precision="float32",
        )

    @torch.no_grad()
    def sample(self, n: int, context: Tensor | None = None, seed: int = 0, *, start: int = 0) -> Tensor:
        """f⁻¹ of normal draws."""
        self.eval()
        dims = math.prod(self.event_shape)
        z = sample_noise(seed).normal(sample_ids(n, start), (dims,)).double().to(self.device)
        x = torch.cat([self.map.inverse(part) for part in z.split(self._at_once)])
        return x.reshape(n, *self.event_shape)


class FlowObjective(Objective):
    """-log p(x) / D of each row."""

    def __init__(self, flow: Bijection) -> None:
        super().__init__()
        self.map = flow

    def forward(self, batch: Batch, noise: Noise) -> Tensor:
        """The loss of each row."""
        x = batch.x.flatten(1)
        return -log_density(self.map, x) / x.shape[1]

    def held_out(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """log p of each row."""
        return {"log p": log_density(self.map, batch.x.flatten(1))}


def _default_kind(dims: int) -> Literal["autoregressive", "coupling"]:
    return "autoregressive" if dims <= AUTOREGRESSIVE_UP_TO else "coupling"


def _order(kind: str, dims: int, number: int) -> list[int] | list[list[int]]:
    """The places of the dimensions in a layer: onwards and backwards in turn; or even before odd ones, and the reverse."""
    if kind == "autoregressive":
        return list(range(dims))[:: -1 if number % 2 else 1]
    halves = [half for half in (list(range(0, dims, 2)), list(range(1, dims, 2))) if half]
    return halves[:: -1 if number % 2 else 1]


def _regularised(rows: int) -> dict[str, Any]:
    """Layers, width and dropout of the networks: few, small and much where rows are few."""
    few = rows < FEW_ROWS
    return {
        "layers": 2 if few else 4,
        "width": 32 if few else 64,
        "dropout": 0.3 if rows < 500 else 0.1 if rows < 5000 else 0.0,
    }


def _normal_of(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean, and Cholesky factor of the covariance, shrunk towards a multiple of the identity."""
    from sklearn.covariance import ledoit_wolf

    covariance, _ = ledoit_wolf(rows.numpy())
    factor, failed = torch.linalg.cholesky_ex(torch.from_numpy(np.ascontiguousarray(covariance)))
    if int(failed):
        raise InputError(
            "the covariance of the training rows is singular even after shrinking (dimensions that determine each other, "
            "or constant ones); drop such dimensions"
        )
    return rows.mean(0), factor


def _check(dims: int, layers: int, bins: int, bound: float, width: int, depth: int, dropout: float) -> None:
    """Refuse what cannot be, and what would not fit in memory."""
    if dims > MOST_DIMENSIONS:
        raise InputError(
            f"a flow of {dims} dimensions is too large (at most {MOST_DIMENSIONS}); resize the data or use another model"
        )
    rules = {
        "layers": (1 <= layers <= 64, "from 1 to 64", layers),
        "bins": (2 <= bins <= 128, "from 2 to 128", bins),
        "bound": (0.1 <= bound <= 1000, "from 0.1 to 1000", bound),
        "width": (1 <= width <= 4096, "from 1 to 4096", width),
        "depth": (0 <= depth <= 16, "from 0 to 16", depth),
        "dropout": (0 <= dropout < 1, "in [0, 1)", dropout),
    }
    for name, (holds, rule, value) in rules.items():
        if not holds:
            raise InputError(f"{name} must be {rule}, got {value}")
    weights = layers * (max(width, dims) * (dims * (1 + parameters_of(bins)) + 2 * depth * max(width, dims)) + dims**2)
    if weights > MOST_WEIGHTS:
        raise InputError(
            f"a flow of {layers} layers on {dims} dimensions would have up to {weights:,} weights, at most {MOST_WEIGHTS:,} "
            "are allowed; take fewer layers, bins or units, or resize the data"
        )
