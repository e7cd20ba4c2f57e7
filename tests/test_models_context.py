"""Classes as they are given: names, codes, one for all or one a row."""

import numpy as np
import pytest
import torch

from jensen.errors import InputError
from jensen.models.context import class_codes

NAMES = ("ash", "birch")


@pytest.mark.parametrize(
    "context",
    [
        "birch",
        1,
        np.int64(1),
        ["birch", 1, "birch"],
        torch.ones(3, dtype=torch.uint8),
        np.ones(3, int),
        torch.tensor(1),
    ],
)
def test_every_way_to_say_it(context):
    codes = class_codes(context, 3, 2, NAMES)
    assert codes.dtype == torch.int64
    assert codes.tolist() == [1, 1, 1]


def test_without_names_a_number_in_words_is_a_code():
    assert class_codes("1", 2, 2).tolist() == [1, 1]
    with pytest.raises(InputError, match="unknown class 'x'; classes are known by their codes"):
        class_codes("x", 2, 2)
    with pytest.raises(InputError, match="unknown class '1'; classes are ash, birch"):
        class_codes("1", 2, 2, NAMES)


@pytest.mark.parametrize(
    ("context", "message"),
    [
        (2, "from 0 to 1: ash, birch, got 2"),
        (-1, "got -1"),
        ([0, 1], r"one for each of 3 rows, got shape \(2,\)"),
        (torch.zeros(3, 1, dtype=torch.int64), r"got shape \(3, 1\)"),
        (1.5, "got float"),
        ([True, False, True], r"got \[True, False, True\]"),
        (torch.tensor([True] * 3), "got bool"),
        ([0.0, 1.0, 0.0], r"got \[0.0, 1.0, 0.0\]"),
    ],
)
def test_what_is_no_class(context, message):
    with pytest.raises(InputError, match=message):
        class_codes(context, 3, 2, NAMES)
