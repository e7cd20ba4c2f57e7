"""The reverse variance: two brackets, what is between them, and the calibrated one (law 15)."""

import pytest
import torch
from analytic import Columns, Exact, levels_of, mixture_1d

from jensen.data.space import Real
from jensen.diffusion.calibration import calibrate, knots, measure
from jensen.diffusion.emission import Emission
from jensen.diffusion.process import Chain, diffuse
from jensen.diffusion.reverse import ReverseProcess
from jensen.diffusion.schedule import Linear, LogSNRUniform, Schedule
from jensen.diffusion.variance import Calibrated, Interpolated, interpolate
from jensen.errors import InputError
from jensen.noise import Noise

F64 = torch.float64
WORLD = Columns(mixture_1d())
COLUMNS = 100  # cells a row: noise costs by the row


def process(schedule: Schedule, steps: int, shrink: float = 1.0, shift: float = 0.0) -> ReverseProcess:
    chain = Chain(schedule, steps)
    variance = Calibrated(chain.log_snr[knots(steps) - 1])
    return ReverseProcess(chain, Exact(WORLD, shrink, shift), variance, Emission(Real(), 0.1))


def rows_of(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    return WORLD.sample((n, COLUMNS), torch.Generator().manual_seed(seed)), torch.arange(n)


def reverse_error(reverse: ReverseProcess, i: int, n: int, seed: int) -> float:
    """Monte-Carlo E‖x_{i-1} - μ(x_i)‖²/d, walking forwards: x_0 of W1, x_{i-1} ~ q(x_{i-1} | x_0), x_i ~ q(x_i | x_{i-1})."""
    g = torch.Generator().manual_seed(seed)
    chain, x_0 = reverse.chain, WORLD.sample((n, COLUMNS), g)
    (as2, ss2), (at2, _) = levels_of(chain.log_snr[i - 2]), levels_of(chain.log_snr[i - 1])
    x_s = as2.sqrt() * x_0 + ss2.sqrt() * torch.randn(x_0.shape, generator=g, dtype=F64)
    left = at2 / as2
    x_t = left.sqrt() * x_s + (1 - left).sqrt() * torch.randn(x_0.shape, generator=g, dtype=F64)
    return float((x_s - reverse.mean(x_t, torch.full((n,), i))).square().mean())


def test_the_brackets_are_the_forward_variance_and_the_bridges():
    """Ho et al. 2020, section 3.2: β_i and (1 - ᾱ_{i-1})/(1 - ᾱ_i) β_i; half way their geometric mean."""
    chain = Chain(Linear(), 1000)
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=F64)
    bar = (1 - beta).cumprod(0)
    small = beta[1:] * (1 - bar[:-1]) / (1 - bar[1:])
    for weight, truth in [
        (1.0, beta[1:]),
        (0.0, small),
        (0.5, (beta[1:] * small).sqrt()),
        (0.25, beta[1:] ** 0.25 * small**0.75),
    ]:
        got = Interpolated(weight)(chain.transition, chain.bridge, chain.log_snr)[1:]
        torch.testing.assert_close(got, truth, rtol=1e-8, atol=0)


@pytest.mark.parametrize("weight", [-0.1, 1.5, float("nan")])
def test_a_weight_outside_is_named(weight: float):
    with pytest.raises(InputError, match=f"got {weight}"):
        Interpolated(weight)


def test_before_calibration_it_is_beta():
    """β is the optimum for N(0, I) data."""
    chain = Chain(LogSNRUniform(8.0, -5.0), 30)
    got = Calibrated(chain.log_snr)(chain.transition, chain.bridge, chain.log_snr)[1:]
    torch.testing.assert_close(got, chain.transition.variance[1:], rtol=1e-10, atol=0)


@pytest.mark.parametrize(("shrink", "shift"), [(1.0, 0.0), (0.8, 0.1)], ids=["exact", "spoiled"])
def test_the_calibrated_variance_is_the_reverse_steps_error(shrink: float, shift: float):
    """σ*² = E‖x_s - μ(x_t)‖²/d on forward pairs, for the exact denoiser and a wrong one, to 1 % (law 15).

    200,000 validation cells against 200,000 fresh ones: standard error about 0.3 % each, so 1 % is over two errors of
    the difference; seeds 0 to 7 (an unlucky seed would fail with probability about 2 % a comparison).
    """
    reverse = process(LogSNRUniform(6.0, -5.0), 8, shrink, shift)
    calibrate(reverse, *rows_of(2000, 10), Noise(0))
    for i in range(2, 9):
        assert float(reverse.variances()[i - 1]) == pytest.approx(reverse_error(reverse, i, 2000, i - 2), rel=0.01)


@pytest.mark.parametrize(("shrink", "shift"), [(1.0, 0.0), (0.8, 0.1)], ids=["exact", "spoiled"])
def test_no_other_isotropic_variance_gives_a_better_bound(shrink: float, shift: float):
    """On the rows and noise it was calibrated with, every step's mean term has its minimum at σ*² exactly."""
    reverse = process(LogSNRUniform(6.0, -5.0), 8, shrink, shift)
    noise, (rows, ids) = Noise(3), rows_of(100, 1)
    calibrate(reverse, rows, ids, noise)
    best = reverse.variances()

    def mean_term(i: int, factor: float) -> float:
        reverse.variances = lambda: best * factor  # type: ignore[method-assign]
        eps = noise.at("knot", i).normal(ids, (COLUMNS,)).to(F64)
        return float(reverse.term(rows, torch.full((100,), i), eps).mean())

    for i in range(2, 9):
        at_best = mean_term(i, 1.0)
        for factor in (0.5, 0.9, 0.99, 1.01, 1.1, 2.0):
            assert mean_term(i, factor) > at_best
        slope = (mean_term(i, 1 + 1e-5) - mean_term(i, 1 - 1e-5)) / 2e-5
        assert abs(slope) < 1e-5


def test_a_chain_of_another_length_is_calibrated_with_it():
    """The same errors give what measuring in the shorter chain would, to 2 % (knots lie elsewhere), and β̂ ≤ σ*²."""
    long = process(LogSNRUniform(6.0, -5.0), 33)
    calibrate(long, *rows_of(1000, 2), Noise(1))
    short = long.resized(9)
    assert bool((short.variances()[1:] >= short.chain.bridge.variance[1:]).all())
    for i in (2, 5, 9):
        assert float(short.variances()[i - 1]) == pytest.approx(reverse_error(short, i, 1000, 20 + i), rel=0.02)


def test_between_the_knots_of_a_long_chain():
    """T = 1000 on the linear schedule has 64 knots; half way between them interpolation stays within 1 %.

    100,000 cells, the reference averaged over 4 noises; seed 3.
    """
    reverse, (rows, ids) = process(Linear(), 1000), rows_of(1000, 3)
    calibrate(reverse, rows, ids, Noise(0))
    at = knots(1000)
    middles = ((at[:-1] + at[1:]) // 2)[[0, 1, 5, 40]]
    for i in middles.tolist():
        error, index = 0.0, torch.full((1000,), i)
        for seed in range(1, 5):
            eps = Noise(seed).normal(ids, (COLUMNS,)).to(F64)
            noisy = diffuse(rows, eps, reverse.chain.log_snr[index - 1])
            error += float((rows - reverse.denoise(noisy, index)).square().mean()) / 4
        link = reverse.chain.bridge
        truth = link.variance[i - 1] + link.from_data[i - 1] ** 2 * error
        assert float(reverse.variances()[i - 1]) == pytest.approx(float(truth), rel=0.01)


def test_an_error_too_small_to_have_been_seen_is_held_at_a_floor():
    chain = Chain(LogSNRUniform(6.0, -4.0), 5)
    variance = Calibrated(chain.log_snr)
    variance.calibrate(chain.log_snr, torch.zeros(5, dtype=F64))
    torch.testing.assert_close(variance.error(chain.log_snr), 1e-4 * torch.exp(-chain.log_snr), rtol=1e-10, atol=0)


def test_knots_reach_both_ends_and_never_repeat():
    for steps in (1, 2, 63, 64, 65, 1000):
        at = knots(steps)
        assert int(at[0]) == 1
        assert int(at[-1]) == steps
        assert len(at) == min(steps, 64)
        assert bool((at.diff() > 0).all())


def test_residuals_are_mean_squares_a_dimension():
    """Against W1's own E Var[x_0 | x_t] on the noise of each knot: 20,000 cells, |z| < 5, seed 4, failure rate 6e-7."""
    reverse, (rows, ids) = process(LogSNRUniform(4.0, -4.0), 4), rows_of(200, 4)
    residuals = measure(reverse, rows, ids, Noise(2))
    assert residuals.steps.tolist() == [1, 2, 3, 4]
    for i in range(1, 5):
        log_snr = reverse.chain.log_snr[[i - 1]].expand(200)
        noisy = diffuse(rows, Noise(2, "knot", i).normal(ids, (COLUMNS,)).to(F64), log_snr)
        denoised = WORLD.denoised(noisy, log_snr)
        squares = (rows - denoised).square().flatten()
        expected = WORLD.world.covariance(noisy.reshape(-1, 1), float(log_snr[0])).flatten()
        assert abs(float((squares - expected).mean() / (squares - expected).std()) * 20_000**0.5) < 5
        assert float(residuals.errors[i - 1].mean()) == pytest.approx(float(squares.mean()), rel=1e-9)
        if i == 1:
            torch.testing.assert_close(residuals.first, denoised, rtol=1e-12, atol=1e-12)


def test_interpolate_is_linear_inside_and_constant_outside():
    knots_, values = torch.tensor([0.0, 1.0, 3.0], dtype=F64), torch.tensor([5.0, 7.0, -1.0], dtype=F64)
    x = torch.tensor([-9.0, 0.0, 0.25, 1.0, 2.0, 3.0, 50.0], dtype=F64)
    assert interpolate(x, knots_, values).tolist() == [5.0, 5.0, 5.5, 7.0, 3.0, -1.0, -1.0]
    assert interpolate(x, knots_[:1], values[:1]).tolist() == [5.0] * 7
