"""Pictures of codes.

map            where rows lie: the code itself if it has two numbers, else along the first two principal axes of the codes
units          how much each number of the code is used
reconstruct    rows above what is left of them: x → E[z | x] → E[x | z]
interpolate    the way from one row to another
traverse       one number of a code taking other values, a line each for those that vary most
plane          quantiles of p(z) in the two that vary most, decoded: a complete code has a row at each
samples        z ~ p(z), x ~ p(x | z): generation, which starts at no row

Images are drawn as a sheet, vectors as groups of dots.
"""

import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import Tensor

from jensen.data.examples import Examples
from jensen.data.space import Levels
from jensen.errors import InputError, did_you_mean
from jensen.evaluation.charts import curve_figure
from jensen.evaluation.figures import LIGHT, Theme, headline, save_figure
from jensen.evaluation.images import Range, finite_range, is_image, save_grid
from jensen.evaluation.vectors import by_class, name_medians, vectors_figure
from jensen.models.latents import active_units, most_varied
from jensen.models.model import LatentModel
from jensen.models.pipeline import Pipeline
from jensen.noise import Noise

MAP_ROWS, ROWS, STEPS, SIDE = 2000, 10, 10, 12
REACH = 2.5  # standard deviations of the codes, to either side
PICTURES = ("map", "units", "reconstruct", "interpolate", "traverse", "plane", "samples")


@dataclass(frozen=True)
class Sheet:
    """Rows to draw as a grid, so many in a line, and what they are; vectors are drawn in groups of as many rows each."""

    rows: Tensor
    columns: int
    told: str
    groups: tuple[str, ...]

    @property
    def lines(self) -> tuple[str, ...]:
        """The groups, where each is one line of the grid."""
        return self.groups if len(self.groups) * self.columns == len(self.rows) else ()

    def by_group(self) -> dict[str, Tensor]:
        """The rows of each group."""
        return dict(zip(self.groups, self.rows.chunk(len(self.groups)), strict=True))


class Gallery:
    """The pictures of a pipeline's codes of some rows.

    Args:
        pipeline: whose model has codes.
        rows: in data units, with their classes if they have any.
        class_names: of the classes.
        seed: of the choice of rows and of samples.

    Raises:
        InputError: fewer than two rows, or a model without codes.
    """

    def __init__(self, pipeline: Pipeline, rows: Examples, class_names: tuple[str, ...] = (), seed: int = 0) -> None:
        self.pipeline, self.latents, self.names, self.seed = pipeline, pipeline.latents, class_names, seed
        if len(rows) < 2:
            raise InputError(f"pictures of codes need at least 2 rows, got {len(rows)}; give more")
        if not self.latents.dims:
            raise InputError("this model's code has no numbers, so there is nothing to draw; fit one with more")
        order = Noise(seed, "gallery").permutation(len(rows))
        self.rows = rows.take(order[:MAP_ROWS])

    @cached_property
    def codes(self) -> Tensor:
        """Of the rows, `(n, D)`."""
        return self.latents.encode(self.rows)

    @property
    def told(self) -> str:
        """How many numbers of the code the rows use, where their scale is that of a p(z)."""
        dims = self.latents.dims
        if not isinstance(self.latents.encoder, LatentModel):
            return f"{dims} numbers in the code, of no scale of their own"
        return f"{active_units(self.codes)} of {dims} numbers of the code depend on the row"

    @property
    def images(self) -> bool:
        """Whether rows are pictures."""
        return is_image(self.pipeline.event_shape)

    def map(self, theme: Theme = LIGHT) -> Figure:
        """Where rows lie."""
        many = self.latents.dims > 2  # two numbers are shown as they are
        where, told = principal_axes(self.codes * self.latents.encoder.code_effects() if many else self.codes)
        axes = [f"z{d + 1}" for d in range(where.shape[1])] if not told else ["first axis", "second axis"]
        groups = by_class(where, self.rows.context, self.names)
        figure = vectors_figure(groups, axes, theme=theme)
        if len(groups) > 1 and where.shape[1] == 2:
            name_medians(figure.axes[0], groups, theme)
        headline(figure, f"codes of {len(self.rows):,} rows{told}", theme)
        return figure

    def units(self, theme: Theme = LIGHT) -> Figure:
        """The variance of each number of the code over rows, most first."""
        spread = self.codes.var(0).sort(descending=True).values[:64]
        figure = curve_figure(
            range(1, len(spread) + 1),
            {"variance": spread.tolist()},
            xlabel="number of the code, most varied first",
            ylabel="variance over rows",
            theme=theme,
        )
        headline(figure, self.told, theme)
        return figure

    def reconstruct(self) -> Sheet:
        """Rows, and under each what is left of it."""
        shown = self.rows.take(torch.arange(min(ROWS, len(self.rows)))) if self.images else self.rows
        rows = torch.cat([shown.x.double(), self.latents.reconstruct(shown)])
        told = "above rows, below their reconstructions" if self.images else "rows and their reconstructions"
        return Sheet(rows, len(shown), told, ("rows", "reconstructions"))

    def interpolate(self, kind: str = "linear") -> Sheet:
        """Three ways between pairs of rows."""
        pairs = min(3, len(self.rows) // 2)
        lines = [
            self.latents.interpolate(self.rows.x[2 * i], self.rows.x[2 * i + 1], STEPS, kind=kind) for i in range(pairs)
        ]
        groups = tuple(f"way {i + 1}" for i in range(pairs))
        return Sheet(
            torch.cat(lines),
            STEPS,
            f"{kind} ways between the codes of two rows; at their ends the rows' reconstructions",
            groups,
        )

    def traverse(self) -> Sheet:
        """One number of a row's code, from -2.5 to 2.5 standard deviations of the codes, a line each."""
        mean, spread = self.codes.mean(0), self.codes.std(0)
        lines, dims = [], most_varied(self.codes * self.latents.encoder.code_effects(), 8)
        for dim in dims:
            values = mean[dim] + spread[dim] * torch.linspace(-REACH, REACH, STEPS, dtype=torch.float64)
            lines.append(self.latents.traverse(self.rows.x[0], dim, values))
        named = ", ".join(f"z{dim + 1}" for dim in dims)
        told = f"one number of a row's code at a time ({named}), from left to right -2.5 to 2.5 standard deviations"
        return Sheet(torch.cat(lines), STEPS, told, tuple(f"z{dim + 1}" for dim in dims))

    def plane(self) -> Sheet:
        """A grid of quantiles."""
        rows, dims = self.latents.plane(self.codes, SIDE)
        ways, law = ("growing to the right", "growing upwards"), self.latents.encoder.code_law
        named = " and ".join(f"z{d + 1} {way}" for d, way in zip(dims, ways, strict=False))
        others = "; the other numbers are at their medians" if self.latents.dims > len(dims) else ""
        return Sheet(rows, SIDE, f"quantiles of {law} in {named}, decoded{others}", ("decoded quantiles",))

    def samples(self) -> Sheet:
        """Generation."""
        rows = self.pipeline.sample(64, seed=self.seed).double()
        return Sheet(rows, 8, f"drawn from the model: {self.latents.encoder.generation}", ("samples",))

    @property
    def limits(self) -> Range | None:
        """What black and white stand for in real-valued images."""
        return None if isinstance(self.pipeline.space, Levels) else finite_range(self.rows.x)

    def save(self, what: str, path: Path, *, kind: str = "linear") -> str:
        """Write one picture; what it shows.

        Args:
            what: one of `PICTURES`.
            path: the .png.
            kind: of interpolate.
        """
        if what in ("map", "units"):
            draw: Callable[[], Figure] = self.map if what == "map" else self.units
            save_figure(draw(), path)
            return "where rows lie" if what == "map" else "how much each number of the code is used"
        sheet: Sheet = self.interpolate(kind) if what == "interpolate" else getattr(self, what)()
        if self.images:
            space, lines = self.pipeline.space, sheet.lines
            save_grid(
                sheet.rows, space, path, columns=sheet.columns, value_range=self.limits, title=sheet.told, lines=lines
            )
        else:
            save_figure(self._dots(sheet), path)
        return sheet.told

    def _dots(self, sheet: Sheet) -> Figure:
        """Vectors, over the rows that were given."""
        names = self.pipeline.config["data"]["facts"].get("columns")
        figure = vectors_figure({"rows": self.rows.x.double(), **sheet.by_group()}, names)
        headline(figure, textwrap.fill(sheet.told, 64), LIGHT)
        return figure


def chosen(what: str | None) -> tuple[str, ...]:
    """The pictures that a word stands for, or words with commas between them; all of them if there is none.

    Raises:
        InputError: an unknown word.
    """
    words = PICTURES if what is None else tuple(word.strip() for word in what.split(","))
    for word in words:
        if word not in PICTURES:
            raise InputError(f"unknown picture {word!r}; {did_you_mean(word, PICTURES)}known are {', '.join(PICTURES)}")
    return words


def principal_axes(codes: Tensor) -> tuple[Tensor, str]:
    """Codes of at most two numbers as they are; others along their first two principal axes, and how much of the variance these hold."""
    if codes.shape[1] <= 2:
        return codes, ""
    values, vectors = torch.linalg.eigh(codes.T.cov())
    share = float(values[-2:].sum() / values.sum().clamp(min=1e-300))
    return (codes - codes.mean(0)) @ vectors[:, [-1, -2]], f"; two principal axes, {share:.0%} of the variance"
