"""How many components? Criteria that charge a mixture for its parameters; lower is better.

    AIC = 2 f - 2 log L                            (Akaike 1974)
    BIC = f log n - 2 log L                        (Schwarz 1978)
    ICL = BIC + 2 Σ_i H(p(z | x_i))                (Biernacki, Celeux and Govaert 2000)

with f free parameters, n the total weight of the rows and L their likelihood. ICL also charges for clusters that overlap.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import Categorical

from jensen.data.examples import Rows
from jensen.mixture.density import Density
from jensen.mixture.rows import Chunks
from jensen.mixture.selection import mean_of


@dataclass(frozen=True)
class Criteria:
    """What the criteria are made of.

    Attributes:
        log_likelihood: log L.
        weight: n.
        entropy: Σ H(p(z | x_i)).
        free: f.
    """

    log_likelihood: float
    weight: float
    entropy: float
    free: int

    @property
    def aic(self) -> float:
        """Akaike's."""
        return 2 * self.free - 2 * self.log_likelihood

    @property
    def bic(self) -> float:
        """Schwarz's."""
        return self.free * math.log(self.weight) - 2 * self.log_likelihood

    @property
    def icl(self) -> float:
        """Biernacki's."""
        return self.bic + 2 * self.entropy


@torch.no_grad()
def criteria(density: Density, free: int, rows: Rows) -> Criteria:
    """The criteria of a mixture for rows."""
    chunks = Chunks(rows)
    weight = sum(float(chunk.weight.double().sum()) for chunk in chunks.passing())
    log_likelihood = mean_of(chunks, density.log_prob) * weight

    def entropy(x: Tensor) -> Tensor:
        return Categorical(logits=density.log_joint(x)).entropy()

    return Criteria(log_likelihood, weight, mean_of(chunks, entropy) * weight, free)
