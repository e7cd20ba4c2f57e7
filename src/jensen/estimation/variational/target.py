"""log p(x, z) as a user writes it, held against what it must be."""

import torch
from torch import Tensor

from jensen.errors import InputError
from jensen.estimation.variational.families import LogJoint


class Target:
    """A log-joint whose answers have the right shape.

    Args:
        log_joint: z `(draws, D)` → `(draws,)`.
    """

    def __init__(self, log_joint: LogJoint) -> None:
        self.log_joint = log_joint

    def __call__(self, z: Tensor) -> Tensor:
        """log p(x, z) of each draw, float64."""
        value = self.log_joint(z)
        if not isinstance(value, Tensor):
            raise InputError(f"log_joint must return a tensor of one number a draw, got {type(value).__name__}")
        if value.shape != z.shape[:1]:
            raise InputError(
                f"log_joint must return shape ({len(z)},) for z of shape {tuple(z.shape)}, one number a draw, got "
                f"{tuple(value.shape)}; sum over the last dimension of z and over the data, not over draws"
            )
        if not value.is_floating_point():
            raise InputError(f"log_joint must return floating point numbers, got {value.dtype}")
        return value.double()

    def check(self, z: Tensor) -> None:
        """Refuse a log-joint that cannot be climbed, by its answers at the first draws `(draws, D)`.

        Raises:
            InputError: a value that is not finite, no gradient, or one that is not finite.
        """
        z = z.detach().requires_grad_()
        value = self(z)
        self._finite(value, z, "value")
        if not value.requires_grad:
            raise InputError(
                "log_joint has no gradient in z; compute it by torch operations on z, without .detach(), .item(), numpy or no_grad"
            )
        (slope,) = torch.autograd.grad(value.sum(), z, allow_unused=True)
        if slope is None:
            raise InputError("log_joint does not depend on z; its value must be log p(x, z), up to a constant")
        self._finite(slope.sum(1), z, "gradient")

    def _finite(self, value: Tensor, z: Tensor, what: str) -> None:
        wrong = (~value.isfinite()).nonzero()
        if len(wrong):
            at = int(wrong[0])
            raise InputError(
                f"log_joint must have a finite {what} wherever q may go, which is all of R^{z.shape[1]}, got {float(value[at].detach()):g} at z = "
                f"{[round(v, 4) for v in z[at].tolist()][:8]}; write z without bounds (its logarithm, its logit, with the "
                "log-determinant of the change), or begin elsewhere by start and scale"
            )
