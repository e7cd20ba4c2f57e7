"""log p(x), responsibilities, conditional moments and draws of a mixture, in float64.

A row's value does not depend on its company, for complete rows to the bit: they go through `jensen.blocks` of 256 rows. Rows with missing cells go through blocks of their own (`normals`). The sum
over components is divided by Σ w_k = 1 as it is stored, so a row with no observed cell has log-likelihood 0.
"""

import torch
from torch import Tensor

from jensen.blocks import in_blocks
from jensen.distributions.picking import picked, picked_each
from jensen.mixture.covariance import Covariance
from jensen.mixture.parameters import Parameters

BLOCK = 256


class Density:
    """A mixture ready to be evaluated.

    Args:
        parameters: the mixture.
        covariance: its structure.
    """

    def __init__(self, parameters: Parameters, covariance: Covariance) -> None:
        self.parameters, self.covariance = parameters, covariance
        self.normals = covariance.normals(parameters.means, parameters.spread)
        self.log_weights = parameters.weights.log()

    def log_joint(self, x: Tensor) -> Tensor:
        """log w_k N(x_o; m_k, Σ_k) of rows `x (B, d)`, `(B, K)`; o are the observed cells."""
        x = x.double()
        holes = x.isnan().any(1)
        out = x.new_empty(len(x), len(self.log_weights))
        out[~holes] = self._complete(x[~holes])
        positions = holes.nonzero()[:, 0]
        for index in self.normals.groups(x[holes]) if len(positions) else ():
            out[positions[index]] = self.normals.given(x[positions[index]]).log_prob
        return out + self.log_weights

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x_o), `(B,)`."""
        return self.log_joint(x).logsumexp(1) - self.log_weights.logsumexp(0)

    def responsibilities(self, x: Tensor) -> Tensor:
        """p(k | x_o), `(B, K)`."""
        return self.log_joint(x).softmax(1)

    def _complete(self, x: Tensor) -> Tensor:
        return in_blocks(lambda rows: self.normals.log_prob(rows).T, BLOCK, x)

    def pick(self, u: Tensor) -> Tensor:
        """The component that u `(n,)` in [0, 1) picks by weight."""
        return picked(self.parameters.weights, u)

    @property
    def eps_dims(self) -> int:
        """How many standard normals a draw takes."""
        return self.parameters.dims + self.normals.extra

    def normal(self, k: Tensor, eps: Tensor) -> Tensor:
        """Draws from given components `k (n,)`, by standard normals `eps (n, eps_dims)`."""
        return in_blocks(self.normals.draw, BLOCK, k, eps)

    def fill(self, x: Tensor) -> Tensor:
        """E[x | x_o]: rows `(B, d)` with missing cells replaced by their mean under the mixture."""
        out = x.double().clone()
        for index in self.normals.groups(x):
            rows = out[index]
            given = self.normals.given(rows)
            mean = torch.einsum("bk,bkd->bd", (given.log_prob + self.log_weights).softmax(1), given.mean)
            out[index] = torch.where(rows.isnan(), mean, rows)
        return out

    def fill_by_chance(self, x: Tensor, u: Tensor, eps: Tensor) -> Tensor:
        """Missing cells of `x (B, d)` drawn from p(x_m | x_o): u `(B,)` picks the component, ε `(B, eps_dims)` the rest."""
        out = x.double().clone()
        for index in self.normals.groups(x):
            rows = out[index]
            given = self.normals.given(rows)
            k = picked_each((given.log_prob + self.log_weights).softmax(1), u[index])
            out[index] = torch.where(rows.isnan(), given.draw(k, eps[index]), rows)
        return out

    def conditional(self, x: Tensor) -> Parameters:
        """p(x_m | x_o) for one row `x (d,)` with NaN in the columns m: again a mixture, with weights p(k | x_o); its
        structure is `normals.kind`.
        """
        given, left = self.normals.given(x[None].double()), x.isnan()
        weights = (given.log_prob[0] + self.log_weights).softmax(0)
        return Parameters(weights, given.mean[0][:, left], given.spread(left))
