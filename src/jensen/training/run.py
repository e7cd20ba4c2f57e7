"""The run folder: dicts and tensors in and out, nothing else known of models.

    config.json         what was asked for and all that is needed to rebuild the model
    model.safetensors   the finished weights; its presence says that the run is finished
    state/              checkpoints to resume from, two are kept; a lock while a process fits
    history.jsonl       one JSON object a line: loss, rate, held-out bound
    calibration.safetensors   what was measured of the finished model later (`jensen calibrate`), and how; stands above model.safetensors
    evaluation.json     likelihoods computed from the finished model
    samples.png, report.html

No pickle anywhere: tensors are safetensors, the rest is JSON. Each file is written aside and renamed into place.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from jensen.errors import COPY_OR_FIT, InputError, brief
from jensen.files import cannot_read, cannot_write, locked, read_json, write_json, write_text, written_whole
from jensen.settings import fits
from jensen.training.fitter import State

SCHEMA = 1
FILES = (
    "calibration.safetensors",
    "model.safetensors",
    "history.jsonl",
    "evaluation.json",
    "samples.png",
    "report.html",
    "config.json",
)
WITHOUT_CALIBRATION = (
    "evaluation.json",
    "report.html",
    "samples.png",
    "scores.safetensors",
    "samples.json",
)  # the last two in a comparison
CHECKPOINTS_KEPT = 2
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64}


class Run:
    """A run folder.

    Args:
        path: the folder; made when first written to.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def finished(self) -> bool:
        """Whether the model is there."""
        return (self.path / "model.safetensors").is_file()

    def file(self, name: str) -> Path:
        """The path of a file in the folder."""
        return self.path / name

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Keep other processes from fitting into the folder while the block runs."""
        busy = f"another process is fitting into {str(self.path)!r}; wait until it is done, or choose another folder with -o"
        return locked(self._lock, busy)

    def start(self, request: dict[str, Any], *, overwrite: bool) -> dict[str, Any] | None:
        """Claim the folder for a request: what `met` returns, after removing a run that is overwritten."""
        config = self.met(request, overwrite=overwrite)
        if config is None:
            self._clear()
        return config

    def met(self, request: dict[str, Any], *, overwrite: bool) -> dict[str, Any] | None:
        """What stands in the folder, which is not changed.

        Returns:
            The config of the same request made earlier, to resume or to show; None for a new run.

        Raises:
            InputError: the folder holds another run or things that are no run, or cannot be written.
        """
        present = self._names()
        if not present:
            return None
        if "config.json" not in present:
            raise InputError(
                f"{str(self.path)!r} holds other things ({present[0]!r}, …) and no jensen run; choose an empty or new folder with -o"
            )
        config = self.config()
        difference = _first_difference(config["request"], request)
        if difference is None and not overwrite:
            return config
        if not overwrite:
            raise InputError(
                f"{str(self.path)!r} holds another run: {difference}; choose another folder with -o, or --overwrite it"
            )
        return None

    def _names(self) -> list[str]:
        """What is in the folder, remains of a process that was killed aside."""
        try:
            if self.path.is_file():
                raise InputError(f"a run is a folder, and {str(self.path)!r} is a file; choose another -o")
            remains = {self._lock.parent.name} if _names(self._lock.parent) == [self._lock.name] else set()
            return [name for name in _names(self.path) if not _is_leftover(name) and name not in remains]
        except OSError as error:
            raise InputError(cannot_read(self.path, error)) from error

    def config(self) -> dict[str, Any]:
        """config.json, checked for its schema."""
        if not self.path.is_dir():
            raise InputError(f"no run at {str(self.path)!r}: there is no such folder; `jensen fit` makes one")
        if not self.file("config.json").is_file():
            raise InputError(f"no run at {str(self.path)!r}: it has no config.json; `jensen fit` makes one")
        config = read_json(self.file("config.json"))
        if config.get("schema") != SCHEMA:
            raise InputError(
                f"{str(self.file('config.json'))!r} has schema {config.get('schema')!r}, this jensen reads {SCHEMA}; "
                "use the version that wrote it"
            )
        for name in ("request", "data", "codec", "model", "versions"):
            if not isinstance(config.get(name), dict):
                raise InputError(f"{str(self.file('config.json'))!r} is damaged: {name} must be an object")
        if not isinstance(config.get("training", {}), dict):
            raise InputError(f"{str(self.file('config.json'))!r} is damaged: training must be an object")
        return config

    def write_config(self, config: dict[str, Any]) -> None:
        """Write config.json."""
        write_json(self.file("config.json"), {"schema": SCHEMA, **config})

    def write_model(self, tensors: dict[str, Tensor]) -> None:
        """Write model.safetensors; the bytes depend on the tensors only."""
        with written_whole(self.file("model.safetensors")) as aside:
            _save(tensors, aside, {})

    def read_model(self, expected: dict[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of model.safetensors, which must have exactly the names, shapes and types of `expected`.

        `expected` may be on the meta device: everything is compared before any memory is taken.
        """
        self.check_model(expected)
        return read_tensors(self.file("model.safetensors"), expected)[0]

    def check_model(self, expected: dict[str, Tensor]) -> None:
        """Refuse a model.safetensors that `read_model` would refuse; looks at its header and size only."""
        if not self.finished:
            raise InputError(
                f"the run at {str(self.path)!r} is not finished; run the same `jensen fit` command again to go on"
            )
        path = self.file("model.safetensors")
        with _opened(path) as file:
            _check_header(path, file, expected)

    def write_calibration(self, tensors: dict[str, Tensor], how: dict[str, Any]) -> None:
        """Write calibration.safetensors, of these weights only; what was computed without it is dropped first."""
        for name in WITHOUT_CALIBRATION:
            try:
                self.file(name).unlink(missing_ok=True)
            except OSError as error:
                raise InputError(cannot_write(self.file(name), error)) from error
        with written_whole(self.file("calibration.safetensors")) as aside:
            _save(tensors, aside, {"how": json.dumps({**how, "weights": self._weights()})})

    def _weights(self) -> str:
        """SHA-256 of model.safetensors."""
        with self.file("model.safetensors").open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def calibration(self) -> dict[str, Any] | None:
        """How a finished run was calibrated later; None if it was not."""
        path = self.file("calibration.safetensors")
        if not path.is_file():
            return None
        with _opened(path) as file:
            text = (file.metadata() or {}).get("how", "")
        how = _json_object(text)
        if how is None:
            raise InputError(f"{str(path)!r} is damaged: it does not say how it was made")
        if how.pop("weights", None) != self._weights():
            raise InputError(f"{str(path)!r} was measured of other weights than model.safetensors")
        return how

    def read_calibration(self, expected: dict[str, Tensor]) -> dict[str, Tensor]:
        """Its tensors, which must have exactly the names, shapes and types of `expected`."""
        return read_tensors(self.file("calibration.safetensors"), expected)[0]

    def save_state(self, step: int, state: State) -> None:
        """Write a checkpoint after `step` steps and drop all but the last two."""
        with written_whole(self.path / "state" / f"step-{step:09d}.safetensors") as aside:
            _save(state.tensors, aside, {"numbers": json.dumps({"step": step, **state.numbers})})
        for old in self._checkpoints()[:-CHECKPOINTS_KEPT]:
            old.unlink(missing_ok=True)

    def load_state(self) -> tuple[int, State] | None:
        """The newest checkpoint that can be read, as (steps done, state); None if there is none."""
        for path in reversed(self._checkpoints()):
            try:
                tensors, metadata = read_tensors(path, None)
                numbers = json.loads(metadata["numbers"])
                return int(numbers.pop("step")), State(tensors, numbers)
            except (InputError, KeyError, ValueError, TypeError, AttributeError):
                continue
        return None

    def drop_states(self) -> None:
        """Remove the checkpoints of a finished run, and nothing else that someone put beside them."""
        folder = self.path / "state"
        with contextlib.suppress(OSError):
            for path in [*self._checkpoints(), *filter(lambda p: _is_leftover(p.name), folder.iterdir())]:
                path.unlink(missing_ok=True)
            folder.rmdir()

    def evaluation(self) -> dict[str, Any] | None:
        """The content of evaluation.json; None where it is missing or damaged, so that it is made again."""
        try:
            record = read_json(self.file("evaluation.json"))
            whole = _scored(record) or _unscored(record)
        except (InputError, KeyError, TypeError):
            return None
        return record if whole and "model" in record else None

    def tidy(self) -> None:
        """Remove from a finished run what a process that was killed has left, unless another one is at work there."""
        if self._lock.parent.is_dir():
            with contextlib.suppress(InputError), self.locked():
                self.drop_states()

    def append_history(self, record: dict[str, Any]) -> None:
        """Add a line to history.jsonl."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with self.file("history.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise InputError(cannot_write(self.file("history.jsonl"), error)) from error

    def history(self) -> list[dict[str, Any]]:
        """The records of history.jsonl; lines that are none are left out."""
        return [record for line in self._history_lines() if (record := _record(line)) is not None]

    def history_problem(self) -> str | None:
        """Which lines of history.jsonl are left out, in a line for the user; None if there are none.

        A last line without its end was cut short by a crash, as may happen, and does not count.
        """
        odd = [n for n, line in enumerate(self._history_lines(), 1) if line.endswith("\n") and _record(line) is None]
        if not odd:
            return None
        path = str(self.file("history.jsonl"))
        lines = (
            f"line {odd[0]} is"
            if len(odd) == 1
            else f"lines {', '.join(map(str, odd[:5]))}{', …' * (len(odd) > 5)} are"
        )
        return f"{path!r}: {lines} damaged (no JSON object with a step) and left out; the curves miss those points"

    def _history_lines(self) -> list[str]:
        path = self.file("history.jsonl")
        if not path.is_file():
            return []
        try:
            with path.open(encoding="utf-8", errors="replace") as file:
                return file.readlines()
        except OSError as error:
            raise InputError(cannot_read(path, error)) from error

    def cut_history(self, step: int) -> None:
        """Drop what was recorded after `step` steps."""
        kept = [record for record in self.history() if record["step"] <= step]
        write_text(self.file("history.jsonl"), "".join(json.dumps(record) + "\n" for record in kept))

    @property
    def _lock(self) -> Path:
        return self.path / "state" / "lock"

    def _checkpoints(self) -> list[Path]:
        return sorted((self.path / "state").glob("step-*.safetensors"))

    def _clear(self) -> None:
        """Remove jensen's own files; config.json last, so that half a removal can be done again."""
        self.drop_states()
        leftovers = filter(_is_leftover, _names(self.path))
        for name in [*leftovers, *FILES]:
            try:
                self.file(name).unlink(missing_ok=True)
            except OSError as error:
                raise InputError(cannot_write(self.file(name), error)) from error


def read_tensors(path: Path, expected: dict[str, Tensor] | None) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file; with `expected`, only if names, shapes and types agree."""
    with _opened(path) as file:
        if expected is not None:
            _check_header(path, file, expected)
        return {name: file.get_tensor(name) for name in sorted(file.keys())}, dict(file.metadata() or {})


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The file with its header read, whose promises agree with its size."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except InputError:
        raise
    except OSError as error:
        raise InputError(cannot_read(path, error)) from error
    except (SafetensorError, ValueError) as error:
        raise InputError(
            f"cannot read {str(path)!r}: it is cut short, damaged or no safetensors file{COPY_OR_FIT}"
        ) from error


def _check_header(path: Path, file: Any, expected: dict[str, Tensor]) -> None:
    names = set(file.keys())
    odd = sorted(names ^ set(expected))
    if odd:
        where = "is missing" if odd[0] in expected else "is not part of the model"
        raise InputError(f"{str(path)!r} does not fit its config.json: tensor {odd[0]!r} {where}")
    for name in sorted(names):
        part = file.get_slice(name)
        shape, dtype = tuple(part.get_shape()), DTYPES.get(part.get_dtype())
        wanted = (tuple(expected[name].shape), expected[name].dtype)
        if (shape, dtype) != wanted:
            raise InputError(
                f"{str(path)!r} does not fit its config.json: tensor {name!r} has shape {shape} and type {part.get_dtype()}, "
                f"the model has {wanted[0]} and {wanted[1]}"
            )


def _save(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(ready, path, metadata)
    except SafetensorError as error:
        raise OSError(0, str(error)) from error


def _is_leftover(name: str) -> bool:
    """Whether a file is one that was being written aside when its process was killed."""
    return (
        re.fullmatch(r"\.(" + "|".join(map(re.escape, FILES)) + r"|step-\d+\.safetensors)\.\d+\.\w+", name) is not None
    )


def _json_object(text: str) -> dict[str, Any] | None:
    """The object that a text is, if it is one."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _record(line: str) -> dict[str, Any] | None:
    """The record a line of the history holds, if it does."""
    record = _json_object(line)
    return record if record is not None and fits(record.get("step"), int) else None


def _names(folder: Path) -> list[str]:
    """What is in a folder; nothing where there is none."""
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def _first_difference(old: dict[str, Any], new: dict[str, Any]) -> str | None:
    for name in sorted({*old, *new}, key=lambda name: (name == "data", name)):  # a hash of the data says least
        if old.get(name) != new.get(name):
            return f"{name} was {brief(old.get(name))}, now {brief(new.get(name))}"
    return None


def _scored(record: dict[str, Any]) -> bool:
    """Whether a record has a likelihood beside its controls."""
    ll = record["log_likelihood"]
    return ll is not None and isinstance(ll["quote"], str) and isinstance(record["controls"], dict)


def _unscored(record: dict[str, Any]) -> bool:
    """Whether it says why there is no likelihood, and holds what is measured instead."""
    return isinstance(record["without_likelihood"], str) and isinstance(record["samples"]["measures"], dict)
