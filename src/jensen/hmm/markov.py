"""The law of a path of states, before and after the data: a Markov chain either way.

    p(z) = π(z_1) ∏ A(z_t, z_{t+1}),   p(z | x) = p(z_1 | x) ∏ p(z_{t+1} | z_t, x),

    p(z_{t+1} = j | z_t = i, x) = A_ij b_{t+1}(j) β_{t+1}(j) / Σ_j …,

so paths are drawn from the posterior forward, after filtering backward (Scott 2002, "Bayesian methods for hidden Markov
models", has it the other way round).
"""

import torch
from torch import Tensor
from torch.distributions import Distribution

from jensen.hmm.chain import Chain, Passes
from jensen.hmm.emission import picked


class Path(Distribution):
    """Paths `(B, T)` of a Markov chain that may change with time and from row to row.

    Args:
        log_initial: `(B, K)`, normalised.
        log_transitions: `(K, K)`.
        log_ahead: `(T - 1, B, K)`, what the next state is weighted by: its law is their product, normalised. It is that at
            one step of one row after the other, so that no table of `(T, B, K, K)` is needed.
    """

    arg_constraints = {}  # noqa: RUF012 (as torch has it)
    has_rsample = False

    def __init__(self, log_initial: Tensor, log_transitions: Tensor, log_ahead: Tensor) -> None:
        self.log_initial, self.log_transitions, self.log_ahead = log_initial, log_transitions, log_ahead
        event = torch.Size([len(log_ahead) + 1])
        super().__init__(log_initial.shape[:1], event, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p of paths `(B, T)`."""
        rows = torch.arange(len(value))
        total = self.log_initial[rows, value[:, 0]]
        for t, ahead in enumerate(self.log_ahead):
            total = total + self._next(value[:, t], ahead)[rows, value[:, t + 1]]
        return total

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Paths `(*sample_shape, B, T)` by torch's generator."""
        shape = torch.Size([*sample_shape, *self.batch_shape, *self.event_shape])
        uniform = torch.rand(shape, dtype=torch.float64).reshape(-1, *self.batch_shape, *self.event_shape)
        return torch.stack([self.at(u) for u in uniform]).reshape(shape)

    def at(self, u: Tensor) -> Tensor:
        """The paths `(B, T)` that uniform draws `u (B, T)` pick, by inverse distribution functions."""
        path = [picked(self.log_initial.exp(), u[:, 0])]
        for t, ahead in enumerate(self.log_ahead, 1):
            path.append(picked(self._next(path[-1], ahead).exp(), u[:, t]))
        return torch.stack(path, 1)

    def _next(self, z: Tensor, ahead: Tensor) -> Tensor:
        """log p(the next state | z) of rows in states `z (B,)`, `(B, K)`."""
        return (self.log_transitions[z] + ahead).log_softmax(1)


def prior(chain: Chain, rows: int, times: int) -> Path:
    """p(z) for so many rows and steps."""
    even = chain.initial.new_zeros(1, 1, 1).expand(times - 1, rows, chain.states)
    return Path(chain.initial.log().expand(rows, -1), chain.transitions.log(), even)


def posterior(chain: Chain, log_b: Tensor, both: Passes) -> Path:
    """p(z | x) for emissions `log_b (T, K, B)` whose recursions are `both`."""
    ahead = (log_b + both.ahead()).permute(0, 2, 1)
    first = (chain.initial.log() + ahead[0]).log_softmax(1)
    return Path(first, chain.transitions.log(), ahead[1:])
