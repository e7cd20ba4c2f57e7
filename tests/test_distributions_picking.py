"""Categories by weight: the ends, weights of 0, and the law."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from jensen.distributions.picking import picked, picked_each
from jensen.noise import Noise

LAST = math.nextafter(1.0, 0.0)


def test_steps_are_where_the_cumulative_sum_is():
    weights = torch.tensor([2.0, 1.0, 5.0])
    u = torch.tensor([0.0, 0.25 - 1e-12, 0.25, 0.375 - 1e-12, 0.375, LAST], dtype=torch.float64)
    assert picked(weights, u).tolist() == [0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("weights", [[0.0, 1.0, 0.0], [0.0, 0.0, 0.3, 0.0, 0.7, 0.0, 0.0], [0.1] * 10 + [0.0] * 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_weight_of_0_is_never_picked(weights: list[float], dtype: torch.dtype):
    """At the ends above all; 1.0 is what the last uniform number becomes in float32."""
    given = torch.tensor(weights, dtype=dtype)
    u = torch.cat([torch.tensor([0.0, LAST, 1.0], dtype=torch.float64), torch.linspace(0, LAST, 1001).double()])
    assert bool((given[picked(given, u)] > 0).all())
    every = picked_each(given.expand(len(u), -1), u)
    assert torch.equal(every, picked(given, u))


def test_the_scale_of_the_weights_does_not_matter():
    u = Noise(0, "picking").uniform(range(500))
    weights = Noise(1, "picking").uniform([0], (9,))[0]
    assert torch.equal(picked(weights, u), picked(1024 * weights, u))
    assert torch.equal(picked(weights, u), picked(weights / weights.sum(), u))


def test_batches_are_taken_vector_by_vector():
    weights, u = Noise(2, "picking").uniform(range(4), (3, 5)), Noise(3, "picking").uniform(range(4), (3, 6))
    found = picked(weights, u)
    for i, j in np.ndindex(4, 3):
        assert torch.equal(found[i, j], picked(weights[i, j], u[i, j]))
    assert torch.equal(found[..., 0], picked_each(weights, u[..., 0]))


def test_the_law_is_the_weights():
    """20,000 draws, seed 4: χ² with 4 degrees of freedom, failure rate 1e-4."""
    weights = torch.tensor([1.0, 4.0, 0.0, 2.0, 0.5, 3.0]).double()
    count = picked(weights, Noise(4, "picking").uniform(range(20_000))).bincount(minlength=6).numpy()
    some = weights.numpy() > 0
    expected = 20_000 * weights.numpy() / float(weights.sum())
    assert count[~some].sum() == 0
    assert stats.chisquare(count[some], expected[some]).pvalue > 1e-4
