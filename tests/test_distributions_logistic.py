"""The discretised logistic against scipy's distribution function."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from jensen.distributions.logistic import DiscretisedLogistic

K, FIRST, STEP = 7, -1.0, 1 / 3
LEVELS = FIRST + STEP * torch.arange(K, dtype=torch.float64)


def law(loc: float, scale: float) -> DiscretisedLogistic:
    like = torch.full((K,), loc, dtype=torch.float64)
    return DiscretisedLogistic(like, torch.full_like(like, scale), first=FIRST, step=STEP, k=K)


def by_scipy(loc: float, scale: float) -> np.ndarray:
    """Differences of the survival function where it is small, of the distribution function elsewhere."""
    edges = np.concatenate([[-np.inf], (LEVELS[:-1] + STEP / 2).numpy(), [np.inf]])
    below, above = stats.logistic.cdf(edges, loc, scale), stats.logistic.sf(edges, loc, scale)
    return np.where(edges[1:] > loc, above[:-1] - above[1:], below[1:] - below[:-1])


@pytest.mark.parametrize(("loc", "scale"), [(0.0, 0.3), (-0.9, 0.05), (2.0, 0.1), (0.1, 5.0)])
def test_a_mass_is_a_difference_of_distribution_functions(loc: float, scale: float):
    p = law(loc, scale).log_prob(LEVELS).exp()
    np.testing.assert_allclose(p.numpy(), by_scipy(loc, scale), rtol=1e-9, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-4, 0.3, 1e4])
def test_masses_sum_to_one(scale: float, dtype: torch.dtype):
    loc = torch.linspace(-3, 3, 13, dtype=dtype)[:, None].expand(-1, K)
    p = DiscretisedLogistic(loc, torch.full_like(loc, scale), first=FIRST, step=STEP, k=K).log_prob(LEVELS.to(dtype))
    tolerance = 1e-12 if dtype == torch.float64 else 2e-4  # an edge is rounded to 1e-7, and divided by the scale
    torch.testing.assert_close(p.exp().sum(1), torch.ones(13, dtype=dtype), rtol=tolerance, atol=tolerance)


def test_far_tails_have_no_floor():
    """A level 1000 scales away has log P = -1000 and a bit, where differences of S are zero."""
    value = law(-1.0, 1e-3).log_prob(LEVELS)[-2]
    edge = (float(LEVELS[-2]) - STEP / 2 + 1.0) / 1e-3
    assert float(value) == pytest.approx(-edge, rel=1e-12)


def test_quantiles_have_the_law():
    """Of a fine even grid of u, the share that falls on each level is its mass up to the grid's width."""
    u, one = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000, law(0.2, 0.4)
    wide = DiscretisedLogistic(u * 0 + 0.2, u * 0 + 0.4, first=FIRST, step=STEP, k=K)
    index = ((wide.icdf(u) - FIRST) / STEP).round().long()
    share = torch.bincount(index, minlength=K).double() / len(u)
    torch.testing.assert_close(share, one.log_prob(LEVELS).exp(), rtol=0, atol=1.1e-5)


def test_zero_and_one_are_the_end_levels():
    assert law(0.0, 0.1).icdf(torch.tensor([0.0, 1.0] + [0.5] * (K - 2)).double())[:2].tolist() == [
        -1.0,
        pytest.approx(1.0),
    ]


def test_gradients_are_finite_everywhere():
    loc: Tensor = torch.zeros(K, requires_grad=True)
    log_scale: Tensor = torch.full((K,), -9.0, requires_grad=True)
    law = DiscretisedLogistic(loc, log_scale.exp(), first=FIRST, step=STEP, k=K)
    law.log_prob(LEVELS.float()).sum().backward()
    assert bool(loc.grad.isfinite().all())
    assert bool(log_scale.grad.isfinite().all())
