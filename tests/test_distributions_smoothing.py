"""Smoothed histograms: a posterior mean by hand, and nothing at all is uniform."""

import math

import pytest
import torch

from jensen.distributions.smoothing import log_smoothed


@pytest.mark.parametrize("a", [0.0, 0.5, 1.0, 7.0])
@pytest.mark.parametrize("dtype", [torch.int64, torch.float64])
def test_every_cell_has_a_more(a: float, dtype: torch.dtype):
    counts = torch.tensor([[[3, 0, 1], [2, 2, 2]], [[9, 1, 5], [1, 0, 0]]]).to(dtype)
    found = log_smoothed(counts, a).exp()
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 2, dtype=torch.float64))
    for i in range(2):
        for j in range(2):
            n = counts[i, j].tolist()
            assert found[i, j].tolist() == pytest.approx([(c + a) / (sum(n) + 3 * a) for c in n], rel=1e-12)


def test_nothing_counted_and_nothing_added_is_uniform():
    found = log_smoothed(torch.tensor([[0, 0, 0, 0], [0, 2, 0, 0]]), 0.0)
    assert found[0].tolist() == pytest.approx([-math.log(4)] * 4)
    assert found[1].tolist() == [-math.inf, 0, -math.inf, -math.inf]
