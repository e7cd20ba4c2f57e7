"""Folders of images: every kind is read without loss or refused by name, and hostile files do no harm."""

import contextlib
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from jensen.data import Levels, Split, files, load_data
from jensen.data.images import natural_key
from jensen.errors import InputError

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (5, 6), np.uint8)
RGB = RNG.integers(0, 256, (5, 6, 3), np.uint8)
RGBA = RNG.integers(0, 256, (5, 6, 4), np.uint8)
DEEP = RNG.integers(0, 65536, (5, 6), np.uint16)


def fill(folder: Path, pixels: np.ndarray = GREY, count: int = 12, suffix: str = "png", **options: Any) -> Path:
    """A folder with `count` equal images 0.png, 1.png, …"""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.fromarray(pixels).save(folder / f"{i}.{suffix}", **options)
    return folder


def first(split: Split) -> np.ndarray:
    """The image that comes first in the source."""
    parts = (split.train, split.valid, split.test)
    return next(part.x[part.id == 0][0].numpy() for part in parts if 0 in part.id)


def names(split: Split) -> list[str]:
    """File names in source order."""
    parts = (split.train, split.valid, split.test)
    pairs = [pair for part in parts for pair in zip(part.id.tolist(), part.names or (), strict=True)]
    return [name for _, name in sorted(pairs)]


def refused(folder: Path, message: str, **options: Any) -> None:
    with pytest.raises(InputError, match=message) as error:
        load_data(folder, **options)
    assert "\n" not in str(error.value)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *extra: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(extra) + pixels + chunk(b"IEND", b"")


# ------------------------------------------------------------------------------------------------ kinds


@pytest.mark.parametrize(
    ("pixels", "suffix", "shape"),
    [
        (GREY, "png", (1, 5, 6)),
        (RGB, "png", (3, 5, 6)),
        (RGBA, "png", (4, 5, 6)),
        (DEEP, "png", (1, 5, 6)),
        (GREY, "tif", (1, 5, 6)),
        (RGB, "tiff", (3, 5, 6)),
        (RGBA, "tif", (4, 5, 6)),
        (DEEP, "tif", (1, 5, 6)),
        (RGB, "bmp", (3, 5, 6)),
        (GREY, "PGM", (1, 5, 6)),
        (RGB, "ppm", (3, 5, 6)),
    ],
)
def test_kept_as_they_are(tmp_path: Path, pixels: np.ndarray, suffix: str, shape: tuple[int, ...]) -> None:
    split = load_data(fill(tmp_path / "d", pixels, suffix=suffix))
    expected = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)
    assert split.event_shape == shape
    assert np.array_equal(first(split), expected)
    assert first(split).dtype == pixels.dtype
    assert split.space == Levels(65536 if pixels.dtype == np.uint16 else 256)
    assert split.facts["notes"] == []


def test_big_endian_tiff(tmp_path: Path) -> None:
    folder = fill(tmp_path / "d", DEEP, 0)
    for i in range(10):
        Image.frombytes("I;16B", (6, 5), DEEP.astype(">u2").tobytes()).save(folder / f"{i}.tif")
    split = load_data(folder)
    assert np.array_equal(first(split)[0], DEEP)
    assert split.space == Levels(65536)


@pytest.mark.parametrize(("suffix", "channels"), [("jpg", 1), ("jpg", 3), ("webp", 3), ("gif", 3)])
def test_lossy_and_palette_formats_are_read(tmp_path: Path, suffix: str, channels: int) -> None:
    pixels = GREY if channels == 1 else RGB
    assert load_data(fill(tmp_path / "d", pixels, suffix=suffix)).event_shape == (channels, 5, 6)


def test_palette_becomes_its_true_colours(tmp_path: Path) -> None:
    folder = fill(tmp_path / "d", count=0)
    colours = np.array([[255, 0, 0], [0, 99, 0], [1, 2, 3]], np.uint8)
    codes = (np.arange(30).reshape(5, 6) % 3).astype(np.uint8)
    image = Image.fromarray(codes, "P")
    image.putpalette(colours.tobytes())
    for i in range(10):
        image.save(folder / f"{i}.png")
    split = load_data(folder)
    assert np.array_equal(first(split), np.moveaxis(colours[codes], -1, 0))
    assert split.facts["notes"] == ["palette images read as their true colours: 10"]
    for i in range(10):
        image.save(folder / f"{i}.png", transparency=bytes([0, 128, 255]))
    alpha = np.array([0, 128, 255], np.uint8)[codes]
    assert np.array_equal(first(load_data(folder)), np.concatenate([np.moveaxis(colours[codes], -1, 0), alpha[None]]))


def test_one_bit_becomes_grey(tmp_path: Path) -> None:
    folder = fill(tmp_path / "d", GREY > 127)
    assert Image.open(folder / "0.png").mode == "1"
    split = load_data(folder)
    assert np.array_equal(first(split)[0], np.where(GREY > 127, 255, 0))
    assert "1-bit images read as grey 0 and 255: 12" in split.facts["notes"]


def test_transparent_colour_in_rgb_is_not_lost(tmp_path: Path) -> None:
    colour = tuple(int(v) for v in RGB[2, 3])
    image = first(load_data(fill(tmp_path / "d", RGB, transparency=colour)))
    assert image.shape == (4, 5, 6)
    assert np.array_equal(image[:3], np.moveaxis(RGB, -1, 0))
    assert np.array_equal(image[3], np.where((RGB[2, 3] == RGB).all(-1), 0, 255))


def test_sixteen_bit_colour_is_refused(tmp_path: Path) -> None:
    rows = b"".join(b"\0" + os.urandom(36) for _ in range(5))
    folder = fill(tmp_path / "d", RGB)
    (folder / "3.png").write_bytes(png(6, 5, 16, 2, rows))
    assert Image.open(folder / "3.png").mode == "RGB"  # Pillow would cut the depth without a word
    refused(folder, r"3\.png' has 16 bits a channel, which can be read for grey images only; convert it")
    (folder / "3.png").write_bytes(png(6, 5, 16, 6, b"".join(b"\0" + bytes(48) for _ in range(5))))
    refused(folder, r"3\.png' has 16 bits a channel")


def tiff(bits: list[int], data: bytes, extra: list[int]) -> bytes:
    """A 6 × 5 uncompressed little-endian RGB TIFF written by hand, with `extra` samples of these kinds."""
    tags = [
        (256, 3, [6]),
        (257, 3, [5]),
        (258, 3, bits),
        (259, 3, [1]),
        (262, 3, [2]),
        (273, 4, [400]),
        (277, 3, [len(bits)]),
        (278, 3, [5]),
        (279, 4, [len(data)]),
        *([(338, 3, extra)] if extra else []),
    ]
    entries, tail = b"", b""
    for tag, kind, values in tags:
        packed = struct.pack("<" + ("H" if kind == 3 else "I") * len(values), *values)
        if len(packed) > 4:
            tail, packed = packed, struct.pack("<I", 200)
        entries += struct.pack("<HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    head = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    return (head.ljust(200, b"\0") + tail).ljust(400, b"\0") + data


def test_deep_and_many_channelled_tiff_are_refused(tmp_path: Path) -> None:
    folder = fill(tmp_path / "d", RGB)
    (folder / "3.tif").write_bytes(tiff([8, 8, 8], RGB.tobytes(), []))
    assert load_data(folder).event_shape == (3, 5, 6)
    (folder / "3.tif").write_bytes(tiff([16, 16, 16], bytes(180), []))
    refused(folder, r"3\.tif' has 16 bits a channel")
    (folder / "3.tif").write_bytes(tiff([8] * 4, bytes(120), [0]))
    refused(folder, r"3\.tif' has 4 channels, of which 3 can be read; save it as RGB or RGBA")
    (folder / "3.tif").write_bytes(tiff([8] * 4, bytes(120), [1]))
    refused(folder, r"3\.tif' has premultiplied transparency")


def test_deep_netpbm_is_refused(tmp_path: Path) -> None:
    folder = fill(tmp_path / "d", RGB)
    (folder / "3.ppm").write_bytes(b"P6 # note\n6 5\n65535\n" + bytes(180))
    refused(folder, r"3\.ppm' has 16 bits a channel")
    (folder / "3.ppm").rename(folder / "3.pgm")
    (folder / "3.pgm").write_bytes(b"P5\n6 5 4095\n" + bytes(60))
    refused(folder, r"3\.pgm' has the mode I")


@pytest.mark.parametrize(
    ("mode", "suffix"), [("CMYK", "jpg"), ("LAB", "tif"), ("F", "tif"), ("I", "tif"), ("LA", "png"), ("CMYK", "tif")]
)
def test_other_modes_are_refused_by_name(tmp_path: Path, mode: str, suffix: str) -> None:
    folder = fill(tmp_path / "d")
    Image.new(mode, (6, 5)).save(folder / f"4.{suffix}")
    refused(folder, rf"4\.{suffix}' has the mode {mode}; convert it to grey, RGB or RGBA")


def test_grey_with_a_transparent_colour_is_refused(tmp_path: Path) -> None:
    folder = fill(tmp_path / "d")
    Image.fromarray(GREY).save(folder / "4.png", transparency=7)
    refused(folder, r"4\.png' has the mode L with transparency")


@pytest.mark.parametrize("suffix", ["gif", "png", "tif", "webp"])
def test_several_frames_are_refused(tmp_path: Path, suffix: str) -> None:
    folder = fill(tmp_path / "d", RGB)
    frames = [Image.fromarray(np.roll(RGB, i, 0)) for i in range(3)]
    frames[0].save(folder / f"4.{suffix}", save_all=True, append_images=frames[1:])
    refused(folder, rf"4\.{suffix}' has 3 frames")


def test_multi_picture_jpeg_gives_its_main_picture(tmp_path: Path) -> None:
    folder = fill(tmp_path / "d", count=0)
    for i in range(10):
        main = Image.fromarray(RGB)
        main.save(folder / f"{i}.jpg", format="MPO", save_all=True, append_images=[Image.fromarray(RGB[:3, :3])])
    split = load_data(folder)
    assert split.event_shape == (3, 5, 6)
    assert split.facts["notes"] == ["multi-picture JPEGs read as their main picture: 10"]


# ------------------------------------------------------------------------------------------------ orientation


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    split = load_data(fill(tmp_path / "d", GREY, suffix=suffix, exif=exif))
    turned = {1: GREY, 2: GREY[:, ::-1], 3: GREY[::-1, ::-1], 4: GREY[::-1], 5: GREY.T}
    turned |= {6: GREY[::-1].T, 7: GREY[::-1, ::-1].T, 8: GREY[:, ::-1].T}
    assert np.array_equal(first(split)[0], turned[orientation])
    notes = [] if orientation == 1 else ["images turned upright by their EXIF orientation: 12"]
    assert split.facts["notes"] == notes


@pytest.mark.parametrize("suffix", ["jpg", "webp"])
def test_exif_orientation_of_lossy_files(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[274] = 6
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, :16] = 255
    image = first(load_data(fill(tmp_path / "d", pixels, suffix=suffix, exif=exif)))
    assert image.shape == (3, 32, 16)
    assert image[:, :15].min() > 200
    assert image[:, 17:].max() < 50


# ------------------------------------------------------------------------------------------------ agreement and size


def test_mixed_sizes_name_the_first_odd_file(tmp_path: Path) -> None:
    folder = fill(tmp_path / "d")
    for name in ("7.png", "10.png"):
        Image.fromarray(GREY[:4]).save(folder / name)
    refused(folder, r"'7\.png' is 4x6, but '0\.png' is 5x6 \(height x width\); .*--size HxW, for example --size 5x6")


@pytest.mark.parametrize("pixels", [GREY, RGB, RGBA, DEEP])
def test_resizing(tmp_path: Path, pixels: np.ndarray) -> None:
    folder = fill(tmp_path / "d", pixels)
    Image.fromarray(np.repeat(np.repeat(pixels, 3, 0), 2, 1)).save(folder / "0.png")
    split = load_data(folder, size=(5, 6))
    assert split.event_shape[1:] == (5, 6)
    assert split.facts["size"] == [5, 6]
    assert split.facts["notes"] == ["images resized to 5x6 by Lanczos: 1"]
    same = next(part.x[part.id == 3][0].numpy() for part in (split.train, split.valid, split.test) if 3 in part.id)
    assert np.array_equal(same, pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0))
    assert np.abs(first(split).astype(int) - same).mean() < np.ptp(same) / 4


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        (RGB, r"'7\.png' has 3 channels of 8 bits, but '0\.png' has 1 channel of 8 bits; convert all"),
        (DEEP, r"'7\.png' has 1 channel of 16 bits, but '0\.png' has 1 channel of 8 bits"),
    ],
)
def test_mixed_kinds_name_the_first_odd_file(tmp_path: Path, odd: np.ndarray, message: str) -> None:
    folder = fill(tmp_path / "d")
    Image.fromarray(odd).save(folder / "7.png")
    refused(folder, message)
    refused(folder, message, size=(5, 6))


def test_levels_option(tmp_path: Path) -> None:
    folder = fill(tmp_path / "d", GREY // 16)
    assert load_data(folder, levels=16).space == Levels(16)
    Image.fromarray(np.full((5, 6), 16, np.uint8)).save(folder / "3.png")
    refused(folder, "value 16 in row 3, outside 0, …, 15", levels=16)


# ------------------------------------------------------------------------------------------------ classes and parts


def test_natural_order_and_names(tmp_path: Path) -> None:
    shuffled = ["b1x.png", "a10.png", "ü.png", "a2.png", "b1.png", "a02.png"]
    assert sorted(shuffled, key=natural_key) == ["a02.png", "a2.png", "a10.png", "b1.png", "b1x.png", "ü.png"]
    assert names(load_data(fill(tmp_path / "d"))) == [f"{i}.png" for i in range(12)]


def test_sub_folders_are_classes_at_any_depth(tmp_path: Path) -> None:
    fill(tmp_path / "d" / "dog" / "deep" / "deeper", RGB, 3)
    fill(tmp_path / "d" / "cat 10", RGB, 4)
    fill(tmp_path / "d" / "cat 9", RGB, 5)
    (tmp_path / "d" / "empty").mkdir()
    split = load_data(tmp_path / "d")
    assert split.class_names == ("cat 9", "cat 10", "dog")
    for part in (split.train, split.valid, split.test):
        assert part.context is not None
        assert part.names is not None
        assert [split.class_names[c] for c in part.context.tolist()] == [name.split("/")[0] for name in part.names]
    assert names(split)[-1] == "dog/deep/deeper/2.png"


def test_images_in_and_outside_of_class_folders_are_refused(tmp_path: Path) -> None:
    fill(fill(tmp_path / "d") / "cat")
    refused(
        tmp_path / "d", r"class folders \('cat/0\.png'\), and outside \('0\.png'\); give every image a class folder"
    )


@pytest.mark.parametrize("valid", [None, "valid", "val"])
def test_train_and_test_folders_are_parts(tmp_path: Path, valid: str | None) -> None:
    for part, count in (("train", 10), ("test", 3), *([(valid, 2)] if valid else [])):
        for name in ("cat", "dog"):
            fill(tmp_path / str(part) / name, RGB, count)
    split = load_data(tmp_path)
    assert split.class_names == ("cat", "dog")
    assert (len(split.train), len(split.valid), len(split.test)) == ((20, 4, 6) if valid else (18, 2, 6))
    assert split.test.names is not None
    assert split.test.names[3] == "test/dog/0.png"
    assert split.test.id.tolist() == list(range(24, 30) if valid else range(20, 26))


def test_parts_without_classes_and_part_names_beside_others(tmp_path: Path) -> None:
    fill(tmp_path / "a" / "train")
    fill(tmp_path / "a" / "test")
    assert load_data(tmp_path / "a").class_names == ()
    assert len(load_data(tmp_path / "a").test) == 12
    for name in ("train", "test", "station"):
        fill(tmp_path / "b" / name)
    assert load_data(tmp_path / "b").class_names == ("station", "test", "train")
    for name in ("train", "val", "valid"):
        fill(tmp_path / "c" / name)
    refused(tmp_path / "c", "both 'val' and 'valid'")


# ------------------------------------------------------------------------------------------------ what lies around


def test_other_files_are_left_out_and_counted(tmp_path: Path) -> None:
    folder = fill(tmp_path / "d")
    for name in ("README.txt", ".DS_Store", "Thumbs.db", "._0.png", "noending"):
        (folder / name).write_bytes(b"no image")
    fill(folder / ".cache")
    fill(folder / "__MACOSX")
    split = load_data(folder)
    assert len(names(split)) == 12
    assert split.facts["notes"] == ["left out, being no images: '.db' 1, '.txt' 1, 'hidden' 4, 'no ending' 1"]


def test_empty_folders(tmp_path: Path) -> None:
    refused(tmp_path, r"holds no images \(\.png, \.jpg")
    (tmp_path / "notes.txt").write_text("x")
    refused(tmp_path, r"holds no images .*; left out, being no images: '\.txt' 1")
    refused(fill(tmp_path / "few", count=9), "has 9 rows; at least 10")


def test_image_kinds_that_are_not_read_are_named(tmp_path: Path) -> None:
    (fill(tmp_path / "d") / "phone.HEIC").write_bytes(b"x")
    refused(tmp_path / "d", r"phone\.HEIC' is of a kind that is not read; convert it to PNG")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"\x89PNG\r\n\x1a\n",
        png(6, 5, 8, 0, bytes(35))[:-20],
        png(6, 5, 8, 0, bytes(35)).replace(b"IDAT", b"XDAT"),
        png(6, 5, 8, 0, bytes(35))[:45] + b"\xff" * 5 + png(6, 5, 8, 0, bytes(35))[50:],
        png(0, 5, 8, 0, b""),
        png(6, 5, 3, 0, bytes(35)),
        b"\xff\xd8\xff\xe0" + bytes(50),
        b"II*\0" + b"\xff" * 50,
        b"GIF89a" + b"\xff" * 50,
        b"P5\n6 5\n255\n" + bytes(10),
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    ],
)
def test_broken_images_name_the_file(tmp_path: Path, data: bytes) -> None:
    folder = fill(tmp_path / "d")
    (folder / "5.png").write_bytes(data)
    refused(folder, r"image '.*5\.png' cannot be read")


def test_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fill(tmp_path / "d")
    for side in (10_000, 60_000):
        (folder / "5.png").write_bytes(png(side, side, 8, 0, bytes(100)))
        refused(folder, r"5\.png' promises more than 89,478,485 pixels")
    (folder / "5.png").write_bytes(png(6, 5, 8, 0, bytes(35), chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**8)))))
    refused(folder, r"5\.png' cannot be read: Decompressed data too large")
    (folder / "5.png").unlink()
    monkeypatch.setattr(files, "available_memory", lambda: 400)
    refused(folder, r"d' promises 330 bytes, .*but only 400 bytes of memory")


def test_exif_orientation_that_lies_is_no_crash(tmp_path: Path) -> None:
    folder = fill(tmp_path / "d")
    for exif in (b"", b"junk", b"II*\0\xff\xff\xff\xff", b"MM\0*" + bytes(9)):
        (folder / "5.png").write_bytes(png(6, 5, 8, 0, bytes(35), chunk(b"eXIf", exif)))
        with contextlib.suppress(InputError):
            assert load_data(folder).event_shape == (1, 5, 6)


def test_a_folder_with_an_image_name_is_a_folder(tmp_path: Path) -> None:
    fill(tmp_path / "d" / "x.png")
    assert load_data(tmp_path / "d").class_names == ("x.png",)


def test_links(tmp_path: Path) -> None:
    folder = fill(tmp_path / "d" / "a")
    (folder / "up").symlink_to(tmp_path / "d")
    fill(tmp_path / "elsewhere", count=3)
    (tmp_path / "d" / "b").symlink_to(tmp_path / "elsewhere")
    split = load_data(tmp_path / "d")
    assert split.class_names == ("a", "b")
    assert len(names(split)) == 15
    assert split.facts["notes"] == ["left out, being no images: 'folders met twice' 1"]
    (folder / "99.png").symlink_to(folder / "nowhere.png")
    refused(tmp_path / "d", r"99\.png'.* No such file")


def test_pipes_do_not_hang(tmp_path: Path) -> None:
    os.mkfifo(fill(tmp_path / "d") / "5x.png")
    refused(tmp_path / "d", r"5x\.png': it is not a regular file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable(tmp_path: Path) -> None:
    folder = fill(tmp_path / "d")
    (folder / "5.png").chmod(0)
    refused(folder, r"5\.png'.*Permission denied")
    (folder / "5.png").chmod(0o600)
    (folder / "sub").mkdir(mode=0)
    refused(folder, r"sub'.*Permission denied")


def test_odd_names(tmp_path: Path) -> None:
    folder = fill(tmp_path / "d", count=10)
    odd = ["new\nline.png", "日本 語.png", "quote'\".png", "\u202eevil.png", os.fsdecode(b"bad\xff.png"), "²٣.png"]
    for name in odd:
        Image.fromarray(GREY).save(folder / name)
    found = names(load_data(folder))
    assert len(found) == 16
    assert r"bad\udcff.png" in found
    assert all(name.encode() for name in found)
    for name in odd:
        (folder / name).write_bytes(b"broken")
        refused(folder, r"cannot be read")
        (folder / name).unlink()


def test_pillow_settings_and_warnings_are_left_alone(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    load_data(fill(tmp_path / "d"))
    assert limit == Image.MAX_IMAGE_PIXELS
    assert not recwarn.list


def test_order_does_not_depend_on_the_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fill(tmp_path / "d")
    Image.fromarray(GREY // 2).save(folder / "4.png")
    before = load_data(folder)
    listed = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: sorted(listed(path), reverse=True))
    assert load_data(folder).fingerprint == before.fingerprint
    assert torch.equal(load_data(folder).train.id, before.train.id)
