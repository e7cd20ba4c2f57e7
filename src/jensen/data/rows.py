"""What a reader hands to the splitter: `Rows` of one part and the `Source` they belong to.

A reader (`named`, `images`, `idx`, `arrays`, `tables`) knows one format and returns a `Source`; it neither
splits nor shuffles. The parts of a source are either one part `all`, or those the source itself gives:
`train` with `test`, with `valid`, or with both. Networks compute in float32, so that no value may be beyond its range.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
LARGEST = float(np.finfo(np.float32).max)
TOO_LARGE = (
    f"is too large: values must lie within ±{LARGEST:.2g}, the range of float32; correct it, or rescale the data"
)


@dataclass(frozen=True)
class Rows:
    """Some rows in source order: `x (N, *event)`, class codes `labels (N,)` int64 and file `names`, where known."""

    x: Array
    labels: Array | None = None
    names: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.x)

    def with_x(self, x: Array) -> "Rows":
        """The same rows with other values."""
        return replace(self, x=x)

    def take(self, positions: Array) -> "Rows":
        """The rows at these positions."""
        labels = None if self.labels is None else self.labels[positions]
        names = None if self.names is None else tuple(self.names[i] for i in positions)
        return Rows(self.x[positions], labels, names)


@dataclass(frozen=True)
class Source:
    """All a reader found. `levels` is set where the format declares it; `notes` are sentences for the user.

    `columns` are the names of the columns that are left when the one with the labels is taken out, which was number
    `label_column`, counted from 1. `told` is the protocol that made the values, where numbers depend on it.
    """

    kind: str
    parts: dict[str, Rows]
    levels: int | None = None
    class_names: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    label_column: int | None = None
    told: str = ""
