"""Freed memory stays while it is asked for, and goes back afterwards. Counted in page faults, not in time."""

import ctypes
import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import jensen
from jensen import memory
from jensen.__main__ import main
from jensen.memory import freed_memory_kept
from jensen.models.gaussian import Gaussian
from jensen.models.pipeline import Pipeline
from jensen.training.loop import Loop

SIZE = 96 * 2**20  # above what glibc ever takes from its heap of its own accord
PAGES = SIZE // mmap.PAGESIZE
PR_SET_THP_DISABLE = 41


@pytest.fixture
def single_pages() -> Iterator[None]:
    """Every page a fault of its own, for glibc left to itself."""
    if memory._glibc() is None:
        pytest.skip("for glibc left to itself")
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)
    yield
    prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0)


def faults() -> int:
    """Page faults of so much memory written and freed, the second time in a row."""
    import resource

    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        bytearray(b"1") * SIZE
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident() -> int:
    """Bytes of memory that are this process's."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


@pytest.mark.usefixtures("single_pages")
def test_freed_memory_is_taken_again_without_faults_inside_and_goes_back_afterwards() -> None:
    with freed_memory_kept():
        with freed_memory_kept():
            assert faults() < PAGES // 10
        assert faults() < PAGES // 10  # the inner use has not given it back
        kept = resident()
    assert kept - resident() > 0.9 * SIZE
    assert faults() > 0.9 * PAGES


@pytest.mark.usefixtures("single_pages")
def test_it_goes_back_after_an_error_too() -> None:
    with pytest.raises(ZeroDivisionError), freed_memory_kept():
        1 / 0  # noqa: B018
    assert faults() > 0.9 * PAGES


@pytest.mark.usefixtures("single_pages")
def test_training_keeps_it_and_a_closed_form_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    data = jensen.load_data(torch.randn(100, 2))
    seen: dict[str, int] = {}

    def looking(owner: Any, name: str) -> None:
        before = getattr(owner, name)

        def looked(*arguments: Any, **options: Any) -> Any:
            if name not in seen:
                seen[name] = faults()
            return before(*arguments, **options)

        monkeypatch.setattr(owner, name, looked)

    for owner, name in ((Loop, "go"), (Loop, "take"), (Loop, "try_out"), (Gaussian, "fit")):
        looking(owner, name)
    jensen.fit(data, "flow", budget="1s")
    jensen.fit(data, "gaussian")
    assert max(seen[name] for name in ("try_out", "go", "take")) < PAGES // 10
    assert seen["fit"] > 0.9 * PAGES


def test_all_that_the_commands_draw_and_score_is_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if memory._glibc() is None:
        pytest.skip("for glibc left to itself")
    deep: list[tuple[str, int]] = []

    def looking(name: str) -> None:
        before = getattr(Pipeline, name)

        def looked(*arguments: Any, **options: Any) -> Any:
            deep.append((name, memory._depth))
            return before(*arguments, **options)

        monkeypatch.setattr(Pipeline, name, looked)

    looking("log_likelihood")
    looking("sample")
    table, run, chain = (str(tmp_path / name) for name in ("rows.csv", "run", "chain"))
    rows = torch.randn(120, 2).tolist()
    Path(table).write_text("a,b\n" + "".join(f"{a},{b}\n" for a, b in rows))
    jensen.fit(table, "diffusion", steps=2, timesteps=4, run=chain)
    for words in (
        ["fit", table, "-m", "vae", "--steps", "2", "-o", run],
        ["evaluate", run, "-n", "5"],
        ["evaluate", run, "--method", "samples", "-n", "20"],
        ["calibrate", chain],
        ["sample", run, "-n", "2", "-o", str(tmp_path / "drawn.npy")],
        ["compare", table, "-m", "flow", "--steps", "2", "-o", str(tmp_path / "all")],
    ):
        deep.clear()
        assert main(words) == 0, capsys.readouterr().err
        assert deep, words
        assert all(depth for _, depth in deep), (words, deep)


@pytest.mark.parametrize("name", [*memory.OF_THE_USER, "GLIBC_TUNABLES"])
def test_what_the_user_has_set_stands(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "glibc.malloc.trim_threshold=1000" if name == "GLIBC_TUNABLES" else "1000")
    with freed_memory_kept():
        assert memory._depth == 0


@pytest.mark.parametrize("system", ["nt", "posix"])
def test_without_glibc_nothing_is_changed(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def library(name: None) -> object:
        assert system == "posix"
        return object()

    monkeypatch.setattr(memory, "os", SimpleNamespace(name=system, environ=os.environ))
    monkeypatch.setattr(memory, "ctypes", SimpleNamespace(CDLL=library))
    with freed_memory_kept():
        assert memory._depth == 0
