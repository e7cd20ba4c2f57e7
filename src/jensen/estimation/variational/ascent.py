"""The ascent of the ELBO: Adam on draws that are new at every step, in stages.

The ELBO of a stage is the mean over its steps, which no draw enters twice. A stage that is better than all before it, by more than two
standard errors and a tolerance, is followed by another at the same rate; one that is not, by one at 3/10 of the rate; after six such
decays the ascent has converged. The steps that are left are then some 10⁻³ of the first, and so is the jitter of the noise.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from jensen.errors import FitError
from jensen.estimation.variational.families import Family
from jensen.estimation.variational.target import Target
from jensen.noise import Noise
from jensen.training.progress import Bar

DECAY, DECAYS, FAILURES = 0.3, 6, 20


@dataclass(frozen=True)
class Stage:
    """The steps up to a number, and the mean ELBO over them with its standard error."""

    step: int
    elbo: float
    stderr: float


@dataclass(frozen=True)
class Ascent:
    """How it went."""

    stages: list[Stage]
    converged: bool

    @property
    def steps(self) -> int:
        """The number of steps."""
        return self.stages[-1].step


def ascend(
    family: Family, target: Target, noise: Noise, *, draws: int, steps: int, tolerance: float, shown: Bar
) -> Ascent:
    """Move a family's parameters to the highest ELBO.

    Args:
        family: moved in place.
        target: log p(x, z).
        noise: of all draws, keyed by the step.
        draws: a step.
        steps: at most so many.
        tolerance: a gain of a stage, in nats, that is none.
        shown: where progress is shown.

    Raises:
        FitError: values or gradients are not finite for 20 steps in a row.
    """
    stages: list[Stage] = []
    best, decays, done = Stage(0, -math.inf, 0.0), 0, 0
    while done < steps and decays <= DECAYS:
        size = min(family.stage, steps - done)
        now = _stage(family, target, noise, draws, done, size, family.rate * DECAY**decays)
        done += size
        stages.append(now)
        if now.elbo > best.elbo + max(tolerance, 2 * math.hypot(now.stderr, best.stderr)):
            best = now
        else:
            decays += 1
            best = max(best, now, key=lambda stage: stage.elbo)
        family.recentre()
        shown.advance(size)
        shown.note(f"ELBO {now.elbo:.4f} ± {now.stderr:.2g} nats")
    return Ascent(stages, decays > DECAYS)


def _stage(family: Family, target: Target, noise: Noise, draws: int, done: int, size: int, rate: float) -> Stage:
    """Steps at one rate, by a new optimiser: the coordinates are new."""
    optimizer = torch.optim.Adam(family.parameters(), lr=rate, betas=(0.9, 0.99))
    values, failed = [], 0
    for number in range(done, done + size):
        value = family.values(target, noise.at(number), draws).mean()
        if _stepped(optimizer, value):
            values.append(float(value.detach()))
            failed = 0
            continue
        failed += 1
        if failed >= FAILURES:
            raise FitError(
                f"log_joint or its gradient has not been finite for {FAILURES} steps, since step {number - FAILURES + 1}: q has gone where "
                "it cannot be computed; write log_joint in logarithms (logsigmoid, logsumexp), or begin elsewhere by start and scale"
            )
    return _told(done + size, torch.tensor(values, dtype=torch.float64))


def _stepped(optimizer: torch.optim.Optimizer, value: Tensor) -> bool:
    """A step up, if value and gradient are finite."""
    optimizer.zero_grad(set_to_none=True)
    if not bool(value.isfinite()):
        return False
    (-value).backward()
    slopes = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if not all(bool(slope.isfinite().all()) for slope in slopes):
        return False
    optimizer.step()
    return True


def _told(step: int, values: Tensor) -> Stage:
    if len(values) < 2:
        return Stage(step, -math.inf, 0.0)
    return Stage(step, float(values.mean()), float(values.std()) / math.sqrt(len(values)))
