"""The DDPM's objectives against the bound they stand for, and the words it is built from."""

import math

import pytest
import torch
from torch import Tensor

import jensen
from jensen.data.examples import Batch, Examples
from jensen.data.sources import load_data
from jensen.data.space import Levels, Real
from jensen.diffusion.denoiser import Denoiser
from jensen.diffusion.emission import Emission
from jensen.diffusion.likelihood import Plan, cheapest_plan, estimate, resized_proposal, uniform_proposal
from jensen.diffusion.process import Chain
from jensen.diffusion.reverse import ReverseProcess
from jensen.diffusion.schedule import LogSNRUniform, alpha, sigma
from jensen.diffusion.variance import Interpolated
from jensen.errors import InputError
from jensen.models.ddpm import DDPM
from jensen.models.diffusion_objective import DDPMObjective
from jensen.noise import Noise
from jensen.training.device import precision
from jensen.training.fitter import GradientFitter, TrainingSettings


class Standard(Denoiser):
    """The exact denoiser of N(0, 1) data."""

    def forward(self, x_t: Tensor, log_snr: Tensor, context: Tensor | None = None) -> Tensor:
        a, s = alpha(log_snr), sigma(log_snr)
        return (a / (a * a + s * s)).reshape(-1, *[1] * (x_t.ndim - 1)).to(x_t) * x_t


def process(steps: int = 12) -> ReverseProcess:
    chain = Chain(LogSNRUniform(6.0, -6.0), steps)
    return ReverseProcess(chain, Standard(), Interpolated(1.0), Emission(Real(), 0.05))


def rows(count: int) -> Batch:
    return Batch(Noise(3, "data").normal(range(count), (2,)).double(), torch.arange(count))


def test_bound_objective_has_the_bound_as_its_mean() -> None:
    """Seed fixed; a z-test at 4 standard errors fails once in 16,000 seeds."""
    reverse, batch = process(), rows(64)
    objective = DDPMObjective(reverse, "bound")
    losses = torch.stack([objective(batch, Noise(0, k)) * 2 for k in range(300)])
    plan = Plan(30, None, uniform_proposal(12))
    exact = estimate(reverse, batch.x, batch.id, plan, Noise(9))
    truth = (exact.total - exact.prior).mean(1)
    error = math.hypot(float(losses.mean(1).std()) / 300**0.5, float(truth.std()) / 30**0.5)
    assert abs(float(losses.mean() - truth.mean())) < 4 * error


def test_simple_objective_is_the_error_of_the_noise() -> None:
    """The mean over steps of SNR E‖x_0 - x̂_0‖²/d, in closed form for a known denoiser; 4 standard errors."""
    reverse, batch = process(), rows(256)
    losses = torch.stack([DDPMObjective(reverse, "simple")(batch, Noise(1, k)).mean() for k in range(200)])
    log_snr = reverse.chain.log_snr
    x2 = float(batch.x.square().mean())  # error of x̂_0 = α x_t at given x_0: σ⁴ x_0² + α² σ²
    expected = (log_snr.exp() * (sigma(log_snr) ** 4 * x2 + alpha(log_snr) ** 2 * sigma(log_snr) ** 2)).mean()
    assert abs(float(losses.mean() - expected)) < 4 * float(losses.std()) / 200**0.5


def test_held_out_terms_sum_to_the_bound() -> None:
    """Their mean over noise is minus the bound; 4 standard errors."""
    reverse, batch = process(), rows(64)
    draws = torch.stack(
        [sum(DDPMObjective(reverse, "simple").held_out(batch, Noise(2, k)).values()) for k in range(200)]
    )
    plan = Plan(30, None, uniform_proposal(12))
    truth = -estimate(reverse, batch.x, batch.id, plan, Noise(9)).total.mean(1)
    error = math.hypot(float(draws.mean(1).std()) / 200**0.5, float(truth.std()) / 30**0.5)
    assert abs(float(draws.mean() - truth.mean())) < 4 * error


def test_the_cheapest_plan_takes_more_strata_where_they_pay_and_keeps_its_word() -> None:
    reverse, batch = process(100), rows(8)
    reverse.emission.log_scale.fill_(0.0)  # a quiet L_0, which is seen once in a repetition whatever its calls
    proposal = uniform_proposal(100)  # fits badly, so that the terms of one repetition differ much and strata pay
    find = lambda choices, n=80: cheapest_plan(  # noqa: E731
        reverse, batch.x, batch.id, proposal, Noise(0), choices=choices, rows=n, tolerance=0.4 * (8 / n) ** 0.5
    )
    assert find([4, 16, 64], 8).calls == 4  # as few rows as the pilot's do not pay for another pilot
    few, chosen = find([4]), find([4, 16, 64])
    assert chosen.calls_per_example() <= few.calls_per_example()
    assert chosen.calls is not None
    assert chosen.calls > 4
    means = torch.stack([estimate(reverse, batch.x, batch.id, chosen, Noise(5, k)).total.mean() for k in range(60)])
    assert float(means.std()) < 0.4 * 1.4  # the pilot's own variance has a relative sd of about 0.3


def test_no_plan_costs_more_than_is_allowed() -> None:
    reverse, batch = process(100), rows(8)
    plan = cheapest_plan(
        reverse, batch.x, batch.id, uniform_proposal(100), Noise(0), choices=[4, 64], rows=8, tolerance=1e-6
    )
    assert plan.calls_per_example() in (62 * 64, 4000)


class Watching(torch.nn.Module):
    """A network that is always told the context of its rows, here their ids."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner, self.calls = inner, 0

    def forward(self, x: torch.Tensor, log_snr: torch.Tensor, context: torch.Tensor | None = None) -> torch.Tensor:
        assert context is not None
        assert len(context) == len(x)
        self.calls += 1
        return self.inner(x, log_snr)


@pytest.mark.parametrize("loss", ["simple", "bound"])
def test_context_reaches_the_network_from_everywhere(loss: str) -> None:
    model = DDPM(
        (3,), Levels(5, -1.0, 0.5), timesteps=20, loss=loss, size="tiny", dequantisation="learned", trained_ends=True
    )
    network = model.reverse.denoiser.network = Watching(model.reverse.denoiser.network)
    batch = Batch(torch.randint(0, 5, (70, 3)).float() * 0.5 - 1, torch.arange(70), torch.arange(70))
    objective, rows, context = model.objective(), batch.x[:5], torch.arange(5)
    for asks in (
        lambda: objective(batch, Noise(0)),
        lambda: objective.held_out(batch, Noise(0)),
        lambda: model.learn_schedule(batch, Noise(0), lambda done: None),
        lambda: model.calibrate_on(batch, 0),
        lambda: model.plan(batch, 70, tolerance=3.0, seed=0),
        lambda: model.log_likelihood(rows, context, repetitions=2),
        lambda: model.log_likelihood(rows, context, repetitions=2, timesteps=math.inf),
        lambda: model.log_likelihood(rows, context, method="ode", repetitions=2, ode_steps=2),
        lambda: model.sample(4, torch.arange(4), steps=3),
    ):
        before = network.calls
        asks()
        assert network.calls > before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"schedule": "cosine", "log_snr_start": 5.0},
            "log_snr_start goes with schedule=log-snr or ve, got 5.0 with schedule=cosine; take schedule=log-snr, or leave it out",
        ),
        ({"beta_end": 0.1}, "beta_end goes with schedule=linear, got 0.1 with schedule=log-snr"),
        ({"schedule": "linear", "beta_end": 0.1, "log_snr_end": -5.0}, "log_snr_end goes with"),
        ({"betas": []}, "betas goes with schedule=betas, got .. with schedule=log-snr; take schedule=betas, or leave"),
        (
            {"head_features": 8},
            "head_features is for parametrisation=levels, got 8 with parametrisation=v; leave it out",
        ),
    ],
)
def test_a_fit_refuses_what_would_change_nothing(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        jensen.fit(torch.randn(40, 2, dtype=torch.float64), "diffusion", steps=1, progress=False, **options)  # type: ignore[arg-type]


def test_what_an_older_run_has_written_down_is_read_all_the_same() -> None:
    """Settings of other choices, which every config once had."""
    DDPM((2,), Real(), schedule="cosine", log_snr_start=5.0, log_snr_end=-5.0, head_features=8)
    ends = DDPM((2,), Real(), schedule="ve", log_snr_start=5.0).chain().log_snr
    assert float(ends[0]) == pytest.approx(5.0)


def test_few_dimensions_have_their_trace_exactly() -> None:
    """Up to 32 of real values; up to 8 of levels, which are drawn in their bins all the same."""

    def probes(space: Levels | Real, dims: int) -> int | None:
        method = DDPM((dims,), space, size="tiny")._method("ode", {})
        return method._settings(torch.zeros(1, dims), {}).probes

    assert [probes(Real(), n) for n in (32, 33)] == [None, 1]
    assert [probes(Levels(4, -1.0, 2 / 3), n) for n in (8, 9)] == [None, 1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head_features": -1, "parametrisation": "levels"}, "head_features must be from 1 to 256, got -1"),
        ({"head_features": 0, "parametrisation": "levels"}, "head_features must be from 1 to 256, got 0"),
        ({"fourier": [6, 6]}, "none twice"),
        ({"betas": [0.5, 1e-300], "timesteps": 2}, "x_1 and x_2 have the same in float64"),
        ({"reverse_variance": 1.5}, "reverse_variance must be .* got 1.5"),
        ({"schedule": "linear", "beta_start": -0.1}, "beta_start must lie strictly between 0 and 1, got -0.1"),
    ],
)
def test_settings_that_cannot_be_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DDPM((2,), Levels(4, -1.0, 2 / 3), **options)


def test_what_belongs_to_levels_is_refused_on_real_values() -> None:
    with pytest.raises(InputError, match="dequantisation=truncated-normal is for levels"):
        DDPM((2,), Real(), dequantisation="truncated-normal")
    with pytest.raises(InputError, match=r"none twice, got \[0, 0\]"):
        DDPM((1, 8, 8), Real(), network="unet", attention=[0, 0])


@pytest.mark.parametrize("betas", [[1e-19, 0.5], [0.5, *[0.99] * 10]])
def test_betas_beyond_float32_are_refused_before_any_work(betas: list[float]) -> None:
    with pytest.raises(InputError, match="log-SNR of x_1 to x_T must stay within ±40"):
        DDPM((2,), Real(), betas=betas, timesteps=len(betas))


@pytest.mark.parametrize("word", ["x", "eps", "v", "score", "mu", "levels"])
@pytest.mark.parametrize("loss", ["simple", "bound"])
def test_every_parametrisation_trains(word: str, loss: str) -> None:
    """One gradient step on one batch lowers the loss on the same batch and noise."""
    torch.manual_seed(0)
    model = DDPM(
        (1, 4, 4), Levels(5, -1.0, 0.5), timesteps=20, parametrisation=word, loss=loss, size="tiny", schedule="cosine"
    )
    batch = Batch(torch.randint(0, 5, (16, 1, 4, 4)).float() * 0.5 - 1, torch.arange(16))
    objective = model.objective()
    before = objective(batch, Noise(0)).mean()
    before.backward()
    slope = [p for p in objective.parameters() if p.grad is not None]
    length = (
        1e-3 * float(before.detach()) / float(sum(p.grad.square().sum() for p in slope))
    )  # promises a fall of 0.1 %
    with torch.no_grad():
        for parameter in slope:
            parameter -= length * parameter.grad
    assert float(objective(batch, Noise(0)).mean().detach()) < float(before.detach())


def test_betas_and_another_schedule_contradict_each_other() -> None:
    with pytest.raises(InputError, match="schedule=linear"):
        DDPM((2,), Real(), betas=[0.1, 0.2], schedule="linear")
    model = DDPM((2,), Real(), betas=[0.1, 0.2], timesteps=2)
    assert torch.allclose(alpha(model.reverse.chain.log_snr) ** 2, torch.tensor([0.9, 0.72]).double())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timesteps": 0}, "timesteps must be between 1 and 100000, got 0"),
        ({"reverse_variance": "wild"}, "got 'wild'"),
        ({"reverse_variance": 1.5}, "got 1.5"),
        ({"parametrisation": "levels"}, "at most 256 levels, got real values"),
        ({"dropout": 1.0}, "got 1.0"),
        ({"emphasis": 2.0, "loss": "bound"}, "got 2.0 with loss=bound"),
    ],
)
def test_bad_words_are_refused_by_name(options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DDPM((2,), Real(), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("steps", [2, 5, 40])
def test_a_resized_proposal_is_a_distribution_and_leaves_the_bound_unbiased(steps: int) -> None:
    """A proposal that does not sum to one would bias the bound; 4 standard errors."""
    long, batch = process(20), rows(64)
    short = long.resized(steps)
    proposal = resized_proposal(torch.linspace(1, 2, 19).double() / 28.5, long.chain.log_snr, short.chain.log_snr)
    assert len(proposal) == steps - 1
    assert float(proposal.sum()) == pytest.approx(1, abs=1e-12)
    sampled = estimate(short, batch.x, batch.id, Plan(200, 3, proposal), Noise(4)).total.mean(1)
    every = estimate(short, batch.x, batch.id, Plan(30, None, proposal), Noise(5)).total.mean(1)
    error = math.hypot(float(sampled.std()) / 200**0.5, float(every.std()) / 30**0.5)
    assert abs(float(sampled.mean() - every.mean())) < 4 * error


def test_betas_are_the_chain_of_a_fit() -> None:
    """As many steps as betas, unless a number is given."""
    split = load_data(Noise(0).normal(range(40), (2,)).numpy())
    assert DDPM.resolve(split, Real(), {"betas": [0.1, 0.2, 0.9]})["timesteps"] == 3
    assert DDPM.resolve(split, Real(), {"betas": [0.1, 0.2, 0.9], "timesteps": 5})["timesteps"] == 5
    assert DDPM.resolve(split, Real(), {})["timesteps"] == 1000


def test_a_chain_is_not_cut_to_one_step() -> None:
    """x_1 would be pure noise, for which the emission was not made; a chain fitted with one step may stay so."""
    x = torch.zeros(3, 2)
    with pytest.raises(InputError, match="steps must be between 2 and 100000, got 1"):
        DDPM((2,), Real(), timesteps=5).log_likelihood(x, timesteps=1)
    with pytest.raises(InputError, match="got 1"):
        DDPM((2,), Real(), timesteps=5).sample(1, steps=1)
    assert DDPM((2,), Real(), timesteps=1).log_likelihood(x).of == "ancestral, T = 1"


@pytest.mark.parametrize(("steps", "most"), [(2, 2), (20, 20), (64, 64), (200, 64)])
def test_a_plan_looks_at_no_more_terms_than_there_are(steps: int, most: int) -> None:
    model = DDPM((2,), Real(), timesteps=steps)
    x = Noise(1).normal(range(30), (2,))
    plan = model.plan(Batch(x, torch.arange(30)), 30, tolerance=0.3, seed=0)
    calls = plan["calls"] or steps
    assert calls <= most
    assert model.cost(plan) == plan["repetitions"] * calls
    seen: list[int] = []
    model.log_likelihood(x, on_calls=seen.append, **plan)
    assert sum(seen) == 30 * model.cost(plan)


def test_log_snrs_beyond_float32_are_refused() -> None:
    with pytest.raises(
        InputError, match="log_snr_start must lie above log_snr_end, and both within ±40, got 1000 and -9"
    ):
        DDPM((2,), Real(), log_snr_start=1000.0)


@pytest.mark.parametrize("word", ["levels", "eps"])
def test_learning_the_variance_leaves_the_mean_alone(word: str) -> None:
    """With `simple`, the gradient of what puts out the mean is that of a model with a fixed variance and the same weights; the further output
    gets a gradient of its own, by the bound.
    """
    options = {"timesteps": 20, "parametrisation": word, "size": "tiny", "loss": "simple"}
    torch.manual_seed(0)
    model = DDPM((1, 4, 4), Levels(5, -1.0, 0.5), reverse_variance="learned", **options)  # type: ignore[arg-type]
    denoiser = model.reverse.denoiser
    network = denoiser.network
    with torch.no_grad():
        network.head.weight.normal_(std=0.1)
    batch = Batch(torch.randint(0, 5, (16, 1, 4, 4)).float() * 0.5 - 1, torch.arange(16))

    def slopes() -> Tensor:
        (found,) = torch.autograd.grad(model.objective()(batch, Noise(0)).mean(), network.head.weight)
        return found

    learned = slopes()
    model.reverse.variance = Interpolated(0.5)
    fixed = slopes()
    outputs = fixed.shape[0]
    torch.testing.assert_close(learned[: outputs - 1], fixed[: outputs - 1])
    assert float(fixed[-1].abs().max()) == 0
    assert float(learned[-1].abs().max()) > 0


def test_a_learned_variance_is_sampled_and_scored() -> None:
    model = DDPM((2,), Real(), timesteps=10, reverse_variance="learned", size="tiny")
    assert model.sample(3).shape == (3, 2)
    found = model.log_likelihood(torch.zeros(4, 2), repetitions=2)
    assert bool(found.value.isfinite().all())
    with pytest.raises(InputError, match="needs parametrisation=levels"):
        model.calibrated_by("by-state")


def test_looks_is_how_often_held_out_passes_a_row_through_the_network() -> None:
    """The cost by which a fit spaces its evaluations: 256 rows, 9 times, beside steps of 32 rows of three passes each."""
    reverse, batch, seen = process(), rows(7), []
    reverse.denoiser.register_forward_hook(lambda module, given, out: seen.append(len(given[0])))
    objective = DDPMObjective(reverse, "simple")
    with torch.no_grad():
        objective.held_out(batch, Noise(0))
    assert sum(seen) == 7 * objective.looks == 7 * 9
    reverse.denoiser.register_parameter("unused", torch.nn.Parameter(torch.zeros(1)))  # an optimiser wants one
    settings = TrainingSettings(batch_size=32)
    held_out = Examples(torch.zeros(256, 3), torch.arange(256))
    fitter = GradientFitter(objective, settings, precision("float32"), steps=10, held_out=held_out, seed=0)
    assert fitter.evaluation_cost == 256 * 9 / (3 * 32)


def test_training_does_not_look_at_a_variance_that_is_measured_later() -> None:
    asked: list[bool] = []
    split = load_data("digits")
    options = {"network": "mlp", "size": "tiny", "timesteps": 10}
    losses = []
    for word in ("by-state", "calibrated"):
        torch.manual_seed(0)
        model = DDPM((1, 8, 8), Levels(17, -1.0, 0.125), reverse_variance=word, **options)
        if word == "by-state":
            model.reverse.variance.share.fill_(0.5)  # as if it had been measured
            assert model.reverse.variance.by_state
        moments = model.reverse.denoiser.moments
        model.reverse.denoiser.moments = lambda *given, spread, told=moments: (  # type: ignore[method-assign]
            asked.append(spread),
            told(*given, spread=spread),
        )[1]
        x = split.train.batch(slice(0, 8)).x.float() / 8 - 1
        losses.append(model.objective()(Batch(x, torch.arange(8)), Noise(0)).detach())
    assert asked == [False, False]
    torch.testing.assert_close(*losses, rtol=0, atol=0)
