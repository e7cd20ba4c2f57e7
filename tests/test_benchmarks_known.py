"""The worlds of benchmarks/known.py: their densities integrate to one and are those of their rows.

Statistical tests are seeded; under a right world each fails for one seed in a thousand.
"""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import special, stats
from sklearn.mixture import GaussianMixture

PATH = Path(__file__).parents[1] / "benchmarks" / "known.py"
spec = importlib.util.spec_from_file_location("known", PATH)
assert spec is not None
assert spec.loader is not None
known = importlib.util.module_from_spec(spec)
sys.modules["known"] = known  # its dataclass looks itself up
spec.loader.exec_module(known)

PLANE = [name for name, world in known.WORLDS.items() if len(world.columns) == 2]
EDGES = {"three-normals": (-7, 7), "moons": (-2, 3), "rings": (-3, 3), "banana": (-6, 30), "checkerboard": (-2, 2)}


def masses(name: str, cells: int, fine: int) -> np.ndarray:
    """p of each of cells x cells squares, by the midpoint rule on fine x fine points in each."""
    low, high = EDGES[name]
    step = (high - low) / (cells * fine)
    middles = low + step * (np.arange(cells * fine) + 0.5)
    points = np.stack(np.meshgrid(middles, middles, indexing="ij"), -1).reshape(-1, 2)
    density = np.exp(np.concatenate([known.WORLDS[name].log_density(part) for part in np.array_split(points, 50)]))
    return density.reshape(cells, fine, cells, fine).sum((1, 3)) * step**2


@pytest.mark.parametrize("name", PLANE)
def test_density_integrates_to_one_and_is_that_of_the_rows(name: str) -> None:
    expected = masses(name, 20, 8)
    assert expected.sum() == pytest.approx(1, abs=2e-5)
    low, high = EDGES[name]
    rows = known.WORLDS[name].draw(20_000, np.random.default_rng(1))
    counts = np.histogram2d(*rows.T, bins=20, range=[(low, high)] * 2)[0]
    often = expected * len(rows) >= 5
    seen = [*counts[often], len(rows) - counts[often].sum()]
    told = [*expected[often] * len(rows), (1 - expected[often].sum()) * len(rows)]
    if told[-1] < 1:
        seen, told = [*seen[:-2], seen[-2] + seen[-1]], [*told[:-2], told[-2] + told[-1]]
    told = np.array(told) * sum(seen) / sum(told)
    assert stats.chisquare(seen, told).pvalue > 1e-3


def test_density_of_houses_integrates_to_one_and_is_that_of_their_rows() -> None:
    """E_p[q / p] = 1 for a density q inside the bulk of p: normals around groups of other rows, in logarithms."""
    world = known.WORLDS["houses"]
    fit = GaussianMixture(15, random_state=0).fit(free(world.draw(6_000, np.random.default_rng(3)))[0])
    rows = world.draw(20_000, np.random.default_rng(2))
    y, log_jacobian = free(rows)
    parts = [
        stats.multivariate_normal(mean, 0.7 * cov).logpdf(y)
        for mean, cov in zip(fit.means_, fit.covariances_, strict=True)
    ]
    log_q = special.logsumexp(np.stack(parts, 1) + np.log(fit.weights_), 1) + log_jacobian
    ratio = np.exp(log_q - world.log_density(rows))
    error = ratio.std() / len(rows) ** 0.5
    assert error < 0.03
    assert abs(ratio.mean() - 1) < 3.3 * error


def free(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Houses without bounds (logarithms, a logit of the age), and log |det| of the map."""
    logs = np.log(rows[:, [0, 2, 3, 4, 5]])
    share = rows[:, 1] / 52
    y = np.column_stack([logs, special.logit(share), rows[:, 6:]])
    return y, -logs.sum(1) - np.log(52 * share * (1 - share))
