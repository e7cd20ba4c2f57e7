"""The three laws of a hidden Markov model as conditionals: p(z), p(x | z) and p(z | x), for `bounds`."""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.distributions import Distribution

from jensen.distributions.conditional import Conditional
from jensen.hmm.emission import Emission
from jensen.hmm.inference import Inference
from jensen.hmm.layout import Layout
from jensen.hmm.markov import prior


class PathPrior(Conditional):
    """p(z), paths `(B, T)`, for rows as many as those given."""

    def __init__(self, inference: Inference) -> None:
        super().__init__()
        self.chain, self.times = inference.now.chain, inference.layout.times

    def forward(self, given: Tensor) -> Distribution:
        """The law."""
        return prior(self.chain, len(given), self.times)


class StepEmission(Conditional):
    """p(x | z) of rows."""

    def __init__(self, inference: Inference) -> None:
        super().__init__()
        self.law, self.layout = inference.emission, inference.layout

    def forward(self, given: Tensor) -> Distribution:
        """The law."""
        return Emitted(self.law, self.layout, given)


class PathPosterior(Conditional):
    """p(z | x), exact, by the parameters that the model has when it is asked."""

    def __init__(self, inference: Callable[[], Inference]) -> None:
        super().__init__()
        self.inference = inference

    def forward(self, given: Tensor) -> Distribution:
        """The law."""
        now = self.inference()
        return now.path_given(now.layout.steps(given.double()))


class Emitted(Distribution):
    """p(x | z) for paths `z (B, T)`: steps are independent. NaN cells are marginalised.

    Args:
        law: the emissions.
        layout: of a row.
        z: the paths.
    """

    arg_constraints = {}  # noqa: RUF012 (as torch has it)
    has_rsample = False

    def __init__(self, law: Emission, layout: Layout, z: Tensor) -> None:
        self.law, self.layout, self.z = law, layout, z
        super().__init__(z.shape[:1], torch.Size(layout.event_shape), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """Σ_t log p(x_t | z_t) of rows `(B, *event)`."""
        log_b = self.law.log_prob(self.layout.steps(value.double()))
        return log_b.gather(1, self.z.T[:, None])[:, 0].sum(0)

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Rows `(*sample_shape, B, *event)` by torch's generator."""
        made = [self._one() for _ in range(math.prod(sample_shape))]
        return torch.stack(made).reshape(*sample_shape, *self.batch_shape, *self.event_shape)

    def _one(self) -> Tensor:
        n = self.z.numel()
        u = torch.rand(n, self.law.uniforms, dtype=torch.float64)
        x = self.law.draw(self.z.flatten(), u, torch.randn(n, self.law.normals, dtype=torch.float64))
        return self.layout.rows(x.view(*self.z.shape, -1).transpose(0, 1))
