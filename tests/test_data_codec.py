"""Codecs: bijections that know their units (law 25)."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import jensen
from jensen.data.codec import Affine, fit_codec, identity
from jensen.data.examples import Examples, Split
from jensen.data.space import Levels, Real
from jensen.errors import InputError
from jensen.likelihood import LogLikelihood

F64 = torch.float64


def split(x: torch.Tensor, space: Levels | Real) -> Split:
    rows = Examples(x, torch.arange(len(x)))
    return Split(rows, rows, rows, space)


@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e3), st.integers(0, 10**6))
def test_decode_undoes_encode(shift: float, scale: float, seed: int):
    x = 100 * torch.randn(5, 3, generator=torch.Generator().manual_seed(seed), dtype=F64)
    codec = Affine(torch.tensor(shift), torch.tensor(scale))
    torch.testing.assert_close(codec.decode(codec.encode(x)), x, rtol=1e-12, atol=1e-9)


@pytest.mark.parametrize("k", [2, 17, 256, 65536])
def test_levels_survive_the_round_trip_exactly(k: int):
    """Even through float32 and at 16 bit."""
    dtype = torch.uint8 if k <= 256 else torch.uint16
    x = torch.arange(k).to(dtype).reshape(-1, 1)
    codec = fit_codec(split(x, Levels(k)))
    y = codec.encode(x)
    assert y.dtype == torch.float32
    assert float(y.min()) == -1
    assert float(y.max()) == 1
    assert torch.equal(codec.decode(y).round().long(), x.long())
    space = codec.image(Levels(k))
    assert isinstance(space, Levels)
    assert torch.equal(space.index(y.double()).flatten(), torch.arange(k))
    torch.testing.assert_close(space.values(), codec.encode(torch.arange(k).double()), rtol=0, atol=1e-12)


def test_the_image_of_the_reals_is_the_reals():
    assert identity().image(Real()) == Real()
    assert identity().image(Levels(5)) == Levels(5)
    assert Affine(torch.tensor(2.0), torch.tensor(4.0)).image(Levels(3)) == Levels(3, -0.5, 0.25)


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4)])
def test_log_abs_det_is_autograds(shape: tuple[int, ...]):
    g = torch.Generator().manual_seed(0)
    event = shape if len(shape) == 1 else (shape[0], 1, 1)
    codec = Affine(torch.randn(event, generator=g), torch.rand(event, generator=g) + 0.2)
    x = torch.randn(4, *shape, generator=g, dtype=F64)
    n = math.prod(shape)
    for row, value in zip(x, codec.log_abs_det(x), strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda r: codec.encode(r[None])[0], row).reshape(n, n)
        assert float(value) == pytest.approx(float(torch.linalg.slogdet(jacobian)[1]), abs=1e-12)


def test_a_change_of_units_moves_the_density_by_log_det():
    """log p_X(x) = log p_Y((x - b)/a) + Σ log |dy/dx|: X ~ N(3, 5²) when Y ~ N(0, 1), to 1e-12."""
    x = torch.linspace(-10, 20, 7, dtype=F64).reshape(-1, 1).repeat(1, 2)
    codec = Affine(torch.tensor(3.0), torch.tensor(5.0))
    y = torch.distributions.Normal(torch.zeros((), dtype=F64), 1.0).log_prob(codec.encode(x)).sum(1)
    ll = LogLikelihood(y, "exact", "Lebesgue", "a normal", "exact", (2,)).shifted("log_abs_det", codec.log_abs_det(x))
    truth = torch.distributions.Normal(torch.tensor(3.0, dtype=F64), 5.0).log_prob(x).sum(1)
    torch.testing.assert_close(ll.value, truth, rtol=0, atol=1e-12)


def test_missing_cells_stay_missing_and_cost_nothing():
    x = torch.tensor([[1.0, math.nan], [2.0, 3.0]])
    codec = Affine(torch.zeros(2), torch.tensor([2.0, 8.0]))
    assert torch.equal(torch.isnan(codec.encode(x)), torch.isnan(x))
    torch.testing.assert_close(
        codec.log_abs_det(x), -torch.tensor([2.0, 8.0], dtype=F64).log().cumsum(0), rtol=0, atol=1e-12
    )


def test_log_abs_det_counts_every_cell_of_integer_data():
    x = torch.zeros(2, 3, 4, dtype=torch.uint8)
    expected = torch.full((2,), -12 * math.log(127.5), dtype=F64)
    torch.testing.assert_close(Affine(torch.tensor(127.5), torch.tensor(127.5)).log_abs_det(x), expected)


@pytest.mark.parametrize("shape", [(50, 4), (50, 3, 5, 6), (50, 3, 5, 1)])
def test_real_data_are_standardised_per_column_or_channel(shape: tuple[int, ...]):
    g = torch.Generator().manual_seed(0)
    x = 7 * torch.randn(shape, generator=g, dtype=F64) + torch.arange(shape[1]).reshape(-1, *[1] * (len(shape) - 2))
    x[0, 0] = math.nan
    codec = fit_codec(split(x, Real()))
    y, rest = codec.encode(x), [0, *range(2, len(shape))]
    assert codec.scale.numel() == codec.shift.numel() == shape[1], "one number a column or channel, not one a pixel"
    torch.testing.assert_close(y.nanmean(rest), torch.zeros(shape[1], dtype=F64), atol=1e-12, rtol=0)
    torch.testing.assert_close(y.square().nanmean(rest), torch.ones(shape[1], dtype=F64), atol=1e-12, rtol=0)


def test_only_training_rows_are_looked_at():
    train, other = Examples(torch.randn(20, 2), torch.arange(20)), Examples(100 + torch.randn(20, 2), torch.arange(20))
    one, same = (fit_codec(Split(train, rows, rows, Real())) for rows in (train, other))
    assert one.to_dict() == same.to_dict()


@pytest.mark.parametrize("n", [30, 70, 71, 333])
@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e9 + 0.1, -7e-5, 0.0])
def test_the_rounding_of_a_constant_columns_mean_is_no_variance(n: int, value: float):
    x = np.stack([np.random.default_rng(0).normal(size=n), np.full(n, value)], 1)
    split = jensen.load_data(x)
    for word in ("independent", "gaussian", "gmm", "diffusion"):
        with pytest.raises(InputError, match=r"column 2 \(counted from 1\) is constant"):
            jensen.fit(split, word, progress=False, **({"steps": 1} if word == "diffusion" else {}))


def test_a_constant_column_is_refused_by_number_and_value():
    x = torch.randn(10, 3)
    x[:, 1] = 4.5
    message = r"^column 2 \(counted from 1\) is constant in the training rows \(value 4\.5\), so .* infinite; drop it$"
    with pytest.raises(InputError, match=message):
        fit_codec(split(x, Real()))


@pytest.mark.parametrize("word", ["independent", "gaussian", "gmm", "diffusion"])
@pytest.mark.parametrize(("cell", "message"), [("-7", r"is constant .* \(value -7\)"), ("", "has no values")])
def test_a_constant_or_empty_column_is_refused_by_its_name(tmp_path: Path, word: str, cell: str, message: str):
    lines = [f"{a},{a * a % 7},{cell}" for a in range(40)]
    (tmp_path / "table.csv").write_text("\n".join(["a,b,c", *lines]))
    if cell == "" and word in ("gaussian", "diffusion"):
        message = r"line 2: column 3 \('c'\) is missing"
    with pytest.raises(InputError, match=message) as refusal:
        jensen.fit(tmp_path / "table.csv", word, progress=False)
    assert "column 3 ('c')" in str(refusal.value)


def test_channels_and_pixels_are_counted_from_one():
    x = torch.randn(10, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    x[:, 1, 2, 0] = 5.0
    for word in ("independent", "gaussian", "gmm"):
        with pytest.raises(InputError, match=r"dimension \(2, 3, 1\) \(counted from 1\) is constant"):
            jensen.fit(jensen.load_data(x), word, progress=False)
    x[:, 1] = 5.0
    with pytest.raises(InputError, match=r"channel 2 \(counted from 1\) is constant"):
        fit_codec(split(x, Real()))


@pytest.mark.parametrize("k", [2, 3, 4, 5, 16, 255, 256])
def test_levels_become_the_same_numbers_in_float32_as_in_float64(k: int):
    """Also where the shift is not a multiple of a half, and its rounding would show."""
    levels = torch.arange(k, dtype=torch.uint8)[:, None]
    for half in (torch.tensor((k - 1) / 2), torch.tensor((k - 1) / 3, dtype=torch.float64)):
        exact = ((levels.double() - half.double()) / half.double()).float()
        torch.testing.assert_close(Affine(half, half).encode(levels), exact, rtol=0, atol=0)
