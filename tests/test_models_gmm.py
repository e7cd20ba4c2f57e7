"""`gmm`: torch's and scipy's density, law 1, sampling, missing cells, conditionals, selection, gradients, the command."""

import json
import math

import numpy as np
import pytest
import torch
from analytic import condition, mixture_2d, mixture_3d
from scipy import stats
from sklearn.datasets import load_iris
from sklearn.mixture import GaussianMixture as Peer
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

import jensen
from jensen.bounds import elbo
from jensen.data.examples import Batch, Examples
from jensen.data.space import Real
from jensen.errors import InputError
from jensen.mixture.covariance import WORDS
from jensen.models.gmm import GaussianMixture
from jensen.noise import Noise

F64 = torch.float64
WORLD = mixture_3d()
X = WORLD.sample(300, torch.Generator().manual_seed(0))
ROWS = Examples(X, torch.arange(len(X)))
each_structure = pytest.mark.parametrize("word", WORDS)


def truth() -> GaussianMixture:
    return GaussianMixture.from_parameters(WORLD.weights, WORLD.means, WORLD.covariances)


def fitted(word: str = "full", components: int = 3, x: Tensor = X, **options: object) -> GaussianMixture:
    chosen = {"n_components": components, "covariance": word, "rank": 1, "restarts": 1, **options}
    model = GaussianMixture(tuple(x.shape[1:]), Real(), **chosen)
    model.fit(Examples(x, torch.arange(len(x))))
    return model


def with_holes(x: Tensor, share: float = 0.3) -> Tensor:
    return x.masked_fill(torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < share, math.nan)


@each_structure
def test_the_density_is_torchs(word: str):
    model = fitted(word)
    theirs = MixtureSameFamily(Categorical(model.weights), MultivariateNormal(model.means, model.covariances()))
    torch.testing.assert_close(model.log_likelihood(X).value, theirs.log_prob(X), rtol=0, atol=1e-10)


def test_parameters_are_enough():
    """Scores and samples with no fit; the score is the known world's."""
    model = truth()
    torch.testing.assert_close(model.log_likelihood(X).value, WORLD.log_prob(X), rtol=0, atol=1e-12)
    assert model.sample(5, seed=1).shape == (5, 3)
    torch.testing.assert_close(model.responsibilities(X), WORLD.responsibilities(X, math.inf), rtol=0, atol=1e-12)
    assert torch.equal(model.labels(X), WORLD.responsibilities(X, math.inf).argmax(1))


@each_structure
def test_a_density_integrates_to_one(word: str):
    """Law 23, in the plane on a grid out to 8 standard deviations."""
    model = fitted(word, 3, mixture_2d().sample(300, torch.Generator().manual_seed(0)), prior_rows=20.0)
    axis = torch.linspace(-8, 8, 801, dtype=F64)
    p = model.log_likelihood(torch.cartesian_prod(axis, axis)).value.exp()
    assert float(p.sum()) * float(axis[1] - axis[0]) ** 2 == pytest.approx(1, abs=1e-10)


@each_structure
def test_the_bound_is_the_likelihood(word: str):
    """Law 1: every draw of z gives log p(x) under the exact posterior, and p(x, z) sums to p(x)."""
    torch.manual_seed(0)
    model = fitted(word)
    value = model.log_likelihood(X).value
    for row in elbo(model.prior, model.emission, model.posterior, X, draws=4):
        torch.testing.assert_close(row, value, rtol=0, atol=1e-12)
    joint = torch.stack([model.complete_log_prob(X, torch.full((len(X),), k)) for k in range(3)])
    torch.testing.assert_close(joint.logsumexp(0), value, rtol=0, atol=1e-12)


def test_an_image_is_a_row():
    torch.manual_seed(0)
    model = fitted("full", 2, X[:, :2].reshape(-1, 1, 2, 1))
    x = X[:9, :2].reshape(-1, 1, 2, 1)
    assert model.sample(4).shape == (4, 1, 2, 1)
    value = elbo(model.prior, model.emission, model.posterior, x)[0]
    torch.testing.assert_close(value, model.log_likelihood(x).value, rtol=0, atol=1e-12)


@each_structure
def test_samples_have_the_models_law(word: str):
    """20,000 draws, seed 0: along three directions the mixture's distribution function makes them uniform; Kolmogorov's
    p-value above 1e-4 for each, failure rate 3e-4 a structure.
    """
    model = fitted(word)
    draws = model.sample(20_000, seed=0)
    for direction in torch.eye(3, dtype=F64) + 0.5:
        mean, sd = model.means @ direction, torch.einsum("d,kde,e->k", direction, model.covariances(), direction).sqrt()
        along = (draws @ direction)[:, None]
        u = (torch.special.ndtr((along - mean) / sd) * model.weights).sum(1)
        assert stats.kstest(u.numpy(), "uniform").pvalue > 1e-4


@each_structure
def test_a_missing_column_is_the_marginal_mixture(word: str):
    model = fitted(word)
    for gone in ([0], [2], [0, 1]):
        left = [i for i in range(3) if i not in gone]
        x = X.clone()
        x[:, gone] = math.nan
        marginal = MixtureSameFamily(
            Categorical(model.weights),
            MultivariateNormal(model.means[:, left], model.covariances()[:, left][:, :, left]),
        )
        torch.testing.assert_close(model.log_likelihood(x).value, marginal.log_prob(X[:, left]), rtol=0, atol=1e-10)
    assert float(model.log_likelihood(torch.full((1, 3), math.nan)).value) == 0.0


@each_structure
def test_the_bits_of_a_row_do_not_depend_on_its_company(word: str):
    model = fitted(word)
    x = with_holes(torch.cat([X, X[:40]]))
    value = model.log_likelihood(x).value
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    assert torch.equal(value[order], model.log_likelihood(x[order]).value)
    assert torch.equal(value[5:8], torch.cat([model.log_likelihood(x[i : i + 1]).value for i in range(5, 8)]))


def test_imputation_is_the_conditional_of_a_gaussian():
    """One component: mean and covariance by linear algebra; 20,000 draws whitened, each mean within 4.5 standard errors
    and each covariance cell within 4.5 √(2/n), failure rate 1e-4.
    """
    mean, covariance = WORLD.means[0], WORLD.covariances[0]
    model = GaussianMixture.from_parameters(torch.ones(1), mean[None], covariance[None])
    row = torch.tensor([[0.3, math.nan, math.nan]], dtype=F64)
    expected, spread = condition(mean, covariance, [0], row[0, :1])
    torch.testing.assert_close(model.impute(row)[0, 1:], expected, rtol=0, atol=1e-12)
    draws = model.impute(row.expand(20_000, -1), draws=1, seed=0)[0]
    assert bool((draws[:, 0] == 0.3).all())
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(spread), (draws[:, 1:] - expected).T, upper=False)
    assert float(white.mean(1).abs().max()) < 4.5 / math.sqrt(20_000)
    assert float((white.cov() - torch.eye(2)).abs().max()) < 4.5 * math.sqrt(2 / 20_000)


@each_structure
def test_a_conditional_is_a_mixture_with_the_right_density(word: str):
    """p(rest | values) = p(rest, values) / p(values), its mean is the imputed one; imputed draws follow its law."""
    model = fitted(word)
    given = model.conditional({1: 0.4})
    rest = X[:50][:, [0, 2]]
    joint = torch.stack([rest[:, 0], torch.full((50,), 0.4, dtype=F64), rest[:, 1]], 1)
    alone = torch.tensor([[math.nan, 0.4, math.nan]], dtype=F64)
    ratio = model.log_likelihood(joint).value - model.log_likelihood(alone).value
    torch.testing.assert_close(given.log_likelihood(rest).value, ratio, rtol=0, atol=1e-10)
    torch.testing.assert_close(given.weights @ given.means, model.impute(alone)[0, [0, 2]], rtol=0, atol=1e-10)
    draws = model.impute(alone.expand(5000, -1), draws=1, seed=0)[0, :, 0]
    sd = given.covariances()[:, 0, 0].sqrt()
    u = (torch.special.ndtr((draws[:, None] - given.means[:, 0]) / sd) * given.weights).sum(1)
    assert stats.kstest(u.numpy(), "uniform").pvalue > 1e-4  # failure rate 1e-4


def test_draws_belong_to_rows():
    model, x = truth(), with_holes(X[:6])
    draws = model.impute(x, draws=3, seed=2)
    assert draws.shape == (3, 6, 3)
    torch.testing.assert_close(model.impute(x[:2], draws=3, seed=2), draws[:, :2], rtol=0, atol=1e-12)
    assert bool((draws[0] != draws[1])[x.isnan()].all())


@pytest.mark.parametrize("word", ["full", "diag", "factors"])
def test_fits_with_missing_cells_find_the_world(word: str):
    """The fit sees 70 % of the cells; it explains complete new rows better than the column-mean fill does."""
    x = WORLD.sample(800, torch.Generator().manual_seed(4))
    holes, new = with_holes(x), WORLD.sample(500, torch.Generator().manual_seed(5))
    filled = torch.where(holes.isnan(), holes.nanmean(0), holes)
    ours, naive = fitted(word, 2, holes), fitted(word, 2, filled)
    assert ours.log_likelihood(new).mean > naive.log_likelihood(new).mean + 0.1


@pytest.mark.parametrize("word", ["full", "diag"])
def test_units_and_columns_do_not_matter(word: str):
    """Law 25 without a codec: other units and another order of columns, the same mixture."""
    scale, shift, order = torch.tensor([3.7, 0.2, 11.0], dtype=F64), torch.tensor([5.0, -70.0, 1.0]), [2, 0, 1]
    one, other = fitted(word), fitted(word, 3, (scale * X + shift)[:, order])
    shifted = other.log_likelihood((scale * X + shift)[:, order]).value + scale.log().sum()
    torch.testing.assert_close(one.log_likelihood(X).value, shifted, rtol=0, atol=1e-7)


def test_criteria_are_scikit_learns():
    model = fitted("full", 2)
    peer = Peer(2, covariance_type="full").fit(X.numpy())
    peer.weights_, peer.means_ = model.weights.numpy(), model.means.numpy()
    peer.precisions_cholesky_ = np.linalg.cholesky(np.linalg.inv(model.covariances().numpy()))
    assert model.aic(ROWS) == pytest.approx(peer.aic(X.numpy()), rel=1e-10)
    assert model.bic(ROWS) == pytest.approx(peer.bic(X.numpy()), rel=1e-10)
    r = model.responsibilities(X)
    entropy = -float(torch.special.xlogy(r, r).sum())
    assert model.icl(ROWS) == pytest.approx(model.bic(ROWS) + 2 * entropy, rel=1e-10)


@pytest.mark.parametrize("criterion", ["held-out", "bic"])
def test_the_number_of_components_is_found(criterion: str):
    """Four far corners: four components, the curve beside it, and the run loads with that number."""
    g = torch.Generator().manual_seed(0)
    corners = torch.tensor([[0.0, 0], [0, 9], [9, 0], [9, 9]]).repeat(150, 1)
    data = jensen.load_data((corners + torch.randn(600, 2, generator=g)).numpy())
    pipeline = jensen.fit(data, "gmm", progress=False, criterion=criterion, max_components=8, covariance="spherical")
    report = pipeline.config["fit"]
    assert pipeline.config["model"]["options"]["n_components"] == 4
    assert [point["n_components"] for point in report["curve"]] == [1, 2, 3, 4, 6, 8]
    assert max(report["curve"], key=lambda point: point["value"])["n_components"] == 4
    json.dumps(report)


def test_a_chosen_number_survives_the_folder(tmp_path):
    data = jensen.load_data(X.numpy())
    options = {"max_components": 3, "restarts": 1, "progress": False}
    pipeline = jensen.fit(data, "gmm", run=tmp_path / "run", **options)
    again = jensen.load(tmp_path / "run")
    assert torch.equal(again.log_likelihood(data.test).value, pipeline.log_likelihood(data.test).value)
    assert again.config["fit"]["converged"] is True
    assert jensen.fit(data, "gmm", run=tmp_path / "run", **options).config == again.config


def test_auto_without_validation_rows_needs_bic():
    with pytest.raises(InputError, match="needs validation rows; give some, or criterion='bic'"):
        GaussianMixture((3,), Real()).fit(ROWS)
    model = GaussianMixture((3,), Real(), criterion="bic", max_components=2)
    model.fit(ROWS)
    assert model.resolved()["n_components"] in (1, 2)


def test_more_starts_are_no_worse_and_all_are_reported():
    one, four = fitted(restarts=1), fitted(restarts=4)
    assert len(four.fit_report["restarts"]) == 4
    assert four.fit_report["penalised_nats_per_row"] >= one.fit_report["penalised_nats_per_row"]
    values = [start["penalised_nats_per_row"] for start in four.fit_report["restarts"]]
    assert four.fit_report["penalised_nats_per_row"] == max(values)


def test_a_warm_start_goes_on():
    short = fitted(max_iterations=2)
    assert short.fit_report["converged"] is False
    before = short.fit_report["penalised_nats_per_row"]
    short.fit(ROWS, warm=True)
    assert short.fit_report["penalised_nats_per_row"] > before
    given = GaussianMixture((3,), Real(), n_components=3)
    given.fit(ROWS, start=short.parameters_now)
    assert given.fit_report["penalised_nats_per_row"] >= short.fit_report["penalised_nats_per_row"]


def test_the_fit_is_watched():
    lines: list[str] = []
    steps: list[str] = []
    from jensen.models.model import Watch

    model = GaussianMixture((3,), Real(), n_components=2, restarts=2, max_iterations=3)
    model.fit(ROWS, watch=Watch(lines.append, steps.append))
    assert len(steps) == 6
    assert sum("start" in line for line in lines) == 2
    assert any("not converged: stopped after 3 iterations" in line for line in lines)


@each_structure
def test_gradients_reach_what_em_reaches(word: str):
    """L-BFGS on the objective from EM's start; EM without a prior, converged to 1e-10. For factors EM keeps every noise
    variance above its least, which gradients do not know: they may end a little higher.
    """
    options = {"prior_rows": 0.0, "prior_counts": 0.0}
    early, late = (fitted(word, 2, **options, max_iterations=n, tolerance=1e-10) for n in (5, 3000))
    objective = early.objective()
    optimiser = torch.optim.LBFGS(
        objective.parameters(), max_iter=400, line_search_fn="strong_wolfe", tolerance_change=1e-13
    )
    batch = Batch(X, torch.arange(len(X)))

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = objective(batch, Noise(0)).mean()
        loss.backward()
        return loss

    optimiser.step(closure)
    early.set_parameters(objective.mixture.parameters_now())
    gain = early.log_likelihood(X).mean - late.log_likelihood(X).mean
    assert -1e-6 < gain < (1e-2 if word == "factors" else 1e-6)


def test_log_prob_is_differentiable_in_x():
    """The score of the known world."""
    x = X[:20].clone().requires_grad_()
    truth().objective().mixture.log_prob(x).sum().backward()
    torch.testing.assert_close(x.grad, WORLD.score(X[:20], 60.0), rtol=1e-6, atol=1e-6)


def test_partial_fit_follows_batches():
    x = WORLD.sample(4000, torch.Generator().manual_seed(6))
    model = GaussianMixture((3,), Real(), n_components=2)
    for rows in x.split(250):
        model.partial_fit(rows)
    assert model.log_likelihood(X).mean > fitted("full", 2, x).log_likelihood(X).mean - 0.05
    with pytest.raises(InputError, match=r"exponent must be above 0\.5 and at most 1, got 0\.5"):
        model.partial_fit(X, exponent=0.5)
    with pytest.raises(InputError, match="partial_fit needs a number of components"):
        GaussianMixture((3,), Real()).partial_fit(X)


def test_partial_fit_goes_on_from_a_fit():
    """20 rows after a fit to 1,000 move it little: they count by their number, and the fit is not thrown away. A fit in
    between begins anew.
    """
    x = WORLD.sample(1000, torch.Generator().manual_seed(6))
    model = fitted("full", 3, x)
    before = model.log_likelihood(X).mean
    model.partial_fit(X[:20])
    assert model.log_likelihood(X).mean > before - 0.2
    model.partial_fit(X[:20] - 100)
    model.fit(Examples(x, torch.arange(len(x))), seed=0)
    model.partial_fit(X[20:40])
    assert model.log_likelihood(X).mean > before - 0.2


def test_given_parameters_are_where_partial_fit_starts():
    """A mixture of two scales about 0: means that are all 0 are parameters like others."""
    model = GaussianMixture.from_parameters(
        torch.tensor([0.9, 0.1]), torch.zeros(2, 1), torch.tensor([[[1.0]], [[100.0]]])
    )
    rows = model.sample(4000, seed=0)
    for part in rows.split(400):
        model.partial_fit(part)
    assert float(model.means.abs().max()) < 2
    assert float(model.covariances()[1]) > 40 * float(model.covariances()[0])


def test_a_batch_may_have_constant_columns():
    """One row, and a column that is rarely other than 0, after a first batch that says where the data are."""
    g = torch.Generator().manual_seed(0)
    x = torch.stack([torch.randn(500, generator=g), (torch.rand(500, generator=g) < 0.05).float()], 1).double()
    model = GaussianMixture((2,), Real(), n_components=1)
    for rows in (x[:300], x[300:301], x[301:330], torch.tensor([[math.nan, 0.0], [1.0, math.nan]])):
        model.partial_fit(rows)
    assert bool(model.log_likelihood(x).value.isfinite().all())


def test_gradients_want_complete_rows_and_bear_empty_components():
    model = GaussianMixture.from_parameters(torch.tensor([1.0, 0.0]), torch.zeros(2, 1), torch.ones(2, 1, 1))
    objective = model.objective()
    objective(Batch(X[:5, :1], torch.arange(5)), Noise(0)).sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in objective.parameters())
    with pytest.raises(InputError, match="gradients need complete rows"):
        objective(Batch(torch.tensor([[math.nan]]), torch.arange(1)), Noise(0))


@pytest.mark.parametrize("word", ["full", "factors"])
def test_missing_cells_through_the_pipeline(word: str):
    """iris with a fifth of its cells gone: fitted, exact, and law 25 under other units of the data."""
    x = with_holes(torch.from_numpy(load_iris().data), 0.2).numpy()
    options = {"n_components": 2, "covariance": word, "rank": 2, "progress": False, "restarts": 1}
    one, other = (jensen.fit(y, "gmm", **options) for y in (x, 10 * x))
    ll = one.log_likelihood(x)
    assert ll.kind == "exact"
    seen = torch.from_numpy((~np.isnan(x)).sum(1)).double()
    torch.testing.assert_close(ll.value - other.log_likelihood(10 * x).value, seen * math.log(10.0), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_components": 0}, "n_components must be at least 1, got 0"),
        ({"rank": 0}, "rank must be at least 1, got 0"),
        ({"restarts": 0}, "restarts must be at least 1, got 0"),
        ({"prior_rows": -1.0}, "prior_rows must be at least 0 and finite, got -1.0"),
        ({"tolerance": math.inf}, "tolerance must be at least 0 and finite, got inf"),
        ({"covariance": "round"}, "covariance must be one of full, .*, got 'round'"),
    ],
)
def test_settings_that_cannot_be_are_refused(options: dict[str, object], message: str):
    with pytest.raises(InputError, match=message):
        GaussianMixture((3,), Real(), **options)


def test_parameters_that_cannot_be_are_refused():
    w, m, c = WORLD.weights, WORLD.means, WORLD.covariances
    make = GaussianMixture.from_parameters
    with pytest.raises(InputError, match=r"covariances of a full mixture must have shape \(2, 3, 3\), got \(2, 3\)"):
        make(w, m, c[:, 0])
    with pytest.raises(InputError, match=r"weights must be \(K,\) and means \(K, d\), got \(2,\), \(3,\)"):
        make(w, m[0], c)
    with pytest.raises(InputError, match=r"weights must be at least 0 .*, got \[-1.0, 1.0\]"):
        make(torch.tensor([-1.0, 1.0]), m, c)
    with pytest.raises(InputError, match=r"covariances must be .* positive definite, got matrix 1, which is not"):
        make(w, m, torch.stack([c[0], -c[1]]))
    with pytest.raises(InputError, match="n_components is 301, more than the 300 training rows"):
        fitted("diag", 301)
    with pytest.raises(InputError, match=r"columns must be some but not all of 0 … 2, got \[3\]"):
        truth().conditional({3: 0.0})


def test_weights_are_divided_by_their_sum():
    """Weights 2 and 6 are a quarter and three quarters."""
    scaled = GaussianMixture.from_parameters(torch.tensor([2.0, 6.0]), WORLD.means, WORLD.covariances)
    torch.testing.assert_close(scaled.weights, torch.tensor([0.25, 0.75], dtype=F64))


def test_the_prior_counts_for_half_as_many_rows_as_there_are_dimensions():
    """One component: V is the unbiased covariance of the data with a hundredth of its diagonal mixed in, by hand."""
    sample, n, c = X.T.cov(correction=0), len(X), 1.5
    mode = 0.99 * X.T.cov() + torch.diag(0.01 * X.T.cov().diagonal() + 1e-6 * sample.diagonal())
    torch.testing.assert_close(fitted(components=1).covariances()[0], (n * sample + c * mode) / (n + c))


def test_criteria_count_weighted_rows_as_repeated_ones():
    model, count = truth(), torch.arange(len(X)) % 4
    weighted = Examples(X, torch.arange(len(X)), weight=count.double())
    repeated = X.repeat_interleave(count, 0)
    rows = Examples(repeated, torch.arange(len(repeated)))
    for criterion in (model.aic, model.bic, model.icl):
        assert criterion(weighted) == pytest.approx(criterion(rows), rel=1e-12)


def test_the_report_says_what_the_model_says():
    """The training rows' mean log-likelihood, without the prior; and the curve's BIC is the model's, a row and halved."""
    model = GaussianMixture((3,), Real(), criterion="bic", max_components=1)
    model.fit(ROWS)
    report = model.fit_report
    assert report["log_likelihood_nats_per_row"] == pytest.approx(model.log_likelihood(X).mean, rel=1e-9)
    assert report["curve"][0]["value"] == pytest.approx(-model.bic(ROWS) / (2 * len(X)), rel=1e-9)


def test_auto_tries_no_more_components_than_there_are_rows():
    model = GaussianMixture((3,), Real(), criterion="bic")
    model.fit(Examples(X[:2], torch.arange(2)))
    assert [point["n_components"] for point in model.fit_report["curve"]] == [1, 2]


def test_partial_fit_starts_from_given_parameters_and_scores_before_it_steps():
    model = truth()
    assert model.partial_fit(X) == pytest.approx(truth().log_likelihood(X).mean, rel=1e-9)


def test_partial_fit_of_one_normal_with_exponent_one_has_the_mean_of_all_rows():
    """γ_t = 1/t weighs equal batches equally; a smaller exponent forgets the first ones."""
    model, forgetful = (GaussianMixture((3,), Real(), n_components=1) for _ in range(2))
    for rows in X.split(60):
        model.partial_fit(rows, exponent=1.0)
        forgetful.partial_fit(rows)
    torch.testing.assert_close(model.means[0], X.mean(0))
    assert float((forgetful.means[0] - X.mean(0)).abs().max()) > 1e-3


def test_draws_of_a_row_choose_their_components_anew():
    """Nothing observed: over 300 draws of one row the components come by their weights, 4.5 standard errors, seed 0."""
    means, covariances = torch.tensor([[-100.0], [100.0]]), torch.ones(2, 1, 1)
    model = GaussianMixture.from_parameters(torch.tensor([0.3, 0.7]), means, covariances)
    draws = model.impute(torch.full((1, 1), math.nan), draws=300, seed=0)
    assert abs(float((draws > 0).double().mean()) - 0.7) < 4.5 * math.sqrt(0.21 / 300)


@each_structure
def test_observed_cells_are_left_bit_for_bit(word: str):
    model, holes = fitted(word), with_holes(X)
    seen = ~holes.isnan()
    assert torch.equal(model.impute(holes)[seen], X[seen])
    assert torch.equal(model.impute(holes, draws=1)[0][seen], X[seen])


def test_the_objective_is_minus_the_log_likelihood():
    model, batch = truth(), Batch(X, torch.arange(len(X)))
    value = model.log_likelihood(X).value
    torch.testing.assert_close(model.objective()(batch, Noise(0)).detach(), -value)
    torch.testing.assert_close(model.objective().held_out(batch, Noise(0))["log_likelihood"].detach(), value)
