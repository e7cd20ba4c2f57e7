"""Causal networks: the output for a dimension looks only at the dimensions before it.

    out_d = f_d(x_1, …, x_{d-1}),

so that, with out_d the parameters of p(x_d | x_<d), one pass gives every factor of p(x) = ∏_d p(x_d | x_<d). Proof of the
order is the Jacobian ∂out_d/∂x_e, which is zero for every e ≥ d.

`Raster` is for images (van den Oord et al. 2016, "Pixel recurrent neural networks"; Salimans et al. 2017): pixels row by
row, the channels of a pixel in turn. The first convolution leaves the pixel itself out, the others look at it, at the one
to its left and at three above; kernels are two rows high, so that of their six weights only one is masked. Nothing is
normalised across pixels, which would leak. `Recurrent` is for sequences: a gated recurrent unit over the values in
row-major order (Cho et al. 2014). `Vector` is for vectors: a perceptron with masked weights (`jensen.nn.masked`).

Sampling is cached: a network keeps what it has computed and a new dimension costs one pixel's work, so a whole sample
costs one pass.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jensen.nn.layers import FourierFeatures, PositionEmbedding, add_to_each, zero_init
from jensen.nn.masked import Masked

__all__ = ["Causal", "Raster", "Recurrent", "Vector"]

Draw = Callable[
    [Tensor, int], Tensor
]  # (outputs (n, ·) of a dimension, its place in the flattened row) → its values (n,)
FREQUENCIES = 4


class Causal(nn.Module, ABC):
    """Rows (B, *event) → (B, *event, outputs)."""

    event: tuple[int, ...]

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """x (B, *event) → (B, *event, outputs)."""

    @abstractmethod
    def bias(self, start: Tensor) -> None:
        """Make `start (outputs,)` what an untrained network puts out for every dimension."""

    @abstractmethod
    def generate(self, n: int, draw: Draw) -> Tensor:
        """Rows (n, *event) float64, drawn a dimension at a time."""


class Lift(nn.Module):
    """x (..., ) → (..., features): 1, x, and Fourier features of x from π/4 to 2π a unit."""

    features = 2 + 2 * FREQUENCIES

    def __init__(self) -> None:
        super().__init__()
        self.fourier = FourierFeatures(FREQUENCIES, math.pi / 4, 2 * math.pi)

    def forward(self, x: Tensor) -> Tensor:
        """x (...) → (..., features)."""
        return torch.cat([torch.ones_like(x)[..., None], x[..., None], self.fourier(x)], -1)


class CausalConv(nn.Module):
    """A convolution that looks at pixels above and to the left.

    Args:
        channels_in, channels_out: numbers of channels.
        rows: height of the kernel, its last row the pixel's own.
        reach: how far it looks to either side.
        dilation: distance between the pixels it looks at.
        strict: whether the pixel itself is left out.
    """

    mask: Tensor

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        rows: int = 2,
        reach: int = 1,
        dilation: int = 1,
        *,
        strict: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, (rows, 2 * reach + 1), dilation=dilation)
        self.top, self.side = (rows - 1) * dilation, reach * dilation
        mask = torch.ones(1, 1, rows, 2 * reach + 1)
        mask[..., -1, reach + (0 if strict else 1) :] = 0
        self.register_buffer("mask", mask, persistent=False)
        seen = rows * (2 * reach + 1) - reach - (1 if strict else 0)
        bound = 1 / math.sqrt(seen * channels_in)  # torch's, as if the masked weights were not there
        nn.init.uniform_(self.conv.weight, -bound, bound)

    def forward(self, h: Tensor) -> Tensor:
        """h (B, C, H, W) → (B, channels_out, H, W)."""
        return self._convolved(F.pad(h, (self.side, self.side, self.top, 0)))

    def _convolved(self, padded: Tensor) -> Tensor:
        return F.conv2d(padded, self.conv.weight * self.mask, self.conv.bias, dilation=self.conv.dilation)

    def memory(self, n: int, height: int, width: int) -> Tensor:
        """Room for the inputs of n images."""
        shape = (n, self.conv.in_channels, height + self.top, width + 2 * self.side)
        return self.conv.weight.new_zeros(shape).contiguous(memory_format=torch.channels_last)

    def store(self, memory: Tensor, h: Tensor, row: int, column: int) -> None:
        """Keep the input (n, C) at a pixel."""
        memory[:, :, row + self.top, column + self.side] = h

    def at(self, memory: Tensor, row: int, column: int) -> Tensor:
        """The output (n, channels_out) at a pixel, from what was kept."""
        window = memory[:, :, row : row + self.top + 1, column : column + 2 * self.side + 1]
        return self._convolved(window)[:, :, 0, 0]


class CausalBlock(nn.Module):
    """h + linear(silu(causal convolution(norm(h)))), the norm over a pixel's channels.

    Args:
        width: number of channels, kept.
        dilation: of the convolution.
        dropout: before the last layer.
    """

    def __init__(self, width: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.conv = CausalConv(width, width, dilation=dilation)
        self.dropout = nn.Dropout(dropout)
        self.out = zero_init(nn.Linear(width, width))

    def forward(self, h: Tensor) -> Tensor:
        """h (B, H, W, width) → the same."""
        seen = self.conv(self.norm(h).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return h + self.out(self.dropout(F.silu(seen)))

    def at(self, h: Tensor, memory: Tensor, row: int, column: int) -> Tensor:
        """The same at one pixel, (n, width)."""
        self.conv.store(memory, self.norm(h), row, column)
        return h + self.out(F.silu(self.conv.at(memory, row, column)))


class Raster(Causal):
    """Images, in raster order, the channels of a pixel in turn.

    Args:
        event: (C, H, W).
        outputs: numbers a dimension.
        width: channels of the hidden layers.
        depth: residual blocks; their dilations run through 1, 2, 4 as far as the image goes.
        dropout: inside the blocks.
    """

    def __init__(self, event: tuple[int, ...], outputs: int, *, width: int, depth: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.event, self.outputs = event, outputs
        channels, side = event[0], max(event[1:])
        self.lift = Lift()
        self.stem = CausalConv(channels * Lift.features, width, rows=4, reach=4, strict=True)
        self.position = PositionEmbedding(width)
        dilations = [d for d in (1, 2, 4) if 4 * d <= side] or [1]
        self.blocks = nn.ModuleList(CausalBlock(width, dilations[i % len(dilations)], dropout) for i in range(depth))
        self.norm = nn.LayerNorm(width)
        self.mix = nn.ModuleList(nn.Linear(width + c * Lift.features, width) for c in range(channels))
        self.head = nn.ModuleList(zero_init(nn.Linear(width, outputs)) for _ in range(channels))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's stubs

    @torch.no_grad()
    def bias(self, start: Tensor) -> None:
        """For every channel."""
        for head in self.head:
            assert isinstance(head, nn.Linear)
            head.bias.copy_(start)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) → (B, C, H, W, outputs)."""
        lifted = self.lift(x.permute(0, 2, 3, 1)).flatten(3)  # (B, H, W, C·features)
        h = add_to_each(self.stem(lifted.permute(0, 3, 1, 2)), self.position(*self.event[1:]))
        h = h.permute(0, 2, 3, 1)
        for block in self.blocks:
            h = block(h)
        return torch.stack([self._out(self.norm(h), lifted, c) for c in range(self.event[0])], 1)

    def _out(self, h: Tensor, lifted: Tensor, channel: int) -> Tensor:
        """The outputs for a channel, from the pixels before and the channels of this pixel before it."""
        known = torch.cat([h, lifted[..., : channel * Lift.features]], -1) if channel else h
        out = self.head[channel](F.silu(self.mix[channel](known)))
        assert isinstance(out, Tensor)
        return out

    @torch.no_grad()
    def generate(self, n: int, draw: Draw) -> Tensor:
        """Rows (n, C, H, W), a pixel's work for each pixel."""
        channels, height, width = self.event
        like = self.stem.conv.weight
        x = like.new_zeros(n, channels, height, width, dtype=torch.float64)
        position, seen = self.position(height, width)[0], self.stem.memory(n, height, width)
        memories = [block.conv.memory(n, height, width) for block in self._blocks()]
        for row in range(height):
            for column in range(width):
                h = self.stem.at(seen, row, column) + position[:, row, column]
                for block, memory in zip(self._blocks(), memories, strict=True):
                    h = block.at(h, memory, row, column)
                h, lifted = self.norm(h), like.new_zeros(n, 0)
                for c in range(channels):
                    place = (c * height + row) * width + column
                    x[:, c, row, column] = draw(self._out(h, lifted, c), place)
                    lifted = torch.cat([lifted, self.lift(x[:, c, row, column].to(like.dtype))], 1)
                self.stem.store(seen, lifted, row, column)
        return x

    def _blocks(self) -> list[CausalBlock]:
        return [block for block in self.blocks if isinstance(block, CausalBlock)]


class Recurrent(Causal):
    """Sequences: a recurrent unit over the values of a row in row-major order, told where it is.

    Args:
        event: of a row; the last axis of several counts the values of a time step.
        outputs: numbers a dimension.
        width: of the hidden state.
        depth: layers.
        dropout: between layers.
    """

    def __init__(self, event: tuple[int, ...], outputs: int, *, width: int, depth: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.event, inner = event, event[-1] if len(event) > 1 else 1
        self.lift = Lift()
        self.position = nn.Embedding(inner, width)
        self.unit = nn.GRU(Lift.features + width, width, depth, batch_first=True, dropout=dropout if depth > 1 else 0.0)
        self.norm = nn.LayerNorm(2 * width)
        self.last = zero_init(nn.Linear(2 * width, outputs))

    @torch.no_grad()
    def bias(self, start: Tensor) -> None:
        """For every dimension alike."""
        assert isinstance(self.last, nn.Linear)
        self.last.bias.copy_(start)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, *event) → (B, *event, outputs)."""
        lifted = self.lift(x.flatten(1))
        before = torch.cat([torch.zeros_like(lifted[:, :1]), lifted[:, :-1]], 1)
        where = torch.arange(lifted.shape[1], device=x.device) % self.position.num_embeddings
        place = self.position(where).expand(len(x), -1, -1)
        h, _ = self.unit(torch.cat([before, place], -1))
        return self.last(self.norm(torch.cat([h, place], -1))).reshape(*x.shape, -1)

    @torch.no_grad()
    def generate(self, n: int, draw: Draw) -> Tensor:
        """Rows (n, *event), a step of the unit for each value."""
        like = self.last.weight
        flat, state = like.new_zeros(n, math.prod(self.event), dtype=torch.float64), None
        before = like.new_zeros(n, 1, Lift.features)
        for d in range(flat.shape[1]):
            place = self.position.weight[d % self.position.num_embeddings].expand(n, 1, -1)
            h, state = self.unit(torch.cat([before, place], -1), state)
            flat[:, d] = draw(self.last(self.norm(torch.cat([h, place], -1)))[:, 0], d)
            before = self.lift(flat[:, d : d + 1].to(like.dtype))
        return flat.reshape(n, *self.event)


class Vector(Causal):
    """Vectors, dimension by dimension; rows of any shape are flattened.

    Args:
        event: of a row.
        outputs: numbers a dimension.
        width: of the hidden layers.
        depth: residual blocks.
        dropout: inside the blocks.
    """

    def __init__(self, event: tuple[int, ...], outputs: int, *, width: int, depth: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.event = event
        self.lift = Lift()
        self.masked = Masked(math.prod(event), outputs, width, depth, inputs_per_dim=Lift.features, dropout=dropout)

    @torch.no_grad()
    def bias(self, start: Tensor) -> None:
        """For every dimension alike."""
        assert self.masked.head.bias is not None
        self.masked.head.bias.copy_(start.repeat(self.masked.dims))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, *event) → (B, *event, outputs)."""
        return self.masked(self.lift(x.flatten(1))).reshape(*x.shape, -1)

    @torch.no_grad()
    def generate(self, n: int, draw: Draw) -> Tensor:
        """Rows (n, *event), one pass in all."""
        weight = self.masked.head.weight
        flat = weight.new_zeros(n, self.masked.dims, dtype=torch.float64)

        def choose(d: int, outputs: Tensor) -> Tensor:
            flat[:, d] = draw(outputs, d)
            return self.lift(flat[:, d].to(weight.dtype))

        self.masked.in_order(choose, n)
        return flat.reshape(n, *self.event)
