"""Draws from noise and their densities against torch's distributions, moments of draws, and flows against change of variables."""

import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Independent, LowRankMultivariateNormal, MultivariateNormal, Normal

from jensen.distributions.from_noise import DiagonalNormal, FromNoise, FullNormal, LowRankNormal
from jensen.flow.bijection import Chain, Linear, MaskedSpline
from jensen.flow.pushforward import Pushforward

B, D, R = 3, 4, 2
NOISE = torch.Generator().manual_seed(0)
LOC, LOG_SCALE = (torch.randn(B, D, generator=NOISE, dtype=torch.float64) for _ in range(2))
LOG_SCALE = 0.3 * LOG_SCALE
FACTOR = torch.randn(B, D, R, generator=NOISE, dtype=torch.float64)
TRIANGLE = torch.tril(torch.randn(B, D, D, generator=NOISE, dtype=torch.float64), -1) + torch.diag_embed(
    LOG_SCALE.exp()
)
NORMALS = {
    "diagonal": (DiagonalNormal(LOC, LOG_SCALE), Independent(Normal(LOC, LOG_SCALE.exp()), 1)),
    "full": (FullNormal(LOC, TRIANGLE), MultivariateNormal(LOC, scale_tril=TRIANGLE)),
    "low rank": (
        LowRankNormal(LOC, FACTOR, LOG_SCALE),
        LowRankMultivariateNormal(LOC, FACTOR, (2 * LOG_SCALE).exp()),
    ),
}


def flow(dims: int = D) -> Chain:
    torch.manual_seed(5)
    halves = [list(range(dims // 2)), list(range(dims // 2, dims))]
    maps = [MaskedSpline(dims, order, bins=4, bound=4.0, width=16, depth=1) for order in (halves, halves[::-1])]
    made = Chain(maps[0], Linear(dims), maps[1]).double()
    for parameter in made.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return made


@pytest.mark.parametrize("word", NORMALS)
def test_densities_are_torchs(word: str):
    own, torchs = NORMALS[word]
    z = torch.randn(5, B, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(own.log_prob(z), torchs.log_prob(z), atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(own.variance, torchs.variance, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("word", NORMALS)
def test_draws_have_their_mean_and_covariance(word: str):
    """The map is affine: its value at 0 is the mean, and J Jᵀ of its Jacobian the covariance, to rounding."""
    own, torchs = NORMALS[word]
    unit = torch.eye(own.noise_dims, dtype=torch.float64)
    centre = own.place(torch.zeros(B, own.noise_dims, dtype=torch.float64))
    jacobian = torch.stack([own.place(e.expand(B, -1)) - centre for e in unit], -1)
    torch.testing.assert_close(centre, LOC, atol=1e-12, rtol=0)
    covariance = torchs.covariance_matrix if word != "diagonal" else torch.diag_embed(torchs.variance)
    torch.testing.assert_close(jacobian @ jacobian.mT, covariance, atol=1e-12, rtol=1e-12)


def test_a_flows_draws_and_densities_agree():
    """From the noise and by the inverse; and against the change of variables with autograd's Jacobian."""
    q = Pushforward(NORMALS["diagonal"][0], flow())
    noise = torch.randn(7, B, D, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    z, log_q = q.place_with_log_prob(noise)
    torch.testing.assert_close(q.log_prob(z), log_q, atol=1e-9, rtol=0)

    def one(e: Tensor) -> Tensor:
        return q.place(e.expand(B, -1))[1]

    e = noise[0, 1]
    log_det = torch.linalg.slogdet(torch.autograd.functional.jacobian(one, e))[1]
    by_hand = (-0.5 * e.square()).sum() - 0.5 * D * math.log(2 * math.pi) - log_det
    torch.testing.assert_close(log_q[0, 1], by_hand, atol=1e-9, rtol=0)


def test_detached_distributions_give_gradients_to_values_alone():
    """d/dz of log q survives, d/dφ is none; at z = g(ε) the gradient of the path is the whole one minus the score, by hand."""
    loc, log_scale = LOC.clone().requires_grad_(), LOG_SCALE.clone().requires_grad_()
    made = flow()
    for q in (DiagonalNormal(loc, log_scale), Pushforward(DiagonalNormal(loc, log_scale), made)):
        value = torch.zeros(B, D, dtype=torch.float64, requires_grad=True)
        q.detached().log_prob(value).sum().backward()
        assert value.grad is not None
        assert bool((value.grad != 0).any())
        assert loc.grad is None
        assert log_scale.grad is None
        assert all(p.grad is None and p.requires_grad for p in made.parameters())


def test_rsample_is_the_map_of_torchs_noise():
    for own, _ in NORMALS.values():
        assert isinstance(own, FromNoise)
        assert own.has_rsample
        torch.manual_seed(3)
        drawn = own.rsample((2,))
        torch.manual_seed(3)
        torch.testing.assert_close(drawn, own.place(torch.randn(2, B, own.noise_dims, dtype=torch.float64)))
