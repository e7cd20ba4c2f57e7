"""Stepwise EM: one step a batch, for rows that come and go.

After batch t with statistics s_t a row, the running statistics a row and the parameters are

    S ← (1 - γ_t) S + γ_t s_t,   θ ← M-step(S),   γ_t = t^-α,   ½ < α ≤ 1,

so the first batch replaces what there was and later ones count less and less, yet enough to forget the start (Cappé and
Moulines 2009, "On-line expectation-maximization algorithm for latent data models"). The prior weighs as much as it
would beside all rows seen so far.
"""

from jensen.mixture.em import Problem, maximise, total
from jensen.mixture.parameters import Parameters
from jensen.mixture.statistics import Statistics

EXPONENT = 0.7


class Stepwise:
    """Parameters that follow batches.

    Args:
        start: where to begin.
        exponent: α.
    """

    def __init__(self, start: Parameters, exponent: float = EXPONENT) -> None:
        self.parameters, self.exponent = start, exponent
        self.steps, self.seen = 0, 0.0
        self.running: Statistics | None = None

    def step(self, problem: Problem) -> float:
        """Learn from the rows of a problem; their mean log-likelihood before the step, nats a row."""
        found, _, _ = problem.expect(self.parameters, lasting=True)
        self.steps, self.seen = self.steps + 1, self.seen + found.weight
        rate, fresh = self.steps**-self.exponent, found.scaled(1 / found.weight)
        kept = [] if self.running is None else [self.running.scaled(1 - rate)]
        mixed = total(iter([*kept, fresh.scaled(rate if kept else 1.0)]))
        self.running = mixed.about(mixed.means(self.parameters.means))
        self.parameters = maximise(self.running.scaled(self.seen), problem.covariance, problem.prior, self.parameters)
        return found.log_likelihood / found.weight
