"""Bandwidths: rules of thumb, and the maximum of the leave-one-out likelihood.

**Rules.** h_d = σ_d · spread⁻¹ · n_eff^(-1/(d+4)) (Scott 1992, equation 6.42), times (4/(d+2))^(1/(d+4)) for Silverman's
(Silverman 1986, equation 4.14): best for a normal with independent columns, and too wide for anything with structure.
n_eff = (Σw)²/Σw² (Kish 1965); `spread` is the kernel's own standard deviation.

**Leave-one-out** (Habbema, Hermans and van den Broek 1974; Duin 1976):

    L(h) = Σ_i w_i log p_{-i}(x_i),   p_{-i}(x) = Σ_{j≠i} w_j K_h(x - x_j) / (1 - w_i),   Σ w = 1

which estimates n-1 rows' expected log-likelihood without bias. With r_ij = w_j K_h(x_i - x_j)/Σ_{l≠i} its slope is

    ∂L/∂log h_d = Σ_i w_i Σ_{j≠i} r_ij [(x_id - x_jd)²/h_d² - M_jd],   M_jd = E[(y - x_jd)²/h_d²] under the kernel at x_jd

(Gaussian; M = 1 on the real line), two matrix products a block. L-BFGS-B climbs from Scott's rule. The maximum is a local
one. The Epanechnikov kernel ends: L is -∞ where a row has no other within reach, so that any h up to the largest
nearest-neighbour distance is refused. It takes the Gaussian's proportions and one common factor beyond that, by L itself.

**What L cannot see.** Where rows repeat, L → ∞ as h → 0: the same value again has all the density. Equal rows on the
real line must come here as one row with their weights added, and so are left out together. Where one column repeats
values, h_d is kept at half the median gap between neighbouring values or above (`gap_floor`): the rounding of a column is
not its distribution. On levels a mass cannot exceed 1, and the floor is Laplace's: the next level gets at least
1/(2(n + 1)) of a bump's own, since n rows that agree do not say that the next one will (`level_floor`).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from jensen.kernel_density.kernels import Gaussian, Kernel
from jensen.kernel_density.levels import heights, mean_square, normalisers

BLOCK_CELLS = 1 << 20
WIDEST = 100.0  # ranges of a column: as good as none
EVALUATIONS, GRADIENT = 200, 1e-6  # nats a row for a factor e of one bandwidth
GRID = 33
ABOVE, SMALLEST_FACTOR = 1 + 1e-6, 1e-3
REFUSED = 1e300  # for -L = ∞, which the search could not interpolate


@dataclass(frozen=True)
class Sample:
    """Distinct rows that choose bandwidths.

    Attributes:
        rows: `(n, d)` float64, without missing cells; levels by their number.
        weights: `(n,)`, which sum to one.
        k: the number of levels; None on the real line.
    """

    rows: Float64[Tensor, "n d"]
    weights: Float64[Tensor, " n"]
    k: int | None

    @property
    def effective(self) -> float:
        """n_eff."""
        return 1 / float(self.weights.square().sum())


def scott(sample: Sample, kernel: Kernel) -> Float64[Tensor, " d"]:
    """Scott's rule, not below the floor."""
    dims = sample.rows.shape[1]
    h = _deviation(sample) / kernel.spread * sample.effective ** (-1 / (dims + 4))
    return torch.maximum(h, floor(sample, kernel))


def silverman(sample: Sample, kernel: Kernel) -> Float64[Tensor, " d"]:
    """Silverman's rule, not below the floor."""
    dims = sample.rows.shape[1]
    h = _deviation(sample) / kernel.spread * (sample.effective * (dims + 2) / 4) ** (-1 / (dims + 4))
    return torch.maximum(h, floor(sample, kernel))


def floor(sample: Sample, kernel: Kernel) -> Float64[Tensor, " d"]:
    """The narrowest bandwidths that may be chosen."""
    if sample.k is None:
        return gap_floor(sample.rows) / kernel.spread
    share = 1 / (2 * (sample.effective + 1))
    return sample.rows.new_full((sample.rows.shape[1],), kernel.narrowest_on_levels(share))


def gap_floor(rows: Float64[Tensor, "n d"]) -> Float64[Tensor, " d"]:
    """Half the median gap between neighbouring distinct values of every column."""
    found = [column.unique().diff() for column in rows.T]
    return torch.stack([0.5 * gaps.median() if len(gaps) else rows.new_tensor(1e-6) for gaps in found])


def left_out(sample: Sample, bandwidths: Float64[Tensor, " d"], kernel: Kernel) -> Float64[Tensor, " n"]:
    """log p_{-i}(x_i) of every row."""
    y, constant, parts = sample.rows / bandwidths, _log_weighted(sample, bandwidths, kernel), []
    for rows in _parts(sample):
        exponents = kernel.log_product(y[rows], y) + constant
        exponents.diagonal(rows.start).fill_(-math.inf)
        parts.append(exponents.logsumexp(1))
    return torch.cat(parts) - (-sample.weights).log1p()


def objective(sample: Sample, bandwidths: Float64[Tensor, " d"], kernel: Kernel) -> float:
    """L(h), nats a row; -∞ where some row is out of every other's reach."""
    return float((sample.weights * left_out(sample, bandwidths, kernel)).sum())


def slope(sample: Sample, bandwidths: Float64[Tensor, " d"]) -> tuple[float, Float64[Tensor, " d"]]:
    """L(h) and ∂L/∂log h, for Gaussian bumps."""
    kernel, dims, centre = Gaussian(), sample.rows.shape[1], sample.rows.mean(0)
    y, constant = (sample.rows - centre) / bandwidths, _log_weighted(sample, bandwidths, Gaussian())
    features = torch.cat([y, y.square() - _second_moments(sample, bandwidths)], 1)
    value, gradient = 0.0, torch.zeros_like(bandwidths)
    for rows in _parts(sample):
        exponents, own, weight = kernel.log_product(y[rows], y) + constant, y[rows], sample.weights[rows]
        exponents.diagonal(rows.start).fill_(-math.inf)
        most = exponents.amax(1)
        r = exponents.sub_(most[:, None]).exp_()
        total = r.sum(1)
        value += float((weight * (most + total.log() - (-weight).log1p())).sum())
        means = (r @ features) / total[:, None]
        gradient += weight @ (own.square() - 2 * own * means[:, :dims] + means[:, dims:])
    return value, gradient


def best(sample: Sample, kernel: Kernel) -> Float64[Tensor, " d"]:
    """The bandwidths of the largest leave-one-out likelihood above the floor."""
    from scipy.optimize import minimize

    low, start = floor(sample, Gaussian()), scott(sample, Gaussian())
    high = torch.maximum(WIDEST * (sample.rows.amax(0) - sample.rows.amin(0)), 2 * start)

    def negative(log_h: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> tuple[float, object]:
        value, gradient = slope(sample, torch.from_numpy(np.exp(log_h)))
        return -value, -gradient.numpy()

    bounds = np.stack([low.log().numpy(), high.log().numpy()], 1)
    options = {"maxfun": EVALUATIONS, "gtol": GRADIENT, "ftol": 1e-13}
    found = minimize(negative, start.log().numpy(), jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    h = torch.from_numpy(np.exp(found.x)).clamp(low, high)
    return h if isinstance(kernel, Gaussian) else _common_factor(sample, h / kernel.spread, kernel)


def _common_factor(sample: Sample, proportions: Tensor, kernel: Kernel) -> Tensor:
    """The multiple of these bandwidths that is best, of those at which every row has another within reach: a grid, and
    then the best place between its best point's neighbours.
    """
    from scipy.optimize import minimize_scalar

    low, least = floor(sample, kernel), max(float(nearest(sample.rows / proportions)), SMALLEST_FACTOR)

    def negative(log_factor: float) -> float:
        value = -objective(sample, torch.maximum(math.exp(log_factor) * proportions, low), kernel)
        return value if math.isfinite(value) else REFUSED

    grid = np.linspace(math.log(least * ABOVE), math.log(max(20 * least, 2.0)), GRID)
    at = int(np.argmin([negative(point) for point in grid]))
    around = (grid[max(at - 1, 0)], grid[min(at + 1, GRID - 1)])
    found = minimize_scalar(negative, bounds=around, method="bounded", options={"xatol": 1e-6})
    return torch.maximum(math.exp(min((found.x, grid[at]), key=negative)) * proportions, low)


def nearest(y: Float64[Tensor, "n d"]) -> Tensor:
    """The largest distance of a row from its nearest other, by the dimension in which they are farthest apart."""
    worst = y.new_zeros(())
    for rows in range(0, len(y), 64):
        far = y.new_zeros(len(y[rows : rows + 64]), len(y))
        for column in y.T:
            far = torch.maximum(far, (column[rows : rows + 64, None] - column).abs())
        far.diagonal(rows).fill_(math.inf)
        worst = torch.maximum(worst, far.amin(1).amax())
    return worst


def _deviation(sample: Sample) -> Tensor:
    """The weighted standard deviation of every column, n_eff - 1 below the line."""
    mean = sample.weights @ sample.rows
    square = sample.weights @ (sample.rows - mean).square()
    return (square / (1 - 1 / max(sample.effective, 1.5))).sqrt()


def _log_weighted(sample: Sample, bandwidths: Tensor, kernel: Kernel) -> Tensor:
    """log w_j - Σ_d log Z_jd."""
    if sample.k is None:
        return sample.weights.log() - (bandwidths.log() + kernel.log_integral).sum()
    tables = normalisers(heights(kernel, bandwidths, sample.k)).log()
    return sample.weights.log() - tables.gather(1, sample.rows.long().T).sum(0)


def _second_moments(sample: Sample, bandwidths: Tensor) -> Tensor:
    """M."""
    if sample.k is None:
        return bandwidths.new_ones(1)
    tables = mean_square(heights(Gaussian(), bandwidths, sample.k)) / bandwidths.square()[:, None]
    return tables.gather(1, sample.rows.long().T).T


def _parts(sample: Sample) -> list[slice]:
    size, n = max(1, BLOCK_CELLS // len(sample.rows)), len(sample.rows)
    return [slice(i, min(i + size, n)) for i in range(0, n, size)]
