"""All that a report is made from, gathered once: the run folder, the data if they are there, fresh samples.

A diffusion model's samples are drawn ancestrally in `picture_steps`, and the states of the first few are kept on the
way for the film strip.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jensen.data.examples import Split
from jensen.data.space import Levels, Space
from jensen.evaluation.images import is_image
from jensen.evaluation.likelihood import picture_steps
from jensen.evaluation.numbers import Unit, part, unit_of, word
from jensen.evaluation.strips import Frame, chosen_steps
from jensen.files import read_json
from jensen.fitting import load
from jensen.models.ddpm import DDPM
from jensen.models.pipeline import Pipeline
from jensen.training.run import Run

SAMPLES, SEED = 36, 0
FILM_ROWS, FILM_COLUMNS, CLOUD_ROWS = 3, 6, 300


@dataclass(frozen=True)
class Story:
    """What there is to tell.

    Attributes:
        pipeline: the finished model.
        evaluation: evaluation.json, or {}.
        history: the lines of history.jsonl.
        split: the data, or None.
        problem: why there are no data.
        samples: rows drawn from the model, in data units.
        frames: states on the way to the first of them, in the model's units; empty if the model has no such way.
        how: how the samples were drawn, in words.
    """

    pipeline: Pipeline
    evaluation: dict[str, Any]
    history: list[dict[str, Any]]
    split: Split | None
    problem: str
    samples: Tensor
    frames: list[Frame]
    how: str

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


def gather(run: Path, split: Split | None, problem: str | None) -> Story:
    """Read the run folder and draw the samples."""
    pipeline, folder = load(run), Run(run)
    path = folder.file("evaluation.json")
    evaluation = read_json(path) if path.is_file() else {}
    if split is not None and split.event_shape != pipeline.event_shape:
        problem = (
            f"the data given have rows of shape {split.event_shape}, the model was fitted to {pipeline.event_shape}"
        )
        split = None
    samples, frames, how = draw(pipeline)
    said = (problem or "").strip().rstrip(".")
    return Story(pipeline, evaluation, folder.history(), split, said, samples, frames, how)


@torch.no_grad()
def draw(pipeline: Pipeline) -> tuple[Tensor, list[Frame], str]:
    """Samples, the frames of the film strip, and how the samples were drawn."""
    image = is_image(pipeline.event_shape)
    count = SAMPLES if image else CLOUD_ROWS
    model = pipeline.model
    if not isinstance(model, DDPM):
        return pipeline.sample(count, seed=SEED, batch_size=count), [], f"drawn exactly, seed {SEED}"
    chain = model.reverse.resized(picture_steps(pipeline) or 1).chain
    wanted, kept, frames = set(chosen_steps(chain.steps, FILM_COLUMNS)), FILM_ROWS if image else count, []

    def watch(i: int, x: Tensor, denoised: Tensor) -> None:
        if i in wanted:
            pair = (x[:kept].cpu().clone(), denoised[:kept].float().cpu().clone())
            frames.append(Frame(i, float(chain.log_snr[i - 1]), *pair))

    samples = pipeline.sample(count, seed=SEED, batch_size=count, steps=chain.steps, watch=watch)
    return samples, frames, f"ancestral sampler, {chain.steps} steps, seed {SEED}"
