"""log p(x), responsibilities, conditional moments and draws of a mixture, in float64.

The bits of a row's value do not depend on its company: complete rows go through products of one fixed shape, 256 rows
at a time with the last block filled up, and rows with missing cells through blocks of one pattern (`missing`). The sum
over components is divided by Σ w_k = 1 as it is stored, so a row with no observed cell has log-likelihood 0.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from jensen.mixture.covariance import Covariance, cholesky
from jensen.mixture.missing import Marginal
from jensen.mixture.parameters import Parameters, Spread

BLOCK = 256
CELLS = 1 << 22  # of a block in all components' coordinates
LOG_2PI = math.log(2 * math.pi)


class Density:
    """A mixture ready to be evaluated.

    Args:
        parameters: the mixture.
        covariance: its structure.
    """

    def __init__(self, parameters: Parameters, covariance: Covariance) -> None:
        self.parameters, self.covariance = parameters, covariance
        self.components, self.dims = parameters.components, parameters.dims
        self.log_weights = parameters.weights.log()
        if covariance.diagonal:
            self.scale = covariance.variances(parameters.spread, self.components).sqrt()
            self.whiten, log_det = 1 / self.scale, self.scale.log().sum(1)
        else:
            self.scale = cholesky(covariance.matrices(parameters.spread, self.components))
            eye = torch.eye(self.dims).to(self.scale).expand_as(self.scale)
            self.whiten = torch.linalg.solve_triangular(self.scale, eye, upper=False).mT.contiguous()
            log_det = self.scale.diagonal(dim1=1, dim2=2).log().sum(1)
        self.constant = self.log_weights - log_det - 0.5 * self.dims * LOG_2PI

    def log_joint(self, x: Tensor) -> Tensor:
        """log w_k N(x_o; m_k, Σ_k) of rows `x (B, d)`, `(B, K)`; o are the observed cells."""
        x = x.double()
        holes = x.isnan().any(1)
        if not bool(holes.any()):
            return self._complete(x)
        out = x.new_empty(len(x), self.components)
        out[~holes] = self._complete(x[~holes])
        marginal, positions = Marginal(self.parameters, self.covariance), holes.nonzero()[:, 0]
        for index in marginal.groups(x[holes]):
            out[positions[index]] = marginal.fill(x[positions[index]]).joint
        return out

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x_o), `(B,)`."""
        return self.log_joint(x).logsumexp(1) - self.log_weights.logsumexp(0)

    def responsibilities(self, x: Tensor) -> Tensor:
        """p(k | x_o), `(B, K)`."""
        return self.log_joint(x).softmax(1)

    def _complete(self, x: Tensor) -> Tensor:
        if len(x) == 0:
            return x.new_empty(0, self.components)
        filled = torch.cat([x, x.new_zeros(-len(x) % BLOCK, self.dims)])
        return torch.cat([self._block(block) for block in filled.split(BLOCK)])[: len(x)]

    def _block(self, x: Tensor) -> Tensor:
        """256 rows; components together where they fit, always in the same groups."""
        together = max(1, CELLS // (BLOCK * self.dims))
        parts = zip(self.parameters.means.split(together), self.whiten.split(together), strict=True)
        square = torch.cat([_mahalanobis(x, means, whiten) for means, whiten in parts])
        return (self.constant[:, None] - 0.5 * square).T.contiguous()

    def pick(self, u: Tensor) -> Tensor:
        """The component that u `(n,)` in [0, 1) picks by weight."""
        return _pick(self.parameters.weights.expand(len(u), -1), u)

    def normal(self, k: Tensor, eps: Tensor) -> Tensor:
        """m_k + L_k ε for given components `k (n,)`."""
        if self.covariance.diagonal:
            return self.parameters.means[k] + self.scale[k] * eps
        filled = torch.cat([eps, eps.new_zeros(-len(eps) % BLOCK, self.dims)])
        owner = torch.cat([k, k.new_full((-len(k) % BLOCK,), -1)])
        parts = []
        for block, number in zip(filled.split(BLOCK), owner.split(BLOCK), strict=True):
            out = torch.zeros_like(block)
            for component in number[number >= 0].unique().tolist():
                rows = block @ self.scale[component].T
                out = torch.where((number == component)[:, None], rows, out)
            parts.append(out)
        return self.parameters.means[k] + torch.cat(parts)[: len(eps)]

    def fill(self, x: Tensor) -> Tensor:
        """E[x | x_o]: rows `(B, d)` with missing cells replaced by their mean under the mixture."""
        out, marginal = x.double().clone(), Marginal(self.parameters, self.covariance)
        for index in marginal.groups(x):
            filled = marginal.fill(x[index])
            mean = torch.einsum("bk,bkd->bd", filled.joint.softmax(1), filled.mean)
            out[index] = torch.where(x[index].isnan(), mean, x[index].double())
        return out

    def fill_by_chance(self, x: Tensor, u: Tensor, eps: Tensor) -> Tensor:
        """Missing cells of `x (B, d)` drawn from p(x_m | x_o): u `(B,)` picks the component, ε `(B, d)` the rest."""
        out, marginal = x.double().clone(), Marginal(self.parameters, self.covariance)
        for index in marginal.groups(x):
            filled = marginal.fill(x[index])
            k = _pick(filled.joint.softmax(1), u[index])
            mean = filled.mean[torch.arange(len(index)), k]
            spread = filled.covariance[filled.pattern, k]
            drawn = mean + _root_times(spread, eps[index])
            out[index] = torch.where(x[index].isnan(), drawn, x[index].double())
        return out


@dataclass(frozen=True)
class Given:
    """A mixture over the columns that are left: `weights (K,)`, `means (K, d')`, `covariances (K, d', d')`."""

    weights: Tensor
    means: Tensor
    covariances: Tensor


def conditioned(parameters: Parameters, covariance: Covariance, x: Tensor) -> Given:
    """p(x_m | x_o) for one row `x (d,)` with NaN in the columns m: again a mixture, with weights p(k | x_o)."""
    filled = Marginal(parameters, covariance).fill(x[None])
    left = x.isnan()
    spread = filled.covariance[0]
    matrices = torch.diag_embed(spread) if covariance.diagonal else spread
    return Given(filled.joint[0].softmax(0), filled.mean[0][:, left], matrices[:, left][:, :, left])


def differentiable_log_joint(
    weights: Tensor, means: Tensor, spread: Spread, covariance: Covariance, x: Tensor
) -> Tensor:
    """log w_k N(x; m_k, Σ_k) of complete rows `x (B, d)`, `(B, K)`, with gradients to everything."""
    components, dims = means.shape
    if covariance.diagonal:
        scale = covariance.variances(spread, components).sqrt()
        white, log_det = (x[:, None] - means) / scale, scale.log().sum(1)
    else:
        factor = cholesky(covariance.matrices(spread, components))
        white = torch.linalg.solve_triangular(factor, (x[None] - means[:, None]).mT, upper=False).permute(2, 0, 1)
        log_det = factor.diagonal(dim1=1, dim2=2).log().sum(1)
    return weights.log() - log_det - 0.5 * dims * LOG_2PI - 0.5 * white.square().sum(2)


def _mahalanobis(x: Tensor, means: Tensor, whiten: Tensor) -> Tensor:
    offset = x - means[:, None]
    white = offset * whiten[:, None] if whiten.ndim == 2 else torch.bmm(offset, whiten)
    return white.square().sum(2)


def _pick(probabilities: Tensor, u: Tensor) -> Tensor:
    """The component whose share of [0, 1) holds u, row by row."""
    cumulative = probabilities.cumsum(1).contiguous()
    index = torch.searchsorted(cumulative, (u[:, None] * cumulative[:, -1:]).contiguous(), right=True)
    return index[:, 0].clamp(max=probabilities.shape[1] - 1)


def _root_times(spread: Tensor, eps: Tensor) -> Tensor:
    """C^½ ε for semidefinite C `(B, d, d)`, or diagonals."""
    if spread.ndim == 2:
        return spread.sqrt() * eps
    values, vectors = torch.linalg.eigh(spread)
    return ((vectors * values.clamp(min=0).sqrt()[:, None]) @ eps[:, :, None])[:, :, 0]
