"""A model's samples for pictures and for the self-check, drawn once.

A chain model is sampled by the solver of its chain in at most 250 steps, fewer where rows are large, and the states of the
first few samples are kept on the way for the film strip.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from jensen.evaluation.images import is_image
from jensen.evaluation.strips import Frame, chosen_steps
from jensen.models.chain import ChainModel
from jensen.models.model import enough_rows
from jensen.models.pipeline import Pipeline

SEED = 0
IMAGES, CLOUD_ROWS = 64, 300
FILM_ROWS, FILM_COLUMNS = 3, 6
MOST_STEPS = ((1024, 250), (4096, 100))  # (dimensions up to, steps), 50 beyond


@dataclass(frozen=True)
class Drawing:
    """Samples and how they came about.

    Attributes:
        samples: in data units.
        how: in words.
        frames: states on the way to the first of them, in the model's units; empty if the model has no such way.
    """

    samples: Tensor
    how: str
    frames: list[Frame] = field(default_factory=list)


def drawing_steps(pipeline: Pipeline) -> int | None:
    """The steps in which a chain model's samples are drawn here; None for other models."""
    if not isinstance(pipeline.model, ChainModel):
        return None
    dims = math.prod(pipeline.event_shape)
    most = next((steps for limit, steps in MOST_STEPS if dims <= limit), 50)
    return min(most, pipeline.model.chain().steps)


@torch.no_grad()
def draw(
    pipeline: Pipeline,
    on_start: Callable[[int], None] = lambda steps: None,
    on_step: Callable[[int], None] = lambda steps: None,
) -> Drawing:
    """Draw 64 images, fewer where they are large, or 300 rows of other data.

    Args:
        pipeline: the model.
        on_start: told how many steps there will be.
        on_step: told of each step.
    """
    image = is_image(pipeline.event_shape)
    count = enough_rows(pipeline.event_shape, IMAGES) // 4 * 4 if image else CLOUD_ROWS
    model, steps = pipeline.model, drawing_steps(pipeline)
    if not isinstance(model, ChainModel) or steps is None:
        on_start(1)
        samples = pipeline.sample(count, seed=SEED)
        on_step(1)
        return Drawing(samples, f"{pipeline.model.draws}, seed {SEED}")
    chain, kept = model.chain(steps), FILM_ROWS if image else count
    wanted, frames = set(chosen_steps(steps, FILM_COLUMNS)), list[Frame]()
    on_start(steps * -(-count // pipeline.sampling_batch()))

    def watch(i: int, x: Tensor, denoised: Tensor) -> None:
        """Keep step i of the first batch: x_i and x̂_0 `(B, *event)`."""
        if i in wanted and len(frames) < len(wanted):  # the first batch
            pair = (x[:kept].cpu().clone(), denoised[:kept].float().cpu().clone())
            frames.append(Frame(i, float(chain.log_snr[i - 1]), *pair))
        on_step(1)

    sampler = model.sampler()  # of the chain, whose bound the report tells
    samples = pipeline.sample(count, seed=SEED, sampler=sampler, steps=steps, watch=watch)
    return Drawing(samples, f"{sampler.describe(steps, pipeline.space)}, seed {SEED}", frames)
