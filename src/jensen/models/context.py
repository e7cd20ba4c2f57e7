"""Classes as a user gives them, checked and turned into codes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from jensen.data.labels import check_codes
from jensen.errors import InputError, brief, did_you_mean, listed, plural

Context = int | str | Sequence[int | str] | Tensor | np.ndarray[Any, Any]


def class_codes(context: Context, rows: int, classes: int, names: Sequence[str] = ()) -> Int[Tensor, " rows"]:
    """One class code a row.

    Args:
        context: a class for all rows, or one for each: codes 0, …, classes - 1 or names.
        rows: how many rows there are.
        classes: how many classes there are.
        names: their names, where they have any.

    Raises:
        InputError: no whole numbers or known names, another number of them than rows, a code out of range.

    Example:
        >>> class_codes("b", 2, 2, ["a", "b"]).tolist()
        [1, 1]
    """
    codes = _tensor(context, names)
    if codes.ndim == 0:
        codes = codes.expand(rows).clone()
    if codes.shape != (rows,):
        raise InputError(
            f"context must be one class for all, or one for each of {rows} {plural('row', rows)}, got shape {tuple(codes.shape)}"
        )
    known = f": {listed(names)}" if names else ""
    check_codes(codes, classes, f"context must be classes from 0 to {classes - 1}{known}")
    return codes


def _tensor(context: Context, names: Sequence[str]) -> Tensor:
    """Codes as they were given, int64."""
    if isinstance(context, str):
        return torch.tensor(_code(context, names))
    if isinstance(context, Sequence):
        words = [_code(item, names) if isinstance(item, str) else item for item in context]
        if not all(isinstance(word, int | np.integer) and not isinstance(word, bool) for word in words):
            raise InputError(f"context must be whole numbers or names of classes, got {brief(list(context))}")
        return torch.tensor([int(word) for word in words], dtype=torch.int64)
    codes = torch.as_tensor(context).detach().cpu()
    if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
        raise InputError(
            f"context must be whole numbers or names of classes, got {str(codes.dtype).removeprefix('torch.')}"
        )
    return codes.long()


def _code(word: str, names: Sequence[str]) -> int:
    """The code of a class's name."""
    if word in names:
        return list(names).index(word)
    if not names and word.isascii() and word.isdecimal() and len(word) < 10:
        return int(word)
    known = f"classes are {listed(names)}" if names else "classes are known by their codes 0, 1, … alone"
    raise InputError(f"unknown class {brief(word)}; {did_you_mean(word, names)}{known}")
