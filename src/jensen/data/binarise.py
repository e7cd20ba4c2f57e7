"""Grey images made into black and white ones, by a protocol that stands beside every number: log p of zeros and ones depends on it.

With p = v / (k - 1) for a value v of k levels,

    threshold    1 where p ≥ ½
    static       1 with probability p, every row drawn once
    dynamic      the same for valid and test rows; training rows are drawn anew at every step (Burda et al. 2016, section 5.2)

Static and dynamic test rows are one and the same draw; models trained on the latter are better by some nats, and neither
can be compared with the fixed binarisation of Larochelle and Murray (2011), which is another draw: it is a data set of its own,
`binarized-mnist`. Draws are keyed by the row's id, so that a row is the same in every part and batch.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from jensen.data.examples import Batch, Examples, Fresh, Rows, Split, rows_of
from jensen.data.space import Levels
from jensen.errors import InputError, did_you_mean
from jensen.noise import Noise

PROTOCOLS = ("threshold", "static", "dynamic")
ROWS = 1024


@dataclass(frozen=True)
class Redrawn(Examples):
    """Zeros and ones, drawn once from grey values that are kept, and anew for every training step.

    Attributes:
        grey: probabilities of a one, in levels: `(N, *event)` from 0 to `most`.
        most: the highest level.
    """

    grey: Tensor | None = None
    most: int = 255

    def fresh(self, indices: Tensor | slice, noise: Noise) -> Batch:
        """The rows at these positions, drawn by this noise."""
        assert self.grey is not None
        return replace(self.batch(indices), x=drawn(rows_of(self.grey, indices), self.most, self.id[indices], noise))

    def take(self, indices: Tensor) -> "Redrawn":
        """The rows at these positions."""
        assert self.grey is not None
        part = Examples.take(self, indices)
        return Redrawn(**vars(part), grey=self.grey[indices], most=self.most)


def binarised(split: Split, protocol: str, seed: int = 0) -> Split:
    """A split of levels as one of two levels.

    Args:
        split: of more than two levels.
        protocol: threshold, static or dynamic.
        seed: of the draws.

    Raises:
        InputError: an unknown protocol, or data that are not grey: of two levels, or with no value above 1.
    """
    if protocol not in PROTOCOLS:
        raise InputError(
            f"binarise must be one of {', '.join(PROTOCOLS)}, got {protocol!r}; {did_you_mean(protocol, PROTOCOLS)}".rstrip(
                "; "
            )
        )
    if not isinstance(split.space, Levels) or split.space.k == 2:
        raise InputError(f"binarise={protocol} is for data of more than two levels, got {split.space}; leave it out")
    most = split.space.k - 1
    if len(split.train) and float(split.train.x.max()) <= 1:
        raise InputError(
            f"binarise={protocol} is for grey data, and the training rows have no value but 0 and 1 of {split.space}; say --levels 2 instead"
        )
    noise, known = Noise(seed, "binarise"), facts_of(protocol, seed, split.space.k)
    train, valid, test = (
        replace(_part(part, protocol, most, noise), protocol=known["told"])
        for part in (split.train, split.valid, split.test)
    )
    if protocol == "dynamic":
        train = Redrawn(**vars(train), grey=split.train.x, most=most)
    return replace(split, train=train, valid=valid, test=test, space=Levels(2), facts={**split.facts, **known})


def facts_of(protocol: str, seed: int, levels: int) -> dict[str, Any]:
    """What is to be known of it; `told` is the protocol as it stands beside a number."""
    how = {
        "threshold": f"1 where the level is in the upper half of {levels}",
        "static": f"every row drawn once from {levels} levels, seed {seed}",
        "dynamic": f"training rows drawn anew at every step from {levels} levels, the others once, seed {seed}",
    }
    return {"binarise": protocol, "binarise_seed": seed, "told": f"binarised: {protocol} ({how[protocol]})"}


def _part(part: Examples, protocol: str, most: int, noise: Noise) -> Examples:
    if part.x.is_floating_point() and bool(part.x.isnan().any()):
        raise InputError("rows with missing cells can not be binarised; fill them in first, or drop them")
    if protocol == "threshold":
        return replace(part, x=(2 * part.x.to(torch.int64) >= most).to(torch.uint8))
    rows = range(0, len(part), ROWS)
    pieces = [drawn(part.x[i : i + ROWS], most, part.id[i : i + ROWS], noise) for i in rows]
    return replace(part, x=torch.cat(pieces) if pieces else part.x.to(torch.uint8))


def drawn(grey: Tensor, most: int, ids: Tensor, noise: Noise) -> Tensor:
    """1 with probability grey / most, uint8."""
    u = noise.coarse(ids, tuple(grey.shape[1:]))
    return (u.mul_(most) < grey.to(u)).to(torch.uint8)


def at_step(rows: Rows, indices: Tensor | slice, noise: Noise) -> Batch:
    """A training step's rows: drawn anew by this noise where they are such rows, else as they are."""
    return rows.fresh(indices, noise) if isinstance(rows, Fresh) else rows.batch(indices)
