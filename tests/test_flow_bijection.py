"""The pieces of a flow: log-determinants against the whole Jacobian, inverses, contexts, the identity they start as."""

import math

import pytest
import torch
from torch import Tensor

from jensen.flow.bijection import Bijection, Chain, Linear, MaskedSpline, Whitening, log_density

F64 = torch.float64
AUTOREGRESSIVE, COUPLING = {2: [1, 0], 5: [3, 0, 4, 1, 2], 1: [0]}, {2: [[0], [1]], 5: [[1, 3], [0, 2, 4]], 1: [[0]]}


def generic(flow: Bijection, size: float = 0.6) -> Bijection:
    """All weights random (seed 0), in float64: nothing is the identity by initialisation."""
    flow = flow.double().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in flow.parameters():
            fan_in = weight[0].numel() if weight.ndim > 1 else 4
            weight.copy_(size * torch.randn(weight.shape, generator=generator, dtype=F64) / math.sqrt(fan_in))
    for each in flow.modules():
        if isinstance(each, Whitening):
            dims = len(each.mean)
            factor = torch.randn(dims, dims, generator=generator, dtype=F64).tril(-1) + 1.5 * torch.eye(dims)
            each.set(torch.arange(dims, dtype=F64), factor)
    return flow


def spline(dims: int, kind: str, **options: int) -> MaskedSpline:
    order = (AUTOREGRESSIVE if kind == "autoregressive" else COUPLING)[dims]
    return MaskedSpline(dims, order, bins=5, bound=3.0, width=12, depth=1, **options)


def made(what: str, dims: int) -> Bijection:
    if what == "whitening":
        return generic(Whitening(dims))
    if what == "linear":
        return generic(Linear(dims))
    if what == "chain":
        parts = [Whitening(dims), spline(dims, "autoregressive"), Linear(dims), spline(dims, "coupling")]
        return generic(Chain(*parts))
    return generic(spline(dims, what))


def rows(count: int, dims: int, size: float = 2.0) -> Tensor:
    return size * torch.randn(count, dims, generator=torch.Generator().manual_seed(3), dtype=F64)


PIECES = ["whitening", "linear", "autoregressive", "coupling", "chain"]


@pytest.mark.parametrize("dims", [1, 2, 5])
@pytest.mark.parametrize("what", PIECES)
def test_log_det_is_that_of_the_whole_jacobian(what: str, dims: int):
    """∂z/∂x by autograd, row by row, its determinant by LU: nothing of the flow's own bookkeeping. 1e-10."""
    flow, x = made(what, dims), rows(20, dims)
    _, log_det = flow(x)
    for row, found in zip(x, log_det, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda r: flow(r[None])[0][0], row)
        assert isinstance(jacobian, Tensor)
        torch.testing.assert_close(torch.linalg.slogdet(jacobian).logabsdet, found, rtol=0, atol=1e-10)


@pytest.mark.parametrize("size", [1.0, 100.0])
@pytest.mark.parametrize("dims", [1, 2, 5])
@pytest.mark.parametrize("what", PIECES)
def test_the_inverse_undoes(what: str, dims: int, size: float):
    """Inside the splines' bound and far outside it."""
    flow, x = made(what, dims), rows(50, dims, size)
    torch.testing.assert_close(flow.inverse(flow(x)[0]), x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(flow(flow.inverse(x))[0], x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["autoregressive", "coupling"])
def test_networks_in_float32_are_undone_to_1e_5(kind: str):
    """As models use it: x in float64, networks in float32."""
    flow = Chain(made(kind, 5).float(), made("linear", 5).float(), made(kind, 5).float())
    x = rows(200, 5)
    back = flow.inverse(flow(x)[0])
    assert back.dtype == F64
    torch.testing.assert_close(back, x, rtol=0, atol=1e-5)


def test_all_but_the_whitening_start_as_the_identity():
    """So a new flow is the normal whose moments were measured: against torch's."""
    whitening = Whitening(3)
    mean, factor = torch.tensor([1.0, -2.0, 0.5], dtype=F64), torch.tensor(
        [[2.0, 0.0, 0.0], [0.6, 0.5, 0.0], [-1.0, 0.3, 0.8]], dtype=F64
    )  # fmt: skip
    whitening.set(mean, factor)
    flow = Chain(
        whitening,
        MaskedSpline(3, [0, 1, 2], bins=4, bound=2.0, width=8, depth=2),
        Linear(3),
        MaskedSpline(3, [[0, 2], [1]], bins=4, bound=2.0, width=8, depth=2),
    )
    x = rows(30, 3)
    expected = torch.distributions.MultivariateNormal(mean, scale_tril=factor).log_prob(x)
    torch.testing.assert_close(log_density(flow, x), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", ["autoregressive", "coupling"])
@pytest.mark.parametrize("dims", [1, 2])
def test_the_density_integrates_to_one_in_every_context(kind: str, dims: int):
    """By the trapezoid rule on [-8, 8]^D, beyond which less than 1e-12 of the normal lies; contexts give other densities."""
    flow = generic(spline(dims, kind, context_dim=2))
    axis = torch.linspace(-8, 8, 321 if dims == 2 else 4001, dtype=F64)
    grid = torch.cartesian_prod(*[axis] * dims).reshape(-1, dims)
    cell = float(axis[1] - axis[0]) ** dims
    found = []
    for context in (None, torch.tensor([[2.0, -1.0]], dtype=F64), torch.tensor([[-2.0, 0.5]], dtype=F64)):
        with torch.no_grad():
            density = log_density(flow, grid, None if context is None else context.expand(len(grid), -1)).exp()
        assert float(density.sum()) * cell == pytest.approx(1, abs=2e-4)
        found.append(density)
    assert all(float((a - b).abs().max()) > 1e-2 for a, b in [(found[0], found[1]), (found[1], found[2])])


@pytest.mark.parametrize("kind", ["autoregressive", "coupling"])
@pytest.mark.parametrize("dims", [1, 5])
def test_a_context_goes_through_both_ways(kind: str, dims: int):
    """Inverse and log-determinant under one context a row, and a gradient to every number of it."""
    flow = Chain(generic(spline(dims, kind, context_dim=3)), generic(spline(dims, kind, context_dim=3)))
    x, context = rows(10, dims), rows(10, 3)
    z, log_det = flow(x, context)
    torch.testing.assert_close(flow.inverse(z, context), x, rtol=0, atol=1e-9)
    for number in range(3):
        jacobian = torch.autograd.functional.jacobian(
            lambda r, at=number: flow(r[None], context[at : at + 1])[0][0], x[number]
        )
        assert isinstance(jacobian, Tensor)
        torch.testing.assert_close(torch.linalg.slogdet(jacobian).logabsdet, log_det[number], rtol=0, atol=1e-10)
    context.requires_grad_()
    (slope,) = torch.autograd.grad(log_density(flow, x.clamp(-1, 1), context).sum(), context)
    assert float(slope.abs().min()) > 1e-9


@pytest.mark.parametrize("kind", ["autoregressive", "coupling"])
def test_outside_the_bound_it_is_a_normal(kind: str):
    """Where all dimensions lie outside, the map is the identity: log p and its gradient are those of N(0, I)."""
    flow = made(kind, 5)
    for size in (3.001, 50.0, 1e6):
        x = (size * torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0], dtype=F64))[None].requires_grad_()
        log_p = log_density(flow, x)
        expected = -0.5 * x.square().sum() - 2.5 * math.log(2 * math.pi)
        assert float((log_p - expected).detach()) == pytest.approx(0, abs=1e-9)
        (slope,) = torch.autograd.grad(log_p.sum(), x)
        torch.testing.assert_close(slope, -x, rtol=1e-9, atol=1e-9)


def test_numbers_and_gradients_stay_finite_with_some_dimensions_far_out():
    flow, x = made("chain", 5), rows(50, 5)
    x[:, 2] = 1e8
    x.requires_grad_()
    log_p = log_density(flow, x)
    assert bool(log_p.isfinite().all())
    assert all(bool(g.isfinite().all()) for g in torch.autograd.grad(log_p.sum(), [x, *flow.parameters()]))
