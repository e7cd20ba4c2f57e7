"""Samplers: exact laws where they are computable (19), DDIM's algebra (11), blindness to batches.

Statistical tests: seeds in the code; |z| < 5 (6e-7 a comparison), p > 1e-5.
"""

import math

import pytest
import torch
from analytic import AffineChain, Columns, Exact, GridChain, LevelsWorld, levels_of, mixture_1d, ppca, z_score
from scipy import stats
from torch import Tensor

from jensen.data.space import Levels, Real
from jensen.diffusion.emission import Emission
from jensen.diffusion.process import Chain, bridge
from jensen.diffusion.reverse import ReverseProcess
from jensen.diffusion.sampler import Leap, Point, Sampler, sample
from jensen.diffusion.schedule import Betas, LogSNRUniform
from jensen.diffusion.solvers.ancestral import DDIM, Ancestral
from jensen.diffusion.solvers.words import sampler_from
from jensen.diffusion.variance import Calibrated, Interpolated
from jensen.errors import InputError
from jensen.noise import Noise

F64 = torch.float64
LIKE = torch.zeros((), dtype=F64)
PCA = ppca()
BETAS = Betas(torch.linspace(0.05, 0.6, 10, dtype=F64))


def affine(steps: int, weight: float) -> ReverseProcess:
    return ReverseProcess(Chain(BETAS, steps), Exact(PCA), Interpolated(weight), Emission(Real(), 0.3))


def draw(reverse: ReverseProcess, event: tuple[int, ...], n: int, seed: int, sampler: Sampler) -> Tensor:
    return sample(reverse, event, torch.arange(n), Noise(seed), sampler, like=LIKE)


def assert_law(x: Tensor, mean: Tensor, covariance: Tensor) -> None:
    """Means and covariances by z-tests, then Kolmogorov–Smirnov on every whitened coordinate."""
    centred = x - mean
    for i in range(x.shape[1]):
        assert abs(z_score(x[:, i], float(mean[i]))) < 5
        for j in range(i + 1):
            assert abs(z_score(centred[:, i] * centred[:, j], float(covariance[i, j]))) < 5
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), centred.T, upper=False)
    for row in white:
        assert stats.kstest(row.numpy(), "norm").pvalue > 1e-5


def optimal(levels: Tensor) -> Calibrated:
    """σ*² of W2: E ‖x_0 - x̂_0‖²/d = tr Cov[x_0 | x_t]/d at every level."""
    variance = Calibrated(levels)
    for level in levels.tolist():
        alpha, gain = levels_of(level)[0].sqrt(), PCA.gain(level)[0]
        variance.calibrate(level, (PCA.covariance - alpha * gain @ PCA.covariance).diag().mean().expand(8, 3))
    return variance


@pytest.mark.parametrize(("steps", "weight"), [(1, 1.0), (2, 0.0), (10, 0.0), (10, 1.0), (10, None)])
def test_ancestral_samples_follow_the_models_own_law(steps: int, weight: float | None):
    """W2: p_θ(x_0) propagated through the affine chain, with σ*² (None) as well; 6000 samples."""
    reverse = affine(steps, 0.0 if weight is None else weight)
    if weight is None:
        reverse.variance = optimal(reverse.chain.log_snr)
    law = AffineChain(PCA, reverse.chain.log_snr, reverse.variances(), 0.3).law()
    assert_law(draw(reverse, (3,), 6000, 1, Ancestral()), law.mean, law.covariance_matrix)


def test_on_levels_ancestral_samples_have_the_grids_masses():
    """W4: chi-square of 6000 samples against P_θ of the reverse chain itself, coarse as it is."""
    world = LevelsWorld(8)
    emission = Emission(Levels(8, -1.0, world.step), 0.12)
    reverse = ReverseProcess(Chain(LogSNRUniform(3.0, -5.0), 5), Exact(world), Interpolated(1.0), emission)
    mass = GridChain(world, reverse.chain.log_snr, reverse.variances(), 0.12).mass
    x = draw(reverse, (6,), 1000, 2, Ancestral()).flatten()
    counts = torch.bincount(((x + 1) / world.step).round().long(), minlength=8)
    assert stats.chisquare(counts.numpy(), (mass / mass.sum() * 6000).numpy()).pvalue > 1e-5


@pytest.mark.parametrize(
    "name",
    [
        "ancestral",
        "ddim",
        "ddim, η = 1",
        "dpm-2m",
        "dpm-2m-sde",
        "dpm-3m-sde",
        "unipc-3",
        "adams-4",
        "churn",
        "langevin",
    ],
)
def test_many_steps_give_the_data(name: str):
    """W1, exact denoiser, 150 steps: two-sample Kolmogorov–Smirnov of 4000 samples against the world, p > 1e-3, seed 3."""
    world = Columns(mixture_1d())
    schedule = LogSNRUniform(9.0, -8.0)
    reverse = ReverseProcess(Chain(schedule, 150), Exact(world), Interpolated(0.5), Emission(Real(), math.exp(-4.5)))
    sampler = DDIM(1.0) if name == "ddim, η = 1" else sampler_from(name, {})
    x = draw(reverse, (20,), 200, 3, sampler).flatten()
    truth = world.sample((4000,), torch.Generator().manual_seed(0))
    assert stats.ks_2samp(x.numpy(), truth.numpy()).pvalue > 1e-3


def stepped(sampler: Sampler, reverse: ReverseProcess, i: int, x: Tensor, denoised: Tensor, eps: Tensor) -> Tensor:
    """x_{i-1} from x_i, x̂_0 and noise."""
    levels = reverse.chain.log_snr
    leap = Leap(reverse, levels[i - 2], lambda x, log_snr: denoised, lambda number: eps)
    return sampler.step(Point(levels[i - 1], x, denoised), leap)


def step_coefficients(sampler: Sampler, reverse: ReverseProcess, i: int) -> tuple[float, float, float]:
    """A step is linear in (x, x̂_0, z): its three coefficients."""
    one, zero = torch.ones(1, 1, dtype=F64), torch.zeros(1, 1, dtype=F64)
    return (
        float(stepped(sampler, reverse, i, one, zero, zero)),
        float(stepped(sampler, reverse, i, zero, one, zero)),
        float(stepped(sampler, reverse, i, zero, zero, one)),
    )


@pytest.mark.parametrize("eta", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("steps", [2, 7, 10])
def test_ddim_keeps_every_marginal(eta: float, steps: int):
    """x_t ~ q(x_t | x_0) and x̂_0 = x_0 give x_s ~ q(x_s | x_0) for every η, to 1e-12 (law 11)."""
    reverse = affine(steps, 1.0)
    for i in range(2, steps + 1):
        from_x, from_data, from_noise = step_coefficients(DDIM(eta), reverse, i)
        (as2, ss2), (at2, st2) = levels_of(reverse.chain.log_snr[i - 2]), levels_of(reverse.chain.log_snr[i - 1])
        assert from_x * float(at2.sqrt()) + from_data == pytest.approx(float(as2.sqrt()), abs=1e-12)
        assert from_x**2 * float(st2) + from_noise**2 == pytest.approx(float(ss2), abs=1e-12)


def test_ddim_with_eta_one_is_the_bridge():
    """The posterior q(x_s | x_t, x_0), mean and variance; so it equals ancestral sampling with β̂."""
    reverse = affine(10, 0.0)
    for i in range(2, 11):
        link = bridge(reverse.chain.log_snr[i - 2], reverse.chain.log_snr[i - 1])
        expected = (float(link.from_noisy), float(link.from_data), float(link.variance.sqrt()))
        assert step_coefficients(DDIM(1.0), reverse, i) == pytest.approx(expected, abs=1e-12)
        assert step_coefficients(Ancestral(), reverse, i) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("eta", [0.25, 0.5])
def test_ddims_noise_is_eta_times_the_bridges(eta: float):
    reverse = affine(10, 1.0)
    for i in range(2, 11):
        link = bridge(reverse.chain.log_snr[i - 2], reverse.chain.log_snr[i - 1])
        assert step_coefficients(DDIM(eta), reverse, i)[2] == pytest.approx(
            eta * float(link.variance.sqrt()), rel=1e-12
        )


def test_ddim_with_eta_zero_is_euler():
    """d(x/α)/d(σ/α) = ε̂: one Euler step in σ/α for x/α, to 1e-12, and no noise."""
    reverse = affine(10, 1.0)
    g = torch.Generator().manual_seed(0)
    x, denoised, z = (torch.randn(4, 3, generator=g, dtype=F64) for _ in range(3))
    for i in range(2, 11):
        (as2, ss2), (at2, st2) = levels_of(reverse.chain.log_snr[i - 2]), levels_of(reverse.chain.log_snr[i - 1])
        eps = (x - at2.sqrt() * denoised) / st2.sqrt()
        euler = x / at2.sqrt() + ((ss2 / as2).sqrt() - (st2 / at2).sqrt()) * eps
        torch.testing.assert_close(
            stepped(DDIM(0.0), reverse, i, x, denoised, z) / as2.sqrt(), euler, rtol=1e-12, atol=1e-12
        )


def test_ddim_converges_at_order_one_to_the_flow():
    """W2's probability flow is linear, x_0 = m + C^½ (α²C + σ²)^-½ (x_T - α m): errors halve with the steps."""
    start, end = 8.0, -6.0
    (a1, s1), (at, st) = levels_of(start), levels_of(end)
    values, vectors = torch.linalg.eigh(PCA.covariance)
    x_t = torch.randn(50, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
    stretch = ((a1 * values + s1) / (at * values + st)).sqrt()
    flow = a1.sqrt() * PCA.mean + (x_t - at.sqrt() * PCA.mean) @ vectors * stretch @ vectors.T
    error = []
    for steps in (65, 129, 257):
        reverse = ReverseProcess(
            Chain(LogSNRUniform(start, end), steps), Exact(PCA), Interpolated(1.0), Emission(Real(), 0.1)
        )
        x = x_t
        for i in range(steps, 1, -1):
            denoised = reverse.denoise(x, torch.full((50,), i))
            x = stepped(DDIM(0.0), reverse, i, x, denoised, torch.zeros_like(x))
        error.append(float((x - flow).norm()))
    assert math.log2(error[0] / error[1]) == pytest.approx(1, abs=0.25)
    assert math.log2(error[1] / error[2]) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("sampler", [Ancestral(), DDIM(0.0), DDIM(0.7)], ids=["ancestral", "ddim", "ddim, η = 0.7"])
def test_batch_size_and_company_never_change_a_sample(sampler: Sampler):
    reverse = affine(6, 1.0)
    whole = draw(reverse, (3,), 10, 5, sampler)
    for size in (1, 3):
        parts = [
            sample(reverse, (3,), torch.arange(10)[k : k + size], Noise(5), sampler, like=LIKE)
            for k in range(0, 10, size)
        ]
        torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-12, atol=1e-12)
    assert not bool(torch.isclose(draw(reverse, (3,), 10, 6, sampler), whole).any())


def test_any_number_of_steps_also_ones_that_do_not_divide():
    for steps in (1, 2, 3, 7, 9, 10, 33):
        for sampler in (Ancestral(), DDIM(0.5)):
            assert bool(torch.isfinite(draw(affine(10, 1.0).resized(steps), (3,), 4, 0, sampler)).all())


def test_the_watcher_sees_every_state_once():
    reverse, seen = affine(4, 1.0), []
    ids = torch.arange(2)

    def watch(i: int, x: Tensor, denoised: Tensor) -> None:
        torch.testing.assert_close(denoised, reverse.denoise(x, torch.full((2,), i)))
        seen.append((i, x))

    x_0 = sample(reverse, (3,), ids, Noise(0), Ancestral(), like=LIKE, watch=watch)
    assert [i for i, _ in seen] == [4, 3, 2, 1]
    torch.testing.assert_close(seen[0][1], Noise(0, "start").normal(ids, (3,)).to(F64))
    assert x_0.shape == (2, 3)


def test_the_noise_of_each_step_is_fresh():
    """The increments x_{i-1} - μ(x_i) of different steps and of the start are uncorrelated: 6000 numbers, |z| < 5."""
    reverse, states = affine(4, 1.0), {}
    sample(
        reverse, (3,), torch.arange(2000), Noise(9), Ancestral(), like=LIKE, watch=lambda i, x, d: states.update({i: x})
    )
    draws = [states[4].flatten()]
    for i in (4, 3, 2):
        mean = reverse.mean(states[i], torch.full((2000,), i))
        draws.append(((states[i - 1] - mean) / reverse.variances()[i - 1].sqrt()).flatten())
    for a in range(4):
        assert abs(z_score(draws[a].square(), 1.0)) < 5
        for b in range(a):
            assert abs(z_score(draws[a] * draws[b], 0.0)) < 5


def test_float32_is_the_default_and_levels_stay_levels():
    world = LevelsWorld(8)
    space = Levels(8, -1.0, world.step)
    reverse = ReverseProcess(Chain(LogSNRUniform(6.0, -5.0), 5), Exact(world), Interpolated(1.0), Emission(space, 0.05))
    for sampler in (Ancestral(), DDIM(0.0)):
        x = sample(reverse, (1, 4, 5), torch.arange(3), Noise(0), sampler)
        assert x.dtype == torch.float32
        assert x.shape == (3, 1, 4, 5)
        torch.testing.assert_close(space.values()[space.index(x)].float(), x, rtol=0, atol=1e-6)


@pytest.mark.parametrize("eta", [-0.5, 1.5, math.nan])
def test_a_bad_eta_is_named(eta: float):
    with pytest.raises(InputError, match=f"got {eta}"):
        DDIM(eta)


def test_descriptions_say_what_ends_the_chain():
    grey, real = Levels(2, -1.0, 2.0), Real()
    assert Ancestral().describe(7, grey) == "ancestral, T = 7, ending in a draw from the emission"
    assert DDIM(0.5).describe(3, grey) == "DDIM, η = 0.5, 3 steps, ending in the level nearest to x̂_0"
    assert DDIM(0.5).describe(1, real) == "DDIM, η = 0.5, 1 step, ending in x̂_0"
    assert "3 steps, 7 network calls, ending in a draw" in sampler_from("langevin", {"rounds": 2}).describe(3, grey)
    assert "3 steps, 5 network calls, ending in x̂_0" in sampler_from("churn", {}).describe(3, real)
    ddim = sampler_from("ddim", {"eta": 0.25})
    assert isinstance(sampler_from("ancestral", {}), Ancestral)
    assert isinstance(ddim, DDIM)
    assert ddim.eta == 0.25
