"""`.npy` and `.npz`: what they may hold, and what hostile ones get."""

import io
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jensen.data import files, load_data
from jensen.errors import InputError


def reals(rows: int = 20) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(rows, 3))


def npy_bytes(x: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, x)
    return stream.getvalue()


def header_bytes(text: str, version: int = 1) -> bytes:
    body = text.encode()
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H" if version == 1 else "<I", len(body)) + body


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    order=st.sampled_from("CF"),
    dtype=st.sampled_from(["u1", "<u2", ">u2", "<f4", ">f4", ">f8", "f2", "?"]),
    shape=st.lists(st.integers(5, 7), min_size=1, max_size=2),
)
def test_npy_reads_as_the_array_itself(tmp_path: Path, order: str, dtype: str, shape: list[int]) -> None:
    x = np.asarray(np.random.default_rng(0).integers(0, 200, (12, *shape)), dtype=dtype, order=order)  # type: ignore[call-overload]
    np.save(tmp_path / "x.npy", x)
    assert load_data(tmp_path / "x.npy").fingerprint == load_data(np.ascontiguousarray(x)).fingerprint


class Evil:
    def __reduce__(self) -> tuple:
        return (pytest.fail, ("the pickle was run",))


HOSTILE = {
    "empty": (b"", "no npy array"),
    "magic only": (b"\x93NUMPY\x01\x00", "no npy array"),
    "text": (b"hello" * 100, "no npy array"),
    "pickle": (pickle.dumps(Evil()), "no npy array"),
    "pickled objects": (npy_bytes(np.array([[Evil()]] * 20)), "pickled objects"),
    "records": (npy_bytes(np.zeros(20, [("a", "f8")])), "structured records"),
    "complex": (npy_bytes(np.zeros((20, 2), complex)), "complex numbers"),
    "text cells": (npy_bytes(np.full((20, 2), "abc")), "holds text"),
    "dates": (npy_bytes(np.zeros((20, 2), "M8[s]")), "holds dates"),
    "terabytes": (
        header_bytes("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000, 1000)}"),
        "truncated: its header promises 8000000000000 bytes",
    ),
    "overflowing": (
        header_bytes("{'descr': '<f8', 'fortran_order': False, 'shape': (4294967296, 4294967296)}"),
        "truncated: its header promises 147573952589676412928 bytes",
    ),
    "negative": (header_bytes("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, 3)}"), r"shape \(-1, 3\)"),
    "no numbers": (header_bytes("{'descr': '<f8', 'fortran_order': False, 'shape': ('a',)}"), "no npy array"),
    "code": (header_bytes("__import__('os').getcwd()"), "no npy array"),
    "deep": (header_bytes("(" * 9000), "no npy array"),
    "long header": (header_bytes(" " * 100_000, version=2), "no npy array"),
    "promised header": (b"\x93NUMPY\x02\x00" + b"\xff" * 4, "no npy array"),
    "version": (b"\x93NUMPY\x09\x00" + bytes(100), r"version \(9, 0\)"),
    "truncated": (npy_bytes(reals())[:-1], "truncated: its header promises 480 bytes of values, it has 479"),
    "extra": (npy_bytes(reals()) + b"x", "corrupt: its header promises 480 bytes of values, it has 481"),
    "number": (npy_bytes(np.asarray(3.0)), r"got \(\)"),
    "integers": (npy_bytes(np.zeros((20, 3), int)), "int64; if its values are K levels"),
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("container", ["npy", "npz"])
def test_hostile_arrays(tmp_path: Path, name: str, container: str) -> None:
    data, message = HOSTILE[name]
    path = tmp_path / f"odd\nname.{container}"
    if container == "npz":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", data)
    else:
        path.write_bytes(data)
    with pytest.raises(InputError, match=message) as error:
        load_data(path)
    assert repr(str(path)) in str(error.value)
    assert "\n" not in str(error.value)


def test_more_than_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "x.npy", reals())
    np.savez(tmp_path / "x.npz", reals())
    monkeypatch.setattr(files, "available_memory", lambda: 500)
    for name in ("x.npy", "x.npz"):
        with pytest.raises(InputError, match=rf"{name}'.* promises \d+ bytes, .*but only 500 bytes of memory"):
            load_data(tmp_path / name)


def test_npz_single_array_under_any_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", whatever=reals())
    assert load_data(tmp_path / "x.npz").fingerprint == load_data(reals()).fingerprint


@pytest.mark.parametrize("labels", [np.arange(20) % 3 * 5 - 5, np.array(["cat", "dog"] * 10)])
def test_npz_labels_become_codes(tmp_path: Path, labels: np.ndarray) -> None:
    np.savez_compressed(tmp_path / "x.npz", x=reals(), y=labels, meta=np.zeros(3))
    split = load_data(tmp_path / "x.npz")
    assert split.class_names == tuple(map(str, np.unique(labels)))
    assert split.train.context is not None
    codes = split.train.context.tolist()
    assert [split.class_names[c] for c in codes] == [str(labels[i]) for i in split.train.id]
    assert split.facts["notes"] == ["arrays not used: meta"]


def test_npz_given_parts_are_kept(tmp_path: Path) -> None:
    x = reals(50)
    y = np.arange(50) % 4
    np.savez(tmp_path / "a.npz", x_train=x[:30], x_test=x[30:], y_train=y[:30], y_test=y[30:])
    split = load_data(tmp_path / "a.npz")
    assert np.array_equal(split.test.x, x[30:])
    assert split.test.id.tolist() == list(range(30, 50))
    assert sorted([*split.train.id.tolist(), *split.valid.id.tolist()]) == list(range(30))
    assert len(split.valid) == 3
    assert "10 % valid cut from train" in split.facts["split"]


def test_npz_all_three_parts_and_train_with_valid(tmp_path: Path) -> None:
    x = reals(50)
    np.savez(tmp_path / "a.npz", x_train=x[:30], x_valid=x[30:32], x_test=x[32:])
    split = load_data(tmp_path / "a.npz")
    assert [part.id.tolist() for part in (split.train, split.valid, split.test)] == [
        list(range(30)),
        [30, 31],
        list(range(32, 50)),
    ]
    np.savez(tmp_path / "b.npz", x_train=x[:30], x_valid=x[30:])
    split = load_data(tmp_path / "b.npz")
    assert (len(split.train), len(split.valid), len(split.test)) == (24, 20, 6)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": reals(), "b": reals()}, "'a', 'b'; name them x, or x_train and x_test"),
        ({"x": reals(), "x_train": reals()}, "'x', 'x_train'; name them"),
        ({"x_train": reals(), "y_train": np.zeros(20, int)}, "'x_train', 'y_train'; name them"),
        ({}, "none; name them"),
        ({"x": reals(), "y": np.zeros(20)}, r"got float64 of shape \(20,\) for all"),
        ({"x": reals(), "y": np.zeros(19, int)}, r"got int64 of shape \(19,\) for all"),
        ({"x_train": reals(), "x_test": reals(), "y_train": np.zeros(20, int)}, "got none for test"),
        ({"x_train": reals(), "x_test": reals()[:, :2]}, r"test rows are float64 of shape \(2,\), but train rows"),
        ({"x_train": reals(9), "x_test": reals()}, "has 9 rows; at least 10"),
    ],
)
def test_npz_that_is_refused(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message):
        load_data(tmp_path / "a.npz")


def test_npz_damaged(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=reals(200))
    whole = path.read_bytes()
    middle = len(whole) // 2
    for damaged in (whole[:-30], whole[:middle] + b"\0\1\2\3" + whole[middle + 4 :], b"PK\x03\x04", b""):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"a\.npz'"):
            load_data(path)


def test_zip_bomb_is_refused_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", npy_bytes(reals()) + bytes(50_000_000))
    with pytest.raises(InputError, match="promises 480 bytes of values, it has 50000480"):
        load_data(path)


def test_zip_that_lies_about_its_sizes(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    data = npy_bytes(reals())
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", data + bytes(50_000_000))
    whole, true = path.read_bytes(), struct.pack("<I", len(data) + 50_000_000)
    assert whole.count(true) == 2
    path.write_bytes(whole.replace(true, struct.pack("<I", len(data))))
    with pytest.raises(InputError, match=r"a\.npz' is a corrupt npz file: Bad CRC-32"):
        load_data(path)


def test_encrypted_zip(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, x=reals())
    whole = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        whole[whole.index(signature) + offset] |= 1
    path.write_bytes(bytes(whole))
    with pytest.raises(InputError, match=r"a\.npz' is a corrupt npz file: .*(encrypted|password)"):
        load_data(path)
