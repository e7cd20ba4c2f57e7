"""A mixture whose parameters are free real tensors, so that gradients can fit it.

    w = softmax(η),   Σ_k = L_k L_kᵀ with the logarithm of L's diagonal free,   variances as exponentials.

Its maxima are those of the constrained mixture: EM and gradients are two ways to one place (Salakhutdinov et al. 2003,
"Optimization with EM and expectation-conjugate-gradient").
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jensen.mixture.covariance import Covariance
from jensen.mixture.parameters import Parameters

LEAST_LOG_WEIGHT = -100.0  # a weight of 0 has no logarithm to start from


class Unconstrained(nn.Module):
    """The mixture as a module.

    Args:
        start: its parameters at first.
        covariance: its structure.
        dtype: of its tensors.
    """

    def __init__(self, start: Parameters, covariance: Covariance, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.covariance = covariance
        self.logits = nn.Parameter(start.weights.log().clamp(min=LEAST_LOG_WEIGHT).to(dtype))
        self.means = nn.Parameter(start.means.to(dtype, copy=True))
        raw = covariance.unconstrained(start.spread)
        self.raw = nn.ParameterDict({name: nn.Parameter(tensor.to(dtype, copy=True)) for name, tensor in raw.items()})

    def log_prob(self, x: Float[Tensor, "B d"]) -> Float[Tensor, " B"]:
        """log p(x) of complete rows, differentiable in x and in the parameters."""
        spread = self.covariance.constrained(dict(self.raw.items()))
        joint = self.covariance.normals(self.means, spread).log_prob(x) + self.logits.log_softmax(0)[:, None]
        return joint.logsumexp(0)

    @torch.no_grad()
    def parameters_now(self) -> Parameters:
        """The constrained parameters, float64."""
        spread = self.covariance.constrained({name: tensor.double() for name, tensor in self.raw.items()})
        return Parameters(self.logits.double().softmax(0), self.means.double().clone(), spread)
