"""The folder of a comparison.

    compare.json           what was asked for and the table so far; `finished` says whether it is all
    compare.png, .html     the picture and the page
    runs/<word>-<seed>/    ordinary runs, each with entry.json, scores.safetensors and samples.json

Each file is written aside and renamed into place. The same request finds its runs again and goes on; another one is
refused.
"""

import contextlib
import re
from pathlib import Path
from typing import Any

from jensen.errors import InputError
from jensen.evaluation.compare.attempts import ENTRY, SCORES
from jensen.evaluation.compare.samples import FILE as SAMPLES
from jensen.files import cannot_read, cannot_write, check_writable, locked, read_json, write_json
from jensen.training.run import Run

SCHEMA = 1
RECORD, PICTURE, PAGE = "compare.json", "compare.png", "compare.html"


class Folder:
    """DIR.

    Args:
        path: the folder; made when first written to.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def file(self, name: str) -> Path:
        """The path of a file in the folder."""
        return self.path / name

    def run(self, word: str, seed: int) -> Path:
        """The run folder of a model with a seed."""
        return self.path / "runs" / f"{word}-{seed}"

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Keep other processes from comparing in the folder while the block runs."""
        busy = f"another process is comparing in {str(self.path)!r}; wait until it is done, or choose another folder with -o"
        return locked(self._lock, busy)

    def check(self, request: dict[str, Any], *, overwrite: bool) -> bool:
        """Whether the folder holds this request already; it is not changed.

        Raises:
            InputError: it holds another comparison or things that are none, or cannot be written.
        """
        check_writable(self.file(RECORD))
        present = self._names()
        if not present:
            return False
        if RECORD not in present:
            raise InputError(
                f"{str(self.path)!r} holds other things ({present[0]!r}, …) and no comparison; choose an empty or new folder with -o"
            )
        if overwrite:
            return False
        difference = _first_difference(self._request(), request)
        if difference is not None:
            raise InputError(
                f"{str(self.path)!r} holds another comparison: {difference}; choose another folder with -o, or --overwrite it"
            )
        return True

    def start(self, request: dict[str, Any], *, overwrite: bool) -> None:
        """Claim the folder for a request, clearing it of a comparison that is overwritten."""
        if self.check(request, overwrite=overwrite):
            return
        self._clear()
        self.write({"request": request, "finished": False})

    @property
    def finished(self) -> bool:
        """Whether compare.json holds all of a comparison."""
        try:
            return read_json(self.file(RECORD)).get("finished") is True
        except InputError:
            return False

    def write(self, record: dict[str, Any]) -> None:
        """Write compare.json."""
        write_json(self.file(RECORD), {"schema": SCHEMA, **record})

    def _request(self) -> dict[str, Any]:
        found = read_json(self.file(RECORD))
        if found.get("schema") != SCHEMA or not isinstance(found.get("request"), dict):
            raise InputError(
                f"{str(self.file(RECORD))!r} has schema {found.get('schema')!r}, this jensen reads {SCHEMA}; "
                "use the version that wrote it, or --overwrite"
            )
        return dict(found["request"])

    def _names(self) -> list[str]:
        """What is in the folder, remains of a process that was killed aside."""
        try:
            if self.path.is_file():
                raise InputError(f"a comparison is a folder, and {str(self.path)!r} is a file; choose another -o")
            runs = self._lock.parent
            remains = {runs.name} if _listed(runs) == [self._lock.name] else set()
            return [name for name in _listed(self.path) if name not in remains and not _is_leftover(name)]
        except OSError as error:
            raise InputError(cannot_read(self.path, error)) from error

    def _clear(self) -> None:
        """Remove a comparison and its runs, and nothing else that someone put beside them; compare.json last."""
        try:
            for path in (self.path / "runs" / name for name in _listed(self.path / "runs")):
                if path.is_dir() and (path / "config.json").is_file():
                    for name in (ENTRY, SCORES, SAMPLES):
                        (path / name).unlink(missing_ok=True)
                    Run(path).start({}, overwrite=True)
                    with contextlib.suppress(OSError):
                        path.rmdir()
            for name in [*filter(_is_leftover, _listed(self.path)), PICTURE, PAGE, RECORD]:
                self.file(name).unlink(missing_ok=True)
        except OSError as error:
            raise InputError(cannot_write(self.path, error)) from error

    @property
    def _lock(self) -> Path:
        return self.path / "runs" / "lock"


def _first_difference(old: dict[str, Any], new: dict[str, Any]) -> str | None:
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            return f"{name} was {old.get(name)!r}, now {new.get(name)!r}"
    return None


def _is_leftover(name: str) -> bool:
    """Whether a file is one that was being written aside when its process was killed."""
    return re.fullmatch(r"\.compare\.(json|png|html)\.\d+\.\w+", name) is not None


def _listed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
