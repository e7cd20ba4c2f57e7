"""Named data sets: where their files are looked for, and what is checked. No network."""

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pooch
import pytest
from sklearn import datasets

from jensen.data import NAMED, Levels, Real, load_data
from jensen.errors import InputError


def idx(x: np.ndarray) -> bytes:
    return struct.pack(f">HBB{x.ndim}I", 0, 8, x.ndim, *x.shape) + x.astype(np.uint8).tobytes()


def write(folder: Path, train: int = 30, test: int = 12, suffix: str = ".gz", **changed: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, rows in (("train", train), ("t10k", test)):
        images = changed.get(f"{prefix}_images", rng.integers(0, 256, (rows, 28, 28)))
        labels = changed.get(f"{prefix}_labels", np.arange(rows) % 10)
        for name, data in ((f"{prefix}-images-idx3-ubyte", images), (f"{prefix}-labels-idx1-ubyte", labels)):
            (folder / f"{name}{suffix}").write_bytes(gzip.compress(idx(data)) if suffix else idx(data))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty JENSEN_DATA and cache, and no network."""

    def offline(*_: Any, **__: Any) -> str:
        raise ConnectionError("no network")

    monkeypatch.setenv("JENSEN_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path / "cache" / name)
    monkeypatch.setattr(pooch, "retrieve", offline)
    return tmp_path


@pytest.mark.parametrize("word", ["mnist", "fashion-mnist"])
@pytest.mark.parametrize("suffix", [".gz", ""])
def test_own_files(home: Path, word: str, suffix: str) -> None:
    write(home / "data" / word, suffix=suffix)
    split = load_data(word)
    assert (len(split.train), len(split.valid), len(split.test)) == (27, 3, 12)
    assert split.test.id.tolist() == list(range(30, 42))
    assert split.event_shape == (1, 28, 28)
    assert split.space == Levels(256)
    assert split.test.context is not None
    assert split.test.context.tolist() == [i % 10 for i in range(12)]
    assert split.class_names[9] == {"mnist": "9", "fashion-mnist": "Ankle boot"}[word]


def test_offline_is_one_clear_line(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError) as error:
        load_data("mnist")
    for piece in ("train-images-idx3-ubyte.gz", str(home / "data" / "mnist"), str(home / "cache"), "set JENSEN_DATA"):
        assert piece in str(error.value)
    assert "\n" not in str(error.value)
    monkeypatch.delenv("JENSEN_DATA")
    with pytest.raises(InputError, match=r"JENSEN_DATA is not set.*ConnectionError.*set JENSEN_DATA to a folder"):
        load_data("mnist")


def test_download_asks_mirrors_in_turn_for_the_published_checksum(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write(home / "mirror")
    asked = []

    def retrieve(url: str, known_hash: str, fname: str, path: Path) -> str:
        asked.append(url)
        pooch.get_logger().info("downloading")
        assert known_hash.startswith("sha256:")
        assert len(known_hash) == 71
        if "storage.googleapis" not in url:
            raise ValueError("SHA256 hash of downloaded file does not match")
        return str(home / "mirror" / fname)

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    assert len(load_data("mnist").test) == 12
    assert len(asked) == 8
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"t10k_images": np.zeros((12, 8, 8))},
            r"t10k-images-idx3-ubyte\.gz' must hold uint8 \(N, 28, 28\).*\(12, 8, 8\)",
        ),
        ({"t10k_labels": np.zeros(11)}, r"t10k-labels-idx1-ubyte\.gz' must hold a label .* each of 12 images.*\(11,\)"),
        ({"train_labels": np.full(30, 10)}, "train-labels.*label 0, …, 9 .* largest value 10"),
    ],
)
def test_own_files_are_checked(home: Path, changed: dict[str, np.ndarray], message: str) -> None:
    write(home / "data" / "mnist", **changed)
    with pytest.raises(InputError, match=message):
        load_data("mnist")


def test_every_word_has_a_line() -> None:
    assert list(NAMED) == ["digits", "iris", "wine", "breast-cancer", "mnist", "fashion-mnist", "binarized-mnist"]
    assert all(named.description and "\n" not in named.description for named in NAMED.values())


@pytest.mark.parametrize(
    ("word", "shape", "first"),
    [("iris", (150, 4), "setosa"), ("wine", (178, 13), "class_0"), ("breast-cancer", (569, 30), "malignant")],
)
def test_tables_of_scikit_learn(word: str, shape: tuple[int, int], first: str) -> None:
    """Its rows, classes and columns' names, unchanged."""
    split, found = load_data(word), getattr(datasets, f"load_{word.replace('-', '_')}")()
    whole = split.all_rows()
    assert whole.x.shape == shape
    assert np.array_equal(whole.x.numpy(), found.data)
    assert whole.context is not None
    assert np.array_equal(whole.context.numpy(), found.target)
    assert split.space == Real()
    assert split.class_names[0] == first
    assert split.facts["columns"] == list(found.feature_names)
