"""Numeric tables in text: `.csv` and `.tsv`, as float64 rows of shape `(N, D)` on the real line.

One row a line, one number a cell; an empty cell or `nan` is missing. The delimiter is the one of comma, semicolon
and tab that the first line contains. The first line names the columns if none of its cells is a number. UTF-8,
with or without a byte order mark. The file is read line by line into eight bytes a cell.
"""

import csv
import io
import math
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import numpy as np

from jensen.data.files import check_regular, opened, require_memory, shown
from jensen.data.rows import LARGEST, TOO_LARGE, Rows, Source
from jensen.errors import InputError

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab"}
MAX_LINE = 1 << 24
MEMORY_CHECK_ROWS = 65_536


def read_table(path: Path) -> Source:
    """The numbers of a text table."""
    where = f"table {shown(path)}"
    require_memory(check_regular(path), where)
    with opened(path) as stream, io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text:
        try:
            return _read(text, where)
        except UnicodeDecodeError as error:
            raise InputError(f"{where} is not UTF-8 text ({error.reason}); save it as UTF-8") from None
        except csv.Error as error:
            raise InputError(f"{where} is no table: {error}") from None


def _read(text: TextIO, where: str) -> Source:
    first = text.readline(MAX_LINE)
    delimiter = _delimiter(first, where)
    reader = csv.reader(_lines(first, text, where), delimiter=delimiter, strict=True)
    head = next(reader, [])
    columns = tuple(cell.strip() for cell in head) if _is_header(head, where) else ()
    values = array("d", () if columns else _numbers(head, 1, len(head), where))
    _append_rows(values, reader, len(head), where)
    if not values:
        raise InputError(f"{where} has a header and no rows; add at least one line of numbers")
    x = np.frombuffer(values, np.float64).reshape(-1, len(head))
    return Source("csv", {"all": Rows(x)}, columns=columns, notes=_notes(columns))


def _delimiter(first: str, where: str) -> str:
    """The delimiter of the first line, quoted parts aside; a line with none is a single column."""
    if not first.strip("\r\n"):
        raise InputError(f"{where} is empty or begins with an empty line; the first line holds names or numbers")
    bare = "".join(first.split('"')[::2])
    found = [delimiter for delimiter in DELIMITERS if delimiter in bare]
    if len(found) > 1:
        words = " and ".join(DELIMITERS[delimiter] for delimiter in found)
        raise InputError(f"{where} has {words} in its first line; use one delimiter, and a point in decimal numbers")
    return found[0] if found else ","


def _lines(first: str, text: TextIO, where: str) -> Iterator[str]:
    """The lines with a bound on their length; empty lines are allowed at the end only."""
    line, number, empty = first, 1, 0
    while line:
        if len(line) >= MAX_LINE:
            raise InputError(f"{where}, line {number} is longer than {MAX_LINE} characters; is this a table?")
        if line.strip("\r\n"):
            if empty:
                raise InputError(f"{where}, line {empty} is empty; write nan for a missing value, or delete the line")
            yield line
        else:
            empty = empty or number
        line, number = text.readline(MAX_LINE), number + 1


def _append_rows(values: "array[float]", reader: Iterator[list[str]], width: int, where: str) -> None:
    for number, row in enumerate(reader, start=2):
        try:
            numbers = list(map(float, row))
        except ValueError:
            numbers = _numbers(row, number, width, where)
        if len(numbers) != width or not sum(map(abs, numbers)) <= LARGEST or "_" in "".join(row):
            numbers = _numbers(row, number, width, where)
        values.extend(numbers)
        if number % MEMORY_CHECK_ROWS == 0:
            require_memory(values.itemsize * len(values), where)


def _numbers(row: list[str], number: int, width: int, where: str) -> list[float]:
    """The row's numbers, cell by cell, with an error that names line, column and value."""
    if len(row) != width:
        raise InputError(f"{where}, line {number} has {len(row)} cells, but the first line has {width}")
    return [_cell(cell, number, column, where) for column, cell in enumerate(row, start=1)]


def _cell(cell: str, number: int, column: int, where: str) -> float:
    value = _number(cell)
    if value is None:
        raise InputError(
            f"{where}, line {number}, column {column}: {cell[:80]!r} is not a number; leave the cell empty "
            "(or write nan) if it is missing, recode words as numbers, and use a decimal point"
        )
    if math.isinf(value):
        raise InputError(
            f"{where}, line {number}, column {column}: {cell[:80]!r} is not finite; write nan if it is missing"
        )
    if abs(value) > LARGEST:
        raise InputError(f"{where}, line {number}, column {column}: {cell[:80]!r} {TOO_LARGE}")
    return value


def _number(cell: str) -> float | None:
    """The number in a cell, nan if it is empty, None if it is a word."""
    try:
        return float(cell) if "_" not in cell else None
    except ValueError:
        return None if cell.strip() else math.nan


def _is_header(row: list[str], where: str) -> bool:
    """True if no cell is a number and one is a word; a line that is half a header is refused."""
    filled = [cell for cell in row if cell.strip()]
    words = [cell for cell in filled if _number(cell) is None]
    if words and len(words) < len(filled):
        raise InputError(
            f"{where}, line 1 mixes words ({words[0][:80]!r}) and numbers; "
            "column names must all be words, values all numbers"
        )
    return bool(words)


def _notes(columns: tuple[str, ...]) -> tuple[str, ...]:
    if columns and not columns[0]:
        return ("column 1 has no name: if it is a saved row index, delete it, for it is read as data",)
    return ()
