"""The estimators: scikit-learn's own checks, and that they say what the models say, in the units of X."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from jensen import sklearn as estimators
from jensen.sklearn import Gaussian, GaussianMixture, Independent, KernelDensity, MixtureDensityRegressor

X = load_iris().data
MIXTURE = GaussianMixture(3, restarts=1, random_state=0)


@parametrize_with_checks(
    [
        Independent(random_state=0),
        Gaussian(random_state=0),
        GaussianMixture(random_state=0),
        KernelDensity(random_state=0),
        MixtureDensityRegressor(2, width=8, steps=2, random_state=0),
    ]
)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


def by_hand(mixture: GaussianMixture, x: np.ndarray) -> np.ndarray:
    """log w_k N(x; m_k, Σ_k) from the estimator's attributes, `(n, K)`."""
    parts = zip(mixture.weights_, mixture.means_, mixture.covariances_, strict=True)
    return np.stack([np.log(w) + stats.multivariate_normal(m, c).logpdf(x) for w, m, c in parts], 1)


@pytest.mark.parametrize("covariance", ["full", "tied", "diag", "spherical", "factors"])
def test_attributes_and_values_are_in_the_units_of_x(covariance: str):
    x = X * [1, 10, 0.1, 1000] + [0, 5, -3, 1e4]
    mixture = clone(MIXTURE).set_params(covariance=covariance, rank=2).fit(x)
    joint = by_hand(mixture, x)
    log_p = np.logaddexp.reduce(joint, 1)
    np.testing.assert_allclose(mixture.score_samples(x), log_p, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(mixture.predict_proba(x), np.exp(joint - log_p[:, None]), atol=1e-8)
    assert (mixture.predict(x) == joint.argmax(1)).all()
    assert mixture.score(x) == pytest.approx(log_p.mean())


def test_controls_are_normals():
    alone, together = Independent().fit(X), Gaussian().fit(X)
    expected = stats.norm(X.mean(0), X.std(0)).logpdf(X).sum(1)
    np.testing.assert_allclose(alone.score_samples(X), expected, rtol=1e-10)
    assert together.score(X) > alone.score(X) + 1


def test_draws_come_with_the_component_they_are_from():
    """Rows of a component have its mean: 4.5 standard errors a cell (seed 3); the same seed, the same rows."""
    mixture = clone(MIXTURE).fit(X)
    rows, labels = mixture.sample(6000, random_state=3)
    again, _ = mixture.sample(6000, random_state=3)
    np.testing.assert_array_equal(rows, again)
    assert not np.array_equal(rows, mixture.sample(6000, random_state=4)[0])
    for k in range(3):
        mine = rows[labels == k]
        assert abs(len(mine) / 6000 - mixture.weights_[k]) < 4.5 * np.sqrt(mixture.weights_[k] / 6000)
        error = np.sqrt(np.diag(mixture.covariances_[k]) / len(mine))
        assert (np.abs(mine.mean(0) - mixture.means_[k]) < 4.5 * error).all()


def test_weights_are_repeats():
    """One component, so that no start matters: rows counted twice, and rows that count for nothing."""
    count = np.arange(len(X)) % 3
    one = GaussianMixture(random_state=0)
    weighed, repeated = clone(one).fit(X, sample_weight=count), clone(one).fit(np.repeat(X, count, axis=0))
    np.testing.assert_allclose(weighed.score_samples(X), repeated.score_samples(X), rtol=1e-9)


def test_missing_cells_are_marginalised():
    """A row without its second cell has the density of the other three."""
    mixture = clone(MIXTURE).fit(X)
    holes = X[:5].copy()
    holes[:, 1] = np.nan
    rest = [0, 2, 3]
    parts = zip(mixture.weights_, mixture.means_, mixture.covariances_, strict=True)
    marginal = sum(
        w * stats.multivariate_normal(m[rest], c[np.ix_(rest, rest)]).pdf(X[:5][:, rest]) for w, m, c in parts
    )
    np.testing.assert_allclose(mixture.score_samples(holes), np.log(marginal), rtol=1e-8)
    with pytest.raises(ValueError, match="NaN"):
        Gaussian().fit(holes)


def test_kernel_densities_are_sums_of_bumps():
    """log (1/n) Σ N(x; x_n, diag h²) in the units of X, equal rows and all."""
    x = X * [1, 10, 0.1, 1000]
    density = KernelDensity().fit(x)
    bumps = stats.norm(x[:9, None], density.bandwidths_).logpdf(x).sum(2)
    np.testing.assert_allclose(density.score_samples(x[:9]), np.logaddexp.reduce(bumps, 1) - np.log(150), rtol=1e-9)


def test_grid_search_and_pipelines():
    """Held-out likelihood prefers several components to one; a scaler before the mixture costs its log-determinant."""
    search = GridSearchCV(MIXTURE, {"n_components": [1, 3]}, cv=3).fit(X[np.random.default_rng(0).permutation(len(X))])
    assert search.best_params_["n_components"] == 3
    piped = make_pipeline(StandardScaler(), clone(MIXTURE)).fit(X)
    assert piped.score(X) == pytest.approx(clone(MIXTURE).fit(X).score(X) + np.log(X.std(0)).sum(), abs=1e-3)


def test_tables_go_in_and_come_out():
    table = pd.DataFrame(X, columns=["a", "b", "c", "d"])
    mixture = clone(MIXTURE).fit(table)
    rows, _ = mixture.sample(4, random_state=0)
    assert isinstance(rows, pd.DataFrame)
    assert list(rows.columns) == list(mixture.feature_names_in_) == ["a", "b", "c", "d"]
    np.testing.assert_allclose(mixture.score_samples(table), clone(MIXTURE).fit(X).score_samples(X))
    assert isinstance(Gaussian().fit(table).sample(2), pd.DataFrame)


def test_mistakes_are_value_errors_in_one_line():
    with pytest.raises(ValueError, match="n_components must be at least 1, got 0"):
        GaussianMixture(0).fit(X)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        clone(MIXTURE).fit(X).sample(0)


def test_the_random_state_chooses_the_starts_and_the_draws():
    """One iteration from one start: the same state the same fit, another one another fit; draws repeat by themselves."""
    short = clone(MIXTURE).set_params(n_components=5, max_iterations=1)
    one, same, other = (clone(short).set_params(random_state=state).fit(X) for state in (0, 0, 1))
    np.testing.assert_array_equal(one.means_, same.means_)
    assert not np.array_equal(one.means_, other.means_)
    np.testing.assert_array_equal(one.sample(5)[0], same.sample(5)[0])
    np.testing.assert_array_equal(one.sample(5)[0], one.sample(5, random_state=0)[0])


def test_auto_does_not_judge_by_the_rows_it_was_fitted_to():
    """Draws of one normal (seed 0): BIC says one component, the likelihood of the rows themselves would say more."""
    x = np.random.default_rng(0).normal(size=(80, 2))
    found = clone(MIXTURE).set_params(n_components="auto", max_components=2, tolerance=1e-3).fit(x)
    assert len(found.weights_) == 1
    assert clone(MIXTURE).set_params(n_components=2).fit(x).score(x) > found.score(x)


def test_probabilities_of_many_rows_are_those_of_each(monkeypatch: pytest.MonkeyPatch):
    mixture = clone(MIXTURE).fit(X)
    whole = mixture.predict_proba(X)
    monkeypatch.setattr(estimators, "ROWS", 40)
    np.testing.assert_allclose(mixture.predict_proba(X), whole, rtol=1e-12)


def test_numbers_of_numpy_are_numbers():
    search = GridSearchCV(GaussianMixture(random_state=0), {"n_components": np.arange(1, 3)}, cv=2).fit(X)
    assert search.best_params_["n_components"] in (1, 2)
    GaussianMixture(prior_rows=np.float32(0.5), random_state=0).fit(X)


def test_a_fit_that_has_not_converged_warns():
    with pytest.warns(ConvergenceWarning, match="EM stopped after 2 iterations without having converged"):
        GaussianMixture(3, max_iterations=2, random_state=0).fit(X)


def test_the_regressor_says_what_the_regression_says_in_the_shape_of_y():
    """Without steps it is a linear regression: scikit-learn's, on 1000 rows shrunk by next to nothing, and its R²."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1000, 3)) * [1, 10, 0.1]
    y = x @ [1.0, 0.2, 5.0] + 7 + 0.5 * rng.normal(size=1000)
    plain = LinearRegression().fit(x, y)
    fit = MixtureDensityRegressor(steps=0, random_state=0).fit(x, y)
    mean, std = fit.predict(x, return_std=True)
    assert mean.shape == std.shape == (1000,)
    np.testing.assert_allclose(mean, plain.predict(x), atol=0.02)
    np.testing.assert_allclose(fit.log_prob(x, y), stats.norm(mean, std).logpdf(y), rtol=1e-9)
    assert fit.score(x, y) == pytest.approx(plain.score(x, y), abs=1e-4)
    drawn = fit.sample(x, 20, random_state=1)
    assert drawn.shape == (20, 1000)
    np.testing.assert_array_equal(drawn, fit.sample(x, 20, random_state=1))
    assert np.abs(drawn - mean).std() < 2 * std.max()
    both = MixtureDensityRegressor(2, steps=2, random_state=0).fit(x, np.column_stack([y, -y]))
    assert both.predict(x).shape == (1000, 2)
    assert both.sample(x[:5], 3).shape == (3, 5, 2)
    assert both.log_prob(x, np.column_stack([y, -y])).shape == (1000,)
    with pytest.raises(ValueError, match="n_components must be from 1 to 1024, got 0"):
        MixtureDensityRegressor(0).fit(x, y)
