"""The solver of differential equations by its order, its tolerance and its independence of company."""

import math

import pytest
import torch
from torch import Tensor

from jensen.diffusion.runge_kutta import solve, solve_in_steps
from jensen.errors import FitError

F64 = torch.float64
START = torch.tensor([[1.0, 0.0], [0.3, -0.5], [2.0, 1.0]], dtype=F64)


def turning(t: Tensor, y: Tensor, rows: Tensor) -> Tensor:
    """Rotation at the speed 1 + t, with a row's own factor: y(t) is START turned by (t + t²/2)(1 + row/2)."""
    speed = (1 + t) * (1 + rows / 2)
    return speed[:, None] * torch.stack([-y[:, 1], y[:, 0]], 1)


def truth(t: float) -> Tensor:
    angle = (t + t * t / 2) * (1 + torch.arange(3).double() / 2)
    c, s = angle.cos(), angle.sin()
    return torch.stack([c * START[:, 0] - s * START[:, 1], s * START[:, 0] + c * START[:, 1]], 1)


def within(tolerance: float):
    return lambda error, y: error.abs().amax(1) / tolerance


def test_equal_steps_are_of_order_five():
    """Slope of the error from 32 to 128 steps, ±0.25; back from 2 to 0 as well."""
    for start, end in [(0.0, 2.0), (2.0, 0.0)]:
        errors = [
            float((solve_in_steps(turning, truth(start), start, end, n).y - truth(end)).abs().max()) for n in (32, 128)
        ]
        assert math.log(errors[0] / errors[1], 4) == pytest.approx(5, abs=0.25)


@pytest.mark.parametrize(("start", "end"), [(0.0, 2.0), (2.0, 0.0)])
def test_the_error_follows_the_tolerance(start: float, end: float):
    """Two decades less allowed are at least one and a half less made, and the steps grow as their fifth root: 2.5 for 1e-2."""
    found = [solve(turning, truth(start), start, end, within(t)) for t in (1e-5, 1e-7, 1e-9)]
    errors = [float((one.y - truth(end)).abs().max()) for one in found]
    assert errors[0] < 1e-3
    assert errors[1] < errors[0] / 30
    assert errors[2] < errors[1] / 30
    steps = [int(one.slopes.sum()) for one in found]
    assert 2.0 < steps[2] / steps[1] < 3.0


def test_rows_take_their_own_steps_and_company_changes_none():
    seen = torch.zeros(3, dtype=torch.int64)

    def counted(t: Tensor, y: Tensor, rows: Tensor) -> Tensor:
        seen[rows] += 1
        return turning(t, y, rows)

    together = solve(counted, START, 0.0, 2.0, within(1e-6))
    assert torch.equal(together.slopes, seen)
    assert int(together.slopes[2]) > int(together.slopes[0])
    for row in range(3):
        alone = solve(lambda t, y, rows: turning(t, y, rows + row), START[row : row + 1], 0.0, 2.0, within(1e-6))  # noqa: B023
        assert torch.equal(alone.y[0], together.y[row])


def test_an_equation_without_an_end_is_told():
    with pytest.raises(FitError, match="is not solved: its steps"):
        solve(lambda t, y, rows: y * math.nan, START, 0.0, 1.0, within(1e-6))
