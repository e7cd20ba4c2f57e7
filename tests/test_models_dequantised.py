"""Uniform dequantisation (law 17): a lower bound on the mass, exact where the density is flat, 7 bits for [-1, 1)."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from jensen.data.examples import Batch, Examples
from jensen.data.space import Levels, Real
from jensen.likelihood import LogLikelihood
from jensen.models.dequantised import (
    Dequantised,
    DequantisedClosedForm,
    DequantisedGradient,
    DequantisedObjective,
    dequantised,
)
from jensen.models.flow import Flow
from jensen.models.gaussian import Gaussian
from jensen.models.gmm import GaussianMixture
from jensen.models.model import DensityModel
from jensen.noise import Noise
from jensen.training.fitter import Objective

F64 = torch.float64


class Known(DensityModel):
    """A product of one density on the line; samples are normal."""

    def __init__(
        self, log_density: Callable[[Tensor], Tensor], event: tuple[int, ...], mean: float = 0.0, sd: float = 1.0
    ):
        super().__init__(event, Real())
        self.log_density, self.mean, self.sd = log_density, mean, sd

    def log_likelihood(self, x: Tensor, context: Tensor | None = None, **options: Any) -> LogLikelihood:
        value = self.log_density(x).flatten(1).sum(1)
        return LogLikelihood(value, "exact", "Lebesgue", "a known density", "exact", self.event_shape)

    def sample(self, n: int, context: Tensor | None = None, seed: int = 0, *, start: int = 0) -> Tensor:
        z = Noise(seed, "known").normal(range(start, start + n), self.event_shape).double()
        return self.mean + self.sd * z


def every_level(space: Levels, columns: int) -> Tensor:
    return space.values()[:, None].expand(space.k, columns)


@pytest.mark.parametrize("columns", [1, 5])
def test_exact_for_a_density_that_is_flat_on_cells(columns: int):
    """log P = Σ log(density · step) for every draw of u, so to 1e-10 and with standard error 0."""
    space = Levels(8, -1.0, 0.25)
    mass = torch.tensor([1, 2, 4, 9, 5, 3, 2, 6], dtype=F64) / 32

    def flat(x: Tensor) -> Tensor:
        cell = ((x - space.first) / space.step).floor().long()
        return torch.where((cell >= 0) & (cell < 8), (mass[cell.clamp(0, 7)] / space.step).log(), -math.inf)

    ll = Dequantised(Known(flat, (columns,)), space).log_likelihood(every_level(space, columns))
    torch.testing.assert_close(ll.value, columns * mass.log(), rtol=0, atol=1e-10)
    assert ll.stderr is not None
    assert float(ll.stderr.max()) < 1e-10
    assert ll.measure == "counting"
    assert ll.kind == "lower bound"
    if columns == 1:
        assert float(ll.value.exp().sum()) == pytest.approx(1, abs=1e-10)


def test_the_uniform_bound_is_below_the_mass_by_jensens_gap():
    """A normal on cells: the mean of 400 draws against E_u[log p] in closed form, |z| < 4.5 a level (seed 0), and that
    mean below log P(cell) by definition of the gap; Σ exp(bound) ≤ 1.
    """
    space, mean, sd = Levels(8, -1.0, 2 / 8), 0.1, 0.3
    normal = stats.norm(mean, sd)
    y = space.values().numpy()
    log_mass = torch.log(torch.from_numpy(normal.cdf(y + 0.25) - normal.cdf(y)))
    middle = torch.from_numpy(((y + 0.125 - mean) ** 2 + 0.25**2 / 12) / sd**2)
    bound = -0.5 * middle - math.log(sd * math.sqrt(2 * math.pi)) + math.log(0.25)
    model = Dequantised(Known(lambda x: torch.distributions.Normal(mean, sd).log_prob(x), (1,)), space)
    ll = model.log_likelihood(every_level(space, 1), repetitions=400)
    assert ll.stderr is not None
    assert float(((ll.value - bound) / ll.stderr).abs().max()) < 4.5
    assert bool((bound < log_mass).all())
    assert float(bound.exp().sum()) < 1
    torch.testing.assert_close(ll.stderr, (ll.stderr.square() * 400).sqrt() / 20, rtol=1e-12, atol=0)


@pytest.mark.parametrize("event", [(4,), (1, 3, 5)])
def test_bytes_on_minus_one_to_one_cost_seven_bits_a_dimension_and_nothing_else(event: tuple[int, ...]):
    """y = 2 (x + u)/256 - 1: log P = E log p(y) - D · 7 log 2 exactly; the uniform density ½ then gives 8 bits."""
    space = Levels(256, -1.0, 2 / 256)
    x = space.values()[torch.randint(256, (6, *event), generator=torch.Generator().manual_seed(0))]
    ll = Dequantised(Known(lambda y: torch.full_like(y, -math.log(2)), event), space).log_likelihood(x)
    d = math.prod(event)
    torch.testing.assert_close(ll.terms["cell"], torch.full((6,), -7 * math.log(2) * d, dtype=F64), rtol=0, atol=1e-10)
    torch.testing.assert_close(sum(ll.terms.values()), ll.value, rtol=0, atol=1e-12)
    assert ll.bits_per_dim == pytest.approx(8, abs=1e-10)


def test_batches_and_seeds():
    """A row's value depends on its id and the seed, on nothing else."""
    space = Levels(8, -1.0, 0.25)
    model = Dequantised(Known(lambda x: -x.square(), (3,)), space)
    x, ids = every_level(space, 3), torch.arange(8)
    whole = model.log_likelihood(x, ids=ids, seed=1)
    part = model.log_likelihood(x[2:5], ids=ids[2:5], seed=1)
    torch.testing.assert_close(part.value, whole.value[2:5], rtol=1e-14, atol=1e-14)
    assert not bool((model.log_likelihood(x, ids=ids, seed=2).value == whole.value).any())


def test_samples_are_the_masses_of_the_cells():
    """8000 samples on 8 levels against Φ of the cells, the ends taking what lies beyond: chi-square p > 1e-5, seed 0."""
    space = Levels(8, -1.0, 0.25)
    draws = Dequantised(Known(lambda x: x, (4,), 0.1, 0.5), space).sample(2000).flatten()
    edges = torch.tensor([-math.inf, *(space.values()[1:]).tolist(), math.inf]).numpy()
    expected = (stats.norm.cdf((edges[1:] - 0.1) / 0.5) - stats.norm.cdf((edges[:-1] - 0.1) / 0.5)) * 8000
    assert stats.chisquare(torch.bincount(space.index(draws), minlength=8).numpy(), expected).pvalue > 1e-5


def test_one_repetition_is_refused():
    with pytest.raises(ValueError, match="got 1"):
        Dequantised(Known(lambda x: x, (1,)), Levels(8)).log_likelihood(torch.zeros(1, 1), repetitions=1)


def test_a_tolerance_is_met_by_the_draws_the_plan_asks_for():
    """The Monte-Carlo error of the mean over 40 rows is the tolerance within 30 %, and halving it takes four times the
    draws; few draws are never fewer than eight. Seed 0.
    """
    space = Levels(8, -1.0, 2 / 8)
    model = Dequantised(Known(lambda x: torch.distributions.Normal(0.0, 0.2).log_prob(x), (3,)), space)
    x, ids = space.values()[Noise(0, "rows").permutation(8)][:, None].expand(8, 3).repeat(5, 1), torch.arange(40)
    plan = model.plan(Batch(x, ids), 40, tolerance=0.02, seed=0)
    ll = model.log_likelihood(x, ids=ids, **plan)
    assert plan["repetitions"] > 8
    assert ll.monte_carlo == pytest.approx(0.02, rel=0.3)
    assert model.plan(Batch(x, ids), 40, tolerance=0.01, seed=0)["repetitions"] == pytest.approx(
        4 * plan["repetitions"], abs=4
    )
    assert model.plan(Batch(x, ids), 40, tolerance=1e3, seed=0)["repetitions"] == 8
    assert model.plan(Batch(x, ids), 40, tolerance=0.02, seed=0, repetitions=3)["repetitions"] == 3


def test_components_of_a_cell_have_the_masses_that_integrals_give():
    """p(z | cell) = w_k P_k(cell) / Σ: narrow and wide components on wide cells, mean over 2000 rows of each level within
    0.05 of the integrals (8 draws a row; averaging p(z | x) over the cell instead is off by up to 0.1).
    """
    space, weights, mean, sd = Levels(4, -1.0, 0.5), torch.tensor([0.5, 0.5]), [-0.2, 0.2], [0.1, 0.8]
    inner = GaussianMixture.from_parameters(
        weights, torch.tensor(mean)[:, None], torch.tensor(sd).square()[:, None, None]
    )
    edges = space.values().numpy()
    mass = torch.stack([
        torch.from_numpy(stats.norm(m, s).cdf(edges + 0.5) - stats.norm(m, s).cdf(edges)) for m, s in zip(mean, sd, strict=True)
    ])  # fmt: skip
    truth = (mass / mass.sum(0)).T
    x = space.values().repeat_interleave(2000)[:, None]
    found = Dequantised(inner, space).responsibilities(x, ids=torch.arange(len(x))).view(4, 2000, 2).mean(1)
    torch.testing.assert_close(found, truth, rtol=0, atol=0.05)


class Recording(Objective):
    """Keeps what it is shown; its loss is the sum of a row."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def forward(self, batch: Batch, noise: Noise) -> Tensor:
        self.seen.append(batch.x)
        return batch.x.flatten(1).sum(1)

    def held_out(self, batch: Batch, noise: Noise) -> dict[str, Tensor]:
        self.seen.append(batch.x)
        return {"log p": torch.distributions.Normal(0.1, 0.5).log_prob(batch.x.double()).flatten(1).sum(1)}


def test_training_draws_u_anew_at_every_step_and_for_every_row():
    """u is uniform on the cell, a function of (step, id): another in each step, the same in whatever company."""
    space, inner = Levels(8, -1.0, 0.25), Recording()
    objective = DequantisedObjective(inner, space.step)
    x = every_level(space, 500).float()
    batch, part = Batch(x, torch.arange(8)), Batch(x[3:5], torch.arange(3, 5))
    for step, rows in ((0, batch), (1, batch), (1, part)):
        objective(rows, Noise(7, "train", step))
    u = [(seen - rows.x) / space.step for seen, rows in zip(inner.seen, (batch, batch, part), strict=True)]
    assert all(seen.dtype == torch.float32 for seen in inner.seen)
    assert stats.kstest(u[0].flatten().numpy(), "uniform").pvalue > 1e-4  # seed 7, 4000 draws; failure rate 1e-4
    assert float(u[0].min()) >= 0
    assert float(u[0].max()) <= 1
    assert abs(float(torch.corrcoef(torch.stack([u[0].flatten(), u[1].flatten()]))[0, 1])) < 0.07  # 4.4 standard errors
    assert abs(float(torch.corrcoef(u[0])[0, 1])) < 0.2  # two rows: 4.4 standard errors
    assert torch.equal(inner.seen[2], inner.seen[1][3:5])


def test_what_the_stop_rule_watches_is_the_bound():
    """log p(y + u) + D log Δ, its mean over 4000 ids the closed-form E_u within 4.5 standard errors (seed 0)."""
    space, mean, sd = Levels(8, -1.0, 0.25), 0.1, 0.5
    objective = DequantisedObjective(Recording(), space.step)
    y = float(space.values()[5])
    batch = Batch(torch.full((4000, 2), y, dtype=F64), torch.arange(4000))
    terms = objective.held_out(batch, Noise(0, "held-out"))
    found = torch.stack(list(terms.values())).sum(0)
    square = ((y + 0.125 - mean) ** 2 + 0.25**2 / 12) / sd**2
    bound = 2 * (-0.5 * square - math.log(sd * math.sqrt(2 * math.pi)) + math.log(0.25))
    assert abs(float(found.mean()) - bound) < 4.5 * float(found.std()) / math.sqrt(4000)
    again = objective.held_out(batch, Noise(0, "held-out"))
    assert torch.equal(torch.stack(list(again.values())).sum(0), found)


def test_how_the_density_is_fitted_decides_the_type():
    space = Levels(4, -1.0, 0.5)
    assert isinstance(dequantised(Gaussian((2,), Real()), space), DequantisedClosedForm)
    flow = dequantised(Flow((2,), Real(), layers=1, width=4), space)
    assert isinstance(flow, DequantisedGradient)
    assert flow.calibration_calls(9) == 0
    with pytest.raises(TypeError, match="Known is fitted neither in one go nor by gradients"):
        dequantised(Known(lambda x: x, (1,)), space)


def test_a_trained_density_starts_from_spread_rows():
    """Its whitening is that of y + u, never singular: levels alone would give variance 0 here."""
    space = Levels(4, -1.0, 0.5)
    model = dequantised(Flow((2,), Real(), layers=1, width=4), space)
    assert isinstance(model, DequantisedGradient)
    model.initialise(Examples(torch.full((400, 2), -0.5), torch.arange(400)))
    ll = model.log_likelihood(torch.full((50, 2), -0.5))
    assert bool(ll.value.isfinite().all())
    spread = math.sqrt(0.25 / 12)
    assert ll.mean == pytest.approx(2 * (-0.5 - math.log(spread * math.sqrt(2 * math.pi)) + math.log(0.5)), abs=0.15)
