"""Laws of one dimension: they sum or integrate to one, and drawing is their inverse distribution function."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, Normal

from jensen.autoregressive.conditionals import Categories, Law, Logistics, Normals
from jensen.data.space import Levels

SPACE = Levels(9, -1.0, 0.25)
ON_LEVELS: dict[str, Law] = {"categories": Categories(SPACE), "logistics": Logistics(SPACE, 3)}


def parameters(law: Law, rows: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(rows, law.outputs)))


def masses(law: Law, given: Tensor) -> Tensor:
    """P of every level, `(rows, k)`."""
    return torch.stack([law.log_prob(given, v.expand(len(given))) for v in SPACE.values()], 1).exp()


@pytest.mark.parametrize("word", ON_LEVELS)
def test_masses_sum_to_one(word: str):
    p = masses(ON_LEVELS[word], 3 * parameters(ON_LEVELS[word], 20))
    torch.testing.assert_close(p.sum(1), torch.ones(20, dtype=torch.float64), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("word", ON_LEVELS)
def test_draws_have_the_law(word: str):
    """Over an even grid of both numbers, the share of each level is its mass up to the grid's width."""
    law, side = ON_LEVELS[word], 400
    given = parameters(law, 1, seed=1)
    axis = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    drawn = law.draw(given.expand(side * side, -1), torch.cartesian_prod(axis, axis))
    share = torch.bincount(SPACE.index(drawn), minlength=SPACE.k).double() / side**2
    torch.testing.assert_close(share, masses(law, given)[0], rtol=0, atol=5 / side)
    assert set(drawn.tolist()) <= set(SPACE.values().tolist())


def test_normals_are_torchs_mixture():
    law, x = Normals(4), torch.linspace(-3, 3, 20, dtype=torch.float64)
    given = parameters(law, 20)
    logits, loc, log_scale = given.split(4, -1)
    theirs = MixtureSameFamily(Categorical(logits=logits), Normal(loc, log_scale.exp()))
    torch.testing.assert_close(law.log_prob(given, x), theirs.log_prob(x), rtol=1e-12, atol=1e-12)


def test_draws_of_normals_have_the_law():
    """The empirical distribution function over an even grid of both numbers, against the mixture's."""
    law, side = Normals(3), 300
    given, axis = parameters(law, 1, seed=2), (torch.arange(side, dtype=torch.float64) + 0.5) / side
    drawn = law.draw(given.expand(side * side, -1), torch.cartesian_prod(axis, axis)).sort().values
    logits, loc, log_scale = given.split(3, -1)
    theirs = MixtureSameFamily(Categorical(logits=logits[0]), Normal(loc[0], log_scale[0].exp()))
    place = (torch.arange(side * side, dtype=torch.float64) + 0.5) / side**2
    assert float((theirs.cdf(drawn) - place).abs().max()) < 3 / side


def test_the_ends_of_the_unit_interval_are_finite_draws():
    law = Normals(2)
    u = torch.tensor([[0.0, 0.0], [1 - 2.0**-53, 1 - 2.0**-53]], dtype=torch.float64)
    assert bool(law.draw(torch.zeros(2, 6, dtype=torch.float64), u).isfinite().all())


def test_categories_start_at_the_histogram():
    counts = torch.arange(1.0, 10.0)
    given = Categories(SPACE).start(counts)
    assert given is not None
    torch.testing.assert_close(given.softmax(0), counts / counts.sum())


def test_a_normal_cannot_collapse_on_a_row():
    given = torch.tensor([[0.0, 0.0, -100.0]], dtype=torch.float64)
    assert float(Normals(1).log_prob(given, torch.zeros(1).double())) == pytest.approx(
        -np.log(1e-3) - 0.918938533, rel=1e-8
    )
