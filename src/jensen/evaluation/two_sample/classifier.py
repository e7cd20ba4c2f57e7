"""Classifier two-sample test (Lopez-Paz and Oquab 2017): can real and drawn rows be told apart?

    accuracy = the share of rows that a classifier, which has not seen them, puts on the right side; ½ for two samples of one law

The classifier is least squares on random features cos(ωᵀx + b), ω ~ N(0, 1/h²) (Rahimi and Recht 2008), and on x itself; 5 folds of
rows at random. Least squares takes many label vectors at once, so the permutation test refits every fold for each of them. Standard
units, directions and h come from other real rows than those that are told apart, so that labels decide nothing else and the p-value is
exact.

The standard error is that of a share, with what the permuted accuracies vary more than coins do; it is some 10 % too small where the laws
differ.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from jensen.distributions.divergence.permutations import p_value
from jensen.distributions.divergence.samples import median_distance
from jensen.evaluation.two_sample.measure import Measure
from jensen.noise import Noise

FOLDS, FEATURES = 5, 256
MOST_DIMENSIONS = 64
RIDGE = 1e-2
Labels = Float[Tensor, "rows b"]


class Waves:
    """Rows → standard units in at most 64 principal directions, with random waves of them.

    Args:
        reference: real rows that units and directions come from.
        seed: of the waves.
    """

    def __init__(self, reference: Float[Tensor, "r d"], seed: int = 0) -> None:
        self.mean, spread = reference.mean(0), reference.std(0)
        self.spread = torch.where(spread > 0, spread, torch.ones_like(spread))
        standard = (reference - self.mean) / self.spread
        self.directions = torch.eye(reference.shape[1], dtype=torch.float64)
        if reference.shape[1] > MOST_DIMENSIONS:
            _, vectors = torch.linalg.eigh(standard.T @ standard)
            self.directions = vectors.flip(1)[:, :MOST_DIMENSIONS]
        standard = standard @ self.directions
        noise = Noise(seed, "waves")
        omega = noise.normal(range(FEATURES), (standard.shape[1],)).double()
        self.omega = omega * math.sqrt(2) / median_distance(standard, seed)
        self.phase = 2 * math.pi * noise.at("phase").uniform(range(FEATURES))

    def __call__(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, "n f"]:
        """The features, a constant first."""
        standard = ((rows - self.mean) / self.spread) @ self.directions
        waves = math.sqrt(2) * torch.cos(standard @ self.omega.T + self.phase)
        return torch.cat([torch.ones(len(rows), 1, dtype=torch.float64), standard, waves], 1)


def classifier(
    real: Float[Tensor, "n d"], drawn: Float[Tensor, "n d"], waves: Waves, z: Labels, seed: int = 0
) -> Measure:
    """Accuracy with its standard error and p-value.

    Args:
        real: real rows as vectors.
        drawn: the others; as many, or the accuracy of a guess is not ½.
        waves: the features.
        z: `permutations.labels(n, n, …)`.
        seed: of the folds.
    """
    rows = len(real) + len(drawn)
    phi = waves(torch.cat([real, drawn]))
    folds = Noise(seed, "folds").permutation(rows) % FOLDS
    right = torch.zeros(z.shape[1], dtype=torch.float64)
    for fold in range(FOLDS):
        test = folds == fold
        scores = phi[test] @ _weights(phi[~test], 2 * z[~test] - 1)
        right += ((scores > 0) == (z[test] > 0.5)).double().sum(0)
    accuracy = right / rows
    value = float(accuracy[0])
    error = math.sqrt(max(value * (1 - value), 0.25 / rows) / rows + _of_training(accuracy, rows))
    note = f"accuracy, {len(real)} and {len(drawn)} rows, {FOLDS} folds"
    return Measure("classifier", value, "near", 0.5, error, p_value(accuracy), note)


def _of_training(accuracy: Tensor, rows: int) -> float:
    """What the variance of the permuted accuracies is above that of as many coins: folds that share their training rows err together."""
    return max(0.0, float(accuracy[1:].var()) - 0.25 / rows) if len(accuracy) > 2 else 0.0


def _weights(phi: Tensor, targets: Tensor) -> Tensor:
    """Ridge regression of all targets together."""
    gram = phi.T @ phi + RIDGE * len(phi) * torch.eye(phi.shape[1], dtype=phi.dtype)
    weights: Tensor = torch.linalg.solve(gram, phi.T @ targets)
    return weights
