"""Files that are written whole or not at all: aside first, then renamed into place."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jensen.errors import InputError


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; renamed onto `path` when the block ends well, removed when it does not.

    A full disk or a folder that cannot be written is an `InputError`; what stood at `path` before is untouched.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        os.chmod(aside, 0o666 & ~_umask())
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        raise InputError(cannot_write(path, error)) from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def _umask() -> int:
    """The permissions this process withholds; there is no way to ask but to set it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def cannot_write(path: Path, error: OSError) -> str:
    """The line for a file that could not be written."""
    reason = error.strerror or str(error)
    return f"cannot write {str(path)!r}: {reason}; nothing that stood there was changed: free the way and run the same command again"


def write_text(path: Path, text: str) -> None:
    """Write a text file whole."""
    with written_whole(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole; NaN and infinity are refused, since JSON has no word for them."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path, limit: int = 16 << 20) -> dict[str, Any]:
    """Read a JSON object of at most `limit` bytes; anything else is an `InputError` with the file's name."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
    if size > limit:
        raise InputError(f"{str(path)!r} is larger than {limit >> 20} MiB, which no file written by jensen is")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{str(path)!r} is not valid JSON: {str(error)[:100]}") from error
    if not isinstance(value, dict):
        raise InputError(f"{str(path)!r} must hold a JSON object, got a {type(value).__name__}")
    return value
