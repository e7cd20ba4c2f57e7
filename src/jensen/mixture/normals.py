"""K normal distributions ready to be evaluated, each kind of covariance in the algebra that suits it.

    Dense       Σ_k = L Lᵀ; y = L⁻¹ (x - m), log N = -½ ‖y‖² - log |L| + const
    Diagonal    the same by division
    LowRank     Σ_k = W Wᵀ + D without a d × d matrix (`lowrank`)

Rows with missing cells go to `given`: for observed cells o and missing cells m, log N(x_o; m_o, Σ_oo) and

    E[x_m | x_o] = m_m + Σ_mo Σ_oo⁻¹ (x_o - m_o),   Cov[x_m | x_o] = Σ_mm - Σ_mo Σ_oo⁻¹ Σ_om.

For dense covariances both come from one matrix a pattern: with G = Σ on the observed block and the identity elsewhere,
|G| = |Σ_oo|, and Q, its inverse with rows and columns of m set to zero, gives Σ Q (x - m) and Σ - Σ Q Σ for all cells at
once: observed ones come out as x and 0. So patterns of any shape are one batch, and rows of equal pattern share the
factorisation.

Everything works in the type of the parameters and is differentiable in them where no cell is missing.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor
from torch.distributions import Distribution, MultivariateNormal, Normal
from torch.distributions import Independent as IndependentDims

from jensen.errors import FitError
from jensen.mixture.parameters import Spread
from jensen.mixture.view import View

BLOCK = 8  # rows of one pattern that are multiplied together; the last block of a pattern is filled up
GROUP = 1 << 21  # cells of the matrices of a group of patterns
CELLS = 1 << 22  # of rows in all components' coordinates
LOG_2PI = math.log(2 * math.pi)


class Given(ABC):
    """What each component says of rows `x (m, d)` of which cells are missing.

    Attributes:
        log_prob: `(m, K)` log N(x_o; m_o, Σ_oo).
        mean: `(m, K, d)` E[x | x_o, k].
    """

    log_prob: Tensor
    mean: Tensor

    @abstractmethod
    def second(self, share: Tensor, view: View) -> Tensor:
        """What the view keeps of Σ_i share_ki Cov[x | x_o, k], for `share (K, m)`."""

    @abstractmethod
    def draw(self, k: Tensor, eps: Tensor) -> Tensor:
        """A draw of each row `(m, d)` from component `k (m,)`, by standard normals `eps (m, d + extra)`."""

    @abstractmethod
    def spread(self, left: Tensor) -> Spread:
        """The spread of the first row's missing columns `left (d,)`, in the structure of its kind."""


class Normals(ABC):
    """N(m_k, Σ_k), k = 1 … K.

    Attributes:
        means: `(K, d)`.
        log_det: `(K,)` log |Σ_k|.
        extra: how many more standard normals than d a draw takes.
        kind: the word of the covariance structure that `Given.spread` is of.
    """

    means: Tensor
    log_det: Tensor
    extra: int = 0
    kind: Literal["full", "diag", "factors"]

    @abstractmethod
    def squares(self, x: Tensor, at: slice) -> Tensor:
        """(x - m_k)ᵀ Σ_k⁻¹ (x - m_k) of complete rows `x (m, d)` for the components at these positions, `(K', m)`."""

    @abstractmethod
    def trace(self, mode: Tensor) -> Tensor:
        """tr(Σ_k⁻¹ V), `(K,)`, for V `(d, d)` or its diagonal `(d,)`."""

    @abstractmethod
    def draw(self, k: Tensor, eps: Tensor) -> Tensor:
        """A draw `(n, d)` from each of the components `k (n,)`, by standard normals `eps (n, d + extra)`."""

    @abstractmethod
    def at(self, k: Tensor) -> Distribution:
        """The components `k (n,)` as a distribution over rows."""

    @abstractmethod
    def groups(self, x: Tensor) -> Iterator[Tensor]:
        """Positions of rows with missing cells `x (m, d)`, as many at a time as `given` should hold."""

    @abstractmethod
    def given(self, x: Tensor) -> Given:
        """What the components say of the rows of one group; a row does not depend on the others, but for the last digits."""

    def log_prob(self, x: Tensor) -> Tensor:
        """log N(x; m_k, Σ_k) of complete rows `x (m, d)`, `(K, m)`; components together where they fit."""
        components, d = self.means.shape
        together = max(1, CELLS // max(1, len(x) * d))
        parts = [self.squares(x, slice(k, k + together)) for k in range(0, components, together)]
        return -0.5 * (torch.cat(parts) + self.log_det[:, None] + d * LOG_2PI)


class Dense(Normals):
    """Any Σ_k.

    Args:
        means: `(K, d)`.
        matrices: Σ_k, `(K, d, d)`.

    Raises:
        FitError: a matrix is not positive definite.
    """

    kind: Literal["full"] = "full"

    def __init__(self, means: Tensor, matrices: Tensor) -> None:
        self.means, self.matrices = means, matrices
        self.scale = cholesky(matrices)
        eye = torch.eye(means.shape[1]).to(means).expand_as(self.scale)
        self.whiten = torch.linalg.solve_triangular(self.scale, eye, upper=False).mT.contiguous()
        self.log_det = 2 * self.scale.diagonal(dim1=1, dim2=2).log().sum(1)

    def squares(self, x: Tensor, at: slice) -> Tensor:
        """‖L⁻¹ (x - m)‖²."""
        return torch.bmm(x - self.means[at, None], self.whiten[at]).square().sum(2)

    def trace(self, mode: Tensor) -> Tensor:
        """tr(Σ⁻¹ V)."""
        return (torch.cholesky_inverse(self.scale) * (torch.diag(mode) if mode.ndim == 1 else mode)).sum((1, 2))

    def draw(self, k: Tensor, eps: Tensor) -> Tensor:
        """m_k + L_k ε."""
        out = torch.zeros_like(eps)
        for component in k.unique().tolist():
            out = torch.where((k == component)[:, None], eps @ self.scale[component].T, out)
        return self.means[k] + out

    def at(self, k: Tensor) -> Distribution:
        """torch's."""
        return MultivariateNormal(self.means[k], scale_tril=self.scale[k])

    def groups(self, x: Tensor) -> Iterator[Tensor]:
        """A bounded number of patterns at a time."""
        components, d = self.means.shape
        yield from _by_pattern(x, max(1, GROUP // (components * d * d)), max(BLOCK, GROUP // (components * d)))

    def given(self, x: Tensor) -> Given:
        """By the formulas above."""
        return _DenseGiven(self, x)


class _DenseGiven(Given):
    def __init__(self, normals: Dense, x: Tensor) -> None:
        self.spreads, means = normals.matrices, normals.means
        patterns, self.pattern = torch.unique(~x.isnan(), dim=0, return_inverse=True)
        inverse, log_det = self._inverses(patterns)
        seen = patterns[self.pattern][:, None]
        offset = torch.where(seen, x[:, None] - means, 0.0)
        white = _by_block(offset, inverse, self.pattern)
        cells = patterns.to(means).sum(1)[self.pattern][:, None] * LOG_2PI
        self.log_prob = -0.5 * ((white * offset).sum(2) + log_det[self.pattern] + cells)
        gain = self.spreads @ inverse
        self.mean = means + torch.where(seen, offset, _by_block(offset, gain.mT, self.pattern))
        hidden = ~patterns
        both = hidden[:, None, :, None] & hidden[:, None, None, :]
        self.covariance = (self.spreads - gain @ self.spreads) * both  # (u, K, d, d) of the different patterns

    def _inverses(self, patterns: Tensor) -> tuple[Tensor, Tensor]:
        """Q `(u, K, d, d)` and log |Σ_oo| `(u, K)`."""
        both = patterns[:, None, :, None] & patterns[:, None, None, :]
        matrix = torch.where(both, self.spreads, 0.0) + torch.diag_embed((~patterns).to(self.spreads))[:, None]
        factor = cholesky(matrix.flatten(0, 1))
        log_det = 2 * factor.diagonal(dim1=1, dim2=2).log().sum(1).view(len(patterns), -1)
        return torch.cholesky_inverse(factor).view_as(matrix) * both, log_det

    def second(self, share: Tensor, view: View) -> Tensor:
        """By pattern."""
        mass = share.new_zeros(len(self.covariance), len(share))
        mass.index_add_(0, self.pattern, share.T.contiguous())
        return torch.einsum("uk,ukde->kde", mass, self.covariance)

    def draw(self, k: Tensor, eps: Tensor) -> Tensor:
        """mean + C^½ ε, C^½ by eigenvectors since C is semidefinite."""
        values, vectors = torch.linalg.eigh(self.covariance[self.pattern, k])
        root = vectors * values.clamp(min=0).sqrt()[:, None]
        return self.mean[torch.arange(len(k)), k] + (root @ eps[:, :, None])[:, :, 0]

    def spread(self, left: Tensor) -> Spread:
        """Matrices."""
        return {"covariances": self.covariance[self.pattern[0]][:, left][:, :, left]}


class Diagonal(Normals):
    """Independent dimensions.

    Args:
        means: `(K, d)`.
        variances: `(K, d)`.
    """

    kind: Literal["diag"] = "diag"

    def __init__(self, means: Tensor, variances: Tensor) -> None:
        self.means, self.variances = means, variances
        self.scale = variances.sqrt()
        self.whiten, self.log_det = 1 / self.scale, 2 * self.scale.log().sum(1)

    def squares(self, x: Tensor, at: slice) -> Tensor:
        """Σ ((x - m) / σ)²."""
        return ((x - self.means[at, None]) * self.whiten[at, None]).square().sum(2)

    def trace(self, mode: Tensor) -> Tensor:
        """Σ v / σ²."""
        return ((mode if mode.ndim == 1 else mode.diagonal()) / self.variances).sum(1)

    def draw(self, k: Tensor, eps: Tensor) -> Tensor:
        """m_k + σ_k ε."""
        return self.means[k] + self.scale[k] * eps

    def at(self, k: Tensor) -> Distribution:
        """torch's."""
        return IndependentDims(Normal(self.means[k], self.scale[k]), 1)

    def groups(self, x: Tensor) -> Iterator[Tensor]:
        """So many rows."""
        yield from torch.arange(len(x), device=x.device).split(max(BLOCK, GROUP // self.means.numel()))

    def given(self, x: Tensor) -> Given:
        """Cell by cell."""
        return _DiagonalGiven(self, x)


class _DiagonalGiven(Given):
    def __init__(self, normals: Diagonal, x: Tensor) -> None:
        seen = ~x.isnan()
        offset = torch.where(seen[:, None], x[:, None] - normals.means, 0.0)
        cells = offset.square() / normals.variances + normals.variances.log() + LOG_2PI
        self.log_prob = -0.5 * (cells * seen[:, None]).sum(2)
        self.mean = normals.means + offset
        self.hidden, self.variances = ~seen, normals.variances

    def second(self, share: Tensor, view: View) -> Tensor:
        """Variances of hidden cells."""
        return (share @ self.hidden.to(share)) * self.variances

    def draw(self, k: Tensor, eps: Tensor) -> Tensor:
        """mean + σ ε where hidden."""
        return self.mean[torch.arange(len(k)), k] + self.hidden * self.variances[k].sqrt() * eps

    def spread(self, left: Tensor) -> Spread:
        """Variances."""
        return {"variances": self.variances[:, left]}


def cholesky(matrices: Tensor) -> Tensor:
    """Lower factors of `(K, d, d)`; a matrix that is not positive definite stops the fit and names its component."""
    factor, failed = torch.linalg.cholesky_ex(matrices)
    if bool(failed.any()):
        raise FitError(
            f"the covariance of component {int(failed.nonzero()[0])} is not positive definite; give prior_rows above 0, "
            "fewer components or a simpler covariance"
        )
    return factor


def _by_pattern(x: Tensor, patterns: int, rows: int) -> Iterator[Tensor]:
    """Positions of rows, at most so many patterns and about so many rows at a time, equal patterns side by side."""
    pattern = torch.unique(x.isnan(), dim=0, return_inverse=True)[1]
    order = pattern.argsort(stable=True)
    group = torch.div(pattern[order], patterns, rounding_mode="floor")
    for part in order.split(torch.bincount(group).tolist()):
        yield from part.split(rows)


def _by_block(rows: Tensor, matrices: Tensor, pattern: Tensor) -> Tensor:
    """rows[i, k] @ matrices[pattern[i], k] for rows `(m, K, d)`, in blocks of `BLOCK` rows of one pattern."""
    order = pattern.argsort(stable=True)
    count = torch.bincount(pattern, minlength=len(matrices))
    blocks = torch.div(count + BLOCK - 1, BLOCK, rounding_mode="floor")
    first = (blocks.cumsum(0) - blocks) * BLOCK
    within = torch.arange(len(rows), device=rows.device) - (count.cumsum(0) - count)[pattern[order]]
    place = first[pattern[order]] + within
    total, k, d = int(blocks.sum()), rows.shape[1], rows.shape[2]
    padded = rows.new_zeros(total * BLOCK, k, d)
    padded[place] = rows[order]
    owner = torch.arange(len(matrices), device=rows.device).repeat_interleave(blocks)
    left = padded.view(total, BLOCK, k, d).transpose(1, 2).reshape(total * k, BLOCK, d)
    product = torch.bmm(left, matrices[owner].reshape(total * k, d, d))
    product = product.view(total, k, BLOCK, d).transpose(1, 2).reshape(total * BLOCK, k, d)
    out = torch.empty_like(rows)
    out[order] = product[place]
    return out
