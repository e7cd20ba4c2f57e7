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
NETWORKS_WITH = {"patch": tuple(OF_IMAGES), "attention": ("unet",)}
MOST_PATCH = 16


@dataclass(frozen=True)
class NetworkShape:
    """What a network is built from.

    Attributes:
        event: (C, H, W), or any other shape of a row.
        network: "unet", "dit" or "mlp"; "auto" by the shape.
        size: a preset.
        dropout: inside it.
        head_features: numbers a dimension for a head that comes after.
        fourier: of `WithWaves`, none if empty.
        patch: the side of the squares an image is cut into, instead of the preset's.
        attention: the stages of a U-Net that have self-attention, the finest 0; None for the last.
    """

    event: tuple[int, ...]
    network: str
    size: str
    dropout: float
    head_features: int | None = None
    fourier: tuple[int, ...] = ()
    patch: int | None = None
    attention: tuple[int, ...] | None = None

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
            preset = {**vars(presets[self._preset]), **self._chosen(word)}
            return kind(channels, features * self.event[0], **preset, dropout=self.dropout)
        self._chosen(word)
        dims = math.prod(self.event)
        shown = dims * channels // self.event[0]
        width, depth = {"tiny": (64, 2), "base": (256, 4)}.get(self.size, (128, 3))
        return Flat(MLP(shown, features * dims, width=width, depth=depth, dropout=self.dropout), self.event, features)

    @property
    def _preset(self) -> str:
        return "small" if self.size == "auto" else self.size

    def _chosen(self, word: str) -> dict[str, Any]:
        """What was told beside the preset, where the network has it."""
        chosen = {"patch": self.patch, "attention": self.attention}
        told = {name: value for name, value in chosen.items() if value is not None}
        for name in told:
            if word not in NETWORKS_WITH[name]:
                raise InputError(
                    f"{name} is a setting of network={' or '.join(NETWORKS_WITH[name])}, got network={word}; leave it out"
                )
        if self.patch is not None and not 1 <= self.patch <= min(MOST_PATCH, *self.event[1:]):
            raise InputError(
                f"patch must be from 1 to {min(MOST_PATCH, *self.event[1:])} on images of shape {self.event}, got {self.patch}"
            )
        if self.attention is not None:
            stages = len(unet.PRESETS[self._preset].channels)
            if not all(0 <= stage < stages for stage in self.attention) or len(set(self.attention)) < len(
                self.attention
            ):
                raise InputError(
                    f"attention must name stages of the U-Net, from 0 to {stages - 1} at this size and none twice, got {list(self.attention)}"
                )
        return told


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
