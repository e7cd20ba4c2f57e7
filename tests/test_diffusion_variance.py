"""The reverse variance: two brackets, what is between them, and the calibrated one (law 15)."""

import pytest
import torch
from analytic import Columns, Exact, LevelsWorld, levels_of, mixture_1d

from jensen.data.space import Real
from jensen.diffusion.calibration import calibrate, knots, measure
from jensen.diffusion.emission import Emission
from jensen.diffusion.process import Bridge, Chain, Transition, diffuse, kl_diagonal
from jensen.diffusion.reverse import ReverseProcess
from jensen.diffusion.sampler import sample
from jensen.diffusion.schedule import Cosine, Linear, LogSNRUniform, Schedule
from jensen.diffusion.solvers.ancestral import Ancestral
from jensen.diffusion.variance import (
    ByState,
    Calibrated,
    Diagonal,
    Interpolated,
    Learned,
    ReverseVariance,
    interpolate,
)
from jensen.errors import InputError
from jensen.noise import Noise

F64 = torch.float64
WORLD = Columns(mixture_1d())
COLUMNS = 100  # cells a row: noise costs by the row


def process(schedule: Schedule, steps: int, shrink: float = 1.0, shift: float = 0.0) -> ReverseProcess:
    chain = Chain(schedule, steps)
    variance = Calibrated(chain.log_snr[knots(chain.log_snr) - 1])
    return ReverseProcess(chain, Exact(WORLD, shrink, shift), variance, Emission(Real(), 0.1))


class Given(ReverseVariance):
    """What a test says."""

    def __init__(self, value: torch.Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(
        self, transition: Transition, bridge: Bridge, log_snr: torch.Tensor, spread: torch.Tensor | None = None
    ) -> torch.Tensor:
        """As it is."""
        return self.value if self.value.ndim > 1 else self.value.expand(len(log_snr), *self.value.shape)


def rows_of(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    return WORLD.sample((n, COLUMNS), torch.Generator().manual_seed(seed)), torch.arange(n)


def reverse_error(reverse: ReverseProcess, i: int, n: int, seed: int) -> float:
    """Monte-Carlo E‖x_{i-1} - μ(x_i)‖²/d, walking forwards: x_0 of W1, x_{i-1} ~ q(x_{i-1} | x_0), x_i ~ q(x_i | x_{i-1})."""
    g = torch.Generator().manual_seed(seed)
    chain, x_0 = reverse.chain, WORLD.sample((n, COLUMNS), g)
    (as2, ss2), (at2, _) = levels_of(chain.log_snr[i - 2]), levels_of(chain.log_snr[i - 1])
    x_s = as2.sqrt() * x_0 + ss2.sqrt() * torch.randn(x_0.shape, generator=g, dtype=F64)
    left = at2 / as2
    x_t = left.sqrt() * x_s + (1 - left).sqrt() * torch.randn(x_0.shape, generator=g, dtype=F64)
    return float((x_s - reverse.mean(x_t, torch.full((n,), i))).square().mean())


def test_the_brackets_are_the_forward_variance_and_the_bridges():
    """Ho et al. 2020, section 3.2: β_i and (1 - ᾱ_{i-1})/(1 - ᾱ_i) β_i; half way their geometric mean."""
    chain = Chain(Linear(), 1000)
    beta = torch.linspace(1e-4, 0.02, 1000, dtype=F64)
    bar = (1 - beta).cumprod(0)
    small = beta[1:] * (1 - bar[:-1]) / (1 - bar[1:])
    for weight, truth in [
        (1.0, beta[1:]),
        (0.0, small),
        (0.5, (beta[1:] * small).sqrt()),
        (0.25, beta[1:] ** 0.25 * small**0.75),
    ]:
        got = Interpolated(weight)(chain.transition, chain.bridge, chain.log_snr)[1:]
        torch.testing.assert_close(got, truth, rtol=1e-8, atol=0)


@pytest.mark.parametrize("weight", [-0.1, 1.5, float("nan")])
def test_a_weight_outside_is_named(weight: float):
    with pytest.raises(InputError, match=f"got {weight}"):
        Interpolated(weight)


def test_before_calibration_it_is_beta():
    """β is the optimum for N(0, I) data."""
    chain = Chain(LogSNRUniform(8.0, -5.0), 30)
    got = Calibrated(chain.log_snr)(chain.transition, chain.bridge, chain.log_snr)[1:]
    torch.testing.assert_close(got, chain.transition.variance[1:], rtol=1e-10, atol=0)


@pytest.mark.parametrize(("shrink", "shift"), [(1.0, 0.0), (0.8, 0.1)], ids=["exact", "spoiled"])
def test_the_calibrated_variance_is_the_reverse_steps_error(shrink: float, shift: float):
    """σ*² = E‖x_s - μ(x_t)‖²/d on forward pairs, for the exact denoiser and a wrong one, to 1 % (law 15).

    200,000 validation cells against 200,000 fresh ones: standard error about 0.3 % each, so 1 % is over two errors of
    the difference; seeds 0 to 7 (an unlucky seed would fail with probability about 2 % a comparison).
    """
    reverse = process(LogSNRUniform(6.0, -5.0), 8, shrink, shift)
    calibrate(reverse, *rows_of(2000, 10), Noise(0))
    for i in range(2, 9):
        assert float(reverse.variances()[i - 1]) == pytest.approx(reverse_error(reverse, i, 2000, i - 2), rel=0.01)


@pytest.mark.parametrize(("shrink", "shift"), [(1.0, 0.0), (0.8, 0.1)], ids=["exact", "spoiled"])
def test_no_other_isotropic_variance_gives_a_better_bound(shrink: float, shift: float):
    """On the rows and noise it was calibrated with, every step's mean term has its minimum at σ*² exactly."""
    reverse = process(LogSNRUniform(6.0, -5.0), 8, shrink, shift)
    noise, (rows, ids) = Noise(3), rows_of(100, 1)
    calibrate(reverse, rows, ids, noise)
    best = reverse.variances()

    def mean_term(i: int, factor: float) -> float:
        reverse.variance = Given(best[i - 1] * factor)
        eps = noise.at("knot", i).normal(ids, (COLUMNS,)).to(F64)
        return float(reverse.term(rows, torch.full((100,), i), eps).mean())

    for i in range(2, 9):
        at_best = mean_term(i, 1.0)
        for factor in (0.5, 0.9, 0.99, 1.01, 1.1, 2.0):
            assert mean_term(i, factor) > at_best
        slope = (mean_term(i, 1 + 1e-5) - mean_term(i, 1 - 1e-5)) / 2e-5
        assert abs(slope) < 1e-5


def test_a_chain_of_another_length_is_calibrated_with_it():
    """The same errors give what measuring in the shorter chain would, to 2 % (knots lie elsewhere), and β̂ ≤ σ*²."""
    long = process(LogSNRUniform(6.0, -5.0), 33)
    calibrate(long, *rows_of(1000, 2), Noise(1))
    short = long.resized(9)
    assert bool((short.variances()[1:] >= short.chain.bridge.variance[1:]).all())
    for i in (2, 5, 9):
        assert float(short.variances()[i - 1]) == pytest.approx(reverse_error(short, i, 1000, 20 + i), rel=0.02)


def test_between_the_knots_of_a_long_chain():
    """T = 1000 on the linear schedule has 64 knots; half way between them interpolation stays within 1 %.

    100,000 cells, the reference averaged over 4 noises; seed 3.
    """
    reverse, (rows, ids) = process(Linear(), 1000), rows_of(1000, 3)
    calibrate(reverse, rows, ids, Noise(0))
    at = knots(reverse.chain.log_snr)
    middles = ((at[:-1] + at[1:]) // 2)[[-1, -10, -25, -35]]
    for i in middles.tolist():
        error, index = 0.0, torch.full((1000,), i)
        for seed in range(1, 5):
            eps = Noise(seed).normal(ids, (COLUMNS,)).to(F64)
            noisy = diffuse(rows, eps, reverse.chain.log_snr[index - 1])
            error += float((rows - reverse.denoise(noisy, index)).square().mean()) / 4
        link = reverse.chain.bridge
        truth = link.variance[i - 1] + link.from_data[i - 1] ** 2 * error
        assert float(reverse.variances()[i - 1]) == pytest.approx(float(truth), rel=0.01)


def test_an_error_too_small_to_have_been_seen_is_held_at_a_floor():
    chain = Chain(LogSNRUniform(6.0, -4.0), 5)
    least = 1e-4 * torch.exp(-chain.log_snr).clamp(max=1)
    for variance in (Calibrated(chain.log_snr), Diagonal(chain.log_snr, (2,))):
        for level in chain.log_snr.tolist():
            variance.calibrate(level, torch.zeros(3, 2, dtype=F64))
        error = variance.error(chain.log_snr).reshape(5, -1)
        torch.testing.assert_close(error, least[:, None].expand_as(error), rtol=1e-10, atol=0)


def test_knots_reach_both_ends_and_never_repeat():
    for steps in (1, 2, 63, 64, 65, 1000):
        at = knots(Chain(LogSNRUniform(9.0, -7.0), steps).log_snr)
        assert int(at[0]) == 1
        assert int(at[-1]) == steps
        assert len(at) == min(steps, 64)
        assert bool((at.diff() > 0).all())


@pytest.mark.parametrize("schedule", [Linear(), Cosine()])
def test_knots_are_even_in_log_snr_where_the_chain_has_the_steps(schedule: Schedule):
    """No gap in λ between knots is much wider than a 63rd of the whole, but where the chain itself steps over it."""
    log_snr = Chain(schedule, 1000).log_snr
    at = knots(log_snr)
    gaps, even = -log_snr[at - 1].diff(), float(log_snr[0] - log_snr[-1]) / 63
    assert int(at[0]) == 1
    assert int(at[-1]) == 1000
    assert bool((at.diff() > 0).all())
    for k in (gaps > 2 * even).nonzero().flatten().tolist():
        assert int(at[k + 1]) == int(at[k]) + 1


def test_residuals_are_mean_squares_a_dimension():
    """Against W1's own E Var[x_0 | x_t] on the noise of each knot: 20,000 cells, |z| < 5, seed 4, failure rate 6e-7."""
    reverse, (rows, ids) = process(LogSNRUniform(4.0, -4.0), 4), rows_of(200, 4)
    residuals = measure(reverse, rows, ids, Noise(2))
    assert residuals.steps.tolist() == [1, 2, 3, 4]
    for i in range(1, 5):
        log_snr = reverse.chain.log_snr[[i - 1]].expand(200)
        noisy = diffuse(rows, Noise(2, "knot", i).normal(ids, (COLUMNS,)).to(F64), log_snr)
        denoised = WORLD.denoised(noisy, log_snr)
        squares = (rows - denoised).square().flatten()
        expected = WORLD.world.covariance(noisy.reshape(-1, 1), float(log_snr[0])).flatten()
        assert abs(float((squares - expected).mean() / (squares - expected).std()) * 20_000**0.5) < 5
        assert float(residuals.errors[i - 1].mean()) == pytest.approx(float(squares.mean()), rel=1e-9)
        if i == 1:
            torch.testing.assert_close(residuals.first, denoised, rtol=1e-12, atol=1e-12)


def test_interpolate_is_linear_inside_and_constant_outside():
    knots_, values = torch.tensor([0.0, 1.0, 3.0], dtype=F64), torch.tensor([5.0, 7.0, -1.0], dtype=F64)
    x = torch.tensor([-9.0, 0.0, 0.25, 1.0, 2.0, 3.0, 50.0], dtype=F64)
    assert interpolate(x, knots_, values).tolist() == [5.0, 5.0, 5.5, 7.0, 3.0, -1.0, -1.0]
    assert interpolate(x, knots_[:1], values[:1]).tolist() == [5.0] * 7


class Uneven(Columns):
    """Columns of which cell j is mixture_1d scaled by its own factor: cells that differ in how well they are known."""

    FACTORS = torch.tensor([0.05, 0.3, 1.0, 2.0], dtype=F64)

    def denoised(self, x_t: torch.Tensor, log_snr: torch.Tensor) -> torch.Tensor:
        """Of each cell by the world at its own signal-to-noise ratio: f x_0 seen through noise is x_0 at SNR f²."""
        shifted = log_snr[:, None] + 2 * self.FACTORS.log()
        (a, _), (own_a, _) = levels_of(log_snr[:, None]), levels_of(shifted)
        unit = x_t / a.sqrt() / self.FACTORS  # x_0 + (σ/αf) ε
        flat = self.world.denoised((own_a.sqrt() * unit).reshape(-1, 1), shifted.flatten())
        return self.FACTORS * flat.reshape(x_t.shape)

    def cells(self, n: int, seed: int) -> torch.Tensor:
        return self.FACTORS * self.world.sample(4 * n, torch.Generator().manual_seed(seed)).reshape(n, 4)


def uneven(steps: int = 6) -> ReverseProcess:
    chain = Chain(LogSNRUniform(6.0, -5.0), steps)
    return ReverseProcess(chain, Exact(Uneven(mixture_1d())), Diagonal(chain.log_snr, (4,)), Emission(Real(), 0.1))


def test_the_diagonal_is_the_error_of_every_cell_and_its_bound_the_best():
    """Each cell's e against Monte Carlo over fresh rows to a tenth; the bound is better than with one error for all by what the theory says, the
    mean of logs.
    """
    reverse, world = uneven(), Uneven(mixture_1d())
    rows, ids = world.cells(4000, 0), torch.arange(4000)
    calibrate(reverse, rows, ids, Noise(0))
    fresh, eps = world.cells(40_000, 1), torch.randn(40_000, 4, generator=torch.Generator().manual_seed(2), dtype=F64)
    found = reverse.variance
    assert isinstance(found, Diagonal)
    for i in (2, 4):
        log_snr = reverse.chain.log_snr[[i - 1]].expand(40_000)
        truth = (fresh - world.denoised(diffuse(fresh, eps, log_snr), log_snr)).square().mean(0)
        torch.testing.assert_close(found.error(log_snr[:1])[0], truth, rtol=0.1, atol=0)
        index = torch.full((40_000,), i)
        each = float(reverse.term(fresh, index, eps).mean())
        reverse.variance = Given(reverse.variances()[i - 1].mean())
        one = float(reverse.term(fresh, index, eps).mean())
        reverse.variance = found
        link, e = (
            reverse.chain.bridge,
            truth * reverse.chain.bridge.from_data[i - 1] ** 2 + reverse.chain.bridge.variance[i - 1],
        )
        gain = 0.5 * 4 * (e.mean().log() - e.log().mean())
        assert float(gain) > 0.05
        assert one - each == pytest.approx(float(gain), rel=0.1)
        assert each == pytest.approx(float(0.5 * (e / link.variance[i - 1]).log().sum()), rel=0.05)


def test_cells_without_a_miss_are_not_promised_one():
    """Of 6 rows with an error in one cell only, the others get a share of it; the share falls with the rows."""
    shares = []
    for n in (6, 400):
        variance = Diagonal(torch.zeros(1), (50,))
        g = torch.Generator().manual_seed(0)
        squares = torch.rand(50, generator=g).double() * torch.randn(n, 50, generator=g).double().square()
        variance.calibrate(0.0, squares)
        each, mean = squares.mean(0), squares.mean()
        shares.append(float(((variance.error(torch.zeros(1).double())[0] - each) / (mean - each)).median()))
    assert shares[0] > 3 * shares[1] > 0


class Seeing(Exact):
    """An exact denoiser that also says Var[x_0 | x_t], times a factor."""

    def __init__(self, world: LevelsWorld, factor: float) -> None:
        super().__init__(world)
        self.factor = factor

    def moments(
        self, x_t: torch.Tensor, log_snr: torch.Tensor, context: torch.Tensor | None = None, *, spread: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """By enumerating the levels."""
        assert isinstance(self.world, LevelsWorld)
        alpha2, sigma2 = (v.reshape(-1, *[1] * x_t.ndim) for v in levels_of(log_snr))
        weight = (
            self.world.mass.log() - 0.5 * (x_t[..., None] - alpha2.sqrt() * self.world.values).square() / sigma2
        ).softmax(-1)
        mean = (weight * self.world.values).sum(-1)
        return mean, self.factor * ((weight * self.world.values.square()).sum(-1) - mean.square())


@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_by_state_is_the_posterior_variance_whatever_its_unit(factor: float):
    """W4 with the exact posterior variance, told in a wrong unit: k puts it right, w is small, and a term of the bound costs the mean over
    states of ½ log(1 + (SNR_s - SNR_t) Var), as with the true variance and less than with one error for all. 40,000 cells.
    """
    world = LevelsWorld(4)
    chain = Chain(LogSNRUniform(6.0, -4.0), 6)
    variance = ByState(chain.log_snr)
    reverse = ReverseProcess(chain, Seeing(world, factor), variance, Emission(Real(), 0.1))
    rows, ids = world.sample((400, 100), torch.Generator().manual_seed(0)), torch.arange(400)
    before = reverse.variances()
    torch.testing.assert_close(before[1:], chain.transition.variance[1:], rtol=1e-10, atol=0)
    calibrate(reverse, rows, ids, Noise(0))
    fresh = world.sample((400, 100), torch.Generator().manual_seed(1))
    eps = torch.randn(400, 100, generator=torch.Generator().manual_seed(2), dtype=F64)
    for i in (2, 3):
        log_snr = chain.log_snr[[i - 1]].expand(400)
        noisy = diffuse(fresh, eps, log_snr)
        truth = Seeing(world, 1.0).moments(noisy, log_snr)[1]
        gain = chain.log_snr[i - 2].exp() - chain.log_snr[i - 1].exp()
        expected = 0.5 * torch.log1p(gain * truth).mean()
        cost = float(reverse.term(fresh, torch.full((400,), i), eps).mean()) / 100
        assert float(variance.step_cost(gain[None], chain.log_snr[i - 1])[0]) == pytest.approx(
            float(expected), rel=0.08
        )
        link = chain.bridge
        reverse.variance = Given(link.variance[i - 1] + link.from_data[i - 1] ** 2 * truth)
        best = float(reverse.term(fresh, torch.full((400,), i), eps).mean()) / 100
        assert cost == pytest.approx(best, rel=0.03)
        assert best == pytest.approx(float(expected), rel=0.12)  # rows with a rare jump to another level weigh much
        reverse.variance = Given((link.variance[i - 1] + link.from_data[i - 1] ** 2 * truth).mean())
        assert cost < (0.5 if i == 2 else 0.99) * float(reverse.term(fresh, torch.full((400,), i), eps).mean()) / 100
        reverse.variance = variance


def test_a_denoiser_that_sees_no_variance_is_told():
    with pytest.raises(InputError, match="sees no variance"):
        ByState(torch.zeros(1)).calibrate(0.0, torch.ones(4, 2))


def test_kl_of_diagonal_normals_is_torchs():
    g = torch.Generator().manual_seed(0)
    difference, v_1 = torch.randn(5, 2, 3, generator=g).double(), torch.rand(5, generator=g).double() + 0.1
    v_2 = torch.rand(5, 2, 3, generator=g).double() + 0.1
    normal = torch.distributions.Normal
    one = normal(difference, v_1.sqrt().reshape(5, 1, 1).expand(5, 2, 3))
    truth = torch.distributions.kl_divergence(one, normal(torch.zeros_like(v_2), v_2.sqrt())).flatten(1).sum(1)
    torch.testing.assert_close(kl_diagonal(difference, v_1, v_2), truth, rtol=1e-10, atol=0)


@pytest.mark.parametrize("kind", ["calibrated", "diagonal"])
def test_the_cost_of_a_step_is_its_terms_mean_at_the_optimum(kind: str):
    """E L = ½ Σ log(1 + (SNR_s - SNR_t) e), the mean over the rows and noise of calibration, exactly where every cell has its own e."""
    reverse, world = uneven(5), Uneven(mixture_1d())
    if kind == "calibrated":
        reverse.variance = Calibrated(reverse.chain.log_snr)
    rows, ids = world.cells(2000, 0), torch.arange(2000)
    calibrate(reverse, rows, ids, Noise(0))
    for i in (2, 5):
        log_snr = reverse.chain.log_snr
        eps = Noise(0).at("knot", i).normal(ids, (4,)).double()
        cost = reverse.variance.step_cost((log_snr[i - 2].exp() - log_snr[i - 1].exp())[None], log_snr[i - 1])
        mean = float(reverse.term(rows, torch.full((2000,), i), eps).mean()) / 4
        assert float(cost[0]) == pytest.approx(mean, rel=1e-9 if kind == "calibrated" else 0.01)


def test_a_sampled_step_has_the_variance_of_its_cells():
    """The residual of ancestral steps over μ, a cell: its variance within 5 standard errors of the diagonal's (W2-like worlds need none)."""
    reverse = uneven(2)
    calibrate(reverse, Uneven(mixture_1d()).cells(2000, 0), torch.arange(2000), Noise(0))
    states: dict[int, torch.Tensor] = {}
    seen: dict[int, torch.Tensor] = {}

    def watch(i: int, x: torch.Tensor, denoised: torch.Tensor) -> None:
        states[i], seen[i] = x, denoised

    sample(reverse, (4,), torch.arange(20_000), Noise(1), Ancestral(), like=torch.zeros((), dtype=F64), watch=watch)
    link = reverse.chain.bridge
    residual = states[1] - link.from_data[1] * seen[2] - link.from_noisy[1] * states[2]
    ratio = residual.var(0) / reverse.variances()[1]
    assert bool(((ratio - 1).abs() < 5 * (2 / 20_000) ** 0.5).all())
    assert float(reverse.variances()[1].max() / reverse.variances()[1].min()) > 2


class Weighing(Exact):
    """An exact denoiser with a number w to learn."""

    def __init__(self) -> None:
        super().__init__(WORLD)
        self.w = torch.nn.Parameter(torch.zeros((), dtype=F64))

    def moments(
        self, x_t: torch.Tensor, log_snr: torch.Tensor, context: torch.Tensor | None = None, *, spread: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The same w everywhere."""
        return self(x_t, log_snr), self.w.expand(x_t.shape)


def test_a_learned_variance_comes_to_the_optimum():
    """Newton's steps on the mean of a term by w alone end where σ² is E (x_s - μ)² of the same rows (law 15)."""
    chain = Chain(LogSNRUniform(6.0, -5.0), 8)
    reverse = ReverseProcess(chain, Weighing(), Learned(), Emission(Real(), 0.1))
    rows, _ = rows_of(200, 0)
    eps = torch.randn(rows.shape, generator=torch.Generator().manual_seed(1), dtype=F64)
    assert isinstance(reverse.denoiser, Weighing)
    for i in (2, 3):  # where the optimum lies between the brackets: the data's variance is above 1
        index, w = torch.full((200,), i), reverse.denoiser.w
        with torch.no_grad():
            w.zero_()
        for _ in range(12):
            (slope,) = torch.autograd.grad(reverse.term(rows, index, eps).mean(), w, create_graph=True)
            (curve,) = torch.autograd.grad(slope, w)
            with torch.no_grad():
                w -= (slope / curve.abs()).clamp(-1, 1)
        log_snr = chain.log_snr[index - 1]
        with torch.no_grad():
            squares = (rows - WORLD.denoised(diffuse(rows, eps, log_snr), log_snr)).square().mean()
            found = reverse.variance_at(index, w.expand(rows.shape))[0, 0]
        best = chain.bridge.variance[i - 1] + chain.bridge.from_data[i - 1] ** 2 * squares
        assert float(found) == pytest.approx(float(best), rel=1e-6)


def test_a_learned_variance_lies_between_the_brackets():
    chain = Chain(LogSNRUniform(6.0, -5.0), 3)
    far = torch.tensor([-60.0, 0.0, 60.0], dtype=F64).expand(3, 3)
    got = Learned()(chain.transition, chain.bridge, chain.log_snr, far)[1:]
    high, low = chain.transition.variance[1:], chain.bridge.variance[1:]
    torch.testing.assert_close(got, torch.stack([low, (high * low).sqrt(), high], 1), rtol=1e-10, atol=0)
    torch.testing.assert_close(Learned()(chain.transition, chain.bridge, chain.log_snr)[1:], (high * low).sqrt())
