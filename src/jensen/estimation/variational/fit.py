"""`fit_variational`: a log-joint and a family in, the nearest member out, with what it is worth."""

import math

import torch
from torch import Tensor

from jensen.errors import InputError, did_you_mean
from jensen.estimation.variational.ascent import ascend
from jensen.estimation.variational.families import Family, FullRank, LogJoint, LowRank, MeanField
from jensen.estimation.variational.flow import Flow
from jensen.estimation.variational.mixture import Mixture
from jensen.estimation.variational.result import Variational
from jensen.estimation.variational.target import Target
from jensen.noise import Noise
from jensen.training.progress import bar

FAMILIES: dict[str, type[Family]] = {kind.word: kind for kind in (MeanField, FullRank, LowRank, Mixture, Flow)}
FEWEST_FRESH = 100  # k̂ takes as many
WIDE = 2.0


def fit_variational(
    log_joint: LogJoint,
    family: str | Family = "full-rank",
    *,
    dims: int | None = None,
    start: Tensor | None = None,
    scale: float = 1.0,
    draws: int = 64,
    steps: int = 20_000,
    tolerance: float = 1e-4,
    fresh_draws: int = 10_000,
    at_once: int = 1000,
    seed: int = 0,
    progress: bool = False,
) -> Variational:
    """q, the member of a family with the highest ELBO, and how far it can be trusted.

    Args:
        log_joint: log p(x, z), the data being fixed inside: z `(draws, D)` float64 → `(draws,)`, differentiable. It is up to a constant
            log p(z | x), and with all its constants the evidence is log p(x).
        family: mean-field, full-rank, low-rank, mixture or flow; or a `Family` with settings of its own, moved in place.
        dims: D, where the family is a word; the length of `start` if None.
        start: where to begin, `(D,)`; 0 if None.
        scale: how wide to begin.
        draws: a step.
        steps: at most so many.
        tolerance: a gain of a stage (50 steps; 100 of a mixture, 150 of a flow) that counts for none, in nats.
        fresh_draws: for the ELBO, the evidence and the diagnostics, and as many wider ones; at least 100.
        at_once: of these, how many log_joint sees together.
        seed: of all draws.
        progress: show a bar on stderr.

    Returns:
        q with its ELBO, the importance-sampled log evidence, and a verdict: print it.

    Raises:
        InputError: a log_joint of the wrong shape, not finite where q begins, or without gradient; a setting that cannot be.
        FitError: it has become infinite on the way.

    Example:
        >>> from torch.distributions import Normal
        >>> x = torch.tensor([1.2, 0.7, 2.1, 1.4], dtype=torch.float64)
        >>> def log_joint(z):   # x_i ~ N(z, 1), z ~ N(0, 1)
        ...     return Normal(0.0, 1.0).log_prob(z[:, 0]) + Normal(z, 1.0).log_prob(x).sum(1)
        >>> found = fit_variational(log_joint, "full-rank", dims=1)
        >>> round(float(found.q.mean), 3), round(float(found.q.variance), 3)   # exactly 5.4/5 and 1/5
        (1.08, 0.2)
        >>> found.verdict
        'q is the posterior to within 0.01 nats, as far as draws twice as wide can see'
    """
    _check(scale, draws, steps, tolerance, fresh_draws, at_once)
    member = _family(family, dims, start)
    centre = torch.zeros(member.dims, dtype=torch.float64) if start is None else _start(start, member.dims)
    target, noise = Target(log_joint), Noise(seed, "variational")
    target.check(centre + scale * noise.at("check").normal(range(draws), (member.dims,)).double())
    before = member.start
    with bar("ascending", None, shown=progress) as shown:
        if before is None:
            member.place(centre, scale, noise.at("place"))
        else:
            before.place(centre, scale, noise.at("place"))
            ascend(before, target, noise.at("before"), draws=draws, steps=steps, tolerance=tolerance, shown=shown)
            member.follow(before())
        went = ascend(member, target, noise.at("ascent"), draws=draws, steps=steps, tolerance=tolerance, shown=shown)
    q, (own, wide) = member().detached(), _weights(member, target, noise.at("fresh"), fresh_draws, at_once)
    return Variational(q, member.word, own, wide, went.stages, went.converged)


@torch.no_grad()
def _weights(member: Family, target: Target, noise: Noise, draws: int, at_once: int) -> tuple[Tensor, Tensor]:
    """log p(x, z) - log q(z) at draws of q; and log p(x, z) - log (½ q + ½ q_wide)(z) at them and at draws of q_wide."""
    q, wide = member(), member.wide(WIDE)
    own, both = [], []
    for start in range(0, draws, at_once):
        for name, law in (("own", q), ("wide", wide)):
            ids = range(start, min(draws, start + at_once))
            z = law.place(noise.at(name).normal(ids, (law.noise_dims,)).double()[:, None])
            joint, log_q = target(z[:, 0]), q.log_prob(z)[:, 0]
            both.append(joint - torch.logaddexp(log_q, wide.log_prob(z)[:, 0]) + math.log(2))
            own += [joint - log_q] if law is q else []
    return torch.cat(own), torch.cat(both)


def _family(family: str | Family, dims: int | None, start: Tensor | None) -> Family:
    if isinstance(family, Family):
        if dims is not None and dims != family.dims:
            raise InputError(f"dims must be the family's own {family.dims}, got {dims}; leave it out")
        return family
    if family not in FAMILIES:
        raise InputError(
            f"unknown family {family!r}; {did_you_mean(family, FAMILIES)}known families are {', '.join(FAMILIES)}"
        )
    dims = len(start) if dims is None and start is not None else dims
    if dims is None:
        raise InputError("the number of dimensions of z must be given: dims=…, or start=… of that length")
    if not isinstance(dims, int):
        raise InputError(f"dims must be a whole number, got {dims}")
    return LowRank(dims, min(5, dims)) if family == LowRank.word and dims >= 1 else FAMILIES[family](dims)


def _start(start: Tensor, dims: int) -> Tensor:
    start = torch.as_tensor(start, dtype=torch.float64)
    if start.shape != (dims,) or not bool(start.isfinite().all()):
        raise InputError(f"start must be {dims} finite numbers, of shape ({dims},), got {start.tolist()}")
    return start


def _check(scale: float, draws: int, steps: int, tolerance: float, fresh_draws: int, at_once: int) -> None:
    rules = {
        "scale": (0 < scale < math.inf, "positive and finite", scale),
        "draws": (draws >= 2, "at least 2", draws),
        "steps": (steps >= 1, "at least 1", steps),
        "tolerance": (0 <= tolerance < math.inf, "at least 0 and finite", tolerance),
        "fresh_draws": (fresh_draws >= FEWEST_FRESH, f"at least {FEWEST_FRESH}", fresh_draws),
        "at_once": (at_once >= 1, "at least 1", at_once),
    }
    for name, (holds, rule, value) in rules.items():
        if not holds:
            raise InputError(f"{name} must be {rule}, got {value}")
