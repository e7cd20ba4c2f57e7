"""The choice of bandwidths by a rule's word, and what there is to say about it."""

import math
from typing import Any, Literal

from jaxtyping import Float64
from torch import Tensor

from jensen.errors import plural
from jensen.kernel_density.bandwidth import Sample, best, floor, objective, scott, silverman
from jensen.kernel_density.kept import Kept, Say, choosing
from jensen.kernel_density.kernels import Kernel

Rule = Literal["loo", "scott", "silverman"]
RULES = {"loo": best, "scott": scott, "silverman": silverman}
MOST_CHOOSING, FEWEST_CHOOSING, CHOOSING_CELLS = 4096, 1024, 1 << 28  # rows that choose bandwidths


def chosen(
    rows: Kept, rule: str, kernel: Kernel, k: int | None, say: Say
) -> tuple[Float64[Tensor, " d"], dict[str, Any]]:
    """The bandwidths, and a report of them.

    Args:
        rows: those that are kept, at least 2.
        rule: a word of `RULES`.
        kernel: the shape of a bump.
        k: the number of levels; None on the real line.
        say: told what was chosen.
    """
    sample, factor = choosing(rows, most_choosing(rows.x.shape[1]), k)
    h = RULES[rule](sample, kernel)
    narrow = (h <= floor(sample, kernel) * (1 + 1e-9)).nonzero()[:, 0]
    value = objective(sample, h, kernel)
    say(_told(rule, h * factor, value, k is not None, _of_how_many(sample, rows, factor)))
    if len(narrow):
        say(_narrow(narrow, k is not None))
    report = {
        "rows": len(rows.x),
        "choosing_rows": len(sample.rows),
        "left_out": value if math.isfinite(value) else None,
        "at_floor": len(narrow),
        "converged": True,
    }
    return h * factor, report


def most_choosing(dims: int) -> int:
    """How many rows choose: n² d cells are looked at again and again."""
    return min(MOST_CHOOSING, max(FEWEST_CHOOSING, math.isqrt(CHOOSING_CELLS // dims)))


def _told(rule: str, h: Tensor, value: float, levels: bool, some: str) -> str:
    unit = "levels" if levels else "standard deviations"
    return (
        f"bandwidths by {rule}{some}: {float(h.min()):.3g} to {float(h.max()):.3g} "
        f"{unit}; left out, a row has {value:.4f} nats"
    )


def _of_how_many(sample: Sample, rows: Kept, factor: float) -> str:
    return f" on {len(sample.rows)} of {len(rows.x)} rows, narrowed by {factor:.3g}" if factor < 1 else ""


def _narrow(columns: Tensor, levels: bool) -> str:
    """What it means that bandwidths are as narrow as they may be."""
    listed = ", ".join(str(int(c) + 1) for c in columns[:8]) + (", …" if len(columns) > 8 else "")
    why = "nearly always the same level" if levels else "values repeat, so narrower bumps would fit their rounding"
    return f"{plural('dimension', len(columns))} {listed} (counted from 1) at the narrowest bandwidth allowed: {why}"
