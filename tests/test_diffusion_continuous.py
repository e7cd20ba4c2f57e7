"""The bound in continuous time: tight under the exact denoiser, the limit of the chain's, blind to the schedule (laws 7, 8, 9)."""

import math

import numpy as np
import pytest
import torch
from analytic import Exact, levels_of, mean_over_noise, mixture_1d, normal_nodes, z_score
from torch import Tensor

from jensen.data.space import Real
from jensen.diffusion.continuous import ContinuousTime
from jensen.diffusion.emission import Emission
from jensen.diffusion.likelihood import Plan, estimate, uniform_proposal
from jensen.diffusion.process import Chain
from jensen.diffusion.reverse import ReverseProcess
from jensen.diffusion.schedule import LogSNRUniform
from jensen.diffusion.variance import Interpolated
from jensen.errors import InputError
from jensen.noise import Noise

F64 = torch.float64
WORLD = mixture_1d()
X = torch.tensor([[-1.2], [0.1], [0.9], [2.5]], dtype=F64)
EDGE = 12.0
SPIKY = torch.tensor([0.05, 0.4, 0.05, 0.2, 0.3], dtype=F64)


def process(steps: int, start: float = EDGE, end: float = -EDGE, shrink: float = 1.0) -> ReverseProcess:
    chain = Chain(LogSNRUniform(start, end), steps)
    return ReverseProcess(chain, Exact(WORLD, shrink), Interpolated(0.0), Emission(Real(), 0.05))


def integral(bound: ContinuousTime, x: Tensor, points: int = 120) -> Tensor:
    """½ ∫ E‖ε - ε̂‖² dλ of each row: Gauss–Legendre in λ, the trapezoid rule in ε."""
    high, low = (float(bound.reverse.chain.log_snr[i]) for i in (0, -1))
    at, weights = np.polynomial.legendre.leggauss(points)
    nodes = normal_nodes(401)
    total = torch.zeros(len(x), dtype=F64)
    for place, weight in zip(at, weights, strict=True):
        log_snr = 0.5 * (high + low) + 0.5 * (high - low) * place
        term = mean_over_noise(
            lambda x_0, eps: bound.term(x_0, torch.full((len(x_0),), log_snr, dtype=F64), eps),  # noqa: B023
            x,
            nodes[0][:, None],
            nodes[1],
        )
        total += 0.5 * (high - low) * weight * term
    return total


def test_under_the_exact_denoiser_it_is_tight():
    """Law 7: E[-log p_{λ_1}(z)] = L_T + ½∫E‖ε - ε̂‖² dλ + H(q(z | x)) for every x, over λ of ±12; 1e-6."""
    bound = ContinuousTime(process(5))
    nodes, weights = normal_nodes(401)
    alpha2, sigma2 = levels_of(EDGE)
    own = mean_over_noise(
        lambda x_0, eps: -WORLD.log_prob(alpha2.sqrt() * x_0 + sigma2.sqrt() * eps, EDGE), X, nodes[:, None], weights
    )
    entropy = 0.5 * math.log(2 * math.pi * math.e * float(sigma2))
    # what is left is KL(p_{λ_T} ‖ N): the flow of the bound ends in N(0, I), the world's own marginal does not quite
    torch.testing.assert_close(bound.prior_term(X) + integral(bound, X) + entropy, own, rtol=0, atol=2e-5)
    exact = _posterior_prior_term(X)
    torch.testing.assert_close(exact + integral(bound, X) + entropy, own, rtol=0, atol=1e-6)


def _posterior_prior_term(x: Tensor) -> Tensor:
    """KL(q(z_T | x) ‖ p_{λ_T}) against the world's own marginal at the end."""
    nodes, weights = normal_nodes(401)
    alpha2, sigma2 = levels_of(-EDGE)

    def ratio(x_0: Tensor, eps: Tensor) -> Tensor:
        z = alpha2.sqrt() * x_0 + sigma2.sqrt() * eps
        log_q = -0.5 * eps.square().sum(1) - 0.5 * torch.log(2 * math.pi * sigma2)
        return log_q - WORLD.log_prob(z, -EDGE)

    return mean_over_noise(ratio, x, nodes[:, None], weights)


@pytest.mark.parametrize("shrink", [1.0, 0.9])
def test_chains_come_near_it_as_one_over_t(shrink: float):
    """Nested grids between the same ends, the mean over X: the gap falls with slope -1 (law 8), for a wrong denoiser too."""
    bound = ContinuousTime(process(2, 6.0, -6.0, shrink))
    limit = float(integral(bound, X).mean())
    nodes, weights = normal_nodes(401)

    def gap(steps: int) -> float:
        reverse = process(steps, 6.0, -6.0, shrink)
        terms = [
            mean_over_noise(
                lambda x_0, eps: reverse.term(x_0, torch.full((len(x_0),), i), eps),  # noqa: B023
                X,
                nodes[:, None],
                weights,
            )
            for i in range(2, steps + 1)
        ]
        return float(torch.stack(terms).sum(0).mean()) - limit

    gaps = [gap(steps) for steps in (33, 129)]
    assert gaps[0] > gaps[1] > 0
    assert math.log(gaps[0] / gaps[1], 4) == pytest.approx(1, abs=0.1)


UNEVEN = torch.tensor([5.0, 4.7, 2.0, 1.5, -2.0, -3.0], dtype=F64)


def on_levels(even: bool, shrink: float = 1.0) -> ContinuousTime:
    """Between the same ends."""
    reverse = process(6, 5.0, -3.0, shrink)
    return ContinuousTime(reverse if even else reverse.along(reverse.chain.through(UNEVEN)))


@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("proposal", [uniform_proposal(6), SPIKY], ids=["uniform", "spiky"])
def test_places_are_the_quantiles_of_their_density(proposal: Tensor, even: bool):
    bound = on_levels(even)
    u = torch.linspace(0, 1, 2001, dtype=F64)[:-1].reshape(1, -1)
    where, density = bound.places(proposal, u)
    assert float(where[0, 0]) == pytest.approx(5.0)
    assert bool((where[0].diff() < 0).all())
    assert float(where[0, -1]) == pytest.approx(-3.0, abs=0.05)
    inside = (density[0, 1:] == density[0, :-1]).nonzero()[:, 0]
    slope = where[0].diff()[inside] / (u[0, 1] - u[0, 0])
    torch.testing.assert_close(slope, -1 / density[0, inside], rtol=1e-8, atol=0)
    assert len(density.unique()) <= 5


@pytest.mark.parametrize("even", [True, False])
@pytest.mark.parametrize("proposal", [uniform_proposal(6), SPIKY], ids=["uniform", "spiky"])
def test_any_proposal_gives_the_integral(proposal: Tensor, even: bool):
    """2,000 estimates of one x_0 against the quadrature, |z| < 4.5, whatever levels lie between the ends; the parts are those of the chain (law 9)."""
    bound, rows = on_levels(even, 0.9), X[1:2].expand(2000, 1)
    found = estimate(bound, rows, torch.arange(2000), Plan(1, 5, proposal), Noise(4))
    assert abs(z_score(found.diffusion[0], float(integral(bound, X[1:2])[0]))) < 4.5
    chain = estimate(bound.reverse, rows, torch.arange(2000), Plan(1, 5, proposal), Noise(4))
    assert torch.equal(chain.reconstruction, found.reconstruction)
    assert torch.equal(chain.prior, found.prior)


def test_levels_between_the_ends_change_the_variance_and_not_the_mean():
    """Law 9, second half: from one place each the spread differs by more than a tenth, 20 times its standard error."""
    rows = X[1:2].expand(20_000, 1)
    even, uneven = (
        estimate(on_levels(word), rows, torch.arange(20_000), Plan(1, 2, uniform_proposal(6)), Noise(7)).diffusion[0]
        for word in (True, False)
    )
    away = (even.mean() - uneven.mean()) / ((even.var() + uneven.var()) / 20_000).sqrt()
    assert abs(float(away)) < 4.5
    assert abs(math.log(float(even.std() / uneven.std()))) > 0.1


def test_one_level_has_no_way_to_go():
    with pytest.raises(InputError, match="this chain has 1 step"):
        ContinuousTime(process(1))
