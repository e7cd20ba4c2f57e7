"""A folder of images, read at any depth in natural order (`2.png` before `10.png`).

Classes: if the images lie in sub-folders, the top sub-folder is the class. If the top sub-folders are `train` with
`test` and/or `valid` (or `val`), they are the parts of the split and classes are looked for inside them. Files
that are no images and hidden files are counted and left out. Every header is read before any pixel, so that
what does not fit (a kind, a size, the memory) is told at once. Sizes are made equal only on request, by Lanczos
resampling to (height, width) without keeping the ratio of the sides.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from jensen.data.files import require_memory, shown
from jensen.data.image_file import SUFFIXES, Header, read_header, read_pixels
from jensen.data.rows import Array, Rows, Source
from jensen.errors import InputError

UNREADABLE = (".heic", ".heif", ".avif", ".jp2", ".jxl", ".svg", ".psd", ".exr", ".hdr", ".tga", ".dng", ".cr2", ".nef")
PART_NAMES = {"train": "train", "test": "test", "valid": "valid", "val": "valid"}


def read_folder(folder: Path, size: tuple[int, int] | None = None) -> Source:
    """All images of a folder as `(N, C, H, W)` levels, with classes and parts as its sub-folders give them."""
    walk = _Walk(folder)
    files = sorted(walk.images(), key=lambda path: natural_key(path.relative_to(folder).as_posix()))
    if not files:
        raise InputError(
            f"folder {shown(folder)} holds no images ({', '.join(SUFFIXES)}); {walk.ignored_words() or 'it is empty'}"
        )
    headers = {path: read_header(path) for path in files}
    _check_alike(folder, list(headers.values()), size)
    parts = _parts(folder, files)
    classes = _classes(folder, parts)
    names = tuple(sorted(set(classes.values()), key=natural_key)) if classes else ()
    rows = {part: _rows(folder, [headers[p] for p in paths], size, classes, names) for part, paths in parts.items()}
    levels = 1 << headers[files[0]].bits
    return Source(
        "images", rows, levels, tuple(map(printable, names)), notes=_notes(list(headers.values()), size, walk)
    )


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """A sorting key under which numbers inside names count as numbers.

    >>> sorted(["a10", "a2", "a02"], key=natural_key)
    ['a02', 'a2', 'a10']
    """
    pieces = re.split(r"([0-9]+)", name)
    return [(int(piece), 0, piece) if piece.isdecimal() else (-1, 1, piece) for piece in pieces] + [(-1, 2, name)]


def printable(name: str) -> str:
    """A file name as valid Unicode: bytes that are none are shown as escapes."""
    return name.encode("utf-8", "backslashreplace").decode()


class _Walk:
    """The image files below a folder; every real folder is entered once, so that links cannot loop."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: set[tuple[int, int]] = set()
        self.ignored: Counter[str] = Counter()

    def images(self) -> Iterator[Path]:
        """Every image file; what is no image is counted in `ignored`."""
        return self._below(self.folder)

    def _below(self, folder: Path) -> Iterator[Path]:
        for path in sorted(self._entries(folder), key=lambda path: natural_key(path.name)):
            if path.name.startswith((".", "__MACOSX")):
                self.ignored["hidden"] += 1
            elif path.is_dir():
                yield from self._below(path)
            elif path.suffix.lower() in UNREADABLE:
                raise InputError(f"image {shown(path)} is of a kind that is not read; convert it to PNG, or remove it")
            elif path.suffix.lower() in SUFFIXES:
                yield path
            else:
                self.ignored[path.suffix.lower() or "no ending"] += 1

    def _entries(self, folder: Path) -> list[Path]:
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in self.seen:
                self.ignored["folders met twice"] += 1
                return []
            self.seen.add((status.st_dev, status.st_ino))
            return [folder / name for name in os.listdir(folder)]
        except OSError as error:
            raise InputError(f"cannot read folder {shown(folder)}: {error.strerror or error}") from None

    def ignored_words(self) -> str:
        """What was left out, for a message."""
        if not self.ignored:
            return ""
        kinds = ", ".join(f"{printable(kind)!r} {count}" for kind, count in sorted(self.ignored.items()))
        return f"left out, being no images: {kinds}"


def _parts(folder: Path, files: list[Path]) -> dict[str, list[Path]]:
    """The files of each part of the split, as the names of the top folders give them."""
    tops = {path: _top(path, folder) for path in files}
    named = set(tops.values())
    found = [PART_NAMES.get(top or "") for top in named]
    if None in found or "train" not in found or len(found) < 2:
        return {"all": files}
    if len(set(found)) < len(found):
        raise InputError(f"folder {shown(folder)} holds both 'val' and 'valid'; keep one of them")
    return {part: [p for p in files if PART_NAMES[tops[p] or ""] == part] for part in sorted(set(map(str, found)))}


def _top(path: Path, folder: Path) -> str | None:
    """The first folder on the way from `folder` to the file; None if the file lies in it directly."""
    inside = path.relative_to(folder).parts
    return inside[0] if len(inside) > 1 else None


def _classes(folder: Path, parts: dict[str, list[Path]]) -> dict[Path, str]:
    """The class of every file, {} if there are none; images inside and outside of class folders are refused."""
    roots = {path: _root(folder, path, part) for part, paths in parts.items() for path in paths}
    tops = {path: _top(path, root) for path, root in roots.items()}
    outside = [path for path, top in tops.items() if top is None]
    if len(outside) not in (0, len(tops)):
        inside = next(path for path, top in tops.items() if top is not None)
        raise InputError(
            f"folder {shown(folder)} has images in class folders ({shown(inside.relative_to(folder))}), "
            f"and outside ({shown(outside[0].relative_to(folder))}); give every image a class folder, or none"
        )
    return {} if outside else {path: str(top) for path, top in tops.items()}


def _root(folder: Path, path: Path, part: str) -> Path:
    return folder if part == "all" else folder / str(_top(path, folder))


def _check_alike(folder: Path, headers: list[Header], size: tuple[int, int] | None) -> None:
    """All images must agree in channels, depth and, unless they are resized, size."""
    first = headers[0]
    for header in headers:
        odd, usual = shown(header.path.relative_to(folder)), shown(first.path.relative_to(folder))
        if (header.channels, header.bits) != (first.channels, first.bits):
            raise InputError(
                f"image {odd} has {_kind(header)}, but {usual} has {_kind(first)}; convert all images of "
                f"{shown(folder)} to the same kind"
            )
        if size is None and header.size != first.size:
            raise InputError(
                f"image {odd} is {_size(header.size)}, but {usual} is {_size(first.size)} (height x width); "
                f"resize all with --size HxW, for example --size {_size(first.size)}"
            )


def _kind(header: Header) -> str:
    return f"{header.channels} {'channel' if header.channels == 1 else 'channels'} of {header.bits} bits"


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _rows(
    folder: Path, headers: list[Header], size: tuple[int, int] | None, classes: dict[Path, str], names: Iterable[str]
) -> Rows:
    codes = {name: code for code, name in enumerate(names)}
    labels = np.array([codes[classes[header.path]] for header in headers], np.int64) if classes else None
    paths = tuple(printable(header.path.relative_to(folder).as_posix()) for header in headers)
    return Rows(_pixels(headers, size, f"folder {shown(folder)}"), labels, paths)


def _pixels(headers: list[Header], size: tuple[int, int] | None, where: str) -> Array:
    first = headers[0]
    shape = (len(headers), first.channels, *(size or first.size))
    require_memory(int(np.prod(shape, dtype=object)) * first.dtype.itemsize, where)
    values = np.empty(shape, first.dtype)
    for row, header in zip(values, headers, strict=True):
        row[...] = read_pixels(header, size)
    return values


def _notes(headers: list[Header], size: tuple[int, int] | None, walk: _Walk) -> tuple[str, ...]:
    counts = Counter(header.remark for header in headers if header.remark)
    counts["images turned upright by their EXIF orientation"] = sum(header.orientation != 1 for header in headers)
    counts[f"images resized to {_size(size)} by Lanczos" if size else ""] = sum(
        header.size != size for header in headers
    )
    counted = [f"{words}: {count}" for words, count in counts.items() if count and words]
    return (*counted, *filter(None, [walk.ignored_words()]))
