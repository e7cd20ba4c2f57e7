"""A plain perceptron without normalisation, for the two players of a game.

Normalisation layers tie the size of a critic's slope to its batch or its own features, which a penalty on the slope is there to
set (Huang et al. 2024, section 3); and a piecewise linear activation makes the slope's own gradient cheap, since its second derivative is 0
almost everywhere.
"""

from itertools import pairwise

from torch import Tensor, nn

SLOPE = 0.2


class Perceptron(nn.Module):
    """Vectors (B, dim_in) → (B, dim_out).

    Args:
        dim_in, dim_out: sizes of input and output.
        width: of the hidden layers.
        depth: how many there are, at least 1.

    Example:
        >>> import torch
        >>> Perceptron(2, 3, width=8, depth=2)(torch.zeros(5, 2)).shape
        torch.Size([5, 3])
    """

    def __init__(self, dim_in: int, dim_out: int, *, width: int, depth: int) -> None:
        super().__init__()
        sizes = [dim_in, *[width] * depth]
        hidden = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.LeakyReLU(SLOPE))]
        self.layers = nn.Sequential(*hidden, nn.Linear(width, dim_out))

    def forward(self, x: Tensor) -> Tensor:
        """Through all layers."""
        out = self.layers(x)
        assert isinstance(out, Tensor)
        return out
