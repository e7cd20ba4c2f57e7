"""A number about two samples, and what may be concluded from it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jensen.likelihood import plus_minus

Better = Literal["lower", "higher", "near"]

ARROWS: dict[str, str] = {"lower": "↓", "higher": "↑", "near": "→"}


@dataclass(frozen=True)
class Measure:
    """One measure of samples against real rows.

    Attributes:
        name: its word.
        value: the number.
        better: whether lower or higher is better, or near `target`.
        target: what two samples of one law have in mean, where that is known for any sample size.
        stderr: standard error over the rows, or None where it is not known.
        p_value: of the hypothesis that both samples are of one law, or None.
        note: sizes, and what else the number depends on.
    """

    name: str
    value: float
    better: Better
    target: float | None = None
    stderr: float | None = None
    p_value: float | None = None
    note: str = ""

    @property
    def told(self) -> str:
        """Its name with an arrow to where better is."""
        return f"{self.name} {ARROWS[self.better]}"

    def __str__(self) -> str:
        if self.value != self.value:
            return "–"
        told = f"{self.value:.4g}" if self.stderr is None else plus_minus(self.value, self.stderr)
        return told + ("" if self.p_value is None else f" (p {self.p_value:.2g})")

    @staticmethod
    def from_dict(name: str, found: dict[str, Any]) -> "Measure":
        """The inverse of `to_dict`; KeyError, TypeError or ValueError for anything else."""
        numbers = {key: None if found[key] is None else float(found[key]) for key in ("target", "stderr", "p_value")}
        value = float("nan") if found["value"] is None else float(found["value"])
        if found["better"] not in ("lower", "higher", "near"):
            raise ValueError(f"better is {found['better']!r}")
        return Measure(name, value, found["better"], note=str(found["note"]), **numbers)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        finite = self.value == self.value and abs(self.value) != float("inf")
        return {
            "value": self.value if finite else None,
            "stderr": self.stderr,
            "p_value": self.p_value,
            "better": self.better,
            "target": self.target,
            "note": self.note,
        }


def as_dict(measures: Sequence[Measure]) -> dict[str, Any]:
    """JSON-able, by name."""
    return {m.name: m.to_dict() for m in measures}


def measures_from(found: Mapping[str, Any]) -> list[Measure]:
    """The inverse of `as_dict`; KeyError, TypeError, ValueError or AttributeError for anything else."""
    return [Measure.from_dict(name, measure) for name, measure in found.items()]
