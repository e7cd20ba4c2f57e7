"""Solvers against the flow and the process they solve, where the denoiser is exact (W1, W2).

The reference for the flow is scipy's DOP853 on dx/dλ at tolerance 1e-12, with the world's own score.
"""

import json
import math
import re
import weakref
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from analytic import Exact, Mixture, levels_of, mixture_2d
from scipy.integrate import solve_ivp
from torch import Tensor

from jensen.data.space import Real
from jensen.diffusion.denoiser import Denoiser
from jensen.diffusion.emission import Emission
from jensen.diffusion.grid import GRIDS, grid_from
from jensen.diffusion.process import Chain
from jensen.diffusion.reverse import ReverseProcess
from jensen.diffusion.sampler import Sampler, sample
from jensen.diffusion.schedule import Cosine, Linear, LogSNRUniform, Schedule
from jensen.diffusion.solvers.ancestral import DDIM, Ancestral
from jensen.diffusion.solvers.langevin import Churned, Corrected
from jensen.diffusion.solvers.multistep import AdamsBashforth, DPMSolver2M, Exponential
from jensen.diffusion.solvers.singlestep import DPMSolver2S, Heun
from jensen.diffusion.solvers.words import SAMPLERS, best_for, sampler_from
from jensen.diffusion.variance import Calibrated, Interpolated
from jensen.errors import InputError
from jensen.noise import Noise

F64 = torch.float64
START, END = (
    6.0,
    -10.0,
)  # the first step is of order 1: it must be taken where nothing but noise is left, or its h² shows
WORLD = mixture_2d()
ROWS = 40


def process(steps: int, start: float = START, end: float = END) -> ReverseProcess:
    chain = Chain(LogSNRUniform(start, end), steps)
    return ReverseProcess(chain, Exact(WORLD), Interpolated(0.5), Emission(Real(), 0.05))


def flow(world: Mixture, x: Tensor, end: float, start: float) -> Tensor:
    """The probability flow from λ = end up to λ = start: with α² = sigmoid λ, dx/dλ = ½ σ² (x + ∇log p)."""

    def slope(log_snr: float, flat: np.ndarray) -> np.ndarray:
        y = torch.from_numpy(flat.reshape(x.shape))
        sigma2 = levels_of(log_snr)[1]
        return (0.5 * sigma2 * (y + world.score(y, log_snr))).numpy().ravel()

    found = solve_ivp(slope, (end, start), x.numpy().ravel(), method="DOP853", rtol=1e-12, atol=1e-13)
    return torch.from_numpy(found.y[:, -1].reshape(x.shape))


def states(sampler: Sampler, reverse: ReverseProcess, **options: Any) -> dict[int, Tensor]:
    """x_i of some rows by their number i."""
    seen: dict[int, Tensor] = {}
    like = torch.zeros((), dtype=F64)
    ids = torch.arange(ROWS)
    sample(reverse, (2,), ids, Noise(0), sampler, like=like, watch=lambda i, x, d: seen.update({i: x}), **options)
    return seen


@pytest.fixture(scope="module")
def end_of_the_flow() -> Tensor:
    start = Noise(0, "start").normal(torch.arange(ROWS), (2,)).double()
    return flow(WORLD, start, END, START)


ORDERS = {
    "ddim": 1,
    "euler": 1,
    "heun": 2,
    "dpm-1s": 1,
    "dpm-2s": 2,
    "dpm-2m": 2,
    "dpm-3m": 3,
    "unipc-1": 2,
    "unipc-2": 3,
    "unipc-3": 4,
    "adams-2": 2,
    "adams-3": 3,
    "adams-4": 4,
}


@pytest.mark.parametrize("word", ORDERS)
def test_errors_fall_with_the_order(word: str, end_of_the_flow: Tensor):
    """From 128 to 256 steps, of order 4 from 256 to 512; uniform in λ."""
    steps = (257, 513) if ORDERS[word] == 4 else (129, 257)
    coarse, fine = (float((states(SAMPLERS[word](), process(n))[1] - end_of_the_flow).norm()) for n in steps)
    assert math.log2(coarse / fine) == pytest.approx(ORDERS[word], abs=0.25)


@pytest.mark.parametrize("word", ["dpm-2m", "dpm-3m", "unipc-2", "adams-3"])
@pytest.mark.parametrize("grid", ["karras", "quadratic"])
def test_the_order_holds_on_uneven_grids(word: str, grid: str, end_of_the_flow: Tensor):
    errors = []
    for steps in (129, 257):
        levels = grid_from(grid, process(steps).chain)
        errors.append(float((states(SAMPLERS[word](), process(steps), levels=levels)[1] - end_of_the_flow).norm()))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(ORDERS[word], abs=0.25)


class Halved(Exponential):
    """DPM-Solver++(3M) as several public codebases have it: f[0, 1, 2] for f'' = 2 f[0, 1, 2]."""

    def _weights(self, nodes: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """Less half of ½ f'' ∫ e^(-u) (h - u)² du."""
        whole = super()._weights(nodes, start, end)
        if len(nodes) < 3:
            return whole
        h, (a, b, c) = end - start, nodes
        moment = h**2 - 2 * h - 2 * torch.expm1(-h)
        difference = torch.stack([1 / ((a - b) * (a - c)), 1 / ((b - a) * (b - c)), 1 / ((c - a) * (c - b))])
        return whole - 0.5 * moment * difference


def test_half_a_divided_difference_costs_an_order(end_of_the_flow: Tensor):
    made = lambda: Halved(3, name="halved")  # noqa: E731
    coarse, fine = (float((states(made(), process(n))[1] - end_of_the_flow).norm()) for n in (129, 257))
    assert math.log2(coarse / fine) == pytest.approx(2, abs=0.25)


def test_some_words_are_the_same_steps():
    one, *others = (states(SAMPLERS[word](), process(20))[1] for word in ("ddim", "euler", "dpm-1s"))
    for other in others:
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("word", ORDERS)
def test_known_data_are_reached_in_any_steps(word: str):
    """Where x̂_0 does not change both variables are linear in each other, and every step is exact, however long."""
    x_0 = torch.tensor([0.3, -1.1], dtype=F64)
    world = Known(x_0)
    levels = torch.tensor([6.0, 1.0, -2.5, -7.0], dtype=F64)
    reverse = ReverseProcess(process(4).chain, world, Interpolated(0.5), Emission(Real(), 0.05))
    seen = states(SAMPLERS[word](), reverse, levels=levels)
    for i, log_snr in enumerate(levels, 1):
        (alpha2, sigma2), (end2, noise2) = levels_of(log_snr), levels_of(levels[-1])
        eps = (seen[4] - end2.sqrt() * x_0) / noise2.sqrt()
        torch.testing.assert_close(seen[i], alpha2.sqrt() * x_0 + sigma2.sqrt() * eps, rtol=1e-9, atol=1e-9)


class Known(Denoiser):
    """x_0 whatever x_t."""

    def __init__(self, x_0: Tensor) -> None:
        super().__init__()
        self.x_0 = x_0

    def forward(self, x_t: Tensor, log_snr: Tensor, context: Tensor | None = None) -> Tensor:
        """x_0."""
        return self.x_0.expand_as(x_t)


class Coefficients(Denoiser):
    """N(m, s²) for a state that is given as coefficients of (1, z_1, z_2, …): E[x_0 | x_t] is affine in x_t, and so is every step."""

    mean, variance = 0.7, 0.36

    def forward(self, x_t: Tensor, log_snr: Tensor, context: Tensor | None = None) -> Tensor:
        """m + α s² (x_t - α m) / (α² s² + σ²), coefficient by coefficient."""
        alpha2, sigma2 = levels_of(log_snr)
        gain = (alpha2.sqrt() * self.variance / (alpha2 * self.variance + sigma2))[:, None]
        one = unit(x_t.shape[1], 0)
        return gain * x_t + (1 - gain * alpha2.sqrt()[:, None]) * self.mean * one


def unit(size: int, at: int) -> Tensor:
    """(0, …, 1, …, 0)."""
    return torch.zeros(1, size, dtype=F64).index_fill_(1, torch.tensor([at]), 1.0)


class Slots(Noise):
    """Noise whose every stream is a place of its own among the coefficients."""

    def __init__(self, size: int, seen: dict[Any, int] | None = None, *labels: Any) -> None:
        super().__init__(0, *labels)
        self.size, self.seen = size, {} if seen is None else seen

    def at(self, *labels: Any) -> Noise:
        """The stream under these labels."""
        return Slots(self.size, self.seen, *self.path[1:], *labels)

    def normal(self, ids: Any, shape: tuple[int, ...]) -> Tensor:
        """Its place; the first is that of x_T."""
        return unit(self.size, 1 + self.seen.setdefault(self.path, len(self.seen)))


def started(sampler: Sampler, start: Tensor) -> Sampler:
    """The sampler, from a given x_T."""

    def init(ids: Tensor, event: tuple[int, ...], noise: Noise) -> Tensor:
        noise.at("start").normal(ids, event)
        return start

    sampler.init = init  # type: ignore[method-assign]
    return sampler


def optimal(levels: Tensor) -> Calibrated:
    """σ*² of N(m, s²): E (x_0 - x̂_0)² = s² σ²/(α² s² + σ²) at every level."""
    variance, s2 = Calibrated(levels), Coefficients.variance
    for level in levels.tolist():
        alpha2, sigma2 = levels_of(level)
        variance.calibrate(level, (s2 * sigma2 / (alpha2 * s2 + sigma2)).expand(8, 1))
    return variance


def variance_error(sampler: Sampler, steps: int, spread: float = 1.0, *, best: bool = False) -> float:
    """Of x_1, without any sampling: x_T has `spread` times the variance in which the process leaves it; relative. With β̂, or σ*² if best."""
    denoiser, size = Coefficients(), 2 + 4 * steps
    chain = Chain(LogSNRUniform(START, END), steps)
    variance = optimal(chain.log_snr) if best else Interpolated(0.0)
    reverse = ReverseProcess(chain, denoiser, variance, Emission(Real(), 0.1))
    true = [float(a * denoiser.variance + s) for a, s in (levels_of(START), levels_of(END))]
    alpha = float(levels_of(END)[0].sqrt())
    start = alpha * denoiser.mean * unit(size, 0) + math.sqrt(spread * true[1]) * unit(size, 1)
    seen: dict[int, Tensor] = {}
    sample(
        reverse,
        (size,),
        torch.arange(1),
        Slots(size),
        started(sampler, start),
        like=start,
        watch=lambda i, x, d: seen.update({i: x}),
    )
    assert float(seen[1][0, 0]) == pytest.approx(float(levels_of(START)[0].sqrt()) * denoiser.mean, abs=1e-9)
    return float(seen[1][0, 1:].square().sum()) / true[0] - 1


@pytest.mark.parametrize(
    ("word", "order"), [("ancestral", 1), ("dpm-1s-sde", 1), ("dpm-2s-sde", 2), ("dpm-2m-sde", 2), ("dpm-3m-sde", 2)]
)
def test_moments_of_solvers_with_noise_fall_with_the_weak_order(word: str, order: int):
    """Data N(m, s²): the mean of x_1 is right in any number of steps, its variance by the order."""
    coarse, fine = (abs(variance_error(SAMPLERS[word](), n)) for n in (65, 129))
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize("steps", [2, 3, 17])
def test_ancestral_sampling_with_the_optimal_variance_is_exact_at_the_gaussian(steps: int):
    """Every marginal of N(m, s²), isotropic, in any number of steps; with β̂ it is off by far."""
    assert variance_error(Ancestral(), steps, best=True) == pytest.approx(0, abs=1e-9)
    assert abs(variance_error(Ancestral(), steps)) > 1e-3


def test_a_parabola_is_better_than_a_line_also_with_noise():
    assert abs(variance_error(SAMPLERS["dpm-3m-sde"](), 129)) < 0.5 * abs(variance_error(SAMPLERS["dpm-2m-sde"](), 129))


def test_langevins_steps_forget_a_wrong_start():
    """Twice the variance at the start; and the error of the predictor, while they add little of their own."""
    plain, corrected = (variance_error(s, 100, spread=2.0) for s in (DDIM(), Corrected(DDIM(), rounds=3)))
    assert plain > 0.5
    assert abs(corrected) < 0.1 * plain
    assert abs(variance_error(Corrected(DDIM()), 100)) < min(0.01, abs(variance_error(DDIM(), 100)))


def test_churn_forgets_as_well():
    plain, churned = (variance_error(s, 100, spread=2.0) for s in (Heun(), Churned(Heun(), 1.0)))
    assert abs(churned) < 0.1 * plain
    coarse, fine = (abs(variance_error(Churned(Heun(), 1.0), n)) for n in (65, 129))
    assert fine < 0.01
    assert fine < 0.6 * coarse


class Restless(Exact):
    """An x̂_0 that is off by 0.01, now this way and now that."""

    def __init__(self) -> None:
        super().__init__(WORLD)
        self.sign = 0.01

    def forward(self, x_t: Tensor, log_snr: Tensor, context: Tensor | None = None) -> Tensor:
        """As the exact one, nearly."""
        self.sign = -self.sign
        return super().forward(x_t, log_snr, context) + self.sign


@pytest.mark.parametrize("word", [word for word in ORDERS if SAMPLERS[word]().memory])
@pytest.mark.parametrize("schedule", [Linear(), Cosine(), LogSNRUniform(START, END)])
def test_errors_of_the_network_are_not_multiplied_in_a_few_steps(word: str, schedule: Schedule):
    """Beyond values that are off by e a polynomial is off by many e: here by no more than twice."""
    for steps in (5, 10, 20):
        ends = []
        for denoiser in (Exact(WORLD), Restless()):
            chain = Chain(schedule, steps)
            reverse = ReverseProcess(chain, denoiser, Interpolated(0.5), Emission(Real(), 0.05))
            ends.append(states(SAMPLERS[word](), reverse)[1])
        assert float((ends[0] - ends[1]).abs().median()) < 0.02


@pytest.mark.parametrize("word", SAMPLERS)
def test_any_number_of_steps_on_any_grid(word: str):
    for schedule in (Linear(), Cosine(), LogSNRUniform(START, END)):
        for steps in (1, 2, 3, 7):
            chain = Chain(schedule, steps)
            reverse = ReverseProcess(chain, Exact(WORLD), Interpolated(0.5), Emission(Real(), 0.05))
            for grid in GRIDS:
                assert bool(states(SAMPLERS[word](), reverse, levels=grid_from(grid, chain))[1].isfinite().all())


class Recorded(Noise):
    """Remembers which streams were drawn from."""

    drawn: ClassVar[list[tuple[Any, ...]]] = []

    def at(self, *labels: Any) -> Noise:
        """Likewise."""
        return Recorded(int(self.path[0]), *self.path[1:], *labels)

    def normal(self, ids: Any, shape: tuple[int, ...]) -> Tensor:
        """As ever."""
        self.drawn.append(self.path[1:])
        return super().normal(ids, shape)


def test_noise_is_drawn_where_it_is_used_and_under_the_keys_it_always_had():
    keys = {}
    for word, made in SAMPLERS.items():
        Recorded.drawn.clear()
        sample(process(4), (2,), torch.arange(2), Recorded(0), made())
        keys[word] = list(Recorded.drawn)
    assert keys["ancestral"] == [("start",), ("step", 4), ("step", 3), ("step", 2), ("step", 1)]
    for word in ORDERS:
        assert keys[word] == [("start",)]


@pytest.mark.parametrize("word", [*SAMPLERS, "noise put back around a solver with its own"])
def test_no_noise_is_used_twice(word: str):
    sampler = SAMPLERS[word]() if word in SAMPLERS else Churned(DPMSolver2S(name="", tau=1.0), 0.3)
    Recorded.drawn.clear()
    sample(process(6), (2,), torch.arange(2), Recorded(0), sampler)
    assert len(set(Recorded.drawn)) == len(Recorded.drawn)


@pytest.mark.parametrize("word", SAMPLERS)
def test_company_never_changes_a_sample(word: str):
    def drawn(ids: list[int]) -> Tensor:
        like = torch.zeros((), dtype=F64)
        return sample(process(9), (2,), torch.tensor(ids), Noise(5), SAMPLERS[word](), like=like)

    torch.testing.assert_close(drawn([3, 8, 1])[1:2], drawn([8]), rtol=1e-12, atol=1e-12)


class Single(Exact):
    """The exact denoiser as a network gives it, in the precision of its input."""

    def forward(self, x_t: Tensor, log_snr: Tensor, context: Tensor | None = None) -> Tensor:
        """E[x_0 | x_t]."""
        return super().forward(x_t.double(), log_snr, context).to(x_t)


@pytest.mark.parametrize("word", SAMPLERS)
def test_float32_is_enough(word: str):
    """Sixty steps in float32 end where those in float64 do, also near the data as 256 levels are."""
    chain = Chain(LogSNRUniform(13.3, END), 60)
    reverse = ReverseProcess(chain, Single(WORLD), Interpolated(0.5), Emission(Real(), 0.05))
    ids = torch.arange(5)
    single, double = (
        sample(reverse, (2,), ids, Noise(1), SAMPLERS[word](), like=torch.zeros((), dtype=t))
        for t in (torch.float32, F64)
    )
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-3)


def test_calls_are_those_made():
    three: dict[str, Any] = {"three rounds": lambda: Corrected(DDIM(), rounds=3)}
    for word, made in (SAMPLERS | three).items():
        counted = Counted()
        reverse = ReverseProcess(process(6).chain, counted, Interpolated(0.5), Emission(Real(), 0.05))
        sampler = made()
        sample(reverse, (2,), torch.arange(2), Noise(0), sampler, like=torch.zeros((), dtype=F64))
        assert counted.calls == 5 * sampler.calls + 1, word


class Counted(Exact):
    """Counts its calls."""

    def __init__(self) -> None:
        super().__init__(WORLD)
        self.calls = 0

    def forward(self, x_t: Tensor, log_snr: Tensor, context: Tensor | None = None) -> Tensor:
        """As the exact one."""
        self.calls += 1
        return super().forward(x_t, log_snr, context)


def test_grids_go_from_end_to_end_and_fall():
    chain = Chain(Cosine(), 20)
    for word in GRIDS:
        levels = grid_from(word, chain)
        torch.testing.assert_close(levels[[0, -1]], chain.log_snr[[0, -1]], rtol=1e-12, atol=1e-12)
        assert bool((levels.diff() < 0).all())
        assert len(levels) == 20
    spaced = torch.exp(-0.5 * grid_from("karras", chain)) ** (1 / 7)
    torch.testing.assert_close(spaced.diff(), spaced.diff()[:1].expand(19), rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: Exponential(0, name="x"), "the order must lie from 1 to 3, got 0"),
        (lambda: AdamsBashforth(6), "the order must lie from 1 to 4, got 6"),
        (lambda: Exponential(2, name="x", tau=-1.0), "tau must lie from 0 to 1"),
        (lambda: Churned(Heun(), -0.5), "must be positive and at most 10, got -0.5"),
        (lambda: Churned(DPMSolver2M(name="the 2M"), 0.1), "such as heun or ddim, got the 2M"),
        (lambda: Corrected(Corrected(DDIM())), "such as heun or ddim, got DDIM"),
        (lambda: Corrected(DDIM(), 1.5), "Langevin's ratio must lie above 0 and below 0.7, got 1.5"),
        (lambda: sampler_from("heun", {"eta": 1.0}), "the sampler heun has no setting 'eta'; it has none"),
        (lambda: grid_from("karas", Chain(Cosine(), 3)), "unknown grid 'karas'; did you mean 'karras'"),
    ],
)
def test_what_cannot_be_is_named(made: Any, said: str):
    with pytest.raises(InputError, match=re.escape(said)):
        made()


def test_the_default_is_the_best_that_was_measured():
    """Of the table in docs/theory/note3.md: no sampler is nearer to the whole chain by more than its standard error (Fréchet distance)."""
    kept = Path(__file__).parents[1] / "benchmarks" / "results" / "diffusion_quality.json"
    rows = [row for row in json.loads(kept.read_text())["table"] if "calls" in row and "against_chain" in row]
    for calls in (5, 10, 20, 50):
        found = {row["sampler"]: row["against_chain"]["frechet"] for row in rows if row["calls"] == calls}
        least = min(found.values(), key=lambda measure: measure["value"])
        assert found[best_for(calls)]["value"] < least["value"] + least["stderr"]
    assert best_for(1000) == "ancestral"


class Remembered(Exact):
    """Which of the states it was asked and of its answers are still alive?"""

    def __init__(self) -> None:
        super().__init__(WORLD)
        self.seen: list[weakref.ref[Tensor]] = []

    def forward(self, x_t: Tensor, log_snr: Tensor, context: Tensor | None = None) -> Tensor:
        """As the exact one."""
        answer = super().forward(x_t, log_snr, context)
        self.seen += [weakref.ref(x_t), weakref.ref(answer)]
        return answer

    @property
    def alive(self) -> int:
        """How many."""
        return sum(one() is not None for one in self.seen)


@pytest.mark.parametrize("word", sorted(SAMPLERS))
def test_memory_does_not_grow_with_steps(word: str):
    most = []
    for steps in (20, 60):
        denoiser, counts = Remembered(), []
        reverse = ReverseProcess(
            Chain(LogSNRUniform(START, END), steps), denoiser, Interpolated(0.5), Emission(Real(), 0.1)
        )
        sampler, like = sampler_from(word, {}), torch.zeros((), dtype=F64)
        sample(
            reverse,
            (2,),
            torch.arange(7),
            Noise(0),
            sampler,
            like=like,
            watch=lambda i, x, denoised: counts.append(denoiser.alive),  # noqa: B023
        )
        most.append(max(counts))
    assert most[0] == most[1] > 1
