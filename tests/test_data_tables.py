"""Numeric text tables: what is read, and errors that name line, column and value."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from jensen.data import Real, Split, files, load_data, tables
from jensen.errors import InputError


def load(tmp_path: Path, text: str | bytes, name: str = "t.csv") -> Split:
    (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return load_data(tmp_path / name)


def rows(split: Split) -> np.ndarray:
    parts = (split.train, split.valid, split.test)
    return torch.cat([part.x for part in parts])[torch.cat([part.id for part in parts]).argsort()].numpy()


BODY = "".join(f"{i},{i * 0.5},{-i}e-3\n" for i in range(20))
X = np.array([[i, i * 0.5, float(f"{-i}e-3")] for i in range(20)])


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("header", ["", "a,b b,c\n", '"a, or b; so",b,c\n'])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_delimiters_headers_and_line_ends(tmp_path: Path, delimiter: str, header: str, end: str) -> None:
    head = header if '"' in header else header.replace(",", delimiter)
    head = head.replace('",b,c', f'"{delimiter}b{delimiter}c')
    split = load(tmp_path, (head + BODY.replace(",", delimiter)).replace("\n", end))
    assert np.array_equal(rows(split), X)
    assert split.space == Real()
    assert split.train.x.dtype == torch.float64
    columns = split.facts.get("columns")
    assert columns is None if not header else columns[1:] == (["b b", "c"] if "b b" in header else ["b", "c"])


def test_byte_order_mark_missing_last_newline_and_spaces(tmp_path: Path) -> None:
    split = load(tmp_path, b"\xef\xbb\xbfa,b,c\n" + BODY.replace(",", " , ").rstrip().encode())
    assert split.facts["columns"] == ["a", "b", "c"]
    assert np.array_equal(rows(split), X)
    assert np.array_equal(rows(load(tmp_path, BODY + "\n\r\n\n")), X)


def test_missing_cells(tmp_path: Path) -> None:
    x = rows(load(tmp_path, "1,,nan\n, ,NaN\n" + BODY))
    assert np.array_equal(np.isnan(x[:3]), [[False, True, True], [True, True, True], [False, False, False]])


def test_single_column_and_tsv(tmp_path: Path) -> None:
    assert load(tmp_path, "x\n" + "1\n" * 20).event_shape == (1,)
    assert load(tmp_path, "1\t2\n" * 20, "t.TSV").event_shape == (2,)


def test_saved_row_index_is_pointed_out(tmp_path: Path) -> None:
    assert "row index" in load(tmp_path, ",a,b\n" + BODY).facts["notes"][0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n1,2\n", "begins with an empty line"),
        ("a,b\n", "has a header and no rows; add at least one line of numbers"),
        (BODY + "1,2\n", "line 21 has 2 cells, but the first line has 3"),
        (BODY + "1,2,3,4\n", "line 21 has 4 cells"),
        (BODY + "1,two,3\n", "line 21, column 2: 'two' is not a number; leave the cell empty"),
        (BODY + "1,NA,3\n", "line 21, column 2: 'NA'"),
        (BODY + "1,2,1_000\n", "line 21, column 3: '1_000' is not a number"),
        (BODY + "1,2,inf\n", "line 21, column 3: 'inf' is not finite; write nan"),
        (
            BODY + "1,2,-1e308\n",
            "line 21, column 3: '-1e308' is too large: .*the range of float32; correct it, or rescale",
        ),
        (BODY + "1,2,1e999\n", "line 21, column 3: '1e999' is not finite"),
        ("1,oops,3\n" + BODY, r"line 1 mixes words \('oops'\) and numbers"),
        ("a,b,2019\n" + BODY, r"line 1 mixes words \('a'\)"),
        ("1,5;2,5\n" * 20, "comma and semicolon in its first line.*a point in decimal numbers"),
        (BODY + "\n" + BODY, "line 21 is empty; write nan"),
        (BODY + '"1,2,3\n', "is no table: unexpected end of data"),
        (BODY.encode() + b"\xff\xfe,1,2\n", "is not UTF-8"),
        (BODY.encode("utf-16"), "is not UTF-8"),
        (BODY + "1,\0,3\n", r"line 21, column 2: '\\x00'"),
        ("1,2\n" * 9, "has 9 rows; at least 10"),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        load(tmp_path, text, "odd\nname.csv")
    assert r"odd\nname.csv" in str(error.value)
    assert "\n" not in str(error.value)


def test_lines_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MAX_LINE", 100)
    for text in ("1," * 100, "1,2\n" + "1" * 200):
        with pytest.raises(InputError, match=r"line [12] is longer than 100 characters"):
            load(tmp_path, text)


def test_memory_is_checked_before_and_while_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "available_memory", lambda: 100)
    with pytest.raises(InputError, match=r"t\.csv' promises .*only 100 bytes of memory"):
        load(tmp_path, BODY)
    monkeypatch.setattr(files, "available_memory", lambda: 700)
    monkeypatch.setattr(tables, "MEMORY_CHECK_ROWS", 10)
    with pytest.raises(InputError, match=r"t\.csv' promises 320 bytes"):
        load(tmp_path, "1,,,\n" * 30)


def test_a_hundred_thousand_rows_take_about_a_second(tmp_path: Path) -> None:
    line = ",".join(["0.12345678901234"] * 10) + "\n"
    start = time.perf_counter()
    assert len(load(tmp_path, line * 100_000).train) == 70_000
    assert time.perf_counter() - start < 8  # generous: 1.2 s measured on a free core
