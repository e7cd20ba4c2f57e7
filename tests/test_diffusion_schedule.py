"""Schedules: the published ones at their own T, the same noise at any other, stable at both ends."""

import math

import mpmath
import pytest
import torch

from jensen.diffusion.process import Chain
from jensen.diffusion.schedule import FAR_FROM_NOISE, Betas, Cosine, Linear, LogSNRUniform, Schedule, alpha, sigma
from jensen.errors import InputError

F64 = torch.float64
SCHEDULES = [Linear(), Cosine(), LogSNRUniform(), LogSNRUniform(9.0, -5.0), Betas(torch.linspace(0.01, 0.3, 40))]


def test_alpha_and_sigma_against_mpmath():
    """α² = 1/(1 + e^-λ), σ² = 1/(1 + e^λ), also where one of them is 1 to rounding."""
    for log_snr in [-60.0, -15.0, -1.0, 0.0, 2.0, 13.3, 60.0]:
        level = torch.tensor(log_snr, dtype=F64)
        assert float(alpha(level)) == pytest.approx(float(1 / mpmath.sqrt(1 + mpmath.exp(-log_snr))), rel=1e-14)
        assert float(sigma(level)) == pytest.approx(float(1 / mpmath.sqrt(1 + mpmath.exp(log_snr))), rel=1e-14)
    infinite = torch.tensor([math.inf], dtype=F64)
    assert float(alpha(infinite)) == 1
    assert float(sigma(infinite)) == 0


def test_linear_at_a_thousand_steps_is_the_product_of_one_minus_beta():
    chain = Chain(Linear(), 1000)
    with mpmath.workdps(40):
        product, truth = mpmath.mpf(1), []
        for i in range(1000):
            product *= 1 - (mpmath.mpf("1e-4") + (mpmath.mpf("0.02") - mpmath.mpf("1e-4")) * i / 999)
            truth.append((float(product), float(mpmath.log(product / (1 - product)))))
    alpha_bar, log_snr = torch.tensor(truth, dtype=F64).T
    torch.testing.assert_close(alpha(chain.log_snr).square(), alpha_bar, rtol=1e-12, atol=0)
    torch.testing.assert_close(chain.log_snr, log_snr, rtol=0, atol=1e-10)
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=F64)
    torch.testing.assert_close(chain.transition.variance[1:], beta[1:], rtol=1e-9, atol=0)
    torch.testing.assert_close(chain.transition.scale[1:], (1 - beta[1:]).sqrt(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("steps", [1, 2, 20, 300, 1000, 4000])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: type(s).__name__)
def test_any_number_of_steps_falls_strictly_to_the_same_noise(schedule: Schedule, steps: int):
    """No NaN, no repeated level, positive variances, and one common end (law: T is any number)."""
    chain = Chain(schedule, steps)
    assert len(chain.log_snr) == steps
    assert bool(torch.isfinite(chain.log_snr).all())
    assert float(chain.log_snr[-1]) == pytest.approx(float(Chain(schedule, 7).log_snr[-1]), abs=1e-9)
    assert bool((chain.log_snr.diff() < 0).all())
    for variance in (chain.bridge.variance, chain.transition.variance):
        assert bool((variance > 0).all())
    assert bool((chain.bridge.variance[1:] <= chain.transition.variance[1:]).all())


@pytest.mark.parametrize("steps", [20, 300])
def test_linear_ends_in_noise_at_any_length(steps: int):
    """ᾱ_T of the classic chain is 4.0e-5; reading 1e-4..0.02 as betas of 300 steps would leave 0.048."""
    assert float(alpha(Chain(Linear(), steps).log_snr[-1])) ** 2 == pytest.approx(4.0358e-5, rel=1e-3)
    assert Linear().warning() is None


def test_a_schedule_that_ends_far_from_noise_says_so():
    """The homework's betas: 300 of them from 1e-4 to 0.02."""
    schedule = Betas(torch.linspace(1e-4, 0.02, 300, dtype=F64))
    left = math.exp(sum(math.log1p(-(1e-4 + (0.02 - 1e-4) * i / 299)) for i in range(300)))
    assert left == pytest.approx(0.048, abs=0.0005)
    assert schedule.end_alpha() == pytest.approx(math.sqrt(left), rel=1e-9)
    warning = schedule.warning()
    assert warning is not None
    assert f"α = {math.sqrt(left):.3f}" in warning
    assert str(FAR_FROM_NOISE) in warning


@pytest.mark.parametrize("schedule", SCHEDULES[:4], ids=lambda s: type(s).__name__)
def test_the_others_end_in_noise(schedule: Schedule):
    assert schedule.warning() is None


@pytest.mark.parametrize("steps", [50, 1000, 4000])
def test_cosine_is_stable_in_the_first_steps(steps: int):
    """log-SNR against 50 digits; 1 - α² in float32 would have lost all of them."""
    chain = Chain(Cosine(), steps)
    with mpmath.workdps(50):
        s = mpmath.mpf(0.008)

        def place(t: mpmath.mpf) -> mpmath.mpf:
            return mpmath.cos(mpmath.pi / 2 * (t + s) / (1 + s)) ** 2

        for i in [1, 2, 3, steps // 2]:
            alpha2 = place(mpmath.mpf(i) / steps) / place(mpmath.mpf(0))
            assert float(chain.log_snr[i - 1]) == pytest.approx(float(mpmath.log(alpha2 / (1 - alpha2))), abs=1e-6)
            assert float(sigma(chain.log_snr[i - 1])) ** 2 == pytest.approx(float(1 - alpha2), rel=1e-6)


def test_log_snr_uniform_has_even_octaves_and_its_own_ends():
    chain = Chain(LogSNRUniform(13.3, -6.0), 11)
    torch.testing.assert_close(chain.log_snr, torch.linspace(13.3, -6, 11, dtype=F64), rtol=0, atol=1e-12)


def test_betas_are_given_back_exactly_and_read_between():
    betas = torch.tensor([0.1, 0.5, 0.2], dtype=F64)
    chain = Chain(Betas(betas), 3)
    torch.testing.assert_close(alpha(chain.log_snr).square(), (1 - betas).cumprod(0), rtol=1e-13, atol=0)
    between = alpha(Betas(betas).log_snr(torch.tensor([0.5], dtype=F64)))
    assert float(between) ** 2 == pytest.approx(0.9 * math.sqrt(0.5), rel=1e-12)  # geometric mean of .9 and .45


def test_a_shorter_chain_keeps_both_ends():
    long = Chain(Linear(), 1000)
    for steps in (2, 7, 300, 999):
        short = long.resized(steps)
        assert len(short.log_snr) == steps
        torch.testing.assert_close(short.log_snr[[0, -1]], long.log_snr[[0, -1]], rtol=0, atol=1e-12)
    assert long.resized(1000) is long


@pytest.mark.parametrize("bad", [0.0, 1.0, -0.1, math.nan])
def test_a_bad_beta_is_named(bad: float):
    with pytest.raises(InputError, match=rf"betas\[2\] = {bad}"):
        Betas(torch.tensor([0.1, 0.2, bad, 0.3], dtype=F64))


def test_bad_ends_and_lengths_are_named():
    with pytest.raises(InputError, match="got -3 and 2"):
        LogSNRUniform(-3.0, 2.0)
    with pytest.raises(InputError, match="steps = 0"):
        Chain(Linear(), 0)
