"""The E-step of complete rows, a chunk at a time: responsibilities and their statistics in one pass.

**Features.** log w_k N(x; m_k, Σ_k) is linear in the features of x

    φ(x) = [x_i x_j for i ≤ j, x, 1],   p = d (d + 1)/2 + d + 1,

so a chunk's log-densities are one matrix product θ Φ (K × p by p × rows) and its statistics another, R Φᵀ: together
4 K p flops a row, half of what whitening by full matrices takes, in two large products. Where Σ_k is diagonal
φ(x) = [x_i², x, 1]. Pairs (i, i + s mod d) for s = 0 … d/2 are each pair once, and one multiplication by a view makes
them all.

**Rounding.** The linear form cancels where a component is narrow and far from the origin. With x typical for component
k the terms of the product add up in absolute value to about

    κ_k = ½ Σ_ij a_i |P_ij| a_j + Σ_i |P m_k|_i a_i + |constant|,   a = |m_k| + 4 σ_k,  P = Σ_k⁻¹,

and a row's log-density is off by at most `SAFETY` · (eps · max κ_k + eps64 · max ½ aᵀ|P||Σ||P|a) nats, the second term
for inverting Σ in float64; that is `rounding`, and it decides whether the kernel may be used. The rounding of θ itself
is the same for every row and would not average out, but to first order it changes the total by ⟨θ_exact - θ,
statistics⟩, which is added back. What is left is rounding row by row.

**Factored.** For Σ = W Wᵀ + D, with Σ⁻¹ = D⁻¹ - T Tᵀ (`lowrank`), -½ (x - m)ᵀ D⁻¹ (x - m) is linear in [x_i², x, 1] and
½ ‖Tᵀ (x - m)‖² takes one product with all T together; the statistics are R [x_i², x, 1] and Σ r x (Tᵀ x)ᵀ. That is
K d (8 + 4 q) flops a row, where the features of full matrices take 2 K d². Rounding is that of the terms before they cancel, the
projections' as the root of a sum of squares.

**Whitened.** y = L_k⁻¹ (x - m_k), log N = -½ ‖y‖² - log |L_k| + const, and the scatter about the current means: nothing
cancels. Twice the flops; this is what the fit falls back on, in float64 at last (`ladder`).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import threshold

from jensen.mixture.covariance import Covariance, Factors
from jensen.mixture.lowrank import LowRank
from jensen.mixture.normals import cholesky
from jensen.mixture.parameters import Parameters
from jensen.mixture.rows import Chunk
from jensen.mixture.statistics import Statistics
from jensen.mixture.view import Everything, Projected, View

SAFETY = 2.0
ALLOWED = 0.05  # nats, for a single row at worst; a hundred times less is usual, and rows average out
MOST_DIMS_FOR_FEATURES = 96
CACHE = 1 << 21  # bytes of features at a time
EPS64 = torch.finfo(torch.float64).eps
LOG_2PI = math.log(2 * math.pi)
MARGIN = 4.0  # above the logarithm of the smallest normal number: smaller shares are 0, since underflow is slow


class Kernel(ABC):
    """Complete rows → statistics, for fixed parameters.

    Attributes:
        centre: `(K, d)` what the statistics are about.
        rounding: a bound on the error of one row's log-density, nats.
        shared: the part of it that is the same for all rows, and so does not average out.
        size: how many rows suit it.
        view: what the statistics keep of matrices.
        name: what a message calls it.
    """

    centre: Tensor
    rounding: float
    shared: float
    size: int
    view: View
    name: str

    @abstractmethod
    def over(self, chunk: Chunk) -> Statistics:
        """The statistics of complete rows; they go through in pieces that suit the cache."""

    def pieces(self, chunk: Chunk) -> Iterator[Chunk]:
        """The rows, `size` at a time."""
        return (chunk.at(slice(i, i + self.size)) for i in range(0, len(chunk), self.size))


class Features(Kernel):
    """One product for the densities, one for the statistics.

    Args:
        parameters: the mixture.
        covariance: its structure.
        origin: `(d,)` subtracted from rows first; near the middle of the data.
        dtype: of the arithmetic.
    """

    def __init__(self, parameters: Parameters, covariance: Covariance, origin: Tensor, dtype: torch.dtype) -> None:
        self.name, self.diagonal = f"features, {_plain(dtype)}", covariance.diagonal
        self.view = covariance.view(parameters.spread)
        self.components, self.dims = parameters.components, parameters.dims
        self.origin = origin.to(dtype)
        self.centre = self.origin.double().expand(self.components, -1).contiguous()
        theta, terms, inversion = self._theta(parameters, covariance)
        by_row, of_all = torch.finfo(dtype).eps * float(terms.max()), EPS64 * float(inversion.max())
        self.rounding = SAFETY * (by_row + of_all)
        self.shared = (SAFETY * by_row) ** 2 + SAFETY * of_all
        self.theta = theta.to(dtype)
        self.left = theta - self.theta.double()
        self.size = max(256, CACHE // (theta.shape[1] * self.theta.element_size()) // 64 * 64)

    def _theta(self, parameters: Parameters, covariance: Covariance) -> tuple[Tensor, Tensor, Tensor]:
        """The coefficients `(K, p)` in float64, κ `(K,)`, and ½ aᵀ|P||Σ||P|a `(K,)`."""
        mean = parameters.means - self.centre
        variances = covariance.variances(parameters.spread, self.components)
        reach = mean.abs() + 4 * variances.sqrt()
        if self.diagonal:
            precision = 1 / variances
            linear, half_log = precision * mean, 0.5 * variances.log().sum(1)
            quadratic, size = -0.5 * precision, (0.5 * precision * reach.square()).sum(1)
            inversion = size
        else:
            matrices = covariance.matrices(parameters.spread, self.components)
            factor = cholesky(matrices)
            precision = torch.cholesky_inverse(factor)
            linear = (precision @ mean[:, :, None])[:, :, 0]
            half_log = factor.diagonal(dim1=1, dim2=2).log().sum(1)
            quadratic = -0.5 * _pairs(precision)
            pull = (precision.abs() @ reach[:, :, None])[:, :, 0]
            size = 0.5 * (pull * reach).sum(1)
            inversion = 0.5 * torch.einsum("ki,kij,kj->k", pull, matrices.abs(), pull)
        constant = parameters.weights.log() - 0.5 * (linear * mean).sum(1) - half_log - 0.5 * self.dims * LOG_2PI
        terms = size + (linear.abs() * reach).sum(1) + constant.nan_to_num(neginf=0.0).abs()
        return torch.cat([quadratic, linear, constant[:, None].clamp(min=-1e30)], 1), terms, inversion

    def _phi(self, x: Tensor, buffer: Tensor) -> Tensor:
        """φ of rows `x (m, d)`, one a column, `(p, m)` in the buffer."""
        d, m = self.dims, len(x)
        phi = buffer[: self.theta.shape[1] * m].view(-1, m)
        linear = phi[-1 - d : -1]
        torch.sub(x.T, self.origin[:, None], out=linear)
        phi[-1] = 1.0
        if self.diagonal:
            torch.mul(linear, linear, out=phi[:d])
            return phi
        twice = torch.cat([linear, linear])
        whole, rest = (d + 1) // 2, d // 2 if d % 2 == 0 else 0
        shifted = twice.as_strided((whole, d, m), (m, m, 1))
        torch.mul(shifted, linear, out=phi[: whole * d].view(whole, d, m))
        if rest:
            torch.mul(linear[:rest], linear[rest:], out=phi[whole * d : whole * d + rest])
        return phi

    def over(self, chunk: Chunk) -> Statistics:
        """θ Φ, softmax, R Φᵀ, piece by piece; sums over pieces are float64."""
        sums, total = torch.zeros_like(self.left), self.left.new_zeros(())
        buffer = self.theta.new_empty(self.theta.shape[1] * min(self.size, len(chunk)))
        for piece in self.pieces(chunk):
            phi, weight = self._phi(piece.x.to(self.theta.dtype), buffer), piece.weight.to(self.theta.dtype)
            responsibility, log_density = _responsibilities(self.theta @ phi, weight)
            sums += responsibility @ phi.T
            total += torch.dot(log_density.double(), weight.double())
        total += (self.left * sums).sum()
        d = self.dims
        second = sums[:, :d] if self.diagonal else _matrix(sums[:, : -1 - d], d)
        return Statistics(self.centre, sums[:, -1], sums[:, -1 - d : -1], second, self.view, float(total), _mass(chunk))


class Whitened(Kernel):
    """Every component in its own coordinates."""

    def __init__(self, parameters: Parameters, covariance: Covariance, dtype: torch.dtype) -> None:
        self.name, self.diagonal = f"whitened, {_plain(dtype)}", covariance.diagonal
        self.view = covariance.view(parameters.spread)
        components, d = parameters.components, parameters.dims
        self.means = parameters.means.to(dtype)
        self.centre = self.means.double()
        variances = covariance.variances(parameters.spread, components)
        if self.diagonal:
            self.whiten, log_det = variances.rsqrt().to(dtype), 0.5 * variances.log().sum(1)
            stretch = ((parameters.means.abs() / variances.sqrt()).square()).sum(1)
            inversion = stretch.new_zeros(1)
        else:
            matrices = covariance.matrices(parameters.spread, components)
            factor = cholesky(matrices)
            eye = torch.eye(d).to(factor).expand(components, d, d)
            inverse = torch.linalg.solve_triangular(factor, eye, upper=False)
            self.whiten, log_det = inverse.mT.contiguous().to(dtype), factor.diagonal(dim1=1, dim2=2).log().sum(1)
            stretch = (inverse.abs() @ parameters.means.abs()[:, :, None]).square().sum((1, 2)) + (
                inverse.abs() @ (4 * variances.sqrt()[:, :, None])
            ).square().sum((1, 2))
            pull = (torch.cholesky_inverse(factor).abs() @ (4 * variances.sqrt()[:, :, None]))[:, :, 0]
            inversion = 0.5 * torch.einsum("ki,kij,kj->k", pull, matrices.abs(), pull)
        self.constant = parameters.weights.log() - log_det - 0.5 * d * LOG_2PI
        size = float((4 * math.sqrt(d) * stretch.sqrt() + 16 * d + self.constant.nan_to_num(neginf=0.0).abs()).max())
        self.rounding = self.shared = SAFETY * (torch.finfo(dtype).eps * size + EPS64 * float(inversion.max()))
        self.constant = self.constant.to(dtype)
        self.size = max(256, CACHE // (d * self.means.element_size()) // 64 * 64)

    def over(self, chunk: Chunk) -> Statistics:
        """Two passes over the components: densities, then moments about the current means."""
        parts = [
            self._piece(piece.x.to(self.means.dtype), piece.weight.to(self.means.dtype)) for piece in self.pieces(chunk)
        ]
        count, first, second, total = (sum(part[1:], part[0]) for part in zip(*parts, strict=True))
        return Statistics(self.centre, count, first, second, self.view, float(total), _mass(chunk))

    def _piece(self, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Count, first and second moments and log-likelihood, float64."""
        joint = torch.stack([self._log_density(x, k) for k in range(len(self.means))])
        responsibility, log_density = _responsibilities(joint, weight)
        moments = [self._moments(x - mean, r) for mean, r in zip(self.means, responsibility, strict=True)]
        first, second = (torch.stack(parts).double() for parts in zip(*moments, strict=True))
        return responsibility.double().sum(1), first, second, torch.dot(log_density.double(), weight.double())

    def _log_density(self, x: Tensor, k: int) -> Tensor:
        offset = x - self.means[k]
        white = offset * self.whiten[k] if self.diagonal else offset @ self.whiten[k]
        return self.constant[k] - 0.5 * white.square().sum(1)

    def _moments(self, offset: Tensor, responsibility: Tensor) -> tuple[Tensor, Tensor]:
        weighted = offset * responsibility[:, None]
        second = (weighted * offset).sum(0) if self.diagonal else weighted.T @ offset
        return weighted.sum(0), second


class Factored(Kernel):
    """Low rank plus diagonal: two products for the densities, two for the statistics.

    Args:
        parameters: the mixture.
        normals: its components.
        view: what to keep of matrices.
        origin: `(d,)` subtracted from rows first; near the middle of the data.
        dtype: of the arithmetic.
    """

    view: Projected

    def __init__(
        self, parameters: Parameters, normals: LowRank, view: Projected, origin: Tensor, dtype: torch.dtype
    ) -> None:
        self.name, self.view = f"factored, {_plain(dtype)}", view
        components, d = parameters.means.shape
        self.origin = origin.to(dtype)
        self.centre = self.origin.double().expand(components, -1).contiguous()
        mean = parameters.means - self.centre
        linear = mean / normals.noise
        constant = parameters.weights.log() - 0.5 * (normals.log_det + d * LOG_2PI + (linear * mean).sum(1))
        theta = torch.cat([-0.5 / normals.noise, linear, constant[:, None].clamp(min=-1e30)], 1)
        reach = mean.abs() + 4 * (normals.loadings.square().sum(2) + normals.noise).sqrt()
        own = (0.5 * reach.square() / normals.noise + linear.abs() * reach).sum(1)
        common = (normals.root.square() * reach.square()[:, :, None]).sum((1, 2))
        terms = own + common + constant.nan_to_num(neginf=0.0).abs()
        self.rounding = SAFETY * torch.finfo(dtype).eps * float(terms.max())
        self.shared = self.rounding**2 + SAFETY * EPS64 * float(terms.max())
        self.theta = theta.to(dtype)
        self.left = theta - self.theta.double()
        root = normals.root.mT.reshape(-1, d).to(dtype)
        self.linear = torch.cat([self.theta[:, d:-1], root])
        self.shift = (normals.root.mT @ mean[:, :, None]).to(dtype)
        self.size = max(128, CACHE // (2 * d * self.theta.element_size()) // 64 * 64)

    def over(self, chunk: Chunk) -> Statistics:
        """Piece by piece; sums over pieces are float64."""
        components, d = self.centre.shape
        count, square = self.left.new_zeros(components), self.left.new_zeros(components, d)
        by_x = self.left.new_zeros(components * (1 + self.view.basis.shape[2]), d)
        total = self.left.new_zeros(())
        for piece in self.pieces(chunk):
            x, weight = piece.x.to(self.theta.dtype) - self.origin, piece.weight.to(self.theta.dtype)
            x_square, along = x * x, self.linear @ x.T
            y = along[components:].view(components, -1, len(x))
            joint = torch.addmm(along[:components], self.theta[:, :d], x_square.T).add_(self.theta[:, -1:])
            joint.add_((y - self.shift).square_().sum(1), alpha=0.5)
            share, log_density = _responsibilities(joint, weight)
            seen = x.T if isinstance(self.view, Everything) else y
            by_x += torch.cat([share, (share[:, None] * seen).flatten(0, 1)]) @ x
            count += share.sum(1)
            square += share @ x_square
            total += torch.dot(log_density.double(), weight.double())
        first, product = by_x[:components], by_x[components:].view(components, -1, d).mT
        total += (self.left * torch.cat([square, first, count[:, None]], 1)).sum()
        second = torch.cat([square[:, :, None], product], 2)
        return Statistics(self.centre, count, first, second, self.view, float(total), _mass(chunk))


Step = tuple[type[Kernel], torch.dtype]


def ladder(covariance: Covariance, dims: int, dtype: torch.dtype) -> list[Step]:
    """Kernels for data of this type, from fast to safe."""
    if isinstance(covariance, Factors):
        return [(Factored, kind) for kind in dict.fromkeys((dtype, torch.float64))]
    features = covariance.diagonal or dims <= MOST_DIMS_FOR_FEATURES
    steps: list[Step] = [(Features, dtype)] if features else [(Whitened, dtype)]
    if dtype != torch.float64 and features:
        steps.append((Features, torch.float64))
    return steps if steps[-1] == (Whitened, torch.float64) else [*steps, (Whitened, torch.float64)]


def kernel_for(
    parameters: Parameters, covariance: Covariance, view: View, origin: Tensor, dtype: torch.dtype, rung: int = 0
) -> tuple[Kernel, int]:
    """The first kernel from `rung` up whose rounding is allowed, and its rung; the last one whatever its rounding."""
    steps = ladder(covariance, parameters.dims, dtype)
    for index in range(rung, len(steps)):
        made = _made(steps[index], parameters, covariance, view, origin)
        if made.rounding <= ALLOWED or index == len(steps) - 1:
            return made, index
    raise AssertionError("the ladder has a last step")


def _made(step: Step, parameters: Parameters, covariance: Covariance, view: View, origin: Tensor) -> Kernel:
    kind, dtype = step
    if isinstance(covariance, Factors):
        assert isinstance(view, Projected)
        return Factored(parameters, covariance.normals(parameters.means, parameters.spread), view, origin, dtype)
    return (
        Features(parameters, covariance, origin, dtype) if kind is Features else Whitened(parameters, covariance, dtype)
    )


def _responsibilities(joint: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """From log w_k N_k(x) `(K, m)`, in place: weighted responsibilities `(K, m)` and log p(x) `(m,)`."""
    top = joint.amax(0)
    least = math.log(torch.finfo(joint.dtype).tiny) + MARGIN
    shares = threshold(joint.sub_(top).clamp_(min=least).exp_(), math.exp(least + 0.5), 0.0, inplace=True)
    total = shares.sum(0)
    return shares.mul_(weight / total), top + total.log()


def _mass(chunk: Chunk) -> float:
    return float(chunk.weight.sum(dtype=torch.float64))


def _pair_index(d: int) -> tuple[Tensor, Tensor]:
    """The pairs (i, i + s mod d) in the order of the features."""
    i = torch.arange(d)
    pairs = [(i, (i + s) % d) for s in range((d + 1) // 2)]
    if d % 2 == 0:
        pairs.append((i[: d // 2], i[d // 2 :]))
    return torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs])


def _pairs(matrices: Tensor) -> Tensor:
    """Coefficients of x_i x_j in xᵀ P x, `(K, d (d + 1) / 2)`."""
    i, j = _pair_index(matrices.shape[1])
    return matrices[:, i, j] * (1.0 + (i != j).to(matrices))


def _matrix(sums: Tensor, d: int) -> Tensor:
    """Symmetric matrices from the sums of pairs."""
    i, j = _pair_index(d)
    out = sums.new_empty(len(sums), d, d)
    out[:, i, j] = sums
    out[:, j, i] = sums
    return out


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
