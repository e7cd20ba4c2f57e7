"""`load_data` as one door, and the split it makes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jensen.data import Levels, load_data
from jensen.errors import InputError


def test_digits() -> None:
    split = load_data("digits")
    assert (len(split.train), len(split.valid), len(split.test)) == (1259, 179, 359)
    assert split.event_shape == (1, 8, 8)
    assert split.space == Levels(17)
    assert split.class_names == tuple("0123456789")
    assert split.train.x.dtype == torch.uint8
    assert split.train.context is not None
    assert split.facts["source"] == "digits"


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(10, 400), seed=st.integers(0, 2**63 - 1))
def test_every_row_is_in_exactly_one_part(rows: int, seed: int) -> None:
    split = load_data(np.arange(rows, dtype=np.float64)[:, None], split_seed=seed)
    parts = (split.train, split.valid, split.test)
    assert [len(split.valid), len(split.test)] == [max(1, rows // 10), max(1, rows // 5)]
    ids = torch.cat([part.id for part in parts])
    assert torch.equal(ids.sort().values, torch.arange(rows))
    assert all(torch.equal(part.x[:, 0].long(), part.id) for part in parts)


def test_split_depends_on_its_seed_alone() -> None:
    x = np.arange(100.0)[:, None]
    torch.manual_seed(1)
    np.random.seed(1)
    first = load_data(x)
    torch.manual_seed(2)
    np.random.seed(2)
    assert load_data(x).fingerprint == first.fingerprint
    assert torch.equal(load_data(x + 1).train.id, first.train.id)
    assert load_data(x, split_seed=1).fingerprint != first.fingerprint


def test_loading_leaves_the_global_generators_alone() -> None:
    state = torch.get_rng_state()
    load_data("digits")
    assert torch.equal(torch.get_rng_state(), state)


def test_too_few_rows() -> None:
    assert len(load_data(np.zeros((10, 2))).valid) == 1
    with pytest.raises(InputError, match="the array has 9 rows; at least 10 are needed"):
        load_data(np.zeros((9, 2)))
    with pytest.raises(InputError, match="the array has 1 row; at least 10 are needed"):
        load_data(np.zeros((1, 2)))


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_split_seed_is_checked(seed: int) -> None:
    with pytest.raises(InputError, match=f"split_seed.*got {seed}"):
        load_data(np.zeros((20, 2)), split_seed=seed)


def test_split_passes_through() -> None:
    split = load_data("digits")
    assert load_data(split) is split
    with pytest.raises(InputError, match="levels=16 was given for a Split"):
        load_data(split, levels=16)


def test_unknown_word_names_the_known() -> None:
    with pytest.raises(
        InputError,
        match=r"'digit' is neither a known data set .*digits, iris, wine, breast-cancer, mnist, fashion-mnist, binarized-mnist.*file",
    ):
        load_data("digit")


@pytest.mark.parametrize("source", ["", "no\nsuch\nfile", "a\0b", "x" * 5000, "~nobody/x"])
def test_odd_words_are_one_clear_line(source: str) -> None:
    with pytest.raises(InputError) as error:
        load_data(source)
    assert "\n" not in str(error.value)
    assert "\0" not in str(error.value)


def test_other_types_are_refused() -> None:
    with pytest.raises(InputError, match="got list"):
        load_data([[1, 2], [3, 4]])  # type: ignore[arg-type]


def test_options_that_do_not_apply(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("1,2\n" * 20)
    with pytest.raises(InputError, match=r"size is an option for folders.*\(8, 8\).*csv"):
        load_data(tmp_path / "a.csv", size=(8, 8))
    with pytest.raises(InputError, match=r"layout is an option for arrays.*CHW.*named"):
        load_data("digits", layout="CHW")
    with pytest.raises(InputError, match=r"value 2\.0 in row 0, outside 0, …, 1"):
        load_data(tmp_path / "a.csv", levels=2)
    assert str(load_data(tmp_path / "a.csv", levels=5).space) == "5 levels"
    with pytest.raises(InputError, match=r"size must be \(height, width\).*\(0, 8\)"):
        load_data("digits", size=(0, 8))


def test_files_of_no_known_kind(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"hello world")
    with pytest.raises(InputError, match=r"a\.bin' is of no known kind; known are \.npy"):
        load_data(tmp_path / "a.bin")
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"a\.png' is a single image; give the folder"):
        load_data(tmp_path / "a.png")
    with pytest.raises(InputError, match="'/dev/zero': it is not a regular file"):
        load_data("/dev/zero")


def test_content_tells_the_kind_where_the_ending_does_not(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(20, 3))
    with (tmp_path / "plain").open("wb") as stream:
        np.save(stream, x)
    with (tmp_path / "zip").open("wb") as stream:
        np.savez(stream, x=x)
    expected = load_data(x).fingerprint
    assert load_data(tmp_path / "plain").fingerprint == expected
    assert load_data(tmp_path / "zip").fingerprint == expected


def test_facts_reload_the_same_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 5, (30, 4, 4, 4), np.uint8))
    monkeypatch.chdir(tmp_path)
    split = load_data("x.npy", levels=5, layout="HWC", split_seed=3)
    facts = json.loads(json.dumps(split.facts))
    assert facts["source"] == str(tmp_path / "x.npy")
    assert (facts["kind"], facts["rows"]) == ("npy", 30)
    again = load_data(facts["source"], **{key: facts[key] for key in ("size", "levels", "layout", "split_seed")})
    assert again.fingerprint == split.fingerprint


def test_a_word_wins_over_a_path_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").write_text("1,2\n")
    assert "not the path ./digits" in load_data("digits").facts["notes"][0]
    with pytest.raises(InputError, match="no known kind"):
        load_data("./digits")
    with pytest.raises(InputError, match="no known kind"):
        load_data(Path("digits"))
