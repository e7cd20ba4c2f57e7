"""Rows keep their ids, classes and names together, and a digest names exactly these rows."""

from dataclasses import replace

import pytest
import torch

from jensen.data.examples import Examples, Split
from jensen.data.space import Real


def examples(n: int = 5000) -> Examples:
    return Examples(
        torch.arange(2.0 * n).reshape(n, 2), 3 * torch.arange(n), torch.arange(n) % 7, names=tuple(map(str, range(n)))
    )


@pytest.mark.parametrize("row", [0, 4095, 4096, 4999])
def test_a_digest_sees_every_value_and_every_id(row: int):
    rows = examples()
    x, ids = rows.x.clone(), rows.id.clone()
    assert replace(rows, x=x, id=ids).digest() == rows.digest()
    x[row, 1] += 1
    ids[row] += 1
    assert replace(rows, x=x).digest() != rows.digest()
    assert replace(rows, id=ids).digest() != rows.digest()


def test_a_digest_sees_shape_order_and_type():
    rows = examples(4)
    others = (rows.x.reshape(4, 1, 2), rows.x.to(torch.float64), rows.x.view(torch.uint8).reshape(4, 8))
    digests = {rows.digest(), rows.take(torch.tensor([0, 1, 3, 2])).digest(), rows.take(torch.arange(3)).digest()}
    assert len(digests | {replace(rows, x=x).digest() for x in others}) == 6


def test_what_belongs_to_a_row_stays_with_it():
    rows, order = examples(9), torch.tensor([4, 0, 8, 2])
    taken = rows.take(order)
    assert taken.names == ("4", "0", "8", "2")
    assert taken.context is not None
    assert taken.context.tolist() == [4, 0, 1, 2]
    assert torch.equal(taken.x, rows.x[order])
    assert taken.id.tolist() == [12, 0, 24, 6]


def test_all_rows_stand_in_the_order_of_the_source():
    rows, order = examples(9), torch.randperm(9, generator=torch.Generator().manual_seed(0))
    whole = Split(rows.take(order[:4]), rows.take(order[4:6]), rows.take(order[6:]), Real()).all_rows()
    assert whole.digest() == rows.digest()
    assert (whole.names, whole.context.tolist() if whole.context is not None else None) == (
        rows.names,
        (torch.arange(9) % 7).tolist(),
    )
