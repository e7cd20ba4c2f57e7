"""Distances between two samples, without any density.

    wasserstein-1, -2   between the two empirical laws on the line, exact for any sizes
    energy              V: 2 A - B - C with A the mean of ‖x_i - y_j‖ and B, C the means inside x and y over all pairs, a row with
                        itself included (the energy distance of the empirical laws; ≥ 0); U: B and C over pairs of two
                        different rows (unbiased, can be negative)
    mmd                 U: mean k(x_i, x_j) + mean k(y_i, y_j) over different rows - 2 mean k(x_i, y_j) (Gretton et al. 2012, eq. 3);
                        V: with a row and itself. k = exp(-‖x - y‖²/2h²), h the median of ‖x_i - x_j‖, from x alone, so that one set of
                        data gives one kernel for all that is compared with it

scipy's energy_distance is the square root of the V version. Energy and W_1 between empirical laws are biased upwards: two samples
of one law are not at distance 0. That is what the p-value is for.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from jensen.distributions.divergence.permutations import Kernel, PairSums, labels, p_value, pair_sums
from jensen.distributions.divergence.result import Divergence, check_kind
from jensen.distributions.divergence.transport_costs import between_atoms, distances
from jensen.errors import InputError
from jensen.noise import Noise

SAMPLED = ("wasserstein-1", "wasserstein-2", "energy", "mmd")
VERSIONS = ("V", "U")
MEDIAN_ROWS = 1500
MOST_LABELS = 1 << 28


def between_samples(
    x: Float[Tensor, "n *event"],
    y: Float[Tensor, "m *same"],
    kind: str = "energy",
    *,
    version: str | None = None,
    bandwidth: float | None = None,
    permutations: int = 0,
    seed: int = 0,
) -> Divergence:
    """How far two samples are from each other.

    Args:
        x: rows of the first sample, of real data for "mmd", whose kernel they set.
        y: rows of the second.
        kind: "wasserstein-1", "wasserstein-2" (one column), "energy" or "mmd" (the square).
        version: "V" or "U"; None for V of energy and U of mmd.
        bandwidth: h of mmd; None for the median distance inside x (of 1,500 of its rows if there are more).
        permutations: how many for a p-value; 0 for none.
        seed: of the permutations, and of the rows for the median.

    Returns:
        The value; method "two samples". A p-value of mmd with the bandwidth from x is that of a kernel that labels do not move, and is exact
        only with a bandwidth that is given; the difference is small, for one number is taken from all of x.

    Raises:
        InputError: for kinds that need densities, for missing cells, unequal columns, fewer than two rows.

    Example:
        >>> x = torch.arange(4.0)
        >>> print(between_samples(x, x + 0.5, "wasserstein-1"))
        wasserstein-1 = 0.5 units of x  (two samples; 4 and 4 rows)
    """
    _check(x, y, kind, version, bandwidth, permutations)
    a, b = x.reshape(len(x), -1).double(), y.reshape(len(y), -1).double()
    z = labels(len(a), len(b), permutations, seed)
    note = f"{len(a)} and {len(b)} rows"
    if kind.startswith("wasserstein"):
        order = int(kind[-1])
        statistics = _wasserstein(torch.cat([a, b])[:, 0], z, order)
        return Divergence(float(statistics[0]), kind, "two samples", p_value=p_value(statistics), note=note)
    version = version or ("V" if kind == "energy" else "U")
    h = None if kind == "energy" else bandwidth or median_distance(a, seed)
    sums = pair_sums(torch.cat([a, b]), z, kernel(h))
    itself = 0.0 if kind == "energy" else 1.0
    statistics = combined(sums, len(a), len(b), version, itself) * (1 if kind == "mmd" else -1)
    return Divergence(
        float(statistics[0]), kind, "two samples", bandwidth=h, p_value=p_value(statistics), note=f"{version}, {note}"
    )


def kernel(h: float | None) -> Kernel:
    """Of the distance: itself for energy, where h is None, a Gaussian of it for mmd."""
    return (lambda d: d) if h is None else (lambda d: (d / h).square_().mul_(-0.5).exp_())


def combined(sums: PairSums, n: int, m: int, version: str, itself: float) -> Float[Tensor, " b"]:
    """Mean inside x + mean inside y - 2 mean across, for each column of labels; `itself` is what a row makes with itself."""
    if version == "V":
        return sums.inside_x / n**2 + sums.inside_y / m**2 - 2 * sums.across / (n * m)
    x, y = (sums.inside_x - n * itself) / (n * (n - 1)), (sums.inside_y - m * itself) / (m * (m - 1))
    return x + y - 2 * sums.across / (n * m)


def _wasserstein(rows: Tensor, z: Tensor, order: int) -> Tensor:
    if order == 1:
        rows, place = rows.sort()
        z, gaps = z[place], rows.diff()
        below = (z / z.sum(0)).cumsum(0) - ((1 - z) / (1 - z).sum(0)).cumsum(0)
        return gaps @ below[:-1].abs()
    values = [between_atoms(rows[own == 1], own[own == 1], rows[own == 0], 1 - own[own == 0], 2) for own in z.T]
    return torch.tensor(values, dtype=torch.float64).sqrt()


def median_distance(x: Float[Tensor, "n d"], seed: int = 0) -> float:
    """The median of ‖x_i - x_j‖ over different rows that differ, of 1,500 seeded rows if there are more.

    Raises:
        InputError: if all rows are equal.
    """
    if len(x) > MEDIAN_ROWS:
        x = x[Noise(seed, "median").permutation(len(x))[:MEDIAN_ROWS]]
    size = len(x)
    upper = torch.triu_indices(size, size, 1)
    pairs = distances(x.double(), x.double())[upper[0], upper[1]]
    pairs = pairs[pairs > 0]
    if len(pairs) == 0:
        raise InputError("the rows of x are all equal, so their distances set no bandwidth; give bandwidth=…")
    return float(pairs.quantile(0.5))


def _check(x: Tensor, y: Tensor, kind: str, version: str | None, bandwidth: float | None, permutations: int) -> None:
    check_kind(kind)
    if kind not in SAMPLED:
        raise InputError(
            f"{kind} is a function of densities, which samples do not have; fit a model to the rows, or choose one of "
            f"{', '.join(SAMPLED)}"
        )
    if len(x) < 2 or len(y) < 2:
        raise InputError(f"two samples need at least two rows each, not {len(x)} and {len(y)}; draw more")
    if x.shape[1:] != y.shape[1:]:
        raise InputError(
            f"two samples need rows of one shape, not {tuple(x.shape[1:])} and {tuple(y.shape[1:])}; drop columns"
        )
    for name, rows in (("x", x), ("y", y)):
        bad = int((~torch.isfinite(rows)).sum())
        if bad:
            raise InputError(
                f"{name} must hold finite numbers, and {bad} of its cells are not; drop the rows or impute them"
            )
    if kind.startswith("wasserstein") and math.prod(x.shape[1:]) != 1:
        raise InputError(
            f"{kind} of samples is for one column, not {math.prod(x.shape[1:])}; take energy, or column by column"
        )
    if version is not None and (version not in VERSIONS or kind.startswith("wasserstein")):
        raise InputError(f"version is V or U of energy and mmd, not {version!r} of {kind}; leave it out")
    if bandwidth is not None and (kind != "mmd" or not 0 < bandwidth < math.inf):
        raise InputError(f"bandwidth is a positive number for mmd alone, not {bandwidth} for {kind}; leave it out")
    if permutations < 0 or (permutations + 1) * (len(x) + len(y)) > MOST_LABELS:
        raise InputError(f"permutations must be at least 0 and few enough to hold, not {permutations}; 999 is usual")
