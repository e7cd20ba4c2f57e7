"""A DDPM as a latent-variable model: the latents are the states z = (x_1, …, x_T).

The three Conditionals below are the generic view that `bounds.elbo` takes. They hold all T states in memory, so they
are for short chains: understanding and tests. `diffusion.likelihood` computes the same bound term by term.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from jensen.diffusion.process import diffuse, expand
from jensen.diffusion.reverse import ReverseProcess
from jensen.distributions.conditional import Conditional


class ReverseChain(Distribution):
    """p(x_1, …, x_T) of a reverse process; values are `(B, T, *event)`."""

    def __init__(self, reverse: ReverseProcess, rows: int, event: tuple[int, ...]) -> None:
        self.reverse = reverse
        super().__init__(torch.Size([rows]), torch.Size([reverse.chain.steps, *event]), validate_args=False)

    def log_prob(self, value: Float[Tensor, "B T *event"]) -> Float[Tensor, " B"]:
        """log N(x_T; 0, I) + Σ log p(x_{i-1} | x_i)."""
        total = _normal(torch.zeros_like(value[:, -1]), torch.ones(len(value))).log_prob(value[:, -1])
        for i in range(2, self.reverse.chain.steps + 1):
            index = torch.full((len(value),), i)
            denoised, variance = self.reverse.step(value[:, i - 1], index)
            step = _normal(self.reverse.chain_mean(value[:, i - 1], denoised, index), variance.sqrt())
            total = total + step.log_prob(value[:, i - 2])
        return total


class ForwardChain(Distribution):
    """q(x_1, …, x_T | x_0); values are `(B, T, *event)`."""

    has_rsample = True

    def __init__(self, reverse: ReverseProcess, x_0: Float[Tensor, "B *event"]) -> None:
        self.chain, self.x_0 = reverse.chain, x_0
        super().__init__(torch.Size([len(x_0)]), torch.Size([self.chain.steps, *x_0.shape[1:]]), validate_args=False)

    def rsample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """One path a row."""
        rows = len(self.x_0)
        states = [diffuse(self.x_0, torch.randn_like(self.x_0), self.chain.log_snr[:1].expand(rows))]
        for i in range(1, self.chain.steps):
            scale, variance = self.chain.transition.scale[i], self.chain.transition.variance[i]
            states.append((scale * states[-1] + variance.sqrt() * torch.randn_like(self.x_0)).to(self.x_0.dtype))
        return torch.stack(states, 1)

    def log_prob(self, value: Float[Tensor, "B T *event"]) -> Float[Tensor, " B"]:
        """log q(x_1 | x_0) + Σ log q(x_i | x_{i-1})."""
        rows = len(value)
        first = self.chain.log_snr[:1].expand(rows)
        mean = diffuse(self.x_0, torch.zeros_like(self.x_0), first)
        total = _normal(mean, torch.exp(-0.5 * torch.nn.functional.softplus(first))).log_prob(value[:, 0])
        for i in range(1, self.chain.steps):
            scale, variance = (getattr(self.chain.transition, name)[i] for name in ("scale", "variance"))
            total = total + _normal(scale * value[:, i - 1], variance.sqrt().expand(rows)).log_prob(value[:, i])
        return total


class Prior(Conditional):
    """p(x_1, …, x_T)."""

    def __init__(self, reverse: ReverseProcess, event: tuple[int, ...]) -> None:
        super().__init__()
        self.reverse, self.event = reverse, event

    def forward(self, given: Tensor) -> Distribution:
        """For `given (B, 0)`."""
        return ReverseChain(self.reverse, len(given), self.event)


class FromFirst(Conditional):
    """p(x_0 | x_1, …, x_T) = p(x_0 | x_1)."""

    def __init__(self, reverse: ReverseProcess) -> None:
        super().__init__()
        self.reverse = reverse

    def forward(self, given: Tensor) -> Distribution:
        """For `given (B, T, *event)`."""
        ones = torch.ones(len(given), dtype=torch.int64)
        return self.reverse.emission(self.reverse.denoise(given[:, 0], ones))


class Posterior(Conditional):
    """q(x_1, …, x_T | x_0), which has no parameters."""

    def __init__(self, reverse: ReverseProcess) -> None:
        super().__init__()
        self.reverse = reverse

    def forward(self, given: Tensor) -> Distribution:
        """For `given (B, *event)`."""
        return ForwardChain(self.reverse, given)


def _normal(loc: Tensor, scale: Tensor) -> Distribution:
    return Independent(Normal(loc, expand(scale, loc)), loc.ndim - 1)
