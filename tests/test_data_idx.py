"""IDX files: round trip, and headers that lie."""

import gzip
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jensen.data import files, load_data
from jensen.data.idx import TYPES, read_idx
from jensen.errors import InputError

CODES = {np.dtype(dtype).newbyteorder("="): code for code, dtype in TYPES.items()}


def idx_bytes(x: np.ndarray) -> bytes:
    head = struct.pack(f">HBB{x.ndim}I", 0, CODES[x.dtype], x.ndim, *x.shape)
    return head + x.astype(x.dtype.newbyteorder(">")).tobytes()


def images(rows: int = 20) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (rows, 5, 6), np.uint8)


def zipped(data: bytes, path: Path) -> Path:
    path.write_bytes(gzip.compress(data))
    return path


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    dtype=st.sampled_from(sorted(CODES, key=str)),
    gz=st.booleans(),
)
def test_round_trip(tmp_path: Path, shape: list[int], dtype: np.dtype, gz: bool) -> None:
    x = (np.random.default_rng(len(shape)).normal(size=shape) * 50).astype(dtype)
    path = tmp_path / "x"
    path.write_bytes(gzip.compress(idx_bytes(x)) if gz else idx_bytes(x))
    read = read_idx(path)
    assert read.dtype == x.dtype
    assert np.array_equal(read, x)


def test_load(tmp_path: Path) -> None:
    split = load_data(zipped(idx_bytes(images()), tmp_path / "train-images-idx3-ubyte.gz"))
    assert split.event_shape == (1, 5, 6)
    assert split.facts["kind"] == "idx"
    assert split.fingerprint == load_data(images()).fingerprint


@pytest.mark.parametrize("cut", [0, 3, 9, 40, -1])
@pytest.mark.parametrize("gz", [False, True])
def test_truncated(tmp_path: Path, cut: int, gz: bool) -> None:
    path = tmp_path / "odd\nname-ubyte"
    data = idx_bytes(images())[:cut]
    path.write_bytes(gzip.compress(data) if gz else data)
    with pytest.raises(InputError, match=r"odd\\nname-ubyte' is (truncated|no IDX file|of no known kind)") as error:
        load_data(path)
    assert "\n" not in str(error.value)


def test_damaged_gzip(tmp_path: Path) -> None:
    path = zipped(idx_bytes(images()), tmp_path / "x.gz")
    whole = path.read_bytes()
    for damaged in (whole[:-20], whole[:-6] + b"\0\0" + whole[-4:], whole[:50] + b"\xff" * 20 + whole[70:], whole[:5]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"x\.gz' is (corrupt|truncated|no IDX)"):
            load_data(path)


@pytest.mark.parametrize("gz", [False, True])
def test_extra_bytes(tmp_path: Path, gz: bool) -> None:
    data = idx_bytes(images()) + b"x"
    (tmp_path / "x").write_bytes(gzip.compress(data) if gz else data)
    with pytest.raises(InputError, match="x' is corrupt: bytes follow after the 600"):
        load_data(tmp_path / "x")


@pytest.mark.parametrize("gz", [False, True])
def test_terabytes_promised(tmp_path: Path, gz: bool) -> None:
    data = struct.pack(">HBB3I", 0, 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1)
    (tmp_path / "x").write_bytes(gzip.compress(data) if gz else data)
    with pytest.raises(InputError, match=r"x' is truncated: its header promises 792281\d+ bytes"):
        load_data(tmp_path / "x")


def test_more_than_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "available_memory", lambda: 700)
    (tmp_path / "x").write_bytes(idx_bytes(images()))
    with pytest.raises(InputError, match=r"x' promises 600 bytes, .*but only 700 bytes of memory"):
        load_data(tmp_path / "x")


def test_gzip_bomb_takes_no_memory(tmp_path: Path) -> None:
    path = zipped(idx_bytes(images()) + bytes(200_000_000), tmp_path / "bomb.gz")
    tracemalloc.start()
    with pytest.raises(InputError, match=r"bomb\.gz' is corrupt: bytes follow"):
        load_data(path)
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


def test_integers_that_are_no_levels(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(idx_bytes(images().astype(np.int32)))
    with pytest.raises(InputError, match="int32; if its values are K levels"):
        load_data(tmp_path / "x")
