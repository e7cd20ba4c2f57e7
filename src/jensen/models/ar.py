"""`ar`: an autoregressive model, the chain rule with a causal network (note 4, chapter 2).

    log p(x) = Σ_d log p(x_d | x_1, …, x_{d-1}),

every factor a law whose parameters one network puts out for all d at once (`jensen.nn.causal`), so log p is exact and
costs one pass; drawing goes dimension by dimension. Vectors are masked perceptrons in the order of their columns
(MADE, Germain et al. 2015), images masked convolutions in raster order (PixelCNN, van den Oord et al. 2016), sequences a
recurrent unit. The order is a choice: another order is another model.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from jensen.blocks import in_blocks
from jensen.data.codec import Affine, fit_codec
from jensen.data.examples import Batch, Split
from jensen.data.histogram import level_counts
from jensen.data.space import Levels, Space
from jensen.errors import InputError
from jensen.laws.law import Law
from jensen.laws.levels import Categories, Logistics
from jensen.laws.real import Normals
from jensen.likelihood import LogLikelihood
from jensen.models.model import DensityModel, GradientModel, OnCalls, nothing, sample_ids, sample_noise
from jensen.nn.causal import Causal, Raster, Recurrent, Vector
from jensen.noise import Noise
from jensen.training.fitter import Objective, Rows, TrainingSettings

MOST_CATEGORIES = 1024
MOST_CHANNELS = 4
CELLS_AT_ONCE = 1 << 23  # numbers that the network puts out at a time when rows are scored
BLOCK = 32  # rows drawn together
SIZES: dict[str, dict[str, tuple[int, int]]] = {  # network → size → (width, depth)
    "made": {"tiny": (64, 1), "small": (128, 2), "base": (384, 3)},
    "pixelcnn": {"tiny": (32, 4), "small": (64, 6), "base": (128, 9)},
    "rnn": {"tiny": (32, 1), "small": (96, 1), "base": (192, 2)},
}
NETWORKS: dict[str, type[Vector] | type[Raster] | type[Recurrent]] = {
    "made": Vector,
    "pixelcnn": Raster,
    "rnn": Recurrent,
}


class Autoregressive(GradientModel, DensityModel):
    """∏_d p(x_d | x_<d).

    Args:
        event_shape: (C, H, W) for images, anything else is a vector.
        space: of the data, in the model's units.
        network: "made" for vectors, "pixelcnn" for images, "rnn" for sequences (the values of a row in row-major order);
            "auto" is pixelcnn for images and made for the rest.
        conditional: the law of a dimension: "categorical" or "logistic-mixture" on levels, "normal-mixture" on real
            values; "auto" is categorical up to 256 levels.
        n_components: of a mixture.
        size: "tiny", "small" or "base".
        dropout: in the network; None for 0. A fit chooses more where there are few rows.
    """

    summary = "the chain rule with a masked network: every factor p(x_d | x_<d) in one pass, exact"
    paper = "Germain et al. 2015; van den Oord et al. 2016"

    def __init__(
        self,
        event_shape: tuple[int, ...],
        space: Space,
        *,
        network: Literal["auto", "made", "pixelcnn", "rnn"] = "auto",
        conditional: Literal["auto", "categorical", "logistic-mixture", "normal-mixture"] = "auto",
        n_components: int = 8,
        size: Literal["auto", "tiny", "small", "base"] = "auto",
        dropout: float | None = None,
    ) -> None:
        super().__init__(event_shape, space)
        if dropout is not None and not 0 <= dropout < 1:
            raise InputError(f"dropout must lie in [0, 1), got {dropout}")
        if not 1 <= n_components <= 1000:
            raise InputError(f"n_components must be from 1 to 1000, got {n_components}")
        self.law = _law(space, _default_law(space) if conditional == "auto" else conditional, n_components)
        self.word = _default_network(self.event_shape) if network == "auto" else network
        if self.word == "pixelcnn" and (len(self.event_shape) != 3 or self.event_shape[0] > MOST_CHANNELS):
            raise InputError(
                f"network=pixelcnn needs images (C, H, W) with C ≤ {MOST_CHANNELS}, got rows of shape {self.event_shape}; "
                "use made or rnn"
            )
        width, depth = SIZES[self.word]["small" if size == "auto" else size]
        kind = NETWORKS[self.word]
        self.network: Causal = kind(
            self.event_shape, self.law.outputs, width=width, depth=depth, dropout=dropout or 0.0
        )

    @classmethod
    def codec(cls, split: Split) -> Affine:
        """Levels onto [-1, 1], real values standardised."""
        return fit_codec(split)

    @classmethod
    def resolve(cls, split: Split, space: Space, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Network, law and size by data type, shape and number of rows."""
        rows, cells = len(split.train), math.prod(split.event_shape)
        given = {name: value for name, value in settings.items() if value not in ("auto", None)}
        network = given.get("network", _default_network(split.event_shape))
        few = rows < 10_000
        size = ("tiny" if cells <= 256 else "small") if network == "pixelcnn" else "tiny" if rows < 1000 else "small"
        dropout = 0.0 if not few else 0.3 if network == "pixelcnn" or rows < 1000 else 0.1
        chosen = {
            "network": network,
            "conditional": _default_law(space),
            "size": size,
            "dropout": dropout,
            "n_components": 8,
        }
        return {**chosen, **given}

    @classmethod
    def training_settings(cls, split: Split, options: Mapping[str, Any]) -> TrainingSettings:
        """Batch sizes that suit the data."""
        cells = math.prod(split.event_shape)
        size = 256 if options["network"] == "made" else 64 if cells <= 256 else 16 if cells <= 4096 else 8
        return TrainingSettings(batch_size=min(size, len(split.train)), lr=2e-3)

    @torch.no_grad()
    def initialise(self, train: Rows) -> None:
        """Before it has learned anything every conditional is the histogram of the levels of all dimensions together."""
        counts = None
        if isinstance(self.space, Levels) and self.space.k <= MOST_CATEGORIES:
            counts = 1 + level_counts(train, self.space)
        start_at = self.law.start(counts)
        if start_at is not None:
            self.network.bias(start_at)

    def objective(self) -> Objective:
        """-log p(x), a dimension."""
        return ChainRule(self.network, self.law)

    def calibrate(self, valid: Rows, seed: int, on_calls: OnCalls = nothing) -> None:
        """Nothing is left to measure."""

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
        """Σ_d log p(x_d | x_<d), the network in float32, laws and sums in float64."""
        self.eval()
        at_once = max(1, CELLS_AT_ONCE // (math.prod(self.event_shape) * self.law.outputs))
        parts = []
        for rows in x.split(at_once):
            out = self.network(rows.float())
            parts.append(self.law.log_prob(out.double(), rows.double()).flatten(1).sum(1))
            on_calls(len(rows))
        return LogLikelihood(
            value=torch.cat(parts),
            kind="exact",
            measure=self.space.measure,
            of=f"chain rule, {self.word}",
            method=self.method_or_default(method),
            event_shape=self.event_shape,
            precision="float32",
        )

    @torch.no_grad()
    def sample(self, n: int, context: Tensor | None = None, seed: int = 0, *, start: int = 0) -> Tensor:
        """Dimension by dimension; what the network has worked out for the ones before is kept."""
        self.eval()
        ids, noise = sample_ids(n, start), sample_noise(seed)
        return in_blocks(lambda block: self._generated(block, noise), BLOCK, ids)

    def _generated(self, ids: Tensor, noise: Noise) -> Tensor:
        u = noise.uniform(ids, (math.prod(self.event_shape), 2)).to(self.device)
        return self.network.generate(len(ids), lambda out, place: self.law.draw(out, u[:, place]))


class ChainRule(Objective):
    """-log p(x) of each row, a dimension.

    Args:
        network: the causal network.
        law: of a dimension.
    """

    def __init__(self, network: Causal, law: Law) -> None:
        super().__init__()
        self.network, self.law = network, law

    def _log_prob(self, x: Tensor) -> Tensor:
        return self.law.total(self.network(x.float()).flatten(1, -2), x.float().flatten(1))

    def forward(self, batch: Batch, noise: Noise) -> Tensor:
        """The mean over dimensions, so that one learning rate suits rows of any size."""
        return -self._log_prob(batch.x) / batch.x[0].numel()

    def held_out(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        """log p(x)."""
        return {"log_likelihood": self._log_prob(batch.x)}


def _default_network(event: tuple[int, ...]) -> str:
    return "pixelcnn" if len(event) == 3 and event[0] <= MOST_CHANNELS else "made"


def _default_law(space: Space) -> str:
    if not isinstance(space, Levels):
        return "normal-mixture"
    return "categorical" if space.k <= 256 else "logistic-mixture"


def _law(space: Space, word: str, components: int) -> Law:
    if isinstance(space, Levels):
        if word == "categorical" and space.k <= MOST_CATEGORIES:
            return Categories(space)
        if word == "logistic-mixture":
            return Logistics(space, components)
        rule = f"categorical (up to {MOST_CATEGORIES} levels) or logistic-mixture"
    elif word == "normal-mixture":
        return Normals(components)
    else:
        rule = "normal-mixture"
    raise InputError(f"conditional must be {rule} for {space}, got {word}")
