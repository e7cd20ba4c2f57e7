"""Numeric text tables: what is read, and errors that name line, column and value."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from jensen.data import Real, Split, files, load_data, require_complete, tables
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


# Labels

FLOWERS = "".join(f"{i},{('iris', 'aster', 'rose')[i % 3]},{i * 0.5}\n" for i in range(30))


@pytest.mark.parametrize(
    ("header", "label"), [("length,kind,width\n", "kind"), ("length, kind ,width\n", 2), ("", "2"), ("", 2)]
)
def test_a_label_is_taken_out_of_the_rows(tmp_path: Path, header: str, label: str | int) -> None:
    (tmp_path / "t.csv").write_text(header + FLOWERS)
    split = load_data(tmp_path / "t.csv", label=label)
    assert np.array_equal(rows(split), np.array([[i, i * 0.5] for i in range(30)]))
    assert split.class_names == ("aster", "iris", "rose")
    whole = split.all_rows()
    assert whole.context is not None
    assert whole.context.tolist() == [(1, 0, 2)[i % 3] for i in range(30)]
    assert split.facts.get("columns") == (["length", "width"] if header else None)
    assert (split.facts["label"], split.facts["label_column"]) == (str(label), 2)
    assert split.space == Real()


@pytest.mark.parametrize("label", ["1", "3"])
def test_a_label_may_be_the_first_or_last_column_and_a_number(tmp_path: Path, label: str) -> None:
    lines = [[str(i), str(i * 2)] for i in range(30)]
    for i, line in enumerate(lines):
        line.insert(int(label) - 1, ("10", "9", "09")[i % 3])
    (tmp_path / "t.tsv").write_text("\n".join("\t".join(line) for line in lines))
    split = load_data(tmp_path / "t.tsv", label=label)
    assert split.class_names == ("9", "10")
    assert split.all_rows().context.tolist() == [(1, 0, 0)[i % 3] for i in range(30)]
    assert np.array_equal(rows(split), np.array([[i, i * 2] for i in range(30)]))


def test_without_the_option_nothing_is_a_label(tmp_path: Path) -> None:
    split = load(tmp_path, BODY)
    assert split.train.context is None
    assert "label" not in split.facts


def test_a_label_that_is_a_quantity_is_pointed_out(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("".join(f"{i},{i * i}\n" for i in range(30)))
    assert any("is it a class?" in note for note in load_data(tmp_path / "t.csv", label=2).facts["notes"])


@pytest.mark.parametrize(
    ("text", "label", "message"),
    [
        ("length,kind,width\n" + FLOWERS, "kin", "has no column 'kin'; did you mean 'kind'"),
        ("kind,kind,width\n" + FLOWERS, "kind", "has more than one column 'kind'"),
        (FLOWERS, "kind", "has no column 'kind'"),
        ("1,2\n" * 20, "1,2", "has no column '1,2'"),
        (FLOWERS, 4, "has 3 columns, so no label 4; columns are counted from 1"),
        (FLOWERS, 0, "so no label 0"),
        ("a\n" * 20, "1", "has one column; without the label '1' there would be no values"),
        ("a,b\n" + "1,x\n" * 20 + "2,\n", "b", r"line 22, column 2: the label is missing \(''\)"),
        ("a,b\n" + "1,x\n" * 20 + "2,NaN\n", "b", r"line 22, column 2: the label is missing \('NaN'\)"),
        ("a,b,c\n" + "x,1,2\n" * 20 + "x,1,two\n", "a", "line 22, column 3: 'two' is not a number"),
        ("a,b,c\n" + "x,1,2\n" * 20 + "x,1\n", "a", "line 22 has 2 cells, but the first line has 3"),
        ("a,b,c\n" + "x,1,2\n" * 20 + "x,1,2,3\n", "a", "line 22 has 4 cells"),
        ("a,b,c\n" + "x,1,2\n" * 20 + "x,1,1_0\n", "a", "line 22, column 3: '1_0' is not a number"),
        (FLOWERS, "iris", "has no header, so no column 'iris'; give the label's number, counted from 1"),
        (FLOWERS, None, "line 1 mixes words .* a column of classes is told by --label"),
        ("a,b\n" + "1,x\n" * 20, None, "'x' is not a number; .* give --label"),
    ],
)
def test_labels_that_are_refused(tmp_path: Path, text: str, label: str | int | None, message: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=message) as error:
        load_data(tmp_path / "t.csv", label=label)
    assert "\n" not in str(error.value)


def test_a_label_is_for_tables(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((20, 2)))
    for source in (tmp_path / "x.npy", "digits", np.zeros((20, 2))):
        with pytest.raises(InputError, match="label is an option for tables"):
            load_data(source, label="kind")
    with pytest.raises(InputError, match="label=kind was given for a Split"):
        load_data(load(tmp_path, BODY), label="kind")


def test_a_missing_cell_is_named_by_its_column_in_the_file(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,kind,b\n" + "1,x,2\n" * 20 + "3,x,\n")
    split = load_data(tmp_path / "t.csv", label="kind")
    with pytest.raises(InputError, match=r"line 22: column 3 \('b'\) is missing"):
        require_complete(split.facts, split.train, split.valid, split.test)


@pytest.mark.parametrize(
    ("text", "label", "dims", "expected"),
    [
        ("a, kind \n", "kind", 1, True),
        ("a,b\n", "kind", 1, False),
        ("1,2,x\n", "3", 2, True),
        ("1,2\n", "3", 2, False),
        ("", "kind", 1, False),
        ("a;b,c\n", "kind", 1, False),
    ],
)
def test_a_first_line_tells_whether_the_label_is_there(
    tmp_path: Path, text: str, label: str, dims: int, expected: bool
) -> None:
    (tmp_path / "t.csv").write_text(text)
    assert tables.holds_label(tmp_path / "t.csv", label, dims) is expected
