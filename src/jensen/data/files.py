"""Opening files nobody vouches for: errors that name the file, reads that are bounded, memory asked for first.

A file's header is a promise. It is held against the file's size and the memory at hand before anything of the
promised size is allocated, and never more than the promised bytes are read, however much a compressed stream
would give.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from jensen.data.rows import Array
from jensen.errors import InputError

CHUNK = 1 << 24
MEMORY_SHARE = 0.8
COPIES = 2  # the source and the parts cut from it exist side by side for a moment
DEFLATE_RATIO = 1032  # no deflate stream grows by more than this


class ByteStream(Protocol):
    """What is read: a file, or the decompressed inside of one."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes."""

    def seek(self, offset: int, /) -> int:
        """Go to a place counted from the beginning."""


def shown(path: str | os.PathLike[str]) -> str:
    """A path as it stands in a message: quoted, on one line, whatever characters it holds."""
    return repr(os.fspath(path))


def check_regular(path: Path) -> int:
    """The size in bytes of a file that can be opened without waiting; `InputError` for anything else."""
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"cannot read {shown(path)}: {error.strerror or error}") from None
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"cannot read {shown(path)}: it is not a regular file; give a file or a folder of images")
    return status.st_size


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The file open for reading; failures to open or read it become `InputError`s with its name."""
    check_regular(path)
    try:
        with path.open("rb") as stream:
            yield stream
    except OSError as error:
        raise InputError(f"cannot read {shown(path)}: {error.strerror or error}") from None


def available_memory() -> int:
    """Bytes this process may still allocate: what the system has free, within the container's limit and its own."""
    return max(0, min([_system_memory(), *_container_memory(), *_own_memory()]))


def _system_memory() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _container_memory() -> list[int]:
    """What the container's limit leaves, if there is one; cached files do not count, they can be dropped."""
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        stat_lines = (group / "memory.stat").read_text().splitlines()
        return [limit - used + sum(int(line.split()[1]) for line in stat_lines if line.startswith("inactive_file "))]
    except (OSError, ValueError):
        return []


def _own_memory() -> list[int]:
    """What the process's own limit on its address space (ulimit -v) leaves, if there is one."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except (ImportError, OSError, ValueError, IndexError):
        return []
    return [] if limit == resource.RLIM_INFINITY else [limit - pages * resource.getpagesize()]


def require_memory(needed: int, where: str) -> None:
    """Refuse data that would not fit in memory."""
    available = available_memory()
    if COPIES * needed > MEMORY_SHARE * available:
        raise InputError(
            f"{where} promises {human_bytes(needed)}, and loading takes {COPIES} times that, but only "
            f"{human_bytes(available)} of memory are available; use fewer or smaller rows, if it is not corrupt"
        )


def human_bytes(count: float) -> str:
    """A number of bytes as a person reads it.

    >>> human_bytes(1536)
    '1.5 kB'
    """
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} TB"


def read_values(stream: ByteStream, dtype: "np.dtype[Any]", shape: tuple[int, ...], where: str) -> Array:
    """An array of the promised type and shape from exactly the bytes that are left in the stream.

    The caller has checked the promise against memory. One byte too few or too many is an `InputError`; asking
    for the byte after the last also makes gzip and zip check their checksums.
    """
    values = np.empty(shape, dtype)
    view = memoryview(values.reshape(-1).view(np.uint8).data)
    done = 0
    while chunk := stream.read(min(CHUNK, len(view) - done)):
        view[done : done + len(chunk)] = chunk
        done += len(chunk)
    if done < len(view):
        raise InputError(f"{where} is truncated: its header promises {len(view)} bytes of values, it has {done}")
    if stream.read(1):
        raise InputError(f"{where} is corrupt: bytes follow after the {len(view)} its header promises")
    return values
