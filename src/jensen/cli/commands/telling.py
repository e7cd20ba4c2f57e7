"""What data, runs and models are."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from jensen.cli.commands.app import app
from jensen.cli.options import (
    Binarise,
    BinariseSeed,
    Data,
    Json,
    Label,
    Layout,
    LevelsOption,
    RunFolder,
    Size,
    SplitSeed,
)


@app.command()
def show(
    data: Data,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE.png", help="Draw some of the rows.")
    ] = None,
    size: Size = None,
    levels: LevelsOption = None,
    layout: Layout = None,
    label: Label = None,
    split_seed: SplitSeed = 0,
    binarise: Binarise = None,
    binarise_seed: BinariseSeed = None,
    as_json: Json = False,
) -> None:
    """What is in the data: rows, shape, levels, classes, range, duplicates, missing cells; and a picture."""
    from jensen.cli.inputs import load_split
    from jensen.cli.printing import print_json
    from jensen.data import describe, describe_lines
    from jensen.evaluation.outputs import check_output
    from jensen.evaluation.plots import save_figure, show_figure

    check_output(output, (".png",))
    split = load_split(data, size, levels, layout, label, split_seed, binarise, binarise_seed)
    facts = describe(split)
    if output:
        save_figure(show_figure(split), output)
    if as_json:
        print_json(facts)
        return
    for line in describe_lines(facts):
        typer.echo(line)
    if output:
        typer.echo(f"picture    {output}")


@app.command()
def report(run: RunFolder) -> None:
    """Write the run's report.html again: one self-contained page with pictures."""
    from jensen.cli.inputs import own_data
    from jensen.cli.work import evaluated, keep_picture, pictured, write_page
    from jensen.loading import load
    from jensen.training.run import Run

    folder = Run(run)
    pipeline = load(run)
    split, problem = own_data(pipeline)
    for line in filter(None, (problem and f"some panels are left out: {problem}", folder.history_problem())):
        print(line, file=sys.stderr)
    drawing = pictured(pipeline)
    keep_picture(folder, pipeline, drawing)
    if split is not None and folder.evaluation() is None:
        evaluated(folder, pipeline, split, drawing.samples)
    typer.echo(f"report: {write_page(folder, split, problem, drawing)}")


@app.command()
def info(run: RunFolder, as_json: Json = False) -> None:
    """What a run is: data, model, options, versions, result."""
    from jensen.cli.printing import print_json
    from jensen.loading import problem_of
    from jensen.training.run import Run

    folder = Run(run)
    config = folder.config()
    result = folder.evaluation()
    problem = problem_of(run) if folder.finished else None
    how = folder.calibration() if problem is None else None
    if as_json:
        finished = folder.finished and problem is None
        print_json(
            {
                "config": config,
                "calibration": how,
                "finished": finished,
                "problem": problem,
                "evaluation": result,
            }
        )
        return
    for name in ("data", "model", "training", "versions"):
        for key, value in (config.get(name) or {}).items():
            typer.echo(f"{name}.{key}: {json.dumps(value, ensure_ascii=False)}")
    if how is not None:
        typer.echo(f"calibration: {json.dumps(how, ensure_ascii=False)}")
    state = "finished" if folder.finished else "not finished; the same `jensen fit` command goes on"
    typer.echo(f"state: {f'damaged: {problem}' if problem else state}")
    if result:
        ll = result["log_likelihood"]
        typer.echo(f"result: {ll['quote'] if ll else 'no likelihood; ' + result['without_likelihood']}")


@app.command()
def models(
    word: Annotated[str | None, typer.Argument(metavar="[MODEL]", help="One of them, with all it can be told.")] = None,
    as_json: Json = False,
) -> None:
    """The models there are, their settings and their defaults; of one, the words of each setting and what they mean."""
    from jensen.cli.families import family, table
    from jensen.cli.printing import print_json

    found = table() if word is None else {word: family(word)}
    if as_json:
        print_json(found)
        return
    for name, row in found.items():
        typer.echo(f"{name}: {row['summary']} [{row['paper']}]")
        for setting, told in row["settings"].items():
            if word is None:
                typer.echo(f"    --set {setting}={told}")
                continue
            typer.echo(
                f"    --set {setting}={told['default']}{'  of ' + ', '.join(told['words']) if told['words'] else ''}"
            )
            if told["about"]:
                typer.echo(f"        {told['about']}")
    if word is None:
        typer.echo("`jensen models MODEL` says what the settings of one mean")


@app.command("data")
def list_data(as_json: Json = False) -> None:
    """The named data sets."""
    from jensen.cli.printing import print_json
    from jensen.data import NAMED

    table = {word: named.description for word, named in NAMED.items()}
    if as_json:
        print_json(table)
        return
    for word, description in table.items():
        typer.echo(f"{word}: {description}")
    typer.echo("or a folder of images, or a .npy, .npz, .csv, .tsv or IDX file")
