"""From one law on the line to any other: T = G⁻ ∘ F.

If F is continuous, U = F(X) is uniform; and G⁻(U) has distribution function G for any G, with jumps or flat pieces or
both, because G⁻(u) ≤ y ⟺ u ≤ G(y) (note 4's closing question, which takes G to be invertible). So a standard normal
becomes an exponential, a coin, a mixture, a sample. T is the nondecreasing map that carries the first law to the second,
and the optimal one for every convex cost of the distance (Santambrogio 2015, "Optimal transport for applied
mathematicians", theorem 2.9). It is a thing of the line: in more dimensions F(X) is not uniform on the cube.

Where U is near 1 its distance to 1 is carried instead, V = S(X), and T(x) is the first y with at most so much beyond.
"""

import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.distributions import Distribution, MixtureSameFamily

from jensen.distributions.line import Law, law_of
from jensen.errors import InputError


class Transport:
    """The nondecreasing map that turns draws of `source` into draws of `target`.

    Args:
        source: a continuous law on the line; a distribution of torch or a `Law`.
        target: any law on the line.

    Raises:
        InputError: if the source has jumps (then F(X) is not uniform, and no map need exist: a coin can not become a die).

    Example:
        >>> from torch.distributions import Bernoulli, Normal
        >>> coin = Transport(Normal(0.0, 1.0), Bernoulli(0.25))
        >>> coin(torch.tensor([-1.0, 0.6, 0.7])).tolist()
        [0.0, 0.0, 1.0]
    """

    def __init__(self, source: Distribution | Law, target: Distribution | Law) -> None:
        self.source = source if isinstance(source, Law) else law_of(source)
        self.target = target if isinstance(target, Law) else law_of(target)
        if not self.source.continuous:
            raise InputError(
                f"the source of a transport must have a continuous distribution function, and {type(source).__name__} has "
                "jumps; start from Uniform or Normal"
            )

    def forward(self, x: Float[Tensor, "*shape"]) -> Float64[Tensor, "*shape"]:
        """G⁻(F(x))."""
        x = x.double()
        u, v = self.source.cdf(x), self.source.survival(x)
        return torch.where(u <= 0.5, self.target.quantile(u.clamp(max=0.5)), self.target.upper(v.clamp(max=0.5)))

    __call__ = forward


class MixtureOnTheLine(MixtureSameFamily):
    """A `MixtureSameFamily` on the line that also has an `icdf`.

    Example:
        >>> from torch.distributions import Categorical, Normal
        >>> p = MixtureOnTheLine(Categorical(torch.ones(2)), Normal(torch.tensor([-9.0, 9.0]), torch.ones(2)))
        >>> abs(float(p.icdf(torch.tensor(0.25))) + 9) < 1e-6
        True
    """

    def icdf(self, value: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """F⁻(u), in the dtype of u."""
        plain = MixtureSameFamily(self.mixture_distribution, self.component_distribution, validate_args=False)
        return law_of(plain).quantile(value).to(value.dtype)
