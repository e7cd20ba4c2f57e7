"""Residual convolutional networks without normalisation, for the two players of a game on images of any size.

    critic      image → stem → [block → halve] … → linear → a number
    generator   z → linear → [block → double] … → image

with the blocks of `convolutional`. The generator's sizes are the critic's
backwards, so odd sizes fit (after Huang et al. 2024, section 3, at the scale of a laptop).
"""

from torch import Tensor, nn
from torch.nn import functional as F

from jensen.nn.convolutional import Block, sizes_of
from jensen.nn.perceptron import SLOPE


class ImageCritic(nn.Module):
    """Images (B, C, H, W) → (B, 1).

    Args:
        shape: (C, H, W).
        channels: of the hidden layers.
        depth: blocks at each size.
    """

    def __init__(self, shape: tuple[int, int, int], channels: int, depth: int) -> None:
        super().__init__()
        sizes = sizes_of(*shape[1:])
        self.stem = nn.Conv2d(shape[0], channels, 3, padding=1)
        self.levels = nn.ModuleList(nn.Sequential(*(Block(channels) for _ in range(depth))) for _ in sizes)
        self.head = nn.Linear(channels * sizes[-1][0] * sizes[-1][1], 1)

    def forward(self, x: Tensor) -> Tensor:
        """Down the sizes."""
        h = self.stem(x)
        for number, level in enumerate(self.levels):
            h = F.avg_pool2d(h, 2, ceil_mode=True) if number else h
            h = level(h)
        out = self.head(F.leaky_relu(h, SLOPE).flatten(1))
        assert isinstance(out, Tensor)
        return out


class ImageGenerator(nn.Module):
    """Vectors (B, latent_dim) → images (B, C, H, W).

    Args:
        latent_dim: of z.
        shape: (C, H, W).
        channels: of the hidden layers.
        depth: blocks at each size.
    """

    def __init__(self, latent_dim: int, shape: tuple[int, int, int], channels: int, depth: int) -> None:
        super().__init__()
        self.sizes, self.channels = sizes_of(*shape[1:])[::-1], channels
        self.stem = nn.Linear(latent_dim, channels * self.sizes[0][0] * self.sizes[0][1])
        self.levels = nn.ModuleList(nn.Sequential(*(Block(channels) for _ in range(depth))) for _ in self.sizes)
        self.head = nn.Conv2d(channels, shape[0], 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """Up the sizes."""
        h = self.stem(z).view(len(z), self.channels, *self.sizes[0])
        for size, level in zip(self.sizes, self.levels, strict=True):
            h = F.interpolate(h, size=size, mode="nearest") if h.shape[2:] != size else h
            h = level(h)
        out = self.head(F.leaky_relu(h, SLOPE))
        assert isinstance(out, Tensor)
        return out
