"""Mixtures of normals as approximations: q(z) = Σ_k w_k N(z; m_k, diag(s_k²)), for posteriors with several modes.

Which component a draw comes from is no differentiable function of noise. But the ELBO is a sum over components,

    ELBO = Σ_k w_k E_{q_k}[log p(x, z) - log q(z)],

so each component is drawn from by itself and the weights stand outside: every term is reparameterised, and the choice of a component
adds no variance (Morningstar et al. 2021, "Automatic differentiation variational inference with mixtures").
"""

import math

import torch
from jaxtyping import Float64
from torch import Tensor

from jensen.distributions.from_noise import DiagonalNormal, FromNoise
from jensen.distributions.picking import picked
from jensen.errors import InputError
from jensen.estimation.variational.families import Family, LogJoint, normals, pairs, zeros
from jensen.noise import Noise


class NormalMixture(FromNoise):
    """Σ_k w_k N(loc_k, diag(exp(log_scale_k)²)), batch_shape (1,).

    A draw takes D + 1 normals, the last of which picks the component by its distribution function: no gradient goes through that.

    Args:
        log_weights: `(K,)`, normalised.
        loc: `(K, D)`.
        log_scale: likewise.

    Example:
        >>> q = NormalMixture(torch.tensor([0.5, 0.5]).log(), torch.tensor([[-1.0], [1.0]]), torch.zeros(2, 1))
        >>> round(float(q.log_prob(torch.zeros(1, 1))), 4)
        -1.4189
    """

    has_rsample = False

    def __init__(
        self, log_weights: Float64[Tensor, " K"], loc: Float64[Tensor, "K D"], log_scale: Float64[Tensor, "K D"]
    ) -> None:
        self.log_weights, self.parts = log_weights, DiagonalNormal(loc, log_scale)
        super().__init__((1,), loc.shape[1], loc.shape[1] + 1)

    @property
    def mean(self) -> Tensor:
        """Σ w_k m_k."""
        return (self.log_weights.exp() @ self.parts.loc)[None]

    @property
    def variance(self) -> Tensor:
        """Σ w_k (s_k² + m_k²) - (Σ w_k m_k)², about the mean so that nothing cancels."""
        return (self.log_weights.exp() @ (self.parts.variance + (self.parts.loc - self.mean).square()))[None]

    def place(self, noise: Tensor) -> Tensor:
        """m_k + s_k ⊙ ε of a component that is picked."""
        k = picked(self.log_weights.detach().exp(), torch.special.ndtr(noise[..., -1]).flatten())
        k = k.reshape(noise.shape[:-1])
        return self.parts.loc[k] + self.parts.scale[k] * noise[..., :-1]

    def log_prob(self, value: Tensor) -> Tensor:
        """log Σ_k w_k N(z; m_k, diag(s_k²))."""
        return (self.parts.log_prob(value[..., None, :]) + self.log_weights).logsumexp(-1)

    def detached(self) -> "NormalMixture":
        """Without a graph."""
        parts = self.parts.detached()
        return NormalMixture(self.log_weights.detach(), parts.loc, parts.log_scale)

    @property
    def _like(self) -> Tensor:
        return self.parts.loc


class Mixture(Family):
    """Σ_k w_k N(m_k, diag(s_k²)).

    Args:
        dims: D.
        components: K.
        spread: how far apart the components begin, in units of the start's scale.
    """

    word = "mixture"
    stage = 100
    centre: Tensor
    log_size: Tensor

    def __init__(self, dims: int, components: int = 8, spread: float = 2.0) -> None:
        super().__init__(dims)
        if not 1 <= components <= 1000:
            raise InputError(f"components must be from 1 to 1000, got {components}")
        if not 0 < spread < math.inf:
            raise InputError(f"spread must be positive and finite, got {spread}")
        self.components, self.spread = components, spread
        self.register_buffer("centre", torch.zeros(components, dims, dtype=torch.float64))
        self.register_buffer("log_size", torch.zeros(components, dims, dtype=torch.float64))
        self.shift, self.log_scale, self.logits = zeros(components, dims), zeros(components, dims), zeros(components)

    def forward(self) -> NormalMixture:
        """Every component as in `MeanField`; weights by softmax."""
        loc = self.centre + self.log_size.exp() * self.shift
        return NormalMixture(self.logits.log_softmax(0), loc, self.log_size + self.log_scale)

    def wide(self, factor: float) -> NormalMixture:
        """Every component wider."""
        q = self()
        return NormalMixture(q.log_weights, q.parts.loc, q.parts.log_scale + math.log(factor))

    def place(self, centre: Tensor, scale: float, noise: Noise) -> None:
        """Components scattered about the centre."""
        self.centre.copy_(centre + self.spread * scale * normals(noise, self.components, self.dims))
        self.log_size.fill_(math.log(scale))

    @torch.no_grad()
    def recentre(self) -> None:
        """Each component in its own coordinates."""
        parts = self().parts
        self.centre.copy_(parts.loc)
        self.log_size.copy_(parts.log_scale)
        self.shift.zero_()
        self.log_scale.zero_()

    def values(self, log_joint: LogJoint, noise: Noise, draws: int) -> Tensor:
        """The weighted sum of a draw from each component; as many of them as make up about so many draws."""
        q, rounds = self(), max(2, draws // self.components)
        z = q.parts.place(pairs(noise, rounds, self.components, self.dims))
        ratio = log_joint(z.flatten(0, 1)).view(z.shape[:2]) - q.detached().log_prob(z)
        return ratio @ q.log_weights.exp()
