"""Calibration as a whole: what a finished denoiser needs from validation rows, and what it gives back."""

import pytest
import torch
from analytic import Columns, Exact, LevelsWorld, mixture_1d

from jensen.data.space import Levels, Real
from jensen.diffusion.calibration import calibrate, knots, measure
from jensen.diffusion.emission import Emission
from jensen.diffusion.likelihood import Plan, estimate, uniform_proposal
from jensen.diffusion.process import Chain
from jensen.diffusion.reverse import ReverseProcess
from jensen.diffusion.schedule import LogSNRUniform
from jensen.diffusion.variance import Calibrated, Interpolated
from jensen.noise import Noise

F64 = torch.float64
WORLD = Columns(mixture_1d())


def process(steps: int) -> ReverseProcess:
    chain = Chain(LogSNRUniform(7.0, -6.0), steps)
    return ReverseProcess(
        chain, Exact(WORLD), Calibrated(chain.log_snr[knots(chain.log_snr) - 1]), Emission(Real(), 1.0)
    )


def test_everything_is_set_from_the_rows():
    reverse = process(40)
    rows, ids = WORLD.sample((50, 20), torch.Generator().manual_seed(0)), torch.arange(50)
    q = calibrate(reverse, rows, ids, Noise(0))
    measured = measure(reverse, rows, ids, Noise(0))
    residual, link = rows - measured.first, reverse.chain.bridge
    assert float(reverse.emission.log_scale.exp()) == pytest.approx(float(residual.square().mean().sqrt()), rel=1e-9)
    expected = link.variance + link.from_data.square() * measured.errors.mean(1)
    torch.testing.assert_close(reverse.variances()[1:], expected[1:], rtol=1e-9, atol=0)
    assert q.shape == (39,)
    assert float(q.sum()) == pytest.approx(1, abs=1e-12)
    assert float(q.min()) >= 0.1 / 39 - 1e-12


def test_the_proposal_follows_the_terms():
    """q up to its uniform share against the root mean square of each term on fresh rows of W5: within a factor 1.3."""
    reverse = process(40)
    g = torch.Generator().manual_seed(1)
    rows, ids = WORLD.sample((100, 30), g), torch.arange(100)
    q = calibrate(reverse, rows, ids, Noise(0))
    fresh = WORLD.sample((200, 30), g)
    size = torch.stack([
        reverse.term(fresh, torch.full((200,), i), torch.randn(200, 30, generator=g, dtype=F64)).square().mean().sqrt()
        for i in range(2, 41)
    ])  # fmt: skip
    expected = 0.9 * size / size.sum() + 0.1 / 39
    assert float((q / expected).max()) < 1.3
    assert float((expected / q).max()) < 1.3


def test_the_proposal_beats_the_uniform_one():
    """Variance of one repetition of 4 calls, 400 rows of one x_0: at least a third less. Seed 2."""
    reverse = process(40)
    rows = WORLD.sample((100, 30), torch.Generator().manual_seed(2))
    q = calibrate(reverse, rows, torch.arange(100), Noise(0))
    same, ids = rows[:1].expand(400, 30), torch.arange(400)
    spread = [
        float(estimate(reverse, same, ids, Plan(1, 4, p), Noise(5)).diffusion[0].var())
        for p in (q, uniform_proposal(40))
    ]
    assert spread[0] < 0.67 * spread[1]


def test_a_fixed_variance_is_left_alone_and_calls_are_counted():
    reverse, seen = process(100), []
    reverse.variance = Interpolated(1.0)
    before = reverse.variances()
    rows = WORLD.sample((8, 5), torch.Generator().manual_seed(0))
    calibrate(reverse, rows, torch.arange(8), Noise(0), on_calls=seen.append)
    assert torch.equal(reverse.variances(), before)
    assert sum(seen) == 8 * 64


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_short_chains_and_constant_images(steps: int):
    """T = 1 has an emission only; rows of one level have residual 0: everything stays finite and proper."""
    world = LevelsWorld(8, mean=-1.0, sd=1e-3)
    chain = Chain(LogSNRUniform(13.3, -6.0), steps)
    emission = Emission(Levels(8, -1.0, world.step), 0.1)
    reverse = ReverseProcess(chain, Exact(world), Calibrated(chain.log_snr[knots(chain.log_snr) - 1]), emission)
    rows = torch.full((6, 1, 3, 3), -1.0, dtype=F64)
    q = calibrate(reverse, rows, torch.arange(6), Noise(0))
    assert q.shape == (steps - 1,)
    assert bool(torch.isfinite(q).all())
    assert float(q.sum()) == pytest.approx(1 if steps > 1 else 0)
    total = estimate(reverse, rows, torch.arange(6), Plan(2, None, q), Noise(0)).total
    assert bool(torch.isfinite(total).all())
    assert bool((reverse.variances()[1:] > 0).all())
