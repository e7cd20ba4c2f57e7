"""Objectives as weights of one squared error, against the formulas of their papers; a proposal that learns and leaves the mean alone."""

import math

import numpy as np
import pytest
import torch
from analytic import Exact, mixture_2d
from scipy import stats
from torch import Tensor

from jensen.data.examples import Batch
from jensen.data.space import Real
from jensen.diffusion.denoiser import NetworkDenoiser
from jensen.diffusion.emission import Emission
from jensen.diffusion.parametrisation import PARAMETRISATIONS, Eps, Preconditioned
from jensen.diffusion.process import Chain, diffuse
from jensen.diffusion.reverse import ReverseProcess
from jensen.diffusion.schedule import VP, Flow, LogSNRUniform, SubVP, alpha, schedule_from, sigma
from jensen.diffusion.variance import Interpolated
from jensen.diffusion.weighting import OBJECTIVES, weighting_from
from jensen.models.ddpm import DDPM
from jensen.models.diffusion_objective import DDPMObjective
from jensen.noise import Noise

F64 = torch.float64
LEVELS = torch.linspace(8.0, -8.0, 33, dtype=F64)
SPREAD = 0.7


def errors() -> dict[str, Tensor]:
    """Squared errors of many kinds at every level, for one x_0, ε and a denoiser that is off by 0.3."""
    x_0, eps, denoised = torch.tensor(0.4).double(), torch.tensor(-1.1).double(), torch.tensor(0.7).double()
    a, s = torch.sigmoid(LEVELS).sqrt(), torch.sigmoid(-LEVELS).sqrt()
    x_t = a * x_0 + s * eps
    eps_hat = (x_t - a * denoised) / s
    ratio = s / a
    skip, out = SPREAD**2 / (ratio**2 + SPREAD**2), ratio * SPREAD / (ratio**2 + SPREAD**2).sqrt()
    score, score_hat = -eps / s, (a * denoised - x_t) / s**2
    network = (denoised - skip * x_t / a) / out  # what EDM's F must have put out
    target = (x_0 - skip * x_t / a) / out
    velocity, velocity_hat = eps - x_0, eps_hat - denoised
    return {
        "eps": (eps - eps_hat) ** 2,
        "dsm": (s * (score - score_hat)) ** 2,
        "x": ((x_0 - denoised) ** 2).expand(33),
        "edm": (network - target) ** 2,
        "flow-matching": (velocity - velocity_hat) ** 2,
    }


@pytest.mark.parametrize("word", ["dsm", "edm", "flow-matching"])
def test_a_weight_is_its_papers_error(word: str):
    found = errors()
    weight = weighting_from(word, Eps(), SPREAD).weight(LEVELS)
    torch.testing.assert_close(weight * found["x"], found[word], rtol=1e-10, atol=0)
    torch.testing.assert_close(found["dsm"], found["eps"], rtol=1e-10, atol=0)


def test_min_snr_is_clamped_from_above():
    """Of the error of x_0; in the noise's, min(SNR, 5)/SNR: never above 1 (inverting the clamp is a known slip)."""
    weight = weighting_from("min-snr", Eps(), 1.0).weight(LEVELS)
    torch.testing.assert_close(weight, torch.minimum(LEVELS.exp(), torch.tensor(5.0).double()))
    assert float((weight / LEVELS.exp()).max()) <= 1 + 1e-12


@pytest.mark.parametrize("word", list(PARAMETRISATIONS))
def test_simple_is_the_error_of_what_the_network_puts_out(word: str):
    if word == "mu":
        pytest.skip("its target belongs to a chain")
    target = PARAMETRISATIONS[word]()
    x_0, eps, off = (torch.randn(33, 1, generator=torch.Generator().manual_seed(k)).double() for k in (0, 1, 2))
    x_t = diffuse(x_0, eps, LEVELS)
    wanted, put = target.target(x_0, x_t, LEVELS), target.target(x_0 + off, x_t, LEVELS)
    weight = weighting_from("simple", target, 1.0).weight(LEVELS)
    torch.testing.assert_close(weight * off[:, 0].square(), (wanted - put)[:, 0].square(), rtol=1e-8, atol=0)
    torch.testing.assert_close(target.denoised(wanted, x_t, LEVELS), x_0, rtol=1e-8, atol=1e-8)


def test_edm_sees_and_wants_variance_one():
    """Karras et al. 2022, their requirement on c_in, c_skip and c_out, for data of deviation 0.7 (normal: 200,000 draws, 2 %)."""
    edm = Preconditioned(SPREAD)
    g = torch.Generator().manual_seed(0)
    for level in (-6.0, -1.0, 0.5, 4.0):
        log_snr = torch.full((200_000,), level, dtype=F64)
        x_0 = SPREAD * torch.randn(200_000, 1, generator=g, dtype=F64)
        x_t = diffuse(x_0, torch.randn(200_000, 1, generator=g, dtype=F64), log_snr)
        assert float((edm.input_scale(log_snr)[:, None] * x_t).var()) == pytest.approx(1, rel=0.02)
        assert float(edm.target(x_0, x_t, log_snr).var()) == pytest.approx(1, rel=0.02)


def test_the_network_is_given_the_scaled_input():
    seen: list[Tensor] = []

    class Watching(torch.nn.Module):
        def forward(self, x: Tensor, log_snr: Tensor, context: Tensor | None = None) -> Tensor:
            seen.append(x)
            return torch.zeros_like(x)

    x, log_snr = torch.ones(2, 3), torch.tensor([0.0, 4.0], dtype=F64)
    denoised = NetworkDenoiser(Watching(), Preconditioned(SPREAD))(x, log_snr)
    torch.testing.assert_close(seen[0], Preconditioned(SPREAD).input_scale(log_snr).float()[:, None] * x)
    skip = SPREAD**2 / (torch.exp(-log_snr) + SPREAD**2) / torch.sigmoid(log_snr).sqrt()
    torch.testing.assert_close(denoised, skip.float()[:, None] * x)


def test_levels_are_looked_at_as_often_as_the_papers_say():
    """Shares of a fine chain against the distribution functions of ln σ/α ~ N(-1.2, 1.2²) and τ ~ U(0, 1), renormalised to its ends."""
    levels = torch.linspace(10.0, -10.0, 2001, dtype=F64)
    ln_sigma = (-0.5 * levels).numpy()
    expected = {
        "edm": stats.norm(-1.2, 1.2).cdf(ln_sigma),
        "flow-matching": 1 / (1 + np.exp(-ln_sigma)),  # τ = ς/(1 + ς)
    }
    for word, cdf in expected.items():
        got = weighting_from(word, Eps(), 1.0).steps(levels).cumsum(0).numpy()
        assert np.abs(got - (cdf - cdf[0]) / (cdf[-1] - cdf[0])).max() < 2e-3
    assert weighting_from("dsm", Eps(), 1.0).steps(levels).tolist() == [1 / 2001] * 2001


def song(t: Tensor) -> Tensor:
    """∫_0^t β of Song et al.: β from 0.1 to 20, by quadrature."""
    grid = torch.linspace(0, 1, 4001, dtype=F64)[:, None] * t
    return torch.trapezoid(0.1 + 19.9 * grid, grid, dim=0)


def test_processes_by_name_have_their_papers_signal_to_noise():
    """vp: a = e^(-½∫β), b² = 1 - a²; sub-vp: b = 1 - a²; flow: (1 - t, t)."""
    t = torch.tensor([0.01, 0.2, 0.5, 0.9], dtype=F64)
    a2 = torch.exp(-song(t))
    torch.testing.assert_close(VP().log_snr(t), torch.log(a2 / (1 - a2)), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(SubVP().log_snr(t), torch.log(a2 / (1 - a2).square()), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(Flow().log_snr(t), torch.log((1 - t).square() / t.square()), rtol=0, atol=1e-4)
    ve = schedule_from("ve", start=8.0, end=-6.0).log_snr(torch.tensor([0.0, 0.25, 1.0], dtype=F64))
    sigmas = torch.exp(-0.5 * ve)  # a = 1: b in even ratios from e^-4 to e^3
    torch.testing.assert_close(sigmas, torch.tensor([-4.0, -2.25, 3.0], dtype=F64).exp())


def test_a_process_in_another_unit_is_this_one():
    """Song's sub-VP equation stepped finely by Euler for N(m, s²) data: its state over sqrt(a² + b²) has the moments of x_t at the same λ."""
    mean, var, steps = 1.5, 0.3**2, 4000
    m, v = mean, var
    grid = torch.linspace(0, 0.8, steps + 1, dtype=F64)
    total = song(grid)
    for t, integral in zip(grid[:-1].tolist(), total[:-1].tolist(), strict=True):
        beta, dt = 0.1 + 19.9 * t, 0.8 / steps
        g2 = beta * (1 - math.exp(-2 * integral))  # sub-VP's dx = -½βx dt + sqrt(β(1 - e^(-2∫β))) dw
        m, v = m - 0.5 * beta * m * dt, v - beta * v * dt + g2 * dt
    log_snr = SubVP().log_snr(torch.tensor([0.8], dtype=F64))
    a2 = math.exp(-float(total[-1]))
    unit = math.sqrt(a2 + (1 - a2) ** 2)
    assert m / unit == pytest.approx(float(alpha(log_snr)) * mean, rel=2e-3)
    expected = float(alpha(log_snr) ** 2 * var + sigma(log_snr) ** 2)
    assert v / unit**2 == pytest.approx(expected, rel=2e-3)


def process(steps: int = 60) -> ReverseProcess:
    return ReverseProcess(
        Chain(LogSNRUniform(7.0, -6.0), steps), Exact(mixture_2d()), Interpolated(1.0), Emission(Real(), 0.05)
    )


def batch(n: int = 64) -> Batch:
    return Batch(mixture_2d().sample(n, torch.Generator().manual_seed(0)), torch.arange(n))


@pytest.mark.parametrize("loss", ["x-like", "bound"])
def test_an_adaptive_proposal_keeps_the_mean_and_lowers_the_variance(loss: str):
    """The mean over a batch by learned and by even steps: |z| < 4.5; its variance is less than three fifths of it. `min-snr` stands for a weight that
    leaves most of the loss at few levels.
    """
    word = "min-snr" if loss == "x-like" else loss
    reverse, rows = process(), batch()
    even, learned = DDPMObjective(reverse, word), DDPMObjective(reverse, word, adaptive=True)
    learned.train()
    for k in range(150):
        learned(rows, Noise(0, k))
    learned.eval()
    values = [torch.stack([o(rows, Noise(1, k)) for k in range(150)]) for o in (even, learned)]
    means = [v.mean(1) for v in values]
    z = (means[0].mean() - means[1].mean()) / ((means[0].var() + means[1].var()) / 150).sqrt()
    assert abs(float(z)) < 4.5
    assert float(values[1].var()) < 0.6 * float(values[0].var())


def test_an_adaptive_proposal_learns_in_training_alone_and_is_kept():
    reverse, rows = process(), batch()
    objective = DDPMObjective(reverse, "simple", adaptive=True)
    objective.eval()
    objective(rows, Noise(0))
    assert bool((objective.second_moments == 0).all())
    objective.train()
    objective(rows, Noise(0))
    state = objective.state_dict()
    again = DDPMObjective(reverse, "simple", adaptive=True)
    again.load_state_dict(state)
    torch.testing.assert_close(again(rows, Noise(1)), objective(rows, Noise(1)))
    assert int((objective.second_moments > 0).sum()) > 30


@pytest.mark.parametrize("word", OBJECTIVES)
def test_every_objective_is_least_at_the_exact_denoiser(word: str):
    """W1: with the same noise the exact denoiser has a smaller mean loss than one that is shrunk or shifted."""
    rows = batch(256)

    def mean(shrink: float, shift: float) -> float:
        reverse = process(20)
        reverse.denoiser = Exact(mixture_2d(), shrink, shift)
        objective = DDPMObjective(reverse, word, spread=1.0)
        return float(torch.stack([objective(rows, Noise(0, k)).mean() for k in range(40)]).mean())

    best = mean(1.0, 0.0)
    assert best < mean(0.9, 0.0)
    assert best < mean(1.0, 0.1)


def test_words_make_models():
    for loss in OBJECTIVES:
        for parametrisation in ("velocity", "edm"):
            model = DDPM(
                (2,), Real(), timesteps=10, loss=loss, parametrisation=parametrisation, adaptive=True, schedule="flow"
            )
            value = model.objective()(Batch(torch.zeros(4, 2), torch.arange(4)), Noise(0))
            assert bool(value.isfinite().all())
