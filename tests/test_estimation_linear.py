"""`fit_linear`: left-out errors by refitting, the truth from many rows, and what cannot be told from few."""

import numpy as np
import pytest
import torch

from jensen.errors import InputError
from jensen.estimation.linear import LEAST, SHRINKAGES, fit_linear

RNG = np.random.default_rng(0)


def t(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float64))


def refitted(z: np.ndarray, y: np.ndarray, penalty: float) -> np.ndarray:
    """Errors of each row under ridge regression, with an intercept that is not shrunk, of all other rows."""
    errors = np.empty_like(y)
    for i in range(len(z)):
        rest = np.arange(len(z)) != i
        design = np.column_stack([np.ones(rest.sum()), z[rest]])
        ridge = penalty * np.diag([0.0, *np.ones(z.shape[1])])
        solution = np.linalg.solve(design.T @ design + ridge, design.T @ y[rest])
        errors[i] = y[i] - np.r_[1.0, z[i]] @ solution
    return errors


@pytest.mark.parametrize("noise", [0.1, 3.0])
def test_shrinking_and_errors_are_those_of_left_out_rows(noise: float):
    x = RNG.normal(size=(15, 4)) * [1, 10, 0.1, 1] + 5
    y = x @ RNG.normal(size=(4, 2)) / [[1, 2]] + noise * RNG.normal(size=(15, 2))
    fit = fit_linear(t(x), t(y))
    z, scaled = (x - x.mean(0)) / x.std(0), (y - y.mean(0)) / y.std(0)
    each = {s: refitted(z, scaled, s * 15) for s in SHRINKAGES}
    best = min(each, key=lambda s: (each[s] ** 2).sum())
    assert fit.shrinkage == best
    slope = np.linalg.solve(z.T @ z + best * 15 * np.eye(4), z.T @ (y - y.mean(0)))
    np.testing.assert_allclose(fit.slope.numpy(), slope, rtol=1e-8)
    errors = each[best] * y.std(0)
    np.testing.assert_allclose((fit.factor @ fit.factor.T).numpy(), errors.T @ errors / 15, rtol=1e-8)
    alone = fit_linear(t(x), t(y), correlated=False).factor
    np.testing.assert_allclose(alone.numpy(), np.diag(np.sqrt((errors**2).mean(0))), rtol=1e-8)


def test_many_rows_give_the_truth():
    """4.5 standard errors: slopes (seed 1), covariance by Var = (Σ_ii Σ_jj + Σ_ij²)/n; shrinking is then next to nothing."""
    rng, n = np.random.default_rng(1), 20000
    slope, factor = np.array([[2.0, 0.0], [-1.0, 0.5]]), np.array([[0.7, 0.0], [0.4, 0.2]])
    x = rng.normal(size=(n, 2)) * [1, 100]
    y = x / [1, 100] @ slope + 3 + rng.normal(size=(n, 2)) @ factor.T
    fit = fit_linear(t(x), t(y))
    assert fit.shrinkage <= 1e-3
    sigma = factor @ factor.T
    error = np.sqrt(np.diag(sigma) / n)
    assert (np.abs(fit.slope.numpy() / x.std(0)[:, None] * [[1], [100]] - slope) < 4.5 * error + 2e-3).all()
    assert (np.abs(fit.intercept.numpy() - y.mean(0)) < 1e-9).all()
    spread = np.sqrt((np.outer(np.diag(sigma), np.diag(sigma)) + sigma**2) / n)
    assert (np.abs((fit.factor @ fit.factor.T).numpy() - sigma) < 4.5 * spread).all()


def test_without_noise_nothing_is_shrunk_and_the_density_stays_bounded():
    x = RNG.normal(size=(30, 3))
    y = x @ [[1.0], [2.0], [3.0]]
    fit = fit_linear(t(x), t(y))
    assert fit.shrinkage == 0
    np.testing.assert_allclose((fit.slope[:, 0] / fit.scale).numpy(), [1, 2, 3], rtol=1e-9)
    assert float(fit.factor) == pytest.approx(LEAST * y.std(), rel=1e-9)


def test_columns_that_say_nothing_or_the_same_and_more_columns_than_rows():
    x = RNG.normal(size=(40, 2))
    y = x @ [[1.0], [1.0]] + 0.1 * RNG.normal(size=(40, 1))
    plain = fit_linear(t(x), t(y))
    more = fit_linear(t(np.column_stack([x, np.full(40, 7.0)])), t(y))
    assert float(more.slope[2]) == 0
    np.testing.assert_allclose(more.slope[:2].numpy(), plain.slope.numpy(), rtol=1e-9)
    twice = fit_linear(t(np.column_stack([x, x])), t(y))
    np.testing.assert_allclose((twice.slope[:2] + twice.slope[2:]).numpy(), plain.slope.numpy(), rtol=0.05)
    wide = fit_linear(t(RNG.normal(size=(10, 50))), t(RNG.normal(size=(10, 1))))
    assert bool(torch.isfinite(wide.slope).all())
    assert float(wide.factor) > 0.5  # no column means anything: errors are not those of the rows it went through
    nothing = fit_linear(torch.ones(10, 1).double(), t(y[:10]))
    assert float(nothing.factor) == pytest.approx(y[:10].std() * 10 / 9)


def test_what_cannot_be_fitted():
    x = t(RNG.normal(size=(5, 1)))
    with pytest.raises(InputError, match=r"column 1 of y is 4 in every row to fit to"):
        fit_linear(x, torch.stack([torch.arange(5.0), torch.full((5,), 4.0)], 1).double())
    with pytest.raises(InputError, match="5 rows to fit to are too few to tell the covariance of 5 targets"):
        fit_linear(x, t(RNG.normal(size=(5, 5))))
    assert fit_linear(x, t(RNG.normal(size=(5, 5))), correlated=False).factor.shape == (5, 5)
    with pytest.raises(InputError, match=r"too large to average, up to 1e\+308; take another unit"):
        fit_linear(torch.full((5, 1), 1e308, dtype=torch.float64), x)


@pytest.mark.parametrize("unit", [1e-200, 1e200])
def test_any_unit_will_do(unit: float):
    x, y = t(RNG.normal(size=(20, 2))), t(RNG.normal(size=(20, 1)))
    plain, scaled = fit_linear(x, y), fit_linear(x * unit, y / unit)
    torch.testing.assert_close(scaled.slope * unit, plain.slope)
    torch.testing.assert_close(scaled.factor * unit, plain.factor)
