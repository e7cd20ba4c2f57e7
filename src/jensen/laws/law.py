"""`Law`: p(x_d) of one dimension, from the numbers that a network puts out for it.

It serves the conditionals p(x_d | x_<d) of an autoregressive model and the emission p(x | z) of a latent-variable model. A law
draws from two uniform numbers, so that a sample is a function of its noise: one picks a component, the other is put through the
component's inverse distribution function.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

from jaxtyping import Float, Float64
from torch import Tensor

from jensen.distributions.picking import picked_each
from jensen.laws.total import by_autograd, summed, total_of


class Law(ABC):
    """p(x_d | parameters).

    Attributes:
        outputs: how many parameters it takes.
        located: whether they are a location and the logarithm of a scale, in multiples of exp(`unit`).
    """

    outputs: int
    located: ClassVar[bool] = False
    unit: float = 0.0

    @abstractmethod
    def log_prob(self, parameters: Float[Tensor, "*shape outputs"], x: Float[Tensor, "*shape"]) -> Tensor:
        """log p(x) at each value, in the parameters' precision."""

    def total(
        self, parameters: Float[Tensor, "*shape D outputs"], x: Float[Tensor, "*rows D"]
    ) -> Float[Tensor, "*shape"]:
        """Σ_d log p(x_d), summed in float64; parameters may have draws in front of the rows, and half precision."""
        return total_of(self.sums, self.sums_and_slope, parameters, x)

    def sums(
        self, parameters: Float[Tensor, "*shape D outputs"], x: Float[Tensor, "*rows D"]
    ) -> Float64[Tensor, "*shape"]:
        """Σ_d log p(x_d) of so many rows that they fit the processor's cache; no gradient is asked of it."""
        return summed(self.log_prob(parameters, x))

    def sums_and_slope(
        self, parameters: Float[Tensor, "*shape D outputs"], x: Float[Tensor, "*rows D"]
    ) -> tuple[Float64[Tensor, "*shape"], Float[Tensor, "*shape D outputs"]]:
        """`sums`, and its derivative in the parameters in their own precision."""
        return by_autograd(self.log_prob)(parameters, x)

    @abstractmethod
    def draw(self, parameters: Float[Tensor, "n outputs"], u: Float[Tensor, "n 2"]) -> Float[Tensor, " n"]:
        """One value each from two uniform numbers in [0, 1), float64."""

    @abstractmethod
    def mean(self, parameters: Float[Tensor, "*shape outputs"]) -> Float[Tensor, "*shape"]:
        """E[x], for pictures; on levels it need not be one."""

    def start(self, counts: Float[Tensor, " k"] | None) -> Tensor | None:
        """Where the parameters should begin, `(outputs,)`, given how often each level occurs; None to leave them."""
        return None


def place(logits: Tensor, u: Tensor) -> Tensor:
    """The number of the category at which the distribution function passes u, `(n,)`."""
    return picked_each(logits.double().softmax(-1), u)


def picked(logits: Tensor, u: Tensor, *of_components: Tensor) -> tuple[Tensor, ...]:
    """What belongs to the component that u picks, `(n,)` each."""
    at = place(logits, u)[:, None]
    return tuple(t.gather(-1, at)[:, 0] for t in of_components)


def inside(u: Tensor) -> Tensor:
    """Uniform numbers in [0, 1) as float64 in (0, 1), where every quantile is finite."""
    return u.double().clamp(2.0**-54, 1 - 2.0**-53)
