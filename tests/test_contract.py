"""The contract that every model of `jensen.models.MODELS` passes, on levels and on real values, images and vectors.

A new family needs a row in `FAST` (settings that fit in a second) and nothing else here. A family whose `spaces` are levels
alone skips what is about real values; that it refuses them is a test.
"""

import itertools
import math
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import jensen
from jensen.config import built
from jensen.data.examples import Batch, Examples, Split, as_examples
from jensen.data.space import Levels, Real
from jensen.errors import InputError
from jensen.models import MODELS, model_class
from jensen.models.model import ClosedForm, DensityModel, Trained
from jensen.models.pipeline import Pipeline
from jensen.resolving import proposed


@dataclass(frozen=True)
class Fast:
    """How to fit and score a family in a moment."""

    fit: dict[str, Any] = field(default_factory=dict)
    score: dict[str, Any] = field(default_factory=dict)
    careful: dict[str, Any] = field(default_factory=dict)
    on_level_images: dict[str, Any] = field(default_factory=dict)


FAST = {
    "independent": Fast(),
    "bayes-net": Fast(),
    "gaussian": Fast(),
    "gmm": Fast(fit={"n_components": 2}),
    "kde": Fast(),
    "hmm": Fast(fit={"n_states": 3, "restarts": 1}),
    "jittered": Fast(fit={"scale": 0.3}),
    "ar": Fast(
        fit={"steps": 150, "size": "tiny", "batch_size": 64, "patience": 0, "dropout": 0.0, "precision": "float32"},
        on_level_images={"steps": 30, "batch_size": 32},
    ),
    "flow": Fast(
        fit={
            "steps": 25,
            "layers": 2,
            "width": 16,
            "depth": 1,
            "bins": 4,
            "lr": 2e-3,
            "batch_size": 64,
            "patience": 0,
            "dropout": 0.0,
        },
        on_level_images={"kind": "coupling"},
    ),
    "naive-bayes": Fast(),
    "ppca": Fast(),
    "vae": Fast(
        fit={"steps": 60, "latent_dim": 2, "width": 16, "depth": 1, "batch_size": 64, "patience": 0},
        score={"repetitions": 4},
        careful={"repetitions": 64},
        on_level_images={"network": "conv", "width": 8, "steps": 12, "batch_size": 32},
    ),
    "autoencoder": Fast(
        fit={"steps": 200, "lr": 1e-2, "latent_dim": 2, "width": 16, "depth": 1, "batch_size": 64, "patience": 0},
        on_level_images={"network": "conv", "width": 8, "steps": 12, "batch_size": 32},
    ),
    "gan": Fast(fit={"steps": 30, "width": 16, "depth": 1, "batch_size": 32}),
    "diffusion": Fast(
        fit={
            "steps": 150,
            "timesteps": 10,
            "size": "tiny",
            "batch_size": 64,
            "patience": 0,
            "network": "mlp",
            "precision": "float32",
        },
        score={"repetitions": 2, "calls": None},
        careful={"repetitions": 24, "calls": None},
        on_level_images={"network": "unet", "steps": 8, "batch_size": 16, "timesteps": 4},
    ),
}
KINDS = ("level images", "level vectors", "real images", "real vectors")
ROWS = 200
DENSITIES = [word for word in MODELS if issubclass(model_class(word), DensityModel)]
LEVELS_ONLY = [word for word in MODELS if Real not in model_class(word).spaces]


def rows_of(kind: str) -> np.ndarray[Any, Any]:
    """Rows whose dimensions hang together, seed 0."""
    shape = (1, 4, 5) if "images" in kind else (2,)
    draw = np.random.default_rng(0)
    x = draw.normal(size=(ROWS, *shape)) * 0.5 + draw.normal(size=(ROWS, *[1] * len(shape)))
    if "level" in kind:
        return np.clip(np.round(2 + 1.2 * x), 0, 4).astype(np.uint8)
    return (3.0 * x - 5.0).astype(np.float32)


@cache
def split_of(kind: str) -> Split:
    return with_classes(jensen.load_data(rows_of(kind), levels=5 if "level" in kind else None))


def with_classes(split: Split) -> Split:
    """The rows in two classes, by whether their first cell is above the middle of the training rows; models that learn from
    no labels do not look.
    """
    middle = split.train.x.flatten(1)[:, 0].double().mean()

    def part(rows: Examples) -> Examples:
        return replace(rows, context=(rows.x.flatten(1)[:, 0].double() > middle).long())

    return replace(split, train=part(split.train), valid=part(split.valid), test=part(split.test))


def fitted_to(word: str, split: Split, **more: Any) -> Pipeline:
    if isinstance(split.space, Real) and word in LEVELS_ONLY:
        pytest.skip("scores levels only")
    return jensen.fit(split, word, progress=False, **{**FAST[word].fit, **more})


@cache
def fitted(word: str, kind: str) -> Pipeline:
    return fitted_to(word, split_of(kind), **(FAST[word].on_level_images if kind == "level images" else {}))


@cache
def scored(word: str, kind: str) -> Any:
    return fitted(word, kind).log_likelihood(split_of(kind).test, **how_to_score(word, kind))


def home(word: str) -> str:
    """Vectors of a kind that the family scores."""
    return "level vectors" if word in LEVELS_ONLY else "real vectors"


def how_to_score(word: str, kind: str) -> dict[str, Any]:
    """Options that fix the number of draws, so that values do not depend on how many rows there are."""
    dequantised = Levels not in model_class(word).spaces and "level" in kind
    return FAST[word].score | ({"repetitions": 8} if dequantised else {})


def close(word: str, a: Tensor, b: Tensor) -> bool:
    """Bit for bit where no network is, to float tolerance where one is."""
    if not issubclass(model_class(word), Trained):
        return torch.equal(a, b)
    return torch.allclose(a.double(), b.double(), rtol=1e-4, atol=1e-4)


each_model = pytest.mark.parametrize("word", MODELS)
each_density = pytest.mark.parametrize("word", DENSITIES)  # models with a likelihood
each_kind = pytest.mark.parametrize("kind", KINDS)


def test_every_family_is_here():
    assert set(FAST) == set(MODELS)


@each_density
@each_kind
def test_fitting_improves_held_out_data(word: str, kind: str):
    pipeline = fitted(word, kind)
    torch.manual_seed(0)
    before = built(pipeline.config).log_likelihood(split_of(kind).test, **how_to_score(word, kind))
    assert scored(word, kind).mean > before.mean


@each_model
@each_kind
def test_samples_look_like_the_data(word: str, kind: str):
    pipeline, train = fitted(word, kind), split_of(kind).train
    new = pipeline.sample(7, seed=1)
    assert new.shape == (7, *train.event_shape)
    assert new.dtype == train.x.dtype
    assert not isinstance(pipeline.space, Levels) or int(new.max()) < pipeline.space.k
    assert bool(torch.isfinite(new.double()).all())
    if word in DENSITIES:
        assert bool(torch.isfinite(pipeline.log_likelihood(new, **how_to_score(word, kind)).value).all())


@each_model
@each_kind
def test_a_seed_names_the_samples(word: str, kind: str):
    pipeline = fitted(word, kind)
    new = pipeline.sample(9, seed=3)
    assert torch.equal(new, pipeline.sample(9, seed=3))
    for again in (pipeline.sample(9, seed=3, batch_size=2), pipeline.sample(9, seed=3, batch_size=4)):
        assert close(word, new, again)
    assert close(word, new[:5], pipeline.sample(5, seed=3, batch_size=1))
    assert not torch.equal(new, pipeline.sample(9, seed=4))


@each_density
def test_a_seed_names_the_draws_of_a_score(word: str):
    """Where values are drawn, another seed gives other ones; where they are exact there is nothing to draw."""
    pipeline, test = fitted(word, "level vectors"), split_of("level vectors").test
    one, other = (pipeline.log_likelihood(test, seed=seed, **FAST[word].score) for seed in (1, 2))
    assert torch.equal(one.value, other.value) == (one.stderr is None)


@each_density
@pytest.mark.parametrize("kind", ["level vectors", "real vectors"])
def test_error_bars_are_the_spread_over_seeds(word: str, kind: str):
    """40 rows under 12 seeds: about 450 degrees of freedom on either side of the ratio, which then has a standard
    error near 0.05. Seeds 0 … 11; failure rate below 1e-4.
    """
    if scored(word, kind).stderr is None:
        return
    pipeline, test = fitted(word, kind), split_of(kind).test
    found = [pipeline.log_likelihood(test, seed=seed, **FAST[word].score) for seed in range(12)]
    spread = torch.stack([ll.value for ll in found]).var(0).mean()
    claimed = torch.stack([ll.stderr for ll in found]).square().mean()
    assert 0.8 < float((spread / claimed).sqrt()) < 1.25


def test_what_is_beyond_the_levels_becomes_the_end_levels():
    pipeline = fitted("independent", "level vectors")
    assert pipeline.decode(torch.tensor([[-9.0, 9.0], [1.4, 2.6]])).tolist() == [[0, 4], [1, 3]]


@each_density
@pytest.mark.parametrize("kind", ["level vectors", "real vectors"])
def test_a_tolerance_is_in_the_unit_of_the_headline(word: str, kind: str, monkeypatch: pytest.MonkeyPatch):
    """A plan gets it in nats of the whole row: 2 dims of 0.02 bits, or of 0.02 nats; 0.01 if none is given."""
    pipeline, test = fitted(word, kind), split_of(kind).test
    seen: list[float] = []

    def plan(pilot: Batch, rows: int, *, tolerance: float, seed: int, **options: Any) -> dict[str, Any]:
        seen.append(tolerance)
        assert (len(pilot.x), rows) == (len(pilot.id), len(test))
        return how_to_score(word, kind)

    monkeypatch.setattr(pipeline.model, "plan", plan)
    for tolerance in (0.02, None):
        pipeline.log_likelihood(test, tolerance=tolerance, **FAST[word].score)
    unit = math.log(2) if kind == "level vectors" else 1.0
    assert seen == pytest.approx([2 * 0.02 * unit, 2 * 0.01 * unit])


@each_density
@each_kind
def test_values_belong_to_rows(word: str, kind: str):
    """Neither order, nor company, nor batch size matter."""
    pipeline, test, options = fitted(word, kind), split_of(kind).test, how_to_score(word, kind)
    value = scored(word, kind).value
    assert value.shape == (len(test),)
    assert value.dtype == torch.float64
    assert close(word, value, pipeline.log_likelihood(test, batch_size=7, **options).value)
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))
    assert close(word, value[order], pipeline.log_likelihood(test.take(order), batch_size=5, **options).value)
    assert close(word, value[:1], pipeline.log_likelihood(test.take(torch.tensor([0])), **options).value)


@each_density
@each_kind
def test_a_likelihood_says_what_it_is(word: str, kind: str):
    pipeline, ll = fitted(word, kind), scored(word, kind)
    assert isinstance(pipeline.model, DensityModel)
    assert ll.measure == ("counting" if "level" in kind else "Lebesgue") == pipeline.space.measure
    assert ll.method == pipeline.model.methods[0]
    assert ll.precision == ("float32" if issubclass(model_class(word), Trained) else "float64")
    assert (ll.kind == "exact") == (ll.method == "exact") == (ll.stderr is None)
    assert ll.of
    assert ll.event_shape == pipeline.event_shape == split_of(kind).event_shape
    assert ll.given == "p(x)"
    assert ll.rows == split_of(kind).test.digest()
    assert (ll.bits_per_dim is None) == (ll.measure == "Lebesgue")
    if ll.terms:
        torch.testing.assert_close(sum(ll.terms.values()), ll.value, rtol=1e-9, atol=1e-6)
    if ll.stderr is not None:
        assert ll.stderr.shape == ll.value.shape
        assert bool((ll.stderr >= 0).all())


@each_model
@each_kind
def test_saved_is_loaded(word: str, kind: str, tmp_path):
    pipeline, test, options = fitted(word, kind), split_of(kind).test, how_to_score(word, kind)
    pipeline.save(tmp_path / "a")
    again = jensen.load(tmp_path / "a")
    state = again.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in pipeline.model.state_dict().items())
    if word in DENSITIES:
        assert torch.equal(again.log_likelihood(test, **options).value, scored(word, kind).value)
    assert torch.equal(again.sample(4, seed=5), pipeline.sample(4, seed=5))
    again.save(tmp_path / "b")
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()


@each_model
def test_fitting_again_gives_the_same_bits_and_leaves_no_trace(word: str):
    state, threads, dtype = torch.get_rng_state(), torch.get_num_threads(), torch.get_default_dtype()
    again = fitted_to(word, split_of(home(word)))
    again.sample(2)
    if word in DENSITIES:
        again.log_likelihood(split_of(home(word)).test, **FAST[word].score)
    assert torch.equal(state, torch.get_rng_state())
    assert (threads, dtype) == (torch.get_num_threads(), torch.get_default_dtype())
    weights = fitted(word, home(word)).model.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in again.model.state_dict().items())


@each_density
def test_a_mass_sums_to_one(word: str):
    """2 dimensions × 3 levels by enumeration: ΣP = 1; a bound's Σ exp stays below 1 + 5 standard errors."""
    draw = np.random.default_rng(1).integers(0, 3, (200, 1))
    rows = np.concatenate([draw, (draw + (np.arange(200)[:, None] % 5 == 0)) % 3], 1).astype(np.uint8)
    pipeline = fitted_to(word, with_classes(jensen.load_data(rows, levels=3)))
    every = torch.tensor(list(itertools.product(range(3), repeat=2)), dtype=torch.uint8)
    ll = pipeline.log_likelihood(every, **FAST[word].careful)
    p = ll.value.exp()
    if ll.kind == "exact":
        assert float(p.sum()) == pytest.approx(1, abs=1e-12)
    else:
        assert 0.1 < float(p.sum()) < 1 + 5 * float((p * ll.stderr).square().sum().sqrt())


@each_density
def test_a_density_integrates_to_one(word: str):
    """On a 41 × 41 grid that holds the data's world out to 5 standard deviations."""
    pipeline, x = fitted(word, "real vectors"), split_of("real vectors").train.x.double()
    axes = [torch.linspace(float(c.mean() - 5 * c.std()), float(c.mean() + 5 * c.std()), 41) for c in x.T]
    grid = torch.cartesian_prod(*axes).float()
    cell = math.prod(float(axis[1] - axis[0]) for axis in axes)
    ll = pipeline.log_likelihood(grid, **{**FAST[word].careful, **({"repetitions": 4} if FAST[word].careful else {})})
    p = ll.value.exp() * cell
    if ll.kind == "exact":
        assert float(p.sum()) == pytest.approx(1, abs=1e-3)
    else:
        assert 0.1 < float(p.sum()) < 1.001 + 5 * float((p * ll.stderr).square().sum().sqrt())


@each_density
def test_units_cost_their_logarithm(word: str):
    """Law 25: fits on x and on 4·x give log-likelihoods D log 4 apart; a power of two changes no digit on the way."""
    split = split_of("real vectors")
    parts = {name: as_scaled(getattr(split, name), 4.0) for name in ("train", "valid", "test")}
    other = fitted_to(word, replace(split, **parts)).log_likelihood(parts["test"], **FAST[word].score)
    torch.testing.assert_close(
        scored(word, "real vectors").value - other.value,
        torch.full((len(other),), 2 * math.log(4), dtype=torch.float64),
        rtol=1e-9,
        atol=1e-9,
    )


def as_scaled(rows: Any, factor: float) -> Any:
    return replace(rows, x=rows.x * factor)


WRONG = {
    "shape": ("level vectors", torch.zeros(3, 5, dtype=torch.uint8), r"shape \(5,\), the model was fitted to \(2,\)"),
    "float for levels": ("level vectors", torch.zeros(3, 2), "float32, the model was fitted to 5 levels"),
    "int for real": (
        "real vectors",
        torch.zeros(3, 2, dtype=torch.uint8),
        "uint8, the model was fitted to real values",
    ),
    "int64": ("level vectors", torch.zeros(3, 2, dtype=torch.int64), "got torch.int64"),
    "level too high": ("level vectors", torch.full((3, 2), 5, dtype=torch.uint8), "a value is 5, .* 5 levels"),
    "infinity": ("real vectors", torch.tensor([[1.0, math.inf]]), "infinite"),
    "no rows": ("real vectors", torch.zeros(0, 2), "no rows"),
    "one axis": ("real vectors", torch.zeros(2), r"\(rows, \.\.\.\), got \(2,\)"),
}


@each_density
@pytest.mark.parametrize("what", WRONG)
def test_what_does_not_fit_is_refused_by_name(word: str, what: str):
    kind, x, message = WRONG[what]
    with pytest.raises(InputError, match=message):
        fitted(word, kind).log_likelihood(x, **FAST[word].score)


@each_density
def test_missing_cells_are_marginalised_or_refused(word: str):
    pipeline, x = fitted(word, "real vectors"), torch.tensor([[1.0, math.nan], [math.nan, math.nan]])
    if model_class(word).accepts_missing:
        value = pipeline.log_likelihood(x).value
        assert bool(torch.isfinite(value).all())
        assert float(value[1]) == 0.0
        return
    with pytest.raises(InputError, match=r"3 cells are missing \(NaN\)"):
        pipeline.log_likelihood(x, **FAST[word].score)


@each_density
def test_wrong_questions_are_refused(word: str):
    pipeline, x = fitted(word, home(word)), split_of(home(word)).test
    with pytest.raises(InputError, match=r"method must be one of .*, got 'bogus'"):
        pipeline.log_likelihood(x, method="bogus")
    with pytest.raises(InputError, match="no option 'bogus'"):
        pipeline.log_likelihood(x, bogus=1)
    with pytest.raises(InputError, match="tolerance must be positive, got 0"):
        pipeline.log_likelihood(x, tolerance=0.0)
    with pytest.raises(InputError, match="a whole number from 1, got 0"):
        pipeline.sample(0)
    with pytest.raises(InputError, match="batch_size must be a whole number from 1, got 0"):
        pipeline.log_likelihood(x, batch_size=0)
    with pytest.raises(InputError, match="sampling from this model has no option 'bogus'"):
        pipeline.sample(1, bogus=1)
    with pytest.raises(InputError, match=r"1000000000000 samples .* do not fit in memory"):
        pipeline.sample(10**12)
    with pytest.raises(InputError, match=f"model '{word}' has no setting 'bogus'"):
        jensen.fit(split_of(home(word)), word, progress=False, bogus=1)


@pytest.mark.parametrize("word", LEVELS_ONLY)
def test_real_values_are_refused_by_families_of_levels(word: str, tmp_path):
    """Before any work: no run is begun, and a comparison that would hold the model hears of it first."""
    message = f"{model_class(word).__name__} scores levels .* these data are real values; give uint8"
    with pytest.raises(InputError, match=message):
        jensen.fit(split_of("real vectors"), word, progress=False, run=tmp_path / "run", **FAST[word].fit)
    assert not (tmp_path / "run" / "config.json").exists()
    with pytest.raises(InputError, match=message):
        proposed(word, split_of("real vectors"), FAST[word].fit)


@each_model
def test_closed_form_models_take_no_steps(word: str):
    if issubclass(model_class(word), ClosedForm):
        with pytest.raises(InputError, match="not for a time; leave out the budget and the steps"):
            jensen.fit(split_of("real vectors"), word, steps=3, progress=False)


def test_arrays_and_tensors_are_scored_alike():
    pipeline, x = fitted("gaussian", "real vectors"), split_of("real vectors").test.x
    value = pipeline.log_likelihood(x).value
    assert torch.equal(value, pipeline.log_likelihood(x.numpy()).value)
    assert torch.equal(value, pipeline.log_likelihood(as_examples(x)).value)


@each_density
def test_missing_cells_of_levels_are_marginalised_or_refused(word: str):
    """The value of a row with a missing cell is log Σ over its completions, for a mass; a bound may lie below that."""
    pipeline = fitted(word, "level vectors")
    k = split_of("level vectors").space.k
    row, hole = torch.tensor([[2.0, math.nan], [math.nan, math.nan]]), torch.arange(k, dtype=torch.uint8)
    if not pipeline.model.accepts_missing:
        with pytest.raises(InputError, match=r"3 cells are missing \(NaN\)"):
            pipeline.log_likelihood(row, **how_to_score(word, "level vectors"))
        return
    every = torch.stack([torch.full_like(hole, 2), hole], 1)
    ll = pipeline.log_likelihood(row, **how_to_score(word, "level vectors"))
    assert ll.missing == 3
    assert ll.bits_per_dim is None
    whole = pipeline.log_likelihood(every, **how_to_score(word, "level vectors"))
    assert float(ll.value[1]) == pytest.approx(0.0, abs=1e-12)
    if ll.kind == "exact":
        assert float(ll.value[0]) == pytest.approx(float(whole.value.logsumexp(0)), abs=1e-9)
    else:
        assert abs(float(ll.value[0] - whole.value.logsumexp(0))) < 0.5
    holes = np.where(np.arange(2 * ROWS).reshape(ROWS, 2) % 7 == 0, np.nan, rows_of("level vectors"))
    again = fitted_to(word, with_classes(jensen.load_data(holes, levels=5)))
    assert (
        abs(again.log_likelihood(split_of("level vectors").test.x.float()).mean - scored(word, "level vectors").mean)
        < 0.5  # classes differ where cells are missing
    )


@each_model
def test_weights_are_repeated_rows(word: str):
    """Of models in closed form; `test_training_loop.py` has those that are trained."""
    kind, train = home(word), split_of(home(word)).train
    weight = 1.0 + (torch.arange(len(train)) % 3 == 0).double()
    weighted = replace(split_of(kind), train=replace(train, weight=weight))
    if not issubclass(model_class(word), ClosedForm) or word == "jittered":
        return
    if word == "bayes-net":
        with pytest.raises(InputError, match="takes no weights"):
            fitted_to(word, weighted)
        return
    rows = torch.arange(len(train)).repeat_interleave(weight.long())
    twice = replace(split_of(kind), train=replace(train.take(rows), id=torch.arange(len(rows)) + 10_000))
    options = {"n_components": 1} if word == "gmm" else {}
    one, other = (fitted_to(word, split, **options) for split in (weighted, twice))
    test = split_of(kind).test
    torch.testing.assert_close(one.log_likelihood(test).value, other.log_likelihood(test).value, rtol=1e-3, atol=1e-3)
    assert float((one.log_likelihood(test).value - scored(word, kind).value).abs().max()) > 3e-3
