"""Conjugate priors: Bayes' rule by quadrature, updates in any grouping, evidence by the chain rule.

`PAIRS` is prior, rows and a reader that says how densities over θ are integrated; every law runs on all of them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, stats

import jensen
from jensen.errors import InputError
from jensen.estimation.bayes import Conjugate
from jensen.estimation.bayes_counts import BetaBernoulli, DirichletCategorical, GammaExponential, GammaPoisson
from jensen.estimation.bayes_normals import NormalInverseGamma, NormalInverseWishart, NormalNormal, log_inverse_wishart

F64 = torch.float64
RNG = np.random.default_rng(0)
SCALE = torch.tensor([[2.0, 0.3], [0.3, 1.0]], dtype=F64)


def one(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=F64)


@dataclass(frozen=True)
class Pair:
    """A prior and rows of its likelihood; `ends` are those of a θ that is one number."""

    prior: Conjugate
    rows: np.ndarray[Any, Any]
    ends: tuple[float, float] | None = None


PAIRS = {
    "beta-bernoulli": Pair(BetaBernoulli(0.7, 2.0), RNG.binomial(1, 0.3, 12).astype(float), (0, 1)),
    "beta-binomial": Pair(BetaBernoulli(1.5, 1.0, trials=4), RNG.binomial(4, 0.6, 8).astype(float), (0, 1)),
    "gamma-poisson": Pair(GammaPoisson(2.0, 0.5), RNG.poisson(3.0, 9).astype(float), (0, 60)),
    "gamma-exponential": Pair(GammaExponential(1.2, 3.0), RNG.exponential(2.0, 9), (0, 30)),
    "normal-normal": Pair(NormalNormal(1.0, 2.0, 0.8), RNG.normal(0.5, 0.8, 7), (-15, 15)),
    "dirichlet-categorical": Pair(
        DirichletCategorical(torch.tensor([0.5, 2.0, 1.0])), RNG.integers(0, 3, 15).astype(float)
    ),
    "normal-inverse-gamma": Pair(NormalInverseGamma(0.5, 0.6, 2.5, 1.5), RNG.normal(-1.0, 1.4, 8)),
    "normal-inverse-wishart": Pair(
        NormalInverseWishart(torch.tensor([0.2, -0.4]), 0.7, 4.5, SCALE),
        RNG.normal(size=(9, 2)) @ [[1.0, 0.4], [0.0, 0.6]],
    ),
}
each_pair = pytest.mark.parametrize("name", PAIRS)
each_number = pytest.mark.parametrize("name", [name for name, pair in PAIRS.items() if pair.ends])


def same(a: Conjugate, b: Conjugate, tolerance: float) -> None:
    for name, value in vars(a).items():
        torch.testing.assert_close(
            torch.as_tensor(value, dtype=F64), torch.as_tensor(vars(b)[name], dtype=F64), rtol=tolerance, atol=tolerance
        )


@each_pair
def test_one_at_a_time_is_all_at_once(name: str):
    """In any order and grouping, to 1e-12."""
    pair = PAIRS[name]
    batch = one_by_one = pair.prior
    batch = batch.update(pair.rows)
    for row in pair.rows[::-1].copy():
        one_by_one = one_by_one.update(row[None])
    same(one_by_one, batch, 1e-12)
    same(pair.prior.update(pair.rows[:4]).update(pair.rows[4:]), batch, 1e-12)


@each_pair
def test_the_evidence_is_the_chain_of_predictives(name: str):
    """Σ_i log p(x_i | x_1 … x_{i-1}) to 1e-10."""
    pair = PAIRS[name]
    total, state = 0.0, pair.prior
    for row in pair.rows:
        total += float(state.predictive().log_prob(torch.as_tensor(row, dtype=F64)))
        state = state.update(row[None])
    assert pair.prior.log_evidence(pair.rows) == pytest.approx(total, abs=1e-10)


@each_pair
def test_bayes_rule_holds_at_every_parameter(name: str):
    """log p(x | θ) + log p(θ) - log p(θ | x) is log p(x) whatever θ is: seven θ, the middles of posteriors of the first rows.
    The predictive of one row is the evidence of one row.
    """
    pair = PAIRS[name]
    posterior, evidence = pair.prior.update(pair.rows), pair.prior.log_evidence(pair.rows)
    rows = torch.as_tensor(pair.rows, dtype=F64)
    for count in range(1, 8):
        theta = pair.prior.update(pair.rows[:count]).centre()
        joint = pair.prior.likelihood(*theta).log_prob(rows).sum() + pair.prior.log_prob(*theta)
        assert float(joint - posterior.log_prob(*theta)) == pytest.approx(evidence, abs=1e-9)
    first = pair.prior.predictive().log_prob(rows[0])
    assert float(first) == pytest.approx(pair.prior.log_evidence(pair.rows[:1]), abs=1e-10)


def integral(pair: Pair, log_density: Callable[[torch.Tensor], torch.Tensor]) -> float:
    assert pair.ends is not None
    value, _ = integrate.quad(lambda t: float(log_density(one(t)).exp()), *pair.ends, epsabs=0, epsrel=1e-11, limit=400)
    return float(value)


@each_number
def test_the_evidence_is_the_integral_over_the_parameter(name: str):
    pair = PAIRS[name]
    rows = torch.as_tensor(pair.rows, dtype=F64)
    prior = pair.prior
    total = integral(pair, lambda t: prior.likelihood(t).log_prob(rows).sum() + prior.log_prob(t))
    assert prior.log_evidence(pair.rows) == pytest.approx(math.log(total), abs=1e-8)


@each_number
def test_the_posterior_is_prior_times_likelihood(name: str):
    """On a grid of θ, by normalised products; and the posterior integrates to one."""
    pair = PAIRS[name]
    posterior, rows = pair.prior.update(pair.rows), torch.as_tensor(pair.rows, dtype=F64)
    low, high = pair.ends or (0, 1)
    middle = float(posterior.centre()[0])
    grid = torch.linspace(max(low, middle - 1.5) + 1e-3, min(high, middle + 1.5) - 1e-3, 15, dtype=F64)
    product = torch.stack([pair.prior.likelihood(t).log_prob(rows).sum() for t in grid]) + pair.prior.log_prob(grid)
    torch.testing.assert_close(product.log_softmax(0), posterior.log_prob(grid).log_softmax(0), rtol=1e-9, atol=1e-9)
    assert integral(pair, posterior.log_prob) == pytest.approx(1, abs=1e-8)


@each_number
def test_the_predictive_is_the_likelihood_averaged_over_the_posterior(name: str):
    pair = PAIRS[name]
    posterior = pair.prior.update(pair.rows)
    for value in (0.0, 1.0):
        x = one(value)
        mixed = integral(pair, lambda t, x=x: posterior.likelihood(t).log_prob(x) + posterior.log_prob(t))
        assert float(posterior.predictive().log_prob(x).exp()) == pytest.approx(mixed, rel=1e-8)


def test_a_normal_of_unknown_variance_by_quadrature():
    """Prior × likelihood over (μ, log σ²) on a 400 × 400 grid: the evidence, and the mass of the posterior."""
    pair = PAIRS["normal-inverse-gamma"]
    prior, posterior = pair.prior, pair.prior.update(pair.rows)
    mean, log_variance = torch.linspace(-9, 8, 400, dtype=F64), torch.linspace(-4, 6, 400, dtype=F64)
    cell = float(mean[1] - mean[0]) * float(log_variance[1] - log_variance[0])
    m, v = torch.meshgrid(mean, log_variance.exp(), indexing="ij")
    rows = torch.as_tensor(pair.rows)[:, None, None]
    joint = prior.likelihood(m, v).log_prob(rows).sum(0) + prior.log_prob(m, v) + v.log()
    assert math.log(float(joint.exp().sum()) * cell) == pytest.approx(prior.log_evidence(pair.rows), abs=1e-8)
    own = posterior.log_prob(m, v) + v.log()
    assert float(own.exp().sum()) * cell == pytest.approx(1, abs=1e-8)
    torch.testing.assert_close(joint.flatten().log_softmax(0), own.flatten().log_softmax(0), rtol=1e-9, atol=1e-9)
    seen = posterior.likelihood(m, v).log_prob(one(0.3)) + own
    expected = float(posterior.predictive().log_prob(one(0.3)))
    assert math.log(float(seen.exp().sum()) * cell) == pytest.approx(expected, abs=1e-8)


def test_the_inverse_wishart_is_scipys():
    for draw in stats.wishart(5, np.eye(2)).rvs(4, random_state=1):
        expected = stats.invwishart(4.5, SCALE.numpy()).logpdf(draw)
        assert float(log_inverse_wishart(torch.from_numpy(draw), 4.5, SCALE)) == pytest.approx(expected, abs=1e-10)


def test_one_dimension_of_wishart_is_inverse_gamma():
    rows = RNG.normal(2.0, 3.0, 10)
    line = NormalInverseGamma(0.5, 0.6, 2.5, 1.5)
    wide = NormalInverseWishart(one(0.5)[None], 0.6, 5.0, one(3.0).reshape(1, 1))
    assert wide.log_evidence(rows[:, None]) == pytest.approx(line.log_evidence(rows), abs=1e-10)
    x = torch.linspace(-3, 5, 5, dtype=F64)
    torch.testing.assert_close(
        wide.update(rows[:, None]).predictive().log_prob(x[:, None]), line.update(rows).predictive().log_prob(x)
    )


def test_turning_the_axes_costs_their_determinant():
    """Law 25: rows A x and a prior turned along have evidence n log|det A| lower."""
    pair, turn = PAIRS["normal-inverse-wishart"], torch.tensor([[2.0, 1.0], [-0.5, 1.5]], dtype=F64)
    prior = pair.prior
    assert isinstance(prior, NormalInverseWishart)
    scale = turn @ prior.scale @ turn.T
    turned = NormalInverseWishart(turn @ prior.loc, prior.rows, prior.df, 0.5 * (scale + scale.T))
    cost = len(pair.rows) * math.log(float(turn.det()))
    assert turned.log_evidence(pair.rows @ turn.numpy().T) == pytest.approx(
        prior.log_evidence(pair.rows) - cost, abs=1e-9
    )


def test_laplaces_rule_is_the_control_independent():
    """Dirichlet(1, …, 1) predicts what the add-one histogram of `independent` says, Beta(1, 1) its two-level case."""
    rows = RNG.integers(0, 4, (50, 1)).astype(np.uint8)
    split = jensen.load_data(rows, levels=4)
    model = jensen.fit(split, "independent", progress=False)
    seen = split.train.x[:, 0].double()
    ours = DirichletCategorical(torch.ones(4)).update(seen).predictive().log_prob(torch.arange(4))
    theirs = model.log_likelihood(torch.arange(4, dtype=torch.uint8)[:, None]).value
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    rule = BetaBernoulli().update([1.0, 1.0, 0.0, 1.0]).predictive()
    assert float(rule.log_prob(one(1.0)).exp()) == pytest.approx((3 + 1) / (4 + 2), rel=1e-12)


def test_counts_of_the_next_rows_are_an_urn():
    """Σ over orders of the chain of predictives is the Dirichlet-multinomial."""
    prior = DirichletCategorical(torch.tensor([0.5, 2.0, 1.0]))
    orders = {tuple(np.random.default_rng(i).permutation([0, 0, 2, 1])) for i in range(200)}
    assert len(orders) == 12
    chained = sum(math.exp(prior.log_evidence([float(c) for c in order])) for order in orders)
    assert float(prior.counts(4).log_prob(torch.tensor([2.0, 1.0, 1.0], dtype=F64)).exp()) == pytest.approx(chained)


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "a negative count": (lambda: BetaBernoulli(-1.0, 1.0), "a must be positive and finite, got -1"),
    "no number": (lambda: GammaPoisson(1.0, math.nan), "b must be positive and finite, got nan"),
    "more successes than trials": (lambda: BetaBernoulli(trials=3).update([1.0, 4.0]), "row 1 is 4, .* 0 to 3"),
    "half a count": (lambda: GammaPoisson().update([0.5]), "row 0 is 0.5, and Poisson counts"),
    "a category too high": (lambda: DirichletCategorical(torch.ones(2)).update([2.0]), "row 0 is 2, .* 0 to 1"),
    "one category": (lambda: DirichletCategorical(torch.ones(1)), r"at least two positive numbers, got \[1.0\]"),
    "a negative time": (lambda: GammaExponential().update([-0.5]), "not negative, got -0.5"),
    "NaN": (lambda: NormalNormal().update([math.nan]), "NaN or infinite"),
    "few degrees of freedom": (
        lambda: NormalInverseWishart(torch.zeros(3), 1.0, 2.0, torch.eye(3)),
        "above d - 1 = 2, got 2",
    ),
    "an indefinite scale": (
        lambda: NormalInverseWishart(torch.zeros(1), 1.0, 2.0, -torch.eye(1)),
        r"definite, got \[\[-1",
    ),
    "another shape": (lambda: NormalInverseWishart(torch.zeros(2), 1.0, 2.0, torch.eye(3)), r"got \(2,\) and \(3, 3\)"),
    "other rows": (
        lambda: PAIRS["normal-inverse-wishart"].prior.update(np.zeros((2, 3))),
        "3 dimensions, the prior has 2",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_is_refused(what: str):
    call, message = WRONG[what]
    with pytest.raises(InputError, match=message):
        call()
