"""A mixture's parameters as a user gives them: read, and checked against a covariance structure."""

import math
from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from jensen.errors import InputError
from jensen.mixture.parameters import Parameters, Spread
from jensen.mixture.structure import Covariance
from jensen.rules import FINITE, first_broken

NAMES = {"full": "covariances", "tied": "covariance", "diag": "variances", "spherical": "variances"}


def read(
    weights: Float[Tensor, " K"], means: Float[Tensor, "K d"], covariances: Tensor | Mapping[str, Tensor], word: str
) -> Parameters:
    """Parameters in float64, their weights divided by their sum.

    Args:
        weights: at least 0.
        means: of the components.
        covariances: what the structure's word says.
        word: full, tied, diag, spherical or factors.

    Raises:
        InputError: weights and means of other shapes, weights that are none, no mapping for factors.
    """
    weights, means = weights.double(), means.double()
    if means.ndim != 2 or weights.shape != means.shape[:1]:
        raise InputError(f"weights must be (K,) and means (K, d), got {tuple(weights.shape)}, {tuple(means.shape)}")
    if not bool((weights >= 0).all()) or not 0 < float(weights.sum()) < math.inf:
        raise InputError(f"weights must be at least 0 with a finite positive sum, got {weights.tolist()}")
    return Parameters(weights / weights.sum(), means, _spread(covariances, word))


def check(parameters: Parameters, covariance: Covariance) -> None:
    """Refuse a spread that a structure cannot have.

    Raises:
        InputError: another shape, or a covariance that is not positive definite.
    """
    spread = parameters.spread
    for name, shape in covariance.shapes(parameters.components, parameters.dims).items():
        if name not in spread or tuple(spread[name].shape) != shape:
            got = tuple(spread[name].shape) if name in spread else "none"
            raise InputError(f"{name} of a {covariance.word} mixture must have shape {shape}, got {got}")
    wrong = first_broken({"means": FINITE, **covariance.rules()}, {"means": parameters.means, **spread})
    if wrong is not None:
        raise InputError(f"{wrong}; give a mixture's parameters")


def _spread(covariances: Tensor | Mapping[str, Tensor], word: str) -> Spread:
    if isinstance(covariances, Mapping):
        return {name: tensor.double() for name, tensor in covariances.items()}
    if word not in NAMES:
        raise InputError("covariances of a factors mixture must be a mapping with loadings and noise")
    return {NAMES[word]: covariances.double().reshape(-1, 1) if word == "spherical" else covariances.double()}
