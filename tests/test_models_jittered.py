"""`jittered`: its likelihood against brute force, its samples against its own distribution, and that it is unmasked."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

import jensen
from jensen.data.examples import Examples
from jensen.data.space import Levels, Real
from jensen.errors import InputError
from jensen.models import jittered
from jensen.models.jittered import Jittered


def rows_of(x: torch.Tensor) -> Examples:
    return Examples(x, torch.arange(len(x)))


def filled(model: Jittered, stored: torch.Tensor) -> Jittered:
    model.fit(rows_of(stored))
    return model


def test_the_density_is_a_mixture_of_normals_around_the_rows():
    stored, x = torch.randn(7, 3).double(), torch.randn(5, 3).double()
    model = filled(Jittered((3,), Real(), scale=0.3, rows=7), stored.float())
    parts = torch.distributions.Normal(stored.float().double(), 0.3).log_prob(x[:, None]).sum(2)
    torch.testing.assert_close(model.log_likelihood(x).value, parts.logsumexp(1) - math.log(7), rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize(("k", "scale"), [(2, 0.5), (5, 0.1), (5, 2.0), (17, 0.2)])
def test_the_mass_is_the_formula_level_by_level(k: int, scale: float):
    space = Levels(k, -1.0, 2 / (k - 1))
    levels = space.values()
    stored, x = (levels[torch.randint(k, (n, 4))] for n in (6, 9))
    model = filled(Jittered((4,), space, scale=scale, rows=6), stored)
    kernel = torch.softmax(-((levels - levels[:, None]).square()) / (2 * scale**2), 1)  # given v, over y
    cells = kernel[space.index(stored)[None], space.index(x)[:, None]].log().sum(2)
    torch.testing.assert_close(model.log_likelihood(x).value, cells.logsumexp(1) - math.log(6), rtol=1e-12, atol=1e-11)


def test_a_mass_sums_to_one_at_any_scale():
    space = Levels(4, -1.0, 2 / 3)
    every = space.values()[torch.tensor(list(itertools.product(range(4), repeat=3)))]
    for scale in (0.01, 0.3, 100.0):
        model = filled(Jittered((3,), space, scale=scale, rows=5), every[10:15])
        assert float(model.log_likelihood(every).value.exp().sum()) == pytest.approx(1, abs=1e-12)


def test_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch):
    stored, x = torch.randn(50, 3), torch.randn(40, 3)
    model = filled(Jittered((3,), Real(), rows=50), stored)
    whole = model.log_likelihood(x).value
    monkeypatch.setattr(jittered, "STORED_BLOCK", 7)
    monkeypatch.setattr(jittered, "BLOCK", 16)
    torch.testing.assert_close(model.log_likelihood(x).value, whole, rtol=1e-12, atol=1e-12)


def test_level_samples_follow_the_mass():
    """χ² of 20,000 draws over 4 × 4 cells, seed 0; p < 0.001 fails."""
    space = Levels(4, -1.0, 2 / 3)
    model = filled(Jittered((2,), space, scale=0.6, rows=3), space.values()[torch.tensor([[0, 0], [3, 1], [2, 2]])])
    every = torch.tensor(list(itertools.product(range(4), repeat=2)))
    p = model.log_likelihood(space.values()[every]).value.exp()
    drawn = space.index(model.sample(20_000, seed=0))
    counts = torch.bincount(drawn[:, 0] * 4 + drawn[:, 1], minlength=16)
    assert chisquare(counts.numpy(), (p / p.sum() * 20_000).numpy()).pvalue > 0.001


def test_real_samples_are_rows_plus_noise_of_that_scale():
    stored = torch.tensor([[0.0, 0.0], [100.0, 0.0], [0.0, 100.0]])
    x = filled(Jittered((2,), Real(), scale=0.5, rows=3), stored).sample(6000, seed=0)
    nearest = torch.cdist(x, stored.double()).argmin(1)
    assert torch.bincount(nearest).numpy() == pytest.approx([2000] * 3, abs=5 * math.sqrt(6000 * 2 / 9))
    assert float((x - stored[nearest]).std()) == pytest.approx(0.5, rel=0.05)


def test_which_rows_are_kept_depends_on_ids_alone():
    x, order = torch.randn(30, 2), torch.randperm(30)
    model, other = (Jittered((2,), Real(), rows=8) for _ in range(2))
    model.fit(rows_of(x))
    other.fit(Examples(x[order], order))
    assert {tuple(row) for row in model.stored.tolist()} == {tuple(row) for row in other.stored.tolist()}
    assert {tuple(row) for row in model.stored.tolist()} <= {tuple(row) for row in x.tolist()}


def test_there_are_as_many_rows_as_asked_for_and_there_are(monkeypatch: pytest.MonkeyPatch):
    data = jensen.load_data(np.random.default_rng(0).normal(size=(100, 2)).astype(np.float32))
    assert jensen.fit(data, "jittered", progress=False).config["model"]["options"] == {"rows": len(data.train)}
    assert jensen.fit(data, "jittered", rows=9, scale=0.2, progress=False).model.stored.shape == (9, 2)
    monkeypatch.setattr(jittered, "MOST_CELLS", 40)
    assert jensen.fit(data, "jittered", progress=False).model.stored.shape == (20, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"scale": 0.0}, "scale, .* got 0"), ({"rows": 0}, "rows must be from 1 .* got 0"), ({"scale": 1e9}, "got 1")],
)
def test_what_cannot_be_is_refused(options: dict[str, float], message: str):
    with pytest.raises(InputError, match=message):
        Jittered((2,), Real(), **options)


def test_more_rows_than_there_are_is_refused():
    with pytest.raises(InputError, match="at most the 3 training rows there are, got 5"):
        Jittered((2,), Real(), rows=5).fit(rows_of(torch.randn(3, 2)))


def test_many_rows_are_all_kept():
    """More than are read at a time, in keys and in rows: each of them, once."""
    x = torch.arange(5000.0)[:, None]
    assert sorted(filled(Jittered((1,), Real(), rows=5000), x).stored[:, 0].tolist()) == x[:, 0].tolist()
