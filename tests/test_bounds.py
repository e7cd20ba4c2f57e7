"""Laws 1 and 2 on probabilistic PCA (W2): ELBO + KL(q ‖ posterior) = log p, and equality at the exact posterior."""

import pytest
import torch
from analytic import PPCAEmission, PPCAPosterior, PPCAPrior, ppca, z_score
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from jensen.bounds import elbo
from jensen.bounds.kl import kl_by_dimension, log_density_by_dimension
from jensen.distributions.from_noise import DiagonalNormal, FullNormal, Stacked

WORLD = ppca()
X = WORLD.sample(6, torch.Generator().manual_seed(0))


def bound(posterior: PPCAPosterior, draws: int) -> torch.Tensor:
    torch.manual_seed(1)
    return elbo(PPCAPrior(WORLD), PPCAEmission(WORLD), posterior, X, draws)


def test_the_worlds_posterior_is_bayes_rule():
    """The oracle against itself: p(x) p(z | x) = p(z) p(x | z) at any z."""
    z = torch.randn(6, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    mean, covariance = WORLD.posterior(X)
    joint = PPCAPrior(WORLD)(X).log_prob(z) + PPCAEmission(WORLD)(z).log_prob(X)
    torch.testing.assert_close(
        WORLD.log_prob(X) + MultivariateNormal(mean, covariance).log_prob(z), joint, atol=1e-12, rtol=0
    )


def test_every_draw_equals_log_p_at_the_exact_posterior():
    values = bound(PPCAPosterior(WORLD), 5)
    assert values.shape == (5, 6)
    torch.testing.assert_close(values, WORLD.log_prob(X).expand(5, 6), atol=1e-12, rtol=0)


@pytest.mark.parametrize(("shift", "scale"), [(0.1, 1.0), (0.0, 0.5), (0.0, 2.0), (-0.2, 1.5)])
def test_elbo_is_below_log_p_by_exactly_the_divergence(shift: float, scale: float):
    """E_q[log p(x, z) - log q] in closed form by cubature (the integrand is quadratic in z): KL to 1e-12."""
    posterior = PPCAPosterior(WORLD, shift, scale)
    q = posterior(X)
    exact = MultivariateNormal(*WORLD.posterior(X))
    gap = kl_divergence(q, exact)
    root = torch.linalg.cholesky(q.covariance_matrix) * 2**0.5  # nodes ±√2 e_j, equal weights: exact to degree 3
    total = torch.zeros(6, dtype=torch.float64)
    for node in (root[..., 0], root[..., 1], -root[..., 0], -root[..., 1]):
        z = q.mean + node
        total += PPCAPrior(WORLD)(X).log_prob(z) + PPCAEmission(WORLD)(z).log_prob(X) - q.log_prob(z)
    torch.testing.assert_close(total / 4 + gap, WORLD.log_prob(X), atol=1e-12, rtol=0)
    assert bool((gap > 0).all())


@pytest.mark.parametrize(("shift", "scale"), [(0.1, 1.0), (0.0, 0.5), (0.0, 2.0)])
def test_the_draws_have_the_elbo_as_mean(shift: float, scale: float):
    """3000 draws a row, |z| < 4.5 for each of 6 rows: seed 1, failure rate 4e-5."""
    posterior = PPCAPosterior(WORLD, shift, scale)
    truth = WORLD.log_prob(X) - kl_divergence(posterior(X), MultivariateNormal(*WORLD.posterior(X)))
    values = bound(posterior, 3000)
    for row in range(6):
        assert abs(z_score(values[:, row], float(truth[row]))) < 4.5


def test_draws_are_independent():
    values = bound(PPCAPosterior(WORLD, 0.3), 2)
    assert not bool((values[0] == values[1]).any())


def test_gradients_reach_the_posterior():
    shift = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    posterior = PPCAPosterior(WORLD)
    posterior.shift = shift + 0.3  # type: ignore[assignment]
    torch.manual_seed(0)
    elbo(PPCAPrior(WORLD), PPCAEmission(WORLD), posterior, X, 400).mean().backward()
    precision = torch.linalg.inv(WORLD.posterior(X)[1])
    expected = -precision @ torch.full((2,), 0.3, dtype=torch.float64)  # d/dm of -½ mᵀ Σ⁻¹ m
    assert shift.grad is not None
    torch.testing.assert_close(shift.grad, expected, rtol=0.05, atol=0)


def test_the_closed_form_of_full_and_diagonal_normals_is_torchs():
    """KL(q ‖ p) of a Cholesky factor, and of two diagonal normals, against torch's own."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    p = DiagonalNormal(drawn(5, 4), 0.3 * drawn(5, 4))
    other = MultivariateNormal(p.loc, torch.diag_embed(p.variance))
    factor = drawn(5, 4, 4).tril(-1) + torch.diag_embed((0.3 * drawn(5, 4)).exp())
    full, diagonal = FullNormal(drawn(5, 4), factor), DiagonalNormal(drawn(5, 4), 0.3 * drawn(5, 4))
    pairs = [
        (full, MultivariateNormal(full.loc, scale_tril=factor)),
        (diagonal, MultivariateNormal(diagonal.loc, torch.diag_embed(diagonal.variance))),
    ]
    for q, same in pairs:
        found = kl_by_dimension(q, p)
        assert found is not None
        torch.testing.assert_close(found.sum(1), kl_divergence(same, other), rtol=0, atol=1e-12)
    assert kl_by_dimension(diagonal, full) is None


def test_terms_of_a_density_are_those_of_its_numbers():
    """Of two layers either way: each term is the torch density of one number given what it depends on, and they sum to log p."""

    def second(first: Tensor) -> DiagonalNormal:
        return DiagonalNormal(
            torch.stack([first.sum(-1), 2 * first[..., 0]], -1), first[..., :1].expand(*first.shape[:-1], 2) / 3
        )

    first = DiagonalNormal(X[:, :3], 0.1 * X[:, :3])
    z = torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for reverse in (False, True):
        law = Stacked(first, second, 2, reverse=reverse)
        found = log_density_by_dimension(law, z)
        assert found is not None
        torch.testing.assert_close(found.sum(-1), law.log_prob(z))
        own, after = law.parts_of(z)
        last = Normal(2 * own[..., 0], (own[..., 0] / 3).exp()).log_prob(after[..., 1])
        torch.testing.assert_close(found[..., 1 if reverse else 4], last)
        middle = Normal(first.loc[:, 1], first.scale[:, 1]).log_prob(own[..., 1])
        torch.testing.assert_close(found[..., 3 if reverse else 1], middle)
    full = FullNormal(X[:, :2], torch.eye(2, dtype=torch.float64).expand(6, 2, 2))
    assert log_density_by_dimension(full, z[..., :2]) is None
    assert log_density_by_dimension(Stacked(full, second, 2), z[..., :4]) is None
