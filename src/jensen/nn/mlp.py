"""A residual perceptron for vectors (B, D).

The vector and its Fourier features (sharp structure in few dimensions, Tancik et al. 2020) are mapped to `width`
numbers, then pass residual blocks that read the noise level, if there is one, and are mapped to the output, which starts at zero.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from jensen.nn.layers import FourierFeatures, LogSNREmbedding, VectorBlock, zero_init

__all__ = ["MLP"]


class MLP(nn.Module):
    """Vectors (B, dim_in) → (B, dim_out).

    Args:
        dim_in, dim_out: sizes of input and output.
        width: size of the hidden state.
        depth: number of residual blocks.
        frequencies: Fourier frequencies per input dimension, from π/4 to 2π (0 for none).
        dropout: dropout inside the blocks, the only randomness.
        context_dim: size of the context vectors, 0 for none.
        noise_level: whether there is one; if not, there is no context either.

    Example:
        >>> MLP(2, 2)(torch.zeros(5, 2), torch.zeros(5)).shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        *,
        width: int = 128,
        depth: int = 3,
        frequencies: int = 4,
        dropout: float = 0.0,
        context_dim: int = 0,
        noise_level: bool = True,
    ) -> None:
        super().__init__()
        self.embed = LogSNREmbedding(width, context_dim=context_dim) if noise_level else None
        self.fourier = FourierFeatures(frequencies, math.pi / 4, 2 * math.pi) if frequencies else None
        self.stem = nn.Linear(dim_in * (1 + 2 * frequencies), width)
        embedding = width if noise_level else 0
        self.blocks = nn.ModuleList(VectorBlock(width, embedding, dropout=dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = zero_init(nn.Linear(width, dim_out))

    def forward(self, x: Tensor, log_snr: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        """x (B, dim_in), log_snr (B,) or None where there is no noise level, context (B, context_dim) or None → (B, dim_out)."""
        embedding = None if self.embed is None else self.embed(log_snr, context)
        if self.fourier is not None:
            x = torch.cat((x, self.fourier(x).flatten(1)), dim=1)
        h = self.stem(x)
        for block in self.blocks:
            h = block(h, embedding)
        return self.head(self.norm(h))
