"""The discretised normal: a mass on k levels, right to the last tail (law 23; ORACLES section 4)."""

import math

import mpmath
import pytest
import torch
from scipy import stats

from jensen.distributions.discretised import DiscretisedNormal, log1mexp, log_normal_mass

F64 = torch.float64


def exact_log_mass(low: float, high: float) -> float:
    """log(Φ(high) - Φ(low)) with as many digits as it takes."""
    with mpmath.workdps(60):
        low_, high_ = mpmath.mpf(low), mpmath.mpf(high)
        if low_ + high_ > 0:
            low_, high_ = -high_, -low_
        root = mpmath.sqrt(2)
        difference = (mpmath.erfc(-high_ / root) - mpmath.erfc(-low_ / root)) / 2
        if difference < mpmath.mpf(10) ** -40 or high_ < -8:  # far out, integrate instead of subtracting
            difference = (
                mpmath.quad(mpmath.npdf, mpmath.linspace(low_, high_, 8)) if high_ - low_ < 1 else mpmath.ncdf(high_)
            )
        return float(mpmath.log(difference))


def on_levels(k: int) -> dict[str, float | int]:
    return {"first": -1.0, "step": 2 / (k - 1), "k": k}


@pytest.mark.parametrize("k", [2, 17, 256])
@pytest.mark.parametrize("scale", [1e-4, 1e-2, 0.3, 5.0])
@pytest.mark.parametrize("loc", [-7.0, -1.0, 0.013, 1.4])
def test_the_levels_masses_sum_to_one(k: int, scale: float, loc: float):
    values = torch.linspace(-1, 1, k, dtype=F64)
    cells = DiscretisedNormal(torch.full((k,), loc, dtype=F64), torch.tensor(scale, dtype=F64), **on_levels(k))
    assert float(cells.log_prob(values).logsumexp(0)) == pytest.approx(0, abs=1e-12)


def test_end_bins_are_open():
    """All of the mass below the lowest middle belongs to level 0, all above the highest to level k - 1."""
    cells = DiscretisedNormal(torch.tensor([-50.0, 50.0], dtype=F64), torch.tensor(1.0, dtype=F64), **on_levels(5))
    assert torch.equal(cells.log_prob(torch.tensor([-1.0, 1.0], dtype=F64)), torch.zeros(2, dtype=F64))
    edge = DiscretisedNormal(torch.tensor([-0.75, 0.75], dtype=F64), torch.tensor(0.3, dtype=F64), **on_levels(5))
    torch.testing.assert_close(
        edge.log_prob(torch.tensor([-1.0, 1.0], dtype=F64)), torch.full((2,), 0.5, dtype=F64).log()
    )


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (-0.3, 0.2), (1.0, 1.1), (-38.0, -37.5), (37.5, 38.0), (100.0, 101.0), (-2000.0, -1999.0), (5.0, 5.00001),
        (-1e-7, 1e-7), (3.0, 3.0 + 2**-20), (-9.0, -8.99995), (0.0, 40.0), (-40.0, 40.0), (20.0, 20.00009),
        (12.0, 12.0001), (0.0, 9.9e-5), (0.0, 1.01e-4),
    ],
)  # fmt: skip
def test_log_normal_mass_against_mpmath(low: float, high: float):
    value = float(log_normal_mass(torch.tensor(low, dtype=F64), torch.tensor(high, dtype=F64)))
    assert value == pytest.approx(exact_log_mass(low, high), rel=1e-11, abs=1e-10)


@pytest.mark.parametrize("distance", [0, 1, 3, 30, 250])
@pytest.mark.parametrize("scale", [1e-3, 0.01, 0.05, 1.0])
def test_far_tails_are_charged_in_full(distance: int, scale: float):
    """A level `distance` away from the prediction, 256 levels: against mpmath, no floor at -27.6."""
    step = 2 / 255
    loc, level = -1 + 2 * step, -1 + (2 + distance) * step
    cells = DiscretisedNormal(torch.tensor([loc], dtype=F64), torch.tensor(scale, dtype=F64), **on_levels(256))
    value = float(cells.log_prob(torch.tensor([level], dtype=F64)))
    truth = exact_log_mass((distance - 0.5) * step / scale, (distance + 0.5) * step / scale)
    assert value == pytest.approx(truth, rel=1e-9, abs=1e-9)


def test_float32_values_fall_into_the_right_level():
    values = torch.linspace(-1, 1, 256, dtype=F64)
    cells = DiscretisedNormal(values + 0.001, torch.tensor(0.02, dtype=F64), **on_levels(256))
    torch.testing.assert_close(cells.log_prob(values.float()), cells.log_prob(values), rtol=0, atol=1e-12)


def test_samples_have_these_masses():
    """20,000 draws on 9 levels, chi-square p > 1e-6 (seed 0, failure rate 1e-6)."""
    torch.manual_seed(0)
    cells = DiscretisedNormal(torch.tensor(0.2, dtype=F64), torch.tensor(0.6, dtype=F64), **on_levels(9))
    draws = cells.sample(torch.Size([20_000]))
    levels = ((draws + 1) / 0.25).round()
    torch.testing.assert_close(levels * 0.25 - 1, draws, rtol=0, atol=1e-12)
    expected = cells.log_prob(torch.linspace(-1, 1, 9, dtype=F64)).exp() * 20_000
    assert stats.chisquare(torch.bincount(levels.long(), minlength=9).numpy(), expected.numpy()).pvalue > 1e-6


@pytest.mark.parametrize("level", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize("scale", [1e-6, 0.05, 3.0])
def test_gradients_are_finite_and_right(level: float, scale: float):
    """Also in open bins, where the unused branch holds an infinity, and for narrow cells."""
    scale_ = torch.tensor(scale, dtype=F64, requires_grad=True)
    loc = torch.tensor([level + 0.4 * scale], dtype=F64, requires_grad=True)
    wide = {"first": -1.0, "step": 1.0, "k": 3}
    value = torch.tensor([level], dtype=F64)

    def f(loc: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return DiscretisedNormal(loc, scale, **wide).log_prob(value)

    for gradient in torch.autograd.grad(f(loc, scale_), (loc, scale_)):
        assert bool(torch.isfinite(gradient).all())
    if scale > 1e-3:
        assert torch.autograd.gradcheck(f, (loc, scale_))


def test_log1mexp_against_mpmath():
    for x in [1e-12, 1e-3, 0.5, math.log(2), 0.7, 5.0, 40.0, 700.0]:
        truth = float(mpmath.log(-mpmath.expm1(-mpmath.mpf(x))))
        assert float(log1mexp(torch.tensor(x, dtype=F64))) == pytest.approx(truth, rel=1e-13)
