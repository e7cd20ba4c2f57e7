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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from jensen.data.codec import Affine, fit_codec, refuse_constant
from jensen.data.examples import Split
from jensen.data.space import Levels, Real, Space
from jensen.errors import InputError, plural
from jensen.kernel_density import given
from jensen.kernel_density.bandwidth import Sample, best, floor, objective, scott, silverman
from jensen.kernel_density.kernels import KERNELS, Word
from jensen.kernel_density.levels import drawn, heights
from jensen.kernel_density.sums import Sums
from jensen.likelihood import LogLikelihood
from jensen.models.model import (
    UNWATCHED,
    ClosedForm,
    DensityModel,
    Imputer,
    OnCalls,
    Watch,
    nothing,
    row_ids,
    sample_ids,
    sample_noise,
)
from jensen.noise import Noise
from jensen.training.fitter import Rows

Rule = Literal["loo", "scott", "silverman"]
RULES = {"loo": best, "scott": scott, "silverman": silverman}
MOST_CELLS = 1 << 27  # of all stored rows together: 1 GiB on the real line, half of that on levels
MOST_LEVELS = 1 << 25  # dimensions × levels
MOST_CHOOSING, FEWEST_CHOOSING, CHOOSING_CELLS = 4096, 1024, 1 << 28  # rows that choose bandwidths
READ = 4096


class KernelDensity(ClosedForm, DensityModel, Imputer):
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
        model._set(model._flat(rows), weights.double(), bandwidths.double())
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
        kept = self._kept(train, watch)
        if isinstance(self.space, Real):
            kept = _merged(kept, watch)
        if len(kept.x) < 2 and isinstance(self.bandwidth, str):
            raise InputError(
                f"bandwidth {self.bandwidth} needs at least 2 different rows without missing cells, got {len(kept.x)}; "
                "give more rows, or a number"
            )
        chosen = self._chosen(kept, watch)
        self._set(kept.x, kept.weight, chosen)

    def _kept(self, train: Rows, watch: Watch) -> "_Kept":
        """The rows with the smallest random keys, which depend on ids alone, of those that are complete and count."""
        keys, noise, holes = [], Noise(0, "kde"), 0
        for batch in _batches(train):
            x = batch.x.flatten(1)
            if bool(x.isinf().any()):
                raise InputError("a value is infinite; densities need finite values: remove or replace such rows")
            weight = torch.ones(len(x)) if batch.weight is None else batch.weight.cpu()
            if not bool(((weight >= 0) & weight.isfinite()).all()):
                raise InputError("weights must be finite and at least 0; drop or mend such rows")
            missing = x.isnan().any(1).cpu()
            holes += int(missing.sum())
            keys.append(noise.uniform(batch.id).masked_fill_(missing | (weight == 0), math.inf))
        key = torch.cat(keys)
        if holes:
            watch.say(
                f"{holes} training {plural('row', holes)} with missing cells left out: such a row has no place for its bump"
            )
        order = key.argsort(stable=True)[: min(self.most_rows, int(key.isfinite().sum()))].sort().values
        if not len(order):
            raise InputError("no training row is complete and has a weight; fill missing cells first, or fit gmm")
        parts = [train.batch(rows) for rows in order.split(READ)]
        weights = [torch.ones(len(b.x)) if b.weight is None else b.weight.cpu() for b in parts]
        x = torch.cat([self._flat(b.x.flatten(1)) for b in parts])
        return _Kept(x, torch.cat(weights).double().to(x.device), torch.cat([b.id for b in parts]))

    def _chosen(self, kept: "_Kept", watch: Watch) -> Tensor:
        """The bandwidths, and what there is to say about them."""
        if isinstance(self.space, Real):
            mean = kept.weight @ kept.x / kept.weight.sum()
            deviation = (kept.weight @ (kept.x - mean).square() / kept.weight.sum()).sqrt()
            if len(kept.x) > 1:
                refuse_constant(mean.reshape(self.event_shape), deviation.reshape(self.event_shape))
        if not isinstance(self.bandwidth, str):
            self.fit_report = {"rows": len(kept.x), "converged": True}
            return torch.full((self.dims,), float(self.bandwidth), dtype=torch.float64)
        sample, factor = self._sample(kept)
        h = RULES[self.bandwidth](sample, self.kernel)
        narrow = (h <= floor(sample, self.kernel) * (1 + 1e-9)).nonzero()[:, 0]
        value = objective(sample, h, self.kernel)
        unit = "levels" if isinstance(self.space, Levels) else "standard deviations"
        some = f" on {len(sample.rows)} of {len(kept.x)} rows, narrowed by {factor:.3g}" if factor < 1 else ""
        watch.say(
            f"bandwidths by {self.bandwidth}{some}: {float(h.min() * factor):.3g} to {float(h.max() * factor):.3g} "
            f"{unit}; left out, a row has {value:.4f} nats"
        )
        if len(narrow):
            watch.say(_narrow(narrow, isinstance(self.space, Levels)))
        self.fit_report = {
            "rows": len(kept.x),
            "choosing_rows": len(sample.rows),
            "left_out": value if math.isfinite(value) else None,
            "at_floor": len(narrow),
            "converged": True,
        }
        return h * factor

    def _sample(self, kept: "_Kept") -> tuple[Sample, float]:
        """Rows enough to choose bandwidths by, a fixed choice by their ids; and what more rows narrow them by."""
        most = min(MOST_CHOOSING, max(FEWEST_CHOOSING, math.isqrt(CHOOSING_CELLS // self.dims)))
        at = Noise(0, "kde", "bandwidth").uniform(kept.id).argsort(stable=True)[:most].sort().values
        k = self.space.k if isinstance(self.space, Levels) else None
        weight = kept.weight.cpu()
        rows = kept.x.cpu()[at].double()
        sample = Sample(rows, weight[at] / weight[at].sum(), k)
        whole = float(weight.sum() ** 2 / weight.square().sum())
        return sample, min(1.0, (whole / sample.effective) ** (-1 / (self.dims + 4)))

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
            self._sums = (key, Sums(*now, self.kernel, self.space.k if isinstance(self.space, Levels) else None))
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
        value = self.sums(self._flat(x.flatten(1)).double())
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
        cumulative = self.log_weights.exp().cumsum(0)
        u = noise.at("row").uniform(ids).to(cumulative) * cumulative[-1]
        which = torch.searchsorted(cumulative, u, right=True).clamp(max=len(cumulative) - 1)
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
        flat, sums = self._flat(x.flatten(1)).double(), self.sums
        missing = flat.isnan()
        given_as = x.flatten(1).double()
        if draws is None:
            filled = given.mean(sums, flat)
            if isinstance(self.space, Levels):
                filled = self.space.first + self.space.step * filled
            return torch.where(missing, filled, given_as).reshape(x.shape)
        if draws < 1:
            raise InputError(f"the number of draws must be at least 1, got {draws}")
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
        columns = sorted(values)
        if any(not 0 <= c < self.dims for c in columns) or not columns or len(columns) == self.dims:
            raise InputError(f"columns must be some but not all of 0 … {self.dims - 1}, got {columns}")
        row = torch.full((1, self.dims), math.nan, dtype=torch.float64, device=self.device)
        for column in columns:
            row[0, column] = float(values[column])
        if int(row.isfinite().sum()) != len(columns):
            raise InputError(f"values must be finite numbers, got {dict(values)}")
        row, sums = self._flat(row), self.sums
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

    def _flat(self, x: Tensor) -> Tensor:
        """Rows `(B, d)` as they are stored: levels by their number; NaN stays NaN."""
        if not isinstance(self.space, Levels):
            return x
        return self.space.index(x.double()).float().masked_fill_(x.isnan(), math.nan)


@dataclass(frozen=True)
class _Kept:
    """Rows `(n, d)` as they are stored, with weights and ids."""

    x: Tensor
    weight: Tensor
    id: Tensor


def _merged(kept: _Kept, watch: Watch) -> _Kept:
    """Equal rows as one, with their weights added and the smallest of their ids: the density is the same."""
    x, which = torch.unique(kept.x.double(), dim=0, return_inverse=True)
    again = len(kept.x) - len(x)
    if again:
        watch.say(
            f"{again} training {plural('row', again)} equal to another: kept as one row of their total weight, so that "
            "they are left out together; one alone would be found again with infinite density"
        )
    weight = kept.weight.new_zeros(len(x)).index_add_(0, which, kept.weight)
    smallest = kept.id.new_full((len(x),), torch.iinfo(torch.int64).max).scatter_reduce_(
        0, which.cpu(), kept.id, "amin"
    )
    return _Kept(x, weight, smallest)


def _narrow(columns: Tensor, levels: bool) -> str:
    """What it means that bandwidths are as narrow as they may be."""
    listed = ", ".join(str(int(c) + 1) for c in columns[:8]) + (", …" if len(columns) > 8 else "")
    why = "nearly always the same level" if levels else "values repeat, so narrower bumps would fit their rounding"
    return f"{plural('dimension', len(columns))} {listed} (counted from 1) at the narrowest bandwidth allowed: {why}"


def _batches(train: Rows) -> Iterator[Any]:
    return (train.batch(slice(i, i + READ)) for i in range(0, len(train), READ))
