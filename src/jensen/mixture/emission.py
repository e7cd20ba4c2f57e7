"""p(x | z) of a mixture: the normal of the component that is given."""

import torch
from torch import Tensor
from torch.distributions import Distribution, ReshapeTransform, TransformedDistribution

from jensen.distributions.conditional import Conditional
from jensen.mixture.normals import Normals


class Emission(Conditional):
    """N(m_z, Σ_z).

    Args:
        normals: the components.
        event_shape: of a row.
    """

    def __init__(self, normals: Normals, event_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.normals, self.event_shape = normals, event_shape

    def forward(self, given: Tensor) -> Distribution:
        """The normals of components `(B,)`."""
        flat = self.normals.at(given)
        if len(self.event_shape) == 1:
            return flat
        return TransformedDistribution(flat, [ReshapeTransform(flat.event_shape, torch.Size(self.event_shape))])
