"""The emission p(x_0 | x_1): right distribution, right units, maximum-likelihood scale."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import optimize, stats
from torch.distributions import Normal

from jensen.data.space import Levels, Real
from jensen.diffusion.emission import Emission
from jensen.diffusion.process import Chain
from jensen.diffusion.schedule import Linear

F64 = torch.float64
Array = np.ndarray[Any, Any]
BYTES = Levels(256, -1.0, 2 / 255)


def test_on_the_reals_it_is_a_normal_density():
    emission = Emission(Real(), 0.3)
    centre, x = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    got = emission(centre).log_prob(x)
    assert got.shape == (4,)
    torch.testing.assert_close(got, Normal(centre, 0.3).log_prob(x).sum(1), rtol=1e-12, atol=1e-12)


def test_on_levels_the_masses_of_a_cell_sum_to_one():
    emission = Emission(BYTES, 0.02)
    centre = torch.tensor([[-1.2], [-1.0], [0.1234], [0.99]], dtype=F64)
    total = torch.stack([emission(centre).log_prob(v.expand(4, 1)) for v in BYTES.values()])
    torch.testing.assert_close(total.logsumexp(0), torch.zeros(4, dtype=F64), rtol=0, atol=1e-12)


def test_images_sum_over_all_cells():
    emission = Emission(BYTES, 0.02)
    x = BYTES.values()[torch.randint(256, (2, 3, 4, 5), generator=torch.Generator().manual_seed(0))]
    cells = emission(x.reshape(-1, 1) + 0.003).log_prob(x.reshape(-1, 1))
    torch.testing.assert_close(emission(x + 0.003).log_prob(x), cells.reshape(2, -1).sum(1), rtol=1e-12, atol=1e-12)


def test_a_known_pixel_costs_what_its_scale_says():
    """Black, predicted perfectly, open end bin: -log Φ(½ step/s) (ORACLES section 4), at no scale a density."""
    for scale in (0.5, 0.01, 0.001):
        got = -float(
            Emission(BYTES, scale)(torch.tensor([[-1.0]], dtype=F64)).log_prob(torch.tensor([[-1.0]], dtype=F64))
        )
        assert got == pytest.approx(-stats.norm.logcdf(1 / 255 / scale), rel=1e-10, abs=1e-15)


def test_a_known_pixel_costs_half_a_bit_at_the_variances_of_the_first_steps():
    """Bits at s² = β_1 and s² = β̂_2 of 1000 linear steps (ORACLES section 4)."""
    schedule = Linear()
    for variance, bits in ((schedule.betas[0], 0.62), (Chain(schedule, 1000).bridge.variance[1], 0.51)):
        black = torch.tensor([[-1.0]], dtype=F64)
        got = -float(Emission(BYTES, float(variance.sqrt()))(black).log_prob(black)) / math.log(2)
        assert got == pytest.approx(bits, abs=0.005)


def test_calibration_on_the_reals_is_the_root_mean_square():
    g = torch.Generator().manual_seed(0)
    centre = torch.randn(200, 3, generator=g, dtype=F64)
    x = centre + 0.07 * torch.randn(200, 3, generator=g, dtype=F64) + 0.02
    emission = Emission(Real(), 1.0)
    emission.calibrate(x, centre)
    s = float(emission.log_scale.exp())
    assert s == pytest.approx(float((x - centre).square().mean().sqrt()), rel=1e-12)
    likelihood = [float(Normal(centre, s * f).log_prob(x).mean()) for f in (1.0, 0.98, 1.02)]
    assert likelihood[0] > max(likelihood[1:])


@pytest.mark.parametrize("spread", [0.004, 0.02, 0.2])
@pytest.mark.parametrize("shape", [(800, 2), (60, 1, 4, 4)])
def test_calibration_on_levels_is_maximum_likelihood(spread: float, shape: tuple[int, ...]):
    """Against scipy on the closed-form masses: the scale to 3 %, the likelihood no worse than the best by 1e-3
    nats a cell (one imagined cell among 1000 or 1600 pulls it).
    """
    g = torch.Generator().manual_seed(1)
    centre = 2 * torch.rand(shape, generator=g, dtype=F64) - 1
    x = BYTES.values()[BYTES.index(centre + spread * torch.randn(shape, generator=g, dtype=F64))]
    emission = Emission(BYTES, 1.0)
    emission.calibrate(x, centre)

    def cost(log_scale: float) -> float:
        low = torch.where(x <= -1 + 1e-9, -math.inf, (x - 1 / 255 - centre) / math.exp(log_scale)).numpy()
        high = torch.where(x >= 1 - 1e-9, math.inf, (x + 1 / 255 - centre) / math.exp(log_scale)).numpy()
        return -float(_log_mass(low, high).mean())

    best = optimize.minimize_scalar(cost, bounds=(math.log(spread) - 2, math.log(spread) + 2), method="bounded")
    assert float(emission.log_scale) == pytest.approx(best.x, abs=0.03)
    assert cost(float(emission.log_scale)) < best.fun + 1e-3


def _log_mass(low: Array, high: Array) -> Array:
    flip = low + high > 0
    a, b = np.where(flip, -high, low), np.where(flip, -low, high)
    upper, lower = stats.norm.logcdf(b), stats.norm.logcdf(a)
    return upper + np.log1p(-np.exp(lower - upper))


def test_calibration_reaches_residuals_of_many_steps():
    """16 bit: a residual of 1600 levels is far beyond any fixed number of steps; the scale is its root mean square."""
    space = Levels(65536, -1.0, 2 / 65535)
    g = torch.Generator().manual_seed(0)
    centre = torch.rand(500, 2, generator=g, dtype=F64) - 0.5
    x = space.values()[space.index(centre + 0.05 * torch.randn(500, 2, generator=g, dtype=F64))]
    emission = Emission(space, 1.0)
    emission.calibrate(x, centre)
    assert float(emission.log_scale.exp()) == pytest.approx(float((x - centre).square().mean().sqrt()), rel=0.01)


def test_perfect_validation_rows_do_not_promise_perfection():
    """No miss among n cells is no proof of none: one cell that is off by a level in the test rows costs tens of nats at
    most, not the millions of a scale that ran to its limit, and perfect cells stay nearly free.
    """
    space = Levels(17, -1.0, 0.125)
    x = space.values()[torch.randint(17, (100, 64), generator=torch.Generator().manual_seed(0))]
    emission = Emission(space, 1.0)
    emission.calibrate(x, x.clone())
    perfect = -emission(x).log_prob(x).mean() / 64
    assert float(perfect) < 1e-3
    off = torch.tensor([[0.125]], dtype=F64)
    assert -float(emission(torch.zeros(1, 1, dtype=F64)).log_prob(off)) < 30


def test_draws_follow_the_distribution_and_the_nearest_level_is_the_nearest():
    """20,000 draws on 9 levels, chi-square p > 1e-6, seed 0."""
    space = Levels(9, -1.0, 0.25)
    emission = Emission(space, 0.4)
    centre = torch.full((20_000, 1), 0.55, dtype=F64)
    draws = emission.draw(centre, torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0), dtype=F64))
    expected = torch.stack([emission(centre[:1]).log_prob(v.reshape(1, 1)) for v in space.values()]).exp().flatten()
    counts = torch.bincount(space.index(draws).flatten(), minlength=9)
    assert stats.chisquare(counts.numpy(), (expected / expected.sum() * 20_000).numpy()).pvalue > 1e-6
    near = emission.nearest(torch.tensor([[-3.0], [0.1], [0.13], [4.0]], dtype=F64))
    assert near.flatten().tolist() == [-1.0, 0.0, 0.25, 1.0]


def test_on_the_reals_a_draw_is_centre_plus_scaled_noise_and_the_nearest_the_centre():
    emission = Emission(Real(), 0.25)
    centre, eps = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, -2.0]])
    assert emission.draw(centre, eps).tolist() == [[1.25, 1.5]]
    assert emission.nearest(centre) is centre
    assert emission.draw(centre, eps).dtype == torch.float32
