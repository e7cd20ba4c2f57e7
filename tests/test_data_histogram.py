"""Counts of levels: numpy's, however many rows are read at a time."""

import numpy as np
import pytest
import torch

from jensen.data import histogram
from jensen.data.examples import Examples
from jensen.data.histogram import level_counts
from jensen.data.space import Levels


@pytest.mark.parametrize("read", [1, 7, 1024])
def test_counts_are_numpys(read: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(histogram, "READ", read)
    number = np.random.default_rng(0).integers(0, 4, (50, 3, 2))
    space = Levels(5, first=-1.0, step=0.5)
    rows = Examples(torch.from_numpy(-1.0 + 0.5 * number), torch.arange(50))
    assert level_counts(rows, space).tolist() == np.bincount(number.ravel(), minlength=5).tolist()
