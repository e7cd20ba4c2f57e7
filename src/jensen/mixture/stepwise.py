"""Stepwise EM: one step a batch, for rows that come and go.

After batch t with statistics s_t a row, the running statistics a row and the parameters are

    S ← (1 - γ_t) S + γ_t s_t,   θ ← M-step(S),   γ_t = t^-α,   ½ < α ≤ 1,

so the first batch replaces what there was and later ones count less and less, yet enough to forget the start (Cappé and
Moulines 2009, "On-line expectation-maximization algorithm for latent data models"). Rows that a fit has seen before count
as so many batches of the size of the first one. Where the rows are and what the prior says is fixed from the start; the
prior weighs as much as it would beside all rows seen so far.
"""

import math
from dataclasses import dataclass

from jensen.mixture.covariance import Covariance
from jensen.mixture.em import Problem, maximise, total
from jensen.mixture.parameters import Parameters
from jensen.mixture.prior import Prior
from jensen.mixture.rows import Chunks, Scale
from jensen.mixture.selection import Task
from jensen.mixture.statistics import Statistics
from jensen.noise import Noise

EXPONENT = 0.7


@dataclass
class Stepwise:
    """Parameters that follow batches.

    Args:
        parameters: where to begin.
        covariance: the structure.
        scale: where the data are.
        prior: the penalty.
        running: statistics a row of what was seen before, in a lasting view; None if nothing was.
        seen: the weight of what was seen before.
        steps: how many batches have come.
    """

    parameters: Parameters
    covariance: Covariance
    scale: Scale
    prior: Prior
    running: Statistics | None = None
    seen: float = 0.0
    steps: int = 0

    def step(self, chunks: Chunks, exponent: float = EXPONENT) -> float:
        """Learn from a batch; its mean log-likelihood before the step, nats a row.

        Args:
            chunks: the batch.
            exponent: α.
        """
        problem = Problem(chunks, self.scale, self.covariance, self.prior)
        found, _, _ = problem.expect(self.parameters, lasting=True)
        if self.steps == 0 and self.running is not None:
            self.steps = math.ceil(self.seen / found.weight)
        self.steps, self.seen = self.steps + 1, self.seen + found.weight
        rate, fresh = self.steps**-exponent, found.scaled(1 / found.weight)
        kept = [] if self.running is None else [self.running.scaled(1 - rate)]
        mixed = total(iter([*kept, fresh.scaled(rate if kept else 1.0)]))
        self.running = mixed.about(mixed.means(self.parameters.means))
        self.parameters = maximise(self.running.scaled(self.seen), self.covariance, self.prior, self.parameters)
        return found.log_likelihood / found.weight


def begun(task: Task, components: int, start: Parameters | None) -> Stepwise:
    """Stepwise EM that has seen nothing; the first batch says where the data are.

    Args:
        task: the batch, and how to learn from it.
        components: K.
        start: where to begin; k-means++ on the batch if None.
    """
    first = task.clusters(components, Noise(task.seed, "mixture"))
    problem = task.problem(first)
    return Stepwise(start or first.start(problem), task.covariance, task.scale, problem.prior)
