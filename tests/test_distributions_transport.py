"""Transport by inverse distribution functions: F⁻ for every kind of F, tails included, and what a map carries over.

Kolmogorov–Smirnov tests: 1,000 draws, seed 0, p > 1e-4 each, so a right map fails one of the eight in 0.08 % of seeds.
"""

import math

import pytest
import torch
from scipy import stats
from torch import distributions as td

from jensen.distributions.families import FAMILIES, frozen
from jensen.distributions.inverse import generalised_inverse, upper_inverse
from jensen.distributions.line import Computed, Finite, Law, Mixed, law_of
from jensen.distributions.precision import draw, in_double
from jensen.distributions.transport import MixtureOnTheLine, Transport
from jensen.errors import InputError
from jensen.noise import Noise

F64 = torch.float64
HUMPS = td.MixtureSameFamily(
    td.Categorical(torch.tensor([0.2, 0.5, 0.3], dtype=F64)),
    td.Normal(torch.tensor([-4.0, 0.0, 3.0], dtype=F64), torch.tensor([0.5, 1.0, 0.01], dtype=F64)),
)
SPIKE = Mixed([0.4, 0.6], [Finite(torch.zeros(1)), law_of(td.Exponential(2.0))])
GAP = td.MixtureSameFamily(
    td.Categorical(torch.ones(2)), td.Uniform(torch.tensor([0.0, 2.0]), torch.tensor([1.0, 3.0]))
)
CONTINUOUS = {
    "exponential": td.Exponential(0.7),
    "uniform": td.Uniform(-3.0, 5.0),
    "student": td.StudentT(3.0, 1.0, 2.0),
    "beta": td.Beta(0.5, 2.0),
    "humps": HUMPS,
    "a gap": GAP,
    "kumaraswamy": td.Kumaraswamy(2.0, 3.0),  # by torch's own cdf
    "normal of one column": td.Independent(td.Normal(torch.tensor([1.0]), torch.tensor([3.0])), 1),
}
DISCRETE = {
    "coin": td.Bernoulli(0.3),
    "die": td.Categorical(torch.tensor([0.1, 0.0, 0.6, 0.3])),
    "binomial": td.Binomial(5, torch.tensor(0.4)),
    "poisson": td.Poisson(2.5),
    "mixture of counts": td.MixtureSameFamily(td.Categorical(torch.ones(2)), td.Poisson(torch.tensor([0.5, 6.0]))),
    "sample": Finite(torch.tensor([2.0, -1.0, 2.0, 7.5])),
    "a spike beside a density": SPIKE,
}
U = torch.tensor([1e-300, 1e-20, 1e-6, 0.1, 0.25, 0.3, 0.4, 0.5, 0.7, 0.75, 0.9, 1 - 1e-9], dtype=F64)


def law(name: str) -> Law:
    target = {**CONTINUOUS, **DISCRETE}[name]
    return target if isinstance(target, Law) else law_of(target)


NORMAL = Noise(0, "transport").normal(range(1000), ()).double()


@pytest.mark.parametrize("name", CONTINUOUS)
def test_a_normal_becomes_the_target(name: str):
    y = Transport(td.Normal(0.0, 1.0), law(name))(NORMAL)
    assert stats.kstest(y.numpy(), lambda x: law(name).cdf(torch.as_tensor(x)).numpy()).pvalue > 1e-4


def test_a_normal_becomes_uniform():
    y = Transport(td.Normal(0.0, 1.0), td.Uniform(0.0, 1.0))(NORMAL)
    torch.testing.assert_close(y, torch.special.ndtr(NORMAL), rtol=0, atol=1e-15)


@pytest.mark.parametrize("name", DISCRETE)
def test_masses_of_jumps_are_exact(name: str):
    """The normals sent to an atom y are those in (Φ⁻¹(F(y-)), Φ⁻¹(F(y))]: both ends of each interval, one float apart."""
    target = law(name)
    go = Transport(td.Uniform(0.0, 1.0), target)
    atoms = target.values if isinstance(target, Finite) else torch.zeros(1, dtype=F64)
    top = target.cdf(atoms)
    sure = top < 1 - 1e-12
    assert torch.equal(target.quantile(top[sure]), atoms[sure])
    beyond = go(top[sure] + 1e-12)
    assert bool((beyond > atoms[sure]).all())


@pytest.mark.parametrize("name", DISCRETE)
def test_frequencies_are_the_masses(name: str):
    """P(Y ≤ y) over a fine grid of u is F(y) to the width of the grid, at any y."""
    target = law(name)
    y = target.quantile((torch.arange(10_000, dtype=F64) + 0.5) / 10_000)
    for at in (-1.0, 0.0, 0.2, 1.0, 2.0, 3.5):
        assert float((y <= at).double().mean()) == pytest.approx(
            float(target.cdf(torch.tensor(at, dtype=F64))), abs=1e-4
        )


@pytest.mark.parametrize("name", [*CONTINUOUS, *DISCRETE])
def test_galois(name: str):
    """F⁻(u) ≤ x ⟺ u ≤ F(x), at the inverse itself and one step before it; F⁻ does not fall."""
    target = law(name)
    x = target.quantile(U)
    assert bool((target.cdf(x) >= U).all())
    before = x - (1e-9 * x.abs()).clamp(min=1e-300)
    inside = before > target.low
    assert bool((target.cdf(before)[inside] <= U[inside] * (1 + 1e-11)).all())
    assert bool((x.diff() >= 0).all())
    assert bool((Transport(td.Normal(0.0, 1.0), target)(torch.linspace(-9, 9, 500)).diff() >= 0).all())


@pytest.mark.parametrize("v", [1e-3, 1e-16, 1e-100, 1e-300])
def test_upper_tails_are_carried(v: float):
    """S(F⁻(1 - v)) = v to 1e-10, where 1 - v is 1."""
    for name in ("exponential", "student", "humps", "poisson", "a spike beside a density"):
        target = law(name)
        at = float(target.survival(target.upper(torch.tensor(v, dtype=F64))))
        if target.continuous or name.startswith("a spike"):
            assert at == pytest.approx(v, rel=1e-10)
        else:
            assert at <= v
    far = Transport(td.Normal(0.0, 1.0), td.Exponential(1.0))(torch.tensor([30.0], dtype=F64))
    assert float(far) == pytest.approx(-stats.norm.logsf(30), rel=1e-12)


def test_the_naive_inverse_fails_at_jumps():
    """Solving F(x) = u by bisection that stops at |F - u| small finds nothing in a jump; F⁻ finds the jump itself."""
    u = torch.tensor([0.05, 0.2, 0.39], dtype=F64)  # all inside the jump of 0.4 at 0
    assert bool((SPIKE.quantile(u) == 0).all())
    assert bool((SPIKE.cdf(torch.zeros(1, dtype=F64)) - u > 0.009).all())  # no solution anywhere near
    slope = (SPIKE.quantile(u + 1e-3) - SPIKE.quantile(u)) / 1e-3
    assert bool((slope == 0).all())
    assert float(law_of(GAP).quantile(torch.tensor(0.5))) == pytest.approx(1.0, abs=1e-15)  # the first of all solutions


def test_bisection_over_floats_is_exact():
    """Steps at values of every size are met to the last bit; u = 0 and 1 give the ends of the support."""
    steps = torch.tensor([-1e300, -3.7, -1e-310, 0.0, 5e-324, 1.0, 1e17], dtype=F64)

    def cdf(x: torch.Tensor) -> torch.Tensor:
        return (x[..., None] >= steps).double().mean(-1)

    u = (torch.arange(7, dtype=F64) + 0.5) / 7
    assert torch.equal(generalised_inverse(cdf, u), steps)
    assert torch.equal(upper_inverse(lambda x: 1 - cdf(x), 1 - u), steps)
    ends = generalised_inverse(cdf, torch.tensor([0.0, 1.0]), low=-2e300, high=5.0)
    assert ends.tolist() == [-2e300, 5.0]


FAMILY = [
    td.Normal(1.0, 2.0), td.Laplace(1.0, 2.0), td.Cauchy(1.0, 2.0), td.Gumbel(1.0, 2.0), td.HalfNormal(2.0), td.HalfCauchy(2.0),
    td.StudentT(3.5, 1.0, 2.0), td.LogNormal(0.3, 0.7), td.Uniform(-1.0, 2.0), td.Exponential(3.0), td.Gamma(2.5, 3.0),
    td.Chi2(3.0), td.InverseGamma(2.5, 3.0), td.Beta(2.0, 0.7), td.FisherSnedecor(3.0, 7.0), td.Pareto(2.0, 3.0),
    td.Weibull(2.0, 1.5), td.Poisson(3.3), td.Geometric(0.3), td.NegativeBinomial(3.0, 0.4),
]  # fmt: skip


def test_every_family_is_here():
    assert {type(d) for d in FAMILY} == set(FAMILIES)


@pytest.mark.parametrize("d", FAMILY, ids=lambda d: type(d).__name__)
def test_families_are_torchs(d: td.Distribution):
    """scipy's density is torch's, parameters in the right places."""
    d = in_double(d)
    x = draw(d, 50, Noise(0, "family"))
    other = frozen(d)
    density = other.logpmf if d.support.is_discrete else other.logpdf
    torch.testing.assert_close(torch.as_tensor(density(x.numpy())), d.log_prob(x), rtol=1e-9, atol=1e-9)


def test_a_mixture_has_an_icdf():
    p = MixtureOnTheLine(HUMPS.mixture_distribution, HUMPS.component_distribution)
    u = torch.linspace(0.01, 0.99, 99, dtype=F64)
    torch.testing.assert_close(p.cdf(p.icdf(u)), u, rtol=1e-12, atol=0)
    assert p.icdf(u.float()).dtype == torch.float32
    torch.testing.assert_close(p.log_prob(u), HUMPS.log_prob(u))


def test_a_law_by_torchs_cdf_alone():
    own = Computed(in_double(td.Normal(0.0, 1.0)))
    torch.testing.assert_close(own.quantile(U[2:]), law_of(td.Normal(0.0, 1.0)).quantile(U[2:]), rtol=1e-9, atol=1e-9)
    assert math.isinf(own.low)


def test_what_can_not_be_carried_is_refused():
    with pytest.raises(InputError, match="Bernoulli has jumps; start from Uniform"):
        Transport(td.Bernoulli(0.5), td.Normal(0.0, 1.0))
    with pytest.raises(InputError, match=r"batch_shape \(2,\)"):
        Transport(td.Normal(0.0, 1.0), td.Normal(torch.zeros(2), 1.0))
    with pytest.raises(InputError, match=r"event_shape \(2,\)"):
        law_of(td.MultivariateNormal(torch.zeros(2), torch.eye(2)))
    with pytest.raises(InputError, match="VonMises has no distribution function"):
        law_of(td.VonMises(0.0, 1.0))
    with pytest.raises(InputError, match=r"sum to 1, not \[0.5, 0.6\]"):
        Mixed([0.5, 0.6], [SPIKE, SPIKE])
