"""The numbers of evaluation.json on their way to the page: looked up without trust, rounded as they are quoted.

Anything may be missing or null there; what is not a finite number, a dict or text reads as missing.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jensen.likelihood import BITS, plus_minus


def part(record: Any, *names: str) -> dict[str, Any]:
    """The dict found by following the names, or an empty one."""
    for name in names:
        record = record.get(name) if isinstance(record, Mapping) else None
    return dict(record) if isinstance(record, Mapping) else {}


def real(record: Any, name: str) -> float | None:
    """A finite number, or None."""
    value = record.get(name) if isinstance(record, Mapping) else None
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good and value is not None else None


def word(record: Any, name: str, default: str = "") -> str:
    """A text."""
    value = record.get(name) if isinstance(record, Mapping) else None
    return value if isinstance(value, str) else default


def comparable(one: Any, other: Any) -> bool:
    """Whether both are likelihoods of the same thing: of rows, of rows whose class is given, of rows and classes."""
    return word(one, "given", "p(x)") == word(other, "given", "p(x)")


def reals(record: Any, name: str) -> list[float]:
    """A list of finite numbers, or an empty one."""
    value = record.get(name) if isinstance(record, Mapping) else None
    good = isinstance(value, list) and all(isinstance(v, int | float) and math.isfinite(v) for v in value)
    return [float(v) for v in value] if good and value is not None else []


@dataclass(frozen=True)
class Unit:
    """What costs are given in: bits/dim for masses, nats a row for densities; `scale` turns nats into it."""

    name: str
    scale: float

    def of(self, nats: float, stderr: float | None, *, sign: bool = False) -> str:
        """An amount with its error and unit."""
        error = math.nan if stderr is None else stderr * self.scale
        return f"{plus_minus(nats * self.scale, error, sign=sign)} {self.name}".replace(" ± unknown", "")


def unit_of(ll: Mapping[str, Any], dims: int, is_mass: bool) -> Unit:
    """The unit of a log-likelihood summary."""
    mass = word(ll, "measure", "counting" if is_mass else "Lebesgue") == "counting"
    bits = mass and not real(ll, "missing_cells")
    return Unit("bits/dim", BITS / (real(ll, "dims") or dims)) if bits else Unit("nats", 1.0)


def cost(ll: Mapping[str, Any], unit: Unit) -> tuple[float, float] | None:
    """-log p of a summary with its standard error, in the unit; None if it is not finite.

    An error that is not known, such as that of a single row, is NaN. A term that is the same for every row has none: what
    rounding leaves of one is taken for 0.
    """
    mean, stderr = real(ll, "mean_nats"), real(ll, "stderr_nats")
    if mean is None:
        return None
    if stderr is None:
        return -mean * unit.scale, math.nan
    return -mean * unit.scale, stderr * unit.scale if stderr > 1e-12 * abs(mean) else 0.0


def quoted(ll: Mapping[str, Any]) -> tuple[str, str]:
    """The quotable line, parted into the number and what stands in brackets."""
    line = word(ll, "quote")
    number, gap, rest = line.partition("  (")
    return (number, rest.removesuffix(")")) if gap else (line, "")
