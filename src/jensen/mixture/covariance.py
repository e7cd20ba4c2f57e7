"""The covariance structures by their words.

    full       any Σ_k                                    (`dense`)
    tied       one Σ for all
    diag       independent dimensions inside a component  (`diagonal`)
    spherical  one variance a component
    factors    low rank plus diagonal                     (`factors`)

What a structure is, and what its M-step maximises, is in `structure`.
"""

from jensen.mixture.dense import Full, Tied
from jensen.mixture.diagonal import Diagonal, Spherical
from jensen.mixture.factors import LEAST_NOISE, WHOLE_DIMS, Factors
from jensen.mixture.structure import Covariance

__all__ = [
    "LEAST_NOISE",
    "WHOLE_DIMS",
    "WORDS",
    "Covariance",
    "Diagonal",
    "Factors",
    "Full",
    "Spherical",
    "Tied",
    "covariance_of",
]

WORDS = ("full", "tied", "diag", "spherical", "factors")


def covariance_of(word: str, dims: int, rank: int) -> Covariance:
    """The structure a word stands for."""
    made: dict[str, Covariance] = {
        "full": Full(),
        "tied": Tied(),
        "diag": Diagonal(),
        "spherical": Spherical(dims),
        "factors": Factors(rank, dims),
    }
    return made[word]
