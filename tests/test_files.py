"""Files are whole or untouched, whatever fails on the way; JSON is an object of bounded size."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jensen.errors import InputError
from jensen.files import check_writable, read_json, write_json, write_text, written_whole


def failing(code: int) -> Callable[..., Any]:
    def fail(*arguments: Any, **options: Any) -> Any:
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize("where", ["write_text", "fsync", "replace", "mkdir"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO])
def test_what_stood_there_stays(where: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    owner: Any = Path if where in ("write_text", "mkdir") else os
    with monkeypatch.context() as patch, pytest.raises(InputError) as error:
        patch.setattr(owner, where, failing(code))
        write_text(path, "new")
    assert str(path) in str(error.value)
    assert f"{os.strerror(code)}; what stood there before is unchanged; " in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "old"


def test_an_interrupted_write_leaves_no_trace(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt), written_whole(tmp_path / "a.txt") as aside:
        aside.write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_folders_are_made_on_the_way(tmp_path: Path):
    write_json(tmp_path / "a/b/c.json", {"é": 1})
    assert read_json(tmp_path / "a/b/c.json") == {"é": 1}


def test_a_file_in_the_way_of_a_folder(tmp_path: Path):
    write_text(tmp_path / "a", "")
    with pytest.raises(InputError, match="cannot write"):
        write_text(tmp_path / "a/b.txt", "")


@pytest.mark.parametrize(
    ("name", "way_out"),
    [
        ("file/a.txt", "a file where a folder should be: choose another path"),
        ("link/a.txt", "a file where a folder should be: choose another path"),
        ("x" * 300 + ".txt", "choose a shorter name"),
        ("new/" + "x" * 250 + ".txt", "choose a shorter name"),
        ("shut/new/a.txt", "you may not write in that folder: choose another path, or change the folder's permissions"),
    ],
)
def test_a_place_that_cannot_be_written_is_told_before_any_work(
    name: str, way_out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "file").write_text("")
    (tmp_path / "shut").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "shut")
    with pytest.raises(InputError) as error:
        check_writable(tmp_path / name)
    assert str(error.value).startswith(f"cannot write '{tmp_path / name}': ")
    assert str(error.value).endswith(way_out)
    check_writable(tmp_path / "deep/down/a.txt")
    assert sorted(tmp_path.rglob("*")) == before


def test_json_has_no_word_for_nan(tmp_path: Path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "goes wrong in line 1, column 1"),
        (b"[1, 2]", "holds something else, and must be one JSON object"),
        (b"null", "holds something else"),
        (b"{" * 200_000, "goes wrong in line 1, column 2"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"\xff\xfe{}", "not UTF-8 text"),
        (b'{"a": 1', "breaks off or goes wrong in line 1, column 8"),
        (b'{"a": ' + b"1" * 5000 + b"}", "a number of thousands of digits"),
        (b" " * 2000, "larger than 0 MiB"),
    ],
)
def test_other_things_are_no_json_object(content: bytes, message: str, tmp_path: Path):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        read_json(tmp_path / "a.json", limit=1000 if len(content) == 2000 else 16 << 20)
    assert "a.json" in str(error.value)


def test_a_missing_file_or_a_folder_is_named(tmp_path: Path):
    for path in (tmp_path / "no.json", tmp_path):
        with pytest.raises(InputError, match="cannot read"):
            read_json(path)
