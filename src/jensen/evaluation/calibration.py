"""Whether p(y | x) holds: of the rows that are given a probability c of being right, a share c should be.

With p_i the probabilities of row i, y_i its class, k_i = argmax p_i, c_i = p_i(k_i) and r_i = 1 where k_i = y_i:

    accuracy = mean r_i,   log loss = -mean log p_i(y_i),   Brier score = mean Σ_k (p_ik - 1[y_i = k])²   (Brier 1950)

each with the standard error of a mean. What the model itself claims for them is their mean under y_i ~ p_i: mean c_i, the
entropy -mean Σ p log p, and 1 - mean Σ p². With Var_i = 4 (Σ_k p_ik³ - (Σ_k p_ik²)²),

    z = Σ_i (Brier_i - claimed_i) / √Σ_i Var_i

is standard normal for many rows if the claims are true (Spiegelhalter 1986); z > 0 says too sure. The reliability diagram
sorts rows into bins by c, and

    calibration error = Σ_b n_b/n |mean r - mean c|   in bin b.

It is positive even for a perfect model, since the shares of few rows scatter. So beside it stand its mean under the claims,
r_i ~ Bernoulli(c_i), and the share of 1000 such draws that are as large: a p-value (Bröcker and Smith 2007, "Increasing the
reliability of reliability diagrams"). All of this is about the first choice; z is about all classes.

Of a row that is impossible in every class, p(x) = 0, nothing is known, p(y | x) = 0/0: such rows are counted and left out.
"""

import math
from typing import Any

import torch
from torch import Tensor

from jensen.data.examples import Examples
from jensen.errors import plural
from jensen.evaluation.numbers import real
from jensen.likelihood import plus_minus
from jensen.models.pipeline import Pipeline
from jensen.noise import Noise

BINS, DRAWS, DRAWS_AT_ONCE = 10, 1000, 50
SURE, Z95 = 0.01, 1.959963984540054
NUMBERS = (
    *(f"{name}{what}" for name in ("accuracy", "log_loss_nats", "brier") for what in ("", "_stderr", "_claimed")),
    *("accuracy_low", "accuracy_high", "brier_z", "calibration_error", "calibration_error_claimed", "p_value"),
)


def classification(
    pipeline: Pipeline, rows: Examples, names: tuple[str, ...] = (), *, seed: int = 0
) -> dict[str, Any] | None:
    """How well a model tells the classes of rows and whether its p(y | x) hold; None for a model of no classes and for rows
    without.

    Args:
        pipeline: the model.
        rows: the rows, with their classes as context.
        names: of the classes; those of the model's data if empty.
        seed: of the draws behind the p-value.
    """
    if not pipeline.classifies or rows.context is None:
        return None
    names = names or tuple(pipeline.config["data"].get("class_names") or ())
    y = pipeline.codes(rows.context, len(rows))
    return calibration(pipeline.class_log_probabilities(rows), y, names, seed=seed)


def calibration(log_p: Tensor, y: Tensor, names: tuple[str, ...] = (), *, seed: int = 0) -> dict[str, Any]:
    """The measures above, JSON-able; null where a number does not exist.

    Args:
        log_p: log p(y | x), `(B, K)` float64; NaN in rows of which it is unknown.
        y: the classes, `(B,)`.
        names: of the classes.
        seed: of the draws behind the p-value.

    Returns:
        `rows` that are known and `unknown`, how many are not; `classes`, `accuracy`, `log_loss_nats`, `brier` with `…_stderr` and `…_claimed`, the 95 % interval
        `accuracy_low`, `accuracy_high` (the standard error is 0 where all are right), `brier_z`, `calibration_error`,
        `calibration_error_claimed`, `p_value`, `bins` and `by_class`.
    """
    known = ~log_p.isnan().any(1)
    unknown = {"unknown": len(y) - int(known.sum())}
    log_p, y = log_p[known], y[known]
    if len(y) == 0:
        return {"rows": 0, **unknown, "classes": log_p.shape[1], **dict.fromkeys(NUMBERS), "bins": [], "by_class": []}
    p = log_p.exp()
    square = p.square().sum(1)
    confidence, choice = p.max(1)
    right = (choice == y).double()
    loss = -log_p.gather(1, y[:, None])[:, 0]
    brier = square - 2 * p.gather(1, y[:, None])[:, 0] + 1
    variance = 4 * (p.pow(3).sum(1) - square.square()).clamp(min=0).sum()
    error, null = _calibration_error(confidence, right, seed)
    return {
        "rows": len(y),
        **unknown,
        "classes": log_p.shape[1],
        **_mean("accuracy", right, confidence),
        **dict(zip(("accuracy_low", "accuracy_high"), wilson(int(right.sum()), len(right)), strict=True)),
        **_mean("log_loss_nats", loss, -torch.special.xlogy(p, p).sum(1)),
        **_mean("brier", brier, 1 - square),
        "brier_z": float((brier - 1 + square).sum() / variance.sqrt()) if float(variance) > 1e-12 else None,
        "calibration_error": error,
        "calibration_error_claimed": float(null.mean()),
        "p_value": float((1 + (null >= error - 1e-12).sum()) / (1 + len(null))),
        "bins": _bins(confidence, right),
        "by_class": _by_class(y, right, log_p.shape[1], names),
    }


def _mean(name: str, values: Tensor, claimed: Tensor) -> dict[str, float | None]:
    """A mean with its standard error, and what the model claims it to be."""
    stderr = float(values.std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    found = {name: float(values.mean()), f"{name}_stderr": stderr, f"{name}_claimed": float(claimed.mean())}
    return {key: value if math.isfinite(value) else None for key, value in found.items()}


def _bin(confidence: Tensor) -> Tensor:
    """The number of each row's bin; a confidence of 1 belongs to the last one."""
    return (confidence * BINS).long().clamp(0, BINS - 1)


def _calibration_error(confidence: Tensor, right: Tensor, seed: int) -> tuple[float, Tensor]:
    """The calibration error, and draws of it under the claims."""
    member = torch.nn.functional.one_hot(_bin(confidence), BINS).double() / len(confidence)
    noise = Noise(seed, "calibration")
    drawn = [
        ((noise.uniform(range(start, start + DRAWS_AT_ONCE), (len(right),)) < confidence).double() - confidence)
        @ member
        for start in range(0, DRAWS, DRAWS_AT_ONCE)
    ]
    return float(((right - confidence) @ member).abs().sum()), torch.cat(drawn).abs().sum(1)


def _bins(confidence: Tensor, right: Tensor) -> list[dict[str, Any]]:
    """The bins that hold rows, with an interval of the share that is right."""
    number, found = _bin(confidence), []
    for b in number.unique().tolist():
        own = number == b
        n, good = int(own.sum()), int(right[own].sum())
        low, high = wilson(good, n)
        found.append(
            {
                "from": b / BINS,
                "to": (b + 1) / BINS,
                "rows": n,
                "confidence": float(confidence[own].mean()),
                "accuracy": good / n,
                "accuracy_low": low,
                "accuracy_high": high,
            }
        )
    return found


def wilson(good: int, n: int) -> tuple[float, float]:
    """The 95 % interval of a probability, of whose n trials so many were good (Wilson 1927); right with few, and with all."""
    share, more = good / n, Z95**2 / n
    reach = Z95 * math.sqrt(share * (1 - share) / n + more / (4 * n))
    low, high = ((share + more / 2 + side * reach) / (1 + more) for side in (-1, 1))
    return max(0.0, low), min(1.0, high)


def _by_class(y: Tensor, right: Tensor, classes: int, names: tuple[str, ...]) -> list[dict[str, Any]]:
    rows = torch.bincount(y, minlength=classes).tolist()
    good = torch.bincount(y, weights=right, minlength=classes).long().tolist()
    called = names if len(names) == classes else tuple(map(str, range(classes)))
    return [{"class": name, "rows": n, "right": r} for name, n, r in zip(called, rows, good, strict=True)]


def described(found: dict[str, Any]) -> str:
    """The line a person reads."""
    rows, right = real(found, "rows") or 0.0, real(found, "accuracy") or 0.0
    if not rows:
        return left_out(found) or "no rows"
    out = left_out(found)
    return (
        f"{right * rows:.0f} of {rows:.0f} {plural('row', rows)} right: accuracy {accuracy(found)}, log loss "
        f"{_told(found, 'log_loss_nats')} nats, Brier {_told(found, 'brier')}; {verdict(found)}{f'; {out}' if out else ''}"
    )


def left_out(found: dict[str, Any]) -> str:
    """How many rows nothing is known of; empty for none."""
    count = real(found, "unknown") or 0.0
    return f"{count:.0f} {plural('row', count)} impossible in every class left out" if count else ""


def accuracy(found: dict[str, Any]) -> str:
    """The accuracy with its 95 % interval."""
    value, low, high = (real(found, name) for name in ("accuracy", "accuracy_low", "accuracy_high"))
    if value is None or low is None or high is None:
        return "unknown"
    return f"{value:.3f} (95 %: {low:.3f} to {high:.3f})"


def _told(found: dict[str, Any], name: str) -> str:
    value, error = real(found, name), real(found, f"{name}_stderr")
    return "infinite" if value is None else plus_minus(value, math.nan if error is None else error)


def verdict(found: dict[str, Any]) -> str:
    """Whether the probabilities hold, in words."""
    error, claimed, p = (real(found, name) for name in ("calibration_error", "calibration_error_claimed", "p_value"))
    if error is None or claimed is None or p is None:
        return "calibration unknown"
    numbers = f"calibration error {error:.3f}, {claimed:.3f} expected of true probabilities, p = {p:.2g}"
    if p > SURE:
        return f"{numbers}: nothing speaks against its probabilities"
    accuracy, confidence = real(found, "accuracy") or 0.0, real(found, "accuracy_claimed") or 0.0
    return f"{numbers}: it is {'too sure' if confidence > accuracy else 'not sure enough'}"
