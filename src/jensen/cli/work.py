"""What takes time, with its bar: drawing, scoring, and all that follows a fit."""

import sys
from pathlib import Path
from typing import Any

from torch import Tensor

from jensen.data import Examples, Split
from jensen.errors import InputError
from jensen.evaluation.images import save_grid
from jensen.evaluation.likelihood import evaluate_run, picture_steps
from jensen.evaluation.report import write_report
from jensen.files import write_json
from jensen.likelihood import LogLikelihood
from jensen.models.ddpm import DDPM, sampler_named
from jensen.models.pipeline import Pipeline
from jensen.training.progress import bar
from jensen.training.run import Run


def drawn(
    pipeline: Pipeline, n: int, seed: int, sampler: str | None, steps: int | None, eta: float
) -> tuple[Tensor, str]:
    """Samples, and how they were drawn."""
    if not isinstance(pipeline.model, DDPM):
        if sampler is not None or steps is not None:
            raise InputError("only diffusion models have samplers and steps; leave out --sampler and --steps")
        return pipeline.sample(n, seed=seed), "exact draws"
    solver = sampler_named(sampler, eta)
    count = steps if steps is not None else pipeline.model.reverse.chain.steps
    with bar("sampling", count * -(-n // pipeline.sampling_batch())) as shown:
        rows = pipeline.sample(n, seed=seed, sampler=solver, steps=steps, watch=lambda i, x, denoised: shown.advance())
    return rows, solver.describe(count)


def scored(pipeline: Pipeline, rows: Examples, **options: Any) -> LogLikelihood:
    """The log-likelihood of rows."""
    with bar("scoring", len(rows)) as shown:
        return pipeline.log_likelihood(rows, on_start=shown.total, on_calls=shown.advance, **options)


def finish(folder: Run, pipeline: Pipeline, split: Split) -> dict[str, Any]:
    """What follows a fit, as far as it is not there: samples, the likelihood beside the controls, the report."""
    result = folder.evaluation()
    if result and all(folder.file(name).is_file() for name in ("samples.png", "report.html")):
        return result
    rows, how = drawn(pipeline, 64, 0, None, picture_steps(pipeline), 0.0)
    print(f"samples for pictures: {how}", file=sys.stderr)
    save_grid(rows, pipeline.space, folder.file("samples.png"))
    result = result or evaluated(folder, pipeline, split, rows)
    write_page(folder, split, None)
    return result


def evaluated(folder: Run, pipeline: Pipeline, split: Split, samples: Tensor | None = None) -> dict[str, Any]:
    """Score the test rows beside the controls, and keep the record in the run."""
    with bar("scoring", len(split.test)) as shown:
        _, record = evaluate_run(pipeline, split, samples=samples, on_start=shown.total, on_calls=shown.advance)
    write_json(folder.file("evaluation.json"), record)
    return record


def write_page(folder: Run, split: Split | None, problem: str | None) -> Path:
    """Write the run's page."""
    print("writing the report …", file=sys.stderr)
    return write_report(folder.path, split, problem)
