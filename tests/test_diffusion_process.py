"""The forward process: proposition 3, the bridge (law 4) and the KL divergence of isotropic Gaussians (proposition 5)."""

import math
from typing import Any

import mpmath
import pytest
import torch
from analytic import bridge_by_conditioning, levels_of
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import Independent, MultivariateNormal, Normal, kl_divergence

from jensen.diffusion.process import Chain, bridge, diffuse, expand, kl_isotropic, transition
from jensen.diffusion.schedule import LogSNRUniform

F64 = torch.float64
LEVEL = st.floats(-12, 12)
GAP = st.floats(1e-2, 15)


def tensor(value: Any) -> torch.Tensor:
    return torch.tensor(value, dtype=F64)


@given(LEVEL, GAP, st.floats(-2, 2), st.floats(-3, 3))
def test_the_bridge_is_gaussian_conditioning(log_snr_t: float, gap: float, x_0: float, x_t: float):
    """q(x_s | x_t, x_0) for any s < t against the joint of (x_s, x_t) given x_0, to 1e-12 (law 4)."""
    link = bridge(tensor([log_snr_t + gap]), tensor([log_snr_t]))
    mean, variance = bridge_by_conditioning(log_snr_t + gap, log_snr_t, x_0, x_t)
    got = float(link.mean(tensor([[x_0]]), tensor([[x_t]])))
    assert got == pytest.approx(mean, rel=1e-12, abs=1e-12)
    assert float(link.variance) == pytest.approx(variance, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("gap", [1e-12, 1e-8, 1e-3, 1.0])
@pytest.mark.parametrize("log_snr_t", [-12.0, 0.0, 13.3])
def test_neighbouring_times_do_not_cancel(log_snr_t: float, gap: float):
    """Coefficients and variances against 50 digits, relative 1e-13 beside the rounding of s itself."""
    s, t = log_snr_t + gap, log_snr_t
    with mpmath.workdps(50):
        as2, at2 = (1 / (1 + mpmath.exp(-mpmath.mpf(v))) for v in (s, t))
        forward = (1 - at2) - at2 / as2 * (1 - as2)
        variance = forward * (1 - as2) / (1 - at2)
        from_data = mpmath.sqrt(as2) * forward / (1 - at2)
        from_noisy = mpmath.sqrt(at2 / as2) * (1 - as2) / (1 - at2)
    link, step = bridge(tensor(s), tensor(t)), transition(tensor(s), tensor(t))
    assert float(step.variance) == pytest.approx(float(forward), rel=1e-12)
    assert float(step.scale) == pytest.approx(float(mpmath.sqrt(at2 / as2)), rel=1e-13)
    assert float(link.variance) == pytest.approx(float(variance), rel=1e-12)
    assert float(link.from_data) == pytest.approx(float(from_data), rel=1e-12)
    assert float(link.from_noisy) == pytest.approx(float(from_noisy), rel=1e-13)


@given(LEVEL, GAP, GAP)
def test_transitions_compose(log_snr: float, one: float, two: float):
    """q(x_u | x_s) = ∫ q(x_u | x_t) q(x_t | x_s), and from the data it is the marginal of proposition 3."""
    s, t, u = tensor(log_snr + one + two), tensor(log_snr + two), tensor(log_snr)
    first, second, both = transition(s, t), transition(t, u), transition(s, u)
    assert float(both.scale) == pytest.approx(float(first.scale * second.scale), rel=1e-12)
    assert float(both.variance) == pytest.approx(float(second.scale**2 * first.variance + second.variance), rel=1e-11)
    data = transition(tensor(math.inf), u)
    alpha2, sigma2 = levels_of(u)
    assert float(data.scale) == pytest.approx(float(alpha2.sqrt()), rel=1e-12)
    assert float(data.variance) == pytest.approx(float(sigma2), rel=1e-12)


def test_the_bridge_from_the_data_is_the_data():
    link = bridge(tensor(math.inf), tensor(1.0))
    assert (float(link.from_data), float(link.from_noisy), float(link.variance)) == (1, 0, 0)


def test_diffuse_has_the_marginal_of_each_row():
    """α_t x_0 + σ_t ε with a level a row, on images too."""
    g = torch.Generator().manual_seed(0)
    x_0, eps = (torch.randn(3, 2, 4, 5, generator=g, dtype=F64) for _ in range(2))
    log_snr = torch.tensor([5.0, 0.0, -3.0], dtype=F64)
    alpha2, sigma2 = levels_of(log_snr)
    for row in range(3):
        expected = alpha2[row].sqrt() * x_0[row] + sigma2[row].sqrt() * eps[row]
        torch.testing.assert_close(diffuse(x_0, eps, log_snr)[row], expected, rtol=1e-14, atol=1e-14)


def test_expand_takes_the_rows_shape_and_type():
    assert expand(torch.ones(3, dtype=F64), torch.zeros(3, 2, 4)).shape == (3, 1, 1)
    assert expand(torch.ones(3, dtype=F64), torch.zeros(3, 2)).dtype == torch.float32


def test_a_chains_arrays_join_neighbours():
    chain = Chain(LogSNRUniform(6.0, -4.0), 5)
    for i in range(2, 6):
        s, t = chain.log_snr[i - 2], chain.log_snr[i - 1]
        for name in ("from_data", "from_noisy", "variance"):
            assert float(getattr(chain.bridge, name)[i - 1]) == float(getattr(bridge(s, t), name))
        for name in ("scale", "variance"):
            assert float(getattr(chain.transition, name)[i - 1]) == float(getattr(transition(s, t), name))


@given(st.floats(-5, 5), st.floats(-5, 5), st.integers(1, 6), st.floats(0, 3))
def test_kl_is_torchs(log_1: float, log_2: float, dims: int, distance: float):
    """Against torch's multivariate KL; note 3's slips (ratio inverted, d missing) are off by (d - 1) v_1/v_2 and more."""
    v1, v2 = math.exp(log_1), math.exp(log_2)
    mean = torch.zeros(dims, dtype=F64)
    shift = torch.zeros(dims, dtype=F64)
    shift[-1] = distance
    eye = torch.eye(dims, dtype=F64)
    truth = kl_divergence(MultivariateNormal(mean, v1 * eye), MultivariateNormal(shift, v2 * eye))
    got = kl_isotropic(tensor(distance**2), tensor(v1), tensor(v2), dims)
    assert float(got) == pytest.approx(float(truth), rel=1e-9, abs=1e-9)
    assert float(got) >= 0


def test_kl_is_a_mean_of_log_ratios():
    """Monte Carlo in 3 dimensions, 40,000 draws, |z| < 5: seed 0, failure rate 6e-7. The slips stand 60 errors away."""
    torch.manual_seed(0)
    one = Independent(Normal(torch.zeros(3, dtype=F64), 0.7), 1)
    two = Independent(Normal(torch.tensor([0.3, -0.2, 0.5], dtype=F64), 1.3), 1)
    x = one.sample(torch.Size([40_000]))
    ratio = one.log_prob(x) - two.log_prob(x)
    error = float(ratio.std()) / 200
    truth = float(kl_isotropic(tensor(0.38), tensor(0.49), tensor(1.69), 3))
    assert abs(float(ratio.mean()) - truth) < 5 * error
    inverted = 0.5 * (3 * math.log(0.49 / 1.69) + (3 * 0.49 + 0.38) / 1.69 - 3)
    lacks_d = 0.5 * (3 * math.log(1.69 / 0.49) + (0.49 + 0.38) / 1.69 - 3)
    assert min(abs(inverted - truth), abs(lacks_d - truth)) > 60 * error


def test_kl_of_equals_is_zero():
    assert float(kl_isotropic(tensor(0.0), tensor(0.3), tensor(0.3), 784)) == 0
