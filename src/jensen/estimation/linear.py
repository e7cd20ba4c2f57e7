"""Linear regression with the covariance of its errors, by least squares with as much shrinking as left-out rows ask for.

    y = ȳ + Bᵀ z + C ε,   z = (x - x̄)/sd(x),   B = argmin Σ_i ‖y_i - ȳ - Bᵀ z_i‖² + λ ‖B‖²

(Hoerl and Kennard 1970, "Ridge regression"), each target in units of its standard deviation. With z = U S Vᵀ and
h_i = 1/n + Σ_j U_ij² S_j²/(S_j² + λ), the error of row i under the fit to all other rows, at the same x̄ and sd(x), is

    e_i = (y_i - ŷ_i)/(1 - h_i)

(Allen 1974, "The relationship between variable selection and data augmentation and a method for prediction"; exact, though ȳ
is fitted anew as well). λ is that of SHRINKAGES n with the least Σ e_i²; 0, plain least squares, is one of them. C Cᵀ is the
mean of e_i e_iᵀ: the covariance of errors on new rows, where the residuals' would be too small.

Where y is nearly a linear function of x there would be no bound on the density, so no direction of the errors has less than
LEAST standard deviations of y.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from jensen.errors import InputError

LEAST = 1e-4
SHRINKAGES = (0.0, *(10 ** (k / 2) for k in range(-8, 7)))
CONSTANT = 1e-12  # of a column's largest value


@dataclass(frozen=True)
class Linear:
    """y = intercept + slopeᵀ (x - shift)/scale + factor ε, in the units of the data.

    Attributes:
        shift: x̄.
        scale: sd(x), 1 for constant columns.
        intercept: ȳ.
        slope: B.
        factor: C, lower triangular.
        shrinkage: λ/n.
    """

    shift: Float64[Tensor, " F"]
    scale: Float64[Tensor, " F"]
    intercept: Float64[Tensor, " D"]
    slope: Float64[Tensor, "F D"]
    factor: Float64[Tensor, "D D"]
    shrinkage: float


def fit_linear(x: Float64[Tensor, "n F"], y: Float64[Tensor, "n D"], *, correlated: bool = True) -> Linear:
    """Least squares with shrinking.

    Args:
        x: complete rows.
        y: their targets.
        correlated: whether the errors of several targets are; if not, C is diagonal.

    Raises:
        InputError: a constant target, or no more rows than targets.
    """
    rows, targets = y.shape
    if rows < 2 or (correlated and rows <= targets):
        raise InputError(
            f"{rows} rows to fit to are too few to tell the covariance of {targets} targets; take more rows, or "
            'fewer targets, or covariance="diag"'
        )
    shift, scale, intercept, sd = x.mean(0), _spread(x), y.mean(0), _spread(y)
    if not bool(torch.isfinite(torch.cat((shift, scale, intercept, sd))).all()):
        largest = float(torch.cat((x, y), 1).abs().max())
        raise InputError(f"values are too large to average, up to {largest:.3g}; take another unit")
    constant = (sd == 0).nonzero()[:, 0].tolist()
    if constant:
        value = float(y[0, constant[0]])
        raise InputError(
            f"column {constant[0]} of y is {value:g} in every row to fit to: it has no density; leave it out"
        )
    scale = torch.where(scale == 0, 1.0, scale)
    u, s, vt = torch.linalg.svd((x - shift) / scale, full_matrices=False)
    kept = s > 1e-10 * s[0].clamp(min=1e-10)
    u, s, vt = u[:, kept], s[kept], vt[kept]
    target = (y - intercept) / sd
    shrinkage = min(SHRINKAGES, key=lambda each: float(left_out(u, s, target, each).square().sum()))
    errors = left_out(u, s, target, shrinkage)
    slope = vt.T @ ((s / (s.square() + shrinkage * rows))[:, None] * (u.T @ target))
    covariance = errors.T @ errors / rows
    factor = _factor(covariance if correlated else covariance.diagonal().diag())
    return Linear(shift, scale, intercept, slope * sd, sd[:, None] * factor, shrinkage)


def left_out(
    u: Float64[Tensor, "n r"], s: Float64[Tensor, " r"], target: Float64[Tensor, "n D"], shrinkage: float
) -> Float64[Tensor, "n D"]:
    """e_i for centred targets; infinite where a row alone decides its own fit."""
    share = s.square() / (s.square() + shrinkage * len(u))
    free = 1 - 1 / len(u) - u.square() @ share
    residual = target - u @ (share[:, None] * (u.T @ target))
    return torch.where(free[:, None] > 1e-9, residual / free[:, None], torch.inf)


def _spread(values: Tensor) -> Tensor:
    """Each column's standard deviation, whatever its unit; 0 where it is nothing but rounding."""
    largest = values.abs().max(0).values.clamp(min=torch.finfo(values.dtype).tiny)
    sd = (values / largest).std(0, correction=0)
    return torch.where(sd <= CONSTANT, 0.0, sd * largest)


def _factor(covariance: Tensor) -> Tensor:
    """Its Cholesky factor, directions of less than LEAST² brought to it."""
    values, vectors = torch.linalg.eigh(covariance)
    if float(values.min()) < LEAST**2:
        covariance = (vectors * values.clamp(min=LEAST**2)) @ vectors.T
    return torch.linalg.cholesky(covariance)
