"""The families of columns: closed forms, scipy's laws, brute-force maxima; every one with missing cells and empty classes."""

import itertools
import math
from functools import cache

import numpy as np
import pytest
import torch
from scipy import optimize, stats
from sklearn.mixture import GaussianMixture
from torch import Tensor

from jensen.data.examples import Examples
from jensen.data.space import Levels, Real
from jensen.errors import InputError
from jensen.naive_bayes.kernels import Kernels, chosen_bandwidth
from jensen.naive_bayes.labelled import Labelled, moments
from jensen.naive_bayes.mixtures import Mixtures
from jensen.naive_bayes.normal import Normal
from jensen.naive_bayes.tables import Categorical, Poisson, log_rate_of
from jensen.naive_bayes.words import families
from jensen.noise import Noise

NOISE = Noise(0, "test")
DRAW = np.random.default_rng(0)
Y = torch.from_numpy(DRAW.integers(0, 2, 300))
X = torch.from_numpy(DRAW.normal(size=(300, 2)) * [1.0, 0.5]) + torch.tensor([[0.0, 1.0], [2.0, -1.0]])[Y]
X = (X - X.mean(0)) / X.std(0)
HUMPS = 0.4 * X + torch.from_numpy(
    DRAW.choice([-1.0, 1.0], (300, 2))
)  # two in each class and column: EM takes few steps


def rows(x: Tensor, y: Tensor, weight: Tensor | None = None, classes: int = 2) -> Labelled:
    return Labelled(Examples(x.double(), torch.arange(len(x)), y, weight), classes)


@cache
def usual(word: str):
    """The family fitted to these rows, which tests share."""
    return learned(made(word), data(word), Y)


def learned(family, x: Tensor, y: Tensor, weight: Tensor | None = None):
    family.learn(rows(x, y, weight, family.classes), NOISE)
    return family


def made(word: str, dims: int = 2, classes: int = 2):
    return {
        "categorical": lambda: Categorical(classes, dims, Levels(4), 1.0),
        "poisson": lambda: Poisson(classes, dims, Levels(4), 1.0),
        "gaussian": lambda: Normal(classes, dims, 1.0),
        "mixture": lambda: Mixtures(classes, dims, 2, 1.0),
        "kde": lambda: Kernels(classes, dims, 200, 1.0),
    }[word]()


REALS, ON_LEVELS = ("gaussian", "mixture", "kde"), ("categorical", "poisson")
each_family = pytest.mark.parametrize("word", REALS + ON_LEVELS)


def data(word: str) -> Tensor:
    if word == "mixture":
        return HUMPS
    return X if word in REALS else (X + 1.5).round().clamp(0, 3)


# All families


@each_family
def test_a_missing_cell_is_a_factor_of_one_and_moves_nothing_else(word: str):
    """Fitted with holes in column 1, column 0 is that of a fit without column 1; scored with a hole, it counts alone."""
    x, holes = data(word), data(word).clone()
    holes[::3, 1] = math.nan
    both, first = learned(made(word), holes, Y), learned(made(word, 1), x[:, :1], Y)
    hidden = x[:20].clone()
    hidden[:, 1] = math.nan
    torch.testing.assert_close(both.scorer()(hidden), first.scorer()(x[:20, :1]), rtol=1e-12, atol=1e-12)
    assert bool((both.scorer()(torch.full((1, 2), math.nan)) == 0).all())
    seen = learned(made(word, 1), x[:, 1:][~holes[:, 1].isnan()], Y[~holes[:, 1].isnan()])
    hidden[:, 0], hidden[:, 1] = math.nan, x[:20, 1]
    tolerance = 2e-3 if word == "mixture" else 1e-12  # EM from other starts
    torch.testing.assert_close(both.scorer()(hidden), seen.scorer()(x[:20, 1:]), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("word", REALS)
def test_a_density_integrates_to_one(word: str):
    """Every class and column, by the trapezoid rule, which is exact to rounding for such smooth functions."""
    grid = torch.linspace(-12, 12, 20001, dtype=torch.float64)
    family = usual(word)
    for d in range(2):
        cells = torch.full((len(grid), 2), math.nan, dtype=torch.float64)
        cells[:, d] = grid
        p = torch.cat([family.scorer()(part) for part in cells.split(500)]).exp()
        torch.testing.assert_close(torch.trapezoid(p, grid, dim=0), torch.ones(2).double(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("word", ON_LEVELS)
def test_a_mass_sums_to_one(word: str):
    every = torch.tensor(list(itertools.product(range(4), repeat=2))).double()
    p = usual(word).scorer()(every).exp()
    torch.testing.assert_close(p.sum(0), torch.ones(2).double(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("word", REALS)
def test_draws_have_the_density(word: str):
    """Kolmogorov–Smirnov against the integrated density, 5,000 draws, 4 tests a family, seed 1; failure rate 4e-4 each."""
    family, draw, n = usual(word), np.random.default_rng(1), 5000
    grid = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    for k, d in itertools.product(range(2), range(2)):
        u, eps = torch.from_numpy(draw.random((n, 2))), torch.from_numpy(draw.normal(size=(n, 2)))
        new = family.draw(torch.full((n,), k), u, eps)[:, d].numpy()
        cells = torch.full((len(grid), 2), math.nan, dtype=torch.float64)
        cells[:, d] = grid
        p = torch.cat([family.scorer()(part) for part in cells.split(500)])[:, k].exp()
        cumulative = torch.cat([torch.zeros(1).double(), torch.cumulative_trapezoid(p, grid)]).numpy()
        assert stats.kstest(new, lambda v, c=cumulative: np.interp(v, grid.numpy(), c)).pvalue > 1e-4


@pytest.mark.parametrize("word", ON_LEVELS)
def test_draws_have_the_masses(word: str):
    """χ² of 20,000 draws in a class and column, 4 tests a family, seed 2; failure rate 4e-4 each."""
    family, draw, n = usual(word), np.random.default_rng(2), 20_000
    for k in range(2):
        new = family.draw(torch.full((n,), k), torch.from_numpy(draw.random((n, 2))), torch.zeros(n, 2).double())
        for d in range(2):
            p = family.log_probabilities()[k, d].exp().numpy()
            assert stats.chisquare(np.bincount(new[:, d].long(), minlength=4), n * p / p.sum()).pvalue > 1e-4


@pytest.mark.parametrize("word", ["gaussian", "mixture", "categorical", "poisson"])
def test_integer_weights_are_repeated_rows(word: str):
    weight = torch.from_numpy(np.random.default_rng(3).integers(0, 4, 300))
    x = data(word)
    one = learned(made(word), x, Y, weight.double())
    other = learned(made(word), x.repeat_interleave(weight, 0), Y.repeat_interleave(weight))
    tolerance = {"rtol": 1e-3, "atol": 2e-3} if word == "mixture" else {"rtol": 1e-9, "atol": 1e-9}  # other starts
    torch.testing.assert_close(one.scorer()(x[:50]), other.scorer()(x[:50]), **tolerance)


def test_kernels_refuse_weights():
    with pytest.raises(InputError, match="kde takes no weights"):
        learned(made("kde"), X, Y, torch.full((300,), 2.0))


@pytest.mark.parametrize("word", REALS)
def test_a_class_without_a_cell_has_the_law_of_all(word: str):
    holes = data(word).clone()
    holes[Y == 1, 0] = math.nan
    family = learned(made(word), holes, Y)
    seen = holes[Y == 0, 0]
    grid = torch.linspace(-3, 3, 50, dtype=torch.float64)
    cells = torch.stack([grid, torch.full_like(grid, math.nan)], 1)
    truth = stats.norm.logpdf(grid, seen.mean(), seen.std(correction=0))
    np.testing.assert_allclose(family.scorer()(cells)[:, 1].numpy(), truth, rtol=1e-9)


@pytest.mark.parametrize("word", REALS)
def test_a_column_constant_in_a_class_stays_finite(word: str):
    """Its likelihood alone has no maximum; the shared prior keeps a density that is below 500 here, in standard units."""
    x = data(word).clone()
    x[Y == 1, 0] = 0.25
    family = learned(made(word), x, Y)
    value = family.scorer()(torch.tensor([[0.25, math.nan], [3.0, math.nan]], dtype=torch.float64))
    assert bool(value.isfinite().all())
    assert float(value[0, 1]) < math.log(500)


# Moments and normals


def test_moments_are_numpys():
    holes = X.clone()
    holes[::5, 1] = math.nan
    found = moments(rows(holes, Y), 2)
    for k in range(2):
        own = holes[k == Y].numpy()
        np.testing.assert_allclose(found.mean[k], np.nanmean(own, 0), rtol=1e-12)
        np.testing.assert_allclose(found.variance[k], np.nanvar(own, 0), rtol=1e-12)
        assert found.count[k].tolist() == (~np.isnan(own)).sum(0).tolist()
    np.testing.assert_allclose(found.everywhere, np.nanmean(holes.numpy(), 0), atol=1e-14)
    np.testing.assert_allclose(found.spread, np.nanvar(holes.numpy(), 0), rtol=1e-12)
    residual = holes - found.mean[Y]
    pooled = np.nansum(residual.numpy() ** 2, 0) / ((~np.isnan(holes.numpy())).sum(0) - 2)
    np.testing.assert_allclose(found.within, pooled, rtol=1e-12)


def test_variances_are_averaged_with_the_priors():
    x, y = torch.tensor([[0.0], [2.0], [5.0], [5.0], [5.0]]), torch.tensor([0, 0, 1, 1, 1])
    family = learned(Normal(2, 1, 0.5), x, y)
    within, spread = 2 / 3, float(x.var(correction=0))  # residual squares 1 + 1 over 5 - 2
    mode = within + 1e-6 * spread
    expected = [(2 * 1 + 0.5 * mode) / 2.5, 0.5 * mode / 3.5]
    assert family.variance[:, 0].tolist() == pytest.approx(expected, rel=1e-6)
    assert family.mean[:, 0].tolist() == [1, 5]


# Tables


def test_counts_have_laplaces_rule():
    x, y = torch.tensor([[0.0], [2.0], [2.0], [1.0]]), torch.tensor([0, 0, 0, 1])
    family = learned(Categorical(2, 1, Levels(3), 0.5), x, y)
    expected = torch.tensor([[1.5, 0.5, 2.5], [0.5, 1.5, 0.5]]) / torch.tensor([[4.5], [2.5]])
    torch.testing.assert_close(family.log_probabilities()[:, 0].exp(), expected.double(), rtol=1e-7, atol=0)


@pytest.mark.parametrize("levels", [2, 3, 17, 256])
def test_the_rate_has_the_mean_and_is_the_likeliest(levels: int):
    """Newton from one end to the other; beside it a bounded search of scipy on the log-likelihood."""
    top = levels - 1
    mean = torch.tensor([1e-6, 0.01, 0.3, 0.5, 0.9, 0.99, 1 - 1e-6], dtype=torch.float64) * top
    theta = log_rate_of(mean, levels)
    j = np.arange(levels)
    for m, t in zip(mean.tolist(), theta.tolist(), strict=True):
        log_p = j * t - np.array([math.lgamma(i + 1) for i in j])
        p = np.exp(log_p - log_p.max())
        p /= p.sum()
        assert (p * j).sum() == pytest.approx(m, rel=1e-9)
        if 0.01 * top <= m <= 0.99 * top:

            def loss(s: float, m: float = m) -> float:
                log_w = j * s - np.array([math.lgamma(i + 1) for i in j])
                return float(np.logaddexp.reduce(log_w) - m * s)

            found = optimize.minimize_scalar(loss, bounds=(t - 2, t + 2), method="bounded", options={"xatol": 1e-9})
            assert found.x == pytest.approx(t, abs=1e-4)


def test_a_poisson_column_is_scipys_law_given_that_it_is_below_k():
    family = Poisson(1, 1, Levels(6), 1.0)
    family.log_rate.fill_(math.log(2.5))
    law = stats.poisson(2.5)
    expected = law.logpmf(np.arange(6)) - math.log(law.cdf(5))
    np.testing.assert_allclose(family.log_probabilities()[0, 0].numpy(), expected, rtol=1e-12)


def test_a_poisson_columns_prior_is_a_cell_with_the_mean_of_all():
    x, y = torch.tensor([[1.0], [3.0], [0.0], [0.0]]), torch.tensor([0, 0, 1, 1])
    family = learned(Poisson(2, 1, Levels(5), 2.0), x, y)
    pooled = (4 + 0.5) / (4 + 0.25)
    mean = family.log_probabilities()[:, 0].exp() @ torch.arange(5).double()
    assert mean.tolist() == pytest.approx([(4 + 2 * pooled) / 4, (0 + 2 * pooled) / 4], rel=1e-10)
    for end in (0.0, 4.0):  # the likelihood has no maximum at the ends
        only = learned(Poisson(2, 1, Levels(5), 1.0), torch.full((4, 1), end), y)
        assert bool(only.log_probabilities().isfinite().all())


# Kernels


def test_a_kernel_estimate_is_the_mean_of_normals():
    family = usual("kde")
    grid = np.linspace(-3, 3, 40)
    cells = torch.from_numpy(np.stack([grid, np.full(40, np.nan)], 1))
    for k in range(2):
        centres, h = X[k == Y, 0].numpy(), float(family.bandwidth[k, 0])
        truth = np.log(stats.norm.pdf(grid[:, None], centres, h).mean(1))
        np.testing.assert_allclose(family.scorer()(cells)[:, k].numpy(), truth, rtol=1e-10)


def test_the_bandwidth_is_the_best_for_left_out_cells():
    """Against brute force: the sum written out, over 400 bandwidths around the rule of thumb."""
    cells = torch.from_numpy(np.random.default_rng(4).normal(size=60)).sort().values

    def brute(h: float) -> float:
        p = stats.norm.pdf(cells.numpy()[:, None], cells.numpy(), h)
        return float(np.log((p.sum(1) - np.diag(p)) / 59).mean())

    chosen = chosen_bandwidth(cells, 1.0)
    every = 60**-0.2 * np.exp(np.linspace(math.log(1 / 8), math.log(4), 400))
    assert brute(chosen) >= max(map(brute, every)) - 1e-7
    assert every[0] < chosen < every[-1]


def test_more_cells_than_choose_narrow_what_they_choose(monkeypatch: pytest.MonkeyPatch):
    """A tenth of 2000 normal cells choose, seed 6: within 25 % of what all of them choose (their own spread is some 5 %)."""
    cells = torch.from_numpy(np.random.default_rng(6).normal(size=2000))
    monkeypatch.setattr("jensen.naive_bayes.kernels.MOST_CHOOSING", 2000)
    whole = chosen_bandwidth(cells, 1.0)
    monkeypatch.setattr("jensen.naive_bayes.kernels.MOST_CHOOSING", 200)
    assert chosen_bandwidth(cells, 1.0) == pytest.approx(whole, rel=0.25)


@pytest.mark.parametrize("unit", [0.1, 0.5, 1.0])
def test_rounding_is_not_taken_for_the_distribution(unit: float):
    """400 normal cells, seed 7, as they are and rounded: both estimates explain 2000 unrounded cells, whose true mean log p
    is -1.42, alike to 0.05 nats. A bandwidth that fits the rounding costs whole nats.
    """
    draw = np.random.default_rng(7)
    cells, test = torch.from_numpy(draw.normal(size=400)), torch.from_numpy(draw.normal(size=(2000, 1)))
    y = torch.zeros(400, dtype=torch.int64)
    fine, rounded = (
        learned(Kernels(1, 1, 400, 1.0), x[:, None], y).scorer()(test).mean()
        for x in (cells, (cells / unit).round() * unit)
    )
    assert float(rounded) == pytest.approx(float(fine), abs=0.05)


def test_one_value_alone_has_the_rule_of_thumb():
    cells = torch.full((20,), 3.0, dtype=torch.float64)
    assert chosen_bandwidth(cells, 1.4) == pytest.approx(1.06 * 1.4 * 20**-0.2)
    assert chosen_bandwidth(cells[:1], 1.4) == pytest.approx(1.06 * 1.4)


def test_a_kernel_estimate_keeps_what_it_is_told_to():
    family = learned(Kernels(2, 2, 30, 1.0), X, Y)
    assert family.count.tolist() == [[30, 30], [30, 30]]
    assert set(family.stored[0, 0].tolist()) < set(X[Y == 0, 0].tolist())
    assert family.stored.shape == (2, 2, 30)


# Mixtures


def test_a_mixture_finds_what_scikit_learn_finds():
    """Two clear humps in each class, next to no prior on variances: mean log-likelihoods agree to 1e-4 nats."""
    draw = np.random.default_rng(5)
    y = torch.from_numpy(draw.integers(0, 2, 400))
    x = torch.from_numpy(draw.normal(size=(400, 1)) * 0.3 + draw.choice([-1.0, 1.0], (400, 1))) + y[:, None]
    family = learned(Mixtures(2, 1, 2, 1e-6), x, y)
    for k in range(2):
        own = x[y == k]
        sklearn = GaussianMixture(2, random_state=0, n_init=3, tol=1e-8, reg_covar=1e-9).fit(own.numpy())
        assert float(family.scorer()(own)[:, k].mean()) == pytest.approx(sklearn.score(own.numpy()), abs=1e-4)
    assert family.weights.sum(2).flatten().tolist() == pytest.approx([1.0, 1.0])


def test_fewer_values_than_components_have_as_many_components():
    x, y = torch.tensor([[0.0], [1.0], [1.0], [2.0], [3.0], [4.0]]), torch.tensor([0, 0, 0, 1, 1, 1])
    family = learned(Mixtures(2, 1, 3, 1.0), x, y)
    assert (family.weights[:, 0] > 0).sum(1).tolist() == [2, 3]
    found = family.learn(rows(x, y), NOISE)
    assert (found.fits, found.unfinished) == (2, 0)
    assert found.iterations > 0


# What is refused


@pytest.mark.parametrize(
    ("family", "dims", "space", "message"),
    [
        (
            "gausian",
            2,
            Real(),
            r"family must be auto, gaussian, mixture, kde for real values, got 'gausian'; did you mean",
        ),
        ("poisson", 2, Real(), "family poisson does not suit real values, .* whole-number arrays"),
        ("kde", 2, Levels(3), "family kde does not suit 3 levels, .* float arrays or tables"),
        ("bernoulli", 2, Levels(3), "bernoulli is for 2 levels, these columns have 3"),
        ("gaussian,kde", 3, Real(), "one for each of 3 columns .* got 2"),
        ("gaussian,kde,kde", 2, Real(), "one for each of 2 columns .* got more"),
        ("auto", 1 << 21, Real(), "at most 1,048,576 values, got 2,097,152"),
    ],
)
def test_words_that_do_not_fit(family: str, dims: int, space: Levels | Real, message: str):
    with pytest.raises(InputError, match=message):
        families(family, dims, space)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (None, "no classes to learn from; give a table's column of classes with --label"),
        (torch.tensor([0, 1, 2]), "classes must be from 0 to 1, got 2"),
        (torch.tensor([0, -1, 1]), "classes must be from 0 to 1, got -1"),
        (torch.tensor([0.0, 1.0, 0.0]), "one whole number a row, got float32"),
        (torch.zeros(3, 1, dtype=torch.int64), r"of shape \(3, 1\)"),
    ],
)
def test_classes_that_cannot_be(codes: Tensor | None, message: str):
    with pytest.raises(InputError, match=message):
        next(Labelled(Examples(X[:3], torch.arange(3), codes), 2).passing())
    with pytest.raises(InputError, match="weights must be finite and at least 0"):
        next(rows(X[:3], Y[:3], torch.tensor([1.0, -1.0, 1.0])).passing())
