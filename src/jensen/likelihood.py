"""`LogLikelihood`: numbers per example that say what they are, and the paired difference of two.

Values are natural logarithms of p(x) in the units of the data, one an example, higher is better. Beside them
stand: whether they are exact, a bound or an estimate; the base measure (a mass or a density); which generative
distribution they describe; their Monte-Carlo error. Averaging over examples happens here and nowhere else.

Errors. `total = sd(value) / sqrt(B)` is the standard error of the mean over examples; it already holds the
Monte-Carlo error of the single values, `monte_carlo = sqrt(sum stderr²) / B`. What is left,
`test_set = sqrt(max(0, total² - monte_carlo²))`, is due to the examples being a sample.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from jensen.errors import plural

Kind = Literal["exact", "lower bound", "upper bound", "estimate"]
BITS = 1 / math.log(2)
EFFORT = ("draws", "temperatures", "chains", "leapfrogs")
_SHORT = {"exact": "exact", "lower bound": "bound", "upper bound": "upper bound", "estimate": "estimate"}
_DIFFERENCES: dict[tuple[str, str], str] = {
    ("exact", "exact"): "exact difference",
    ("exact", "lower bound"): "an upper bound on the difference",
    ("lower bound", "exact"): "a lower bound on the difference",
    ("exact", "upper bound"): "a lower bound on the difference",
    ("upper bound", "exact"): "an upper bound on the difference",
    ("upper bound", "lower bound"): "an upper bound on the difference",
    ("lower bound", "upper bound"): "a lower bound on the difference",
    ("lower bound", "lower bound"): "a difference of lower bounds",
    ("upper bound", "upper bound"): "a difference of upper bounds",
    ("exact", "estimate"): "an estimate of the difference",
    ("estimate", "exact"): "an estimate of the difference",
    ("estimate", "estimate"): "an estimate of the difference",
}


@dataclass(frozen=True)
class LogLikelihood:
    """log p(x) of B examples, in nats, in data units.

    Attributes:
        value: `(B,)` float64; rows of zero probability are -inf, kept and counted.
        kind: "exact", "lower bound", "upper bound" or "estimate" (of the value, in expectation over the draws).
        measure: the base measure: "counting" (value is a log-probability) or "Lebesgue" (a log-density).
        of: the generative distribution the number describes, such as "ancestral, T = 1000".
        method: the word that computed it, such as "exact" or "vlb".
        event_shape: the shape of one example.
        given: "p(x)", "p(x|y)" or "p(x,y)"; of a regression "p(y|x)", and an example is then a y.
        stderr: `(B,)` Monte-Carlo standard error of each value, or None where nothing was drawn.
        terms: name → `(B,)`, summing to `value`.
        diagnostics: what the method has to say about itself: numbers and words, or a tensor `(B,)` of what it says of each example, such
            as "ess"; "reliable", where there is one, says which values to trust.
        rows: a hash of the examples' ids and values; differences need equal rows.
        precision: the arithmetic of the model, which is part of p.
        missing: how many cells of the examples are missing; values are then those of the observed cells.
        protocol: what was done to the data that another number would not have, such as a binarisation.
        trained: how the model was trained, where that was by another objective than a bound on this number.
    """

    value: Float64[Tensor, " B"]
    kind: Kind
    measure: Literal["counting", "Lebesgue"]
    of: str
    method: str
    event_shape: tuple[int, ...]
    given: str = "p(x)"
    stderr: Float64[Tensor, " B"] | None = None
    terms: Mapping[str, Float64[Tensor, " B"]] = field(default_factory=dict)
    diagnostics: Mapping[str, Any] = field(default_factory=dict)
    rows: str = ""
    precision: str = "float64"
    missing: int = 0
    protocol: str = ""
    trained: str = ""

    def __len__(self) -> int:
        return len(self.value)

    @property
    def dims(self) -> int:
        """The number of dimensions of one example."""
        return math.prod(self.event_shape)

    @property
    def impossible(self) -> int:
        """How many examples have log-likelihood -inf."""
        return int(torch.isneginf(self.value).sum())

    @property
    def mean(self) -> float:
        """The mean over examples, in nats."""
        return float(self.value.mean())

    @property
    def total(self) -> float:
        """The standard error of `mean`, all sources together; NaN for one example or infinite values."""
        return _standard_error(self.value)

    @property
    def monte_carlo(self) -> float:
        """The part of the standard error of `mean` that more draws would remove."""
        return 0.0 if self.stderr is None else float(self.stderr.square().sum().sqrt()) / len(self)

    @property
    def test_set(self) -> float:
        """The part of the standard error of `mean` that more examples would remove."""
        rest = self.total**2 - self.monte_carlo**2
        return math.nan if math.isnan(rest) else math.sqrt(max(0.0, rest))

    @property
    def bits_per_dim(self) -> float | None:
        """-mean / (dims · log 2), for masses of complete rows; None for densities, whose bits depend on the unit, and where
        cells are missing, which cost nothing and would make the rest look cheap.
        """
        return -self.mean * self._bits if self.in_bits else None

    @property
    def in_bits(self) -> bool:
        """Whether bits a dimension have a meaning."""
        return self.measure == "counting" and not self.missing

    @property
    def _bits(self) -> float:
        return BITS / self.dims

    def shifted(self, name: str, amount: Float[Tensor, " B"]) -> "LogLikelihood":
        """With a further term added to every value, such as a log |det| of a change of units.

        Terms keep summing to the value: one that had none gets its old value as the term "model".
        """
        amount = amount.to(torch.float64)
        terms = self.terms or {"model": self.value}
        return replace(self, value=self.value + amount, terms={**terms, name: amount})

    def __sub__(self, other: "LogLikelihood") -> "Difference":
        for name in ("measure", "given", "protocol", "rows", "event_shape"):
            self._refuse_unequal(name, getattr(self, name), getattr(other, name))
        self._refuse_unequal("number of rows", len(self), len(other))
        pair = f"a difference of {_a(self.kind)} and {_a(other.kind)}"
        meaning = _DIFFERENCES.get((self.kind, other.kind), pair)
        return Difference(self.value - other.value, meaning, self.dims, self.in_bits)

    def _refuse_unequal(self, name: str, mine: object, theirs: object) -> None:
        if mine != theirs:
            raise ValueError(
                f"cannot subtract log-likelihoods of different {name}: {mine!r} and {theirs!r}; "
                "score the same rows in the same space with both models"
            )

    def __str__(self) -> str:
        return f"{self.quote()}  ({self.describe()})"

    def quote(self) -> str:
        """The number with its error bar and unit: bits/dim for a mass, nats for a density."""
        if self.bits_per_dim is not None:
            sign = {"lower bound": "≤ ", "upper bound": "≥ ", "estimate": "≈ "}.get(self.kind, "")
            return f"{sign}{plus_minus(self.bits_per_dim, self.total * self._bits)} bits/dim"
        sign = {"lower bound": "≥ ", "upper bound": "≤ ", "estimate": "≈ "}.get(self.kind, "")
        return f"{sign}{plus_minus(self.mean, self.total)} nats"

    def describe(self) -> str:
        """What stands in the brackets behind the number."""
        kind = _SHORT[self.kind] if self.kind == self.method else f"{_SHORT[self.kind]}, {self.method}{self._effort()}"
        given = {"p(x|y)": "; log p(x | y), the class given", "p(x,y)": "; log p(x, y), class and row"}.get(
            self.given, ""
        )
        zero = f"; {self.impossible} {plural('row', self.impossible)} of probability zero" if self.impossible else ""
        told = f"{kind}; {len(self)} {plural('example', len(self))} × {self.dims} {plural('dim', self.dims)}{self._holes()}{given}; ± 1 SE{zero}"
        return "; ".join(part for part in (told, self.protocol, self.trained, self._caution()) if part)

    def _effort(self) -> str:
        """Of how many draws, temperatures or chains it is."""
        told = [f"{self.diagnostics[name]:,} {name}" for name in EFFORT if name in self.diagnostics]
        return f" of {', '.join(told)}" if told else ""

    @property
    def unreliable(self) -> int:
        """How many values the method itself does not trust: weights whose tail is too heavy for a mean of them."""
        reliable = self.diagnostics.get("reliable")
        return int((~reliable).sum()) if isinstance(reliable, Tensor) else 0

    def _caution(self) -> str:
        moved = self.diagnostics.get("halved_tolerance_change_nats", 0.0)
        if moved > self.total:
            return f"the solver is coarser than the bar says: at half the step log p moves by {moved:.2g} nats a row"
        if not self.unreliable:
            return ""
        return f"too few draws for {self.unreliable} of them (weights of too heavy a tail, or few and uneven): their log p is likely higher, and the bar does not say by how much"

    def _holes(self) -> str:
        return f", {self.missing / (len(self) * self.dims):.0%} of the cells missing" if self.missing else ""

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able summary; null where a thing does not apply."""
        bits = self.bits_per_dim
        return {
            "kind": self.kind,
            "measure": self.measure,
            "given": self.given,
            "of": self.of,
            "method": self.method,
            "mean_nats": _finite(self.mean),
            "stderr_nats": _finite(self.total),
            "stderr_test_set_nats": _finite(self.test_set),
            "stderr_monte_carlo_nats": None if self.stderr is None else _finite(self.monte_carlo),
            "bits_per_dim": None if bits is None else _finite(bits),
            "stderr_bits_per_dim": None if bits is None else _finite(self.total * self._bits),
            "examples": len(self),
            "dims": self.dims,
            "missing_cells": self.missing,
            "rows": self.rows,
            "precision": self.precision,
            "protocol": self.protocol,
            "trained": self.trained,
            "terms": {
                name: {"mean_nats": _finite(float(v.mean())), "stderr_nats": _finite(_standard_error(v))}
                for name, v in self.terms.items()
            },
            "diagnostics": {name: _summed_up(value) for name, value in self.diagnostics.items()},
            "note": f"{self.impossible} {plural('row', self.impossible)} of probability zero"
            if self.impossible
            else None,
        }


@dataclass(frozen=True)
class Difference:
    """A paired difference of two log-likelihoods on the same rows: `value (B,)` nats, and what it is.

    A row of probability zero under both has no difference: NaN, and so has the mean.
    """

    value: Float64[Tensor, " B"]
    meaning: str
    dims: int
    in_bits: bool

    @property
    def mean(self) -> float:
        """The mean difference, in nats."""
        return float(self.value.mean())

    @property
    def stderr(self) -> float:
        """The standard error of `mean` over the paired rows."""
        return _standard_error(self.value)

    @property
    def direction(self) -> str:
        """Whether the first of the two is better (its log-likelihood is higher, its bits/dim are fewer), as far as the
        difference can tell: a lower bound on it may say "better" only, an upper bound "worse" only.
        """
        if math.isnan(self.mean):
            return "(undetermined)"
        found = "better" if self.mean >= 0 else "worse"
        if self.meaning.startswith("a difference of"):
            return f"{found} as a bound"
        misleading = {"a lower bound on the difference": "worse", "an upper bound on the difference": "better"}
        return "(undecided)" if misleading.get(self.meaning) == found else found

    def __str__(self) -> str:
        bits = ""
        if self.in_bits:
            scale = BITS / self.dims
            bits = f", {plus_minus(abs(self.mean) * scale, self.stderr * scale)} bits/dim {self.direction}"
        return f"{plus_minus(self.mean, self.stderr, sign=True)} nats{bits}  ({self.meaning}; {len(self.value)} paired rows)"


def concatenate(parts: Sequence[LogLikelihood], rows: str = "") -> LogLikelihood:
    """One log-likelihood of all rows, from log-likelihoods of consecutive batches by the same method."""
    first = parts[0]
    return replace(
        first,
        value=torch.cat([part.value for part in parts]),
        stderr=None if first.stderr is None else torch.cat([p.stderr for p in parts if p.stderr is not None]),
        terms={name: torch.cat([part.terms[name] for part in parts]) for name in first.terms},
        diagnostics={name: _joined(name, parts) for name in first.diagnostics},
        rows=rows,
    )


def _joined(name: str, parts: Sequence[LogLikelihood]) -> Any:
    """What a method says of each example, of all examples; what it says of itself, once."""
    first = parts[0].diagnostics[name]
    return torch.cat([part.diagnostics[name] for part in parts]) if isinstance(first, Tensor) else first


def _summed_up(value: Any) -> Any:
    """A tensor of what is said of each example in a few numbers; the rest as it is."""
    if not isinstance(value, Tensor):
        return value
    if value.dtype == torch.bool:
        return {"true": int(value.sum()), "of": len(value)}
    return {
        "median": _finite(float(value.median())),
        "min": _finite(float(value.min())),
        "max": _finite(float(value.max())),
    }


def plus_minus(value: float, error: float, *, sign: bool = False) -> str:
    """`value ± error`, rounded so that the error keeps one digit (two where it starts with 1).

    Example:
        >>> plus_minus(2.12345, 0.0213)
        '2.12 ± 0.02'
    """
    plus = "+" if sign else ""
    if not math.isfinite(error) or not math.isfinite(value):
        return f"{value:{plus}.4g} ± {'unknown' if math.isnan(error) else error}"
    if error <= 1e-12 * abs(value):  # none, or the rounding of float64
        return f"{value:{plus}.6g} ± 0"
    magnitude = math.floor(math.log10(error))
    digits = max(0, -magnitude + (error / 10**magnitude < 1.95))
    return f"{value:{plus}.{digits}f} ± {error:.{digits}f}"


def _standard_error(value: Tensor) -> float:
    if len(value) < 2 or not bool(torch.isfinite(value).all()):
        return math.nan
    return float(value.std()) / math.sqrt(len(value))


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"
