"""`divergence(p, q, kind)`: the closed form if there is one, else quadrature, else Monte Carlo; and it says which."""

import math
from typing import get_args

import torch
from torch.distributions import Distribution, TransformedDistribution, kl_divergence

from jensen.distributions.atoms import Atoms, atoms_of, is_discrete
from jensen.distributions.divergence import gaussian
from jensen.distributions.divergence.functionals import FUNCTIONALS, SINGULAR
from jensen.distributions.divergence.integrals import Estimate, over_atoms, over_boxes
from jensen.distributions.divergence.monte_carlo import estimate
from jensen.distributions.divergence.result import METHODS, Divergence, Kind, check_kind
from jensen.distributions.divergence.transport_costs import (
    between_atoms,
    by_distribution_functions,
    by_quantiles,
    energy_between_atoms,
    mmd_between_atoms,
)
from jensen.distributions.line import law_of
from jensen.distributions.precision import in_double
from jensen.errors import InputError

MOST_ATOMS_IN_PAIRS = 4096
ON_THE_LINE = ("wasserstein-1", "wasserstein-2", "energy")


def divergence(
    p: Distribution,
    q: Distribution | None = None,
    kind: str = "kl",
    *,
    method: str | None = None,
    draws: int = 100_000,
    seed: int = 0,
    tolerance: float = 1e-8,
    bandwidth: float | None = None,
) -> Divergence:
    """How far q is from p, in one of twelve ways (their definitions stand in `divergence.result`).

    Parameters are taken as float64. Both laws need batch_shape () and one event_shape.

    Args:
        p: the first law; the one that expectations are over in kl, entropy and cross-entropy.
        q: the second law; not needed for "entropy".
        kind: "kl", "reverse-kl", "js", "tv", "bhattacharyya", "hellinger", "wasserstein-1", "wasserstein-2", "energy", "mmd",
            "entropy" or "cross-entropy".
        method: "closed form", "quadrature" or "Monte Carlo" alone; None for the first of them that can.
        draws: of Monte Carlo, at least 2.
        seed: of Monte Carlo.
        tolerance: of quadrature, absolute for values below 1, relative above.
        bandwidth: h of the Gaussian kernel of "mmd"; None for √(2 tr Cov p), the root mean square distance of two draws of p.

    Returns:
        The value with what is known about its error.

    Raises:
        InputError: for laws that can not be compared, or not by this method. "wasserstein" has no answer in two or more
            dimensions but for normals: its estimates from draws are biased upwards; see `between_samples`.

    Example:
        >>> from torch.distributions import Laplace, Normal
        >>> print(divergence(Normal(0.0, 1.0), Normal(1.0, 1.0)))
        kl = 0.5 nats  (closed form)
        >>> divergence(Normal(0.0, 1.0), Laplace(0.0, 1.0), "tv").method
        'quadrature'
    """
    check_kind(kind)
    if q is None and kind == "entropy":
        q = p
    _check(p, q, kind, method, draws, tolerance, bandwidth)
    assert q is not None
    a, b = in_double(p), in_double(q)
    if kind == "reverse-kl":
        a, b = b, a
    inner = "kl" if kind == "reverse-kl" else kind
    if kind == "mmd":
        bandwidth = bandwidth or _spread(a)
    found = _found(a, b, inner, method, draws, seed, tolerance, bandwidth)
    return found if inner == kind else Divergence(**{**vars(found), "kind": kind})


def _check(
    p: Distribution,
    q: Distribution | None,
    kind: str,
    method: str | None,
    draws: int,
    tolerance: float,
    bandwidth: float | None,
) -> None:
    for d in (p, q):
        if not isinstance(d, Distribution):
            raise InputError(
                f"{kind} compares two torch distributions, not {type(d).__name__}; compare two sets of rows with between_samples"
            )
        if d.batch_shape:
            raise InputError(
                f"a divergence is of two laws with batch_shape (), not {tuple(d.batch_shape)}; take one row, or join columns "
                "with Independent(…, 1)"
            )
    assert q is not None
    if p.event_shape != q.event_shape:
        raise InputError(
            f"both laws need one event_shape, not {tuple(p.event_shape)} and {tuple(q.event_shape)}; reshape one"
        )
    if method is not None and method not in METHODS:
        raise InputError(f"method is one of {', '.join(METHODS)}, not {method!r}; leave it out for the best there is")
    if draws < 2 or not tolerance > 0:
        raise InputError(
            f"draws must be at least 2 and tolerance above 0, not {draws} and {tolerance}; leave them out for usable ones"
        )
    if bandwidth is not None and (kind != "mmd" or not 0 < bandwidth < math.inf):
        raise InputError(f"bandwidth is a positive number for mmd alone, not {bandwidth} for {kind}; leave it out")


def _found(
    p: Distribution,
    q: Distribution,
    kind: Kind | str,
    method: str | None,
    draws: int,
    seed: int,
    tolerance: float,
    h: float | None,
) -> Divergence:
    """By the first method that can, of those that may."""
    tried: Divergence | None = None
    if method in (None, "closed form"):
        value = closed_form(p, q, kind, h)
        if value is not None:
            return Divergence(value, kind, "closed form", bandwidth=h)
    if method in (None, "quadrature"):
        tried = _by_quadrature(p, q, kind, tolerance)
        if tried is not None and (not tried.note or math.isinf(tried.value) or method):
            return tried
    if method in (None, "Monte Carlo") and not kind.startswith("wasserstein"):
        _comparable(p, q, kind)
        drawn = estimate(p, q, kind, draws, seed, h)
        if tried is None or tried.error is None or (drawn.stderr is not None and drawn.stderr < tried.error):
            return drawn
        return tried
    if tried is not None:
        return tried
    raise _no_way(p, q, kind, method)


def _no_way(p: Distribution, q: Distribution, kind: str, method: str | None) -> InputError:
    pair = f"{type(p).__name__} and {type(q).__name__} in {p.event_shape.numel()} dimensions"
    if kind.startswith("wasserstein"):
        return InputError(
            f"{kind} has a closed form for normals (wasserstein-1: on the line) and is computed on the line, not between {pair}; "
            "ask for energy or mmd, or compare samples column by column with between_samples"
        )
    return InputError(f"{kind} has no {method} between {pair}; leave method out")


def closed_form(p: Distribution, q: Distribution, kind: str, bandwidth: float | None = None) -> float | None:
    """The value where the two types have a formula or finite sum, else None."""
    if is_discrete(p) != is_discrete(q) and kind in SINGULAR:
        return SINGULAR[kind]
    _comparable(p, q, kind)
    atoms = _pair(p, q)
    if atoms is not None:
        return _finite_sum(p, q, *atoms, kind, bandwidth)
    a, b = gaussian.normals_of(p), gaussian.normals_of(q)
    if a is not None and b is not None and kind not in ("kl", "entropy", "cross-entropy"):
        return _normals(a, b, kind, bandwidth)
    if kind not in ("kl", "entropy", "cross-entropy"):
        return None
    ratio = 0.0 if kind == "entropy" else _torchs_kl(p, q)
    if kind == "kl" or ratio is None or math.isinf(ratio):
        return ratio
    own = _torchs_entropy(p)
    return None if own is None else own + ratio


def _comparable(p: Distribution, q: Distribution, kind: str) -> None:
    if kind == "cross-entropy" and is_discrete(p) != is_discrete(q):
        raise InputError(
            f"the cross-entropy of {type(p).__name__} and {type(q).__name__} does not exist: one has masses, the other a density; "
            "dequantise the first or discretise the second"
        )


def _pair(p: Distribution, q: Distribution) -> tuple[Atoms, Atoms] | None:
    a, b = atoms_of(p), atoms_of(q)
    return (a, b) if a is not None and b is not None and a.whole and b.whole else None


def _finite_sum(
    p: Distribution, q: Distribution, a: Atoms, b: Atoms, kind: str, bandwidth: float | None
) -> float | None:
    if kind in FUNCTIONALS:
        found = over_atoms(FUNCTIONALS[kind], p, q)
        return None if found is None else FUNCTIONALS[kind].finish(found[0])
    x, u, y, v = a.values, a.log_mass.exp(), b.values, b.log_mass.exp()
    if kind.startswith("wasserstein") and x[0].numel() == 1:
        order = int(kind[-1])
        return float(between_atoms(x.flatten(), u, y.flatten(), v, order) ** (1 / order))
    if max(len(x), len(y)) > MOST_ATOMS_IN_PAIRS:
        return None
    rows = x.reshape(len(x), -1), u, y.reshape(len(y), -1), v
    if kind == "energy":
        return energy_between_atoms(*rows)
    return mmd_between_atoms(*rows, bandwidth) if kind == "mmd" and bandwidth is not None else None


def _normals(a: gaussian.Normals, b: gaussian.Normals, kind: str, bandwidth: float | None) -> float | None:
    if kind in ("bhattacharyya", "hellinger"):
        distance = gaussian.bhattacharyya(a, b)
        return distance if distance is None or kind == "bhattacharyya" else math.sqrt(max(0.0, -math.expm1(-distance)))
    if kind == "tv":
        return gaussian.total_variation(a, b)
    if kind.startswith("wasserstein"):
        return gaussian.wasserstein(a, b, int(kind[-1]))
    if kind == "energy":
        return gaussian.energy(a, b)
    return gaussian.mmd(a, b, bandwidth) if bandwidth is not None else None


def _torchs_kl(p: Distribution, q: Distribution) -> float | None:
    """torch's formula; not through transforms that are many to one, where it compares what went in."""
    if not all(t.bijective for d in (p, q) if isinstance(d, TransformedDistribution) for t in d.transforms):
        return None
    try:
        value = float(kl_divergence(p, q))
    except NotImplementedError:
        return None
    return None if math.isnan(value) else value


def _torchs_entropy(p: Distribution) -> float | None:
    try:
        value = float(p.entropy())
    except NotImplementedError:
        return None
    return None if math.isnan(value) else value


def _by_quadrature(p: Distribution, q: Distribution, kind: str, tolerance: float) -> Divergence | None:
    """By an integral on the line or the plane, or a sum that is cut off; with a note if it is not settled."""
    if kind in FUNCTIONALS:
        functional = FUNCTIONALS[kind]
        if is_discrete(p) and is_discrete(q):
            summed = over_atoms(functional, p, q)
            found = None if summed is None else Estimate(summed[0], 1e-15 * max(1.0, abs(summed[0])), True)
        else:
            found = over_boxes(functional, p, q, tolerance)
        return (
            None
            if found is None
            else _told(kind, found, functional.finish(found.mean), functional.error(found.mean, found.error))
        )
    if kind not in ON_THE_LINE or p.event_shape.numel() != 1:
        return None
    return _on_the_line(p, q, kind, tolerance)


def _on_the_line(p: Distribution, q: Distribution, kind: str, tolerance: float) -> Divergence | None:
    try:
        a, b = law_of(p), law_of(q)
    except InputError:
        return None
    if kind == "wasserstein-2":
        found = by_quantiles(a, b, tolerance)
        root = math.sqrt(found.mean)
        return _told(kind, found, root, min(math.sqrt(found.error), found.error / (2 * root) if root > 0 else math.inf))
    order = 1 if kind == "wasserstein-1" else 2
    found = by_distribution_functions(p, q, a, b, order, tolerance)
    return _told(kind, found, order * found.mean, order * found.error)


def _told(kind: str, found: Estimate, value: float, error: float) -> Divergence:
    note = found.note or ("" if found.settled else "not settled")
    return Divergence(value, kind, "quadrature", error=None if math.isinf(value) else error, note=note)


def _spread(p: Distribution) -> float:
    """√(2 tr Cov p)."""
    atoms = atoms_of(p)
    if atoms is not None:
        mass = atoms.log_mass.exp()
        x = atoms.values.reshape(len(mass), -1)
        square = float((mass @ x.square() - (mass @ x).square()).sum())
    else:
        square = float(torch.as_tensor(p.variance).sum())
    if not 0 < square < math.inf:
        raise InputError(f"the kernel of mmd needs a bandwidth where the variance of p is {square}; give bandwidth=…")
    return math.sqrt(2 * square)


assert set(get_args(Kind)) >= set(FUNCTIONALS)
