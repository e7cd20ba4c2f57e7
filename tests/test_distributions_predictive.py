"""Beta-binomial, Dirichlet-multinomial, Lomax, multivariate t: masses and densities sum to one, moments are the sums'.

scipy is a cross-check. Statistical tests state seed and failure rate.
"""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from jensen.distributions.beta_binomial import BetaBinomial
from jensen.distributions.dirichlet_multinomial import DirichletMultinomial
from jensen.distributions.lomax import Lomax
from jensen.distributions.multivariate_student_t import MultivariateStudentT

F64 = torch.float64
DRAWS = 40_000


def f64(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=F64)


def one(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=F64)


@pytest.mark.parametrize(("n", "a", "b"), [(1, 1.0, 1.0), (7, 0.3, 2.5), (40, 12.0, 3.0)])
def test_a_beta_binomial_sums_to_one_and_has_its_moments(n: int, a: float, b: float):
    law, x = BetaBinomial(n, one(a), one(b)), torch.arange(n + 1, dtype=F64)
    p = law.log_prob(x).exp()
    assert float(p.sum()) == pytest.approx(1, abs=1e-12)
    assert float(law.mean) == pytest.approx(float(p @ x), rel=1e-12)
    assert float(law.variance) == pytest.approx(float(p @ (x - law.mean).square()), rel=1e-11)
    np.testing.assert_allclose(p, stats.betabinom(n, a, b).pmf(x.numpy()), rtol=1e-10)


def test_a_beta_binomial_is_the_mixture_of_binomials():
    """Its definition, by quadrature over p."""
    law = BetaBinomial(5, one(2.0), one(3.5))
    for x in range(6):
        mixed, _ = integrate.quad(lambda p, x=x: stats.binom(5, p).pmf(x) * stats.beta(2, 3.5).pdf(p), 0, 1)
        assert float(law.log_prob(one(float(x))).exp()) == pytest.approx(mixed, rel=1e-9)


def test_a_dirichlet_multinomial_sums_to_one_and_has_its_moments():
    alpha, n = f64(0.5, 2.0, 1.3), 6
    law = DirichletMultinomial(n, alpha)
    every = torch.tensor([c for c in itertools.product(range(n + 1), repeat=3) if sum(c) == n], dtype=F64)
    p = law.log_prob(every).exp()
    assert float(p.sum()) == pytest.approx(1, abs=1e-12)
    torch.testing.assert_close(law.mean, p @ every, rtol=1e-12, atol=0)
    torch.testing.assert_close(law.variance, p @ (every - law.mean).square(), rtol=1e-11, atol=0)
    np.testing.assert_allclose(
        p, stats.dirichlet_multinomial(alpha.numpy(), n).pmf(every.numpy().astype(int)), rtol=1e-10
    )


def test_two_colours_are_a_beta_binomial():
    x = torch.arange(6, dtype=F64)
    two = DirichletMultinomial(5, f64(2.0, 3.5)).log_prob(torch.stack([x, 5 - x], 1))
    torch.testing.assert_close(two, BetaBinomial(5, one(2.0), one(3.5)).log_prob(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("a", "b"), [(3.5, 2.0), (6.0, 0.1)])
def test_a_lomax_integrates_to_its_distribution_function_and_moments(a: float, b: float):
    law = Lomax(one(a), one(b))

    def density(x: float) -> float:
        return float(law.log_prob(one(x)).exp())

    for end in (0.5 * b, 7 * b, math.inf):
        mass, _ = integrate.quad(density, 0, end, epsabs=1e-12)
        assert float(law.cdf(one(end))) == pytest.approx(mass, abs=1e-9)
    mean, _ = integrate.quad(lambda x: x * density(x), 0, math.inf)
    square, _ = integrate.quad(lambda x: x * x * density(x), 0, math.inf, limit=200)
    assert float(law.mean) == pytest.approx(mean, rel=1e-7)
    assert float(law.variance) == pytest.approx(square - mean**2, rel=1e-5)
    u = torch.linspace(0.01, 0.99, 9, dtype=F64)
    torch.testing.assert_close(law.cdf(law.icdf(u)), u, rtol=1e-12, atol=0)
    np.testing.assert_allclose(law.log_prob(u), stats.lomax(a, scale=b).logpdf(u.numpy()), rtol=1e-11)


def test_moments_that_do_not_exist_are_not_numbers():
    assert float(Lomax(one(0.9), one(1.0)).mean) == math.inf
    assert float(Lomax(one(1.5), one(1.0)).variance) == math.inf
    slack = MultivariateStudentT(one(1.0), f64(0.0, 0.0), torch.eye(2, dtype=F64))
    assert bool(slack.mean.isnan().all())
    assert bool(slack.covariance_matrix.isnan().all())
    assert bool(slack.variance.isnan().all())
    assert bool(MultivariateStudentT(one(1.5), f64(0.0), torch.eye(1, dtype=F64)).variance.isinf().all())


FACTOR = torch.tensor([[1.2, 0.0], [-0.5, 0.7]], dtype=F64)


def test_a_multivariate_t_integrates_to_one_with_its_moments():
    """On polar coordinates about its middle: x = m + L r (cos, sin), dx = |L| r dr dφ, r = tan²s."""
    law = MultivariateStudentT(one(7.0), f64(1.0, -2.0), FACTOR)
    s = (torch.arange(4000, dtype=F64) + 0.5) / 4000 * math.pi / 2
    r, angle = s.tan().square(), torch.arange(16, dtype=F64) / 16 * 2 * math.pi
    step = 2 * s.tan() / s.cos().square() * (math.pi / 2 / 4000)
    ring = torch.stack([angle.cos(), angle.sin()], -1)
    x = law.loc + (r[:, None, None] * ring) @ FACTOR.T
    weight = (r * step)[:, None] * (2 * math.pi / 16) * float(FACTOR.det()) * law.log_prob(x).exp()
    assert float(weight.sum()) == pytest.approx(1, abs=1e-7)
    mean = torch.einsum("rap,ra->p", x, weight)
    torch.testing.assert_close(mean, law.mean, rtol=1e-6, atol=1e-6)
    centred = x - law.mean
    covariance = torch.einsum("rap,raq,ra->pq", centred, centred, weight)
    torch.testing.assert_close(covariance, law.covariance_matrix, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(law.variance, law.covariance_matrix.diagonal(), rtol=1e-12, atol=0)


def test_a_multivariate_t_is_scipys_and_in_one_dimension_torchs():
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(20, 2)) * 3)
    ours = MultivariateStudentT(one(3.3), f64(0.4, 0.1), FACTOR).log_prob(x)
    peer = stats.multivariate_t([0.4, 0.1], (FACTOR @ FACTOR.T).numpy(), df=3.3).logpdf(x.numpy())
    np.testing.assert_allclose(ours, peer, rtol=1e-11)
    line = MultivariateStudentT(one(3.3), f64(0.4), f64(1.7)[:, None]).log_prob(x[:, :1])
    torch.testing.assert_close(line, torch.distributions.StudentT(one(3.3), one(0.4), one(1.7)).log_prob(x[:, 0]))


def test_draws_have_the_law():
    """χ² of counts, Kolmogorov–Smirnov elsewhere, seed 0; five p-values above 1e-4: failure rate 5e-4."""
    torch.manual_seed(0)
    counts = BetaBinomial(6, one(0.7), one(1.9))
    seen = torch.bincount(counts.sample((DRAWS,)).long(), minlength=7)
    expected = DRAWS * counts.log_prob(torch.arange(7, dtype=F64)).exp()
    assert stats.chisquare(seen.numpy(), expected.numpy()).pvalue > 1e-4
    urn = DirichletMultinomial(2, f64(0.5, 2.0, 1.3))
    every = torch.tensor([c for c in itertools.product(range(3), repeat=3) if sum(c) == 2], dtype=F64)
    drawn = urn.sample((DRAWS,))
    found = torch.stack([(drawn == row).all(1).sum() for row in every])
    assert stats.chisquare(found.numpy(), (DRAWS * urn.log_prob(every).exp()).numpy()).pvalue > 1e-4
    waits = Lomax(one(1.4), one(2.0))
    assert stats.kstest(waits.sample((DRAWS,)).numpy(), stats.lomax(1.4, scale=2.0).cdf).pvalue > 1e-4
    plane = MultivariateStudentT(one(2.5), f64(1.0, -2.0), FACTOR)
    white = torch.linalg.solve_triangular(FACTOR, (plane.sample((DRAWS,)) - plane.loc).T, upper=False)
    assert stats.kstest(white.square().sum(0).numpy() / 2, stats.f(2, 2.5).cdf).pvalue > 1e-4
    assert stats.kstest(white[1].numpy(), stats.t(2.5).cdf).pvalue > 1e-4


def test_shapes_are_torchs():
    batch = BetaBinomial(torch.tensor([2, 5]), f64(1.0, 2.0), one(1.0))
    assert batch.batch_shape == (2,)
    assert batch.sample((3,)).shape == (3, 2)
    assert Lomax(f64(1.0, 2.0), one(1.0)).sample((4,)).shape == (4, 2)
    urn = DirichletMultinomial(3, torch.ones(4, 2, dtype=F64))
    assert (urn.batch_shape, urn.event_shape, urn.sample((5,)).shape) == ((4,), (2,), (5, 4, 2))
    t = MultivariateStudentT(f64(3.0, 4.0), torch.zeros(2, dtype=F64), torch.eye(2, dtype=F64))
    assert (t.batch_shape, t.event_shape, t.sample((5,)).shape) == ((2,), (2,), (5, 2, 2))
    assert t.log_prob(torch.zeros(7, 1, 2, dtype=F64)).shape == (7, 2)


def test_values_off_the_support_are_refused():
    with pytest.raises(ValueError, match="support"):
        BetaBinomial(3, one(1.0), one(1.0), validate_args=True).log_prob(one(4.0))
    with pytest.raises(ValueError, match="support"):
        DirichletMultinomial(3, f64(1.0, 1.0), validate_args=True).log_prob(f64(2.0, 2.0))
    assert float(DirichletMultinomial(3, f64(1.0, 1.0)).log_prob(f64(1.0, 1.0))) == -math.inf
    with pytest.raises(ValueError, match="support"):
        Lomax(one(1.0), one(1.0), validate_args=True).log_prob(one(-1.0))
    with pytest.raises(ValueError, match="concentration"):
        Lomax(one(-1.0), one(1.0), validate_args=True)
