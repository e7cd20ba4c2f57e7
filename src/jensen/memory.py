"""Freed memory that is kept for the next step.

A step of a network frees what it has taken, hundreds of MB, and the next one takes as much. glibc gives large pieces back at once, and the
kernel clears every page when it is touched anew: a tenth to a fifth of short fits with wide maps (benchmarks/kept_memory.py).
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

TRIM_THRESHOLD, MMAP_THRESHOLD, MMAP_MAX = -1, -3, -4  # parameters of mallopt(3)
NEVER = -1
KEEPING = {TRIM_THRESHOLD: NEVER, MMAP_MAX: 0}
# the most that glibc's own rule comes to:
RETURNING = {MMAP_MAX: 65_536, MMAP_THRESHOLD: 32 * 2**20, TRIM_THRESHOLD: 64 * 2**20}
OF_THE_USER = ("MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_")

_depth = 0  # how many uses this process is inside of


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """What is freed inside stays with this process, and goes back at the end of the outermost use.

    From then on glibc's thresholds are constants, where it raises them itself before. Nothing is changed where the C library is not glibc or the
    environment sets its thresholds (any of `OF_THE_USER`, or glibc.malloc in GLIBC_TUNABLES); threads other than the main one gain only
    for pieces below some 64 MB.
    """
    global _depth
    glibc = _glibc()
    if glibc is None:
        yield
        return
    _depth += 1
    try:
        _set(glibc, KEEPING)
        yield
    finally:
        _depth -= 1
        if not _depth:
            _set(glibc, RETURNING)
            glibc.malloc_trim(ctypes.c_size_t(0))


def _glibc() -> ctypes.CDLL | None:
    """glibc, where it is there and left to itself."""
    tuned = any(name in os.environ for name in OF_THE_USER) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if os.name != "posix" or tuned:
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None


def _set(glibc: ctypes.CDLL, parameters: dict[int, int]) -> None:
    for parameter, value in parameters.items():
        glibc.mallopt(parameter, value)
