"""The tree that explains discrete columns best: a maximum spanning tree over mutual informations.

For a tree T rooted anywhere, the likelihood maximised over its tables is

    max ℓ(T)/n = Σ_{edges i–j of T} I(x_i; x_j) - Σ_i H(x_i),   I = Σ p_ij log p_ij/(p_i p_j) of the observed frequencies,

so the best tree has the largest sum of mutual informations (Chow and Liu 1968, "Approximating discrete probability
distributions with dependence trees"; the spanning tree: Prim 1957). Frequencies are smoothed by a count that is added to
every cell of a pair's table, since the mutual information of few rows comes out too large. Missing cells are left out of the
pairs they belong to.
"""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

CELLS_AT_ONCE = 1 << 23
FEW_LEVELS = 8  # up to which counting by a matrix product is the faster way
Codes = Callable[[], Iterator[Tensor]]


def mutual_information(batches: Codes, dims: int, k: int, pseudo_count: float = 0.0) -> Float64[Tensor, "D D"]:
    """I(x_i; x_j) of all pairs in nats; zeros on the diagonal.

    Args:
        batches: gives the rows from the start, `(B, D)` int64 codes at a time, -1 where missing; called several times.
        dims: D.
        k: levels.
        pseudo_count: added to every cell of every pair's table.
    """
    out = torch.zeros(dims, dims, dtype=torch.float64)
    columns = max(1, CELLS_AT_ONCE // (dims * k * k))
    count = _by_product if k <= FEW_LEVELS else _by_counting
    for first in range(0, dims, columns):
        block = range(first, min(first + columns, dims))
        joint = torch.zeros(len(block), dims - first, k, k, dtype=torch.float64)
        for codes in batches():
            count(codes[:, first:], joint)
        for place, column in enumerate(block):
            out[column, column:] = information(joint[place, place:], pseudo_count)
    return torch.triu(out, 1) + torch.triu(out, 1).T


def information(joint: Float64[Tensor, "*pairs k k"], pseudo_count: float = 0.0) -> Float64[Tensor, "*pairs"]:
    """I = H(rows) + H(columns) - H(both) of tables of counts."""
    p = joint + pseudo_count
    p = p / p.sum((-2, -1), keepdim=True).clamp(min=1e-300)
    return _entropy(p.sum(-1)) + _entropy(p.sum(-2)) - _entropy(p.flatten(-2))


def spanning_tree(weight: Float64[Tensor, "D D"]) -> list[list[int]]:
    """Parents in the maximum spanning tree rooted at column 0; of equal weights the first."""
    dims = len(weight)
    parent, outside = torch.zeros(dims, dtype=torch.long), torch.ones(dims, dtype=torch.bool)
    best = weight[0].clone()
    outside[0] = False
    for _ in range(dims - 1):
        column = int(torch.where(outside, best, -torch.inf).argmax())
        outside[column] = False
        nearer = outside & (weight[column] > best)
        parent[nearer], best[nearer] = column, weight[column][nearer]
    return [[] if column == 0 else [int(parent[column])] for column in range(dims)]


def _entropy(p: Tensor) -> Tensor:
    return -torch.xlogy(p, p).sum(-1)


def _by_counting(codes: Int64[Tensor, "B D"], joint: Tensor) -> None:
    """Add the rows to the joint counts of the first columns with all, one cell at a time."""
    _, dims, k, _ = joint.shape
    seen = codes >= 0
    own = codes.clamp(min=0)
    place = own + k * k * torch.arange(dims)
    for column in range(len(joint)):
        both = (seen & seen[:, column : column + 1]).double()
        joint[column].view(-1).scatter_add_(0, (place + k * own[:, column : column + 1]).flatten(), both.flatten())


def _by_product(codes: Int64[Tensor, "B D"], joint: Tensor) -> None:
    """The same by indicators: n_ij(a, b) = Σ_rows [x_i = a][x_j = b], exact in float32 below 2^24 rows."""
    first, dims, k, _ = joint.shape
    indicators = (codes[:, :, None] == torch.arange(k)).float().flatten(1)
    product = indicators[:, : first * k].T @ indicators
    joint += product.reshape(first, k, dims, k).transpose(1, 2)
