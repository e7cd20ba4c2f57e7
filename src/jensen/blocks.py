"""Rows in blocks of one shape, so that a row's value does not depend on its company.

Matrix products choose their order of summation by shape, and functions such as log have other last bits in the odd rest
of a vector. Where every block has one shape, the last one filled up, the bits of a row are the same whatever rows are
beside it and however many there are.
"""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Shaped
from torch import Tensor


def blocks(rows: Shaped[Tensor, "B *shape"], size: int) -> Iterator[Shaped[Tensor, "size *shape"]]:
    """Contiguous blocks of `size` rows, the last one filled up with zeros; one block of zeros if there are no rows.

    Example:
        >>> [block.tolist() for block in blocks(torch.arange(3), 2)]
        [[0, 1], [2, 0]]
    """
    for block in rows.contiguous().split(size):
        short = size - len(block)
        yield torch.cat([block, block.new_zeros(short, *block.shape[1:])]) if short else block


def in_blocks(function: Callable[..., Tensor], size: int, *rows: Shaped[Tensor, "B ..."]) -> Shaped[Tensor, "B ..."]:
    """A function of rows, one value a row, applied to a block at a time.

    Args:
        function: of as many tensors of `size` rows as `rows` has.
        size: of a block.
        *rows: each with the same number of rows.

    Example:
        >>> in_blocks(torch.add, 2, torch.arange(3), torch.ones(3)).tolist()
        [1.0, 2.0, 3.0]
    """
    parts = zip(*(blocks(each, size) for each in rows), strict=True)
    return torch.cat([function(*part) for part in parts])[: len(rows[0])]
