"""Time and peak memory of a piece of work.

On Linux the high-water mark of this process's resident memory is reset by writing 5 to /proc/self/clear_refs and read as
VmHWM in /proc/self/status (proc(5)). The peak is what the work added to the memory that was resident before. What earlier
work has freed is first given back to the system (malloc_trim(3)), since memory that is used again would not be counted.
Libraries that are loaded on first use do count: the first training of a process pays for them. Elsewhere, or where the
kernel forbids it, the peak is None.
"""

import contextlib
import ctypes
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


@dataclass
class Cost:
    """What a piece of work took; filled in when it ends.

    Attributes:
        seconds: by the clock on the wall.
        peak_bytes: the most memory it added, or None where that cannot be known.
    """

    seconds: float = 0.0
    peak_bytes: int | None = None


@contextlib.contextmanager
def metered() -> Iterator[Cost]:
    """Measure the block.

    Example:
        >>> with metered() as cost:
        ...     _ = sum(range(1000))
        >>> cost.seconds > 0
        True
    """
    cost, before = Cost(), _kilobytes("VmRSS") if _reset() else None
    start = time.perf_counter()
    try:
        yield cost
    finally:
        cost.seconds = time.perf_counter() - start
        peak = _kilobytes("VmHWM") if before is not None else None
        if before is not None and peak is not None:
            cost.peak_bytes = max(0, peak - before) << 10


def _reset() -> bool:
    """Set the high-water mark to what is resident now; whether that worked."""
    if not _CLEAR.exists():
        return False
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return True


def _kilobytes(name: str) -> int | None:
    try:
        found = re.search(rf"^{name}:\s*(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) if found else None
