"""The generic view: `bounds.elbo` of the chain's three Conditionals equals the override term by term, in mean, T ≤ 10."""

from functools import partial

import pytest
import torch
from analytic import AffineChain, Exact, LevelsWorld, levels_of, mean_over_noise, normal_nodes, ppca, z_score
from torch.distributions import MultivariateNormal

from jensen.bounds import elbo
from jensen.data.space import Levels, Real
from jensen.diffusion.emission import Emission
from jensen.diffusion.latent import FromFirst, Posterior, Prior
from jensen.diffusion.process import Chain
from jensen.diffusion.reverse import ReverseProcess
from jensen.diffusion.schedule import Betas, LogSNRUniform
from jensen.diffusion.variance import Interpolated

F64 = torch.float64
PCA = ppca()


def affine(steps: int, weight: float) -> ReverseProcess:
    schedule = Betas(torch.linspace(0.05, 0.6, 10, dtype=F64))
    return ReverseProcess(Chain(schedule, steps), Exact(PCA), Interpolated(weight), Emission(Real(), 0.3))


def reverse_term(reverse: ReverseProcess, i: torch.Tensor, x: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
    return reverse.term(x, i, eps)


def generic(reverse: ReverseProcess, x: torch.Tensor) -> torch.Tensor:
    return elbo(Prior(reverse, tuple(x.shape[1:])), FromFirst(reverse), Posterior(reverse), x)[0]


@pytest.mark.parametrize("steps", [1, 2, 5, 10])
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_the_generic_bound_has_the_closed_forms_mean(steps: int, weight: float):
    """20,000 paths of one x, |z| < 4.5 (seed 0, failure rate 7e-6 a case): the override is equal to the same closed form
    exactly (test_diffusion_reverse), so both are equal in mean.
    """
    reverse = affine(steps, weight)
    x = PCA.sample(1, torch.Generator().manual_seed(1))
    truth = -AffineChain(PCA, reverse.chain.log_snr, reverse.variances(), 0.3).negative_bound(x[0])
    torch.manual_seed(0)
    values = generic(reverse, x.expand(20_000, 3))
    assert abs(z_score(values, truth)) < 4.5


def test_on_levels_too():
    """W4, T = 4: generic draws against the override's terms by quadrature, 20,000 paths, |z| < 4.5, seed 0."""
    world = LevelsWorld(8)
    emission = Emission(Levels(8, -1.0, world.step), 0.1)
    reverse = ReverseProcess(Chain(LogSNRUniform(4.0, -5.0), 4), Exact(world), Interpolated(1.0), emission)
    nodes, weights = normal_nodes(401)
    for y in (world.values[:1, None], world.values[4:5, None]):
        truth = reverse.prior_term(y)
        for i in range(1, 5):
            index = torch.full((len(nodes),), i)
            truth = truth + mean_over_noise(partial(reverse_term, reverse, index), y, nodes[:, None], weights)
        torch.manual_seed(0)
        assert abs(z_score(generic(reverse, y.expand(20_000, 1)), -float(truth))) < 4.5


def test_the_forward_chain_is_its_joint_gaussian():
    """log q(x_1, …, x_T | x_0) against one multivariate normal of all T·d states."""
    reverse = affine(4, 1.0)
    alpha2, sigma2 = levels_of(reverse.chain.log_snr)
    cov = torch.empty(4, 4, dtype=F64)
    for i in range(4):
        for j in range(4):
            a, b = min(i, j), max(i, j)
            cov[i, j] = (alpha2[b] / alpha2[a]).sqrt() * sigma2[a]
    x = PCA.sample(6, torch.Generator().manual_seed(1))
    states = torch.randn(6, 4, 3, generator=torch.Generator().manual_seed(2), dtype=F64)
    mean = alpha2.sqrt()[:, None] * x[:, None, :]
    joint = MultivariateNormal(mean.mT, cov).log_prob(states.mT).sum(1)
    torch.testing.assert_close(Posterior(reverse)(x).log_prob(states), joint, rtol=1e-10, atol=1e-10)


def test_paths_have_that_joint_law():
    """Means and covariances between states of 20,000 paths, |z| < 5: seed 3, failure rate 1e-5 in all."""
    reverse, n = affine(4, 1.0), 20_000
    alpha2, sigma2 = levels_of(reverse.chain.log_snr)
    x = torch.full((n, 3), 0.7, dtype=F64)
    torch.manual_seed(3)
    paths = Posterior(reverse)(x).rsample() - alpha2.sqrt()[:, None] * 0.7
    for i in range(4):
        assert abs(z_score(paths[:, i, 0], 0.0)) < 5
        for j in range(i, 4):
            assert abs(z_score(paths[:, i, 1] * paths[:, j, 1], float((alpha2[j] / alpha2[i]).sqrt() * sigma2[i]))) < 5
            assert abs(z_score(paths[:, i, 1] * paths[:, j, 2], 0.0)) < 5


def test_the_reverse_chain_is_its_steps():
    reverse = affine(3, 0.0)
    own = AffineChain(PCA, reverse.chain.log_snr, reverse.variances(), 0.3)
    z = torch.randn(5, 3, 3, generator=torch.Generator().manual_seed(2), dtype=F64)
    eye = torch.eye(3, dtype=F64)
    expected = MultivariateNormal(torch.zeros(3, dtype=F64), eye).log_prob(z[:, 2])
    for i in (2, 3):
        a, b, v = own.step(i)
        expected = expected + MultivariateNormal(z[:, i - 1] @ a.T + b, v * eye).log_prob(z[:, i - 2])
    torch.testing.assert_close(Prior(reverse, (3,))(torch.empty(5, 0)).log_prob(z), expected, rtol=1e-10, atol=1e-10)
