"""All that a report is made from, gathered once: the run folder, the data if they are there, samples."""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from jensen.data.examples import Split
from jensen.data.space import Levels, Space
from jensen.evaluation.drawing import Drawing, draw
from jensen.evaluation.images import is_image
from jensen.evaluation.numbers import Unit, part, unit_of, word
from jensen.files import read_json
from jensen.loading import load
from jensen.models.pipeline import Pipeline
from jensen.training.run import Run


@dataclass(frozen=True)
class Story:
    """What there is to tell.

    Attributes:
        folder: the run's.
        pipeline: the finished model.
        evaluation: evaluation.json, or {}.
        history: the lines of history.jsonl.
        split: the data, or None.
        problem: why there are no data.
        drawing: rows drawn from the model.
    """

    folder: Path
    pipeline: Pipeline
    evaluation: dict[str, Any]
    history: list[dict[str, Any]]
    split: Split | None
    problem: str
    drawing: Drawing

    @property
    def config(self) -> dict[str, Any]:
        """The run's config.json."""
        return self.pipeline.config

    @property
    def model(self) -> str:
        """The model's word."""
        return str(self.config["model"]["word"])

    @property
    def source(self) -> str:
        """Where the data came from."""
        return word(part(self.config, "data", "facts"), "source", "array")

    @property
    def space(self) -> Space:
        """The space of the data."""
        return self.pipeline.space

    @property
    def image(self) -> bool:
        """Whether rows are pictures."""
        return is_image(self.pipeline.event_shape)

    @property
    def row(self) -> str:
        """What a row is called."""
        return "image" if self.image else "row"

    @property
    def a_row(self) -> str:
        """What a row is called, with its article."""
        return "an image" if self.image else "a row"

    @property
    def dims(self) -> int:
        """Dimensions of a row."""
        return math.prod(self.pipeline.event_shape)

    @property
    def log_likelihood(self) -> dict[str, Any]:
        """The summary of the test rows' log-likelihood, or {}."""
        return part(self.evaluation, "log_likelihood")

    @cached_property
    def unit(self) -> Unit:
        """What costs are given in."""
        return unit_of(self.log_likelihood, self.dims, isinstance(self.space, Levels))

    @property
    def without_data(self) -> str:
        """Why a panel that needs the data is empty."""
        return f"Not shown: {self.problem or 'the data of this run were not given'}."

    @property
    def without_likelihood(self) -> str:
        """Why a panel that needs the likelihood is empty."""
        why = word(self.evaluation, "without_likelihood")
        yet = "No likelihood yet: there is no evaluation.json in the run folder. `jensen evaluate` writes it."
        return f"No likelihood: {why}." if why else yet


def gather(run: Path, split: Split | None, problem: str | None, drawing: Drawing | None = None) -> Story:
    """Read the run folder; draw the samples if they are not given."""
    pipeline, folder = load(run), Run(run)
    path = folder.file("evaluation.json")
    evaluation = read_json(path) if path.is_file() else {}
    if split is not None and split.event_shape != pipeline.event_shape:
        problem = (
            f"the data given have rows of shape {split.event_shape}, the model was fitted to {pipeline.event_shape}"
        )
        split = None
    said = (problem or "").strip().rstrip(".")
    return Story(run, pipeline, evaluation, folder.history(), split, said, drawing or draw(pipeline))
