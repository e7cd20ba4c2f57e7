"""Precision, recall, density and coverage: are samples where data are, and data where samples are?

Around every row of a set stands a ball whose radius is the distance to its k-th nearest other row of the same set, k = 5.

    precision    share of drawn rows inside some real row's ball                  (Kynkäänniemi et al. 2019)
    recall       share of real rows inside some drawn row's ball
    density      mean over drawn rows of how many real balls hold them, over k    (Naeem et al. 2020); 1 in mean for one law
    coverage     share of real rows whose ball holds a drawn row; about 1 - 2^-k for one law and equal numbers (Naeem et al., lemma 2)

All inside is strict, and a row is never its own neighbour.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from jensen.distributions.divergence.transport_costs import distances
from jensen.evaluation.two_sample.measure import Measure

K = 5
CHUNK = 1 << 22


def manifold(real: Float[Tensor, "n d"], drawn: Float[Tensor, "m d"], k: int = K) -> list[Measure]:
    """The four, with standard errors of shares of independent rows."""
    if min(len(real), len(drawn)) <= k:
        return []
    radius_real, radius_drawn = radii(real, k), radii(drawn, k)
    held = torch.zeros(len(drawn), dtype=torch.float64)  # how many real balls hold each drawn row
    covered = torch.zeros(len(real), dtype=torch.bool)
    recalled = torch.zeros(len(real), dtype=torch.bool)
    size = max(1, CHUNK // len(drawn))
    for start in range(0, len(real), size):
        at = slice(start, start + size)
        apart = distances(real[at], drawn)
        inside = apart < radius_real[at, None]
        held += inside.double().sum(0)
        covered[at] = inside.any(1)
        recalled[at] = (apart < radius_drawn[None]).any(1)
    note = f"k = {k}, {len(real)} and {len(drawn)} rows"
    return [
        _share("precision", (held > 0).double(), note),
        _share("recall", recalled.double(), note),
        Measure(
            "density", float(held.mean()) / k, "near", 1.0, float(held.std()) / k / math.sqrt(len(held)), note=note
        ),
        _share("coverage", covered.double(), note),
    ]


def radii(rows: Float[Tensor, "n d"], k: int) -> Float[Tensor, " n"]:
    """The distance of each row to its k-th nearest other one."""
    size = max(1, CHUNK // len(rows))
    parts = []
    for start in range(0, len(rows), size):
        apart = distances(rows[start : start + size], rows)
        own = torch.arange(len(apart))
        apart[own, start + own] = torch.inf
        parts.append(apart.kthvalue(k, dim=1).values)
    return torch.cat(parts)


def _share(name: str, hits: Tensor, note: str) -> Measure:
    return Measure(name, float(hits.mean()), "higher", None, float(hits.std()) / math.sqrt(len(hits)), note=note)
