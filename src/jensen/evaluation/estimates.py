"""Pictures of estimation: a likelihood surface with its top and parabola, and Jensen's inequality.

The surface is ℓ(θ) - ℓ(θ̂), the logarithm of a likelihood ratio: it compares parameters for the same rows, and its height is no
probability. Where it lies less than χ²/2 below the top are the parameters that a likelihood-ratio test would keep, 1.92 nats
for one parameter at 95 %. The dashed parabola is the one standard errors are read off. (Pawitan 2001, "In all likelihood",
chapter 2.)
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float64
from matplotlib.figure import Figure
from torch import Tensor

from jensen.errors import InputError
from jensen.estimation.inequality import jensen_gap
from jensen.estimation.mle import MLE
from jensen.evaluation.figures import LIGHT, Theme, blank, label, legend, quiet

DROP = {1: (1.921,), 2: (1.151, 2.996)}  # half of χ²: one parameter 95 %; two parameters 68.4 % and 95 %


def surface_figure(fit: MLE, names: tuple[str, ...] | None = None, *, theme: Theme = LIGHT) -> Figure:
    """The log-likelihood around its top over one or two parameters, the others held at their estimates.

    Args:
        fit: with standard errors, which say how far to look.
        names: of the parameters; the first two, or the one there is, if None.
        theme: colours.

    Returns:
        A curve with its parabola, the estimate and the 95 % drop; or contours of 68 and 95 % with the parabola's dashed.

    Raises:
        InputError: no standard errors, or parameters that make no surface.
    """
    names = names or tuple(fit.parameters)[:2]
    if not 1 <= len(names) <= 2:
        raise InputError(f"a surface is over one or two parameters, got {len(names)}; name one or two")
    grids = {name: fit.grid(name, points=101 if len(names) == 1 else 61) for name in names}
    height = (fit.surface(**grids) - fit.log_likelihood).numpy()
    parabola = (fit.quadratic(**grids) - fit.log_likelihood).numpy()
    figure = blank(4.6, 2.9 if len(names) == 1 else 3.6, theme)
    axes = quiet(figure.add_subplot(), theme)
    first, drops = grids[names[0]].numpy(), DROP[len(names)]
    blue, orange = theme.colours[:2]
    if len(names) == 1:
        axes.plot(first, height, color=blue, linewidth=1.5)
        axes.plot(first, parabola, "--", color=orange, linewidth=1.2)
        axes.axhline(-drops[0], color=theme.muted, linewidth=0.7, linestyle=":")
        axes.plot(float(fit.parameters[names[0]]), 0.0, "o", color=blue, markersize=5)
        label(axes, theme, x=names[0], y="ℓ − ℓ at the estimate (nats)", title=_title(fit))
    else:
        second, levels = grids[names[1]].numpy(), sorted(-drop for drop in drops)
        axes.contour(first, second, height.T, levels=levels, colors=[blue], linewidths=1.4, linestyles="solid")
        axes.contour(first, second, parabola.T, levels=levels, colors=[orange], linewidths=1.1, linestyles="dashed")
        axes.plot(float(fit.parameters[names[0]]), float(fit.parameters[names[1]]), "o", color=blue, markersize=5)
        label(axes, theme, x=names[0], y=names[1], title=_title(fit))
    legend(axes, theme, ["log-likelihood", "parabola of the standard errors"], [blue, orange])
    return figure


def inequality_figure(
    f: Callable[[Tensor], Tensor],
    x: Float64[Tensor, " n"],
    p: Float64[Tensor, " n"] | None = None,
    *,
    name: str = "f",
    theme: Theme = LIGHT,
) -> Figure:
    """Jensen's inequality on a curve: the value at the mean, the mean of the values, and the gap between.

    Args:
        f: applied to a tensor of values, elementwise.
        x: the values of a random variable, at least two different ones.
        p: their probabilities; equal if None.
        name: of f.
        theme: colours.

    Raises:
        InputError: probabilities that are none, or a variable that is constant: there is nothing to see.
    """
    p = torch.full_like(x, 1 / len(x)) if p is None else p
    gap, mean = jensen_gap(f, x, p), float(p @ x)
    low, high = float(x.min()), float(x.max())
    if low == high:
        raise InputError(
            f"every value is {low:g}: both sides of Jensen's inequality are equal; give values that differ"
        )
    at_mean = float(f(torch.tensor([mean], dtype=x.dtype))[0])
    line = torch.linspace(low, high, 200, dtype=x.dtype)
    figure = blank(4.6, 2.9, theme)
    axes = quiet(figure.add_subplot(), theme)
    blue, orange, green = theme.colours[:3]
    axes.plot(line.numpy(), f(line).numpy(), color=blue, linewidth=1.5)
    axes.scatter(x.numpy(), f(x).numpy(), s=300 * p.numpy(), color=blue, alpha=0.5, linewidths=0)
    axes.plot([mean, mean], [at_mean - gap, at_mean], color=theme.ink, linewidth=1.2)
    axes.plot(mean, at_mean, "o", color=green, markersize=5)
    axes.plot(mean, at_mean - gap, "o", color=orange, markersize=5)
    shown = [f"{name}(E X) = {at_mean:.3g}", f"E {name}(X) = {at_mean - gap:.3g}"]
    legend(axes, theme, shown, [green, orange])
    label(axes, theme, x="x", y=f"{name}(x)", title=f"Jensen's inequality: a gap of {gap:.3g}")
    return figure


def _title(fit: MLE) -> str:
    return f"{fit.family}, {np.format_float_positional(fit.n, trim='-')} rows"
