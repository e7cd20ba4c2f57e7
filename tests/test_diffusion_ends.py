"""Ends of the schedule by the bound: the widest where the denoiser is exact, those before its errors where it is not; kept with the weights."""

import math
from pathlib import Path

import pytest
import torch
from analytic import Exact, Mixture, mixture_2d
from torch import Tensor

import jensen
from jensen.data.examples import Batch, Examples
from jensen.data.space import Levels, Real
from jensen.diffusion.continuous import ContinuousTime
from jensen.diffusion.emission import Emission
from jensen.diffusion.ends import best_ends
from jensen.diffusion.likelihood import Plan, estimate
from jensen.diffusion.process import Chain, diffuse
from jensen.diffusion.reverse import ReverseProcess
from jensen.diffusion.schedule import LogSNRUniform
from jensen.diffusion.variance import Interpolated
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


def test_an_exact_denoiser_takes_the_widest():
    for seed in range(8):
        assert best_ends(process(), rows(seed=seed), torch.arange(600), Noise(seed)) == pytest.approx((HIGH, LOW))


def test_ends_stay_clear_of_levels_where_the_network_is_wrong():
    spacing = (HIGH - LOW) / (STEPS - 1)
    high, low = best_ends(process(-5.5, 5.2), rows(), torch.arange(600), Noise(0))
    assert 5.2 - spacing <= high <= 5.2
    assert -5.5 - spacing <= low <= -5.5 + 2.5


def test_the_bound_on_other_rows_is_better_there():
    """In continuous time, with the emission's best scale at each beginning; paired over rows, four standard errors."""
    wrong, x = process(-5.5, 5.2), rows(2000, 1)
    ends = best_ends(wrong, rows(), torch.arange(600), Noise(0))
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
    _, low = best_ends(process(below=-2.0), rows(), torch.arange(600), Noise(0))
    assert LogSNRUniform(HIGH, low).warning() is None


def model_of(**options: object) -> DDPM:
    torch.manual_seed(0)
    return DDPM((2,), Real(), timesteps=40, size="tiny", trained_ends=True, **options)  # type: ignore[arg-type]


def calibrated() -> DDPM:
    model, x = model_of(), rows(200).float()
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


def test_calibrating_anew_leaves_them_and_another_fit_looks_at_the_whole_range():
    model, x = calibrated(), rows(200).float()
    ends = model.ends.tolist()
    model.calibrate_on(Batch(x=x, id=torch.arange(200)), 1)
    assert model.ends.tolist() == ends
    model.calibrate(Examples(x, torch.arange(200)), 0)
    assert model.ends.tolist() == ends


def test_few_rows_are_sure_of_nothing():
    assert best_ends(process(-5.5, 5.2), rows(40), torch.arange(40), Noise(0)) == pytest.approx((HIGH, LOW))


def test_the_flow_keeps_the_widest():
    """Its end is no emission: an early one would cost what the emission pays for in the bound."""
    model = calibrated()
    ll = model.log_likelihood(rows(4, 2).float(), method="ode", ode_steps=4)
    assert "log-SNR -9 to 9," in ll.of


@pytest.mark.parametrize("k", [17, 256])
def test_a_run_with_the_widest_ends_is_loaded_again(k: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """λ(0) of levels is no number of float32; through the files."""
    monkeypatch.setattr(
        "jensen.models.ddpm.best_ends", lambda reverse, *a, **more: reverse.chain.log_snr[[0, -1]].tolist()
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
