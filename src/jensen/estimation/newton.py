"""Newton's method with safeguards, for the maximum of a smooth function of a few free coordinates.

    φ ← φ + t (-H)⁻¹ g,   g = ∇f(φ),   H = ∇²f(φ)

Where -H is not positive definite its negative curvatures change sign, in coordinates scaled by its diagonal, so that
every step goes up; t is halved until f rises enough (Armijo). It ends where the Newton decrement gᵀ(-H)⁻¹g, twice the
rise that is left, is nothing; that criterion does not depend on the units of φ. (Nocedal and Wright 2006, "Numerical
optimization", sections 3.4 and 6.2; Boyd and Vandenberghe 2004, "Convex optimization", section 9.5.)
"""

from collections.abc import Callable

import torch
from jaxtyping import Float64
from torch import Tensor

from jensen.errors import FitError

DECREMENT, MOST_STEPS, MOST_HALVINGS = 1e-22, 200, 50
ROUNDING = 1e-13
Smooth = Callable[[Tensor], Tensor]


def maximise(f: Smooth, start: Float64[Tensor, " p"], what: str) -> Float64[Tensor, " p"]:
    """The maximum that Newton's method reaches from a start.

    Args:
        f: a twice differentiable function of `(p,)`, a mean over rows: about 1 in size.
        start: where to begin.
        what: the thing that is fitted, for messages.

    Returns:
        Where the gradient is zero to rounding and the curvature negative.

    Raises:
        FitError: there is no such place on the way up.

    Example:
        >>> maximise(lambda p: -(p - 3.0).square().sum(), torch.zeros(2, dtype=torch.float64), "a parabola").tolist()
        [3.0, 3.0]
    """
    at = start.clone()
    for _ in range(MOST_STEPS):
        value, gradient, hessian = derivatives(f, at)
        step = _ascent(gradient, hessian)
        decrement = float(gradient @ step)
        if decrement <= DECREMENT:
            break
        at, moved = _searched(f, at, float(value), step, decrement)
        if not moved:
            break
    value, gradient, hessian = derivatives(f, at)
    curved = torch.linalg.cholesky_ex(-hessian)[1] == 0
    if not curved or float(gradient @ _ascent(gradient, hessian)) > 1e-16:
        raise FitError(
            f"the log-likelihood of {what} has no maximum that is reached from the moments of the data: it goes on rising "
            "or is flat; check the data, or choose another family"
        )
    return at


def derivatives(f: Smooth, at: Float64[Tensor, " p"]) -> tuple[Tensor, Tensor, Tensor]:
    """Value, gradient `(p,)` and Hessian `(p, p)` of f."""
    with torch.enable_grad():
        point = at.detach().requires_grad_()
        value = f(point)
        (gradient,) = torch.autograd.grad(value, point, create_graph=True)
        rows = [_row(g, point) for g in gradient]
    hessian = torch.stack(rows)
    return value.detach(), gradient.detach(), 0.5 * (hessian + hessian.T)


def _row(entry: Tensor, point: Tensor) -> Tensor:
    """A row of the Hessian; zeros where an entry of the gradient does not depend on the point."""
    if not entry.requires_grad:
        return torch.zeros_like(point)
    (row,) = torch.autograd.grad(entry, point, retain_graph=True, allow_unused=True)
    return torch.zeros_like(point) if row is None else row


def _ascent(gradient: Tensor, hessian: Tensor) -> Tensor:
    """(-H)⁻¹ g with the signs of wrong curvatures changed, and tiny ones bounded."""
    scale = hessian.diagonal().abs().clamp(min=1e-300).rsqrt()
    values, vectors = torch.linalg.eigh(-hessian * scale * scale[:, None])
    bounded = values.abs().clamp(min=1e-12)
    return scale * (vectors @ ((vectors.T @ (scale * gradient)) / bounded))


def _searched(f: Smooth, at: Tensor, value: float, step: Tensor, decrement: float) -> tuple[Tensor, bool]:
    """The first of t = 1, ½, ¼, … at which f has risen enough; the place, and whether there was one."""
    t = min(1.0, 5.0 / float(step.abs().max().clamp(min=1e-300))) if decrement > 1e-4 else 1.0
    for _ in range(MOST_HALVINGS):
        new = at + t * step
        risen = float(f(new).detach()) - value
        if risen >= 1e-4 * t * decrement - ROUNDING * (1 + abs(value)):
            return new, True
        t /= 2
    return at, False
