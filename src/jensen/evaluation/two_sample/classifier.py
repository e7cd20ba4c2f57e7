"""Classifier two-sample test (Lopez-Paz and Oquab 2017): can real and drawn rows be told apart?

    accuracy = the share of rows that a classifier, which has not seen them, puts on the right side; ½ for two samples of one law

The classifier is least squares on random features cos(ωᵀx + b), ω ~ N(0, 1/h²) (Rahimi and Recht 2008), and on x itself, standardised by
the real rows; 5 folds, each class of its own. Least squares takes many label vectors at once, so the permutation test refits every fold
for each of them, and its p-value is exact.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from jensen.distributions.divergence.permutations import labels, p_value
from jensen.distributions.divergence.samples import median_distance
from jensen.evaluation.two_sample.measure import Measure
from jensen.noise import Noise

FOLDS, FEATURES, PERMUTATIONS = 5, 256, 199
MOST_DIMENSIONS = 64
RIDGE = 1e-2


def classifier(
    real: Float[Tensor, "n d"], drawn: Float[Tensor, "m d"], *, permutations: int = PERMUTATIONS, seed: int = 0
) -> Measure:
    """Accuracy with its standard error and p-value.

    Args:
        real: real rows as vectors.
        drawn: the others; as many, or the accuracy of a guess is not ½.
        permutations: of labels.
        seed: of features, folds and permutations.
    """
    count = min(len(real), len(drawn))
    real, drawn = real[:count], drawn[:count]
    phi = _features(real, torch.cat([real, drawn]), seed)
    z = labels(count, count, permutations, seed)
    folds = (Noise(seed, "folds").permutation(2 * count) % FOLDS).long()
    right = torch.zeros(z.shape[1], dtype=torch.float64)
    for fold in range(FOLDS):
        test = folds == fold
        scores = phi[test] @ _weights(phi[~test], 2 * z[~test] - 1)
        right += ((scores > 0) == (z[test] > 0.5)).double().sum(0)
    accuracy = right / (2 * count)
    value = float(accuracy[0])
    return Measure(
        "classifier",
        value,
        "near",
        target=0.5,
        stderr=math.sqrt(max(value * (1 - value), 0.25 / (2 * count)) / (2 * count)),
        p_value=p_value(accuracy),
        note=f"accuracy, {count} and {count} rows, {FOLDS} folds",
    )


def _features(real: Tensor, rows: Tensor, seed: int) -> Tensor:
    """Standardised by real rows, in at most 64 principal directions of theirs, with random waves of them."""
    mean, spread = real.mean(0), real.std(0)
    standard = (rows - mean) / torch.where(spread > 0, spread, torch.ones_like(spread))
    own = standard[: len(real)]
    if rows.shape[1] > MOST_DIMENSIONS:
        _, _, directions = torch.linalg.svd(own, full_matrices=False)
        standard = standard @ directions[:MOST_DIMENSIONS].T
    width = median_distance(standard[: len(real)], seed) / math.sqrt(2)
    noise = Noise(seed, "waves")
    omega = noise.normal(range(FEATURES), (standard.shape[1],)).double() / width
    phase = 2 * math.pi * noise.at("phase").uniform(range(FEATURES))
    waves = math.sqrt(2) * torch.cos(standard @ omega.T + phase)
    return torch.cat([torch.ones(len(rows), 1, dtype=torch.float64), standard, waves], 1)


def _weights(phi: Tensor, targets: Tensor) -> Tensor:
    """Ridge regression of all targets together."""
    gram = phi.T @ phi + RIDGE * len(phi) * torch.eye(phi.shape[1], dtype=phi.dtype)
    weights: Tensor = torch.linalg.solve(gram, phi.T @ targets)
    return weights
