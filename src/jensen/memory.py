"""Freed memory that is kept for the next step.

A step of a network frees what it has taken, hundreds of MB, and the next one takes as much. glibc gives large blocks back at once, and the
kernel clears every page when it is touched anew: up to a quarter of a step (benchmarks/kept_memory.py).
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4  # parameters of mallopt(3)
NEVER = -1
KEEPING = {TRIM_THRESHOLD: NEVER, MMAP_MAX: 0}
RETURNING = {MMAP_MAX: 65_536, MMAP_THRESHOLD: 32 * 2**20, TRIM_THRESHOLD: 64 * 2**20}  # where glibc's own rule ends

_blocks = 0  # that this process is inside of


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Freed memory stays with this process inside the block, and goes back at the end of the outermost one.

    Nothing is changed where the C library is not glibc, nor gained by threads other than the main one, whose large blocks are the system's.
    """
    global _blocks
    glibc = ctypes.CDLL(None) if os.name == "posix" else None
    if glibc is None or not hasattr(glibc, "gnu_get_libc_version"):
        yield
        return
    _blocks += 1
    _set(glibc, KEEPING)
    try:
        yield
    finally:
        _blocks -= 1
        if not _blocks:
            _set(glibc, RETURNING)
            glibc.malloc_trim(ctypes.c_size_t(0))


def _set(glibc: ctypes.CDLL, parameters: dict[int, int]) -> None:
    for parameter, value in parameters.items():
        glibc.mallopt(parameter, value)
