"""Rows of zeros and ones in text, `0 1 1 …` a line: the format (.amat) of the fixed binarisation of MNIST."""

from pathlib import Path

import numpy as np

from jensen.data.files import opened, require_memory, shown
from jensen.data.rows import Array
from jensen.errors import InputError

MOST_LINE = 8  # bytes a value, spaces with it


def read_bits(path: Path, cells: int) -> Array:
    """The rows of a file, `(N, cells)` uint8.

    Args:
        path: of the file.
        cells: values that every line must hold.

    Raises:
        InputError: a line of another length, a value that is not 0 or 1, no line at all; names the line.
    """
    require_memory(path.stat().st_size, f"{shown(path)}")
    rows: list[Array] = []
    with opened(path) as stream:
        while line := stream.readline(MOST_LINE * cells):
            rows.append(_bits(line, cells, f"{shown(path)}, line {len(rows) + 1}"))
    if not rows:
        raise InputError(f"{shown(path)} holds no rows; get the file again")
    return np.stack(rows)


def _bits(line: bytes, cells: int, where: str) -> Array:
    values = line.split()
    wrong = next((value for value in values if value not in (b"0", b"1")), None)
    if wrong is not None:
        raise InputError(f"{where} must hold zeros and ones, got {wrong[:20]!r}; get the file again")
    if len(values) != cells:
        raise InputError(f"{where} must hold {cells} values, got {len(values)}; get the file again")
    return np.array([value == b"1" for value in values], dtype=np.uint8)
