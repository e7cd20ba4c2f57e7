"""A small U-Net for images of any size, after Ho et al. (2020), reshaped for a CPU.

The image is cut into patches (space to depth), so that the widest maps have 1/patch² of the pixels; a stage halves the
resolution; the way up adds the map of the way down at the same resolution; attention runs at the lowest one, or at those chosen:

    x → patches → stage 0 ↓ stage 1 ↓ … attention … ↑ stage 1 ↑ stage 0 → features per pixel.

The output is read per pixel (depth to space), so a patch costs resolution inside the network and none at its border.
Sizes that the patch and the stages do not divide are padded by repeating the border and cropped at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jensen.nn.layers import (
    Attention,
    LogSNREmbedding,
    PositionEmbedding,
    ResidualBlock,
    add_to_each,
    group_norm,
    pad_to_multiple,
    zero_init,
)

__all__ = ["PRESETS", "Preset", "UNet", "dropout_for", "preset_for"]


class Stage(nn.Module):
    """A position embedding, then residual blocks at one resolution, each followed by attention if wanted."""

    def __init__(
        self, channels: int, embedding: int, depth: int, *, position: bool, attention: bool, dropout: float
    ) -> None:
        super().__init__()
        self.position = PositionEmbedding(channels) if position else None
        self.blocks = nn.ModuleList(ResidualBlock(channels, embedding, dropout=dropout) for _ in range(depth))
        self.attentions = nn.ModuleList(Attention(channels) for _ in range(depth if attention else 0))

    def forward(self, h: Tensor, embedding: Tensor) -> Tensor:
        """h (B, C, H, W), embedding (B, E) → (B, C, H, W)."""
        if self.position is not None:
            h = add_to_each(h, self.position(*h.shape[-2:]))
        for index, block in enumerate(self.blocks):
            h = block(h, embedding)
            if self.attentions:
                h = self.attentions[index](h)
        return h


class Enlarge(nn.Conv2d):
    """A 1×1 convolution to four times the channels, then `pixel_shuffle`, which is slow backward: here the four pixels' outputs come one
    after the other, as an image that is channels-last has them. It has the weights of the convolution it stands for.
    """

    def __init__(self, coarse: int, fine: int) -> None:
        super().__init__(coarse, 4 * fine, 1)

    def forward(self, h: Tensor) -> Tensor:
        """(B, coarse, H, W) → (B, fine, 2H, 2W)."""
        batch, _, height, width = h.shape
        assert self.bias is not None
        weight, bias = (
            t.unflatten(0, (-1, 4)).transpose(0, 1).flatten(0, 1) for t in (self.weight.flatten(1), self.bias)
        )
        out = F.linear(h.permute(0, 2, 3, 1), weight, bias).view(batch, height, width, 2, 2, self.out_channels // 4)
        return out.transpose(2, 3).reshape(batch, 2 * height, 2 * width, self.out_channels // 4).permute(0, 3, 1, 2)


class UNet(nn.Module):
    """U-Net over images (B, in_channels, H, W) → (B, out_channels, H, W), any H and W.

    Args:
        in_channels, out_channels: channels of the input and of the output.
        channels: width of each stage, finest first; each further stage halves the resolution.
        depth: residual blocks of each stage on the way down, and again on the way up (the last stage has them once).
        patch: side of the patches the image is cut into.
        attention: the stages whose blocks are each followed by self-attention, the finest 0; -1 is the last.
        position: learned function of the position at the start of each stage; False is translation-equivariant.
        dropout: dropout inside the residual blocks, the only randomness.
        context_dim: size of the context vectors, 0 for none.

    Example:
        >>> net = UNet(1, 1, channels=(16, 32), depth=(1, 1))
        >>> net(torch.zeros(2, 1, 31, 17), torch.zeros(2)).shape
        torch.Size([2, 1, 31, 17])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        channels: Sequence[int] = (64, 128),
        depth: Sequence[int] = (2, 3),
        patch: int = 2,
        attention: Sequence[int] = (-1,),
        position: bool = True,
        dropout: float = 0.0,
        context_dim: int = 0,
    ) -> None:
        super().__init__()
        if len(channels) != len(depth):
            raise ValueError(f"channels and depth must have one entry a stage, got {channels!r} and {depth!r}")
        self.patch = patch
        self.multiple = patch * 2 ** (len(channels) - 1)
        width = 4 * channels[0]
        self.embed = LogSNREmbedding(width, context_dim=context_dim)
        self.stem = nn.Conv2d(in_channels * patch**2, channels[0], 3, padding=1)

        looking = [range(len(channels))[level] for level in attention]

        def stage(level: int) -> Stage:
            return Stage(
                channels[level],
                width,
                depth[level],
                position=position,
                attention=level in looking,
                dropout=dropout,
            )

        pairs = list(pairwise(channels))
        self.down = nn.ModuleList(stage(level) for level in range(len(channels)))
        self.reduce = nn.ModuleList(nn.Conv2d(fine, coarse, 2, stride=2) for fine, coarse in pairs)
        self.expand = nn.ModuleList(Enlarge(coarse, fine) for fine, coarse in pairs)
        self.up = nn.ModuleList(stage(level) for level in range(len(channels) - 1))
        self.norm = group_norm(channels[0])
        self.head = zero_init(nn.Conv2d(channels[0], out_channels * patch**2, 3, padding=1))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's stubs

    def forward(self, x: Tensor, log_snr: Tensor, context: Tensor | None = None) -> Tensor:
        """x (B, in_channels, H, W), log_snr (B,), context (B, context_dim) or None → (B, out_channels, H, W)."""
        height, width = x.shape[-2:]
        embedding = self.embed(log_snr, context)
        h = pad_to_multiple(x, self.multiple)
        h = F.pixel_unshuffle(h, self.patch) if self.patch > 1 else h
        h = self.stem(h.contiguous(memory_format=torch.channels_last))
        skips = []
        for stage, reduce in zip(self.down, self.reduce, strict=False):
            h = stage(h, embedding)
            skips.append(h)
            h = reduce(h)
        h = self.down[-1](h, embedding)
        for level in reversed(range(len(self.up))):
            h = skips[level] + self.expand[level](h)
            h = self.up[level](h, embedding)
        out = self.head(F.silu(self.norm(h)))
        out = F.pixel_shuffle(out, self.patch) if self.patch > 1 else out
        return out[..., :height, :width]


@dataclass(frozen=True)
class Preset:
    """Size of a U-Net; `UNet(in_channels, out_channels, **vars(preset))` builds it."""

    channels: tuple[int, ...]
    depth: tuple[int, ...]
    patch: int


PRESETS: dict[str, Preset] = {
    "tiny": Preset(channels=(32, 64), depth=(1, 2), patch=1),
    "small": Preset(channels=(32, 64, 128), depth=(1, 1, 2), patch=1),
    "base": Preset(channels=(64, 128, 256), depth=(1, 2, 2), patch=2),
}


def preset_for(shape: Sequence[int], examples: int) -> str:
    """The word in `PRESETS` for images of `shape` (C, H, W) when there are `examples` of them to train on.

    "tiny" up to 16 pixels a side; above, "small" up to 32 pixels a side or with fewer than 5000 images; else "base".
    """
    side = max(shape[-2:])
    if side <= 16:
        return "tiny"
    return "small" if side <= 32 or examples < 5000 else "base"


def dropout_for(examples: int) -> float:
    """Dropout for `examples` training images: 0.1 below 10 000, where the network could learn them by heart, else 0."""
    return 0.1 if examples < 10_000 else 0.0
