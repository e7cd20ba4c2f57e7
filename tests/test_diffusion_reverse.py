"""The bound term by term: decomposition (law 5), a bound indeed (6), its 1/T gap (8), normalisation (23), units (25)."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from analytic import (
    AffineChain,
    Exact,
    GridChain,
    LevelsWorld,
    bridge_coefficients,
    hermite_nodes,
    levels_of,
    mean_over_noise,
    mixture_1d,
    normal_nodes,
    ppca,
)

from jensen.data.space import Levels, Real
from jensen.diffusion.emission import Emission
from jensen.diffusion.process import Chain
from jensen.diffusion.reverse import ReverseProcess
from jensen.diffusion.schedule import Betas, Cosine, Linear, LogSNRUniform, Schedule
from jensen.diffusion.variance import Calibrated, Interpolated, ReverseVariance

F64 = torch.float64
PCA = ppca()
X = PCA.sample(5, torch.Generator().manual_seed(0))
BETAS = Betas(torch.linspace(0.02, 0.6, 12, dtype=F64))


def affine(
    schedule: Schedule, steps: int, variance: ReverseVariance, scale: float = 0.2
) -> tuple[ReverseProcess, AffineChain]:
    """W2's process in jensen and its closed form."""
    reverse = ReverseProcess(Chain(schedule, steps), Exact(PCA), variance, Emission(Real(), scale))
    return reverse, AffineChain(PCA, reverse.chain.log_snr, reverse.variances(), scale)


def term(reverse: ReverseProcess, i: int, x_0: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
    """L_{i-1} of every row at the same i."""
    return reverse.term(x_0, torch.full((len(x_0),), i), eps)


def negative_bound(
    reverse: ReverseProcess, x_0: torch.Tensor, nodes: torch.Tensor, weights: torch.Tensor
) -> torch.Tensor:
    """L_T + Σ L_{i-1}, the expectations over ε by quadrature, `(B,)`."""
    total = reverse.prior_term(x_0)
    for i in range(1, reverse.chain.steps + 1):
        total = total + mean_over_noise(partial(term, reverse, i), x_0, nodes, weights)
    return total


@pytest.mark.parametrize("steps", [1, 2, 5, 12])
@pytest.mark.parametrize(
    "schedule", [LogSNRUniform(5.0, -4.0), BETAS, Cosine(), Linear()], ids=lambda s: type(s).__name__
)
@pytest.mark.parametrize("weight", [0.0, 1.0, 0.4])
def test_the_terms_sum_to_the_bound(schedule: Schedule, steps: int, weight: float):
    """Closed form on both sides: terms by Gauss–Hermite, exact for an affine denoiser, against
    E_q[-log p(x_{0:T})/q(x_{1:T} | x_0)] of the joint Gaussian, relative 1e-10 (law 5).
    """
    reverse, chain = affine(schedule, steps, Interpolated(weight))
    got = negative_bound(reverse, X, *hermite_nodes(3, 2))
    truth = torch.tensor([chain.negative_bound(x) for x in X], dtype=F64)
    torch.testing.assert_close(got, truth, rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 5, 12])
@pytest.mark.parametrize("schedule", [LogSNRUniform(5.0, -4.0), BETAS, Cosine()], ids=lambda s: type(s).__name__)
def test_the_bound_is_below_the_chains_own_likelihood(schedule: Schedule, steps: int):
    """Every x, also far from the data, against the propagated Gaussian p_θ(x_0) (law 6)."""
    for variance in (Interpolated(0.0), Interpolated(1.0)):
        reverse, chain = affine(schedule, steps, variance)
        x = torch.cat([X, 4 * torch.randn(20, 3, generator=torch.Generator().manual_seed(1), dtype=F64)])
        gap = chain.law().log_prob(x) + negative_bound(reverse, x, *hermite_nodes(3, 2))
        assert float(gap.min()) > 0


def test_many_steps_close_the_gap_to_the_worlds_log_p():
    """T = 201 with every part exact. With lower variance and SNR·mmse = d at high SNR, each step of size Δ there loses
    ½ d (expm1(Δ) - Δ) ≈ d Δ²/4, so from λ = 9 down to 0 at most 9 d Δ/4 nats; less where the data are narrow.
    """
    step = 16 / 200
    reverse, chain = affine(LogSNRUniform(9.0, -7.0), 201, Interpolated(0.0), scale=math.exp(-4.5))
    gap = float((PCA.log_prob(X) + negative_bound(reverse, X, *hermite_nodes(3, 2))).mean())
    assert 0 < gap < 9 * 3 * step / 4
    torch.testing.assert_close(chain.law().mean, PCA.mean, atol=0.05, rtol=0)
    torch.testing.assert_close(chain.law().covariance_matrix, PCA.covariance, atol=0.15, rtol=0)


def test_the_emission_term_is_a_density_in_the_models_units():
    """L_0 at ε: -log N(x_0; x̂_0(x_1), s² I)."""
    reverse, chain = affine(BETAS, 3, Interpolated(1.0))
    eps = torch.randn(5, 3, generator=torch.Generator().manual_seed(2), dtype=F64)
    alpha2, sigma2 = levels_of(reverse.chain.log_snr[0])
    a, b, v = chain.step(1)
    residual = X - (alpha2.sqrt() * X + sigma2.sqrt() * eps) @ a.T - b
    expected = 0.5 * (residual.square().sum(1) / v + 3 * math.log(2 * math.pi * v))
    torch.testing.assert_close(reverse.term(X, torch.ones(5, dtype=torch.int64), eps), expected, rtol=1e-12, atol=1e-12)


def test_rows_of_one_call_may_stand_at_different_steps():
    reverse, _ = affine(BETAS, 6, Interpolated(0.3))
    i, eps = torch.tensor([6, 1, 3, 1, 2]), torch.randn(5, 3, generator=torch.Generator().manual_seed(3), dtype=F64)
    alone = torch.cat([reverse.term(X[r : r + 1], i[r : r + 1], eps[r : r + 1]) for r in range(5)])
    torch.testing.assert_close(reverse.term(X, i, eps), alone, rtol=1e-12, atol=1e-12)


def test_mean_is_the_bridge_at_the_denoised_data():
    reverse, chain = affine(BETAS, 4, Interpolated(1.0))
    for i in range(2, 5):
        a, b, _ = chain.step(i)
        torch.testing.assert_close(reverse.mean(X, torch.full((5,), i)), X @ a.T + b, rtol=1e-10, atol=1e-10)


def discrete(
    k: int, steps: int, weight: float, scale: float, shrink: float = 1.0
) -> tuple[LevelsWorld, ReverseProcess]:
    world = LevelsWorld(k)
    emission = Emission(Levels(k, -1.0, world.step), scale)
    chain = Chain(LogSNRUniform(4.0, -5.0), steps)
    return world, ReverseProcess(chain, Exact(world, shrink), Interpolated(weight), emission)


@pytest.mark.parametrize("weight", [0.0, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 6])
@pytest.mark.parametrize("k", [2, 8])
def test_on_levels_the_bound_is_below_the_models_own_mass_of_every_level(k: int, steps: int, weight: float):
    """W4: the reverse chain pushed through a grid gives P_θ of all k levels. Σ P_θ = 1, bound ≤ log P_θ pointwise,
    Σ exp(bound) ≤ 1 (laws 6, 23), and the mean over the data is no better than the entropy.
    """
    world, reverse = discrete(k, steps, weight, 0.1)
    own = GridChain(world, reverse.chain.log_snr, reverse.variances(), 0.1).mass
    assert float(own.sum()) == pytest.approx(1, abs=1e-10)
    bound = -negative_bound(reverse, world.values[:, None], *_column(normal_nodes(401)))
    assert float((own.log() - bound).min()) > 0
    assert float(bound.exp().sum()) < 1
    assert float((world.mass * (world.mass.log() - bound)).sum()) > 0


def _column(nodes_weights: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    return nodes_weights[0][:, None], nodes_weights[1]


def test_gap_of_the_grid_is_the_divergence_for_one_step():
    """T = 1: log P_θ(x_0) against E_q[log p(x_0 | x_1)] - KL(q ‖ N(0, I)) done by hand on the nodes."""
    world, reverse = discrete(8, 1, 1.0, 0.1)
    nodes, weights = normal_nodes(401)
    alpha2, sigma2 = levels_of(reverse.chain.log_snr[0])
    for j, y in enumerate(world.values.tolist()):
        x_1 = alpha2.sqrt() * y + sigma2.sqrt() * nodes
        centre = world.denoised(x_1[:, None], reverse.chain.log_snr.expand(len(nodes)))[:, 0]
        inside = float(weights @ world.emission_log_mass(centre, 0.1)[:, j])
        divergence = 0.5 * (float(sigma2) + float(alpha2) * y**2 - 1 - math.log(float(sigma2)))
        bound = -negative_bound(reverse, torch.tensor([[y]], dtype=F64), nodes[:, None], weights)
        assert float(bound) == pytest.approx(inside - divergence, abs=1e-10)


def test_the_gap_to_continuous_time_falls_as_one_over_t():
    """W1, lower variance, uniform log-SNR, nested grids, mean over x (law 8). The limit ½ ∫ E‖x - x̂‖² dSNR comes from
    W1's posterior variance by Gauss–Legendre; the slope of log gap over the last halving is -1 ± 0.05.
    """
    world, start, end = mixture_1d(), 7.0, -6.0
    grid = torch.linspace(-9, 9, 1501, dtype=F64)[:, None]

    def mmse(log_snr: float) -> float:
        density = world.log_prob(grid, log_snr).exp()
        return float((density * world.covariance(grid, log_snr)[:, 0, 0]).sum() * (grid[1] - grid[0]))

    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(120))
    levels = 0.5 * (start + end) + 0.5 * (start - end) * nodes
    limit = (
        0.25
        * (start - end)
        * sum(float(w) * mmse(float(v)) * math.exp(float(v)) for v, w in zip(levels, weights, strict=True))
    )

    axis, mass = hermite_nodes(1, 16)
    x_0 = torch.cat([m + v.sqrt() * axis for m, v in zip(world.means, world.covariances[:, 0], strict=True)])
    over_x = torch.cat([w * mass for w in world.weights])
    noise, over_noise = _column(normal_nodes(61, 7.0))
    gaps = []
    for intervals in (50, 100, 200):
        chain = Chain(LogSNRUniform(start, end), intervals + 1)
        reverse = ReverseProcess(chain, Exact(world), Interpolated(0.0), Emission(Real(), 0.1))
        total = 0.0
        for i in range(2, chain.steps + 1):
            total += float(over_x @ mean_over_noise(partial(term, reverse, i), x_0, noise, over_noise))
        gaps.append(total - limit)
    assert min(gaps) > 0
    assert math.log2(gaps[0] / gaps[1]) == pytest.approx(1, abs=0.1)
    assert math.log2(gaps[1] / gaps[2]) == pytest.approx(1, abs=0.05)


def test_a_lower_variance_term_is_half_the_snr_drop_times_the_error():
    """½(SNR_s - SNR_t)‖x - x̂‖² (Kingma et al. 2021, eq. 13), for images."""
    world = LevelsWorld(8)
    chain = Chain(LogSNRUniform(4.0, -5.0), 5)
    reverse = ReverseProcess(chain, Exact(world), Interpolated(0.0), Emission(Levels(8, -1.0, world.step), 0.1))
    g = torch.Generator().manual_seed(0)
    x_0, eps = world.sample((4, 2, 3, 5), g), torch.randn(4, 2, 3, 5, generator=g, dtype=F64)
    for i in range(2, 6):
        alpha2, sigma2 = levels_of(chain.log_snr[i - 1])
        denoised = world.denoised(alpha2.sqrt() * x_0 + sigma2.sqrt() * eps, chain.log_snr[i - 1].expand(4))
        drop = chain.log_snr[i - 2].exp() - chain.log_snr[i - 1].exp()
        expected = 0.5 * drop * (x_0 - denoised).square().flatten(1).sum(1)
        torch.testing.assert_close(reverse.term(x_0, torch.full((4,), i), eps), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_product_costs_the_same_a_dimension_whatever_its_size(weight: float):
    """W5 (law 25): D equal cells with equal noise cost D times one cell in L_T, in every L_{i-1} and in L_0."""
    world, reverse = discrete(8, 6, weight, 0.1)
    eps = torch.randn(8, 1, generator=torch.Generator().manual_seed(0), dtype=F64)
    for shape in [(7,), (3, 4, 5)]:
        d, one = math.prod(shape), [1] * len(shape)
        x = world.values.reshape(8, *one).expand(8, *shape)
        many = eps.reshape(8, *one).expand(8, *shape)
        torch.testing.assert_close(
            reverse.prior_term(x), d * reverse.prior_term(world.values[:, None]), rtol=1e-12, atol=1e-12
        )
        for i in range(1, 7):
            index = torch.full((8,), i)
            torch.testing.assert_close(
                reverse.term(x, index, many),
                d * reverse.term(world.values[:, None], index, eps),
                rtol=1e-10,
                atol=1e-12,
            )


def test_resized_chains_share_everything_but_the_grid():
    _, reverse = discrete(8, 6, 1.0, 0.1)
    short = reverse.resized(3)
    assert short.denoiser is reverse.denoiser
    assert short.emission is reverse.emission
    assert short.variance is reverse.variance
    c_0, c_t, v = bridge_coefficients(float(short.chain.log_snr[1]), float(short.chain.log_snr[2]))
    assert float(short.chain.bridge.from_data[2]) == pytest.approx(c_0, rel=1e-10)
    assert float(short.chain.bridge.from_noisy[2]) == pytest.approx(c_t, rel=1e-10)
    assert float(short.chain.bridge.variance[2]) == pytest.approx(v, rel=1e-10)


def test_a_calibrated_process_is_a_bound_too():
    """σ*² from exact errors: still below its own likelihood, and above the bound with β or β̂ in mean."""
    chain = Chain(BETAS, 6)
    error = []
    for log_snr in chain.log_snr.tolist():
        alpha2, sigma2 = levels_of(log_snr)
        eye = torch.eye(3, dtype=F64)
        error.append(float(torch.linalg.inv(torch.linalg.inv(PCA.covariance) + alpha2 / sigma2 * eye).trace() / 3))
    calibrated = Calibrated(chain.log_snr)
    for level, e in zip(chain.log_snr.tolist(), error, strict=True):
        calibrated.calibrate(level, torch.full((2, 1), float(e), dtype=F64))
    x = PCA.sample(400, torch.Generator().manual_seed(5))
    costs = {}
    for name, variance in [("best", calibrated), ("upper", Interpolated(1.0)), ("lower", Interpolated(0.0))]:
        reverse, own = affine(BETAS, 6, variance)
        cost = negative_bound(reverse, x, *hermite_nodes(3, 2))
        assert float((own.law().log_prob(x) + cost).min()) > 0
        costs[name] = float(cost.mean())
    assert costs["best"] < min(costs["upper"], costs["lower"])
