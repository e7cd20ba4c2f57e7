"""Time and peak memory of a piece of work.

On Linux the high-water mark of this process's resident memory is reset by writing 5 to /proc/self/clear_refs and read as
VmHWM in /proc/self/status (proc(5)). The peak is what the work added to the memory that was resident before; memory that
earlier work gave back to this process but not to the system is not counted again. Elsewhere, or where the kernel forbids
it, the peak is None.
"""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def metered() -> Iterator[Cost]:
    """Measure the block.

    Example:
        >>> with metered() as cost:
        ...     _ = sum(range(1000))
        >>> cost.seconds > 0
        True
    """
    cost, before = Cost(), _resident() if _reset() else None
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
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return True


def _resident() -> int | None:
    return _kilobytes("VmRSS")


def _kilobytes(name: str) -> int | None:
    try:
        found = re.search(rf"^{name}:\s*(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) if found else None
