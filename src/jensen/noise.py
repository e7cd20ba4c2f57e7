"""Noise that is a pure function of (seed, stream, row id).

Every draw comes from the counter-based generator Philox, keyed by a hash of the seed and the name of the
stream ("train", step 17) and by the id of the row it is for. So a row gets the same noise in whatever batch,
process or resumed run it appears, and nothing has to be stored to go on. (Salmon et al. 2011, "Parallel random
numbers: as easy as 1, 2, 3".)
"""

import hashlib
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

Label = int | str


class Noise:
    """A family of independent streams of noise, one for each row id.

    Args:
        seed: any integer.
        labels: what the noise is for; other labels give independent noise.

    Example:
        >>> noise = Noise(0, "example")
        >>> a, b = noise.normal([3, 5], (2,)), noise.normal([5], (2,))
        >>> bool((a[1] == b[0]).all())
        True
    """

    def __init__(self, seed: int, *labels: Label) -> None:
        self.path: tuple[Label, ...] = (int(seed), *labels)
        digest = hashlib.blake2b(repr(self.path).encode(), digest_size=8).digest()
        self._key = int.from_bytes(digest, "little")

    def at(self, *labels: Label) -> "Noise":
        """The stream under further labels, independent of this one."""
        return Noise(int(self.path[0]), *self.path[1:], *labels)

    def normal(self, ids: Iterable[int] | Tensor, shape: tuple[int, ...]) -> Tensor:
        """Standard normal draws, `(len(ids), *shape)` float32."""
        return self._fill(ids, shape, np.float32, "standard_normal")

    def uniform(self, ids: Iterable[int] | Tensor, shape: tuple[int, ...] = ()) -> Tensor:
        """Uniform draws in [0, 1), `(len(ids), *shape)` float64."""
        return self._fill(ids, shape, np.float64, "random")

    def coarse(self, ids: Iterable[int] | Tensor, shape: tuple[int, ...] = ()) -> Tensor:
        """Uniform multiples of 2⁻²⁴ in [0, 1), `(len(ids), *shape)` float32: cheaper, where that is fine enough."""
        return self._fill(ids, shape, np.float32, "random")

    def permutation(self, n: int) -> Tensor:
        """A random order of 0 … n-1, int64."""
        return torch.from_numpy(_Rows(self._key).generator.permutation(n))

    def _fill(self, ids: Iterable[int] | Tensor, shape: tuple[int, ...], dtype: Any, word: str) -> Tensor:
        """Rows of draws by the generator's method of that name."""
        keys = ids.tolist() if isinstance(ids, Tensor) else list(ids)
        out = np.empty((len(keys), *shape), dtype)
        rows = _Rows(self._key)
        fill = getattr(rows.generator, word)
        for key, row in zip(keys, out.reshape(len(keys), math.prod(shape)), strict=True):
            rows.turn_to(key)
            fill(out=row, dtype=dtype)
        return torch.from_numpy(out)


class _Rows:
    """One Philox generator that is re-keyed for each row (cheaper than making one a row)."""

    def __init__(self, key: int) -> None:
        self._bits = np.random.Philox(key=np.array([key, 0], np.uint64))
        self._state: Any = self._bits.state
        self._key = self._state["state"]["key"]
        self.generator = np.random.Generator(self._bits)

    def turn_to(self, row: int) -> None:
        """Have the generator draw for a row, from the beginning."""
        self._key[1] = row & 0xFFFFFFFFFFFFFFFF
        self._bits.state = self._state
