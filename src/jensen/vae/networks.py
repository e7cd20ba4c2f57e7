"""The two networks of an autoencoder, from words: rows → features, and latents → numbers a cell.

    mlp     perceptrons on flattened rows
    conv    residual convolutions, for images of any size (`jensen.nn.convolutional`)

The decoder's numbers start where they are told to, such as the log-odds of every pixel: what is learned is how rows differ from the mean.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jensen.errors import InputError
from jensen.nn.convolutional import Down, Up
from jensen.nn.perceptron import Activation, Perceptron

MOST_WEIGHTS = 1 << 28  # of one layer: 1 GiB
DEFAULT_SIZE = {"mlp": "small", "conv": "tiny"}  # a processor makes hundreds of steps of them in minutes
FEW_ROWS = 1000  # fewer make for tiny networks
SIZES: dict[str, dict[str, tuple[int, int]]] = {  # network → size → (width, depth)
    "mlp": {"tiny": (64, 1), "small": (200, 2), "base": (500, 2)},
    "conv": {"tiny": (16, 1), "small": (32, 1), "base": (48, 2)},
}


class Decoder(nn.Module, ABC):
    """Vectors `(N, dims)` → `(N, cells, outputs)`."""

    @abstractmethod
    def forward(self, z: Tensor) -> Tensor:
        """The numbers of every cell."""

    @abstractmethod
    def start(self, numbers: Float[Tensor, "cells outputs"]) -> None:
        """Have these numbers as the mean over z."""


class FlatDecoder(Decoder):
    """A perceptron.

    Args:
        dims: of z.
        cells: of a row.
        outputs: numbers a cell.
        width, depth, activation: of the hidden layers.
    """

    def __init__(
        self, dims: int, cells: int, outputs: int, *, width: int, depth: int, activation: Activation = "silu"
    ) -> None:
        super().__init__()
        self.network, self.outputs = (
            Perceptron(dims, cells * outputs, width=width, depth=depth, activation=activation),
            outputs,
        )

    def forward(self, z: Tensor) -> Tensor:
        """Through the perceptron."""
        out = self.network(z)
        assert isinstance(out, Tensor)
        return out.unflatten(1, (-1, self.outputs))

    @torch.no_grad()
    def start(self, numbers: Tensor) -> None:
        """The last layer's bias."""
        last = self.network.layers[-1]
        assert isinstance(last, nn.Linear)
        last.bias.copy_(numbers.flatten())


class ImageDecoder(Decoder):
    """Convolutions, and a number for every cell that is added to what they put out.

    Args:
        dims: of z.
        shape: (C, H, W).
        outputs: numbers a cell.
        channels, depth: as `Up` takes them.
    """

    def __init__(self, dims: int, shape: tuple[int, int, int], outputs: int, *, channels: int, depth: int) -> None:
        super().__init__()
        self.network = Up(dims, shape, outputs, channels=channels, depth=depth)
        self.offset = nn.Parameter(torch.zeros(math.prod(shape), outputs))

    def forward(self, z: Tensor) -> Tensor:
        """Through the convolutions."""
        out = self.network(z)
        assert isinstance(out, Tensor)
        return out.flatten(1, 3) + self.offset

    @torch.no_grad()
    def start(self, numbers: Tensor) -> None:
        """The numbers of the cells."""
        self.offset.copy_(numbers)


class FlatEncoder(nn.Module):
    """A perceptron on flattened rows.

    Args:
        cells: of a row.
        features: put out.
        width, depth, activation: of the hidden layers.
        extra: size of the vector that comes with a row; 0 for none.
    """

    def __init__(
        self, cells: int, features: int, *, width: int, depth: int, activation: Activation = "silu", extra: int = 0
    ) -> None:
        super().__init__()
        self.network = Perceptron(cells + extra, features, width=width, depth=depth, activation=activation)

    def forward(self, x: Tensor, extra: Tensor | None = None) -> Tensor:
        """`(B, *event)`, and `(B, extra)` or None → `(B, features)`."""
        flat = x.flatten(1)
        out = self.network(flat if extra is None else torch.cat([flat, extra.to(flat)], 1))
        assert isinstance(out, Tensor)
        return out


@dataclass(frozen=True)
class Shape:
    """What both networks are built from.

    Attributes:
        event: of a row.
        word: mlp or conv.
        width: units, or channels at full resolution.
        depth: hidden layers, or blocks at each lower resolution.
        activation: of the perceptrons.
        classes: how many classes rows come with; 0 for none.
    """

    event: tuple[int, ...]
    word: str
    width: int
    depth: int
    activation: Activation
    classes: int = 0

    @property
    def cells(self) -> int:
        """Of a row."""
        return math.prod(self.event)

    @property
    def image(self) -> tuple[int, int, int]:
        """The event as an image's."""
        if len(self.event) != 3:
            raise InputError(f"network=conv needs images (C, H, W), got rows of shape {self.event}; use mlp")
        channels, height, width = self.event
        return channels, height, width

    def encoder(self, features: int) -> nn.Module:
        """Rows → features."""
        if self.word == "conv":
            return Down(self.image, features, channels=self.width, depth=self.depth, extra=self.classes)
        return FlatEncoder(
            self.cells,
            features,
            width=self.width,
            depth=self.depth,
            activation=self.activation,
            extra=self.classes,
        )

    def decoder(self, dims: int, outputs: int) -> Decoder:
        """z and its class → numbers a cell."""
        given = dims + self.classes
        if self.word == "conv":
            return ImageDecoder(given, self.image, outputs, channels=self.width, depth=self.depth)
        return FlatDecoder(given, self.cells, outputs, width=self.width, depth=self.depth, activation=self.activation)

    def numbers_a_row(self, outputs: int) -> int:
        """The most numbers that a layer of the decoder holds for a row."""
        channels = -(-self.width // self.event[0]) if self.word == "conv" else 1
        return self.cells * max(outputs, channels)

    def check(self, features: int, dims: int, outputs: int) -> None:
        """Refuse networks that would not fit in memory.

        Raises:
            InputError: a layer of more than 2²⁸ weights.
        """
        if self.word == "conv":
            height, width = self.image[1:]
            low = 16 * self.width * 4
            most = max(
                9 * 16 * self.width**2,
                9 * self.width * self.image[0] * outputs,
                low * max(features, dims),
                height * width,
            )
            most *= max(1, self.depth)
        else:
            sides = [self.cells + self.classes, self.width, features, dims + self.classes, self.cells * outputs]
            most = max(a * b for a, b in zip(sides[::1], [self.width] * 5, strict=True)) * max(1, self.depth)
            if self.depth == 0:
                most = max(sides[0] * features, sides[3] * sides[4])
        if most > MOST_WEIGHTS:
            raise InputError(
                f"networks for rows of {self.cells} cells with width {self.width} and {dims} latents would have a layer of "
                f"{most:,} weights, at most {MOST_WEIGHTS:,} fit in memory; take a smaller width or latent_dim, or resize the data"
            )


def resolved(event: tuple[int, ...], rows: int, given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of both networks, as given or by the shape and number of training rows; a `size` is turned into width and depth."""
    network = given.get("network", default_network(event))
    size = given.get("size", "tiny" if rows < FEW_ROWS else DEFAULT_SIZE.get(network, "small"))
    width, depth = SIZES.get(network, SIZES["mlp"]).get(size, SIZES["mlp"]["small"])
    chosen = {"latent_dim": default_latents(math.prod(event)), "network": network, "width": width, "depth": depth}
    return {name: given.get(name, default) for name, default in {**chosen, "activation": "silu"}.items()}


def default_latents(cells: int) -> int:
    """Half as many numbers as a row has, from 2 to 64."""
    return max(2, min(64, cells // 2))


def default_network(event: tuple[int, ...]) -> str:
    """Convolutions for images of more than 8 × 8."""
    return "conv" if len(event) == 3 and math.prod(event[1:]) > 64 else "mlp"
