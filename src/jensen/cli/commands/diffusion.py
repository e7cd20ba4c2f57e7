"""For diffusion models alone."""

from pathlib import Path
from typing import Annotated

import typer

from jensen.cli.commands.app import app
from jensen.cli.options import Data, Json, Label, Layout, LevelsOption, RunFolder, Seed, Size, SplitSeed


@app.command()
def noise(
    data: Data,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE.png", help="The picture.")],
    schedule: Annotated[str, typer.Option(help="log-snr, linear, cosine, vp, sub-vp, ve or flow.")] = "log-snr",
    seed: Seed = 0,
    size: Size = None,
    levels: LevelsOption = None,
    layout: Layout = None,
    label: Label = None,
    split_seed: SplitSeed = 0,
) -> None:
    """Draw the forward process x_0 … x_T on the data, with α and σ under it."""
    from jensen.cli.inputs import load_split
    from jensen.diffusion.schedule import NAMED
    from jensen.errors import InputError, did_you_mean
    from jensen.evaluation.outputs import check_output
    from jensen.evaluation.plots import noise_figure, save_figure
    from jensen.models.diffusion_parts import schedule_named

    check_output(output, (".png",))
    if schedule not in NAMED:
        raise InputError(
            f"unknown --schedule {schedule!r}; {did_you_mean(schedule, NAMED)}known are {', '.join(NAMED)}"
        )
    split = load_split(data, size, levels, layout, label, split_seed)
    chosen = schedule_named(schedule, split.space)
    save_figure(noise_figure(split, chosen, seed=seed), output)
    typer.echo(f"forward process ({schedule}): {output}")


@app.command()
def calibrate(
    run: RunFolder,
    by: Annotated[
        str | None,
        typer.Option(
            "--variance",
            help="One error a step (calibrated), a cell (diagonal), or a cell and state (by-state; on levels). Default: as the run has it.",
        ),
    ] = None,
    count: Annotated[
        int | None, typer.Option("-n", help="Validation rows to measure on (default: up to 1024, at most 3/4 of them).")
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Diffusion: measure the best reverse variance of a finished network on validation rows, and keep it in the run.

    It is what the bound and ancestral sampling use from then on; few steps gain most. Other validation rows tell what it does to the
    bound at several T. The run's scores and page are made anew by `jensen report RUN`.
    """
    from jensen.cli.calibrating import calibrated_anew, lines
    from jensen.cli.inputs import own_data
    from jensen.cli.printing import print_json
    from jensen.errors import InputError
    from jensen.loading import load
    from jensen.training.run import Run

    pipeline = load(run)
    split, problem = own_data(pipeline)
    if split is None:
        raise InputError(f"calibration needs the run's validation rows, and {problem}")
    record = calibrated_anew(Run(run), pipeline, split, by, count, seed)
    if as_json:
        print_json({**record, "run": str(run)})
        return
    for line in lines(record):
        typer.echo(line)
    typer.echo(
        f"kept: {run / 'calibration.safetensors'}; scores, samples and page of before are dropped, `jensen report {run}` makes them anew"
    )
