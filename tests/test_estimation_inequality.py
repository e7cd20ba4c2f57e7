"""Jensen's inequality on random variables with finitely many values, and the evidence lower bound as its case."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from jensen.errors import InputError
from jensen.estimation.inequality import jensen_gap

F64 = torch.float64
CONCAVE = {
    "log": torch.log,
    "root": torch.sqrt,
    "minus square": lambda x: -x.square(),
    "minus exponential": lambda x: -x.exp(),
    "entropy": lambda x: -torch.xlogy(x, x),
}
values = st.lists(st.floats(0.05, 20.0), min_size=2, max_size=6)
weights = st.lists(st.floats(0.01, 1.0), min_size=6, max_size=6)
each_function = pytest.mark.parametrize("name", CONCAVE)


def variable(x: list[float], w: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    p = torch.tensor(w[: len(x)], dtype=F64)
    return torch.tensor(x, dtype=F64), p / p.sum()


@each_function
@given(x=values, w=weights)
def test_the_mean_of_values_lies_below_the_value_at_the_mean(name: str, x: list[float], w: list[float]):
    """And above it for the convex -f."""
    f = CONCAVE[name]
    size = float(f(torch.tensor(x, dtype=F64)).abs().max()) + 1
    assert jensen_gap(f, *variable(x, w)) >= -1e-14 * size
    assert jensen_gap(lambda v: -f(v), *variable(x, w)) <= 1e-14 * size


@each_function
@given(at=st.floats(0.05, 20.0), apart=st.floats(0.1, 10.0), w=weights)
def test_equal_exactly_if_constant(name: str, at: float, apart: float, w: list[float]):
    """Strictly concave: two values 0.1 apart leave a gap; values of probability zero do not count."""
    f = CONCAVE[name]
    size = float(f(torch.tensor([at], dtype=F64)).abs()) + 1
    assert abs(jensen_gap(f, *variable([at] * 4, w))) <= 1e-14 * size
    assert jensen_gap(f, *variable([at, at + apart], w)) > 1e-8 * 1e-2
    never = torch.tensor([1.0, 0.0], dtype=F64)
    assert abs(jensen_gap(f, torch.tensor([at, at + apart], dtype=F64), never)) <= 1e-14 * size


def test_straight_lines_have_no_gap():
    assert jensen_gap(lambda x: 3 * x - 1, torch.tensor([1.0, 2.0, 10.0], dtype=F64)) == pytest.approx(0, abs=1e-14)


def test_the_gap_of_the_logarithm_is_the_gap_of_the_bound():
    """log p(x) - ELBO = KL(q ‖ p(z | x)) on a world of 2 × 5 pairs, and 0 at the posterior."""
    draw = torch.Generator().manual_seed(0)
    joint = torch.rand(2, 5, generator=draw, dtype=F64)
    joint = joint / joint.sum()
    q = torch.rand(5, generator=draw, dtype=F64).softmax(0)
    for x in range(2):
        posterior = joint[x] / joint[x].sum()
        gap = jensen_gap(torch.log, joint[x] / q, q)
        assert gap == pytest.approx(float((q * (q / posterior).log()).sum()), abs=1e-14)
        elbo = float((q * (joint[x] / q).log()).sum())
        assert elbo + gap == pytest.approx(math.log(float(joint[x].sum())), abs=1e-14)
        assert jensen_gap(torch.log, joint[x] / posterior, posterior) == pytest.approx(0, abs=1e-14)


@pytest.mark.parametrize("p", [[0.5, 0.6], [-0.5, 1.5]])
def test_probabilities_that_are_none_are_refused(p: list[float]):
    with pytest.raises(InputError, match=r"sum to 1, got a sum of 1"):
        jensen_gap(torch.log, torch.tensor([1.0, 2.0], dtype=F64), torch.tensor(p, dtype=F64))


def test_values_that_never_come_up_may_be_impossible():
    """log 0 = -∞ at probability 0 counts nothing."""
    x, p = torch.tensor([0.0, 1.0, 4.0], dtype=F64), torch.tensor([0.0, 0.5, 0.5], dtype=F64)
    assert jensen_gap(torch.log, x, p) == pytest.approx(math.log(2.5) - math.log(2), abs=1e-15)
