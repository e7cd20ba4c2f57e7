"""The commands. Each reads its options, calls the library, prints; what is heavy is imported inside."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from jensen.cli.options import (
    Binarise,
    BinariseSeed,
    ChainSteps,
    Data,
    EveryStep,
    Json,
    Label,
    Layout,
    LevelsOption,
    Method,
    MethodSettings,
    OtherData,
    Redraws,
    RunFolder,
    Scores,
    Seed,
    Size,
    SplitSeed,
    Tolerance,
)

app = typer.Typer(
    help="Fit generative models to data, say how likely data are under them, draw new data.",
    epilog="A first run:  jensen fit digits -m diffusion -o runs/digits --budget 2m",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
    from jensen.settings import parse
    from jensen.training.run import Run

    chosen = parse(settings or [])
    fitting.checked(model, chosen, budget=budget, steps=steps, seed=seed)
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


@app.command()
def evaluate(
    run: RunFolder,
    data: OtherData = None,
    method: Method = None,
    tolerance: Tolerance = None,
    steps: ChainSteps = None,
    every_step: EveryStep = False,
    output: Scores = None,
    seed: Seed = 0,
    size: Size = None,
    levels: LevelsOption = None,
    layout: Layout = None,
    label: Label = None,
    redraw: Redraws = None,
    settings: MethodSettings = None,
    against: Annotated[
        bool,
        typer.Option("--anomaly", help="Can log p tell DATA from the run's own test rows? AUROC, plain and corrected."),
    ] = False,
    gap: Annotated[
        int | None,
        typer.Option(
            help="vae: on so many test rows, how much of log p - elbo is the family's share and how much the encoder's."
        ),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(
            "-n",
            help="Score so many of the rows, the same at every call (default: all, of images by ode 1000); --method samples: rows of each sample.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Log-likelihood of held-out rows under a fitted model, with what the number is and its error bars.

    --method samples measures what the model draws against test rows instead, which every model can; a model without likelihood has
    nothing else. Those of the run's own data are kept for its report.
    """
    from jensen.cli.anomaly import check_anomaly, told_apart
    from jensen.cli.gap import check_gap, taken_apart
    from jensen.cli.inputs import (
        check_redraws,
        count_or_default,
        method_settings,
        refuse_reading,
        rows_to_score,
        scoring_options,
        some_of,
    )
    from jensen.cli.printing import print_scored
    from jensen.cli.samples import measure_samples
    from jensen.cli.work import keep_scores, over_redraws, scored
    from jensen.evaluation.calibration import classification
    from jensen.evaluation.outputs import check_not_data, check_output
    from jensen.fitting import load
    from jensen.models.model import DensityModel
    from jensen.training.run import Run

    check_output(output, (".csv",))
    pipeline = load(run)
    source = pipeline.config["data"]["facts"].get("source")
    check_not_data(output, data, source)
    if method == "samples" or (method is None and not isinstance(pipeline.model, DensityModel)):
        given = (tolerance, steps, output, redraw, settings, gap, against or None, every_step or None)
        refuse_reading(size, levels, layout, label)
        asked = method == "samples"
        measure_samples(Run(run), pipeline, data, count, seed, as_json, given=given, asked=asked)
        return
    options = scoring_options(pipeline, method, tolerance, steps, every_step) | method_settings(pipeline, settings)
    check_gap(pipeline, gap, count)
    check_redraws(pipeline, redraw, count)
    check_anomaly(pipeline, data, against, count)
    rows = rows_to_score(pipeline, data, size, levels, layout, label)
    rows = some_of(rows, count_or_default(rows, count, method))
    ll = scored(pipeline, rows, seed=seed, **options)
    if output:
        keep_scores(output, pipeline, rows, ll, seed)
    classes = classification(pipeline, rows, seed=seed)
    spread = None
    if redraw is not None:
        spread = over_redraws(pipeline, redraw, count, seed=seed, **options)
    shares = None if gap is None else taken_apart(pipeline, rows, gap, seed)
    apart = told_apart(pipeline, rows, ll, count, seed=seed, **options) if against else None
    more = {"classification": classes, "redraws": spread, "gap": shares, "anomaly": apart}
    print_scored(pipeline.config["model"]["word"], data or source, ll, more, as_json)
    if output and not as_json:
        typer.echo(f"scores: {output}")


@app.command()
def sample(
    run: RunFolder,
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="FILE|DIR", help="A .png grid, .npy, .npz, .csv, or a folder for PNGs."),
    ],
    n: Annotated[int, typer.Option("-n", help="How many.")] = 64,
    sampler: Annotated[
        str | None,
        typer.Option(
            help="Diffusion: the best for the number of steps (dpm-2m up to 100, else ancestral), or ancestral, ddim, euler, heun, dpm-1s, dpm-2s, dpm-2m, dpm-3m, dpm-1s-sde, dpm-2m-sde, dpm-3m-sde, "
            "unipc-1 to -3, adams-2 to -4, churn, langevin. heun, dpm-2s, churn and langevin ask the network twice a step."
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Diffusion: sampling steps (default: all T).")] = None,
    grid: Annotated[
        str | None,
        typer.Option(
            help="Diffusion: the noise levels on the way: time (default), log-snr, karras, quadratic or optimised."
        ),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="An option of the sampler: eta of ddim; back of churn; ratio, rounds of langevin. Again for more.",
        ),
    ] = None,
    context: Annotated[
        str | None,
        typer.Option(metavar="CLASS", help="The class to draw from, for models of classes: its name or code."),
    ] = None,
    seed: Seed = 0,
) -> None:
    """Draw new rows: same shape, type and range as the data. The same seed gives the same rows."""
    from jensen.cli.inputs import check_steps
    from jensen.cli.work import drawn
    from jensen.errors import InputError
    from jensen.evaluation.outputs import SAMPLE_SUFFIXES, check_format, check_not_data, check_output, write_samples
    from jensen.fitting import load
    from jensen.models.model import ClassConditional
    from jensen.settings import parse

    check_output(output, SAMPLE_SUFFIXES)
    pipeline = load(run)
    check_not_data(output, pipeline.config["data"]["facts"].get("source"))
    check_format(output, pipeline)
    check_steps(pipeline, steps)
    if n < 1:
        raise InputError(f"-n, the number of samples, must be at least 1, got {n}")
    if context is not None and not isinstance(pipeline.model, ClassConditional):
        raise InputError(f"this model is unconditional and takes no context, got {context!r}; leave --context out")
    rows, how = drawn(pipeline, n, seed, sampler, steps, grid, parse(setting or []), context)
    write_samples(output, rows, pipeline)
    of = "" if context is None else f" of class {context}"
    typer.echo(f"{n} samples{of} ({how}; seed {seed}): {output}")


@app.command()
def impute(
    run: RunFolder,
    data: Data,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="A .csv, .npy or .npz, rows in the order of DATA.")
    ],
    draws: Annotated[
        int | None,
        typer.Option(
            help="Random draws of the missing cells instead of their mean; more than one go to .npy or .npz, draws first."
        ),
    ] = None,
    seed: Seed = 0,
    size: Size = None,
    levels: LevelsOption = None,
    layout: Layout = None,
    label: Label = None,
) -> None:
    """Fill in the missing cells of DATA from the observed ones of their rows; observed cells stay as they are."""
    from jensen.cli.inputs import rows_to_fill
    from jensen.errors import InputError
    from jensen.evaluation.outputs import check_format, check_not_data, check_output, write_samples
    from jensen.fitting import load

    check_output(output, (".csv", ".npy", ".npz"))
    pipeline = load(run)
    check_format(output, pipeline)
    if draws is not None and not 1 <= draws <= (1 if output.suffix.lower() == ".csv" else 10_000):
        raise InputError(f"--draws must be from 1 to 10000, and 1 for a .csv, got {draws}; use .npy or .npz for more")
    check_not_data(output, data)
    rows, columns = rows_to_fill(pipeline, data, size, levels, layout, label)
    filled = pipeline.impute(rows, draws, seed=seed)
    write_samples(output, filled[0] if output.suffix.lower() == ".csv" and draws else filled, pipeline, columns)
    cells = int((~rows.batch(slice(None)).mask).sum())
    how = "the mean" if draws is None else f"{draws} draw{'s' if draws > 1 else ''}, seed {seed}"
    label_column = pipeline.config["data"]["facts"].get("label")
    without = f"; the classes, {label_column!r}, are not in it" if label_column is not None else ""
    typer.echo(f"{cells} missing cells of {len(rows)} rows filled in ({how}): {output}{without}")


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
def noise(
    data: Data,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE.png", help="The picture.")],
    schedule: Annotated[str, typer.Option(help="log-snr, linear or cosine.")] = "log-snr",
    seed: Seed = 0,
    size: Size = None,
    levels: LevelsOption = None,
    layout: Layout = None,
    label: Label = None,
    split_seed: SplitSeed = 0,
) -> None:
    """Draw the forward process x_0 … x_T on the data, with α and σ under it."""
    from jensen.cli.inputs import load_split
    from jensen.evaluation.outputs import check_output
    from jensen.evaluation.plots import noise_figure, save_figure
    from jensen.models.ddpm import schedule_named

    check_output(output, (".png",))
    split = load_split(data, size, levels, layout, label, split_seed)
    chosen = schedule_named(schedule, split.space)
    save_figure(noise_figure(split, chosen, seed=seed), output)
    typer.echo(f"forward process ({schedule}): {output}")


@app.command()
def latent(
    run: RunFolder,
    data: OtherData = None,
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="DIR|FILE.png", help="The folder for the pictures, or a file for one."),
    ] = Path("latent"),
    what: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,…", help="map, units, reconstruct, interpolate, traverse, plane, samples (default: all)."
        ),
    ] = None,
    kind: Annotated[str, typer.Option(help="The way between two rows: linear or spherical.")] = "linear",
    seed: Seed = 0,
    size: Size = None,
    levels: LevelsOption = None,
    layout: Layout = None,
    label: Label = None,
) -> None:
    """Draw the codes of rows: where they lie, what is left of a row, the way between two, along one number, over the plane.

    A reconstruction starts at a row, x → z → x; samples start at z ~ p(z).
    """
    from jensen.cli.inputs import rows_to_code
    from jensen.evaluation.latents import Gallery, chosen
    from jensen.evaluation.outputs import check_not_data, check_output, picture_paths
    from jensen.fitting import load
    from jensen.models.latents import check_kind

    words = chosen(what)
    check_kind(kind)
    check_output(output, ("", ".png"))
    paths = picture_paths(output, words)
    pipeline = load(run)
    check_not_data(output, data, pipeline.config["data"]["facts"].get("source"))
    rows, names = rows_to_code(pipeline, data, size, levels, layout, label)
    shown = Gallery(pipeline, rows, names, seed)
    for word, path in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        typer.echo(f"{path}: {shown.save(word, path, kind=kind)}")


@app.command()
def encode(
    run: RunFolder,
    data: Annotated[str, typer.Argument(metavar="DATA", help="The rows; the same kinds of data as for `jensen fit`.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="A .npy, .npz or .csv: one code a row.")
    ],
    size: Size = None,
    levels: LevelsOption = None,
    layout: Layout = None,
    label: Label = None,
) -> None:
    """Write the code of every row of DATA, in its order: features for other programs."""
    from jensen.cli.inputs import rows_to_fill
    from jensen.evaluation.outputs import check_not_data, check_output, write_codes
    from jensen.fitting import load

    check_output(output, (".npy", ".npz", ".csv"))
    pipeline = load(run)
    codes = pipeline.latents
    rows, _ = rows_to_fill(pipeline, data, size, levels, layout, label)
    check_not_data(output, data, pipeline.config["data"]["facts"].get("source"))
    z = codes.encode(rows)
    write_codes(output, z, rows)
    typer.echo(f"{len(z)} codes of {codes.dims} numbers, one for every row of {data} in its order: {output}")


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
    from jensen.fitting import load
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
    typer.echo(f"kept: {run / 'calibration.safetensors'}; `jensen report {run}` scores the test rows with it")


@app.command()
def report(run: RunFolder) -> None:
    """Write the run's report.html again: one self-contained page with pictures."""
    from jensen.cli.inputs import own_data
    from jensen.cli.work import evaluated, keep_picture, pictured, write_page
    from jensen.fitting import load
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
    from jensen.fitting import problem_of
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
