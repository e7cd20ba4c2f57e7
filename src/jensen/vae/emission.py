"""p(x | z): a decoder's numbers, and what they say of the cells of a row.

`Cells`        independent given z: a law for every cell, or one a column
`Correlated`   N(μ(z), diag(s(z)²) + F(z) F(z)ᵀ)

A law's scale may come from the network, anew for every row, or be shared by all rows (`spread`).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from jensen.distributions.conditional import Conditional
from jensen.distributions.from_noise import LowRankNormal
from jensen.laws.law import Law, inside
from jensen.laws.total import single
from jensen.vae.networks import Decoder
from jensen.vae.spread import Optimal, Spread

FLOOR = -6.9  # logarithm of the smallest standard deviation of `Correlated`, in standard deviations of the data: 0.001


class Emitted(Distribution, ABC):
    """p(x | z) of rows of an event shape; batch_shape is that of z, `(*draws, B)`."""

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}
    support = constraints.real

    @abstractmethod
    def log_prob(self, value: Tensor) -> Tensor:
        """log p(x | z) of rows `(B, *event)` under every draw of z, `(*draws, B)` float64."""

    @property
    @abstractmethod
    def mean(self) -> Tensor:
        """E[x | z], `(*draws, B, *event)`."""

    @abstractmethod
    def draw(self, u: Float[Tensor, "*B cells 2"]) -> Tensor:
        """x ~ p(x | z) from two uniform numbers a cell, `(*B, *event)` float64."""

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """One draw from torch's own generator."""
        assert not sample_shape
        return self.draw(torch.rand(*self.batch_shape, self.event_shape.numel(), 2, dtype=torch.float64))


@dataclass(frozen=True)
class Column:
    """Cells of one law.

    Attributes:
        at: their numbers in the flattened row; None for all.
        law: theirs.
        spread: how the decoder's numbers become the law's.
    """

    at: Tensor | None
    law: Law
    spread: Spread

    def of(self, values: Tensor, dim: int) -> Tensor:
        """The part of values that is theirs."""
        return values if self.at is None else values.index_select(dim, self.at.to(values.device))

    def numbers(self, raw: Float[Tensor, "*B cells outputs"]) -> Float[Tensor, "*B own numbers"]:
        """The law's parameters."""
        own = self.of(raw, -2)
        return self.spread(own if own.shape[-1] == self.spread.outputs else own[..., : self.spread.outputs])


class Independent(Emitted):
    """∏_d p(x_d | z).

    Args:
        columns: the laws.
        raw: the decoder's numbers.
        event: of a row.
    """

    def __init__(
        self, columns: Sequence[Column], raw: Float[Tensor, "*B cells outputs"], event: tuple[int, ...]
    ) -> None:
        self.columns, self.raw = columns, raw
        super().__init__(raw.shape[:-2], torch.Size(event), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Σ_d log p(x_d | z), summed in float64."""
        flat = value.flatten(-len(self.event_shape)).to(torch.promote_types(self.raw.dtype, torch.float32))
        parts = []
        for column in self.columns:
            x = column.of(flat, -1)
            column.spread.see(column.of(self.raw, -2), x)
            parts.append(column.law.total(column.numbers(self.raw), x))
        return torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]

    @property
    def mean(self) -> Tensor:
        """Column by column."""
        return self._gathered([column.law.mean(single(column.numbers(self.raw))) for column in self.columns])

    def draw(self, u: Tensor) -> Tensor:
        """Cell by cell."""
        parts = []
        for column in self.columns:
            numbers = single(column.numbers(self.raw))
            drawn = column.law.draw(numbers.flatten(0, -2), column.of(u, -2).flatten(0, -2))
            parts.append(drawn.view(numbers.shape[:-1]))
        return self._gathered(parts)

    def _gathered(self, parts: list[Tensor]) -> Tensor:
        """The parts in the places of their cells."""
        if len(parts) == 1 and self.columns[0].at is None:
            return parts[0].unflatten(-1, self.event_shape)
        out = parts[0].new_empty(*self.batch_shape, self.event_shape.numel())
        for column, part in zip(self.columns, parts, strict=True):
            assert column.at is not None
            out[..., column.at] = part.to(out)
        return out.unflatten(-1, self.event_shape)


class LowRank(Emitted):
    """N(μ, diag(s²) + F Fᵀ) of a flattened row.

    Args:
        normal: of vectors.
        event: of a row.
    """

    def __init__(self, normal: LowRankNormal, event: tuple[int, ...]) -> None:
        self.normal = normal
        super().__init__(normal.batch_shape, torch.Size(event), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """By Woodbury's identity."""
        flat = value.flatten(-len(self.event_shape)).to(self.normal.loc.dtype)
        return self.normal.log_prob(flat).double()

    @property
    def mean(self) -> Tensor:
        """μ."""
        return self.normal.loc.unflatten(-1, self.event_shape)

    def draw(self, u: Tensor) -> Tensor:
        """The first number of every cell is its own noise, the second of the first r cells the shared one."""
        eps = torch.special.ndtri(inside(u))
        rank = self.normal.factor.shape[-1]
        noise = torch.cat([eps[..., 0], eps[..., :rank, 1]], -1)
        return self.normal.place(noise).double().unflatten(-1, self.event_shape)


class Observed(nn.Module, ABC):
    """What a decoder's numbers say of a row.

    Attributes:
        outputs: how many numbers a cell takes.
    """

    outputs: int

    @abstractmethod
    def forward(self, raw: Float[Tensor, "*B cells outputs"], event: tuple[int, ...]) -> Emitted:
        """p(x | z)."""

    @abstractmethod
    def start(self, mean: Float[Tensor, " cells"], counts: Float[Tensor, "cells k"] | None) -> Tensor:
        """The numbers `(cells, outputs)` to begin with, from the cells' means and, on levels, how often each occurs."""


class Cells(Observed):
    """Independent cells.

    Args:
        columns: the laws of the cells.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__()
        self.columns = tuple(columns)
        self.spreads = nn.ModuleList(column.spread for column in columns)
        self.outputs = max(column.spread.outputs for column in columns)

    def forward(self, raw: Tensor, event: tuple[int, ...]) -> Independent:
        """∏_d p(x_d | z)."""
        now = [Column(c.at, c.law, s) for c, s in zip(self.columns, self._spreads(), strict=True)]
        return Independent(now, raw, event)

    def _spreads(self) -> list[Spread]:
        """The present ones: a copy of this module has its own."""
        return [s for s in self.spreads if isinstance(s, Spread)]

    @property
    def optimal(self) -> list[tuple[Column, Optimal]]:
        """The columns whose scale is closed-form."""
        return [(c, s) for c, s in zip(self.columns, self._spreads(), strict=True) if isinstance(s, Optimal)]

    def set_optimal(self, squared_error: Float[Tensor, " cells"]) -> None:
        """Have the optimal scales of these errors E (x - E[x | z])²."""
        for column, spread in self.optimal:
            spread.set(column.of(squared_error, -1).mean())

    def start(self, mean: Tensor, counts: Tensor | None) -> Tensor:
        """Law by law."""
        out = torch.zeros(len(mean), self.outputs)
        for column in self.columns:
            own = None if counts is None else column.of(counts, 0)
            found = column.law.start(own)
            start = torch.zeros(column.law.outputs) if found is None else found
            numbers = start.expand(len(column.of(mean, 0)), -1).to(out, copy=True)
            if column.law.located:
                numbers[:, 0] = column.of(mean, 0)
            rows = slice(None) if column.at is None else column.at
            out[rows, : column.spread.outputs] = numbers[:, : column.spread.outputs]
        return out


class Correlated(Observed):
    """N(μ, diag(s²) + F Fᵀ).

    Args:
        rank: columns of F.
    """

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.outputs = 2 + rank

    def forward(self, raw: Tensor, event: tuple[int, ...]) -> LowRank:
        """μ, log s, F."""
        raw = raw.double()  # Woodbury's identity subtracts large numbers: in float32 it is off by nats
        normal = LowRankNormal(raw[..., 0], raw[..., 2:], raw[..., 1].clamp(FLOOR, 10.0))
        return LowRank(normal, event)

    def start(self, mean: Tensor, counts: Tensor | None) -> Tensor:
        """The mean, and as much variance as the data have."""
        out = torch.zeros(len(mean), self.outputs)
        out[:, 0] = mean
        return out


class Emission(Conditional):
    """p(x | z).

    Args:
        network: z, with its class, → numbers a cell.
        observed: what they say.
        event: of a row.
        seen: how many numbers of z the decoder sees, the first ones; None for all.
    """

    def __init__(self, network: Decoder, observed: Observed, event: tuple[int, ...], seen: int | None = None) -> None:
        super().__init__()
        self.network, self.observed, self.event, self.seen = network, observed, event, seen

    def forward(self, given: Float[Tensor, "*draws B D"], context: Tensor | None = None) -> Emitted:
        """p(x | z) of every z; the network computes in its own precision, and laws in at least float32."""
        z = given if self.seen is None else given[..., : self.seen]
        if context is not None:
            z = torch.cat([z, context.to(z).expand(*z.shape[:-1], -1)], -1)
        weight = next(self.network.parameters())
        raw = self.network(z.flatten(0, -2).to(weight.dtype))
        emitted = self.observed(raw.unflatten(0, z.shape[:-1]), self.event)
        assert isinstance(emitted, Emitted)
        return emitted
