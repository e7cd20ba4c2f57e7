"""What an E-step keeps of a matrix: as much as its covariance structure will ask for, in one tensor that adds.

    Whole           A                       (K, d, d)
    OnlyDiagonal    diag A                  (K, d)
    Projected       [diag A | A B_k]        (K, d, 1 + r), for a given basis B_k of r columns
    Everything      Projected with B_k = I

Each is linear in A, so sums, multiples and shifts of what is kept are what is kept of the sums, multiples and shifts.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class View(ABC):
    """What is kept of A_k, k = 1 … K."""

    @abstractmethod
    def gram(self, left: Tensor, right: Tensor) -> Tensor:
        """Of Σ_i left_i right_iᵀ, a symmetric sum, for `left`, `right (K, m, d)`."""

    @abstractmethod
    def of(self, matrix: Tensor) -> Tensor:
        """Of symmetric matrices `(K, d, d)`, of one `(d, d)` for all k, or of a diagonal one by its diagonal `(d,)`."""

    def outer(self, left: Tensor, right: Tensor) -> Tensor:
        """Of left rightᵀ for `(K, d)`."""
        return self.gram(left[:, None], right[:, None])

    def pick(self, index: Tensor) -> "View":
        """The same of the components at these positions."""
        return self

    def same(self, other: "View") -> bool:
        """Whether what both keep may be added."""
        return type(self) is type(other)


class Whole(View):
    """Everything."""

    def gram(self, left: Tensor, right: Tensor) -> Tensor:
        """The products."""
        return left.mT @ right

    def of(self, matrix: Tensor) -> Tensor:
        """Itself."""
        return torch.diag(matrix) if matrix.ndim == 1 else matrix


class OnlyDiagonal(View):
    """The diagonal."""

    def gram(self, left: Tensor, right: Tensor) -> Tensor:
        """Elementwise."""
        return (left * right).sum(1)

    def of(self, matrix: Tensor) -> Tensor:
        """Its diagonal."""
        return matrix if matrix.ndim == 1 else matrix.diagonal(dim1=-2, dim2=-1)


class Projected(View):
    """The diagonal and the product with a basis.

    Args:
        basis: B_k, `(K, d, r)`.
    """

    def __init__(self, basis: Tensor) -> None:
        self.basis = basis

    def gram(self, left: Tensor, right: Tensor) -> Tensor:
        """Σ left (rightᵀ B)."""
        return torch.cat([(left * right).sum(1)[:, :, None], left.mT @ (right @ self.basis)], 2)

    def of(self, matrix: Tensor) -> Tensor:
        """Its diagonal and its product."""
        diagonal = matrix if matrix.ndim == 1 else matrix.diagonal(dim1=-2, dim2=-1)
        product = matrix[:, None] * self.basis if matrix.ndim == 1 else matrix @ self.basis
        return torch.cat([diagonal.expand(len(self.basis), -1)[:, :, None], product], 2)

    def pick(self, index: Tensor) -> View:
        """Their bases."""
        return Projected(self.basis[index])

    def same(self, other: View) -> bool:
        """The same basis."""
        return isinstance(other, Projected) and torch.equal(self.basis, other.basis)


class Everything(Projected):
    """The diagonal and the product with the identity: serves every basis to come, for d² numbers a component."""

    def __init__(self, components: int, dims: int) -> None:
        super().__init__(torch.eye(dims, dtype=torch.float64).expand(components, -1, -1))

    def pick(self, index: Tensor) -> View:
        """Everything of so many."""
        return Everything(len(index), self.basis.shape[1])
