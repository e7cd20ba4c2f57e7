"""Fit one model, or several side by side."""

from pathlib import Path
from typing import Annotated, Any

import typer

from jensen.cli.commands.app import app
from jensen.cli.options import Binarise, BinariseSeed, Data, Json, Label, Layout, LevelsOption, Seed, Size, SplitSeed


@app.command()
def fit(
    data: Data,
    run: Annotated[Path, typer.Option("--run", "-o", metavar="RUN", help="The folder to keep the run in.")],
    model: Annotated[str, typer.Option("--model", "-m", help="The model's word (`jensen models`).")] = "diffusion",
    budget: Annotated[str | None, typer.Option(help="Training time such as 90s, 5m, 1h30m (default 5m).")] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps, instead of a budget.")] = None,
    seed: Seed = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A setting of model, network or training; again for more."),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace another run in the folder.")] = False,
    size: Size = None,
    levels: LevelsOption = None,
    layout: Layout = None,
    label: Label = None,
    split_seed: SplitSeed = 0,
    binarise: Binarise = None,
    binarise_seed: BinariseSeed = None,
    as_json: Json = False,
) -> None:
    """Fit a model to DATA, score the held-out test rows, draw samples, write a report.

    The same command again resumes a run that was cut off, and shows one that is finished.
    """
    from jensen import fitting
    from jensen.cli.inputs import load_split
    from jensen.cli.printing import print_result
    from jensen.cli.work import finish
    from jensen.resolving import checked
    from jensen.settings import parse
    from jensen.training.run import Run

    chosen = parse(settings or [])
    checked(model, chosen, budget=budget, steps=steps, seed=seed)
    split = load_split(data, size, levels, layout, label, split_seed, binarise, binarise_seed)
    pipeline = fitting.fit(split, model, run=run, budget=budget, steps=steps, seed=seed, overwrite=overwrite, **chosen)
    print_result(Run(run), finish(Run(run), pipeline, split), as_json)


@app.command()
def compare(
    data: Data,
    models: Annotated[str, typer.Option("--models", "-m", metavar="A,B,…", help="Words, with commas between them.")],
    folder: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The folder to keep it all in.")],
    budget: Annotated[
        str | None, typer.Option(help="Training time of each gradient model, such as 90s, 5m (default 5m).")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps, instead of a budget.")] = None,
    seeds: Annotated[int, typer.Option(help="Runs of each model whose fit depends on the seed.")] = 1,
    seed: Seed = 0,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="MODEL.NAME=VALUE", help="A setting of one of the models; again for more."),
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace another comparison in the folder.")] = False,
    size: Size = None,
    levels: LevelsOption = None,
    layout: Layout = None,
    label: Label = None,
    split_seed: SplitSeed = 0,
    binarise: Binarise = None,
    binarise_seed: BinariseSeed = None,
    as_json: Json = False,
) -> None:
    """Fit several models to DATA, score the same test rows with all, and say which explains them best.

    The controls independent, gaussian and jittered are always in it. The same command again goes on where it was cut
    off, model by model, and shows a comparison that is finished.
    """
    from jensen.cli.inputs import load_split
    from jensen.cli.printing import print_json
    from jensen.errors import FitError
    from jensen.evaluation import compare as comparing
    from jensen.settings import parse

    chosen = comparing.by_model(parse(settings or []))
    options: dict[str, Any] = {"budget": budget, "steps": steps, "seeds": seeds, "seed": seed, "settings": chosen}
    comparing.planned(models, **options)
    split = load_split(data, size, levels, layout, label, split_seed, binarise, binarise_seed)
    found = comparing.compare(split, models, run=folder, overwrite=overwrite, **options)
    if as_json:
        print_json({**found.to_dict(), "run": str(folder)})
    else:
        typer.echo(str(found))
        typer.echo(f"page: {folder / 'compare.html'}")
    if found.failed:
        raise FitError(f"{', '.join(found.failed)} failed and could not be compared; the table says why")
