"""The forward process and the way back as strips of pictures, in the model's units and cut for display.

Levels are cut to [-1, 1], their own range there, and standardised real values to [-3, 3].
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
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
    bare,
    blank,
    headline,
    source,
    tight,
)
from jensen.evaluation.images import Range, is_image, to_pixels
from jensen.noise import Noise

STANDARDISED = (-3.0, 3.0)  # what black and white stand for where data are standardised


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
    figure = blank(0.3 + width * columns, 1.15 + (height + 0.06) * (rows if image else 1), theme)
    panels = figure.subplots(rows if image else 1, columns, squeeze=False)
    for column, (state, caption) in enumerate(zip(strip.states, strip.captions, strict=True)):
        for row in range(len(panels)):
            axes = panels[row][column]
            _picture(axes, state[row : row + 1], strip.space, theme) if image else _cloud(axes, state, theme)
        _under(panels[-1][column], caption, theme)
    units = f"units of the model, cut to [−{strip.range[1]:g}, {strip.range[1]:g}] for display"
    headline(figure, f"The forward process x_t = α x_0 + σ ε on {source(split)}; T = {steps}; {units}", theme)
    return figure


@dataclass(frozen=True)
class Strip:
    """x_0 and x_i at chosen steps: `states` one `(rows, *event)` a column in the model's units, and what stands under
    them. `range` is what the display is cut to.
    """

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
    return f"x_{i}\nt = {t:.3g}\nα = {a:.3g}\nσ = {s:.3g}\nlog-SNR {float(log_snr.reshape(())):.2f}".replace(
        "-", "−"
    ).replace("log−", "log-")


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
    tight(figure, w_pad=0.01, h_pad=0.01, wspace=0.02, hspace=0.02)
    for column, frame in enumerate(frames):
        for row in range(rows):
            _picture(panels[2 * row][column], frame.x[row : row + 1], space, theme)
            _picture(panels[2 * row + 1][column], frame.denoised[row : row + 1], space, theme)
        _under(panels[-1][column], f"i = {frame.i}\n{frame.log_snr:.1f}", theme)
    for row in range(rows):
        for offset, name in enumerate(("x_i", "x̂_0")):
            panels[2 * row + offset][0].set_ylabel(
                name, color=theme.muted, fontsize=SIZE, family=FONT, parse_math=False
            )
    return figure


def film_cloud_figure(frames: Sequence[Frame], *, theme: Theme = LIGHT) -> Figure:
    """The same for vectors: clouds of x_i above, of x̂_0 below."""
    figure = blank(0.4 + 0.8 * len(frames), 2.15, theme)
    panels = figure.subplots(2, len(frames), squeeze=False)
    for column, frame in enumerate(frames):
        _cloud(panels[0][column], frame.x, theme)
        _cloud(panels[1][column], frame.denoised, theme)
        _under(panels[1][column], f"i = {frame.i}\n{frame.log_snr:.1f}", theme)
    for row, name in enumerate(("x_i", "x̂_0")):
        panels[row][0].set_ylabel(name, color=theme.muted, fontsize=SIZE, family=FONT, parse_math=False)
    return figure


def _cloud(axes: Axes, x: Tensor, theme: Theme) -> None:
    flat = x.flatten(1).double().clamp(*STANDARDISED).numpy()
    bare(axes)
    if flat.shape[1] == 1:
        axes.hist(flat[:, 0], bins=np.linspace(*STANDARDISED, 31).tolist(), color=theme.colours[0])
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
    bare(axes).imshow(rgb, interpolation="nearest")


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
