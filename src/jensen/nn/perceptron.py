"""A plain perceptron without normalisation.

For the two players of a game: normalisation layers tie the size of a critic's slope to its batch or its own features, which a penalty on
the slope is there to set (Huang et al. 2024, section 3); and a piecewise linear activation makes the slope's own gradient cheap, since its
second derivative is 0 almost everywhere. For encoders and decoders: tanh is what the published rows of note 2's bounds use (Burda et
al. 2016, section 5); without hidden layers it is a linear map, whose optimum is known.
"""

from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

SLOPE = 0.2
Activation = Literal["leaky-relu", "tanh", "silu", "relu"]


class Perceptron(nn.Module):
    """Vectors (B, dim_in) → (B, dim_out).

    Args:
        dim_in, dim_out: sizes of input and output.
        width: of the hidden layers.
        depth: how many there are; 0 is a linear map.
        activation: after each.

    Example:
        >>> import torch
        >>> Perceptron(2, 3, width=8, depth=2)(torch.zeros(5, 2)).shape
        torch.Size([5, 3])
    """

    def __init__(
        self, dim_in: int, dim_out: int, *, width: int, depth: int, activation: Activation = "leaky-relu"
    ) -> None:
        super().__init__()
        sizes = [dim_in, *[width] * depth]
        hidden = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), activated(activation))]
        self.layers = nn.Sequential(*hidden, nn.Linear(sizes[-1], dim_out))

    def forward(self, x: Tensor) -> Tensor:
        """Through all layers."""
        out = self.layers(x)
        assert isinstance(out, Tensor)
        return out


class SingleTanh(nn.Module):
    """tanh in float32 at the least: in bfloat16 it takes processors five times as long."""

    def forward(self, x: Tensor) -> Tensor:
        """Of every number."""
        return x.to(torch.promote_types(x.dtype, torch.float32)).tanh()


def activated(word: Activation) -> nn.Module:
    """The activation a word stands for."""
    made: dict[str, nn.Module] = {
        "leaky-relu": nn.LeakyReLU(SLOPE),
        "tanh": SingleTanh(),
        "silu": nn.SiLU(),
        "relu": nn.ReLU(),
    }
    return made[word]
