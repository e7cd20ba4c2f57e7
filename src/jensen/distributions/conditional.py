"""`Conditional`: a module whose forward returns a distribution.

Prior p(z), emission p(x | z) and posterior q(z | x) of every latent-variable model are Conditionals, so that
one `bounds.elbo` serves all of them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution

from jensen.errors import InputError

LogDensity = Literal["exact", "unbiased in exp", "bound"]


class Conditional(nn.Module, ABC):
    """p(· | given): `forward(given)` returns a Distribution with batch_shape `(B,)`.

    A prior takes the number of rows it is for as `given` of shape `(B, 0)`, so that all three have one type.

    Class attributes:
        log_density: what `log_prob` of its distributions is: exact, an estimate whose exponential is unbiased, or a bound,
            whose average may stand in an ELBO and nowhere inside a logarithm of a mean.
    """

    log_density: ClassVar[LogDensity] = "exact"

    @abstractmethod
    def forward(self, given: Tensor) -> Distribution:
        """The distribution given `given (B, *event)`, with batch_shape `(B,)`."""

    def __call__(self, given: Tensor) -> Distribution:
        """`forward`, with its type."""
        distribution = super().__call__(given)
        assert isinstance(distribution, Distribution)
        return distribution


def require_unbiased(*parts: Conditional) -> None:
    """Refuse parts whose log-density is a bound: noise inside a log-mean-exp raises it above log p(x).

    Raises:
        InputError: names the part.
    """
    for part in parts:
        if part.log_density == "bound":
            raise InputError(
                f"{type(part).__name__} gives a bound on its log-density, not the log-density; an average of weights made of it is no "
                "bound on log p(x) and no estimate of it; take method=elbo"
            )


class Weighted(Conditional):
    """p(z) of one of K components, the same whatever is given: the prior of a mixture.

    Args:
        weights: `(K,)`, which sum to one.
    """

    def __init__(self, weights: Float[Tensor, " K"]) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, given: Tensor) -> Distribution:
        """A categorical distribution a row."""
        return Categorical(self.weights.expand(len(given), -1))


class Responsible(Conditional):
    """p(z | x) ∝ p(x, z) of one of K components, by Bayes' rule: the exact posterior of a mixture.

    Args:
        log_joint: log p(x, z = k) of rows, `(B, K)`.
    """

    def __init__(self, log_joint: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.log_joint = log_joint

    def forward(self, given: Tensor) -> Distribution:
        """A categorical distribution a row."""
        return Categorical(logits=self.log_joint(given))
