"""The control `jittered`: jittered copies, the generator that memorises.

It keeps training rows x_1 … x_n and draws one of them plus a little noise. What it draws looks perfect and nothing was
learned, so judging by looks is fooled; held-out log-likelihood is not. On real values, in standardised units,

    p(x) = (1/n) Σ_n N(x; x_n, h² I),

and on levels, mapped onto [-1, 1], every dimension is noise on the levels themselves, an exact mass:

    P(y) = (1/n) Σ_n ∏_d p(y_d | x_nd),   p(y | v) = exp(-(y - v)²/2h²) / Z(v),   Z(v) = Σ_{levels y} exp(-(y - v)²/2h²).

Both are a log-mean-exp of -‖y - x_n‖²/2h² minus a constant of the stored row, the squared distances by one matrix
product. With many rows and a width chosen on held-out data this would be a kernel density estimate (Parzen 1962); here
h is small on purpose. A training row that is kept scores as high as a test row scores low: the train - held-out gap
unmasks it.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from jensen.blocks import in_blocks
from jensen.data.codec import Affine, fit_codec
from jensen.data.examples import Split
from jensen.data.space import Levels, Space
from jensen.errors import InputError
from jensen.kernel_density.kernels import KERNELS
from jensen.kernel_density.levels import drawn, heights, normalisers
from jensen.likelihood import LogLikelihood
from jensen.models.model import (
    UNWATCHED,
    ClosedForm,
    DensityModel,
    OnCalls,
    Watch,
    nothing,
    sample_ids,
    sample_noise,
)
from jensen.noise import Noise
from jensen.rules import FINITE, Rule, Ruled, whole
from jensen.training.fitter import Rows

ROWS = 2000
MOST_CELLS = 1 << 27  # of all stored rows together: 1 GiB on the real line, half of that on levels
BLOCK, STORED_BLOCK, CELLS_AT_ONCE = 256, 2048, 1 << 22


class Jittered(ClosedForm, DensityModel, Ruled):
    """Training rows plus noise.

    Args:
        event_shape: of a row.
        space: of a row.
        scale: h, the noise's standard deviation: in standard deviations of a column for real values, in half ranges of
            the levels for levels.
        rows: how many training rows to keep, at most; which ones is a fixed choice by their ids.
    """

    summary = "jittered copies: stored training rows plus a little noise, the memoriser that must lose (a control)"
    paper = "Parzen 1962, undersmoothed"
    seeded = False
    stored: Tensor

    def __init__(self, event_shape: tuple[int, ...], space: Space, *, scale: float = 0.1, rows: int = ROWS) -> None:
        super().__init__(event_shape, space)
        dims = math.prod(event_shape)
        if not 1e-3 <= scale <= 1e3:
            raise InputError(f"scale, the standard deviation of the noise, must be from 0.001 to 1000, got {scale}")
        if not 1 <= rows <= max(1, MOST_CELLS // dims):
            raise InputError(
                f"rows must be from 1 to {max(1, MOST_CELLS // dims)} for rows of {dims} values, got {rows}"
            )
        self.scale = scale
        dtype = torch.float32 if isinstance(space, Levels) else torch.float64
        self.register_buffer("stored", torch.zeros(rows, dims, dtype=dtype))

    def rules(self) -> dict[str, Rule]:
        """Rows: numbers of levels, or real values."""
        return {"stored": whole(0, self.space.k - 1) if isinstance(self.space, Levels) else FINITE}

    @classmethod
    def codec(cls, split: Split) -> Affine:
        """Standardised, or levels onto [-1, 1], so that one scale means the same for all dimensions."""
        return fit_codec(split)

    @classmethod
    def resolve(cls, split: Split, space: Space, settings: Mapping[str, Any]) -> dict[str, Any]:
        """As many rows as there are, and as fit in memory where the number was not asked for."""
        fitting = max(1, MOST_CELLS // math.prod(split.event_shape))
        asked = settings.get("rows", min(ROWS, fitting))
        return {**settings, "rows": min(asked, len(split.train))}

    @torch.no_grad()
    def fit(self, train: Rows, valid: Rows | None = None, *, seed: int = 0, watch: Watch = UNWATCHED) -> None:
        """Keep the rows with the smallest random keys; a row's key depends on its id alone."""
        keys, noise = [], Noise(0, "jittered")
        for start in range(0, len(train), 4096):
            keys.append(noise.uniform(train.batch(slice(start, start + 4096)).id))
        chosen = torch.cat(keys).argsort()[: len(self.stored)].sort().values
        if len(chosen) < len(self.stored):
            raise InputError(f"rows must be at most the {len(chosen)} training rows there are, got {len(self.stored)}")
        for start in range(0, len(chosen), 1024):
            part = chosen[start : start + 1024]
            self.stored[start : start + 1024] = self._flat(train.batch(part).x)

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
        """log-mean-exp over the stored rows, exact."""
        flat = self._flat(x)
        value = in_blocks(self._block, self._at_once(BLOCK), flat)
        on_calls(len(x))
        return LogLikelihood(
            value=value,
            kind="exact",
            measure=self.space.measure,
            of=f"jittered copies of {len(self.stored)} training rows",
            method=self.method_or_default(method),
            event_shape=self.event_shape,
        )

    def _block(self, rows: Tensor) -> Tensor:
        """log p of a block of rows (`jensen.blocks`: the bits of a row do not depend on its company)."""
        rows, total = rows.double(), rows.new_full((len(rows),), -math.inf, dtype=torch.float64)
        for stored in self.stored.split(self._at_once(STORED_BLOCK)):
            kept = stored.double()
            exponent = -_squared_distances(rows, kept) / (2 * self._h**2) - self._log_normaliser(kept)
            total = torch.logaddexp(total, exponent.logsumexp(1))
        return total - math.log(len(self.stored))

    def sample(self, n: int, context: Tensor | None = None, seed: int = 0, *, start: int = 0) -> Tensor:
        """A stored row and noise: normal, or of the levels by their inverse distribution function."""
        ids, noise = sample_ids(n, start), sample_noise(seed)
        which = (noise.at("row").uniform(ids) * len(self.stored)).long().clamp(max=len(self.stored) - 1)
        centre, dims = self.stored[which].double(), self.stored.shape[1]
        if isinstance(self.space, Levels):
            levels = drawn(self._bump(), centre.long(), noise.at("noise").uniform(ids, (dims,)))
            return (self.space.first + self.space.step * levels.double()).reshape(n, *self.event_shape)
        return (centre + self._h * noise.at("noise").normal(ids, (dims,)).double()).reshape(n, *self.event_shape)

    def _flat(self, x: Tensor) -> Tensor:
        """Rows as they are stored: levels by their number, which float32 holds exactly."""
        flat = x.flatten(1)
        return self.space.index(flat.double()).float() if isinstance(self.space, Levels) else flat

    @property
    def _h(self) -> float:
        """The scale in units of what is stored."""
        return self.scale / self.space.step if isinstance(self.space, Levels) else self.scale

    def _log_normaliser(self, stored: Tensor) -> Tensor:
        """The logarithm of what each stored row's bumps sum or integrate to, `(n,)`."""
        if not isinstance(self.space, Levels):
            one = math.log(self._h) + 0.5 * math.log(2 * math.pi)
            return stored.new_full((len(stored),), stored.shape[1] * one)
        return normalisers(self._bump())[stored.long()].log().sum(1)

    def _bump(self) -> Tensor:
        """exp(-j²/2h²) for j = 0 … k-1."""
        assert isinstance(self.space, Levels)
        one = torch.tensor([self._h], dtype=torch.float64, device=self.stored.device)
        return heights(KERNELS["gaussian"], one, self.space.k)[0]

    def _at_once(self, most: int) -> int:
        """How many rows to hold in float64: fewer where they are large."""
        return max(1, min(most, CELLS_AT_ONCE // self.stored.shape[1]))


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """‖a_i - b_j‖² as ‖a‖² + ‖b‖² - 2 a·b; exact where the values are whole numbers."""
    return (a.square().sum(1)[:, None] + b.square().sum(1) - 2 * a @ b.T).clamp(min=0)
