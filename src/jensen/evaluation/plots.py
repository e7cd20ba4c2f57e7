"""Pictures of data, of the forward process, of training and of the bound.

Each function returns a matplotlib `Figure` (Agg, no pyplot) that `figures.save_figure` writes; `save_grid` writes a
plain grid of pixels. Pictures take rows in data units, except the two of the diffusion process, which are in the
model's units and say so.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from jensen.data.codec import fit_codec
from jensen.data.examples import Examples, Split
from jensen.data.space import Levels, Real, Space
from jensen.diffusion.process import Chain, diffuse
from jensen.diffusion.schedule import Schedule, alpha, sigma
from jensen.evaluation.figures import (
    FONT,
    LIGHT,
    SIZE,
    Theme,
    blank,
    check_png,
    headline,
    label,
    legend,
    printable,
    quiet,
    save_figure,
)
from jensen.evaluation.images import Range, finite_range, grid, is_image, png, to_pixels
from jensen.files import written_whole
from jensen.noise import Noise

Array = np.ndarray[Any, Any]
MOST_POINTS = 2000
MOST_COLUMNS = 4
STANDARDISED = (-3.0, 3.0)  # what black and white stand for where data are standardised


def save_grid(
    x: Tensor,
    space: Space,
    path: str | Path,
    *,
    columns: int | None = None,
    captions: Sequence[str] | None = None,
    value_range: Range | None = None,
) -> None:
    """Write rows as one PNG: images as a grid, vectors as a scatter plot or histograms.

    Args:
        x: `(N, *event)` in data units.
        space: of the data.
        path: the file, ending in .png; written whole or not at all.
        columns: images in a row of the grid; about a square if None.
        captions: a line under each image.
        value_range: what black and white stand for in real-valued images; their own finite range if None.
    """
    path = check_png(path)
    if not is_image(tuple(x.shape[1:])):
        save_figure(vectors_figure({"rows": x}), path)
        return
    content = png(grid(to_pixels(x, space, value_range), columns=columns, captions=captions))
    with written_whole(path) as aside:
        aside.write_bytes(content)


def show_figure(split: Split, *, seed: int = 0, theme: Theme = LIGHT) -> Figure:
    """What is in the data: random training images (a line for each class where there are classes), or scatter plots
    and histograms of the training rows."""
    if is_image(split.event_shape):
        return _image_sheet(split, seed, theme)
    pick = Noise(seed, "show").permutation(len(split.train))[:MOST_POINTS]
    rows = split.train.take(pick)
    figure = vectors_figure(_by_class(rows, split.class_names), split.facts.get("columns"), theme=theme)
    headline(figure, _title(split, f"{len(rows):,} of {len(split.train):,} training rows"), theme)
    return figure


def vectors_figure(groups: Mapping[str, Tensor], columns: Sequence[str] | None = None, *, theme: Theme = LIGHT) -> Figure:
    """Groups of rows that are no images: one dimension as histograms, two as a scatter plot, more as every pair of
    the first few. Missing cells are left out of the panels they are missing from."""
    data = {name: x.flatten(1).double().numpy() for name, x in groups.items()}
    dims = next(iter(data.values())).shape[1]
    shown = min(dims, MOST_COLUMNS)
    names = [str(c) for c in columns] if columns and len(columns) == dims else [f"dimension {d + 1}" for d in range(dims)]
    if shown <= 2:
        figure = blank(4.6, 4.2 if shown == 2 else 3.0, theme)
        axes = quiet(figure.add_subplot(), theme)
        _scatter(axes, data, 0, 1, theme) if shown == 2 else _histogram(axes, data, 0, theme)
        label(axes, theme, x=printable(names[0]), y=printable(names[1]) if shown == 2 else "share of rows")
    else:
        figure = blank(6.4, 6.2, theme)
        axes = _pairs(figure, data, names, shown, theme)
    if len(data) > 1:
        legend(axes, theme, list(data), [theme.colours[i % 10] for i in range(len(data))], columns=1 + (len(data) > 5))
    return figure


def noise_figure(
    split: Split,
    schedule: Schedule,
    *,
    steps: int = 1000,
    rows: int = 4,
    columns: int = 8,
    seed: int = 0,
    theme: Theme = LIGHT,
) -> Figure:
    """The forward process q(x_t | x_0) as a strip, data on the left and noise on the right.

    Args:
        split: the data; its training rows are drawn from, and fix the model's units.
        schedule: λ(t).
        steps: T of the chain the columns are taken from.
        rows: how many images; vectors show all points of a column in one panel.
        columns: how many times, x_0 among them.
        seed: of the choice of rows and of ε, which is the same in every column of a row.
        theme: the colours.
    """
    strip = noise_strip(split, schedule, steps=steps, columns=columns, seed=seed, rows=rows)
    image = is_image(split.event_shape)
    width, height = _strip_size(split.event_shape, rows) if image else (1.25, 1.25)
    figure = blank(0.3 + width * columns, 1.5 + height * (rows if image else 1), theme)
    panels = figure.subplots(rows if image else 1, columns, squeeze=False)
    for column, (state, caption) in enumerate(zip(strip.states, strip.captions, strict=True)):
        for row in range(len(panels)):
            axes = panels[row][column]
            _picture(axes, state[row : row + 1], strip.space, theme) if image else _cloud(axes, state, theme)
        _under(panels[-1][column], caption, theme)
    units = f"units of the model, cut to [{strip.range[0]:g}, {strip.range[1]:g}] for display"
    headline(figure, f"The forward process x_t = α x_0 + σ ε on {_source(split)}; T = {steps}; {units}", theme)
    return figure


@dataclass(frozen=True)
class Strip:
    """x_0 and x_i at chosen steps: `states` one `(rows, *event)` a column in the model's units, and what stands under
    them. `range` is what the display is cut to."""

    states: list[Tensor]
    captions: list[str]
    space: Space
    range: Range


def noise_strip(split: Split, schedule: Schedule, *, steps: int, columns: int, seed: int, rows: int) -> Strip:
    """The states and captions that `noise_figure` draws."""
    codec, chain = fit_codec(split), Chain(schedule, steps)
    image = is_image(split.event_shape)
    complete = _complete(split.train)
    wanted = rows if image else 500
    picked = complete.take(Noise(seed, "noise", "rows").permutation(len(complete))[:wanted])
    x_0 = codec.encode(picked.x)
    eps = Noise(seed, "noise", "eps").normal(picked.id, split.event_shape).to(x_0)
    states, captions = [x_0], ["x_0\nt = –\nα = 1\nσ = 0\nlog-SNR ∞"]
    for i in chosen_steps(steps, columns - 1):
        log_snr = chain.log_snr[i - 1 : i]
        states.append(diffuse(x_0, eps, log_snr.expand(len(x_0))))
        captions.append(noise_caption(i, float(chain.times[i - 1]), log_snr))
    space = codec.image(split.space)
    return Strip(states, captions, space, (-1.0, 1.0) if isinstance(space, Levels) else STANDARDISED)


def noise_caption(i: int, t: float, log_snr: Tensor) -> str:
    """The lines under x_i: t, α(t), σ(t) and their log-SNR."""
    a, s = float(alpha(log_snr).reshape(())), float(sigma(log_snr).reshape(()))
    return f"x_{i}\nt = {t:.3g}\nα = {a:.3g}\nσ = {s:.3g}\nlog-SNR {float(log_snr.reshape(())):.2f}"


def chosen_steps(steps: int, count: int) -> list[int]:
    """At most `count` steps spread evenly over 1 … T, both ends among them."""
    return sorted({round(i) for i in np.linspace(1, steps, max(1, min(steps, count))).tolist()})


@dataclass(frozen=True)
class Frame:
    """The state of some samples before step i: x_i and x̂_0(x_i), `(rows, *event)` in the model's units."""

    i: int
    log_snr: float
    x: Tensor
    denoised: Tensor


def film_figure(frames: Sequence[Frame], space: Space, *, theme: Theme = LIGHT) -> Figure:
    """The way of a few samples from noise to data: x_i above, the denoiser's guess x̂_0(x_i) below."""
    rows = len(frames[0].x)
    width, height = _strip_size(tuple(frames[0].x.shape[1:]), 2 * rows, 0.78)
    figure = blank(0.45 + width * len(frames), 0.5 + (height + 0.02) * 2 * rows, theme)
    panels = figure.subplots(2 * rows, len(frames), squeeze=False)
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0.02, hspace=0.02)  # type: ignore[union-attr]
    for column, frame in enumerate(frames):
        for row in range(rows):
            _picture(panels[2 * row][column], frame.x[row : row + 1], space, theme)
            _picture(panels[2 * row + 1][column], frame.denoised[row : row + 1], space, theme)
        _under(panels[-1][column], f"i = {frame.i}\n{frame.log_snr:.1f}", theme)
    for row in range(rows):
        for offset, name in enumerate(("x_i", "x̂_0")):
            label(panels[2 * row + offset][0], theme, y=name)
    return figure


def film_cloud_figure(frames: Sequence[Frame], *, theme: Theme = LIGHT) -> Figure:
    """The same for vectors: clouds of x_i above, of x̂_0 below."""
    figure = blank(0.4 + 0.8 * len(frames), 2.5, theme)
    panels = figure.subplots(2, len(frames), squeeze=False)
    for column, frame in enumerate(frames):
        _cloud(panels[0][column], frame.x, theme)
        _cloud(panels[1][column], frame.denoised, theme)
        _under(panels[1][column], f"i = {frame.i}\n{frame.log_snr:.1f}", theme)
    label(panels[0][0], theme, y="x_i")
    label(panels[1][0], theme, y="x̂_0")
    return figure


def curve_figure(
    x: Sequence[float],
    lines: Mapping[str, Sequence[float]],
    *,
    xlabel: str,
    ylabel: str,
    log: bool = False,
    theme: Theme = LIGHT,
) -> Figure:
    """One or more curves over training steps; values that are None or not finite leave a gap."""
    figure = blank(4.6, 2.7, theme)
    axes = quiet(figure.add_subplot(), theme)
    for number, values in enumerate(lines.values()):
        y = np.array([math.nan if v is None else v for v in values], float)
        axes.plot(x, y, "-", color=theme.colours[number % 10], linewidth=1.5, marker="o", markersize=2.5)
    if log and all(v is None or v > 0 for values in lines.values() for v in values):
        axes.set_yscale("log")
        axes.tick_params(which="minor", colors=theme.muted, labelsize=SIZE - 2, labelfontfamily=FONT)
    if len(lines) > 1:
        legend(axes, theme, list(lines), [theme.colours[i % 10] for i in range(len(lines))], columns=2)
    label(axes, theme, x=xlabel, y=ylabel)
    return figure


def steps_figure(
    log_snr: Sequence[float], cost: Sequence[float], stderr: Sequence[float], *, unit: str, theme: Theme = LIGHT
) -> Figure:
    """The cost L_{i-1} of single steps over the log-SNR of x_i, data on the left and noise on the right; the band is
    ± one standard error."""
    order = np.argsort(-np.array(log_snr, float))
    x, y, e = (np.array(v, float)[order] for v in (log_snr, cost, stderr))
    figure = blank(4.6, 2.9, theme)
    axes = quiet(figure.add_subplot(), theme)
    axes.fill_between(x, y - e, y + e, color=theme.colours[0], alpha=0.25, linewidth=0)
    axes.plot(x, y, color=theme.colours[0], linewidth=1.4)
    if len(x) > 1:
        axes.set_xlim(x[0], x[-1])
    axes.set_ylim(bottom=min(0.0, float(np.nanmin(y - e))))
    label(axes, theme, x="data  ←  log-SNR of x_i  →  noise", y=f"{unit} a step")
    return figure


def dots_figure(
    names: Sequence[str], values: Sequence[float], errors: Sequence[float], *, unit: str, theme: Theme = LIGHT
) -> Figure:
    """Numbers with their standard errors, one a line, the first on top and in another colour."""
    figure = blank(4.6, 0.75 + 0.36 * len(names), theme)
    axes = quiet(figure.add_subplot(), theme)
    axes.grid(False)
    axes.grid(True, axis="x", color=theme.rule, linewidth=0.5)
    for place, (value, error) in enumerate(zip(values, errors, strict=True)):
        colour = theme.colours[1] if place == 0 else theme.colours[0]
        axes.errorbar(value, place, xerr=error, fmt="o", color=colour, markersize=6, capsize=4, linewidth=1.5)
    axes.set_yticks(range(len(names)), [printable(name) for name in names], color=theme.ink, parse_math=False)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.margins(x=0.12)
    label(axes, theme, x=unit)
    return figure


def distances_figure(groups: Mapping[str, Array], *, unit: str, theme: Theme = LIGHT) -> Figure:
    """Histograms of distances, one over the other, as shares."""
    figure = blank(4.6, 2.7, theme)
    axes = quiet(figure.add_subplot(), theme)
    _histogram(axes, {name: d.reshape(-1, 1) for name, d in groups.items()}, 0, theme)
    axes.set_xlim(left=0)
    legend(axes, theme, list(groups), list(theme.colours[: len(groups)]))
    label(axes, theme, x=unit, y="share of rows")
    return figure


def _image_sheet(split: Split, seed: int, theme: Theme) -> Figure:
    groups = _class_rows(split, seed)
    count = max(len(rows) for rows in groups.values())
    _, height, width = split.event_shape
    cell = 0.55 * min(1.0, 10 / count)
    figure = blank(1.4 + cell * count * max(1, width / height), 0.5 + 1.06 * cell * len(groups), theme)
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.015, hspace=0.0)  # type: ignore[union-attr]
    limits = None if isinstance(split.space, Levels) else finite_range(torch.cat([r.x for r in groups.values()]))
    for number, (name, rows) in enumerate(groups.items()):
        axes = figure.add_subplot(len(groups), 1, number + 1)
        sheet = grid(to_pixels(rows.x, split.space, limits), columns=count, clear=True)
        _bare(axes).imshow(np.asarray(sheet), interpolation="nearest", aspect="equal")
        axes.set_xlim(-0.5, sheet.width * count / max(1, len(rows)) - 0.5)
        text = axes.set_ylabel(printable(name, 14), rotation=0, ha="right", va="center", fontsize=SIZE, family=FONT)
        text.set_parse_math(False)
        text.set_color(theme.ink)
    scale = "" if limits is None else f"; black {limits[0]:g}, white {limits[1]:g}"
    headline(figure, _title(split, f"random training images{scale}"), theme)
    return figure


def _class_rows(split: Split, seed: int, most: int = 12) -> dict[str, Examples]:
    """Ten rows of each class, the first `most` classes; eight lines of ten where there are no classes."""
    order = Noise(seed, "show").permutation(len(split.train))
    context = split.train.context
    if context is None or not split.class_names:
        lines = [order[start : start + 10] for start in range(0, min(80, len(order)), 10)]
        return {" " * number: split.train.take(line) for number, line in enumerate(lines)}
    codes = context[order]
    found = {code: order[codes == code][:10] for code in range(len(split.class_names))}
    kept = [(code, rows) for code, rows in found.items() if len(rows)][:most]
    return {f"{split.class_names[code]}{' ' * code}": split.train.take(rows) for code, rows in kept}


def _by_class(rows: Examples, names: tuple[str, ...]) -> dict[str, Tensor]:
    if rows.context is None or not names:
        return {"rows": rows.x}
    groups = {code: rows.x[rows.context == code] for code in range(len(names))}
    return {f"{names[code]}": x for code, x in list(groups.items())[:10] if len(x)} or {"rows": rows.x}


def _pairs(figure: Figure, data: Mapping[str, Array], names: list[str], shown: int, theme: Theme) -> Axes:
    panels = figure.subplots(shown, shown, squeeze=False)
    for row in range(shown):
        for column in range(shown):
            axes = quiet(panels[row][column], theme)
            axes.tick_params(labelsize=SIZE - 3)
            if column > row:
                axes.set_axis_off()
                continue
            _histogram(axes, data, row, theme) if row == column else _scatter(axes, data, column, row, theme)
            label(
                axes,
                theme,
                x=printable(names[column], 16) if row == shown - 1 else "",
                y=printable(names[row], 16) if column == 0 and row else "",
            )
    corner: Axes = panels[0][shown - 1]
    return corner


def _scatter(axes: Axes, data: Mapping[str, Array], across: int, up: int, theme: Theme) -> None:
    for number, rows in enumerate(data.values()):
        pair = rows[:MOST_POINTS, [across, up]]
        pair = pair[np.isfinite(pair).all(1)]
        axes.scatter(pair[:, 0], pair[:, 1], s=6, alpha=0.55, linewidths=0, color=theme.colours[number % 10])


def _histogram(axes: Axes, data: Mapping[str, Array], column: int, theme: Theme) -> None:
    values = [rows[:, column][np.isfinite(rows[:, column])] for rows in data.values()]
    everything = np.concatenate(values)
    if len(everything) == 0:
        return
    low, high = float(everything.min()), float(everything.max())
    edges = np.linspace(low, high, 41) if high > low else np.array([low - 0.5, low + 0.5])
    for number, group in enumerate(values):
        shares = np.histogram(group, edges)[0] / max(1, len(group))
        colour = theme.colours[number % 10]
        axes.stairs(shares, edges, color=colour, linewidth=1.3, fill=False)
        axes.stairs(shares, edges, color=colour, alpha=0.18, fill=True)


def _cloud(axes: Axes, x: Tensor, theme: Theme) -> None:
    flat = x.flatten(1).double().clamp(*STANDARDISED).numpy()
    _bare(axes)
    if flat.shape[1] == 1:
        axes.hist(flat[:, 0], bins=np.linspace(*STANDARDISED, 31), color=theme.colours[0])
        return
    axes.scatter(flat[:, 0], flat[:, 1], s=3, alpha=0.5, linewidths=0, color=theme.colours[0])
    low, high = STANDARDISED
    axes.set(xlim=(low - 0.2, high + 0.2), ylim=(low - 0.2, high + 0.2), aspect="equal")
    for spine in axes.spines.values():
        spine.set(visible=True, color=theme.rule)


def _picture(axes: Axes, x: Tensor, space: Space, theme: Theme) -> None:
    limits = STANDARDISED if isinstance(space, Real) else None
    pixels = to_pixels(x, space, limits)[0]
    rgb = np.repeat(pixels, 3, -1) if pixels.shape[-1] == 1 else pixels
    _bare(axes).imshow(rgb, interpolation="nearest")


def _bare(axes: Axes) -> Axes:
    axes.set(xticks=[], yticks=[], facecolor="none")
    for spine in axes.spines.values():
        spine.set_visible(False)
    return axes


def _under(axes: Axes, text: str, theme: Theme) -> None:
    axes.set_xlabel(text, color=theme.muted, fontsize=SIZE - 0.5, family=FONT, parse_math=False)


def _strip_size(event_shape: tuple[int, ...], rows: int, width: float = 1.0) -> tuple[float, float]:
    """Width and height in inches of a picture in a strip; tall strips get smaller pictures."""
    _, h, w = event_shape
    return width, min(width * h / w, 12.0 / rows)


def _complete(rows: Examples) -> Examples:
    """The rows without missing cells, or all of them if there are none."""
    if not rows.x.dtype.is_floating_point:
        return rows
    whole = (~rows.x.isnan()).flatten(1).all(1).nonzero().flatten()
    return rows.take(whole) if len(whole) else rows


def _source(split: Split) -> str:
    return printable(Path(str(split.facts.get("source", "array"))).name or "data")


def _title(split: Split, what: str) -> str:
    shape = " × ".join(map(str, split.event_shape))
    return f"{_source(split)}: {shape}, {split.space}; {what}"
