"""`describe`: the facts of a split."""

import json

import numpy as np
import pytest

from jensen.data import describe, describe_lines, facts, load_data


def test_digits() -> None:
    told = describe(load_data("digits"))
    assert json.loads(json.dumps(told)) == told
    assert told["rows"] == {"train": 1259, "valid": 179, "test": 359}
    assert told["shape"] == [1, 8, 8]
    assert told["range"] == [0, 16]
    assert told["constant_dimensions"] == 3
    assert told["classes"]["0"] == 178
    assert sum(told["classes"].values()) == 1797
    assert (told["duplicate_rows"], told["missing_cells"]) == (0, 0)
    lines = "\n".join(describe_lines(told))
    for piece in ("1,797", "train 1,259", "1 × 8 × 8 = 64", "17 levels, from 0 to 16", "3 of 64", "0 (178)"):
        assert piece in lines


@pytest.mark.parametrize("cells", [1, 7, 1 << 22])
def test_counts_do_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch, cells: int) -> None:
    monkeypatch.setattr(facts, "CHUNK_CELLS", cells)
    x = np.random.default_rng(0).normal(size=(40, 4))
    x[:, 1] = 3.5
    x[:, 2] = np.nan
    x[5:9, 0] = np.nan
    x[20:25] = x[30:35]
    told = describe(load_data(x))
    assert told["constant_dimensions"] == 2
    assert told["missing_cells"] == 44
    assert told["duplicate_rows"] == 5
    assert told["range"] == [float(np.nanmin(x)), float(np.nanmax(x))]
    assert told["classes"] == {}


def test_test_rows_that_are_in_train() -> None:
    split = load_data(np.arange(40, dtype=np.float32).clip(25)[:, None])
    shared = int((split.test.x == 25).sum())
    assert 0 < shared < len(split.test) < int((split.train.x == 25).sum())
    assert describe(split)["test_rows_in_train"] == shared


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_plain_values(dtype: str) -> None:
    told = describe(load_data(np.arange(48).reshape(12, 4).astype(dtype)))
    assert told["dtype"] == dtype
    assert told["range"] == [0, 47]
    assert json.loads(json.dumps(told)) == told


def test_nothing_but_missing_cells() -> None:
    told = describe(load_data(np.full((20, 2), np.nan)))
    assert told["range"] == [None, None]
    assert (told["missing_cells"], told["constant_dimensions"], told["duplicate_rows"]) == (40, 2, 19)
    assert any("all missing" in line for line in describe_lines(told))
