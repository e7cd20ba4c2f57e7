"""diffusers' U-Net as the same function of the same weights, in layers that keep images channels-last.

Its own layers do not: a shortcut's input is made contiguous in training, and so is what is enlarged, from 64 images on. `channels_last` has its modules compute by other ways, for
UNet2DModel's defaults (no dropout, SiLU, sums not rescaled, the time added):

residual block   the same operations, but nothing is laid out anew
upsampling       the same operations (`Repeated`); or, with 4/9 of the multiplications, nearest neighbours and then 3 × 3 weights as one transposed convolution by 4 × 4 of their sums (`Transposed`)
self-attention   one product for queries, keys and values, then ours

GroupNorm stays PyTorch's, which channels-last is slow where a group has no multiple of 16 channels. tests/test_benchmarks_layers.py compares values and
gradients.
"""

from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from torch.nn import functional as F

from jensen.nn.layers import self_attention

TAPS = (
    (0, 0, 1),
    (0, 1, 1),
    (1, 1, 0),
    (1, 0, 0),
)  # which of three weights reach the place 2i - 1, 2i, 2i + 1, 2i + 2 from pixel i


class Residual(ResnetBlock2D):
    """h(x) + shortcut(x)."""

    def forward(self, input_tensor: Tensor, temb: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """`(B, C, H, W)`, `(B, E)` → `(B, C', H, W)`."""
        shift = self.time_emb_proj(F.silu(temb))[..., None, None]
        h = self.conv1(F.silu(self.norm1(input_tensor)))
        h = self.conv2(F.silu(self.norm2(h + shift)))
        return h + (input_tensor if self.conv_shortcut is None else self.conv_shortcut(input_tensor))


class Repeated(Upsample2D):
    """Twice as high and wide by nearest neighbours, then a convolution."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """`(B, C, H, W)` → `(B, C', 2H, 2W)`."""
        return self.conv(F.interpolate(hidden_states, scale_factor=2.0))


class Transposed(Upsample2D):
    """Both at once."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """`(B, C, H, W)` → `(B, C', 2H, 2W)`."""
        weight = self.conv.weight
        taps = weight.new_tensor(TAPS)
        kernel = torch.einsum("ak,bl,oikl->ioab", taps, taps, weight).contiguous(memory_format=torch.channels_last)
        return F.conv_transpose2d(hidden_states, kernel, self.conv.bias, stride=2, padding=1)


class Attended(Attention):
    """x + self-attention over all pixels."""

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """`(B, C, H, W)` → `(B, C, H, W)`."""
        batch, channels, height, width = hidden_states.shape
        tokens = self.group_norm(hidden_states).permute(0, 2, 3, 1).reshape(batch, height * width, channels)
        parts = self.to_q, self.to_k, self.to_v
        qkv = F.linear(tokens, torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts]))
        mixed = self.to_out[0](self_attention(qkv, channels // self.heads)).view(batch, height, width, channels)
        return hidden_states + mixed.permute(0, 3, 1, 2)


def channels_last(network: nn.Module, upsampling: type[Upsample2D] = Repeated) -> nn.Module:
    """The network, whose modules compute so from now on."""
    ways = {ResnetBlock2D: Residual, Upsample2D: upsampling, Attention: Attended}
    for module in network.modules():
        module.__class__ = ways.get(type(module), type(module))
    return network.to(memory_format=torch.channels_last)
