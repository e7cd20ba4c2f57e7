"""Denoisers and the worlds themselves: Tweedie's formulas (law 16), Bayes' rule by brute force."""

import math

import pytest
import torch
from analytic import (
    Exact,
    LevelsWorld,
    Mixture,
    levels_of,
    mixture_1d,
    mixture_2d,
    mixture_3d,
    normal_nodes,
    ppca,
    z_score,
)
from torch import nn

from jensen.diffusion.denoiser import LevelsDenoiser, eps_from
from jensen.diffusion.parametrisation import Score
from jensen.nn.levels import LevelsHead

F64 = torch.float64
WORLDS = [mixture_1d(), mixture_2d(), mixture_3d()]
LEVELS = [8.0, 2.0, 0.0, -1.5, -6.0]


def points(world: Mixture, log_snr: float) -> torch.Tensor:
    g = torch.Generator().manual_seed(1)
    alpha2, sigma2 = levels_of(log_snr)
    return alpha2.sqrt() * world.sample(20, g) + sigma2.sqrt() * torch.randn(20, world.dims, generator=g, dtype=F64)


@pytest.mark.parametrize("log_snr", LEVELS)
@pytest.mark.parametrize("world", WORLDS, ids=["1-D", "2-D", "3-D"])
def test_tweedie(world: Mixture, log_snr: float):
    """∇ log p_t = (α x̂_0 - x_t)/σ² and Cov[x_0 | x_t] = (σ²/α²)(I + σ² ∇² log p_t), by autograd, to 1e-10."""
    x = points(world, log_snr)
    alpha2, sigma2 = levels_of(log_snr)
    level = torch.full((20,), log_snr, dtype=F64)
    denoised = Exact(world)(x, level)
    gradient = torch.func.vmap(torch.func.grad(lambda r: world.log_prob(r[None], log_snr)[0]))(x)
    torch.testing.assert_close(gradient, (alpha2.sqrt() * denoised - x) / sigma2, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(gradient, world.score(x, log_snr), rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(gradient, Score().target(denoised, x, level), rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(gradient, -eps_from(x, denoised, level) / sigma2.sqrt(), rtol=1e-9, atol=1e-10)
    hessian = torch.func.vmap(torch.func.hessian(lambda r: world.log_prob(r[None], log_snr)[0]))(x)
    tweedie = sigma2 / alpha2 * (torch.eye(world.dims, dtype=F64) + sigma2 * hessian)
    torch.testing.assert_close(tweedie, world.covariance(x, log_snr), rtol=1e-8, atol=1e-10)


def test_the_mixtures_posterior_mean_is_bayes_rule_by_quadrature():
    """∫ x_0 p(x_0) q(x_t | x_0) dx_0 / p_t(x_t) on a fine grid, in one dimension, with p_t itself."""
    world = WORLDS[0]
    grid = torch.linspace(-8, 8, 20_001, dtype=F64)
    density = world.log_prob(grid[:, None]).exp()
    assert float(density.sum() * (grid[1] - grid[0])) == pytest.approx(1, abs=1e-12)
    for log_snr in (2.0, -1.0):
        alpha2, sigma2 = levels_of(log_snr)
        for x_t in (-1.5, 0.1, 2.0):
            kernel = torch.exp(-0.5 * (x_t - alpha2.sqrt() * grid).square() / sigma2) / (2 * math.pi * sigma2).sqrt()
            joint = density * kernel * (grid[1] - grid[0])
            x, level = torch.tensor([[x_t]], dtype=F64), torch.tensor([log_snr], dtype=F64)
            assert float(world.log_prob(x, log_snr)) == pytest.approx(float(joint.sum().log()), abs=1e-10)
            assert float(Exact(world)(x, level)) == pytest.approx(float((joint * grid).sum() / joint.sum()), abs=1e-10)


def test_samples_of_the_worlds_have_their_moments():
    """E log p(x) = -entropy and first moments, 20,000 draws, |z| < 5: seed 0, failure rate 3e-6 in all."""
    world = WORLDS[0]
    x = world.sample(20_000, torch.Generator().manual_seed(0))
    grid = torch.linspace(-8, 8, 20_001, dtype=F64)
    log_p = world.log_prob(grid[:, None])
    negentropy = float((log_p.exp() * log_p).sum() * (grid[1] - grid[0]))
    assert abs(z_score(world.log_prob(x), negentropy)) < 5
    flat = mixture_3d()
    x = flat.sample(20_000, torch.Generator().manual_seed(0))
    for axis in range(3):
        assert abs(z_score(x[:, axis], float(flat.weights @ flat.means[:, axis]))) < 5
    pca = ppca()
    x = pca.sample(20_000, torch.Generator().manual_seed(0)) - pca.mean
    assert abs(z_score(x[:, 0] * x[:, 1], float(pca.covariance[0, 1]))) < 5


def test_the_linear_worlds_denoiser_is_a_mixtures_with_one_component():
    pca = ppca()
    single = Mixture([1.0], [pca.mean.tolist()], [pca.covariance.tolist()])
    x, level = (
        torch.randn(7, 3, generator=torch.Generator().manual_seed(0), dtype=F64),
        torch.linspace(5, -5, 7, dtype=F64),
    )
    torch.testing.assert_close(Exact(pca)(x, level), Exact(single)(x, level), rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(pca.log_prob(x), single.log_prob(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("log_snr", [13.3, 4.0, 0.0, -5.0])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_the_levels_denoiser_is_exact_under_its_prior(log_snr: float, dtype: torch.dtype):
    """A head that knows W4's masses and gets no features answers E[x_0 | x_t] by enumeration, on images."""
    world = LevelsWorld(17)
    head = LevelsHead(1, world.values.to(dtype))
    head.bias.data.copy_(world.mass.log())

    class Blind(nn.Module):
        def forward(self, x_t: torch.Tensor, log_snr: torch.Tensor, context: torch.Tensor | None) -> torch.Tensor:
            return torch.zeros_like(x_t)

    g = torch.Generator().manual_seed(0)
    alpha2, sigma2 = levels_of(log_snr)
    x = alpha2.sqrt() * world.sample((3, 2, 4, 5), g) + sigma2.sqrt() * torch.randn(3, 2, 4, 5, generator=g, dtype=F64)
    level = torch.full((3,), log_snr, dtype=F64)
    with torch.no_grad():
        got = LevelsDenoiser(Blind(), head)(x.to(dtype), level)
    assert got.dtype == dtype
    atol = 1e-12 if dtype == F64 else 1e-5
    torch.testing.assert_close(got.double(), world.denoised(x.to(dtype).double(), level), rtol=0, atol=atol)


def test_the_nodes_integrate_normal_moments():
    """The quadrature of these tests: E ε^2, ε^4, ε^6, cos ε."""
    nodes, weights = normal_nodes()
    for power, moment in [(1, 0.0), (2, 1.0), (4, 3.0), (6, 15.0)]:
        assert float(weights @ nodes**power) == pytest.approx(moment, abs=1e-12)
    assert float(weights @ nodes.cos()) == pytest.approx(math.exp(-0.5), abs=1e-13)
