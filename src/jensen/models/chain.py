"""The contract of models whose latents are a chain z = (x_1, …, x_T): sampled step by step, scored term by term."""

from abc import abstractmethod
from typing import Any, ClassVar

from jaxtyping import Float, Int
from torch import Tensor

from jensen.diffusion.process import Chain
from jensen.diffusion.sampler import Sampler, Watcher
from jensen.models.model import LatentModel


def unwatched(i: int, x: Tensor, denoised: Tensor) -> None:
    """The watcher that does not watch."""


class ChainModel(LatentModel):
    """A latent-variable model with a chain of latents.

    Class attributes:
        samplers: words of the solvers that can sample it; the first draws from the chain that the bound is about.
    """

    samplers: ClassVar[tuple[str, ...]]

    @abstractmethod
    def chain(self, steps: int | None = None) -> Chain:
        """The chain the model was fitted with; or one of another number of steps between the same ends."""

    @abstractmethod
    def levels(self, steps: int | None = None, grid: str = "time") -> Tensor:
        """The noise levels λ `(N,)` of a chain of that many steps, on a grid of `jensen.diffusion.grid`."""

    @abstractmethod
    def sampler(self, word: str | None = None, /, **options: Any) -> Sampler:
        """The solver a word stands for; that of the chain itself if None."""

    @abstractmethod
    def best_sampler(self, steps: int) -> str:
        """The word of the solver that is taken where none is named, by the number of steps."""

    @abstractmethod
    def sample(
        self,
        n: int,
        context: Tensor | None = None,
        seed: int = 0,
        *,
        start: int = 0,
        sampler: Sampler | None = None,
        steps: int | None = None,
        grid: str = "time",
        watch: Watcher = unwatched,
    ) -> Tensor:
        """As `Model.sample`; in the model's own number of steps and by the best sampler for that number unless told otherwise.

        Args:
            n: how many rows.
            context: what to condition on.
            seed: of all noise.
            start: the number of the first sample.
            sampler: the solver.
            steps: how many steps to take.
            grid: which noise levels to visit, a word of `jensen.diffusion.grid`.
            watch: called with i, x_i and x̂_0(x_i) at every step from the last to 1.
        """

    @abstractmethod
    def cost_per_step(
        self, x: Float[Tensor, "B *event"], ids: Int[Tensor, " B"], seed: int = 0
    ) -> tuple[Int[Tensor, " n"], Float[Tensor, "n B"]]:
        """Single terms along the chain: the steps looked at, and L_{i-1} of each row there in nats."""
