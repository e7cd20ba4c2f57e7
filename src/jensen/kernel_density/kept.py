"""The rows that get a bump: which are kept, equal ones as one, and those of them that choose the bandwidths.

Which rows are kept, and which of those choose, are fixed choices by their ids: the smallest random keys. Where n_eff rows are
kept and m_eff of them choose (Kish's numbers, as in `bandwidth`), what they choose is narrowed by (n_eff/m_eff)^(-1/(d+4)),
the rate of the rules of thumb.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor

from jensen.data.examples import Batch, Rows
from jensen.data.space import Levels, Space
from jensen.errors import InputError, plural
from jensen.kernel_density.bandwidth import Sample
from jensen.noise import Noise

READ = 4096
Say = Callable[[str], None]


@dataclass(frozen=True)
class Kept:
    """Rows `(n, d)` as they are stored, with weights float64 and ids."""

    x: Float[Tensor, "n d"]
    weight: Float64[Tensor, " n"]
    id: Int[Tensor, " n"]


def as_stored(x: Float[Tensor, "B d"], space: Space) -> Float[Tensor, "B d"]:
    """Levels by their number, which float32 holds exactly; real values as they are. NaN stays NaN."""
    if not isinstance(space, Levels):
        return x
    return space.index(x.double()).float().masked_fill_(x.isnan(), math.nan)


def kept(rows: Rows, most: int, space: Space, say: Say) -> Kept:
    """The rows with the smallest random keys, of those that are complete and count.

    Args:
        rows: all there are.
        most: how many to keep, at most.
        space: of a row.
        say: told of rows that are left out.

    Raises:
        InputError: an infinite value, a weight that is none, no row that is complete and counts.
    """
    key, holes = _keys(rows)
    if holes:
        say(
            f"{holes} training {plural('row', holes)} with missing cells left out: such a row has no place for its bump"
        )
    order = key.argsort(stable=True)[: min(most, int(key.isfinite().sum()))].sort().values
    if not len(order):
        raise InputError("no training row is complete and has a weight; fill missing cells first, or fit gmm")
    parts = [rows.batch(at) for at in order.split(READ)]
    x = torch.cat([as_stored(batch.x.flatten(1), space) for batch in parts])
    return Kept(x, torch.cat([batch.weights() for batch in parts]).to(x.device), torch.cat([b.id for b in parts]))


def _keys(rows: Rows) -> tuple[Tensor, int]:
    """A random key for every row, ∞ where it cannot be kept, and how many rows have missing cells."""
    keys, noise, holes = [], Noise(0, "kde"), 0
    for batch in _batches(rows):
        x = batch.x.flatten(1)
        if bool(x.isinf().any()):
            raise InputError("a value is infinite; densities need finite values: remove or replace such rows")
        missing = x.isnan().any(1).cpu()
        holes += int(missing.sum())
        keys.append(noise.uniform(batch.id).masked_fill_(missing | (batch.weights().cpu() == 0), math.inf))
    return torch.cat(keys), holes


def _batches(rows: Rows) -> Iterator[Batch]:
    return (rows.batch(slice(i, i + READ)) for i in range(0, len(rows), READ))


def merged(rows: Kept, say: Say) -> Kept:
    """Equal rows as one, with their weights added and the smallest of their ids: the density is the same.

    Args:
        rows: real values.
        say: told how many there are.
    """
    x, which = torch.unique(rows.x.double(), dim=0, return_inverse=True)
    again = len(rows.x) - len(x)
    if again:
        say(
            f"{again} training {plural('row', again)} equal to another: kept as one row of their total weight, so that "
            "they are left out together; one alone would be found again with infinite density"
        )
    weight = rows.weight.new_zeros(len(x)).index_add_(0, which, rows.weight)
    first = rows.id.new_full((len(x),), torch.iinfo(torch.int64).max)
    return Kept(x, weight, first.scatter_reduce_(0, which.cpu(), rows.id, "amin"))


def choosing(rows: Kept, most: int, k: int | None) -> tuple[Sample, float]:
    """Rows enough to choose bandwidths by, and what more rows narrow them by.

    Args:
        rows: those that are kept.
        most: how many may choose.
        k: the number of levels; None on the real line.
    """
    at = Noise(0, "kde", "bandwidth").uniform(rows.id).argsort(stable=True)[:most].sort().values
    weight = rows.weight.cpu()
    x = rows.x.cpu()[at].double()
    sample = Sample(x, weight[at] / weight[at].sum(), k)
    whole = float(weight.sum() ** 2 / weight.square().sum())
    return sample, min(1.0, (whole / sample.effective) ** (-1 / (x.shape[1] + 4)))
