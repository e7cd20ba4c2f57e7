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

from jensen.hmm.emission import Emission, Expected, picked
from jensen.hmm.layout import missing_cells
from jensen.hmm.lognormal import features, log_normals
from jensen.hmm.products import flat, outer
from jensen.mixture.covariance import Covariance
from jensen.mixture.density import Density
from jensen.mixture.em import total
from jensen.mixture.normals import LOG_2PI
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
        joint = log_normals(self.density.normals, steps.double())
        if self.components == 1:
            return joint
        mixed = (joint.unflatten(1, (self.states, -1)) + self.log_weights[:, :, None]).logsumexp(2)
        return mixed - self.log_weights.logsumexp(1)[:, None]  # Σ c = 1 as it is stored

    def expect(self, steps: Tensor, share: Tensor) -> Statistics:
        """Statistics of the K·M normals."""
        steps = steps.double()
        if self.components > 1:
            joint = log_normals(self.density.normals, steps).unflatten(1, (self.states, -1))
            share = ((joint + self.log_weights[:, :, None]).softmax(2) * share[:, :, None]).flatten(1, 2)
        return total(self._parts(steps, share))

    def _parts(self, steps: Tensor, share: Tensor) -> Iterator[Statistics]:
        """Complete steps by products of matrices, others group by group; empty ones not at all."""
        missing = missing_cells(steps)
        if missing is None:
            yield self._complete(steps, share)
            return
        odd = missing.any(2)
        yield self._complete(steps.nan_to_num(nan=0.0), share * ~odd[:, None])
        places = odd & ~missing.all(2)
        x, shares = steps[places], share.transpose(1, 2)[places].T
        for index in self.density.normals.groups(x) if len(x) else ():
            yield self._incomplete(x[index], shares[:, index])

    def _complete(self, steps: Tensor, share: Tensor) -> Statistics:
        d = self.dims
        if self.covariance.diagonal:
            found = outer(share, features(steps, self._centre()[0]))
            return self._made(found[:, 2 * d], found[:, :d], found[:, d : 2 * d])
        offset = steps - self._centre()[0]
        first, x = outer(share, offset.mT), offset.flatten(0, 1).T.contiguous()
        second = torch.stack([(x * part) @ x.T for part in flat(share)])
        return self._made(share.sum((0, 2)), first, second)

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
