"""`MixtureDensity`: a density that integrates to one, its formula written out afresh, and where it begins."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from jensen.distributions.mixture_density import MOST_LOG_SCALE, MixtureDensity, outputs_of

F64 = torch.float64


def factor_of(dims: int, covariance: str = "full") -> Tensor:
    """C, the same for every number of components."""
    rng = np.random.default_rng(dims)
    lower = np.tril(rng.normal(size=(dims, dims)), -1) * (covariance == "full")
    return torch.from_numpy(lower + np.diag(0.5 + rng.random(dims)))


def model(
    dims: int, n_components: int, covariance: Any = "full", *, seed: int = 0, size: float = 1.0
) -> MixtureDensity:
    """Of three features, begun somewhere, with a linear network of random numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Linear(3, outputs_of(dims, n_components, covariance)).double()
        nn.init.normal_(network.weight, std=0.4 * size)
        nn.init.normal_(network.bias, std=size)
    begun = MixtureDensity(network, 3, dims, n_components=n_components, covariance=covariance)
    slope = torch.from_numpy(np.random.default_rng(7).normal(size=(3, dims)))
    shift, scale = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 1.0, 2.0])
    begun.begin(shift, scale, torch.ones(dims), slope, factor_of(dims, covariance))
    return begun


def rows(n: int, seed: int = 1) -> Tensor:
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(seed), dtype=F64) + 2


def linear(m: MixtureDensity, x: Tensor) -> Tensor:
    return 1 + (x - torch.tensor([1.0, 2.0, 3.0])) / torch.tensor([0.5, 1.0, 2.0]) @ m.slope


@pytest.mark.parametrize("n_components", [1, 3])
def test_it_integrates_to_one_on_the_line(n_components: int):
    m, x = model(1, n_components), rows(4)
    with torch.no_grad():
        centre, spread = m(x).mean, m(x).variance.sqrt()
        grid = torch.linspace(-40, 40, 8001, dtype=F64)
        y = centre + spread * grid[:, None, None]
        total = torch.trapezoid(m(x).log_prob(y).exp(), y[..., 0], dim=0)
    torch.testing.assert_close(total, torch.ones(4, dtype=F64), atol=1e-9, rtol=0)


@pytest.mark.parametrize("covariance", ["full", "diag"])
def test_it_integrates_to_one_in_the_plane(covariance: str):
    """The rectangle rule, spectrally accurate for smooth densities that vanish at the edge."""
    m, x = model(2, 2, covariance, size=0.5), rows(2)
    with torch.no_grad():
        centre, spread = m(x).mean, m(x).variance.sqrt()
        axis = torch.linspace(-12, 12, 601, dtype=F64)
        grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1)[:, :, None]
        density = m(x).log_prob(centre + spread * grid).exp().sum((0, 1))
    cell = (axis[1] - axis[0]) ** 2 * spread.prod(1)
    torch.testing.assert_close(density * cell, torch.ones(2, dtype=F64), atol=1e-6, rtol=0)


@pytest.mark.parametrize(("dims", "n_components", "covariance"), [(1, 1, "full"), (2, 3, "full"), (3, 2, "diag")])
def test_it_is_the_formula(dims: int, n_components: int, covariance: str):
    """Numbers of the network cut and put together by loops, densities by scipy."""
    m, x = model(dims, n_components, covariance), rows(5)
    y = linear(m, x) + torch.randn(5, dims, generator=torch.Generator().manual_seed(2), dtype=F64)
    with torch.no_grad():
        found = m(x)
        assert (found.batch_shape, found.event_shape) == ((5,), (dims,))
        value = found.log_prob(y)
        numbers = m.network((x - torch.tensor([1.0, 2.0, 3.0])) / torch.tensor([0.5, 1.0, 2.0])).numpy()
    centres, spread = m.centres.numpy(), m.spread.numpy()
    for row in range(5):
        logits, rest = numbers[row, :n_components], numbers[row, n_components:].reshape(n_components, -1)
        total = 0.0
        for k in range(n_components):
            triangle, below = np.zeros((dims, dims)), list(rest[k, 2 * dims :])
            for i in range(dims):
                triangle[i, i] = math.exp(MOST_LOG_SCALE * math.tanh(rest[k, dims + i] / MOST_LOG_SCALE))
                for j in range(i if covariance == "full" else 0):
                    triangle[i, j] = below.pop(0)
            factor = spread @ triangle
            mean = linear(m, x)[row].numpy() + centres[k] + spread @ rest[k, :dims]
            weight = math.exp(logits[k]) / np.exp(logits).sum()
            total += weight * stats.multivariate_normal(mean, factor @ factor.T).pdf(y[row].numpy())
        assert float(value[row]) == pytest.approx(math.log(total), rel=1e-9)


@pytest.mark.parametrize("covariance", ["full", "diag"])
def test_factors_are_triangular_with_a_positive_diagonal(covariance: str):
    with torch.no_grad():
        _, _, factors = model(3, 2, covariance, size=3.0).parts(rows(20))
    assert bool((factors.diagonal(dim1=2, dim2=3) > 0).all())
    assert bool((factors.triu(1) == 0).all())
    assert bool((factors.tril(-1) == 0).all()) == (covariance == "diag")


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("n_components", [1, 2, 3, 5])
def test_it_begins_at_the_linear_regression(dims: int, n_components: int):
    """Mean and covariance exactly; with one component the whole distribution."""
    m, x = model(dims, n_components, size=0.0), rows(4)
    factor = factor_of(dims)
    with torch.no_grad():
        weights, means, factors = (part.detach() for part in m.parts(x))
    weights = weights.exp()[..., None]
    mean = (weights * means).sum(1)
    centred = means - mean[:, None]
    inside = factors @ factors.mT + centred[..., :, None] * centred[..., None, :]
    torch.testing.assert_close(mean, linear(m, x))
    torch.testing.assert_close((weights[..., None] * inside).sum(1), (factor @ factor.T).expand(4, dims, dims))


@pytest.mark.parametrize("n_components", [2, 3, 5])
def test_components_that_begin_apart_are_nearly_that_normal(n_components: int):
    """KL(normal ‖ mixture) by quadrature: 5.5·10⁻⁶ nats is the leading term for two; and their gradients differ."""
    m, x = model(1, n_components, size=0.0), rows(1)
    y = torch.linspace(-10, 10, 20001, dtype=F64)
    with torch.no_grad():
        scale = m(x).variance.sqrt()
        at = m(x).mean + scale * y[:, None, None]
        normal = torch.distributions.Normal(m(x).mean, scale).log_prob(at)[..., 0]
        kl = torch.trapezoid(normal.exp() * (normal - m(x).log_prob(at)), at[..., 0], dim=0)
    assert 0 < float(kl) < 1e-5
    m(x).log_prob(linear(m, x) + 1).sum().backward()
    slopes = m.network.weight.grad[n_components::2]  # of the means
    assert len(slopes.unique(dim=0)) == n_components


def test_no_component_closes_in_on_a_row():
    """log-scales of -1000 stop at e⁻⁷ of the spread, and the density stays finite."""
    m = model(1, 2)
    nn.init.constant_(m.network.bias, -1000.0)
    with torch.no_grad():
        _, _, factors = m.parts(rows(3))
    torch.testing.assert_close(factors, (m.spread * math.exp(-MOST_LOG_SCALE)).expand(3, 2, 1, 1))
