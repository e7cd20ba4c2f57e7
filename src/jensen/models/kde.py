"""Kernel density estimation: a bump around every training row.

    p(x) = Σ_n w_n ∏_d k((x_d - x_nd)/h_d) / Z_nd

a density on real values, where Z = h_d ∫k, and an exact mass on levels, where Z sums k over the levels (`kernel_density`).
It learns nothing but one bandwidth h_d for each dimension, the h of the largest leave-one-out likelihood, and keeps the
rows. With more rows it comes as near as one likes to any density, but slowly: the error falls as n^(-4/(d+4)) (Stone
1980), so it is a model for a few dimensions. (Parzen 1962, "On estimation of a probability density function and mode";
Rosenblatt 1956.)

The log-likelihood of a *training* row is flattered, since its own bump is centred on it; `fit_report["left_out"]` holds
the honest one, where it is left out. A row with a missing cell can be scored, by the exact marginal; it cannot be kept,
since a bump around it has no place in that dimension, and the fit leaves it out and says so.
"""

import math
from collections.abc import Mapping
from typing import Any, get_args

import torch
from torch import Tensor

from jensen.data.codec import Affine, fit_codec, refuse_constant
from jensen.data.examples import Split
from jensen.data.missing import check_draws, row_knowing
from jensen.data.space import Levels, Real, Space
from jensen.distributions.picking import picked
from jensen.errors import InputError, plural
from jensen.kernel_density import given
from jensen.kernel_density.choice import RULES, chosen
from jensen.kernel_density.choice import Rule as Rule
from jensen.kernel_density.kept import Kept, as_stored, kept, merged
from jensen.kernel_density.kernels import KERNELS, Word
from jensen.kernel_density.levels import drawn, heights
from jensen.kernel_density.sums import FARTHEST, Sums
from jensen.likelihood import LogLikelihood
from jensen.models.model import (
    UNWATCHED,
    ClosedForm,
    Conditioner,
    DensityModel,
    OnCalls,
    Watch,
    nothing,
    row_ids,
    sample_ids,
    sample_noise,
)
from jensen.noise import Noise
from jensen.rules import FINITE, POSITIVE, Ruled, log_probabilities, whole
from jensen.rules import Rule as TensorRule
from jensen.training.fitter import Rows

MOST_CELLS = 1 << 27  # of all stored rows together: 1 GiB on the real line, half of that on levels
MOST_LEVELS = 1 << 25  # dimensions × levels
NEAR = f"within {FARTHEST:g} bandwidths of 0"


class KernelDensity(ClosedForm, DensityModel, Conditioner, Ruled):
    """A bump around every row.

    Args:
        event_shape: of a row; images are flattened.
        space: of a row.
        kernel: gaussian, or epanechnikov (a product of parabolas, which end: -∞ where no row is near).
        bandwidth: loo, the largest leave-one-out likelihood, one h a dimension; scott or silverman, rules for a normal; or
            a number, the same h for all dimensions, in standard deviations of a column (of a channel, for images) on real
            values and in levels on levels.
        rows: how many training rows to keep, at most; which ones is a fixed choice by their ids. None for all that fit
            into memory.

    Example:
        >>> import torch
        >>> model = KernelDensity.from_rows(torch.tensor([[0.0], [2.0]]), torch.tensor([1.0]))
        >>> float(model.log_likelihood(torch.tensor([[1.0]])).value.exp() * (2 * torch.pi) ** 0.5) == math.exp(-0.5)
        True
    """

    summary = "kernel density estimation: a bump around every training row, exact; an exact mass on levels"
    paper = "Rosenblatt 1956; Parzen 1962; leave-one-out bandwidths, Duin 1976"
    accepts_missing = True
    seeded = False
    stored: Tensor
    log_weights: Tensor
    bandwidths: Tensor

    def __init__(
        self,
        event_shape: tuple[int, ...],
        space: Space,
        *,
        kernel: Word = "gaussian",
        bandwidth: float | Rule = "loo",
        rows: int | None = None,
    ) -> None:
        super().__init__(event_shape, space)
        self.dims = math.prod(event_shape)
        if kernel not in get_args(Word):
            raise InputError(f"kernel must be one of {', '.join(get_args(Word))}, got {kernel!r}")
        if not (bandwidth in RULES if isinstance(bandwidth, str) else 1e-3 <= bandwidth <= 1e3):
            raise InputError(f"bandwidth must be {', '.join(RULES)} or a number from 0.001 to 1000, got {bandwidth!r}")
        most = max(1, MOST_CELLS // self.dims)
        if rows is not None and not 1 <= rows <= most:
            raise InputError(f"rows must be from 1 to {most} for rows of {self.dims} values, got {rows}")
        if isinstance(space, Levels) and self.dims * space.k > MOST_LEVELS:
            raise InputError(
                f"bumps on {space.k} levels in {self.dims} dimensions do not fit in memory; resize the data or use fewer levels"
            )
        self.word, self.bandwidth, self.kernel = kernel, bandwidth, KERNELS[kernel]
        self.most_rows = most if rows is None else rows
        self.fit_report: dict[str, Any] = {}
        self._sums: tuple[Any, Sums] | None = None
        self.register_buffer("bandwidths", torch.ones(self.dims, dtype=torch.float64))
        self._allocate(rows or 1)

    def _allocate(self, rows: int) -> None:
        """Room for so many rows: levels by their number, which float32 holds exactly."""
        dtype = torch.float32 if isinstance(self.space, Levels) else torch.float64
        self.register_buffer("stored", torch.zeros(rows, self.dims, dtype=dtype))
        self.register_buffer("log_weights", torch.full((rows,), -math.log(rows), dtype=torch.float64))

    def rules(self) -> dict[str, TensorRule]:
        """Rows with their weights, none of them 0, and bandwidths beside which no row is out of sight."""
        rows = whole(0, self.space.k - 1) if isinstance(self.space, Levels) else FINITE & TensorRule(NEAR, self._far)
        return {
            "bandwidths": POSITIVE,
            "stored": rows,
            "log_weights": FINITE & log_probabilities(len(self.log_weights)),
        }

    def _far(self, stored: Tensor) -> str | None:
        """A column whose values are beyond what a sum of bumps can tell apart from infinity."""
        low, high = torch.aminmax(stored, dim=0)
        far = (torch.maximum(-low, high) / self.bandwidths > FARTHEST).nonzero()[:, 0]
        return f"column {int(far[0])}, which is not" if len(far) else None

    @classmethod
    def codec(cls, split: Split) -> Affine:
        """Standardised, or levels onto [-1, 1]."""
        return fit_codec(split)

    @classmethod
    def resolve(cls, split: Split, space: Space, settings: Mapping[str, Any]) -> dict[str, Any]:
        """As many rows as there are, and as fit in memory where the number was not asked for."""
        asked = settings.get("rows")
        most = max(1, MOST_CELLS // math.prod(split.event_shape)) if asked is None else asked
        return {**settings, "rows": min(most, len(split.train))}

    @classmethod
    def from_rows(
        cls,
        rows: Tensor,
        bandwidths: Tensor,
        weights: Tensor | None = None,
        *,
        kernel: Word = "gaussian",
        space: Space | None = None,
    ) -> "KernelDensity":
        """Bumps around given rows; it samples and scores with no fit, in their units.

        Args:
            rows: `(n, d)`.
            bandwidths: `(d,)`, in the units of the rows, or in levels.
            weights: `(n,)` positive; divided by their sum. None for equal ones.
            kernel: the shape of a bump.
            space: of the rows; Real if None.

        Raises:
            InputError: shapes that do not belong together, a bandwidth or weight that is not positive and finite.
        """
        weights = torch.ones(len(rows)) if weights is None else weights
        if rows.ndim != 2 or bandwidths.shape != rows.shape[1:] or weights.shape != rows.shape[:1]:
            got = ", ".join(str(tuple(t.shape)) for t in (rows, bandwidths, weights))
            raise InputError(f"rows must be (n, d), bandwidths (d,) and weights (n,), got {got}")
        for name, values in (("bandwidths", bandwidths), ("weights", weights)):
            if not bool(((values > 0) & values.isfinite()).all()):
                raise InputError(f"{name} must be positive and finite, got {values.tolist()}")
        model = cls((rows.shape[1],), space or Real(), kernel=kernel, rows=len(rows))
        model._set(as_stored(rows, model.space), weights.double(), bandwidths.double())
        return model

    def _set(self, stored: Tensor, weights: Tensor, bandwidths: Tensor) -> None:
        device = self.device
        self._allocate(len(stored))
        self.to(device)
        self.stored.copy_(stored)
        self.log_weights.copy_((weights / weights.sum()).log())
        self.bandwidths.copy_(bandwidths)

    @torch.no_grad()
    def fit(self, train: Rows, valid: Rows | None = None, *, seed: int = 0, watch: Watch = UNWATCHED) -> None:
        """Keep rows and choose bandwidths; `fit_report` says which.

        Args:
            train: rows in the model's units, with weights if they have any.
            valid: not looked at.
            seed: nothing is drawn.
            watch: told which rows are left out, and what was chosen.

        Raises:
            InputError: no two different complete rows, an infinite value, a constant column of real values.
        """
        rows = kept(train, self.most_rows, self.space, watch.say)
        if isinstance(self.space, Real):
            rows = merged(rows, watch.say)
            self._refuse_constant(rows)
        if not isinstance(self.bandwidth, str):
            self.fit_report = {"rows": len(rows.x), "converged": True}
            h = torch.full((self.dims,), float(self.bandwidth), dtype=torch.float64)
        elif len(rows.x) < 2:
            raise InputError(
                f"bandwidth {self.bandwidth} needs at least 2 different rows without missing cells, got {len(rows.x)}; "
                "give more rows, or a number"
            )
        else:
            h, self.fit_report = chosen(rows, self.bandwidth, self.kernel, self._levels, watch.say)
        self._set(rows.x, rows.weight, h)

    def _refuse_constant(self, rows: Kept) -> None:
        """A column of one value has no bandwidth; a single row is another mistake, or none."""
        if len(rows.x) > 1:
            mean = rows.weight @ rows.x / rows.weight.sum()
            deviation = (rows.weight @ (rows.x - mean).square() / rows.weight.sum()).sqrt()
            refuse_constant(mean.reshape(self.event_shape), deviation.reshape(self.event_shape))

    @property
    def _levels(self) -> int | None:
        return self.space.k if isinstance(self.space, Levels) else None

    def resolved(self) -> dict[str, Any]:
        """How many rows are kept."""
        return {"rows": len(self.stored)}

    def report(self) -> dict[str, Any]:
        """Rows kept, and the leave-one-out log-likelihood a row, nats in the model's units."""
        return self.fit_report

    @property
    def sums(self) -> Sums:
        """The bumps ready to be evaluated; made again when a buffer has changed."""
        now = (self.stored, self.log_weights, self.bandwidths)
        key = tuple((t.data_ptr(), t._version) for t in now)
        if self._sums is None or self._sums[0] != key:
            self._sums = (key, Sums(*now, self.kernel, self._levels))
        return self._sums[1]

    @torch.no_grad()
    def log_likelihood(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        method: str | None = None,
        ids: Tensor | None = None,
        seed: int = 0,
        on_calls: OnCalls = nothing,
        **plan: Any,
    ) -> LogLikelihood:
        """log p of the observed cells of each row, exact; optimistic for rows that were fitted to."""
        value = self.sums(as_stored(x.flatten(1), self.space).double())
        on_calls(len(x))
        return LogLikelihood(
            value=value,
            kind="exact",
            measure=self.space.measure,
            of=f"{self.word} bumps around {len(self.stored)} training {plural('row', len(self.stored))}",
            method=self.method_or_default(method),
            event_shape=self.event_shape,
        )

    @torch.no_grad()
    def sample(self, n: int, context: Tensor | None = None, seed: int = 0, *, start: int = 0) -> Tensor:
        """A stored row by its weight, and a draw of its bump."""
        ids, noise = sample_ids(n, start), sample_noise(seed)
        which = picked(self.log_weights.exp(), noise.at("row").uniform(ids))
        return self._bumps(which, ids, noise.at("noise")).reshape(n, *self.event_shape)

    def _bumps(self, which: Tensor, ids: Tensor, noise: Noise) -> Tensor:
        """A draw from the bump of each of these stored rows, in the model's units."""
        centre, space = self.stored[which], self.space
        if not isinstance(space, Levels):
            return centre + self.bandwidths * self.kernel.draw(noise, ids, self.dims).to(centre)
        u, bump = noise.uniform(ids, (self.dims,)).to(centre.device), heights(self.kernel, self.bandwidths, space.k)
        columns = [drawn(b, c.long(), v) for b, c, v in zip(bump, centre.T, u.T, strict=True)]
        return space.first + space.step * torch.stack(columns, 1).double()

    @torch.no_grad()
    def impute(self, x: Tensor, draws: int | None = None, *, ids: Tensor | None = None, seed: int = 0) -> Tensor:
        """Stored rows weighed by how near their observed cells are: exact mean, exact draws. A row whose observed cells
        are impossible (out of reach of every bump) keeps NaN.
        """
        check_draws(draws)
        flat, sums = as_stored(x.flatten(1), self.space).double(), self.sums
        missing = flat.isnan()
        given_as = x.flatten(1).double()
        if draws is None:
            filled = given.mean(sums, flat)
            if isinstance(self.space, Levels):
                filled = self.space.first + self.space.step * filled
            return torch.where(missing, filled, given_as).reshape(x.shape)
        ids, noise, parts = row_ids(x, ids), Noise(seed, "impute"), []
        u = torch.stack([noise.at(number, "row").uniform(ids) for number in range(draws)], 1)
        for number, which in enumerate(given.pick(sums, flat, u.to(flat)).T):
            filled = self._bumps(which.clamp(min=0), ids, noise.at(number)).masked_fill_((which < 0)[:, None], math.nan)
            parts.append(torch.where(missing, filled, given_as).reshape(x.shape))
        return torch.stack(parts)

    @torch.no_grad()
    def conditional(self, values: Mapping[int, float]) -> "KernelDensity":
        """p(the other columns | these columns): the same bumps in the columns that are left, other weights; exact.

        Args:
            values: column number → value, in the model's units; columns of the flattened row.

        Returns:
            A kernel density of the columns that are left, in their order. Rows whose weight would be 0 are not kept.
        """
        row, sums = as_stored(row_knowing(values, self.dims)[None].to(self.device), self.space), self.sums
        log_total = sums(row)
        if not bool(log_total.isfinite()):
            raise InputError(f"values {dict(values)} are impossible: no row is within reach of the {self.word} kernel")
        parts = [sums.exponents(leaf, sums.in_bandwidths(row))[0] for leaf in range(len(sums.leaves))]
        weights = (torch.cat(parts) - log_total).exp()
        left, at = [c for c in range(self.dims) if c not in values], weights.nonzero()[:, 0]
        rows = self.stored[sums.leaves.order[at]][:, left]
        model = KernelDensity((len(left),), self.space, kernel=self.word, bandwidth=self.bandwidth, rows=len(at))
        model._set(rows, weights[at], self.bandwidths[left])
        return model
