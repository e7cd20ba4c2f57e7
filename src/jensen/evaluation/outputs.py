"""Files a user asked for: samples in any of the formats, and a row of scores an example.

What could not be written is refused before any work is done; what is written is written whole.
"""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from torch import Tensor

from jensen.data.examples import Examples
from jensen.errors import InputError
from jensen.evaluation.images import save_grid, save_images
from jensen.files import check_writable, write_text, written_whole
from jensen.likelihood import LogLikelihood
from jensen.models.pipeline import Pipeline

SAMPLE_SUFFIXES = (".png", ".npy", ".npz", ".csv", "")


def check_output(path: Path | None, suffixes: tuple[str, ...]) -> None:
    """Refuse an output that could not be written, before any work."""
    if path is None:
        return
    if path.suffix.lower() not in suffixes:
        names = ", ".join(suffix or "a folder" for suffix in suffixes)
        raise InputError(f"the output must be {names}, got {str(path)!r}")
    if path.suffix and path.is_dir():
        raise InputError(f"{str(path)!r} is a folder; give a file's name")
    if not path.suffix and path.is_file():
        raise InputError(f"{str(path)!r} is a file; give a folder's name or a file ending in .png, .npy, .npz or .csv")
    if not path.suffix and path.is_dir() and any(path.iterdir()):
        raise InputError(f"the folder {str(path)!r} is not empty; choose another")
    check_writable(path if path.suffix else path / "0.png")


def check_not_data(path: Path | None, *data: str | None) -> None:
    """Refuse an output that is one of these files of data."""
    for source in filter(None, data):
        if path is not None and path.exists() and Path(source).exists() and path.samefile(source):
            raise InputError(f"-o {str(path)!r} is the data's own file, which would be lost; choose another name")


def picture_paths(output: Path, words: Sequence[str]) -> dict[str, Path]:
    """The file of each picture: in a folder, or the .png itself for one.

    Raises:
        InputError: more than one for one file.
    """
    if not output.suffix:
        return {word: output / f"{word}.png" for word in words}
    if len(words) != 1:
        raise InputError(
            f"{str(output)!r} holds one picture, got {len(words)}: {', '.join(words)}; name one with --what"
        )
    return {words[0]: output}


def check_format(path: Path, pipeline: Pipeline) -> None:
    """Refuse a format that cannot hold this model's rows."""
    shape = pipeline.event_shape
    if path.suffix.lower() == ".csv" and len(shape) != 1:
        raise InputError(f".csv takes vectors, and these rows have shape {shape}; use .npy, .npz or .png")
    if not path.suffix and len(shape) != 3:
        raise InputError(
            f"a folder of PNGs takes images, and these rows have shape {shape}; use .npy, .npz, .csv or .png"
        )


def write_samples(path: Path, rows: Any, pipeline: Pipeline, columns: Sequence[str] | None = None) -> None:
    """Write samples: a .png picture, .npy, .npz (key x), .csv for vectors, or a folder of PNGs.

    Args:
        path: the file or folder.
        rows: `(n, *event_shape)` in data units.
        pipeline: the model they come from.
        columns: the header of a .csv; that of the model's data if None.
    """
    suffix = path.suffix.lower()
    if suffix == ".png":
        save_grid(rows, pipeline.space, path, names=columns or pipeline.config["data"]["facts"].get("columns"))
        return
    if suffix == "":
        save_images(rows, pipeline.space, path)
        return
    _write_array(path, rows, "x", columns or pipeline.config["data"]["facts"].get("columns") or [])


def write_codes(path: Path, z: Tensor, rows: Examples) -> None:
    """Write codes `(n, D)` of rows, whole or not at all: .npy, the codes alone; .npz (key z) with id and, of a folder, files; .csv with a
    header, the file first.
    """
    if path.suffix.lower() == ".npz":
        files = {} if rows.names is None else {"files": np.array(rows.names)}
        _write_array(path, z, "z", (), {"id": rows.id.numpy(), **files})
        return
    columns = [f"z{d + 1}" for d in range(z.shape[1])]
    if path.suffix.lower() == ".npy" or rows.names is None:
        _write_array(path, z, "z", columns)
        return
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["file", *columns])
    table.writerows([name, *code] for name, code in zip(rows.names, z.tolist(), strict=True))
    write_text(path, text.getvalue())


def _write_array(
    path: Path, rows: Tensor, key: str, columns: Sequence[str], beside: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Write numbers whole or not at all."""
    suffix = path.suffix.lower()
    with written_whole(path) as aside, aside.open("wb") as file:
        if suffix == ".npy":
            np.save(file, rows.numpy())
        elif suffix == ".npz":
            arrays: Any = {key: rows.numpy(), **beside}
            np.savez_compressed(file, **arrays)
        else:
            shortest = rows.numpy().astype(str)  # the shortest digits that read back as the same number
            np.savetxt(file, shortest, delimiter=",", fmt="%s", header=",".join(columns), comments="")


def write_scores(path: Path, rows: Examples, ll: LogLikelihood, clusters: Tensor | None = None) -> None:
    """Write a .csv with a row an example: id, file where there is one, value and stderr in nats, and the number of
    repetitions the stderr comes from, where it is their spread (an interval for one row takes Student's t with one less degrees of freedom);
    with `clusters (B, K)`, the most probable component and the probability of each, empty where they are NaN (p(x) = 0).
    """
    columns: dict[str, Iterable[object]] = {"id": rows.id.tolist()}
    if rows.names:
        columns["file"] = rows.names
    columns["value"] = (f"{value:.9g}" for value in ll.value.tolist())
    columns["stderr"] = repeat("") if ll.stderr is None else (f"{error:.6g}" for error in ll.stderr.tolist())
    if ll.diagnostics.get("repetitions", 1) > 1:
        columns["repetitions"] = repeat(ll.diagnostics["repetitions"])
    if clusters is not None:
        unknown = clusters.isnan().any(1).tolist()
        columns["component"] = ("" if no else k for no, k in zip(unknown, clusters.argmax(1).tolist(), strict=True))
        columns |= {
            f"p{k}": ("" if no else f"{p:.6g}" for no, p in zip(unknown, column, strict=True))
            for k, column in enumerate(clusters.T.tolist())
        }
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    table.writerows(row for _, *row in zip(range(len(rows)), *columns.values(), strict=False))
    write_text(path, text.getvalue())
