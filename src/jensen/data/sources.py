"""`load_data`: one door for every kind of data.

A source is a word (`jensen.data.named`), a folder of images, a file (`.npy`, `.npz`, `.csv`, `.tsv`, IDX), an array
or tensor, or a `Split`, which passes through. Its reader returns a `Source`; its arrays are interpreted
(`jensen.data.arrays`) and split (`jensen.data.splitting`). A file that is not known by its ending is known by its
first bytes.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from jensen.data.arrays import as_array, interpret
from jensen.data.binarise import binarised
from jensen.data.examples import Split
from jensen.data.files import opened, shown
from jensen.data.grid import grid_notes
from jensen.data.idx import read_idx
from jensen.data.image_file import SUFFIXES
from jensen.data.images import read_folder
from jensen.data.named import NAMED
from jensen.data.numpy_files import read_npy, read_npz
from jensen.data.rows import Array, Rows, Source
from jensen.data.space import Real, Space
from jensen.data.splitting import MIN_ROWS, cut
from jensen.data.tables import read_table
from jensen.errors import InputError, brief, did_you_mean

Reader = Callable[[Path], Source]
READERS: dict[str, Reader] = {".npy": read_npy, ".npz": read_npz, ".csv": read_table, ".tsv": read_table}
LAYOUT_KINDS = ("npy", "npz", "idx", "array")
# facts that are options of `load_data` too
LOADED_BY = ("size", "levels", "layout", "label", "split_seed", "binarise", "binarise_seed")


def load_data(
    source: "str | os.PathLike[str] | Array | Tensor | Split",
    *,
    size: tuple[int, int] | None = None,
    levels: int | None = None,
    layout: str | None = None,
    label: str | int | None = None,
    split_seed: int = 0,
    binarise: str | None = None,
    binarise_seed: int = 0,
    to_fit: bool = True,
) -> Split:
    """Data from anywhere as a `Split` of train, valid and test rows in data units.

    Args:
        source: a word (`jensen data` lists them), a folder of images, a file (.npy, .npz, .csv, .tsv, IDX),
            an array or tensor `(N, ...)`, or a Split, which is returned as it is.
        size: (height, width) to which a folder's images are resized.
        levels: the number of discrete values 0, …, levels - 1; without it 256 for uint8, 65,536 for uint16.
        layout: HW, CHW or HWC, the order of the axes of one image in an array, where its shape leaves a choice.
        label: the column of a table that holds the rows' classes: its name, or its number counted from 1.
        split_seed: seed of the permutation that cuts the parts the source does not give.
        binarise: threshold, static or dynamic: grey values as zeros and ones (`jensen.data.binarise`).
        binarise_seed: of those draws.
        to_fit: False for rows that are only to be scored or filled in: a source with too few rows to cut parts from is
            then left whole, as train rows.

    Returns:
        The split; its `facts` say where the data came from and what was done to them.

    Raises:
        InputError: for anything that cannot be read without guessing or loss.

    >>> split = load_data("digits")
    >>> len(split.train), len(split.valid), len(split.test), split.event_shape, str(split.space)
    (1259, 179, 359, (1, 8, 8), '17 levels')
    """
    if isinstance(source, Split):
        return _unchanged(
            source,
            size=size,
            levels=levels,
            layout=layout,
            label=label,
            split_seed=split_seed or None,
            binarise=binarise,
        )
    label = None if label is None else str(label).strip()
    found, where = _read(source, _checked_size(size), label)
    _refuse_option("size", size, found.kind == "images", "folders of images", found.kind)
    _refuse_option("label", label, found.kind == "csv", "tables", found.kind)
    _refuse_option("layout", layout, found.kind in LAYOUT_KINDS, "arrays", found.kind)
    found, space = _interpreted(found, levels, layout, where)
    split = cut(found, space, split_seed, where, least=MIN_ROWS if to_fit else 1)
    facts = {
        **_facts(source, found),
        "size": None if size is None else list(size),
        "levels": levels,
        "layout": layout,
        **({"label": label, "label_column": found.label_column} if label is not None else {}),
        **split.facts,
    }
    if isinstance(space, Real):
        facts["notes"] += grid_notes(split.train, found.columns)
    split = replace(split, facts=facts)
    return split if binarise is None else binarised(split, binarise, binarise_seed)


def _unchanged(split: Split, **options: object) -> Split:
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise InputError(
            f"{given[0]}={options[given[0]]} was given for a Split, which is loaded already; give its source"
        )
    return split


def _checked_size(size: tuple[int, int] | None) -> tuple[int, int] | None:
    if size is not None and (len(size) != 2 or not all(isinstance(n, int) and 1 <= n <= 65_536 for n in size)):
        raise InputError(f"size must be (height, width) with sides from 1 to 65536, got {size}")
    return size


def _refuse_option(name: str, value: object, allowed: bool, users: str, kind: str) -> None:
    if value is not None and not allowed:
        raise InputError(f"{name} is an option for {users}, got {name}={value} for data of kind {kind}; leave it out")


def _read(source: Any, size: tuple[int, int] | None, label: str | None) -> tuple[Source, str]:
    """What the source holds, and how messages call it."""
    if isinstance(source, np.ndarray | Tensor):
        return Source("array", {"all": Rows(as_array(source))}), "the array"
    if not isinstance(source, str | os.PathLike):
        raise InputError(f"data must be a word, a path, an array, a tensor or a Split, got {type(source).__name__}")
    if isinstance(source, str) and source in NAMED:
        return _named(source), source
    word = os.fspath(source)
    path = Path(word).expanduser()
    if not os.path.exists(path):
        raise InputError(
            f"{brief(word, 200)} is neither a known data set ({', '.join(NAMED)}) nor an existing file or folder; "
            f"{did_you_mean(word, NAMED)}give one of these words or the path of your data"
        )
    if path.is_dir():
        return read_folder(path, size), f"folder {shown(path)}"
    reader = _reader(path)
    return read_table(path, label) if reader is read_table else reader(path), f"file {shown(path)}"


def is_table(source: str) -> bool:
    """Whether this is the path of a table in text."""
    path = Path(source).expanduser()
    return source not in NAMED and path.is_file() and READERS.get(path.suffix.lower()) is read_table


def _named(word: str) -> Source:
    """A named data set; a file of the same name is not silently passed over."""
    found = NAMED[word].load()
    if not os.path.exists(word):
        return found
    return replace(
        found, notes=(*found.notes, f"the named data set was read, not the path ./{word} (say ./{word} for it)")
    )


def _reader(path: Path) -> Reader:
    """The reader for a file's ending, else for its first bytes."""
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        raise InputError(f"{shown(path)} is a single image; give the folder that holds the images")
    return READERS.get(suffix) or _reader_by_content(path)


def _reader_by_content(path: Path) -> Reader:
    with opened(path) as stream:
        head = stream.read(6)
    if head[:2] in (b"\x1f\x8b", b"\0\0"):
        return _read_idx
    readers: dict[bytes, Reader] = {b"\x93NUMPY": read_npy, b"PK\x03\x04": read_npz}
    for magic, reader in readers.items():
        if head.startswith(magic):
            return reader
    raise InputError(
        f"file {shown(path)} is of no known kind; known are {', '.join(READERS)}, IDX, and folders of images"
    )


def _read_idx(path: Path) -> Source:
    return Source("idx", {"all": Rows(read_idx(path))})


def _interpreted(found: Source, levels: int | None, layout: str | None, where: str) -> tuple[Source, Space]:
    """The source with its arrays as rows of one space."""
    declared = levels if levels is not None else found.levels
    pictures = found.kind in ("images", "named") and found.levels is not None
    settled = layout or ("CHW" if pictures else None)
    read = {part: interpret(rows.x, declared, settled, _part_name(where, part)) for part, rows in found.parts.items()}
    parts = {part: found.parts[part].with_x(x) for part, (x, _) in read.items()}
    return replace(found, parts=parts), next(iter(read.values()))[1]


def _part_name(where: str, part: str) -> str:
    return where if part == "all" else f"{where} ({part})"


def _facts(source: Any, found: Source) -> dict[str, Any]:
    """Where the data came from; `source` with the options below loads them again."""
    facts: dict[str, Any] = {
        "source": _address(source),
        "kind": found.kind,
        "rows": sum(map(len, found.parts.values())),
        "notes": list(found.notes),
    }
    own = {"columns": list(found.columns), "told": found.told}
    return facts | {name: value for name, value in own.items() if value}


def _address(source: Any) -> str:
    """What `load_data` takes to find the source again: the word or the absolute path."""
    if not isinstance(source, str | os.PathLike):
        return "array"
    return source if isinstance(source, str) and source in NAMED else os.path.abspath(Path(source).expanduser())
