"""Networks from words: what every family that needs a network of rows builds it from."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from jensen.errors import InputError
from jensen.nn import dit, unet
from jensen.nn.mlp import MLP

OF_IMAGES: Mapping[str, tuple[type[nn.Module], Mapping[str, Any]]] = {
    "unet": (unet.UNet, unet.PRESETS),
    "dit": (dit.DiT, dit.PRESETS),
}


@dataclass(frozen=True)
class NetworkShape:
    """What a network is built from."""

    event: tuple[int, ...]
    network: str
    size: str
    dropout: float
    head_features: int
    fourier: tuple[int, ...] = ()

    def build(self, features: int) -> nn.Module:
        """A network that puts out `features` numbers a dimension; it is shown waves of its input beside it where there are `fourier` numbers."""
        if not self.fourier:
            return self._build(self.event[0], features)
        return WithWaves(self._build(self.event[0] * (1 + 2 * len(self.fourier)), features), self.fourier)

    def _build(self, channels: int, features: int) -> nn.Module:
        image = len(self.event) == 3
        word = ("unet" if image else "mlp") if self.network == "auto" else self.network
        if word in OF_IMAGES:
            if not image:
                raise InputError(f"network={word} needs images (C, H, W), got rows of shape {self.event}; use mlp")
            kind, presets = OF_IMAGES[word]
            preset = presets["small" if self.size == "auto" else self.size]
            return kind(channels, features * self.event[0], **vars(preset), dropout=self.dropout)
        dims = math.prod(self.event)
        shown = dims * channels // self.event[0]
        width, depth = {"tiny": (64, 2), "base": (256, 4)}.get(self.size, (128, 3))
        return Flat(MLP(shown, features * dims, width=width, depth=depth, dropout=self.dropout), self.event, features)


class WithWaves(nn.Module):
    """A network that is shown x_t and sin(2ⁿ π x_t), cos(2ⁿ π x_t): differences of a level that its own arithmetic would lose (Kingma et al.
    2021, "Variational diffusion models", appendix C).

    Args:
        network: of `1 + 2·len(powers)` times the channels.
        powers: n.
    """

    def __init__(self, network: nn.Module, powers: tuple[int, ...]) -> None:
        super().__init__()
        self.network, self.powers = network, powers

    def forward(self, x: Tensor, log_snr: Tensor, context: Tensor | None = None) -> Tensor:
        """`(B, C, …)` → what the network says."""
        angles = [2**n * math.pi * x for n in self.powers]
        shown = torch.cat([x, *(wave for a in angles for wave in (a.sin(), a.cos()))], 1)
        out = self.network(shown, log_snr, context)
        assert isinstance(out, Tensor)
        return out


class Flat(nn.Module):
    """A network of vectors, for rows of any shape."""

    def __init__(self, network: MLP, event: tuple[int, ...], features: int) -> None:
        super().__init__()
        self.network = network
        self.output = (event[0] * features, *event[1:])

    def forward(self, x: Tensor, log_snr: Tensor, context: Tensor | None = None) -> Tensor:
        """`(B, *event)` → `(B, event[0]·features, …)`."""
        out = self.network(x.flatten(1), log_snr, context)
        assert isinstance(out, Tensor)
        return out.reshape(len(x), *self.output)
