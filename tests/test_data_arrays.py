"""What an array means: axes, levels, missing and forbidden values."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jensen.data import Levels, Real, Split, load_data
from jensen.errors import InputError


def rows(split: Split) -> np.ndarray:
    """All rows in source order."""
    parts = (split.train, split.valid, split.test)
    order = torch.cat([part.id for part in parts]).argsort()
    return torch.cat([part.x for part in parts])[order].numpy()


def levels(*shape: int, dtype: str = "uint8") -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape).astype(dtype)


@pytest.mark.parametrize(
    ("shape", "event"),
    [
        ((20, 7), (7,)),
        ((20, 6, 7), (1, 6, 7)),
        ((20, 6, 3), (1, 6, 3)),
        ((20, 3, 6, 7), (3, 6, 7)),
        ((20, 6, 7, 3), (3, 6, 7)),
        ((20, 6, 7, 1), (1, 6, 7)),
        ((20, 2, 6, 7), (2, 6, 7)),
    ],
)
def test_layout_follows_from_shape(shape: tuple[int, ...], event: tuple[int, ...]) -> None:
    split = load_data(levels(*shape))
    assert split.event_shape == event
    assert split.space == Levels(256)
    assert split.train.x.dtype == torch.uint8


@settings(max_examples=30, deadline=None)
@given(
    c=st.integers(1, 4), h=st.integers(1, 9), w=st.integers(1, 9), dtype=st.sampled_from(["uint8", "uint16", "float32"])
)
def test_channels_last_is_channels_first_moved(c: int, h: int, w: int, dtype: str) -> None:
    x = levels(12, c, h, w, dtype=dtype)
    first = load_data(x, layout="CHW")
    last = load_data(np.moveaxis(x, 1, -1), layout="HWC")
    assert np.array_equal(rows(first), x)
    assert first.fingerprint == last.fingerprint


def test_ambiguous_layout_is_refused_and_settled() -> None:
    x = levels(20, 4, 6, 3)
    with pytest.raises(InputError, match=r"\(20, 4, 6, 3\).*--layout CHW or HWC"):
        load_data(x)
    assert load_data(x, layout="CHW").event_shape == (4, 6, 3)
    assert load_data(x, layout="HWC").event_shape == (3, 4, 6)


@pytest.mark.parametrize(
    ("x", "layout", "message"),
    [
        (levels(20, 5, 6, 7), None, r"\(20, 5, 6, 7\).*C ≤ 4"),
        (levels(20, 5, 6, 7), "CHW", r"layout CHW gives 5 channels.*at most 4"),
        (levels(20, 6, 7), "CHW", r"layout CHW wants 4 axes.*\(20, 6, 7\)"),
        (levels(20, 6, 7), "WH", r"HW, CHW, HWC, got 'WH'"),
        (levels(20, 2, 3, 4, 5), None, r"\(20, 2, 3, 4, 5\)"),
        (levels(20), None, r"\(rows, \.\.\.\).*\(20,\).*\(rows, 1\)"),
        (levels(20, 0), None, r"\(20, 0\)"),
        (np.zeros((0, 3)), None, r"\(0, 3\)"),
    ],
)
def test_shapes_that_are_refused(x: np.ndarray, layout: str | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_data(x, layout=layout)


def test_float_keeps_its_shape_unless_told() -> None:
    x = np.random.default_rng(0).normal(size=(20, 6, 7, 3))
    assert load_data(x).event_shape == (6, 7, 3)
    assert load_data(x, layout="HWC").event_shape == (3, 6, 7)
    assert load_data(x).space == Real()


@pytest.mark.parametrize(
    ("dtype", "out", "space"),
    [
        ("uint8", torch.uint8, Levels(256)),
        ("uint16", torch.uint16, Levels(65536)),
        (">u2", torch.uint16, Levels(65536)),
        ("bool", torch.uint8, Levels(2)),
        ("float16", torch.float32, Real()),
        ("float32", torch.float32, Real()),
        (">f8", torch.float64, Real()),
    ],
)
def test_dtypes(dtype: str, out: torch.dtype, space: object) -> None:
    x = levels(20, 3, dtype=dtype)
    split = load_data(x)
    assert split.train.x.dtype == out
    assert split.space == space
    assert np.array_equal(rows(split), x)


def test_declared_levels() -> None:
    x = np.random.default_rng(0).integers(0, 17, (20, 8, 8))
    for dtype in ("uint8", "uint16", "int64", "uint32"):
        assert load_data(x.astype(dtype), levels=17).space == Levels(17)
    assert load_data(x, levels=17).train.x.dtype == torch.uint8
    assert load_data(x, levels=300).train.x.dtype == torch.uint16


@pytest.mark.parametrize(
    ("x", "given", "message"),
    [
        (np.array([[3]] * 12 + [[17]], np.uint8), 17, r"value 17 in row 12, outside 0, …, 16.*--levels"),
        (np.array([[3]] * 12 + [[-1]]), 17, r"value -1 in row 12"),
        (levels(20, 3), 300, r"levels=300.*uint8.*at most 256"),
        (levels(20, 3), 1, r"between 2 and 65536, got 1"),
        (levels(20, 3, dtype="int64"), None, r"int64.*--levels K.*astype\('float32'\)"),
        (levels(20, 3, dtype="float32") + 0.5, 256, r"value \d+.5 in row 0, which is none of the levels 0, …, 255"),
        (np.array([[3.0]] * 12 + [[np.nan], [17.0]]), 17, r"value 17.0 in row 13, outside 0, …, 16"),
        (np.array([[3.0]] * 12 + [[-np.inf]]), 17, r"value -inf in row 12, outside 0, …, 16"),
        (levels(20, 3, dtype="complex64"), None, "complex64"),
        (np.full((20, 3), "a"), None, "<U1"),
        (np.full((20, 3), None), None, "object"),
        (levels(20, 3, dtype="longdouble"), None, r"longdouble|float128"),
        (np.ma.masked_array(np.ones((20, 2)), mask=True), None, r"filled\(numpy.nan\)"),
    ],
)
def test_values_that_are_refused(x: np.ndarray, given: int | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_data(x, levels=given)


def test_range_is_checked_beyond_the_first_chunk() -> None:
    x = np.zeros((9000, 2, 2), np.uint8)
    x[8500, 1, 0] = 5
    with pytest.raises(InputError, match="value 5 in row 8500"):
        load_data(x, levels=5)


def test_nan_is_missing_and_inf_is_refused() -> None:
    x = np.ones((20, 3))
    x[7, 1] = np.nan
    assert np.isnan(rows(load_data(x))[7, 1])
    x[9, 2] = -np.inf
    with pytest.raises(InputError, match=r"the array, row 9, cell 2: -inf is not finite; .*nan if missing"):
        load_data(x)


def test_tensors() -> None:
    x = torch.randn(20, 3, requires_grad=True)
    assert np.array_equal(rows(load_data(x)), x.detach().numpy())
    assert load_data(x.detach().bfloat16()).train.x.dtype == torch.float32
    with pytest.raises(InputError, match=r"sparse.*to_dense"):
        load_data(torch.eye(20).to_sparse())


def test_the_callers_array_is_not_shared() -> None:
    x = levels(20, 3)
    split = load_data(x)
    before = split.fingerprint
    x[:] = 0
    assert split.fingerprint == before


def test_values_beyond_float32_are_too_large_and_not_missing() -> None:
    x = np.random.default_rng(0).normal(size=(20, 2, 2))
    x[7, 1, 0] = -1e308
    with pytest.raises(
        InputError, match=r"the array, row 7, cell \(1, 0\): -1e\+308 is too large: .*±3.4e\+38.*rescale"
    ):
        load_data(x)
    x[7, 1, 0] = 3e38
    assert (
        float(torch.cat([part.x for part in (load_data(x).train, load_data(x).valid, load_data(x).test)]).max()) == 3e38
    )


def test_floats_are_levels_with_missing_cells_where_levels_says_so() -> None:
    x = levels(40, 3).astype("float64") % 5
    x[3, 1] = x[7, 2] = np.nan
    split = load_data(x, levels=5)
    assert split.space == Levels(5)
    assert split.train.x.dtype == torch.float32
    np.testing.assert_array_equal(split.all_rows().x.numpy(), x)
    assert int(split.all_rows().batch(slice(0, 40)).mask.sum()) == 118
    assert not split.facts["notes"]
