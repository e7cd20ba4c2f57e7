"""What a state emits: the contract, and what is counted of it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from jensen.mixture.statistics import Statistics


@dataclass(frozen=True)
class Counts:
    """How often each state emits each level, `levels (K, d, k)` float64."""

    levels: Tensor

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.levels + other.levels)


Expected = Statistics | Counts


class Emission(ABC):
    """p(x_t | z_t = k) for k = 1 … K; steps are `(T, B, d)` with NaN where a cell is missing.

    Attributes:
        states: K.
        dims: d.
        uniforms: how many uniform draws a step takes.
        normals: how many standard normal draws a step takes.
    """

    states: int
    dims: int
    uniforms: int
    normals: int

    @abstractmethod
    def log_prob(self, steps: Tensor) -> Tensor:
        """log p of the observed cells of each step, `(T, K, B)` float64; exactly 0 for a step without any."""

    @abstractmethod
    def expect(self, steps: Tensor, share: Tensor) -> Expected:
        """The sufficient statistics of steps that belong to the states in these shares `(T, K, B)`."""

    @abstractmethod
    def maximise(self, expected: Expected) -> Self:
        """The emission that maximises expected log-likelihood plus log prior."""

    @abstractmethod
    def log_prior(self) -> float:
        """The penalty, up to a constant."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """The parameters by name."""

    @abstractmethod
    def size(self) -> float:
        """A bound on the constants in log p of a step, whose rounding the likelihood inherits, nats."""

    @abstractmethod
    def draw(self, z: Tensor, u: Tensor, eps: Tensor) -> Tensor:
        """x for states `z (n,)`, `(n, d)`, by uniform `u (n, uniforms)` and standard normal `eps (n, normals)` draws."""

    @abstractmethod
    def fill(self, x: Tensor, share: Tensor) -> Tensor:
        """E[x | x_o] of steps `(n, d)`, for posterior shares of the states `(n, K)`."""

    @abstractmethod
    def fill_by_chance(self, x: Tensor, z: Tensor, u: Tensor, eps: Tensor) -> Tensor:
        """Missing cells of steps `(n, d)` drawn from p(x_m | x_o, z), as `draw` does."""


def add(one: Expected, other: Expected) -> Expected:
    """Both together; they must be of one kind."""
    if isinstance(one, Counts) and isinstance(other, Counts):
        return one + other
    assert isinstance(one, Statistics)
    assert isinstance(other, Statistics)
    return one + other


def picked(probabilities: Tensor, u: Tensor) -> Tensor:
    """The number whose share of [0, 1) holds `u (n,)`, for `probabilities (n, K)`."""
    cumulative = probabilities.cumsum(1)
    return (cumulative <= u[:, None] * cumulative[:, -1:]).sum(1).clamp(max=probabilities.shape[1] - 1)
