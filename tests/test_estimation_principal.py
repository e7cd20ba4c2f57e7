"""Principal components: eigenvectors by linear algebra, both ways round; law 2 at a given noise; every q's likelihood at once."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from jensen.data.examples import Examples
from jensen.errors import InputError
from jensen.estimation.principal import Spectrum, free_parameters, spectrum

F64 = torch.float64


def rows(n: int, dims: int, weight: Tensor | None = None) -> Examples:
    draw = np.random.default_rng(n + dims)
    x = draw.normal(size=(n, dims)) @ draw.normal(size=(dims, dims)) + draw.normal(size=dims)
    return Examples(torch.from_numpy(x), torch.arange(n), None, weight)


def law(found: Spectrum, q: int, noise: float | Tensor) -> MultivariateNormal:
    """By a d × d covariance."""
    loadings = found.loadings(q, noise)
    return MultivariateNormal(found.mean, loadings @ loadings.T + noise * torch.eye(found.dims, dtype=F64))


@pytest.mark.parametrize(("n", "dims"), [(50, 6), (2100, 3), (7, 20), (1030, 1040)])
def test_both_ways_are_the_eigenvectors_of_the_covariance(n: int, dims: int):
    """d ≤ n through the covariance, d > n through the Gram matrix, in one or more blocks of rows."""
    data = rows(n, dims)
    found = spectrum(data, 5)
    covariance = torch.from_numpy(np.cov(data.x.numpy().T, bias=True))
    q = found.most
    assert q == min(5, dims - 1, n - 2)
    assert torch.allclose(found.mean, data.x.mean(0), rtol=0, atol=1e-12)
    size = float(found.values[0])
    torch.testing.assert_close(covariance @ found.axes, found.axes * found.values[:q], rtol=0, atol=1e-11 * size)
    torch.testing.assert_close(found.axes.T @ found.axes, torch.eye(q, dtype=F64), rtol=0, atol=1e-12)
    assert float(found.values.sum()) == pytest.approx(float(covariance.trace()), rel=1e-12)


def test_axes_are_orthogonal_however_small_their_eigenvalues():
    """Through the Gram matrix, with λ_1/λ_3 near 10⁹."""
    draw = torch.Generator().manual_seed(0)
    size = torch.tensor([1e5, 1e3, 3.0, 1.0, 0.3], dtype=F64)
    x = (torch.randn(10, 5, generator=draw, dtype=F64) * size) @ torch.randn(5, 40, generator=draw, dtype=F64)
    found = spectrum(Examples(x, torch.arange(10)), 3)
    torch.testing.assert_close(found.axes.T @ found.axes, torch.eye(3, dtype=F64), rtol=0, atol=1e-13)


@pytest.mark.parametrize("dims", [3, 40])
def test_weights_are_repeated_rows(dims: int):
    weight = 1.0 + (torch.arange(20) % 3).double()
    data = rows(20, dims, weight)
    index = torch.arange(20).repeat_interleave(weight.long())
    twice = Examples(data.x[index], torch.arange(len(index)))
    one, other = spectrum(data, 2), spectrum(twice, 2)
    torch.testing.assert_close(one.values[:19], other.values[:19], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(one.noises(), other.noises(), rtol=1e-10, atol=0)
    assert one.weight == other.weight == 39


def test_the_noise_is_the_mean_of_what_is_discarded():
    found = spectrum(rows(60, 5), 4)
    for q in range(5):
        assert float(found.noises()[q]) == pytest.approx(float(found.values[q:].mean()), rel=1e-13)


def test_at_a_given_noise_a_latent_collapses_iff_its_eigenvalue_is_below():
    """Law 2. And W is the best at that noise: no gradient along any direction of the columns that have loadings, and of those
    that have none the curvature λ_i/σ² - 1 is not positive.
    """
    found = spectrum(rows(60, 5), 4)
    noise = 0.5 * float(found.values[1] + found.values[2])
    loadings = found.loadings(4, noise)
    length = loadings.square().sum(0)
    torch.testing.assert_close(length, (found.values[:4] - noise).clamp(min=0), rtol=1e-12, atol=1e-12)
    assert (length > 0).tolist() == [True, True, False, False]
    x, eye = rows(60, 5).x, torch.eye(5, dtype=F64)

    def value(w: Tensor) -> Tensor:
        return MultivariateNormal(found.mean, w @ w.T + noise * eye).log_prob(x).mean()

    slope = torch.autograd.functional.jacobian(value, loadings)
    assert float(slope.abs().max()) < 1e-12
    for column in (2, 3):  # a little of any axis in an empty column does not help
        for axis in found.axes.T[2:]:
            moved = loadings.clone()
            moved[:, column] = 0.05 * axis
            assert float(value(moved)) < float(value(loadings))


@pytest.mark.parametrize(("n", "dims"), [(60, 5), (9, 30)])
def test_every_q_at_once(n: int, dims: int):
    """Of the rows themselves and of others, against d × d normals."""
    data, other = rows(n, dims), rows(n + 1, dims)
    weight = 1.0 + torch.arange(len(other)) % 2
    weighted = Examples(other.x, other.id, None, weight.double())
    found = spectrum(data, dims)
    own, others = found.log_likelihoods(), found.log_likelihoods(*found.squares_of(weighted))
    assert len(own) == len(others) == found.most + 1 == min(dims, n - 1)
    for q in range(found.most + 1):
        truth = law(found, q, found.noises()[q])
        assert float(own[q]) == pytest.approx(float(truth.log_prob(data.x).mean()), rel=1e-9)
        each = truth.log_prob(other.x)
        assert float(others[q]) == pytest.approx(float((each * weight).sum() / weight.sum()), rel=1e-9)


def test_rows_without_enough_directions():
    """Rank 2 in 5 dimensions: one column at most, since σ² needs a rest; none where rows are few or the same."""
    draw = torch.from_numpy(np.random.default_rng(0).normal(size=(50, 2)))
    flat = Examples(draw @ torch.from_numpy(np.random.default_rng(1).normal(size=(2, 5))) + 1e3, torch.arange(50))
    assert spectrum(flat, 4).most == 1
    assert spectrum(flat.take(torch.tensor([0, 1])), 4).most == 0
    with pytest.raises(InputError, match="all training rows are the same"):
        spectrum(Examples(torch.full((7, 3), 0.1, dtype=F64), torch.arange(7)), 2)  # the mean of 0.1 is not 0.1
    with pytest.raises(InputError, match="weights sum to 0"):
        spectrum(rows(4, 2, torch.zeros(4)), 1)


def test_too_many_of_both_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("jensen.estimation.principal.MOST_SIDE", 5)
    with pytest.raises(InputError, match=r"of 7 rows of 6 dimensions are too many .* must be at most 5"):
        spectrum(rows(7, 6), 2)


def test_free_parameters_are_the_dimension_of_the_model():
    """The rank of the map (μ, W, σ²) ↦ (mean, covariance) at a generic point."""
    draw = torch.Generator().manual_seed(0)
    for dims, q in ((4, 0), (4, 1), (4, 2), (5, 3)):
        start = torch.randn(dims * q + 1, generator=draw, dtype=F64)

        def covariance(v: Tensor, dims: int = dims, q: int = q) -> Tensor:
            w = v[1:].reshape(dims, q)
            return (w @ w.T + v[0] ** 2 * torch.eye(dims, dtype=F64)).flatten()

        rank = int(torch.linalg.matrix_rank(torch.autograd.functional.jacobian(covariance, start), rtol=1e-10))
        assert free_parameters(dims, q) == dims + rank
        assert math.isfinite(free_parameters(dims, q))
