"""Writes toy.csv: 600 rows of a known mixture of three normals in the plane, seed 0 (docs/guides/compare.md)."""

import numpy as np

WEIGHTS = [0.5, 0.3, 0.2]
MEANS = np.array([[-2, 0], [2, 1], [0, -2.5]])
FACTORS = np.array([[[0.8, 0.0], [0.5, 0.4]], [[0.5, 0], [-0.4, 0.7]], [[1.2, 0], [0, 0.3]]])  # Σ_k = L_k L_kᵀ

if __name__ == "__main__":
    draw = np.random.default_rng(0)
    component = draw.choice(3, 600, p=WEIGHTS)
    rows = np.array([MEANS[k] + FACTORS[k] @ draw.normal(size=2) for k in component])
    np.savetxt("toy.csv", rows, delimiter=",", header="a,b", comments="")
