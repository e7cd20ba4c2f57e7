"""Our samplers beside the schedulers of the package diffusers: one denoiser (W1), one x_T, the same levels and the same noise.

The oracle stays the truth, here W1 and scipy's DOP853 for the flow; the package is a cross-check. Where it is right the states are equal:
DDIM, DDPM, Euler's method, also ancestral, Heun's, LMS, DPM-Solver++ of one step, 2M, 2S and the SDE versions of the first two. Where it
is not, or does something else, a test names that and shows its size (release 0.42):

    DPM-Solver++(3M)       half of the second divided difference: order 2. With noise its sign is wrong as well: order 1
    UniPC                  halves where the systems of one unknown have a solution; the last steps are of lower order, in any number
    LMS                    goes to σ = 0 by extrapolation, not to x̂_0
    DDPM                   "fixed_large_log" is the root of a logarithm
    Euler, ancestral       a variance of the cosine schedule rounds below zero
    DDIM                   its stride is not that of its list of times, other than for "leading"
    levels                 float32; times that repeat divide by zero; Karras's levels ask the network at rounded times

Their levels are float32. Unless a test is about that, they are put in float64 once they are set, and states agree to 1e-12; EulerDiscrete,
EulerAncestralDiscrete and DPMSolverMultistep round the state itself to float32 in every step: 3e-6.
"""

import inspect
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from analytic import Exact, levels_of, mixture_2d
from scipy.integrate import solve_ivp
from torch import Tensor

from jensen.data.space import Real
from jensen.diffusion.emission import Emission
from jensen.diffusion.grid import grid_from
from jensen.diffusion.parametrisation import Eps, Parametrisation, V
from jensen.diffusion.process import Chain
from jensen.diffusion.reverse import ReverseProcess
from jensen.diffusion.sampler import Sampler, sample
from jensen.diffusion.schedule import Cosine, Linear, LogSNRUniform, alpha
from jensen.diffusion.solvers.ancestral import DDIM, Ancestral
from jensen.diffusion.solvers.multistep import AdamsBashforth, Exponential
from jensen.diffusion.solvers.words import SAMPLERS
from jensen.diffusion.variance import Interpolated
from jensen.noise import Label, Noise

F64 = torch.float64
WORLD = mixture_2d()
ROWS, STEPS = 10, 16
X_T = Noise(0, "start").normal(torch.arange(ROWS), (2,)).double()
UNEVEN = grid_from("karras", Chain(LogSNRUniform(6.0, -8.0), STEPS))
EXACT, ROUNDED = 1e-12, 3e-6

States = dict[int, Tensor]

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def even(steps: int) -> Tensor:
    """Levels whose first step is taken in pure noise, where its order does no harm."""
    return torch.linspace(6.0, -10.0, steps, dtype=F64)


class Given(Noise):
    """x_T, and the z of the step that leaves x_i; 0 where none is given."""

    def __init__(self, draws: States, *labels: Label) -> None:
        super().__init__(0, *labels)
        self.draws = draws

    def at(self, *labels: Label) -> Noise:
        """The stream under these labels."""
        return Given(self.draws, *self.path[1:], *labels)

    def normal(self, ids: Any, shape: tuple[int, ...]) -> Tensor:
        """What is given."""
        return X_T if self.path[1] == "start" else self.draws.get(int(self.path[2]), torch.zeros_like(X_T))


def ours(sampler: Sampler, levels: Tensor, *, draws: States | None = None, variance: float = 0.0) -> States:
    """x_i by its number i, and the end under 0."""
    chain = Chain(LogSNRUniform(6.0, -8.0), len(levels))
    reverse = ReverseProcess(chain, Exact(WORLD), Interpolated(variance), Emission(Real(), 0.05))
    seen: States = {}
    noise, ids = Given(draws or {}), torch.arange(ROWS)
    end = sample(reverse, (2,), ids, noise, sampler, levels=levels, like=X_T, watch=lambda i, x, d: seen.update({i: x}))
    return seen | {0: end}


def diffusers() -> Any:
    """The package, imported where it is first used, since that takes seconds."""
    return pytest.importorskip("diffusers")


def scheduler(name: str, levels: Tensor, *, exact: bool = True, **options: Any) -> Any:
    """Theirs, about to visit x_N … x_1 at these levels and then σ = 0.

    Args:
        name: its class.
        levels: λ of x_1, …, x_N; time t is x_{t+1}.
        exact: whether to put its levels in float64.
        options: of its class.
    """
    made = getattr(diffusers(), name)
    alpha2, one = torch.sigmoid(levels), torch.ones(1, dtype=F64)
    common = {"prediction_type": "sample", "clip_sample": False, "timestep_spacing": "trailing"}
    known = {word: value for word, value in common.items() if word in inspect.signature(made).parameters}
    betas = (1 - alpha2 / torch.cat([one, alpha2[:-1]])).tolist()
    solver = made(**({"num_train_timesteps": len(levels), "trained_betas": betas} | known | options))
    if "timestep_spacing" in known:
        solver.set_timesteps(len(levels))
    else:
        solver.set_timesteps(timesteps=list(range(len(levels)))[::-1])
    if exact:
        sigmas = torch.exp(-0.5 * levels).flip(0)
        twice = name == "HeunDiscreteScheduler"
        inner = sigmas[1:].repeat_interleave(2) if twice else sigmas[1:]
        solver.sigmas = torch.cat([sigmas[:1], inner, 0 * one])
        solver.alphas_cumprod = alpha2
    return solver


def walked(
    solver: Any,
    levels: Tensor,
    step: Callable[[int], dict[str, Any]] = lambda i: {},
    *,
    parametrisation: Parametrisation | None = None,
    beside: float | None = None,
    forgetful: bool = False,
    last: int = 0,
) -> States:
    """x_i by its number i, and their end under 0.

    Args:
        solver: theirs.
        levels: λ at each time.
        step: options of the step that leaves x_i.
        parametrisation: what the network puts out; x̂_0 if None.
        beside: what it puts out for the variance.
        forgetful: whether to forget the last state, without which nothing is corrected.
        last: the number of the state to stop at.
    """
    exploding = float(solver.init_noise_sigma) != 1  # their state is x/α
    y, seen = X_T / alpha(levels[-1]) if exploding else X_T, {}
    for t in solver.timesteps:
        i = int(t) + 1
        seen[i] = x = solver.scale_model_input(y, t)
        here = levels[i - 1].expand(len(x))
        denoised = WORLD.denoised(x, here)
        output = parametrisation.target(denoised, x, here) if parametrisation else denoised
        if beside is not None:
            output = torch.cat([output, torch.full_like(output, beside)], 1)
        if i == last:
            return seen
        if forgetful:
            solver.last_sample = None
        y = solver.step(output, t, y, **step(i)).prev_sample
    return seen | {0: y}


def theirs(
    name: str, levels: Tensor, step: Callable[[int], dict[str, Any]] = lambda i: {}, *, last: int = 0, **options: Any
) -> States:
    """`walked` by the scheduler of that name."""
    return walked(scheduler(name, levels, **options), levels, step, last=last)


def assert_same(mine: States, yours: States, tolerance: float, last: int = 0) -> None:
    """Every state down to the last one compared."""
    for i in range(last, max(mine) + 1):
        torch.testing.assert_close(mine[i], yours[i], rtol=tolerance, atol=tolerance)


def apart(one: Tensor, other: Tensor) -> float:
    """The root of the mean square of the difference."""
    return float((one - other).square().mean().sqrt())


def drawn() -> States:
    """z of the steps that leave x_N … x_2, as a generator with seed 0 draws them."""
    generator = torch.Generator().manual_seed(0)
    return {i: torch.randn(X_T.shape, generator=generator, dtype=F64) for i in range(STEPS, 1, -1)}


MULTISTEP, SINGLESTEP, UNIPC = "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "UniPCMultistepScheduler"


@pytest.mark.parametrize(
    ("made", "name", "options", "tolerance"),
    [
        (SAMPLERS["ddim"], "DDIMScheduler", {}, EXACT),
        (SAMPLERS["euler"], "EulerDiscreteScheduler", {}, ROUNDED),
        (SAMPLERS["heun"], "HeunDiscreteScheduler", {}, EXACT),
        (SAMPLERS["dpm-1s"], SINGLESTEP, {"solver_order": 1}, EXACT),
        (SAMPLERS["dpm-1s"], MULTISTEP, {"solver_order": 1}, ROUNDED),
        (SAMPLERS["dpm-2m"], MULTISTEP, {"solver_order": 2}, ROUNDED),
        (lambda: Exponential(2, name="line"), MULTISTEP, {"solver_order": 2, "solver_type": "heun"}, ROUNDED),
    ],
)
def test_the_flow_is_followed_in_the_same_steps(
    made: Callable[[], Sampler], name: str, options: dict[str, Any], tolerance: float
):
    """From x_T to the last x̂_0, on an uneven grid."""
    assert_same(ours(made(), UNEVEN), theirs(name, UNEVEN, **options), tolerance)


@pytest.mark.parametrize(("word", "means"), [("epsilon", Eps()), ("v_prediction", V())])
def test_what_a_network_puts_out_means_the_same(word: str, means: Parametrisation):
    solver = scheduler("DDIMScheduler", UNEVEN, prediction_type=word)
    assert_same(ours(DDIM(), UNEVEN), walked(solver, UNEVEN, parametrisation=means), EXACT)


def test_two_of_their_single_steps_are_one_of_ours():
    """DPM-Solver++(2S), where every other level is half-way in log(α/σ)."""
    levels = even(2 * STEPS - 1)
    yours = theirs(SINGLESTEP, levels, solver_order=2, lower_order_final=True)
    every_other = {(i + 1) // 2: x for i, x in yours.items() if i == 0 or i % 2}
    assert_same(ours(SAMPLERS["dpm-2s"](), levels[::2]), every_other, EXACT)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_lms_ends_by_extrapolation(order: int):
    """Adams and Bashforth's coefficients for the grid, also in a last step to σ = 0, where ours would end in x̂_0(x_1)."""
    beyond = torch.cat([torch.tensor([math.inf], dtype=F64), UNEVEN])
    mine = ours(AdamsBashforth(order), beyond)
    yours = theirs("LMSDiscreteScheduler", UNEVEN, lambda i: {"order": order})
    assert_same({i - 1: x for i, x in mine.items() if i}, yours, EXACT)
    ending = WORLD.denoised(yours[1], UNEVEN[:1].expand(ROWS))
    assert (apart(yours[0], ending) > 1e-4) == (order > 1)


@pytest.mark.parametrize("eta", [0.4, 1.0])
def test_ddim_with_noise(eta: float):
    draws = drawn() | {1: torch.zeros_like(X_T)}
    yours = theirs("DDIMScheduler", UNEVEN, lambda i: {"eta": eta, "variance_noise": draws[i]})
    assert_same(ours(DDIM(eta), UNEVEN, draws=draws), yours, EXACT)


@pytest.mark.parametrize(
    ("options", "weight", "beside"),
    [
        ({"variance_type": "fixed_small"}, 0.0, None),
        ({"variance_type": "fixed_small_log"}, 0.0, None),
        ({"variance_type": "fixed_large"}, 1.0, None),
        ({"variance_type": "learned_range"}, 0.3, 2 * 0.3 - 1),
    ],
)
def test_ancestral_sampling_with_each_variance(options: dict[str, Any], weight: float, beside: float | None):
    """β̂, β, and between their logarithms as a network says from -1 to 1."""
    generator = torch.Generator().manual_seed(0)
    solver = scheduler("DDPMScheduler", UNEVEN, **options)
    yours = walked(solver, UNEVEN, lambda i: {"generator": generator}, beside=beside)
    assert_same(ours(Ancestral(), UNEVEN, draws=drawn(), variance=weight), yours, EXACT)


@pytest.mark.parametrize("made", [lambda: DDIM(1.0), Ancestral])
def test_eulers_ancestral_steps_are_ddim_with_all_noise(made: Callable[[], Sampler]):
    generator = torch.Generator().manual_seed(0)
    solver = scheduler("EulerAncestralDiscreteScheduler", UNEVEN, prediction_type="epsilon")
    yours = walked(solver, UNEVEN, lambda i: {"generator": generator}, parametrisation=Eps())
    assert_same(ours(made(), UNEVEN, draws=drawn()), yours, ROUNDED)


@pytest.mark.parametrize(
    ("made", "options"),
    [
        (SAMPLERS["dpm-1s-sde"], {"solver_order": 1}),
        (SAMPLERS["dpm-2m-sde"], {"solver_order": 2}),
        (lambda: Exponential(2, name="line", tau=1.0), {"solver_order": 2, "solver_type": "heun"}),
    ],
)
def test_the_reverse_sde_is_followed_in_the_same_steps(made: Callable[[], Sampler], options: dict[str, Any]):
    draws = drawn() | {1: torch.zeros_like(X_T)}
    yours = theirs(
        MULTISTEP, UNEVEN, lambda i: {"variance_noise": draws[i]}, algorithm_type="sde-dpmsolver++", **options
    )
    assert_same(ours(made(), UNEVEN, draws=draws), yours, ROUNDED)


class Eased(Exponential):
    """SA-Solver's second step: with h²/2 for ∫ e^(-ru) (h - u) du where there are two values."""

    def _weights(self, nodes: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """(1 - e^(-rh) + c, -c) with c = r h²/2 over the last step."""
        if len(nodes) != 2:
            return super()._weights(nodes, start, end)
        h, rate = end - start, 1 + self.tau**2
        ahead = 0.5 * rate * h**2 / (nodes[0] - nodes[1])
        return torch.stack([-torch.expm1(-rate * h) + ahead, -ahead])


@pytest.mark.parametrize("tau", [0.0, 0.6, 1.0])
def test_sa_solver_has_the_weights_of_order_three_with_noise(tau: float):
    """Their predictor, alone, with its second step put in. (Their last level is not 0, so that nothing is left to compare after x_1.)"""
    generator = torch.Generator().manual_seed(0)
    made = scheduler(
        "SASolverScheduler",
        UNEVEN,
        predictor_order=3,
        corrector_order=1,
        tau_func=lambda t: tau,
        lower_order_final=False,
    )
    yours = walked(made, UNEVEN, lambda i: {"generator": generator}, forgetful=True)
    mine = ours(Eased(3, name="eased", tau=tau), UNEVEN, draws=drawn())
    assert_same(mine, yours, EXACT, last=1)


@pytest.fixture
def release() -> None:
    """What is otherwise may be put right in another one."""
    version = diffusers().__version__
    if not version.startswith("0.42."):
        pytest.skip(f"said of release 0.42, here is {version}")


otherwise = pytest.mark.usefixtures("release")


@cache
def flow(tau: float = 0.0) -> Tensor:
    """x_1 of `even` levels by scipy: dx/dλ = ½ σ² (x + (1 + τ²) ∇log p), the reverse process without its noise, and the flow at τ = 0."""

    def slope(log_snr: float, flat: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(flat.reshape(X_T.shape))
        return (0.5 * levels_of(log_snr)[1] * (x + (1 + tau**2) * WORLD.score(x, log_snr))).numpy().ravel()

    found = solve_ivp(slope, (-10.0, 6.0), X_T.numpy().ravel(), method="DOP853", rtol=1e-11, atol=1e-12)
    return torch.from_numpy(found.y[:, -1].reshape(X_T.shape))


def order_of(solved: Callable[[Tensor], States], truth: Tensor, steps: int) -> float:
    """How fast the error of x_1 falls from so many levels to twice the steps."""
    coarse, fine = (apart(solved(even(n))[1], truth) for n in (steps, 2 * steps - 1))
    return math.log2(coarse / fine)


class Slipped(Exponential):
    """DPM-Solver++(3M) with their coefficient of h² f[0, 1, 2]."""

    def __init__(self, less: float, *, tau: float) -> None:
        super().__init__(3, name="slipped", tau=tau)
        self.less = less

    def _weights(self, nodes: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """Half of r ∫ e^(-ru) (h - u)² du / h², less a number."""
        whole = super()._weights(nodes, start, end)
        if len(nodes) < 3:
            return whole
        h, r, (a, b, c) = end - start, 1 + self.tau**2, nodes
        moment = h**2 - 2 * h / r - 2 * torch.expm1(-r * h) / r**2
        difference = torch.stack([1 / ((a - b) * (a - c)), 1 / ((b - a) * (b - c)), 1 / ((c - a) * (c - b))])
        return whole - (0.5 * moment + self.less * h**2) * difference


@pytest.mark.parametrize(
    ("tau", "algorithm", "less", "order"), [(0.0, "dpmsolver++", 0.0, 2), (1.0, "sde-dpmsolver++", 1.0, 1)]
)
@otherwise
def test_their_third_order_has_half_of_a_divided_difference(tau: float, algorithm: str, less: float, order: int):
    """Order 2, where ours is 3: f'' is twice f[0, 1, 2], as in their DPMSolverSinglestep. In the SDE version, here without noise, the
    coefficient has -½ for +½ as well, so that each step is off by -f'' h²/2: order 1.
    """
    quiet = {"variance_noise": torch.zeros_like(X_T)} if tau else {}

    def yours(levels: Tensor) -> States:
        return theirs(MULTISTEP, levels, lambda i: quiet, algorithm_type=algorithm, solver_order=3, solver_type="heun")

    assert_same(ours(Slipped(less, tau=tau), UNEVEN), yours(UNEVEN), ROUNDED)
    truth = flow(tau)
    mine = order_of(lambda levels: ours(Exponential(3, name="whole", tau=tau), levels), truth, 33)
    assert (order_of(yours, truth, 65), mine) == pytest.approx((order, 3), abs=0.3)


class Halves(Exponential):
    """UniPC with ½ for the solution of its systems of one unknown, B(h) = e^(-h) - 1."""

    def _weights(self, nodes: Tensor, start: Tensor, end: Tensor) -> Tensor:
        """Of two values the midpoint's; where the newer is that of the end, half of each."""
        if len(nodes) != 2:
            return super()._weights(nodes, start, end)
        ahead = 0.5 * (end - start) / (nodes[0] - nodes[1]) if nodes[0] != end else torch.tensor(-0.5, dtype=F64)
        return -torch.expm1(start - end) * torch.stack([1 + ahead, -ahead])


@pytest.mark.parametrize("order", [1, 2, 3])
@otherwise
def test_unipc_has_halves_in_its_small_systems(order: int):
    """In the predictor of order 2 and the corrector of order 1, which begin every run: other numbers, of the same order."""

    def yours(levels: Tensor) -> States:
        return theirs(UNIPC, levels, solver_order=order, lower_order_final=False, last=1)

    assert_same(ours(Halves(order, name="halves", corrected=True), UNEVEN), yours(UNEVEN), EXACT, last=1)
    assert apart(ours(SAMPLERS[f"unipc-{order}"](), UNEVEN)[1], yours(UNEVEN)[1]) > 1e-7
    if order < 3:
        assert order_of(yours, flow(), 33) == pytest.approx(order + 1, abs=0.25)


@otherwise
def test_unipc_ends_in_lower_orders_in_any_number_of_steps():
    """By default x_1 is of order 2 at most, since the step after it is of order 1. Otherwise that one is infinite at σ = 0."""
    lowered = theirs(UNIPC, UNEVEN, solver_order=3)
    whole = theirs(UNIPC, UNEVEN, solver_order=3, lower_order_final=False, last=1)
    assert_same(lowered, whole, EXACT, last=2)
    assert apart(lowered[1], whole[1]) > 1e-3
    assert not bool(theirs(UNIPC, UNEVEN, solver_order=2, lower_order_final=False)[0].isfinite().any())


@otherwise
def test_multistep_ends_in_lower_orders_below_fifteen_levels():
    """Ours does not: of 14 their x_1 is of order 2, of 15 it is of order 3."""
    for steps in (14, 15):
        levels = even(steps)
        yours = theirs(MULTISTEP, levels, solver_order=3, solver_type="heun")
        mine = ours(Slipped(0.0, tau=0.0), levels)
        assert_same(mine, yours, ROUNDED, last=2)
        assert (apart(mine[1], yours[1]) > 1e-3) == (steps == 14)


@otherwise
def test_the_root_of_a_logarithm_is_no_number():
    """DDPM's "fixed_large_log" (their issue 14569)."""
    assert bool(theirs("DDPMScheduler", UNEVEN, variance_type="fixed_large_log")[STEPS - 1].isnan().all())


@otherwise
def test_ddim_steps_by_a_stride_that_is_not_that_of_its_times():
    """Three of ten times, "trailing", are 9, 6 and 2; the step from 6 goes to 3, where the network is told 2 (their issue 11347)."""
    levels = even(10)
    solver = scheduler("DDIMScheduler", levels)
    solver.set_timesteps(3)
    assert solver.timesteps.tolist() == [9, 6, 2]
    yours = walked(solver, levels)[3]
    meant, taken = (ours(DDIM(), levels[[last, 6, 9]])[1] for last in (2, 3))
    torch.testing.assert_close(yours, taken, rtol=EXACT, atol=EXACT)
    assert apart(yours, meant) > 0.1


@pytest.mark.parametrize(
    ("made", "name", "options"),
    [
        (SAMPLERS["ddim"], "DDIMScheduler", {}),
        (SAMPLERS["heun"], "HeunDiscreteScheduler", {}),
        (SAMPLERS["dpm-2m"], MULTISTEP, {"solver_order": 2}),
    ],
)
def test_levels_as_they_come_are_close(made: Callable[[], Sampler], name: str, options: dict[str, Any]):
    """Theirs in float32, from given betas."""
    assert_same(ours(made(), UNEVEN), theirs(name, UNEVEN, exact=False, **options), 1e-5)


def test_noise_schedules_agree_but_for_the_end_of_the_cosine():
    """To the float32 of 1 - ᾱ. Cosine ends in a limit on β there, in a least signal-to-noise ratio here."""
    times = torch.arange(1, 1001, dtype=F64) / 1000
    for schedule, word, same in ((Linear(), "linear", 1000), (Cosine(), "squaredcos_cap_v2", 990)):
        kept = diffusers().DDPMScheduler(beta_schedule=word).alphas_cumprod.double()
        off = (schedule.log_snr(times) - torch.logit(kept)).abs()
        assert float(off[:same].max()) < 2e-3
        assert (float(off[-1]) > 1) == (word != "linear")


@otherwise
def test_times_that_repeat_divide_by_zero():
    """As many steps as there are times: of "linspace" one is there twice (their pull request 2969)."""
    levels = even(10)
    solver = scheduler(MULTISTEP, levels, exact=False, timestep_spacing="linspace")
    assert sorted(solver.timesteps.tolist()) == [1, 2, 3, 4, 4, 5, 6, 7, 8, 9]
    assert bool(walked(solver, levels)[0].isnan().all())
    assert bool(ours(SAMPLERS["dpm-2m"](), levels)[0].isfinite().all())


@otherwise
def test_karras_levels_agree_and_the_network_is_asked_at_rounded_times():
    """Of the linear schedule, where λ is off by up to 0.2 then."""
    solver = diffusers().DPMSolverMultistepScheduler(use_karras_sigmas=True)
    solver.set_timesteps(40)
    visited = -2 * solver.sigmas[:-1].flip(0).double().log()
    chain = Chain(LogSNRUniform(float(visited[0]), float(visited[-1])), 40)
    torch.testing.assert_close(visited, grid_from("karras", chain), rtol=1e-5, atol=1e-5)
    asked = 2 * solver.lambda_t[solver.timesteps].flip(0)
    assert float((asked - visited).abs().max()) > 0.2


@otherwise
def test_karras_levels_of_the_cosine_schedule_run_out_of_levels():
    """Rounded times that repeat, the first among them, which makes a run begin at its second level (their issue 12771)."""
    solver = diffusers().DPMSolverMultistepScheduler(
        use_karras_sigmas=True, beta_schedule="squaredcos_cap_v2", prediction_type="sample"
    )
    solver.set_timesteps(STEPS)
    assert len(set(solver.timesteps.tolist())) < STEPS
    with pytest.raises(IndexError, match="out of bounds"):
        walked(solver, torch.logit(solver.alphas_cumprod.double()))
    grid = grid_from("karras", Chain(Cosine(), STEPS))
    assert bool(ours(SAMPLERS["dpm-2m"](), grid)[0].isfinite().all())


@otherwise
def test_eulers_ancestral_noise_is_no_number_where_a_variance_rounds_below_zero():
    """The first of four steps on the cosine schedule (their issue 14213)."""
    solver = diffusers().EulerAncestralDiscreteScheduler(beta_schedule="squaredcos_cap_v2")
    solver.set_timesteps(4)
    levels = -2 * solver.sigmas[:-1].flip(0).double().log()
    here = torch.zeros_like(X_T)
    assert bool(solver.step(here, solver.timesteps[0], here).prev_sample.isnan().all())
    assert bool(ours(DDIM(1.0), levels, draws=drawn())[0].isfinite().all())
