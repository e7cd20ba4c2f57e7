"""The law of a path of states, before and after the data: a Markov chain either way.

    p(z) = π(z_1) ∏ A(z_t, z_{t+1}),   p(z | x) = p(z_1 | x) ∏ p(z_{t+1} | z_t, x),

    p(z_{t+1} = j | z_t = i, x) = A_ij b_{t+1}(j) β_{t+1}(j) / Σ_j …,

so paths are drawn from the posterior forward, after filtering backward (Scott 2002, "Bayesian methods for hidden Markov
models", has it the other way round).
"""

import torch
from torch import Tensor
from torch.distributions import Distribution

from jensen.hmm.emission import picked
from jensen.hmm.recursion import Chain, Passes


class Path(Distribution):
    """Paths `(B, T)` of a Markov chain that may change with time and from row to row.

    Args:
        log_initial: `(B, K)`, normalised.
        log_transitions: `(T - 1, B, K, K)`, or `(T - 1, 1, K, K)` for all rows; rows normalised.
    """

    arg_constraints = {}  # noqa: RUF012 (as torch has it)
    has_rsample = False

    def __init__(self, log_initial: Tensor, log_transitions: Tensor) -> None:
        self.log_initial, self.log_transitions = log_initial, log_transitions
        event = torch.Size([len(log_transitions) + 1])
        super().__init__(log_initial.shape[:1], event, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p of paths `(B, T)`."""
        rows = torch.arange(len(value))
        total = self.log_initial[rows, value[:, 0]]
        for t, table in enumerate(self.log_transitions):
            total = total + table.expand(len(value), -1, -1)[rows, value[:, t], value[:, t + 1]]
        return total

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Paths `(*sample_shape, B, T)` by torch's generator."""
        shape = torch.Size([*sample_shape, *self.batch_shape, *self.event_shape])
        uniform = torch.rand(shape, dtype=torch.float64).reshape(-1, *self.batch_shape, *self.event_shape)
        return torch.stack([self.at(u) for u in uniform]).reshape(shape)

    def at(self, u: Tensor) -> Tensor:
        """The paths `(B, T)` that uniform draws `u (B, T)` pick, by inverse distribution functions."""
        rows = torch.arange(len(u))
        path = [picked(self.log_initial.exp(), u[:, 0])]
        for t, table in enumerate(self.log_transitions, 1):
            path.append(picked(table.expand(len(u), -1, -1)[rows, path[-1]].exp(), u[:, t]))
        return torch.stack(path, 1)


def prior(chain: Chain, rows: int, times: int) -> Path:
    """p(z) for so many rows and steps."""
    table = chain.transitions.log().expand(times - 1, 1, -1, -1)
    return Path(chain.initial.log().expand(rows, -1), table)


def posterior(chain: Chain, log_b: Tensor, both: Passes) -> Path:
    """p(z | x) for emissions `log_b (T, K, B)` whose recursions are `both`."""
    ahead = (log_b + both.ahead()).permute(0, 2, 1)
    first = (chain.initial.log() + ahead[0]).log_softmax(1)
    return Path(first, (chain.transitions.log() + ahead[1:, :, None]).log_softmax(3))
