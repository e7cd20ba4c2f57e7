"""`kde`: closed forms on tiny sets, scipy's estimate, known worlds, what it says, and what it refuses."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

import jensen
from jensen.data.examples import Examples
from jensen.data.space import Levels, Real
from jensen.errors import InputError
from jensen.kernel_density import bandwidth, choice
from jensen.kernel_density.bandwidth import Sample
from jensen.kernel_density.kept import choosing, kept, merged
from jensen.models.kde import KernelDensity
from jensen.models.model import Watch

BOTH = pytest.mark.parametrize("word", ["gaussian", "epanechnikov"])


def rows_of(x: Tensor, weight: Tensor | None = None) -> Examples:
    return Examples(x, torch.arange(len(x)), weight=weight)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def filled(x: Tensor, weight: Tensor | None = None, said: list[str] | None = None, **options: object) -> KernelDensity:
    model = KernelDensity(tuple(x.shape[1:]), Real(), **options)
    model.fit(rows_of(x, weight), watch=Watch((said if said is not None else []).append, lambda note: None))
    return model


def test_one_dimension_is_scipys_with_the_same_bandwidth():
    x, at, weight = normal(80), normal(50, seed=1) * 2, torch.rand(80, generator=torch.Generator().manual_seed(2))
    peer = stats.gaussian_kde(x.numpy(), weights=weight.numpy())
    model = filled(x[:, None], weight, bandwidth="scott")
    assert float(model.bandwidths) == pytest.approx(math.sqrt(peer.covariance.item()))
    np.testing.assert_allclose(model.log_likelihood(at[:, None]).value, peer.logpdf(at.numpy()), rtol=1e-9)


@BOTH
def test_a_density_integrates_to_one(word: str):
    """On a fine grid that holds all bumps; the parabola has a kink at its end."""
    model = filled(normal(30, 2), kernel=word)
    span = float(model.stored.abs().max() + 9 * model.bandwidths.max())
    axis = torch.linspace(-span, span, 401, dtype=torch.float64)
    p = model.log_likelihood(torch.cartesian_prod(axis, axis)).value.exp()
    assert float(p.sum() * (axis[1] - axis[0]) ** 2) == pytest.approx(1, abs=1e-9 if word == "gaussian" else 3e-4)


@BOTH
def test_a_mass_sums_to_one(word: str):
    space = Levels(4, -1.0, 2 / 3)
    every = space.values()[torch.tensor(list(itertools.product(range(4), repeat=3)))]
    for width in (0.1, 0.9, 2.5, 50.0):
        model = KernelDensity.from_rows(every[10:15], torch.full((3,), width), kernel=word, space=space)
        assert float(model.log_likelihood(every).value.exp().sum()) == pytest.approx(1, abs=1e-12)


def test_it_comes_nearer_to_the_truth_with_more_rows():
    """A mixture of two normals in 2-D: the mean gap E[log p - log p̂] on 2000 test rows falls as n grows, seeds 0 … 3;
    n^(-2/3) would take it down by 0.28 from 100 to 700 rows. Not a sharp test: it fails where the rate is lost.
    """
    centre = torch.tensor([[-2.0, 0.0], [2.0, 0.5]]).double()

    def draw(n: int, seed: int) -> Tensor:
        return centre[torch.arange(n) % 2] + normal(n, 2, seed=seed) * torch.tensor([0.5, 1.0])

    def truth(x: Tensor) -> Tensor:
        parts = [
            stats.multivariate_normal(c.numpy(), np.diag([0.25, 1.0])).logpdf(x.numpy()) + math.log(0.5) for c in centre
        ]
        return torch.from_numpy(np.logaddexp(*parts))

    test = draw(2000, 9)
    gaps = [
        np.mean([float((truth(test) - filled(draw(n, s)).log_likelihood(test).value).mean()) for s in range(4)])
        for n in (100, 700)
    ]
    assert 0 < gaps[1] < 0.5 * gaps[0]


def test_leave_one_out_beats_the_rule_of_thumb_where_there_is_structure():
    """Two narrow clusters: Scott's rule smooths over the gap. Held-out rows, seed 1; the difference is some 0.4 nats."""
    x = torch.cat([normal(100, 1) * 0.1 - 2, normal(100, 1, seed=2) * 0.1 + 2])
    test = torch.cat([normal(100, 1, seed=3) * 0.1 - 2, normal(100, 1, seed=4) * 0.1 + 2])
    loo, scott = (filled(x, bandwidth=rule).log_likelihood(test).mean for rule in ("loo", "scott"))
    assert loo > scott + 0.2


@BOTH
def test_the_fit_takes_the_bandwidths_that_are_best(word: str):
    x = normal(60, 2)
    model = filled(x, kernel=word)
    sample = Sample(x, torch.full((60,), 1 / 60).double(), None)
    torch.testing.assert_close(model.bandwidths, bandwidth.best(sample, model.kernel), rtol=1e-4, atol=0)
    assert model.report()["left_out"] == pytest.approx(bandwidth.objective(sample, model.bandwidths, model.kernel))
    assert model.report()["left_out"] < model.log_likelihood(x).mean, "training rows are flattered"


def test_few_rows_choose_for_many(monkeypatch: pytest.MonkeyPatch):
    """Bandwidths of 100 of 1600 rows, narrowed by 16^(-1/6); the same whatever the order."""
    monkeypatch.setattr(choice, "MOST_CHOOSING", 100)
    x, said, order = normal(1600, 2), list[str](), torch.randperm(1600)
    model = filled(x, said=said)
    assert any("on 100 of 1600 rows, narrowed by 0.63" in line for line in said)
    sample, factor = choosing(merged(kept(rows_of(x), 1600, Real(), said.append), said.append), 100, None)
    assert (len(sample.rows), factor) == (100, pytest.approx(16 ** (-1 / 6)))
    torch.testing.assert_close(bandwidth.best(sample, model.kernel) * factor, model.bandwidths, rtol=1e-9, atol=0)
    other = KernelDensity((2,), Real())
    other.fit(Examples(x[order], order))
    torch.testing.assert_close(other.bandwidths, model.bandwidths, rtol=1e-9, atol=0)


def test_which_rows_are_kept_depends_on_ids_alone():
    x, order = normal(30, 2), torch.randperm(30, generator=torch.Generator().manual_seed(0))
    model, other = (KernelDensity((2,), Real(), rows=8) for _ in range(2))
    model.fit(rows_of(x))
    other.fit(Examples(x[order], order))
    assert len(model.stored) == 8
    assert {tuple(row) for row in model.stored.tolist()} == {tuple(row) for row in other.stored.tolist()}
    assert {tuple(row) for row in model.stored.tolist()} <= {tuple(row) for row in x.tolist()}


def test_what_is_out_of_reach_is_impossible_and_counted():
    model = KernelDensity.from_rows(torch.tensor([[0.0], [1.0]]), torch.tensor([0.5]), kernel="epanechnikov")
    ll = model.log_likelihood(torch.tensor([[0.0], [0.25], [0.5], [2.0]]).double())
    # (3/4) / h · (1 - u²) / 2 at u = 0 and ½, and nothing at 1 and beyond
    assert ll.value.exp().tolist() == pytest.approx([0.75, 0.5625, 0.0, 0.0])
    assert ll.impossible == 2


def test_equal_rows_are_one_row_of_their_weight():
    """The density, and the bandwidths: repeats and whole-number weights are the same, and h does not collapse."""
    x, count = normal(40, 2), torch.arange(40) % 3 + 1
    said: list[str] = []
    repeated, weighed = filled(x.repeat_interleave(count, 0), said=said), filled(x, count.double())
    torch.testing.assert_close(repeated.bandwidths, weighed.bandwidths, rtol=1e-6, atol=0)
    at = normal(20, 2, seed=3)
    torch.testing.assert_close(
        repeated.log_likelihood(at).value, weighed.log_likelihood(at).value, rtol=1e-5, atol=1e-5
    )
    assert len(repeated.stored) == 40
    assert f"{int(count.sum()) - 40} training rows equal to another" in said[0]
    assert float(repeated.bandwidths.min()) > 0.1


def test_rounded_columns_are_told():
    said: list[str] = []
    filled(torch.stack([normal(200).round(), normal(200, seed=1)], 1), said=said)
    assert "dimension 1 (counted from 1) at the narrowest bandwidth allowed: values repeat" in said[-1]


def test_rows_with_missing_cells_are_scored_but_not_kept():
    """Two of 30 rows have no bump; a row's observed cell has the density of that column's bumps alone."""
    x, said = normal(30, 2), list[str]()
    x[3, 0], x[9, 1] = math.nan, math.nan
    model = filled(x, said=said)
    assert len(model.stored) == model.resolved()["rows"] == 28
    assert "2 training rows with missing cells left out" in said[0]
    one = KernelDensity.from_rows(model.stored[:, 1:], model.bandwidths[1:])
    at = torch.tensor([[math.nan, 0.4], [math.nan, math.nan]]).double()
    value = model.log_likelihood(at).value
    assert float(value[0]) == pytest.approx(float(one.log_likelihood(at[:1, 1:]).value), rel=1e-12)
    assert float(value[1]) == 0.0
    with pytest.raises(InputError, match="no training row is complete"):
        filled(torch.full((5, 2), math.nan))


def test_weights_of_nothing_are_nothing():
    x = normal(30, 1)
    model = filled(x, torch.arange(30).clamp(max=1).double(), bandwidth=0.5)
    assert len(model.stored) == 29
    expected = KernelDensity.from_rows(x[1:], torch.tensor([0.5]))
    torch.testing.assert_close(model.log_likelihood(x).value, expected.log_likelihood(x).value, rtol=1e-12, atol=1e-12)


@BOTH
def test_samples_follow_the_density(word: str):
    """Kolmogorov-Smirnov on 3000 draws against the closed-form distribution function, seed 0; p < 0.001 fails."""
    centre, h, weight = torch.tensor([0.0, 1.0, 5.0]), 0.7, torch.tensor([1.0, 2.0, 1.0])
    model = KernelDensity.from_rows(centre[:, None], torch.tensor([h]), weight, kernel=word)
    law = stats.norm(0, 1) if word == "gaussian" else stats.beta(2, 2, loc=-1, scale=2)

    def cdf(x: np.ndarray) -> np.ndarray:
        parts = [w * law.cdf((x - c) / h) for w, c in zip(weight.tolist(), centre.tolist(), strict=True)]
        return sum(parts) / 4

    assert stats.kstest(model.sample(3000, seed=0)[:, 0].numpy(), cdf).pvalue > 0.001


@BOTH
def test_level_samples_follow_the_mass(word: str):
    """χ² of 20,000 draws over 4 × 4 cells, seed 0; p < 0.001 fails."""
    space = Levels(4, -1.0, 2 / 3)
    stored = space.values()[torch.tensor([[0, 0], [3, 1], [2, 2]])]
    model = KernelDensity.from_rows(stored, torch.tensor([0.8, 1.7]), kernel=word, space=space)
    every = torch.tensor(list(itertools.product(range(4), repeat=2)))
    p = model.log_likelihood(space.values()[every]).value.exp()
    drawn = space.index(model.sample(20_000, seed=0))
    counts = torch.bincount(drawn[:, 0] * 4 + drawn[:, 1], minlength=16)
    assert not bool(counts[p == 0].any())
    possible = p > 0
    assert stats.chisquare(counts[possible].numpy(), (p / p.sum() * 20_000)[possible].numpy()).pvalue > 0.001


def test_filling_in_is_the_conditional():
    """The mean is that of the conditional density by quadrature; draws have its mean and variance (4.5 standard errors,
    seed 0), and observed cells stay; the conditional model is p(x)/p(x_o).
    """
    model = filled(normal(40, 2) @ torch.tensor([[1.0, 0.8], [0.0, 0.6]]).double())
    x = torch.tensor([[0.7, math.nan], [math.nan, math.nan], [0.1, 0.2]], dtype=torch.float64)
    axis = torch.linspace(-14, 14, 4001, dtype=torch.float64)
    grid = torch.stack([torch.full_like(axis, 0.7), axis], 1)
    p = (model.log_likelihood(grid).value - model.log_likelihood(x[:1]).value).exp() * (axis[1] - axis[0])
    mean = float(p @ axis)
    variance = float(p @ (axis - mean).square())
    assert float(p.sum()) == pytest.approx(1, abs=1e-9)
    full = model.impute(x)
    assert float(full[0, 1]) == pytest.approx(mean, abs=1e-9)
    torch.testing.assert_close(full[1], model.stored.mean(0), rtol=1e-10, atol=1e-12)
    assert full[2].tolist() == x[2].tolist()
    draws = model.impute(x, 600, seed=0)
    assert bool((draws[:, 0, 0] == 0.7).all())
    assert abs(float(draws[:, 0, 1].mean()) - mean) < 4.5 * math.sqrt(variance / 600)
    assert abs(float(draws[:, 0, 1].var()) / variance - 1) < 4.5 * math.sqrt(3 / 600)
    alone = model.conditional({0: 0.7})
    torch.testing.assert_close(
        alone.log_likelihood(axis[:, None]).value.exp() * (axis[1] - axis[0]), p, rtol=1e-9, atol=1e-13
    )
    ids = torch.tensor([5, 6, 7])
    alone_row = model.impute(x[1:2], 2, ids=ids[1:2], seed=1)
    assert torch.equal(model.impute(x, 2, ids=ids, seed=1)[:, 1:2], alone_row)


def test_filling_in_levels_is_the_conditional():
    space = Levels(3, -1.0, 1.0)
    values = space.values()
    stored = values[torch.tensor([[0, 0], [0, 1], [2, 2], [1, 2]])]
    model = KernelDensity.from_rows(stored, torch.tensor([0.8, 0.6]), space=space)
    every = torch.stack([values[0].expand(3), values], 1)
    p = model.log_likelihood(every).value.softmax(0)
    x = torch.tensor([[-1.0, math.nan]]).double()
    assert float(model.log_likelihood(x).value) == pytest.approx(float(model.log_likelihood(every).value.logsumexp(0)))
    assert float(model.impute(x)[0, 1]) == pytest.approx(float(p @ values))
    drawn = space.index(model.impute(x.expand(3000, 2), 1, seed=0)[0, :, 1])
    assert stats.chisquare(torch.bincount(drawn, minlength=3).numpy(), (3000 * p).numpy()).pvalue > 0.001
    given = model.conditional({0: -1.0}).log_likelihood(values[:, None]).value
    torch.testing.assert_close(given.exp(), p, rtol=1e-12, atol=1e-14)


def test_what_is_impossible_has_no_conditional():
    model = KernelDensity.from_rows(normal(5, 2), torch.ones(2), kernel="epanechnikov")
    x = torch.tensor([[50.0, math.nan]]).double()
    assert math.isnan(float(model.impute(x)[0, 1]))
    assert bool(model.impute(x, 2)[:, 0, 1].isnan().all())
    with pytest.raises(InputError, match=r"values \{0: 50.0\} are impossible"):
        model.conditional({0: 50.0})
    with pytest.raises(InputError, match=r"columns must be some but not all of 0 … 1, got \[7\]"):
        model.conditional({7: 1.0})
    with pytest.raises(InputError, match="number of draws must be at least 1, got 0"):
        model.impute(x, 0)


def test_a_pipeline_fills_in_and_conditions(tmp_path: Path):
    """In data units, saved and loaded; which rows are kept when fewer are asked for depends on ids alone."""
    x = (normal(80, 2) @ torch.tensor([[1.0, 0.8], [0.0, 0.6]]).double() * 10 + 300).numpy()
    pipeline = jensen.fit(jensen.load_data(x), "kde", run=tmp_path / "run", progress=False, rows=30)
    assert pipeline.config["model"]["options"]["rows"] == 30
    assert pipeline.config["fit"]["rows"] == 30
    again = jensen.load(tmp_path / "run")
    hole = np.array([[310.0, np.nan]])
    assert torch.equal(again.impute(hole), pipeline.impute(hole))
    point = np.array([[310.0, 305.0]])
    joint, one = (pipeline.log_likelihood(row).value for row in (point, hole))
    assert float(again.conditional({0: 310.0}).log_likelihood(point[:, 1:]).value) == pytest.approx(float(joint - one))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bandwidth": 0.0}, "bandwidth must be loo, scott, silverman or a number .* got 0"),
        ({"bandwidth": "lou"}, "got 'lou'"),
        ({"kernel": "box"}, "kernel must be one of gaussian, epanechnikov, got 'box'"),
        ({"rows": 0}, "rows must be from 1 .* got 0"),
        ({"rows": 10**9}, "rows must be from 1 to 67108864 for rows of 2 values, got 1000000000"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, object], message: str):
    with pytest.raises(InputError, match=message):
        KernelDensity((2,), Real(), **options)


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="bumps on 65536 levels in 1000 dimensions do not fit"):
        KernelDensity((1000,), Levels(65536))
    with pytest.raises(InputError, match="at least 2 different rows without missing cells, got 1"):
        filled(torch.ones(5, 2).double())
    with pytest.raises(InputError, match=r"column 2 .* is constant"):
        filled(torch.stack([normal(9), torch.ones(9).double()], 1))
    with pytest.raises(InputError, match="a value is infinite"):
        filled(torch.tensor([[1.0], [math.inf]]))
    with pytest.raises(InputError, match="weights must be finite and at least 0"):
        filled(normal(2, 1), torch.tensor([1.0, -1.0]))
    with pytest.raises(InputError, match=r"bandwidths must be positive and finite, got \[0.0\]"):
        KernelDensity.from_rows(normal(2, 1), torch.zeros(1))
    with pytest.raises(InputError, match=r"bandwidths \(d,\) and weights \(n,\), got \(2, 1\), \(2,\), \(2,\)"):
        KernelDensity.from_rows(normal(2, 1), torch.ones(2))
