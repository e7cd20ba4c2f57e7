"""Variational inference: a posterior that cannot be computed, approximated by the nearest member of a family.

    q* = argmin_{q ∈ Q} KL(q ‖ p(z | x)),      log p(x) = ELBO(q) + KL(q ‖ p(z | x)),      ELBO(q) = E_q[log p(x, z) - log q(z)]

p(z | x) = p(x, z)/p(x) has the unknown p(x) in it; the ELBO has not, and since log p(x) does not depend on q, the q of the highest ELBO
is the nearest one (Jordan et al. 1999; Blei, Kucukelbir and McAuliffe 2017). How near it is the ELBO does not say: importance
sampling from q does, as far as its draws see (Yao et al. 2018, "Yes, but did it work?").
"""

from jensen.estimation.variational.families import Family, FullRank, LowRank, MeanField
from jensen.estimation.variational.fit import FAMILIES, fit_variational
from jensen.estimation.variational.flow import Flow
from jensen.estimation.variational.mixture import Mixture, NormalMixture
from jensen.estimation.variational.result import Variational

__all__ = [
    "FAMILIES",
    "Family",
    "Flow",
    "FullRank",
    "LowRank",
    "MeanField",
    "Mixture",
    "NormalMixture",
    "Variational",
    "fit_variational",
]
