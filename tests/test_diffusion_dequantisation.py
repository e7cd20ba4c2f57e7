"""The learned dequantisation: where it starts, that its gradient is the bound's, and that it reaches the mass of a level (law 17)."""

import math

import pytest
import torch
from analytic import Exact, Mixture, levels_of
from torch import Tensor

import jensen
from jensen.data.space import Levels, Real
from jensen.diffusion.dequantisation import LearnedSpread, spread_from
from jensen.diffusion.methods import Ode
from jensen.errors import InputError
from jensen.models.ddpm import DDPM
from jensen.models.diffusion_objective import DDPMObjective
from jensen.nn.mlp import MLP
from jensen.noise import Noise

F64 = torch.float64
HIGH, SPACE = 5.0, Levels(5, -1.0, 0.5)
SCALE = math.exp(-0.5 * HIGH)
WORLD = Mixture([0.6, 0.4], [[-0.55], [0.4]], [[[0.03]], [[0.1]]])
"""A density on reals that knows of no levels: that is where a place in the bin matters."""


class OfRows(torch.nn.Module):
    """An MLP of rows and level, two numbers a dimension."""

    def __init__(self, dims: int) -> None:
        super().__init__()
        self.mlp = MLP(dims, 2 * dims, width=64, depth=1).double()

    def forward(self, x: Tensor, log_snr: Tensor) -> Tensor:
        out = self.mlp(x, log_snr)
        assert isinstance(out, Tensor)
        return out


def learned(dims: int = 1) -> LearnedSpread:
    torch.manual_seed(0)
    return LearnedSpread(OfRows(dims), (dims,))


def moved(spread: LearnedSpread) -> LearnedSpread:
    """Away from where it starts."""
    with torch.no_grad():
        for p in spread.parameters():
            p += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()), dtype=p.dtype)
    return spread


def log_density(y: Tensor) -> Tensor:
    """Of x/α for x at λ_1, WORLD's."""
    alpha2, _ = levels_of(HIGH)
    return WORLD.log_prob(alpha2.sqrt() * y, HIGH) + 0.5 * alpha2.log()


def bound(spread: LearnedSpread, draws: int = 4000) -> Tensor:
    """E_q[log p̃ - log q] of every level, by the midpoint rule in u."""
    x = SPACE.values()[:, None].repeat_interleave(draws, 0)
    u = ((torch.arange(draws, dtype=F64) + 0.5) / draws).repeat(5)[:, None]
    with torch.no_grad():
        placed, log_q = spread(x, u, SPACE, SCALE)
    return (log_density(placed) - log_q).reshape(5, draws).mean(1)


def log_mass() -> Tensor:
    """The mass of every bin under WORLD at λ_1, the outer ones open; by the normals' own distribution functions."""
    alpha2, sigma2 = levels_of(HIGH)
    means = alpha2.sqrt() * WORLD.means[:, 0]
    deviations = (alpha2 * WORLD.covariances[:, 0, 0] + sigma2).sqrt()
    edges = torch.tensor([-math.inf, -0.75, -0.25, 0.25, 0.75, math.inf], dtype=F64) * alpha2.sqrt()
    below = torch.special.ndtr((edges[:, None] - means) / deviations) @ WORLD.weights
    return below.diff().log()


def test_it_starts_at_the_truncated_normal():
    x, u = SPACE.values()[:, None], torch.linspace(0.01, 0.99, 5, dtype=F64)[:, None]
    found, start = learned()(x, u, SPACE, 0.12), spread_from("truncated-normal")(x, u, SPACE, 0.12)
    for a, b in zip(found, start, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_places_have_the_density_that_is_told_and_stay_in_their_bin():
    """q(place(u)) · d place/du = 1, by central differences, two columns."""
    spread, h = moved(learned(2)), 1e-6
    x = SPACE.values()[torch.tensor([[0, 1], [2, 3], [4, 2], [1, 1]])]
    u = torch.rand(4, 2, generator=torch.Generator().manual_seed(0), dtype=F64) * 0.9 + 0.05
    with torch.no_grad():
        ahead, behind = (spread(x, u + d, SPACE, 0.3)[0] for d in (h, -h))
        placed, log_q = spread(x, u, SPACE, 0.3)
    torch.testing.assert_close(log_q, -((ahead - behind) / (2 * h)).log().sum(1), rtol=1e-6, atol=1e-6)
    inner = (x > -1) & (x < 1)
    assert bool(((placed - x).abs() <= 0.25)[inner].all())
    assert float((placed - spread_from("truncated-normal")(x, u, SPACE, 0.3)[0]).abs().max()) > 1e-3


def test_its_gradient_is_that_of_the_bound_where_the_score_is_exact():
    """Through `cost`, against autograd through the closed form of the density."""
    spread, x = moved(learned()), SPACE.values()[:, None]
    u = torch.rand(5, 1, generator=torch.Generator().manual_seed(1), dtype=F64)
    found = torch.autograd.grad(
        spread.cost(x, u, SPACE, Exact(WORLD), HIGH).sum(), list(spread.parameters()), allow_unused=True
    )
    placed, log_q = spread(x, u, SPACE, SCALE)
    truth = torch.autograd.grad((log_q - log_density(placed)).sum(), list(spread.parameters()), allow_unused=True)
    assert sum(float(g.abs().sum()) for g in truth if g is not None) > 1e-3
    for a, b in zip(found, truth, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


def test_learning_closes_the_gap_to_the_mass():
    """From below, at every level: what the truncated normal misses on a density that has no levels, the learned one does not."""
    spread, mass = learned(), log_mass()
    gap = mass - bound(spread)
    adam = torch.optim.Adam(spread.parameters(), lr=3e-3)
    x = SPACE.values()[:, None].repeat(40, 1)
    for number in range(250):
        u = Noise(0).at(number).uniform(range(len(x)), (1,))
        cost = spread.cost(x, u, SPACE, Exact(WORLD), HIGH).mean()
        adam.zero_grad()
        cost.backward()
        adam.step()
    left = mass - bound(spread)
    assert float(gap.min()) > 0.2
    assert float(left.min()) > 0
    assert float(left.max()) < 0.1  # the outer bins are open, and what lies in them is no normal cut off
    assert float(left[1:-1].max()) < 0.03


def model_of(space: Levels | Real, dequantisation: str = "learned") -> DDPM:
    return DDPM((3,), space, timesteps=10, size="tiny", dequantisation=dequantisation)  # type: ignore[arg-type]


def test_a_fit_learns_it_beside_the_denoiser_and_leaves_that_alone():
    model = model_of(SPACE)
    x = SPACE.values()[torch.randint(0, 5, (16, 3), generator=torch.Generator().manual_seed(0))].float()
    batch = jensen.data.examples.Batch(x=x, id=torch.arange(16))
    plain = DDPMObjective(model.reverse, "simple")
    both = model.objective()
    loss, alone = both(batch, Noise(0)), plain(batch, Noise(0))
    torch.testing.assert_close(loss[2:], alone[2:], rtol=0, atol=0)
    assert bool((loss[:2] != alone[:2]).all())
    denoiser = list(model.reverse.denoiser.parameters())
    for a, b in zip(*(torch.autograd.grad(v.sum(), denoiser) for v in (loss, alone)), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert model.places is not None
    both(batch, Noise(0)).sum().backward()
    assert max(float(p.grad.abs().max()) for p in model.places.parameters() if p.grad is not None) > 0


def test_the_flow_takes_it_where_there_is_one():
    model = model_of(SPACE)
    assert model.places is not None
    moved(model.places)
    x = SPACE.values()[torch.tensor([[0, 1, 2], [2, 4, 3]])].float()
    options = {"ode_steps": 6, "repetitions": 2}
    default, named, other = (
        model.log_likelihood(x, method="ode", **options, **more)  # type: ignore[arg-type]
        for more in ({}, {"dequantisation": "learned"}, {"dequantisation": "truncated-normal"})
    )
    assert default.diagnostics["dequantisation"] == "learned"
    assert torch.equal(default.value, named.value)
    assert not torch.equal(default.value, other.value)


def test_the_masses_of_all_rows_sum_to_at_most_one():
    """Enumerated: two cells of three levels under the flow of a network of no merit, with places far from where they start, exact trace."""
    space = Levels(3, -1.0, 1.0)
    torch.manual_seed(1)
    model = DDPM((2,), space, timesteps=10, size="tiny", parametrisation="v", dequantisation="learned")
    assert model.places is not None
    with torch.no_grad():
        for p in [*model.reverse.denoiser.parameters(), *model.places.parameters()]:
            p += 0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()))
    x = space.values()[torch.cartesian_prod(torch.arange(3), torch.arange(3))].float()
    for word in ("learned", "truncated-normal"):
        ll = model.log_likelihood(x, method="ode", repetitions=8, dequantisation=word, ode_steps=10)  # type: ignore[arg-type]
        assert ll.stderr is not None
        mass = ll.value.exp()
        error = float((mass * ll.stderr).square().sum().sqrt())
        assert 0 < float(mass.sum()) < 1 + 4 * error
        assert error < 0.2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: model_of(Real()), "dequantisation=learned is for levels"),
        (lambda: model_of(SPACE, "uniform"), "must be truncated-normal or learned, got 'uniform'"),
        (
            lambda: Ode(model_of(SPACE, "truncated-normal").reverse, SPACE)._settings(
                torch.zeros(1, 3), {"dequantisation": "learned"}
            ),
            "no learned dequantisation; fit with --set dequantisation=learned",
        ),
        (lambda: spread_from("lerned"), "did you mean 'learned'"),
    ],
)
def test_what_cannot_be_is_refused(make, message: str):
    with pytest.raises(InputError, match=message):
        make()
