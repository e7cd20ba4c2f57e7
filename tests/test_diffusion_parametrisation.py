"""Parametrisations: five names of one number (law 10)."""

import math

import pytest
import torch
from analytic import Exact, bridge_coefficients, levels_of, mixture_2d
from torch import Tensor, nn

from jensen.diffusion.denoiser import Denoiser, NetworkDenoiser, eps_from
from jensen.diffusion.parametrisation import Eps, Mu, Parametrisation, Score, V, X
from jensen.diffusion.process import Chain
from jensen.diffusion.schedule import Linear, LogSNRUniform

F64 = torch.float64
WORLD = mixture_2d()
CHAIN = Chain(LogSNRUniform(9.0, -6.0), 16)
ALL = [X(), Eps(), V(), Score(), Mu(CHAIN)]
G = torch.Generator().manual_seed(0)
LEVELS = CHAIN.log_snr
X_0 = WORLD.sample(16, G)
NOISE = torch.randn(16, 2, generator=G, dtype=F64)
ALPHA2, SIGMA2 = (v[:, None] for v in levels_of(LEVELS))
X_T = ALPHA2.sqrt() * X_0 + SIGMA2.sqrt() * NOISE


def expected_targets(x_0: Tensor) -> list[Tensor]:
    """x, ε, v, ∇ log q(x_t | x_0) and the bridge's mean from their definitions."""
    eps = (X_T - ALPHA2.sqrt() * x_0) / SIGMA2.sqrt()
    mu = x_0.clone()
    for i in range(2, 17):
        c_0, c_t, _ = bridge_coefficients(float(LEVELS[i - 2]), float(LEVELS[i - 1]))
        mu[i - 1] = c_0 * x_0[i - 1] + c_t * X_T[i - 1]
    return [x_0, eps, ALPHA2.sqrt() * eps - SIGMA2.sqrt() * x_0, -eps / SIGMA2.sqrt(), mu]


@pytest.mark.parametrize("index", range(5), ids=["x", "eps", "v", "score", "mu"])
def test_targets_are_what_their_names_say(index: int):
    target = ALL[index].target(X_0, X_T, LEVELS)
    torch.testing.assert_close(target, expected_targets(X_0)[index], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("parametrisation", ALL, ids=lambda p: type(p).__name__)
def test_the_target_leads_back_to_x_0(parametrisation: Parametrisation):
    target = parametrisation.target(X_0, X_T, LEVELS)
    torch.testing.assert_close(parametrisation.denoised(target, X_T, LEVELS), X_0, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("index", range(5), ids=["x", "eps", "v", "score", "mu"])
def test_a_network_of_any_kind_is_the_same_denoiser(index: int):
    """The exact answer put in each one's own words comes out as E[x_0 | x_t]; the score's is ∇ log p_t itself."""
    denoised = WORLD.denoised(X_T, LEVELS)
    answers = expected_targets(denoised)
    answers[3] = torch.cat([WORLD.score(X_T[i : i + 1], float(LEVELS[i])) for i in range(16)])

    class Answer(nn.Module):
        def forward(self, x_t: Tensor, log_snr: Tensor, context: Tensor | None) -> Tensor:
            return answers[index]

    got = NetworkDenoiser(Answer(), ALL[index])(X_T, LEVELS)
    torch.testing.assert_close(got, denoised, rtol=1e-9, atol=1e-9)


def test_both_ways_to_write_a_term_are_one():
    """½(SNR_s - SNR_t)‖x - x̂‖² = ½ expm1(γ_t - γ_s)‖ε - ε̂‖² with γ = -log SNR, to 1e-12."""
    denoised = Exact(WORLD)(X_T, LEVELS)
    eps_error = (NOISE - eps_from(X_T, denoised, LEVELS)).square().sum(1)[1:]
    x_error = (X_0 - denoised).square().sum(1)[1:]
    s, t = LEVELS[:-1], LEVELS[1:]
    torch.testing.assert_close(
        0.5 * (s.exp() - t.exp()) * x_error, 0.5 * torch.expm1(s - t) * eps_error, rtol=1e-11, atol=1e-12
    )


def test_eps_from_recovers_the_noise():
    torch.testing.assert_close(eps_from(X_T, X_0, LEVELS), NOISE, rtol=1e-11, atol=1e-11)


def test_mu_means_x_0_before_the_grid_and_stays_affine_between_its_times():
    """Between grid times the step has the grid step's log-SNR ratio: an even grid gives the same c_0, c_t as a shift."""
    mu = Mu(CHAIN)
    a, b = mu.coefficients(torch.tensor([9.0, 20.0], dtype=F64))
    assert a.tolist() == [1, 1]
    assert b.tolist() == [0, 0]
    between = 0.5 * (LEVELS[4] + LEVELS[5])
    a, b = mu.coefficients(between.reshape(1))
    c_0, c_t, _ = bridge_coefficients(float(between) + 1.0, float(between))
    assert float(a) == pytest.approx(c_0, rel=1e-9)
    assert float(b) == pytest.approx(c_t, rel=1e-9)


def test_mu_is_the_ddpm_papers_formula():
    """√ᾱ_{i-1} β_i/(1 - ᾱ_i) x_0 + √α_i (1 - ᾱ_{i-1})/(1 - ᾱ_i) x_i on the linear chain (Ho et al. 2020, eq. 7)."""
    chain = Chain(Linear(), 1000)
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=F64)
    bar = (1 - beta).cumprod(0)
    a, b = Mu(chain).coefficients(chain.log_snr)
    torch.testing.assert_close(a[1:], (bar[:-1].sqrt() * beta[1:] / (1 - bar[1:])), rtol=1e-8, atol=0)
    torch.testing.assert_close(b[1:], (1 - beta[1:]).sqrt() * (1 - bar[:-1]) / (1 - bar[1:]), rtol=1e-8, atol=0)


@pytest.mark.parametrize("parametrisation", ALL, ids=lambda p: type(p).__name__)
def test_float32_levels_and_images_are_taken_too(parametrisation: Parametrisation):
    x_t, log_snr = torch.randn(3, 1, 4, 5, generator=G), torch.tensor([3.0, 0.0, -2.0])
    out = parametrisation.denoised(torch.randn(3, 1, 4, 5, generator=G), x_t, log_snr)
    assert out.shape == x_t.shape
    assert out.dtype == torch.float32
    assert bool(torch.isfinite(out).all())


def test_context_reaches_the_network():
    class Sees(nn.Module):
        def forward(self, x_t: Tensor, log_snr: Tensor, context: Tensor | None) -> Tensor:
            assert context is not None
            return x_t + context[:, None]

    denoiser: Denoiser = NetworkDenoiser(Sees(), X())
    out = denoiser(torch.zeros(2, 1), torch.zeros(2, dtype=F64), torch.tensor([1.0, 2.0]))
    assert out.flatten().tolist() == [1.0, 2.0]
    assert math.isfinite(float(out.sum()))
