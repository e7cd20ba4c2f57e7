"""A small diffusion transformer for images of any size, after Peebles and Xie (2023, "Scalable diffusion models with
transformers"), with a path for single pixels beside it.

A 3×3 convolution gives each pixel a few local features. Patches of them become tokens; every block lets each token look
at every other; at the end a token answers with a scale and a shift for each local feature of each of its pixels:

    x → local ─→ patches → tokens + position → blocks → (scale, shift) per pixel
          └───────────────────────────────────────────→ silu(local · (1 + scale) + shift) → 3×3 convolution → output.

So tokens say what the image is and need not carry its pixels, of which a patch may hold more numbers than a token.

Blocks are adaLN-Zero (section 3.2 there): the noise level λ gives scale and shift of each normalisation and a gate γ,
which starts at zero, of each branch,

    h ← h + γ(λ) · branch(layer_norm(h) · (1 + scale(λ)) + shift(λ)),     branch = attention, then perceptron.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jensen.nn.layers import LogSNREmbedding, PositionEmbedding, pad_to_multiple, zero_init

__all__ = ["PRESETS", "DiT", "Preset"]


def patches(h: Tensor, side: int) -> Tensor:
    """Cut h (B, C, H, W) into squares, row by row: → (B, H/side · W/side, side² · C)."""
    batch, channels, height, width = h.shape
    cut = h.permute(0, 2, 3, 1).reshape(batch, height // side, side, width // side, side * channels)
    return cut.transpose(2, 3).reshape(batch, (height // side) * (width // side), side**2 * channels)


def from_patches(tokens: Tensor, side: int, height: int, width: int) -> Tensor:
    """Put the squares that `patches` cut together again: → (B, C, height, width), channels last in memory."""
    batch, channels = len(tokens), tokens.shape[-1] // side**2
    cut = tokens.view(batch, height // side, width // side, side, side * channels)
    return cut.transpose(2, 3).reshape(batch, height, width, channels).permute(0, 3, 1, 2)


class SelfAttention(nn.Module):
    """Multi-head self-attention of tokens.

    Args:
        width: size of a token, kept.
        head: numbers per head (the largest divisor of `width` not above it is used).
    """

    def __init__(self, width: int, head: int) -> None:
        super().__init__()
        self.head = max(d for d in range(1, min(head, width) + 1) if width % d == 0)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, h: Tensor) -> Tensor:
        """h (B, N, width) → (B, N, width)."""
        batch, tokens, width = h.shape
        qkv = self.qkv(h).view(batch, tokens, 3, width // self.head, self.head)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))


class Perceptron(nn.Module):
    """linear(silu(a) · b) with a and b linear in h (SwiGLU, Shazeer 2020), of tokens (B, N, width)."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        hidden = 8 * width // 3  # as many weights as two layers with 4 · width between them
        self.first = nn.Linear(width, 2 * hidden)
        self.dropout = nn.Dropout(dropout)
        self.second = nn.Linear(hidden, width)

    def forward(self, h: Tensor) -> Tensor:
        """h (B, N, width) → (B, N, width)."""
        gate, hidden = self.first(h).chunk(2, dim=-1)
        return self.second(self.dropout(F.silu(gate) * hidden))


class Block(nn.Module):
    """Self-attention and a perceptron, each adaLN-Zero: at the start the identity."""

    def __init__(self, width: int, embedding: int, head: int, dropout: float) -> None:
        super().__init__()
        self.modulation = zero_init(nn.Linear(embedding, 6 * width))
        self.attention = SelfAttention(width, head)
        self.perceptron = Perceptron(width, dropout)

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        """h (B, N, width), embedding (B, E) → (B, N, width)."""
        first, second = self.modulation(embedding).unsqueeze(1).chunk(2, dim=-1)
        for branch, modulation in ((self.attention, first), (self.perceptron, second)):
            scale, shift, gate = modulation.chunk(3, dim=-1)
            h = torch.addcmul(h, gate, branch(modulated(h, scale, shift)))
        return h


def modulated(h: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """layer_norm(h) · (1 + scale) + shift for h (B, N, width), scale and shift (B, 1, width)."""
    return torch.addcmul(shift, F.layer_norm(h, h.shape[-1:]), 1 + scale)


class DiT(nn.Module):
    """Transformer over images (B, in_channels, H, W) → (B, out_channels, H, W), any H and W.

    The output starts at zero. Sizes that the patch does not divide are padded by repeating the border and cropped.
    Position enters once, as a learned function of the place in the image (`PositionEmbedding`): what is depicted hangs
    on absolute place (digits are centred, the sky is above), an image of another size sees the same function, and a
    block spends nothing on it, where rotary embeddings turn every query and key anew.

    Args:
        in_channels, out_channels: channels of the input and of the output.
        patch: side of the patches that become tokens.
        width: size of a token.
        depth: number of blocks.
        head: numbers per attention head.
        local: features of a pixel beside the tokens.
        dropout: dropout inside the perceptrons, the only randomness.
        context_dim: size of the context vectors, 0 for none.

    Example:
        >>> net = DiT(1, 1, patch=4, width=32, depth=2)
        >>> net(torch.zeros(2, 1, 31, 17), torch.zeros(2)).shape
        torch.Size([2, 1, 31, 17])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        patch: int = 4,
        width: int = 192,
        depth: int = 6,
        head: int = 64,
        local: int = 32,
        dropout: float = 0.0,
        context_dim: int = 0,
    ) -> None:
        super().__init__()
        self.patch = patch
        self.embed = LogSNREmbedding(width, context_dim=context_dim)
        self.stem = nn.Conv2d(in_channels, local, 3, padding=1)
        self.cut = nn.Linear(patch**2 * local, width)
        self.position = PositionEmbedding(width, count=16)
        self.blocks = nn.ModuleList(Block(width, width, head, dropout) for _ in range(depth))
        self.modulation = zero_init(nn.Linear(width, 2 * width))
        self.answer = nn.Linear(width, 2 * patch**2 * local)
        self.head = zero_init(nn.Conv2d(local, out_channels, 3, padding=1))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's stubs

    def forward(self, x: Tensor, log_snr: Tensor, context: Tensor | None = None) -> Tensor:
        """x (B, in_channels, H, W), log_snr (B,), context (B, context_dim) or None → (B, out_channels, H, W)."""
        height, width = x.shape[-2:]
        embedding = self.embed(log_snr, context)
        padded = pad_to_multiple(x, self.patch).contiguous(memory_format=torch.channels_last)
        local = self.stem(padded)
        scale, shift = self._answers(local, embedding)
        out = self.head(F.silu(torch.addcmul(shift, local, 1 + scale)))
        return out[..., :height, :width]

    def _answers(self, local: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """What the tokens say about local (B, C, H, W): scale and shift, each of the same shape."""
        height, width = local.shape[-2:]
        position = self.position(height // self.patch, width // self.patch)
        h = self.cut(patches(local, self.patch)) + position.flatten(2).mT
        for block in self.blocks:
            h = block(h, embedding)
        scale, shift = self.modulation(embedding).unsqueeze(1).chunk(2, dim=-1)
        answers = self.answer(modulated(h, scale, shift)).chunk(2, dim=-1)
        first, second = (from_patches(answer, self.patch, height, width) for answer in answers)
        return first, second


@dataclass(frozen=True)
class Preset:
    """Size of a transformer; `DiT(in_channels, out_channels, **vars(preset))` builds it."""

    patch: int
    width: int
    depth: int


PRESETS: dict[str, Preset] = {
    "tiny": Preset(patch=2, width=96, depth=4),
    "small": Preset(patch=4, width=192, depth=6),
    "base": Preset(patch=4, width=256, depth=8),
}
