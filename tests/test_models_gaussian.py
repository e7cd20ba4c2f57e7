"""`gaussian`: scikit-learn's Ledoit–Wolf, scipy's density, its own moments; dequantised, a bound on the mass."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.covariance import ledoit_wolf

import jensen
from jensen.data.examples import Examples
from jensen.data.space import Levels, Real
from jensen.errors import InputError
from jensen.models.dequantised import DequantisedClosedForm
from jensen.models.gaussian import Gaussian

MIX = np.random.default_rng(7).normal(size=(5, 5))


def rows(n: int, dims: int = 5) -> np.ndarray:
    return np.random.default_rng(n).normal(size=(n, dims)) @ MIX[:dims, :dims] + np.arange(dims)


def fitted(x: np.ndarray) -> Gaussian:
    model = Gaussian(x.shape[1:], Real())
    model.fit(Examples(torch.from_numpy(x), torch.arange(len(x))))
    return model


@pytest.mark.parametrize("n", [4, 30, 3000])
def test_shrinkage_is_scikit_learns(n: int):
    x = rows(n)
    model = fitted(x)
    covariance, rho = ledoit_wolf(x)
    assert float(model.shrinkage) == pytest.approx(rho, rel=1e-9)
    np.testing.assert_allclose((model.factor @ model.factor.T).numpy(), covariance, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(model.mean.numpy(), x.mean(0))


def test_the_density_is_scipys():
    x, model = rows(100), fitted(rows(100))
    truth = stats.multivariate_normal(model.mean.numpy(), (model.factor @ model.factor.T).numpy())
    np.testing.assert_allclose(model.log_likelihood(torch.from_numpy(x)).value.numpy(), truth.logpdf(x), rtol=1e-9)


def test_samples_have_the_models_moments():
    """20,000 draws, seed 0. Whitened by the model: each mean has standard error 1/√n, each covariance cell at most
    √(2/n); all 20 within 4.5 of them, failure rate 1.4e-4.
    """
    model = fitted(rows(200))
    draws, n = model.sample(20_000, seed=0), 20_000
    white = torch.linalg.solve_triangular(model.factor, (draws - model.mean).T, upper=False).T
    assert float(white.mean(0).abs().max()) < 4.5 / math.sqrt(n)
    assert float((white.T.cov() - torch.eye(5)).abs().max()) < 4.5 * math.sqrt(2 / n)


def test_change_of_units_is_exact():
    """Law 25, through the pipeline's codec and shrinkage."""
    x = rows(200)
    one, other = (jensen.fit(y, "gaussian", progress=False) for y in (x, 3.7 * x + 11))
    difference = one.log_likelihood(x).value - other.log_likelihood(3.7 * x + 11).value
    np.testing.assert_allclose(difference.numpy(), 5 * math.log(3.7), rtol=1e-8)


def test_a_row_keeps_its_bits_in_any_company():
    model, x = fitted(np.random.default_rng(0).normal(size=(300, 60))), torch.from_numpy(rows(300, 5)).repeat(1, 12)
    together = model.log_likelihood(x).value
    for size in (1, 7, 64, 299):
        assert torch.equal(together, torch.cat([model.log_likelihood(part).value for part in x.split(size)]))
        parts = [model.sample(min(size, 300 - i), start=i) for i in range(0, 300, size)]
        assert torch.equal(model.sample(300), torch.cat(parts))


def test_rows_that_are_fewer_than_dimensions_are_fitted():
    model = fitted(np.random.default_rng(0).normal(size=(6, 40)))
    assert bool(torch.isfinite(model.factor).all())
    assert 0 < float(model.shrinkage) <= 1


def test_too_many_dimensions_are_refused():
    with pytest.raises(InputError, match="full covariance of 6001 dimensions"):
        Gaussian((6001,), Real())


def test_a_constant_column_is_refused():
    x = rows(50)
    x[:, 3] = 2.0
    with pytest.raises(InputError, match=r"column 4 \(counted from 1\) is constant .* \(value 2\)"):
        jensen.fit(x, "gaussian", progress=False)


def dequantised(scale: float) -> tuple[DequantisedClosedForm, torch.Tensor, np.ndarray]:
    """A normal of that many level steps on 9 levels, and the exact mass of each cell."""
    inner = Gaussian((1,), Real())
    inner.mean.fill_(4.3)
    inner.factor.fill_(scale)
    model = DequantisedClosedForm(inner, Levels(9))
    y = model.levels.values()[:, None]
    law = stats.norm(4.3, scale)
    return model, y, np.log(law.cdf(y[:, 0] + 1) - law.cdf(y[:, 0]))


@pytest.mark.parametrize("scale", [0.7, 3.0])
def test_dequantising_bounds_the_mass_of_the_cell(scale: float):
    """E over u is known: log N at the cell's mean plus its spread. 400 repetitions, |z| < 4.5 (failure rate 6e-5)."""
    model, y, mass = dequantised(scale)
    ll = model.log_likelihood(y, repetitions=400)
    centre = y[:, 0].numpy() + 0.5
    expected = stats.norm.logpdf(centre, 4.3, scale) - 1 / 24 / scale**2
    assert bool((expected < mass).all())
    z = (ll.value.numpy() - expected) / ll.stderr.numpy()
    assert float(np.abs(z).max()) < 4.5


def test_dequantising_is_exact_where_the_density_is_flat():
    model, y, mass = dequantised(300.0)
    np.testing.assert_allclose(model.log_likelihood(y).value.numpy(), mass, atol=1e-4)


def test_dequantised_samples_are_the_levels_of_the_densitys():
    """χ² of 20,000 draws against the cells, the ends taking what is beyond; seed 0, failure rate 1e-4."""
    model, y, _ = dequantised(2.0)
    edges = stats.norm(4.3, 2.0).cdf(np.concatenate([[-np.inf], y[1:, 0].numpy(), [np.inf]]))
    seen = torch.bincount(model.sample(20_000, seed=0)[:, 0].long(), minlength=9)
    assert stats.chisquare(seen.numpy(), 20_000 * np.diff(edges)).pvalue > 1e-4


def test_dequantised_rows_are_fitted_spread_over_their_cells():
    """Cells of width 2 on 5 levels: the mean moves by half a cell, the variance by 2²/12. 20,000 rows, 5 standard errors
    (failure rate 6e-7 each).
    """
    space, n = Levels(5, -3.0, 2.0), 20_000
    x = space.values()[torch.randint(5, (n, 1), generator=torch.Generator().manual_seed(0))]
    model = DequantisedClosedForm(Gaussian((1,), Real()), space)
    model.fit(Examples(x, torch.arange(n)))
    inner = model.model
    assert isinstance(inner, Gaussian)
    spread = 2**2 / 12
    assert abs(float(inner.mean) - float(x.mean()) - 1) < 5 * math.sqrt(spread / n)
    variance = float(inner.factor) ** 2
    assert abs(variance - float(x.var()) - spread) < 5 * math.sqrt((4 * float(x.var()) * spread + spread**2) / n)


def test_one_repetition_has_no_error_bar():
    model, y, _ = dequantised(1.0)
    with pytest.raises(InputError, match="at least 2 repetitions, got 1"):
        model.log_likelihood(y, repetitions=1)
