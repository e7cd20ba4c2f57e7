"""Estimators of the gradient of a k-draw bound,

    L_k = E log (1/k) Σ_i w_i,   w_i = p(x, z_i) / q(z_i | x),   z_i = g(ε_i; φ);   L_1 is the ELBO.

All have the same value and, in θ of p, the same gradient, Σ w̃_i ∇_θ log w_i with w̃ = w / Σ w. In φ of q:

    reparameterised   Σ w̃_i ∇_φ log w_i                                       (Burda et al. 2016, equation 13)
    stl               Σ w̃_i (∂ log w_i / ∂z_i) ∇_φ z_i                        (Roeder et al. 2017, "Sticking the landing")
    dreg              Σ w̃_i² (∂ log w_i / ∂z_i) ∇_φ z_i                       (Tucker et al. 2019, equation 8: doubly reparameterised)
    score             Σ_i A_i ∇_φ log q(z_i | x) - Σ w̃_i ∇_φ log q(z_i | x)    (Mnih and Rezende 2016, "VIMCO", equations 7 to 9)

A_i = L̂ - L̂_{-i} is the estimate less what it would be with the geometric mean of the other weights in place of w_i: a control variate
that does not depend on z_i. For k = 1 there is no other draw to compare with, and the score's variance is what it is; the mean of the
log-weights of k draws has one too, A_i = log w_i less the mean of the others (`leave_one_out`).

stl leaves out Σ w̃_i ∂ log q/∂φ, whose mean is 0 only for k = 1: for more draws it is biased, and refused. The path alone would be all that
is left where q is the posterior: w is constant in z there and both stl and dreg have gradient 0 in every draw. The score needs no path,
and so serves a z that has none. As k grows the signal-to-noise ratio of `reparameterised` falls as 1/√k (Rainforth et al. 2018) and
that of `dreg` rises as √k.
"""

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from jensen.bounds.weights import log_weights
from jensen.distributions.conditional import Conditional, require_unbiased
from jensen.distributions.from_noise import FromNoise
from jensen.errors import InputError
from jensen.importance import log_mean_exp


class Estimator(ABC):
    """Minus the k-draw bound of each row, with a gradient."""

    def loss(
        self,
        prior: Conditional,
        emission: Conditional,
        posterior: Conditional,
        x: Float[Tensor, "B *event"],
        noise: Float[Tensor, "k B E"],
    ) -> Float[Tensor, " B"]:
        """-L_k of each row, `(B,)` float64.

        Args:
            prior: p(z).
            emission: p(x | z).
            posterior: q(z | x).
            x: rows.
            noise: standard normals, k draws.

        Raises:
            InputError: more draws than one, and a part whose log-density is a bound.
        """
        if len(noise) > 1:
            require_unbiased(prior, emission, posterior)
        return self._loss(prior, emission, posterior, x, noise)

    @abstractmethod
    def _loss(
        self, prior: Conditional, emission: Conditional, posterior: Conditional, x: Tensor, noise: Tensor
    ) -> Tensor:
        """As `loss`."""


class Reparameterised(Estimator):
    """The gradient of the value."""

    def _loss(
        self, prior: Conditional, emission: Conditional, posterior: Conditional, x: Tensor, noise: Tensor
    ) -> Tensor:
        """By automatic differentiation alone."""
        return -log_mean_exp(log_weights(prior, emission, posterior, x, noise).log_weight)


class _AlongThePath(Estimator):
    """q's own density held fixed in φ, and the path's gradient weighed draw by draw.

    One pass forward and one backward: with log q(z) of fixed parameters the gradient reaches φ through z alone, as Σ w̃_i g_i; a
    hook multiplies it by w̃_i once more for `dreg`.
    """

    @abstractmethod
    def _path(self, share: Tensor) -> Tensor | None:
        """By what the gradient that comes to z_i is multiplied; None for 1."""

    def _loss(
        self, prior: Conditional, emission: Conditional, posterior: Conditional, x: Tensor, noise: Tensor
    ) -> Tensor:
        """As `Reparameterised`."""
        q = posterior(x)
        assert isinstance(q, FromNoise)
        placed = q.place(noise)
        z = placed.view_as(placed)  # a tensor of its own, so that the hook sees all that comes to z and nothing else
        log_joint = prior(x.new_zeros(len(x), 0)).log_prob(z) + emission(z).log_prob(x)
        assert isinstance(log_joint, Tensor)
        log_w = log_joint - q.detached().log_prob(z)
        factor = self._path(log_w.detach().softmax(0))
        if factor is not None and z.requires_grad:
            z.register_hook(lambda slope: slope * factor[..., None].to(slope))
        return -log_mean_exp(log_w)


class StickingTheLanding(_AlongThePath):
    """For one draw: the path's gradient."""

    def _path(self, share: Tensor) -> None:
        if len(share) > 1:
            raise InputError(
                f"estimator=stl is biased for more than one draw, got {len(share)}; take dreg, or reparameterised"
            )


class DoublyReparameterised(_AlongThePath):
    """w̃_i² in place of w̃_i."""

    def _path(self, share: Tensor) -> Tensor:
        return share


class Score(Estimator):
    """The score function with the other draws for a control variate."""

    def _loss(
        self, prior: Conditional, emission: Conditional, posterior: Conditional, x: Tensor, noise: Tensor
    ) -> Tensor:
        """No gradient goes through z."""
        q = posterior(x)
        assert isinstance(q, FromNoise)
        with torch.no_grad():
            z = q.place(noise)
        log_q = q.log_prob(z)
        log_joint = prior(x.new_zeros(len(x), 0)).log_prob(z) + emission(z).log_prob(x)
        assert isinstance(log_joint, Tensor)
        log_w = log_joint - log_q
        bound = log_mean_exp(log_w)
        credit = (advantages(log_w.detach()) * log_q).sum(0)
        return -(bound + credit - credit.detach())


@torch.no_grad()
def advantages(log_w: Float[Tensor, "k B"]) -> Float[Tensor, "k B"]:
    """L̂ less what it would be if w_i were the geometric mean of the others; for k = 1 L̂ itself."""
    k, log_w = len(log_w), log_w.double()
    bound = log_mean_exp(log_w)
    if k == 1:
        return bound[None]
    instead = (log_w.sum(0) - log_w) / (k - 1)
    nothing = log_w.new_full((1, *log_w.shape[1:]), -math.inf)
    before = torch.cat([nothing, log_w[:-1].logcumsumexp(0)])
    after = torch.cat([log_w[1:].flip(0).logcumsumexp(0).flip(0), nothing])
    replaced = torch.stack([before, instead, after]).logsumexp(0)
    return bound - (replaced - math.log(k))


@torch.no_grad()
def leave_one_out(values: Float[Tensor, "k B"]) -> Float[Tensor, "k B"]:
    """Each of at least two values less the mean of the others: a control variate for the score of a mean."""
    k = len(values)
    return (values - values.mean(0)) * (k / (k - 1))


ESTIMATORS: dict[str, Estimator] = {
    "reparameterised": Reparameterised(),
    "stl": StickingTheLanding(),
    "dreg": DoublyReparameterised(),
    "score": Score(),
}
