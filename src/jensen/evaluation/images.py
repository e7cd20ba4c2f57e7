"""Rows as pixels, and grids of them: plain PNG, no axes, the same bytes every time.

Levels 0 … k-1 go to 0 … 255 by round(255 x / (k - 1)). Real values are cut to a stated range [low, high] and scaled
the same way. Channels: 1 is grey, 3 is RGB, 4 is RGBA; 2 are shown as (a, b, b), so that equal values are grey. A
missing value (NaN) is drawn at the lower end. Small images are enlarged by a whole factor, every pixel a square.
"""

import io
import math
import textwrap
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from jensen.data.space import Levels, Space
from jensen.errors import InputError
from jensen.evaluation.figures import check_png, printable, save_figure
from jensen.evaluation.vectors import vectors_figure
from jensen.files import written_whole

GAP = 2
CELL = 64  # pixels: the side that small images are enlarged to
WIDEST, NARROWEST = 8192, 240
INK, LONGEST = (90, 90, 90), 400  # of words, and how many letters
Pixels = np.ndarray[Any, np.dtype[np.uint8]]
Range = tuple[float, float]


def is_image(event_shape: tuple[int, ...]) -> bool:
    """Whether rows of this shape are pictures: (C, H, W) with at most four channels."""
    return len(event_shape) == 3 and event_shape[0] <= 4


def finite_range(x: Tensor) -> Range:
    """The least and the greatest finite value, kept apart."""
    values = x.double()
    values = values[values.isfinite()]
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    return (low, high) if high > low else (low - 0.5, low + 0.5)


def to_pixels(x: Tensor, space: Space, value_range: Range | None = None) -> Pixels:
    """Image rows `(N, C, H, W)` in the units of `space` as uint8 `(N, H, W, c)`, c = 1, 3 or 4.

    Args:
        x: the rows.
        space: Levels(k), in data or model units, or Real.
        value_range: what black and white stand for; by default the end levels, or the finite range of x.
    """
    ends = (space.first, space.first + space.step * (space.k - 1)) if isinstance(space, Levels) else finite_range(x)
    low, high = value_range or ends
    scaled = ((x.double() - low) / (high - low)).nan_to_num(nan=0.0).clamp(0, 1)
    grey = (255 * scaled).round().byte().permute(0, 2, 3, 1).numpy()
    channels: Pixels = grey[..., [0, 1, 1]] if grey.shape[-1] == 2 else grey
    return channels


def enlargement(height: int, width: int, cell: int = CELL) -> int:
    """The whole factor that brings an image near `cell` pixels."""
    return max(1, round(cell / max(height, width)))


def grid(
    pixels: Pixels,
    *,
    columns: int | None = None,
    captions: Sequence[str] | None = None,
    cell: int = CELL,
    clear: bool = False,
) -> Image.Image:
    """Pictures in rows and columns with gaps of `GAP` pixels, read like text.

    Args:
        pixels: `(N, H, W, c)` uint8.
        columns: how many a row; about a square if None.
        captions: a line under each.
        cell: the side that small images are enlarged to.
        clear: transparent gaps; white ones otherwise, except between RGBA images.
    """
    count, height, width, channels = pixels.shape
    if count == 0:
        raise InputError("there are no rows to draw; give at least one")
    if captions is not None and len(captions) != count:
        raise InputError(f"there must be one caption for each of the {count} pictures, got {len(captions)}")
    across = min(count, max(1, columns or math.ceil(math.sqrt(count))))
    down = math.ceil(count / across)
    scale = min(enlargement(height, width, cell), max(1, WIDEST // (across * width)))
    line = _line_height() if captions is not None else 0
    step_y, step_x = height * scale + line + GAP, width * scale + GAP
    mode = "RGBA" if clear or channels == 4 else "RGB"
    blank = (255, 255, 255, 0) if mode == "RGBA" else (255, 255, 255)
    sheet = Image.new(mode, (GAP + across * step_x, GAP + down * step_y), blank)
    for number, picture in enumerate(pixels):
        x, y = GAP + number % across * step_x, GAP + number // across * step_y
        sheet.paste(_picture(picture, scale), (x, y))
        if captions is not None:
            _caption(sheet, captions[number], x, y + height * scale, width * scale)
    return sheet


def save_grid(
    x: Tensor,
    space: Space,
    path: str | Path,
    *,
    columns: int | None = None,
    captions: Sequence[str] | None = None,
    value_range: Range | None = None,
    names: Sequence[str] | None = None,
    title: str = "",
    lines: Sequence[str] = (),
) -> None:
    """Write rows as one PNG: images as a grid, vectors as a scatter plot or histograms.

    Args:
        x: `(N, *event)` in data units.
        space: of the data.
        path: the file, ending in .png; written whole or not at all.
        columns: images in a row of the grid; about a square if None.
        captions: a line under each image.
        value_range: what black and white stand for in real-valued images; their own finite range if None.
        names: of the columns of vectors, where they have any.
        title: what the grid shows, written above it.
        lines: what each of its lines shows, written beside them.
    """
    path = check_png(path)
    if not is_image(tuple(x.shape[1:])):
        save_figure(vectors_figure({"rows": x}, names), path)
        return
    sheet = grid(to_pixels(x, space, value_range), columns=columns, captions=captions)
    content = png(framed(sheet, title, lines) if title or lines else sheet)
    with written_whole(path) as aside:
        aside.write_bytes(content)


def framed(sheet: Image.Image, title: str, lines: Sequence[str] = ()) -> Image.Image:
    """A grid with words above it and beside each of its lines, which are equally high."""
    font, high = _font(), _line_height()
    left = GAP + max((math.ceil(font.getlength(printable(line))) for line in lines), default=-GAP) + GAP
    width = max(left + sheet.width, NARROWEST)
    told = textwrap.wrap(printable(title, LONGEST), max(1, int((width - 2 * GAP) / font.getlength("n"))))
    top = high * len(told) + 2 * GAP
    frame = Image.new("RGB", (width, top + sheet.height), (255, 255, 255))
    frame.paste(sheet.convert("RGB"), (left, top))
    draw = ImageDraw.Draw(frame)
    for number, line in enumerate(told):
        draw.text((GAP, GAP + number * high), line, fill=INK, font=font)
    for number, line in enumerate(lines):
        middle = top + (number + 0.5) * sheet.height / len(lines)
        draw.text((GAP, middle - high / 2), printable(line), fill=INK, font=font)
    return frame


def save_images(x: Tensor, space: Space, folder: str | Path) -> None:
    """Write image rows as 000000.png, 000001.png, …, one pixel a value, as deep as the data.

    Up to 256 levels make 8-bit files, more make 16-bit ones (grey only); with fewer than 256 they are spread over the
    whole depth, so that pictures can be seen. Real values are cut to their finite range, which loses their scale:
    `.npy` keeps it.
    """
    if not is_image(tuple(x.shape[1:])):
        raise InputError(f"rows of shape {tuple(x.shape[1:])} are no images; name a file ending in .npy, .npz or .csv")
    deep = isinstance(space, Levels) and space.k > 256
    if deep and x.shape[1] != 1:
        raise InputError(
            f"PNG files here hold 16 bits in grey images only, and these have {x.shape[1]} channels; use .npy"
        )
    pictures = _deep(x, space) if isinstance(space, Levels) and deep else [_picture(p, 1) for p in to_pixels(x, space)]
    for number, picture in enumerate(pictures):
        with written_whole(Path(folder) / f"{number:06d}.png") as aside:
            picture.save(aside, "PNG")


def _deep(x: Tensor, space: Levels) -> list[Image.Image]:
    values = (x[:, 0].double() * 65535 / (space.k - 1)).round().numpy().astype(np.uint16)
    return [Image.fromarray(rows) for rows in values]


def png(image: Image.Image) -> bytes:
    """The image as PNG, with no metadata."""
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return out.getvalue()


def _picture(pixels: Pixels, scale: int) -> Image.Image:
    large = np.repeat(np.repeat(pixels, scale, 0), scale, 1)
    return Image.fromarray(large[..., 0] if large.shape[-1] == 1 else large)


def _caption(sheet: Image.Image, text: str, x: int, y: int, width: int) -> None:
    draw, font, shown = ImageDraw.Draw(sheet), _font(), printable(text)
    while len(shown) > 1 and draw.textlength(shown, font=font) > width:
        shown = shown[:-2] + "…" if len(shown) > 2 else shown[:1]
    draw.text((x + (width - draw.textlength(shown, font=font)) / 2, y), shown, fill=INK, font=font)


def _line_height() -> int:
    return 15


@cache
def _font() -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), 11)
