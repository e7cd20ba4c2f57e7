"""Class labels: their order and codes, and codes under other names."""

import numpy as np
import pytest
import torch

from jensen.data.examples import Examples
from jensen.data.labels import Labels, many_classes, ordered, renamed
from jensen.errors import InputError


@pytest.mark.parametrize(
    ("words", "names", "codes"),
    [
        (["b", "a", "b"], ("a", "b"), [1, 0, 1]),
        (["10", "9", "-1.5"], ("-1.5", "9", "10"), [2, 1, 0]),
        (["1", "01", "1.0", "2"], ("1", "2"), [0, 0, 0, 1]),
        (["10", "9", "x"], ("10", "9", "x"), [0, 1, 2]),
        (["1_0", "2"], ("1_0", "2"), [0, 1]),
        (["inf", "2"], ("2", "inf"), [1, 0]),
        (["1e300", "0.1"], ("0.1", "1e+300"), [1, 0]),
    ],
)
def test_order(words, names, codes):
    assert ordered(words) == (names, codes)


def test_labels_are_counted_as_they_come():
    labels = Labels()
    for word in ("pear", "apple", "pear", "fig"):
        labels.append(word)
    codes, names = labels.finished()
    assert names == ("apple", "fig", "pear")
    assert codes.tolist() == [2, 0, 2, 1]
    assert codes.dtype == np.int64


def test_a_quantity_is_pointed_out():
    assert "21 different values in 100 rows; is it a class?" in many_classes(list(map(str, range(21))), 100)[0]
    assert many_classes(list(map(str, range(20))), 25) == ()
    assert many_classes(list(map(str, range(21))), 105) == ()


def test_codes_of_another_source_get_the_models_names():
    rows = Examples(torch.zeros(3, 1), torch.arange(3), torch.tensor([1, 0, 1]))
    found = renamed(rows, ("a", "c"), ("a", "b", "c"))
    assert found.context.tolist() == [2, 0, 2]
    assert renamed(rows, ("a", "b"), ("a", "b")) is rows
    assert renamed(rows, (), ("a", "b")) is rows
    with pytest.raises(InputError, match="the class 'z' is none of the model's: a, b"):
        renamed(rows, ("a", "z"), ("a", "b"))
    few = Examples(torch.zeros(1, 1), torch.arange(1), torch.tensor([0]))
    assert renamed(few, ("a", "z"), ("b", "a")).context.tolist() == [1]  # a name that no row has is no harm
