"""The codes of a model that has them: where rows lie, what is left of a row, what a direction means."""

from typing import Any

from matplotlib.figure import Figure

from jensen.evaluation.charts import curve_figure
from jensen.evaluation.figures import Theme
from jensen.evaluation.images import grid, png, to_pixels
from jensen.evaluation.latents import Gallery, Sheet
from jensen.evaluation.numbers import part, real, reals
from jensen.evaluation.page import Html, block, missing, panel, paragraph, picture
from jensen.evaluation.panels.common import themed
from jensen.evaluation.story import Story
from jensen.models.dequantised import Dequantised
from jensen.models.model import ClassGiven, Encoder

WATCHED = ("bound", "objective")


def codes(story: Story) -> Html:
    """Nothing where the model has no codes."""
    model = story.pipeline.model
    inner = model.model if isinstance(model, Dequantised) else model
    if not isinstance(inner, Encoder) or inner.latent_dim == 0:
        return Html("")
    title = "The codes"
    if isinstance(inner, ClassGiven):
        return panel(title, paragraph(_of_classes(story)), *_rates(story))
    if story.split is None or len(story.split.test) < 2:
        return panel(title, missing(story.without_data))
    shown = Gallery(story.pipeline, story.split.test, story.split.class_names)
    parts = [
        paragraph(_told(shown)),
        themed(shown.map, "Codes of test rows", "Each dot is the code of a test row."),
    ]
    parts.append(themed(shown.units, "Variance of the numbers of the code"))
    parts += _rates(story)
    if story.image:
        sheets = {
            "Reconstruction starts at a row": shown.reconstruct(),
            "Between two rows": shown.interpolate(),
            "Along one number": shown.traverse(),
            "Over the plane": shown.plane(),
        }
        parts += [_sheet(shown, name, sheet) for name, sheet in sheets.items()]
    return panel(title, *parts)


def _of_classes(story: Story) -> str:
    """Of a code beside a class: how much of it is used."""
    active = real(of_kept(story), "active_units")
    used = (
        ""
        if active is None
        else f" {active:.0f} of its numbers are active: their mean varies by more than 0.01 over rows."
    )
    return f"The code of a row is what the class leaves open.{used}"


def of_kept(story: Story) -> dict[str, Any]:
    """What the history has of the weights that were kept: those best at what was watched."""
    watched = [part(point, "held_out") for point in story.history]
    scored = [(value, found) for found in watched for word in WATCHED if (value := real(found, word)) is not None]
    return max(scored, key=lambda pair: pair[0], default=(0.0, {}))[1]


def _rates(story: Story) -> list[Html]:
    """The divergence of each number of the code, of the weights that were kept."""
    rates = reals(of_kept(story), "divergence_by_dimension")
    if len(rates) < 2:
        return []
    most = sorted(rates, reverse=True)[:64]

    def draw(theme: Theme) -> Figure:
        """The curve in these colours."""
        x, name = range(1, len(most) + 1), "share of KL(q(z | x) ‖ p(z))"
        return curve_figure(x, {name: most}, xlabel="number of the code, dearest first", ylabel="nats", theme=theme)

    return [
        themed(
            draw,
            "Divergence of the numbers of the code",
            f"What each number of the code adds to the divergence, {sum(rates):.1f} nats in all on validation rows; in one layer those near 0 are not used.",
        )
    ]


def _told(shown: Gallery) -> str:
    return (
        f"{shown.told}. A reconstruction starts at a row and says what the code keeps of it; "
        f"the samples above start at none: {shown.latents.encoder.generation}."
    )


def _sheet(shown: Gallery, name: str, sheet: Sheet) -> Html:
    image = grid(to_pixels(sheet.rows, shown.pipeline.space, shown.limits), columns=sheet.columns, cell=48, clear=True)
    return block(picture(png(image), name, caption=f"{name}: {sheet.told}.", style="pixels"))
