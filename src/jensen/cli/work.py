"""What takes time, with its bar: drawing, scoring, and all that follows a fit."""

import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from jensen.cli.inputs import redraws, some_of
from jensen.data import Examples, Split
from jensen.errors import InputError
from jensen.evaluation.drawing import Drawing, draw
from jensen.evaluation.images import save_grid
from jensen.evaluation.likelihood import evaluate_run, unscored
from jensen.evaluation.outputs import write_scores
from jensen.evaluation.report import write_report
from jensen.evaluation.two_sample import TwoSamples, two_samples
from jensen.files import write_json
from jensen.likelihood import LogLikelihood
from jensen.memory import freed_memory_kept
from jensen.models.chain import ChainModel
from jensen.models.model import DensityModel
from jensen.models.pipeline import Pipeline
from jensen.training.progress import bar
from jensen.training.run import Run


@freed_memory_kept()
def drawn(
    pipeline: Pipeline,
    n: int,
    seed: int,
    sampler: str | None,
    steps: int | None,
    grid: str | None,
    options: Mapping[str, Any],
    context: str | None = None,
) -> tuple[Tensor, str]:
    """Samples, and how they were drawn."""
    model = pipeline.model
    if not isinstance(model, ChainModel):
        if sampler is not None or steps is not None or grid is not None or options:
            raise InputError(
                "only diffusion models have samplers, steps and grids; leave out --sampler, --steps, --grid and --set"
            )
        return pipeline.sample(n, context, seed=seed), model.draws
    count = model.chain(steps).steps
    solver = model.sampler(model.best_sampler(count) if sampler is None else sampler, **options)
    chosen: dict[str, Any] = {"sampler": solver, "steps": steps, "grid": "time" if grid is None else grid}
    model.levels(steps, chosen["grid"])  # refused before the bar, if at all
    with bar("sampling", count * -(-n // pipeline.sampling_batch())) as shown:
        rows = pipeline.sample(n, context, seed=seed, watch=lambda i, x, denoised: shown.advance(), **chosen)
    on = "" if grid is None else f", levels by {grid}"
    return rows, f"{solver.describe(count, pipeline.space)}{on}"


@freed_memory_kept()
def scored(pipeline: Pipeline, rows: Examples, **options: Any) -> LogLikelihood:
    """The log-likelihood of rows."""
    with bar("scoring", len(rows)) as shown:

        def start(calls: int) -> None:
            shown.total(calls)
            shown.note("")

        shown.note("planning the draws")
        return pipeline.log_likelihood(rows, on_start=start, on_calls=shown.advance, **options)


def over_redraws(pipeline: Pipeline, count: int, most: int | None, **options: Any) -> dict[str, Any]:
    """The mean log-likelihood of the run's test rows, or of `most` of them, over other draws of their zeros and ones, in nats."""
    means = [scored(pipeline, some_of(rows, most), **options).mean for rows in redraws(pipeline, count)]
    first = pipeline.config["data"]["facts"]["binarise_seed"] + 1
    return {
        "seeds": [first, first + count - 1],
        "means_nats": means,
        "mean_nats": statistics.mean(means),
        "sd_nats": statistics.stdev(means),
    }


def keep_scores(path: Path, pipeline: Pipeline, rows: Examples, ll: LogLikelihood, seed: int) -> None:
    """Write a line a row, with its responsibilities where the model has components."""
    clusters = pipeline.responsibilities(rows, seed=seed) if pipeline.components else None
    write_scores(path, rows, ll, clusters)


@freed_memory_kept()
def finish(folder: Run, pipeline: Pipeline, split: Split) -> dict[str, Any]:
    """What follows a fit, as far as it is not there: samples, the likelihood beside the controls, the report."""
    result = folder.evaluation()
    if result and all(folder.file(name).is_file() for name in ("samples.png", "report.html")):
        return result
    drawing = pictured(pipeline)
    keep_picture(folder, pipeline, drawing)
    result = result or evaluated(folder, pipeline, split, drawing.samples)
    write_page(folder, split, None, drawing)
    return result


def keep_picture(folder: Run, pipeline: Pipeline, drawing: Drawing) -> None:
    """samples.png of a run."""
    names = pipeline.config["data"]["facts"].get("columns")
    save_grid(drawing.samples, pipeline.space, folder.file("samples.png"), names=names)


def pictured(pipeline: Pipeline) -> Drawing:
    """The samples that pictures show."""
    with bar("drawing samples", 1) as shown:
        drawing = draw(pipeline, shown.total, shown.advance)
    print(f"samples for pictures: {drawing.how}", file=sys.stderr)
    return drawing


@freed_memory_kept()
def measured(pipeline: Pipeline, split: Split, rows: int | None = None, seed: int = 0) -> TwoSamples:
    """Two-sample measures of the model's samples."""
    with bar("measuring samples", None) as shown:
        return two_samples(pipeline, split, rows=rows, seed=seed, on_step=shown.note)


def with_samples(folder: Run, found: TwoSamples, without: dict[str, Any] | None) -> None:
    """Keep these measures in the run's record, or beside the reason why there is no likelihood; a run whose likelihood is not told yet
    has none to put them in.
    """
    kept = folder.evaluation() or without
    if kept:
        write_json(folder.file("evaluation.json"), {**kept, "samples": found.to_dict()})


def evaluated(folder: Run, pipeline: Pipeline, split: Split, samples: Tensor) -> dict[str, Any]:
    """Score the test rows beside the controls, check the model against its own samples, and keep the record in the run; of a model
    without likelihood measure the samples.
    """
    if not isinstance(pipeline.model, DensityModel):
        record = unscored(pipeline, split) | own_measures(pipeline, split)
        write_json(folder.file("evaluation.json"), record)
        return record
    ll = scored(pipeline, split.test)
    print("controls, self-check and single steps …", file=sys.stderr)
    record = evaluate_run(pipeline, split, ll, samples)
    write_json(folder.file("evaluation.json"), record)
    return record


def own_measures(pipeline: Pipeline, split: Split) -> dict[str, Any]:
    """What a model without likelihood is told by; of too few rows why there is none, since the fit is good for codes and draws all the
    same.
    """
    try:
        return {"samples": measured(pipeline, split).to_dict()}
    except InputError as error:
        return {"samples_problem": str(error)}


def write_page(folder: Run, split: Split | None, problem: str | None, drawing: Drawing) -> Path:
    """Write the run's page."""
    print("writing the report …", file=sys.stderr)
    return write_report(folder.path, split, problem, drawing)
