"""KL(q ‖ p) in closed form, where a pair has one (note 1; Kingma and Welling 2014, appendix B).

For q = N(μ, L Lᵀ) and p = N(m, diag(s²)), by the chain rule over dimensions,

    KL = Σ_d E KL(q(z_d | z_<d) ‖ p(z_d)) = Σ_d [ log(s_d / L_dd) + (Σ_{j ≤ d} L_dj² + (μ_d - m_d)²) / 2 s_d² - ½ ],

which for a diagonal L is the divergence of each dimension by itself.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from jensen.distributions.from_noise import DiagonalNormal, FullNormal, Stacked


def kl_by_dimension(q: Distribution, p: Distribution) -> Float[Tensor, "B D"] | None:
    """The terms whose sum over d is KL(q ‖ p) in nats, or None where there is no closed form.

    Example:
        >>> q = DiagonalNormal(torch.ones(1, 2), torch.zeros(1, 2))
        >>> kl_by_dimension(q, DiagonalNormal(torch.zeros(1, 2), torch.zeros(1, 2))).tolist()
        [[0.5, 0.5]]
    """
    if not isinstance(p, DiagonalNormal) or not isinstance(q, DiagonalNormal | FullNormal):
        return None
    own = q.log_scale if isinstance(q, DiagonalNormal) else q.factor.diagonal(dim1=-2, dim2=-1).log()
    away = (q.variance + (q.loc - p.loc).square()) / p.variance
    return p.log_scale - own + 0.5 * (away - 1)


def log_density_by_dimension(law: Distribution, z: Float[Tensor, "*S B D"]) -> Float[Tensor, "*S B D"] | None:
    """Terms whose sum over d is log p(z) in nats, each the density of a number given those it depends on; None where the law has no such terms.

    By them KL(q ‖ p) = Σ_d E_q[log q_d - log p_d] has a share of each number also where one layer stands on another. A share is no divergence: it can
    be negative where another number pays for it.

    Example:
        >>> log_density_by_dimension(DiagonalNormal(torch.zeros(1, 2), torch.zeros(1, 2)), torch.tensor([[0.0, 1.0]])).exp()
        tensor([[0.3989, 0.2420]])
    """
    if isinstance(law, DiagonalNormal):
        return law.terms(z)
    if not isinstance(law, Stacked):
        return None
    first, after = law.parts_of(z)
    shares = [log_density_by_dimension(law.first, first), log_density_by_dimension(law.second(first), after)]
    found = [share for share in shares if share is not None]
    return torch.cat(found[::-1] if law.reverse else found, -1) if len(found) == 2 else None
