"""A distribution pushed through an invertible map: z = f(u), u ~ base.

    log q(z) = log base(u) - log |det ∂f/∂u|

Draws and their own densities cost one pass of f (Rezende and Mohamed 2015, equation 5), which is what a variational
posterior needs; the density at another z costs one of its inverse.
"""

from jaxtyping import Float
from torch import Tensor

from jensen.distributions.from_noise import FromNoise
from jensen.distributions.frozen import constant
from jensen.flow.bijection import Bijection


class Pushforward(FromNoise):
    """The law of f(u), u ~ base.

    Args:
        base: of u, batch_shape `(B,)`.
        map: f.
        context: `(B, C)`, which f may see.
    """

    def __init__(self, base: FromNoise, map: Bijection, context: Float[Tensor, "B C"] | None = None) -> None:
        self.base, self.map, self.context = base, map, context
        super().__init__(base.batch_shape, base.event_shape[0], base.noise_dims)

    def place(self, noise: Tensor) -> Tensor:
        """f(u)."""
        return self.place_with_log_prob(noise)[0]

    def place_with_log_prob(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """f(u), and its log-density from u."""
        u, log_base = self.base.place_with_log_prob(noise)
        z, log_det = self.map(u.flatten(0, -2), self._context(u))
        return z.reshape(u.shape), log_base - log_det.reshape(log_base.shape)

    def noise_of(self, value: Tensor) -> Tensor:
        """That of f⁻¹(z)."""
        return self.base.noise_of(self.map.inverse(value.flatten(0, -2), self._context(value)).reshape(value.shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """By the inverse of f, and f again for its determinant."""
        u = self.map.inverse(value.flatten(0, -2), self._context(value))
        _, log_det = self.map(u, self._context(value))
        return self.base.log_prob(u.reshape(value.shape)) - log_det.reshape(value.shape[:-1])

    def detached(self) -> "Pushforward":
        """Without a graph: a map whose parameters take no gradient."""
        context = None if self.context is None else self.context.detach()
        return Pushforward(self.base.detached(), Fixed(self.map), context)

    def _context(self, like: Tensor) -> Tensor | None:
        """The context of each draw."""
        if self.context is None:
            return None
        return self.context.expand(*like.shape[:-1], -1).flatten(0, -2)

    @property
    def _like(self) -> Tensor:
        return self.base._like


class Fixed(Bijection):
    """A map whose parameters take no gradient; its input does.

    Args:
        map: whose parameters it shares.
    """

    def __init__(self, map: Bijection) -> None:
        super().__init__()
        self.map = map

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As the map."""
        with constant(self.map):
            z, log_det = self.map(x, context)
        return z, log_det

    def inverse(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """As the map."""
        with constant(self.map):
            return self.map.inverse(z, context)
