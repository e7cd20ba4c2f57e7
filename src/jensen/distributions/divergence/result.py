"""What a divergence is handed back as, and the words for it.

kl             KL(p ‖ q) = E_p log p/q                                 nats; ∞ if p has mass where q has none
reverse-kl     KL(q ‖ p)
js             ½ KL(p ‖ m) + ½ KL(q ‖ m),  m = ½ (p + q)               nats, ≤ log 2 (Lin 1991)
tv             ½ ∫ |p - q|                                             in [0, 1]
bhattacharyya  -log ∫ √(p q)                                           nats (Bhattacharyya 1943)
hellinger      √(1 - ∫ √(p q))                                         in [0, 1]; some omit the ½ under its root and
                                                                       have √2 times this one
wasserstein-1  inf E ‖X - Y‖ over all pairs (X, Y) of these margins    units of x
wasserstein-2  √(inf E ‖X - Y‖²)                                       units of x; the distance, not its square
energy         2 E‖X - Y‖ - E‖X - X'‖ - E‖Y - Y'‖                      units of x (Székely and Rizzo 2013)
mmd            E k(X, X') + E k(Y, Y') - 2 E k(X, Y)                   no unit; the square, k = exp(-‖x - y‖²/2h²)
                                                                       (Gretton et al. 2012)
entropy        -E_p log p                                              nats; of a density it depends on the units of x
cross-entropy  -E_p log q                                              nats, likewise
"""

from dataclasses import dataclass
from typing import Literal, get_args

from jensen.errors import InputError, did_you_mean
from jensen.likelihood import plus_minus

Kind = Literal[
    "kl", "reverse-kl", "js", "tv", "bhattacharyya", "hellinger", "wasserstein-1", "wasserstein-2", "energy", "mmd",
    "entropy", "cross-entropy",
]  # fmt: skip
Method = Literal["closed form", "quadrature", "Monte Carlo", "two samples"]
KINDS: tuple[str, ...] = get_args(Kind)
METHODS = ("closed form", "quadrature", "Monte Carlo")
UNITS = {
    "tv": "",
    "hellinger": "",
    "mmd": "",
    "energy": "units of x",
    "wasserstein-1": "units of x",
    "wasserstein-2": "units of x",
}


@dataclass(frozen=True)
class Divergence:
    """A number, and how far it can be trusted.

    Attributes:
        value: in nats, or what `unit` says.
        kind: which of the kinds above.
        method: "closed form" (rounding only; finite sums are among these), "quadrature", "Monte Carlo" or "two samples".
        stderr: the standard error over the draws; None where nothing was drawn, or where the value is not in doubt.
        error: the quadrature's own estimate of its error, an upper one; None elsewhere.
        bandwidth: h of the kernel of an mmd.
        p_value: of a permutation test that two samples have one law.
        note: what else has to be said.
    """

    value: float
    kind: str
    method: Method
    stderr: float | None = None
    error: float | None = None
    bandwidth: float | None = None
    p_value: float | None = None
    note: str = ""

    @property
    def unit(self) -> str:
        """The unit of the value, "" for pure numbers."""
        return UNITS.get(self.kind, "nats")

    def __str__(self) -> str:
        number = f"{self.value:.6g}"
        if self.stderr is not None:
            number = plus_minus(self.value, self.stderr)
        parts: list[str] = [self.method]
        if self.error is not None:
            parts.append(f"error ≤ {self.error:.1g}")
        if self.bandwidth is not None:
            parts.append(f"bandwidth {self.bandwidth:.4g}")
        if self.p_value is not None:
            parts.append(f"p = {self.p_value:.3g}")
        if self.note:
            parts.append(self.note)
        return f"{self.kind} = {number}{' ' * bool(self.unit)}{self.unit}  ({'; '.join(parts)})"


def check_kind(kind: str) -> None:
    """Refuse a word that is no kind."""
    if kind not in KINDS:
        raise InputError(
            f"kind is one of {', '.join(KINDS)}, not {kind!r}; {did_you_mean(kind, KINDS)}choose one of these"
        )
