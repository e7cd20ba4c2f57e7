"""The panels of the report: each takes the story and gives a piece of the page, or a line that says what is missing."""

from collections.abc import Callable

from jensen.evaluation.page import Html
from jensen.evaluation.panels.classes import classes
from jensen.evaluation.panels.codes import codes
from jensen.evaluation.panels.comparison import controls, self_check
from jensen.evaluation.panels.graph import graph
from jensen.evaluation.panels.likelihood import header, meaning, split_of_bits
from jensen.evaluation.panels.mixture import mixture
from jensen.evaluation.panels.run import data, model, training
from jensen.evaluation.panels.samples import film, neighbours, samples
from jensen.evaluation.panels.two_sample import two_sample
from jensen.evaluation.story import Story

PANELS: tuple[Callable[[Story], Html], ...] = (
    header,
    meaning,
    controls,
    samples,
    two_sample,
    codes,
    mixture,
    graph,
    classes,
    split_of_bits,
    self_check,
    neighbours,
    film,
    training,
    data,
    model,
)
