"""The density of the probability flow: against closed forms, with the exact trace and Hutchinson's (laws 12, 13, 17, 18)."""

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from analytic import Exact, LevelsWorld, LinearGaussian, Mixture, levels_of, mixture_2d, mixture_3d, ppca
from scipy import stats
from torch import Tensor

from jensen.data.space import Levels, Real
from jensen.diffusion.denoiser import LevelsDenoiser
from jensen.diffusion.dequantisation import spread_from
from jensen.diffusion.emission import Emission
from jensen.diffusion.flow import Accuracy, ProbabilityFlow
from jensen.diffusion.methods import Asked, Ode, Vlb
from jensen.diffusion.ode import FlowLikelihood, Settings, pilot
from jensen.diffusion.process import Chain
from jensen.diffusion.reverse import ReverseProcess
from jensen.diffusion.schedule import LogSNRUniform
from jensen.diffusion.variance import Interpolated
from jensen.errors import InputError
from jensen.nn.levels import LevelsHead
from jensen.noise import Noise

F64 = torch.float64
HIGH, LOW = 7.0, -12.0


def flow_of(world: Mixture | LinearGaussian, low: float = LOW) -> ProbabilityFlow:
    return ProbabilityFlow(Exact(world), HIGH, low, (world.dims,), torch.zeros(1, dtype=F64), None)


def rows_of(world: Mixture | LinearGaussian, n: int = 12) -> Tensor:
    """Rows at λ_1."""
    g = torch.Generator().manual_seed(0)
    alpha2, sigma2 = levels_of(HIGH)
    return alpha2.sqrt() * world.sample(n, g) + sigma2.sqrt() * torch.randn(n, world.dims, generator=g, dtype=F64)


@pytest.mark.parametrize("world", [mixture_2d(), mixture_3d()], ids=["2-d", "3-d"])
@pytest.mark.parametrize(("tolerance", "most"), [(1e-4, 2e-3), (1e-10, 1e-8)])
def test_with_the_worlds_own_end_it_is_log_p(world: Mixture, tolerance: float, most: float):
    """Law 12: log p_{λ_1}(x) of W1, the normal at the end replaced by the world's p_{λ_T}."""
    x = rows_of(world)
    found = flow_of(world).log_density(x, Accuracy(tolerance), None)
    normal = torch.distributions.Normal(0.0, 1.0).log_prob(found.end).sum(1)
    log_p = found.log_density - normal + world.log_prob(found.end, LOW)
    assert float((log_p - world.log_prob(x, HIGH)).abs().max()) < most


def test_equal_steps_come_to_the_same():
    world = mixture_2d()
    fine, fixed = (flow_of(world).log_density(rows_of(world), a, None) for a in (Accuracy(1e-10), Accuracy(1.0, 200)))
    torch.testing.assert_close(fixed.log_density, fine.log_density, rtol=0, atol=1e-6)
    assert fixed.slopes.tolist() == [1201] * 12


def test_there_and_back():
    world, accuracy = mixture_2d(), Accuracy(1e-10)
    flow, x = flow_of(world), rows_of(world)
    torch.testing.assert_close(flow.backward(flow.forward(x, accuracy).y, accuracy).y, x, rtol=0, atol=1e-8)


def test_hutchinson_over_all_signs_is_the_trace_and_its_variance_the_laws():
    """Law 13 on W2, where ∂x̂_0/∂x does not depend on x: over all 8 vectors of signs the mean is the exact value and the variance
    2 Σ_{i≠j} M_ij² with M the integral of ½α ∂x̂_0/∂x, which is symmetric; no sampling.
    """
    world, accuracy = ppca(), Accuracy(1e-9)
    x = rows_of(world, 1)
    signs = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=3)), dtype=F64)
    found = flow_of(world).log_density(x.expand(8, 3), accuracy, signs[:, None])
    exact = flow_of(world).log_density(x, accuracy, None).log_density
    torch.testing.assert_close(found.log_density.mean(0, keepdim=True), exact, rtol=0, atol=1e-7)
    levels = torch.linspace(LOW, HIGH, 4001, dtype=F64)
    gains = torch.stack([0.5 * torch.sigmoid(level).sqrt() * world.gain(float(level))[0] for level in levels])
    m = torch.trapezoid(gains, levels, dim=0)
    expected = 2 * (m.square().sum() - m.diag().square().sum())
    assert float(expected) > 0.1
    assert float(found.log_density.var(correction=0)) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("repetitions", [2, 6])
def test_student_intervals_cover_the_value_with_the_exact_trace(repetitions: int):
    """95 % intervals value ± t_{K-1} sd/√K of single rows cover it in 93–97 % of 2000 rows that differ in their ids alone (law 24); seed K.

    With the same steps the exact trace is the mean over signs without error of the solver. Twelve dimensions, because an estimate by signs
    of three takes four values only.
    """
    loadings = torch.randn(12, 12, generator=torch.Generator().manual_seed(3), dtype=F64)
    world = LinearGaussian(loadings / 2, torch.zeros(12, dtype=F64), 0.5)
    x, steps = world.sample(1, torch.Generator().manual_seed(1)).expand(2000, 12), Accuracy(1.0, 6)
    likelihood = likelihood_of(world, -8.0)
    truth = likelihood.estimate(x[:1], torch.arange(1), Settings(1, None, steps, "uniform"), Noise(0)).total
    values = likelihood.estimate(
        x, torch.arange(2000), Settings(repetitions, 1, steps, "uniform"), Noise(repetitions)
    ).total
    error = values.std(0) / repetitions**0.5
    assert float(error.mean()) > 0.1
    covered = (values.mean(0) - truth).abs() < stats.t.ppf(0.975, repetitions - 1) * error
    assert 0.93 < float(covered.double().mean()) < 0.97


def test_probes_are_averaged():
    world, accuracy = ppca(), Accuracy(1e-9)
    x, signs = rows_of(world, 1), torch.tensor([[1.0, 1.0, -1.0], [1.0, -1.0, -1.0]], dtype=F64)
    both = flow_of(world).log_density(x, accuracy, signs[None]).log_density
    single = [flow_of(world).log_density(x, accuracy, v[None, None]).log_density for v in signs]
    torch.testing.assert_close(both, (single[0] + single[1]) / 2, rtol=0, atol=1e-7)


def likelihood_of(world: Mixture | LinearGaussian, low: float = -16.0) -> FlowLikelihood:
    chain = Chain(LogSNRUniform(HIGH, low), 10)
    return FlowLikelihood(ReverseProcess(chain, Exact(world), Interpolated(0.0), Emission(Real(), 0.05)), Real())


def test_on_real_values_it_is_the_density_of_the_flow_over_alpha():
    """p of x/α for x at λ_1: log p_{λ_1}(α x) + d log α, with the end of the flow as near to N(0, I) as λ = -16 is."""
    world = mixture_2d()
    x = world.sample(6, torch.Generator().manual_seed(1))
    settings = Settings(1, None, Accuracy(1e-8), "truncated-normal")
    found = likelihood_of(world).estimate(x, torch.arange(6), settings, Noise(0))
    alpha2, _ = levels_of(HIGH)
    expected = world.log_prob(alpha2.sqrt() * x, HIGH) + 2 * 0.5 * float(alpha2.log())
    torch.testing.assert_close(found.total[0], expected, rtol=0, atol=2e-3)
    assert sorted(found.terms) == ["flow", "scale"]


def levels_likelihood(k: int = 8) -> tuple[LevelsWorld, FlowLikelihood]:
    world = LevelsWorld(k)
    space = Levels(k, -1.0, world.step)
    chain = Chain(LogSNRUniform(2 * math.log(3 * (k - 1)), -16.0), 10)
    reverse = ReverseProcess(chain, Exact(world), Interpolated(0.0), Emission(space, 0.05))
    return world, FlowLikelihood(reverse, space)


def test_on_levels_the_truncated_normal_costs_the_mass_outside_the_bin():
    """W4: near a level the density is the level's mass times the noise's normal, so a draw gives log P + log Z, Z its mass inside; at the edge of
    a bin, where few draws fall, the neighbour's share comes on top. Every draw is the world's own smoothed density there, by the mixture of
    all levels.
    """
    world, likelihood = levels_likelihood()
    x, ids = world.values[:, None], torch.arange(8)
    found = likelihood.estimate(x, ids, Settings(7, None, Accuracy(1e-6), "truncated-normal"), Noise(0))
    scale = math.exp(-0.5 * likelihood.ends[0])
    tail = 0.5 * math.erfc(0.5 * world.step / scale / math.sqrt(2))
    lost = torch.tensor([tail, *[2 * tail] * 6, tail], dtype=F64)
    torch.testing.assert_close(found.total.median(0).values, world.mass.log() + torch.log1p(-lost), rtol=0, atol=5e-3)
    assert isinstance(likelihood.space, Levels)
    for k in range(7):
        u = Noise(0, "repetition", k).at("place").uniform(ids, (1,))
        placed, log_q = spread_from("truncated-normal")(x, u, likelihood.space, scale)
        each = (
            world.mass.log() - 0.5 * ((placed - world.values) / scale).square() - math.log(scale * (2 * math.pi) ** 0.5)
        )
        torch.testing.assert_close(found.total[k], each.logsumexp(1) - log_q, rtol=0, atol=1e-3)


def test_the_uniform_bound_is_below_and_says_so_in_mean():
    """Uniform noise is not the diffusion's: log P is missed by the divergence of the two, 0.63 nats a cell at three deviations to the edge."""
    world, likelihood = levels_likelihood()
    x = world.values[3:4, None].expand(4000, 1)
    settings = Settings(1, None, Accuracy(1e-5), "uniform")
    value = likelihood.estimate(x[:400], torch.arange(400), settings, Noise(0)).total[0]
    scale, width = math.exp(-0.5 * likelihood.ends[0]), world.step
    gap = 0.5 * math.log(2 * math.pi) + math.log(scale / width) + width**2 / (24 * scale**2)
    expected = float(world.mass[3].log()) - gap
    assert abs(float(value.mean()) - expected) < 4.5 * float(value.std()) / 20 + 0.02
    assert float(value.mean()) < float(world.mass[3].log())


def mass_of_the_bins(world: LevelsWorld, scale: float) -> Tensor:
    """∫ over the bin of each level, open outside, of the density that the flow of this world has: levels, each in the noise of the first level."""
    edges = torch.cat([torch.tensor([-math.inf], dtype=F64), world.values[:-1] + world.step / 2])
    upper = torch.cat([edges[1:], torch.tensor([math.inf], dtype=F64)])
    high, low = (torch.special.ndtr((e[:, None] - world.values) / scale) for e in (upper, edges))
    return (high - low) @ world.mass


def test_the_mean_weight_of_several_draws_is_unbiased_and_nears_the_mass():
    """Law 18: E exp of K = 4 draws is the mass of the bin under the flow, by a z-test over 600 rows; K = 1, 4, 16 rise in mean and stay below,
    and an open bin, which uniform places do not cover, is not missed by the truncated normal. Seed 0.
    """
    world, likelihood = levels_likelihood()
    mass = mass_of_the_bins(world, math.exp(-0.5 * likelihood.ends[0]))
    for word, level in (("uniform", 3), ("truncated-normal", 3), ("truncated-normal", 0)):
        x, ids, log_p = world.values[level].expand(600, 1), torch.arange(600), float(mass[level].log())
        settings = Settings(1, None, Accuracy(1e-4), word, 4)
        found = likelihood.estimate(x, ids, settings, Noise(0))
        weights = (found.total[0] - log_p).exp()
        assert abs(float(weights.mean()) - 1) < 4.5 * float(weights.std()) / 600**0.5 + 2e-3
        single = likelihood.estimate(x[:5], ids[:5], replace(settings, draws=1), Noise(0))
        assert bool((found.calls[:5] > 3 * single.calls).all())
        torch.testing.assert_close(torch.stack(list(found.terms.values())).sum(0), found.total, rtol=0, atol=1e-12)
        if word == "uniform":
            few = [
                likelihood.estimate(x[:300], ids[:300], replace(settings, draws=k), Noise(0)).total for k in (1, 4, 16)
            ]
            assert float(few[0].mean()) + 0.1 < float(few[1].mean()) < float(few[2].mean()) - 0.02 < log_p - 0.02


def test_several_draws_are_those_of_single_ones():
    """log (1/K) Σ of weights whose places are told by their streams, each by the formula of the mixture."""
    world, likelihood = levels_likelihood()
    assert isinstance(likelihood.space, Levels)
    x, ids, scale = world.values[:, None], torch.arange(8), math.exp(-0.5 * likelihood.ends[0])
    found = likelihood.estimate(x, ids, Settings(2, None, Accuracy(1e-6), "uniform", 3), Noise(0)).total
    for repetition in range(2):
        stream, log_w = Noise(0, "repetition", repetition), []
        for draw in (stream, stream.at("draw", 1), stream.at("draw", 2)):
            placed, log_q = spread_from("uniform")(x, draw.at("place").uniform(ids, (1,)), likelihood.space, scale)
            square = ((placed - world.values) / scale).square()
            each = world.mass.log() - 0.5 * square - math.log(scale * (2 * math.pi) ** 0.5)
            log_w.append(each.logsumexp(1) - log_q)
        expected = torch.stack(log_w).logsumexp(0) - math.log(3)
        torch.testing.assert_close(found[repetition], expected, rtol=0, atol=1e-3)


SPACE = Levels(5, -1.0, 0.5)


@pytest.mark.parametrize("scale", [0.05, 0.12, 0.6])
def test_the_entropy_of_a_place_is_the_truncated_normals(scale: float):
    """Law 18: -E log q over u, by the midpoint rule, is log(√(2πe) σ Z) + (a φ(a) - b φ(b))/(2Z), inner bins and open ones, two cells added."""
    x, u = SPACE.values(), (torch.arange(20_000, dtype=F64) + 0.5) / 20_000
    edge, infinite = 0.25 / scale, torch.tensor(math.inf, dtype=F64)
    low = torch.where(torch.arange(5) > 0, -edge, -infinite)
    high = torch.where(torch.arange(5) < 4, edge, infinite)
    z = torch.special.ndtr(high) - torch.special.ndtr(low)

    def pull(at: Tensor) -> Tensor:
        return torch.where(
            at.isinf(), 0.0, at.nan_to_num(0, 0, 0) * (-0.5 * at.square()).exp() / math.sqrt(2 * math.pi)
        )

    entropy = torch.log(math.sqrt(2 * math.pi * math.e) * scale * z) + (pull(low) - pull(high)) / (2 * z)
    for k in range(5):
        both = torch.stack([x[k], x[4 - k]]).expand(20_000, 2)
        log_q = spread_from("truncated-normal")(both, torch.stack([u, u.flip(0)], 1), SPACE, scale)[1]
        assert -float(log_q.mean()) == pytest.approx(float(entropy[k] + entropy[4 - k]), abs=1e-3)


@pytest.mark.parametrize("word", ["truncated-normal", "uniform"])
def test_places_in_a_bin_have_the_density_that_is_told(word: str):
    """q(place(u)) · d place/du = 1 for u uniform, by central differences; inner places stay in their bin."""
    x = SPACE.values()[:, None].expand(5, 9)
    u = torch.linspace(0.05, 0.95, 9, dtype=F64).expand(5, 9)
    h = 1e-6
    ahead, behind = (spread_from(word)(x, u + d, SPACE, 0.12)[0] for d in (h, -h))
    placed, log_q = spread_from(word)(x, u, SPACE, 0.12)
    expected = -((ahead - behind) / (2 * h)).log().sum(1)
    torch.testing.assert_close(log_q, expected, rtol=1e-6, atol=1e-6)
    assert bool(((placed - x).abs()[1:-1] <= 0.25).all())


def test_only_the_outer_bins_are_open_and_only_outside():
    x = SPACE.values()[:, None].expand(5, 20_000)
    u = Noise(0).uniform(range(5), (20_000,))
    placed = spread_from("truncated-normal")(x, u, SPACE, 0.4)[0] - x
    assert float(placed[0].min()) < -0.25
    assert float(placed[-1].max()) > 0.25
    assert float(placed[0].max()) <= 0.25
    assert float(placed[-1].min()) >= -0.25
    assert float(placed[1:-1].abs().max()) <= 0.25


def test_uniform_places_are_exact_under_a_density_that_is_flat_in_every_bin():
    """Law 17: log p̃ - log q = log P whatever was drawn."""
    mass = torch.tensor([0.1, 0.2, 0.4, 0.2, 0.1], dtype=F64)
    x = SPACE.values()[:, None]
    placed, log_q = spread_from("uniform")(x, Noise(0).uniform(range(5), (1,)), SPACE, 0.1)
    log_p = (mass / SPACE.step).log()[SPACE.index(placed)][:, 0]
    torch.testing.assert_close(log_p - log_q, mass.log(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("value", [math.inf, math.nan, 2.5, True, "3", [2], 0, -1, 2_000_000])
@pytest.mark.parametrize("name", ["draws", "probes", "ode_steps", "repetitions"])
def test_numbers_of_things_are_whole(name: str, value: Any):
    """Of the flow, and the repetitions of the chain's bound as well."""
    _, likelihood = levels_likelihood()
    x, chain = torch.zeros(3, 1, dtype=F64), Vlb(likelihood.reverse, torch.ones(10), 10, likelihood.space)
    divergence = "hutchinson" if name == "probes" else "exact"
    asked = Asked(x, None, torch.arange(3), 0, lambda rows: None, {name: value, "divergence": divergence})
    for method in (Ode(likelihood.reverse, likelihood.space), *([chain] if name == "repetitions" else [])):
        with pytest.raises(InputError, match=f"{name} must be a whole number from 1 to [0-9,]+, got"):
            method.score(asked)


def test_an_unknown_word_is_told():
    with pytest.raises(InputError, match="unknown dequantisation 'unifrom'; did you mean"):
        spread_from("unifrom")


def test_the_levels_heads_slope_is_that_of_differences():
    """∂x̂_0/∂x_t through the network's features and through the head itself, float64, at a low and a high level."""
    torch.manual_seed(0)

    class Mixing(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.randn(3, 12, dtype=F64))

        def forward(self, x: Tensor, log_snr: Tensor, context: Tensor | None = None) -> Tensor:
            return torch.tanh(x @ self.weight)

    denoiser = LevelsDenoiser(Mixing(), LevelsHead(4, torch.linspace(-1, 1, 6, dtype=F64)))
    for level, h in [(-1.0, 1e-5), (6.0, 1e-6)]:
        log_snr = torch.full((1,), level, dtype=F64)
        x = torch.tensor([[0.11, -0.4, 0.52]], dtype=F64, requires_grad=True)
        jacobian = torch.autograd.functional.jacobian(lambda y: denoiser(y, log_snr)[0], x)[:, 0]  # noqa: B023
        steps = h * torch.eye(3, dtype=F64)
        with torch.no_grad():
            columns = [(denoiser(x + d, log_snr) - denoiser(x - d, log_snr))[0] / (2 * h) for d in steps]
        torch.testing.assert_close(jacobian, torch.stack(columns, 1), rtol=1e-5, atol=1e-6)


def test_a_pilot_says_how_far_the_numbers_move():
    world = mixture_2d()
    x = world.sample(12, torch.Generator().manual_seed(1))
    coarse, fine = (
        pilot(likelihood_of(world), x, torch.arange(12), Settings(1, None, Accuracy(t), "uniform"), Noise(0)).told
        for t in (1e-2, 1e-8)
    )
    assert coarse["pilot_rows"] == 8
    for name in ("halved_tolerance_change_nats", "halved_tolerance_change_most_nats", "round_trip_sigmas"):
        assert coarse[name] > 20 * fine[name] > 0


def test_a_pilot_tells_the_probes_share_apart():
    """On real values nothing else is drawn; on levels the place in the bin is most of a repetition's variance, and no part of this."""
    world, ids = mixture_2d(), torch.arange(8)
    x = world.sample(8, torch.Generator().manual_seed(1))
    settings = Settings(2, 1, Accuracy(1e-3), "uniform")
    found = [pilot(likelihood_of(world), x, ids, settings, Noise(0, "pilot", k)) for k in range(60)]
    probes = sum(f.told["probes_sd_nats"] ** 2 for f in found)
    assert probes == pytest.approx(sum(f.variance for f in found), rel=0.2)
    grid = LevelsWorld(8)
    process = ReverseProcess(
        Chain(LogSNRUniform(4.0, LOW), 50), Exact(grid), Interpolated(1.0), Emission(Levels(8, -1.0, grid.step), 0.1)
    )
    levels = FlowLikelihood(process, Levels(8, -1.0, grid.step))
    rows = grid.sample((8, 1), torch.Generator().manual_seed(1))
    placed = pilot(levels, rows, ids, settings, Noise(0))
    assert placed.told["probes_sd_nats"] == 0.0  # of one dimension the trace is exact with any sign
    assert placed.variance > 1e-3
    assert "probes_sd_nats" not in pilot(levels, rows, ids, Settings(2, None, Accuracy(1e-3), "uniform"), Noise(0)).told


def test_company_never_changes_a_row():
    world = mixture_2d()
    x = world.sample(70, torch.Generator().manual_seed(1))
    settings = Settings(2, 1, Accuracy(1e-3), "uniform")
    ids = torch.arange(70)
    whole = likelihood_of(world).estimate(x, ids, settings, Noise(0))
    part = likelihood_of(world).estimate(x[60:65], ids[60:65], settings, Noise(0))
    torch.testing.assert_close(part.total, whole.total[:, 60:65], rtol=0, atol=1e-10)
    assert torch.equal(part.calls, whole.calls[60:65])
