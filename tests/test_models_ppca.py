"""`ppca`: a d × d normal, law 2, scikit-learn's PCA beside it, the maximum, the choice of q, encode and decode."""

import math

import numpy as np
import pytest
import torch
from analytic import ppca as world
from scipy import stats
from sklearn.decomposition import PCA
from torch import Tensor
from torch.distributions import MultivariateNormal

import jensen
from jensen.bounds import elbo, log_weights
from jensen.data.examples import Examples
from jensen.data.space import Real
from jensen.errors import InputError
from jensen.models.model import Encoder
from jensen.models.ppca import PPCA
from jensen.rules import check

F64 = torch.float64
W2 = world()
X = W2.sample(400, torch.Generator().manual_seed(0))


def rows(n: int, dims: int) -> Tensor:
    draw = np.random.default_rng(n + dims)
    return torch.from_numpy(draw.normal(size=(n, dims)) @ draw.normal(size=(dims, dims)) + draw.normal(size=dims))


def as_rows(x: Tensor) -> Examples:
    return Examples(x, torch.arange(len(x)))


def fitted(x: Tensor, q: int | str = 2, valid: Tensor | None = None, **options: object) -> PPCA:
    model = PPCA(tuple(x.shape[1:]), Real(), n_components=q, **options)
    model.fit(as_rows(x), None if valid is None else as_rows(valid))
    return model


def truth() -> PPCA:
    """W2 as a model."""
    model = PPCA((3,), Real(), n_components=2)
    model.mean.copy_(W2.mean)
    model.loadings.copy_(W2.loadings)
    model.noise.fill_(W2.noise**2)
    return model


def whole(model: PPCA) -> MultivariateNormal:
    """The same by a d × d covariance."""
    eye = torch.eye(model.dims, dtype=F64)
    return MultivariateNormal(model.mean, model.loadings @ model.loadings.T + model.noise * eye)


def test_given_parameters_are_the_world():
    torch.testing.assert_close(truth().log_likelihood(X).value, W2.log_prob(X), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("n", "dims", "q"), [(100, 6, 0), (100, 6, 2), (100, 6, 5), (12, 30, 4), (5, 1, 0)])
def test_the_density_is_that_of_a_whole_covariance(n: int, dims: int, q: int):
    x = rows(n, dims)
    model = fitted(x, q)
    torch.testing.assert_close(model.log_likelihood(x).value, whole(model).log_prob(x), rtol=1e-12, atol=1e-10)


def test_every_draw_of_the_bound_is_log_p():
    """Law 2 at arbitrary loadings (not orthogonal ones) and at the maximum, by both forms of the bound."""
    for model in (truth(), fitted(X, 1), fitted(X, 2)):
        value = model.log_likelihood(X).value
        torch.manual_seed(0)
        for row in elbo(model.prior, model.emission, model.posterior, X, draws=3):
            torch.testing.assert_close(row, value, rtol=0, atol=1e-11)
        noise = torch.randn(4, len(X), model.latent_dim, dtype=F64)
        draws = log_weights(model.prior, model.emission, model.posterior, X, noise)
        torch.testing.assert_close(draws.log_weight, value.expand(4, -1), rtol=0, atol=1e-11)


def test_the_posterior_is_the_worlds():
    mean, covariance = W2.posterior(X)
    q = truth().posterior(X)
    torch.testing.assert_close(q.mean, mean, rtol=0, atol=1e-13)
    torch.testing.assert_close(q.covariance_matrix[7], covariance, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("n", "dims", "q"), [(200, 6, 1), (200, 6, 3), (200, 6, 5)])
def test_beside_scikit_learn(n: int, dims: int, q: int):
    """Its covariance divides by n - 1: on rows scaled by √(n/(n-1)) ours is the same model."""
    x = rows(n, dims)
    x = x - x.mean(0)
    peer, model = PCA(q).fit(x.numpy()), fitted(x * math.sqrt(n / (n - 1)), q)
    assert float(model.noise) == pytest.approx(peer.noise_variance_, rel=1e-10)
    np.testing.assert_allclose(model.log_likelihood(x).value.numpy(), peer.score_samples(x.numpy()), rtol=1e-9)
    scores, ours = peer.transform(x.numpy()), model.encode(x).numpy()
    shrunk = scores * np.sqrt(peer.explained_variance_ - peer.noise_variance_) / peer.explained_variance_
    np.testing.assert_allclose(np.abs(ours), np.abs(shrunk), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("n", "dims", "q"), [(60, 5, 2), (60, 5, 4), (8, 12, 3)])
def test_the_gradient_is_zero_at_the_fit(n: int, dims: int, q: int):
    x = rows(n, dims)
    model = fitted(x, q)

    def value(mean: Tensor, loadings: Tensor, log_noise: Tensor) -> Tensor:
        covariance = loadings @ loadings.T + log_noise.exp() * torch.eye(dims, dtype=F64)
        return MultivariateNormal(mean, covariance).log_prob(x).mean()

    at = (model.mean, model.loadings, model.noise.log())
    for slope in torch.autograd.functional.jacobian(value, at):
        assert float(slope.abs().max()) < 1e-9
    best = float(model.log_likelihood(x).mean)
    assert model.report()["log_likelihood_nats_per_row"] == pytest.approx(best, rel=1e-10)
    draw = torch.Generator().manual_seed(0)
    for _ in range(20):
        moved = [t + 0.05 * torch.randn(t.shape, generator=draw, dtype=F64) for t in at]
        assert float(value(*moved)) < best


def test_all_but_one_component_is_the_whole_covariance():
    x = rows(100, 4)
    covariance = torch.from_numpy(np.cov(x.numpy().T, bias=True))
    torch.testing.assert_close(whole(fitted(x, 3)).covariance_matrix, covariance, rtol=1e-10, atol=1e-10)
    alone = fitted(x, 0)
    assert float(alone.noise) == pytest.approx(float(covariance.trace()) / 4, rel=1e-12)
    assert alone.encode(x).shape == (100, 0)
    torch.testing.assert_close(alone.decode(alone.encode(x)), x.mean(0).expand(100, -1))


@pytest.mark.parametrize("criterion", ["held-out", "bic"])
def test_auto_is_the_best_of_the_fits_of_every_q(criterion: str):
    """Three strong directions of ten, 400 rows: BIC finds them; held-out likelihood, which is nearly flat beyond, no fewer."""
    draw = np.random.default_rng(3)
    strong = draw.normal(size=(3, 10))
    x, valid = (
        torch.from_numpy(draw.normal(size=(n, 3)) @ strong + 0.3 * draw.normal(size=(n, 10))) for n in (400, 200)
    )
    values = []
    for q in range(10):
        one = fitted(x, q)
        held_out = one.log_likelihood(valid).mean
        bic = one.log_likelihood(x).mean - 0.5 * one.free_parameters * math.log(400) / 400
        values.append(held_out if criterion == "held-out" else bic)
    model = fitted(x, "auto", valid, criterion=criterion)
    told = model.report()
    assert model.resolved() == {"n_components": int(np.argmax(values))}
    assert model.latent_dim == 3 if criterion == "bic" else model.latent_dim >= 3
    assert (told["criterion"], told["candidates"]) == (criterion, 10)
    assert told["criterion_nats_per_row"] == pytest.approx(max(values), rel=1e-10)


def test_more_dimensions_than_rows():
    """300 dimensions, 20 rows: no d × d matrix, and the same as the covariance would say."""
    x = rows(20, 300)
    model = fitted(x, 5)
    values = np.linalg.svd((x - x.mean(0)).numpy(), compute_uv=False) ** 2 / 20
    assert float(model.noise) == pytest.approx(values[5:].sum() / 295, rel=1e-10)
    torch.testing.assert_close(model.log_likelihood(x).value, whole(model).log_prob(x), rtol=1e-11, atol=1e-9)
    assert fitted(x, "auto", rows(21, 300)[:10]).latent_dim < 19


def test_a_score_takes_no_matrix_of_the_dimensions():
    """10,000 dimensions, whose covariance would take 0.8 GB."""
    draw = torch.randn(6, 10_000, generator=torch.Generator().manual_seed(0), dtype=F64)
    model = fitted(draw, 2)
    assert bool(torch.isfinite(model.log_likelihood(draw).value).all())
    assert model.sample(2).shape == (2, 10_000)


def test_samples_have_the_models_law():
    """20,000 draws, seed 0: along three directions Kolmogorov's p-value above 1e-4, and the whitened covariance within 4.5
    standard errors in each of 6 cells: failure rate 4e-4.
    """
    model = truth()
    draws, law = model.sample(20_000, seed=0), whole(truth())
    for direction in torch.eye(3, dtype=F64) + 0.5:
        sd = (direction @ law.covariance_matrix @ direction).sqrt()
        u = torch.special.ndtr((draws - W2.mean) @ direction / sd)
        assert stats.kstest(u.numpy(), "uniform").pvalue > 1e-4
    white = torch.linalg.solve_triangular(law.scale_tril, (draws - W2.mean).T, upper=False)
    assert float((white.cov() - torch.eye(3)).abs().max()) < 4.5 * math.sqrt(2 / 20_000)


def test_encode_and_decode_are_posterior_and_emission_means():
    model = truth()
    assert isinstance(model, Encoder)
    assert model.latent_dim == 2
    mean, _ = W2.posterior(X)
    z = model.encode(X)
    torch.testing.assert_close(z, mean, rtol=0, atol=1e-13)
    torch.testing.assert_close(model.decode(z), mean @ W2.loadings.T + W2.mean, rtol=0, atol=1e-13)
    assert torch.equal(z[3:9], torch.cat([model.encode(X[i : i + 1]) for i in range(3, 9)]))


def test_an_image_is_a_row():
    x = rows(50, 12)
    flat, image = fitted(x, 3), fitted(x.reshape(50, 3, 2, 2), 3)
    again = x.reshape(50, 3, 2, 2)
    assert torch.equal(flat.log_likelihood(x).value, image.log_likelihood(again).value)
    assert image.decode(image.encode(again)).shape == again.shape == image.sample(50).shape
    torch.manual_seed(0)
    value = elbo(image.prior, image.emission, image.posterior, again)[0]
    torch.testing.assert_close(value, image.log_likelihood(again).value, rtol=0, atol=1e-10)
    noise = torch.randn(2, 50, 3, dtype=F64)
    assert log_weights(image.prior, image.emission, image.posterior, again, noise).log_weight.shape == (2, 50)


def test_on_levels_it_is_a_bound():
    """And its components are worth something on digits."""
    data = jensen.load_data("digits")
    ours, none = (
        jensen.fit(data, "ppca", progress=False, n_components=q).log_likelihood(data.test, repetitions=2)
        for q in (30, 0)
    )
    assert (ours.kind, ours.measure) == ("lower bound", "counting")
    assert (ours - none).mean > 20


def test_wrong_settings_are_refused():
    for q, message in ((3, "from 0 to 2 for rows of 3 dimensions.* got 3"), (-1, "got -1")):
        with pytest.raises(InputError, match=message):
            PPCA((3,), Real(), n_components=q)
    with pytest.raises(InputError, match=r"from 0 to 0 for rows of 1 dimension, .* got 1"):
        PPCA((1,), Real(), n_components=1)
    with pytest.raises(InputError, match="criterion must be one of held-out, bic, got 'aic'"):
        PPCA((3,), Real(), criterion="aic")
    with pytest.raises(InputError, match=r"do not fit in memory \(at most 268\)"):
        PPCA((1_000_000,), Real(), n_components=300)
    with pytest.raises(InputError, match=r"below the 3 directions .* got 3; take fewer"):
        fitted(rows(4, 9), 3)
    with pytest.raises(InputError, match="needs validation rows; give some, or criterion='bic'"):
        fitted(X, "auto")


def test_loaded_numbers_are_held_against_rules():
    for name, value in (("noise", 0.0), ("noise", math.nan), ("loadings", math.inf), ("mean", math.nan)):
        model = truth()
        getattr(model, name).fill_(value)
        with pytest.raises(InputError, match=f"damaged: {name} must be"):
            check(model, "file")
