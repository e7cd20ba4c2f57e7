"""What values a dimension of the data can take: this decides whether a model gives a mass or a density.

`Levels(k)` is k equally spaced discrete values, 0, 1, …, k-1 in data units (a k-level image): the base measure
is counting, a log-likelihood is the log of a probability and bits/dim make sense. `Real` is the real line: the
base measure is Lebesgue's, a log-likelihood is the log of a density and has units.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from jensen.errors import InputError, brief

Measure = Literal["counting", "Lebesgue"]


@dataclass(frozen=True)
class Levels:
    """k equally spaced discrete values first, first + step, …; 0, …, k-1 in data units."""

    k: int
    first: float = 0.0
    step: float = 1.0

    def __post_init__(self) -> None:
        if not 2 <= self.k <= 65536:
            raise InputError(f"levels must be between 2 and 65536, got {self.k}")
        last = self.first + self.step * (self.k - 1)
        if not (math.isfinite(last) and self.first < self.first + self.step and last - self.step < last):
            raise InputError(f"levels must be finite and apart, got first {self.first} and step {self.step}")

    @property
    def measure(self) -> Measure:
        """The base measure of a log-likelihood here."""
        return "counting"

    def values(self) -> Tensor:
        """The values, `(k,)` float64 ascending."""
        return self.first + self.step * torch.arange(self.k, dtype=torch.float64)

    def index(self, y: Tensor) -> Tensor:
        """The number 0 … k-1 of the level nearest to each value, int64."""
        return (y - self.first).div_(self.step).round_().clamp_(0, self.k - 1).long()

    def __str__(self) -> str:
        return f"{self.k} levels"


@dataclass(frozen=True)
class Real:
    """The real line."""

    @property
    def measure(self) -> Measure:
        """The base measure of a log-likelihood here."""
        return "Lebesgue"

    def __str__(self) -> str:
        return "real values"


Space = Levels | Real


def space_to_dict(space: Space) -> dict[str, Any]:
    """A JSON-able description that `space_from_dict` reads back."""
    return {"type": "levels", "k": space.k} if isinstance(space, Levels) else {"type": "real"}


def space_from_dict(config: dict[str, Any]) -> Space:
    """The inverse of `space_to_dict`; an unknown description is an `InputError`."""
    match config:
        case {"type": "levels", "k": int(k)}:
            return Levels(k)
        case {"type": "real"}:
            return Real()
    raise InputError(f"unknown data space {brief(config)}; this run was written by another version of jensen")
