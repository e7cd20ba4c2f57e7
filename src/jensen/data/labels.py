"""Class labels: words or numbers on their way to codes 0, …, K-1, and codes under the names of another source.

Names come in sorted order; if all of them are numbers, in numeric order, and 1, 01 and 1.0 are one class, called 1.
"""

import math
from array import array
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from jensen.data.examples import Examples
from jensen.errors import InputError, brief, listed

MANY = 20  # a column with more different values than this, and fewer than ROWS_A_CLASS rows for each, is hardly a class
ROWS_A_CLASS = 5


class Labels:
    """Labels as they are read, a row after another: eight bytes a row, and each different word once."""

    def __init__(self) -> None:
        self.words: dict[str, int] = {}
        self.codes = array("q")

    def append(self, word: str) -> None:
        """The next row's label."""
        self.codes.append(self.words.setdefault(word, len(self.words)))

    def finished(self) -> "tuple[np.ndarray[Any, Any], tuple[str, ...]]":
        """Class codes `(N,)` int64, and the classes' names."""
        names, place = ordered(list(self.words))
        return np.array(place, np.int64)[np.frombuffer(self.codes, np.int64)], names


def ordered(words: Sequence[str]) -> tuple[tuple[str, ...], list[int]]:
    """The names of the classes in their order, and the code of each word.

    Example:
        >>> ordered(["10", "9", "9.0"])
        (('9', '10'), [1, 0, 0])
        >>> ordered(["b", "a"])
        (('a', 'b'), [1, 0])
    """
    numbers = [_number(word) for word in words]
    if any(number is None for number in numbers):
        names = sorted(set(words))
        code = {name: number for number, name in enumerate(names)}
        return tuple(names), [code[word] for word in words]
    values = sorted({number for number in numbers if number is not None})
    place = {number: code for code, number in enumerate(values)}
    return tuple(map(_plain, values)), [place[number] for number in numbers if number is not None]


def _number(word: str) -> float | None:
    try:
        value = float(word) if "_" not in word else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _plain(value: float) -> str:
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)


def check_codes(codes: torch.Tensor, classes: int, rule: str) -> None:
    """Refuse codes of classes other than 0, …, classes - 1.

    Args:
        codes: whole numbers.
        classes: how many there are.
        rule: what the user is told.
    """
    outside = codes[(codes < 0) | (codes >= classes)]
    if len(outside):
        raise InputError(f"{rule}, got {int(outside[0])}")


def many_classes(names: Sequence[str], rows: int) -> tuple[str, ...]:
    """A note where a label looks like a quantity."""
    if len(names) <= MANY or rows >= ROWS_A_CLASS * len(names):
        return ()
    return (f"the label has {len(names):,} different values in {rows:,} rows; is it a class?",)


def renamed(rows: Examples, own: Sequence[str], names: Sequence[str]) -> Examples:
    """Rows whose codes mean `own` names, with codes that mean `names`; where either has no names, codes stay.

    Raises:
        InputError: a class that is none of `names`.
    """
    if rows.context is None or not own or not names or tuple(own) == tuple(names):
        return rows
    strange = [own[code] for code in rows.context.unique().tolist() if own[code] not in names]
    if strange:
        raise InputError(f"the class {brief(strange[0])} is none of the model's: {listed(names)}")
    code = {name: number for number, name in enumerate(names)}
    places = torch.tensor([code.get(name, -1) for name in own])
    return replace(rows, context=places[rows.context])
