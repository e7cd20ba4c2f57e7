"""Codecs: deterministic bijections between data units and the units a model works in.

Units live here and only here. A codec is fitted on training data, maps the space as well as the values, and
knows its log |det|: with y = encode(x),

    log p_X(x) = log p_Y(y) + log |det dy/dx|      for a density,    log P_X(x) = log P_Y(y)      for a mass.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from jensen.data.examples import Examples, Split
from jensen.data.space import Levels, Space
from jensen.errors import InputError, brief


class Codec(nn.Module, ABC):
    """A bijection from data units `(B, *event)` to a model's units of the same shape."""

    @abstractmethod
    def encode(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """Data units → model units, in `dtype`; if None, float64 for float64 data and float32 otherwise. NaN stays NaN."""

    @abstractmethod
    def decode(self, y: Tensor) -> Tensor:
        """Model units → data units, floating point."""

    @abstractmethod
    def log_abs_det(self, x: Tensor) -> Tensor:
        """log |det dy/dx| of the observed cells of each row, `(B,)` float64."""

    @abstractmethod
    def image(self, space: Space) -> Space:
        """The space of encoded values."""


class Affine(Codec):
    """y = (x - shift) / scale, with shift and scale broadcast over the event.

    Args:
        shift: `(*event)` or anything that broadcasts to it.
        scale: likewise, positive.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, shift: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("shift", shift.to(torch.float64))
        self.register_buffer("scale", scale.to(torch.float64))
        self._halves = _halves(self.shift) and _halves(self.scale)

    def to_dict(self) -> dict[str, Any]:
        """The parameters as plain numbers, exactly."""
        return {"type": "affine", "shift": self.shift.tolist(), "scale": self.scale.tolist()}

    @staticmethod
    def from_dict(config: dict[str, Any]) -> "Affine":
        """The inverse of `to_dict`."""
        if config.get("type") != "affine":
            raise InputError(f"codec.type must be 'affine', got {brief(config.get('type'))}")
        shift, scale = (_numbers(config.get(name), f"codec.{name}") for name in ("shift", "scale"))
        if not bool((scale > 0).all()):
            raise InputError(f"codec.scale must be positive, got {brief(config['scale'])}")
        return Affine(shift, scale)

    def encode(self, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """(x - shift) / scale, computed in float64: in float32 it has not the digits of float32 data where |x - shift| ≫ |x|. Of levels that
        are whole numbers, less a half of one, the float32 quotient is the same to the bit (53 ≥ 2 · 24 + 2 digits: Figueroa 1995).
        """
        own = torch.float64 if x.dtype == torch.float64 else torch.float32
        if self._halves and x.dtype == torch.uint8 and dtype in (None, torch.float32):
            return x.to(torch.float32).sub_(self.shift.float()).div_(self.scale.float())
        return ((x.to(torch.float64) - self.shift) / self.scale).to(dtype or own)

    def decode(self, y: Tensor) -> Tensor:
        """shift + scale · y, float64."""
        return self.shift + self.scale * y.to(torch.float64)

    def log_abs_det(self, x: Tensor) -> Tensor:
        """-Σ log scale over observed cells."""
        observed = torch.ones_like(x, dtype=torch.float64) if not x.is_floating_point() else (~x.isnan()).double()
        return -(self.scale.log() * observed).flatten(1).sum(1)

    def image(self, space: Space) -> Space:
        """Levels keep being equally spaced (the scale is then a scalar); Real stays Real."""
        if isinstance(space, Levels):
            return Levels(
                space.k, (space.first - float(self.shift)) / float(self.scale), space.step / float(self.scale)
            )
        return space


def _halves(numbers: Tensor) -> bool:
    """Whether they are multiples of a half, and so small that float32 has their difference to any level."""
    return bool(((2 * numbers).frac() == 0).all() and (numbers.abs() <= 1 << 20).all())


def _numbers(value: Any, name: str) -> Tensor:
    """Numbers in nested lists as a float64 tensor."""
    try:
        numbers = torch.tensor(value, dtype=torch.float64)
        assert bool(numbers.isfinite().all())
    except (TypeError, ValueError, RuntimeError, OverflowError, AssertionError):
        raise InputError(f"{name} must be finite numbers in lists of equal lengths, got {brief(value)}") from None
    return numbers


def identity() -> Affine:
    """The codec that changes nothing but the dtype."""
    return Affine(torch.zeros(()), torch.ones(()))


def fit_codec(split: Split) -> Affine:
    """The codec for networks: Levels onto [-1, 1]; Real to mean 0 and variance 1, per column of vectors and per
    channel of images, from the training rows.
    """
    if isinstance(split.space, Levels):
        half = torch.tensor((split.space.k - 1) / 2)
        return Affine(half, half)
    return _standardise(split.train, split.facts.get("columns") or ())


def refuse_constant(mean: Tensor, deviation: Tensor, columns: Sequence[str] = ()) -> None:
    """Refuse columns that are the same in every row, given their computed mean and standard deviation, NaN where a
    column is missing in every row. The mean of equal numbers is rarely that number to the bit: its rounding counts as 0.

    Args:
        mean: `(*event)`.
        deviation: likewise.
        columns: their names, where they have any.

    Raises:
        InputError: the first such column.
    """
    constant = ~(deviation > 1e-12 * mean.abs()).flatten()
    if not bool(constant.any()):
        return
    at = int(constant.nonzero()[0])
    where = _place(at, tuple(mean.shape), columns)
    if bool(deviation.flatten()[at].isnan()):
        raise InputError(f"{where} has no values in the training rows; drop it")
    # images come here in a model's units too, where their value says nothing; tables are refused before, in their own
    value = f" (value {float(mean[at]):g})" if mean.ndim == 1 else ""
    raise InputError(f"{where} is constant in the training rows{value}, so its density is infinite; drop it")


def _place(at: int, shape: tuple[int, ...], columns: Sequence[str]) -> str:
    """A dimension as a person names it."""
    if len(shape) == 1:
        return f"column {at + 1} ({repr(columns[at]) if columns else 'counted from 1'})"
    index = tuple(int(i) + 1 for i in np.unravel_index(at, shape))
    if math.prod(shape[1:]) == 1:
        return f"channel {index[0]} (counted from 1)"
    return f"dimension {index} (counted from 1)"


def _standardise(train: Examples, columns: Sequence[str]) -> Affine:
    x = train.x.to(torch.float64)
    rest = [0, *range(2, x.ndim)] if x.ndim == 4 else [0]
    mean = x.nanmean(dim=rest, keepdim=True)
    deviation = (x - mean).square().nanmean(dim=rest, keepdim=True).sqrt()[0]
    refuse_constant(mean[0], deviation, columns)
    return Affine(mean[0], deviation)
