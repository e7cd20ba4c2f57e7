"""Principal components, and the probabilistic PCA that they are the maximum likelihood of.

With S = (1/n) Σ w_i (x_i - μ)(x_i - μ)ᵀ = U Λ Uᵀ, λ_1 ≥ λ_2 ≥ …, the normal N(μ, W Wᵀ + σ² I) with W of q columns is most likely at

    σ² = (λ_{q+1} + … + λ_d) / (d - q),   W = U_q (Λ_q - σ² I)^½ R,   R any rotation, here I

(Tipping and Bishop 1999, "Probabilistic principal component analysis", equations 7 and 8). At a given σ² it is W = U (Λ - σ² I)₊^½: a
latent whose λ_i ≤ σ² has no loadings, and its posterior is its prior (Lucas et al. 2019, "Don't blame the ELBO!").

Rows with mean squares s_i along the axes and mean ‖x - μ‖² = t have the mean log-likelihood

    -½ [d log 2π + Σ_{i≤q} log λ_i + (d - q) log σ_q² + Σ_{i≤q} s_i/λ_i + (t - Σ_{i≤q} s_i)/σ_q²],

for every q at once. Where d > n, Λ and U come from the n × n Gram matrix: Xᵀ X v = λ v gives X Xᵀ (X v) = λ (X v).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from jensen.data.examples import Rows
from jensen.errors import InputError

ROWS_AT_ONCE = 1024
MOST_SIDE = 6000  # of the d × d or n × n matrix whose eigenvectors are wanted: 0.3 GB, and seconds
MOST_CELLS = 1 << 28  # of all axes together: 2 GiB
ROUNDING = 16 * torch.finfo(torch.float64).eps


@dataclass(frozen=True)
class Spectrum:
    """The principal components of rows.

    Attributes:
        mean: μ.
        values: λ_1 ≥ λ_2 ≥ … ≥ λ_m ≥ 0, m = min(n, d); the others are 0.
        axes: the first columns of U, as many as may be used.
        weight: the total weight of the rows.
    """

    mean: Float64[Tensor, " d"]
    values: Float64[Tensor, " m"]
    axes: Float64[Tensor, "d k"]
    weight: float

    @property
    def dims(self) -> int:
        """d."""
        return len(self.mean)

    @property
    def most(self) -> int:
        """The largest q: beyond it nothing is left for σ²."""
        return self.axes.shape[1]

    def noises(self) -> Float64[Tensor, " q"]:
        """σ² of every q from 0 to the largest."""
        left = self.values.flip(0).cumsum(0).flip(0)[: self.most + 1]
        return left / (self.dims - torch.arange(len(left)).to(left))

    def loadings(self, components: int, noise: float | Tensor) -> Float64[Tensor, "d q"]:
        """The best W of so many columns at this σ²."""
        return self.axes[:, :components] * (self.values[:components] - noise).clamp(min=0).sqrt()

    def log_likelihoods(
        self, squares: Float64[Tensor, " k"] | None = None, total: float | None = None
    ) -> Float64[Tensor, " q"]:
        """Nats a row for every q from 0 to the largest.

        Args:
            squares: s_i of other rows; those of the rows themselves, λ_i, if None.
            total: their t.
        """
        values, noise = self.values[: self.most], self.noises()
        squares = values if squares is None else squares
        total = float(self.values.sum()) if total is None else total
        left = self.dims - torch.arange(len(noise)).to(noise)
        rest = (total - _sums(squares)).clamp(min=0)
        return -0.5 * (
            self.dims * math.log(2 * math.pi)
            + _sums(values.log())
            + left * noise.log()
            + _sums(squares / values)
            + rest / noise
        )

    def squares_of(self, rows: Rows) -> tuple[Float64[Tensor, " k"], float]:
        """s_i and t of rows."""
        squares, total, weight = self.values.new_zeros(self.most), 0.0, 0.0
        for x, w in _batches(rows):
            centred = x - self.mean
            squares += w @ (centred @ self.axes).square()
            total += float(w @ centred.square().sum(1))
            weight += float(w.sum())
        return squares / weight, total / weight


def free_parameters(dims: int, components: int) -> int:
    """Of μ, σ² and W, whose rotations change nothing: d + 1 + d q - q (q - 1)/2."""
    return dims + 1 + dims * components - components * (components - 1) // 2


def spectrum(rows: Rows, most: int) -> Spectrum:
    """The principal components of rows, some rows in memory at a time.

    Args:
        rows: with weights, if they have any.
        most: axes wanted; there are fewer where the rows have not so many directions, or memory has no room.

    Raises:
        InputError: no weight, rows that are all the same, or too many of both rows and dimensions.
    """
    dims, n = math.prod(rows.batch(slice(0, 1)).x.shape[1:]), len(rows)
    if min(n, dims) > MOST_SIDE:
        raise InputError(
            f"principal components of {n} rows of {dims} dimensions are too many (one of the two must be at most {MOST_SIDE}); "
            "resize the data, or take gmm with covariance=factors"
        )
    weight = sum(float(w.sum()) for _, w in _batches(rows))
    if not weight > 0:
        raise InputError("the weights sum to 0; give some row a weight")
    mean = sum((w @ x for x, w in _batches(rows)), start=torch.zeros(())) / weight
    assert isinstance(mean, Tensor)
    values, vectors = torch.linalg.eigh(_gram(rows, mean, weight) if dims > n else _scatter(rows, mean, weight))
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    floor = float(values[0]) * ROUNDING * max(n, dims) + (ROUNDING * float(mean.abs().max())) ** 2
    rank = int((values > floor).sum())
    if rank == 0:
        raise InputError("all training rows are the same, so their density is infinite; give rows that differ")
    kept = max(0, min(most, rank - 1, MOST_CELLS // dims))
    axes = _axes(rows, mean, weight, vectors[:, :kept]) if dims > n else vectors[:, :kept]
    return Spectrum(mean, values, axes, weight)


def _sums(terms: Tensor) -> Tensor:
    """Of the first 0, 1, 2, … terms."""
    return torch.cat([terms.new_zeros(1), terms.cumsum(0)])


def _batches(rows: Rows) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows flattened in float64, and their weights."""
    for start in range(0, len(rows), ROWS_AT_ONCE):
        batch = rows.batch(slice(start, start + ROWS_AT_ONCE))
        yield batch.x.flatten(1).double(), batch.weights()


def _scaled(rows: Rows, mean: Tensor, weight: float) -> Iterator[Tensor]:
    """√(w/n) (x - μ)."""
    for x, w in _batches(rows):
        yield (w / weight).sqrt()[:, None] * (x - mean)


def _scatter(rows: Rows, mean: Tensor, weight: float) -> Tensor:
    out = mean.new_zeros(len(mean), len(mean))
    for part in _scaled(rows, mean, weight):
        out.addmm_(part.T, part)
    return out


def _gram(rows: Rows, mean: Tensor, weight: float) -> Tensor:
    """Of all pairs of rows, a block of rows against another at a time."""
    out = mean.new_zeros(len(rows), len(rows))
    for i, one in enumerate(_scaled(rows, mean, weight)):
        for j, other in enumerate(_scaled(rows, mean, weight)):
            if j > i:
                break
            a, b = i * ROWS_AT_ONCE, j * ROWS_AT_ONCE
            block = one @ other.T
            out[a : a + len(one), b : b + len(other)] = block
            out[b : b + len(other), a : a + len(one)] = block.T
    return out


def _axes(rows: Rows, mean: Tensor, weight: float, vectors: Tensor) -> Tensor:
    """Xᵀ V, made orthonormal: dividing by √λ alone would leave small axes leaning on large ones by rounding."""
    out, start = mean.new_zeros(len(mean), vectors.shape[1]), 0
    for part in _scaled(rows, mean, weight):
        out.addmm_(part.T, vectors[start : start + len(part)])
        start += len(part)
    return torch.linalg.qr(out).Q
