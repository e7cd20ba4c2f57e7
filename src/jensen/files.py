"""Files that are written whole or not at all: aside first, then renamed into place."""

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jensen.errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_ELSEWHERE = "choose another path"
WAYS_OUT = {
    errno.EACCES: f"you may not write in that folder: {_ELSEWHERE}, or change the folder's permissions",
    errno.EPERM: f"you may not write in that folder: {_ELSEWHERE}, or change the folder's permissions",
    errno.EROFS: f"the disk is mounted for reading only: {_ELSEWHERE}, or mount it for writing and run the same command again",
    errno.ENOTDIR: f"a part of the path is a file where a folder should be: {_ELSEWHERE}",
    errno.EEXIST: f"a part of the path is a file where a folder should be: {_ELSEWHERE}",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOSPC: "make room on the disk and run the same command again",
    errno.EDQUOT: "make room within your quota and run the same command again",
}


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; renamed onto `path` when the block ends well, removed when it does not.

    A full disk or a folder that cannot be written is an `InputError`; what stood at `path` before is untouched.
    """
    aside = _aside(path)
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


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}{path.suffix}")


@contextlib.contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Hold a lock file while the block runs; `busy` is the message if another process holds it.

    The system lets go of the lock when its process ends, however it ends. The file and the folders made for it are
    removed afterwards where nothing else is in them. Where a system has no such locks, nothing is kept out.
    """
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        held = _lock(path, busy)
    except OSError as error:
        raise InputError(cannot_write(path.parent, error)) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(held)
        for folder in (path.parent, *made):
            with contextlib.suppress(OSError):
                folder.rmdir()


def _lock(path: Path, busy: str) -> int:
    """A descriptor that holds the lock on the file that stands at the path: not on one removed in the meantime."""
    while True:
        held = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _claim(held)
            if os.path.samestat(os.fstat(held), path.stat()):
                return held
        except BlockingIOError:
            os.close(held)
            raise InputError(busy) from None
        except FileNotFoundError:
            pass
        os.close(held)


def _claim(descriptor: int) -> None:
    """Lock an open file without waiting; nothing where the system or the disk has no locks."""
    if fcntl is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if isinstance(error, BlockingIOError):
            raise


def _umask() -> int:
    """The permissions this process withholds; there is no way to ask but to set it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def check_writable(path: Path) -> None:
    """Refuse, before any work, a path at which `written_whole` could not write."""
    try:
        folder = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        for name in (*path.absolute().relative_to(folder).parts, _aside(path).name):
            with contextlib.suppress(FileNotFoundError):
                (folder / name).lstat()  # a name too long shows here
        if not os.access(folder, os.W_OK | os.X_OK):
            code = errno.EROFS if _is_read_only(folder) else errno.EACCES
            raise OSError(code, os.strerror(code))
    except OSError as error:
        raise InputError(cannot_write(path, error)) from error


def _is_read_only(folder: Path) -> bool:
    return hasattr(os, "statvfs") and bool(os.statvfs(folder).f_flag & os.ST_RDONLY)


def cannot_write(path: Path, error: OSError) -> str:
    """The line for a file that could not be written: what, why, the way out."""
    reason = error.strerror or str(error)
    way_out = WAYS_OUT.get(error.errno or 0, "see to the disk and run the same command again")
    return f"cannot write {str(path)!r}: {reason}; what stood there before is unchanged; {way_out}"


def cannot_read(path: Path, error: OSError) -> str:
    """The line for a file that could not be read."""
    way_out = "it must be a file that you may read"
    return f"cannot read {str(path)!r}: {error.strerror or error}; {way_out}"


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
        if path.stat().st_size > limit:
            raise InputError(f"{str(path)!r} is larger than {limit >> 20} MiB, which no file written by jensen is")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(cannot_read(path, error)) from error
    except UnicodeDecodeError as error:
        raise InputError(_no_json(path, "it is not UTF-8 text")) from error
    value = _parsed(path, text)
    if not isinstance(value, dict):
        raise InputError(_no_json(path, "it holds something else"))
    return value


def _parsed(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            _no_json(path, f"it breaks off or goes wrong in line {error.lineno}, column {error.colno}")
        ) from error
    except RecursionError as error:
        raise InputError(_no_json(path, "it is nested too deeply")) from error
    except ValueError as error:  # Python reads numbers of at most a few thousand digits
        raise InputError(_no_json(path, "it holds a number of thousands of digits")) from error


def _no_json(path: Path, what: str) -> str:
    return f"{str(path)!r} is damaged: {what}, and must be one JSON object; put back a copy of it, or begin in another folder"
