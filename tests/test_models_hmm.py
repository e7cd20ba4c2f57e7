"""`HiddenMarkov` as a model: known worlds recovered, states found, units, missing cells, samples, refusals, hmmlearn."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

import jensen
from jensen.bounds import elbo
from jensen.config import built
from jensen.data.examples import Examples, Split
from jensen.data.space import Levels, Real
from jensen.errors import InputError
from jensen.hmm.em import Parameters, Problem
from jensen.hmm.layout import Layout
from jensen.hmm.sequences import Sequences
from jensen.mixture.ascent import Settings
from jensen.mixture.prior import Prior
from jensen.models.hmm import HiddenMarkov
from jensen.models.model import Conditioner

F64 = torch.float64
INITIAL = torch.tensor([0.6, 0.3, 0.1], dtype=F64)
MOVES = torch.tensor([[0.8, 0.15, 0.05], [0.1, 0.7, 0.2], [0.3, 0.1, 0.6]], dtype=F64)
MEANS = torch.tensor([[0.0, 0.0], [3.0, 1.0], [-2.0, 4.0]], dtype=F64)
MATRICES = torch.tensor([[[1.0, 0.5], [0.5, 1.0]], [[0.5, 0.0], [0.0, 1.5]], [[1.0, -0.3], [-0.3, 0.4]]], dtype=F64)
TABLE = torch.tensor(
    [[[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]], [[0.1, 0.8, 0.1], [0.6, 0.3, 0.1]], [[0.2, 0.1, 0.7], [0.2, 0.7, 0.1]]],
    dtype=F64,
)
T = 20


def truth(kind: str = "full", shape: tuple[int, ...] = (1, T, 2)) -> HiddenMarkov:
    if kind == "levels":
        return HiddenMarkov.from_parameters(shape, INITIAL, MOVES, probabilities=TABLE)
    if kind == "mixture":
        means = torch.stack([MEANS, MEANS + 2.0], 1)
        return HiddenMarkov.from_parameters(shape, INITIAL, MOVES, means=means, weights=torch.tensor([[0.7, 0.3]] * 3))
    spread = MATRICES if kind == "full" else MATRICES.diagonal(dim1=1, dim2=2)
    return HiddenMarkov.from_parameters(
        shape, INITIAL, MOVES, means=MEANS, covariances=spread, covariance="full" if kind == "full" else "diag"
    )


KINDS = ("full", "diag", "mixture", "levels")
each_kind = pytest.mark.parametrize("kind", KINDS)


def rows(x: Tensor) -> Examples:
    return Examples(x, torch.arange(len(x)))


def with_holes(x: Tensor) -> Tensor:
    holes = torch.rand(x.shape, generator=torch.Generator().manual_seed(3)) < 0.2
    x = torch.where(holes, math.nan, x)
    x[:, :, 15:][::3] = math.nan
    return x


def matched(model: HiddenMarkov, centres: Tensor, to: Tensor) -> list[int]:
    """The fitted state that is nearest to each true one."""
    order = torch.cdist(to.flatten(1), centres.flatten(1)).argmin(1).tolist()
    assert sorted(order) == [0, 1, 2]
    return order


def test_a_known_world_is_recovered():
    """600 sequences of 20 steps, a fifth of the cells missing and a third short: means, covariances and transitions to 5
    standard errors or so (0.15, 0.15, 0.06). Seed 1; failure rate below 1e-4.
    """
    x = with_holes(truth().sample(600, seed=1))
    model = HiddenMarkov((1, T, 2), Real(), n_states=3, covariance="full", restarts=2, tolerance=1e-5)
    model.fit(rows(x))
    order = matched(model, model.emission_means, MEANS)
    torch.testing.assert_close(model.emission_means[order], MEANS, rtol=0, atol=0.15)
    torch.testing.assert_close(model.emission_spread_covariances[order], MATRICES, rtol=0, atol=0.15)
    torch.testing.assert_close(model.transitions[order][:, order], MOVES, rtol=0, atol=0.06)
    torch.testing.assert_close(model.initial[order], INITIAL, rtol=0, atol=0.1)
    assert model.report()["converged"]
    assert len(model.report()["restarts"]) == 2
    assert model.log_likelihood(x).value.mean() > truth().log_likelihood(x).value.mean()


def test_a_known_world_of_levels_is_recovered():
    """As above; histograms and transitions to 0.08 and 0.1. Seed 2."""
    x = truth("levels").sample(500, seed=2)
    model = HiddenMarkov((1, T, 2), Levels(3), n_states=3, restarts=2, tolerance=1e-5)
    model.fit(rows(x))
    order = matched(model, model.emission_probabilities, TABLE)
    torch.testing.assert_close(model.emission_probabilities[order], TABLE, rtol=0, atol=0.08)
    torch.testing.assert_close(model.transitions[order][:, order], MOVES, rtol=0, atol=0.1)


def test_mixtures_in_states_beat_one_normal_where_the_truth_has_them():
    x = truth("mixture").sample(300, seed=4)
    train, test = rows(x[:200]), x[200:]
    values = []
    for kind in ("gaussian", "mixture"):
        model = HiddenMarkov((1, T, 2), Real(), n_states=3, emission=kind, restarts=1, tolerance=1e-4)  # type: ignore[arg-type]
        model.fit(train)
        values.append(float(model.log_likelihood(test).value.mean()))
    best = float(truth("mixture").log_likelihood(test).value.mean())
    assert values[0] < values[1] < best + 0.5


def test_the_number_of_states_is_chosen_by_held_out_rows():
    x = truth().sample(160, seed=5)
    model = HiddenMarkov((1, T, 2), Real(), covariance="full", restarts=1, tolerance=1e-4, max_states=6)
    model.fit(rows(x[:120]), rows(x[120:]))
    report = model.report()
    assert model.resolved() == {"n_states": 3, "emission": "gaussian"}
    best = max(report["curve"], key=lambda point: point["value"])
    assert best["n_states"] == report["n_states"] == len(model.initial) == 3
    fresh = HiddenMarkov((1, T, 2), Real())
    with pytest.raises(InputError, match="n_states='auto' needs validation rows"):
        fresh.fit(rows(x))


@each_kind
def test_the_elbo_at_the_posterior_is_the_likelihood(kind: str):
    """Law 1, for any draw of the path, also with missing cells."""
    model = truth(kind)
    x = with_holes(model.sample(5, seed=6))
    value = model.log_likelihood(x).value
    for draw in elbo(model.prior, model.emission, model.posterior, x, 3):
        torch.testing.assert_close(draw, value, rtol=1e-12, atol=1e-11)


@each_kind
def test_samples_have_the_models_law(kind: str):
    """States by chance as π Aᵗ says, and moves as A does: chi-square over 4,000 sequences, p above 1e-5; seed 7."""
    model = truth(kind, (4, 2))
    x, z = model.sample_joint(4000, seed=7)
    expected = 4000 * (INITIAL @ torch.linalg.matrix_power(MOVES, 3)).numpy()
    assert stats.chisquare(np.bincount(z[:, 3].numpy(), minlength=3), expected).pvalue > 1e-5
    moves = np.bincount((3 * z[:, 1] + z[:, 2]).numpy(), minlength=9).reshape(3, 3)
    share = MOVES.numpy() * moves.sum(1, keepdims=True)
    assert stats.chisquare(moves, share, axis=1).pvalue.min() > 1e-5
    own = x[z == 1]
    if kind == "levels":
        counts = np.bincount(own[:, 1].long().numpy(), minlength=3)
        assert stats.chisquare(counts, TABLE[1, 1].numpy() * counts.sum()).pvalue > 1e-5
    else:
        mean = MEANS[1] + (0.3 * 2.0 if kind == "mixture" else 0.0)
        spread = MATRICES[1].diagonal() if kind != "mixture" else torch.ones(2) + 0.7 * 0.3 * 4
        assert bool(((own.mean(0) - mean).abs() < 5 * (spread / len(own)).sqrt()).all())
        assert bool(((own.var(0) / spread - 1).abs() < 6 * math.sqrt(2 / len(own))).all())


@each_kind
def test_samples_do_not_depend_on_how_many_are_drawn_at_a_time(kind: str):
    model = truth(kind)
    whole = model.sample(9, seed=8)
    parts = torch.cat([model.sample(2, seed=8, start=0), model.sample(7, seed=8, start=2)])
    assert torch.equal(whole, parts)
    assert not torch.equal(whole, model.sample(9, seed=9))


@each_kind
def test_values_are_the_rows_own_to_the_bit(kind: str):
    """Complete rows, alone and among others that miss cells or end early."""
    model = truth(kind)
    x = model.sample(40, seed=10)
    mixed = with_holes(x.clone())
    mixed[::2] = x[::2]
    value = model.log_likelihood(mixed).value
    for row in (0, 14, 38):
        assert torch.equal(model.log_likelihood(x[row : row + 1]).value, value[row : row + 1])
    assert torch.equal(model.states(x[4:5]), model.states(mixed)[4:5])


def test_states_and_their_posterior():
    """Where emissions are far apart the path is where they are; probabilities sum to 1; -1 behind the end."""
    model = HiddenMarkov.from_parameters((4,), torch.ones(2), torch.ones(2, 2), means=torch.tensor([[-50.0], [50.0]]))
    x = torch.tensor([[-50.0, 50.0, 50.0, math.nan], [50.0, math.nan, -50.0, -50.0]])
    paths, posterior = model.states(x), model.posterior_states(x)
    assert paths[0].tolist() == [0, 1, 1, -1]
    assert paths[1, [0, 2, 3]].tolist() == [1, 0, 0]
    assert posterior.shape == (2, 4, 2)
    torch.testing.assert_close(posterior.sum(2), torch.ones(2, 4, dtype=F64))
    torch.testing.assert_close(posterior[0, 3], torch.tensor([0.5, 0.5], dtype=F64))


def test_missing_cells_are_filled_by_bayes_rule():
    """Three steps, the middle one missing: mean Σ p(z | x) μ by enumeration; mean and spread of 4,000 draws. Seed 0."""
    model = HiddenMarkov.from_parameters((3,), INITIAL, MOVES, means=3 * MEANS[:, :1], covariances=torch.ones(3, 1))
    x = torch.tensor([[0.3, math.nan, 4.0]], dtype=F64)
    b = torch.exp(-0.5 * (x[0, [0, 2], None] - 3 * MEANS[:, 0]) ** 2)
    joint = torch.einsum("i,i,ij,jk,k->j", INITIAL, b[0], MOVES, MOVES, b[1])
    share, centres = joint / joint.sum(), 3 * MEANS[:, 0]
    mean = float(share @ centres)
    filled = model.impute(x)
    assert float(filled[0, 1]) == pytest.approx(mean, rel=1e-12)
    assert torch.equal(filled[:, [0, 2]], x[:, [0, 2]])
    drawn = model.impute(x.expand(4000, -1), 1)[0, :, 1]
    variance = float(share @ centres**2) - mean**2 + 1
    assert abs(float(drawn.mean()) - mean) < 4.5 * math.sqrt(variance / 4000)
    assert abs(float(drawn.var()) / variance - 1) < 0.2
    with pytest.raises(InputError, match="at least 1, got 0"):
        model.impute(x, 0)
    assert not isinstance(model, Conditioner), "what is left would be a chain that changes with time"


@each_kind
def test_filled_rows_are_whole_and_keep_what_was_there(kind: str):
    model = truth(kind)
    x = with_holes(model.sample(6, seed=11))
    for filled in (model.impute(x), *model.impute(x, 2, seed=1)):
        assert bool(filled.isfinite().all())
        assert torch.equal(filled[~x.isnan()], x[~x.isnan()].double())
    alone = model.impute(x[3:4], 2, ids=torch.tensor([3]), seed=1)
    torch.testing.assert_close(alone[:, 0], model.impute(x, 2, seed=1)[:, 3], rtol=1e-12, atol=1e-12)


def test_units_are_those_of_a_feature_at_all_times():
    """Law 25: fits to x and to a·x + b, a and b one number a feature, are Σ log a apart; the codec has no axis of time."""
    x = truth().sample(60, seed=12).float()
    a, b = torch.tensor([4.0, 0.5]), torch.tensor([8.0, -64.0])
    settings: dict[str, Any] = {"progress": False, "n_states": 3, "restarts": 1}
    one, other = (jensen.fit(split_of(y), "hmm", **settings) for y in (x, a * x + b))
    assert one.codec.scale.shape == (1, 1, 2)
    steps = x[:40].double().flatten(0, 2)
    torch.testing.assert_close(one.codec.shift.flatten(), steps.mean(0))
    torch.testing.assert_close(one.codec.scale.flatten(), steps.std(0, correction=0))
    gap = one.log_likelihood(x).value - other.log_likelihood(a * x + b).value
    torch.testing.assert_close(gap, torch.full_like(gap, T * float(a.log().sum())), rtol=1e-4, atol=1e-2)
    scalar = jensen.fit(split_of(x[:, 0, :, 0]), "hmm", **settings)
    assert scalar.codec.scale.numel() == 1


def split_of(x: Tensor) -> Split:
    part = [rows(p) for p in (x[:40], x[40:50], x[50:])]
    return Split(*part, space=Real())


def test_ragged_rows_train_and_score_through_the_pipeline(tmp_path):
    x = with_holes(truth().sample(60, seed=13)).float()
    pipeline = jensen.fit(split_of(x), "hmm", progress=False, n_states=2, restarts=1)
    pipeline.save(tmp_path / "run")
    again = jensen.load(tmp_path / "run")
    assert torch.equal(again.log_likelihood(x).value, pipeline.log_likelihood(x).value)
    assert pipeline.config["model"]["options"]["emission"] == "gaussian"
    assert pipeline.config["fit"]["converged"]
    assert bool(pipeline.impute(x).isfinite().all())
    with pytest.raises(InputError, match=r"a 'hmm' model of .* has no exact conditionals; .*; impute with draws"):
        pipeline.conditional({0: 1.0})
    assert built(pipeline.config).model.event_shape == (1, T, 2)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no states": ({"n_states": 0}, "n_states must be at least 1, got 0"),
    "no tolerance": ({"tolerance": math.nan}, "tolerance must be at least 0 and finite, got nan"),
    "negative prior": ({"prior_counts": -1.0}, "prior_counts must be at least 0 and finite, got -1.0"),
    "emission": ({"emission": "categorical"}, "emission must be gaussian or mixture .* got 'categorical'"),
    "unknown": ({"covariance": "round"}, "covariance must be one of diag, full, tied, spherical, got 'round'"),
    "too many states": ({"n_states": 10**5}, "parameters of 100000 states .* do not fit in memory"),
}


@pytest.mark.parametrize("what", WRONG)
def test_settings_that_cannot_be_are_refused(what: str):
    settings, message = WRONG[what]
    with pytest.raises(InputError, match=message):
        HiddenMarkov((4, 2), Real(), **settings)


def test_absurd_sizes_are_refused_before_memory_is_taken():
    with pytest.raises(InputError, match="parameters of 64 states with 4096 numbers a step do not fit"):
        HiddenMarkov((1, 8, 4096), Levels(65536), n_states=64)
    with pytest.raises(InputError, match="1000 states at each of 10000000 steps do not fit"):
        HiddenMarkov((10**7,), Real(), n_states=1000)
    with pytest.raises(InputError, match="covariance diag"):
        HiddenMarkov((2, 40000), Real(), n_states=2, covariance="full")


GIVEN: dict[str, tuple[dict[str, Any], str]] = {
    "neither": ({}, "give either means or probabilities"),
    "negative": ({"means": MEANS, "initial": -INITIAL}, "initial must be at least 0"),
    "not square": ({"means": MEANS, "transitions": MOVES[:2]}, r"transitions must be \(3, 3\), got \(2, 3\)"),
    "dims": ({"means": MEANS[:, :1]}, r"means must have shape \(3, 2\), got \(3, 1\)"),
    "spread": (
        {"means": MEANS, "covariances": torch.ones(2, 2)},
        r"spread_variances must have shape \(3, 2\), got \(2, 2\)",
    ),
    "not definite": (
        {"means": MEANS, "covariances": -torch.ones(3, 2)},
        "spread_variances must be positive and finite, got -1",
    ),
}


@pytest.mark.parametrize("what", GIVEN)
def test_parameters_that_do_not_fit_are_refused(what: str):
    given, message = GIVEN[what]
    with pytest.raises(InputError, match=message):
        HiddenMarkov.from_parameters((4, 2), **{"initial": INITIAL, "transitions": MOVES, **given})


def test_data_that_cannot_be_learned_are_refused():
    x = torch.randn(20, 4, 2, generator=torch.Generator().manual_seed(0))
    x[:, :, 1] = 3.0
    with pytest.raises(InputError, match=r"number 2 of 2 of each step is constant in the training rows \(value 3\)"):
        HiddenMarkov.codec(Split(rows(x), rows(x), rows(x), Real()))
    x[:, :, 1] = math.nan
    with pytest.raises(InputError, match="number 2 of 2 of each step has no values"):
        HiddenMarkov.codec(Split(rows(x), rows(x), rows(x), Real()))
    model = HiddenMarkov((2,), Real(), n_states=9)
    with pytest.raises(InputError, match="n_states is 9, more than the 4 steps"):
        model.fit(rows(torch.randn(2, 2)))


@pytest.mark.parametrize("covariance", ["diag", "full"])
def test_hmmlearn_agrees(covariance: str):
    """A cross-check: the same parameters give the same log p, path and posterior; five steps of EM without a prior from the
    same start end in the same place, to 1e-6.
    """
    peer_module = pytest.importorskip("hmmlearn.hmm")
    model = truth(covariance)
    x = model.sample(30, seed=14)[:, 0]
    flat, ends = x.reshape(-1, 2).numpy(), [T] * 30
    peer = peer_module.GaussianHMM(
        3, covariance, n_iter=5, tol=-math.inf, init_params="", min_covar=0, means_weight=0, covars_prior=0,
        covars_weight=0, transmat_prior=1, startprob_prior=1,
    )  # fmt: skip
    peer.startprob_, peer.transmat_, peer.means_ = INITIAL.numpy(), MOVES.numpy(), MEANS.numpy()
    peer.covars_ = MATRICES.numpy() if covariance == "full" else MATRICES.diagonal(dim1=1, dim2=2).numpy()
    assert float(model.log_likelihood(x[:, None]).value.sum()) == pytest.approx(peer.score(flat, ends), rel=1e-10)
    assert model.states(x[:, None]).flatten().tolist() == peer.predict(flat, ends).tolist()
    posterior = model.posterior_states(x[:, None]).flatten(0, 1)
    np.testing.assert_allclose(posterior.numpy(), peer.predict_proba(flat, ends), atol=1e-9)
    peer.fit(flat, ends)
    now, mode = model.parameters_now, torch.eye(2, dtype=F64) if covariance == "full" else torch.ones(2, dtype=F64)
    free = replace(now.emission, prior=Prior(0.0, 0.0, mode), centre=torch.zeros(2, dtype=F64))
    problem = Problem(Sequences(rows(x[:, None]), Layout((1, T, 2)), 3), 0.0, Settings(0.0, 5))
    found = problem.ascend(Parameters(now.chain, free)).parameters
    np.testing.assert_allclose(found.chain.transitions.numpy(), peer.transmat_, atol=1e-7)
    np.testing.assert_allclose(found.chain.initial.numpy(), peer.startprob_, atol=1e-7)
    np.testing.assert_allclose(found.emission.tensors()["means"].numpy(), peer.means_, atol=1e-7)


@each_kind
def test_blocks_hand_every_row_its_own_numbers(kind: str, monkeypatch: pytest.MonkeyPatch):
    """Whatever is asked of rows, two at a time, the last block half filled: the same as all at once."""
    model = truth(kind)
    x = with_holes(model.sample(7, seed=1))

    def answers() -> list[Tensor]:
        posterior = model.posterior_states(x)
        return [model.log_likelihood(x).value, model.states(x), posterior, model.impute(x), model.impute(x, 3, seed=1)]

    whole = answers()
    monkeypatch.setattr("jensen.hmm.inference.at_once", lambda times, width: 2)
    for one, other in zip(answers(), whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
