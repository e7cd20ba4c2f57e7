"""What an array means: which axis is which, and what values its cells can take. Nothing is guessed from values.

uint8 and uint16 are levels (256 and 65,536 of them unless `levels` says otherwise), bool is two levels, floats are
real values. Images of levels end up as `(N, C, H, W)`: from `(N, H, W)` grey, from `(N, C, H, W)`, or from
`(N, H, W, C)`, with C ≤ 4 and `layout` (HW, CHW, HWC) to tell where the shape alone does not. Levels of shape
`(N, D)` are vectors. Floats keep their shape unless `layout` is given. NaN is a missing cell; inf is refused. Floats are
levels where `levels` says so, and are then whole numbers or NaN: that is how levels with missing cells are written.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from jensen.data.rows import LARGEST, TOO_LARGE, Array
from jensen.data.space import Levels, Real, Space
from jensen.errors import InputError

LAYOUTS = ("HW", "CHW", "HWC")
MAX_CHANNELS = 4
CHECK_ROWS = 4096


def as_array(data: "Array | Tensor") -> Array:
    """An ndarray of a tensor or ndarray, in the machine's byte order."""
    if isinstance(data, Tensor):
        return _from_tensor(data)
    if isinstance(data, np.ma.MaskedArray):
        raise InputError("masked arrays are not read; mark missing cells with data.filled(numpy.nan)")
    return data.astype(data.dtype.newbyteorder("="), copy=False)


def _from_tensor(data: Tensor) -> Array:
    data = data.detach().cpu()
    if data.layout != torch.strided:
        raise InputError(f"sparse tensors are not read, got {data.layout}; call .to_dense()")
    array: Array = (data.float() if data.dtype == torch.bfloat16 else data).numpy()
    return array


def interpret(x: Array, levels: int | None, layout: str | None, where: str) -> tuple[Array, Space]:
    """The array as rows of a space: channels first for images of levels, in a dtype that `Examples` takes."""
    if x.ndim < 2 or 0 in x.shape:
        raise InputError(f"{where} must have shape (rows, ...) without a zero, got {x.shape}; one column is (rows, 1)")
    if x.dtype.kind == "f" and levels is None:
        return _reals(x, layout, where)
    return _levels(x, levels, layout, where)


def _reals(x: Array, layout: str | None, where: str) -> tuple[Array, Space]:
    if x.dtype.itemsize > 8:
        raise InputError(f"{where} holds {x.dtype}; convert it with .astype('float64')")
    x = x.astype(np.float32) if x.dtype == np.float16 else x
    for start in range(0, len(x), CHECK_ROWS):
        _check_size(x[start : start + CHECK_ROWS], start, where)
    return (x if layout is None else _channels_first(x, layout, where)), Real()


def _check_size(x: Array, start: int, where: str) -> None:
    odd = np.abs(x) > LARGEST
    if odd.any():
        row, *index = np.argwhere(odd)[0].tolist()
        value, cell = x[(row, *index)], index[0] if len(index) == 1 else tuple(index)
        rule = "is not finite; values must be, or nan if missing" if np.isinf(value) else TOO_LARGE
        raise InputError(f"{where}, row {start + row}, cell {cell}: {value} {rule}")


def _levels(x: Array, levels: int | None, layout: str | None, where: str) -> tuple[Array, Space]:
    x, space = _declared_levels(x, levels, where)
    for start in range(0, len(x), CHECK_ROWS):
        _check_range(x[start : start + CHECK_ROWS], space, start, where)
    if x.dtype.kind == "f":
        x = x.astype(np.float32)  # holds 65,536 levels exactly, and NaN
    elif x.dtype not in (np.uint8, np.uint16):
        x = x.astype(np.uint8 if space.k <= 256 else np.uint16)
    return _images(x, layout, where), space


def _declared_levels(x: Array, levels: int | None, where: str) -> tuple[Array, Levels]:
    """The array with its declared levels; all but bool, uint8 and uint16 need `levels` to be levels at all."""
    if x.dtype.kind == "f" and levels is not None:
        return x, Levels(levels)
    if x.dtype.kind not in "biu":
        raise InputError(f"{where} holds {x.dtype}; save numbers as uint8, uint16, float32 or float64")
    if x.dtype.kind == "b":
        return x.astype(np.uint8), Levels(2 if levels is None else levels)
    if x.dtype in (np.uint8, np.uint16):
        return x, _declared(x.dtype, levels, where)
    if levels is None:
        raise InputError(
            f"{where} holds {x.dtype}; if its values are K levels 0, …, K-1 give levels=K (--levels K), "
            "if they are real numbers convert it with .astype('float32')"
        )
    return x, Levels(levels)


def _declared(dtype: "np.dtype[Any]", levels: int | None, where: str) -> Levels:
    most = np.iinfo(dtype).max + 1
    if levels is not None and levels > most:
        raise InputError(f"levels={levels} was given, but {where} holds {dtype}, which has at most {most} levels")
    return Levels(most if levels is None else levels)


def _check_range(x: Array, space: Levels, start: int, where: str) -> None:
    broken = (x != np.floor(x)) & ~np.isnan(x) if x.dtype.kind == "f" else np.zeros(0, bool)
    if broken.any():
        index = tuple(np.argwhere(broken)[0].tolist())
        raise InputError(
            f"{where} holds the value {x[index]} in row {start + index[0]}, which is none of the levels "
            f"0, …, {space.k - 1}; leave out levels={space.k} if these are real numbers"
        )
    outside = (x < 0) | (x >= space.k)
    if outside.any():
        index = tuple(np.argwhere(outside)[0].tolist())
        raise InputError(
            f"{where} holds the value {x[index]} in row {start + index[0]}, outside 0, …, {space.k - 1}; "
            f"give the true number of levels (--levels K), which is more than {space.k}, or correct the data"
        )


def _images(x: Array, layout: str | None, where: str) -> Array:
    """Levels of any allowed shape; images get their channel axis first."""
    if x.ndim == 2 and layout is None:
        return x
    return _channels_first(x, layout or _guess_layout(x, where), where)


def _guess_layout(x: Array, where: str) -> str:
    if x.ndim == 3:
        return "HW"
    fits = [layout for layout, axis in (("CHW", 1), ("HWC", -1)) if x.ndim == 4 and x.shape[axis] <= MAX_CHANNELS]
    if len(fits) == 2:
        raise InputError(
            f"{where} has shape {x.shape}, which can be read as CHW or HWC; say which with --layout CHW or HWC"
        )
    if not fits:
        raise InputError(f"{where} has shape {x.shape}; images are (N, H, W), (N, C, H, W) or (N, H, W, C) with C ≤ 4")
    return fits[0]


def _channels_first(x: Array, layout: str, where: str) -> Array:
    if layout not in LAYOUTS:
        raise InputError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    if x.ndim != len(layout) + 1:
        raise InputError(f"layout {layout} wants {len(layout) + 1} axes (rows first), but {where} has shape {x.shape}")
    x = x[:, None] if layout == "HW" else np.moveaxis(x, -1, 1) if layout == "HWC" else x
    if x.shape[1] > MAX_CHANNELS:
        raise InputError(
            f"layout {layout} gives {x.shape[1]} channels for {where} of shape {x.shape}; at most 4 are read"
        )
    return x
