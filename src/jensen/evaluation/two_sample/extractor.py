"""Features of rows: what Fréchet and kernel distance, precision and recall look at.

A number in a feature space is a number about the features too, so it carries their name and a hash. Where rows have labels the default is
the last layer of a small network trained here to tell them (`network`), which sees what tells classes and little else; where they have none
it is the principal components, which see what varies most and nothing else. Neither is the network that published FIDs are made with, and
these numbers can not stand beside those.

Features are scaled so that their mean square is 1 over the reference rows, which makes (aᵀb/d + 1)³ a number without unit.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from jensen.errors import InputError

MOST = 64
Map = Callable[[Tensor], Tensor]


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
    function: Map

    def __call__(self, rows: Float[Tensor, "n *event"]) -> Float[Tensor, "n d"]:
        """The features, float64."""
        found = self.function(rows).double()
        if found.ndim != 2 or len(found) != len(rows) or not bool(found.isfinite().all()):
            raise InputError(
                f"features {self.name} must be finite numbers of shape ({len(rows)}, d), got {tuple(found.shape)}"
            )
        return found


def principal(reference: Float[Tensor, "n *event"], vectors: Map, most: int = MOST) -> Extractor:
    """The first principal components of reference rows, at most 64.

    Args:
        reference: real rows.
        vectors: rows → vectors in common units (`scaled`).
        most: of components.
    """
    rows = vectors(reference)
    count = min(most, rows.shape[1], max(1, len(rows) - 1))
    centre = rows.mean(0)
    _, axes = torch.linalg.eigh((rows - centre).T @ (rows - centre))
    axes = axes.flip(1)[:, :count]
    basis = axes * axes[axes.abs().argmax(0), range(count)].sign()  # else eigenvectors have any sign
    return unit(f"pca-{count}", reference, lambda x: (vectors(x) - centre) @ basis, centre, basis)


def unit(name: str, reference: Tensor, function: Map, *made_of: Tensor) -> Extractor:
    """An extractor whose features have mean 0 and mean square 1 over the reference rows."""
    found = function(reference).double()
    centre = found.mean(0)
    size = float((found - centre).square().mean().sqrt()) or 1.0
    digest = hashlib.sha256()
    for tensor in (*made_of, centre, torch.tensor(size)):
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return Extractor(name, digest.hexdigest()[:12], lambda x: (function(x).double() - centre) / size)


def scaled(reference: Float[Tensor, "n *event"], columns: bool) -> Map:
    """Rows as vectors in units of the reference rows: each column in its own standard deviation, or all in a common one.

    Args:
        reference: real rows.
        columns: whether dimensions are columns with units of their own; pixels have one.
    """
    rows = reference.flatten(1).double()
    mean, spread = rows.mean(0), rows.std(0) if columns else rows.std(0).square().mean().sqrt()
    spread = torch.where(spread > 0, spread, torch.ones_like(spread))
    return lambda x: (x.flatten(1).double() - mean) / spread
