"""The components of a mixture: how they were found, where they are, which rows are theirs."""

from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from jensen.errors import plural
from jensen.evaluation.charts import curve_figure
from jensen.evaluation.figures import Theme
from jensen.evaluation.images import grid, png, to_pixels
from jensen.evaluation.numbers import part, real, reals
from jensen.evaluation.page import Html, missing, number, panel, paragraph, picture, table
from jensen.evaluation.panels.common import themed
from jensen.evaluation.panels.samples import image_range
from jensen.evaluation.story import Story
from jensen.evaluation.vectors import ellipses_figure
from jensen.models.gmm import GaussianMixture
from jensen.noise import Noise

MOST_ROWS, MOST_COMPONENTS = 1000, 36
SURE = 0.9


def mixture(story: Story) -> Html:
    """Nothing where the model is no mixture of normals."""
    model = story.pipeline.components
    if not isinstance(model, GaussianMixture):
        return Html("")
    parts = [paragraph(*_found(story)), *_curve(story), _places(story, model)]
    if story.split is None:
        return panel("The components", *parts, missing(story.without_data))
    return panel("The components", *parts, *_whose(story, _some_rows(story)))


def _found(story: Story) -> list[str | Html]:
    """How EM went."""
    report = part(story.config, "fit")
    count, iterations = real(report, "n_components"), real(report, "iterations")
    if count is None or iterations is None:
        return ["This mixture was not fitted by EM here."]
    left = real(report, "remaining_nats_per_row")
    expected = "" if left is None else f"; about {max(left, 0.0):.1g} nats a row were still to come"
    how = "converged" if report.get("converged") is True else "did NOT converge"
    starts = report.get("restarts")
    ends = reals({"v": [real(s, "penalised_nats_per_row") for s in starts]}, "v") if isinstance(starts, list) else []
    spread = f" The {len(ends)} starts ended within {max(ends) - min(ends):.2g} nats a row." if len(ends) > 1 else ""
    return [
        f"{count:.0f} {plural('component', count)}, covariance {part(story.config, 'model', 'options').get('covariance', 'full')}. "
        f"EM {how} after {iterations:.0f} {plural('iteration', iterations)}{expected}.{spread}"
    ]


def _curve(story: Story) -> list[Html]:
    """The choice of the number of components, if it was chosen."""
    curve = part(story.config, "fit").get("curve")
    if not isinstance(curve, list) or len(curve) < 2:
        return []
    counts, values = ([real(point, name) for point in curve] for name in ("n_components", "value"))
    if None in counts or None in values:
        return []
    criterion = str(part(story.config, "fit").get("criterion", ""))
    what = "mean log-likelihood of validation rows" if criterion == "held-out" else "−BIC/2n"

    def draw(theme: Theme) -> Figure:
        """The curve in these colours."""
        return curve_figure(
            [float(c or 0) for c in counts],
            {criterion: [float(v or 0) for v in values]},
            xlabel="components",
            ylabel="nats a row",
            theme=theme,
        )

    return [themed(draw, "Choice of the number of components", f"The number was chosen by {what}, in model units.")]


def in_data_units(story: Story, model: GaussianMixture) -> tuple[Tensor, Tensor]:
    """Means `(K, *event)` and covariances `(K, d, d)`; on levels the means are not rounded."""
    codec, shape = story.pipeline.codec, story.pipeline.event_shape
    means = codec.decode(model.means.reshape(-1, *shape).cpu())
    scale = codec.scale.expand(shape).reshape(-1)
    return means, model.covariances().cpu() * scale[:, None] * scale


def _places(story: Story, model: GaussianMixture) -> Html:
    """Means as pictures, ellipses over 2-D data, a table otherwise."""
    order = model.weights.cpu().argsort(descending=True)[:MOST_COMPONENTS]
    weights = model.weights.cpu()[order]
    said = "" if len(order) == len(model.weights) else f" The {len(order)} heaviest of {len(model.weights)}."
    if story.image:
        means = codec_rows(story, model)[order]
        sheet = grid(
            to_pixels(means, story.space, image_range(story)), captions=[f"{w:.3f}" for w in weights], clear=True
        )
        return picture(png(sheet), "Means of the components", caption=f"Means, with weights.{said}", style="pixels")
    if story.dims == 2:
        means, covariances = in_data_units(story, model)
        rows = None if story.split is None else _some_rows(story).double()
        columns = part(story.config, "data", "facts").get("columns")

        def draw(theme: Theme) -> Figure:
            """The ellipses in these colours."""
            return ellipses_figure(
                means.numpy(), covariances.numpy(), model.weights.cpu().numpy(), rows=rows, columns=columns, theme=theme
            )

        caption = "Test rows, and each component's ellipses at 1 and 2 standard deviations; the width of the line follows its weight."
        return themed(draw, "Components over test rows", caption)
    lines = [(str(int(k)), number(f"{float(w):.4f}")) for k, w in zip(order, weights, strict=True)]
    return table(("component", "weight"), lines)


def codec_rows(story: Story, model: GaussianMixture) -> Tensor:
    """The means as rows of the data: rounded to levels where there are any."""
    shape = story.pipeline.event_shape
    return story.pipeline.decode(model.means.reshape(-1, *shape))


def _some_rows(story: Story) -> Tensor:
    """Test rows `(B, *event)` in data units, a fixed choice where there are many."""
    assert story.split is not None
    test = story.split.test
    return test.x[Noise(0, "report").permutation(len(test))[:MOST_ROWS]]


def _whose(story: Story, rows: Tensor) -> list[Html]:
    """How surely test rows belong to components."""
    shares: Any = story.pipeline.responsibilities(rows)
    shares = shares[~shares.isnan().any(1)]  # rows of probability 0 belong to none
    if not len(shares):
        return []
    sure = float((shares.max(1).values > SURE).double().mean())
    counts = torch.bincount(shares.argmax(1), minlength=shares.shape[1])
    empty = int((counts == 0).sum())
    none = (
        f" {empty} {plural('component', empty)} {'is' if empty == 1 else 'are'} the likeliest of none of them."
        if empty
        else ""
    )
    return [
        paragraph(
            f"Of {len(shares):,} test {plural('row', len(shares))} {100 * sure:.0f} % belong to one component with a probability above {SURE:g}; "
            f"the largest cluster has {100 * float(counts.max()) / len(shares):.0f} %.{none} "
            "`jensen evaluate RUN -o scores.csv` writes the probabilities of every row.",
            style="note",
        )
    ]
