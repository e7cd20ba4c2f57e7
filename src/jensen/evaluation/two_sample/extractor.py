"""Features of rows: what Fréchet and kernel distance, precision and recall look at.

A number in a feature space is a number about the features too, so it carries their name and a hash. The one that is always there is
the principal components of the training rows, which see what varies most and nothing else; it is not the network that published FIDs
are made with, and its numbers can not stand beside theirs.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from jensen.errors import InputError

MOST = 64


@dataclass(frozen=True)
class Extractor:
    """Rows → features.

    Attributes:
        name: of the features.
        digest: a hash of all that makes them.
        function: rows `(n, *event)` in data units → `(n, d)`.
    """

    name: str
    digest: str
    function: Callable[[Tensor], Tensor]

    def __call__(self, rows: Float[Tensor, "n *event"]) -> Float[Tensor, "n d"]:
        """The features, float64."""
        found = self.function(rows).double()
        if found.ndim != 2 or len(found) != len(rows) or not bool(found.isfinite().all()):
            raise InputError(
                f"features {self.name} must be finite numbers of shape ({len(rows)}, d), got {tuple(found.shape)}"
            )
        return found


def principal(train: Float[Tensor, "n *event"], most: int = MOST) -> Extractor:
    """The first principal components of training rows, at most 64."""
    rows = train.flatten(1).double()
    mean = rows.mean(0)
    count = min(most, rows.shape[1], max(1, len(rows) - 1))
    _, _, directions = torch.linalg.svd(rows - mean, full_matrices=False)
    basis = directions[:count].T
    digest = hashlib.sha256(mean.numpy().tobytes() + basis.contiguous().numpy().tobytes()).hexdigest()[:12]
    return Extractor(f"pca-{count}", digest, lambda x: (x.flatten(1).double() - mean) @ basis)


def scaled(train: Float[Tensor, "n *event"], columns: bool) -> Callable[[Tensor], Tensor]:
    """Rows as vectors in units of the training rows: each column in its own standard deviation, or all in a common one.

    Args:
        train: the training rows.
        columns: whether dimensions are columns with units of their own; pixels have one.
    """
    rows = train.flatten(1).double()
    mean, spread = rows.mean(0), rows.std(0) if columns else rows.std(0).square().mean().sqrt()
    spread = torch.where(spread > 0, spread, torch.ones_like(spread))
    return lambda x: (x.flatten(1).double() - mean) / spread
