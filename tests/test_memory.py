"""Freed memory stays while it is asked for, and goes back afterwards. Counted in page faults, not in time."""

import ctypes
import os
import resource
from typing import Any

import pytest
import torch

import jensen
from jensen.memory import freed_memory_kept
from jensen.models.gaussian import Gaussian
from jensen.models.pipeline import Pipeline
from jensen.training.loop import Loop

BLOCK = 96 * 2**20  # above what glibc ever takes from its heap of its own accord
PAGES = BLOCK // resource.getpagesize()
glibc_only = pytest.mark.skipif(
    os.name != "posix" or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="glibc only"
)


def faults_of_a_block() -> int:
    """Page faults of a block that is written and freed."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(b"1") * BLOCK
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@glibc_only
def test_a_freed_block_is_taken_again_without_faults_inside_and_goes_back_afterwards() -> None:
    with freed_memory_kept():
        faults_of_a_block()
        with freed_memory_kept():
            assert faults_of_a_block() < PAGES // 10
        assert faults_of_a_block() < PAGES // 10  # the inner block has not given it back
        kept = resident()
    assert kept - resident() > 0.9 * BLOCK
    assert faults_of_a_block() > 0.9 * PAGES


@glibc_only
def test_it_goes_back_after_an_error_too() -> None:
    with pytest.raises(ZeroDivisionError), freed_memory_kept():
        faults_of_a_block()
        1 / 0  # noqa: B018
    assert faults_of_a_block() > 0.9 * PAGES


@glibc_only
def test_training_and_scoring_keep_it_and_a_closed_form_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from jensen.cli import work

    data = jensen.load_data(torch.randn(100, 2))
    seen: dict[str, int] = {}

    def looking(owner: Any, name: str) -> None:
        before = getattr(owner, name)

        def looked(*arguments: Any, **options: Any) -> Any:
            faults_of_a_block()
            seen[name] = faults_of_a_block()
            return before(*arguments, **options)

        monkeypatch.setattr(owner, name, looked)

    looking(Loop, "go")
    looking(Loop, "take")
    looking(Loop, "try_out")
    looking(Gaussian, "fit")
    looking(Pipeline, "log_likelihood")
    looking(Pipeline, "sample")
    work.scored(jensen.fit(data, "flow", budget="1s"), data.test)
    work.drawn(jensen.fit(data, "gaussian"), 2, 0, None, None, None, {})
    assert max(seen[name] for name in ("try_out", "go", "take", "log_likelihood", "sample")) < PAGES // 10
    assert seen["fit"] > 0.9 * PAGES


def test_without_glibc_nothing_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*arguments: object) -> None:
        raise AssertionError

    monkeypatch.setattr("jensen.memory.os.name", "nt")
    monkeypatch.setattr("jensen.memory.ctypes.CDLL", forbidden)
    with freed_memory_kept():
        pass


def resident() -> int:
    """Bytes of memory that are this process's."""
    with open("/proc/self/statm") as told:
        return int(told.read().split()[1]) * resource.getpagesize()
