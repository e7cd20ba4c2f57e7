"""What the tensors of a model must be, held against those that come from a file.

A fit leaves a model's tensors as they must be; a file with the right names and shapes may hold anything: a negative count,
the number of a row that is not there, a covariance that is none, NaN. So a module that keeps numbers says for each of them
what it must be (`Ruled`), and `check` refuses the first that is not. A tensor without a rule, such as a network's weight,
must be finite.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from jensen.errors import COPY_OR_FIT, InputError

ROUNDING = 1e-6  # how far probabilities may be from summing to one, and covariances from being symmetric
PIECE = 1 << 22


@dataclass(frozen=True)
class Rule:
    """What a tensor must be.

    Attributes:
        says: the rule, behind "must be".
        broken: what a tensor has that breaks it, in words, or None.
    """

    says: str
    broken: Callable[[Tensor], str | None]

    def __and__(self, other: "Rule") -> "Rule":
        """Both, this one first."""
        return Rule(f"{self.says}, {other.says}", lambda t: self.broken(t) or other.broken(t))


class Ruled(ABC):
    """A module that says what its tensors must be."""

    @abstractmethod
    def rules(self) -> Mapping[str, Rule]:
        """The rule of each tensor of its own, by name, in the order to look; those of its parts are theirs."""


def check(model: nn.Module, where: str) -> None:
    """Refuse a model one of whose tensors breaks its rule.

    Args:
        model: the model with all its parts.
        where: the file that its tensors are from, as it stands in the message.

    Raises:
        InputError: the tensor, its rule, what it has.
    """
    for path, module in model.named_modules():
        tensors = dict([*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)])
        rules = dict(module.rules()) if isinstance(module, Ruled) else {}
        found = first_broken(rules | {name: FINITE for name in tensors if name not in rules}, tensors)
        if found is not None:
            part = f"{path}." if path else ""
            raise InputError(f"{where} is damaged: {part}{found}{COPY_OR_FIT}")


def first_broken(rules: Mapping[str, Rule], tensors: Mapping[str, Tensor]) -> str | None:
    """The first of these rules that is broken, as "name must be …, got …"; None if none is."""
    for name, rule in rules.items():
        tensor = tensors[name].detach()
        got = rule.broken(tensor) if tensor.numel() else None
        if got is not None:
            return f"{name} must be {rule.says}, got {got}"
    return None


def between(low: float, high: float, says: str, *, above: bool = False) -> Rule:
    """Numbers from low to high, or above low; NaN is none.

    Args:
        low: the least, not -∞.
        high: the greatest, not +∞.
        says: the rule in words.
        above: whether low itself is left out.
    """

    def broken(t: Tensor) -> str | None:
        least, most = (float(value) for value in torch.aminmax(t))  # both are NaN where one number is
        if not (least > low if above else least >= low):
            return f"{least:g}"
        return None if most <= high else f"{most:g}"

    return Rule(says, broken)


LARGEST = math.nextafter(math.inf, 0)
FINITE = between(-LARGEST, LARGEST, "finite")
POSITIVE = between(0.0, LARGEST, "positive and finite", above=True)
COUNTS = between(0.0, 1e100, "from 0 to 1e100")  # so that their sums are finite


def whole(low: int, high: int) -> Rule:
    """Whole numbers from low to high."""

    def fraction(t: Tensor) -> str | None:
        return next(
            (f"{float(p[p != p.floor()][0]):g}" for p in t.flatten().split(PIECE) if bool((p != p.floor()).any())), None
        )

    rule = between(low, high, f"a whole number from {low} to {high}")
    return Rule(rule.says, lambda t: rule.broken(t) or (fraction(t) if t.is_floating_point() else None))


def probabilities(count: int | None = None) -> Rule:
    """Probabilities that sum to one, along the last axis or `count` at a time in a flat vector."""

    def broken(t: Tensor) -> str | None:
        sums = (t if count is None else t.view(-1, count)).double().sum(-1)
        return between(1 - ROUNDING, 1 + ROUNDING, "").broken(sums) and f"a sum of {_farthest(sums, 1.0):.9g}"

    return between(0.0, 1 + ROUNDING, "at least 0") & Rule("with sum 1", broken)


def log_probabilities(count: int) -> Rule:
    """Logarithms, -∞ among them, of probabilities that sum to one, `count` at a time in a flat vector."""

    def broken(t: Tensor) -> str | None:
        if bool(torch.isnan(t).any()):
            return "nan"
        sums = t.view(-1, count).double().logsumexp(-1).exp()
        return between(1 - ROUNDING, 1 + ROUNDING, "").broken(sums) and f"a sum of {_farthest(sums, 1.0):.9g}"

    return Rule("logarithms of probabilities with sum 1", broken)


def _farthest(values: Tensor, target: float) -> float:
    return float(values.flatten()[(values.flatten() - target).abs().nan_to_num(nan=math.inf).argmax()])


def _triangular(t: Tensor) -> str | None:
    least = float(t.diagonal(dim1=-2, dim2=-1).min())
    return (
        f"{least:g} on the diagonal" if least <= 0 else "numbers above the diagonal" if bool(t.triu(1).any()) else None
    )


LOWER_TRIANGULAR = FINITE & Rule("lower triangular with a positive diagonal", _triangular)


def _indefinite(t: Tensor) -> str | None:
    dims, start = t.shape[-1], 0
    for matrices in t.view(-1, dims, dims).split(max(1, PIECE // dims**2)):
        factor, failed = torch.linalg.cholesky_ex(matrices)
        wrong = _lopsided(matrices) | (failed != 0) | ~factor.isfinite().flatten(1).all(1)
        if bool(wrong.any()):
            return f"matrix {start + int(wrong.nonzero()[0])}, which is not"
        start += len(matrices)
    return None


def _lopsided(matrices: Tensor) -> Tensor:
    """Which of `(n, d, d)` are not symmetric; some rows at a time, so that a large one takes no memory of its size again."""
    size = matrices.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt()
    wrong = torch.zeros(len(matrices), dtype=torch.bool, device=matrices.device)
    for rows in torch.arange(matrices.shape[2], device=matrices.device).split(max(1, PIECE // matrices.shape[2])):
        apart = (matrices[:, rows] - matrices[:, :, rows].mT).abs()
        wrong |= (apart > ROUNDING * size[:, rows, None] * size[:, None]).flatten(1).any(1)
    return wrong


POSITIVE_DEFINITE = FINITE & Rule("symmetric and positive definite", _indefinite)


def _falling(t: Tensor) -> str | None:
    step = t.diff()
    return f"{float(t[1:][step <= 0][0]):g} behind {float(t[:-1][step <= 0][0]):g}" if bool((step <= 0).any()) else None


RISING = FINITE & Rule("each above the one before", _falling)
