"""Normal emissions: each state has a mixture of M normals, one of them if M = 1.

    p(x_t | z_t = k) = Σ_m c_km N(x_t; μ_km, Σ_km)

(Rabiner 1989, eq. 49 and 52-54). Covariance structures, their prior and the statistics are those of `mixture`: the K·M
normals are one mixture whose responsibilities are the posterior of state and component. Missing cells are marginalised
exactly; in the M-step one counts with its conditional mean and adds its conditional variance.

Statistics are taken about one centre for all states, so they are products of two matrices. What that loses of a variance,
its relative error ε (μ/σ)², changes the expected log-likelihood by its square, since the M-step stands at a maximum.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from jensen.hmm.emission import Emission, Expected, by_state, flat, picked
from jensen.mixture.covariance import Covariance
from jensen.mixture.density import Density
from jensen.mixture.em import total
from jensen.mixture.normals import LOG_2PI, Dense, Diagonal, Normals
from jensen.mixture.parameters import Parameters
from jensen.mixture.prior import Prior
from jensen.mixture.statistics import Statistics


@dataclass(frozen=True)
class NormalEmission(Emission):
    """K mixtures of M normals.

    Args:
        parameters: the normals, state after state; `weights (K·M,)` are c, which sum to 1 in each state.
        covariance: their structure.
        states: K.
        prior: the penalty; None where nothing is fitted.
        centre: what statistics are about, `(d,)`; None likewise.
    """

    parameters: Parameters
    covariance: Covariance
    states: int
    prior: Prior | None = None
    centre: Tensor | None = None

    @property
    def dims(self) -> int:  # type: ignore[override]
        """D."""
        return self.parameters.dims

    @property
    def components(self) -> int:
        """M."""
        return self.parameters.components // self.states

    @property
    def uniforms(self) -> int:  # type: ignore[override]
        """One for the component."""
        return 1

    @property
    def normals(self) -> int:  # type: ignore[override]
        """One for each cell."""
        return self.dims

    @cached_property
    def density(self) -> Density:
        """The K·M normals, ready to be evaluated."""
        return Density(self.parameters, self.covariance)

    @property
    def log_weights(self) -> Tensor:
        """log c, `(K, M)`."""
        return self.parameters.weights.log().view(self.states, -1)

    def log_prob(self, steps: Tensor) -> Tensor:
        """log Σ_m c_km N."""
        joint = log_normals(self.density.normals, steps.double().flatten(0, 1))
        return by_state(self._over_components(joint), len(steps)).contiguous()

    def _over_components(self, joint: Tensor) -> Tensor:
        """log Σ_m c_km N from log N, `(K, n)`; a state's sum is divided by Σ c = 1 as it is stored."""
        if self.components == 1:
            return joint
        mixed = (joint.view(self.states, self.components, -1) + self.log_weights[:, :, None]).logsumexp(1)
        return mixed - self.log_weights.logsumexp(1)[:, None]

    def expect(self, steps: Tensor, share: Tensor) -> Statistics:
        """Statistics of the K·M normals."""
        x, shares = steps.double().flatten(0, 1), flat(share)
        if self.components > 1:
            joint = log_normals(self.density.normals, x).view(self.states, self.components, -1)
            shares = ((joint + self.log_weights[:, :, None]).softmax(1) * shares[:, None]).flatten(0, 1)
        return total(self._parts(x, shares))

    def _parts(self, x: Tensor, shares: Tensor) -> Iterator[Statistics]:
        """Complete steps by two products of matrices, others group by group; empty ones not at all."""
        missing = x.isnan()
        odd = missing.any(1)
        if not bool(odd.any()):
            yield self._complete(x, shares)
            return
        yield self._complete(x.nan_to_num(nan=0.0), shares * ~odd)
        places = (odd & ~missing.all(1)).nonzero()[:, 0]
        for index in self.density.normals.groups(x[places]) if len(places) else ():
            yield self._incomplete(x[places[index]], shares[:, places[index]])

    def _complete(self, x: Tensor, shares: Tensor) -> Statistics:
        centre = self._centre()
        offset = (x.T - centre[0][:, None]).contiguous()
        count, first = shares.sum(1), shares @ offset.T
        if self.covariance.diagonal:
            second = shares @ offset.square().T
        else:
            second = torch.stack([(offset * share) @ offset.T for share in shares])
        return self._made(count, first, second)

    def _incomplete(self, x: Tensor, shares: Tensor) -> Statistics:
        given, view = self.density.normals.given(x), self.covariance.view(self.parameters.spread)
        offset = (given.mean - self._centre()).transpose(0, 1)
        weighted = shares[:, :, None] * offset
        second = view.gram(weighted, offset) + given.second(shares.contiguous(), view)
        return self._made(shares.sum(1), weighted.sum(1), second)

    def _made(self, count: Tensor, first: Tensor, second: Tensor) -> Statistics:
        view = self.covariance.view(self.parameters.spread)
        return Statistics(self._centre(), count, first, second, view, 0.0, 0.0)

    def _centre(self) -> Tensor:
        centre = self.parameters.means.mean(0) if self.centre is None else self.centre
        return centre.expand_as(self.parameters.means)

    def maximise(self, expected: Expected) -> Self:
        """c_km = (n_km + a) / Σ_m (n_km + a), μ the mean, Σ by its structure."""
        assert isinstance(expected, Statistics)
        assert self.prior is not None
        before = self.parameters
        counts = (expected.count + self.prior.counts).view(self.states, -1)
        share = counts / counts.sum(1, keepdim=True).clamp(min=1e-300)
        kept = before.weights.view(self.states, -1)
        weights = torch.where(counts.sum(1, keepdim=True) > 0, share, kept).flatten()
        spread = self.covariance.maximise(expected, self.prior, before.spread)
        return replace(self, parameters=Parameters(weights, expected.means(before.means), spread))

    def log_prior(self) -> float:
        """Of weights, where there are several, and of covariances."""
        if self.prior is None:
            return 0.0
        weights = self.prior.log_weights(self.parameters.weights) if self.components > 1 else 0.0
        spread = float(self.covariance.log_prior(self.density.normals, self.prior)) if self.prior.rows else 0.0
        return weights + spread

    def tensors(self) -> dict[str, Tensor]:
        """Weights, means and spread."""
        own = {"weights": self.parameters.weights, "means": self.parameters.means}
        return own | {f"spread_{name}": tensor for name, tensor in self.parameters.spread.items()}

    def size(self) -> float:
        """|log |Σ|| and d log 2π."""
        return float(self.density.normals.log_det.abs().max()) + self.dims * LOG_2PI

    def _component(self, z: Tensor, u: Tensor, joint: Tensor | None = None) -> Tensor:
        """A component `(n,)` of each state, by its weight, or by log N of what is observed `(n, K·M)` too."""
        log_share = self.log_weights[z]
        if joint is not None:
            log_share = log_share + joint.view(len(z), self.states, -1)[torch.arange(len(z)), z]
        return z * self.components + picked(log_share.softmax(1), u[:, 0])

    def draw(self, z: Tensor, u: Tensor, eps: Tensor) -> Tensor:
        """A component, then μ + L ε."""
        return self.density.normal(self._component(z, u), eps)

    def fill(self, x: Tensor, share: Tensor) -> Tensor:
        """A mixture over states and components of conditional means."""
        out, share = x.double().clone(), share.double()
        for index in self.density.normals.groups(x):
            given = self.density.normals.given(out[index])
            inner = (given.log_prob.view(len(index), self.states, -1) + self.log_weights).softmax(2)
            mean = torch.einsum("bk,bkd->bd", (share[index, :, None] * inner).flatten(1), given.mean)
            out[index] = torch.where(x[index].isnan(), mean, out[index])
        return out

    def fill_by_chance(self, x: Tensor, z: Tensor, u: Tensor, eps: Tensor) -> Tensor:
        """A component given state and observed cells, then a conditional normal."""
        out = x.double().clone()
        for index in self.density.normals.groups(x):
            given = self.density.normals.given(out[index])
            drawn = given.draw(self._component(z[index], u[index], given.log_prob), eps[index])
            out[index] = torch.where(x[index].isnan(), drawn, out[index])
        return out


def log_normals(normals: Normals, x: Tensor) -> Tensor:
    """log N(x_o; m_o, Σ_oo) of steps `x (n, d)` float64, `(K, n)`.

    A complete step goes through the same operations whatever is missing elsewhere: its bits do not depend on its company.
    """
    missing = x.isnan()
    odd = missing.any(1)
    some = bool(odd.any())
    constant = (normals.log_det + x.shape[1] * LOG_2PI)[:, None]
    if isinstance(normals, Diagonal):
        squares = _diagonal(normals, x.T.contiguous(), missing if some else None)
        if some:
            cells = (normals.variances.log() + LOG_2PI) @ (~missing).to(x).T
            constant = torch.where(odd, cells, constant)
        return squares.add_(constant).mul_(-0.5)
    assert isinstance(normals, Dense)
    squares = _dense(normals, (x.nan_to_num(nan=0.0) if some else x).T)
    value = squares.add_(constant).mul_(-0.5)
    if some:
        value[:, missing.all(1)] = 0.0
        places = (odd & ~missing.all(1)).nonzero()[:, 0]
        for index in normals.groups(x[places]) if len(places) else ():
            value[:, places[index]] = normals.given(x[places[index]]).log_prob.T
    return value


def _diagonal(normals: Diagonal, x: Tensor, missing: Tensor | None) -> Tensor:
    """Σ_j ((x_j - m_kj) / σ_kj)² over observed cells of `x (d, n)`, `(K, n)`."""
    out, work = x.new_zeros(len(normals.means), x.shape[1]), x.new_empty(len(normals.means), x.shape[1])
    for j, column in enumerate(x):
        torch.sub(column, normals.means[:, j, None], out=work)
        work.mul_(normals.whiten[:, j, None])
        if missing is not None:
            work.masked_fill_(missing[:, j], 0.0)
        out.addcmul_(work, work)
    return out


def _dense(normals: Dense, x: Tensor) -> Tensor:
    """‖L_k⁻¹ (x - m_k)‖² of `x (d, n)`, `(K, n)`, one state after the other."""
    out = x.new_empty(len(normals.means), x.shape[1])
    for row, mean, matrix in zip(out, normals.means, normals.whiten, strict=True):
        white = matrix.T @ (x - mean[:, None])
        torch.sum(white.square_(), 0, out=row)
    return out
