"""LogLikelihood: units, error bars, impossible rows, differences that say what they are."""

import itertools
import json
import math

import pytest
import torch
from torch import Tensor

from jensen.likelihood import LogLikelihood, concatenate, plus_minus

F64 = torch.float64


def make(value: Tensor, **changes: object) -> LogLikelihood:
    known: dict[str, object] = {
        "kind": "exact",
        "measure": "counting",
        "of": "a test",
        "method": "exact",
        "event_shape": (2, 3),
    }
    return LogLikelihood(value.to(F64), **{**known, **changes})  # type: ignore[arg-type]


def test_bits_per_dim_is_minus_mean_over_dims_in_base_two():
    """A uniform mass on 256 levels costs 8 bits in every dimension, whatever the shape."""
    for shape in [(1,), (2, 3), (3, 4, 5)]:
        ll = make(torch.full((4,), -math.prod(shape) * math.log(256), dtype=F64), event_shape=shape)
        assert ll.bits_per_dim == pytest.approx(8, abs=1e-12)
        assert ll.dims == math.prod(shape)


def test_a_density_has_no_bits():
    ll = make(torch.tensor([-1.0, -3.0]), measure="Lebesgue")
    assert ll.bits_per_dim is None
    assert "nats" in ll.quote()
    assert "bits" not in str(ll)
    assert ll.to_dict()["bits_per_dim"] is None
    assert ll.to_dict()["stderr_bits_per_dim"] is None


def test_total_is_the_standard_error_of_the_mean():
    ll = make(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert ll.mean == 2.5
    assert ll.total == pytest.approx(math.sqrt(5 / 3 / 4), rel=1e-14)  # sample variance 5/3


def test_a_solver_that_is_coarser_than_the_bar_says_so():
    """The bar of these is 0.65; one row has none to compare with."""
    for moved, told in ((0.7, True), (0.6, False)):
        ll = make(torch.tensor([1.0, 2.0, 3.0, 4.0]), diagnostics={"halved_tolerance_change_nats": moved})
        assert ("the solver is coarser than the bar says" in str(ll)) == told
    assert "coarser" not in str(make(torch.ones(1), diagnostics={"halved_tolerance_change_nats": 9.0}))


def test_errors_split_in_squares():
    """total² = monte_carlo² + test_set², and monte_carlo is the error of a mean of independent values."""
    ll = make(torch.tensor([1.0, 2.0, 3.0, 4.0]), stderr=torch.tensor([0.3, 0.4, 0.0, 1.2], dtype=F64))
    assert ll.monte_carlo == pytest.approx(1.3 / 4, rel=1e-14)
    assert ll.monte_carlo**2 + ll.test_set**2 == pytest.approx(ll.total**2, rel=1e-12)


def test_the_split_recovers_both_sources_of_spread():
    """Rows of spread 2 read with noise of 1, B = 20,000: total √(5/B), Monte Carlo √(1/B), test set √(4/B), each to
    3 % (six standard errors; seed 0, failure rate below 1e-8).
    """
    g, rows = torch.Generator().manual_seed(0), 20_000
    value = 2 * torch.randn(rows, generator=g, dtype=F64) + torch.randn(rows, generator=g, dtype=F64)
    ll = make(value, stderr=torch.ones(rows, dtype=F64))
    assert ll.total == pytest.approx(math.sqrt(5 / rows), rel=0.03)
    assert ll.monte_carlo == pytest.approx(math.sqrt(1 / rows), rel=1e-12)
    assert ll.test_set == pytest.approx(math.sqrt(4 / rows), rel=0.03)


def test_the_test_set_part_never_becomes_imaginary():
    ll = make(torch.tensor([1.0, 1.0, 1.0]), stderr=torch.ones(3, dtype=F64))
    assert ll.total == 0
    assert ll.test_set == 0
    assert ll.monte_carlo > 0


def test_one_example_has_no_known_error():
    ll = make(torch.tensor([-1.0]))
    assert math.isnan(ll.total)
    assert math.isnan(ll.test_set)
    assert "unknown" in ll.quote()
    assert ll.to_dict()["stderr_nats"] is None


def test_rows_of_probability_zero_are_kept_and_counted():
    ll = make(torch.tensor([-1.0, -math.inf, -2.0, -math.inf]))
    assert ll.impossible == 2
    assert len(ll) == 4
    assert ll.mean == -math.inf
    assert "2 rows of probability zero" in str(ll)
    summary = json.loads(json.dumps(ll.to_dict(), allow_nan=False))
    assert summary["mean_nats"] is None
    assert summary["bits_per_dim"] is None
    assert summary["note"] == "2 rows of probability zero"
    assert summary["examples"] == 4


def test_to_dict_is_json_with_nulls_where_a_thing_does_not_apply():
    terms = {"prior": torch.tensor([-1.0, -2.0], dtype=F64), "rest": torch.tensor([0.0, -math.inf], dtype=F64)}
    ll = make(torch.tensor([-1.0, -math.inf]), terms=terms, rows="abc", diagnostics={"ess": 3})
    summary = json.loads(json.dumps(ll.to_dict(), allow_nan=False))
    assert summary["stderr_monte_carlo_nats"] is None
    assert summary["rows"] == "abc"
    assert summary["terms"]["prior"] == {"mean_nats": -1.5, "stderr_nats": 0.5}
    assert summary["terms"]["rest"] == {"mean_nats": None, "stderr_nats": None}
    assert make(torch.tensor([-1.0])).to_dict()["note"] is None
    drawn = make(torch.tensor([-1.0, -2.0]), stderr=torch.tensor([3.0, 4.0], dtype=F64)).to_dict()
    assert drawn["stderr_monte_carlo_nats"] == 2.5


@pytest.mark.parametrize(
    ("kind", "measure", "sign"),
    [
        ("exact", "counting", ""), ("lower bound", "counting", "≤ "), ("upper bound", "counting", "≥ "),
        ("estimate", "counting", "≈ "), ("exact", "Lebesgue", ""), ("lower bound", "Lebesgue", "≥ "),
        ("upper bound", "Lebesgue", "≤ "), ("estimate", "Lebesgue", "≈ "),
    ],
)  # fmt: skip
def test_the_sign_before_the_number(kind: str, measure: str, sign: str):
    """A lower bound on log p is an upper bound on bits; in nats it stays a lower bound."""
    quote = make(torch.tensor([-5.0, -4.0]), kind=kind, measure=measure).quote()
    assert quote.startswith(sign + ("-" if measure == "Lebesgue" else "")) if sign else quote[0] in "-01"


def test_the_printed_line():
    """Two values a apart from their mean have standard error a."""
    spread = torch.tensor([-1.0, 1.0]) * 0.02 * 64 * math.log(2)
    ll = make(-2.13 * 64 * math.log(2) + spread, kind="lower bound", method="vlb", event_shape=(1, 8, 8))
    assert str(ll) == "≤ 2.13 ± 0.02 bits/dim  (bound, vlb; 2 examples × 64 dims; ± 1 SE)"
    assert "; 1 example × 1 dim; " in str(make(torch.tensor([-1.0]), event_shape=(1,)))


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (2.12345, 0.0213, "2.12 ± 0.02"), (2.12345, 0.0151, "2.123 ± 0.015"), (2.12345, 0.0199, "2.12 ± 0.02"),
        (-83.4, 2.4, "-83 ± 2"), (-83.44, 1.26, "-83.4 ± 1.3"), (1234.0, 56.0, "1234 ± 56"), (1.5, 0.0, "1.5 ± 0"),
        (-2.0794415, 1e-17, "-2.07944 ± 0"),
        (2.0, math.nan, "2 ± unknown"), (math.inf, math.nan, "inf ± unknown"), (0.5, 1.0, "0.5 ± 1.0"),
    ],
)  # fmt: skip
def test_plus_minus(value: float, error: float, text: str):
    assert plus_minus(value, error) == text


def test_plus_minus_with_a_sign():
    assert plus_minus(0.25, 0.03, sign=True) == "+0.25 ± 0.03"
    assert plus_minus(-0.25, 0.03, sign=True) == "-0.25 ± 0.03"


KINDS = ("exact", "lower bound", "upper bound", "estimate")


@pytest.mark.parametrize(("a", "b"), list(itertools.product(KINDS, KINDS)))
def test_a_difference_says_no_more_than_is_true(a: str, b: str):
    """What a - b is follows from where each reported number may lie: reported = true + offset, offset 0 for exact,
    ≤ 0 for a lower bound, ≥ 0 for an upper one. The difference is off by offset_a - offset_b.
    """
    meaning = (make(torch.tensor([-1.0]), kind=a) - make(torch.tensor([-2.0]), kind=b)).meaning
    if "estimate" in (a, b):
        assert "estimate" in meaning
        assert "exact" not in meaning
        assert ("bound" in meaning) == ("bound" in a + b)
        return
    offsets = {"exact": [0], "lower bound": [-1, 0], "upper bound": [0, 1]}
    off = [x - y for x, y in itertools.product(offsets[a], offsets[b])]
    if min(off) == max(off) == 0:
        assert meaning == "exact difference"
    elif min(off) >= 0:
        assert meaning == "an upper bound on the difference"
    elif max(off) <= 0:
        assert meaning == "a lower bound on the difference"
    else:
        assert meaning == f"a difference of {a}s"


def test_a_difference_is_paired():
    """Two scores that share their rows' spread differ with a small error bar: sd of the differences / √B."""
    shared = torch.linspace(-100, 100, 50, dtype=F64)
    wiggle = torch.tensor([0.1, -0.1], dtype=F64).repeat(25)
    gap = make(shared + 1 + wiggle) - make(shared)
    assert gap.mean == pytest.approx(1, abs=1e-12)
    assert gap.stderr == pytest.approx(0.1 * math.sqrt(50 / 49) / math.sqrt(50), rel=1e-9)
    assert str(gap) == "+1.000 ± 0.014 nats, 0.240 ± 0.003 bits/dim better  (exact difference; 50 paired rows)"


@pytest.mark.parametrize(
    ("field", "mine", "theirs"),
    [
        ("measure", "counting", "Lebesgue"), ("given", "p(x)", "p(x|y)"), ("rows", "aa", "bb"),
        ("event_shape", (2, 3), (3, 2)),
    ],
)  # fmt: skip
def test_a_difference_refuses_what_cannot_be_compared(field: str, mine: object, theirs: object):
    a, b = make(torch.zeros(2), **{field: mine}), make(torch.zeros(2), **{field: theirs})
    with pytest.raises(ValueError, match=field) as raised:
        a - b
    for word in (repr(mine), repr(theirs)):
        assert word in str(raised.value)


def test_a_shift_enters_the_value_and_the_terms():
    """Terms sum to the value before and after a further term."""
    parts = {"a": torch.tensor([-1.0, -2.0], dtype=F64), "b": torch.tensor([-3.0, 1.0], dtype=F64)}
    for ll in (make(torch.tensor([-4.0, -1.0]), terms=parts), make(torch.tensor([-4.0, -1.0]))):
        moved = ll.shifted("log_abs_det", torch.tensor([0.5, 0.25]))
        assert torch.equal(moved.value, torch.tensor([-3.5, -0.75], dtype=F64))
        assert torch.equal(torch.stack(list(moved.terms.values())).sum(0), moved.value)
        assert torch.equal(moved.terms["log_abs_det"], torch.tensor([0.5, 0.25], dtype=F64))
        assert len(ll.terms) == len(moved.terms) - (1 if ll.terms else 2)


def test_concatenate_keeps_rows_terms_and_errors():
    terms = {"a": torch.tensor([-1.0, -2.0, -3.0], dtype=F64)}
    whole = make(terms["a"], terms=terms, stderr=torch.tensor([0.1, 0.2, 0.3], dtype=F64))
    assert whole.stderr is not None
    parts = [
        make(terms["a"][s], terms={"a": terms["a"][s]}, stderr=whole.stderr[s]) for s in (slice(0, 2), slice(2, 3))
    ]
    joined = concatenate(parts, rows="r")
    assert torch.equal(joined.value, whole.value)
    assert torch.equal(joined.terms["a"], whole.terms["a"])
    assert joined.stderr is not None
    assert torch.equal(joined.stderr, whole.stderr)
    assert joined.rows == "r"


@pytest.mark.parametrize(
    ("mine", "theirs", "higher", "lower"),
    [
        ("exact", "exact", "better", "worse"),
        ("lower bound", "exact", "better", "(undecided)"),
        ("exact", "lower bound", "(undecided)", "worse"),
        ("upper bound", "exact", "(undecided)", "worse"),
        ("exact", "upper bound", "better", "(undecided)"),
        ("lower bound", "lower bound", "better as a bound", "worse as a bound"),
    ],
)
def test_a_difference_says_no_more_than_its_bounds_allow(mine: str, theirs: str, higher: str, lower: str):
    def ll(kind: str, mean: float) -> LogLikelihood:
        return LogLikelihood(torch.tensor([mean, mean - 1.0]).double(), kind, "counting", "", "m", (2,))

    assert (ll(mine, 1.0) - ll(theirs, 0.0)).direction == higher
    assert (ll(mine, 0.0) - ll(theirs, 1.0)).direction == lower
    assert f"bits/dim {lower}" in str(ll(mine, 0.0) - ll(theirs, 1.0))


def test_bits_a_dimension_are_of_complete_rows_only():
    from dataclasses import replace

    value = torch.full((4,), -2 * math.log(4), dtype=torch.float64)
    ll = LogLikelihood(value, "exact", "counting", "a model", "exact", (2,))
    assert ll.bits_per_dim == pytest.approx(2.0)
    holes = replace(ll, missing=4)
    assert holes.bits_per_dim is None
    assert holes.to_dict()["bits_per_dim"] is None
    assert "nats" in str(holes)
    assert "50% of the cells missing" in str(holes)
    assert "bits" not in str(holes - holes)
