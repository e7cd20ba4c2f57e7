"""`Conditional`: a module whose forward returns a distribution.

Prior p(z), emission p(x | z) and posterior q(z | x) of every latent-variable model are Conditionals, so that
one `bounds.elbo` serves all of them.
"""

from abc import ABC, abstractmethod

from torch import Tensor, nn
from torch.distributions import Distribution


class Conditional(nn.Module, ABC):
    """p(· | given): `forward(given)` returns a Distribution with batch_shape `(B,)`.

    A prior takes the number of rows it is for as `given` of shape `(B, 0)`, so that all three have one type.
    """

    @abstractmethod
    def forward(self, given: Tensor) -> Distribution:
        """The distribution given `given (B, *event)`, with batch_shape `(B,)`."""

    def __call__(self, given: Tensor) -> Distribution:
        """`forward`, with its type."""
        distribution = super().__call__(given)
        assert isinstance(distribution, Distribution)
        return distribution
