"""Where to start an integral: edges of boxes that no part of either law can hide between.

Around the middle of every component stand edges at a few multiples of its spread; over the whole go edges that double
their distance, out to 2⁶⁰ spreads on the line and 2¹² in the plane, so that a tail like 1/x² on the line is followed down to rounding. The ends of the supports
are edges too. In the plane the boxes are turned into the axes of the pooled covariance, unless a support has ends.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor
from torch.distributions import Distribution, Independent, MixtureSameFamily

from jensen.distributions.density import innermost, support_of
from jensen.distributions.precision import draw
from jensen.noise import Noise

DRAWS = 256
OCTAVES = {1: 60, 2: 12}
NEAR = torch.tensor([0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0], dtype=torch.float64)
NEAR_2D = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64)
MOST_COMPONENTS = {1: 64, 2: 4}


@dataclass(frozen=True)
class Boxes:
    """Boxes `(n, d)` in coordinates y, with x = centre + axes y, and how far from 0 the last two octaves begin."""

    low: Float64[Tensor, "n d"]
    high: Float64[Tensor, "n d"]
    centre: Float64[Tensor, " d"]
    axes: Float64[Tensor, "d d"]
    octaves: tuple[float, float]

    @property
    def dims(self) -> int:
        """1 or 2."""
        return self.low.shape[1]

    def x(self, y: Float64[Tensor, "m d"]) -> Float64[Tensor, "m d"]:
        """The points x of y."""
        return self.centre + y @ self.axes.T

    @property
    def volume(self) -> float:
        """Of one unit box of y in x."""
        return float(self.axes.det().abs())


def boxes_for(*laws: Distribution) -> Boxes:
    """Boxes over all that the laws may reach, in one or two dimensions."""
    dims = laws[0].event_shape.numel()
    groups = [_components(d) for d in laws]
    bounds = [_bounds(d) for d in laws]
    low = torch.cat([low for low, _ in bounds]).min(0).values
    high = torch.cat([high for _, high in bounds]).max(0).values
    inner = torch.cat(
        [low.new_zeros(0, dims), *(end for pair in bounds for end in pair if len(end) <= MOST_COMPONENTS[1])]
    )
    centre, axes = _frame(
        torch.cat([g.flatten(0, 1) for g in groups]), turned=dims > 1 and not bool(inner.isfinite().any())
    )
    inverse = torch.linalg.inv(axes)
    if dims > 1 and not bool(inner.isfinite().any()):
        inner, low, high = inner[:0], torch.full_like(low, -math.inf), torch.full_like(high, math.inf)
    spread = [(group - centre) @ inverse.T for group in groups]
    columns = []
    for axis in range(dims):
        inside, lowest, highest = (
            (end[..., axis] - centre[axis]) / axes[axis, axis].abs() for end in (inner, low, high)
        )
        columns.append(_column([g[..., axis] for g in spread], inside, lowest, highest, dims))
    lows, highs = (
        torch.cartesian_prod(*ends).reshape(-1, dims) for ends in zip(*[(c[:-1], c[1:]) for c in columns], strict=True)
    )
    octaves = (float(2.0 ** (OCTAVES[dims] - 2)), float(2.0 ** (OCTAVES[dims] - 1)))
    return Boxes(lows, highs, centre, axes, octaves)


def _frame(pooled: Tensor, *, turned: bool) -> tuple[Tensor, Tensor]:
    """The median, and axes: of the covariance if turned, else the columns' own, each as long as the draws reach."""
    centre = pooled.median(0).values
    if turned:
        values, vectors = torch.linalg.eigh(torch.cov(pooled.T))
        return centre, vectors * values.clamp(min=1e-300).sqrt()
    reach = (pooled - centre).abs().quantile(0.95, dim=0)
    return centre, torch.diag(torch.where(reach > 0, reach, 1.0))


def _column(groups: list[Tensor], inner: Tensor, low: Tensor, high: Tensor, dims: int) -> Tensor:
    """The edges along one axis, rising: a few around each component, octaves, and the ends of the supports."""
    octave = 2.0 ** torch.arange(0 if dims == 1 else -1, OCTAVES[dims] + 1, dtype=torch.float64)
    edges = [torch.zeros(1, dtype=torch.float64), octave, -octave, inner]
    for group in groups:  # (draws, components)
        if group.shape[1] <= MOST_COMPONENTS[dims]:
            quarter, middle, three = group.quantile(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64), dim=0)
            steps = (three - quarter)[:, None] * (NEAR if dims == 1 else NEAR_2D)
            edges += [(middle[:, None] + steps).flatten(), (middle[:, None] - steps).flatten()]
    together = torch.cat(edges)
    together = together[together.isfinite()].clamp(
        max(float(low), -float(octave[-1])), min(float(high), float(octave[-1]))
    )
    return together.unique()


def _components(d: Distribution) -> Tensor:
    """Draws of each component `(draws, k, d)`."""
    noise = Noise(0, "where to integrate")
    if isinstance(d, MixtureSameFamily):
        x = draw(d.component_distribution, DRAWS, noise)
        return x.double().reshape(DRAWS, x.shape[1], -1)
    return draw(d, DRAWS, noise).double().reshape(DRAWS, 1, -1)


def _bounds(d: Distribution, members: int = 1) -> tuple[Tensor, Tensor]:
    """The ends of the support of each component along each column, `(k, d)` twice; infinite where there are none."""
    if isinstance(d, MixtureSameFamily):
        return _bounds(d.component_distribution, d.component_distribution.batch_shape[0])
    inner: Distribution = d.base_dist if isinstance(d, Independent) else d
    shape = inner.batch_shape + inner.event_shape
    low = getattr(support_of(inner), "lower_bound", -math.inf)
    high = getattr(support_of(inner), "upper_bound", math.inf)
    low, high = (torch.as_tensor(end).double().expand(shape).reshape(members, -1) for end in (low, high))
    return low, high


def is_box(d: Distribution) -> bool:
    """Whether its values fill a box, so that boxes of x can be integrated: not so for a simplex or a matrix."""
    support = innermost(d)
    return len(d.event_shape) <= 1 and d.event_shape.numel() in OCTAVES and support.event_dim == 0
