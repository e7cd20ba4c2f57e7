"""Columns on a grid are named; columns of measurements are not."""

import numpy as np
import pytest

import jensen
from jensen.data.grid import grid_notes

DRAW = np.random.default_rng(0)
SMOOTH = DRAW.normal(size=400)


@pytest.mark.parametrize(
    ("column", "named"),
    [
        (SMOOTH, False),
        (SMOOTH.astype(np.float32), False),
        (np.where(DRAW.random(400) < 0.5, np.nan, SMOOTH), False),
        (SMOOTH.round(2), False),
        (DRAW.poisson(300, size=400) * 1.0, True),
        (DRAW.integers(0, 2, 400) + 0.5, True),
        (SMOOTH.round(1) / 3, False),
        (DRAW.choice([0.1, 0.25, 7.0], 400), True),
        (np.where(DRAW.random(400) < 0.5, np.nan, DRAW.integers(0, 9, 400)), True),
    ],
)
def test_which_columns_are_on_a_grid(column: np.ndarray, named: bool):
    split = jensen.load_data(np.stack([SMOOTH, column], 1))
    assert bool(grid_notes(split.train)) == named
    assert any("dimension 1:" in note for note in split.facts["notes"]) == named


def test_names_of_columns_and_long_lists(tmp_path):
    rows = np.column_stack([SMOOTH, *(DRAW.integers(0, 9, (7, 400)))])
    np.savetxt(tmp_path / "t.csv", rows, delimiter=",", header="size,a,b,c,d,e,f,g", comments="", fmt="%.9g")
    (note,) = [n for n in jensen.load_data(tmp_path / "t.csv").facts["notes"] if "whole numbers" in n]
    assert note.startswith("dimensions a, b, c, d, e and 2 more: ")
    assert not grid_notes(jensen.load_data(DRAW.integers(0, 9, (100, 3)).astype(np.uint8)).train)
