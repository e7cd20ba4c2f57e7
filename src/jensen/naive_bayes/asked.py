"""What may be asked of naive Bayes: which likelihood of a row, and which settings.

With the class of a row there are p(x | y) and p(x, y); without it p(x).
"""

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from jensen.errors import InputError, brief
from jensen.naive_bayes.words import MOST_CELLS

Given = Literal["p(x)", "p(x|y)", "p(x,y)"]


def asked(given: str | None, context: Tensor | None) -> Given:
    """What is asked for, checked against whether there are classes."""
    if given not in (None, "p(x)", "p(x|y)", "p(x,y)"):
        raise InputError(f"given must be p(x), p(x|y) or p(x,y), got {brief(given)}")
    if context is None:
        if given in (None, "p(x)"):
            return "p(x)"
        raise InputError(f"{given} needs the classes of the rows; give them as context")
    if given == "p(x)":
        raise InputError("p(x) takes no classes; leave context out, or ask for p(x|y) or p(x,y)")
    return "p(x,y)" if given == "p(x,y)" else "p(x|y)"


def check(given: Mapping[str, Any]) -> None:
    """Refuse settings that cannot be."""
    for name in ("classes", "n_components", "rows"):
        if not 1 <= given[name] <= MOST_CELLS:
            called = "n_classes" if name == "classes" else name
            raise InputError(f"{called} must be from 1 to {MOST_CELLS}, got {given[name]}")
    for name, least in (("smoothing", 1e-12), ("prior_rows", 1e-12), ("prior_counts", 0.0)):
        if not least <= given[name] <= 1e12:
            raise InputError(f"{name} must be from {least:g} to 1e12, got {given[name]}")
