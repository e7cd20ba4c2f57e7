"""NumPy files: `.npy` (one array) and `.npz` (a zip of them). Never a pickle.

An `.npz` holds `x`, or `x_train` with `x_test` and/or `x_valid`, each with integer or string labels `y…` of the
same ending if it likes; or one single array under any name.
"""

import io
import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from jensen.data.files import ByteStream, check_regular, opened, read_values, require_memory, shown
from jensen.data.rows import Array, Rows, Source
from jensen.errors import InputError

HEADER_BYTES = 16_384
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
PARTS = ("train", "valid", "test")


def read_npy(path: Path) -> Source:
    """The array of an `.npy` file."""
    size = check_regular(path)
    with opened(path) as stream:
        return Source("npy", {"all": Rows(_read_array(stream, size, f"file {shown(path)}"))})


def _read_array(stream: ByteStream, size: int, where: str, strings: bool = False) -> Array:
    """The array in an npy stream of `size` bytes, checked before anything is allocated."""
    shape, fortran, dtype, offset = _read_header(stream, where)
    if dtype.kind not in ("biuf" + "U" * strings) or dtype.itemsize == 0:
        raise InputError(f"{where} holds {_dtype_word(dtype)}; save numbers as uint8, uint16, float32 or float64")
    promised = math.prod(shape) * dtype.itemsize
    if promised != size - offset:
        state = "is truncated" if promised > size - offset else "is corrupt"
        raise InputError(f"{where} {state}: its header promises {promised} bytes of values, it has {size - offset}")
    require_memory(promised, where)
    stream.seek(offset)
    values = read_values(stream, dtype, shape[::-1] if fortran else shape, where)
    values = values.T if fortran else values
    return np.asarray(values.astype(dtype.newbyteorder("="), copy=False), order="C")


def _read_header(stream: ByteStream, where: str) -> tuple[tuple[int, ...], bool, "np.dtype[Any]", int]:
    head = io.BytesIO(stream.read(HEADER_BYTES))
    try:
        version = np.lib.format.read_magic(head)
        shape, fortran, dtype = HEADERS[version](head)
    except KeyError:
        raise InputError(f"{where} has npy version {version}; save it again with numpy.save") from None
    except Exception as error:  # the header is evaluated as a Python literal: nearly anything can come out
        raise InputError(f"{where} is no npy array: {_one_line(error)}") from None
    if min(shape, default=0) < 0:
        raise InputError(f"{where} is corrupt: its header gives the shape {shape}")
    return shape, fortran, dtype, head.tell()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _dtype_word(dtype: "np.dtype[Any]") -> str:
    words = {"O": "pickled objects", "V": "structured records", "c": "complex numbers", "M": "dates", "m": "times"}
    return words.get(dtype.kind, "text" if dtype.kind in "SU" else f"{dtype}")


def read_npz(path: Path) -> Source:
    """The arrays of an `.npz` file; see the module's docstring for the names it may hold."""
    check_regular(path)
    where = f"file {shown(path)}"
    with opened(path) as stream:
        try:
            with zipfile.ZipFile(stream) as archive:
                return _read_members(archive, where)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
            raise InputError(f"{where} is a corrupt npz file: {_one_line(error)}") from None


def _read_members(archive: zipfile.ZipFile, where: str) -> Source:
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    endings = _endings(list(members), where)
    require_memory(sum(members[key].file_size for key in endings.values()), where)
    x = {part: _member(archive, members[key], where) for part, key in endings.items()}
    wanted = {part: _label_key(key) for part, key in endings.items()}
    y = {p: _member(archive, members[key], where, strings=True) for p, key in wanted.items() if key in members}
    codes, class_names = _codes(y, x, where)
    ignored = sorted(set(members) - set(endings.values()) - set(wanted.values()))
    notes = (f"arrays not used: {', '.join(ignored)}",) if ignored else ()
    parts = {part: Rows(values, codes.get(part)) for part, values in x.items()}
    return Source("npz", parts, class_names=class_names, notes=notes)


def _label_key(key: str) -> str:
    return "y" + key.removeprefix("x") if key.startswith("x") else "y"


def _endings(keys: list[str], where: str) -> dict[str, str]:
    """Which part each array of rows is: {"all": "x"} or {"train": "x_train", "test": "x_test"}."""
    given = {part: f"x_{part}" for part in PARTS if f"x_{part}" in keys}
    if "x" in keys and not given:
        return {"all": "x"}
    if "train" in given and len(given) > 1 and "x" not in keys:
        return given
    if len(keys) == 1 and not given:
        return {"all": keys[0]}
    raise InputError(
        f"{where} holds the arrays {', '.join(map(repr, keys)) or 'none'}; name them x, or x_train and x_test "
        "(and x_valid), with labels y, y_train, y_test, or save a single array"
    )


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, where: str, strings: bool = False) -> Array:
    with archive.open(info) as stream:
        return _read_array(stream, info.file_size, f"{where}, array {info.filename!r},", strings)


def _codes(y: dict[str, Array], x: dict[str, Array], where: str) -> tuple[dict[str, Array], tuple[str, ...]]:
    """Class codes 0, …, K-1 of all parts together, in the sorted order of the labels."""
    if not y:
        return {}, ()
    for part in x:
        if part not in y or y[part].shape != x[part].shape[:1] or y[part].dtype.kind == "f":
            got = f"{y[part].dtype} of shape {y[part].shape}" if part in y else "none"
            raise InputError(f"{where}: labels must be one integer or string a row of every part, got {got} for {part}")
    names, codes = np.unique(np.concatenate(list(y.values())), return_inverse=True)
    ends = np.cumsum([len(values) for values in y.values()])[:-1]
    return dict(zip(y, np.split(codes.astype(np.int64), ends), strict=True)), tuple(map(str, names))
