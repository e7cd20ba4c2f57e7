"""What people do with codes: encode, reconstruct, walk between rows, along a direction, over the plane.

Two things that are often mixed up (note 4): a **reconstruction** starts at a row, x → E[z | x] → E[x | z], and says how much of x the code
holds; **generation** starts at z ~ p(z) and draws x from p(x | z), which is `Pipeline.sample`. What is shown of a code here is the mean
row E[x | z], in data units: between levels, where these are what the data are.

    linear       z(t) = (1 - t) a + t b
    spherical    the direction turns at a constant rate from a's to b's, the length goes from ‖a‖ to ‖b‖ (White 2016, "Sampling generative
                 networks"): most of a normal in many dimensions lies in a shell of radius √d, and a straight line cuts through its inside
    quantiles    z of the plane at the quantiles of an even grid, Φ⁻¹ of it where p(z) = N(0, I), so that each holds as much of p(z) as any
                 other: what a complete code decodes. Of a model without p(z) they are of the law that `sample` takes in its place
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from jensen.data.space import Levels
from jensen.errors import InputError
from jensen.models.dequantised import Dequantised
from jensen.models.model import ClassGiven, Encoder

if TYPE_CHECKING:
    from jensen.models.pipeline import Data, Pipeline

BATCH = 512
Row = Tensor | np.ndarray[Any, Any]


class Latents:
    """The codes of a pipeline's model, in data units on the side of rows.

    Args:
        pipeline: whose model is an `Encoder`.

    Raises:
        InputError: it is none.
    """

    def __init__(self, pipeline: "Pipeline") -> None:
        model = pipeline.model
        inner = model.model if isinstance(model, Dequantised) else model
        if not isinstance(inner, Encoder):
            word = pipeline.config["model"]["word"]
            raise InputError(f"a {word!r} model has no code for a row; vae, ppca and autoencoder have one")
        if isinstance(inner, ClassGiven):
            raise InputError(
                "the codes of a model of given classes are those of one class each, which is not offered; fit it without n_classes"
            )
        self.pipeline, self.encoder = pipeline, inner
        self.offset = 0.5 * model.levels.step if isinstance(model, Dequantised) else 0.0  # the middle of a level's cell

    @property
    def dims(self) -> int:
        """How many numbers a code has."""
        return self.encoder.latent_dim

    def encode(self, data: "Data") -> Float[Tensor, "B D"]:
        """The code of each row, float64: E[z | x] where z is drawn.

        Args:
            data: rows in data units.
        """
        rows = self.pipeline.encoded(data)
        starts = range(0, len(rows), BATCH)
        parts = [self.encoder.encode(rows.batch(slice(i, i + BATCH)).x + self.offset) for i in starts]
        return torch.cat(parts).double().cpu()

    def decode(self, z: Float[Tensor, "B D"] | Float[np.ndarray, "B D"]) -> Float[Tensor, "B *event"]:
        """The mean row E[x | z] of each code in data units, float64; on levels within their ends, and not one of them."""
        z = torch.as_tensor(z).double()
        if z.ndim != 2 or z.shape[1] != self.dims:
            raise InputError(f"codes must have shape (rows, {self.dims}), got {tuple(z.shape)}")
        device = self.pipeline.model.device
        parts = [self.encoder.decode(part.to(device)) - self.offset for part in z.split(BATCH)]
        x = self.pipeline.codec.decode(torch.cat(parts).cpu())
        space = self.pipeline.space
        return x.clamp(0, space.k - 1) if isinstance(space, Levels) else x

    def reconstruct(self, data: "Data") -> Float[Tensor, "B *event"]:
        """E[x | E[z | x]] of each row."""
        return self.decode(self.encode(data))

    def interpolate(
        self, first: Row, last: Row, steps: int = 8, *, kind: str = "linear"
    ) -> Float[Tensor, "steps *event"]:
        """The mean rows on the way from one row to another, both reconstructed.

        Args:
            first: a row `(*event)` in data units.
            last: another.
            steps: how many, both ends among them.
            kind: linear or spherical.
        """
        (a,), (b,) = self.encode(torch.as_tensor(first)[None]), self.encode(torch.as_tensor(last)[None])
        return self.decode(path(a, b, steps, kind=kind))

    def traverse(
        self, row: Row, dim: int, values: Float[Tensor, " n"] | Float[np.ndarray, " n"] | Sequence[float]
    ) -> Float[Tensor, "n *event"]:
        """The mean rows where one number of a row's code takes other values."""
        if not 0 <= dim < self.dims:
            raise InputError(f"dim must be from 0 to {self.dims - 1}, got {dim}")
        z = self.encode(torch.as_tensor(row)[None]).repeat(len(values), 1)
        z[:, dim] = torch.as_tensor(values, dtype=torch.float64)
        return self.decode(z)

    def plane(self, codes: Float[Tensor, "B D"], side: int = 12) -> tuple[Float[Tensor, "n *event"], list[int]]:
        """Mean rows on a `side` × `side` grid of quantiles of what z is drawn from, in the two numbers whose variation over codes has most effect, the
        others at their medians; and which those are, in their order, so that of a code of two numbers it lies as the map does: the first
        grows to the right, the second upwards.
        """
        dims = sorted(most_varied(codes * self.encoder.code_effects(), 2))
        p = (torch.arange(side, dtype=torch.float64) + 0.5) / side
        q = self.encoder.code_quantiles(p)
        z = self.encoder.code_quantiles(p.new_tensor([0.5])).repeat(side * side, 1)
        z[:, dims[0]] = q[:, dims[0]].repeat(side)
        if len(dims) > 1:
            z[:, dims[1]] = q[:, dims[1]].flip(0).repeat_interleave(side)
        return self.decode(z), dims


def most_varied(codes: Float[Tensor, "B D"], count: int) -> list[int]:
    """The numbers of a code that vary most over rows, most first."""
    return codes.var(0).argsort(descending=True)[:count].tolist()


def active_units(codes: Float[Tensor, "B D"], least: float = 0.01) -> int:
    """How many numbers of the code depend on the row: Var E[z_d | x] > 0.01 (Burda et al. 2016, section 5.1)."""
    return int((codes.var(0) > least).sum())


def path(a: Float[Tensor, " D"], b: Float[Tensor, " D"], steps: int, *, kind: str = "linear") -> Float[Tensor, "n D"]:
    """Codes from a to b, both included.

    Args:
        a: one end.
        b: the other.
        steps: how many, at least 2.
        kind: linear or spherical; of ends in one direction or in opposite ones, or one of them 0, the two are the same.

    Example:
        >>> path(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]), 3, kind="spherical")[1].tolist()
        [0.7071067690849304, 0.7071067690849304]
    """
    check_kind(kind)
    if not isinstance(steps, int) or steps < 2:
        raise InputError(f"steps must be a whole number of at least 2, both ends among them, got {steps}")
    t = torch.linspace(0, 1, steps, dtype=a.dtype)[:, None]
    straight = (1 - t) * a + t * b
    lengths = a.norm(), b.norm()
    if kind == "linear" or min(lengths) == 0:
        return straight
    u, v = a / lengths[0], b / lengths[1]
    angle = 2 * torch.atan2((u - v).norm(), (u + v).norm())  # exact near 0 and π too, where acos is not
    if float(angle.sin()) < math.sqrt(torch.finfo(a.dtype).eps):
        return straight
    direction = (((1 - t) * angle).sin() * u + (t * angle).sin() * v) / angle.sin()
    return torch.cat([a[None], (((1 - t) * lengths[0] + t * lengths[1]) * direction)[1:-1], b[None]])


def check_kind(kind: str) -> None:
    """Refuse a way that is none."""
    if kind not in ("linear", "spherical"):
        raise InputError(f"kind must be linear or spherical, got {kind!r}")
