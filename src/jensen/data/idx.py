"""IDX files (the format of MNIST), plain or gzipped.

Two zero bytes, a type code, the number of dimensions, each dimension as a big-endian uint32, then the values in
row-major order, big-endian.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from jensen.data.files import DEFLATE_RATIO, ByteStream, check_regular, opened, read_values, require_memory, shown
from jensen.data.rows import Array
from jensen.errors import InputError

TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
MAX_DIMENSIONS = 8


def read_idx(path: Path) -> Array:
    """The array in an IDX file, in the machine's byte order."""
    size, where = check_regular(path), f"IDX file {shown(path)}"
    with opened(path) as stream:
        zipped = stream.read(2) == b"\x1f\x8b"
        stream.seek(0)
        if not zipped:
            return _read(stream, size, where)
        try:
            with gzip.open(stream) as unzipped:
                return _read(unzipped, size * DEFLATE_RATIO, where)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InputError(f"{where} is corrupt: {error or 'the gzip stream ends early'}") from None


def _read(stream: ByteStream, size: int, where: str) -> Array:
    dtype, shape, header = _read_header(stream, where)
    promised = math.prod(shape) * dtype.itemsize
    if header + promised > size:
        raise InputError(f"{where} is truncated: its header promises {promised} bytes of values, it has fewer")
    require_memory(promised, where)
    values = read_values(stream, dtype, shape, where)
    return values.astype(dtype.newbyteorder("="), copy=False)


def _read_header(stream: ByteStream, where: str) -> tuple["np.dtype[np.generic]", tuple[int, ...], int]:
    magic = stream.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in TYPES or not 1 <= magic[3] <= MAX_DIMENSIONS:
        raise InputError(f"{where} is no IDX file: it begins with {magic!r}, not with two zeros, a type and a rank")
    sizes = stream.read(4 * magic[3])
    if len(sizes) < 4 * magic[3]:
        raise InputError(f"{where} is truncated: its header ends after {4 + len(sizes)} bytes")
    return np.dtype(TYPES[magic[2]]), struct.unpack(f">{magic[3]}I", sizes), 4 + len(sizes)
