"""The codes of a model that has them: where rows lie, what is left of a row, what a direction means."""

from jensen.evaluation.images import grid, png, to_pixels
from jensen.evaluation.latents import Gallery, Sheet
from jensen.evaluation.page import Html, block, missing, panel, paragraph, picture
from jensen.evaluation.panels.common import themed
from jensen.evaluation.story import Story
from jensen.models.dequantised import Dequantised
from jensen.models.latents import active_units
from jensen.models.model import ClassGiven, Encoder


def codes(story: Story) -> Html:
    """Nothing where the model has no codes."""
    model = story.pipeline.model
    inner = model.model if isinstance(model, Dequantised) else model
    if not isinstance(inner, Encoder) or isinstance(inner, ClassGiven) or inner.latent_dim == 0:
        return Html("")
    title = "The codes"
    if story.split is None or len(story.split.test) < 2:
        return panel(title, missing(story.without_data))
    shown = Gallery(story.pipeline, story.split.test, story.split.class_names)
    parts = [
        paragraph(_told(shown)),
        themed(shown.map, "Codes of test rows", "Each dot is the code E[z | x] of a test row."),
    ]
    parts.append(themed(shown.units, "Variance of the numbers of the code"))
    if story.image:
        sheets = {
            "Reconstruction starts at a row": shown.reconstruct(),
            "Between two rows": shown.interpolate(),
            "Along one number": shown.traverse(),
            "Over the plane": shown.plane(),
        }
        parts += [_sheet(shown, name, sheet) for name, sheet in sheets.items()]
    return panel(title, *parts)


def _told(shown: Gallery) -> str:
    return (
        f"{active_units(shown.codes)} of the {shown.latents.dims} numbers of the code depend on the row (their mean varies by more than 0.01). "
        "A reconstruction starts at a row and says what the code keeps of it; the samples above start at z ~ p(z)."
    )


def _sheet(shown: Gallery, name: str, sheet: Sheet) -> Html:
    image = grid(to_pixels(sheet.rows, shown.pipeline.space, shown.limits), columns=sheet.columns, cell=48, clear=True)
    return block(picture(png(image), name, caption=f"{name}: {sheet.told}.", style="pixels"))
