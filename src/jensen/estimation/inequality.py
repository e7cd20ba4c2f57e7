"""Jensen's inequality: for a concave function the mean of the values lies below the value at the mean.

    E f(X) ≤ f(E X),   with equality for strictly concave f exactly if X is constant (almost surely)

For f = log and X = p(x, z)/q(z), z ~ q, the value at the mean is log p(x), the mean of the values is the ELBO, and the gap
is KL(q ‖ p(z | x)), zero exactly if q is the posterior, where p(x, z)/q(z) is the constant p(x). (Jensen 1906, "Sur les
fonctions convexes et les inégalités entre les valeurs moyennes".)
"""

from collections.abc import Callable

import torch
from jaxtyping import Float64
from torch import Tensor

from jensen.errors import InputError


def jensen_gap(
    f: Callable[[Tensor], Tensor], x: Float64[Tensor, " n"], p: Float64[Tensor, " n"] | None = None
) -> float:
    """f(E X) - E f(X) of a random variable with finitely many values: not negative for concave f, not positive for convex.

    Args:
        f: applied to a tensor of values, elementwise.
        x: the values of X.
        p: their probabilities, which sum to 1; equal if None.

    Raises:
        InputError: probabilities that are none.

    Example:
        >>> import math
        >>> x = torch.tensor([1.0, 4.0], dtype=torch.float64)
        >>> round(jensen_gap(torch.log, x), 12) == round(math.log(2.5) - math.log(2), 12)
        True
        >>> abs(jensen_gap(torch.log, torch.full((3,), 2.0, dtype=torch.float64))) < 1e-15
        True
    """
    p = torch.full_like(x, 1 / len(x)) if p is None else p
    if float(p.min()) < 0 or abs(float(p.sum()) - 1) > 1e-9:
        raise InputError(f"probabilities are not negative and sum to 1, got a sum of {float(p.sum()):g}")
    support = p > 0
    x, p = x[support], p[support]
    return float(f((p @ x).reshape(1))[0] - p @ f(x))
