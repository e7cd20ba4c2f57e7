"""p(x | y) = ∏_d p(x_d | y): families of columns side by side."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.distributions import Distribution

from jensen.blocks import in_blocks
from jensen.data.space import Levels, Space
from jensen.distributions.conditional import Conditional
from jensen.naive_bayes.family import Ascents, Family
from jensen.naive_bayes.kernels import Kernels
from jensen.naive_bayes.labelled import Labelled
from jensen.naive_bayes.mixtures import Mixtures
from jensen.naive_bayes.normal import Normal
from jensen.naive_bayes.tables import Categorical, Poisson
from jensen.naive_bayes.words import check_size
from jensen.noise import Noise

BLOCK, CELLS_AT_ONCE = 256, 1 << 22


class Product(nn.Module):
    """Every column with a family of its own.

    Args:
        classes: K.
        words: the family of each column.
        space: of a row.
        smoothing: a of tables.
        prior_rows: c of variances.
        n_components: of mixtures.
        rows: that a kde keeps of each class.
    """

    def __init__(
        self,
        classes: int,
        words: Sequence[str],
        space: Space,
        *,
        smoothing: float,
        prior_rows: float,
        n_components: int,
        rows: int,
    ) -> None:
        super().__init__()
        self.classes, self.dims = classes, len(words)
        self.columns = {word: [d for d, own in enumerate(words) if own == word] for word in dict.fromkeys(words)}
        check_size(self.columns, classes, space, n_components, rows)

        def made(word: str, dims: int) -> Family:
            """A new family for so many columns."""
            if isinstance(space, Levels):
                return (Poisson if word == "poisson" else Categorical)(classes, dims, space, smoothing)
            if word == "gaussian":
                return Normal(classes, dims, prior_rows)
            if word == "mixture":
                return Mixtures(classes, dims, n_components, prior_rows)
            return Kernels(classes, dims, rows, prior_rows)

        self.families = nn.ModuleDict({word: made(word, len(d)) for word, d in self.columns.items()})

    def family(self, word: str) -> Family:
        """The family with this word."""
        found = self.families[word]
        assert isinstance(found, Family)
        return found

    def learn(self, rows: Labelled, noise: Noise) -> Ascents:
        """Fit every family to its columns; how the mixtures' EM went, if there are any."""
        told = [self.family(word).learn(rows.only(torch.tensor(d)), noise.at(word)) for word, d in self.columns.items()]
        return max(told, key=lambda found: found.fits)

    def log_prob(self, x: Tensor) -> Float[Tensor, "B K"]:
        """log p(x_o | y = k) of flat rows for every class, o the observed cells, float64."""
        scorers = [(d, self.family(word).scorer()) for word, d in self.columns.items()]
        block = max(1, min(BLOCK, CELLS_AT_ONCE // max(self.family(word).cells for word in self.columns)))
        return in_blocks(
            lambda rows: torch.stack([score(rows[:, d]) for d, score in scorers]).sum(0), block, x.double()
        )

    def draw(self, y: Tensor, u: Tensor, eps: Tensor) -> Tensor:
        """Flat rows `(n, D)` of given classes, by uniform and standard normal numbers `(n, D)`."""
        out = u.new_empty(u.shape)
        for word, d in self.columns.items():
            out[:, d] = self.family(word).draw(y, u[:, d], eps[:, d])
        return out


class Columns(Distribution):
    """∏_d p(x_d | y) for a batch of classes.

    Args:
        product: the distributions.
        y: class codes `(B,)`.
        event_shape: of a row.
    """

    arg_constraints: dict[str, Any] = {}  # noqa: RUF012 (torch's own declaration)

    def __init__(self, product: Product, y: Int[Tensor, " B"], event_shape: tuple[int, ...]) -> None:
        self.product, self.y = product, y
        super().__init__(y.shape, torch.Size(event_shape), validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(x | y) of rows `(B, *event)`, of their observed cells."""
        return self.product.log_prob(value.flatten(1)).gather(1, self.y[:, None])[:, 0]

    def sample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Rows, from torch's own generator."""
        y = self.y.expand(*sample_shape, len(self.y)).reshape(-1)
        u = torch.rand(len(y), self.product.dims, dtype=torch.float64)
        return self.product.draw(y, u, torch.randn_like(u)).reshape(*sample_shape, len(self.y), *self.event_shape)


class Emission(Conditional):
    """p(x | y) of rows of a shape.

    Args:
        product: the distributions.
        event_shape: of a row.
    """

    def __init__(self, product: Product, event_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.product, self.event_shape = product, event_shape

    def forward(self, given: Tensor) -> Distribution:
        """The columns of classes `(B,)`."""
        return Columns(self.product, given, self.event_shape)
