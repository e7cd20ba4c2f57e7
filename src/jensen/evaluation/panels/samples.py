"""Samples beside real rows and beside their nearest training rows, and the way they came."""

import torch
from matplotlib.figure import Figure

from jensen.data.space import Levels
from jensen.evaluation.charts import distances_figure
from jensen.evaluation.figures import Theme
from jensen.evaluation.images import Range, finite_range, grid, png, to_pixels
from jensen.evaluation.neighbours import Nearest, affordable, nearer, nearest
from jensen.evaluation.numbers import part
from jensen.evaluation.page import (
    Html,
    gallery,
    join,
    missing,
    panel,
    paragraph,
    picture,
    side_by_side,
    sub,
    table,
)
from jensen.evaluation.panels.common import themed
from jensen.evaluation.story import Story
from jensen.evaluation.strips import film_cloud_figure, film_figure
from jensen.evaluation.vectors import vectors_figure
from jensen.noise import Noise

NEIGHBOURS, YARDSTICK = 12, 500


def samples(story: Story) -> Html:
    """Real beside sampled."""
    title = "Real beside sampled"
    caption = f"Sampled from the model: {story.drawing.how}."
    if not story.image:
        return panel(title, _vectors(story, caption))
    limits = image_range(story)
    drawn = _sheet(story, story.drawing.samples, limits, caption, "Images drawn from the model")
    if story.split is None:
        return panel(title, side_by_side(missing(story.without_data), drawn))
    pick = Noise(0, "report").permutation(len(story.split.test))[: len(story.drawing.samples)]
    real_ones = _sheet(story, story.split.test.x[pick], limits, "Real: random test images.", "Test images")
    return panel(title, side_by_side(real_ones, drawn))


def image_range(story: Story) -> Range | None:
    """What black and white stand for: the end levels (None), or the range of real values."""
    if isinstance(story.space, Levels):
        return None
    return finite_range(story.drawing.samples if story.split is None else story.split.test.x)


def _sheet(story: Story, rows: torch.Tensor, limits: Range | None, caption: str, alt: str) -> Html:
    image = png(grid(to_pixels(rows, story.space, limits), cell=64, clear=True))
    said = f" Black is {limits[0]:.3g}, white {limits[1]:.3g}." if limits else ""
    return picture(image, alt, caption=caption + said, style="pixels")


def _vectors(story: Story, caption: str) -> Html:
    groups, note = {"sampled": story.drawing.samples}, ""
    if story.split is not None:
        pick = Noise(0, "report").permutation(len(story.split.test))[: len(story.drawing.samples)]
        groups = {"real": story.split.test.x[pick], **groups}
    else:
        note = missing(story.without_data)
    columns = part(story.config, "data", "facts").get("columns")

    def draw(theme: Theme) -> Figure:
        return vectors_figure(groups, columns, theme=theme)

    return join(
        note,
        themed(draw, "Real and sampled rows", f"{caption} In the units of the data.", "wide" if story.dims > 2 else ""),
    )


def film(story: Story) -> Html:
    """From noise to data."""
    title = "From noise to data"
    if not story.drawing.frames:
        return panel(title, missing(f"{story.model} draws a row in one go; there is nothing on the way to show."))
    space = story.pipeline.codec.image(story.space)
    cut = "[−1, 1]" if isinstance(space, Levels) else "[−3, 3], standardised"

    def draw(theme: Theme) -> Figure:
        if story.image:
            return film_figure(story.drawing.frames, space, theme=theme)
        return film_cloud_figure(story.drawing.frames, theme=theme)

    what = "The first samples of the grid above" if story.image else "All samples above, first two dimensions,"
    caption = join(
        f"{what} on their way from step i = {story.drawing.frames[0].i} to 1: ",
        sub("x", "i"),
        ", and below it ",
        sub("x̂", "0"),
        f", what the model expects the data to be by then. Under each column the step and its log-SNR. Units of the model, cut to {cut} for display; {story.drawing.how}.",
    )
    return panel(title, themed(draw, "Film strip of the denoising", caption, "wide"))


def neighbours(story: Story) -> Html:
    """Samples beside their nearest training rows."""
    title = "Does it copy?"
    if story.split is None:
        return panel(title, missing(story.without_data))
    train, test = story.split.train, story.split.test
    if train.x.is_floating_point() and bool(train.x.isnan().flatten(1).any(1).all()):
        return panel(title, missing("Not shown: every training row has missing cells, so no distance can be computed."))
    own = nearest(story.drawing.samples, train)
    pick = Noise(0, "yardstick").permutation(len(test))[: affordable(train, min(YARDSTICK, len(test)))]
    rows = test.x[pick]
    if rows.is_floating_point():
        rows = rows[~rows.isnan().flatten(1).any(1)]
    theirs = nearest(rows, train) if len(rows) else None
    pairs = _pairs(story, own) if story.image else join()
    return panel(
        title,
        paragraph(_about_copies(story)),
        pairs,
        _distances(story, own, theirs),
        paragraph(_reading_copies(own, theirs)),
    )


def _about_copies(story: Story) -> str:
    side = " Left a sample, right the training image nearest to it." if story.image else ""
    return (
        f"Distances are Euclidean, over all {story.dims:,} dimensions, in data units. The yardstick is how far test rows, which "
        f"nobody copied, are from their nearest training rows.{side}"
    )


def _pairs(story: Story, own: Nearest) -> Html:
    assert story.split is not None
    limits = image_range(story)
    items = []
    for n in own.distance.argsort()[:NEIGHBOURS].tolist():
        both = torch.stack([story.drawing.samples[n], story.split.train.x[own.index[n]]])
        image = png(grid(to_pixels(both, story.space, limits), columns=2, cell=56, clear=True))
        items.append(
            picture(image, "A sample and its nearest training image", caption=f"{own.distance[n]:.4g}", style="pixels")
        )
    note = f"The {len(items)} of {len(own.index)} samples that are nearest to a training image, with the distance."
    return join(gallery(items), paragraph(note, style="note"))


def _distances(story: Story, own: Nearest, theirs: Nearest | None) -> Html:
    groups = {"samples": own.distance.numpy()}
    if theirs is not None:
        groups["test rows"] = theirs.distance.numpy()

    def draw(theme: Theme) -> Figure:
        return distances_figure(groups, unit="distance to the nearest training row, data units", theme=theme)

    rows = [
        (name, f"{len(d):,}", *(f"{v:.4g}" for v in torch.from_numpy(d).quantile(torch.tensor([0, 0.5, 1.0]).double())))
        for name, d in groups.items()
    ]
    return side_by_side(
        themed(draw, "Distances to the nearest training row"),
        table(("nearest distance of", "how many", "least", "median", "greatest"), rows),
    )


def _reading_copies(own: Nearest, theirs: Nearest | None) -> str:
    exact = int((own.distance == 0).sum())
    said = (
        f"{exact} of {len(own.distance)} samples equal a training row exactly. "
        if exact
        else "No sample equals a training row. "
    )
    if theirs is None:
        return said
    found = nearer(own.distance, theirs.distance)
    if found.chance is None:
        return f"{said}Whether the others are nearer to training rows than chance explains: too few test rows to tell ({len(theirs.distance)})."
    chance = "less than 1 in a million" if found.chance < 1e-6 else f"{found.chance:.2g}"
    return (
        f"{said}{found.count} of {len(own.distance)} are nearer to a training row than 95 % of {len(theirs.distance)} test rows are. If "
        f"samples were like test rows about {found.expected:.1f} would be, and {found.count} or more with probability {chance}: "
        f"{_verdict(found.alarm, own, theirs)}."
    )


def _verdict(alarm: bool, own: Nearest, theirs: Nearest) -> str:
    if alarm:
        return "more than chance explains: look at the nearest pairs"
    if float(own.distance.median()) > float(theirs.distance.quantile(0.95)):
        return "no sign of copying, but samples are farther from the training rows than test rows are: they are not like the data yet"
    return "no sign of copying"
