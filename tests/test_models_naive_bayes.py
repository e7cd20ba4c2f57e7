"""Naive Bayes: Bayes' rule by hand, sums by enumeration, marginals by completion, and scikit-learn as a cross-check."""

import itertools
import json
import math
from dataclasses import replace
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.naive_bayes import BernoulliNB, CategoricalNB, GaussianNB

import jensen
from jensen.bounds import elbo
from jensen.config import built
from jensen.data.examples import Examples, Split
from jensen.data.space import Levels, Real
from jensen.errors import InputError
from jensen.models.naive_bayes import NaiveBayes
from jensen.models.pipeline import Pipeline

DRAW = np.random.default_rng(0)
CODES = DRAW.integers(0, 3, 300)
REALS = DRAW.normal(size=(300, 2)) * [1.0, 0.5] + np.array([[0.0, 1.0], [2.0, -1.0], [0.0, -2.0]])[CODES]
LEVELS = np.clip(np.round(REALS + 2), 0, 3).astype(np.uint8)
NAMES = ("ash", "birch", "cedar")


def split_of(x: np.ndarray[Any, Any], codes: np.ndarray[Any, Any] = CODES, **options: Any) -> Split:
    """All rows in every part."""
    space = jensen.load_data(x, **options).space
    rows = Examples(torch.from_numpy(np.ascontiguousarray(x)), torch.arange(len(x)), torch.from_numpy(codes))
    return Split(rows, rows, rows, space, NAMES, {"source": "array"})


@cache
def one(family: str) -> Pipeline:
    """A fit that tests share."""
    return fitted(FAMILIES[family], family=family)


def fitted(x: np.ndarray[Any, Any], codes: np.ndarray[Any, Any] = CODES, **settings: Any) -> Pipeline:
    levels = {"levels": settings.pop("levels", 4)} if x.dtype == np.uint8 else {}
    return jensen.fit(split_of(x, codes, **levels), "naive-bayes", progress=False, **settings)


FAMILIES = {
    "categorical": LEVELS,
    "poisson": LEVELS,
    "poisson,categorical": LEVELS,
    "gaussian": REALS,
    "mixture": REALS,
    "kde": REALS,
    "kde,gaussian": REALS,
}
each_family = pytest.mark.parametrize("family", FAMILIES)


# By hand


def test_bayes_rule_by_hand():
    """Four rows of one column with three levels, in fractions: p(y) = (n_y + 1)/(n + 2), p(x | y) = (n_xy + 1)/(n_y + 3)."""
    x, y = torch.tensor([[0.0], [0.0], [2.0], [1.0]]), torch.tensor([0, 0, 0, 1])
    model = NaiveBayes((1,), Levels(3), n_classes=2)
    model.fit(Examples(x, torch.arange(4), y))
    prior = [Fraction(4, 6), Fraction(2, 6)]
    given = [[Fraction(3, 6), Fraction(1, 6), Fraction(2, 6)], [Fraction(1, 4), Fraction(2, 4), Fraction(1, 4)]]
    for level in range(3):
        joint = [prior[k] * given[k][level] for k in range(2)]
        row = torch.tensor([[float(level)]])
        assert model.responsibilities(row)[0].tolist() == pytest.approx(
            [float(j / sum(joint)) for j in joint], rel=1e-14
        )
        assert float(model.log_likelihood(row).value) == pytest.approx(math.log(sum(joint)), rel=1e-13)
        for k in range(2):
            both = model.log_likelihood(row, torch.tensor([k]), given="p(x,y)")
            one = model.log_likelihood(row, torch.tensor([k]))
            assert float(both.value) == pytest.approx(math.log(joint[k]), rel=1e-13)
            assert float(one.value) == pytest.approx(math.log(given[k][level]), rel=1e-13)
            assert (both.given, one.given) == ("p(x,y)", "p(x|y)")
            assert sum(map(float, both.terms.values())) == pytest.approx(float(both.value))
            assert float(both.terms["class"]) == pytest.approx(math.log(prior[k]))


# Scikit-learn


def joint_of(pipeline: Pipeline, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """log p(x, y = k) in data units, by the pipeline's front door."""
    parts = [pipeline.log_likelihood(x, k, given="p(x,y)").value for k in range(3)]
    return torch.stack(parts, 1).numpy()


def test_gaussian_columns_are_scikit_learns():
    """Without priors the formulas are the same: to 1e-9."""
    own = fitted(REALS, prior_rows=1e-12, prior_counts=0.0)
    other = GaussianNB(var_smoothing=0.0).fit(REALS, CODES)
    np.testing.assert_allclose(joint_of(own, REALS), other.predict_joint_log_proba(REALS), rtol=1e-9)


@pytest.mark.parametrize("a", [1.0, 0.1])
def test_categorical_columns_are_scikit_learns(a: float):
    own = fitted(LEVELS, smoothing=a, prior_counts=0.0)
    other = CategoricalNB(alpha=a, min_categories=4).fit(LEVELS, CODES)
    np.testing.assert_allclose(joint_of(own, LEVELS), other.predict_joint_log_proba(LEVELS), rtol=1e-10)


def test_bernoulli_columns_are_scikit_learns():
    x = (LEVELS > 1).astype(np.uint8)
    own = fitted(x, levels=2, family="bernoulli", smoothing=0.5, prior_counts=0.0)
    other = BernoulliNB(alpha=0.5).fit(x, CODES)
    np.testing.assert_allclose(joint_of(own, x), other.predict_joint_log_proba(x), rtol=1e-10)


# Laws


@pytest.mark.parametrize("family", [f for f, x in FAMILIES.items() if x.dtype == np.uint8])
def test_masses_sum_to_one_by_enumeration(family: str):
    """ΣΣ p(x, y) = Σ p(x) = 1, Σ_x p(x | y) = 1 for every class, Σ_y p(x, y) = p(x) for every row."""
    pipeline = one(family)
    every = np.array(list(itertools.product(range(4), repeat=2)), np.uint8)
    joint, marginal = np.exp(joint_of(pipeline, every)), pipeline.log_likelihood(every).value.exp().numpy()
    assert joint.sum() == pytest.approx(1, abs=1e-12)
    assert marginal.sum() == pytest.approx(1, abs=1e-12)
    np.testing.assert_allclose(joint.sum(1), marginal, rtol=1e-12)
    for k in range(3):
        assert float(pipeline.log_likelihood(every, k).value.exp().sum()) == pytest.approx(1, abs=1e-12)


@each_family
def test_the_three_likelihoods_and_the_posterior_hang_together(family: str):
    pipeline = one(family)
    x = FAMILIES[family][:40]
    joint, marginal = joint_of(pipeline, x), pipeline.log_likelihood(x).value.numpy()
    conditional = torch.stack([pipeline.log_likelihood(x, k).value for k in range(3)], 1).numpy()
    model: Any = pipeline.model
    np.testing.assert_allclose(joint, conditional + model.weights.log().numpy(), rtol=1e-12)
    np.testing.assert_allclose(np.logaddexp.reduce(joint, 1), marginal, rtol=1e-12)
    posterior = pipeline.class_log_probabilities(x).numpy()
    np.testing.assert_allclose(posterior, joint - marginal[:, None], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(pipeline.responsibilities(x).numpy(), np.exp(posterior), rtol=1e-9)
    own = pipeline.log_likelihood(x, CODES[:40]).value.numpy()
    np.testing.assert_allclose(own, conditional[np.arange(40), CODES[:40]], rtol=1e-14)


@pytest.mark.parametrize("family", ["categorical", "poisson"])
def test_a_missing_level_is_the_sum_over_completions(family: str):
    """At the model: p(x_0, missing) = Σ_{x_1} p(x_0, x_1), and p(y | x_0) with it."""
    model: Any = one(family).model
    for level in range(4):
        hole = torch.tensor([[float(level), math.nan]])
        whole = torch.tensor([[float(level), float(other)] for other in range(4)])
        torch.testing.assert_close(
            model.log_joint(hole)[0], model.log_joint(whole).logsumexp(0), rtol=1e-12, atol=1e-12
        )
        torch.testing.assert_close(
            model.log_likelihood(hole).value[0], model.log_likelihood(whole).value.logsumexp(0), rtol=1e-12, atol=1e-12
        )
    assert float(model.log_likelihood(torch.full((1, 2), math.nan)).value) == 0


@pytest.mark.parametrize("family", ["gaussian", "mixture", "kde", "kde,gaussian"])
def test_a_missing_real_cell_is_the_integral(family: str):
    """By the trapezoid rule over 12 standard deviations, to 1e-8."""
    pipeline = one(family)
    grid = np.linspace(REALS[:, 1].mean() - 12 * REALS[:, 1].std(), REALS[:, 1].mean() + 12 * REALS[:, 1].std(), 6001)
    for first in (-1.0, 0.7):
        p = pipeline.log_likelihood(np.stack([np.full(6001, first), grid], 1)).value.exp().numpy()
        hole = float(pipeline.log_likelihood(np.array([[first, np.nan]])).value)
        assert math.log(np.trapezoid(p, grid)) == pytest.approx(hole, abs=1e-8)


@each_family
def test_draws_have_the_joint_law(family: str):
    """Classes by χ² (12,000 draws), then log p(x | y) of the draws of a class against that of draws of `sample(context)`:
    Kolmogorov–Smirnov, up to 3,000 each. Seeds 1 to 3; failure rate 4e-4 a family.
    """
    pipeline = one(family)
    model: Any = pipeline.model
    x, y = model.sample_joint(12_000, seed=1)
    p = model.weights.numpy()
    assert stats.chisquare(np.bincount(y, minlength=3), 12_000 * p).pvalue > 1e-4
    assert torch.equal(x, model.sample(12_000, seed=1))
    given = pipeline.sample(3000, "birch", seed=2)
    assert torch.equal(given[:30], pipeline.sample(30, np.ones(30, int), seed=2, batch_size=7))
    assert not torch.equal(given, pipeline.sample(3000, 2, seed=2))
    mixed = pipeline.decode(x[y == 1][:3000].reshape(-1, 2))
    for k in (0, 1, 2):
        drawn, asked = (pipeline.log_likelihood(rows, k).value.numpy() for rows in (mixed, given))
        assert stats.ks_2samp(drawn, asked).pvalue > 1e-4


def test_draws_of_a_class_have_its_moments():
    """10,000 draws, 4.5 standard errors, seed 4: mean and variance of the fitted normals in data units; rate 4e-5."""
    pipeline = fitted(REALS, prior_rows=1e-12)
    for k in range(3):
        draws, own = pipeline.sample(10_000, k, seed=4).numpy(), REALS[k == CODES]
        assert (np.abs(draws.mean(0) - own.mean(0)) < 4.5 * own.std(0) / 100).all()
        assert (np.abs(draws.var(0) / own.var(0) - 1) < 4.5 * math.sqrt(2) / 100).all()


@each_family
def test_values_belong_to_rows_to_the_bit(family: str):
    x = FAMILIES[family]
    pipeline = one(family)
    value, order = pipeline.log_likelihood(x).value, np.random.default_rng(0).permutation(300)
    assert torch.equal(value, pipeline.log_likelihood(x, batch_size=7).value)
    assert torch.equal(value[order], pipeline.log_likelihood(x[order]).value)
    assert torch.equal(value[:1], pipeline.log_likelihood(x[:1]).value)


@each_family
def test_saved_is_loaded_and_fresh_is_worse(family: str, tmp_path):
    x = FAMILIES[family]
    pipeline = one(family)
    pipeline.save(tmp_path / "a")
    again = jensen.load(tmp_path / "a")
    value = pipeline.log_likelihood(x).value
    assert torch.equal(value, again.log_likelihood(x).value)
    assert torch.equal(pipeline.sample(5, "ash", seed=1), again.sample(5, "ash", seed=1))
    assert built(pipeline.config).log_likelihood(x).mean < float(value.mean())
    refitted = fitted(x, family=family).model.state_dict()
    assert all(torch.equal(tensor, refitted[name]) for name, tensor in pipeline.model.state_dict().items())


@pytest.mark.parametrize("family", ["gaussian", "kde"])
def test_units_cost_their_logarithm(family: str):
    """Law 25."""
    own, other = one(family), fitted(4.0 * REALS, family=family)
    difference = own.log_likelihood(REALS).value - other.log_likelihood(4.0 * REALS).value
    np.testing.assert_allclose(difference.numpy(), 2 * math.log(4), rtol=1e-9)


@each_family
def test_the_bound_at_the_exact_posterior_is_the_likelihood(family: str):
    """Law 1: every single draw of y gives log p(x)."""
    model: Any = one(family).model
    x, _ = model.sample_joint(30, seed=0)
    value = model.log_likelihood(x).value
    for row in elbo(model.prior, model.emission, model.posterior, x, draws=3):
        torch.testing.assert_close(row, value, rtol=1e-9, atol=1e-9)
    drawn = model.emission(torch.tensor([0, 1])).sample((3,))
    assert drawn.shape == (3, 2, 2)


def test_classes_belong_to_rows_in_every_batch():
    """Each row has its own class, for scoring and for drawing, whatever the batches."""
    pipeline = one("gaussian")
    value = pipeline.log_likelihood(REALS, CODES).value
    order = np.random.default_rng(1).permutation(300)
    assert torch.equal(value, pipeline.log_likelihood(REALS, CODES, batch_size=7).value)
    assert torch.equal(value[order], pipeline.log_likelihood(REALS[order], CODES[order], batch_size=11).value)
    new = pipeline.sample(40, CODES[:40], seed=5)
    assert torch.equal(new, pipeline.sample(40, CODES[:40], seed=5, batch_size=7))
    for k in range(3):
        own = torch.from_numpy(CODES[:40] == k)
        assert torch.equal(new[own], pipeline.sample(40, k, seed=5)[own])


def test_a_row_with_nothing_observed_has_log_likelihood_zero():
    """To the bit, although Σ p(y) as it is stored need not be 1 to the bit: here it is not."""
    model = NaiveBayes((1,), Real(), n_classes=3)
    hole, sums = torch.full((1, 1), math.nan), []
    for seed in range(20):
        model.weights.copy_(torch.from_numpy(np.random.default_rng(seed).dirichlet(np.ones(3))))
        sums.append(float(model.weights.log().logsumexp(0)))
        assert float(model.log_likelihood(hole).value) == 0
    assert any(sums)


def test_a_mixed_model_is_its_columns():
    """p(x | y) of "kde,gaussian" is the kde's first column times the normals' second one."""
    both, first, second = (fitted(REALS, family=f) for f in ("kde,gaussian", "kde", "gaussian"))
    hole = REALS[:20].copy()
    hole[:, 1] = np.nan
    other = REALS[:20].copy()
    other[:, 0] = np.nan
    for k in range(3):
        expected = first.log_likelihood(hole, k).value + second.log_likelihood(other, k).value
        torch.testing.assert_close(both.log_likelihood(REALS[:20], k).value, expected, rtol=1e-10, atol=1e-10)


def test_images_are_flat_rows():
    x = np.random.default_rng(0).integers(0, 4, (300, 1, 3, 6)).astype(np.uint8)
    pipeline = fitted(x, family="poisson")
    flat = fitted(x.reshape(300, 18), family="poisson")
    assert torch.equal(pipeline.log_likelihood(x).value, flat.log_likelihood(x.reshape(300, 18)).value)
    assert pipeline.sample(5, 1).shape == (5, 1, 3, 6)


def test_a_class_without_training_rows_has_a_small_prior_and_samples():
    """Three names, two of them with rows."""
    codes = np.where(CODES == 2, 1, CODES)
    pipeline = fitted(REALS, codes)
    model: Any = pipeline.model
    counts = np.bincount(codes, minlength=3)
    np.testing.assert_allclose(model.weights, (counts + 1) / (300 + 3), rtol=1e-12)
    everything = stats.norm.logpdf(REALS, REALS.mean(0), REALS.std(0)).sum(1)
    np.testing.assert_allclose(pipeline.log_likelihood(REALS, "cedar").value, everything, rtol=1e-9)
    none = fitted(REALS, codes, prior_counts=0.0)
    assert none.responsibilities(REALS)[:, 2].tolist() == [0.0] * 300
    assert bool(none.log_likelihood(REALS).value.isfinite().all())


# What is resolved, reported and refused


def test_what_was_chosen_stands_in_the_config():
    options = fitted(REALS, family="auto,kde").config["model"]["options"]
    assert options == {"family": "gaussian,kde", "n_classes": 3, "rows": int(np.bincount(CODES).max())}
    assert fitted(LEVELS).config["model"]["options"] == {"family": "categorical", "n_classes": 3}
    found = one("mixture")
    assert found.config["fit"]["converged"] is True
    assert found.config["fit"]["fits"] == 6
    assert "fit" not in fitted(REALS).config


def test_mixtures_that_do_not_converge_are_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    from jensen.mixture.ascent import Settings

    monkeypatch.setattr("jensen.naive_bayes.mixtures.SETTINGS", Settings(1e-12, 1))
    pipeline = jensen.fit(split_of(REALS), "naive-bayes", family="mixture")
    assert "6 of 6 mixtures did not converge in 1 iterations" in capsys.readouterr().err
    assert pipeline.config["fit"]["converged"] is False


def test_context_is_checked():
    pipeline = fitted(REALS)
    for context, message in (
        ("oak", "unknown class 'oak'; classes are ash, birch, cedar"),
        ("bich", "did you mean 'birch'?"),
        (3, "from 0 to 2: ash, birch, cedar, got 3"),
        ([0, 1], r"one for each of 300 rows, got shape \(2,\)"),
        (np.zeros(300), "whole numbers or names of classes, got float64"),
        ([0.5] * 300, "whole numbers or names of classes"),
    ):
        with pytest.raises(InputError, match=message):
            pipeline.log_likelihood(REALS, context)
    for given, context, message in (
        ("p(x,y)", None, r"p\(x,y\) needs the classes"),
        ("p(x)", 1, r"p\(x\) takes no classes"),
        ("p(y)", 1, r"given must be p\(x\), p\(x\|y\) or p\(x,y\), got 'p\(y\)'"),
    ):
        with pytest.raises(InputError, match=message):
            pipeline.log_likelihood(REALS, context, given=given)
    with pytest.raises(InputError, match="unconditional and takes no context"):
        jensen.fit(split_of(REALS), "gaussian", progress=False).log_likelihood(REALS, 1)
    with pytest.raises(InputError, match="knows no classes; fit naive-bayes"):
        jensen.fit(split_of(REALS), "gaussian", progress=False).class_log_probabilities(REALS)
    assert not jensen.fit(REALS, "gmm", n_components=2, progress=False).classifies
    assert pipeline.classifies


def test_data_without_labels_are_refused_with_the_way_out():
    with pytest.raises(InputError, match=r"naive-bayes learns from rows with classes, .*--label COLUMN"):
        jensen.fit(REALS, "naive-bayes", progress=False)


def test_other_labels_are_another_run(tmp_path):
    split = split_of(REALS)
    jensen.fit(split, "naive-bayes", run=tmp_path / "run", progress=False)
    jensen.fit(split, "naive-bayes", run=tmp_path / "run", progress=False)
    turned = replace(split.train, context=(split.train.context + 1) % 3)
    with pytest.raises(InputError, match="classes was"):
        jensen.fit(replace(split, train=turned), "naive-bayes", run=tmp_path / "run", progress=False)
    with pytest.raises(InputError, match="class"):
        jensen.fit(replace(split, class_names=("a", "b", "c")), "naive-bayes", run=tmp_path / "run", progress=False)
    jensen.fit(split, "independent", run=tmp_path / "other", progress=False)  # learns from no labels: the same run
    jensen.fit(replace(split, train=turned), "independent", run=tmp_path / "other", progress=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_classes": 0}, "n_classes must be from 1 to 134217728, got 0"),
        ({"n_classes": 10**8}, "300,000,000,? .*|do not fit in memory"),
        ({"rows": 10**8, "family": "kde"}, "do not fit in memory"),
        ({"n_components": 10**8, "family": "mixture"}, "do not fit in memory"),
        ({"smoothing": 0.0}, "smoothing must be from 1e-12 to 1e12, got 0"),
        ({"prior_rows": math.nan}, "prior_rows must be from 1e-12 to 1e12, got nan"),
        ({"prior_counts": -1.0}, "prior_counts must be from 0 to 1e12, got -1"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        NaiveBayes((2,), Real(), **settings)


def test_another_number_of_classes_than_the_datas_is_refused():
    with pytest.raises(InputError, match="n_classes is that of the data, 3, got 2"):
        fitted(REALS, n_classes=2)


def test_a_constant_column_is_refused():
    constant = REALS.copy()
    constant[:, 1] = 3.0
    with pytest.raises(InputError, match=r"column 2 .* is constant in the training rows \(value 3\)"):
        fitted(constant)


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("model", "options", "n_classes"), 10**9, "n_classes must be from 1"),
        (("model", "options", "n_classes"), 4, "weights|shape"),
        (("model", "options", "family"), "gaussian,", "family must be auto, gaussian"),
        (("data", "event_shape"), [1 << 29], "at most 1,048,576 values"),
        (("data", "class_names"), [1, 2], "data.class_names must be"),
        (("data", "facts", "label"), 7, "data.facts.label must be"),
    ],
)
def test_a_hostile_config_is_refused_in_one_line(tmp_path, place: tuple[str, ...], value: Any, message: str):
    one("gaussian").save(tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    config = inner = json.loads(path.read_text())
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    config["codec"] = {"type": "affine", "shift": 0.0, "scale": 1.0}
    path.write_text(json.dumps(config))
    with pytest.raises(InputError, match=message) as error:
        jensen.load(tmp_path / "run")
    assert "\n" not in str(error.value)
