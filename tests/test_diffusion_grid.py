"""The optimised grid: the best of all grids where all can be looked at, and refusals."""

import itertools

import pytest
import torch
from analytic import Columns, Exact, mixture_1d

from jensen.data.space import Real
from jensen.diffusion import grid as grids
from jensen.diffusion.calibration import calibrate
from jensen.diffusion.emission import Emission
from jensen.diffusion.grid import WORDS, grid_from
from jensen.diffusion.process import Chain
from jensen.diffusion.reverse import ReverseProcess
from jensen.diffusion.schedule import LogSNRUniform
from jensen.diffusion.variance import Calibrated, Interpolated
from jensen.errors import InputError
from jensen.noise import Noise

WORLD = Columns(mixture_1d())


def process(steps: int) -> ReverseProcess:
    chain = Chain(LogSNRUniform(6.0, -6.0), steps)
    return ReverseProcess(chain, Exact(WORLD), Calibrated(chain.log_snr), Emission(Real(), 0.1))


def calibrated(steps: int = 40) -> ReverseProcess:
    reverse = process(steps)
    calibrate(reverse, WORLD.sample((300, 20), torch.Generator().manual_seed(0)), torch.arange(300), Noise(0))
    return reverse


def mean_bound(reverse: ReverseProcess, levels: torch.Tensor) -> float:
    """ΣL of fresh rows in the chain through these levels, nats a cell."""
    chain = reverse.along(reverse.chain.through(levels))
    rows = WORLD.sample((400, 50), torch.Generator().manual_seed(1))
    g = torch.Generator().manual_seed(2)
    terms = [
        chain.term(rows, torch.full((400,), i), torch.randn(400, 50, generator=g, dtype=torch.float64)).mean() / 50
        for i in range(2, len(levels) + 1)
    ]
    return float(torch.stack(terms).sum())


def test_it_is_the_best_of_all_paths(monkeypatch: pytest.MonkeyPatch):
    """Ten places, every choice of three between the ends."""
    monkeypatch.setattr(grids, "PLACES", 10)
    reverse = calibrated()
    levels = torch.linspace(6.0, -6.0, 10, dtype=torch.float64)
    costs = grids._step_costs(levels, reverse.variance)

    def total(middle: tuple[int, ...]) -> float:
        path = (0, *middle, 9)
        return sum(float(costs[s, t]) for s, t in itertools.pairwise(path))

    best = min(itertools.combinations(range(1, 9), 3), key=total)
    found = grid_from("optimised", Chain(LogSNRUniform(6.0, -6.0), 5), reverse.variance)
    torch.testing.assert_close(found, levels[[0, *best, 9]])


@pytest.mark.parametrize("steps", [4, 10])
def test_its_bound_is_better_than_that_of_every_other_grid(steps: int):
    reverse = calibrated()
    bounds = {
        word: mean_bound(reverse, grid_from(word, Chain(LogSNRUniform(6.0, -6.0), steps), reverse.variance))
        for word in WORDS
    }
    best = bounds.pop("optimised")
    assert best < min(bounds.values())


def test_ends_are_kept_and_levels_fall():
    reverse = calibrated()
    for steps in (2, 3, 17, 128):
        found = grid_from("optimised", Chain(LogSNRUniform(6.0, -6.0), steps), reverse.variance)
        assert len(found) == steps
        assert bool((found.diff() < 0).all())
        assert found[[0, -1]].tolist() == [6.0, -6.0]


def test_what_it_cannot_do_is_told():
    chain = Chain(LogSNRUniform(), 129)
    with pytest.raises(InputError, match="up to 128 levels, got 129"):
        grid_from("optimised", chain, Calibrated(chain.log_snr))
    with pytest.raises(InputError, match="this model's is beta"):
        grid_from("optimised", Chain(LogSNRUniform(), 9), Interpolated(1.0))
    with pytest.raises(InputError, match="unknown grid 'optimized'; did you mean"):
        grid_from("optimized", chain)


def test_a_steps_cost_is_its_term_at_the_level_it_leaves(monkeypatch: pytest.MonkeyPatch):
    """Against the mean term of fresh rows in the chain through the two levels alone, 20,000 cells: 6 %. Places are 1.3 apart, so that the
    error of the wrong level would be seen.
    """
    monkeypatch.setattr(grids, "PLACES", 10)
    reverse = calibrated()
    levels = torch.linspace(6.0, -6.0, 10, dtype=torch.float64)
    costs = grids._step_costs(levels, reverse.variance)
    for s, t in [(0, 1), (2, 4), (3, 7), (5, 6)]:
        assert float(costs[s, t]) == pytest.approx(mean_bound(reverse, levels[[s, t]]), rel=0.06)
        assert float(costs[t, s]) == float("inf")
