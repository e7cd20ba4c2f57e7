"""Rows of data on their way to a model: `Batch`, `Examples` and `Split`.

Values stay in data units and in their own dtype (uint8 images stay uint8); a codec changes units later.
A missing cell is NaN. Every row has a stable integer id, its row number in the source, which also seeds the
row's noise, so that results do not depend on batching.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from jensen.data.space import Space
from jensen.errors import InputError
from jensen.noise import Noise

DTYPES = (torch.uint8, torch.uint16, torch.float32, torch.float64)


@dataclass(frozen=True)
class Batch:
    """Some rows: `x (B, *event)` in data units, `id (B,)`, and optional `context`, `weight` with B rows."""

    x: Tensor
    id: Tensor
    context: Tensor | None = None
    weight: Tensor | None = None

    @property
    def mask(self) -> Tensor:
        """The observed cells, `(B, *event)` bool: False where a cell is NaN."""
        if not self.x.dtype.is_floating_point:
            return torch.ones(self.x.shape, dtype=torch.bool)
        return ~torch.isnan(self.x)

    def weights(self) -> Tensor:
        """The rows' weights, `(B,)` float64, 1 where there are none; they must be finite and at least 0."""
        if self.weight is None:
            return torch.ones(len(self.x), dtype=torch.float64, device=self.x.device)
        return checked_weights(self.weight.to(self.x.device, torch.float64))

    def to(self, device: torch.device) -> "Batch":
        """The rows on that device; ids stay where noise is made, on the CPU."""
        context, weight = (None if t is None else t.to(device) for t in (self.context, self.weight))
        return Batch(self.x.to(device), self.id, context, weight)


def checked_weights(weight: Tensor) -> Tensor:
    """Weights of rows as they are; not finite or below 0 is an `InputError`."""
    if not bool((torch.isfinite(weight) & (weight >= 0)).all()):
        raise InputError("weights must be finite and at least 0; drop or mend such rows")
    return weight


class Rows(Protocol):
    """Anything with rows."""

    def __len__(self) -> int: ...

    def batch(self, indices: Tensor | slice) -> Batch:
        """The rows at these positions."""


@runtime_checkable
class Fresh(Protocol):
    """Rows that a training step may draw anew."""

    def fresh(self, indices: Tensor | slice, noise: Noise) -> Batch:
        """The rows at these positions, as this noise has them."""


@dataclass(frozen=True)
class Examples:
    """Rows in memory: `x (N, *event)`, `id (N,)` int64, optional class codes `context (N,)`, file names, and the protocol by which
    the values were made, which stands beside every number about them.
    """

    x: Tensor
    id: Tensor
    context: Tensor | None = None
    weight: Tensor | None = None
    names: tuple[str, ...] | None = None
    protocol: str = ""

    def __len__(self) -> int:
        return len(self.x)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of one row."""
        return tuple(self.x.shape[1:])

    def batch(self, indices: Tensor | slice) -> Batch:
        """The rows at these positions."""
        context = None if self.context is None else self.context[indices]
        weight = None if self.weight is None else self.weight[indices]
        return Batch(rows_of(self.x, indices), self.id[indices], context, weight)

    def batches(self, size: int) -> Iterator[Batch]:
        """All rows in order, at most `size` at a time; the last batch may be short."""
        return (self.batch(slice(i, i + size)) for i in range(0, len(self), size))

    def take(self, indices: Tensor) -> "Examples":
        """The rows at these positions, as Examples again."""
        names = None if self.names is None else tuple(self.names[i] for i in indices.tolist())
        part = self.batch(indices)
        return Examples(part.x, part.id, part.context, part.weight, names, self.protocol)

    def digest(self) -> str:
        """A hash of ids, values and weights, if any: equal exactly when the rows are the same rows."""
        digest = hashlib.sha256(repr((tuple(self.x.shape), str(self.x.dtype))).encode())
        digest.update(self.id.contiguous().numpy().tobytes())
        for start in range(0, len(self), 4096):
            digest.update(self.x[start : start + 4096].contiguous().numpy().tobytes())
        if self.weight is not None:
            digest.update(self.weight.to(torch.float64).contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]


def rows_of(x: Tensor, indices: Tensor | slice) -> Tensor:
    """The rows at these positions, copied whole."""
    return x[indices] if isinstance(indices, slice) else x.index_select(0, indices)


@dataclass(frozen=True)
class Split:
    """Train, valid and test rows with what is known about them. `facts` says where they came from and what
    was done to them (JSON-able): source, path, resize, split seed, notes.
    """

    train: Examples
    valid: Examples
    test: Examples
    space: Space
    class_names: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of one row."""
        return self.train.event_shape

    def all_rows(self) -> Examples:
        """Every row, in the order of the source."""
        parts = (self.train, self.valid, self.test)
        order = torch.cat([part.id for part in parts]).argsort()
        joined = Examples(
            torch.cat([part.x for part in parts]),
            torch.cat([part.id for part in parts]),
            None if self.train.context is None else torch.cat([p.context for p in parts if p.context is not None]),
            None if self.train.weight is None else torch.cat([p.weight for p in parts if p.weight is not None]),
            None if self.train.names is None else sum((p.names for p in parts if p.names is not None), ()),
            self.test.protocol,
        )
        return joined.take(order)

    @property
    def fingerprint(self) -> str:
        """A hash of every row of the three parts."""
        parts = (part.digest() for part in (self.train, self.valid, self.test))
        return hashlib.sha256("".join(parts).encode()).hexdigest()[:16]

    @property
    def class_fingerprint(self) -> str | None:
        """A hash of the classes' names and of every training row's class, which `fingerprint` leaves out; None without
        classes.
        """
        if self.train.context is None:
            return None
        digest = hashlib.sha256(repr(self.class_names).encode())
        digest.update(self.train.context.contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]


def as_examples(data: "Examples | Tensor | np.ndarray[Any, Any]") -> Examples:
    """Examples from a tensor or an array of shape `(N, *event)`; ids are row numbers. Examples pass through."""
    if isinstance(data, Examples):
        return data
    x = data.detach().cpu() if isinstance(data, Tensor) else torch.from_numpy(np.ascontiguousarray(data))
    if x.dtype not in DTYPES:
        raise InputError(
            f"values must be uint8, uint16, float32 or float64, got {x.dtype}; convert them, for example with .astype('float32')"
        )
    if x.ndim < 2:
        raise InputError(f"data must have shape (rows, ...), got {tuple(x.shape)}; for one column use (rows, 1)")
    return Examples(x, torch.arange(len(x)))
