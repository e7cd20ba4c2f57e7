"""Can a model tell rows of its own kind from others by their log-likelihood?

    AUROC = P(score of a row of its own > score of another) + ½ P(equal)

½ is chance. The bar is DeLong's (DeLong, DeLong and Clarke-Pearson 1988): each row's own share of pairs won is an average over
the other set, and the variance of the AUROC is the sum of both shares' variances over their numbers.

Caution. A likelihood says how well a row is coded, not how typical it is: simple images cost few bits under a model of complicated
ones, and are ranked above them (Nalisnick et al. 2019, "Do deep generative models know what they don't know?"). The **complexity-corrected**
score takes off what the row costs a compressor that knows nothing (Serrà et al. 2020, "Input complexity and out-of-distribution detection"):

    S(x) = log₂ p(x) + L(x),   L(x) = bits of x, deflated, after the best of three filters (none, difference to the left, to above)

a likelihood ratio against the compressor. It is for levels of at most 256; elsewhere there is no such code length.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from jensen.data.examples import Examples
from jensen.errors import InputError
from jensen.likelihood import BITS, LogLikelihood, plus_minus

CAUTION = "log-likelihood alone ranks simple rows high whatever their kind: trust it for this no further than the corrected score agrees"


@dataclass(frozen=True)
class AUROC:
    """The area with its standard error; None where no pair is lost, or none won, and the sample says nothing of it."""

    value: float
    stderr: float | None

    def __str__(self) -> str:
        return (
            f"{self.value:.3f} (no bar: the rows do not overlap)"
            if self.stderr is None
            else plus_minus(self.value, self.stderr)
        )

    @staticmethod
    def read(found: Mapping[str, float | None]) -> "AUROC":
        """From `to_dict`."""
        value = found["value"]
        assert value is not None
        return AUROC(value, found["stderr"])

    def to_dict(self) -> dict[str, float | None]:
        """JSON-able."""
        return {"value": self.value, "stderr": self.stderr}


def auroc(own: Float64[Tensor, " n"], others: Float64[Tensor, " m"]) -> AUROC:
    """P(own > others) + ½ P(equal) with DeLong's standard error.

    Args:
        own: scores of rows of the model's kind, higher for those that are more its own.
        others: of the others; at least two of each.

    Example:
        >>> print(auroc(torch.tensor([2.0, 3.0, 4.0]).double(), torch.tensor([1.0, 2.5]).double()).value)
        0.8333333333333334
    """
    if min(len(own), len(others)) < 2:
        raise InputError(f"an AUROC needs at least two rows of each kind, got {len(own)} and {len(others)}")
    if bool(own.isnan().any() | others.isnan().any()):
        raise InputError("scores must be numbers, and some are NaN; leave such rows out")
    won, lost = _share_below(own, others), _share_below(others, own)
    variance = won.var() / len(won) + lost.var() / len(lost)
    return AUROC(float(won.mean()), float(variance.sqrt()) if variance > 0 else None)


def _share_below(of: Tensor, among: Tensor) -> Tensor:
    """For each of some scores the share of others below it, ties by half."""
    ordered = among.sort().values
    below, upto = torch.searchsorted(ordered, of), torch.searchsorted(ordered, of, right=True)
    return 0.5 * (below + upto).double() / len(among)


def code_length(rows: Examples) -> Float64[Tensor, " B"]:
    """L(x), bits, of rows of at most 256 levels.

    Raises:
        InputError: other values.
    """
    if rows.x.dtype != torch.uint8:
        raise InputError(
            f"the complexity of a row is that of its bytes, which {str(rows.x.dtype).removeprefix('torch.')} values have none of; "
            "it is for data of at most 256 levels"
        )
    return torch.tensor([_bits(row) for row in rows.x.numpy()], dtype=torch.float64)


def _bits(row: "np.ndarray[Any, np.dtype[np.uint8]]") -> float:
    filtered = [row]
    for axis in range(max(0, row.ndim - 2), row.ndim):
        first = np.take(row, [0], axis)
        filtered.append(np.concatenate([first, np.diff(row, axis=axis)], axis))  # modulo 256, which loses nothing
    return 8.0 * min(len(_deflated(np.ascontiguousarray(each).tobytes())) for each in filtered)


def _deflated(content: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(content) + packer.flush()


def anomaly(own: LogLikelihood, own_rows: Examples, others: LogLikelihood, other_rows: Examples) -> dict[str, Any]:
    """Both AUROCs, JSON-able; the corrected one null where there is no code length.

    Args:
        own: log p of rows of the model's kind.
        own_rows: those rows.
        others: log p of the others.
        other_rows: those.
    """
    plain = auroc(own.value, others.value)
    corrected = None
    if own_rows.x.dtype == other_rows.x.dtype == torch.uint8:
        scores = (ll.value * BITS + code_length(rows) for ll, rows in ((own, own_rows), (others, other_rows)))
        corrected = auroc(*scores).to_dict()
    return {
        "own_rows": len(own),
        "other_rows": len(others),
        "log_likelihood": plain.to_dict(),
        "complexity_corrected": corrected,
        "caution": CAUTION,
    }
