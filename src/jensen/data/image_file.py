"""One image file: what its header says, and its pixels without loss.

Read as they are: grey, RGB and RGBA of 8 bits, grey of 16 bits. Unfolded exactly: palettes to their true colours
(RGBA if they have transparency), a transparent colour in RGB to RGBA, 1-bit pictures to grey 0 and 255. Turned upright
by their EXIF orientation. A multi-picture JPEG (as phones write) gives its first, main picture. All else is
refused by name: CMYK, Lab, HSV, YCbCr, float and 32-bit pixels, grey with alpha, premultiplied alpha, 16-bit colour
(which Pillow would cut to 8 bits without a word), animations, several pages. Values are as stored: colour profiles
and gamma are not applied.
"""

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from jensen.data.files import opened, shown
from jensen.data.rows import Array
from jensen.errors import InputError

FORMATS = ("PNG", "JPEG", "BMP", "DIB", "GIF", "TIFF", "WEBP", "PPM")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm", ".pnm")
CHANNELS = {"L": 1, "RGB": 3, "RGBA": 4, "I;16": 1, "I;16B": 1, "I;16L": 1}
RESAMPLING = Image.Resampling.LANCZOS
BITS_PER_SAMPLE, ORIENTATION, SAMPLES_PER_PIXEL, EXTRA_SAMPLES = 258, 274, 277, 338
PREMULTIPLIED = 1
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (5, 6, 7, 8)


@dataclass(frozen=True)
class Header:
    """What an image will be once read: its upright size, channels and bits; `orientation` as EXIF numbers it."""

    path: Path
    channels: int
    bits: int
    height: int
    width: int
    orientation: int
    remark: str | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    @property
    def dtype(self) -> "np.dtype[Any]":
        """uint8 or uint16."""
        return np.dtype(np.uint16 if self.bits == 16 else np.uint8)


def read_header(path: Path) -> Header:
    """The header of an image that can be read without loss; `InputError` for any other."""
    with _open(path) as (image, stream):
        orientation = _orientation(image, stream)
        _refuse_frames(image, path)
        mode, remark = _target_mode(image, path)
        bits = 16 if mode.startswith("I;16") else 8
        _refuse_depth(image, stream, bits, CHANNELS[mode], path)
        # Pillow has turned a TIFF's size already
        turned = orientation in SIDEWAYS and image.format != "TIFF"
        width, height = image.size[::-1] if turned else image.size
        return Header(path, CHANNELS[mode], bits, height, width, orientation, remark)


def read_pixels(header: Header, size: tuple[int, int] | None = None) -> Array:
    """The pixels `(C, H, W)`, upright, resized (height, width) by Lanczos if a size is given."""
    with _open(header.path) as (image, _):
        mode, _ = _target_mode(image, header.path)
        turned = header.orientation in UPRIGHT and image.format != "TIFF"
        image.load()
        upright = image if image.mode == mode else image.convert(mode)
        upright = upright.transpose(UPRIGHT[header.orientation]) if turned else upright
        if size is not None and size != header.size:
            upright = upright.resize(size[::-1], RESAMPLING)
        pixels = np.asarray(upright).astype(header.dtype, copy=False)
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)


@contextmanager
def _open(path: Path) -> Iterator[tuple[Image.Image, BinaryIO]]:
    """The opened, not yet decoded image. Whatever the decoder says of a broken file becomes one `InputError`."""
    with opened(path) as stream, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(stream, formats=FORMATS) as image:
                yield image, stream
        except InputError:
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning):
            limit = f"{Image.MAX_IMAGE_PIXELS:,}"
            raise InputError(f"image {shown(path)} promises more than {limit} pixels; make it smaller first") from None
        except UnidentifiedImageError:
            raise InputError(
                f"image {shown(path)} cannot be read: it is no image, or of a kind not known here"
            ) from None
        except Exception as error:  # Pillow raises nearly anything on a corrupt file
            raise InputError(f"image {shown(path)} cannot be read: {_one_line(error)}; replace or remove it") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _target_mode(image: Image.Image, path: Path) -> tuple[str, str | None]:
    """The mode the pixels are read in, and a remark if that is not the mode of the file."""
    transparent = "transparency" in image.info
    if image.mode == "P":
        return ("RGBA" if image.has_transparency_data else "RGB"), "palette images read as their true colours"
    if image.mode == "RGB" and transparent:
        return "RGBA", "RGB images with a transparent colour read as RGBA"
    if image.mode == "1" and not transparent:
        return "L", "1-bit images read as grey 0 and 255"
    if image.mode not in CHANNELS or (transparent and CHANNELS[image.mode] == 1):
        kind = f"{image.mode} with transparency" if transparent else image.mode
        raise InputError(f"image {shown(path)} has the mode {kind}; convert it to grey, RGB or RGBA")
    return image.mode, ("multi-picture JPEGs read as their main picture" if image.format == "MPO" else None)


def _refuse_frames(image: Image.Image, path: Path) -> None:
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        raise InputError(f"image {shown(path)} has {frames} frames; save the one you want as an image of its own")


def _refuse_depth(image: Image.Image, stream: BinaryIO, bits: int, channels: int, path: Path) -> None:
    """Refuse what Pillow would read at less depth, or with fewer channels, than the file has."""
    true_bits, samples = _true_depth(image, stream)
    if true_bits > bits:
        raise InputError(
            f"image {shown(path)} has {true_bits} bits a channel, which can be read for grey images only; "
            "convert it to 8 bits a channel, or load the pixels from .npy as uint16"
        )
    if samples is not None and samples != channels and image.mode != "P":
        raise InputError(
            f"image {shown(path)} has {samples} channels, of which {channels} can be read; save it as RGB or RGBA"
        )
    if image.format == "TIFF" and PREMULTIPLIED in image.tag_v2.get(EXTRA_SAMPLES, ()):  # type: ignore[attr-defined]
        raise InputError(
            f"image {shown(path)} has premultiplied transparency, which is not undone exactly; save it as PNG"
        )


def _true_depth(image: Image.Image, stream: BinaryIO) -> tuple[int, int | None]:
    """Bits and number of channels as the file itself declares them."""
    if image.format == "PNG":
        return _read_at(stream, 24, 1)[0], None
    if image.format == "TIFF":
        tags = image.tag_v2  # type: ignore[attr-defined]
        return max(tags.get(BITS_PER_SAMPLE, (1,))), tags.get(SAMPLES_PER_PIXEL, 1)
    if image.format == "PPM":
        return (16 if _netpbm_maximum(_read_at(stream, 0, 4096)) > 255 else 8), None
    return 8, None


def _netpbm_maximum(head: bytes) -> int:
    """The largest value a PGM or PPM file declares (1 for a PBM): the fourth word, comments aside."""
    words = b" ".join(line.split(b"#")[0] for line in head.split(b"\n")).split()
    return int(words[3]) if words[0] in (b"P2", b"P3", b"P5", b"P6") else 1


def _orientation(image: Image.Image, stream: BinaryIO) -> int:
    exif = Image.Exif()
    if image.format == "PNG":  # Pillow would decode the whole image to find it
        exif.load(_png_exif(stream))
    else:
        exif = image.getexif()
    value = exif.get(ORIENTATION, 1)
    return value if value in UPRIGHT else 1


def _png_exif(stream: BinaryIO) -> bytes:
    """The eXIf chunk of a PNG, wherever it stands; empty if there is none."""
    position = 8
    while len(head := _read_at(stream, position, 8)) == 8:
        length, name = struct.unpack(">I4s", head)
        if name == b"eXIf":
            return b"Exif\0\0" + _read_at(stream, position + 8, min(length, 1 << 20))
        position += length + 12
    return b""


def _read_at(stream: BinaryIO, position: int, count: int) -> bytes:
    """Some bytes of the file, with the decoder's own place in it kept."""
    place = stream.tell()
    stream.seek(position)
    data = stream.read(count)
    stream.seek(place)
    return data
