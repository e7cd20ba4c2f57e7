"""A learned schedule: ends by the bound, the widest where the denoiser is exact and those before its errors where it is not; shape by the variance,
the least there is; kept with the weights.
"""

import math
from functools import cache
from pathlib import Path

import pytest
import torch
from analytic import Exact, LevelsWorld, Mixture, mixture_2d, normal_nodes
from torch import Tensor

import jensen
from jensen.data.examples import Batch, Examples
from jensen.data.space import Levels, Real
from jensen.diffusion.calibration import calibrate, knots_of
from jensen.diffusion.continuous import ContinuousTime
from jensen.diffusion.emission import Emission
from jensen.diffusion.learned_schedule import PLACES, best_ends, low_variance_shape, measured_integrand
from jensen.diffusion.likelihood import Plan, estimate, uniform_proposal
from jensen.diffusion.process import Chain, diffuse
from jensen.diffusion.reverse import ReverseProcess
from jensen.diffusion.schedule import LogSNRUniform, Shaped
from jensen.diffusion.variance import Calibrated, Interpolated, variance_from
from jensen.errors import InputError
from jensen.models.ddpm import DDPM
from jensen.noise import Noise
from jensen.rules import check

STEPS, HIGH, LOW = 64, 8.0, -8.0


class Wrong(Exact):
    """Exact between two levels, off by a constant outside."""

    def __init__(self, world: Mixture, below: float, above: float) -> None:
        super().__init__(world)
        self.below, self.above = below, above

    def forward(self, x_t: Tensor, log_snr: Tensor, context: Tensor | None = None) -> Tensor:
        off = (log_snr < self.below) | (log_snr > self.above)
        return super().forward(x_t, log_snr) + torch.where(off, 0.5, 0.0)[:, None]


def process(below: float = -math.inf, above: float = math.inf) -> ReverseProcess:
    world = mixture_2d()
    return ReverseProcess(
        Chain(LogSNRUniform(HIGH, LOW), STEPS), Wrong(world, below, above), Interpolated(0.0), Emission(Real(), 0.05)
    )


def rows(n: int = 600, seed: int = 0) -> Tensor:
    return mixture_2d().sample(n, torch.Generator().manual_seed(seed))


def ends_of(reverse: ReverseProcess, x: Tensor, seed: int = 0) -> tuple[float, float]:
    return best_ends(measured_integrand(reverse, x, torch.arange(len(x)), Noise(seed)), reverse, x)


def test_an_exact_denoiser_takes_the_widest():
    for seed in range(8):
        assert ends_of(process(), rows(seed=seed), seed) == pytest.approx((HIGH, LOW))


def test_ends_stay_clear_of_levels_where_the_network_is_wrong():
    spacing = (HIGH - LOW) / (STEPS - 1)
    high, low = ends_of(process(-5.5, 5.2), rows())
    assert 5.2 - spacing <= high <= 5.2
    assert -5.5 - spacing <= low <= -5.5 + 2.5


def test_the_bound_on_other_rows_is_better_there():
    """In continuous time, with the emission's best scale at each beginning; paired over rows, four standard errors."""
    wrong, x = process(-5.5, 5.2), rows(2000, 1)
    ends = ends_of(wrong, rows())
    totals = []
    for high, low in [(HIGH, LOW), ends]:
        reverse = wrong.along(Chain(LogSNRUniform(high, low), STEPS))
        first, eps = reverse.chain.log_snr[:1].expand(600), Noise(2).normal(range(600), (2,)).double()
        reverse.emission.calibrate(rows(), reverse.denoiser(diffuse(rows(), eps, first), first))
        uniform = torch.full((STEPS - 1,), 1 / (STEPS - 1), dtype=torch.float64)
        found = estimate(ContinuousTime(reverse), x, torch.arange(2000), Plan(4, 16, uniform), Noise(1))
        totals.append(found.total.mean(0))
    gained = totals[0] - totals[1]
    assert float(gained.mean()) > 4 * float(gained.std()) / 2000**0.5


def test_samples_can_still_start_from_noise():
    """Wrong below -2, where a tenth of the data's standard deviation is left in the noise: no end is taken above that."""
    _, low = ends_of(process(below=-2.0), rows())
    assert LogSNRUniform(HIGH, low).warning() is None


def model_of(**options: object) -> DDPM:
    torch.manual_seed(0)
    return DDPM((2,), Real(), **{"timesteps": 40, "size": "tiny", "trained_ends": True, **options})  # type: ignore[arg-type]


def calibrated(**options: object) -> DDPM:
    model, x = model_of(**options), rows(200).float()
    told: list[int] = []
    model.calibrate(Examples(x, torch.arange(200)), 0, told.append)
    assert sum(told) == model.calibration_calls(200) == 2 * 40 * 200
    return model


def test_a_model_keeps_them_with_its_weights():
    model, again, x = calibrated(), model_of(), rows(50, 2).float()
    low, high = model.ends.tolist()
    assert (low, high) != (-9.0, 9.0)  # an untrained network is wrong everywhere
    assert model.reverse.chain.log_snr[[-1, 0]].tolist() == pytest.approx([low, high])
    again.load_state_dict(model.state_dict())
    check(again, "the file")
    for a, b in zip(*(m.log_likelihood(x, seed=3, repetitions=2).value for m in (model, again)), strict=True):
        assert a == b
    assert torch.equal(model.sample(5, seed=1), again.sample(5, seed=1))
    assert again.log_likelihood(x, repetitions=2).of == f"ancestral, T = 40, log-SNR {high:.3g} to {low:.3g}"
    assert f"T = ∞, log-SNR {high:.3g} to {low:.3g}" in again.log_likelihood(x, timesteps=math.inf).of


@pytest.mark.parametrize("trained_ends", [False, True])
def test_a_model_keeps_the_shape_as_well(trained_ends: bool):
    """As it was measured, between the ends; the continuous bound, which it does not change, is the same to four standard errors."""
    options = {"trained_ends": trained_ends, "trained_shape": True}
    model, again, x = calibrated(**options), model_of(**options), rows(50, 2).float()
    high, low = model.reverse.chain.log_snr[[0, -1]].tolist()
    assert ((high, low) != (9.0, -9.0)) == trained_ends
    found = measured_integrand(model.reverse.along(model.widest), *_drawn(model), Noise(0, "calibrate", "ends"))
    expected = high + (low - high) * low_variance_shape(found, high, low)
    torch.testing.assert_close(model.reverse.chain.schedule.log_snr(torch.linspace(0, 1, PLACES).double()), expected)
    chain, variance = model.reverse.chain, model.reverse.variance
    assert isinstance(variance, Calibrated)
    assert torch.equal(variance.log_snr, chain.log_snr[knots_of(chain) - 1].flip(0))
    again.load_state_dict(model.state_dict())
    check(again, "the file")
    assert torch.equal(model.reverse.chain.log_snr, again.reverse.chain.log_snr)
    assert torch.equal(model.sample(5, seed=1), again.sample(5, seed=1))
    assert again.log_likelihood(x, repetitions=2).of.endswith("trained shape")
    assert "shape" not in again.log_likelihood(x, repetitions=2, timesteps=math.inf).of
    even = DDPM((2,), Real(), timesteps=40, size="tiny")
    even.load_state_dict(model.state_dict(), strict=False)
    if not trained_ends:
        scores = [m.log_likelihood(x, timesteps=math.inf, repetitions=40) for m in (again, even)]
        error = sum(ll.monte_carlo**2 for ll in scores) ** 0.5
        assert abs(scores[0].mean - scores[1].mean) < 4 * error


def _drawn(model: DDPM) -> tuple[Tensor, Tensor]:
    """The rows that calibration of the 200 looked at."""
    pick = Noise(0, "calibrate").permutation(200)[:256]
    return rows(200).float()[pick], torch.arange(200)[pick]


@pytest.mark.parametrize(
    "shape", [[-0.1, 1.0], [0.0, 1.1], [0.5, 0.5], [1.0, 0.0], [math.nan, 1.0], [0.1, 1.0], [0.0, 0.9]]
)
def test_a_shape_from_a_file_goes_once_from_one_end_to_the_other(shape: list[float]):
    model = model_of(trained_shape=True)
    found = torch.linspace(*shape, PLACES, dtype=torch.float64)
    with pytest.raises(InputError, match=r"shape must be"):
        model.load_state_dict({**model.state_dict(), "shape": found})
        check(model, "the file")


def test_a_shape_from_a_file_does_not_stand_still():
    model, still = model_of(trained_shape=True), EVEN.clone()
    still[1] = 1e-9
    with pytest.raises(InputError, match="a step of 1e-09"):
        model.load_state_dict({**model.state_dict(), "shape": still})
        check(model, "the file")


def test_calibrating_anew_leaves_them_and_another_fit_looks_at_the_whole_range():
    model, x = calibrated(trained_shape=True), rows(200).float()
    levels = model.reverse.chain.log_snr
    model.calibrate_on(Batch(x=x, id=torch.arange(200)), 1)
    assert torch.equal(model.reverse.chain.log_snr, levels)
    model.calibrate(Examples(x, torch.arange(200)), 0)
    assert torch.equal(model.reverse.chain.log_snr, levels)


def test_few_rows_are_sure_of_nothing():
    model, told = model_of(trained_shape=True), []
    model.calibrate(Examples(rows(63).float(), torch.arange(63)), 0, told.append)
    assert torch.equal(model.reverse.chain.log_snr, model_of(trained_shape=True).reverse.chain.log_snr)
    assert sum(told) == model.calibration_calls(63)
    assert "shape" not in model.log_likelihood(rows(9).float(), repetitions=2).of


def test_a_network_that_diverged_leaves_the_schedule():
    model = model_of(trained_shape=True)
    for parameter in model.reverse.denoiser.parameters():
        parameter.data.fill_(math.nan)
    found = measured_integrand(model.reverse, rows(64).float(), torch.arange(64), Noise(0))
    assert bool(found.rates.isnan().any())
    model.learn_schedule(Batch(x=rows(64).float(), id=torch.arange(64)), Noise(0), lambda calls: None)
    assert torch.equal(model.shape, EVEN)


@pytest.mark.parametrize("steps", [2, 64, 65, 100, 300, 700, 1000])
@pytest.mark.parametrize("far_apart", ["nowhere", "last", "first", "between"])
def test_a_learned_shape_has_as_many_knots_as_an_even_one(steps: int, far_apart: str):
    """Its ends among them, falling, wherever its levels are far apart; of an even shape the same."""
    steep = torch.tanh(6 * (2 * EVEN - 1))
    shapes = {"nowhere": EVEN, "last": EVEN**4, "first": EVEN**0.2, "between": 0.5 + 0.5 * steep / steep[-1]}
    chain = Chain(Shaped(9.0, -7.0, shapes[far_apart]), steps)
    at = knots_of(chain)
    assert len(at) == len(knots_of(Chain(LogSNRUniform(9.0, -7.0), steps))) == min(steps, 64)
    assert at[0] == 1
    assert at[-1] == steps
    assert bool((at.diff() > 0).all())
    if far_apart == "nowhere":
        assert torch.equal(at, knots_of(Chain(LogSNRUniform(9.0, -7.0), steps)))


def test_a_schedule_keeps_a_shape_of_its_own():
    shape = EVEN.clone()
    schedule = Shaped(9.0, -7.0, shape)
    shape.zero_()
    assert schedule.log_snr(torch.tensor([0.0, 0.5, 1.0])).tolist() == pytest.approx([9.0, 1.0, -7.0])


def test_a_fit_with_a_learned_shape_is_loaded_again(tmp_path: Path):
    """Numbers at each of 64 knots, also where levels even in λ are further apart than those of the chain; through the files."""
    x = torch.randint(0, 17, (900, 4, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8).numpy()
    settings = {"timesteps": 100, "size": "tiny", "steps": 40, "batch_size": 32, "progress": False}
    fitted = jensen.fit(
        jensen.load_data(x, levels=17), "diffusion", run=tmp_path / "run", trained_shape=True, **settings
    )
    loaded = jensen.load(tmp_path / "run")
    assert isinstance(fitted.model, DDPM)
    assert isinstance(loaded.model, DDPM)
    assert float((fitted.model.shape - EVEN).abs().max()) > 0.05
    assert torch.equal(fitted.model.reverse.chain.log_snr, loaded.model.reverse.chain.log_snr)
    assert torch.equal(fitted.sample(3, seed=1), loaded.sample(3, seed=1))


def test_the_flow_keeps_the_widest():
    """Its end is no emission: an early one would cost what the emission pays for in the bound."""
    model = calibrated()
    ll = model.log_likelihood(rows(4, 2).float(), method="ode", ode_steps=4)
    assert "log-SNR -9 to 9," in ll.of


@pytest.mark.parametrize("k", [17, 256])
def test_a_run_with_the_widest_ends_is_loaded_again(k: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """λ(0) of levels is no number of float32; through the files."""
    monkeypatch.setattr(
        "jensen.models.scheduled.best_ends", lambda found, reverse, x_0: reverse.chain.log_snr[[0, -1]].tolist()
    )
    x = torch.randint(0, k, (90, 4, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8).numpy()
    settings = {"timesteps": 5, "size": "tiny", "steps": 2, "batch_size": 8, "progress": False, "trained_ends": True}
    fitted = jensen.fit(jensen.load_data(x, levels=k), "diffusion", run=tmp_path / "run", **settings)
    loaded = jensen.load(tmp_path / "run")
    for pipeline in (fitted, loaded):
        assert isinstance(pipeline.model, DDPM)
        assert torch.equal(pipeline.model.reverse.chain.log_snr, pipeline.model.widest.log_snr)


@pytest.mark.parametrize("ends", [[-9.5, 9.0], [-9.0, 9.5], [3.0, 3.0], [4.0, -4.0], [math.nan, 9.0], [-9.0, math.inf]])
def test_ends_from_a_file_lie_within_those_that_were_trained(ends: list[float]):
    model = model_of()
    with pytest.raises(InputError, match=r"ends must be"):
        model.load_state_dict({**model.state_dict(), "ends": torch.tensor(ends, dtype=torch.float64)})
        check(model, "the file")


def test_other_schedules_have_their_own():
    with pytest.raises(InputError, match="trained_ends is for schedule=log-snr"):
        model_of(schedule="cosine")
    with pytest.raises(InputError, match="trained_shape is for schedule=log-snr"):
        model_of(schedule="cosine", trained_ends=False, trained_shape=True)
    with pytest.raises(InputError, match="trained_ends needs at least 2 steps, got timesteps=1"):
        DDPM((2,), Real(), timesteps=1, trained_ends=True)


def test_levels_have_them_too():
    """An emission of levels has a cost as well, here of a network that knows nothing."""
    space = Levels(5, -1.0, 0.5)
    model = DDPM((2,), space, timesteps=20, size="tiny", trained_ends=True)
    x = space.values()[torch.randint(0, 5, (64, 2), generator=torch.Generator().manual_seed(0))].float()
    model.calibrate(Examples(x, torch.arange(64)), 0)
    low, high = model.ends.tolist()
    assert -7 <= low < high <= float(model.widest.log_snr[0])


WORLD = LevelsWorld()
SPACE = Levels(WORLD.k, -1.0, WORLD.step)
FIRST, LAST, PLAIN = 8.0, -7.0, 64
EVEN = torch.linspace(0, 1, PLACES, dtype=torch.float64)


def on_levels(schedule: LogSNRUniform) -> ReverseProcess:
    return ReverseProcess(Chain(schedule, PLAIN), Exact(WORLD), Interpolated(0.0), Emission(SPACE, 0.05))


@cache
def mean_square(log_snr: float) -> float:
    """E r² over the world's levels and the noise, by quadrature; r = ½‖ε - ε̂‖²."""
    nodes, weights = normal_nodes(401)
    bound = ContinuousTime(on_levels(LogSNRUniform(FIRST, LAST)))
    levels = WORLD.values.repeat_interleave(401)[:, None]
    eps = nodes.repeat(WORLD.k)[:, None]
    chance = WORLD.mass.repeat_interleave(401) * weights.repeat(WORLD.k)
    r = bound.term(levels, torch.full((len(levels),), log_snr, dtype=torch.float64), eps)
    return float(r.square() @ chance)


def least_and_of(shape: Tensor) -> tuple[float, float]:
    """The least mean square that a draw of the integral can have, (∫ root mean square)², and its mean square with t uniform along a shape."""
    at = torch.linspace(FIRST, LAST, 257, dtype=torch.float64)
    squares = torch.tensor([mean_square(float(level)) for level in at], dtype=torch.float64)
    edges = FIRST + (LAST - FIRST) * shape
    segment = (torch.searchsorted(-edges, -at, right=True) - 1).clamp(0, len(shape) - 2)
    density = 1 / ((len(shape) - 1) * (edges[segment] - edges[segment + 1]))
    return float(torch.trapezoid(squares.sqrt(), -at)) ** 2, float(torch.trapezoid(squares / density, -at))


def learned_shape(n: int = 4000, seed: int = 0) -> Tensor:
    x = WORLD.sample((n, 1), torch.Generator().manual_seed(seed))
    found = measured_integrand(on_levels(LogSNRUniform(FIRST, LAST)), x, torch.arange(n), Noise(seed))
    return low_variance_shape(found, FIRST, LAST)


def test_the_shape_has_next_to_the_least_variance_there_is():
    """A tenth of even levels can cost a ninth at most; even levels cost more than half."""
    least, reached = least_and_of(learned_shape())
    assert least < reached < least / 0.9
    assert least_and_of(EVEN)[1] > 1.5 * least


def test_as_many_rows_as_a_fit_takes_are_enough_to_gain():
    """256 rows of a single cell, where chance is greatest."""
    even = least_and_of(EVEN)[1]
    assert all(least_and_of(learned_shape(256, seed))[1] < 0.8 * even for seed in range(4))


def test_a_draw_has_the_control_variate_that_the_estimator_has():
    """On real values with next to no noise the chance in ‖ε‖² is all there is: with it a draw of ½‖ε - ε̂‖² has next to none left."""
    chain, x = Chain(LogSNRUniform(HIGH, LOW), STEPS), rows(500)
    found = {
        word: measured_integrand(
            ReverseProcess(chain, Exact(mixture_2d()), variance, Emission(Real(), 0.05)), x, torch.arange(500), Noise(0)
        )
        for word, variance in (
            ("plain", Interpolated(0.0)),
            ("controlled", variance_from("calibrated", chain.log_snr)),
        )
    }
    assert torch.equal(found["plain"].rates, found["controlled"].rates)
    first, controlled = found["plain"].draws[0], found["controlled"].draws[0]
    assert float(first.std()) > 0.9
    assert float(controlled.std()) < 0.2
    assert float(controlled.mean()) == pytest.approx(float(first.mean()), abs=1e-9)
    calibrated_variance = variance_from("calibrated", chain.log_snr)
    reverse = ReverseProcess(chain, Exact(mixture_2d()), calibrated_variance, Emission(Real(), 0.05))
    calibrate(reverse, x, torch.arange(500), Noise(1))
    taken = (found["plain"].draws - found["controlled"].draws).std(1)
    share = reverse.noise_share(chain.log_snr)
    # ‖ε‖² of two cells has standard deviation 2, of which ½κ² was taken
    torch.testing.assert_close(taken[::8].sqrt(), share[::8], rtol=0.25, atol=0.02)


def test_draws_along_it_have_that_variance_and_the_same_mean():
    """One draw of the integral a repetition, t uniform: four standard errors of the mean, a tenth of the ratio of mean squares."""
    x = WORLD.sample((200, 1), torch.Generator().manual_seed(1))
    shape, draws = learned_shape(), []
    for schedule in (LogSNRUniform(FIRST, LAST), Shaped(FIRST, LAST, shape)):
        bound = ContinuousTime(on_levels(schedule))
        found = estimate(bound, x, torch.arange(200), Plan(400, 2, uniform_proposal(PLAIN)), Noise(2))
        draws.append(found.diffusion)
    difference = draws[0].mean() - draws[1].mean()
    error = sum(float(d.var(0).mean()) / d.numel() for d in draws) ** 0.5
    assert abs(float(difference)) < 4 * error
    even, shaped = (float(d.square().mean()) for d in draws)
    assert shaped / even == pytest.approx(least_and_of(shape)[1] / least_and_of(EVEN)[1], rel=0.1)
