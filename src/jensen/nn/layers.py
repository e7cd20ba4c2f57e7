"""Layers shared by the networks: noise-level embedding, residual blocks, attention, patches.

The networks see the noise level as the log-SNR λ = log(α_t² / σ_t²), which names it independently of any schedule.
λ enters through a fixed Fourier embedding e(λ) = [sin(ω_j λ), cos(ω_j λ)]_j followed by a two-layer perceptron,
and each residual block reads it as a scale and a shift of its normalised activations (FiLM, Perez et al. 2018):

    h ← norm(h) · (1 + scale(λ)) + shift(λ).

Every block ends in a weight that starts at zero, so at initialisation a block is the identity (Zhang et al. 2019)
and the signal of a deep stack neither grows nor dies. Nothing here looks across the batch.

Images are (B, C, H, W) and run channels-last; groups of GroupNorm hold 16 channels where they can, because PyTorch's
CPU kernel is about four times faster when a group is a multiple of the vector width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "Attention",
    "FourierFeatures",
    "LogSNREmbedding",
    "PositionEmbedding",
    "ResidualBlock",
    "VectorBlock",
    "add_to_each",
    "group_norm",
    "largest_divisor",
    "pad_to_multiple",
    "self_attention",
    "zero_init",
]


def zero_init(layer: nn.Linear | nn.Conv2d) -> nn.Linear | nn.Conv2d:
    """Set weight and bias of `layer` to zero, and return it."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def largest_divisor(n: int, most: int) -> int:
    """The largest divisor of n that is not above `most`."""
    return max(d for d in range(1, min(most, n) + 1) if n % d == 0)


def group_norm(channels: int, group_size: int = 16) -> nn.GroupNorm:
    """GroupNorm with groups of `group_size` channels, or of the largest divisor of `channels` below that."""
    return nn.GroupNorm(channels // largest_divisor(channels, group_size), channels, eps=1e-5)


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Repeat the last row and column of x (B, C, H, W) until H and W are multiples of `multiple`."""
    height, width = x.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    if bottom or right:
        x = F.pad(x, (0, right, 0, bottom), mode="replicate")
    return x


def add_to_each(h: Tensor, shared: Tensor) -> Tensor:
    """h (B, C, H, W) + shared (1, C, H, W), channels-last, as a matrix product: then the derivative by `shared` is one too, and not PyTorch's
    sum over a batch, which is several times slower on a CPU.
    """
    batch, channels, height, width = h.shape
    flat, each = (t.permute(0, 2, 3, 1).flatten(1) for t in (h, shared.expand_as(h[:1])))
    out = torch.addmm(flat, each.new_ones(batch, 1), each)
    return out.view(batch, height, width, channels).permute(0, 3, 1, 2)


class FourierFeatures(nn.Module):
    """[sin(ω_j x), cos(ω_j x)] for frequencies ω_j in geometric progression: (...) → (..., 2 · count).

    Args:
        count: number of frequencies.
        low, high: the smallest and the largest angular frequency.
    """

    omega: Tensor

    def __init__(self, count: int, low: float, high: float) -> None:
        super().__init__()
        self.register_buffer("omega", torch.logspace(math.log10(low), math.log10(high), count), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x (...) → (..., 2 · count), computed in the precision of x."""
        angle = x.unsqueeze(-1) * self.omega.to(x.dtype)
        return torch.cat((angle.sin(), angle.cos()), dim=-1)


class LogSNREmbedding(nn.Module):
    """λ (B,) and an optional context (B, context_dim) → embedding (B, width).

    Args:
        width: size of the embedding.
        context_dim: size of the context vector, 0 for none. A missing context counts as zero.
        count: number of Fourier frequencies; their periods run from 2 to 64 in units of log-SNR.
    """

    def __init__(self, width: int, *, context_dim: int = 0, count: int = 16) -> None:
        super().__init__()
        self.fourier = FourierFeatures(count, 2 * math.pi / 64, 2 * math.pi / 2)
        self.first = nn.Linear(2 * count, width)
        self.second = nn.Linear(width, width)
        self.context = nn.Linear(context_dim, width, bias=False) if context_dim else None

    def forward(self, log_snr: Tensor, context: Tensor | None = None) -> Tensor:
        """log_snr (B,), context (B, context_dim) or None → (B, width), after the last SiLU."""
        hidden = self.first(self.fourier(log_snr))
        if self.context is not None and context is not None:
            hidden = hidden + self.context(context)
        return F.silu(self.second(F.silu(hidden)))


class PositionEmbedding(nn.Module):
    """A learned function of the position, for any image size: Fourier features of the coordinates, mapped linearly.

    Coordinates run from 0 to 1 over the unpadded image, so an image of another size sees the same function.

    Args:
        channels: number of output channels.
        count: number of frequencies per axis: π, 2π, …, count · π.
    """

    def __init__(self, channels: int, count: int = 6) -> None:
        super().__init__()
        self.count = count
        self.project = nn.Linear(4 * count, channels, bias=False)

    def forward(self, height: int, width: int) -> Tensor:
        """→ (1, channels, height, width)."""
        weight = self.project.weight
        waves = [self._waves(n, weight) for n in (height, width)]
        rows = waves[0].unsqueeze(1).expand(-1, width, -1)
        columns = waves[1].unsqueeze(0).expand(height, -1, -1)
        return self.project(torch.cat((rows, columns), dim=-1)).permute(2, 0, 1).unsqueeze(0)

    def _waves(self, n: int, like: Tensor) -> Tensor:
        where = (torch.arange(n, device=like.device, dtype=like.dtype) + 0.5) / n
        angle = where[:, None] * (math.pi * torch.arange(1, self.count + 1, device=like.device, dtype=like.dtype))
        return torch.cat((angle.sin(), angle.cos()), dim=-1)


class ResidualBlock(nn.Module):
    """h + conv(silu(FiLM(norm(conv(silu(norm(h)))), λ))): two 3×3 convolutions that read the noise level.

    Args:
        channels: number of channels, kept.
        embedding: size of the noise-level embedding.
        dropout: probability of dropping an activation before the second convolution.
    """

    def __init__(self, channels: int, embedding: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm1 = group_norm(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = group_norm(channels)
        self.film = zero_init(nn.Linear(embedding, 2 * channels))
        self.dropout = nn.Dropout(dropout)
        self.conv2 = zero_init(nn.Conv2d(channels, channels, 3, padding=1))

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        """h (B, C, H, W), embedding (B, E) → (B, C, H, W)."""
        scale, shift = self.film(embedding)[..., None, None].chunk(2, dim=1)
        out = self.conv1(F.silu(self.norm1(h)))
        out = torch.addcmul(shift, self.norm2(out), 1 + scale)
        return h + self.conv2(self.dropout(F.silu(out)))


def self_attention(qkv: Tensor, head: int) -> Tensor:
    """Each token's mean of the values, weighted by softmax(query · key / √head): qkv (B, N, 3 · C) → (B, N, C).

    Args:
        qkv: query, key and value of each token, one after the other, each with its heads one after the other.
        head: numbers per head.
    """
    batch, tokens, width = qkv.shape
    heads = qkv.view(batch, tokens, 3, width // (3 * head), head)
    query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)
    if tokens <= 256:  # PyTorch's fused kernel spends longer than this in its CPU backward pass
        mixed = torch.softmax(query * head**-0.5 @ key.mT, dim=-1) @ value
    else:  # and does not store the tokens² weights
        mixed = F.scaled_dot_product_attention(query, key, value)
    return mixed.transpose(1, 2).reshape(batch, tokens, width // 3)


class Attention(nn.Module):
    """h + multi-head self-attention over all positions.

    Args:
        channels: number of channels, kept.
        head: channels per head (the largest divisor of `channels` not above it is used).
    """

    def __init__(self, channels: int, head: int = 32) -> None:
        super().__init__()
        self.head = largest_divisor(channels, head)
        self.norm = group_norm(channels)
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.out = zero_init(nn.Linear(channels, channels))

    def forward(self, h: Tensor) -> Tensor:
        """h (B, C, H, W) → (B, C, H, W)."""
        batch, channels, height, width = h.shape
        tokens = self.norm(h).permute(0, 2, 3, 1).reshape(batch, height * width, channels)
        mixed = self.out(self_attention(self.qkv(tokens), self.head)).view(batch, height, width, channels)
        return h + mixed.permute(0, 3, 1, 2)


class VectorBlock(nn.Module):
    """h + linear(silu(FiLM(linear(layer_norm(h)), λ))) for vectors (B, width); without FiLM where `embedding` is 0."""

    def __init__(self, width: int, embedding: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first = nn.Linear(width, 2 * width)
        self.film = zero_init(nn.Linear(embedding, 4 * width)) if embedding else None
        self.dropout = nn.Dropout(dropout)
        self.second = zero_init(nn.Linear(2 * width, width))

    def forward(self, h: Tensor, embedding: Tensor | None) -> Tensor:
        """h (B, width), embedding (B, E) or None → (B, width)."""
        hidden = self.first(self.norm(h))
        if self.film is not None:
            scale, shift = self.film(embedding).chunk(2, dim=-1)
            hidden = torch.addcmul(shift, hidden, 1 + scale)
        return h + self.second(self.dropout(F.silu(hidden)))
