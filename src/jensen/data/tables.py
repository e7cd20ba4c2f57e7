"""Numeric tables in text: `.csv` and `.tsv`, as float64 rows of shape `(N, D)` on the real line.

One row a line, one number a cell; an empty cell or `nan` is missing. The delimiter is the one of comma, semicolon
and tab that the first line contains. The first line names the columns if none of its cells is a number. UTF-8,
with or without a byte order mark. The file is read line by line into eight bytes a cell. One column may be a label, known
by its name or its number: it is taken out of the rows, and its cells, words or numbers, are the rows' classes.
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
from jensen.data.labels import Labels, many_classes
from jensen.data.rows import LARGEST, TOO_LARGE, Rows, Source
from jensen.errors import InputError, brief, did_you_mean, listed

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab"}
MAX_LINE = 1 << 24
MEMORY_CHECK_ROWS = 65_536


def read_table(path: Path, label: str | None = None) -> Source:
    """The numbers of a text table.

    Args:
        path: the file.
        label: the column that holds the rows' classes: its name, or its number counted from 1; None for no such column.
    """
    where = f"table {shown(path)}"
    require_memory(check_regular(path), where)
    with opened(path) as stream, io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as text:
        try:
            return _read(text, where, label)
        except UnicodeDecodeError as error:
            raise InputError(f"{where} is not UTF-8 text ({error.reason}); save it as UTF-8") from None
        except csv.Error as error:
            raise InputError(f"{where} is no table: {error}") from None


def holds_label(path: Path, label: str, dims: int) -> bool:
    """Whether a table has this label beside `dims` columns; looks at the first line only."""
    with opened(path) as stream, io.TextIOWrapper(stream, encoding="utf-8-sig", errors="replace", newline="") as text:
        first = text.readline(MAX_LINE)
    try:
        cells = next(csv.reader([first], delimiter=_delimiter(first, f"table {shown(path)}")), [])
    except (InputError, csv.Error):
        return False  # `read_table` says what is wrong with it
    return len(cells) == dims + 1 if _is_position(label) else label in (cell.strip() for cell in cells)


def _read(text: TextIO, where: str, label: str | None) -> Source:
    first = text.readline(MAX_LINE)
    delimiter = _delimiter(first, where)
    reader = csv.reader(_lines(first, text, where), delimiter=delimiter, strict=True)
    head = next(reader, [])
    at = None if label is None else _label_position(head, label, where)
    columns = tuple(cell.strip() for cell in _without(head, at)) if _is_header(_without(head, at), where) else ()
    if label is not None and not columns and not _is_position(label):
        raise InputError(f"{where} has no header, so no column {brief(label)}; give the label's number, counted from 1")
    values, labels = array("d"), Labels()
    if not columns:
        values.extend(_numbers(head, 1, len(head), where, at))
        _append_label(labels, head, 1, at, where)
    _append_rows(values, labels, reader, len(head), where, at)
    if not values:
        raise InputError(f"{where} has a header and no rows; add at least one line of numbers")
    x = np.frombuffer(values, np.float64).reshape(-1, len(head) - (at is not None))
    if at is None:
        return Source("csv", {"all": Rows(x)}, columns=columns, notes=_notes(columns))
    codes, names = labels.finished()
    notes = _notes(columns) + many_classes(names, len(x))
    return Source("csv", {"all": Rows(x, codes)}, class_names=names, columns=columns, notes=notes, label_column=at + 1)


def _is_position(label: str) -> bool:
    """Whether a label is told by its number: names of columns are words."""
    return label.isascii() and label.isdecimal()


def _label_position(head: list[str], label: str, where: str) -> int:
    """Where in a row the label stands, from 0."""
    names = [cell.strip() for cell in head]
    if len(head) < 2:
        raise InputError(f"{where} has one column; without the label {brief(label)} there would be no values left")
    if _is_position(label):
        if not 1 <= int(label) <= len(head):
            raise InputError(f"{where} has {len(head)} columns, so no label {label}; columns are counted from 1")
        return int(label) - 1
    if names.count(label) != 1:
        many = "more than one" if label in names else "no"
        near = "" if label in names else did_you_mean(label, names)
        raise InputError(f"{where} has {many} column {brief(label)}; {near}its first line is {listed(names)}")
    return names.index(label)


def _without(row: list[str], at: int | None) -> list[str]:
    """The row without the label."""
    return row if at is None else row[:at] + row[at + 1 :]


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


def _append_rows(
    values: "array[float]", labels: Labels, reader: Iterator[list[str]], width: int, where: str, at: int | None
) -> None:
    for number, row in enumerate(reader, start=2):
        try:
            numbers = list(map(float, _without(row, at)))
        except ValueError:
            numbers = _numbers(row, number, width, where, at)
        if len(row) != width or not sum(map(abs, numbers)) <= LARGEST or "_" in "".join(_without(row, at)):
            numbers = _numbers(row, number, width, where, at)
        values.extend(numbers)
        _append_label(labels, row, number, at, where)
        if number % MEMORY_CHECK_ROWS == 0:
            require_memory(values.itemsize * len(values), where)


def _append_label(labels: Labels, row: list[str], number: int, at: int | None, where: str) -> None:
    if at is None:
        return
    word = row[at].strip()
    if not word or word.lower() == "nan":
        raise InputError(
            f"{where}, line {number}, column {at + 1}: the label is missing ({word!r}); every row needs a class: "
            "fill it in, or drop the row"
        )
    labels.append(word)


def _numbers(row: list[str], number: int, width: int, where: str, at: int | None) -> list[float]:
    """The row's numbers, cell by cell, with an error that names line, column and value; the label is left out."""
    if len(row) != width:
        raise InputError(f"{where}, line {number} has {len(row)} cells, but the first line has {width}")
    return [_cell(cell, number, column, where) for column, cell in enumerate(row, start=1) if column - 1 != at]


def _cell(cell: str, number: int, column: int, where: str) -> float:
    value = _number(cell)
    if value is None:
        raise InputError(
            f"{where}, line {number}, column {column}: {cell[:80]!r} is not a number; leave the cell empty "
            "(or write nan) if it is missing, recode words as numbers, and use a decimal point; "
            "if the column holds the rows' classes, give --label"
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
            "column names must all be words, values all numbers; a column of classes is told by --label"
        )
    return bool(words)


def _notes(columns: tuple[str, ...]) -> tuple[str, ...]:
    if columns and not columns[0]:
        return ("column 1 has no name: if it is a saved row index, delete it, for it is read as data",)
    return ()
