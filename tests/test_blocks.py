"""Blocks: what is in them, and that a product's bits do not depend on the rows beside it."""

import pytest
import torch

from jensen.blocks import blocks, in_blocks


@pytest.mark.parametrize("rows", [0, 1, 4, 5, 8])
def test_blocks_are_the_rows_and_then_zeros(rows: int):
    x = torch.arange(2.0 * rows).reshape(rows, 2) + 1
    found = list(blocks(x, 4))
    assert all(block.shape == (4, 2) and block.is_contiguous() for block in found)
    assert len(found) == max(1, -(-rows // 4))
    whole = torch.cat(found)
    assert torch.equal(whole[:rows], x)
    assert not whole[rows:].any()


def test_blocks_of_a_transposed_tensor_are_laid_out_like_others():
    x = torch.arange(12.0).reshape(2, 6)
    assert all(block.is_contiguous() for block in blocks(x.T, 3))
    assert torch.equal(torch.cat(list(blocks(x.T, 3))), x.T)


def test_company_does_not_change_a_bit():
    """A product of these sizes does depend on it without blocks, at least on some processors."""
    draw = torch.Generator().manual_seed(0)
    x, w = (torch.randn(300, 37, generator=draw, dtype=torch.float64) for _ in range(2))
    whole = in_blocks(lambda rows: rows @ w.T, 32, x)
    torch.testing.assert_close(whole, x @ w.T)
    for part in (slice(0, 1), slice(7, 8), slice(290, 300), slice(5, 70)):
        assert torch.equal(in_blocks(lambda rows: rows @ w.T, 32, x[part]), whole[part])


def test_several_tensors_go_side_by_side():
    a, b = torch.arange(7), torch.arange(7.0)[:, None]
    assert torch.equal(in_blocks(lambda a, b: a + b[:, 0], 3, a, b), 2 * torch.arange(7.0))
    with pytest.raises(ValueError, match="shorter"):
        in_blocks(lambda a, b: a, 3, a, b[:2])
