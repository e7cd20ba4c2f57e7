"""What the model draws, measured against test rows, beside what training rows and the controls reach."""

from jensen.errors import InputError
from jensen.evaluation.numbers import part, word
from jensen.evaluation.page import Html, code, missing, number, panel, paragraph, table
from jensen.evaluation.story import Story
from jensen.evaluation.two_sample import TwoSamples


def two_sample(story: Story) -> Html:
    """The table, or how to get it."""
    title, record = "Samples against test rows", part(story.evaluation, "samples")
    if not record:
        return panel(
            title,
            missing(
                paragraph("Not measured yet: ", code(f"jensen evaluate {story.folder} --method samples"), " does it.")
            ),
        )
    try:
        found = TwoSamples.from_dict(record)
    except InputError as error:
        return panel(title, missing(str(error)))
    head, *rows = found.cells()
    why = word(story.evaluation, "without_likelihood")
    told = [paragraph(f"This model has no likelihood: {why}.")] if why else []
    cautioned = [paragraph(found.caution)] if found.caution else []
    body = table(["measure", *head[1:]], [[first, *map(number, rest)] for first, *rest in rows])
    return panel(title, *told, body, paragraph(found.explained()), *cautioned)
