"""Residual convolutional networks between images of any size and vectors, without normalisation.

    down    image → [blocks → halve, twice the channels] … → linear → vector
    up      vector → linear → [blocks → double, half the channels] … → image

with blocks h + conv(φ(conv(φ(h)))), φ a leaky ReLU, the second convolution starting at zero, so that a deep network starts as a
shallow one (Zhang et al. 2019). Sizes are halved and rounded up, and the way up takes the same sizes backwards, so odd ones fit. At full
resolution there is one convolution and no block: that is where pixels are many and a processor's time goes.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jensen.nn.layers import zero_init
from jensen.nn.perceptron import SLOPE

SMALLEST = 4
WIDEST = 4  # times the channels at full resolution


def sizes_of(height: int, width: int) -> list[tuple[int, int]]:
    """Sizes from the image down, halved (rounded up) while a side is above 4.

    Example:
        >>> sizes_of(28, 28)
        [(28, 28), (14, 14), (7, 7), (4, 4)]
    """
    sizes = [(height, width)]
    while max(sizes[-1]) > SMALLEST:
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    return sizes


class Block(nn.Module):
    """h + conv(φ(conv(φ(h)))).

    Args:
        channels: kept.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = zero_init(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, h: Tensor) -> Tensor:
        """(B, C, H, W) → the same."""
        hidden = self.first(F.leaky_relu(h, SLOPE))
        return h + self.second(F.leaky_relu(hidden, SLOPE))


def _channels(channels: int, levels: int) -> list[int]:
    """Doubled at each halving, up to four times."""
    return [channels * min(WIDEST, 2**level) for level in range(levels)]


class Down(nn.Module):
    """Images (B, C, H, W), with an optional vector (B, extra) → vectors (B, features).

    Args:
        shape: (C, H, W).
        features: numbers put out.
        channels: at full resolution.
        depth: blocks at each lower one.
        extra: size of the vector that comes with an image; 0 for none.
    """

    def __init__(
        self, shape: tuple[int, int, int], features: int, *, channels: int, depth: int, extra: int = 0
    ) -> None:
        super().__init__()
        sizes = sizes_of(*shape[1:])
        wide = _channels(channels, len(sizes))
        self.stem = nn.Conv2d(shape[0], channels, 3, padding=1)
        self.halvings = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairwise(wide))
        self.levels = nn.ModuleList(nn.Sequential(*(Block(c) for _ in range(depth))) for c in wide[1:])
        self.head = nn.Linear(wide[-1] * sizes[-1][0] * sizes[-1][1] + extra, features)

    def forward(self, x: Tensor, extra: Tensor | None = None) -> Tensor:
        """Down the sizes."""
        h = self.stem(x.contiguous(memory_format=torch.channels_last))
        for halve, level in zip(self.halvings, self.levels, strict=True):
            h = level(halve(F.leaky_relu(h, SLOPE)))
        flat = F.leaky_relu(h, SLOPE).flatten(1)
        out = self.head(flat if extra is None else torch.cat([flat, extra.to(flat)], 1))
        assert isinstance(out, Tensor)
        return out


class Up(nn.Module):
    """Vectors (B, dims) → `features` numbers for every pixel and channel of an image, (B, C, H, W, features).

    Args:
        dims: of the vectors.
        shape: (C, H, W).
        features: numbers a cell.
        channels: at full resolution.
        depth: blocks at each lower one.
    """

    def __init__(self, dims: int, shape: tuple[int, int, int], features: int, *, channels: int, depth: int) -> None:
        super().__init__()
        self.shape, self.features = shape, features
        self.sizes = sizes_of(*shape[1:])[::-1]
        wide = _channels(channels, len(self.sizes))[::-1]
        self.wide = wide[0]
        self.stem = nn.Linear(dims, wide[0] * self.sizes[0][0] * self.sizes[0][1])
        self.levels = nn.ModuleList(nn.Sequential(*(Block(c) for _ in range(depth))) for c in wide[:-1])
        self.doublings = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(wide))
        self.head = nn.Conv2d(channels, shape[0] * features, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """Up the sizes."""
        h = self.stem(z).view(len(z), self.wide, *self.sizes[0]).contiguous(memory_format=torch.channels_last)
        for level, double, size in zip(self.levels, self.doublings, self.sizes[1:], strict=True):
            h = double(F.interpolate(F.leaky_relu(level(h), SLOPE), size=size, mode="nearest"))
        out = self.head(F.leaky_relu(h, SLOPE))
        return out.unflatten(1, (self.shape[0], self.features)).movedim(2, -1)
