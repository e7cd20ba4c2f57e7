"""Missing cells are told by the place of the first one."""

from pathlib import Path

import numpy as np
import pytest

from jensen.data import load_data, require_complete
from jensen.errors import InputError

ROWS = np.random.default_rng(0).normal(size=(30, 2))


def odd(*cells: tuple[int, int]) -> np.ndarray:
    x = ROWS.copy()
    for cell in cells:
        x[cell] = np.nan
    return x


@pytest.mark.parametrize(
    ("header", "cells", "message"),
    [
        ("a,b", [(4, 1)], r"table '.*t\.csv', line 6: column 2 \('b'\) is missing \(NaN\), alone, and this model"),
        (
            "",
            [(20, 0), (4, 1), (3, 0)],
            r"line 4: column 1 is missing \(NaN\), the first of 3, .*drop or fill such rows",
        ),
    ],
)
def test_a_table_has_lines(header: str, cells: list[tuple[int, int]], message: str, tmp_path: Path):
    np.savetxt(tmp_path / "t.csv", odd(*cells), delimiter=",", header=header, comments="")
    split = load_data(tmp_path / "t.csv")
    with pytest.raises(InputError, match=message):
        require_complete(split.facts, split.test, split.train, split.valid)


def test_an_array_has_rows(tmp_path: Path):
    x = odd((4, 1))
    np.save(tmp_path / "x.npy", x.reshape(30, 2, 1))
    for source, message in ((x, "the array, row 4: cell 1 "), (tmp_path / "x.npy", r"x\.npy', row 4: cell \(1, 0\) ")):
        split = load_data(source)
        with pytest.raises(InputError, match=message):
            require_complete(split.facts, split.train, split.valid, split.test)


def test_complete_rows_and_levels_pass():
    for x in (ROWS, np.zeros((30, 4, 4), np.uint8)):
        split = load_data(x)
        require_complete(split.facts, split.train, split.valid, split.test)
