"""Rational-quadratic splines: a Möbius map is reproduced, log-slopes are autograd's, the inverse undoes."""

import math

import pytest
import torch
from torch import Tensor

from jensen.distributions.spline import LEAST_BIN, Spline, parameters_of
from jensen.errors import InputError

F64 = torch.float64
BOUND = 3.0


def numbers(rows: int, bins: int = 8, scale: float = 1.0, seed: int = 0, dtype: torch.dtype = F64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(rows, parameters_of(bins), generator=generator, dtype=dtype)


def places(rows: int, most: float = 1.5 * BOUND, dtype: torch.dtype = F64) -> Tensor:
    """Values inside and outside."""
    return most * (2 * torch.rand(rows, generator=torch.Generator().manual_seed(1), dtype=dtype) - 1)


@pytest.mark.parametrize("knots", [2, 5])
@pytest.mark.parametrize("c", [0.05, 0.5, 4.0])
def test_a_moebius_map_is_reproduced(c: float, knots: int):
    """f(ξ) = ξ/(c + (1-c) ξ) is rational quadratic between any knots: value, slope and inverse in closed form, 1e-12."""

    def moebius(xi: Tensor) -> Tensor:
        return xi / (c + (1 - c) * xi)

    def slope(xi: Tensor) -> Tensor:
        return c / (c + (1 - c) * xi).square()

    at = torch.linspace(0, 1, knots, dtype=F64)
    spline = Spline(at, moebius(at), slope(at))
    xi = torch.linspace(0, 1, 101, dtype=F64)[:-1]
    y, log_slope = spline(xi)
    torch.testing.assert_close(y, moebius(xi), rtol=0, atol=1e-12)
    torch.testing.assert_close(log_slope, slope(xi).log(), rtol=0, atol=1e-12)
    back, minus = spline.inverse(xi)
    torch.testing.assert_close(back, c * xi / (1 - (1 - c) * xi), rtol=0, atol=1e-12)
    torch.testing.assert_close(minus, -slope(back).log(), rtol=0, atol=1e-11)


@pytest.mark.parametrize("bins", [1, 2, 8])
@pytest.mark.parametrize("scale", [0.0, 1.0, 5.0])
def test_the_log_slope_is_autograds_both_ways(bins: int, scale: float):
    """On fresh values each way: nothing is remembered from the other direction."""
    spline = Spline.from_numbers(numbers(500, bins, scale), BOUND)
    for direction in (spline, spline.inverse):
        at = places(500).requires_grad_()
        value, log_slope = direction(at)
        (found,) = torch.autograd.grad(value.sum(), at)
        torch.testing.assert_close(log_slope, found.log(), rtol=0, atol=1e-7)


def test_the_gradient_with_respect_to_the_numbers_is_that_of_differences():
    raw = numbers(6, 4).requires_grad_()
    at = places(6)
    assert torch.autograd.gradcheck(lambda r: Spline.from_numbers(r, BOUND)(at), raw)


@pytest.mark.parametrize(
    ("dtype", "scale", "atol"), [(torch.float32, 1.0, 1e-5), (torch.float32, 3.0, 1e-5), (F64, 1.0, 1e-12)]
)
def test_the_inverse_undoes(dtype: torch.dtype, scale: float, atol: float):
    """20,000 generic splines; x is lost only where y's own rounding hides it, so the error counts g' times where g' < 1."""
    spline = Spline.from_numbers(numbers(20_000, 8, scale, dtype=dtype), BOUND)
    x = places(20_000, dtype=dtype)
    y, log_slope = spline(x)
    back, minus = spline.inverse(y)
    error = (back - x).abs() * log_slope.exp().clamp(max=1)
    assert float(error.max()) < atol
    plain = log_slope > math.log(0.1)
    torch.testing.assert_close(minus[plain], -log_slope[plain], rtol=0, atol=1e3 * atol)
    back, minus = spline.inverse(x)
    error = (spline(back)[0] - x).abs() * minus.exp().clamp(max=1)  # here x's rounding is magnified g' times
    assert float(error.max()) < atol


@pytest.mark.parametrize("way", ["forward", "inverse"])
@pytest.mark.parametrize("off", [-1e-9, 0.0, 1e-9])
def test_knots_go_to_knots_with_their_slopes(way: str, off: float):
    """At every knot and just beside it on both sides, the ends ±B among them: continuous, with continuous slope."""
    spline = Spline.from_numbers(numbers(1, 8)[0], BOUND)
    each = Spline(*(t.expand(9, 9) for t in (spline.x, spline.y, spline.slope)))
    at, target, direction, sign = (
        (spline.x, spline.y, each, 1) if way == "forward" else (spline.y, spline.x, each.inverse, -1)
    )
    value, log_slope = direction(at + off)
    torch.testing.assert_close(value, target, rtol=0, atol=1e-7)
    torch.testing.assert_close(log_slope, sign * spline.slope.log(), rtol=0, atol=1e-6)
    assert spline.x[0].item() == spline.y[0].item() == -BOUND
    assert spline.x[-1].item() == spline.y[-1].item() == BOUND
    assert spline.slope[0].item() == spline.slope[-1].item() == 1.0


def test_it_rises_everywhere():
    spline = Spline.from_numbers(numbers(200, 8, 3.0)[:, None], BOUND)
    x = torch.linspace(-2 * BOUND, 2 * BOUND, 4001, dtype=F64)
    y, _ = spline(x.expand(200, -1))
    assert bool((y.diff(dim=1) > 0).all())


@pytest.mark.parametrize("far", [BOUND * (1 + 1e-12), 1e3, 1e30, math.inf])
def test_outside_it_is_the_identity_with_gradient_one(far: float):
    raw = numbers(2).requires_grad_()
    for direction in (Spline.from_numbers(raw, BOUND), Spline.from_numbers(raw, BOUND).inverse):
        at = torch.tensor([far, -far], dtype=F64, requires_grad=True)
        value, log_slope = direction(at)
        assert torch.equal(value, at)
        assert torch.equal(log_slope, torch.zeros(2, dtype=F64))
        to_at, to_raw = torch.autograd.grad(value.sum() + log_slope.sum(), (at, raw))
        assert torch.equal(to_at, torch.ones(2, dtype=F64))
        assert torch.equal(to_raw, torch.zeros_like(raw))


def test_what_is_no_number_stays_none():
    value, _ = Spline.from_numbers(numbers(1), BOUND)(torch.tensor([math.nan], dtype=F64))
    assert bool(value.isnan().all())


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("size", [30.0, 1e4, 1e30])
def test_degenerate_numbers_are_kept_in_bounds(dtype: torch.dtype, size: float):
    """Whatever a network puts out: bins of at least 2B/1000, slopes from 1/1000 to 1000, finite values and gradients."""
    raw = (size * numbers(300, 8).sign()).to(dtype).requires_grad_()
    spline = Spline.from_numbers(raw, BOUND)
    least = 2 * BOUND * LEAST_BIN * (1 - 1e-2)
    assert float(spline.x.diff().min()) > least
    assert float(spline.y.diff().min()) > least
    assert 0.999e-3 < float(spline.slope.min()) < float(spline.slope.max()) < 1.001e3
    at = places(300, 0.99 * BOUND, dtype)
    for direction in (spline, spline.inverse):
        value, log_slope = direction(at)
        assert float(value.abs().max()) <= BOUND * (1 + 1e-6)
        assert float(log_slope.abs().max()) < 25
        (found,) = torch.autograd.grad(value.sum() + log_slope.sum(), raw, retain_graph=True)
        assert bool(found.isfinite().all())


def test_all_zero_is_the_identity():
    x = places(50)
    y, log_slope = Spline.from_numbers(torch.zeros(50, 23, dtype=F64), BOUND)(x)
    torch.testing.assert_close(y, x, rtol=0, atol=1e-12)
    torch.testing.assert_close(log_slope, torch.zeros_like(x), rtol=0, atol=1e-12)


def test_what_cannot_be_is_refused():
    with pytest.raises(InputError, match="3 K - 1 numbers, K from 1 to 999, got 9"):
        Spline.from_numbers(torch.zeros(9), BOUND)
    with pytest.raises(InputError, match="bound must be positive, got -1"):
        Spline.from_numbers(torch.zeros(8), -1.0)
