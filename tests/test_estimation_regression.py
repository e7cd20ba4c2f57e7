"""`fit_regression` on worlds whose p(y | x) is known: what it finds, what a linear regression misses, and its units.

Gaps to the truth are exact (closed-form KL) where a row has one normal, else means over 4000 test rows with their standard
error. Tests of samples state their seed; at 4.5 standard errors, or p > 1e-4, they fail once in 10⁴ changes of seed.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from jensen.errors import InputError
from jensen.estimation.conditional import Regression
from jensen.estimation.pairs import examples, held_out
from jensen.estimation.regression import fit_regression

F64 = torch.float64
FAST: dict[str, Any] = {"lr": 5e-3, "dropout": 0.0, "weight_decay": 0.01}


def uniform(n: int, low: float, high: float, seed: int) -> tuple[Tensor, torch.Generator]:
    g = torch.Generator().manual_seed(seed)
    return low + (high - low) * torch.rand(n, 1, generator=g, dtype=F64), g


# A normal whose mean and width depend on x


def bent(x: Tensor) -> MultivariateNormal:
    return MultivariateNormal(torch.sin(2 * x), scale_tril=(0.1 + 0.4 * torch.sigmoid(3 * x))[..., None])


def rows_of(law: Callable[[Tensor], Any], n: int, low: float, high: float, seed: int) -> tuple[Tensor, Tensor]:
    x, g = uniform(n, low, high, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (1,), generator=g)))
        return x, law(x).sample()


@cache
def of_bent() -> Regression:
    return fit_regression(*rows_of(bent, 1500, -2, 2, 0), steps=200, **FAST)


def test_it_finds_mean_and_width_where_both_depend_on_x():
    fit, x = of_bent(), torch.linspace(-1.9, 1.9, 77, dtype=F64)[:, None]
    kl = kl_divergence(bent(x), fit.distribution(x))
    assert float(kl.mean()) < 0.03
    assert float((fit.mean(x) - bent(x).mean).abs().mean()) < 0.08
    assert float((fit.std(x) / bent(x).variance.sqrt()).log().abs().mean()) < 0.12
    assert fit.std(x[-1:]) > 2.5 * fit.std(x[:1])  # 5 times in truth; no one width can say that


def test_it_is_better_than_a_linear_regression_by_the_paired_difference():
    """About 1 nat a row in truth; the gap to the truth, paired too, is not negative beyond chance (4.5 SE, seed 1)."""
    x, y = rows_of(bent, 4000, -2, 2, 1)
    linear = fit_regression(*rows_of(bent, 1500, -2, 2, 0), steps=0)
    gain = of_bent().log_likelihood(x, y) - linear.log_likelihood(x, y)
    assert gain.mean > 0.9
    assert gain.mean > 20 * gain.stderr
    gap = bent(x).log_prob(y) - of_bent().log_likelihood(x, y).value
    assert -4.5 * float(gap.std()) / 4000**0.5 < float(gap.mean()) < 0.04


def test_probabilities_below_the_target_are_uniform_where_it_holds():
    """Kolmogorov-Smirnov of 400 rows (seed 2): the fit passes, the linear regression, whose width is one, does not."""
    x, y = rows_of(bent, 400, -2, 2, 2)
    linear = fit_regression(*rows_of(bent, 1500, -2, 2, 0), steps=0)
    assert stats.kstest(of_bent().pit(x, y).numpy(), "uniform").pvalue > 1e-2
    narrow = x[:, 0] < -0.5
    assert stats.kstest(linear.pit(x[narrow], y[narrow]).numpy(), "uniform").pvalue < 1e-3


# Two branches: y = ±√x + noise


NOISE = 0.1


def of_branches(x: Tensor, y: Tensor) -> Tensor:
    """The true log p(y | x)."""
    up, down = (Normal(sign * x.sqrt(), NOISE).log_prob(y)[:, 0] for sign in (1, -1))
    return torch.logaddexp(up, down) - math.log(2)


def branches(n: int, seed: int) -> tuple[Tensor, Tensor]:
    x, g = uniform(n, 0.05, 3, seed)
    sign = 1 - 2.0 * torch.randint(2, (n, 1), generator=g)
    return x, sign * x.sqrt() + NOISE * torch.randn(n, 1, generator=g, dtype=F64)


@cache
def of_two() -> Regression:
    return fit_regression(*branches(1000, 0), n_components=2, steps=200, **FAST)


def test_two_components_find_two_branches_and_one_normal_cannot():
    """The best normal has the moments of the truth, mean 0 and variance x + NOISE²: no normal loses less than it does. It
    loses 1.7 nats a row; two components lose next to nothing.
    """
    x, y = branches(4000, 1)
    truth = of_branches(x, y)
    best = Normal(0.0, (x + NOISE**2).sqrt()).log_prob(y)[:, 0]
    assert float((truth - best).mean()) > 1.6
    one = fit_regression(*branches(1000, 0), steps=30, **FAST).log_likelihood(x, y).value
    short = best - one
    assert float(short.mean()) > -4.5 * float(short.std()) / 4000**0.5
    gap = truth - of_two().log_likelihood(x, y).value
    assert -4.5 * float(gap.std()) / 4000**0.5 < float(gap.mean()) < 0.06


def test_moments_and_draws_are_those_of_the_density():
    """Mean and deviation by quadrature of exp(log p); 4000 draws a row (seed 0) have both, and uniform P(Y ≤ y | x)."""
    fit, x = of_two(), torch.tensor([[0.3], [1.0], [2.5]], dtype=F64)
    y = torch.linspace(-8, 8, 8001, dtype=F64)
    density = torch.stack([fit.log_likelihood(row.expand(len(y), 1), y).value.exp() for row in x])
    torch.testing.assert_close(torch.trapezoid(density, y), torch.ones(3, dtype=F64), atol=1e-8, rtol=0)
    mean = torch.trapezoid(density * y, y)
    variance = torch.trapezoid(density * (y - mean[:, None]).square(), y)
    torch.testing.assert_close(fit.mean(x)[:, 0], mean, atol=1e-6, rtol=0)
    torch.testing.assert_close(fit.std(x)[:, 0], variance.sqrt(), atol=1e-6, rtol=0)
    below = torch.trapezoid(density[:, :4201], y[:4201])
    torch.testing.assert_close(fit.pit(x, y[4200].expand(3)), below, atol=1e-5, rtol=0)
    drawn = fit.sample(x, 4000)[..., 0]
    assert bool(((drawn.mean(0) - mean).abs() < 4.5 * (variance / 4000).sqrt()).all())
    for row in range(3):
        pit = fit.pit(x[row].expand(4000, 1), drawn[:, row])
        assert stats.kstest(pit.numpy(), "uniform").pvalue > 1e-4


def test_draws_of_a_row_are_a_function_of_seed_and_row():
    x = torch.tensor([[0.3], [1.0], [2.5]], dtype=F64)
    drawn = of_two().sample(x, 5, seed=3)
    assert drawn.shape == (5, 3, 1)
    torch.testing.assert_close(of_two().sample(x[:2], 5, seed=3), drawn[:, :2])
    assert not bool((of_two().sample(x, 5, seed=4) == drawn).any())


# Two targets that hang together


def joint(x: Tensor) -> MultivariateNormal:
    """Correlation tanh(2 x), from -0.96 to 0.96."""
    rho, one = torch.tanh(2 * x[:, 0]), torch.ones(len(x), dtype=F64)
    factor = torch.stack([torch.stack([one, 0 * one], 1), torch.stack([rho, (1 - rho**2).sqrt()], 1)], 1)
    return MultivariateNormal(torch.cat((2 * x, x.cos()), 1), scale_tril=factor * torch.tensor([[1.0], [0.5]]))


def test_full_covariances_see_what_diagonal_ones_cannot():
    """A product of normals loses at least -½ log(1 - ρ(x)²) nats, a full one next to nothing; exact on a grid of x."""
    x, y = rows_of(joint, 1500, -1, 1, 0)
    full = fit_regression(x, y, steps=120, width=32, **FAST)
    diag = fit_regression(x, y, covariance="diag", steps=30, **FAST)
    grid = torch.linspace(-0.95, 0.95, 77, dtype=F64)[:, None]
    least = -0.5 * torch.log1p(-torch.tanh(2 * grid[:, 0]).square())
    lost = kl_divergence(joint(grid), diag.distribution(grid))
    assert bool((lost > least - 1e-9).all())
    assert float(least.mean()) > 0.4
    assert float(kl_divergence(joint(grid), full.distribution(grid)).mean()) < 0.06
    inside = joint(grid).covariance_matrix
    assert float((full.covariance(grid) - inside).abs().mean()) < 0.08
    assert bool((diag.covariance(grid)[:, 0, 1] == 0).all())


# A linear world, and what the fit falls back to


def line(x: Tensor) -> MultivariateNormal:
    factor = torch.tensor([[0.7, 0.0], [0.4, 0.2]], dtype=F64)
    return MultivariateNormal(torch.cat((3 * x - 1, 2 - x), 1), scale_tril=factor)


def test_without_steps_it_is_the_linear_regression():
    """log p by scipy's normal at least squares, which left-out rows choose among 20,000; and the truth to 1e-3 nats."""
    x, y = rows_of(line, 20000, -2, 2, 0)
    fit = fit_regression(x, y, steps=0)
    design = np.column_stack([np.ones(20000), x.numpy()])
    solution, *_ = np.linalg.lstsq(design, y.numpy(), rcond=None)
    residual = y.numpy() - design @ solution
    by_hand = stats.multivariate_normal(np.zeros(2), residual.T @ residual / 20000).logpdf(residual[:50])
    np.testing.assert_allclose(fit.log_likelihood(x[:50], y[:50]).value.numpy(), by_hand, atol=5e-3)
    kl = kl_divergence(line(x[:100]), fit.distribution(x[:100]))
    assert float(kl.mean()) < 1e-3
    assert (fit.steps, fit.held_out) == (0, None)


@pytest.mark.parametrize("n_components", [1, 2])
def test_few_rows_fall_back_to_the_linear_regression(n_components: int):
    """30 rows of noise: the weights kept are no worse on the watched rows than the linear regression, which is step 0."""
    rng = np.random.default_rng(0)
    x, y, watched = rng.normal(size=(30, 5)), rng.normal(size=30), (rng.normal(size=(200, 5)), rng.normal(size=200))
    linear = fit_regression(x, y, steps=0).log_likelihood(*watched).mean
    fit = fit_regression(x, y, n_components=n_components, valid=watched, steps=60, **FAST)
    assert fit.held_out == pytest.approx(fit.log_likelihood(*watched).mean, abs=1e-6)
    assert fit.held_out > linear - 1e-5
    assert fit.held_out < linear + 0.1  # and there is nothing to find


def test_watched_rows_are_not_trained_on():
    """Every row is in one part, x with its y; the share is kept, and at least one row is watched."""
    x, y = rows_of(line, 50, -2, 2, 6)
    train, watched = held_out(examples(x, y), 0.2, 0)
    assert (len(train), len(watched)) == (40, 10)
    assert sorted([*train.id.tolist(), *watched.id.tolist()]) == list(range(50))
    for part in (train, watched):
        assert torch.equal(part.x, y[part.id])
        assert torch.equal(part.context, x[part.id])
    assert not torch.equal(held_out(examples(x, y), 0.2, 1)[1].id, watched.id)
    assert len(held_out(examples(x[:3], y[:3]), 0.01, 0)[1]) == 1


# Units, seeds, company


def test_a_change_of_units_moves_log_p_by_the_logarithm_of_the_units():
    """Law 25. By powers of two every number of the fit is the same to the bit; by others as far as rounding lets it."""
    x, y = rows_of(line, 200, -2, 2, 3)
    options = {"n_components": 2, "steps": 10, **FAST}
    plain = fit_regression(x, y, **options).log_likelihood(x, y)
    doubled = fit_regression(x * 0.25, y * 8.0, **options).log_likelihood(x * 0.25, y * 8.0)
    torch.testing.assert_close(doubled.value, plain.value - 2 * math.log(8), atol=1e-10, rtol=0)
    moved = fit_regression(x * 3 - 70, y * 1000 + 5, **options).log_likelihood(x * 3 - 70, y * 1000 + 5)
    torch.testing.assert_close(moved.value, plain.value - 2 * math.log(1000), atol=1e-3, rtol=0)


def test_the_same_seed_gives_the_same_fit_and_leaves_torchs_generator_alone():
    x, y = rows_of(line, 60, -2, 2, 4)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, same, other = (fit_regression(x, y, steps=10, seed=seed).mean(x) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    begun = [fit_regression(x, y, steps=0, seed=seed).model.state_dict() for seed in (0, 1)]
    assert not torch.equal(begun[0]["network.stem.weight"], begun[1]["network.stem.weight"])


def test_a_row_does_not_depend_on_its_company(monkeypatch: pytest.MonkeyPatch):
    x, y = branches(50, 5)
    whole, drawn = of_two().log_likelihood(x, y), of_two().sample(x, 3)
    monkeypatch.setattr("jensen.estimation.conditional.CELLS_AT_ONCE", 1 << 13)
    torch.testing.assert_close(of_two().log_likelihood(x, y).value, whole.value, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(of_two().sample(x, 3), drawn, atol=1e-5, rtol=0)


def test_the_number_says_what_it_is():
    found = of_two().log_likelihood([[1.0], [2.0]], [1.0, -1.4])
    assert (found.kind, found.measure, found.given, found.event_shape) == ("exact", "Lebesgue", "p(y|x)", (1,))
    for x, y in (([[1.0], [2.5]], [1.0, -1.4]), ([[1.0], [2.0]], [1.0, -1.5])):
        with pytest.raises(ValueError, match="different rows"):
            found - of_two().log_likelihood(x, y)


# Mistakes


X, Y = np.arange(20.0)[:, None], np.arange(20.0) % 3
MISTAKES: dict[str, tuple[Any, Any, dict[str, Any], str]] = {
    "missing x": (np.where(X == 3, np.nan, X), Y, {}, "x must be finite, but row 3, column 0 is nan"),
    "infinite y": (X, np.where(Y == 2, np.inf, Y), {}, "y must be finite, but row 2, column 0 is inf"),
    "lengths": (X, Y[:7], {}, "x and y must have as many rows, got 20 and 7"),
    "words": ([["a"]], [1.0], {}, r"x must be a table of numbers, got \[\['a'\]\]"),
    "axes": (X[None], Y, {}, r"x must have shape \(rows, columns\) with at least one row, got \(1, 20, 1\)"),
    "nothing": (X[:0], Y[:0], {}, r"got \(0, 1\)"),
    "constant": (X, 0 * Y + 2.5, {}, "column 0 of y is 2.5 in every row"),
    "too few": (X[:2], Y[:2], {}, "at least 3 rows are needed .* got 2"),
    "too few for two": (X[:3], np.column_stack([Y, X])[:3], {}, "2 rows to fit to are too few .* 2 targets"),
    "share": (X, Y, {"valid": 1.0}, "valid must be a share .* got 1.0"),
    "other columns": (X, Y, {"valid": (np.ones((3, 2)), np.ones(3))}, r"x of valid must have shape \(rows, 1\)"),
    "components": (X, Y, {"n_components": 0}, "n_components must be from 1 to 1024, got 0"),
    "covariance": (X, Y, {"covariance": "round"}, "covariance must be full or diag, got 'round'"),
    "dropout": (X, Y, {"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
    "steps": (X, Y, {"steps": -1}, "steps must be from 0 to 10\\^9, got -1"),
    "rate": (X, Y, {"lr": 0.0}, "lr must be positive and below 1000, got 0.0"),
    "many targets": (np.ones((3, 1)), np.ones((3, 300)), {}, "1 covariances of 300 targets have 90,000 cells"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_told_in_one_line(name: str):
    x, y, options, message = MISTAKES[name]
    with pytest.raises(InputError, match=message) as told:
        fit_regression(x, y, **{"steps": 2, **options})
    assert "\n" not in str(told.value)


def test_mistakes_of_asking():
    fit = of_two()
    with pytest.raises(InputError, match=r"x must have shape \(rows, 1\) with at least one row, got \(2, 2\)"):
        fit.mean(np.ones((2, 2)))
    with pytest.raises(InputError, match=r"n must be at least 1 and at most .* for 20 rows of x, got 0"):
        fit.sample(X, 0)
    with pytest.raises(InputError, match="got 1000000000"):
        fit.sample(X, 10**9)
    two = fit_regression(X, np.column_stack([Y, X]), steps=0)
    with pytest.raises(InputError, match="a single target, got 2"):
        two.pit(X, np.column_stack([Y, X]))
