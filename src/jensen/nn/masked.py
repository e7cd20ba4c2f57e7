"""A residual perceptron whose output d sees only the inputs before d: the chain rule in one pass.

Every unit has a **degree**: the input at place r of the order has degree r, a unit of degree m sees the inputs of degree
at most m, and the outputs of the dimension at place r see the units of degree below r. So a weight is kept where

    degree(to) ≥ degree(from)   (inside),      degree(to) > degree(from)   (into the outputs)

(Germain et al. 2015, "MADE", equations 12 and 13), and every path from input to output goes strictly forward in the order.
A context has degree -1: everything sees it. Residual blocks keep the degrees of their units, so they add to what a unit
knows and nothing to what it sees (Nash and Durkan 2019, "Autoregressive energy machines"). Nothing normalises across
units: that would mix degrees.

Degrees are spread evenly and in rising order over the units of a layer. That makes them a function of the sizes alone,
and the units that a new input settles a slice: going through the dimensions in order (`in_order`) computes each unit once.

Several dimensions may stand at one place: none of them sees another. With two places, half of the dimensions each, this is
the network of a coupling layer (Dinh et al. 2017): the second half sees the first, and the first sees nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from jensen.errors import InputError
from jensen.nn.layers import zero_init

__all__ = ["Masked", "MaskedLinear"]

MOST_WEIGHTS = 1 << 28  # of one layer: 1 GiB


class MaskedLinear(nn.Linear):
    """A linear layer with some weights fixed at zero.

    Args:
        into: the degrees of the outputs.
        out_of: the degrees of the inputs.
        strictly: whether an output sees only smaller degrees, not its own.
    """

    mask: Tensor

    def __init__(self, out_of: Tensor, into: Tensor, *, strictly: bool = False) -> None:
        weights = len(out_of) * len(into)
        if weights > MOST_WEIGHTS:
            raise InputError(
                f"a masked layer would have {len(out_of)} × {len(into)} weights, at most {MOST_WEIGHTS:,} are allowed; "
                "take fewer dimensions, outputs or units"
            )
        super().__init__(len(out_of), len(into))
        into, out_of = (degrees.to(self.weight.device) for degrees in (into, out_of))
        kept = into[:, None] > out_of if strictly else into[:, None] >= out_of
        self.register_buffer("mask", kept.to(self.weight.dtype), persistent=False)

    def forward(self, x: Float[Tensor, "B n"]) -> Float[Tensor, "B m"]:
        """W x + b with the masked weights."""
        return F.linear(x, self.weight * self.mask, self.bias)

    def part(self, x: Float[Tensor, "B n"], units: slice | Tensor, seen: int) -> Float[Tensor, "B k"]:
        """Some of the outputs from the first `seen` inputs, where they see no others."""
        return F.linear(x[:, :seen], (self.weight[units, :seen] * self.mask[units, :seen]), self.bias[units])


class Masked(nn.Module):
    """Vectors (B, dims) → (B, dims, outputs_per_dim), where output d depends only on inputs before d in `order`.

    Args:
        dims: the number of dimensions.
        outputs_per_dim: numbers put out for each of them.
        width: hidden units; raised to the number of degrees, so that every allowed dependency is there.
        depth: residual blocks.
        order: the dimensions, first to last, those at one place in a list of their own; 0 … dims-1 if None.
        context_dim: size of a context vector that every output may see; 0 for none.
        inputs_per_dim: numbers taken in for each dimension: x is then (B, dims, inputs_per_dim).
        dropout: inside the blocks, the only randomness.

    Raises:
        InputError: sizes below 1, an order that is no permutation, a layer too large to hold.

    Example:
        >>> network = Masked(3, 2, width=16, depth=1, order=[2, 0, 1])
        >>> network(torch.zeros(5, 3)).shape
        torch.Size([5, 3, 2])
    """

    def __init__(
        self,
        dims: int,
        outputs_per_dim: int,
        width: int,
        depth: int,
        order: Sequence[int | Sequence[int]] | None = None,
        context_dim: int = 0,
        *,
        inputs_per_dim: int = 1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        sizes = {"dims": dims, "outputs_per_dim": outputs_per_dim, "width": width, "inputs_per_dim": inputs_per_dim}
        for name, size in sizes.items():
            if size < 1:
                raise InputError(f"{name} must be at least 1, got {size}")
        if dims * max(outputs_per_dim, inputs_per_dim) * max(1, width) > MOST_WEIGHTS:
            raise InputError(
                f"a masked layer of {dims} dimensions × {outputs_per_dim} outputs and {width} units is too large (at most "
                f"{MOST_WEIGHTS:,} weights); take fewer dimensions, outputs or units"
            )
        self.groups = [[d] if isinstance(d, int) else list(d) for d in (range(dims) if order is None else order)]
        self.order = [d for group in self.groups for d in group]
        if not all(self.groups) or sorted(self.order) != list(range(dims)):
            raise InputError(f"order must hold each of 0 to {dims - 1} once, got {list(order or [])}")
        self.dims, self.outputs, self.inputs, self.context_dim = dims, outputs_per_dim, inputs_per_dim, context_dim
        with torch.device("cpu"):  # degrees decide shapes, also where only shapes are wanted (meta)
            count = len(self.groups)
            hidden = _degrees(count, width, context_dim > 0)
            ends = torch.searchsorted(hidden, torch.arange(count)).tolist()  # units of degree below r, for each place r
            degrees = torch.tensor([place for place, group in enumerate(self.groups) for _ in group])
            own, target = degrees.repeat_interleave(inputs_per_dim), degrees.repeat_interleave(outputs_per_dim)
        self._ends: list[int] = ends
        # Inside, dimensions stand in their order: what is seen is then always the beginning.
        self.stem = MaskedLinear(own, hidden)
        self.context = nn.Linear(context_dim, len(hidden), bias=False) if context_dim else None
        self.blocks = nn.ModuleList(MaskedBlock(hidden, context_dim, dropout) for _ in range(depth))
        self.head = MaskedLinear(hidden, target, strictly=True)
        zero_init(self.head)

    def forward(
        self, x: Float[Tensor, "B dims *inputs"], context: Float[Tensor, "B context"] | None = None
    ) -> Float[Tensor, "B dims outputs"]:
        """The outputs of all dimensions in one pass.

        Args:
            x: (B, dims), or (B, dims, inputs_per_dim).
            context: (B, context_dim), or None, which counts as zero.

        Returns:
            (B, dims, outputs_per_dim).
        """
        h = self.stem(x[:, self.order].flatten(1))
        if self.context is not None and context is not None:
            h = h + self.context(context)
        for block in self.blocks:
            h = block(h, context)
        out = self.head(F.silu(h)).unflatten(1, (self.dims, self.outputs))
        return out[:, self._places()]

    def in_order(
        self,
        choose: Callable[[int, Tensor], Tensor],
        rows: int,
        context: Float[Tensor, "B context"] | None = None,
    ) -> Float[Tensor, "B dims *inputs"]:
        """Go through the dimensions in order, each input chosen once its outputs are known: sampling, or inverting.

        Args:
            choose: (dimension d, its outputs (B, outputs_per_dim)) → its input (B,), or (B, inputs_per_dim).
            rows: B.
            context: (B, context_dim), or None, which counts as zero.

        Returns:
            The inputs that were chosen, as `forward` takes them; dropout is never applied.
        """

        def choose_each(group: list[int], outputs: Tensor) -> Tensor:
            return torch.stack([choose(d, outputs[:, k]) for k, d in enumerate(group)], 1)

        return self.by_place(choose_each, rows, context)

    def by_place(
        self,
        choose: Callable[[list[int], Tensor], Tensor],
        rows: int,
        context: Float[Tensor, "B context"] | None = None,
    ) -> Float[Tensor, "B dims *inputs"]:
        """As `in_order`, with all n dimensions of a place at once.

        Every unit is computed once, when the last input it sees is there: the arithmetic of one pass, in as many pieces as
        there are places.

        Args:
            choose: (the dimensions at a place, their outputs (B, n, outputs_per_dim)) → their inputs (B, n), or
                (B, n, inputs_per_dim).
            rows: B.
            context: (B, context_dim), or None, which counts as zero.

        Returns:
            The inputs that were chosen, as `forward` takes them; dropout is never applied.
        """
        weight = self.head.weight
        x = weight.new_zeros(rows, self.dims, self.inputs)
        # What has been worked out of each layer: the stem, then the inside and the end of each block.
        layers = [weight.new_zeros(rows, self.stem.out_features) for _ in range(1 + 2 * len(self.blocks))]
        done = seen = 0
        for group, end in zip(self.groups, self._ends, strict=True):
            self._settle(x.flatten(1), layers, slice(done, end), seen * self.inputs, context)
            done, own = end, slice(seen * self.outputs, (seen + len(group)) * self.outputs)
            outputs = self.head.part(F.silu(layers[-1][:, :done]), own, done).unflatten(1, (len(group), self.outputs))
            x[:, seen : seen + len(group)] = choose(group, outputs).reshape(rows, len(group), self.inputs).to(x)
            seen += len(group)
        chosen = x[:, self._places()]
        return chosen.squeeze(2) if self.inputs == 1 else chosen

    def _settle(self, x: Tensor, layers: list[Tensor], new: slice, seen: int, context: Tensor | None) -> None:
        """Work out the units in `new` of every layer; those before them are there."""
        if new.start == new.stop:
            return
        h = self.stem.part(x, new, seen)
        if self.context is not None and context is not None:
            h = h + F.linear(context, self.context.weight[new])
        layers[0][:, new] = h
        for number, block in enumerate(self.blocks):
            assert isinstance(block, MaskedBlock)
            before, inside, after = layers[2 * number : 2 * number + 3]
            inside[:, new] = block.inside(before, new, context)
            after[:, new] = before[:, new] + block.second.part(F.silu(inside[:, : new.stop]), new, new.stop)

    def _places(self) -> list[int]:
        """Where each dimension stands in the order."""
        places = [0] * self.dims
        for place, d in enumerate(self.order):
            places[d] = place
        return places


class MaskedBlock(nn.Module):
    """h + W₂ silu(W₁ silu(h) + V context), both matrices masked by the same degrees; W₂ starts at zero."""

    def __init__(self, degrees: Tensor, context_dim: int, dropout: float) -> None:
        super().__init__()
        self.first = MaskedLinear(degrees, degrees)
        self.context = nn.Linear(context_dim, len(degrees), bias=False) if context_dim else None
        self.dropout = nn.Dropout(dropout)
        self.second = MaskedLinear(degrees, degrees)
        zero_init(self.second)

    def forward(self, h: Tensor, context: Tensor | None) -> Tensor:
        """h (B, width), context (B, context_dim) or None → (B, width)."""
        inside = self.first(F.silu(h))
        if self.context is not None and context is not None:
            inside = inside + self.context(context)
        return h + self.second(self.dropout(F.silu(inside)))

    def inside(self, h: Tensor, new: slice, context: Tensor | None) -> Tensor:
        """The hidden units in `new`, from h up to there."""
        inside = self.first.part(F.silu(h[:, : new.stop]), new, new.stop)
        if self.context is not None and context is not None:
            inside = inside + F.linear(context, self.context.weight[new])
        return inside


def _degrees(places: int, width: int, context: bool) -> Tensor:
    """The degrees of the hidden units, spread evenly over those there are, in rising order.

    Degree places-1 would see the last input, which no output may see; degree -1 sees the context alone.
    """
    lowest = -1 if context or places == 1 else 0
    count = places - 1 - lowest
    width = max(width, count)
    return lowest + torch.arange(width) * count // width
