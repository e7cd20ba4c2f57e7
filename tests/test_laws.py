"""Laws of one dimension: they sum or integrate to one, and drawing is their inverse distribution function."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, Normal, Poisson

from jensen.data.space import Levels
from jensen.laws.law import Law
from jensen.laws.levels import Bernoulli, Categories, Counts, Logistics, Rounded
from jensen.laws.real import Normals
from jensen.laws.total import summed

SPACE = Levels(9, -1.0, 0.25)
BITS = Levels(2, -1.0, 2.0)
SPACES = {"bernoulli": BITS, "categories": SPACE, "logistics": SPACE, "rounded": SPACE, "counts": SPACE}
ON_LEVELS: dict[str, Law] = {
    "bernoulli": Bernoulli(BITS),
    "categories": Categories(SPACE),
    "logistics": Logistics(SPACE, 3),
    "rounded": Rounded(SPACE),
    "counts": Counts(SPACE),
}


def parameters(law: Law, rows: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(rows, law.outputs)))


def masses(word: str, given: Tensor) -> Tensor:
    """P of every level, `(rows, k)`."""
    levels = SPACES[word].values()
    return torch.stack([ON_LEVELS[word].log_prob(given, v.expand(len(given))) for v in levels], 1).exp()


@pytest.mark.parametrize("word", ON_LEVELS)
def test_masses_sum_to_one(word: str):
    p = masses(word, 3 * parameters(ON_LEVELS[word], 20))
    torch.testing.assert_close(p.sum(1), torch.ones(20, dtype=torch.float64), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("word", ON_LEVELS)
def test_draws_have_the_law(word: str):
    """Over an even grid of both numbers, the share of each level is its mass up to the grid's width."""
    law, side = ON_LEVELS[word], 400
    given = parameters(law, 1, seed=1)
    axis = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    drawn = law.draw(given.expand(side * side, -1), torch.cartesian_prod(axis, axis))
    space = SPACES[word]
    share = torch.bincount(space.index(drawn), minlength=space.k).double() / side**2
    torch.testing.assert_close(share, masses(word, given)[0], rtol=0, atol=5 / side)
    assert set(drawn.tolist()) <= set(space.values().tolist())


@pytest.mark.parametrize("word", ["bernoulli", "categories", "counts"])
def test_means_are_those_of_the_masses(word: str):
    given = parameters(ON_LEVELS[word], 20)
    mean = (masses(word, given) * SPACES[word].values()).sum(1)
    torch.testing.assert_close(ON_LEVELS[word].mean(given), mean, rtol=1e-12, atol=1e-12)


def test_counts_are_poissons_below_k():
    """At a rate where k counts hold nearly all of the mass, against torch's law; the start is the maximum likelihood rate there."""
    many = Levels(40)
    law, count = Counts(many), many.values()
    rate = torch.tensor(3.7, dtype=torch.float64)
    own = law.log_prob(rate.log().expand(40, 1), count)
    torch.testing.assert_close(own, Poisson(rate).log_prob(count), rtol=1e-12, atol=1e-12)
    start = law.start(own.exp())
    assert start is not None
    assert float(start.exp()) == pytest.approx(3.7, rel=1e-10)


def test_laws_take_values_with_fewer_dimensions_than_parameters():
    """`(draws, B)` parameters of `(B,)` values: what a bound with several draws asks for."""
    for word, law in ON_LEVELS.items():
        given = parameters(law, 12).reshape(3, 4, -1)
        x = SPACES[word].values()[[0, 1, 1, 0]]
        apart = torch.stack([law.log_prob(each, x) for each in given])
        torch.testing.assert_close(law.log_prob(given, x), apart)


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


@pytest.mark.parametrize("shape", [(4, 3, 5), (2, 2, 3, 5), (3, 5), (4, 1, 5)])
@pytest.mark.parametrize("slab", [1, 11, 1 << 18])
@pytest.mark.parametrize("word", ON_LEVELS)
def test_the_total_is_the_sum_and_so_is_its_gradient(
    word: str, shape: tuple[int, ...], slab: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("jensen.laws.total.SLAB", slab)
    law, space, rng = ON_LEVELS[word], SPACES[word], np.random.default_rng(3)
    given = torch.from_numpy(2 * rng.normal(size=(*shape, law.outputs))).requires_grad_()
    x = space.first + space.step * torch.from_numpy(rng.integers(0, space.k, (3, 5))).double()
    weight = torch.from_numpy(rng.normal(size=torch.broadcast_shapes(shape, x.shape)[:-1]))
    whole = given.expand(*torch.broadcast_shapes(shape, x.shape), -1)
    found, wanted = law.total(given, x), law.log_prob(whole, x).sum(-1)
    torch.testing.assert_close(found, wanted, rtol=1e-13, atol=1e-13)
    with torch.no_grad():
        torch.testing.assert_close(law.total(given, x), wanted, rtol=1e-13, atol=1e-13)
    slopes = [torch.autograd.grad((weight * of).sum(), given)[0] for of in (found, wanted)]
    torch.testing.assert_close(*slopes, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("cells", "most"), [(1, 0.0), (63, 0.0), (64, 3e-7), (65, 3e-7), (3072, 6e-8)])
def test_a_float32_sum_rounds_no_more_than_its_numbers(cells: int, most: float):
    """Half an ulp is 6e-8; float32 throughout loses twice that at 3,072 cells."""
    x = -3 * torch.rand(500, cells, generator=torch.Generator().manual_seed(0)) ** 4
    wanted = x.double().sum(-1)
    assert summed(x).dtype == torch.float64
    assert float(((summed(x) - wanted) / wanted).abs().max()) <= most
    torch.testing.assert_close(summed(x.double()), wanted, rtol=1e-14, atol=0)


def test_the_total_of_halves_is_summed_in_more():
    """In bfloat16 784 terms of 0.69 would be off by whole nats."""
    law = Bernoulli(BITS)
    given = torch.zeros(2, 784, 1, dtype=torch.bfloat16, requires_grad=True)
    x = torch.full((2, 784), BITS.first)
    found = law.total(given, x)
    assert found.tolist() == pytest.approx([-784 * np.log(2)] * 2, abs=1e-3)
    (slope,) = torch.autograd.grad(found.sum(), given)
    assert slope.dtype == torch.bfloat16
    torch.testing.assert_close(slope.float(), torch.full((2, 784, 1), -0.5))


@pytest.mark.parametrize("log_odds", [0.0, 1e-3, 1.0, 15.0, 40.0, 200.0])
def test_bernoulli_sums_of_float32_are_those_of_float64_at_any_log_odds(log_odds: float):
    """A cell may lose half an ulp of 1 or of its log-odds, and its slope the first."""
    law, generator = Bernoulli(BITS), torch.Generator().manual_seed(0)
    upper = torch.rand(20, 784, generator=generator) < 0.5
    given = torch.where(torch.rand(20, 784, generator=generator) < 0.5, log_odds, -log_odds)[..., None].requires_grad_()
    x = torch.where(upper, BITS.first + BITS.step, BITS.first)
    found, wanted = law.total(given, x), law.total(given.double(), x.double())
    ulp = torch.finfo(torch.float32).eps / 2
    torch.testing.assert_close(found, wanted, rtol=2 * ulp, atol=784 * ulp)
    slopes = [torch.autograd.grad(of.sum(), given)[0] for of in (found, wanted)]
    torch.testing.assert_close(*slopes, rtol=0, atol=2 * ulp)
